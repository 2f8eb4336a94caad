use serde_json::json;
use time::OffsetDateTime;

use super::*;

#[tokio::test]
async fn providers_see_and_touch_their_own() {
    let world = World::start().await;
    let (ada, bob) = (world.provider("ada").await, world.provider("bob").await);
    world.create_site(&ada, "films", &["films.test"]).await;
    let (_, key) = world.call(Some(&ada), "POST", "api-keys", json!({ "label": "ci" })).await;
    let (_, credential) = world.call(Some(&ada), "POST", "s3-credentials", json!({})).await;
    let key_path = format!("api-keys/{}", key["id"].as_str().unwrap());
    let credential_path = format!("s3-credentials/{}", credential["access_key_id"].as_str().unwrap());

    let reader_key = json!({ "public_key": crate::secrets::base64url(&[1; 32]) });
    let foreign = [
        ("GET", "sites/films", Value::Null, 404),
        ("DELETE", "sites/films", Value::Null, 404),
        ("PUT", "sites/films/hosts/bob.test", json!({}), 404),
        ("DELETE", "sites/films/hosts/films.test", Value::Null, 404),
        ("PATCH", "sites/films/policy", json!({ "public": true }), 404),
        ("PUT", "sites/films/delivery", json!({}), 404),
        ("GET", "sites/films/delivery", Value::Null, 404),
        ("PUT", "sites/films/reader-keys/k", reader_key, 404),
        ("POST", "sites/films/reader-keys", rotation("k2", 60), 404),
        ("DELETE", &key_path, Value::Null, 404),
        ("DELETE", &credential_path, Value::Null, 404),
        ("PUT", "accounts/ada/password", json!({ "password": "long enough" }), 403),
        ("POST", "api-keys", json!({ "account": "ada" }), 403),
        ("POST", "s3-credentials", json!({ "account": "admin" }), 403),
        ("POST", "sites", json!({ "name": "theirs", "account": "ada" }), 403),
        ("POST", "accounts", json!({ "name": "eve", "role": "admin" }), 403),
        ("PUT", "accounts/ada/disabled", Value::Null, 403),
        ("DELETE", "accounts/bob/disabled", Value::Null, 403),
        ("POST", "join-tokens", json!({ "role": "edge" }), 403),
        ("GET", "nodes", Value::Null, 403),
        ("DELETE", "nodes/00000000-0000-0000-0000-000000000000", Value::Null, 403),
        ("POST", "sites", json!({ "name": "films" }), 409),
        ("POST", "sites", json!({ "name": "other", "hosts": ["FILMS.test"] }), 409),
        ("POST", "sites", json!({ "name": "other", "hosts": ["Control.test."] }), 403),
        ("PUT", "sites/films/hosts/control.test", json!({}), 403),
    ];
    for (method, path, body, expected) in foreign {
        let (status, problem) = world.call(Some(&bob), method, path, body).await;
        assert_eq!((status, &problem["status"]), (expected, &json!(expected)), "{method} {path}: {problem}");
    }
    for (list, own) in [("sites", 0), ("api-keys", 1), ("s3-credentials", 0), ("accounts", 1), ("agents", 0)] {
        let (status, answer) = world.call(Some(&bob), "GET", list, Value::Null).await;
        assert_eq!((status, answer.as_array().unwrap().len()), (200, own), "{list}");
    }
    assert_eq!(world.call(Some(&ada), "DELETE", &key_path, Value::Null).await.0, 204);
    let deleted = key["api_key"].as_str().unwrap();
    assert_eq!(world.call(Some(deleted), "GET", "sites", Value::Null).await.0, 401);
    world.end().await;
}

