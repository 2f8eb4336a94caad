//! Real agents over real QUIC and TLS on loopback, against a small edge made of the wire protocol alone.

#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself does")]

mod edge;
mod faults;
mod over_https;
mod restarts;
mod strangers;

use std::{collections::BTreeSet, path::Path, sync::atomic::Ordering, time::Duration};

use edge::{CHUNK, Object, Running};
use futures::{StreamExt, TryStreamExt, future::join_all};
use tempfile::TempDir;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use umbel_agent::{Agent, Config, Destination, GetError, GetRequest, Priority, StartError, State, client, service};

const PATIENCE: Duration = Duration::from_secs(60);

struct Installed {
    agent: Agent,
    id: [u8; 32],
    state: TempDir,
}

fn config(state: &Path) -> Config {
    Config { relay: false, ..Config::default_in(state).on_loopback() }
}

async fn install(edge: &Running, number: u8) -> Installed {
    let state = tempfile::tempdir().unwrap();
    let id = edge.enrol(state.path(), number);
    Installed { agent: Agent::start(config(state.path())).await.unwrap(), id, state }
}

fn request(edge: &Running, path: &str) -> GetRequest {
    GetRequest { url: edge.url(path), ..GetRequest::default() }
}

async fn get(agent: &Agent, request: GetRequest) -> Result<Vec<u8>, GetError> {
    let reading = async {
        let download = agent.get(request).await?;
        let chunks: Vec<_> = download.into_stream().try_collect().await?;
        Ok(chunks.concat())
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("in time")
}

async fn check(edge: &Running, agent: &Agent, object: &Object, path: &str) {
    let bytes = get(agent, request(edge, path)).await.unwrap();
    assert!(bytes == object.plain, "{path}: {} bytes of {}", bytes.len(), object.plain.len());
}

async fn reported(agent: &Agent) {
    assert_eq!(agent.flush_receipts().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_agent_gets_every_size_and_owes_every_byte_once() {
    let edge = Running::start().await;
    let installed = install(&edge, 1).await;
    let sizes = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK, 5 * CHUNK + 7];
    for (number, size) in sizes.into_iter().enumerate() {
        let path = format!("/size {number} \u{fc}");
        let object = edge.publish(&path, size);
        let url_path = format!("/size%20{number}%20%C3%BC");
        check(&edge, &installed.agent, &object, &url_path).await;
        // The second time everything is on disk.
        let download = installed.agent.get(request(&edge, &url_path)).await.unwrap();
        assert_eq!(download.progress().borrow().from_disk, size as u64);
    }
    reported(&installed.agent).await;
    let total: usize = sizes.iter().sum();
    assert_eq!(edge.received(), (total as u64, 0));
    assert!(
        edge.edge.0.served.lock().unwrap().values().all(|times| *times <= 3),
        "one for each object of several chunks"
    );
    installed.agent.close().await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_agents_share_the_load() {
    let edge = Running::start().await;
    let object = edge.publish("/large", 80 * CHUNK + 99);
    let agents = join_all((1..=4).map(|number| install(&edge, number))).await;
    edge.edge.0.allowance.forget_permits(usize::MAX >> 8);
    let fetching = join_all(agents.iter().map(|installed| check(&edge, &installed.agent, &object, "/large")));
    let (permits, mut joins) = (edge.edge.clone(), edge.edge.0.joins.subscribe());
    // The uplink is slow, as uplinks are, and opens when all are there.
    let uplink = AbortOnDropHandle::new(tokio::spawn(async move {
        joins.wait_for(|joins| *joins >= 4).await.unwrap();
        let mut pace = tokio::time::interval(Duration::from_millis(40));
        loop {
            pace.tick().await;
            permits.0.allowance.add_permits(1);
        }
    }));
    fetching.await;
    drop(uplink);
    let sent: u32 = edge.edge.0.served.lock().unwrap().values().sum();
    assert!(sent < 2 * 81, "the edge sent {sent} chunks of 81");
    for installed in agents {
        reported(&installed.agent).await;
        installed.agent.close().await;
    }
    let (by_edge, by_peers) = edge.received();
    assert_eq!(by_edge + by_peers, 4 * object.plain.len() as u64);
    assert!(by_peers > by_edge, "{by_peers} bytes by peers");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_verified_is_never_fetched_again() {
    let edge = Running::start().await;
    let object = edge.publish("/large", 40 * CHUNK);
    edge.edge.0.allowance.forget_permits(usize::MAX >> 8);
    edge.edge.0.allowance.add_permits(13);
    let first = install(&edge, 1).await;
    let download = first.agent.get(request(&edge, "/large")).await.unwrap();
    let mut progress = download.progress();
    let here = progress.wait_for(|progress| progress.done() == 13 * CHUNK as u64);
    tokio::time::timeout(PATIENCE, here).await.unwrap().unwrap();
    drop(download);
    first.agent.close().await;
    edge.edge.0.allowance.add_permits(1000);
    let again = Agent::start(config(first.state.path())).await.unwrap();
    check(&edge, &again, &object, "/large").await;
    reported(&again).await;
    let served = edge.edge.0.served.lock().unwrap().clone();
    let twice = served.values().filter(|times| **times > 1).count();
    // Chunks that were on their way when the first agent stopped were not verified yet; the edge held them back.
    assert_eq!((served.len(), twice), (40, 0));
    assert_eq!(edge.received(), (object.plain.len() as u64, 0));
    again.close().await;
    edge.stop().await;
}

fn contains(folder: &Path, needle: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return contains(&path, needle);
        }
        path.is_file() && std::fs::read(&path).unwrap().windows(needle.len()).any(|window| window == needle)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_folder_has_no_plaintext_and_no_key() {
    let edge = Running::start().await;
    let installed = install(&edge, 1).await;
    for (path, size) in [("/small", 5000), ("/large", 3 * CHUNK)] {
        let object = edge.publish(path, size);
        check(&edge, &installed.agent, &object, path).await;
        assert!(!contains(installed.state.path(), &object.plain[..32]), "plaintext");
        assert!(!contains(installed.state.path(), object.key.as_bytes()), "key");
        assert!(!contains(installed.state.path(), hex::encode(object.key.as_bytes()).as_bytes()), "key in hex");
        assert!(contains(installed.state.path(), object.manifest.id().as_bytes()), "the search works");
    }
    installed.agent.close().await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_after_close() {
    let edge = Running::start().await;
    let object = edge.publish("/large", 20 * CHUNK);
    let (one, two) = (install(&edge, 1).await, install(&edge, 2).await);
    tokio::join!(check(&edge, &one.agent, &object, "/large"), check(&edge, &two.agent, &object, "/large"));
    // Given up half way.
    edge.publish("/other", 50 * CHUNK);
    edge.edge.0.allowance.forget_permits(usize::MAX >> 8);
    let download = one.agent.get(request(&edge, "/other")).await.unwrap();
    drop(download);
    one.agent.close().await;
    two.agent.close().await;
    edge.stop().await;
    let runtime = tokio::runtime::Handle::current().metrics();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    // Connections of libraries end a moment after their handles.
    while runtime.num_alive_tasks() > 1 {
        assert!(tokio::time::Instant::now() < deadline, "{} tasks still run", runtime.num_alive_tasks());
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_clear() {
    let edge = Running::start().await;
    let installed = install(&edge, 1).await;
    let table = [
        ("https://127.0.0.1:1/../x", "bad_request"),
        ("http://127.0.0.1/x", "bad_request"),
        (&*edge.url("/nothing"), "not_found"),
    ];
    for (url, expected) in table {
        let error = get(&installed.agent, GetRequest { url: url.into(), ..GetRequest::default() }).await.unwrap_err();
        assert_eq!(error.code(), expected, "{url}: {error}");
    }
    installed.agent.close().await;
    // A membership that was bound to another agent's key.
    let foreign = tempfile::tempdir().unwrap();
    edge.enrol(foreign.path(), 2);
    std::fs::write(foreign.path().join("agent.key"), [3; 32]).unwrap();
    let thief = Agent::start(config(foreign.path())).await.unwrap();
    let error = get(&thief, request(&edge, "/nothing")).await.unwrap_err();
    assert_eq!(error.code(), "membership", "{error}");
    assert!(error.to_string().contains("bound to another key"), "{error}");
    thief.close().await;
    let nobody = tempfile::tempdir().unwrap();
    assert!(matches!(Agent::start(config(nobody.path())).await, Err(StartError::Identity(_))));
    edge.stop().await;
}

/// To the background service, as soon as it runs.
async fn connected(state: &Path) -> client::LocalClient {
    let connected = async {
        loop {
            match client::LocalClient::connect(state).await {
                Some(local) => return local,
                None => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, connected).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_serves_programs_on_this_machine() {
    let edge = Running::start().await;
    let state = tempfile::tempdir().unwrap();
    edge.enrol(state.path(), 1);
    let object = edge.publish("/large", 30 * CHUNK + 1);
    let shutdown = CancellationToken::new();
    let service = tokio::spawn(service::run(config(state.path()), shutdown.clone()));
    let local = connected(state.path()).await;
    let mut transfer =
        local.get(&GetRequest { priority: Priority::Streaming, ..request(&edge, "/large") }).await.unwrap();
    assert_eq!(
        (transfer.length(), transfer.media_type()),
        (Some(object.plain.len() as u64), "application/octet-stream")
    );
    let file = state.path().join("saved");
    transfer.save_to(Destination::prepare(&file).unwrap()).await.unwrap();
    assert!(std::fs::read(&file).unwrap() == object.plain);
    let mut progress = transfer.progress();
    let complete = progress.wait_for(|progress| progress.state == State::Complete);
    let complete = tokio::time::timeout(PATIENCE, complete).await.unwrap().unwrap().clone();
    assert_eq!((complete.from_edge, complete.done()), (complete.total, complete.total));
    transfer.close().await;
    let error = local.get(&request(&edge, "/nothing")).await.unwrap_err();
    assert_eq!(error.code(), "not_found");
    assert_eq!(local.flush_receipts().await.unwrap(), 0);
    assert_eq!(local.status().await.unwrap().from_edges, object.plain.len() as u64);
    assert_eq!(local.flush().await.unwrap(), 1);
    assert_eq!(local.status().await.unwrap().disk_used, 0);
    shutdown.cancel();
    service.await.unwrap().unwrap();
    assert_eq!(edge.received(), (object.plain.len() as u64, 0));
    // Without a service, a program is its own agent.
    let mut transfer = client::get(config(state.path()), request(&edge, "/large")).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(more) = transfer.next().await {
        bytes.extend_from_slice(&more.unwrap());
    }
    assert!(bytes == object.plain);
    transfer.close().await;
    assert_eq!(edge.received().0, 2 * object.plain.len() as u64, "evicted and fetched again: a new delivery");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_peer_costs_nothing_but_time() {
    for kind in [strangers::Kind::Corrupt, strangers::Kind::Garbage, strangers::Kind::Silent, strangers::Kind::HangsUp]
    {
        let edge = Running::start().await;
        let object = edge.publish("/large", 24 * CHUNK);
        let stranger = strangers::Stranger::start(kind, vec![object.clone()]).await;
        *edge.edge.0.stranger.lock().unwrap() = Some(stranger.address());
        let installed = install(&edge, 1).await;
        // The edge waits until the stranger was asked.
        edge.edge.0.allowance.forget_permits(usize::MAX >> 8);
        let opening = async {
            stranger.was_asked(|asked| asked.chunks > 0).await;
            edge.edge.0.allowance.add_permits(1000);
        };
        tokio::join!(check(&edge, &installed.agent, &object, "/large"), opening);
        reported(&installed.agent).await;
        assert_eq!(edge.received(), (object.plain.len() as u64, 0), "{kind:?}");
        installed.agent.close().await;
        let reasons: BTreeSet<i32> =
            edge.edge.0.complaints.lock().unwrap().iter().map(|complaint| complaint.reason).collect();
        assert!(kind.complaints().is_superset(&reasons), "{kind:?}: {reasons:?}");
        let certain = matches!(kind, strangers::Kind::Corrupt | strangers::Kind::Garbage);
        assert!(!certain || !reasons.is_empty(), "{kind:?} is reported");
        stranger.stop().await;
        edge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_tickets_are_refused_by_the_sender() {
    let edge = Running::start().await;
    let object = edge.publish("/large", 4 * CHUNK);
    let other = edge.publish("/other", 2 * CHUNK);
    let sender = install(&edge, 1).await;
    check(&edge, &sender.agent, &object, "/large").await;
    strangers::check_refusals(&edge, &sender.agent, sender.id, &object.manifest, &other.manifest).await;
    assert!(sender.agent.status().refused_tickets >= 6);
    sender.agent.close().await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_object_is_handed_out_at_once_and_ends_when_it_is_on_disk() {
    let edge = Running::start().await;
    edge.publish("/small", 100);
    edge.publish("/other", 100);
    let installed = install(&edge, 1).await;
    let download = installed.agent.get(request(&edge, "/small")).await.unwrap();
    let progress = download.progress();
    let parts: Vec<_> = download.into_stream().try_collect().await.unwrap();
    assert_eq!((parts.concat().len(), &progress.borrow().state), (100, &State::Complete));
    assert_eq!((progress.borrow().from_edge, installed.agent.status().from_edges), (100, 100));
    reported(&installed.agent).await;
    assert_eq!(edge.received(), (100, 0));
    // A disk that takes nothing: the reader has the bytes, and learns of it at the end; nothing is counted.
    let chunks = installed.state.path().join("chunks");
    std::fs::remove_dir_all(&chunks).unwrap();
    std::fs::write(&chunks, "not a folder").unwrap();
    let mut content = installed.agent.get(request(&edge, "/other")).await.unwrap().into_stream().boxed();
    assert_eq!(content.next().await.unwrap().unwrap().len(), 100);
    let error = content.next().await.unwrap().unwrap_err();
    assert_eq!(error.code(), "storage", "{error}");
    assert!(content.next().await.is_none());
    drop(content);
    assert_eq!((installed.agent.status().from_edges, installed.agent.status().receipts_owed), (100, 0));
    installed.agent.close().await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_ticket_has_few_places_and_little_time() {
    let edge = Running::start().await;
    let sender = install(&edge, 1).await;
    strangers::check_idlers(&sender.agent, sender.id).await;
    sender.agent.close().await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_receipts_breaks_the_protocol() {
    let edge = Running::start().await;
    let object = edge.publish("/large", 4 * CHUNK);
    let sender = install(&edge, 1).await;
    check(&edge, &sender.agent, &object, "/large").await;
    strangers::check_receipt_flood(&edge, &sender.agent, sender.id, &object.manifest).await;
    sender.agent.close().await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_not_known_yet_is_waited_for() {
    let edge = Running::start().await;
    let object = edge.publish("/large", 4 * CHUNK);
    edge.edge.0.other_signs.store(true, Ordering::Relaxed);
    let installed = install(&edge, 1).await;
    let mut opens = edge.edge.0.opens.subscribe();
    let telling = async {
        opens.wait_for(|opens| *opens > 0).await.unwrap();
        edge.tell_of_the_other().await;
    };
    tokio::join!(check(&edge, &installed.agent, &object, "/large"), telling);
    reported(&installed.agent).await;
    assert_eq!(edge.received(), (object.plain.len() as u64, 0));
    installed.agent.close().await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_nothing_and_wants_nothing_leaves() {
    let edge = Running::start().await;
    edge.publish("/large", 40 * CHUNK);
    edge.edge.0.allowance.forget_permits(usize::MAX >> 8);
    let installed = install(&edge, 1).await;
    let (mut joins, mut leaves) = (edge.edge.0.joins.subscribe(), edge.edge.0.leaves.subscribe());
    let download = installed.agent.get(request(&edge, "/large")).await.unwrap();
    joins.wait_for(|joins| *joins > 0).await.unwrap();
    drop(download);
    tokio::time::timeout(PATIENCE, leaves.wait_for(|leaves| *leaves > 0)).await.expect("in time").unwrap();
    installed.agent.close().await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_over_the_quota_is_refused() {
    let edge = Running::start().await;
    edge.publish("/large", 4 * CHUNK);
    let state = tempfile::tempdir().unwrap();
    edge.enrol(state.path(), 1);
    let agent = Agent::start(Config { disk_quota: 3 * CHUNK as u64, ..config(state.path()) }).await.unwrap();
    let error = get(&agent, request(&edge, "/large")).await.unwrap_err();
    assert_eq!(error.code(), "storage", "{error}");
    agent.close().await;
    edge.stop().await;
}
