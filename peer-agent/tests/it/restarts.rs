//! A background service that goes away while programs on this machine get content through it.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::{UnixListener, UnixStream},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use umbel_agent::{Config, GetRequest, Priority, Progress, State, client, client::Transfer, service};

use crate::{
    CHUNK, PATIENCE, connected,
    edge::{Object, Running},
};

/// Peers would only blur what came from where.
fn config(state: &Path) -> Config {
    Config { peers: false, ..Config::default_in(state) }
}

/// The beginning first: tests read it before the rest is there.
fn request(edge: &Running) -> GetRequest {
    GetRequest { priority: Priority::Streaming, ..crate::request(edge, "/large") }
}

struct Service {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), service::ServiceError>>,
}

impl Service {
    async fn start(state: &Path) -> Self {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(service::run(config(state), shutdown.clone()));
        connected(state).await;
        Self { shutdown, task }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("in time").unwrap().unwrap();
    }
}

async fn rest(transfer: &mut Transfer) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(more) = tokio::time::timeout(PATIENCE, transfer.next()).await.expect("in time") {
        bytes.extend_from_slice(&more.unwrap());
    }
    bytes
}

/// An edge that serves the first and 13 other chunks of its object at first, and then the rest.
async fn half_open() -> (Running, Arc<Object>) {
    let edge = Running::start().await;
    let object = edge.publish("/large", 40 * CHUNK + 1);
    edge.edge.0.allowance.forget_permits(usize::MAX >> 8);
    edge.edge.0.allowance.add_permits(13);
    edge.edge.0.first_is_free.store(true, Ordering::Relaxed);
    (edge, object)
}

/// The download through a service that is stopped in the middle, and what `meanwhile` starts then.
async fn stopped_midway<T>(meanwhile: impl AsyncFnOnce(&Path) -> T) -> (Running, Progress, T) {
    let (edge, object) = half_open().await;
    let state = tempfile::tempdir().unwrap();
    edge.enrol(state.path(), 1);
    let service = Service::start(state.path()).await;
    let mut transfer = client::get(config(state.path()), request(&edge)).await.unwrap();
    let mut progress = transfer.progress();
    let here = progress.wait_for(|progress| progress.done() >= 13 * CHUNK as u64);
    tokio::time::timeout(PATIENCE, here).await.unwrap().unwrap();
    let mut bytes = transfer.next().await.unwrap().unwrap().to_vec();
    service.stop().await;
    let kept = meanwhile(state.path()).await;
    edge.edge.0.allowance.add_permits(1000);
    bytes.extend(rest(&mut transfer).await);
    assert!(bytes == object.plain, "{} bytes of {}", bytes.len(), object.plain.len());
    let ended = progress.wait_for(|progress| progress.state == State::Complete);
    let last = tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap().clone();
    assert_eq!((last.done(), last.stall.as_deref()), (last.total, None));
    transfer.close().await;
    (edge, last, kept)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_goes_on_through_the_service_that_comes_back() {
    let (edge, last, service) = stopped_midway(async |state| Service::start(state).await).await;
    assert_eq!(last.from_disk, 0, "all of it came over the network");
    service.stop().await;
    assert_eq!(edge.received(), (40 * CHUNK as u64 + 1, 0), "and none of it twice");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_ends_by_itself_what_a_service_began() {
    let (edge, last, ()) = stopped_midway(async |_| ()).await;
    assert_eq!(last.from_disk, 0, "all of it came over the network");
    assert_eq!(edge.received(), (40 * CHUNK as u64 + 1, 0), "and none of it twice");
    edge.stop().await;
}

/// Passes on what the service at `service` says, but of each of the first connections only so many bytes.
async fn cut(socket: UnixListener, service: std::path::PathBuf, mut bytes: Vec<u64>) {
    loop {
        let (near, _) = socket.accept().await.unwrap();
        let far = UnixStream::connect(&service).await.unwrap();
        let ((near_in, mut near_out), (far_in, mut far_out)) = (near.into_split(), far.into_split());
        let limit = bytes.pop().unwrap_or(u64::MAX);
        let (mut up, mut down) = (near_in, tokio::io::AsyncReadExt::take(far_in, limit));
        let asked = AbortOnDropHandle::new(tokio::spawn(async move { tokio::io::copy(&mut up, &mut far_out).await }));
        let _gone = tokio::io::copy(&mut down, &mut near_out).await;
        drop(asked);
        let _gone = near_out.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_anywhere_cost_no_byte() {
    let edge = Running::start().await;
    let object = edge.publish("/large", 10 * CHUNK + 1);
    let (real, shown) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    edge.enrol(real.path(), 1);
    let service = Service::start(real.path()).await;
    let socket = UnixListener::bind(config(shown.path()).socket()).unwrap();
    let cuts = vec![400_000, 1, 70_000, 9, 100_000];
    let cutting = AbortOnDropHandle::new(tokio::spawn(cut(socket, config(real.path()).socket(), cuts)));
    let mut transfer = client::get(config(shown.path()), request(&edge)).await.unwrap();
    assert!(rest(&mut transfer).await == object.plain);
    transfer.close().await;
    drop(cutting);
    service.stop().await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_is_not_mixed_in() {
    let (edge, object) = half_open().await;
    let state = tempfile::tempdir().unwrap();
    edge.enrol(state.path(), 1);
    let service = Service::start(state.path()).await;
    let mut transfer = client::get(config(state.path()), request(&edge)).await.unwrap();
    let first = transfer.next().await.unwrap().unwrap();
    assert!(object.plain.starts_with(&first));
    service.stop().await;
    // The fake edge knows the newest version only.
    edge.publish("/large", 20 * CHUNK);
    edge.edge.0.allowance.add_permits(1000);
    let service = Service::start(state.path()).await;
    let reading = async {
        loop {
            match transfer.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error,
                None => panic!("a mixture"),
            }
        }
    };
    let error = tokio::time::timeout(PATIENCE + Duration::from_secs(1), reading).await.expect("in time");
    assert!(error.to_string().contains("replaced meanwhile"), "{error}");
    service.stop().await;
    edge.stop().await;
}