#[tokio::test]
async fn where_a_site_is_pulled_from_is_changed() {
    let world = World::start().await;
    let old = json!({ "upstreams": ["https://a.test"], "first_byte_ms": 10_000 });
    let (status, site) = world.admin("POST", "sites", json!({ "name": "pulled", "pull": old })).await;
    assert_eq!(
        (status, &site["pull"]["first_byte_ms"], &site["pull"]["protocol"]),
        (200, &json!(10_000), &json!("auto"))
    );
    let new = json!({ "upstreams": ["https://b.test", "http://[::1]:81"], "host": null, "protocol": "2",
        "first_byte_ms": null, "between_bytes_ms": 250 });
    let (status, site) = world.admin("PUT", "sites/pulled/pull", new.clone()).await;
    assert_eq!((status, &site["pull"]), (200, &new));
    let id: uuid::Uuid = serde_json::from_value(site["id"].clone()).unwrap();
    let told = crate::sites::on_wire(&mut world.state.db.acquire().await.unwrap(), Some(&[id])).await.unwrap();
    let told = told[0].pull.clone().unwrap();
    assert_eq!(told.protocol(), umbel_wire::control::PullProtocol::Http2);
    assert_eq!((told.first_byte_ms, told.between_bytes_ms, told.upstreams.len()), (0, 250, 2));
    for (key, value) in [("protocol", json!("3")), ("first_byte_ms", json!(99)), ("host", json!("c.test"))] {
        let mut bad = new.clone();
        bad[key] = value;
        assert_eq!(world.admin("PUT", "sites/pulled/pull", bad).await.0, 400, "{key}");
    }
    assert_eq!(world.admin("GET", "sites/pulled", Value::Null).await.1["pull"], new);
    world.end().await;
}

#[tokio::test]
async fn sites_are_made_changed_and_deleted() {
    let world = World::start().await;
    let site = world.create_site(&world.admin, "films", &["B.test", "a.test", "b.test."]).await;
    assert_eq!(site["hosts"], json!(["a.test", "b.test"]));
    assert_eq!(site["account"], "admin");
    let (_, site) = world.admin("PUT", "sites/films/hosts/c.test", Value::Null).await;
    assert_eq!(site["hosts"], json!(["a.test", "b.test", "c.test"]));
    assert_eq!(world.admin("PUT", "sites/films/hosts/c.test", Value::Null).await.0, 200);
    let (_, site) = world.admin("DELETE", "sites/films/hosts/a.test", Value::Null).await;
    assert_eq!(site["hosts"], json!(["b.test", "c.test"]));
    let policy = json!({ "public": true, "cache_control": "max-age=60", "trust_domains": ["trusted"], "peers": false });
    let cookies = json!({ "carriers": ["cookie"] });
    let (_, site) = world.admin("PATCH", "sites/films/policy", cookies).await;
    assert_eq!(site["policy"]["carriers"], json!(["cookie"]));
    let rest = json!({ "carriers": ["bearer", "query", "cookie"], "share_above": 4 << 20 });
    assert_eq!(site["policy"]["share_above"], 1 << 20);
    world.admin("PATCH", "sites/films/policy", rest).await;
    let (_, site) = world.admin("PATCH", "sites/films/policy", policy).await;
    let key = crate::secrets::base64url(&[9; 32]);
    let (_, with_key) = world.admin("PUT", "sites/films/reader-keys/k-1", json!({ "public_key": key })).await;
    assert_eq!(with_key["policy"]["reader_keys"], json!([{ "id": "k-1", "public_key": key }]));
    let expected = json!({ "public": true, "reader_keys": [], "cache_control": "max-age=60", "lookup_ttl_ms": 1000,
        "peers": false, "trust_domains": ["trusted"], "carriers": ["bearer", "query", "cookie"], "share_above": 4 << 20 });
    assert_eq!(site["policy"], expected);
    assert_eq!(world.admin("DELETE", "sites/films/reader-keys/k-1", Value::Null).await.1["policy"], expected);

    assert_eq!(world.admin("DELETE", "sites/films", Value::Null).await.0, 204);
    assert_eq!(world.admin("GET", "sites/films", Value::Null).await.0, 404);
    let again = world.create_site(&world.admin, "films", &["b.test"]).await;
    assert_ne!(again["id"], site["id"]);
    world.end().await;
}

fn rotation(id: &str, overlap: u64) -> Value {
    json!({ "id": id, "public_key": crate::secrets::base64url(&[2; 32]), "overlap": overlap })
}

