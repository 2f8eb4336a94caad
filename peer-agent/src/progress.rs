//! What a download has to show for itself.

use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// A snapshot of one download. Bytes are those of the content (plaintext), so that they add up to its length.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Where it stands.
    pub state: State,
    /// Bytes of the content.
    pub total: u64,
    /// Bytes that were on disk already.
    pub from_disk: u64,
    /// Bytes that came from edges.
    pub from_edge: u64,
    /// Bytes that came from peers.
    pub from_peers: u64,
    /// Bytes per second now.
    pub speed: u64,
    /// Connected peers.
    pub peers: usize,
    /// Why nothing arrives just now, in words.
    pub stall: Option<String>,
    /// The edge in use, every connected peer, and whoever else has brought something.
    pub sources: Vec<SourceRow>,
}

impl Progress {
    /// Bytes that are here.
    pub fn done(&self) -> u64 {
        self.from_disk + self.from_edge + self.from_peers
    }
}

/// Where a download stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "name", content = "reason")]
pub enum State {
    /// Chunks are missing.
    #[default]
    Running,
    /// Every chunk is here and verified.
    Complete,
    /// It was given up.
    Failed(Problem),
}

/// One source of a download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRow {
    /// URL of the edge, or the peer's public key (first ten hex digits).
    pub name: String,
    /// Whether it is a peer.
    pub peer: bool,
    /// Bytes that it delivered, of ciphertext, however often its connection was lost meanwhile.
    pub bytes: u64,
    /// Bytes per second while busy.
    pub rate: u64,
    /// Chunks asked for and not here yet.
    pub in_flight: usize,
}
