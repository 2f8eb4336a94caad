//! One version being fetched: what to ask from the edge, what from which peer, and when to stop waiting.
//!
//! The naive download takes every chunk from the edge. This one takes from the edge only its *share* (what the home edge
//! told it to bring into the swarm) and the rest from peers, and must never be slower for it. So the edge is also asked
//! for a chunk that failed at a peer, for what no peer brings although we have waited long enough (`patience.rs`), and
//! for everything as soon as there is no peer at all. `plan.rs` has these rules in their order.

mod patience;
mod pick;
mod pieces;
mod plan;
mod progress;
mod source;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use umbel_content::{ChunkIndex, ChunkLayout, ChunkSet};

pub use progress::{Progress, SourceProgress, Stall};
pub use source::PipeLimits;

use crate::AgentId;
use patience::Patience;
use pick::Window;
use pieces::Pieces;
use progress::Tally;
use source::Pipe;

/// Where a chunk is asked from. There is one edge at a time; which, is the caller's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The access edge, over HTTPS.
    Edge,
    /// A connected peer.
    Peer(AgentId),
}

/// What the caller is to do. Nothing is reported back for `Cancel` and `Drop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask for a chunk; answer with `handle_chunk`, `handle_corrupt` or `handle_failed`.
    Request {
        /// Whom.
        source: Source,
        /// Which.
        chunk: ChunkIndex,
    },
    /// The answer is not needed any more. If it comes all the same, `handle_chunk` takes it.
    Cancel {
        /// Whom.
        source: Source,
        /// Which.
        chunk: ChunkIndex,
    },
    /// Disconnect this peer, and complain about it where the reason says so. It counts as gone already.
    Drop {
        /// Whom.
        peer: AgentId,
        /// Why.
        reason: DropReason,
    },
    /// The edge has failed this many times in a row. It is asked again all the same; another edge may do better:
    /// switch, then call [`Download::handle_edge_changed`].
    EdgeUnreachable {
        /// Failures in a row.
        failures: u32,
    },
    /// Every chunk is stored. The last action there is.
    Done,
}

/// Why a peer is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// It sent a chunk that is not what the manifest names. Worth a complaint.
    Corrupt,
    /// It announced chunks that do not exist or that it does not have. Worth a complaint.
    Protocol,
    /// It failed several times in a row. Worth a complaint.
    Stalled,
    /// This download has as many peers as it may have. Not its fault.
    TooMany,
}

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailReason {
    /// The source says that it does not hold the chunk.
    Lack,
    /// The caller's own time limit passed.
    Timeout,
    /// Anything else: connection lost, refused, an HTTP status.
    Error,
}

/// The knobs of a download. The defaults are for everyone; tests and simulations turn them.
#[derive(Debug, Clone)]
pub struct Config {
    /// How the edge is driven.
    pub edge: PipeLimits,
    /// How each peer is driven.
    pub peer: PipeLimits,
    /// Peers connected at once; more are dropped as they come.
    pub max_peers: usize,
    /// Requests to the edge before the home edge has said what to take.
    pub requests_before_share: usize,
    /// After this long without a word from the home edge, everything is taken from the edge.
    pub share_patience: Duration,
    /// How long silent peers are waited for at first; later what is usual decides.
    pub patience: Duration,
    /// How long the chunk that a streaming reader waits for may stay with nobody.
    pub window_patience: Duration,
    /// With this many chunks missing or fewer, all of them in flight, a second source may be asked for the same chunk.
    pub endgame_chunks: u32,
    /// Failures in a row after which a peer is dropped.
    pub max_peer_failures: u32,
    /// Chunks that a peer may announce and then not have.
    pub max_lacks: u32,
    /// Failures in a row of the edge after which the caller is told.
    pub edge_unreachable_after: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            edge: PipeLimits::EDGE,
            peer: PipeLimits::PEER,
            max_peers: 32,
            requests_before_share: 2,
            share_patience: Duration::from_secs(1),
            patience: Duration::from_secs(1),
            window_patience: Duration::from_millis(200),
            endgame_chunks: 32,
            max_peer_failures: 4,
            max_lacks: 32,
            edge_unreachable_after: 3,
        }
    }
}

/// What this agent is to take from the edge.
#[derive(Debug)]
enum Share {
    /// Not told yet, though it will be before this time: everything, but little at once.
    Awaited(Instant),
    /// What the home edge said last.
    Given(ChunkSet),
    /// There is no home edge to tell: everything.
    Everything,
}