#[tokio::test]
async fn reader_keys_are_replaced_with_overlap() {
    let world = World::start().await;
    world.create_site(&world.admin, "films", &[]).await;
    let public = crate::secrets::base64url(&[9; 32]);
    let put = json!({ "public_key": public, "not_after": "2001-01-01T00:00:00Z" });
    world.admin("PUT", "sites/films/reader-keys/ended", put).await;
    let soon = json!({ "public_key": public, "not_after": "2099-01-01T00:00:00Z" });
    world.admin("PUT", "sites/films/reader-keys/later", soon.clone()).await;
    let keys = |site: &Value| -> Vec<(String, Option<OffsetDateTime>)> {
        let keys: Vec<crate::api::ReaderKey> = serde_json::from_value(site["policy"]["reader_keys"].clone()).unwrap();
        keys.into_iter().map(|key| (key.id, key.not_after)).collect()
    };
    let before = OffsetDateTime::now_utc();
    let (status, site) = world.admin("POST", "sites/films/reader-keys", rotation("new", 3600)).await;
    assert_eq!(status, 200, "{site}");
    let [(later, end), (new, None)] = &keys(&site)[..] else { panic!("{site}") };
    assert_eq!((later.as_str(), new.as_str()), ("later", "new"));
    let overlap = end.unwrap() - before;
    assert!((3590..=3700).contains(&overlap.whole_seconds()), "{overlap}");
    // What ends sooner still does.
    let (_, site) = world.admin("POST", "sites/films/reader-keys", rotation("newer", 86_400)).await;
    assert_eq!(keys(&site)[0], ("later".into(), *end));
    assert_eq!(world.admin("POST", "sites/films/reader-keys", rotation("new", 1)).await.0, 409);
    let known = keys(&world.admin("GET", "sites/films", Value::Null).await.1);
    assert_eq!(known, keys(&site), "a refused change changes nothing");
    let on_wire = crate::sites::on_wire(&mut world.state.db.acquire().await.unwrap(), None).await.unwrap();
    let keys = on_wire[0].policy.clone().unwrap().reader_keys;
    let ends: Vec<_> = keys.iter().map(|key| (key.id.as_str(), key.not_after)).collect();
    let seconds = |index: usize| known[index].1.map_or(0, |end| end.unix_timestamp().unsigned_abs());
    assert_eq!(ends, [("later", seconds(0)), ("new", seconds(1)), ("newer", 0)]);
    assert!(seconds(0) > 0 && seconds(1) > seconds(0));
    world.end().await;
}

