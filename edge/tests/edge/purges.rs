//! What was purged is not served any more, as soon as an edge says that it has applied the purge.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::body::Body;
use http::{Response, StatusCode};
use reqwest::Client;
use tempfile::TempDir;
use tokio::sync::watch;
use umbel_edge::Edge;
use umbel_wire::control::Purge;

use crate::{
    network::{Network, PULLED, SITE, content},
    readers::{field, get},
};

struct Place {
    network: Network,
    edge: Edge,
    state: TempDir,
    client: Client,
}

impl Place {
    async fn new() -> Self {
        let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
        let edge = network.edge("e1", state.path()).await;
        let client = network.client(&edge, true);
        Self { network, edge, state, client }
    }

    /// Each answer of the provider's server is another one; `length` bytes and its number.
    fn provides_numbers(&self, length: usize) {
        let (count, filling) = (AtomicUsize::new(0), content(length));
        self.network.origin.provide(move |request| {
            let path = request.uri().path().to_owned();
            let mut body = filling.clone();
            body.extend(count.fetch_add(1, Ordering::SeqCst).to_string().bytes());
            async move {
                Response::builder()
                    .header("cache-control", "max-age=600")
                    .header("vary", "accept-language")
                    .header("surrogate-key", format!("all {}", &path[1..]))
                    .header("cache-tag", "a tag,other")
                    .body(Body::from(body))
                    .unwrap()
            }
        });
    }

    async fn read(&self, url: &str, language: &str) -> (String, Vec<u8>) {
        let response = get(&self.client, url, &[("accept-language", language)]).await;
        let status = field(&response, "cache-status").to_owned();
        (status, response.bytes().await.unwrap().to_vec())
    }

    /// Whether a hit, for all that was purged and for what was not.
    async fn is_hit(&self, path: &str, language: &str) -> bool {
        self.read(&format!("https://pulled.test{path}"), language).await.0.contains("hit")
    }

    async fn purge(&self, purge: Purge) -> u64 {
        self.network.purge(&[&self.edge], purge).await
    }
}