impl Share {
    fn contains(&self, chunk: ChunkIndex) -> bool {
        match self {
            Self::Awaited(_) | Self::Everything => true,
            Self::Given(chunks) => chunks.contains(chunk),
        }
    }
}

#[derive(Debug)]
struct Peer {
    have: ChunkSet,
    pipe: Pipe,
    lacks: u32,
}

/// Banned peers are remembered up to this many; after that the oldest may come back.
const MOST_BANNED: usize = 256;

/// The plan of one download. See the crate's and this module's introduction for how to drive it: after each `handle_*` call,
/// take `poll_action` until `None`, then sleep until `poll_timeout` and call `handle_timeout`. What refers to unknown peers or
/// chunks beyond the end is ignored, unless it is a peer's fault. Memory: about `chunks * 1.5` bytes, plus `chunks / 8` for
/// each connected peer, plus a hundred bytes for each request in flight.
#[derive(Debug)]
pub struct Download {
    config: Config,
    layout: ChunkLayout,
    rng: ChaCha8Rng,
    salt: u64,
    now: Instant,
    started: Instant,
    needed_bytes: u64,
    pieces: Pieces,
    share: Share,
    window: Window,
    /// The chunk that the reader waits for and nobody brings, and since when.
    head: Option<(ChunkIndex, Instant)>,
    edge: Pipe,
    peers: BTreeMap<AgentId, Peer>,
    banned: VecDeque<AgentId>,
    patience: Patience,
    /// Since when only peers can bring what is open.
    waiting_since: Option<Instant>,
    /// When the pace is judged again.
    judge_at: Option<Instant>,
    tally: Tally,
    actions: VecDeque<Action>,
    /// Something happened since the last plan.
    stale: bool,
    planned: Instant,
    done: bool,
}

impl Download {
    /// A download of what `have` misses. A `have` of another length than the layout's counts as empty.
    pub fn new(config: Config, layout: ChunkLayout, have: ChunkSet, seed: u64, now: Instant) -> Self {
        let have = if have.len() == layout.chunks() { have } else { ChunkSet::new(layout.chunks()) };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let pieces = Pieces::new(layout, have);
        Self {
            salt: rng.random(),
            rng,
            now,
            started: now,
            needed_bytes: pieces.missing_bytes(),
            share: Share::Awaited(now + config.share_patience),
            window: Window::default(),
            head: None,
            edge: Pipe::new(config.edge),
            peers: BTreeMap::new(),
            banned: VecDeque::new(),
            patience: Patience::new(config.patience),
            waiting_since: None,
            judge_at: None,
            tally: Tally { resumed: layout.sealed_length() - pieces.missing_bytes(), ..Tally::default() },
            actions: VecDeque::new(),
            stale: true,
            planned: now,
            done: false,
            pieces,
            layout,
            config,
        }
    }

    /// The chunks that the home edge wants this agent to take from an edge. Replaces what it said before; requests under way stay.
    pub fn handle_share(&mut self, now: Instant, chunks: ChunkSet) {
        self.touch(now);
        if chunks.len() == self.layout.chunks() {
            self.share = Share::Given(chunks);
        }
    }

    /// There is no home edge, or it refused: everything is taken from the edge, at full speed.
    pub fn handle_alone(&mut self, now: Instant) {
        self.touch(now);
        self.share = Share::Everything;
    }

    /// A streaming reader will need these chunks next, in this order. An empty range: no reader any more.
    pub fn handle_want(&mut self, now: Instant, chunks: Range<u32>) {
        self.touch(now);
        self.window = Window(chunks);
    }

    /// A peer is connected and says what it has. One that is connected already starts anew.
    pub fn handle_peer_connected(&mut self, now: Instant, peer: AgentId, have: ChunkSet) {
        self.handle_peer_gone(now, peer);
        if let Some(reason) = self.refuses(peer, &have) {
            return self.actions.push_back(Action::Drop { peer, reason });
        }
        have.iter().for_each(|chunk| self.pieces.holder_came(chunk));
        self.peers.insert(peer, Peer { have, pipe: Pipe::new(self.config.peer), lacks: 0 });
        self.patience.peer_came(now);
    }