#[tokio::test]
async fn bad_input_gets_a_problem_that_says_why() {
    let world = World::start().await;
    world.create_site(&world.admin, "films", &[]).await;
    let many: Vec<String> = (0..101).map(|index| format!("h{index}.test")).collect();
    let cases = [
        ("POST", "sites", json!({ "name": "UPPER" }), 400),
        ("POST", "sites", json!({ "name": "ok-name", "typo": 1 }), 400),
        ("POST", "sites", json!({ "name": "ok-name", "hosts": ["a b"] }), 400),
        ("POST", "sites", json!({ "name": "ok-name", "hosts": many }), 400),
        ("POST", "sites", json!({ "name": "ok-name", "hosts": ["localhost"] }), 400),
        ("PUT", "sites/films/hosts/Localhost.", Value::Null, 400),
        ("PUT", "accounts/nobody/disabled", Value::Null, 404),
        ("PUT", "accounts/admin/disabled", Value::Null, 409),
        ("POST", "sites", json!({ "name": "ok-name", "account": "nobody" }), 404),
        ("POST", "sites", json!([]), 400),
        ("POST", "sites", json!({ "name": "x".repeat(100 << 10) }), 400),
        ("PATCH", "sites/films/policy", json!({ "cache_control": "a\nb" }), 400),
        ("PATCH", "sites/films/policy", json!({ "lookup_ttl_ms": 86_400_001 }), 400),
        ("PATCH", "sites/films/policy", json!({ "trust_domains": ["moon"] }), 400),
        ("PUT", "sites/films/reader-keys/k", json!({ "public_key": "short" }), 400),
        ("PUT", "sites/films/delivery", json!({ "compresion": {} }), 400),
        ("PUT", "sites/films/delivery", json!({ "compression": { "min_size": "x" } }), 400),
        ("PUT", "sites/none/delivery", json!({}), 404),
        ("GET", "sites/none/delivery", Value::Null, 404),
        ("POST", "sites/films/reader-keys", rotation("a b", 60), 400),
        ("POST", "sites/films/reader-keys", rotation("k", 400 * 86_400), 400),
        ("POST", "sites/films/reader-keys", json!({ "id": "k", "public_key": "short", "overlap": 1 }), 400),
        ("PUT", "sites/films/pull", json!({ "upstreams": ["https://a.test"] }), 400),
        ("PUT", "sites/none/pull", json!({ "upstreams": ["https://a.test"] }), 404),
        ("PATCH", "sites/films/policy", json!({ "carriers": [] }), 400),
        ("PATCH", "sites/films/policy", json!({ "share_above": 65_535 }), 400),
        ("PATCH", "sites/films/policy", json!({ "share_above": u64::MAX }), 400),
        ("PATCH", "sites/films/policy", json!({ "share_above": -1 }), 400),
        ("PATCH", "sites/films/policy", json!({ "carriers": ["pigeon"] }), 400),
        ("GET", "sites/a%00b", Value::Null, 400),
        ("POST", "accounts", json!({ "name": "Ada!", "role": "provider" }), 400),
        ("POST", "accounts", json!({ "name": "ada", "role": "god" }), 400),
        ("POST", "accounts", json!({ "name": "ada", "role": "provider", "password": "short" }), 400),
        ("POST", "accounts", json!({ "name": "admin", "role": "admin" }), 409),
        ("POST", "join-tokens", json!({ "role": "agent" }), 400),
        ("POST", "join-tokens", json!({ "role": "edge", "expires_in": 31 * 86_400 }), 400),
        ("POST", "api-keys", json!({ "label": "a\0b" }), 400),
        ("DELETE", "nodes/nonsense", Value::Null, 400),
        ("DELETE", "agents/nonsense", Value::Null, 404),
        ("GET", "device-codes/nonsense", Value::Null, 404),
        ("GET", "moon", Value::Null, 404),
        ("GET", "sites/..%2F..%2Faccounts", Value::Null, 404),
        ("GET", "sites/%FF", Value::Null, 400),
        ("GET", "usage?by=site&limit=-1", Value::Null, 400),
        ("GET", "usage?by=site&limit=99999999999", Value::Null, 400),
        ("POST", "sites", (0..200).fold(json!(1), |inner, _| json!([inner])), 400),
        ("POST", "sites", json!({ "name": "x".repeat(8 << 20) }), 400),
        ("PUT", "sites", json!({}), 405),
    ];
    for (method, path, body, expected) in cases {
        let (status, problem) = world.admin(method, path, body).await;
        assert_eq!((status, &problem["status"]), (expected, &json!(expected)), "{method} {path}: {problem}");
        assert!(!problem["detail"].as_str().unwrap().is_empty());
    }
    let odd = |bearer: String, kind: &str, body: &'static str| {
        let request = HttpRequest::post("/api/v1/sites").header("authorization", bearer).header("content-type", kind);
        world.send(request.body(body.into()).unwrap())
    };
    let ours = format!("Bearer {}", world.admin);
    assert_eq!(odd(ours.clone(), "text/plain", "{}").await.0, 400);
    assert_eq!(odd(ours, "application/json", "{\"name\": \u{fffd}").await.0, 400);
    for bearer in [String::new(), "Bearer".into(), format!("Bearer {}", "x".repeat(60_000)), "Basic YTpi".into()] {
        assert_eq!(odd(bearer, "application/json", "{}").await.0, 401);
    }
    world.end().await;
}

