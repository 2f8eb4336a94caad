//! The end of a body that comes in: the piece under way, and the last ones before it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::{AHEAD, PIECE};

/// Whatever the quickest reader reads next is among so many pieces.
const RECENT: usize = AHEAD as usize / PIECE + 2;

#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Where it begins in the body.
    pub(super) start: u64,
    pub(super) bytes: BytesMut,
    /// The pieces before it, for who reads while the body comes in.
    recent: VecDeque<Bytes>,
}

impl Tail {
    /// The number of the first recent piece.
    pub(super) fn first_recent(&self) -> u64 {
        self.start.div_ceil(PIECE as u64) - self.recent.len() as u64
    }

    pub(super) fn put_away(&mut self, piece: Bytes) {
        self.start += piece.len() as u64;
        self.recent.push_back(piece);
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
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
        self.recent = VecDeque::new();
    }
}
