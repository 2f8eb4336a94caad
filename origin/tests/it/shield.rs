//! The origin as a shared cache in front of a provider's server: what several edges want at once is one question, and whoever
//! waits for it does not wait for good.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use futures::future::join_all;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use umbel_service::{
    client,
    tls::{self, NodeRole},
};
use umbel_wire::control::{Pull, Purge};

use crate::pull::{Shield, head, http, said, text};

/// Far more than anything here takes; who waits so long waits for good.
const FOR_GOOD: Duration = Duration::from_secs(60);

/// What so many questions of each of two edges at once get: status and reason, or a broken connection.
async fn asked_by_two_edges(shield: &Shield, each: usize) -> Vec<Option<(u16, String)>> {
    let edges = [(); 2].map(|()| {
        let tls = tls::client(&shield.world.ca.pem, Some(shield.world.ca.certificate(NodeRole::Edge))).unwrap();
        client::streaming::<Body>(tls, true)
    });
    let questions = (0..2 * each).map(|number| {
        let request = shield.request("GET", "/cold").body(Body::empty()).unwrap();
        let asking = edges[number % 2].request(request);
        async {
            let answer = asking.await.ok()?;
            let said = (answer.status().as_u16(), said(&answer, "umbel-failed").to_owned());
            answer.into_body().collect().await.ok().map(|_| said)
        }
    });
    tokio::time::timeout(FOR_GOOD, join_all(questions)).await.expect("somebody waits for good")
}

