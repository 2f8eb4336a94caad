//! The swarm's decisions, and nothing else: which chunk of a version to ask from whom and when to give up
//! ([`Download`], one per version that an agent fetches), and who takes first copies from the edge and who meets whom
//! ([`Petal`], one per home edge). Both are state machines: something happened (`handle_*`), what shall I do
//! (`poll_action`, until it returns `None`), when shall I be woken (`poll_timeout`). They open no socket, read no clock,
//! and verify no chunk: the caller tells them the time, does the I/O and checks every hash *before* it reports a chunk.
//! The same events in the same order with the same seed give the same actions, always; everything they keep is bounded.
//! Start reading at `download.rs`, then `download/plan.rs`; for the edge's half at `petal.rs`, then `petal/share.rs`.

mod download;
mod petal;
mod rate;

pub use download::{
    Action, Config, Download, DropReason, FailReason, PipeLimits, Progress, Source, SourceProgress, Stall,
};
pub use petal::{Complaint, JoinRefused, Locality, Petal, PetalAction, PetalConfig};

/// An agent's Ed25519 public key, which is its name everywhere; a *peer* is an agent seen by another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId([u8; 32]);

impl AgentId {
    /// The agent with this public key. Whether anyone holds the secret key is the caller's business.
    pub const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for AgentId {
    fn from(key: [u8; 32]) -> Self {
        Self(key)
    }
}

/// The first five bytes in hex, enough to tell agents apart in a log.
impl std::fmt::Debug for AgentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0[..5].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// As `Debug`.
impl std::fmt::Display for AgentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}
