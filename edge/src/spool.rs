//! Usage on its way to the books: appended to a segment file as it happens, sealed into numbered batches, sent, deleted.
//!
//! A segment's number *is* its batch's number: `N.open` is appended to, `N.sealed` never changes again, and only sealed
//! segments are sent, in their order. There is always an open segment, so the count survives when everything else was
//! acknowledged. A segment that has ended and cannot be sealed yet holds up all behind it: what was sent is never numbered
//! anew. What is
//! written reaches the kernel and so survives the end of the process; [`Spool::received`] waits for the disk. What readers are
//! sent is written when their connection lets go of it, which is what [`Spool::write_down`] is called before. A record is in exactly
//! one segment, so it is counted once.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use umbel_wire::control::{Batch, Received, Served};

mod batch;
mod segment;
pub(crate) mod send;
mod tally;

use batch::{Amount, ServedKey};
use segment::Record;
use tally::Tally;
pub(crate) use tally::{Lists, Usage};

/// A segment is sealed when it is this long: its batch fits in one message.
const SEGMENT_BYTES: u64 = 1024 * 1024;

/// A segment that cannot be sealed takes no more than this: its batch must stay below the longest message that the control
/// plane takes (16 MiB).
const MAX_SEGMENT_BYTES: u64 = 8 * 1024 * 1024;

/// A segment that has anything in it is sealed this often.
const SEAL_EVERY: Duration = Duration::from_secs(2);

/// Readers' bytes are synced this often, in case the machine loses power.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// How long a receipt may wait for the disk.
const SYNC_PATIENCE: Duration = Duration::from_secs(10);

/// Bytes that are written at a time, mostly no more.
const USUAL: usize = 1024;

/// Sums kept in memory while the disk refuses writes.
const MAX_OWED: usize = 100_000;

/// Why usage was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// Too much waits for the control plane already.
    #[error("usage waits for the control plane and the spool is full")]
    Full,
    /// The disk does not take it.
    #[error("usage cannot be written down")]
    Disk(#[from] io::Error),
    /// The disk takes too long.
    #[error("usage is not on disk in time")]
    Slow,
}

/// The usage spool of one edge.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: PathBuf,
    limit: u64,
    tally: Tally,
    state: Mutex<State>,
    /// After a failed fsync nobody knows what is on the disk: no more receipts are acknowledged.
    broken: AtomicBool,
    synced: watch::Sender<u64>,
    /// Names in the folder may not be on the disk yet.
    renamed: AtomicBool,
    sync_wanted: Notify,
    seal_wanted: Notify,
    sealed: Notify,
}

#[derive(Debug)]
struct State {
    open: Open,
    /// The one before it, while it is being sealed; it takes no more records.
    ended: Option<Open>,
    /// Bytes by number.
    sealed: BTreeMap<u64, u64>,
    /// Records appended since the start.
    written: u64,
    /// Readers' usage that the disk did not take yet.
    owed: BTreeMap<ServedKey, Amount>,
}

#[derive(Debug)]
struct Open {
    number: u64,
    file: Arc<File>,
    length: u64,
    /// There may be half a record behind `length` that could not be cut off.
    torn: bool,
}

