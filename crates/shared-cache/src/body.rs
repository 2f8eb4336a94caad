//! Bodies of stored responses. A body is read while it still comes in, by any number of readers, none of whom can hold up
//! another; it takes little memory however long it is.
//!
//! Short bodies lie in memory beside their response. Longer ones are cut into pieces that go into the store of bodies
//! (memory and disk) as they fill up; the body's own are only the piece under way and, while it comes in, the last ones before
//! it: its quickest reader depends neither on the disk, which may be too slow to take every piece, nor on what else is stored.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

use self::tail::Tail;
use crate::{
    elsewhere::{Elsewhere, Keeping, Kept},
    key::Key,
    pieces::Pieces,
};

mod tail;

/// Length of a piece; the last may be shorter.
const PIECE: usize = 256 * 1024;

/// Bodies up to this long are no pieces.
pub(crate) const SHORT: usize = 64 * 1024;

/// How far a body may come in ahead of its quickest reader.
const AHEAD: u64 = 4 * 1024 * 1024;

/// So long a body waits for a disk that is behind. The store drops what it has no room for, and a body with a hole is of no use.
const DISK_PATIENCE: Duration = Duration::from_secs(5);

/// Nobody begins to wait for a body that has brought nothing for so long: it may be dead, and whoever asks anew is not.
const PATIENCE: Duration = Duration::from_secs(5);

/// A body of which nobody knows how long it is may have no end. So much of it is taken in beyond what the last reader has seen; then
/// it is given up if there is none. Nearly all pages that servers make as they send them are shorter, and one that is not costs another
/// question; it must be little beside what a store of bodies holds, or one endless answer would put everything else out.
const UNREAD: u64 = 64 * 1024 * 1024;

/// Why a body cannot be read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It never came to its end.
    #[error("the body was cut off on its way here")]
    CutOff,
    /// A piece was evicted, or cannot be read.
    #[error("a piece of the body is not in the store any more")]
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    Here,
    CutOff,
}

/// How much of a body is there.
#[derive(Debug, Clone, Copy)]
struct Progress {
    length: u64,
    end: End,
    /// When something came last, or could have if readers had not held it up.
    at: Instant,
}

impl Progress {
    fn new(length: u64, end: End) -> Self {
        Self { length, end, at: Instant::now() }
    }
}

/// The body of one stored response.
#[derive(Debug)]
pub struct Body {
    id: u128,
    pieces: Pieces,
    progress: watch::Sender<Progress>,
    /// The whole of a short one.
    short: OnceLock<Bytes>,
    /// The piece under way: what its readers have not found in the store yet.
    tail: Mutex<Tail>,
    readers: AtomicUsize,
    /// Where the quickest reader is.
    furthest: AtomicU64,
    /// A reader moved or left.
    moved: Notify,
    /// Where the one is who takes it elsewhere; at the end of all offsets if there is none.
    behind: AtomicU64,
    /// A piece of it is not in the store any more.
    lost: AtomicBool,
    kept: watch::Sender<Kept>,
}

impl Body {
    /// A body that comes in from now on.
    pub fn new(pieces: Pieces) -> Self {
        Self {
            id: rand::random(),
            pieces,
            progress: watch::Sender::new(Progress::new(0, End::NotYet)),
            short: OnceLock::new(),
            tail: Mutex::default(),
            readers: AtomicUsize::new(0),
            furthest: AtomicU64::new(0),
            moved: Notify::new(),
            behind: AtomicU64::new(u64::MAX),
            lost: AtomicBool::new(false),
            kept: watch::Sender::new(Kept::No),
        }
    }

    /// A short body that is all there.
    pub(crate) fn that_is_short(pieces: Pieces, bytes: Bytes) -> Self {
        let body = Self::new(pieces);
        body.progress.send_replace(Progress::new(bytes.len() as u64, End::Here));
        drop(body.short.set(bytes));
        body
    }

    /// A body of which everything is elsewhere.
    pub fn that_is(pieces: Pieces, length: u64, place: Arc<dyn Elsewhere>) -> Self {
        let body = Self::new(pieces);
        body.progress.send_replace(Progress::new(length, End::Here));
        body.tail.lock().unwrap_or_else(PoisonError::into_inner).start = length;
        body.kept.send_replace(Kept::There(place));
        body
    }

    /// Begins to take it elsewhere.
    pub fn keep_elsewhere(self: &Arc<Self>) -> Keeping {
        Keeping::new(self.clone())
    }

    /// Where else it is; waits while it is on its way there.
    pub async fn elsewhere(&self) -> Option<Arc<dyn Elsewhere>> {
        // The sender is the body's own and lives as long.
        self.kept.subscribe().wait_for(|kept| !matches!(kept, Kept::Soon)).await.ok()?.there()
    }

