//! Whole swarms in virtual time. A failure prints the scenario with its seed.

mod world;

use std::time::Duration;

use world::{Agent, CHUNK, Outcome, Role, Scenario, run};

/// 20 Mbit/s.
const RATE: f64 = 2.5e6;

fn scenario(seed: u64, chunks: u32, agents: Vec<Agent>) -> Scenario {
    Scenario { seed, chunks, edge_up: RATE, petal: true, agents, edge_away: Vec::new() }
}

fn many(count: usize) -> Vec<Agent> {
    vec![Agent::new(RATE); count]
}

fn file_time(chunks: u32, rate: f64) -> Duration {
    Duration::from_secs_f64(f64::from(chunks) * f64::from(CHUNK) / rate)
}

/// All honest survivors have everything (the simulation ends no sooner); prints what it took.
#[expect(clippy::print_stdout, reason = "shown when a test fails, or on request")]
fn check(name: &str, scenario: Scenario) -> Outcome {
    let (seed, chunks) = (scenario.seed, scenario.chunks);
    let least = file_time(chunks, scenario.edge_up);
    let outcome = run(scenario);
    let copies = outcome.edge_chunks as f64 / f64::from(chunks);
    let ratio = outcome.last().as_secs_f64() / least.as_secs_f64();
    println!(
        "{name}, seed {seed}: {copies:.3} copies from the edge, last after {ratio:.3} of F/u, {} messages",
        outcome.petal_messages
    );
    outcome
}

#[test]
fn four_at_once_take_about_one_copy_from_the_edge() {
    for seed in 1..=3 {
        let outcome = check("four at once", scenario(seed, 2000, many(4)));
        assert!(outcome.edge_chunks < 2400, "seed {seed}: {} chunks left the edge", outcome.edge_chunks);
        let ratio = outcome.last().as_secs_f64() / file_time(2000, RATE).as_secs_f64();
        assert!(ratio < 1.25, "seed {seed}: the last took {ratio} of the least possible time");
    }
}

#[test]
fn sixteen_at_once_and_one_after_the_other() {
    for seed in [1] {
        let outcome = check("sixteen at once", scenario(seed, 500, many(16)));
        assert!(outcome.edge_chunks < 1000, "seed {seed}: {} chunks left the edge", outcome.edge_chunks);
        let mut agents = many(8);
        for (agent, spec) in agents.iter_mut().enumerate() {
            spec.start = Duration::from_secs(2) * agent as u32;
        }
        let outcome = check("one after the other", scenario(seed, 500, agents));
        assert!(outcome.edge_chunks < 1000, "seed {seed}: {} chunks left the edge", outcome.edge_chunks);
    }
}

#[test]
fn one_dies_midway() {
    for seed in 1..=3 {
        let mut agents = many(4);
        agents[1].dies = Some(file_time(1000, RATE) / 2);
        let outcome = check("one dies", scenario(seed, 1000, agents));
        assert!(outcome.finished[1].is_none());
        assert!(outcome.edge_chunks < 1500, "seed {seed}: {} chunks left the edge", outcome.edge_chunks);
    }
}

#[test]
fn liars_are_dropped_after_the_first_bad_chunk() {
    for seed in 1..=3 {
        let mut agents = many(5);
        agents[2].role = Role::Liar;
        let outcome = check("a liar", scenario(seed, 500, agents));
        assert!(!outcome.corrupt.is_empty());
        // What was on its way when the first one arrived still comes; nothing is asked after it.
        assert!(outcome.corrupt.values().all(|count| *count <= 2), "seed {seed}: {:?}", outcome.corrupt);
    }
}

#[test]
fn the_mute_are_overtaken() {
    let mut agents = many(4);
    agents[0].role = Role::Mute;
    let outcome = check("a mute", scenario(1, 300, agents));
    assert!(outcome.last() < file_time(300, RATE) * 3 + Duration::from_secs(10));
}

#[test]
fn a_silent_home_edge_costs_sharing_but_no_download() {
    let silent = Scenario { petal: false, ..scenario(1, 300, many(3)) };
    let outcome = check("silent home edge", silent);
    assert_eq!(outcome.edge_chunks, 900);
}

#[test]
fn the_edge_goes_away_and_comes_back() {
    let away = vec![(Duration::from_secs(2), Duration::from_secs(30))];
    let outcome = check("edge away", Scenario { edge_away: away, ..scenario(1, 500, many(3)) });
    assert!(outcome.last() < Duration::from_secs(75), "{:?}", outcome.last());
}

/// Invariant 4: all the time the edge's uplink is busy with this agent, but for the first round trip and the answer's way.
#[test]
fn a_lone_agent_is_as_fast_as_the_edge_alone() {
    for petal in [true, false] {
        for latency_ms in [1, 40, 150] {
            let mut agent = Agent::new(RATE * 4.0);
            agent.latency = Duration::from_millis(latency_ms);
            let latency = agent.latency;
            let outcome = check("alone", Scenario { petal, ..scenario(1, 800, vec![agent]) });
            let request = file_time(1, RATE) + latency * 4;
            let held_back = if petal { Duration::ZERO } else { Duration::from_secs(1) };
            assert_eq!(outcome.edge_chunks, 800);
            assert!(
                outcome.last() <= file_time(800, RATE) + request + held_back,
                "{:?} at {latency:?}",
                outcome.last()
            );
        }
    }
}

#[test]
fn a_slow_seed_does_not_slow_anyone_down() {
    for rate in [5e3, 5e4, 5e5] {
        let mut agents = vec![Agent::new(RATE), Agent::new(RATE)];
        agents[0].role = Role::Seed;
        agents[0].up = rate;
        let outcome = check("a slow seed", scenario(1, 500, agents));
        let limit = file_time(500, RATE).mul_f64(1.25) + Duration::from_secs(1);
        assert!(outcome.last() < limit, "seed at {rate}: {:?}", outcome.last());
    }
}

#[test]
fn a_quick_seed_spares_the_edge() {
    let mut agents = many(4);
    agents[0].role = Role::Seed;
    let outcome = check("a quick seed", scenario(1, 500, agents));
    assert!(outcome.edge_chunks < 150, "{} chunks left the edge", outcome.edge_chunks);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let mut agents = many(5);
    agents[1].dies = Some(Duration::from_secs(3));
    agents[2].role = Role::Liar;
    let world = scenario(7, 200, agents);
    assert_eq!(run(world.clone()), run(world));
}
