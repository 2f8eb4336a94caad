//! Turning what is known into requests. The order of the steps is the policy:
//!
//! 1. the edge: this agent's share, as fast as it comes;
//! 2. peers: whatever is open and they hold, quickest peer first, rarest chunk first;
//! 3. the edge again, in place of peers that failed, are silent, are too slow, or do not exist;
//! 4. the last chunks: a second source where the first is late.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use umbel_content::{ChunkIndex, ChunkSet};

use super::patience::Pace;
use super::pick::Choice;
use super::pieces::Pieces;
use super::source::{Pipe, Request};
use super::{Action, Download, Share, Source, sealed_bytes};
use crate::AgentId;

/// How often the pace is judged while peers are waited for.
const JUDGE_EVERY: Duration = Duration::from_millis(500);
/// A second request must win at least this much, or the first be late by it.
const WORTHWHILE: Duration = Duration::from_millis(100);

/// For which open chunks the edge may stand in.
#[derive(Debug, Default)]
struct Terms {
    everything: bool,
    /// Nothing is known about the edge's pace: one chunk will tell.
    probe: bool,
    /// What the reader waits for.
    head: Option<ChunkIndex>,
}

impl Download {
    pub(super) fn plan(&mut self) {
        if self.pieces.is_complete() {
            return self.finish();
        }
        if matches!(self.share, Share::Awaited(until) if until <= self.now) {
            self.share = Share::Everything;
        }
        self.fill_own_share();
        self.fill_peers();
        self.stand_in();
        self.duplicate_tail();
    }

    fn finish(&mut self) {
        self.done = true;
        self.actions.push_back(Action::Done);
    }

