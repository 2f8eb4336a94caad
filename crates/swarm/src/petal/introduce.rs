//! Who meets whom: near ones first, a few from anywhere so that no cluster is cut off, nobody overrun.

use std::collections::BTreeSet;

use rand::{Rng, RngExt};

use super::PetalConfig;
use super::directory::{Member, Version};
use crate::AgentId;

/// Candidates looked at on either side in the order of localities, whatever the size of the version.
const NEIGHBOURS: usize = 64;
/// Candidates from anywhere.
const STRANGERS: usize = 32;
/// One introduction in this many goes to someone from anywhere.
const STRANGER_EVERY: usize = 4;

/// Where an agent is, coarse to fine; agents near each other stand near each other in this order. Zeros where unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality {
    /// ISO 3166-1 alpha-2, upper case.
    pub country: [u8; 2],
    /// Autonomous system number of the network operator.
    pub operator: u32,
    /// What the address has in common with its neighbours: the first 24 bits of an IPv4 address, 48 of an IPv6 one.
    pub subnet: u64,
}

impl Locality {
    /// 0: same subnet, 1: same operator, 2: same country, 3: far or unknown.
    pub fn distance(&self, other: &Self) -> u8 {
        if self.subnet != 0 && self.subnet == other.subnet {
            0
        } else if self.operator != 0 && self.operator == other.operator {
            1
        } else if self.country != [0; 2] && self.country == other.country {
            2
        } else {
            3
        }
    }
}

/// The best candidate is the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    distance: u8,
    load: usize,
    tie: u64,
    agent: AgentId,
}

/// Brings a member up to its number of sources, and offers it as a source to those it meets.
pub(crate) fn introduce(version: &mut Version, config: &PetalConfig, rng: &mut impl Rng, agent: AgentId) {
    let Some(member) = version.members.get(&agent) else {
        return;
    };
    let places =
        if member.wants { config.introductions.saturating_sub(member.sources.len()) } else { config.max_receivers / 2 };
    if places == 0 {
        return;
    }
    for other in choose(version, config, rng, agent, places) {
        link(version, config.introductions, config.max_receivers, agent, other);
        link(version, config.introductions * 2, config.max_receivers, other, agent);
    }
}

/// Lets `receiver` fetch from `sender`, if both have room and use for it.
fn link(version: &mut Version, max_sources: usize, max_receivers: usize, receiver: AgentId, sender: AgentId) {
    let (Some(to), Some(from)) = (version.members.get(&receiver), version.members.get(&sender)) else {
        return;
    };
    let sensible = to.wants && from.is_useful() && !to.avoids(sender) && !to.sources.contains(&sender);
    if !sensible || to.sources.len() >= max_sources || from.receivers.len() >= max_receivers {
        return;
    }
    if let Some(to) = version.members.get_mut(&receiver) {
        to.sources.insert(sender);
    }
    if let Some(from) = version.members.get_mut(&sender) {
        from.receivers.insert(receiver);
    }
    version.introduced.entry(receiver).or_default().push(sender);
}

/// The best candidates, best first; a few of them drawn from all.
fn choose(version: &Version, config: &PetalConfig, rng: &mut impl Rng, agent: AgentId, places: usize) -> Vec<AgentId> {
    let mut ranked = candidates(version, config, rng, agent);
    let strangers = if ranked.len() > places { places / STRANGER_EVERY } else { 0 };
    let mut chosen: Vec<_> = ranked.drain(..ranked.len().min(places - strangers)).map(|near| near.agent).collect();
    ranked.sort_by_key(|candidate| candidate.tie);
    chosen.extend(ranked.iter().take(strangers).map(|stranger| stranger.agent));
    chosen
}

fn candidates(version: &Version, config: &PetalConfig, rng: &mut impl Rng, agent: AgentId) -> Vec<Candidate> {
    let Some(member) = version.members.get(&agent) else {
        return Vec::new();
    };
    let here = (member.locality, agent);
    let after = version.by_locality.range(here..).take(NEIGHBOURS).map(|(_, id)| *id);
    let before = version.by_locality.range(..here).rev().take(NEIGHBOURS).map(|(_, id)| *id);
    let start = AgentId::new(rng.random());
    let anyone =
        version.members.range(start..).chain(version.members.range(..start)).take(STRANGERS).map(|(id, _)| *id);
    let known: BTreeSet<_> = after.chain(before).chain(anyone).filter(|id| *id != agent).collect();
    let suitable = known.into_iter().filter_map(|id| version.members.get(&id).map(|other| (id, other)));
    let suitable = suitable.filter(|(id, other)| may_meet(config, (agent, member), (*id, other)));
    let rank = |(id, other): (AgentId, &Member)| Candidate {
        distance: member.locality.distance(&other.locality),
        load: other.receivers.len(),
        tie: rng.random(),
        agent: id,
    };
    let mut ranked: Vec<_> = suitable.map(rank).collect();
    ranked.sort();
    ranked
}

/// Would a link in the direction that matters to `member` be possible?
fn may_meet(config: &PetalConfig, (id, member): (AgentId, &Member), (other_id, other): (AgentId, &Member)) -> bool {
    if member.wants {
        let has_room = other.receivers.len() < config.max_receivers;
        has_room && other.is_useful() && !member.avoids(other_id) && !member.sources.contains(&other_id)
    } else {
        let has_room = other.sources.len() < config.introductions * 2;
        has_room && other.wants && !other.avoids(id) && !other.sources.contains(&id)
    }
}
