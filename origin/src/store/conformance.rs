//! What every store must do, run on a folder and on an S3 server that nobody here wrote (moto).

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use proptest::prelude::*;
use umbel_content::SignedManifest;

use super::*;

struct Moto {
    process: Child,
    endpoint: String,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Moto {
    async fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new("moto_server")
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("moto_server: `make test-deps` installs it");
        let moto = Self { process, endpoint: format!("http://127.0.0.1:{port}") };
        let answers = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), answers).await.unwrap();
        moto
    }

    async fn store(&self, bucket: &str) -> Store {
        umbel_service::tls::install_provider();
        reqwest::Client::new()
            .put(format!("{}/{bucket}", self.endpoint))
            .send()
            .await
            .unwrap()
            .error_for_status()
            .unwrap();
        let access = S3Access {
            endpoint: Some(self.endpoint.clone()),
            region: Some("us-east-1".into()),
            access_key_id: Some("k".into()),
            secret_access_key: Some("s".into()),
        };
        Store::open(&StoreUrl::Bucket { bucket: bucket.into(), prefix: "some/where".into() }, &access).unwrap()
    }
}

const SITE: &str = "0190d3a0-0000-7000-8000-000000000001";

fn record(key: &str, version: u8, etag: &str) -> Record {
    let head = Head {
        version_id: vec![version; 16].into(),
        key: key.into(),
        etag: etag.into(),
        length: 10,
        chunk_size: 65_536,
        ..Head::default()
    };
    let manifest =
        umbel_content::proto::SignedManifest { manifest: vec![version; 70_000].into(), signature: vec![0; 64].into() };
    Record { head, manifest: SignedManifest::from_proto(manifest).unwrap() }
}

async fn conforms(store: &Store) {
    store.check().await.unwrap();
    pointers(store).await;
    races(store).await;
    blobs(store).await;
    walks(store).await;
}

async fn pointers(store: &Store) {
    let put = async |version: u8, condition: Condition| {
        store.publish(SITE, &record("a", version, &version.to_string()), &condition).await
    };
    assert!(matches!(store.current(SITE, "a").await, Err(StoreError::NotFound)));
    assert!(matches!(put(1, Condition::Present).await, Err(StoreError::Precondition)));
    put(1, Condition::Absent).await.unwrap();
    assert!(matches!(put(2, Condition::Absent).await, Err(StoreError::Precondition)));
    assert!(matches!(put(2, Condition::Etag("9".into())).await, Err(StoreError::Precondition)));
    put(2, Condition::Etag("1".into())).await.unwrap();
    put(3, Condition::Always).await.unwrap();
    assert_eq!(store.current(SITE, "a").await.unwrap(), record("a", 3, "3"));
    assert_eq!(store.head(SITE, "a").await.unwrap(), record("a", 3, "3").head);
    let marks: Vec<ObjectMeta> = store.list(format!("replaced/{SITE}").into()).try_collect().await.unwrap();
    assert!(marks.len() >= 2, "the replaced ones are marked: {marks:?}");
    assert!(store.remove(SITE, "a", &Condition::Always).await.unwrap());
    assert!(!store.remove(SITE, "a", &Condition::Always).await.unwrap());
    assert!(matches!(store.head(SITE, "a").await, Err(StoreError::NotFound)));
}

async fn races(store: &Store) {
    let writers = (0..8u8).map(|version| {
        let (store, record) = (store.clone(), record("race", version, &version.to_string()));
        async move { store.publish(SITE, &record, &Condition::Absent).await.is_ok() }
    });
    let won = futures::future::join_all(writers).await.into_iter().filter(|won| *won).count();
    assert_eq!(won, 1);
    let writers = (10..18u8).map(|version| {
        let (store, record) = (store.clone(), record("race", version, &version.to_string()));
        async move { store.publish(SITE, &record, &Condition::Always).await }
    });
    futures::future::join_all(writers).await.into_iter().for_each(|outcome| outcome.unwrap());
    assert!(store.remove(SITE, "race", &Condition::Always).await.unwrap());
}

