//! The home edge's side: who holds which version, who brings first copies into the swarm, who meets whom.
//!
//! The naive edge sends every chunk to every agent. A petal splits what nobody holds yet among those who want it, so that
//! each chunk leaves the edge about once (`petal/share.rs`), and introduces agents to each other so that the rest travels
//! between them (`petal/introduce.rs`). It only advises: an agent that never hears from it still completes, at the edge's expense.
//!
//! Memory: for each version four bytes a chunk; for each member of a version two bits a chunk, about 64 bytes for each of its (at
//! most `2 * introductions + max_receivers`) links, and some 500 bytes. A version without members costs nothing.

mod complaint;
mod directory;
mod introduce;
mod share;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use umbel_content::{ChunkIndex, ChunkSet, ManifestId};

pub use complaint::Complaint;
pub use introduce::Locality;

use crate::AgentId;
use complaint::Complaints;
use directory::{Member, Version};

/// What the home edge is to tell an agent.
#[derive(Debug, Clone, PartialEq)]
pub enum PetalAction {
    /// What to take from an edge; replaces the share before.
    Share {
        /// Whom to tell.
        agent: AgentId,
        /// About which version.
        version: ManifestId,
        /// The share. What the agent holds by now, or a peer does, may still be in it.
        chunks: ChunkSet,
    },
    /// Peers to fetch from, best first, in addition to those before.
    Introduce {
        /// Whom to tell: the receiver.
        to: AgentId,
        /// About which version.
        version: ManifestId,
        /// The senders; never empty.
        peers: Vec<AgentId>,
    },
    /// A peer introduced before is gone.
    Depart {
        /// Whom to tell.
        to: AgentId,
        /// About which version.
        version: ManifestId,
        /// Who left.
        peer: AgentId,
    },
}

/// Why an agent cannot join. Its download goes on from the edge alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefused {
    /// The agent has joined as many versions as it may.
    #[error("too many versions joined")]
    TooManyVersions,
    /// The version has more chunks than a petal keeps track of, or none.
    #[error("{0} chunks in a version are not supported")]
    ChunkCount(u32),
    /// The chunk count, or the length of `have`, is not what others have joined with.
    #[error("{given} chunks given where the version has {known}")]
    OtherLayout {
        /// As the agent says.
        given: u32,
        /// As the version is known.
        known: u32,
    },
    /// Several peers complained about corrupt chunks from this agent.
    #[error("refused after complaints of several peers")]
    Distrusted,
}

/// The knobs of a petal.
#[derive(Debug, Clone)]
pub struct PetalConfig {
    /// Peers that a joining agent is introduced to; by later joins of others it may get twice as many.
    pub introductions: usize,
    /// Receivers that one sender is introduced to at most.
    pub max_receivers: usize,
    /// Versions that one agent may have joined at once.
    pub max_versions: usize,
    /// Chunks of a version at most.
    pub max_chunks: u32,
    /// No part of a share is moved that has fewer chunks than this.
    pub steal_floor: u32,
    /// Work is moved to an agent when what is left of its own lasts less than this.
    pub lookahead: Duration,
    /// A share without progress for this long (or eight times the usual time of a chunk) goes to others.
    pub stall: Duration,
    /// How often stalls are looked for.
    pub tick: Duration,
    /// Independent complaints about corrupt chunks after which an agent is out.
    pub distrust_after: usize,
    /// How long it stays out after the last complaint.
    pub distrust_for: Duration,
}

impl Default for PetalConfig {
    fn default() -> Self {
        Self {
            introductions: 8,
            max_receivers: 32,
            max_versions: 4096,
            max_chunks: 1 << 20,
            steal_floor: 4,
            lookahead: Duration::from_millis(500),
            stall: Duration::from_secs(5),
            tick: Duration::from_secs(1),
            distrust_after: 3,
            distrust_for: Duration::from_secs(3600),
        }
    }
}

/// The directory and the plan of all versions whose home this edge is.
#[derive(Debug)]
pub struct Petal {
    config: PetalConfig,
    rng: ChaCha8Rng,
    versions: BTreeMap<ManifestId, Version>,
    joined: BTreeMap<AgentId, BTreeSet<ManifestId>>,
    complaints: Complaints,
    actions: VecDeque<PetalAction>,
    tick_at: Option<Instant>,
}