fn of(site: &str) -> Purge {
    Purge { site_id: site.into(), ..Purge::default() }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

async fn check(length: usize, purge: Purge, expected: [bool; 3]) {
    let place = Place::new().await;
    place.provides_numbers(length);
    let paths = ["/a/one", "/a/two?q", "/b"];
    for path in paths {
        for language in ["de", "en"] {
            assert!(!place.is_hit(path, language).await && place.is_hit(path, language).await);
        }
    }
    place.purge(purge.clone()).await;
    for (path, purged) in paths.into_iter().zip(expected) {
        for language in ["de", "en"] {
            assert_eq!(place.is_hit(path, language).await, !purged, "{path} {purge:?}");
            assert!(place.is_hit(path, language).await, "stored again: {path} {purge:?}");
        }
    }
    place.edge.stop().await;
}

#[tokio::test]
async fn what_is_named_is_asked_for_again_and_nothing_else() {
    check(10, Purge { targets: texts(&["/a/two?q", "/b?"]), ..of(PULLED) }, [false, true, false]).await;
    check(300_000, Purge { prefixes: texts(&["/a/", "/bb"]), ..of(PULLED) }, [true, true, false]).await;
    check(10, Purge { keys: texts(&["b", "a/one", "c"]), ..of(PULLED) }, [true, false, true]).await;
    check(10, Purge { keys: texts(&["a tag"]), ..of(PULLED) }, [true; 3]).await;
    check(10, Purge { everything: true, ..of(PULLED) }, [true; 3]).await;
    check(10, Purge { everything: true, ..of(SITE) }, [false; 3]).await;
}

#[tokio::test]
async fn soft_is_validated_and_hard_is_not_served_even_when_nobody_answers() {
    let place = Place::new().await;
    let version = place.network.purge(&[&place.edge], Purge { keys: texts(&["x"]), ..of(PULLED) }).await;
    place.network.origin.provide(|request| async move {
        let validates = request.headers().contains_key("if-none-match");
        Response::builder()
            .status(if validates { 304 } else { 200 })
            .header("cache-control", "max-age=600")
            .header("etag", "\"t\"")
            .body(if validates { Body::empty() } else { Body::from("text") })
            .unwrap()
    });
    let url = "https://pulled.test/x";
    let status = async || place.read(url, "").await.0;
    assert!(status().await.contains("uri-miss"));
    let asked = place.network.origin.passed_on.lock().unwrap().last().unwrap().2.clone();
    assert_eq!(asked["umbel-version"], version.to_string());
    place.purge(Purge { everything: true, soft: true, ..of(PULLED) }).await;
    let said = status().await;
    assert!(said.contains("fwd=stale") && said.contains("fwd-status=304"), "{said}");
    assert!(status().await.contains("hit"));
    place.purge(Purge { everything: true, soft: true, ..of(PULLED) }).await;
    place.network.origin.provide(|_| async {
        Response::builder().status(502).header("umbel-failed", "unreachable").body(Body::empty()).unwrap()
    });
    assert_eq!(place.read(url, "").await.1, b"text", "stale, and better than nothing");
    place.purge(Purge { everything: true, ..of(PULLED) }).await;
    assert_eq!(get(&place.client, url, &[]).await.status(), StatusCode::BAD_GATEWAY);
    place.edge.stop().await;
}

#[tokio::test]
async fn an_answer_to_a_question_of_before_the_purge_is_of_before_the_purge() {
    let place = Place::new().await;
    let (gate, asked) = (watch::Sender::new(false), Arc::new(watch::Sender::new(0)));
    let (opens, counts) = (gate.clone(), asked.clone());
    place.network.origin.provide(move |_| {
        let (mut open, number) = (opens.subscribe(), *counts.borrow() + 1);
        counts.send_replace(number);
        async move {
            if number == 1 {
                open.wait_for(|open| *open).await.unwrap();
            }
            Response::builder().header("cache-control", "max-age=600").body(Body::from(number.to_string())).unwrap()
        }
    });
    let url = "https://pulled.test/x";
    let purged = async {
        asked.subscribe().wait_for(|asked| *asked == 1).await.unwrap();
        place.purge(Purge { targets: texts(&["/x"]), ..of(PULLED) }).await;
        gate.send_replace(true);
    };
    let ((_, first), ()) = futures::join!(place.read(url, ""), purged);
    assert_eq!(first, b"1", "who asked before");
    assert_eq!(place.read(url, "").await.1, b"2");
    let (status, third) = place.read(url, "").await;
    assert!(status.contains("hit") && third == b"2", "{status}");
    place.edge.stop().await;
}

#[tokio::test]
async fn the_next_reader_of_an_uploaded_site_gets_the_current_version() {
    let place = Place::new().await;
    let origin = &place.network.origin;
    let [purged, other] = ["https://docs.test/a/x", "https://docs.test/b"];
    let text = async |url: &str| String::from_utf8(place.read(url, "").await.1).unwrap();
    for (number, purge) in [
        Purge { targets: texts(&["/a/x"]), ..of(SITE) },
        Purge { prefixes: texts(&["/a"]), soft: true, ..of(SITE) },
        Purge { keys: texts(&["k2"]), ..of(SITE) },
    ]
    .into_iter()
    .enumerate()
    {
        let next = format!("version {}", number + 1);
        if number == 0 {
            origin.put(SITE, "/a/x", b"version 0", &[("surrogate-key", "k1 k2")]);
            origin.put(SITE, "/b", b"other", &[]);
        }
        let (before, rest) = (text(purged).await, text(other).await);
        assert_eq!((before, rest), (format!("version {number}"), "other".into()));
        origin.put(SITE, "/a/x", next.as_bytes(), &[("surrogate-key", "k1 k2")]);
        assert_eq!(text(purged).await, format!("version {number}"), "for a minute");
        let resolved = origin.resolves.load(Ordering::SeqCst);
        let version = place.purge(purge.clone()).await;
        assert_eq!(text(other).await, "other");
        assert_eq!(origin.resolves.load(Ordering::SeqCst), resolved, "nobody asks for others: {purge:?}");
        assert_eq!(text(purged).await, next, "{purge:?}");
        assert_eq!(origin.resolved_under.load(Ordering::SeqCst), version);
    }
    place.edge.stop().await;
}

#[tokio::test]
async fn what_was_purged_while_the_edge_was_away_is_not_served_after_its_restart() {
    let Place { mut network, edge, state, client } = Place::new().await;
    for path in ["/hard", "/soft", "/untouched"] {
        network.origin.put(SITE, path, b"text", &[]);
        assert_eq!(get(&client, &format!("https://docs.test{path}"), &[]).await.status(), StatusCode::OK);
    }
    edge.stop().await;
    network.purge(&[], Purge { targets: texts(&["/hard"]), ..of(SITE) }).await;
    network.purge(&[], Purge { targets: texts(&["/soft"]), soft: true, ..of(SITE) }).await;
    network.stop_origin().await;
    let edge = network.edge("e1", state.path()).await;
    let client = network.client(&edge, true);
    for (path, expected) in [("/hard", 503), ("/soft", 200), ("/untouched", 200)] {
        assert_eq!(get(&client, &format!("https://docs.test{path}"), &[]).await.status(), expected, "{path}");
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_after_a_purge_does_not_wait_for_a_question_of_before() {
    let place = Place::new().await;
    let origin = &place.network.origin;
    origin.put(SITE, "/x", b"text", &[]);
    let asked = async |count| {
        while origin.resolves.load(Ordering::SeqCst) < count {
            tokio::task::yield_now().await;
        }
    };
    origin.slow.send_replace(true);
    let after = async {
        asked(1).await;
        place.purge(Purge { everything: true, ..of(SITE) }).await;
        let second = async {
            asked(2).await;
            origin.slow.send_replace(false);
        };
        futures::join!(get(&place.client, "https://docs.test/x", &[]), second).0
    };
    let (before, after) = futures::join!(get(&place.client, "https://docs.test/x", &[]), after);
    assert_eq!((before.status(), after.status()), (StatusCode::OK, StatusCode::OK));
    place.edge.stop().await;
}
