//! What is lost in the middle of a download: sessions, links, connections, readers.

use std::sync::{Arc, atomic::Ordering};

use futures::TryStreamExt;
use umbel_agent::{Agent, Download, GetError};

use crate::{
    CHUNK, Installed, PATIENCE, check,
    edge::{Object, Running},
    get, install, reported, request,
    strangers::{Kind, Stranger},
};

/// An edge that serves nothing yet and introduces a stranger who holds everything.
async fn meeting(kind: Kind, chunks: usize) -> (Running, Arc<Object>, Stranger, Installed) {
    let edge = Running::start().await;
    let object = edge.publish("/large", chunks * CHUNK);
    let stranger = introduce(&edge, kind, &[&object]).await;
    let installed = install(&edge, 1).await;
    (edge, object, stranger, installed)
}

async fn introduce(edge: &Running, kind: Kind, objects: &[&Arc<Object>]) -> Stranger {
    let stranger = Stranger::start(kind, objects.iter().map(|object| (*object).clone()).collect()).await;
    *edge.edge.0.stranger.lock().unwrap() = Some(stranger.address());
    close_gate(edge);
    stranger
}

fn close_gate(edge: &Running) {
    edge.edge.0.allowance.forget_permits(usize::MAX >> 8);
}

fn open_gate(edge: &Running) {
    edge.edge.0.allowance.add_permits(1000);
}

async fn whole(download: Download) -> Result<Vec<u8>, GetError> {
    let chunks: Vec<_> = download.into_stream().try_collect().await?;
    Ok(chunks.concat())
}

async fn end(edge: Running, agent: Agent, stranger: Stranger) {
    agent.close().await;
    stranger.stop().await;
    edge.stop().await;
}

