use std::sync::atomic::Ordering;

use proptest::prelude::*;
use umbel_wire::control::BatchAck;

use super::{segment::Entry, *};

fn record(path: &str, bytes: u64) -> Record {
    Served::from(usage(path, bytes)).into()
}

fn usage(path: &str, bytes: u64) -> Usage<'_> {
    Usage { hour: 3600, site_id: "s", path, status: 200, requests: 1, bytes }
}

impl Spool {
    /// What a reader was sent is in the kernel.
    fn serve(&self, path: &str, bytes: u64) {
        self.served(usage(path, bytes));
        self.write_down(Lists::MAX);
    }
}

fn receipt(ticket: u8, bytes: u64) -> Received {
    Received { ticket_id: vec![ticket; 16].into(), issuer: "e".into(), bytes, ..Received::default() }
}

fn spool(folder: &Path) -> Spool {
    Spool::open(folder, 1 << 20).unwrap()
}

fn sum(batch: &Batch) -> u64 {
    batch.served.iter().map(|served| served.bytes).sum()
}

/// Seals and takes out everything there is: numbers and bytes of each batch.
fn drain(spool: &Spool) -> Vec<(u64, u64)> {
    spool.seal().unwrap();
    let mut batches = Vec::new();
    while let Some(batch) = spool.oldest().unwrap() {
        batches.push((batch.number, sum(&batch)));
        spool.acknowledged(batch.number).unwrap();
    }
    batches
}

#[test]
fn numbers_go_on_where_they_stopped_and_content_stays() {
    let folder = tempfile::tempdir().unwrap();
    let first = spool(folder.path());
    first.serve("/a", 1);
    first.seal().unwrap();
    let sent = first.oldest().unwrap().unwrap();
    first.serve("/a", 10);
    drop(first);
    // Sent, not acknowledged, killed: the same number is the same content.
    let second = spool(folder.path());
    assert_eq!(second.oldest().unwrap().unwrap(), sent);
    assert_eq!(drain(&second), [(1, 1), (2, 10)]);
    drop(second);
    // Everything acknowledged, killed: the count is still there.
    let third = spool(folder.path());
    third.serve("/a", 100);
    assert_eq!(drain(&third), [(3, 100)]);
}

#[test]
fn a_kill_in_the_middle_of_sealing_loses_and_repeats_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let first = spool(folder.path());
    first.serve("/a", 1);
    drop(first);
    // As far as `seal` gets before it renames.
    fs::write(open_path(folder.path(), 2), b"").unwrap();
    let second = spool(folder.path());
    second.serve("/a", 10);
    assert_eq!(drain(&second), [(1, 1), (2, 10)]);
}

#[test]
fn sums_and_maxima() {
    let records = vec![
        record("/a", 1),
        receipt(1, 5).into(),
        record("/a", 2),
        receipt(1, 9).into(),
        receipt(1, 7).into(),
        receipt(2, 1).into(),
        record("/b", 4),
    ];
    let batch = batch::build(7, records);
    let served: Vec<_> =
        batch.served.iter().map(|served| (served.path.as_str(), served.requests, served.bytes)).collect();
    assert_eq!(served, [("/a", 2, 3), ("/b", 1, 4)]);
    assert_eq!(batch.received.iter().map(|received| received.bytes).collect::<Vec<_>>(), [9, 1]);
}

#[tokio::test]
async fn a_full_spool_refuses_receipts_and_keeps_taking_readers() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Arc::new(Spool::open(folder.path(), 60).unwrap());
    let end = CancellationToken::new();
    let running = tokio::spawn(spool.clone().run(end.clone()));
    spool.received(vec![receipt(1, 1)]).await.unwrap();
    spool.serve("/a", 100);
    spool.serve("/a", 10);
    assert!(matches!(spool.received(vec![receipt(2, 1)]).await, Err(SpoolError::Full)));
    end.cancel();
    running.await.unwrap();
    spool.seal().unwrap();
    let batch = spool.oldest().unwrap().unwrap();
    assert_eq!((batch.received.len(), sum(&batch)), (1, 110));
}

