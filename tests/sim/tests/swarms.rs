//! Whole swarms in virtual time. A failure prints the seed.

use std::time::Duration;

use umbel_sim::{Edge, Outcome, Peer, Report, Role, Scenario, named, random, run};

const CHUNK: u32 = 64 << 10;
/// 20 Mbit/s.
const RATE: f64 = 2.5e6;

fn scenario(seed: u64, chunks: u32, peers: Vec<Peer>) -> Scenario {
    let scenario = named("flash-crowd", 0, seed).expect("a known scenario");
    Scenario {
        objects: vec![chunks],
        edges: vec![Edge::new(RATE)],
        peers,
        until: Duration::from_secs(20_000),
        ..scenario
    }
}

fn many(count: usize) -> Vec<Peer> {
    vec![Peer::new(RATE); count]
}

fn file_time(chunks: u32, rate: f64) -> Duration {
    Duration::from_secs_f64(f64::from(chunks) * f64::from(CHUNK) / rate)
}

/// Everyone has everything in the end who stayed; prints what it took.
#[track_caller]
#[expect(clippy::print_stdout, reason = "shown when a test fails, or on request")]
fn check(name: &str, scenario: &Scenario) -> Outcome {
    let outcome = run(scenario.clone());
    let report = Report::of(scenario, &outcome);
    println!("{name}, seed {}: {:?}", scenario.seed, Report { kept: Vec::new(), ..report.clone() });
    assert_eq!(report.unfinished, 0, "{name}, seed {}", scenario.seed);
    outcome
}

#[track_caller]
fn at_most(seed: u64, chunks: u64, outcome: &Outcome) {
    assert!(outcome.edge_chunks < chunks, "seed {seed}: {} chunks left the edge", outcome.edge_chunks);
}

#[test]
fn four_at_once_take_about_one_copy_from_the_edge() {
    for seed in 1..=3 {
        let outcome = check("four at once", &scenario(seed, 2000, many(4)));
        at_most(seed, 2400, &outcome);
        let ratio = outcome.last().as_secs_f64() / file_time(2000, RATE).as_secs_f64();
        assert!(ratio < 1.25, "seed {seed}: the last took {ratio} of the least possible time");
    }
}

#[test]
fn sixteen_at_once_and_one_after_the_other() {
    let outcome = check("sixteen at once", &scenario(1, 500, many(16)));
    at_most(1, 1000, &outcome);
    let mut peers = many(8);
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.start = Duration::from_secs(2) * number as u32;
    }
    let outcome = check("one after the other", &scenario(1, 500, peers));
    at_most(1, 1000, &outcome);
}

#[test]
fn one_dies_midway() {
    for seed in 1..=3 {
        let mut peers = many(4);
        peers[1].leaves = Some(file_time(1000, RATE) / 2);
        let outcome = check("one dies", &scenario(seed, 1000, peers));
        assert!(outcome.peers[1].took().is_none());
        at_most(seed, 1500, &outcome);
    }
}

#[test]
fn liars_are_dropped_after_the_first_bad_chunk() {
    for seed in 1..=3 {
        let mut peers = many(5);
        peers[2].role = Role::Liar;
        let outcome = check("a liar", &scenario(seed, 500, peers));
        assert!(!outcome.corrupt.is_empty());
        // What was on its way when the first one arrived still comes; nothing is asked after it.
        assert!(outcome.corrupt.values().all(|count| *count <= 2), "seed {seed}: {:?}", outcome.corrupt);
    }
}

#[test]
fn the_mute_are_overtaken() {
    let mut peers = many(4);
    peers[0].role = Role::Mute;
    let outcome = check("a mute", &scenario(1, 300, peers));
    assert!(outcome.last() < file_time(300, RATE) * 3 + Duration::from_secs(10));
}

/// The edge's petal does not answer, as it would be if it were away by itself.
#[test]
fn peers_that_never_meet_each_take_everything_from_the_edge() {
    let silent = Scenario { together: false, ..scenario(1, 300, many(3)) };
    assert_eq!(check("nobody meets", &silent).edge_chunks, 900);
}

#[test]
fn the_edge_goes_away_and_comes_back() {
    let mut away = scenario(1, 500, many(3));
    away.edges[0].away = vec![Duration::from_secs(2)..Duration::from_secs(30)];
    let outcome = check("edge away", &away);
    assert!(outcome.last() < Duration::from_secs(75), "{:?}", outcome.last());
}

/// All the time the edge's uplink is busy with this agent, but for the first round trip and the answer's way.
#[test]
fn a_lone_agent_is_as_fast_as_the_edge_alone() {
    for together in [true, false] {
        for latency_ms in [1, 40, 150] {
            let mut peer = Peer::new(RATE * 4.0);
            peer.latency = Duration::from_millis(latency_ms);
            let latency = peer.latency;
            let outcome = check("alone", &Scenario { together, ..scenario(1, 800, vec![peer]) });
            let request = file_time(1, RATE) + latency * 4;
            assert_eq!(outcome.edge_chunks, 800);
            assert!(outcome.last() <= file_time(800, RATE) + request, "{:?} at {latency:?}", outcome.last());
        }
    }
}

#[test]
fn a_slow_seed_does_not_slow_anyone_down() {
    for rate in [5e3, 5e4, 5e5] {
        let mut peers = many(2);
        peers[0].role = Role::Seed;
        peers[0].up = rate;
        let outcome = check("a slow seed", &scenario(1, 500, peers));
        let limit = file_time(500, RATE).mul_f64(1.25) + Duration::from_secs(1);
        assert!(outcome.last() < limit, "seed at {rate}: {:?}", outcome.last());
    }
}

#[test]
fn a_quick_seed_spares_the_edge() {
    let mut peers = many(4);
    peers[0].role = Role::Seed;
    at_most(1, 150, &check("a quick seed", &scenario(1, 500, peers)));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let mut peers = many(5);
    peers[1].leaves = Some(Duration::from_secs(3));
    peers[2].role = Role::Liar;
    let scenario = scenario(7, 200, peers);
    assert_eq!(run(scenario.clone()), run(scenario));
}

#[test]
fn liars_among_many_are_each_believed_once() {
    let crowd = named("liars", 60, 1).expect("a known scenario");
    let report = Report::of(&crowd, &check("liars", &crowd));
    assert!(report.corrupt > 0 && report.corrupt_from_one <= 2, "{} and {}", report.corrupt, report.corrupt_from_one);
}

#[test]
fn the_edge_where_all_meet_dies_and_everyone_gets_everything() {
    let crowd = named("edge-loss", 40, 1).expect("a known scenario");
    assert_eq!(Report::of(&crowd, &check("edge loss", &crowd)).done, 40);
}

/// Peers may be slow, far, lossy, mute or liars. `docs/design/swarm.md` says what they cost, and what they should.
#[test]
fn whatever_peers_are_like_everyone_gets_everything() {
    for seed in 1..=40 {
        check("random", &random(seed));
    }
}

/// Twenty-four hours of arrivals, departures and new versions: what home edges keep goes with who is there.
#[test]
fn a_day_leaves_nothing_behind() {
    let day = named("day", 500, 1).expect("a known scenario");
    let outcome = check("a day", &day);
    let bytes = |from: u64, to: u64| {
        let kept = outcome.kept.iter().filter(|kept| (from..to).contains(&(kept.at.as_secs() / 3600)));
        kept.map(|kept| kept.petals).max().unwrap_or_default()
    };
    let (first, last) = (bytes(0, 3), bytes(20, 23));
    assert!(last < first * 2, "{first} bytes at most in the first hours, {last} in the last");
}
