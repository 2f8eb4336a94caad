//! Objects through presigned URLs.

use std::time::Duration;

use reqwest::{Response, StatusCode};
use rusty_s3::S3Action;

use crate::world::{World, foreigner, header, noise, provider};

#[tokio::test]
async fn bytes_come_back_at_every_boundary() {
    let world = World::plain().await;
    for length in [0, 1, 65_535, 65_536, 65_537, 1_048_576, 1_048_577, 5_000_000] {
        let body = noise(length, length as u64);
        world.stored("a b/ü.bin", &body).await;
        assert!(world.content("a b/ü.bin").await == body, "{length} bytes");
        if length > 10 {
            for (first, last) in
                [(0, 0), (5, length - 1), (length / 2, length / 2 + 3), (65_530.min(length - 5), length)]
            {
                let answer =
                    world.get("a b/ü.bin").header("range", format!("bytes={first}-{last}")).send().await.unwrap();
                assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
                let last = last.min(length - 1);
                assert_eq!(header(&answer, "content-range"), format!("bytes {first}-{last}/{length}"));
                assert!(answer.bytes().await.unwrap() == body[first..=last], "{first}-{last} of {length}");
            }
        }
    }
    let beyond = world.get("a b/ü.bin").header("range", "bytes=9000000-").send().await.unwrap();
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    world.stop().await;
}

#[tokio::test]
async fn what_was_said_of_an_object_is_kept() {
    let world = World::plain().await;
    let put = world.put("page.html", "hello").header("cache-control", "max-age=9").header("x-amz-meta-colour", "green");
    assert_eq!(put.send().await.unwrap().status(), StatusCode::OK);
    let answer = world.get("page.html").send().await.unwrap();
    assert_eq!(header(&answer, "content-type"), "text/html");
    assert_eq!(header(&answer, "cache-control"), "max-age=9");
    assert_eq!(header(&answer, "x-amz-meta-colour"), "green");
    assert_eq!(header(&answer, "etag"), "\"5d41402abc4b2a76b9719d911017c592\"");
    assert!(!header(&answer, "last-modified").is_empty());
    let same =
        world.get("page.html").header("if-none-match", "\"5d41402abc4b2a76b9719d911017c592\"").send().await.unwrap();
    assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
    world.stop().await;
}

#[tokio::test]
async fn conditions_of_a_write_are_checked() {
    let world = World::plain().await;
    let put = |name: &'static str, value: &'static str| world.put("once", "x").header(name, value).send();
    assert_eq!(put("if-match", "*").await.unwrap().status(), StatusCode::PRECONDITION_FAILED);
    assert_eq!(put("if-none-match", "*").await.unwrap().status(), StatusCode::OK);
    assert_eq!(put("if-none-match", "*").await.unwrap().status(), StatusCode::PRECONDITION_FAILED);
    assert_eq!(put("if-match", "\"0000\"").await.unwrap().status(), StatusCode::PRECONDITION_FAILED);
    assert_eq!(put("if-match", "\"9dd4e461268c8034f5c8564e155c67a6\"").await.unwrap().status(), StatusCode::OK);
    world.stop().await;
}

#[tokio::test]
async fn a_wrong_digest_leaves_the_old_object() {
    let world = World::plain().await;
    world.stored("a", b"old").await;
    let check = async |name: &'static str, value: &'static str| {
        let answer = world.put("a", "hello").header(name, value).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{name}");
        assert!(answer.text().await.unwrap().contains("BadDigest"));
        assert_eq!(world.content("a").await, b"old");
    };
    check("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==").await;
    check("x-amz-checksum-crc32", "AAAAAA==").await;
    check("x-amz-checksum-sha256", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").await;
    world.stop().await;
}

#[tokio::test]
async fn one_accounts_bucket_is_not_anothers() {
    let world = World::plain().await;
    world.stored("a", b"mine").await;
    let code = async |answer: Response| {
        let status = answer.status();
        (status, answer.text().await.unwrap())
    };
    let films = world.bucket("films");
    let life = Duration::from_secs(60);
    let (status, text) =
        code(world.http.get(films.get_object(Some(&foreigner()), "a").sign(life)).send().await.unwrap()).await;
    assert!(status == StatusCode::FORBIDDEN && text.contains("AccessDenied"), "{status} {text}");
    let (status, _) = code(world.http.get(films.get_object(None, "a").sign(life)).send().await.unwrap()).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let nowhere = world.bucket("nowhere");
    let (status, text) =
        code(world.http.get(nowhere.get_object(Some(&provider()), "a").sign(life)).send().await.unwrap()).await;
    assert!(status == StatusCode::NOT_FOUND && text.contains("NoSuchBucket"), "{status} {text}");
    let wrong = rusty_s3::Credentials::new("PROVIDER", "guess");
    let (status, text) =
        code(world.http.get(films.get_object(Some(&wrong), "a").sign(life)).send().await.unwrap()).await;
    assert!(status == StatusCode::FORBIDDEN && text.contains("SignatureDoesNotMatch"), "{status} {text}");
    world.stop().await;
}

#[tokio::test]
async fn keys_that_no_reader_could_ask_for_are_refused() {
    let world = World::plain().await;
    let long = "x".repeat(1025);
    for key in [".well-known/umbel/v1/x", "a\u{7}b", long.as_str()] {
        let answer = world.put(key, "x").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{key}: {}", answer.text().await.unwrap());
    }
    let key = "é/".repeat(300);
    world.stored(&key, b"deep").await;
    assert_eq!(world.content(&key).await, b"deep");
    world.stop().await;
}

#[tokio::test]
async fn health_and_metrics_answer() {
    let world = World::plain().await;
    world.stored("a", b"12345").await;
    let text =
        world.http.get(format!("http://{}/metrics", world.origin.ops)).send().await.unwrap().text().await.unwrap();
    assert!(text.contains("umbel_origin_requests_total{operation=\"PutObject\",outcome=\"Done\"} 1"), "{text}");
    assert!(text.contains("umbel_origin_received_bytes_total 5"), "{text}");
    world.stop().await;
}