    fn refuses(&self, peer: AgentId, have: &ChunkSet) -> Option<DropReason> {
        if self.banned.contains(&peer) {
            return Some(DropReason::Corrupt);
        }
        if have.len() != self.layout.chunks() {
            return Some(DropReason::Protocol);
        }
        (self.peers.len() >= self.config.max_peers).then_some(DropReason::TooMany)
    }

    /// A peer has more chunks than it said.
    pub fn handle_have(&mut self, now: Instant, peer: AgentId, added: &[u32]) {
        self.touch(now);
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        let mut news = false;
        for chunk in added.iter().copied().map(ChunkIndex::new) {
            if !self.pieces.is_valid(chunk) {
                return self.drop_peer(peer, DropReason::Protocol);
            }
            if state.have.insert(chunk) {
                self.pieces.holder_came(chunk);
                news |= !self.pieces.held().contains(chunk);
            }
        }
        if news {
            self.patience.progress(now);
        }
    }

    /// A peer's connection is gone.
    pub fn handle_peer_gone(&mut self, now: Instant, peer: AgentId) {
        self.touch(now);
        let Some(state) = self.peers.remove(&peer) else {
            return;
        };
        state.have.iter().for_each(|chunk| self.pieces.holder_went(chunk));
        for chunk in state.pipe.in_flight().keys() {
            self.pieces.released(*chunk, Source::Peer(peer));
        }
        if self.peers.is_empty() {
            self.patience.peers_gone();
        }
    }

    /// A chunk arrived, was verified and is stored. Right also for answers that were cancelled or gave up on.
    pub fn handle_chunk(&mut self, now: Instant, source: Source, chunk: ChunkIndex) {
        self.touch(now);
        if !self.pieces.is_valid(chunk) {
            return;
        }
        let bytes = sealed_bytes(self.layout, chunk);
        if let Some(pipe) = self.pipe_mut(source) {
            pipe.delivered(now, chunk, bytes);
        }
        let Some(asked) = self.pieces.stored(chunk) else {
            self.tally.wasted += bytes;
            return;
        };
        self.tally.stored(source, bytes);
        asked.into_iter().filter(|other| *other != source).for_each(|loser| self.cancel(loser, chunk));
        if matches!(source, Source::Peer(_)) {
            self.patience.progress(now);
        }
    }

    /// Part of an answer has arrived: a long chunk on a slow line has not timed out.
    pub fn handle_receiving(&mut self, now: Instant, source: Source, chunk: ChunkIndex) {
        self.now = self.now.max(now);
        let times = match source {
            Source::Edge => u32::MAX,
            Source::Peer(_) => 4,
        };
        if let Some(pipe) = self.pipe_mut(source) {
            pipe.moving(now, chunk, times);
        }
    }

    /// An answer did not match the manifest. A peer is dropped for good; an edge is given time to recover.
    pub fn handle_corrupt(&mut self, now: Instant, source: Source, chunk: ChunkIndex) {
        self.touch(now);
        match source {
            Source::Edge => self.edge_failed(chunk, FailReason::Error),
            Source::Peer(peer) => self.drop_peer(peer, DropReason::Corrupt),
        }
    }

    /// A request came to nothing.
    pub fn handle_failed(&mut self, now: Instant, source: Source, chunk: ChunkIndex, reason: FailReason) {
        self.touch(now);
        match (source, reason) {
            (Source::Edge, _) => self.edge_failed(chunk, reason),
            (Source::Peer(peer), FailReason::Lack) => self.peer_lacks(peer, chunk),
            (Source::Peer(peer), FailReason::Timeout | FailReason::Error) => self.peer_failed(peer, chunk, reason),
        }
    }

    /// Another edge stands in from now on. Requests under way to the old one are taken back.
    pub fn handle_edge_changed(&mut self, now: Instant) {
        self.touch(now);
        let chunks: Vec<_> = self.edge.in_flight().keys().copied().collect();
        for chunk in chunks {
            self.cancel(Source::Edge, chunk);
            self.pieces.released(chunk, Source::Edge);
        }
        self.edge.forgive();
    }

