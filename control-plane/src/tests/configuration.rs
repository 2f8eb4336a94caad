use futures::StreamExt;
use serde_json::json;
use tonic::{Code, Status};
use umbel_service::installation::Installation;
use umbel_wire::control::{ConfigEvent, Role, WatchRequest, config_event::Event, config_server::Config as _};

use super::*;

type Events = <ControlPlane as umbel_wire::control::config_server::Config>::WatchStream;

async fn watch(world: &World, peer: &PeerIdentity, since: u64) -> Result<Events, Status> {
    Ok(world.state.watch(by(peer, WatchRequest { since })).await?.into_inner())
}

async fn next(events: &mut Events) -> ConfigEvent {
    let event = tokio::time::timeout(Duration::from_secs(20), events.next()).await;
    event.expect("an event in time").expect("an open stream").unwrap()
}

/// Applies events until `done` holds.
async fn follow(events: &mut Events, installation: &mut Installation, done: impl Fn(&Installation) -> bool) {
    while !done(installation) {
        installation.apply(next(events).await);
    }
}

#[tokio::test]
async fn a_delivery_document_is_checked_kept_as_written_and_sent() {
    let world = World::start().await;
    world.create_site(&world.admin, "films", &["films.test"]).await;
    let edge = world.node(NodeRole::Edge).await;
    let mut events = watch(&world, &edge, 0).await.unwrap();
    let mut installation = Installation::default();
    installation.apply(next(&mut events).await);
    let path = "sites/films/delivery";
    assert_eq!(world.admin("GET", path, Value::Null).await, (200, json!({})));
    let document = json!({ "compression": { "min_size": "2 KiB" }, "https": { "hsts": { "max_age": "1d" } } });
    assert_eq!(world.admin("PUT", path, document.clone()).await, (200, document.clone()));
    assert_eq!(world.admin("GET", path, Value::Null).await, (200, document.clone()));
    let sent = |now: &Installation| now.site_by_name("films").unwrap().delivery.clone();
    follow(&mut events, &mut installation, |now| sent(now).is_some()).await;
    assert_eq!(serde_json::to_value(sent(&installation).unwrap()).unwrap(), document);
    let wrong = json!({ "compression": { "codings": ["lzma"], "types": ["x"] } });
    let (status, problem) = world.admin("PUT", path, wrong).await;
    let named = ["compression.codings[0]", "compression.types[0]"];
    assert!(
        status == 400 && named.iter().all(|place| problem["detail"].as_str().unwrap().contains(place)),
        "{problem}"
    );
    assert_eq!(world.admin("PUT", path, json!({})).await.0, 200);
    follow(&mut events, &mut installation, |now| sent(now).is_none()).await;
    world.end().await;
}

#[tokio::test]
async fn a_snapshot_then_changes_then_only_what_was_missed() {
    let world = World::start().await;
    world.create_site(&world.admin, "films", &["films.test"]).await;
    let edge = world.node(NodeRole::Edge).await;
    let mut events = watch(&world, &edge, 0).await.unwrap();
    let first = next(&mut events).await;
    assert!(matches!(first.event, Some(Event::Snapshot(_))));
    let mut installation = Installation::default();
    installation.apply(first);
    assert_eq!(installation.site_by_host("films.test").unwrap().name, "films");
    assert_eq!(installation.nodes(Role::Edge).count(), 1);
    assert_eq!(installation.membership_keys.len(), 1);

    world.create_site(&world.admin, "songs", &["songs.test"]).await;
    follow(&mut events, &mut installation, |now| now.site_by_name("songs").is_some()).await;
    drop(events);

    let policy = json!({ "public": true, "lookup_ttl_ms": 5, "share_above": 65_536 });
    assert_eq!(world.admin("PATCH", "sites/songs/policy", policy).await.0, 200);
    assert_eq!(world.admin("DELETE", "sites/films", Value::Null).await.0, 204);
    let mut events = watch(&world, &edge, installation.version).await.unwrap();
    let missed = next(&mut events).await;
    assert!(matches!(&missed.event, Some(Event::Change(change)) if change.sites.len() == 1), "{missed:?}");
    installation.apply(missed);
    let policy = installation.site_by_name("songs").unwrap().policy.clone().unwrap();
    assert!(policy.public && policy.lookup_ttl_ms == 5 && policy.share_above == 65_536);
    assert!(installation.site_by_name("films").is_none());
    assert_eq!(i64::try_from(installation.version).unwrap(), changes::head(world.db()).await.unwrap());
    assert_eq!(installation.deleted_sites.len(), 1);

    let origin = world.node(NodeRole::Origin).await;
    let mut fresh = Installation::default();
    fresh.apply(next(&mut watch(&world, &origin, 0).await.unwrap()).await);
    assert_eq!(fresh.deleted_sites, installation.deleted_sites, "a snapshot says it, too");
    world.end().await;
}

