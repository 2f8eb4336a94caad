//! The AWS command line, over TLS.

use crate::world::{World, noise};

#[tokio::test]
async fn copies_lists_and_removes() {
    let world = World::secure().await;
    let folder = world.folder.path().join("src");
    std::fs::create_dir_all(folder.join("sub dir")).unwrap();
    let (small, large) = (noise(1_000, 1), noise(20 * 1024 * 1024 + 17, 2));
    std::fs::write(folder.join("sub dir/ü.txt"), &small).unwrap();
    std::fs::write(folder.join("empty"), b"").unwrap();
    std::fs::write(folder.join("film.mp4"), &large).unwrap();
    // Above 8 MiB this client uploads in parts.
    world.run("aws", &["s3", "cp", "--recursive", "--no-progress", "src", "s3://films/in"]).await;
    world.run("aws", &["s3", "cp", "--recursive", "--no-progress", "s3://films/in", "back"]).await;
    let read = |name: &str| std::fs::read(world.folder.path().join("back").join(name)).unwrap();
    assert!(read("film.mp4") == large && read("sub dir/ü.txt") == small && read("empty").is_empty());
    let again = world.run("aws", &["s3", "sync", "--no-progress", "src", "s3://films/in"]).await;
    assert_eq!(again, "", "nothing has changed");

    let listing = world.run("aws", &["s3", "ls", "s3://films/in/"]).await;
    assert!(listing.contains("PRE sub dir/") && listing.contains("20971537 film.mp4"), "{listing}");
    let head = world.run("aws", &["s3api", "head-object", "--bucket", "films", "--key", "in/film.mp4"]).await;
    assert!(head.contains("-3\\\"") && head.contains("video/mp4"), "{head}");
    assert!(world.run("aws", &["s3", "ls"]).await.contains("films"));

    world.run("aws", &["s3", "mv", "--no-progress", "s3://films/in/film.mp4", "s3://films/out.mp4"]).await;
    world.run("aws", &["s3", "cp", "--no-progress", "s3://films/out.mp4", "out.mp4"]).await;
    assert!(std::fs::read(world.folder.path().join("out.mp4")).unwrap() == large);
    world.run("aws", &["s3", "rm", "--recursive", "s3://films/"]).await;
    let (_, listing, _) = world.try_run("aws", &["s3", "ls", "s3://films/"]).await;
    assert_eq!(listing, "");
    assert!(world.files("uploads").is_empty(), "{:?}", world.files("uploads"));
    world.stop().await;
}

