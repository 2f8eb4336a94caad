//! Purges: what of the stored responses is not to be used as it is any more, by its target, a prefix of it, a surrogate key, or
//! because it is of a site.
//!
//! Nothing stored is looked for when a purge comes. Purges are numbered (the *epoch*), and each stored response remembers the
//! epoch in which its request went out ([`Stamp`]). A response of the current epoch is good: one comparison. Another is checked
//! against the marks of its site, once for each epoch. Marks are few and bounded; to forget one is to purge more.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::normal_target;

mod keys;
mod marks;

pub use keys::{CACHE_TAG, MAX_KEY, MAX_KEYS, SURROGATE_KEY, SurrogateKeys};
use marks::{Marks, SiteMarks};

/// Bytes that the marks of one site may take, and those of all sites.
const MAX_SITE: usize = 4 << 20;
const MAX_ALL: usize = 16 << 20;

/// What is not to be served from store any more: whatever matches one of the lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purge {
    /// Of this site only.
    pub site: String,
    /// It may be served when its server has confirmed it, or while that cannot be reached.
    pub soft: bool,
    /// The whole site.
    pub everything: bool,
    /// What is stored for exactly these targets, in whatever form ([`normal_target`]), all variants of it.
    pub targets: Vec<String>,
    /// What is stored for targets that begin so.
    pub prefixes: Vec<String>,
    /// What carries one of these surrogate keys.
    pub keys: Vec<String>,
}

/// What a purge leaves of a stored response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It was not purged.
    Good,
    /// It is to be validated before it is used again.
    Stale,
    /// It is not to be used again.
    Gone,
}

/// The epoch up to which a stored response is known to be good.
#[derive(Debug, Clone, Default)]
pub struct Stamp(Arc<AtomicU64>);

impl Stamp {
    /// For what answers a request that goes out in this epoch.
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        Self(Arc::new(AtomicU64::new(epoch)))
    }

    /// The epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// It was checked in this epoch, and is good.
    pub fn renew(&self, epoch: u64) {
        self.0.fetch_max(epoch, Ordering::Relaxed);
    }
}

/// What is stored, as far as a purge can name it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Id of its site.
    pub site: &'a str,
    /// As [`Purge::targets`] has it.
    pub target: &'a str,
}

/// All purges that count for what is stored.
#[derive(Debug, Clone, Default)]
pub struct Purges {
    epoch: u64,
    unknown_before: u64,
    unsure_before: Option<u64>,
    sites: BTreeMap<String, Arc<SiteMarks>>,
}

impl Purges {
    /// None yet; the count goes on from `epoch`.
    #[must_use]
    pub fn beginning_at(epoch: u64) -> Self {
        Self { epoch, ..Self::default() }
    }

    /// As they were: with all of [`Purges::iter`], in its order.
    #[must_use]
    pub fn restored(epoch: u64, unknown_before: u64, purges: impl IntoIterator<Item = (u64, Purge)>) -> Self {
        let mut all = Self { epoch, unknown_before, ..Self::default() };
        for (number, purge) in purges {
            all.mark(number, &purge);
        }
        all
    }

    /// The number of the last purge.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whatever was stored before this epoch is stale.
    #[must_use]
    pub const fn unknown_before(&self) -> u64 {
        self.unknown_before
    }

    /// The epoch of the last purge that could concern something of this site.
    #[must_use]
    pub fn latest(&self, site: &str) -> u64 {
        let latest = self.sites.get(site).map_or(0, |marks| marks.latest());
        latest.max(self.unknown_before).max(self.unsure_before.unwrap_or_default())
    }

    /// Purges, in one epoch.
    pub fn purge(&mut self, purges: &[Purge]) {
        if purges.is_empty() {
            return;
        }
        self.epoch += 1;
        for purge in purges {
            self.mark(self.epoch, purge);
        }
    }

    /// Nobody knows what was purged until now: whatever is stored is stale.
    pub fn all_is_stale(&mut self) {
        self.epoch += 1;
        self.unknown_before = self.epoch;
        self.sites.clear();
    }

    /// What is stored may have been purged while nobody listened: it is stale until [`Purges::caught_up`].
    pub fn fell_behind(&mut self) {
        self.epoch += 1;
        self.unsure_before = Some(self.epoch);
    }

    /// All purges are known. Whether that is news.
    pub fn caught_up(&mut self) -> bool {
        let news = self.unsure_before.take().is_some();
        // What was found to be stale and is not, is checked again.
        self.epoch += u64::from(news);
        news
    }

    /// Forgets the purges of a site that is no more.
    pub fn forget(&mut self, site: &str) {
        self.sites.remove(site);
    }

    /// What to do with something stored. `keys` are asked for only where they matter. What is good may be stamped with
    /// [`Purges::epoch`].
    #[must_use]
    pub fn standing<'a>(&self, entry: Entry<'_>, keys: impl FnOnce() -> SurrogateKeys<'a>, stamp: u64) -> Standing {
        if stamp >= self.epoch {
            return Standing::Good;
        }
        let site = self.sites.get(entry.site).filter(|site| stamp < site.latest());
        let marks = site.map_or(Marks::default(), |site| site.of(normal_target(entry.target).as_bytes(), &keys()));
        let stale_before = marks.soft.max(self.unknown_before).max(self.unsure_before.unwrap_or_default());
        match stamp {
            _ if stamp < marks.hard => Standing::Gone,
            _ if stamp < stale_before => Standing::Stale,
            _ => Standing::Good,
        }
    }

    /// What is remembered, to be written down.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Purge)> {
        self.sites.iter().flat_map(|(id, marks)| marks.as_purges(id))
    }

    fn mark(&mut self, epoch: u64, purge: &Purge) {
        let site = self.sites.entry(purge.site.clone()).or_default();
        let site = Arc::make_mut(site);
        site.mark(epoch, purge);
        if site.weight() > MAX_SITE {
            site.forget_details();
        }
        while self.sites.values().map(|site| site.weight()).sum::<usize>() > MAX_ALL {
            let Some(heaviest) = self.sites.values_mut().max_by_key(|site| site.weight()) else { return };
            Arc::make_mut(heaviest).forget_details();
        }
    }
}

#[cfg(test)]
mod tests;