async fn blobs(store: &Store) {
    let (small, large) = (VersionId::from_bytes([1; 16]), VersionId::from_bytes([2; 16]));
    for (version, length) in [(small, 1_000_u64), (large, 20_000_000)] {
        let mut writer = store.blob(SITE, &version, length).await.unwrap();
        let piece = Bytes::from((0..250u8).cycle().take(1_000).collect::<Vec<u8>>());
        for _ in 0..length / 1_000 {
            writer.write(piece.clone()).await.unwrap();
        }
        assert!(matches!(store.blob_range(SITE, &version, 0..5).await, Err(StoreError::NotFound)), "visible too early");
        writer.finish().await.unwrap();
        assert_eq!(store.blob_range(SITE, &version, 0..3).await.unwrap(), [0u8, 1, 2].as_slice());
        assert_eq!(store.blob_range(SITE, &version, length - 2..length).await.unwrap(), [248u8, 249].as_slice());
        store.delete_version(SITE, &version).await.unwrap();
        store.delete_version(SITE, &version).await.unwrap();
    }
    let mut broken = store.blob(SITE, &large, 20_000_000).await.unwrap();
    broken.write(Bytes::from(vec![0; 9_000_000])).await.unwrap();
    broken.abort().await;
    assert!(matches!(store.blob_range(SITE, &large, 0..5).await, Err(StoreError::NotFound)));
}

async fn walked(store: &Store, prefix: &str, start: &str) -> Vec<String> {
    let mut walk = Walk::start(store.clone(), SITE, prefix).await.unwrap();
    walk.skip_to(start.as_bytes().to_vec());
    let mut keys = Vec::new();
    while let Some((key, _)) = walk.next().await.unwrap() {
        keys.push(key);
    }
    keys
}

async fn walks(store: &Store) {
    let long = "n".repeat(500);
    let mut keys: Vec<String> =
        ["a", "a/b", "a/b/c", "a-b", "a0", "dir/", "dir//x", "é/ü", "z z", "50%"].map(str::to_owned).to_vec();
    keys.extend([
        format!("{long}/{long}"),
        format!("{long}/{long}x"),
        format!("{long}-x"),
        "p".repeat(80),
        format!("{}/q", "p".repeat(80)),
    ]);
    keys.sort();
    for key in &keys {
        store.publish(SITE, &record(key, 1, "e"), &Condition::Always).await.unwrap();
    }
    assert_eq!(walked(store, "", "").await, keys);
    for prefix in ["a", "a/", "a/b", "dir/", "dir//", "n", &format!("{long}/"), "é", "nowhere/"] {
        let expected: Vec<&String> = keys.iter().filter(|key| key.starts_with(prefix)).collect();
        assert_eq!(walked(store, prefix, "").await.iter().collect::<Vec<_>>(), expected, "{prefix}");
    }
    for start in &keys {
        let expected: Vec<&String> = keys.iter().filter(|key| *key >= start).collect();
        assert_eq!(walked(store, "", start).await.iter().collect::<Vec<_>>(), expected, "{start}");
    }
}

fn folder_store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::TempDir::new().unwrap();
    let store = Store::open(&StoreUrl::Folder(folder.path().join("store")), &S3Access::default()).unwrap();
    (folder, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_conforms() {
    let (_folder, store) = folder_store();
    conforms(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_server_conforms() {
    let moto = Moto::start().await;
    conforms(&moto.store("content").await).await;
}

#[tokio::test]
async fn a_store_that_is_not_there_says_so() {
    let (folder, store) = folder_store();
    std::fs::remove_dir_all(folder.path().join("store")).unwrap();
    std::fs::write(folder.path().join("store"), "a file").unwrap();
    assert!(store.publish(SITE, &record("a", 1, "e"), &Condition::Always).await.is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn a_walk_is_a_sorted_list(
        keys in prop::collection::btree_set("[ab/é!-]{1,6}", 1..12),
        prefix in "[ab/]{0,2}",
        start in "[ab/é]{0,3}",
    ) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let (_folder, store) = folder_store();
            for key in &keys {
                store.publish(SITE, &record(key, 1, "e"), &Condition::Always).await.unwrap();
            }
            let expected: Vec<String> = keys.into_iter().filter(|key| key.starts_with(&prefix) && *key >= start).collect();
            assert_eq!(walked(&store, &prefix, &start).await, expected);
        });
    }
}
