use serde_json::json;
use umbel_content::SigningKey;
use umbel_service::installation::Installation;
use umbel_wire::{
    control::Role,
    enrolment::{
        DEVICE_AUTHORIZATION_PATH, DEVICE_CODE_GRANT, ENROLMENT_TOKEN_GRANT, RENEWAL_GRANT, TOKEN_PATH, prove,
        prove_renewal,
    },
    token::{KeySet, Membership},
};

use super::*;
use crate::secrets::base64url;

fn public(key: &SigningKey) -> String {
    base64url(key.verifying_key().as_bytes())
}

/// A token request with a device code (`field` `device_code`) or an enrolment token (`token`).
async fn redeem(world: &World, key: &SigningKey, grant: &str, field: &str, secret: &str) -> (u16, Value) {
    let signature = base64url(&prove(key, secret));
    let fields = [
        ("grant_type", grant),
        (field, secret),
        ("public_key", &public(key)),
        ("signature", &signature),
        ("name", "pc"),
    ];
    token(world, &fields).await
}

async fn token(world: &World, fields: &[(&str, &str)]) -> (u16, Value) {
    let (status, text) = world.form(TOKEN_PATH, fields).await;
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

async fn poll(world: &World, key: &SigningKey, code: &str) -> (u16, Value) {
    redeem(world, key, DEVICE_CODE_GRANT, "device_code", code).await
}

async fn ask_for_code(world: &World, key: &SigningKey) -> (String, String) {
    let (status, text) =
        world.form(DEVICE_AUTHORIZATION_PATH, &[("public_key", &public(key)), ("name", "<my pc>")]).await;
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    let user_code = answer["user_code"].as_str().unwrap().to_owned();
    let complete = answer["verification_uri_complete"].as_str().unwrap();
    assert_eq!(complete, format!("https://control.test/device?user_code={user_code}"));
    (answer["device_code"].as_str().unwrap().to_owned(), user_code)
}

async fn keys(world: &World) -> KeySet {
    let (_, text) = world.send(HttpRequest::get("/.well-known/jwks.json").body(Body::empty()).unwrap()).await;
    let jwks: Value = serde_json::from_str(&text).unwrap();
    let key = &jwks["keys"][0];
    let x = crate::secrets::from_base64url::<32>(key["x"].as_str().unwrap()).unwrap();
    KeySet::new([(key["kid"].as_str().unwrap(), &x[..])])
}

async fn membership(world: &World, reply: &Value) -> Membership {
    let token = reply["access_token"].as_str().unwrap_or_else(|| panic!("{reply}"));
    Membership::verify(token, &keys(world).await, umbel_service::unix_now()).unwrap()
}

#[tokio::test]
async fn a_person_lets_an_agent_in() {
    let world = World::start().await;
    world.node(NodeRole::Edge).await;
    let (key, thief) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
    let (code, user_code) = ask_for_code(&world, &key).await;
    assert_eq!(poll(&world, &key, &code).await.1["error"], "authorization_pending");
    // However long this test takes: the last poll was just now.
    let poll_just_now = "update device_codes set polled_at = now() + interval '1 hour'";
    sqlx::query(poll_just_now).execute(world.db()).await.unwrap();
    assert_eq!(poll(&world, &key, &code).await.1["error"], "slow_down");
    assert_eq!(poll(&world, &thief, &code).await.1["error"], "invalid_grant");

    let (_, shown) = world.admin("GET", &format!("device-codes/{user_code}"), Value::Null).await;
    assert_eq!((&shown["agent"], &shown["name"]), (&json!(public(&key)), &json!("<my pc>")));
    let path = format!("device-codes/{}", user_code.to_lowercase());
    assert_eq!(world.call(None, "POST", &path, json!({ "approve": true })).await.0, 401);
    assert_eq!(world.admin("POST", &path, json!({ "approve": true, "trust_domain": "trusted" })).await.0, 200);
    assert_eq!(world.admin("POST", &path, json!({ "approve": false })).await.0, 409);

    let (status, reply) = poll(&world, &key, &code).await;
    assert_eq!((status, &reply["edges"]), (200, &json!(["https://edge1.test:443"])), "{reply}");
    assert_eq!(reply["ca_pem"], world.state.authority.ca_pem());
    let member = membership(&world, &reply).await;
    assert_eq!((&member.agent, member.trust_domain.as_str()), (key.verifying_key().as_bytes(), "trusted"));
    // The answer was lost: again. Another key: no.
    assert_eq!(poll(&world, &key, &code).await.0, 200);
    assert_eq!(poll(&world, &thief, &code).await.1["error"], "invalid_grant");
    assert_eq!(world.admin("GET", "agents", Value::Null).await.1.as_array().unwrap().len(), 1);
    world.end().await;
}

#[tokio::test]
async fn codes_are_refused_and_expire() {
    let world = World::start().await;
    let provider = world.provider("studio").await;
    let key = SigningKey::from_seed(&[1; 32]);
    let (code, user_code) = ask_for_code(&world, &key).await;
    let path = format!("device-codes/{user_code}");
    let trusted = json!({ "approve": true, "trust_domain": "trusted" });
    assert_eq!(world.call(Some(&provider), "POST", &path, trusted).await.0, 403);
    assert_eq!(world.call(Some(&provider), "POST", &path, json!({ "approve": false })).await.0, 200);
    let (_, refusal) = poll(&world, &key, &code).await;
    assert_eq!(refusal["error"], "access_denied");
    assert!(refusal["error_description"].as_str().unwrap().contains("did not let this agent in"), "{refusal}");

    let (code, user_code) = ask_for_code(&world, &key).await;
    sqlx::query("update device_codes set expires_at = now()").execute(world.db()).await.unwrap();
    assert_eq!(poll(&world, &key, &code).await.1["error"], "expired_token");
    let path = format!("device-codes/{user_code}");
    assert_eq!(world.admin("POST", &path, json!({ "approve": true })).await.0, 404);
    assert_eq!(poll(&world, &key, "nonsense").await.1["error"], "invalid_grant");
    world.end().await;
}

#[tokio::test]
async fn the_page_asks_for_a_sign_in_with_every_decision() {
    let world = World::start().await;
    let key = SigningKey::from_seed(&[1; 32]);
    let (code, user_code) = ask_for_code(&world, &key).await;
    let (status, html) =
        world.send(HttpRequest::get("/device?user_code=%22%3E%3Cb%3E").body(Body::empty()).unwrap()).await;
    assert_eq!(status, 200);
    assert!(html.contains("&quot;&gt;&lt;b&gt;") && !html.contains("<b>"));

    let send = |account: &'static str, secret: String, decision: &'static str| {
        let (world, user_code) = (&world, user_code.clone());
        async move {
            let fields =
                [("user_code", user_code.as_str()), ("account", account), ("secret", &secret), ("decision", decision)];
            world.form("/device", &fields).await
        }
    };
    assert_eq!(send("", "umbel_key_wrong".into(), "approve").await.0, 401);
    assert_eq!(send("admin", "wrong password".into(), "approve").await.0, 401);
    assert_eq!(send("", world.admin.clone(), "perhaps").await.0, 400);
    assert_eq!(world.form("/device", &[("user_code", "x")]).await.0, 400);
    let password = json!({ "password": "correct horse" });
    assert_eq!(world.admin("PUT", "accounts/admin/password", password).await.0, 204);
    let (status, html) = send("admin", "correct horse".into(), "approve").await;
    assert!(status == 200 && html.contains("&lt;my pc&gt;"), "{html}");
    assert_eq!(poll(&world, &key, &code).await.0, 200);
    world.end().await;
}

#[tokio::test]
async fn an_enrolment_token_lets_so_many_in() {
    let world = World::start().await;
    let provider = world.provider("studio").await;
    let trusted = json!({ "uses": 1, "trust_domain": "trusted" });
    assert_eq!(world.call(Some(&provider), "POST", "enrolment-tokens", trusted).await.0, 403);
    for bad in [json!({ "uses": 0 }), json!({ "uses": 1, "expires_in": 0 }), json!({ "uses": -1 }), json!({})] {
        assert_eq!(world.admin("POST", "enrolment-tokens", bad).await.0, 400);
    }
    let (_, made) = world.call(Some(&provider), "POST", "enrolment-tokens", json!({ "uses": 2 })).await;
    let invitation = Invitation::decode(made["token"].as_str().unwrap()).unwrap();
    let redeem = |seed: u8| {
        let (world, secret) = (&world, invitation.secret.clone());
        async move { redeem(world, &SigningKey::from_seed(&[seed; 32]), ENROLMENT_TOKEN_GRANT, "token", &secret).await }
    };
    let (status, reply) = redeem(1).await;
    assert_eq!((status, membership(&world, &reply).await.trust_domain.as_str()), (200, "public"));
    // Again, since the answer was lost: no further use.
    assert_eq!(redeem(1).await.0, 200);
    assert_eq!(redeem(2).await.0, 200);
    assert_eq!(redeem(3).await.1["error"], "invalid_grant");

    sqlx::query("update enrolment_tokens set expires_at = now()").execute(world.db()).await.unwrap();
    assert_eq!(redeem(1).await.1["error"], "invalid_grant");
    let (_, own) = world.call(Some(&provider), "GET", "agents", Value::Null).await;
    assert_eq!(own.as_array().unwrap().len(), 2);
    world.end().await;
}

#[tokio::test]
async fn members_renew_until_they_are_revoked() {
    let world = World::start().await;
    let (key, stranger) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
    let (_, made) = world.admin("POST", "enrolment-tokens", json!({ "uses": 2 })).await;
    let secret = Invitation::decode(made["token"].as_str().unwrap()).unwrap().secret;
    assert_eq!(redeem(&world, &key, ENROLMENT_TOKEN_GRANT, "token", &secret).await.0, 200);

    let renew = |key: &SigningKey, timestamp: u64| {
        let (world, public, text) = (&world, public(key), timestamp.to_string());
        let signature = base64url(&prove_renewal(key, timestamp));
        async move {
            let fields = [
                ("grant_type", RENEWAL_GRANT),
                ("timestamp", text.as_str()),
                ("public_key", &public),
                ("signature", &signature),
            ];
            token(world, &fields).await
        }
    };
    let now = umbel_service::unix_now();
    let (status, reply) = renew(&key, now).await;
    assert_eq!((status, membership(&world, &reply).await.agent), (200, *key.verifying_key().as_bytes()));
    for (key, timestamp) in [(&key, now - 3600), (&key, now + 3600), (&key, 0), (&stranger, now)] {
        assert_eq!(renew(key, timestamp).await.1["error"], "invalid_grant");
    }
    let provider = world.provider("studio").await;
    let path = format!("agents/{}", public(&key));
    assert_eq!(world.call(Some(&provider), "DELETE", &path, Value::Null).await.0, 404);
    assert_eq!(world.admin("DELETE", &path, Value::Null).await.0, 204);
    assert_eq!(renew(&key, now).await.1["error"], "invalid_grant");
    assert_eq!(redeem(&world, &key, ENROLMENT_TOKEN_GRANT, "token", &secret).await.1["error"], "access_denied");

    let mut installation = Installation::default();
    installation.apply(changes::event_since(world.db(), Role::Edge, 0).await.unwrap());
    assert!(installation.revoked.contains(key.verifying_key().as_bytes()));
    world.end().await;
}

#[tokio::test]
async fn malformed_token_requests_are_told_why() {
    let world = World::start().await;
    let key = SigningKey::from_seed(&[1; 32]);
    let (public, signature) = (public(&key), base64url(&[0; 64]));
    let long = "x".repeat(1000);
    let request =
        |grant: &'static str| vec![("grant_type", grant), ("public_key", public.as_str()), ("signature", &signature)];
    let with = |grant, field: (&'static str, &'static str)| [request(grant), vec![field]].concat();
    let cases = [
        (vec![], "invalid_request"),
        (vec![("grant_type", DEVICE_CODE_GRANT), ("public_key", "short"), ("signature", "")], "invalid_request"),
        (request("password"), "unsupported_grant_type"),
        (request(DEVICE_CODE_GRANT), "invalid_request"),
        (request(ENROLMENT_TOKEN_GRANT), "invalid_request"),
        (request(RENEWAL_GRANT), "invalid_request"),
        (with(DEVICE_CODE_GRANT, ("device_code", "x")), "invalid_grant"),
        (with(ENROLMENT_TOKEN_GRANT, ("token", "x")), "invalid_grant"),
        (with(RENEWAL_GRANT, ("timestamp", "-1")), "invalid_request"),
        ([request(DEVICE_CODE_GRANT), vec![("device_code", long.as_str())]].concat(), "invalid_request"),
    ];
    for (fields, expected) in cases {
        let (status, refusal) = token(&world, &fields).await;
        assert_eq!((status, &refusal["error"]), (400, &json!(expected)), "{fields:?}: {refusal}");
    }
    let nul = [("public_key", public.as_str()), ("name", "a\0b")];
    assert_eq!(world.form(DEVICE_AUTHORIZATION_PATH, &nul).await.0, 400);
    let huge = "x".repeat(100 << 10);
    assert_eq!(world.form(TOKEN_PATH, &[("grant_type", &huge)]).await.0, 400);
    world.end().await;
}
