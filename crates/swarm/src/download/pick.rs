//! Which chunk next. Each ranking is a struct whose field order is the priority; the least wins.

use std::ops::Range;

use umbel_content::{ChunkIndex, ChunkSet};

use super::pieces::Pieces;

/// The stretch that a reader waits for, in order. Empty when nobody streams.
#[derive(Debug, Clone, Default)]
pub(crate) struct Window(pub(crate) Range<u32>);

impl Window {
    /// Place in the window; everything beyond it comes after it, with no order among itself.
    fn place(&self, chunk: ChunkIndex) -> u32 {
        if self.0.contains(&chunk.get()) { chunk.get() - self.0.start } else { u32::MAX }
    }
}

/// From a peer, and from the edge when it stands in for peers: rarest first, so that what few hold is soon held by many.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rarest {
    place: u32,
    /// What the edge is to bring here anyway comes last.
    mine: bool,
    holders: u8,
    tie: u64,
    chunk: ChunkIndex,
}

/// From the edge, within this agent's share: front to back, because shares are split from their tails.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct InOrder {
    place: u32,
    /// A peer could bring it as well.
    held: bool,
    tie: u64,
    chunk: ChunkIndex,
}

/// Everything that a choice looks at.
#[derive(Debug)]
pub(crate) struct Choice<'a> {
    pub(crate) pieces: &'a Pieces,
    pub(crate) window: &'a Window,
    /// This download's own way to break ties, so that equal agents do not all start with the same chunk.
    pub(crate) salt: u64,
}

impl Choice<'_> {
    /// The rarest chunk among `allowed`, which are open.
    pub(crate) fn rarest(&self, allowed: &ChunkSet, is_mine: impl Fn(ChunkIndex) -> bool) -> Option<ChunkIndex> {
        let rank = |chunk| Rarest {
            place: self.window.place(chunk),
            mine: is_mine(chunk),
            holders: self.pieces.holders(chunk),
            tie: self.tie(chunk),
            chunk,
        };
        allowed.iter().map(rank).min().map(|best| best.chunk)
    }

    /// The first chunk among `allowed`, which are open; in a random order as long as others may be about to ask for the same.
    pub(crate) fn first(&self, allowed: &ChunkSet, scattered: bool) -> Option<ChunkIndex> {
        let rank = |chunk| InOrder {
            place: self.window.place(chunk),
            held: self.pieces.holders(chunk) > 0,
            tie: if scattered { self.tie(chunk) } else { 0 },
            chunk,
        };
        allowed.iter().map(rank).min().map(|best| best.chunk)
    }

    /// The first chunk of the window that is missing, if nobody works on it.
    pub(crate) fn head(&self) -> Option<ChunkIndex> {
        let end = self.window.0.end.min(self.pieces.held().len());
        let mut window = (self.window.0.start..end).map(ChunkIndex::new);
        let head = window.find(|chunk| !self.pieces.held().contains(*chunk))?;
        self.pieces.open().contains(head).then_some(head)
    }

    /// A well mixed function of salt and chunk (the finaliser of splitmix64).
    fn tie(&self, chunk: ChunkIndex) -> u64 {
        let mut z = self.salt ^ u64::from(chunk.get()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
