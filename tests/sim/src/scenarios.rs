//! Scenarios with names, and any number of random ones.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use umbel_swarm::{Config, PetalConfig};

use crate::spec::{Edge, Nat, Peer, Reader, Role, Scenario};

/// One Mbit/s in bytes.
const MBIT: f64 = 125e3;
/// What most peers have each way.
const HOME: f64 = 20.0 * MBIT;
/// What an edge sends.
const EDGE: f64 = 1000.0 * MBIT;
/// A video's rate.
const VIDEO: f64 = 4.0 * MBIT;
const HOUR: f64 = 3600.0;
const LATEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// Every name that [`named`] knows.
pub const NAMES: [&str; 13] = [
    "flash-crowd",
    "edge-alone",
    "staggered",
    "video-on-demand",
    "streaming",
    "churn",
    "symmetric-nat",
    "adsl",
    "liars",
    "edge-loss",
    "release-day",
    "day",
    "million",
];

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
    let mut scenario = flash_crowd(name, peers, seed);
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5ce9_a210);
    match name {
        "flash-crowd" | "million" => {}
        "edge-alone" => scenario.together = false,
        "staggered" => staggered(&mut scenario),
        "video-on-demand" => video_on_demand(&mut scenario, &mut rng),
        "streaming" => streaming(&mut scenario, &mut rng),
        "churn" => churn(&mut scenario, &mut rng),
        "symmetric-nat" => symmetric_nat(&mut scenario),
        "adsl" => scenario.peers.iter_mut().for_each(|peer| peer.up = peer.down / 10.0),
        "liars" => scenario.peers.iter_mut().skip(9).step_by(10).for_each(|peer| peer.role = Role::Liar),
        "edge-loss" => edge_loss(&mut scenario),
        "release-day" => release_day(&mut scenario, &mut rng),
        "day" => day(&mut scenario, &mut rng),
        _ => return Err(UnknownScenario(name.into())),
    }
    Ok(scenario)
}

/// Everyone wants one object of 50 MiB at once. What it is cut into depends on how many they are: a run takes as long as there are
/// chunks to arrive.
fn flash_crowd(name: &str, peers: usize, seed: u64) -> Scenario {
    let (chunk_size, chunks) = match peers {
        0..=2_000 => (64 << 10, 800),
        2_001..=20_000 => (256 << 10, 200),
        20_001..=200_000 => (512 << 10, 100),
        _ => (2 << 20, 25),
    };
    Scenario {
        name: name.into(),
        seed,
        chunk_size,
        objects: vec![chunks],
        edges: vec![Edge::new(EDGE)],
        peers: vec![Peer::new(HOME); peers],
        together: true,
        config: Config::default(),
        petal: PetalConfig::default(),
        announce_every: Duration::from_millis(match peers {
            0..=2_000 => 25,
            2_001..=20_000 => 50,
            _ => 100,
        }),
        partitions: Vec::new(),
        until: LATEST,
    }
}

fn object_time(scenario: &Scenario, rate: f64) -> f64 {
    f64::from(scenario.objects[0]) * f64::from(scenario.chunk_size) / rate
}

/// One after the other; ten are at it at once.
fn staggered(scenario: &mut Scenario) {
    let apart = Duration::from_secs_f64(object_time(scenario, HOME) / 10.0);
    for (number, peer) in scenario.peers.iter_mut().enumerate() {
        peer.start = apart * number as u32;
    }
}

/// Edges that send the video as often at once as a tenth of the readers are, but once in any case; and a quarter more, without which
/// the first chunk that comes twice would be a stall.
fn watched(scenario: &mut Scenario) {
    let copies = (scenario.peers.len() as f64 / 10.0).max(1.0);
    scenario.edges = vec![Edge::new(copies * VIDEO * 1.25)];
    scenario.announce_every = Duration::from_millis(25);
    scenario.chunk_size = 64 << 10;
    scenario.objects = vec![800];
    let reader =
        Reader { rate: VIDEO, ahead: Duration::from_secs(20), buffer: Duration::from_millis(1500), seeks: Vec::new() };
    scenario.peers.iter_mut().for_each(|peer| peer.reader = Some(reader.clone()));
}

/// Everyone presses the button within two seconds of each other.
fn streaming(scenario: &mut Scenario, rng: &mut ChaCha8Rng) {
    watched(scenario);
    scenario.peers.iter_mut().for_each(|peer| peer.start = Duration::from_millis(rng.random_range(0..2000)));
}

/// They come over ten minutes, and jump twice on the way.
fn video_on_demand(scenario: &mut Scenario, rng: &mut ChaCha8Rng) {
    watched(scenario);
    let chunks = scenario.objects[0];
    for peer in &mut scenario.peers {
        peer.start = Duration::from_millis(rng.random_range(0..600_000));
        let jumps = [10, 25].map(|after| (Duration::from_secs(after), rng.random_range(0..chunks * 3 / 4)));
        peer.reader.as_mut().expect("everyone watches").seeks = jumps.to_vec();
    }
}