/// A download of `/large` that has 13 chunks and gets no more until the gate is open.
async fn in_mid_download(edge: &Running) -> (Installed, Download) {
    close_gate(edge);
    edge.edge.0.allowance.add_permits(13);
    let installed = install(edge, 1).await;
    let download = installed.agent.get(request(edge, "/large")).await.unwrap();
    let mut progress = download.progress();
    let here = progress.wait_for(|progress| progress.done() == 13 * CHUNK as u64);
    tokio::time::timeout(PATIENCE, here).await.unwrap().unwrap();
    (installed, download)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_forgets_sessions_in_mid_download() {
    let edge = Running::start().await;
    let object = edge.publish("/large", 40 * CHUNK);
    let (installed, download) = in_mid_download(&edge).await;
    edge.forget_sessions();
    open_gate(&edge);
    // The download has to open the version again by itself.
    let bytes = tokio::time::timeout(PATIENCE, whole(download)).await.expect("in time").unwrap();
    assert!(bytes == object.plain);
    reported(&installed.agent).await;
    assert_eq!(edge.received(), (object.plain.len() as u64, 0));
    installed.agent.close().await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_peer_is_dialled_again() {
    let (edge, object, stranger, installed) = meeting(Kind::HangsUpOnce, 24).await;
    let opening = async {
        stranger.was_asked(|asked| asked.connections > 1 && asked.chunks > 1).await;
        open_gate(&edge);
    };
    tokio::join!(check(&edge, &installed.agent, &object, "/large"), opening);
    reported(&installed.agent).await;
    let (by_edge, by_peers) = edge.received();
    assert_eq!(by_edge + by_peers, object.plain.len() as u64);
    assert!(by_peers > 0, "the peer that came back helped");
    assert!(edge.edge.0.complaints.lock().unwrap().is_empty());
    end(edge, installed.agent, stranger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_forgot_the_connection_is_dialled_anew_without_a_complaint() {
    let edge = Running::start().await;
    let (object, other) = (edge.publish("/large", 24 * CHUNK), edge.publish("/other", 24 * CHUNK));
    let stranger = introduce(&edge, Kind::ForgetsOnce, &[&object, &other]).await;
    let installed = install(&edge, 1).await;
    let opening = async {
        stranger.was_asked(|asked| asked.chunks > 0).await;
        open_gate(&edge);
    };
    tokio::join!(check(&edge, &installed.agent, &object, "/large"), opening);
    close_gate(&edge);
    let opening = async {
        stranger.was_asked(|asked| asked.connections == 2 && asked.streams == 3).await;
        open_gate(&edge);
    };
    tokio::join!(check(&edge, &installed.agent, &other, "/other"), opening);
    assert!(edge.edge.0.complaints.lock().unwrap().is_empty());
    end(edge, installed.agent, stranger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_at_its_tickets_limit_is_left_without_a_complaint() {
    let (edge, object, stranger, installed) = meeting(Kind::Honest, 24).await;
    let limit = 2 * CHUNK as u64;
    *edge.edge.0.peer_limit.lock().unwrap() = Some(limit);
    let opening = async {
        stranger.was_asked(|asked| asked.chunks >= 2).await;
        open_gate(&edge);
    };
    tokio::join!(check(&edge, &installed.agent, &object, "/large"), opening);
    reported(&installed.agent).await;
    let (by_edge, by_peers) = edge.received();
    assert_eq!(by_edge + by_peers, object.plain.len() as u64, "no receipt is over the limit, so none is lost");
    assert!(by_peers <= limit);
    assert!(edge.edge.0.complaints.lock().unwrap().is_empty());
    end(edge, installed.agent, stranger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_follows_a_dropped_one_meets_the_peers_too() {
    let (edge, object, stranger, installed) = meeting(Kind::Honest, 60).await;
    // The stranger keeps the first download busy, but cannot end it: half of the chunks are the edge's to bring.
    let download = installed.agent.get(request(&edge, "/large")).await.unwrap();
    stranger.was_asked(|asked| asked.chunks > 0).await;
    drop(download);
    let opening = async {
        stranger.was_asked(|asked| asked.streams > 1).await;
        open_gate(&edge);
    };
    let (bytes, ()) = tokio::join!(get(&installed.agent, request(&edge, "/large")), opening);
    assert!(bytes.unwrap() == object.plain);
    end(edge, installed.agent, stranger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_does_not_wait_for_an_edge_that_says_nothing() {
    let edge = Running::start().await;
    let object = edge.publish("/large", 3 * CHUNK);
    edge.edge.0.deaf.store(true, Ordering::Relaxed);
    let installed = install(&edge, 1).await;
    check(&edge, &installed.agent, &object, "/large").await;
    tokio::time::timeout(PATIENCE, installed.agent.close()).await.expect("in time");
    assert_eq!(edge.received(), (0, 0));
    // The next run owes it still, and reports it.
    edge.edge.0.deaf.store(false, Ordering::Relaxed);
    let again = Agent::start(crate::config(installed.state.path())).await.unwrap();
    tokio::time::timeout(PATIENCE, async {
        while again.flush_receipts().await > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("in time");
    assert_eq!(edge.received(), (object.plain.len() as u64, 0));
    again.close().await;
    edge.stop().await;
}

/// A download that has begun, and the code that it ends with once `fault` has come over it.
async fn ends_with(fault: impl FnOnce(&Running, &Installed), expected: &str) {
    let edge = Running::start().await;
    edge.publish("/large", 40 * CHUNK);
    let (installed, download) = in_mid_download(&edge).await;
    fault(&edge, &installed);
    open_gate(&edge);
    let error = tokio::time::timeout(PATIENCE, whole(download)).await.expect("in time").unwrap_err();
    assert_eq!(error.code(), expected, "{error}");
    installed.agent.close().await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_a_download_midway_has_a_name() {
    let revoked = |edge: &Running, _: &Installed| {
        edge.edge.0.revoked.store(true, Ordering::Relaxed);
        edge.forget_sessions();
    };
    ends_with(revoked, "membership").await;
    let no_folder = |_: &Running, installed: &Installed| {
        let chunks = installed.state.path().join("chunks");
        std::fs::remove_dir_all(&chunks).unwrap();
        std::fs::write(&chunks, "not a folder").unwrap();
    };
    ends_with(no_folder, "storage").await;
}