    /// The time that `poll_timeout` named has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.touch(now);
        for chunk in self.edge.overdue(self.now) {
            self.edge_failed(chunk, FailReason::Timeout);
            self.actions.push_back(Action::Cancel { source: Source::Edge, chunk });
        }
        let late =
            self.peers.iter().flat_map(|(id, peer)| peer.pipe.overdue(self.now).into_iter().map(|chunk| (*id, chunk)));
        for (peer, chunk) in late.collect::<Vec<_>>() {
            self.actions.push_back(Action::Cancel { source: Source::Peer(peer), chunk });
            self.peer_failed(peer, chunk, FailReason::Timeout);
        }
    }

    /// The next thing to do. Plans anew when something happened since the last plan.
    pub fn poll_action(&mut self, now: Instant) -> Option<Action> {
        self.now = self.now.max(now);
        if self.stale && !self.done {
            self.stale = false;
            self.planned = self.now;
            self.plan();
        }
        self.actions.pop_front()
    }

    /// When to call [`Self::handle_timeout`], if nothing else happens before. Ask after `poll_action` returned `None`.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.done {
            return None;
        }
        if self.stale {
            return Some(self.now);
        }
        let pipes = || std::iter::once(&self.edge).chain(self.peers.values().map(|peer| &peer.pipe));
        let deadlines = pipes().filter_map(Pipe::next_deadline);
        let pauses = pipes().filter_map(Pipe::paused_until);
        let later = pauses.chain(self.waits()).filter(|time| *time > self.planned);
        deadlines.chain(later).min()
    }

    /// What is held: stored before this download or by it.
    pub fn held(&self) -> &ChunkSet {
        self.pieces.held()
    }

    fn touch(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.stale = true;
    }

    fn pipe_mut(&mut self, source: Source) -> Option<&mut Pipe> {
        match source {
            Source::Edge => Some(&mut self.edge),
            Source::Peer(peer) => self.peers.get_mut(&peer).map(|peer| &mut peer.pipe),
        }
    }

    /// Takes a request back without prejudice.
    fn cancel(&mut self, source: Source, chunk: ChunkIndex) {
        if let Some(pipe) = self.pipe_mut(source) {
            pipe.forget(chunk);
        }
        self.actions.push_back(Action::Cancel { source, chunk });
    }

    fn edge_failed(&mut self, chunk: ChunkIndex, reason: FailReason) {
        let Some(request) = self.edge.forget(chunk) else {
            return;
        };
        self.pieces.released(chunk, Source::Edge);
        let jitter = self.rng.random();
        let counts = self.edge.failed(self.now, request.sent, reason == FailReason::Timeout, jitter);
        let failures = self.edge.failures();
        if counts && failures >= self.config.edge_unreachable_after {
            self.actions.push_back(Action::EdgeUnreachable { failures });
        }
    }

    /// A peer said that it does not have what it announced: asked no more for this chunk, and for nothing after many of them.
    fn peer_lacks(&mut self, peer: AgentId, chunk: ChunkIndex) {
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        if state.pipe.forget(chunk).is_none() {
            return;
        }
        state.lacks += 1;
        if state.have.remove(chunk) {
            self.pieces.holder_went(chunk);
        }
        let too_often = state.lacks > self.config.max_lacks;
        self.pieces.released(chunk, Source::Peer(peer));
        self.pieces.mark_overdue(chunk);
        if too_often {
            self.drop_peer(peer, DropReason::Protocol);
        }
    }

    fn peer_failed(&mut self, peer: AgentId, chunk: ChunkIndex, reason: FailReason) {
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        let Some(request) = state.pipe.forget(chunk) else {
            return;
        };
        let jitter = self.rng.random();
        state.pipe.failed(self.now, request.sent, reason == FailReason::Timeout, jitter);
        let too_often = state.pipe.failures() >= self.config.max_peer_failures;
        self.pieces.released(chunk, Source::Peer(peer));
        self.pieces.mark_overdue(chunk);
        if too_often {
            self.drop_peer(peer, DropReason::Stalled);
        }
    }

    fn drop_peer(&mut self, peer: AgentId, reason: DropReason) {
        if !self.peers.contains_key(&peer) {
            return;
        }
        self.handle_peer_gone(self.now, peer);
        if matches!(reason, DropReason::Corrupt | DropReason::Protocol) {
            self.ban(peer);
        }
        self.actions.push_back(Action::Drop { peer, reason });
    }

    fn ban(&mut self, peer: AgentId) {
        if self.banned.len() == MOST_BANNED {
            self.banned.pop_front();
        }
        self.banned.push_back(peer);
    }
}

/// Bytes of a chunk as it crosses the network, so that rates mean what they say.
fn sealed_bytes(layout: ChunkLayout, chunk: ChunkIndex) -> u64 {
    layout.sealed_len(chunk).map_or(0, u64::from)
}
