//! What agents say about each other, and when it is believed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::AgentId;

/// Agents that are complained about, remembered at once; then the longest quiet one is forgotten.
const MOST_ACCUSED: usize = 4096;

/// Why an agent cannot get on with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Complaint {
    /// It sent a chunk that is not what the manifest names.
    Corrupt,
    /// It sent what makes no sense, or announced what it does not have.
    Protocol,
    /// It does not answer.
    Stalled,
    /// There is no way to connect to it.
    Unreachable,
}

impl Complaint {
    /// Is it about ill will rather than circumstances?
    fn is_grave(self) -> bool {
        matches!(self, Self::Corrupt | Self::Protocol)
    }
}

#[derive(Debug)]
struct Accused {
    by: BTreeSet<AgentId>,
    last: Instant,
}

/// Grave complaints, by whom they are about. Nothing proves them, so one accuser is not enough.
#[derive(Debug)]
pub(crate) struct Complaints {
    accused: BTreeMap<AgentId, Accused>,
    enough: usize,
    keep: Duration,
}

impl Complaints {
    pub(crate) fn new(enough: usize, keep: Duration) -> Self {
        Self { accused: BTreeMap::new(), enough, keep }
    }

    /// Notes a complaint. True when `about` is out with it.
    pub(crate) fn add(&mut self, now: Instant, from: AgentId, about: AgentId, complaint: Complaint) -> bool {
        if !complaint.is_grave() {
            return false;
        }
        self.make_room(about);
        let accused = self.accused.entry(about).or_insert_with(|| Accused { by: BTreeSet::new(), last: now });
        accused.last = now;
        if accused.by.len() < self.enough {
            accused.by.insert(from);
        }
        accused.by.len() >= self.enough
    }

    pub(crate) fn is_distrusted(&self, now: Instant, agent: AgentId) -> bool {
        self.accused
            .get(&agent)
            .is_some_and(|accused| accused.by.len() >= self.enough && now < accused.last + self.keep)
    }

    /// About how many bytes are kept.
    pub(crate) fn memory(&self) -> usize {
        self.accused.values().map(|accused| (accused.by.len() + 2) * size_of::<AgentId>()).sum()
    }

    pub(crate) fn expire(&mut self, now: Instant) {
        self.accused.retain(|_, accused| now < accused.last + self.keep);
    }

    fn make_room(&mut self, about: AgentId) {
        if self.accused.len() < MOST_ACCUSED || self.accused.contains_key(&about) {
            return;
        }
        let oldest = self.accused.iter().min_by_key(|(_, accused)| accused.last).map(|(agent, _)| *agent);
        oldest.map(|agent| self.accused.remove(&agent));
    }
}
