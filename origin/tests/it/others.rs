//! rclone and s3cmd, over TLS.

use crate::world::{SECRET, World, noise};

fn tree(world: &World) -> [(&'static str, Vec<u8>); 4] {
    let files = [
        ("a.txt", noise(10, 1)),
        ("empty", Vec::new()),
        ("dir/b c.bin", noise(70_000, 2)),
        ("dir/film.mkv", noise(12_000_000, 3)),
    ];
    for (name, body) in &files {
        let path = world.folder.path().join("src").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, body).unwrap();
    }
    files
}

#[tokio::test]
async fn rclone_copies_and_checks() {
    let world = World::secure().await;
    let files = tree(&world);
    world.run("rclone", &["copy", "src", "u:films/in", "--s3-upload-cutoff", "6M", "--s3-chunk-size", "5M"]).await;
    world.run("rclone", &["check", "src", "u:films/in", "--download"]).await;
    let listed = world.run("rclone", &["lsf", "-R", "--files-only", "u:films"]).await;
    let mut names: Vec<&str> = listed.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["in/a.txt", "in/dir/b c.bin", "in/dir/film.mkv", "in/empty"]);
    // Modification times are user metadata for rclone: nothing is sent twice.
    let (_, _, log) = world.try_run("rclone", &["sync", "-v", "src", "u:films/in"]).await;
    assert!(log.contains("There was nothing to transfer"), "{log}");
    world.run("rclone", &["moveto", "u:films/in/dir/film.mkv", "u:films/moved"]).await;
    world.run("rclone", &["copyto", "u:films/moved", "back"]).await;
    assert!(std::fs::read(world.folder.path().join("back")).unwrap() == files[3].1);
    world.run("rclone", &["delete", "u:films"]).await;
    assert_eq!(world.run("rclone", &["lsf", "-R", "--files-only", "u:films"]).await, "");
    world.stop().await;
}

#[tokio::test]
async fn s3cmd_puts_gets_and_deletes() {
    let world = World::secure().await;
    let files = tree(&world);
    let ca = world.folder.path().join("ca.pem").display().to_string();
    let host = format!("localhost:{}", world.origin.s3.port());
    std::fs::write(world.folder.path().join("none"), "[default]\n").unwrap();
    let base = [
        "--config=none",
        "--access_key=PROVIDER",
        "--secret_key",
        SECRET,
        "--host",
        &host,
        "--host-bucket",
        &host,
        "--ca-certs",
        &ca,
        "--multipart-chunk-size-mb=5",
    ];
    let s3cmd = async |arguments: &[&str]| world.run("s3cmd", &[base.as_slice(), arguments].concat()).await;
    s3cmd(&["put", "--recursive", "src/", "s3://films/"]).await;
    let listed = s3cmd(&["ls", "--recursive", "s3://films"]).await;
    assert!(listed.contains("s3://films/dir/b c.bin") && listed.contains("12000000"), "{listed}");
    std::fs::create_dir(world.folder.path().join("back")).unwrap();
    s3cmd(&["get", "--recursive", "s3://films/", "back/"]).await;
    for (name, body) in &files {
        assert!(&std::fs::read(world.folder.path().join("back").join(name)).unwrap() == body, "{name}");
    }
    s3cmd(&["del", "--recursive", "--force", "s3://films/"]).await;
    assert_eq!(s3cmd(&["ls", "--recursive", "s3://films"]).await, "");
    world.stop().await;
}
