//! The end of a body that comes in: the piece under way, and the last ones before it.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::{Bytes, BytesMut};

use super::{AHEAD, PIECE};

/// Whatever the quickest reader reads next is among so many pieces.
const RECENT: usize = AHEAD as usize / PIECE + 2;

/// Recent pieces of all bodies together: a body that finds no room keeps none, and its readers depend on the store.
const ROOM: usize = (64 << 20) / PIECE;

/// Recent pieces that there are, in this process.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// When a body has put so much away, it waits until the disk has taken it. Less than the store has room for in its queue, by so
/// many bodies as come in at once.
const AHEAD_OF_DISK: u64 = 4 << 20;

#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Where it begins in the body.
    pub(super) start: u64,
    pub(super) bytes: BytesMut,
    /// How long the body will be.
    pub(super) expected: Option<u64>,
    /// The pieces before it, for who reads while the body comes in.
    recent: VecDeque<Bytes>,
}

impl Tail {
    /// Bytes behind those that are there. A piece is in one place from the beginning: it is not moved as it grows.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        if self.bytes.capacity() == 0 {
            let rest = self.expected.map_or(0, |expected| expected.saturating_sub(self.start));
            self.bytes.reserve(usize::try_from(rest).unwrap_or(PIECE).clamp(bytes.len(), PIECE));
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether it is time to wait for the disk.
    pub(super) fn is_ahead_of_disk(&self) -> bool {
        self.bytes.is_empty() && self.start > 0 && self.start.is_multiple_of(AHEAD_OF_DISK)
    }

    /// The number of the first recent piece.
    pub(super) fn first_recent(&self) -> u64 {
        self.start.div_ceil(PIECE as u64) - self.recent.len() as u64
    }

    pub(super) fn put_away(&mut self, piece: Bytes) {
        self.start += piece.len() as u64;
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        } else if KEPT.fetch_add(1, Ordering::Relaxed) >= ROOM {
            KEPT.fetch_sub(1, Ordering::Relaxed);
            // They are without gaps, so none can be before this one.
            return self.forget_recent();
        }
        self.recent.push_back(piece);
    }

    /// What is there from `offset` on, in one piece.
    pub(super) fn at(&self, offset: u64) -> Option<Bytes> {
        if let Some(within) = offset.checked_sub(self.start) {
            let rest = self.bytes.get(usize::try_from(within).ok()?..)?;
            return (!rest.is_empty()).then(|| Bytes::copy_from_slice(rest));
        }
        let index = (offset / PIECE as u64).checked_sub(self.first_recent())?;
        let piece = self.recent.get(usize::try_from(index).ok()?)?;
        Some(piece.slice((offset % PIECE as u64) as usize..))
    }

    /// Nobody reads what came last any more.
    pub(super) fn forget_recent(&mut self) {
        KEPT.fetch_sub(self.recent.len(), Ordering::Relaxed);
        self.recent = VecDeque::new();
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.forget_recent();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(number: usize) -> Bytes {
        Bytes::from(vec![number as u8; PIECE])
    }

    /// In one test: all bodies of a process share the room.
    #[test]
    fn recent_pieces_have_bounded_room() {
        let mut tails: Vec<_> = (0..ROOM / RECENT + 2).map(|_| Tail::default()).collect();
        for tail in &mut tails {
            (0..2 * RECENT).for_each(|number| tail.put_away(piece(number)));
        }
        let kept: usize = tails.iter().map(|tail| tail.recent.len()).sum();
        assert!(kept <= ROOM && tails[0].recent.len() == RECENT, "{kept}");
        let last = 2 * RECENT as u64 - 1;
        assert_eq!(tails[0].at(last * PIECE as u64 + 7), Some(piece(last as usize).slice(7..)));
        assert_eq!(tails[0].at((last - RECENT as u64) * PIECE as u64), None);
        let poor = tails.last_mut().unwrap();
        assert_eq!(poor.at(last * PIECE as u64), None, "there is no room for it");
        poor.bytes.extend_from_slice(b"under way");
        assert_eq!(poor.at((last + 1) * PIECE as u64).as_deref(), Some(&b"under way"[..]));
    }
}
