//! What came of a run.

use std::collections::BTreeMap;
use std::time::Duration;

use umbel_swarm::Progress;

use crate::screen::Watched;
use crate::spec::{Role, Scenario};

/// What became of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It does not download.
    Helper,
    /// It had everything so long after its start.
    Done(Duration),
    /// It was gone before it had everything.
    Left,
    /// It was still at it when the run ended.
    Unfinished,
}

/// One peer's part.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerOutcome {
    /// What became of it.
    pub fate: Fate,
    /// Bytes that it stored from edges.
    pub from_edge: u64,
    /// Bytes that it stored from peers.
    pub from_peers: u64,
    /// Bytes that came though they were here.
    pub wasted: u64,
    /// For those that watch.
    pub watched: Option<Watched>,
}

impl PeerOutcome {
    pub(crate) fn count(&mut self, progress: &Progress) {
        self.from_edge = progress.edge_bytes;
        self.from_peers = progress.peer_bytes;
        self.wasted = progress.wasted_bytes;
    }

    /// How long it took, if it has everything.
    pub fn took(&self) -> Option<Duration> {
        match self.fate {
            Fate::Done(took) => Some(took),
            Fate::Helper | Fate::Left | Fate::Unfinished => None,
        }
    }
}

/// The size of what is kept, at a moment.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Kept {
    /// When.
    pub at: Duration,
    /// Bytes of all petals together.
    pub petals: usize,
    /// Members of versions, all petals together.
    pub members: usize,
    /// Things arranged to happen.
    pub events: usize,
}

/// Everything that was counted.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// In the order of [`Scenario::peers`].
    pub peers: Vec<PeerOutcome>,
    /// Chunks that left edges.
    pub edge_chunks: u64,
    /// Chunks that left peers and arrived.
    pub peer_chunks: u64,
    /// Requests for chunks.
    pub requests: u64,
    /// Corrupt chunks by (receiver, sender).
    pub corrupt: BTreeMap<(u32, u32), u32>,
    /// Messages to home edges, and from them.
    pub to_home: u64,
    /// From home edges.
    pub from_home: u64,
    /// Messages between peers about what they hold.
    pub between_peers: u64,
    /// What petals kept, over time.
    pub kept: Vec<Kept>,
    /// Events handled.
    pub events: u64,
    /// When the run ended.
    pub ended: Duration,
}

impl Outcome {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let fate = |role| if role == Role::Honest { Fate::Unfinished } else { Fate::Helper };
        let peer = |role| PeerOutcome { fate: fate(role), from_edge: 0, from_peers: 0, wasted: 0, watched: None };
        Self {
            peers: scenario.peers.iter().map(|spec| peer(spec.role)).collect(),
            edge_chunks: 0,
            peer_chunks: 0,
            requests: 0,
            corrupt: BTreeMap::new(),
            to_home: 0,
            from_home: 0,
            between_peers: 0,
            kept: Vec::new(),
            events: 0,
            ended: Duration::ZERO,
        }
    }

    pub(crate) fn measured(&mut self, at: Duration, petals: usize, members: usize, events: usize) {
        self.kept.push(Kept { at, petals, members, events });
    }

    /// The last to have everything.
    pub fn last(&self) -> Duration {
        self.peers.iter().filter_map(PeerOutcome::took).max().unwrap_or_default()
    }
}
