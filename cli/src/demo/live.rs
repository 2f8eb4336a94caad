//! Shows a transfer while it runs: bars on a terminal, lines elsewhere.

use std::{future::Future, io::IsTerminal, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::{Instant, interval};

use super::{
    agents::{Agent, Tally},
    tree::Tree,
};
use crate::show;

const BAR_PERIOD: Duration = Duration::from_millis(250);
const LINE_PERIOD: Duration = Duration::from_secs(2);
const TEMPLATE: &str = "{prefix:8} {bar:24} {bytes}/{total_bytes} {bytes_per_sec}  {msg}";

/// Awaits `work`, showing what the agents have got meanwhile.
pub(super) async fn shown<T>(agents: &[Agent], tree: &Tree, visible: bool, work: impl Future<Output = T>) -> T {
    let view = View::new(agents, tree.bytes(), visible && std::io::stderr().is_terminal());
    let mut work = std::pin::pin!(work);
    let period = if view.bars.is_empty() { LINE_PERIOD } else { BAR_PERIOD };
    let (mut ticks, began) = (interval(period), Instant::now());
    loop {
        tokio::select! {
            outcome = &mut work => {
                view.clear();
                return outcome;
            }
            _ = ticks.tick() => view.update(agents, began.elapsed()),
        }
    }
}

struct View {
    bars: Vec<ProgressBar>,
}

impl View {
    fn new(agents: &[Agent], total: u64, terminal: bool) -> Self {
        if !terminal {
            return Self { bars: Vec::new() };
        }
        let all = MultiProgress::new();
        let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = |agent: &Agent| {
            let bar = all.add(ProgressBar::new(total));
            bar.set_style(style.clone());
            bar.set_prefix(agent.name.clone());
            bar
        };
        Self { bars: agents.iter().map(bar).collect() }
    }

    fn update(&self, agents: &[Agent], elapsed: Duration) {
        for (bar, agent) in self.bars.iter().zip(agents) {
            let tally = agent.tally();
            bar.set_position(tally.from_edge + tally.from_peers);
            bar.set_message(senders(&tally));
        }
        if self.bars.is_empty() {
            agents.iter().for_each(|agent| show::note(line(agent, elapsed)));
        }
    }

    fn clear(&self) {
        self.bars.iter().for_each(ProgressBar::finish_and_clear);
    }
}

fn line(agent: &Agent, elapsed: Duration) -> String {
    let tally = agent.tally();
    let speed = (tally.from_edge + tally.from_peers) as f64 / elapsed.as_secs_f64().max(0.001);
    format!(
        "{:6.1}s {} {} from edges, {} from peers, {}/s  {}",
        elapsed.as_secs_f64(),
        agent.name,
        show::bytes(tally.from_edge),
        show::bytes(tally.from_peers),
        show::bytes(speed as u64),
        senders(&tally),
    )
}

/// Who sends to this agent, the most first.
fn senders(tally: &Tally) -> String {
    let mut senders: Vec<_> = tally.sources.iter().filter(|(_, bytes)| **bytes > 0).collect();
    senders.sort_by_key(|(_, bytes)| std::cmp::Reverse(**bytes));
    let texts = senders.iter().map(|(name, bytes)| format!("{name} {}", show::bytes(**bytes)));
    texts.collect::<Vec<_>>().join(" · ")
}
