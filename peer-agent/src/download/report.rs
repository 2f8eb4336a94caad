//! Progress of a download, for people.

use std::{collections::BTreeMap, time::Instant};

use umbel_swarm::{Source, Stall};

use super::{Shell, now};
use crate::{
    problem::Problem,
    progress::{Progress, SourceRow, State},
};

/// Weight of the newest measurement of speed.
const NEWEST: f64 = 0.3;

/// Plaintext bytes by where they came from, and how fast they come.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) edge: u64,
    pub(super) peer: u64,
    /// Bytes of ciphertext by the name of who brought them, and whether that is a peer.
    sources: BTreeMap<(String, bool), u64>,
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

    pub(super) fn delivered(&mut self, source: (String, bool), bytes: u64) {
        *self.sources.entry(source).or_default() += bytes;
    }

    /// These, and whoever brought something and has gone.
    fn rows(&self, mut rows: Vec<SourceRow>) -> Vec<SourceRow> {
        for ((name, peer), bytes) in &self.sources {
            match rows.iter_mut().find(|row| row.name == *name && row.peer == *peer) {
                Some(row) => row.bytes = *bytes,
                None => rows.push(SourceRow { name: name.clone(), peer: *peer, bytes: *bytes, rate: 0, in_flight: 0 }),
            }
        }
        rows
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

    /// For the end of a download that got nothing for too long.
    pub(super) fn why_nothing_comes(&self) -> Problem {
        let code = match self.plan.progress().stall {
            Some(Stall::EdgeUnreachable { .. }) => "unreachable",
            Some(Stall::WaitingForPeers) | None => "failed",
        };
        Problem::new(code, self.stall().unwrap_or_else(|| "nothing has arrived for five minutes".into()))
    }

    /// As people know it.
    pub(super) fn name(&self, source: Source) -> String {
        match source {
            Source::Edge => self.edge.url.to_string(),
            Source::Peer(peer) => peer.to_string(),
        }
    }

    fn sources(&self) -> Vec<SourceRow> {
        let now = self.plan.sources().map(|source| SourceRow {
            name: self.name(source.source),
            peer: source.source != Source::Edge,
            bytes: 0,
            rate: source.rate.unwrap_or_default() as u64,
            in_flight: source.in_flight,
        });
        self.tally.rows(now.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_source_brought_outlives_its_link() {
        let row = |name: &str, peer, bytes, rate| SourceRow { name: name.into(), peer, bytes, rate, in_flight: 0 };
        let mut tally = Tally::default();
        tally.delivered(("edge".into(), false), 10);
        tally.delivered(("peer".into(), true), 20);
        let connected = || vec![row("edge", false, 0, 1), row("other", true, 0, 2)];
        let gone = [row("edge", false, 10, 1), row("other", true, 0, 2), row("peer", true, 20, 0)];
        assert_eq!(tally.rows(connected()), gone);
        // It is back: a new link, whose own count begins anew.
        tally.delivered(("peer".into(), true), 5);
        let back = [row("edge", false, 10, 1), row("peer", true, 25, 3)];
        assert_eq!(tally.rows(vec![row("edge", false, 0, 1), row("peer", true, 0, 3)]), back);
    }
}
