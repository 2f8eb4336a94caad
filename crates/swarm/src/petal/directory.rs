//! Who holds what of one version, and how many copies of each chunk there are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use umbel_content::{ChunkIndex, ChunkSet};

use super::Locality;
use crate::AgentId;
use crate::rate::Rate;

/// Peers that one member is kept apart from, at most; the oldest may be introduced again.
const MOST_AVOIDED: usize = 64;

/// One agent in one version.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) have: ChunkSet,
    /// Downloads; false once it holds everything.
    pub(crate) wants: bool,
    pub(crate) locality: Locality,
    /// What it is to take from the edge for everyone: nobody holds it, and it is in no other member's share.
    pub(crate) share: ChunkSet,
    /// What it is to take from the edge for itself, because it cannot get on with those who hold it.
    pub(crate) personal: Option<ChunkSet>,
    /// Chunks of its share per second.
    pub(crate) pace: Rate,
    pub(crate) progress_at: Instant,
    /// Since when it is given up on as a bringer of first copies.
    pub(crate) stalled_since: Option<Instant>,
    /// Whom it may fetch from.
    pub(crate) sources: BTreeSet<AgentId>,
    /// Who may fetch from it.
    pub(crate) receivers: BTreeSet<AgentId>,
    pub(crate) avoided: VecDeque<AgentId>,
}

impl Member {
    pub(crate) fn new(now: Instant, have: ChunkSet, wants: bool, locality: Locality) -> Self {
        Self {
            share: ChunkSet::new(have.len()),
            have,
            wants,
            locality,
            personal: None,
            pace: Rate::default(),
            progress_at: now,
            stalled_since: None,
            sources: BTreeSet::new(),
            receivers: BTreeSet::new(),
            avoided: VecDeque::new(),
        }
    }

    /// About how many bytes this member takes, in all maps where it stands.
    fn memory(&self) -> usize {
        let names = self.sources.len() + self.receivers.len() + self.avoided.len();
        let sets = 2 + usize::from(self.personal.is_some());
        size_of::<Self>() + sets * (self.have.len() as usize).div_ceil(8) + (names + 4) * size_of::<AgentId>()
    }

    /// Can it be of use to a receiver, now or soon?
    pub(crate) fn is_useful(&self) -> bool {
        self.wants || !self.have.is_empty()
    }

    pub(crate) fn avoids(&self, other: AgentId) -> bool {
        self.avoided.contains(&other)
    }
}

/// One version: its members, and who brings what.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) chunks: u32,
    pub(crate) members: BTreeMap<AgentId, Member>,
    /// How many members hold each chunk.
    pub(crate) copies: Vec<u32>,
    /// In some member's share.
    pub(crate) assigned: ChunkSet,
    /// Some chunk may be neither held nor in a share.
    pub(crate) has_homeless: bool,
    /// Members with a personal share.
    pub(crate) parted: BTreeSet<AgentId>,
    /// Members that want and have not stalled, by the size of what is left of their shares.
    pub(crate) loads: BTreeSet<(u32, AgentId)>,
    /// Members that want and have stalled.
    pub(crate) stalled: BTreeSet<AgentId>,
    /// Near ones stand next to each other.
    pub(crate) by_locality: BTreeSet<(Locality, AgentId)>,
    /// Whose share is to be announced.
    pub(crate) changed: BTreeSet<AgentId>,
    /// Whose share has shrunk since it was announced, by what others brought: not urgent.
    pub(crate) stale: BTreeSet<AgentId>,
    /// Introductions to be announced.
    pub(crate) introduced: BTreeMap<AgentId, Vec<AgentId>>,
}

impl Version {
    pub(crate) fn new(chunks: u32) -> Self {
        Self {
            chunks,
            members: BTreeMap::new(),
            copies: vec![0; chunks as usize],
            assigned: ChunkSet::new(chunks),
            has_homeless: true,
            parted: BTreeSet::new(),
            loads: BTreeSet::new(),
            stalled: BTreeSet::new(),
            by_locality: BTreeSet::new(),
            changed: BTreeSet::new(),
            stale: BTreeSet::new(),
            introduced: BTreeMap::new(),
        }
    }

    /// About how many bytes this version takes.
    pub(crate) fn memory(&self) -> usize {
        let own = size_of::<Self>() + self.copies.len() * size_of::<u32>() + self.assigned.len() as usize / 8;
        own + self.members.values().map(Member::memory).sum::<usize>()
    }

    /// Is there anything that time alone can change?
    pub(crate) fn is_active(&self) -> bool {
        !self.stale.is_empty() || self.loads.last().is_some_and(|(load, _)| *load > 0)
    }