impl Spool {
    /// Recovers what is in `folder`: torn tails are cut off, all but the newest segment are sealed. `limit` in bytes.
    pub(crate) fn open(folder: &Path, limit: u64) -> io::Result<Self> {
        umbel_service::files::private_folder(folder)?;
        let (mut open, mut sealed) = listing(folder)?;
        let newest = open.pop_if(|number| sealed.keys().all(|other| other < number));
        for number in open {
            let length = cut_torn_tail(&open_path(folder, number))?;
            fs::rename(open_path(folder, number), sealed_path(folder, number))?;
            sealed.insert(number, length);
        }
        let number = newest.unwrap_or_else(|| sealed.keys().last().map_or(1, |last| last + 1));
        let open = Open::at(folder, number)?;
        sync_folder(folder)?;
        Ok(Self {
            folder: folder.into(),
            limit,
            tally: Tally::default(),
            state: Mutex::new(State { open, ended: None, sealed, written: 0, owed: BTreeMap::new() }),
            broken: AtomicBool::new(false),
            renamed: AtomicBool::new(false),
            synced: watch::Sender::new(0),
            sync_wanted: Notify::new(),
            seal_wanted: Notify::new(),
            sealed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes on disk that the control plane does not have yet.
    pub(crate) fn bytes(&self) -> u64 {
        let state = self.lock();
        state.open.length + state.ended.as_ref().map_or(0, |ended| ended.length) + state.sealed.values().sum::<u64>()
    }

    /// Takes what a reader is sent, which [`Spool::write_down`] writes before it leaves. Never fails: what the disk refuses is
    /// kept in memory and written later.
    pub(crate) fn served(&self, usage: Usage<'_>) {
        if self.tally.add(usage) {
            self.write_down(self.tally.mine());
        }
    }

    /// The lists with what this thread was told that readers are sent, until it is written down.
    pub(crate) fn unwritten(&self) -> Lists {
        self.tally.mine()
    }

    /// What is in these lists reaches the kernel.
    pub(crate) fn write_down(&self, lists: Lists) {
        self.tally.empty(lists, |served| self.write(served));
    }

    fn write(&self, served: &[Served]) {
        let mut state = self.lock();
        state.settle();
        if let Err(error) = state.append(served.iter().cloned().map(Record::from)) {
            warn!(%error, "usage of readers stays in memory until the disk takes it");
            served.iter().for_each(|served| state.owe(served));
        }
        self.wake_if_long(&state);
    }

    /// Takes receipts and returns once they are on the disk.
    pub(crate) async fn received(&self, receipts: Vec<Received>) -> Result<(), SpoolError> {
        if self.broken.load(Ordering::Acquire) {
            return Err(SpoolError::Disk(io::Error::other("an earlier write to the spool failed")));
        }
        if self.bytes() >= self.limit {
            error!(limit = self.limit, "the usage spool is full: receipts are refused until the control plane is back");
            return Err(SpoolError::Full);
        }
        let written = {
            let mut state = self.lock();
            state.append(receipts.into_iter().map(Record::from))?;
            self.wake_if_long(&state);
            state.written
        };
        self.durable(written).await
    }

    fn wake_if_long(&self, state: &State) {
        if state.open.length >= SEGMENT_BYTES {
            self.seal_wanted.notify_one();
        }
    }

    async fn durable(&self, written: u64) -> Result<(), SpoolError> {
        let mut synced = self.synced.subscribe();
        self.sync_wanted.notify_one();
        match timeout(SYNC_PATIENCE, synced.wait_for(|synced| *synced >= written)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(SpoolError::Slow),
        }
    }

    /// Syncs and seals until `shutdown`; the only one who does either, so that they never overlap.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut syncs = tokio::time::interval(SYNC_EVERY);
        let mut seals = tokio::time::interval(SEAL_EVERY);
        loop {
            let job: fn(&Self) -> io::Result<()> = tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.sync_wanted.notified() => Self::sync,
                () = self.seal_wanted.notified() => Self::seal,
                _ = syncs.tick() => Self::sync,
                _ = seals.tick() => Self::seal,
            };
            self.off_thread(job).await;
        }
        self.off_thread(Self::sync).await;
    }

    async fn off_thread(self: &Arc<Self>, job: fn(&Self) -> io::Result<()>) {
        let spool = self.clone();
        let done = tokio::task::spawn_blocking(move || job(&spool)).await;
        if let Ok(Err(error)) = done {
            error!(%error, "the usage spool cannot be synced: receipts are refused from now on");
            self.broken.store(true, Ordering::Release);
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.write_down(Lists::MAX);
        let (files, written) = {
            let mut state = self.lock();
            state.settle();
            let segments = state.ended.iter().chain([&state.open]);
            (segments.map(|segment| segment.file.clone()).collect::<Vec<_>>(), state.written)
        };
        if *self.synced.borrow() < written {
            // Before anything else can: a second fsync may succeed without what the first one lost.
            let broken = |_: &io::Error| self.broken.store(true, Ordering::Release);
            files.iter().try_for_each(|file| file.sync_data()).inspect_err(broken)?;
            self.sync_names().inspect_err(broken)?;
            self.publish(written);
        }
        Ok(())
    }

    fn publish(&self, written: u64) {
        if self.broken.load(Ordering::Acquire) {
            return;
        }
        self.synced.send_if_modified(|synced| {
            let news = written > *synced;
            *synced = written.max(*synced);
            news
        });
    }

    fn sync_names(&self) -> io::Result<()> {
        if self.renamed.swap(false, Ordering::AcqRel) {
            sync_folder(&self.folder).inspect_err(|_| self.renamed.store(true, Ordering::Release))?;
        }
        Ok(())
    }

    /// Ends the open segment, if there is anything in it, and begins the next; or goes on where it failed before.
    pub(crate) fn seal(&self) -> io::Result<()> {
        self.end_segment();
        self.sync()?;
        self.name_sealed()
    }

    fn end_segment(&self) {
        self.write_down(Lists::MAX);
        let mut state = self.lock();
        if state.ended.is_some() || state.open.length == 0 || !state.open.is_cut() {
            return;
        }
        match Open::at(&self.folder, state.open.number + 1) {
            Ok(next) => {
                self.renamed.store(true, Ordering::Release);
                state.ended = Some(std::mem::replace(&mut state.open, next));
            }
            // A full disk, say. Nothing is in doubt: the present segment goes on.
            Err(error) => warn!(%error, "no new usage segment can be begun"),
        }
    }

    fn name_sealed(&self) -> io::Result<()> {
        let Some((number, length)) = self.lock().ended.as_ref().map(|ended| (ended.number, ended.length)) else {
            return Ok(());
        };
        if let Err(error) = fs::rename(open_path(&self.folder, number), sealed_path(&self.folder, number)) {
            // All of it is on the disk, and nothing overtakes it.
            warn!(%error, number, "a usage segment cannot be sealed yet");
            return Ok(());
        }
        self.renamed.store(true, Ordering::Release);
        {
            let mut state = self.lock();
            state.ended = None;
            state.sealed.insert(number, length);
        }
        self.sync_names()?;
        self.sealed.notify_one();
        Ok(())
    }

    /// The oldest sealed batch. The one before it is gone from the disk for sure: if it came back after a loss of power, it would
    /// be taken for another one.
    pub(crate) fn oldest(&self) -> io::Result<Option<Batch>> {
        self.sync_names()?;
        let Some(number) = self.lock().sealed.keys().next().copied() else { return Ok(None) };
        let bytes = fs::read(sealed_path(&self.folder, number))?;
        let (records, good) = segment::decode(&bytes);
        if good < bytes.len() {
            error!(number, lost = bytes.len() - good, "a sealed usage segment is damaged");
        }
        Ok(Some(batch::build(number, records)))
    }

    /// The control plane has everything up to `number`: the batch is gone, on the disk, before the next one is sent.
    pub(crate) fn acknowledged(&self, number: u64) -> io::Result<()> {
        // What cannot be removed is sent again under its number, which changes nothing.
        fs::remove_file(sealed_path(&self.folder, number))?;
        self.renamed.store(true, Ordering::Release);
        self.lock().sealed.remove(&number);
        self.sync_names()
    }

    /// The control plane's count is another than ours (this spool was lost once): everything here moves behind
    /// `last_applied`, in order. The caller knows that none of it was applied.
    pub(crate) fn continue_after(&self, last_applied: u64) -> io::Result<()> {
        let mut state = self.lock();
        if state.ended.is_some() {
            return Err(io::Error::other("a usage segment is being sealed"));
        }
        let numbers: Vec<u64> = state.sealed.keys().copied().collect();
        let open = state.open.number;
        info!(last_applied, segments = numbers.len(), "usage batches are numbered anew");
        self.renamed.store(true, Ordering::Release);
        let first = last_applied + 1;
        let moves: Vec<(u64, u64)> = numbers.iter().copied().zip(first..).collect();
        let new_open = first + moves.len() as u64;
        // Upwards from the top, downwards from the bottom: no name is ever taken twice.
        if new_open > open {
            self.rename_open(&mut state, new_open)?;
            moves.iter().rev().try_for_each(|pair| self.rename_sealed(&mut state, *pair))?;
        } else {
            moves.iter().try_for_each(|pair| self.rename_sealed(&mut state, *pair))?;
            self.rename_open(&mut state, new_open)?;
        }
        self.sync_names()
    }

    fn rename_open(&self, state: &mut State, number: u64) -> io::Result<()> {
        fs::rename(open_path(&self.folder, state.open.number), open_path(&self.folder, number))?;
        state.open.number = number;
        Ok(())
    }

    fn rename_sealed(&self, state: &mut State, (old, new): (u64, u64)) -> io::Result<()> {
        let (from, to) = (sealed_path(&self.folder, old), sealed_path(&self.folder, new));
        if old == new {
            return Ok(());
        }
        if to.try_exists()? {
            return Err(io::Error::other(format!("{} is in the way", to.display())));
        }
        fs::rename(from, to)?;
        let length = state.sealed.remove(&old);
        state.sealed.insert(new, length.unwrap_or(0));
        Ok(())
    }

    /// Returns when a segment may have been sealed since the last call.
    pub(crate) async fn until_sealed(&self) {
        self.sealed.notified().await;
    }
}

impl State {
    fn append(&mut self, records: impl IntoIterator<Item = Record>) -> io::Result<()> {
        if !self.open.is_cut() {
            return Err(io::Error::other("the usage segment ends in a torn record"));
        }
        if self.open.length >= MAX_SEGMENT_BYTES {
            return Err(io::Error::other("the usage segment is full and no new one has been begun"));
        }
        let mut bytes = Vec::with_capacity(USUAL);
        for record in records {
            segment::encode(&record, &mut bytes);
        }
        if let Err(error) = (&*self.open.file).write_all(&bytes) {
            // Half a record would hide all that come after it.
            self.open.torn = self.open.file.set_len(self.open.length).is_err();
            return Err(error);
        }
        self.open.length += bytes.len() as u64;
        self.written += 1;
        Ok(())
    }

    fn owe(&mut self, served: &Served) {
        let key = batch::key(served);
        if self.owed.len() >= MAX_OWED && !self.owed.contains_key(&key) {
            error!(
                site = served.site_id,
                bytes = served.bytes,
                "usage of a reader is lost: no disk and no room in memory"
            );
            return;
        }
        let sum = self.owed.entry(key).or_default();
        *sum = (sum.0 + served.requests, sum.1 + served.bytes);
    }

    fn settle(&mut self) {
        while let Some((key, amount)) = self.owed.pop_first() {
            let served = batch::served(key, amount);
            if self.append([Record::from(served.clone())]).is_err() {
                return self.owe(&served);
            }
        }
    }
}

impl Open {
    fn at(folder: &Path, number: u64) -> io::Result<Self> {
        let path = open_path(folder, number);
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let length = cut_torn_tail(&path)?;
        Ok(Self { number, file: Arc::new(file), length, torn: false })
    }

    /// Cuts off what is behind `length`, if there is anything. Whether nothing is: whole records there are counted elsewhere.
    fn is_cut(&mut self) -> bool {
        self.torn = self.torn && self.file.set_len(self.length).is_err();
        !self.torn
    }
}

fn open_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:020}.open"))
}

fn sealed_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:020}.sealed"))
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Numbers of the open segments, in order, and the sealed ones with their bytes. Other files are not ours.
fn listing(folder: &Path) -> io::Result<(Vec<u64>, BTreeMap<u64, u64>)> {
    let (mut open, mut sealed) = (Vec::new(), BTreeMap::new());
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((number, kind)) = name.to_str().and_then(|name| name.split_once('.')) else { continue };
        let Ok(number) = number.parse() else { continue };
        match kind {
            "open" => open.push(number),
            "sealed" => drop(sealed.insert(number, entry.metadata()?.len())),
            _ => {}
        }
    }
    open.sort_unstable();
    Ok((open, sealed))
}

/// Leaves only whole records in the file; returns its length.
fn cut_torn_tail(path: &Path) -> io::Result<u64> {
    let bytes = fs::read(path)?;
    let (_, good) = segment::decode(&bytes);
    if good < bytes.len() {
        warn!(path = %path.display(), bytes = bytes.len() - good, "cut off the torn end of a usage segment");
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(good as u64)?;
        file.sync_all()?;
    }
    Ok(good as u64)
}

#[cfg(test)]
mod tests;