    pub(crate) fn kept(&self) -> &watch::Sender<Kept> {
        &self.kept
    }

    /// Waits until so much of it is there, or it has ended. Whether it is.
    pub async fn reaches(&self, length: u64) -> bool {
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|progress| progress.length >= length || progress.end != End::NotYet).await;
        reached.is_ok_and(|progress| progress.length >= length && progress.end != End::CutOff)
    }

    /// Waits for its end; whether all of it is there then.
    pub(crate) async fn ends_well(&self) -> bool {
        let mut progress = self.progress.subscribe();
        progress.wait_for(|progress| progress.end != End::NotYet).await.is_ok_and(|progress| progress.end == End::Here)
    }

    /// Its length, if all of it is there.
    pub fn length(&self) -> Option<u64> {
        if let Some(short) = self.short.get() {
            return Some(short.len() as u64);
        }
        let Progress { length, end, .. } = *self.progress.borrow();
        (end == End::Here).then_some(length)
    }

    /// The whole of it, if it is short and there.
    pub fn short(&self) -> Option<&Bytes> {
        self.short.get()
    }

    /// Bytes of memory that are the body's own.
    pub fn weight(&self) -> usize {
        self.short.get().map_or(0, Bytes::len)
    }

    /// So long it will be, if that is known: so much room it takes at once.
    pub(crate) fn expect(&self, length: Option<u64>) {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).expected = length;
    }

    /// The next bytes came. Waits while all readers are far behind, or the disk is.
    pub(crate) async fn push(&self, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let (step, is_ahead_of_disk) = {
                let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
                let step = bytes.split_to(bytes.len().min(PIECE - tail.bytes.len()));
                tail.add(&step);
                if tail.bytes.len() == PIECE {
                    self.put_away(&mut tail);
                }
                (step.len() as u64, tail.is_ahead_of_disk())
            };
            self.progress.send_modify(|progress| {
                progress.length += step;
                progress.at = Instant::now();
            });
            if is_ahead_of_disk {
                // A disk that does not even do that has no claim to the whole.
                drop(timeout(DISK_PATIENCE, self.pieces.storage().wait()).await);
            }
            self.keep_pace().await;
        }
    }

    /// The piece under way is full, or the last.
    fn put_away(&self, tail: &mut Tail) {
        let piece = std::mem::take(&mut tail.bytes).freeze();
        self.pieces.insert(Key::of_piece(self.id, tail.start / PIECE as u64), piece.clone());
        tail.put_away(piece);
    }

    async fn keep_pace(&self) {
        loop {
            let moved = self.moved.notified();
            if !self.is_held_up() {
                return;
            }
            moved.await;
            self.progress.send_if_modified(|progress| {
                progress.at = Instant::now();
                false
            });
        }
    }

    /// It waits for readers, not for who brings it.
    fn is_held_up(&self) -> bool {
        self.progress.borrow().length.saturating_sub(self.pace()) > AHEAD
    }

    /// Bytes that have come.
    pub(crate) fn so_far(&self) -> u64 {
        self.progress.borrow().length
    }

    /// So much has come that nobody wants, and nobody knows how much more will.
    pub(crate) fn is_unread(&self) -> bool {
        self.pace() == u64::MAX && self.so_far().saturating_sub(self.furthest.load(Ordering::Acquire)) > UNREAD
    }

    /// Where the one is who decides how fast it comes in.
    fn pace(&self) -> u64 {
        if self.readers.load(Ordering::Acquire) == 0 {
            self.behind.load(Ordering::Acquire)
        } else {
            self.furthest.load(Ordering::Acquire)
        }
    }

    /// All of it is there.
    pub(crate) fn complete(&self) {
        {
            let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
            if tail.start == 0 && tail.bytes.len() <= SHORT {
                let short = Bytes::copy_from_slice(&std::mem::take(&mut tail.bytes));
                // Set once: a body ends once.
                drop(self.short.set(short));
            } else if !tail.bytes.is_empty() {
                self.put_away(&mut tail);
            }
        }
        self.end(End::Here);
    }

    /// The rest will never come.
    pub(crate) fn cut_off(&self) {
        // Before anybody hears of it: who asks again is not to find it.
        self.lost.store(true, Ordering::Release);
        self.end(End::CutOff);
    }

    fn end(&self, end: End) {
        self.progress.send_modify(|progress| progress.end = end);
        if self.readers.load(Ordering::Acquire) == 0 {
            self.forget_recent();
        }
    }

    /// Nobody reads what came last any more.
    fn forget_recent(&self) {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).forget_recent();
    }

    /// What is there from `offset` on, as far as it lies in one piece.
    async fn piece_at(&self, offset: u64) -> Result<Bytes, BodyError> {
        // Between the first and the second look the body may have ended, and be a short one now.
        if let Some(bytes) = self.in_short(offset).or_else(|| self.in_tail(offset)).or_else(|| self.in_short(offset)) {
            return Ok(bytes);
        }
        let within = (offset % PIECE as u64) as usize;
        let found = self.in_store(offset / PIECE as u64).await.filter(|piece| within < piece.len());
        if let Some(piece) = found {
            return Ok(piece.slice(within..));
        }
        let place = self.kept.borrow().there();
        let found = match place {
            Some(place) => place.read(offset).await.filter(|bytes| !bytes.is_empty()),
            None => None,
        };
        found.ok_or_else(|| {
            self.lost.store(true, Ordering::Release);
            BodyError::Lost
        })
    }

    fn in_short(&self, offset: u64) -> Option<Bytes> {
        let short = self.short.get()?;
        Some(short.slice(usize::try_from(offset).unwrap_or(usize::MAX).min(short.len())..))
    }

    async fn in_store(&self, number: u64) -> Option<Bytes> {
        let key = Key::of_piece(self.id, number);
        match self.pieces.memory().get(&key) {
            Some(entry) => Some(entry.value().clone()),
            None => self.pieces.get(&key).await.ok()?.map(|entry| entry.value().clone()),
        }
    }

    /// Whether a piece of it was missed, or will never come: it is of no use any more.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Whether a reader could begin to read this range, or will when it has come in; what of it has come in is all there. A disk
    /// that is slower than what came in has not taken every piece.
    /// Nor is one begun that would wait for a body which has been silent for long.
    pub async fn can_serve(&self, range: &Range<u64>) -> bool {
        let progress = *self.progress.borrow();
        let waits = progress.end == End::NotYet && progress.length < range.end;
        if waits && progress.at.elapsed() >= PATIENCE && !self.is_held_up() {
            return false;
        }
        let here = range.start..range.end.min(progress.length);
        here.is_empty() || self.has_pieces(&here) && self.piece_at(here.start).await.is_ok()
    }

    fn has_pieces(&self, range: &Range<u64>) -> bool {
        if self.short.get().is_some() || self.kept.borrow().there().is_some() {
            return true;
        }
        let recent = self.tail.lock().unwrap_or_else(PoisonError::into_inner).first_recent();
        let (first, end) = (range.start / PIECE as u64, range.end.div_ceil(PIECE as u64).min(recent));
        let has = (first..end).all(|number| self.pieces.contains(&Key::of_piece(self.id, number)));
        if !has {
            self.lost.store(true, Ordering::Release);
        }
        has
    }

    fn in_tail(&self, offset: u64) -> Option<Bytes> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).at(offset)
    }
}

