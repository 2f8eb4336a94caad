use futures::StreamExt;
use serde_json::json;
use umbel_service::installation::Installation;
use umbel_wire::control::{ConfirmRequest, WatchRequest, config_event::Event, config_server::Config as _};

use super::*;

type Events = <ControlPlane as umbel_wire::control::config_server::Config>::WatchStream;

async fn watch(world: &World, peer: &PeerIdentity, since: u64) -> Events {
    world.state.watch(by(peer, WatchRequest { since })).await.unwrap().into_inner()
}

/// Applies events until the installation has this version.
async fn follow(events: &mut Events, installation: &mut Installation, version: u64) {
    while installation.version < version {
        let event = tokio::time::timeout(Duration::from_secs(60), events.next()).await;
        installation.apply(event.expect("an event in time").expect("an open stream").unwrap());
    }
}

async fn confirm(world: &World, peer: &PeerIdentity, version: u64) {
    world.state.confirm(by(peer, ConfirmRequest { version })).await.unwrap();
}

async fn purge(world: &World, bearer: &str, body: Value) -> Value {
    let (status, purge) = world.call(Some(bearer), "POST", "sites/films/purges", body).await;
    assert_eq!(status, 200, "{purge}");
    purge
}

/// Each edge's state.
async fn states(world: &World, bearer: &str, purge: &Value) -> Vec<String> {
    let path = format!("sites/films/purges/{}", purge["id"].as_str().unwrap());
    let (status, shown) = world.call(Some(bearer), "GET", &path, Value::Null).await;
    assert_eq!(status, 200, "{shown}");
    shown["edges"].as_array().unwrap().iter().map(|edge| edge["state"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn edges_hear_of_purges_and_confirm_them() {
    let world = World::start().await;
    let provider = world.provider("studio").await;
    let site = world.create_site(&provider, "films", &["films.test"]).await;
    let (edge, away) = (world.node(NodeRole::Edge).await, world.node(NodeRole::Edge).await);
    let mut installation = Installation::default();
    let mut events = watch(&world, &edge, 0).await;
    follow(&mut events, &mut installation, 1).await;
    let before = installation.version;

    let keys: Vec<_> = (0..1000).map(|key| format!("key-{key}")).collect();
    let first = purge(&world, &provider, json!({ "keys": keys, "urls": ["https://films.test/a%20b/"] })).await;
    assert_eq!((&first["keys"], &first["urls"], &first["soft"]), (&json!(1000), &json!(1), &json!(false)));
    let second = purge(&world, &provider, json!({ "everything": true, "soft": true })).await;
    let version = second["version"].as_u64().unwrap();
    assert_eq!(states(&world, &provider, &first).await, ["waiting", "away"]);
    follow(&mut events, &mut installation, version).await;
    confirm(&world, &edge, first["version"].as_u64().unwrap()).await;
    assert_eq!(states(&world, &provider, &first).await, ["confirmed", "away"]);
    assert_eq!(states(&world, &provider, &second).await, ["waiting", "away"]);
    confirm(&world, &edge, version).await;
    drop(events);
    assert_eq!(states(&world, &provider, &second).await, ["confirmed", "away"], "what is confirmed stays");

    // Who was away is told exactly what it missed.
    let Some(Ok(missed)) = watch(&world, &away, before).await.next().await else { panic!("no event") };
    let Some(Event::Change(change)) = missed.event else { panic!("no change: {missed:?}") };
    let [one, two] = change.purges.as_slice() else { panic!("{:?}", change.purges) };
    assert_eq!(
        (one.site_id.as_str(), one.targets.as_slice()),
        (site["id"].as_str().unwrap(), ["/a b/index.html".into()].as_slice())
    );
    assert_eq!((one.keys.len(), two.everything, two.soft), (1000, true, true));
    confirm(&world, &away, u64::MAX).await;
    assert_eq!(states(&world, &provider, &first).await, ["confirmed", "waiting"], "a version that there never was");

    let (_, listed) = world.call(Some(&provider), "GET", "sites/films/purges", Value::Null).await;
    assert_eq!(
        listed.as_array().unwrap().iter().map(|purge| &purge["id"]).collect::<Vec<_>>(),
        [&second["id"], &first["id"]]
    );
    let (_, edges) = world.call(Some(&provider), "GET", "edges", Value::Null).await;
    assert_eq!(edges.as_array().unwrap().len(), 2);
    world.end().await;
}

#[tokio::test]
async fn a_provider_purges_its_own_sites_only_and_is_told_what_is_wrong() {
    let world = World::start().await;
    let (provider, other) = (world.provider("studio").await, world.provider("other").await);
    world.create_site(&provider, "films", &["films.test"]).await;
    let call = async |bearer, method, body| world.call(bearer, method, "sites/films/purges", body).await.0;
    assert_eq!(call(Some(other.as_str()), "POST", json!({ "everything": true })).await, 404);
    assert_eq!(call(Some(other.as_str()), "GET", Value::Null).await, 404);
    assert_eq!(call(None, "POST", json!({ "everything": true })).await, 401);
    assert_eq!(call(Some(world.admin.as_str()), "POST", json!({ "everything": true })).await, 200);
    for body in
        [json!({}), json!({ "urls": ["https://other.test/"] }), json!({ "keys": ["a,b"] }), json!({ "key": "a" })]
    {
        assert_eq!(call(Some(provider.as_str()), "POST", body.clone()).await, 400, "{body}");
    }
    world.end().await;
}

#[tokio::test]
async fn who_has_missed_too_much_is_given_a_snapshot() {
    let world = World::start().await;
    world.create_site(&world.admin, "films", &[]).await;
    let edge = world.node(NodeRole::Edge).await;
    let since = u64::try_from(changes::head(world.db()).await.unwrap()).unwrap();
    purge(&world, &world.admin, json!({ "keys": ["k"] })).await;
    let is_snapshot = async || {
        let event = watch(&world, &edge, since).await.next().await.unwrap().unwrap();
        matches!(event.event, Some(Event::Snapshot(_)))
    };
    assert!(!is_snapshot().await);
    sqlx::query("update purges set keys = array_fill('k'::text, array[200001])").execute(world.db()).await.unwrap();
    assert!(is_snapshot().await, "more than is told one by one");
    sqlx::query("update purges set keys = '{k}', created_at = now() - interval '8 days'")
        .execute(world.db())
        .await
        .unwrap();
    assert!(!is_snapshot().await);
    changes::prune(world.db()).await.unwrap();
    assert!(is_snapshot().await, "forgotten");
    world.end().await;
}
