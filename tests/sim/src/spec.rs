//! What is simulated: the network, who is in it, and what they want.

use std::ops::Range;
use std::time::Duration;

use umbel_swarm::{Config, Locality, PetalConfig};

/// One run. The same scenario gives the same outcome, always.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// For tables.
    pub name: String,
    /// Everything random follows from it.
    pub seed: u64,
    /// Bytes of a chunk.
    pub chunk_size: u32,
    /// The versions that are fetched, by their number of chunks.
    pub objects: Vec<u32>,
    /// At least one. The home edge of a version is the first in order that is there.
    pub edges: Vec<Edge>,
    /// Who takes part.
    pub peers: Vec<Peer>,
    /// False: nobody meets anybody, as if there were only the edges.
    pub together: bool,
    /// How downloads are driven.
    pub config: Config,
    /// How petals are driven.
    pub petal: PetalConfig,
    /// A sender tells its receivers what is new at most this often.
    pub announce_every: Duration,
    /// During these times the peers with even and with odd numbers do not reach each other.
    pub partitions: Vec<Range<Duration>>,
    /// The run ends here though not everyone is done.
    pub until: Duration,
}

/// One edge.
#[derive(Debug, Clone)]
pub struct Edge {
    /// Bytes per second.
    pub up: f64,
    /// When it is dead.
    pub away: Vec<Range<Duration>>,
}

impl Edge {
    /// One that never dies.
    pub const fn new(up: f64) -> Self {
        Self { up, away: Vec::new() }
    }

    pub(crate) fn is_away(&self, now: Duration) -> bool {
        self.away.iter().any(|away| away.contains(&now))
    }
}

/// What a peer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Downloads, and gives what it has.
    Honest,
    /// Holds everything from the start and asks for nothing.
    Seed,
    /// Says that it holds everything, and sends rubbish.
    Liar,
    /// Says that it holds everything, and never answers.
    Mute,
}

/// What stands between a peer and the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// Anyone can connect, or the mapping lets anyone in.
    Open,
    /// Hole punching works with everyone whose address stays the same for all.
    PortRestricted,
    /// Another port for everyone it talks to.
    Symmetric,
}

impl Nat {
    /// Can two such peers get a direct connection?
    pub const fn reaches(self, other: Self) -> bool {
        !matches!(
            (self, other),
            (Self::Symmetric, Self::Symmetric | Self::PortRestricted) | (Self::PortRestricted, Self::Symmetric)
        )
    }
}

/// One peer: one download, or one seed.
#[derive(Debug, Clone)]
pub struct Peer {
    /// What it does.
    pub role: Role,
    /// Which version, by its place in [`Scenario::objects`].
    pub object: u16,
    /// Its access edge, by its place in [`Scenario::edges`].
    pub edge: u16,
    /// When it comes.
    pub start: Duration,
    /// When it is gone, without a word.
    pub leaves: Option<Duration>,
    /// Bytes per second that it sends.
    pub up: f64,
    /// Bytes per second that it receives.
    pub down: f64,
    /// One way, to the middle of the network: two peers are the sum of theirs apart.
    pub latency: Duration,
    /// Who can connect to it.
    pub nat: Nat,
    /// What it sends gets lost this often, for good: of a million answers.
    pub lost_ppm: u32,
    /// Bytes per second that one connection from it carries at most, as on a line that loses packets.
    pub flow: f64,
    /// Where it is, as edges see it.
    pub locality: Locality,
    /// Somebody watches what it downloads.
    pub reader: Option<Reader>,
}

impl Peer {
    /// An honest one with this many bytes per second each way, 10 ms from the middle.
    pub fn new(rate: f64) -> Self {
        Self {
            role: Role::Honest,
            object: 0,
            edge: 0,
            start: Duration::ZERO,
            leaves: None,
            up: rate,
            down: rate,
            latency: Duration::from_millis(10),
            nat: Nat::Open,
            lost_ppm: 0,
            flow: f64::INFINITY,
            locality: Locality::default(),
            reader: None,
        }
    }
}

/// Someone who watches a video while it comes in.
#[derive(Debug, Clone)]
pub struct Reader {
    /// Bytes per second of the video.
    pub rate: f64,
    /// Wants this much of what comes next at once.
    pub ahead: Duration,
    /// Begins, and goes on after a wait, when this much is here.
    pub buffer: Duration,
    /// Jumps: after having watched this long, to this chunk. In order.
    pub seeks: Vec<(Duration, u32)>,
}
