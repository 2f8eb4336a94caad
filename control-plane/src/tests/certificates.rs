use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::json;
use time::OffsetDateTime;
use umbel_service::installation::Installation;
use umbel_wire::control::Role;

use super::*;

const PATH: &str = "sites/films/certificate";

/// Valid from so many days from now to so many.
fn params(names: &[&str], days: (i64, i64)) -> CertificateParams {
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    let day = |days| OffsetDateTime::now_utc() + time::Duration::days(days);
    (params.not_before, params.not_after) = (day(days.0), day(days.1));
    params
}

fn signed(names: &[&str], days: (i64, i64)) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    (params(names, days).self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// A chain of two.
fn issued(names: &[&str]) -> (String, String, String) {
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut ca = params(&[], (-1, 90));
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "Test CA");
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let leaf = params(names, (-1, 30)).signed_by(&key, &Issuer::new(ca, ca_key)).unwrap().pem();
    (leaf, ca_pem, key.serialize_pem())
}

#[tokio::test]
async fn a_certificate_is_checked_shown_without_its_key_and_removed() {
    let world = World::start().await;
    let provider = world.provider("ada").await;
    world.create_site(&provider, "films", &["films.test", "www.films.test"]).await;
    let call = |method, body| world.call(Some(&provider), method, PATH, body);
    assert_eq!(call("GET", Value::Null).await.0, 404);
    let (leaf, ca, key) = issued(&["*.films.test"]);
    let (other, other_key) = signed(&["films.test"], (-1, 1));
    let (expired, expired_key) = signed(&["films.test"], (-9, -1));
    let (early, early_key) = signed(&["films.test"], (1, 9));
    let (foreign, foreign_key) = signed(&["songs.test", "a.b.films.test"], (-1, 1));
    let long = other.repeat(11);
    for (chain, key, expected) in [
        ("", &*key, "no certificate"),
        ("nonsense", &key, "no certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &key, "certificate 1 cannot be read"),
        ("-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n", &key, "not PEM"),
        (&format!("{leaf}{key}"), &key, "something other"),
        (&format!("{ca}{leaf}"), &key, "did not issue certificate 1"),
        (&long, &other_key, "at most 10"),
        (&leaf, "", "no private key"),
        (&leaf, &leaf, "no private key"),
        (&leaf, &other_key, "not the key of"),
        (&other, &key, "not the key of"),
        (&expired, &expired_key, "expired on"),
        (&early, &early_key, "not valid before"),
        (&foreign, &foreign_key, "films.test, www.films.test"),
    ] {
        let (status, problem) = call("PUT", json!({ "chain": chain, "key": key })).await;
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(status == 400 && detail.contains(expected), "{expected}: {status} {problem}");
        assert!(!detail.contains("PRIVATE"), "{detail}");
    }
    assert_eq!(call("PUT", json!({ "chain": leaf, "key": key, "more": 1 })).await.0, 400);
    assert_eq!(call("GET", Value::Null).await.0, 404, "nothing of all that is kept");

    let (status, shown) = call("PUT", json!({ "chain": format!("{leaf}{ca}"), "key": key })).await;
    assert_eq!((status, &shown["names"]), (200, &json!(["*.films.test"])), "{shown}");
    assert!(shown["issuer"].as_str().unwrap().contains("Test CA"), "{shown}");
    assert_eq!(shown["fingerprint"].as_str().unwrap().len(), 64);
    assert_eq!(call("GET", Value::Null).await, (200, shown.clone()));
    assert!(!shown.to_string().contains("PRIVATE"), "{shown}");
    let stranger = world.provider("bob").await;
    for method in ["GET", "DELETE"] {
        assert_eq!(world.call(Some(&stranger), method, PATH, Value::Null).await.0, 404, "{method}");
    }
    let (_, replaced) = call("PUT", json!({ "chain": other, "key": other_key })).await;
    assert_ne!(replaced["fingerprint"], shown["fingerprint"]);
    assert_eq!(call("DELETE", Value::Null).await.0, 204);
    assert_eq!(call("DELETE", Value::Null).await.0, 404);
    world.end().await;
}

#[tokio::test]
async fn keys_of_certificates_go_to_edges_only_and_end_with_their_site() {
    let world = World::start().await;
    world.create_site(&world.admin, "films", &["films.test"]).await;
    let (chain, key) = signed(&["films.test"], (-1, 30));
    let before = u64::try_from(changes::head(world.db()).await.unwrap()).unwrap();
    assert_eq!(world.admin("PUT", PATH, json!({ "chain": chain, "key": key })).await.0, 200);
    for (role, expected) in [(Role::Edge, true), (Role::Origin, false)] {
        // A snapshot, and a change.
        for since in [0, before] {
            let mut now = Installation::default();
            now.apply(changes::event_since(world.db(), role, since).await.unwrap());
            let site = now.sites.values().next().unwrap();
            let sent = site.certificate.clone().map(|sent| (sent.chain_pem, sent.key_pem));
            assert_eq!(sent, expected.then(|| (chain.clone(), key.clone())), "{role:?} {since}");
            assert!(!format!("{now:?} {:?}", site.certificate).contains("PRIVATE"));
        }
    }
    assert_eq!(world.admin("DELETE", "sites/films", Value::Null).await.0, 204);
    let kept: i64 = sqlx::query_scalar("select count(*) from site_certificates").fetch_one(world.db()).await.unwrap();
    assert_eq!(kept, 0);
    world.end().await;
}