fn answers(fields: &[(&'static str, &'static str)], body: &'static str) -> Response<Body> {
    let mut response = Response::builder();
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    response.body(Body::from(body)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_questions_of_two_edges_are_one() {
    let mut shield = Shield::new().await;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let address = shield
        .serve(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { answers(&[("cache-control", "max-age=60")], "one") }
        })
        .await;
    shield.pulls_from(&[http(address)]);
    for answer in asked_by_two_edges(&shield, 1000).await {
        assert_eq!(answer, Some((200, String::new())));
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
    shield.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_one_question_fails_nobody_waits_for_good() {
    let mut shield = Shield::new().await;
    let broken = Some((502, "broken"));
    let long = "HTTP/1.1 200 OK\r\ncontent-length: 90000\r\ncache-control: max-age=60\r\n\r\nhalf";
    let short = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ncache-control: max-age=60\r\n\r\nhalf";
    // What is sent before it stalls or closes, and what each gets: no answer, or one that breaks off (none). Who comes while a short one
    // is on its way has begun to read it.
    for (sent, stalls, expected) in [
        ("", true, vec![Some((504, "timeout"))]),
        ("", false, vec![broken]),
        ("HTTP/1.1 200 OK\r\ncontent-le", true, vec![Some((504, "timeout"))]),
        (long, true, vec![None]),
        (long, false, vec![None]),
        (short, true, vec![None]),
        (short, false, vec![broken, None]),
    ] {
        let address = shield
            .raw(move |_, mut stream| async move {
                if head(&mut stream).await.is_none() {
                    return;
                }
                stream.write_all(sent.as_bytes()).await.unwrap();
                if stalls {
                    std::future::pending::<()>().await;
                }
            })
            .await;
        let patience = Pull { first_byte_ms: 300, between_bytes_ms: 300, ..Pull::default() };
        shield.pulls(Pull { upstreams: vec![http(address)], ..patience });
        for answer in asked_by_two_edges(&shield, 20).await {
            let answer = answer.as_ref().map(|(status, why)| (*status, why.as_str()));
            assert!(expected.contains(&answer), "{sent:?} {stalls}: {answer:?}");
        }
        // And nothing of it is stored.
        let well = shield.serve(|_| async { answers(&[("cache-control", "no-store")], "well") }).await;
        shield.pulls_from(&[http(well)]);
        assert_eq!(text(shield.get("/cold").await).await, "well");
    }
    shield.stop().await;
}

#[tokio::test]
async fn what_is_stored_is_as_old_as_it_is() {
    let mut shield = Shield::new().await;
    let fields = [("cache-control", "max-age=600"), ("age", "100")];
    let address = shield.serve(move |_| async move { answers(&fields, "old") }).await;
    shield.pulls_from(&[http(address)]);
    for status in ["umbel-origin; fwd=uri-miss", "umbel-origin; hit"] {
        let answer = shield.get("/x").await;
        assert!(said(&answer, "cache-status").starts_with(status), "{}", said(&answer, "cache-status"));
        let age: u64 = said(&answer, "age").parse().unwrap();
        assert!((100..160).contains(&age), "{age}");
        assert_eq!(text(answer).await, "old");
    }
    shield.stop().await;
}

#[tokio::test]
async fn a_change_is_seen_by_the_next_who_asks() {
    let mut shield = Shield::new().await;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let address = shield
        .serve(move |_| {
            let number = counted.fetch_add(1, Ordering::SeqCst).to_string();
            async { Response::builder().header("cache-control", "max-age=60").body(Body::from(number)).unwrap() }
        })
        .await;
    shield.pulls_from(&[http(address)]);
    for expected in ["0", "0"] {
        assert_eq!(text(shield.get("/x").await).await, expected);
    }
    shield.ask(shield.request("POST", "/x"), Body::from("change")).await;
    assert_eq!(text(shield.get("/x").await).await, "2");
    shield.stop().await;
}

/// It would tell edges, who serve it meanwhile, that it still holds.
#[tokio::test]
async fn what_is_stale_is_validated_before_it_is_served() {
    let mut shield = Shield::new().await;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let address = shield
        .serve(move |request| {
            let number = counted.fetch_add(1, Ordering::SeqCst);
            let known = request.headers().get("if-none-match").is_some_and(|tags| tags == "\"1\"");
            let status = if known && number == 1 { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
            let fields = Response::builder().status(status).header("etag", "\"1\"");
            let answer = fields.header("cache-control", "max-age=0, stale-while-revalidate=600, stale-if-error=600");
            async move { answer.body(if known { Body::empty() } else { Body::from("old") }).unwrap() }
        })
        .await;
    shield.pulls_from(&[http(address)]);
    for expected in 1..=2 {
        assert_eq!(text(shield.get("/x").await).await, "old");
        assert_eq!(count.load(Ordering::SeqCst), expected);
    }
    shield.pulls_from(&[crate::pull::dead().await]);
    let answer = shield.get("/x").await;
    assert!(said(&answer, "cache-status").contains("detail=stale-if-error"), "{}", said(&answer, "cache-status"));
    assert_eq!(text(answer).await, "old");
    shield.stop().await;
}

#[tokio::test]
async fn what_was_purged_is_asked_for_again_and_an_edge_that_knows_more_is_not_answered_from_store() {
    let mut shield = Shield::new().await;
    let count = Arc::new(AtomicUsize::new(0));
    let address = shield
        .serve(move |request| {
            assert!(!request.headers().contains_key("umbel-version"));
            let number = count.fetch_add(1, Ordering::SeqCst).to_string();
            let answer = Response::builder().header("cache-control", "max-age=60").header("cache-tag", "a,b");
            async { answer.body(Body::from(number)).unwrap() }
        })
        .await;
    shield.pulls_from(&[http(address)]);
    let asked_under = async |version: u64| {
        let request = shield.request("GET", "/x").header("umbel-version", version);
        text(shield.ask(request, Body::empty()).await).await
    };
    let known = shield.installation.borrow().version;
    assert_eq!(asked_under(known).await, "0");
    assert_eq!(asked_under(known + 1).await, "1", "there may have been a purge");
    assert_eq!(asked_under(known).await, "0");
    let purged = shield.purge(Purge { keys: vec!["b".into()], ..Purge::default() });
    for _ in 0..2 {
        assert_eq!(asked_under(purged).await, "2");
    }
    shield.stop().await;
}
