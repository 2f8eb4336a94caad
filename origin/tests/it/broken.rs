//! Uploads that break off, writers and readers that meet.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use reqwest::StatusCode;
use rusty_s3::S3Action;
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};
use umbel_service::installation::Installation;
use umbel_wire::control::{Change, ConfigEvent, Snapshot, config_event::Event};

use crate::world::{FOREIGN_SITE, SITE, World, foreigner, noise, provider};

/// Files that are not of the object that was there before.
fn new_files(world: &World, before: &BTreeSet<String>) -> Vec<String> {
    let now = ["blobs", "objects", "versions"].iter().flat_map(|below| world.files(below));
    now.filter(|file| !before.contains(file)).collect()
}

async fn no_new_files(world: &World, before: &BTreeSet<String>) {
    let gone = async {
        while !new_files(world, before).is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), gone).await;
    assert!(waited.is_ok(), "left behind: {:?}", new_files(world, before));
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let world = World::plain().await;
    world.stored("film", b"old").await;
    let before: BTreeSet<String> =
        ["blobs", "objects", "versions"].iter().flat_map(|below| world.files(below)).collect();
    let url = world.bucket("films").put_object(Some(&provider()), "film").sign(Duration::from_secs(60));
    let body = noise(12_000_000, 1);
    for sent in [0, 1_000, 12_000_000 - 1] {
        let mut stream = TcpStream::connect(world.origin.s3).await.unwrap();
        let target = format!("{}?{}", url.path(), url.query().unwrap());
        let host = format!("localhost:{}", world.origin.s3.port());
        let head = format!("PUT {target} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body[..sent]).await.unwrap();
        stream.shutdown().await.unwrap();
        drop(stream);
        no_new_files(&world, &before).await;
        assert_eq!(world.content("film").await, b"old");
    }
    world.stop().await;
}

#[tokio::test]
async fn readers_see_whole_versions_while_writers_replace_them() {
    let world = Arc::new(World::plain().await);
    let versions: Vec<Vec<u8>> = (1..=4).map(|seed| noise(300_000 + seed * 70_000, seed as u64)).collect();
    world.stored("hot", &versions[0]).await;
    let mut tasks = JoinSet::new();
    for version in versions.clone() {
        let world = world.clone();
        tasks.spawn(async move {
            for _ in 0..4 {
                world.stored("hot", &version).await;
            }
        });
    }
    for _ in 0..3 {
        let (world, versions) = (world.clone(), versions.clone());
        tasks.spawn(async move {
            for _ in 0..8 {
                assert!(versions.contains(&world.content("hot").await), "a mixture of versions");
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    assert_eq!(world.files("objects").len(), 1);
    Arc::into_inner(world).unwrap().stop().await;
}

#[tokio::test]
async fn only_one_of_many_creators_wins() {
    let world = Arc::new(World::plain().await);
    let other = world.beside().await;
    let mut tasks = JoinSet::new();
    for index in 0..10 {
        let (world, s3) = (world.clone(), if index % 2 == 0 { world.origin.s3 } else { other.s3 });
        tasks.spawn(async move {
            let mut bucket = world.endpoint().parse::<url::Url>().unwrap();
            bucket.set_port(Some(s3.port())).unwrap();
            let bucket = rusty_s3::Bucket::new(bucket, rusty_s3::UrlStyle::Path, "films", "eu").unwrap();
            let url = bucket.put_object(Some(&provider()), "new").sign(Duration::from_secs(60));
            world.http.put(url).header("if-none-match", "*").body(format!("{index}")).send().await.unwrap().status()
        });
    }
    let statuses = tasks.join_all().await;
    assert_eq!(statuses.iter().filter(|status| **status == StatusCode::OK).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(*status, StatusCode::OK | StatusCode::PRECONDITION_FAILED)));
    world.shutdown.cancel();
    other.wait().await.unwrap();
    Arc::into_inner(world).unwrap().stop().await;
}

#[tokio::test]
async fn only_what_is_said_to_be_deleted_is_swept() {
    let world = World::plain().await;
    let (hasty, installation) = world.beside_told().await;
    let tell = |version: u64, event| {
        let mut next = Installation::clone(&installation.borrow());
        next.apply(ConfigEvent { version, event: Some(event) });
        installation.send_replace(Arc::new(next));
    };
    let blobs = || (world.files(&format!("blobs/{SITE}")).len(), world.files(&format!("blobs/{FOREIGN_SITE}")).len());
    let known = Snapshot { sites: installation.borrow().sites.values().cloned().collect(), ..Snapshot::default() };
    world.stored("a", b"a").await;
    world.stored("b/c", b"c").await;
    let bucket = world.bucket("films");
    let begin = bucket.create_multipart_upload(Some(&provider()), "d").sign(Duration::from_secs(60));
    assert_eq!(world.http.post(begin).send().await.unwrap().status(), StatusCode::OK);
    let foreign = world.bucket("foreign").put_object(Some(&foreigner()), "a").sign(Duration::from_secs(60));
    assert_eq!(world.http.put(foreign).body("a").send().await.unwrap().status(), StatusCode::OK);
    let sweep = async || {
        hasty.sweep().await.unwrap();
        hasty.sweep().await.unwrap();
    };

    // The control plane has lost its database, or was never there.
    tell(2, Event::Snapshot(Snapshot::default()));
    sweep().await;
    assert_eq!(blobs(), (2, 1));
    // Deleted, but the mark is not due; then its database is restored from before.
    let deleted = || Event::Change(Change { removed_sites: vec![SITE.into()], ..Change::default() });
    tell(3, Event::Snapshot(known.clone()));
    tell(4, deleted());
    hasty.sweep().await.unwrap();
    assert_eq!((blobs(), world.files("deleted").len()), ((2, 1), 1));
    tell(5, Event::Snapshot(known));
    sweep().await;
    assert_eq!((blobs(), world.files("deleted").len()), ((2, 1), 0));
    // Deleted for good.
    tell(6, deleted());
    sweep().await;
    assert_eq!((blobs(), world.files("deleted").len()), ((0, 1), 0));
    let left: Vec<_> = world.files("").into_iter().filter(|file| file.contains(SITE)).collect();
    assert!(left.is_empty(), "{left:?}");

    world.shutdown.cancel();
    hasty.wait().await.unwrap();
    world.stop().await;
}

#[tokio::test]
async fn sweeping_removes_what_was_replaced_and_nothing_else() {
    let world = World::plain().await;
    for body in ["one", "two", "three"] {
        world.stored("a", body.as_bytes()).await;
    }
    world.stored("kept", b"kept").await;
    world.stored("gone", b"gone").await;
    let delete = world.bucket("films").delete_object(Some(&provider()), "gone").sign(Duration::from_secs(60));
    assert_eq!(world.http.delete(delete).send().await.unwrap().status(), StatusCode::NO_CONTENT);
    world.origin.sweep().await.unwrap();
    assert_eq!(world.files("blobs").len(), 5, "too early");
    let hasty = world.beside().await;
    hasty.sweep().await.unwrap();
    assert_eq!((world.files("blobs").len(), world.files("versions").len(), world.files("replaced").len()), (2, 2, 0));
    assert_eq!(world.content("a").await, b"three");
    assert_eq!(world.content("kept").await, b"kept");
    assert_eq!(world.get("gone").send().await.unwrap().status(), StatusCode::NOT_FOUND);
    world.shutdown.cancel();
    hasty.wait().await.unwrap();
    world.stop().await;
}