/// Sessions with a median of ten minutes, on lines on which a download takes three.
fn churn(scenario: &mut Scenario, rng: &mut ChaCha8Rng) {
    for peer in &mut scenario.peers {
        (peer.up, peer.down) = (HOME / 9.0, HOME / 9.0);
        peer.start = seconds(rng.random_range(0.0..HOUR / 2.0));
        peer.leaves = Some(peer.start + session(rng, 600.0));
    }
}

/// A length with this median, in seconds, that says nothing about how long it will go on.
fn session(rng: &mut ChaCha8Rng, median: f64) -> Duration {
    let unused: f64 = rng.random_range(1e-9..1.0);
    seconds(-unused.ln() * median / std::f64::consts::LN_2)
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Half behind symmetric NATs, of the others one in five reachable by anyone.
fn symmetric_nat(scenario: &mut Scenario) {
    for (number, peer) in scenario.peers.iter_mut().enumerate() {
        peer.nat = match number % 10 {
            0..5 => Nat::Symmetric,
            5..9 => Nat::PortRestricted,
            _ => Nat::Open,
        };
    }
}

/// Five edges, and the one where everyone meets dies when a third is done.
fn edge_loss(scenario: &mut Scenario) {
    let dies = seconds(object_time(scenario, HOME) / 3.0);
    scenario.edges = vec![Edge::new(EDGE / 5.0); 5];
    scenario.edges[0].away = vec![dies..LATEST];
    for (number, peer) in scenario.peers.iter_mut().enumerate() {
        peer.edge = (number % 5) as u16;
    }
}

/// Globule's release day as far as swarms see it: 12,000 images of 400 MB within 24 hours, of four kinds, by day more than by
/// night; who has one stays for an hour. Its 600,000 page views are answered by edges alone.
fn release_day(scenario: &mut Scenario, rng: &mut ChaCha8Rng) {
    (scenario.chunk_size, scenario.objects) = (4 << 20, vec![96; 4]);
    scenario.announce_every = Duration::from_millis(200);
    for peer in &mut scenario.peers {
        peer.object = rng.random_range(0..10_u16).saturating_sub(6);
        peer.start = by_day(rng);
        (peer.down, peer.up) = if rng.random_bool(0.7) { (16.0 * MBIT, MBIT) } else { (50.0 * MBIT, 50.0 * MBIT) };
        let download = f64::from(96 * (4 << 20)) / peer.down;
        peer.leaves = Some(peer.start + seconds(download * 4.0) + session(rng, HOUR));
    }
}

/// A time of a day whose noon is three times as busy as its midnight.
fn by_day(rng: &mut ChaCha8Rng) -> Duration {
    loop {
        let hour: f64 = rng.random_range(0.0..24.0);
        let busy = 1.0 - (hour / 24.0 * std::f64::consts::TAU).cos() / 2.0;
        if rng.random_range(0.0..1.5) < busy {
            return seconds(hour * HOUR);
        }
    }
}

/// A day of arrivals, of which every half hour wants another version.
fn day(scenario: &mut Scenario, rng: &mut ChaCha8Rng) {
    (scenario.chunk_size, scenario.objects) = (1 << 20, vec![50; 48]);
    scenario.announce_every = Duration::from_millis(200);
    for peer in &mut scenario.peers {
        peer.start = seconds(rng.random_range(0.0..24.0 * HOUR));
        peer.object = (peer.start.as_secs() / 1800) as u16;
        peer.leaves = Some(peer.start + seconds(60.0) + session(rng, 600.0));
    }
}

/// A small network with something wrong about it: slow, lossy, far, lying or mute peers, of different lines.
pub fn random(seed: u64) -> Scenario {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let others = rng.random_range(1..10);
    let mut scenario = flash_crowd("random", others, seed);
    scenario.objects = vec![rng.random_range(64..1000)];
    scenario.edges = vec![Edge::new(between(&mut rng, 5.0, 500.0) * MBIT)];
    scenario.peers.iter_mut().for_each(|peer| *peer = random_peer(&mut rng));
    scenario.peers[0].role = Role::Honest;
    scenario
}

/// Small ones as likely as large ones.
fn between(rng: &mut ChaCha8Rng, least: f64, most: f64) -> f64 {
    rng.random_range(least.ln()..most.ln()).exp()
}

fn random_peer(rng: &mut ChaCha8Rng) -> Peer {
    let down = between(rng, 4.0, 200.0) * MBIT;
    let role = match rng.random_range(0..10) {
        0 => Role::Liar,
        1 => Role::Mute,
        2..5 => Role::Seed,
        _ => Role::Honest,
    };
    Peer {
        role,
        start: Duration::from_millis(rng.random_range(0..10_000)),
        up: down / between(rng, 1.0, 40.0),
        latency: Duration::from_millis(between(rng, 2.0, 150.0) as u64),
        lost_ppm: if rng.random_bool(0.3) { between(rng, 100.0, 50_000.0) as u32 } else { 0 },
        flow: if rng.random_bool(0.3) { between(rng, 0.1, 10.0) * MBIT } else { f64::INFINITY },
        nat: [Nat::Open, Nat::PortRestricted, Nat::Symmetric][rng.random_range(0..3)],
        ..Peer::new(down)
    }
}