#[tokio::test]
async fn pages_come_in_order() {
    let world = World::secure().await;
    let mut keys: Vec<String> =
        ["a", "a/b", "a-b", "a0", "b/c/d", "b/c", "z é", "z%"].iter().map(|key| (*key).to_owned()).collect();
    for key in &keys {
        let args = ["s3api", "put-object", "--bucket", "films", "--key", key];
        world.run("aws", &args).await;
    }
    keys.sort();
    let text = ["--query", "Contents[].Key", "--output", "json"];
    for command in ["list-objects-v2", "list-objects"] {
        let base = ["s3api", command, "--bucket", "films", "--page-size", "2"];
        let listed = world.run("aws", &[base.as_slice(), &text].concat()).await;
        assert_eq!(serde_json::from_str::<Vec<String>>(&listed).unwrap(), keys, "{command}");
        let rolled = world.run("aws", &[base.as_slice(), &["--delimiter", "/", "--output", "json"]].concat()).await;
        let rolled: serde_json::Value = serde_json::from_str(&rolled).unwrap();
        let names = |list: &str, name: &str| -> Vec<String> {
            rolled[list].as_array().unwrap().iter().map(|entry| entry[name].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names("CommonPrefixes", "Prefix"), ["a/", "b/"], "{command}");
        assert_eq!(names("Contents", "Key"), ["a", "a-b", "a0", "z é", "z%"], "{command}");
    }
    world.stop().await;
}

#[tokio::test]
async fn parts_are_checked() {
    let world = World::secure().await;
    let path = |name: &str| world.folder.path().join(name);
    let (first, tail) = (noise(5 * 1024 * 1024, 1), noise(10, 2));
    std::fs::write(path("first"), &first).unwrap();
    std::fs::write(path("tail"), &tail).unwrap();
    let key = ["--bucket", "films", "--key", "big"];
    let begin = world
        .run(
            "aws",
            &[&["s3api", "create-multipart-upload", "--query", "UploadId", "--output", "text"], key.as_slice()]
                .concat(),
        )
        .await;
    let id = begin.trim();
    let part = async |number: &str, file: &str| {
        let args = ["--upload-id", id, "--part-number", number, "--body", file, "--query", "ETag", "--output", "text"];
        world
            .run("aws", &[&["s3api", "upload-part"], key.as_slice(), &args].concat())
            .await
            .trim()
            .trim_matches('"')
            .to_owned()
    };
    let (one, two, three) = (part("1", "first").await, part("2", "tail").await, part("3", "tail").await);
    let complete = async |parts: &[(&str, u32)]| {
        let parts: Vec<String> =
            parts.iter().map(|(etag, number)| format!("{{ETag={etag},PartNumber={number}}}")).collect();
        let parts = format!("Parts=[{}]", parts.join(","));
        let args = ["--upload-id", id, "--multipart-upload", parts.as_str()];
        world.try_run("aws", &[&["s3api", "complete-multipart-upload"], key.as_slice(), &args].concat()).await
    };
    for (parts, code) in [
        (vec![(one.as_str(), 1), (two.as_str(), 2), (three.as_str(), 3)], "EntityTooSmall"),
        (vec![(two.as_str(), 2), (one.as_str(), 1)], "InvalidPartOrder"),
        (vec![(two.as_str(), 1)], "InvalidPart"),
        (vec![(one.as_str(), 7)], "InvalidPart"),
    ] {
        let (ok, _, errors) = complete(&parts).await;
        assert!(!ok && errors.contains(code), "{code}: {errors}");
    }
    let listed = world
        .run(
            "aws",
            &[
                &["s3api", "list-parts", "--upload-id", id, "--query", "Parts[].Size", "--output", "json"],
                key.as_slice(),
            ]
            .concat(),
        )
        .await;
    assert_eq!(serde_json::from_str::<Vec<u64>>(&listed).unwrap(), [5_242_880, 10, 10]);
    assert!(world.run("aws", &["s3api", "list-multipart-uploads", "--bucket", "films"]).await.contains(id));
    let (ok, _, errors) = complete(&[(&one, 1), (&three, 3)]).await;
    assert!(ok, "{errors}");
    world.run("aws", &[&["s3api", "get-object"], key.as_slice(), &["out"]].concat()).await;
    assert!(std::fs::read(path("out")).unwrap() == [first.as_slice(), &tail].concat());
    let (ok, _, errors) = complete(&[(&one, 1), (&three, 3)]).await;
    assert!(ok, "the answer may have been lost: {errors}");
    assert!(world.run("aws", &[&["s3api", "get-object-tagging"], key.as_slice()].concat()).await.contains("TagSet"));
    let (ok, _, errors) = world.try_run("aws", &["s3api", "delete-bucket", "--bucket", "films"]).await;
    assert!(!ok && errors.contains("umbel admin site delete"), "{errors}");
    let (ok, _, errors) = complete(&[(&one, 1)]).await;
    assert!(!ok && errors.contains("NoSuchUpload"), "{errors}");

    let begin = world
        .run(
            "aws",
            &[&["s3api", "create-multipart-upload", "--query", "UploadId", "--output", "text"], key.as_slice()]
                .concat(),
        )
        .await;
    let copy = [
        "s3api",
        "upload-part-copy",
        "--copy-source",
        "films/big",
        "--copy-source-range",
        "bytes=1-9",
        "--part-number",
        "1",
        "--upload-id",
        begin.trim(),
    ];
    assert!(world.run("aws", &[copy.as_slice(), key.as_slice()].concat()).await.contains("ETag"));
    world
        .run("aws", &[&["s3api", "abort-multipart-upload", "--upload-id", begin.trim()], key.as_slice()].concat())
        .await;
    assert!(world.files("uploads").is_empty());
    world.stop().await;
}