#[tokio::test]
async fn receipts_wait_for_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Arc::new(spool(folder.path()));
    let mut waiting = std::pin::pin!(spool.received(vec![receipt(1, 1)]));
    assert!(futures::poll!(waiting.as_mut()).is_pending(), "nobody has synced");
    spool.sync().unwrap();
    waiting.await.unwrap();
}

#[test]
fn a_broken_spool_acknowledges_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let spool = spool(folder.path());
    spool.broken.store(true, Ordering::Release);
    let outcome = futures::executor::block_on(spool.received(vec![receipt(1, 1)]));
    assert!(matches!(outcome, Err(SpoolError::Disk(_))));
}

#[test]
fn a_spool_that_was_lost_continues_the_old_count() {
    let folder = tempfile::tempdir().unwrap();
    let spool = spool(folder.path());
    for bytes in [1, 10] {
        spool.serve("/a", bytes);
        spool.seal().unwrap();
    }
    spool.serve("/a", 100);
    spool.continue_after(57).unwrap();
    assert_eq!(drain(&spool), [(58, 1), (59, 10), (60, 100)]);
    spool.serve("/a", 1000);
    spool.seal().unwrap();
    spool.continue_after(4).unwrap();
    assert_eq!(drain(&spool), [(5, 1000)]);
}

#[tokio::test]
async fn answers_of_the_control_plane() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Arc::new(spool(folder.path()));
    let settle = |number, ack| send::settle(&spool, number, ack);
    for bytes in [1, 10] {
        spool.serve("/a", bytes);
        spool.seal().unwrap();
    }
    assert!(settle(1, Err(tonic::Status::unavailable("away"))).await.is_err());
    settle(1, Ok(BatchAck { last_applied: 1 })).await.unwrap();
    assert!(settle(2, Err(tonic::Status::failed_precondition("waiting for 2, the last applied is 1"))).await.is_err());
    assert_eq!(spool.oldest().unwrap().unwrap().number, 2, "still there");
    settle(2, Err(tonic::Status::failed_precondition("last applied: 0"))).await.unwrap();
    assert_eq!(spool.oldest().unwrap().unwrap().number, 1, "the control plane was restored from before");
    settle(1, Ok(BatchAck { last_applied: 9 })).await.unwrap();
    assert_eq!(drain(&spool), [(10, 10)]);
}

/// A folder where a file is to be: nobody renames a file to it or removes it as one, not even root.
struct InTheWay(PathBuf);

impl InTheWay {
    fn of(path: PathBuf) -> Self {
        if path.is_file() {
            fs::rename(&path, path.with_extension("aside")).unwrap();
        }
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn remove(self) {
        fs::remove_dir(&self.0).unwrap();
        if self.0.with_extension("aside").exists() {
            fs::rename(self.0.with_extension("aside"), &self.0).unwrap();
        }
    }
}

/// A spool whose first segment could not be sealed, with usage behind it, and what is in the way.
fn unsealed(folder: &Path) -> (Spool, InTheWay) {
    let first = spool(folder);
    first.serve("/a", 1);
    let obstacle = InTheWay::of(sealed_path(folder, 1));
    first.seal().unwrap();
    first.serve("/a", 10);
    first.seal().unwrap();
    (first, obstacle)
}

#[test]
fn a_segment_that_cannot_be_sealed_holds_up_those_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let (first, obstacle) = unsealed(folder.path());
    assert_eq!(first.oldest().unwrap(), None);
    assert!(first.continue_after(7).is_err(), "its number is not settled");
    first.serve("/a", 100);
    assert!(first.bytes() > 0);
    obstacle.remove();
    first.seal().unwrap();
    first.seal().unwrap();
    assert_eq!(drain(&first), [(1, 1), (2, 110)]);
}

#[test]
fn a_segment_that_could_not_be_sealed_is_found_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let (first, obstacle) = unsealed(folder.path());
    drop(first);
    obstacle.remove();
    assert_eq!(drain(&spool(folder.path())), [(1, 1), (2, 10)]);
}

