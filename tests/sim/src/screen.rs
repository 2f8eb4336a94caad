//! A person in front of a video: plays what is there in order, waits for what is not, and jumps now and then.

use std::ops::Range;
use std::time::Duration;

use crate::spec::Reader;

/// What it was like to watch.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Watched {
    /// Until the first picture.
    pub start_up: Option<Duration>,
    /// Waits after the first picture that no jump explains, and how long they were together.
    pub stalls: u32,
    /// Their sum.
    pub stalled: Duration,
    /// The longest wait after a jump.
    pub longest_seek: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    No,
    ToStart(Duration),
    AfterSeek(Duration),
    Stalled(Duration),
}

/// A video being watched.
#[derive(Debug)]
pub(crate) struct Screen {
    reader: Reader,
    chunks: u32,
    chunk_time: Duration,
    next: u32,
    played: Duration,
    seeks: usize,
    waiting: Waiting,
    pub(crate) watched: Watched,
}

impl Screen {
    pub(crate) fn new(reader: Reader, chunks: u32, chunk_size: u32, now: Duration) -> Self {
        let chunk_time = Duration::from_secs_f64(f64::from(chunk_size) / reader.rate);
        Self {
            reader,
            chunks,
            chunk_time,
            next: 0,
            played: Duration::ZERO,
            seeks: 0,
            waiting: Waiting::ToStart(now),
            watched: Watched::default(),
        }
    }

    /// What the reader needs next.
    pub(crate) fn window(&self) -> Range<u32> {
        let ahead = (self.reader.ahead.as_secs_f64() / self.chunk_time.as_secs_f64()).ceil() as u32;
        self.next..(self.next + ahead.max(1)).min(self.chunks)
    }

    /// What has to be here for playing to go on: the next chunk; after a wait, so much that the next wait is not at once.
    fn enough(&self) -> u32 {
        let buffer = (self.reader.buffer.as_secs_f64() / self.chunk_time.as_secs_f64()).ceil() as u32;
        let chunks = if self.is_waiting() { buffer.max(1) } else { 1 };
        (self.next + chunks).min(self.chunks)
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting != Waiting::No
    }

    /// The next chunk is due. Returns how long it plays, or `None` when it is not here or there is no more.
    pub(crate) fn play(&mut self, now: Duration, is_here: impl Fn(u32) -> bool) -> Option<Duration> {
        self.seek(now);
        if self.next >= self.chunks {
            self.waiting = Waiting::No;
            return None;
        }
        if !(self.next..self.enough()).all(is_here) {
            if self.waiting == Waiting::No {
                self.waiting = Waiting::Stalled(now);
            }
            return None;
        }
        self.note_wait(now);
        self.next += 1;
        self.played += self.chunk_time;
        Some(self.chunk_time)
    }

    fn seek(&mut self, now: Duration) {
        if let Some((after, to)) = self.reader.seeks.get(self.seeks).copied()
            && self.played >= after
        {
            self.seeks += 1;
            self.next = to;
            self.waiting = Waiting::AfterSeek(now);
        }
    }

    fn note_wait(&mut self, now: Duration) {
        match std::mem::replace(&mut self.waiting, Waiting::No) {
            Waiting::No => {}
            Waiting::ToStart(since) => self.watched.start_up = Some(now - since),
            Waiting::AfterSeek(since) => self.watched.longest_seek = self.watched.longest_seek.max(now - since),
            Waiting::Stalled(since) => {
                self.watched.stalls += 1;
                self.watched.stalled += now - since;
            }
        }
    }
}
