use std::path::{Path, PathBuf};

use umbel_content::{ChunkLayout, ContentKey, Draft, Sealer, SigningKey, VersionId};

use super::*;

const CHUNK: u32 = 64 * 1024;

struct Sample {
    record: VersionRecord,
    manifest: Manifest,
    sealed: Vec<Vec<u8>>,
}

fn sample(number: u8, length: usize) -> Sample {
    let (key, site_key) = (ContentKey::from_bytes([number; 32]), SigningKey::from_seed(&[7; 32]));
    let version = VersionId::from_bytes([number; 16]);
    let layout = ChunkLayout::new(length as u64, CHUNK).unwrap();
    let sealer = Sealer::new(&key, version);
    let plain = vec![number; length];
    let sealed: Vec<Vec<u8>> = plain
        .chunks(CHUNK as usize)
        .zip(0..)
        .map(|(plain, index)| sealer.seal(ChunkIndex::new(index), plain.to_vec()))
        .collect();
    let signed = Draft {
        site: "site".parse().unwrap(),
        path: umbel_content::ObjectPath::from_decoded("/object").unwrap(),
        version_id: version,
        media_type: "text/plain".into(),
        layout,
        names: sealed.iter().map(|sealed| umbel_content::ChunkName::of(sealed)).collect(),
        key_id: key.id(),
        created_ms: 0,
        fields: Vec::new(),
    }
    .sign(&site_key)
    .unwrap();
    let manifest = signed.verify(&site_key.verifying_key()).unwrap();
    let record = record(&signed, site_key.verifying_key().as_bytes(), "site id", "edge", "ticket");
    Sample { record, manifest, sealed }
}

fn ticket(number: u8) -> Arc<TicketText> {
    Arc::new(TicketText { id: [number; 16], text: format!("ticket {number}"), expires: u64::MAX / 2, sender: None })
}

async fn write(store: &Store, lease: &Lease, sample: &Sample, chunk: u32, number: u8) -> bool {
    let sealed = sample.sealed[chunk as usize].clone().into();
    let arrival = Arrival { version: lease.0.clone(), chunk: ChunkIndex::new(chunk), sealed, ticket: ticket(number) };
    store.write(arrival).await.unwrap()
}

fn owed(store: &Store) -> Vec<(u8, u64, u64)> {
    let mut owed: Vec<_> =
        store.owed().iter().map(|ticket| (ticket.id[0], ticket.bytes, ticket.acknowledged)).collect();
    owed.sort_unstable();
    owed
}

#[tokio::test]
async fn a_chunk_is_credited_once_and_survives_a_restart() {
    let state = tempfile::tempdir().unwrap();
    let sample = sample(1, 3 * CHUNK as usize + 5);
    let store = Store::open(state.path(), u64::MAX).unwrap();
    let lease = store.adopt(sample.record.clone(), sample.manifest.clone()).await.unwrap();
    assert!(write(&store, &lease, &sample, 0, 1).await);
    assert!(!write(&store, &lease, &sample, 0, 2).await, "a second copy counts for nobody");
    assert!(write(&store, &lease, &sample, 3, 2).await);
    assert_eq!(owed(&store), [(1, u64::from(CHUNK), 0), (2, 5, 0)]);
    store.acknowledge(vec![([1; 16], u64::from(CHUNK))]).await.unwrap();
    assert!(write(&store, &lease, &sample, 1, 1).await);
    assert_eq!(owed(&store), [(1, u64::from(CHUNK) * 2, u64::from(CHUNK)), (2, 5, 0)]);
    drop(lease);
    store.close().await;
    drop(store);
    let store = Store::open(state.path(), u64::MAX).unwrap();
    assert_eq!(owed(&store), [(1, u64::from(CHUNK) * 2, u64::from(CHUNK)), (2, 5, 0)]);
    let version = store.version(&sample.manifest.id()).unwrap();
    assert_eq!(version.held().iter().map(ChunkIndex::get).collect::<Vec<_>>(), [0, 1, 3]);
    assert_eq!(store.read(&version, ChunkIndex::new(3)).unwrap(), sample.sealed[3]);
    assert!(matches!(store.read(&version, ChunkIndex::new(2)), Err(StoreError::NotHeld(_))));
    store.close().await;
}

fn blob(state: &Path) -> PathBuf {
    let folder = std::fs::read_dir(state.join("chunks")).unwrap().next().unwrap().unwrap().path();
    std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path()
}

