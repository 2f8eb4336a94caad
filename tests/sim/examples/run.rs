//! `run SCENARIO PEERS SEED`: the simulator alone, quicker to build than `umbel sim`. `run pays FIRST LAST`: what peers cost in
//! random scenarios of these seeds, each beside the same one from the edge alone.

use umbel_sim::{Report, Scenario, named, random, run};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: &str| arguments.next().unwrap_or_else(|| default.into());
    let (name, peers, seed) = (next("flash-crowd"), next("100"), next("1"));
    let (peers, seed) = (peers.parse().expect("peers"), seed.parse().expect("a seed"));
    if name == "show" {
        return say(&format!("{:#?}", random(seed)));
    }
    if name == "pays" {
        return pays(peers as u64, seed);
    }
    say(&figures(&named(&name, peers, seed).expect("a known scenario")));
}

fn figures(scenario: &Scenario) -> String {
    let outcome = run(scenario.clone());
    let mut report = Report::of(scenario, &outcome);
    report.kept = report.kept.iter().copied().step_by(report.kept.len().div_ceil(12)).collect();
    serde_json::to_string(&report).expect("numbers and words")
}

fn pays(first: u64, last: u64) {
    for seed in first..=last {
        let scenario = random(seed);
        let (with, without) = (run(scenario.clone()), run(Scenario { together: false, ..scenario.clone() }));
        for (number, (with, without)) in with.peers.iter().zip(&without.peers).enumerate() {
            if let (Some(a), Some(b)) = (with.took(), without.took()) {
                let part = with.from_peers as f64 / (with.from_peers + with.from_edge) as f64;
                let (a, b) = (a.as_secs_f64(), b.as_secs_f64());
                say(&format!("{seed} {number} {:.3} {a:.2} {b:.2} {part:.2}", a / b));
            } else if without.took().is_some() {
                say(&format!("{seed} {number} never"));
            }
        }
    }
}

fn say(text: &str) {
    std::io::Write::write_all(&mut std::io::stdout(), format!("{text}\n").as_bytes()).expect("someone reads");
}
