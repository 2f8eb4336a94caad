//! Who takes which first copy from the edge.
//!
//! The naive split (n agents, a part for each) needs everyone to come at once and be equally fast. This one splits when it
//! must: the first agent gets everything; whoever has little left takes the tail of the largest share, in proportion to the
//! paces measured. So n agents that come together need n steps, one that finishes early needs one more each time, and
//! the number of steps grows with the logarithm of the work. The tail, because agents work from the front: what is on its
//! way already stays where it is.

use std::time::{Duration, Instant};

use umbel_content::{ChunkIndex, ChunkSet};

use super::PetalConfig;
use super::directory::{Member, Version};
use crate::AgentId;

/// A share without progress is given up after this many times the usual time of a chunk.
const STALL_CHUNKS: f64 = 8.0;
/// A stalled member that progresses otherwise is given work again after this long.
const FORGIVEN_AFTER: Duration = Duration::from_secs(30);
/// However different two paces are, neither side of a split gets less than this part.
const LEAST_PART: f64 = 0.2;

impl Version {
    /// Whose share has this chunk; `guess` is looked at first.
    pub(crate) fn owner(&self, guess: AgentId, chunk: ChunkIndex) -> Option<AgentId> {
        let has = |agent: &AgentId| self.members.get(agent).is_some_and(|member| member.share.contains(chunk));
        let busy = self.loads.iter().rev().take_while(|(load, _)| *load > 0).map(|(_, agent)| agent);
        std::iter::once(&guess).chain(busy).chain(&self.stalled).find(|agent| has(agent)).copied()
    }

    /// The share to announce to a member.
    pub(crate) fn share_of(&self, agent: AgentId) -> Option<ChunkSet> {
        let member = self.members.get(&agent)?;
        let mut chunks = member.share.clone();
        member.personal.iter().flat_map(ChunkSet::iter).for_each(|chunk| {
            chunks.insert(chunk);
        });
        Some(chunks)
    }

    /// Announces a member's share at the next occasion.
    pub(crate) fn announce(&mut self, agent: AgentId) {
        self.stale.remove(&agent);
        self.changed.insert(agent);
    }

    pub(crate) fn announce_stale(&mut self) {
        let mut stale = std::mem::take(&mut self.stale);
        self.changed.append(&mut stale);
    }

    /// Changes a share and keeps `assigned` and `loads` in step. Returns what `change` does.
    fn change_share<T>(&mut self, agent: AgentId, change: impl FnOnce(&mut Member, &mut ChunkSet) -> T) -> Option<T> {
        let member = self.members.get_mut(&agent)?;
        let was_listed = self.loads.remove(&(member.share.count(), agent));
        let result = change(member, &mut self.assigned);
        if member.share.is_empty() {
            member.pace.idle();
        }
        if was_listed {
            self.loads.insert((member.share.count(), agent));
        }
        Some(result)
    }

    pub(crate) fn unassign(&mut self, agent: AgentId, chunk: ChunkIndex) {
        self.change_share(agent, |member, assigned| {
            member.share.remove(chunk);
            assigned.remove(chunk);
        });
    }

    fn assign(&mut self, now: Instant, agent: AgentId, chunks: &[ChunkIndex]) {
        if chunks.is_empty() {
            return;
        }
        self.change_share(agent, |member, assigned| {
            if member.share.is_empty() {
                member.progress_at = now;
                member.pace.begin(now);
            }
            for chunk in chunks {
                member.share.insert(*chunk);
                assigned.insert(*chunk);
            }
        });
        self.announce(agent);
    }

    /// Leaves a member without a share; its chunks are nobody's until the next [`Self::share_out`].
    pub(crate) fn drop_share(&mut self, agent: AgentId) {
        self.change_share(agent, |member, assigned| {
            member.share.iter().for_each(|chunk| {
                assigned.remove(chunk);
            });
            member.share = ChunkSet::new(member.share.len());
        });
        self.has_homeless = true;
    }

    /// Gives away what is nobody's, then levels. Call after every change. Shares of stalled members go to others, if there
    /// are any; if not, one of them is as good as the next.
    pub(crate) fn share_out(&mut self, now: Instant, config: &PetalConfig) {
        let active = self.loads.first().map(|(_, agent)| *agent);
        let Some(heir) = active.or_else(|| self.stalled.first().copied()) else {
            return;
        };
        if active.is_some() {
            self.stalled.clone().into_iter().for_each(|agent| self.take_away(agent));
        }
        if std::mem::take(&mut self.has_homeless) {
            let homeless = self.homeless();
            self.assign(now, heir, &homeless);
        }
        while self.steal(now, config) {}
    }

    fn take_away(&mut self, agent: AgentId) {
        if self.members.get(&agent).is_some_and(|member| !member.share.is_empty()) {
            self.drop_share(agent);
            self.announce(agent);
        }
    }

    /// Chunks that nobody holds and nobody was told to bring.
    fn homeless(&self) -> Vec<ChunkIndex> {
        self.assigned.iter_missing().filter(|chunk| self.copies(*chunk) == 0).collect()
    }

