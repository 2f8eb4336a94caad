//! `run SCENARIO PEERS SEED`: the simulator alone, quicker to build than `umbel sim`.

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: &str| arguments.next().unwrap_or_else(|| default.into());
    let (name, peers, seed) = (next("flash-crowd"), next("100"), next("1"));
    let scenario = umbel_sim::named(&name, peers.parse().expect("peers"), seed.parse().expect("a seed"));
    let scenario = scenario.expect("a known scenario");
    let outcome = umbel_sim::run(scenario.clone());
    let mut report = umbel_sim::Report::of(&scenario, &outcome);
    report.kept.clear();
    let mut text = serde_json::to_string(&report).expect("numbers and words");
    text.push('\n');
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes()).expect("someone reads");
}