#[tokio::test]
async fn damage_on_disk_is_found_and_forgotten() {
    let state = tempfile::tempdir().unwrap();
    let sample = sample(1, 2 * CHUNK as usize);
    let store = Store::open(state.path(), u64::MAX).unwrap();
    let lease = store.adopt(sample.record.clone(), sample.manifest.clone()).await.unwrap();
    write(&store, &lease, &sample, 0, 1).await;
    write(&store, &lease, &sample, 1, 1).await;
    std::fs::write(blob(state.path()), vec![0; CHUNK as usize]).unwrap();
    assert!(matches!(store.read(&lease.0, ChunkIndex::new(0)), Err(StoreError::NotHeld(_))));
    assert!(!lease.0.held().contains(ChunkIndex::new(0)));
    assert!(write(&store, &lease, &sample, 0, 2).await, "fetched anew under another ticket");
    assert_eq!(store.read(&lease.0, ChunkIndex::new(0)).unwrap(), sample.sealed[0]);
    store.close().await;
}

#[tokio::test]
async fn the_quota_makes_room_by_age_and_never_takes_what_is_in_use() {
    let state = tempfile::tempdir().unwrap();
    let size = CHUNK as usize;
    let store = Store::open(state.path(), 3 * (size as u64 + 16)).unwrap();
    let samples: Vec<Sample> = (1..=4).map(|number| sample(number, size)).collect();
    for sample in &samples[..3] {
        let lease = store.adopt(sample.record.clone(), sample.manifest.clone()).await.unwrap();
        write(&store, &lease, sample, 0, 1).await;
    }
    let _in_use = store.adopt(samples[0].record.clone(), samples[0].manifest.clone()).await.unwrap();
    let lease = store.adopt(samples[3].record.clone(), samples[3].manifest.clone()).await.unwrap();
    write(&store, &lease, &samples[3], 0, 1).await;
    let held: Vec<bool> = samples.iter().map(|sample| store.version(&sample.manifest.id()).is_some()).collect();
    assert_eq!(held, [true, false, true, true]);
    assert_eq!(store.disk().0, 3 * (size as u64 + 16));
    let large = sample(9, 2 * size);
    let refused = store.adopt(large.record, large.manifest).await;
    assert!(matches!(refused, Err(StoreError::Quota { .. })), "two of three places are in use");
    drop(lease);
    assert_eq!(store.flush().await.unwrap(), 2);
    store.close().await;
}

#[tokio::test]
async fn two_that_come_at_once_do_not_share_one_place() {
    let state = tempfile::tempdir().unwrap();
    let size = CHUNK as usize;
    let store = Store::open(state.path(), size as u64 + 16).unwrap();
    let [old, one, other] = [1, 2, 3].map(|number| sample(number, size));
    let lease = store.adopt(old.record.clone(), old.manifest.clone()).await.unwrap();
    write(&store, &lease, &old, 0, 1).await;
    drop(lease);
    let (one, other) = tokio::join!(store.adopt(one.record, one.manifest), store.adopt(other.record, other.manifest));
    let refused = [&one, &other].into_iter().filter(|taken| matches!(taken, Err(StoreError::Quota { .. }))).count();
    assert_eq!(refused, 1, "both wait for the same place: {one:?} {other:?}");
    assert_eq!(store.versions().len(), 1);
    store.close().await;
}

#[tokio::test]
async fn the_rest_of_a_version_needs_room_too() {
    let state = tempfile::tempdir().unwrap();
    let size = CHUNK as usize;
    let store = Store::open(state.path(), 3 * (size as u64 + 16)).unwrap();
    let [part, full] = [1, 2].map(|number| sample(number, 2 * size));
    let lease = store.adopt(part.record.clone(), part.manifest.clone()).await.unwrap();
    write(&store, &lease, &part, 0, 1).await;
    drop(lease);
    let lease = store.adopt(full.record.clone(), full.manifest.clone()).await.unwrap();
    write(&store, &lease, &full, 0, 1).await;
    write(&store, &lease, &full, 1, 1).await;
    let refused = store.adopt(part.record.clone(), part.manifest.clone()).await;
    assert!(matches!(refused, Err(StoreError::Quota { .. })), "its second chunk has no place");
    drop(lease);
    let resumed = store.adopt(part.record, part.manifest).await.unwrap();
    assert!(resumed.0.held().contains(ChunkIndex::new(0)), "what is here stays");
    assert!(store.version(&full.manifest.id()).is_none());
    store.close().await;
}

#[tokio::test]
async fn a_state_folder_serves_one_agent() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path(), 1).unwrap();
    assert!(matches!(Store::open(state.path(), 1), Err(StoreError::InUse)));
    store.close().await;
}

fn ticket_until(number: u8, expires: u64) -> Arc<TicketText> {
    Arc::new(TicketText { expires, ..ticket(number).as_ref().clone() })
}

