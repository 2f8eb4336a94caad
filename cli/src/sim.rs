//! `umbel sim`: what a swarm of any size would do, without a network.

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use umbel_sim::{Report, Spread};

use crate::{
    exit::{Failure, Status},
    show,
};

const EXAMPLES: &str = "\
Exit status: 0 when everyone who stayed has everything, 1 otherwise.

Examples:
  umbel sim --scenario flash-crowd --peers 1000 --seed 7
  umbel sim --scenario staggered --peers 200 --json";

/// What `umbel sim` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SimArgs {
    /// What happens
    #[arg(long, value_name = "NAME", default_value = "flash-crowd",
        value_parser = clap::builder::PossibleValuesParser::new(umbel_sim::NAMES))]
    scenario: String,
    /// How many take part
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    peers: u32,
    /// The same seed gives the same run [default: a random one, which is printed]
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl SimArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let seed = self.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
        let scenario = umbel_sim::named(&self.scenario, self.peers as usize, seed)?;
        let outcome = umbel_sim::run(scenario.clone());
        let report = Report::of(&scenario, &outcome);
        if self.json {
            show::json(&serde_json::to_value(&report).context("figures are not JSON")?)?;
        } else {
            show::fields(&figures(&report))?;
        }
        if report.unfinished > 0 {
            let problem = format!("{} peers have not got everything (seed {seed})", report.unfinished);
            return Err(Failure::error(Status::Other, problem));
        }
        Ok(())
    }
}

fn figures(report: &Report) -> Value {
    let mut figures = json!({
        "scenario": report.scenario,
        "seed": report.seed,
        "peers": report.peers,
        "done, left, unfinished": format!("{}, {}, {}", report.done, report.left, report.unfinished),
        "time / least time": spread(&report.ratio),
        "seconds": spread(&report.time),
        "from peers": format!("{:.1} %", report.offload * 100.0),
        "from edges, per object": format!(
            "{}, {:.2} copies", show::bytes(report.edge_bytes_per_object as u64), report.edge_copies),
        "came twice": format!("{:.2} %", report.wasted * 100.0),
        "messages per peer, with edges": format!("{:.1}", report.control_messages_per_peer),
        "messages per peer, with peers": format!("{:.1}", report.peer_messages_per_peer),
        "directory": format!(
            "{}, {} a peer", show::bytes(report.directory_bytes as u64), show::bytes(report.directory_bytes_per_peer as u64)),
        "corrupt chunks": format!("{}, at most {} from one to one", report.corrupt, report.corrupt_from_one),
    });
    if let (Some(watching), Some(rows)) = (&report.watching, figures.as_object_mut()) {
        rows.insert("start of video, seconds".into(), spread(&watching.start_up).into());
        rows.insert("wait after a jump, seconds".into(), spread(&watching.seek).into());
        rows.insert("stalls".into(), format!("{} of {} readers", watching.stalls, watching.stalled_readers).into());
    }
    figures
}

fn spread(spread: &Spread) -> String {
    format!("p50 {:.3}, p95 {:.3}, p99 {:.3}, max {:.3}", spread.p50, spread.p95, spread.p99, spread.max)
}