#[tokio::test]
async fn who_is_current_is_told_so_and_who_is_too_far_gets_a_snapshot() {
    let world = World::start().await;
    let edge = world.node(NodeRole::Edge).await;
    let head = u64::try_from(changes::head(world.db()).await.unwrap()).unwrap();
    for (since, snapshot) in
        [(head, false), (head - 1, false), (1, false), (0, true), (head + 1, true), (u64::MAX, true)]
    {
        let event = next(&mut watch(&world, &edge, since).await.unwrap()).await;
        assert_eq!(event.version, head);
        assert_eq!(matches!(event.event, Some(Event::Snapshot(_))), snapshot, "since {since}");
    }
    sqlx::query("update config_changes set at = now() - interval '8 days'").execute(world.db()).await.unwrap();
    changes::prune(world.db()).await.unwrap();
    for (since, snapshot) in [(head, false), (head - 1, true)] {
        let event = next(&mut watch(&world, &edge, since).await.unwrap()).await;
        assert_eq!(matches!(event.event, Some(Event::Snapshot(_))), snapshot, "since {since}, pruned");
    }
    world.end().await;
}

#[tokio::test]
async fn secrets_go_to_origins_only() {
    let world = World::start().await;
    let provider = world.provider("studio").await;
    let site = world.create_site(&provider, "films", &[]).await;
    let (_, credential) = world.call(Some(&provider), "POST", "s3-credentials", json!({})).await;
    let (origin, edge) = (world.node(NodeRole::Origin).await, world.node(NodeRole::Edge).await);
    let mut at_origin = Installation::default();
    let mut at_edge = Installation::default();
    let (mut to_origin, mut to_edge) =
        (watch(&world, &origin, 0).await.unwrap(), watch(&world, &edge, 0).await.unwrap());
    at_origin.apply(next(&mut to_origin).await);
    at_edge.apply(next(&mut to_edge).await);
    // The second site comes as a change.
    world.create_site(&provider, "songs", &[]).await;
    follow(&mut to_origin, &mut at_origin, |now| now.sites.len() == 2).await;
    follow(&mut to_edge, &mut at_edge, |now| now.sites.len() == 2).await;

    for site in at_origin.sites.values() {
        assert_eq!((site.signing_seed.len(), site.wrapping_key.len(), site.public_key.len()), (32, 32, 32));
    }
    for site in at_edge.sites.values() {
        assert_eq!((site.signing_seed.len(), site.wrapping_key.len(), site.public_key.len()), (0, 0, 32));
    }
    let id = credential["access_key_id"].as_str().unwrap();
    let known = &at_origin.s3_credentials[id];
    assert_eq!(known.secret_access_key, credential["secret_access_key"].as_str().unwrap());
    assert_eq!(known.site_ids.len(), 2);
    assert!(known.site_ids.contains(&site["id"].as_str().unwrap().to_owned()));
    assert!(at_edge.s3_credentials.is_empty());

    let path = format!("s3-credentials/{id}");
    assert_eq!(world.call(Some(&provider), "DELETE", &path, Value::Null).await.0, 204);
    follow(&mut to_origin, &mut at_origin, |now| now.s3_credentials.is_empty()).await;
    world.end().await;
}

#[tokio::test]
async fn a_removed_node_hears_no_more() {
    let world = World::start().await;
    let (edge, other) = (world.node(NodeRole::Edge).await, world.node(NodeRole::Edge).await);
    let (mut events, mut others) = (watch(&world, &edge, 0).await.unwrap(), watch(&world, &other, 0).await.unwrap());
    let mut installation = Installation::default();
    installation.apply(next(&mut others).await);
    next(&mut events).await;
    assert_eq!(world.admin("DELETE", &format!("nodes/{}", edge.node_id), Value::Null).await.0, 204);
    follow(&mut others, &mut installation, |now| now.nodes.len() == 1).await;
    let refusal = loop {
        match events.next().await.expect("a last word") {
            Ok(_) => {}
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal.code(), Code::PermissionDenied);
    assert!(events.next().await.is_none());
    assert_eq!(watch(&world, &edge, 0).await.err().unwrap().code(), Code::PermissionDenied);
    world.end().await;
}

#[tokio::test]
async fn silence_is_broken_by_heartbeats_and_ended_by_shutdown() {
    let world = World::start().await;
    let edge = world.node(NodeRole::Edge).await;
    let mut events = watch(&world, &edge, 0).await.unwrap();
    let version = next(&mut events).await.version;
    tokio::time::pause();
    let heartbeat = events.next().await.unwrap().unwrap();
    tokio::time::resume();
    assert_eq!(heartbeat, ConfigEvent { version, event: Some(Event::Change(Default::default())) });
    world.state.shutdown.cancel();
    assert!(events.next().await.is_none());
    world.end().await;
}

#[tokio::test]
async fn versions_become_visible_in_their_order() {
    let world = World::start().await;
    let before = changes::head(world.db()).await.unwrap();
    let creations = (0..10).map(|index| {
        let new = crate::api::NewSite { name: format!("site-{index}"), ..Default::default() };
        let world = &world;
        async move { world.admin("POST", "sites", serde_json::to_value(new).unwrap()).await.0 }
    });
    assert!(futures::future::join_all(creations).await.into_iter().all(|status| status == 200));
    let versions: Vec<i64> =
        sqlx::query_scalar("select distinct version from config_changes where version > $1 order by version")
            .bind(before)
            .fetch_all(world.db())
            .await
            .unwrap();
    assert_eq!(versions, (before + 1..=before + 10).collect::<Vec<_>>());
    world.end().await;
}
