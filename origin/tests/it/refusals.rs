//! What bad input gets from the S3 API: a reason, and nothing happens.

use std::time::Duration;

use reqwest::{RequestBuilder, StatusCode};
use rusty_s3::S3Action;

use crate::world::{World, provider};

const LIFE: Duration = Duration::from_secs(60);

async fn check(what: &str, request: RequestBuilder, expected: (u16, &str)) {
    let answer = request.send().await.unwrap();
    let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
    assert!(status == expected.0 && text.contains(expected.1), "{what:.80}: {status} {text}");
}

#[tokio::test]
async fn reads_and_listings() {
    let world = World::plain().await;
    world.stored("a", b"hello").await;
    let (films, provider) = (world.bucket("films"), provider());
    for (range, expected) in [
        ("bytes=9-", (416, "InvalidRange")),
        ("bytes=-0", (416, "InvalidRange")),
        ("bytes=-999", (206, "hello")),
        ("bytes=3-1", (400, "InvalidArgument")),
        ("bytes=0-0,2-3", (400, "InvalidArgument")),
        ("bytes=99999999999999999999-", (400, "InvalidArgument")),
    ] {
        check(range, world.get("a").header("range", range), expected).await;
    }
    let etags = vec!["\"x\""; 5000].join(",");
    check("if-none-match", world.get("a").header("if-none-match", etags), (200, "hello")).await;
    check("if-modified-since", world.get("a").header("if-modified-since", "soon"), (400, "InvalidArgument")).await;
    for (name, value, expected) in [
        ("max-keys", "0", (200, "<KeyCount>0</KeyCount>")),
        ("max-keys", "-1", (400, "InvalidArgument")),
        ("max-keys", "2147483647", (200, "<MaxKeys>1000</MaxKeys>")),
        ("max-keys", "99999999999", (400, "InvalidArgument")),
        ("continuation-token", "YWJj", (400, "InvalidArgument")),
        ("prefix", "../..", (200, "<KeyCount>0</KeyCount>")),
        ("prefix", "//", (200, "<KeyCount>0</KeyCount>")),
        ("prefix", "a\0", (400, "InvalidArgument")),
        ("delimiter", "\u{1b}", (400, "InvalidArgument")),
        ("start-after", &"z".repeat(5000), (200, "<KeyCount>0</KeyCount>")),
    ] {
        let mut list = films.list_objects_v2(Some(&provider));
        list.query_mut().insert(name, value.to_owned());
        check(&format!("{name}={value}"), world.http.get(list.sign(LIFE)), expected).await;
    }
    world.stop().await;
}

#[tokio::test]
async fn parts_and_copies() {
    let world = World::plain().await;
    world.stored("a", b"hello").await;
    let (films, provider) = (world.bucket("films"), provider());
    let begun = world.http.post(films.create_multipart_upload(Some(&provider), "m").sign(LIFE)).send().await.unwrap();
    let begun = begun.text().await.unwrap();
    let id = begun.split("<UploadId>").nth(1).unwrap().split('<').next().unwrap();
    for (number, id, expected) in [
        ("0", id, (400, "InvalidArgument")),
        ("-1", id, (400, "InvalidArgument")),
        ("10001", id, (400, "InvalidArgument")),
        ("2147483648", id, (400, "InvalidArgument")),
        ("1", "", (404, "NoSuchUpload")),
        ("1", "../../blobs", (404, "NoSuchUpload")),
        ("1", "a\0", (404, "NoSuchUpload")),
        ("1", &"a".repeat(5000), (404, "NoSuchUpload")),
    ] {
        let mut part = films.put_object(Some(&provider), "m");
        part.query_mut().insert("partNumber", number.to_owned());
        part.query_mut().insert("uploadId", id.to_owned());
        check(&format!("{number} {id}"), world.http.put(part.sign(LIFE)).body("x"), expected).await;
    }
    let deep = "<a>".repeat(200_000);
    let entities = "<!DOCTYPE x [<!ENTITY a \"&a;&a;\">]><CompleteMultipartUpload>&a;</CompleteMultipartUpload>";
    for body in ["", "<a><b>", entities, deep.as_str()] {
        let complete = films.complete_multipart_upload(Some(&provider), "m", id, std::iter::empty()).sign(LIFE);
        check(body, world.http.post(complete).body(body.to_owned()), (400, "MalformedXML")).await;
    }
    for (source, expected) in [
        ("films/a", (400, "InvalidRequest")),
        ("films/../a", (404, "NoSuchKey")),
        ("films/", (404, "NoSuchKey")),
        ("films", (400, "InvalidArgument")),
        ("foreign/a", (403, "AccessDenied")),
        ("films/a?versionId=7", (501, "NotImplemented")),
    ] {
        check(source, world.put("a", "").header("x-amz-copy-source", source), expected).await;
    }
    assert_eq!(world.content("a").await, b"hello");
    assert_eq!(world.get("m").send().await.unwrap().status(), StatusCode::NOT_FOUND);
    world.stop().await;
}