#[tokio::test]
async fn passwords_sessions_and_keys() {
    let world = World::start().await;
    let new = json!({ "name": "ada", "role": "provider", "password": "correct horse" });
    assert_eq!(world.admin("POST", "accounts", new).await.0, 200);
    let login = |password: &str| json!({ "account": "ada", "password": password });
    let (status, session) = world.call(None, "POST", "login", login("correct horse")).await;
    assert_eq!(status, 200, "{session}");
    let token = session["token"].as_str().unwrap();
    assert_eq!(world.call(Some(token), "GET", "sites", Value::Null).await.0, 200);
    let nobody = json!({ "account": "nobody", "password": "correct horse" });
    for wrong in [login("wrong horse"), login(""), nobody, json!({ "account": "a\0", "password": "x" })] {
        assert_eq!(world.call(None, "POST", "login", wrong).await.0, 401);
    }
    let account = uuid::Uuid::now_v7();
    let now = umbel_service::unix_now();
    let foreign = crate::accounts::session(&[0; 32], account, now).unwrap();
    let over = crate::accounts::session(world.state.authority.session_key(), account, now - 100_000).unwrap();
    let gone = crate::accounts::session(world.state.authority.session_key(), account, now).unwrap();
    let long = "x".repeat(5000);
    for bearer in [&foreign, &over, &gone, &long, "", "umbel_key_", "umbel_key_nonsense", "a.b.c"] {
        assert_eq!(world.call(Some(bearer), "GET", "sites", Value::Null).await.0, 401, "{bearer:.40}");
    }
    assert_eq!(world.call(None, "GET", "sites", Value::Null).await.0, 401);
    world.end().await;
}

#[tokio::test]
async fn a_disabled_account_gets_in_by_no_door_until_it_is_enabled() {
    let world = World::start().await;
    let key = world.provider("ada").await;
    world.create_site(&key, "films", &[]).await;
    assert_eq!(world.admin("PUT", "accounts/ada/password", json!({ "password": "correct horse" })).await.0, 204);
    let (_, credential) = world.call(Some(&key), "POST", "s3-credentials", json!({})).await;
    let (_, token) = world.call(Some(&key), "POST", "enrolment-tokens", json!({ "uses": 1 })).await;
    let secret = Invitation::decode(token["token"].as_str().unwrap()).unwrap().secret;
    let login = || world.call(None, "POST", "login", json!({ "account": "ada", "password": "correct horse" }));
    let (_, session) = login().await;
    let session = session["token"].as_str().unwrap().to_owned();
    let check = async |expected: u16| {
        assert_eq!(login().await.0, expected);
        for bearer in [&key, &session] {
            assert_eq!(world.call(Some(bearer), "GET", "sites", Value::Null).await.0, expected);
        }
        let head = u64::try_from(changes::head(world.db()).await.unwrap()).unwrap();
        let role = umbel_wire::control::Role::Origin;
        let id = credential["access_key_id"].as_str().unwrap();
        // A snapshot, as head 0 is before all history; and the change that a node is told.
        let mut origin = umbel_service::installation::Installation::default();
        origin.apply(changes::event_since(world.db(), role, 0).await.unwrap());
        origin.apply(changes::event_since(world.db(), role, head - 1).await.unwrap());
        assert_eq!(origin.s3_credentials.contains_key(id), expected == 200);
        assert_eq!(origin.sites.len(), 1, "what is published stays");
        let redeemed = crate::agents::redeem_enrolment_token(world.db(), &secret, &[7; 32], "").await;
        assert_eq!(redeemed.is_ok(), expected == 200);
    };
    check(200).await;
    for _ in 0..2 {
        let (status, account) = world.admin("PUT", "accounts/ada/disabled", Value::Null).await;
        assert_eq!((status, account["disabled_at"].is_string()), (200, true), "{account}");
        check(401).await;
    }
    let (_, account) = world.admin("DELETE", "accounts/ada/disabled", Value::Null).await;
    assert_eq!(account["disabled_at"], Value::Null);
    check(200).await;
    world.end().await;
}

#[tokio::test]
async fn bootstrap_replaces_its_key_and_keeps_the_authority() {
    let world = World::start().await;
    let again = bootstrap(world.db()).await.unwrap();
    assert_eq!(again.ca_pem, world.state.authority.ca_pem());
    assert_eq!(world.admin("GET", "sites", Value::Null).await.0, 401);
    assert_eq!(world.call(Some(&again.api_key), "GET", "sites", Value::Null).await.0, 200);
    world.end().await;
}
