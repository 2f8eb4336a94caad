//! Progress of a download, for people.

use std::time::Instant;

use umbel_swarm::{Source, Stall};

use super::{Shell, now};
use crate::progress::{Progress, SourceRow, State};

/// Weight of the newest measurement of speed.
const NEWEST: f64 = 0.3;

/// Plaintext bytes by where they came from, and how fast they come.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) edge: u64,
    pub(super) peer: u64,
    measured: Option<(Instant, u64)>,
    speed: f64,
}

impl Tally {
    pub(super) fn count(&mut self, source: Source, bytes: u64) {
        match source {
            Source::Edge => self.edge += bytes,
            Source::Peer(_) => self.peer += bytes,
        }
    }

    fn speed(&mut self, at: Instant) -> u64 {
        let sum = self.edge + self.peer;
        if let Some((before, had)) = self.measured {
            let seconds = at.saturating_duration_since(before).as_secs_f64().max(0.001);
            let newest = (sum - had) as f64 / seconds;
            self.speed = if self.speed == 0.0 { newest } else { self.speed * (1.0 - NEWEST) + newest * NEWEST };
        }
        self.measured = Some((at, sum));
        self.speed as u64
    }
}

impl Shell {
    pub(super) fn report(&mut self, state: State) {
        let layout = self.manifest.layout();
        let held = self.lease.0.held();
        let here: u64 = held.iter().filter_map(|chunk| layout.plain_len(chunk)).map(u64::from).sum();
        let speed = self.tally.speed(now());
        self.publish.send_replace(Progress {
            state,
            total: layout.length(),
            from_disk: here.saturating_sub(self.tally.edge + self.tally.peer),
            from_edge: self.tally.edge,
            from_peers: self.tally.peer,
            speed,
            peers: self.plan.progress().peers,
            stall: self.stall(),
            sources: self.sources(),
        });
    }

    fn stall(&self) -> Option<String> {
        Some(match self.plan.progress().stall? {
            Stall::EdgeUnreachable { failures, .. } => {
                format!("edge {} failed {failures} times in a row", self.edge.url)
            }
            Stall::WaitingForPeers => format!("waiting for {} peers", self.links.len()),
        })
    }

    fn sources(&self) -> Vec<SourceRow> {
        let rows = self.plan.sources().map(|source| {
            let name = match source.source {
                Source::Edge => self.edge.url.to_string(),
                Source::Peer(peer) => peer.to_string(),
            };
            SourceRow {
                name,
                peer: source.source != Source::Edge,
                bytes: source.bytes,
                rate: source.rate.unwrap_or_default() as u64,
                in_flight: source.in_flight,
            }
        });
        rows.collect()
    }
}