#[tokio::test]
async fn signatures() {
    let world = World::plain().await;
    world.stored("a", b"hello").await;
    let (films, provider) = (world.bucket("films"), provider());
    let url = films.get_object(Some(&provider), "a").sign(LIFE).to_string();
    let over = films.get_object(Some(&provider), "a").sign(Duration::ZERO).to_string();
    for (what, url, expected) in [
        ("as it is", url.clone(), (200, "hello")),
        ("another key", url.replacen("/films/a", "/films/b", 1), (403, "SignatureDoesNotMatch")),
        ("longer", url.replacen("X-Amz-Expires=60", "X-Amz-Expires=600", 1), (403, "SignatureDoesNotMatch")),
        ("more", format!("{url}&x=y"), (403, "SignatureDoesNotMatch")),
        ("signed twice", format!("{url}&X-Amz-Signature=00"), (400, "InvalidRequest")),
        (
            "for a week and more",
            films.get_object(Some(&provider), "a").sign(Duration::from_secs(604_801)).to_string(),
            (400, "AuthorizationQueryParametersError"),
        ),
        (
            "for a week",
            films.get_object(Some(&provider), "a").sign(Duration::from_secs(604_800)).to_string(),
            (200, "hello"),
        ),
        ("over", over, (403, "has expired")),
        ("negative", url.replacen("X-Amz-Expires=60", "X-Amz-Expires=-60", 1), (400, "InvalidRequest")),
    ] {
        check(what, world.http.get(&url), expected).await;
    }
    check("to write", world.http.put(&url).body("x"), (403, "SignatureDoesNotMatch")).await;
    check("to delete", world.http.delete(&url), (403, "SignatureDoesNotMatch")).await;
    check("another host", world.http.get(&url).header("host", "evil.test"), (403, "SignatureDoesNotMatch")).await;
    let chunks = "5;chunk-signature=00\r\nhello\r\n0;chunk-signature=00\r\n\r\n";
    let chunked = world.put("a", chunks).header("content-encoding", "aws-chunked");
    let chunked = chunked.header("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD");
    let chunked = chunked.header("x-amz-decoded-content-length", "5");
    check("signed chunks under a presigned URL", chunked, (501, "NotImplemented")).await;
    assert_eq!(world.content("a").await, b"hello");
    world.stop().await;
}

#[tokio::test]
async fn deletes_and_parts_of_copies() {
    let world = World::plain().await;
    world.stored("b", b"hello").await;
    let (films, provider) = (world.bucket("films"), provider());
    let delete = async |key: &str| {
        let body = format!("<Delete><Object><Key>{key}</Key></Object><Object><Key>b</Key></Object></Delete>");
        let nothing = std::iter::empty::<&rusty_s3::actions::ObjectIdentifier>();
        let url = films.delete_objects(Some(&provider), nothing).sign(LIFE);
        let answer = world.http.post(url).body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, text) = delete("x\u{1}y").await;
    assert_eq!(status, 200, "{text}");
    for (part, expected) in [("<Deleted><Key>b</Key>", true), ("<Code>InvalidArgument</Code>", true), ("\u{1}", false)]
    {
        assert_eq!(text.contains(part), expected, "{part}: {text}");
    }
    // Not even XML.
    let (status, text) = delete("x&#1;y").await;
    assert!(status == 400 && text.contains("MalformedXML"), "{status} {text}");
    world.stored("a", b"hello").await;
    let begun = world.http.post(films.create_multipart_upload(Some(&provider), "m").sign(LIFE)).send().await.unwrap();
    let begun = begun.text().await.unwrap();
    let id = begun.split("<UploadId>").nth(1).unwrap().split('<').next().unwrap();
    for (range, expected) in [
        ("bytes=0-4", (200, "CopyPartResult")),
        ("bytes=0-5", (416, "InvalidRange")),
        ("bytes=1-629145600", (416, "InvalidRange")),
        ("bytes=5-5", (416, "InvalidRange")),
        ("lines=0-4", (400, "InvalidArgument")),
    ] {
        let mut part = films.put_object(Some(&provider), "m");
        part.query_mut().insert("partNumber", "1");
        part.query_mut().insert("uploadId", id.to_owned());
        let copy = world.http.put(part.sign(LIFE)).header("x-amz-copy-source", "films/a");
        check(range, copy.header("x-amz-copy-source-range", range), expected).await;
    }
    world.stop().await;
}

#[tokio::test]
async fn the_longest_key() {
    let world = World::plain().await;
    let key = "k".repeat(1024);
    world.stored(&key, b"hello").await;
    assert_eq!(world.content(&key).await, b"hello");
    check("longer", world.put(&"k".repeat(1025), "x"), (400, "KeyTooLong")).await;
    let list = world.bucket("films").list_objects_v2(Some(&provider())).sign(LIFE);
    check("listed", world.http.get(list), (200, &key)).await;
    world.stop().await;
}

#[tokio::test]
async fn uploads_are_rolled_up() {
    let world = World::plain().await;
    let (films, provider) = (world.bucket("films"), provider());
    for key in ["folder/a", "folder/b", "top"] {
        let begun =
            world.http.post(films.create_multipart_upload(Some(&provider), key).sign(LIFE)).send().await.unwrap();
        assert_eq!(begun.status(), StatusCode::OK);
    }
    let mut list = films.list_objects_v2(Some(&provider));
    list.query_mut().remove("list-type");
    list.query_mut().insert("uploads", "");
    list.query_mut().insert("delimiter", "/");
    let answer = world.http.get(list.sign(LIFE)).send().await.unwrap().text().await.unwrap();
    assert!(answer.contains("<CommonPrefixes><Prefix>folder/</Prefix></CommonPrefixes>"), "{answer}");
    assert_eq!(answer.matches("<Upload>").count(), 1, "{answer}");
    world.stop().await;
}
