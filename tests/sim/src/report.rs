//! What came of a run, in the figures that swarms are compared by.

use std::time::Duration;

use crate::outcome::{Fate, Kept, Outcome};
use crate::spec::{Role, Scenario};

/// A distribution in four numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Spread {
    /// Half are below.
    pub p50: f64,
    /// 95 of a hundred are below.
    pub p95: f64,
    /// 99 of a hundred are below.
    pub p99: f64,
    /// None is above.
    pub max: f64,
}

impl Spread {
    /// Of these; zeros for none.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let place = (values.len() as f64 * part).ceil() as usize;
            values.get(place.max(1) - 1).copied().unwrap_or_default()
        };
        Self { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1.0) }
    }
}

/// For those who watched.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Watching {
    /// Seconds until the first picture.
    pub start_up: Spread,
    /// Who never saw one.
    pub never: usize,
    /// Waits after the first picture that no jump explains.
    pub stalls: u64,
    /// Readers who had any.
    pub stalled_readers: usize,
    /// Their sum in seconds.
    pub stalled: f64,
    /// Each reader's longest wait after a jump, in seconds.
    pub seek: Spread,
}

/// One run's figures.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Report {
    /// The scenario.
    pub scenario: String,
    /// What all of it follows from.
    pub seed: u64,
    /// Everyone in it.
    pub peers: usize,
    /// Who wanted something and got it.
    pub done: usize,
    /// Who left before.
    pub left: usize,
    /// Who was still at it at the end.
    pub unfinished: usize,
    /// Time over the least possible time.
    pub ratio: Spread,
    /// The same, seconds.
    pub time: Spread,
    /// Part of the bytes stored that came from peers.
    pub offload: f64,
    /// Bytes that left edges, per object.
    pub edge_bytes_per_object: f64,
    /// The same, in copies of the mean object.
    pub edge_copies: f64,
    /// Part of the bytes that arrived that nobody needed.
    pub wasted: f64,
    /// Messages between a peer and home edges, both ways.
    pub control_messages_per_peer: f64,
    /// Messages between peers that carry no chunk.
    pub peer_messages_per_peer: f64,
    /// Bytes that home edges kept for a member of a version, when they had most members.
    pub directory_bytes_per_peer: f64,
    /// The most bytes that home edges kept.
    pub directory_bytes: usize,
    /// Corrupt chunks that arrived.
    pub corrupt: u64,
    /// The most that one peer got from one other.
    pub corrupt_from_one: u32,
    /// Who watched something.
    pub watching: Option<Watching>,
    /// What home edges kept, over time.
    pub kept: Vec<Kept>,
    /// Seconds that were simulated.
    pub simulated: f64,
    /// Events handled.
    pub events: u64,
}

impl Report {
    /// The figures of this outcome of that scenario.
    pub fn of(scenario: &Scenario, outcome: &Outcome) -> Self {
        let fates = |is: fn(&Fate) -> bool| outcome.peers.iter().filter(|peer| is(&peer.fate)).count();
        let stored: u64 = outcome.peers.iter().map(|peer| peer.from_edge + peer.from_peers).sum();
        let from_peers: u64 = outcome.peers.iter().map(|peer| peer.from_peers).sum();
        let wasted: u64 = outcome.peers.iter().map(|peer| peer.wasted).sum();
        let edge_bytes = outcome.edge_chunks as f64 * f64::from(scenario.chunk_size);
        let objects = wanted_objects(scenario);
        let mean = objects.iter().map(|object| size(scenario, *object)).sum::<f64>() / objects.len().max(1) as f64;
        let peers = scenario.peers.len().max(1) as f64;
        let fullest = outcome.kept.iter().max_by_key(|kept| kept.members);
        Self {
            scenario: scenario.name.clone(),
            seed: scenario.seed,
            peers: scenario.peers.len(),
            done: fates(|fate| matches!(fate, Fate::Done(_))),
            left: fates(|fate| matches!(fate, Fate::Left)),
            unfinished: fates(|fate| matches!(fate, Fate::Unfinished)),
            ratio: Spread::of(ratios(scenario, outcome)),
            time: Spread::of(outcome.peers.iter().filter_map(|peer| Some(peer.took()?.as_secs_f64())).collect()),
            offload: from_peers as f64 / stored.max(1) as f64,
            edge_bytes_per_object: edge_bytes / objects.len().max(1) as f64,
            edge_copies: edge_bytes / (mean * objects.len().max(1) as f64),
            wasted: wasted as f64 / (stored + wasted).max(1) as f64,
            control_messages_per_peer: (outcome.to_home + outcome.from_home) as f64 / peers,
            peer_messages_per_peer: (outcome.requests + outcome.between_peers) as f64 / peers,
            directory_bytes_per_peer: fullest.map_or(0.0, |kept| kept.petals as f64 / kept.members.max(1) as f64),
            directory_bytes: outcome.kept.iter().map(|kept| kept.petals).max().unwrap_or_default(),
            corrupt: outcome.corrupt.values().map(|count| u64::from(*count)).sum(),
            corrupt_from_one: outcome.corrupt.values().copied().max().unwrap_or_default(),
            watching: watching(outcome),
            kept: outcome.kept.clone(),
            simulated: outcome.ended.as_secs_f64(),
            events: outcome.events,
        }
    }
}

