//! What a download has to show for itself: for progress bars, tables and logs.

use std::time::Instant;

use super::{Download, Source};

/// Why nothing arrives just now, as far as the download can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stall {
    /// The edge failed this many times in a row; it is asked again at the time given.
    EdgeUnreachable {
        /// Failures in a row.
        failures: u32,
        /// When the edge is asked again.
        until: Instant,
    },
    /// Everything that may be asked is asked or with others: peers are to bring the rest.
    WaitingForPeers,
}

/// A snapshot of one download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that were stored before this download began.
    pub resumed_bytes: u64,
    /// Bytes stored that came from edges.
    pub edge_bytes: u64,
    /// Bytes stored that came from peers.
    pub peer_bytes: u64,
    /// Bytes that came although they were here already.
    pub wasted_bytes: u64,
    /// Chunks not yet stored.
    pub missing_chunks: u32,
    /// Their bytes.
    pub missing_bytes: u64,
    /// Chunks that someone was asked for.
    pub in_flight: usize,
    /// Connected peers.
    pub peers: usize,
    /// Set when nothing is in flight though something is missing.
    pub stall: Option<Stall>,
}

/// One source of a download.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SourceProgress {
    /// Which.
    pub source: Source,
    /// Bytes that it delivered, wasted ones included.
    pub bytes: u64,
    /// Bytes per second while busy; `None` before its first chunk.
    pub rate: Option<f64>,
    /// Requests in flight.
    pub in_flight: usize,
    /// Failures in a row.
    pub failures: u32,
}

/// Running totals.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) resumed: u64,
    pub(crate) edge: u64,
    pub(crate) peer: u64,
    pub(crate) wasted: u64,
}

impl Tally {
    pub(crate) fn stored(&mut self, source: Source, bytes: u64) {
        match source {
            Source::Edge => self.edge += bytes,
            Source::Peer(_) => self.peer += bytes,
        }
    }
}

impl Download {
    /// Where the download stands.
    pub fn progress(&self) -> Progress {
        Progress {
            resumed_bytes: self.tally.resumed,
            edge_bytes: self.tally.edge,
            peer_bytes: self.tally.peer,
            wasted_bytes: self.tally.wasted,
            missing_chunks: self.pieces.missing(),
            missing_bytes: self.pieces.missing_bytes(),
            in_flight: self.pieces.in_flight().len(),
            peers: self.peers.len(),
            stall: self.stall(),
        }
    }

    /// The edge and every connected peer, in order of their keys.
    pub fn sources(&self) -> impl Iterator<Item = SourceProgress> {
        let peers = self.peers.iter().map(|(id, peer)| (Source::Peer(*id), &peer.pipe));
        std::iter::once((Source::Edge, &self.edge)).chain(peers).map(|(source, pipe)| SourceProgress {
            source,
            bytes: pipe.delivered_bytes(),
            rate: pipe.rate().per_second(),
            in_flight: pipe.in_flight().len(),
            failures: pipe.failures(),
        })
    }

    fn stall(&self) -> Option<Stall> {
        if self.pieces.is_complete() || !self.pieces.in_flight().is_empty() {
            return None;
        }
        Some(match self.edge.paused_until().filter(|until| *until > self.now) {
            Some(until) => Stall::EdgeUnreachable { failures: self.edge.failures(), until },
            None => Stall::WaitingForPeers,
        })
    }
}