impl Petal {
    /// A petal that knows nobody.
    pub fn new(config: PetalConfig, seed: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            complaints: Complaints::new(config.distrust_after, config.distrust_for),
            config,
            versions: BTreeMap::new(),
            joined: BTreeMap::new(),
            actions: VecDeque::new(),
            tick_at: None,
        }
    }

    /// An agent downloads (`wants`) or only offers a version. One that joined before replaces what it said; its links stay.
    ///
    /// # Errors
    /// See [`JoinRefused`]. Nothing has changed then.
    #[expect(clippy::too_many_arguments, reason = "these are the fields of one message")]
    pub fn handle_join(
        &mut self,
        now: Instant,
        agent: AgentId,
        version: ManifestId,
        chunks: u32,
        have: ChunkSet,
        wants: bool,
        locality: Locality,
    ) -> Result<(), JoinRefused> {
        self.check_join(now, agent, version, chunks, &have)?;
        if self.refresh(now, agent, version, &have, wants) {
            return Ok(());
        }
        self.remove(now, agent, version);
        self.joined.entry(agent).or_default().insert(version);
        let state = self.versions.entry(version).or_insert_with(|| Version::new(chunks));
        let wants = wants && !have.is_full();
        state.add(agent, Member::new(now, have, wants, locality));
        state.share_out(now, &self.config);
        if wants {
            state.announce(agent);
        }
        introduce::introduce(state, &self.config, &mut self.rng, agent);
        self.flush(version);
        self.arm(now);
        Ok(())
    }

    fn check_join(
        &mut self,
        now: Instant,
        agent: AgentId,
        version: ManifestId,
        chunks: u32,
        have: &ChunkSet,
    ) -> Result<(), JoinRefused> {
        if self.complaints.is_distrusted(now, agent) {
            return Err(JoinRefused::Distrusted);
        }
        if chunks == 0 || chunks > self.config.max_chunks {
            return Err(JoinRefused::ChunkCount(chunks));
        }
        let known = self.versions.get(&version).map_or(chunks, |state| state.chunks);
        if let Some(given) = [chunks, have.len()].into_iter().find(|given| *given != known) {
            return Err(JoinRefused::OtherLayout { given, known });
        }
        let joined = self.joined.get(&agent);
        let is_new = joined.is_none_or(|versions| !versions.contains(&version));
        if is_new && joined.is_some_and(|versions| versions.len() >= self.config.max_versions) {
            return Err(JoinRefused::TooManyVersions);
        }
        Ok(())
    }

    /// A second join with no less than before: another address, or another wish. Its links stay, but for those that it has no use
    /// for any more. False: it is to be taken in anew.
    fn refresh(&mut self, now: Instant, agent: AgentId, version: ManifestId, have: &ChunkSet, wants: bool) -> bool {
        let known = self.versions.get(&version).and_then(|state| state.members.get(&agent));
        let Some(member) = known else { return false };
        if member.have.iter().any(|chunk| !have.contains(chunk)) {
            return false;
        }
        let added: Vec<u32> = have.iter().map(ChunkIndex::get).collect();
        self.handle_have(now, agent, version, &added);
        if let Some(state) = self.versions.get_mut(&version) {
            state.set_wish(agent, wants && !have.is_full());
            state.share_out(now, &self.config);
            if state.needs_company(agent) {
                introduce::introduce(state, &self.config, &mut self.rng, agent);
            }
            state.announce(agent);
        }
        self.flush(version);
        self.arm(now);
        true
    }

    /// An agent holds these chunks, too. Indices beyond the end are ignored.
    pub fn handle_have(&mut self, now: Instant, agent: AgentId, version: ManifestId, added: &[u32]) {
        let Some(state) = self.versions.get_mut(&version) else {
            return;
        };
        let chunks = added.iter().filter(|chunk| **chunk < state.chunks).map(|chunk| ChunkIndex::new(*chunk));
        state.took(now, agent, &chunks.collect::<Vec<_>>());
        state.share_out(now, &self.config);
        self.flush(version);
        self.arm(now);
    }

    /// An agent neither wants nor offers this version any more.
    pub fn handle_leave(&mut self, now: Instant, agent: AgentId, version: ManifestId) {
        self.remove(now, agent, version);
    }

    /// An agent's session has ended.
    pub fn handle_gone(&mut self, now: Instant, agent: AgentId) {
        for version in self.joined.get(&agent).cloned().unwrap_or_default() {
            self.remove(now, agent, version);
        }
    }

    /// `from` could not get on with `about`, whom it was introduced to. They are kept apart, and what only `about` holds comes
    /// into the share of `from`. After several independent complaints about corruption `about` is out altogether.
    pub fn handle_complaint(
        &mut self,
        now: Instant,
        from: AgentId,
        about: AgentId,
        version: ManifestId,
        reason: Complaint,
    ) {
        let Some(state) = self.versions.get_mut(&version) else {
            return;
        };
        if !state.part(from, about) {
            return;
        }
        state.personal_share(from);
        introduce::introduce(state, &self.config, &mut self.rng, from);
        self.flush(version);
        if self.complaints.add(now, from, about, reason) {
            self.expel(now, about);
        }
    }

    /// Takes a distrusted agent out of everything; it is told to take the rest from the edge.
    fn expel(&mut self, now: Instant, agent: AgentId) {
        for version in self.joined.get(&agent).cloned().unwrap_or_default() {
            let state = self.versions.get(&version);
            let wanted = state.and_then(|state| state.members.get(&agent).map(|member| (member.wants, state.chunks)));
            self.remove(now, agent, version);
            if let Some((true, chunks)) = wanted {
                self.actions.push_back(PetalAction::Share { agent, version, chunks: ChunkSet::full(chunks) });
            }
        }
    }

    fn remove(&mut self, now: Instant, agent: AgentId, version: ManifestId) {
        let Some(state) = self.versions.get_mut(&version) else {
            return;
        };
        let Some(receivers) = state.remove(agent) else {
            return;
        };
        state.announce_stale();
        state.share_out(now, &self.config);
        for to in receivers {
            self.actions.push_back(PetalAction::Depart { to, version, peer: agent });
            introduce::introduce(state, &self.config, &mut self.rng, to);
        }
        let empty = state.members.is_empty();
        self.flush(version);
        if empty {
            self.versions.remove(&version);
        }
        self.forget_joined(agent, version);
        self.arm(now);
    }

    fn forget_joined(&mut self, agent: AgentId, version: ManifestId) {
        if let Some(versions) = self.joined.get_mut(&agent) {
            versions.remove(&version);
            if versions.is_empty() {
                self.joined.remove(&agent);
            }
        }
    }

    /// The time that `poll_timeout` named has come: looks for stalled shares.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.tick_at.is_none_or(|tick| now < tick) {
            return;
        }
        self.tick_at = None;
        self.complaints.expire(now);
        let keys: Vec<_> = self.versions.keys().copied().collect();
        for version in keys {
            if let Some(state) = self.versions.get_mut(&version) {
                state.find_stalled(now, &self.config);
                state.share_out(now, &self.config);
                state.announce_stale();
                self.flush(version);
            }
        }
        self.arm(now);
    }

    /// The next message to send.
    pub fn poll_action(&mut self) -> Option<PetalAction> {
        self.actions.pop_front()
    }

    /// When to call [`Self::handle_timeout`], if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.tick_at
    }

    /// What an agent holds of a version, as far as it said.
    pub fn have(&self, agent: AgentId, version: ManifestId) -> Option<&ChunkSet> {
        Some(&self.versions.get(&version)?.members.get(&agent)?.have)
    }

    /// Members of a version, downloading or offering.
    pub fn members(&self, version: ManifestId) -> usize {
        self.versions.get(&version).map_or(0, |state| state.members.len())
    }

    /// Versions that someone has joined.
    pub fn versions(&self) -> usize {
        self.versions.len()
    }

    /// Members of all versions together.
    pub fn memberships(&self) -> usize {
        self.versions.values().map(|state| state.members.len()).sum()
    }

    /// About how many bytes all of this takes, from the sizes of what it keeps: for metrics, and to see that it does not grow.
    pub fn memory(&self) -> usize {
        let joined: usize = self.joined.values().map(|versions| 64 + versions.len() * size_of::<ManifestId>()).sum();
        let versions: usize = self.versions.values().map(Version::memory).sum();
        size_of::<Self>() + joined + versions + self.complaints.memory()
    }

    /// Turns what changed in a version into messages.
    fn flush(&mut self, version: ManifestId) {
        let Some(state) = self.versions.get_mut(&version) else {
            return;
        };
        for agent in std::mem::take(&mut state.changed) {
            if let Some(chunks) = state.share_of(agent) {
                self.actions.push_back(PetalAction::Share { agent, version, chunks });
            }
        }
        for (to, peers) in std::mem::take(&mut state.introduced) {
            self.actions.push_back(PetalAction::Introduce { to, version, peers });
        }
    }

    fn arm(&mut self, now: Instant) {
        if self.tick_at.is_none() && self.versions.values().any(Version::is_active) {
            self.tick_at = Some(now + self.config.tick);
        }
    }
}