/// Each finished download's time over the least possible.
pub fn ratios(scenario: &Scenario, outcome: &Outcome) -> Vec<f64> {
    let crowd = crowd_time(scenario);
    let pairs = scenario.peers.iter().zip(&outcome.peers);
    pairs.filter_map(|(spec, peer)| Some(ratio(peer.took()?, least_time(scenario, spec, crowd)))).collect()
}

fn ratio(took: Duration, least: f64) -> f64 {
    took.as_secs_f64() / least.max(1e-9)
}

fn size(scenario: &Scenario, object: u16) -> f64 {
    f64::from(scenario.objects[object as usize]) * f64::from(scenario.chunk_size)
}

fn wanted_objects(scenario: &Scenario) -> Vec<u16> {
    let wanted = scenario.peers.iter().filter(|peer| peer.role == Role::Honest).map(|peer| peer.object);
    wanted.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

/// Of the cuts of Kumar and Ross (2006) those that hold for each download by itself: the edges' uplink, unless peers hold it from the
/// beginning, and its own downlink. `crowd` is the third, for all who came at once.
fn least_time(scenario: &Scenario, peer: &crate::spec::Peer, crowd: Option<f64>) -> f64 {
    let size = size(scenario, peer.object);
    let edges: f64 = scenario.edges.iter().map(|edge| edge.up).sum();
    let seeds = scenario.peers.iter().take(64).any(|other| other.role == Role::Seed);
    let first = if seeds { 0.0 } else { size / edges };
    first.max(size / peer.down).max(crowd.unwrap_or_default())
}

/// N F / (u + sum of u_i), if all came at the same time for the same and stay, alike: then it holds for each of them.
fn crowd_time(scenario: &Scenario) -> Option<f64> {
    let start = scenario.peers.first()?.start;
    let together = |peer: &crate::spec::Peer| peer.start == start && peer.object == 0 && peer.leaves.is_none();
    if !scenario.peers.iter().all(together) {
        return None;
    }
    let wanting = scenario.peers.iter().filter(|peer| peer.role == Role::Honest).count() as f64;
    let ups: f64 =
        scenario.edges.iter().map(|edge| edge.up).sum::<f64>() + scenario.peers.iter().map(useful_up).sum::<f64>();
    Some(wanting * size(scenario, 0) / ups)
}

fn useful_up(peer: &crate::spec::Peer) -> f64 {
    match peer.role {
        Role::Honest | Role::Seed => peer.up,
        Role::Liar | Role::Mute => 0.0,
    }
}

fn watching(outcome: &Outcome) -> Option<Watching> {
    let watched: Vec<_> = outcome.peers.iter().filter_map(|peer| peer.watched.as_ref()).collect();
    if watched.is_empty() {
        return None;
    }
    let start_ups: Vec<_> = watched.iter().filter_map(|one| Some(one.start_up?.as_secs_f64())).collect();
    Some(Watching {
        never: watched.len() - start_ups.len(),
        start_up: Spread::of(start_ups),
        stalls: watched.iter().map(|one| u64::from(one.stalls)).sum(),
        stalled_readers: watched.iter().filter(|one| one.stalls > 0).count(),
        stalled: watched.iter().map(|one| one.stalled.as_secs_f64()).sum(),
        seek: Spread::of(watched.iter().map(|one| one.longest_seek.as_secs_f64()).collect()),
    })
}