#[tokio::test]
async fn settled_tickets_are_forgotten_when_they_are_long_over_and_owed_ones_never() {
    let state = tempfile::tempdir().unwrap();
    let sample = sample(1, 6 * CHUNK as usize);
    let store = Store::open(state.path(), u64::MAX).unwrap();
    let lease = store.adopt(sample.record.clone(), sample.manifest.clone()).await.unwrap();
    let now = unix_now();
    for (chunk, expires) in [(0, 1), (1, 1), (2, now), (3, u64::MAX)] {
        let sealed = sample.sealed[chunk as usize].clone().into();
        let (version, ticket) = (lease.0.clone(), ticket_until(chunk, expires));
        let arrival = Arrival { version, chunk: ChunkIndex::new(chunk.into()), sealed, ticket };
        assert!(store.write(arrival).await.unwrap());
    }
    let taken = [0, 2, 3].map(|number| ([number; 16], u64::from(CHUNK)));
    store.acknowledge(taken.to_vec()).await.unwrap();
    // Each is answered after the commit of what was queued before it.
    assert!(write(&store, &lease, &sample, 4, 9).await);
    store.send(Command::Prune(now)).await.unwrap();
    assert!(write(&store, &lease, &sample, 5, 9).await);
    let known = |store: &Store| [0, 1, 2, 3].map(|number| store.account(&[number; 16]).is_some());
    assert_eq!(known(&store), [false, true, true, true]);
    assert_eq!(owed(&store), [(1, u64::from(CHUNK), 0), (9, u64::from(CHUNK) * 2, 0)]);
    assert_eq!(store.owed_count(), 2);
    store.acknowledge(vec![([1; 16], u64::from(CHUNK))]).await.unwrap();
    drop(lease);
    store.close().await;
    drop(store);
    let store = Store::open(state.path(), u64::MAX).unwrap();
    assert_eq!(known(&store), [false, false, true, true], "opening prunes");
    store.close().await;
    drop(store);
    let store = Store::open(state.path(), u64::MAX).unwrap();
    assert_eq!(known(&store), [false, false, true, true], "on disk, too");
    store.close().await;
}

/// The totals as they would be if they were added up anew.
fn check_totals(store: &Store, after: &str) {
    let versions = store.versions();
    let held = |version: &Arc<Version>| -> u64 {
        version.held().iter().filter_map(|chunk| version.manifest.layout().sealed_len(chunk)).map(u64::from).sum()
    };
    assert_eq!(store.disk().0, versions.iter().map(held).sum::<u64>(), "{after}");
    let (busy, idle): (Vec<_>, Vec<_>) = versions.iter().partition(|version| version.in_use());
    let reserved: u64 = busy.iter().map(|version| version.manifest.layout().sealed_length()).sum();
    assert_eq!(store.shared.shelf().reserved(), (reserved, idle.into_iter().map(held).sum()), "{after}");
}

#[tokio::test]
async fn running_totals_are_what_adding_up_gives() {
    let state = tempfile::tempdir().unwrap();
    let [one, other] = [1, 2].map(|number| sample(number, 2 * CHUNK as usize));
    let store = Store::open(state.path(), u64::MAX).unwrap();
    assert!(!store.holds_path("/object"));
    let lease = store.adopt(one.record.clone(), one.manifest.clone()).await.unwrap();
    check_totals(&store, "adopted");
    assert!(!store.holds_path("/object"), "nothing of it yet");
    write(&store, &lease, &one, 0, 1).await;
    check_totals(&store, "written");
    assert!(store.holds_path("/object"));
    let again = lease.clone();
    drop(lease);
    check_totals(&store, "cloned");
    let version = again.0.clone();
    drop(again);
    check_totals(&store, "idle");
    let late = Arrival { version, chunk: ChunkIndex::new(1), sealed: one.sealed[1].clone().into(), ticket: ticket(1) };
    assert!(store.write(late).await.unwrap());
    check_totals(&store, "written when nobody used it any more");
    let lease = store.adopt(other.record.clone(), other.manifest.clone()).await.unwrap();
    write(&store, &lease, &other, 0, 1).await;
    drop(lease);
    std::fs::remove_dir_all(state.path().join("chunks")).unwrap();
    let version = store.version(&one.manifest.id()).unwrap();
    assert!(store.read(&version, ChunkIndex::new(0)).is_err());
    check_totals(&store, "damaged");
    assert_eq!(store.flush().await.unwrap(), 2);
    check_totals(&store, "flushed");
    assert!(!store.holds_path("/object"));
    assert_eq!((store.disk().0, store.count()), (0, 0));
    store.close().await;
}
