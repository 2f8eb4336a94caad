use serde_json::json;
use tonic::Code;
use umbel_wire::control::{Batch, Received, Served, usage_server::Usage as _};

use super::*;

/// 2030-01-31 15:00 UTC.
const HOUR: u64 = 1_896_102_000;

fn served(site: &str, path: &str, bytes: u64) -> Served {
    Served { hour: HOUR, site_id: site.into(), path: path.into(), status: 200, requests: 1, bytes }
}

fn received(ticket: u8, site: &str, issuer: &PeerIdentity, from_peer: bool, bytes: u64) -> Received {
    Received {
        at: HOUR + 1234,
        ticket_id: vec![ticket; 16].into(),
        issuer: issuer.node_id.clone(),
        receiver: vec![1; 32].into(),
        sender: if from_peer { vec![2; 32].into() } else { Default::default() },
        site_id: site.into(),
        path: "/film".into(),
        manifest_id: vec![3; 32].into(),
        bytes,
    }
}

async fn submit(world: &World, edge: &PeerIdentity, batch: Batch) -> Result<u64, tonic::Status> {
    Ok(world.state.submit(by(edge, batch)).await?.into_inner().last_applied)
}

async fn totals(world: &World) -> (i64, i64, i64) {
    let (status, report) = world.admin("GET", "usage?by=account", Value::Null).await;
    assert_eq!(status, 200, "{report}");
    let sum = |field: &str| report["rows"].as_array().unwrap().iter().map(|row| row[field].as_i64().unwrap()).sum();
    (sum("requests"), sum("edge_bytes"), sum("peer_bytes"))
}

#[tokio::test]
async fn a_batch_counts_exactly_once() {
    let world = World::start().await;
    let site = world.create_site(&world.admin, "films", &[]).await["id"].as_str().unwrap().to_owned();
    let edge = world.node(NodeRole::Edge).await;
    let batch =
        |number| Batch { number, served: vec![served(&site, "/a", 10), served(&site, "/a", 5)], received: vec![] };
    assert_eq!(submit(&world, &edge, batch(1)).await.unwrap(), 1);
    assert_eq!(submit(&world, &edge, batch(1)).await.unwrap(), 1);
    assert_eq!(totals(&world).await, (2, 15, 0));

    let gap = submit(&world, &edge, batch(3)).await.unwrap_err();
    assert_eq!(gap.code(), Code::FailedPrecondition);
    assert_eq!(gap.metadata().get("umbel-last-applied").unwrap(), "1");
    assert_eq!(totals(&world).await, (2, 15, 0));

    let copies = futures::future::join_all((0..8).map(|_| submit(&world, &edge, batch(2)))).await;
    assert!(copies.into_iter().all(|outcome| outcome.unwrap() == 2));
    assert_eq!(totals(&world).await, (4, 30, 0));
    assert_eq!(submit(&world, &edge, batch(1)).await.unwrap(), 2);
    assert_eq!(submit(&world, &edge, batch(0)).await.unwrap_err().code(), Code::InvalidArgument);

    let origin = world.node(NodeRole::Origin).await;
    assert_eq!(submit(&world, &origin, batch(1)).await.unwrap_err().code(), Code::PermissionDenied);
    world.end().await;
}

#[tokio::test]
async fn receipts_count_by_their_highest_whichever_way_they_come() {
    let world = World::start().await;
    let site = world.create_site(&world.admin, "films", &[]).await["id"].as_str().unwrap().to_owned();
    let (one, two) = (world.node(NodeRole::Edge).await, world.node(NodeRole::Edge).await);
    let batch = |number, received| Batch { number, served: vec![], received };
    let to_edge = |bytes| received(1, &site, &one, false, bytes);
    let to_peer = |bytes| received(2, &site, &one, true, bytes);
    submit(&world, &one, batch(1, vec![to_edge(100), to_peer(50), to_edge(70)])).await.unwrap();
    assert_eq!(totals(&world).await, (2, 100, 50));
    // Later and through another edge: only what is new counts.
    submit(&world, &two, batch(1, vec![to_peer(80), to_edge(100)])).await.unwrap();
    assert_eq!(totals(&world).await, (2, 100, 80));
    // Late: an older one.
    submit(&world, &one, batch(2, vec![to_peer(60), to_edge(0)])).await.unwrap();
    assert_eq!(totals(&world).await, (2, 100, 80));

    let (_, by_edge) = world.admin("GET", "usage?by=edge", Value::Null).await;
    assert_eq!(by_edge["rows"][0]["key"], one.node_id.as_str());
    assert_eq!(by_edge["rows"].as_array().unwrap().len(), 1);
    world.end().await;
}

#[tokio::test]
async fn edges_that_bring_the_same_receipts_at_once_do_not_get_in_each_others_way() {
    let world = World::start().await;
    let site = world.create_site(&world.admin, "films", &[]).await["id"].as_str().unwrap().to_owned();
    let mut edges = Vec::new();
    for _ in 0..4 {
        edges.push(world.node(NodeRole::Edge).await);
    }
    let issuer = edges[0].clone();
    let submissions = edges.iter().enumerate().map(|(index, edge)| {
        let step = u64::try_from(index).unwrap() + 1;
        // Each in another order and with another level per ticket; the highest is 400.
        let mut receipts: Vec<Received> =
            (0..200).map(|ticket| received(ticket, &site, &issuer, ticket % 2 == 0, step * 100)).collect();
        if index % 2 == 0 {
            receipts.reverse();
        }
        submit(&world, edge, Batch { number: 1, served: vec![], received: receipts })
    });
    for outcome in futures::future::join_all(submissions).await {
        outcome.unwrap();
    }
    assert_eq!(totals(&world).await, (200, 100 * 400, 100 * 400));
    world.end().await;
}