#[test]
fn after_a_failed_fsync_the_order_stays_and_no_receipt_counts_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let spool = spool(folder.path());
    spool.serve("/a", 1);
    // Takes writes and refuses fsync.
    let null = Arc::new(OpenOptions::new().write(true).open("/dev/null").unwrap());
    let real = std::mem::replace(&mut spool.lock().open.file, null);
    assert!(spool.seal().is_err());
    spool.serve("/a", 10);
    assert!(spool.seal().is_err() && spool.sync().is_err());
    assert_eq!(spool.oldest().unwrap(), None);
    spool.lock().ended.as_mut().unwrap().file = real;
    spool.seal().unwrap();
    assert_eq!(*spool.synced.borrow(), 0);
    assert_eq!(drain(&spool), [(1, 1), (2, 10)]);
}

#[test]
fn a_batch_that_cannot_be_removed_is_not_overtaken() {
    let folder = tempfile::tempdir().unwrap();
    let spool = spool(folder.path());
    for bytes in [1, 10] {
        spool.serve("/a", bytes);
        spool.seal().unwrap();
    }
    let obstacle = InTheWay::of(sealed_path(folder.path(), 1));
    assert!(spool.acknowledged(1).is_err());
    obstacle.remove();
    assert_eq!(drain(&spool), [(1, 1), (2, 10)]);
}

#[test]
fn numbering_anew_goes_on_where_it_failed() {
    let folder = tempfile::tempdir().unwrap();
    for last in [57, 0] {
        let spool = spool(folder.path());
        let before = spool.lock().open.number;
        for bytes in [1, 10] {
            spool.serve("/a", bytes);
            spool.seal().unwrap();
        }
        spool.serve("/a", 100);
        let obstacle = InTheWay::of(sealed_path(folder.path(), last + if last > before { 1 } else { 2 }));
        assert!(spool.continue_after(last).is_err());
        obstacle.remove();
        spool.continue_after(last).unwrap();
        assert_eq!(drain(&spool), [(last + 1, 1), (last + 2, 10), (last + 3, 100)]);
    }
}

#[test]
fn every_cut_leaves_the_whole_records_before_it() {
    let mut bytes = Vec::new();
    let mut ends = vec![0];
    for length in [1u64, 2000, 3] {
        segment::encode(&record(&"p".repeat(length as usize % 70), length), &mut bytes);
        ends.push(bytes.len());
    }
    for cut in 0..=bytes.len() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(open_path(folder.path(), 1), &bytes[..cut]).unwrap();
        let spool = spool(folder.path());
        let whole = ends.iter().filter(|end| **end <= cut && **end > 0).count();
        spool.serve("/new", 7);
        spool.seal().unwrap();
        let batch = spool.oldest().unwrap().unwrap();
        let requests: u64 = batch.served.iter().map(|served| served.requests).sum();
        assert_eq!(requests, whole as u64 + 1, "cut at {cut}");
    }
}

fn any_record() -> impl Strategy<Value = Record> {
    let served = ("[a-z/]{0,40}", any::<u64>()).prop_map(|(path, bytes)| record(&path, bytes));
    prop_oneof![served, (any::<u8>(), any::<u64>()).prop_map(|(ticket, bytes)| receipt(ticket, bytes).into())]
}

proptest! {
    #[test]
    fn torn_or_damaged_segments_give_a_prefix(
        records in proptest::collection::vec(any_record(), 0..8),
        cut in any::<proptest::sample::Index>(),
        damage in proptest::option::of((any::<proptest::sample::Index>(), 1u8..)),
    ) {
        let mut bytes = Vec::new();
        records.iter().for_each(|record| segment::encode(record, &mut bytes));
        bytes.truncate(cut.index(bytes.len() + 1));
        if let (Some((at, mask)), false) = (damage, bytes.is_empty()) {
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
        }
        let (found, good) = segment::decode(&bytes);
        prop_assert!(good <= bytes.len());
        prop_assert_eq!(&found[..], &records[..found.len()]);
    }

    #[test]
    fn garbage_does_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let (found, good) = segment::decode(&bytes);
        prop_assert!(good <= bytes.len());
        let entries = found.iter().filter(|record| matches!(record.entry, Some(Entry::Served(_)))).count();
        prop_assert!(entries <= found.len());
    }
}