/// One reader of a body.
#[derive(Debug)]
pub struct Reader {
    body: Arc<Body>,
    offset: u64,
    progress: watch::Receiver<Progress>,
    is_behind: bool,
}

impl Reader {
    /// Begins at `offset`.
    pub fn new(body: Arc<Body>, offset: u64) -> Self {
        body.readers.fetch_add(1, Ordering::AcqRel);
        body.furthest.fetch_max(offset, Ordering::AcqRel);
        let progress = body.progress.subscribe();
        Self { body, offset, progress, is_behind: false }
    }

    /// Begins at the start; nobody waits for it as long as there are others.
    pub(crate) fn behind(body: Arc<Body>) -> Self {
        body.behind.store(0, Ordering::Release);
        let progress = body.progress.subscribe();
        Self { body, offset: 0, progress, is_behind: true }
    }

    /// The next bytes, at most up to `end`; none at the end. Waits for what has not come yet.
    pub async fn next(&mut self, end: u64) -> Result<Option<Bytes>, BodyError> {
        if self.offset >= end {
            return Ok(None);
        }
        let offset = self.offset;
        // The sender is the body's own and lives as long.
        let progress = self.progress.wait_for(|progress| progress.length > offset || progress.end != End::NotYet).await;
        let progress = *progress.map_err(|_| BodyError::CutOff)?;
        if progress.length <= offset {
            return if progress.end == End::CutOff { Err(BodyError::CutOff) } else { Ok(None) };
        }
        let mut bytes = self.body.piece_at(offset).await?;
        bytes.truncate(usize::try_from(end - offset).unwrap_or(usize::MAX));
        self.offset += bytes.len() as u64;
        if self.is_behind {
            self.body.behind.store(self.offset, Ordering::Release);
        } else {
            self.body.furthest.fetch_max(self.offset, Ordering::AcqRel);
        }
        self.body.moved.notify_waiters();
        Ok(Some(bytes))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.is_behind {
            self.body.behind.store(u64::MAX, Ordering::Release);
        } else if self.body.readers.fetch_sub(1, Ordering::AcqRel) == 1 && self.progress.borrow().end != End::NotYet {
            self.body.forget_recent();
        }
        self.body.moved.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