    /// Moves work from the fullest share to the emptiest, if that is due and worth a message.
    fn steal(&mut self, now: Instant, config: &PetalConfig) -> bool {
        let (Some(thief), Some(victim)) = (self.loads.first().copied(), self.loads.last().copied()) else {
            return false;
        };
        let (Some(from), Some(to)) = (self.members.get(&victim.1), self.members.get(&thief.1)) else {
            return false;
        };
        let amount = amount_to_move((victim.0, from), (thief.0, to), config);
        if thief.1 == victim.1 || amount == 0 {
            return false;
        }
        let keep = (victim.0 - amount) as usize;
        let tail: Vec<_> = from.share.iter().skip(keep).collect();
        tail.iter().for_each(|chunk| self.unassign(victim.1, *chunk));
        self.announce(victim.1);
        self.assign(now, thief.1, &tail);
        true
    }

    /// A member that had stalled brought a chunk. A first copy shows that its edge answers; otherwise it gets another chance
    /// after a while.
    pub(crate) fn reconsider(&mut self, now: Instant, agent: AgentId, brought: ChunkIndex) {
        let is_first = self.copies(brought) == 1;
        let Some(member) = self.members.get_mut(&agent) else {
            return;
        };
        let is_due = |since: Instant| is_first || since + FORGIVEN_AFTER <= now;
        if member.stalled_since.is_some_and(is_due) {
            member.stalled_since = None;
            member.progress_at = now;
            self.stalled.remove(&agent);
            self.loads.insert((member.share.count(), agent));
        }
    }

    /// Sets aside members whose shares do not progress. Their shares go to others at the next [`Self::share_out`], if there are any.
    pub(crate) fn find_stalled(&mut self, now: Instant, config: &PetalConfig) {
        let busy = self.loads.iter().rev().take_while(|(load, _)| *load > 0).copied();
        let has_stalled = |(_, agent): &(u32, AgentId)| {
            self.members.get(agent).is_some_and(|member| member.progress_at + allowance(member, config) <= now)
        };
        for (load, agent) in busy.filter(has_stalled).collect::<Vec<_>>() {
            self.loads.remove(&(load, agent));
            self.stalled.insert(agent);
            self.changed.insert(agent);
            if let Some(member) = self.members.get_mut(&agent) {
                member.stalled_since = Some(now);
            }
        }
    }

    /// What a member misses and only peers hold whom it avoids, it takes from the edge for itself.
    pub(crate) fn personal_share(&mut self, agent: AgentId) {
        let Some(member) = self.members.get(&agent).filter(|member| member.wants) else {
            return;
        };
        let avoided: Vec<_> = member.avoided.iter().filter_map(|id| self.members.get(id)).collect();
        let mut personal = ChunkSet::new(self.chunks);
        for chunk in member.have.iter_missing() {
            let unreachable = avoided.iter().filter(|holder| holder.have.contains(chunk)).count();
            if unreachable > 0 && unreachable as u32 == self.copies(chunk) {
                personal.insert(chunk);
            }
        }
        let personal = Some(personal).filter(|chunks| !chunks.is_empty());
        if personal.is_some() {
            self.parted.insert(agent);
        } else {
            self.parted.remove(&agent);
        }
        if let Some(member) = self.members.get_mut(&agent)
            && member.personal != personal
        {
            member.personal = personal;
            self.announce(agent);
        }
    }

    /// Someone is gone: what only he held is now everyone's task, not only that of those who avoided him.
    pub(crate) fn review_personal_shares(&mut self, gone: AgentId) {
        let avoids = |agent: &AgentId| self.members.get(agent).is_some_and(|member| member.avoids(gone));
        for agent in self.parted.iter().copied().filter(avoids).collect::<Vec<_>>() {
            self.personal_share(agent);
        }
    }
}

/// How long a share may go without progress.
fn allowance(member: &Member, config: &PetalConfig) -> Duration {
    let usual = member.pace.per_second().map_or(0.0, |pace| STALL_CHUNKS / pace);
    config.stall.max(Duration::try_from_secs_f64(usual).unwrap_or(config.stall * 100))
}

/// How many chunks a member brings in the time looked ahead.
fn ahead(member: &Member, config: &PetalConfig) -> u32 {
    let chunks = member.pace.per_second().unwrap_or_default() * config.lookahead.as_secs_f64();
    chunks as u32
}

/// How much of the victim's share the thief should have: its part by pace, without what the victim is working on already.
fn amount_to_move(victim: (u32, &Member), thief: (u32, &Member), config: &PetalConfig) -> u32 {
    if thief.0 > ahead(thief.1, config) {
        return 0;
    }
    let part = match (victim.1.pace.per_second(), thief.1.pace.per_second()) {
        (Some(victim), Some(thief)) => (thief / (thief + victim)).clamp(LEAST_PART, 1.0 - LEAST_PART),
        (None, _) | (_, None) => 0.5,
    };
    let fair = (f64::from(victim.0 + thief.0) * part) as u32;
    let in_work = ahead(victim.1, config).max(2);
    let amount = fair.saturating_sub(thief.0).min(victim.0.saturating_sub(in_work));
    if amount < config.steal_floor { 0 } else { amount }
}
