//! The state of every chunk: held, in flight from someone, or open; and how many connected peers hold it.

use std::collections::BTreeMap;

use umbel_content::{ChunkIndex, ChunkLayout, ChunkSet};

use super::{Source, sealed_bytes};

/// At most two sources work on one chunk, and two only in the endgame.
const MOST_SOURCES: usize = 2;

/// A chunk is *held* (verified and stored), *in flight* (asked from one source, in the endgame two), or *open*.
#[derive(Debug)]
pub(crate) struct Pieces {
    layout: ChunkLayout,
    held: ChunkSet,
    open: ChunkSet,
    in_flight: BTreeMap<ChunkIndex, Vec<Source>>,
    /// How many connected peers say that they hold it.
    holders: Vec<u8>,
    /// Open, and a peer has already failed to bring it: the edge may be asked without further waiting.
    overdue: ChunkSet,
    missing_bytes: u64,
}

impl Pieces {
    pub(crate) fn new(layout: ChunkLayout, held: ChunkSet) -> Self {
        let mut open = ChunkSet::new(layout.chunks());
        let mut missing_bytes = 0;
        for chunk in held.iter_missing() {
            open.insert(chunk);
            missing_bytes += sealed_bytes(layout, chunk);
        }
        Self {
            layout,
            open,
            in_flight: BTreeMap::new(),
            holders: vec![0; layout.chunks() as usize],
            overdue: ChunkSet::new(layout.chunks()),
            held,
            missing_bytes,
        }
    }

    pub(crate) fn is_valid(&self, chunk: ChunkIndex) -> bool {
        chunk.get() < self.layout.chunks()
    }

    pub(crate) fn held(&self) -> &ChunkSet {
        &self.held
    }

    pub(crate) fn open(&self) -> &ChunkSet {
        &self.open
    }

    pub(crate) fn overdue(&self) -> &ChunkSet {
        &self.overdue
    }

    pub(crate) fn in_flight(&self) -> &BTreeMap<ChunkIndex, Vec<Source>> {
        &self.in_flight
    }

    pub(crate) fn missing(&self) -> u32 {
        self.layout.chunks() - self.held.count()
    }

    pub(crate) fn missing_bytes(&self) -> u64 {
        self.missing_bytes
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.held.is_full()
    }

    pub(crate) fn holders(&self, chunk: ChunkIndex) -> u8 {
        self.holders[chunk.get() as usize]
    }

    /// A connected peer holds this chunk.
    pub(crate) fn holder_came(&mut self, chunk: ChunkIndex) {
        let holders = &mut self.holders[chunk.get() as usize];
        *holders = holders.saturating_add(1);
    }

    /// A peer that held this chunk does not any more, or is gone.
    pub(crate) fn holder_went(&mut self, chunk: ChunkIndex) {
        let holders = &mut self.holders[chunk.get() as usize];
        *holders = holders.saturating_sub(1);
    }

    /// Someone was asked.
    pub(crate) fn requested(&mut self, chunk: ChunkIndex, source: Source) {
        self.open.remove(chunk);
        self.overdue.remove(chunk);
        self.in_flight.entry(chunk).or_default().push(source);
    }

    pub(crate) fn may_duplicate(sources: &[Source], by: Source) -> bool {
        sources.len() < MOST_SOURCES && !sources.contains(&by)
    }

    /// That request came to nothing; the chunk is open again unless another source is at it.
    pub(crate) fn released(&mut self, chunk: ChunkIndex, source: Source) {
        let Some(sources) = self.in_flight.get_mut(&chunk) else {
            return;
        };
        sources.retain(|other| *other != source);
        if sources.is_empty() {
            self.in_flight.remove(&chunk);
            self.open.insert(chunk);
        }
    }

    /// A peer failed to bring it; call after [`Self::released`].
    pub(crate) fn mark_overdue(&mut self, chunk: ChunkIndex) {
        if self.open.contains(chunk) {
            self.overdue.insert(chunk);
        }
    }

    /// Verified and stored. Returns who was asked, or `None` when it was held already.
    pub(crate) fn stored(&mut self, chunk: ChunkIndex) -> Option<Vec<Source>> {
        if !self.held.insert(chunk) {
            return None;
        }
        self.missing_bytes -= sealed_bytes(self.layout, chunk);
        self.open.remove(chunk);
        self.overdue.remove(chunk);
        Some(self.in_flight.remove(&chunk).unwrap_or_default())
    }
}