    fn choice(&self) -> Choice<'_> {
        Choice { pieces: &self.pieces, window: &self.window, salt: self.salt }
    }

    fn request(&mut self, source: Source, chunk: ChunkIndex) {
        let (now, bytes) = (self.now, sealed_bytes(self.layout, chunk));
        self.pieces.requested(chunk, source);
        if let Some(pipe) = self.pipe_mut(source) {
            pipe.sent(now, chunk, bytes);
        }
        self.actions.push_back(Action::Request { source, chunk });
    }

    fn can_take(&self, pipe: &Pipe) -> bool {
        pipe.is_ready(self.now) && pipe.has_room(u64::from(self.layout.chunk_size()))
    }

    fn edge_has_room(&self) -> bool {
        let held_back =
            matches!(self.share, Share::Awaited(_)) && self.edge.in_flight().len() >= self.config.requests_before_share;
        !held_back && self.can_take(&self.edge)
    }

    fn fill_own_share(&mut self) {
        let scattered = matches!(self.share, Share::Awaited(_));
        while self.edge_has_room() {
            let Some(chunk) = self.choice().first(&self.own_open(), scattered) else {
                break;
            };
            self.waiting_since = None;
            self.request(Source::Edge, chunk);
        }
    }

    /// Open chunks of this agent's share.
    fn own_open(&self) -> ChunkSet {
        let mut open = self.pieces.open().clone();
        if let Share::Given(share) = &self.share {
            open.intersect_with(share);
        }
        open
    }

    fn fill_peers(&mut self) {
        let mut of_no_use = BTreeSet::new();
        while !self.pieces.open().is_empty() {
            let Some(peer) = self.quickest_peer(&of_no_use) else {
                break;
            };
            match self.rarest_of(peer) {
                Some(chunk) => self.request(Source::Peer(peer), chunk),
                None => {
                    of_no_use.insert(peer);
                }
            }
        }
    }

    fn quickest_peer(&self, except: &BTreeSet<AgentId>) -> Option<AgentId> {
        let bytes = u64::from(self.layout.chunk_size());
        let able = self.peers.iter().filter(|(id, peer)| !except.contains(*id) && self.can_take(&peer.pipe));
        able.min_by_key(|(_, peer)| peer.pipe.readiness(bytes)).map(|(id, _)| *id)
    }

    fn rarest_of(&self, peer: AgentId) -> Option<ChunkIndex> {
        let have = &self.peers.get(&peer)?.have;
        if !have.intersects(self.pieces.open()) {
            return None;
        }
        let mut allowed = have.clone();
        allowed.intersect_with(self.pieces.open());
        self.choice().rarest(&allowed, |chunk| self.share.contains(chunk))
    }

    /// The edge brings what peers should have brought.
    fn stand_in(&mut self) {
        self.watch_head();
        let is_waiting = !matches!(self.share, Share::Awaited(_)) && !self.pieces.open().is_empty();
        if !is_waiting || !self.edge_has_room() {
            self.judge_at = None;
            return;
        }
        let terms = self.terms();
        if terms.everything || terms.probe || terms.head.is_some() || !self.pieces.overdue().is_empty() {
            self.stand_in_for(&terms);
        }
    }

    fn stand_in_for(&mut self, terms: &Terms) {
        let mut probe = terms.probe && self.edge.in_flight().is_empty();
        while self.edge_has_room() {
            let allowed = self.allowed(terms, probe);
            let Some(chunk) = self.choice().rarest(&allowed, |_| false) else {
                break;
            };
            probe = false;
            self.request(Source::Edge, chunk);
        }
    }

    fn allowed(&self, terms: &Terms, probe: bool) -> ChunkSet {
        if terms.everything || probe {
            return self.pieces.open().clone();
        }
        let mut allowed = self.pieces.overdue().clone();
        if let Some(head) = terms.head.filter(|head| self.pieces.open().contains(*head)) {
            allowed.insert(head);
        }
        allowed
    }

    fn terms(&mut self) -> Terms {
        let now = self.now;
        let waiting_since = *self.waiting_since.get_or_insert(now);
        let nobody = !self.peers.values().any(|peer| peer.pipe.is_ready(now));
        let silent = nobody || self.patience.is_over(now);
        let late = |since: Instant| since + self.config.window_patience <= now;
        let head = self.head.filter(|(_, since)| late(*since)).map(|(chunk, _)| chunk);
        self.judge_at = Some(now + JUDGE_EVERY);
        match self.edge_rate() {
            None => Terms { everything: silent, probe: waiting_since + self.config.patience <= now, head },
            Some(edge) => {
                Terms { everything: silent || self.peers_are_too_slow(waiting_since, edge), probe: false, head }
            }
        }
    }

    /// What the edge would bring if it were asked for all, bytes per second. Peers that are not done would ask it as well, on
    /// the same grounds as this download, and get their part of what it can do.
    fn edge_rate(&self) -> Option<f64> {
        let rivals = self.peers.values().filter(|peer| !peer.have.is_full()).count();
        Some(self.edge.rate().per_second()? / (1 + rivals) as f64)
    }

    fn peers_are_too_slow(&mut self, waiting_since: Instant, edge: f64) -> bool {
        let alone = Duration::try_from_secs_f64(self.needed_bytes as f64 / edge).unwrap_or(Duration::MAX);
        let grace = self.config.patience.min(alone / 8);
        if self.now.saturating_duration_since(waiting_since) < grace {
            self.judge_at = Some(waiting_since + grace);
            return false;
        }
        let peers = self.peers.values().filter_map(|peer| peer.pipe.rate().at(self.now)).sum();
        let pace = Pace { missing: self.pieces.missing_bytes(), needed: self.needed_bytes, peers, edge };
        self.patience.judge(self.now.saturating_duration_since(self.started), pace)
    }

    /// Notes since when the reader's next chunk is with nobody.
    fn watch_head(&mut self) {
        let head = self.choice().head();
        if self.head.map(|(chunk, _)| chunk) != head {
            self.head = head.map(|chunk| (chunk, self.now));
        }
    }

    fn in_endgame(&self) -> bool {
        self.pieces.open().is_empty() && self.pieces.missing() <= self.config.endgame_chunks
    }

    /// All that is missing is in flight: ask a second source for what is late at the first.
    fn duplicate_tail(&mut self) {
        if !self.in_endgame() {
            return;
        }
        let alone = self.pieces.in_flight().iter().filter(|(_, sources)| sources.len() == 1);
        for chunk in alone.map(|(chunk, _)| *chunk).collect::<Vec<_>>() {
            if let Some(source) = self.second_source(chunk) {
                self.request(source, chunk);
            }
        }
    }

    /// The source that would bring a chunk soonest, if that is worth a second request.
    fn second_source(&self, chunk: ChunkIndex) -> Option<Source> {
        let asked = self.pieces.in_flight().get(&chunk)?;
        let first = self.request_of(*asked.first()?, chunk)?;
        let holders = self.peers.iter().filter(|(_, peer)| peer.have.contains(chunk));
        let holders = holders.map(|(id, peer)| (Source::Peer(*id), &peer.pipe));
        let able = holders.chain(self.edge_has_room().then_some((Source::Edge, &self.edge)));
        able.filter(|(source, pipe)| Pieces::may_duplicate(asked, *source) && self.can_take(pipe))
            .filter(|(_, pipe)| self.is_worthwhile(first, pipe.expected_time(sealed_bytes(self.layout, chunk))))
            .min_by_key(|(source, pipe)| (pipe.readiness(sealed_bytes(self.layout, chunk)), *source))
            .map(|(source, _)| source)
    }

    fn is_worthwhile(&self, first: &Request, second: Option<Duration>) -> bool {
        let late = first.expected + WORTHWHILE <= self.now;
        late || second.is_some_and(|takes| self.now + takes + WORTHWHILE < first.expected)
    }

    fn request_of(&self, source: Source, chunk: ChunkIndex) -> Option<&Request> {
        let pipe = match source {
            Source::Edge => &self.edge,
            Source::Peer(peer) => &self.peers.get(&peer)?.pipe,
        };
        pipe.in_flight().get(&chunk)
    }

    /// Times at which a new plan may decide otherwise, though nothing happened.
    pub(super) fn waits(&self) -> impl Iterator<Item = Instant> {
        let share = match self.share {
            Share::Awaited(until) => Some(until),
            Share::Given(_) | Share::Everything => None,
        };
        let head = self.head.map(|(_, since)| since + self.config.window_patience);
        let waiting = self.waiting_since.and_then(|_| self.patience.ends());
        [share, head, waiting, self.judge_at, self.next_late()].into_iter().flatten()
    }

    /// In the endgame, when the next request is late enough to ask someone else.
    fn next_late(&self) -> Option<Instant> {
        if !self.in_endgame() {
            return None;
        }
        let alone = self.pieces.in_flight().iter().filter(|(_, sources)| sources.len() == 1);
        let expected =
            alone.filter_map(|(chunk, sources)| self.request_of(*sources.first()?, *chunk)).map(|first| first.expected);
        expected.map(|expected| expected + WORTHWHILE).filter(|late| *late > self.planned).min()
    }
}
