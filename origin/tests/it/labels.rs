//! What an object is called, read in part, shown to others and listed in pages: the same questions to two clients, over
//! plain HTTP.

use reqwest::StatusCode;
use serde_json::Value;

use crate::world::{World, header, noise};

/// Fetches a presigned URL (of the second signature version by one client, of the fourth by the other), and sees that it is
/// good for nothing else.
async fn shared(world: &World, url: &str) -> Vec<u8> {
    let url = url.trim();
    assert!(url.contains("Signature="), "{url}");
    let answer = world.http.get(url).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "{url}");
    assert_eq!(header(&answer, "content-type"), "text/x-label");
    let other = url.replacen("/films/a", "/films/b", 1);
    let longer = url.replacen("Expires=", "Expires=1", 1);
    for bad in [other, longer, format!("{url}&versionId=1"), url.replacen("Signature=", "Signature=0", 1)] {
        let refusal = world.http.get(&bad).send().await.unwrap();
        assert!(refusal.status().is_client_error() && bad != url, "{bad}: {}", refusal.status());
    }
    assert_eq!(world.http.put(url).body("x").send().await.unwrap().status(), StatusCode::FORBIDDEN);
    answer.bytes().await.unwrap().to_vec()
}

#[tokio::test]
async fn as_the_aws_command_line_sees_it() {
    let world = World::plain().await;
    let body = noise(100_000, 1);
    std::fs::write(world.folder.path().join("body"), &body).unwrap();
    let aws = async |arguments: &[&str]| world.run("aws", arguments).await;
    let key = ["--bucket", "films", "--key", "a"];
    let labels = ["--body", "body", "--content-type", "text/x-label", "--metadata", "colour=green,size=XL"];
    let put = aws(&[["s3api", "put-object"].as_slice(), &key, &labels].concat()).await;
    let put: Value = serde_json::from_str(&put).unwrap();
    let head = aws(&[["s3api", "head-object"].as_slice(), &key].concat()).await;
    let head: Value = serde_json::from_str(&head).unwrap();
    assert_eq!((&head["ETag"], &head["ContentType"]), (&put["ETag"], &"text/x-label".into()));
    assert_eq!(head["Metadata"], serde_json::json!({ "colour": "green", "size": "XL" }));
    for (range, expected) in
        [("bytes=10-19", &body[10..20]), ("bytes=-5", &body[99_995..]), ("bytes=99998-", &body[99_998..])]
    {
        aws(&[["s3api", "get-object"].as_slice(), &key, &["--range", range, "part"]].concat()).await;
        assert!(std::fs::read(world.folder.path().join("part")).unwrap() == expected, "{range}");
    }
    assert!(shared(&world, &aws(&["s3", "presign", "s3://films/a", "--expires-in", "60"]).await).await == body);
    world.stop().await;
}

#[tokio::test]
async fn as_rclone_sees_it() {
    let world = World::plain().await;
    let body = noise(100_000, 1);
    let src = world.folder.path().join("src");
    std::fs::create_dir(&src).unwrap();
    std::fs::write(src.join("a"), &body).unwrap();
    let rclone = async |arguments: &[&str]| world.run("rclone", arguments).await;
    let labels = ["--metadata", "--metadata-set", "colour=green", "--metadata-set", "content-type=text/x-label"];
    rclone(&[["copyto", "src/a", "u:films/a"].as_slice(), &labels].concat()).await;
    let seen = rclone(&["lsjson", "--metadata", "--hash", "--stat", "u:films/a"]).await;
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!((&seen["MimeType"], &seen["Metadata"]["colour"]), (&"text/x-label".into(), &"green".into()));
    let etag = header(&world.get("a").send().await.unwrap(), "etag");
    assert_eq!(etag.trim_matches('"'), seen["Hashes"]["md5"].as_str().unwrap());
    for (range, expected) in [(["--offset", "10"], &body[10..20]), (["--offset", "-10"], &body[99_990..])] {
        let part = world.bytes("rclone", &[["cat", "u:films/a", "--count", "10"].as_slice(), &range].concat()).await;
        assert!(part == expected, "{range:?}");
    }
    assert!(shared(&world, &rclone(&["link", "--expire", "60s", "u:films/a"]).await).await == body);
    for name in ["b", "c/d", "c/e", "f ü"] {
        world.stored(name, b"x").await;
    }
    let listed = rclone(&["lsf", "-R", "--files-only", "--s3-list-chunk", "2", "u:films"]).await;
    let mut names: Vec<&str> = listed.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b", "c/d", "c/e", "f ü"]);
    world.stop().await;
}
