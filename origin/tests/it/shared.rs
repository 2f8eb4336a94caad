//! Long bodies of pulled sites, which become versions while they pass.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use tonic::Code;
use umbel_service::tls::NodeRole;
use umbel_wire::control::{Policy, Purge};

use crate::{
    edges::{Edge, opened},
    pull::{PULLED, Shield, http},
    world::noise,
};

const LONG: usize = 3 * 1024 * 1024 + 7;

/// What the provider's server answers next, and how often it was asked.
#[derive(Clone, Default)]
struct Provider {
    fields: Arc<Mutex<Vec<(&'static str, &'static str)>>>,
    body: Arc<Mutex<Bytes>>,
    asked: Arc<AtomicUsize>,
}

impl Provider {
    fn has(&self, fields: &[(&'static str, &'static str)], body: &[u8]) {
        *self.fields.lock().unwrap() = fields.to_vec();
        *self.body.lock().unwrap() = Bytes::copy_from_slice(body);
    }

    fn answer(&self, request: &axum::extract::Request) -> Response<Body> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (fields, body) = (self.fields.lock().unwrap().clone(), self.body.lock().unwrap().clone());
        let mut response = Response::builder();
        for (name, value) in &fields {
            response = response.header(*name, *value);
        }
        let known = request.headers().get("if-none-match").and_then(|tags| tags.to_str().ok());
        if known.is_some() && fields.iter().any(|(name, value)| *name == "etag" && Some(*value) == known) {
            return response.status(304).body(Body::empty()).unwrap();
        }
        let piecewise = fields.iter().any(|(name, _)| *name == "x-piecewise");
        let parts: Vec<_> = body.chunks(100_000).map(Bytes::copy_from_slice).map(Ok::<_, std::io::Error>).collect();
        let body = if piecewise { Body::from_stream(futures::stream::iter(parts)) } else { Body::from(body) };
        response.body(body).unwrap()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn place() -> (Shield, Provider, Edge) {
    let (mut shield, provider) = (Shield::new().await, Provider::default());
    let answers = provider.clone();
    let address = shield
        .serve(move |request| {
            let answer = answers.answer(&request);
            async { answer }
        })
        .await;
    shield.pulls_from(&[http(address)]);
    let edge = Edge::of(&shield.world, shield.origin.internal, PULLED, NodeRole::Edge);
    (shield, provider, edge)
}

async fn read(shield: &Shield, path: &str) -> Vec<u8> {
    shield.get(path).await.into_body().collect().await.unwrap().to_bytes().to_vec()
}

#[tokio::test]
async fn what_one_reads_over_http_others_share() {
    let (shield, provider, edge) = place().await;
    for (path, name, fields) in [
        (
            "/a%20b.bin",
            "/a b.bin",
            &[("cache-control", "max-age=60"), ("content-type", "video/mp4"), ("surrogate-key", "k")] as &[_],
        ),
        ("/c?d=e", "/c?d=e", &[("cache-control", "max-age=60"), ("x-piecewise", "yes")]),
    ] {
        let body = noise(LONG, path.len() as u64);
        provider.has(fields, &body);
        let asked = provider.asked();
        assert!(read(&shield, path).await == body, "{path}");
        let reply = edge.resolve(name, &[], &[]).await.unwrap();
        assert!((1..=60_000).contains(&reply.fresh_ms), "{}", reply.fresh_ms);
        let (manifest, key) = opened(reply);
        assert_eq!((manifest.path().as_str(), manifest.field("cache-control")), (name, Some("max-age=60")));
        let is_video = path == "/a%20b.bin";
        assert_eq!(
            (manifest.media_type() == "video/mp4", manifest.field("surrogate-key")),
            (is_video, is_video.then_some("k"))
        );
        assert!(edge.plaintext(&manifest, &key).await == body, "{path}");
        assert!(edge.resolve(name, manifest.version_id().as_bytes(), &[]).await.unwrap().unchanged);
        let again = edge.resolve(name, &[], manifest.version_id().as_bytes()).await.unwrap();
        assert_eq!(opened(again).0, manifest);
        assert_eq!(provider.asked(), asked + 1, "{path}");
    }
    shield.stop().await;
}

#[tokio::test]
async fn a_version_is_as_fresh_as_its_response() {
    let (shield, provider, edge) = place().await;
    let soft = || shield.purge(Purge { everything: true, soft: true, ..Purge::default() });
    let (old, new) = (noise(LONG, 1), noise(LONG, 2));
    provider.has(&[("cache-control", "max-age=60"), ("etag", "\"1\"")], &old);
    assert!(read(&shield, "/x").await == old);
    let first = opened(edge.resolve("/x", &[], &[]).await.unwrap()).0;
    soft();
    assert_eq!(edge.resolve("/x", &[], &[]).await, Err(Code::FailedPrecondition), "stale");
    assert_eq!(provider.asked(), 1, "the next reader asks");
    // Validated, and still the same.
    assert!(read(&shield, "/x").await == old);
    assert_eq!(opened(edge.resolve("/x", &[], &[]).await.unwrap()).0, first);
    assert_eq!(provider.asked(), 2);
    provider.has(&[("cache-control", "max-age=60"), ("etag", "\"2\"")], &new);
    soft();
    assert!(read(&shield, "/x").await == new);
    let (second, key) = opened(edge.resolve("/x", first.version_id().as_bytes(), &[]).await.unwrap());
    assert!(edge.plaintext(&second, &key).await == new);
    assert_eq!(provider.asked(), 3);
    // The old one is there for whoever still reads it.
    assert_eq!(opened(edge.resolve("/x", &[], first.version_id().as_bytes()).await.unwrap()).0, first);
    shield.stop().await;
}

#[tokio::test]
async fn nothing_is_asked_for_an_agent_and_so_nothing_is_stored_for_readers() {
    let (shield, provider, edge) = place().await;
    let body = noise(LONG, 9);
    provider.has(&[("cache-control", "max-age=60")], &body);
    assert_eq!(edge.resolve("/x", &[], &[]).await, Err(Code::FailedPrecondition));
    assert_eq!(provider.asked(), 0, "a question without a reader's fields");
    assert!(read(&shield, "/x").await == body);
    assert!(edge.plaintext_of(edge.resolve("/x", &[], &[]).await.unwrap()).await == body);
    assert_eq!(provider.asked(), 1);
    shield.stop().await;
}

#[tokio::test]
async fn what_is_not_for_agents_is_no_version() {
    let (shield, provider, edge) = place().await;
    let long = noise(LONG, 3);
    for (path, fields, body) in [
        ("/short", &[("cache-control", "max-age=60")] as &[_], &long[..1000]),
        ("/private", &[("cache-control", "private")], &long),
        ("/cookie", &[("cache-control", "max-age=60"), ("set-cookie", "a=b")], &long),
    ] {
        provider.has(fields, body);
        assert!(read(&shield, path).await == body, "{path}");
        assert_eq!(edge.resolve(path, &[], &[]).await, Err(Code::FailedPrecondition), "{path}");
    }
    assert!(shield.world.files("blobs").is_empty(), "{:?}", shield.world.files("blobs"));
    shield.stop().await;
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_no_version() {
    let (shield, _, edge) = place().await;
    let mut shield = shield;
    let address = shield
        .raw(|_, mut stream| async move {
            if crate::pull::head(&mut stream).await.is_some() {
                let head = b"HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\ncache-control: max-age=60\r\n\r\n";
                let half = [head.as_slice(), &noise(LONG, 4)].concat();
                // Whoever reads it may have gone.
                drop(tokio::io::AsyncWriteExt::write_all(&mut stream, &half).await);
            }
        })
        .await;
    shield.pulls_from(&[http(address)]);
    shield.get("/x").await.into_body().collect().await.unwrap_err();
    assert_eq!(edge.resolve("/x", &[], &[]).await, Err(Code::FailedPrecondition));
    assert!(shield.world.files("objects").is_empty());
    shield.stop().await;
}

#[tokio::test]
async fn what_expired_is_swept() {
    let (shield, provider, edge) = place().await;
    let body = noise(LONG, 5);
    provider.has(&[("cache-control", "max-age=0"), ("etag", "\"1\"")], &body);
    assert!(read(&shield, "/x").await == body);
    provider.has(&[("cache-control", "max-age=60"), ("etag", "\"1\"")], &body);
    assert!(read(&shield, "/x").await == body);
    opened(edge.resolve("/x", &[], &[]).await.unwrap());
    // Expired, and then no object's any more; the origin of the test keeps nothing for long.
    for _ in 0..2 {
        shield.origin.sweep().await.unwrap();
    }
    assert!(shield.world.files("blobs").is_empty(), "{:?}", shield.world.files("blobs"));
    // It was confirmed, and is sealed anew when it is read.
    assert_eq!(edge.resolve("/x", &[], &[]).await, Err(Code::FailedPrecondition));
    assert_eq!(provider.asked(), 2);
    assert!(read(&shield, "/x").await == body);
    assert!(edge.plaintext_of(edge.resolve("/x", &[], &[]).await.unwrap()).await == body);
    assert_eq!(provider.asked(), 3);
    shield.stop().await;
}

#[tokio::test]
async fn what_was_purged_is_no_version_and_an_edge_that_knows_more_gets_none() {
    let (shield, provider, edge) = place().await;
    let bodies = [noise(LONG, 6), noise(LONG, 7)];
    provider.has(&[("cache-control", "max-age=60")], &bodies[0]);
    let known = shield.installation.borrow().version;
    assert!(read(&shield, "/x").await == bodies[0]);
    let (old, _) = opened(edge.resolve_under(known, "/x").await.unwrap());
    assert_eq!(edge.resolve_under(known + 1, "/x").await, Err(Code::FailedPrecondition), "there may have been a purge");
    assert_eq!(opened(edge.resolve_under(known, "/x").await.unwrap()).0, old);
    provider.has(&[("cache-control", "max-age=60")], &bodies[1]);
    let purged = shield.purge(Purge { targets: vec!["/x".into()], ..Purge::default() });
    assert_eq!(edge.resolve_under(purged, "/x").await, Err(Code::FailedPrecondition));
    assert!(read(&shield, "/x").await == bodies[1]);
    let (new, key) = opened(edge.resolve_under(purged, "/x").await.unwrap());
    assert!(edge.plaintext(&new, &key).await == bodies[1]);
    assert_eq!(provider.asked(), 2);
    shield.stop().await;
}

#[tokio::test]
async fn from_which_length_on_is_the_sites_policy() {
    let (shield, provider, edge) = place().await;
    let body = noise(300_000, 8);
    provider.has(&[("cache-control", "max-age=60")], &body);
    for (path, share_above, expected) in [("/a", 300_001, Err(Code::FailedPrecondition)), ("/b", 300_000, Ok(()))] {
        shield.installation.send_modify(|installation| {
            let site = Arc::make_mut(installation).sites.get_mut(PULLED).unwrap();
            site.policy = Some(Policy { share_above, ..Policy::default() });
        });
        assert!(read(&shield, path).await == body, "{share_above}");
        assert_eq!(edge.resolve(path, &[], &[]).await.map(drop), expected, "{share_above}");
    }
    shield.stop().await;
}