#[tokio::test]
async fn what_is_malformed_is_left_out_and_stops_nothing() {
    let world = World::start().await;
    let site = world.create_site(&world.admin, "films", &[]).await["id"].as_str().unwrap().to_owned();
    let edge = world.node(NodeRole::Edge).await;
    let good = served(&site, "/a", 1);
    let long = format!("/{}", "\u{10ffff}x".repeat(1000));
    let odd_served = vec![
        good.clone(),
        Served { path: "/a\0b".into(), ..good.clone() },
        Served { path: long, ..good.clone() },
        Served { path: "/".repeat(1 << 20), ..good.clone() },
        Served { site_id: "nonsense".into(), ..good.clone() },
        Served { bytes: u64::MAX, ..good.clone() },
        Served { hour: u64::MAX, ..good.clone() },
        Served { site_id: uuid::Uuid::nil().to_string(), ..good.clone() },
    ];
    let receipt = received(1, &site, &edge, true, 1);
    let odd_received = vec![
        receipt.clone(),
        Received { ticket_id: vec![1; 15].into(), ..receipt.clone() },
        Received { ticket_id: vec![2; 16].into(), receiver: vec![1; 3].into(), ..receipt.clone() },
        Received { ticket_id: vec![3; 16].into(), issuer: "nonsense".into(), ..receipt.clone() },
    ];
    let batch = Batch { number: 1, served: odd_served, received: odd_received };
    assert_eq!(submit(&world, &edge, batch).await.unwrap(), 1);
    // /a, /a?b, the long path, the unknown site; and one receipt.
    assert_eq!(totals(&world).await, (5, 4, 1));
    world.end().await;
}

#[tokio::test]
async fn reports_sum_up_and_show_providers_their_own() {
    let world = World::start().await;
    let (ada, bob) = (world.provider("ada").await, world.provider("bob").await);
    let films = world.create_site(&ada, "films", &[]).await["id"].as_str().unwrap().to_owned();
    let songs = world.create_site(&bob, "songs", &[]).await["id"].as_str().unwrap().to_owned();
    let edge = world.node(NodeRole::Edge).await;
    let later = Served { hour: HOUR + 3600, ..served(&films, "/a", 7) };
    let batch = Batch {
        number: 1,
        served: vec![served(&films, "/a", 10), served(&films, "/b", 20), served(&songs, "/a", 40), later],
        received: vec![received(1, &films, &edge, true, 100), received(2, &films, &edge, false, 200)],
    };
    submit(&world, &edge, batch).await.unwrap();

    let row = |key: &str, path: &str, requests: i64, edge_bytes: i64, peer_bytes: i64| {
        json!({ "key": key, "path": path, "requests": requests, "edge_bytes": edge_bytes,
            "peer_bytes": peer_bytes, "total_bytes": edge_bytes + peer_bytes })
    };
    let first = "2030-01-31T15:00:00Z";
    let cases = [
        ("by=site", vec![row("films", "", 5, 237, 100), row("songs", "", 1, 40, 0)]),
        ("by=account", vec![row("ada", "", 5, 237, 100), row("bob", "", 1, 40, 0)]),
        ("by=edge", vec![row(&edge.node_id, "", 6, 277, 100)]),
        ("by=hour", vec![row(first, "", 5, 270, 100), row("2030-01-31T16:00:00Z", "", 1, 7, 0)]),
        (
            "by=object",
            vec![
                row("films", "/a", 2, 17, 0),
                row("films", "/b", 1, 20, 0),
                row("films", "/film", 2, 200, 100),
                row("songs", "/a", 1, 40, 0),
            ],
        ),
        ("by=hour&from=2030-01-31T16:00:00Z", vec![row("2030-01-31T16:00:00Z", "", 1, 7, 0)]),
        (
            "by=site&from=2030-01-31&to=2030-01-31T16:00:00Z",
            vec![row("films", "", 4, 230, 100), row("songs", "", 1, 40, 0)],
        ),
        ("by=site&to=2030-01-31", vec![]),
        ("by=hour&from=2030-01-31T16:30:00.5Z", vec![row("2030-01-31T16:00:00Z", "", 1, 7, 0)]),
        (
            "by=site&from=2030-01-31T15:59:59Z&to=2030-01-31T16:59:00Z",
            vec![row("films", "", 4, 230, 100), row("songs", "", 1, 40, 0)],
        ),
    ];
    for (query, expected) in cases {
        let (status, report) = world.admin("GET", &format!("usage?{query}"), Value::Null).await;
        assert_eq!((status, &report["rows"]), (200, &json!(expected)), "{query}");
    }
    let (_, own) = world.call(Some(&bob), "GET", "usage?by=site", Value::Null).await;
    assert_eq!(own["rows"], json!([row("songs", "", 1, 40, 0)]));
    let (_, cut) = world.admin("GET", "usage?by=object&limit=2", Value::Null).await;
    assert_eq!((cut["rows"].as_array().unwrap().len(), &cut["truncated"]), (2, &json!(true)));
    for query in [
        "",
        "?by=moon",
        "?by=site&from=yesterday",
        "?by=site&from=2030-02-01&to=2030-01-31",
        "?by=site&from=2030-01-31&to=2030-01-31",
        "?by=site&typo=1",
    ] {
        assert_eq!(world.admin("GET", &format!("usage{query}"), Value::Null).await.0, 400, "{query}");
    }

    // What was used is owed after the site is gone, and a new site of that name does not inherit it.
    assert_eq!(world.call(Some(&ada), "DELETE", "sites/films", Value::Null).await.0, 204);
    assert_eq!(totals(&world).await, (6, 277, 100));
    world.end().await;
}
