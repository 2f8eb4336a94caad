//! Scenarios with names.

use std::time::Duration;

use umbel_swarm::{Config, PetalConfig};

use crate::spec::{Edge, Peer, Scenario};

/// 20 Mbit/s.
const HOME: f64 = 2.5e6;
/// 1 Gbit/s.
const GIGABIT: f64 = 125e6;
const LATEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// Every name that [`named`] knows.
pub const NAMES: [&str; 3] = ["flash-crowd", "staggered", "edge-alone"];

/// There is no such scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownScenario(pub String);

impl std::fmt::Display for UnknownScenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "there is no scenario {:?}; there are {}", self.0, NAMES.join(", "))
    }
}

impl std::error::Error for UnknownScenario {}

/// The scenario of this name, for this many peers.
///
/// # Errors
/// When no scenario has this name.
pub fn named(name: &str, peers: usize, seed: u64) -> Result<Scenario, UnknownScenario> {
    let scenario = base(name, peers, seed);
    Ok(match name {
        "flash-crowd" => scenario,
        "edge-alone" => Scenario { together: false, ..scenario },
        "staggered" => staggered(scenario),
        _ => return Err(UnknownScenario(name.into())),
    })
}

/// Everyone wants one object at once. What it is cut into depends on how many they are: a run takes as long as there are chunks
/// to arrive.
fn base(name: &str, peers: usize, seed: u64) -> Scenario {
    let (chunk_size, chunks) = match peers {
        0..=20_000 => (64 << 10, 800),
        20_001..=200_000 => (256 << 10, 200),
        _ => (1 << 20, 32),
    };
    Scenario {
        name: name.into(),
        seed,
        chunk_size,
        objects: vec![chunks],
        edges: vec![Edge::new(GIGABIT)],
        peers: vec![Peer::new(HOME); peers],
        together: true,
        config: Config::default(),
        petal: PetalConfig::default(),
        announce_every: Duration::from_millis(if peers > 20_000 { 100 } else { 25 }),
        partitions: Vec::new(),
        until: LATEST,
    }
}

/// One after the other, as far apart as ten can be at it at once.
fn staggered(mut scenario: Scenario) -> Scenario {
    let size = f64::from(scenario.objects[0]) * f64::from(scenario.chunk_size);
    let apart = Duration::from_secs_f64(size / HOME / 10.0);
    for (number, peer) in scenario.peers.iter_mut().enumerate() {
        peer.start = apart * number as u32;
    }
    scenario
}