    pub(crate) fn copies(&self, chunk: ChunkIndex) -> u32 {
        self.copies[chunk.get() as usize]
    }

    /// Adds a member that is not there yet.
    pub(crate) fn add(&mut self, agent: AgentId, member: Member) {
        self.by_locality.insert((member.locality, agent));
        if member.wants {
            self.loads.insert((0, agent));
        }
        let held: Vec<_> = member.have.iter().collect();
        self.members.insert(agent, member);
        held.into_iter().for_each(|chunk| self.copy_came(agent, chunk));
    }

    /// Takes a member out: its copies, its share, its links. Returns who was fetching from it.
    pub(crate) fn remove(&mut self, agent: AgentId) -> Option<BTreeSet<AgentId>> {
        self.drop_share(agent);
        let member = self.members.remove(&agent)?;
        self.by_locality.remove(&(member.locality, agent));
        self.loads.remove(&(0, agent));
        self.stalled.remove(&agent);
        self.parted.remove(&agent);
        self.has_homeless = true;
        self.changed.remove(&agent);
        self.stale.remove(&agent);
        self.introduced.remove(&agent);
        for chunk in member.have.iter() {
            self.copies[chunk.get() as usize] -= 1;
        }
        for source in &member.sources {
            if let Some(source) = self.members.get_mut(source) {
                source.receivers.remove(&agent);
            }
        }
        for receiver in &member.receivers {
            if let Some(receiver) = self.members.get_mut(receiver) {
                receiver.sources.remove(&agent);
            }
        }
        self.review_personal_shares(agent);
        Some(member.receivers)
    }

    /// A member reports chunks.
    pub(crate) fn took(&mut self, now: Instant, agent: AgentId, chunks: &[ChunkIndex]) {
        for chunk in chunks {
            let Some(member) = self.members.get_mut(&agent) else {
                return;
            };
            if !member.have.insert(*chunk) {
                continue;
            }
            if member.share.contains(*chunk) {
                member.progress_at = now;
                member.pace.delivered(now, 1.0);
            }
            if let Some(personal) = &mut member.personal {
                personal.remove(*chunk);
            }
            self.copy_came(agent, *chunk);
            self.reconsider(now, agent, *chunk);
        }
        self.finish_if_complete(agent);
    }

    /// There is one more copy: the first one makes the chunk nobody's task.
    fn copy_came(&mut self, agent: AgentId, chunk: ChunkIndex) {
        self.copies[chunk.get() as usize] += 1;
        if self.assigned.contains(chunk)
            && let Some(owner) = self.owner(agent, chunk)
        {
            self.unassign(owner, chunk);
            if owner != agent {
                self.stale.insert(owner);
            }
        }
    }

    fn finish_if_complete(&mut self, agent: AgentId) {
        if self.members.get(&agent).is_some_and(|member| member.have.is_full()) {
            self.set_wish(agent, false);
        }
    }

    /// A member begins to want, or stops: then it gives up its share and its sources. Those who fetch from it go on.
    pub(crate) fn set_wish(&mut self, agent: AgentId, wants: bool) {
        if self.members.get(&agent).is_none_or(|member| member.wants == wants) {
            return;
        }
        if !wants && self.members.get(&agent).is_some_and(|member| !member.share.is_empty()) {
            self.drop_share(agent);
        }
        let Some(member) = self.members.get_mut(&agent) else {
            return;
        };
        (member.wants, member.stalled_since) = (wants, None);
        if wants {
            self.loads.insert((0, agent));
            return;
        }
        member.personal = None;
        let sources = std::mem::take(&mut member.sources);
        self.parted.remove(&agent);
        self.loads.remove(&(0, agent));
        self.stalled.remove(&agent);
        for source in sources {
            if let Some(source) = self.members.get_mut(&source) {
                source.receivers.remove(&agent);
            }
        }
    }

    /// Whether a member has nobody to fetch from, or if it wants nothing, nobody who fetches from it.
    pub(crate) fn needs_company(&self, agent: AgentId) -> bool {
        self.members.get(&agent).is_some_and(|member| {
            let links = if member.wants { &member.sources } else { &member.receivers };
            links.is_empty()
        })
    }

    /// Ends the link by which `from` fetches from `about`, and prevents another. False if there was none.
    pub(crate) fn part(&mut self, from: AgentId, about: AgentId) -> bool {
        let Some(member) = self.members.get_mut(&from) else {
            return false;
        };
        if !member.sources.remove(&about) {
            return false;
        }
        if member.avoided.len() == MOST_AVOIDED {
            member.avoided.pop_front();
        }
        member.avoided.push_back(about);
        if let Some(about) = self.members.get_mut(&about) {
            about.receivers.remove(&from);
        }
        true
    }
}
