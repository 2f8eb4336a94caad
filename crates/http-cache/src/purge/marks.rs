//! When what of one site was last purged.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

use super::{Purge, SurrogateKeys};
use crate::{normal_target, uri::normal_prefix};

/// Of a mark beside its text, roughly.
const OVERHEAD: usize = 96;

/// Epochs of the last soft and the last hard purge; 0: there was none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) soft: u64,
    pub(super) hard: u64,
}

impl Marks {
    fn raise(&mut self, epoch: u64, soft: bool) {
        let mark = if soft { &mut self.soft } else { &mut self.hard };
        *mark = epoch.max(*mark);
    }

    fn or(self, other: Self) -> Self {
        Self { soft: self.soft.max(other.soft), hard: self.hard.max(other.hard) }
    }
}

type Text = Box<[u8]>;

/// All marks of a site.
#[derive(Debug, Clone, Default)]
pub(super) struct SiteMarks {
    everything: Marks,
    targets: HashMap<Text, Marks>,
    prefixes: BTreeMap<Text, Marks>,
    keys: HashMap<Text, Marks>,
    /// Of all keys together.
    any_key: Marks,
    latest: u64,
    weight: usize,
}

impl SiteMarks {
    pub(super) const fn latest(&self) -> u64 {
        self.latest
    }

    /// Bytes of memory, roughly.
    pub(super) const fn weight(&self) -> usize {
        self.weight
    }

    pub(super) fn mark(&mut self, epoch: u64, purge: &Purge) {
        self.latest = self.latest.max(epoch);
        if purge.everything {
            self.everything.raise(epoch, purge.soft);
            if !purge.soft && self.everything.hard == self.latest {
                self.clear();
            }
        }
        let weight = &mut self.weight;
        let mut count = |text: &str| *weight += OVERHEAD + text.len();
        for text in &purge.targets {
            let text = &*normal_target(text);
            self.targets
                .entry(text.as_bytes().into())
                .or_insert_with(|| new(&mut count, text))
                .raise(epoch, purge.soft);
        }
        for text in &purge.prefixes {
            let text = &*normal_prefix(text);
            self.prefixes
                .entry(text.as_bytes().into())
                .or_insert_with(|| new(&mut count, text))
                .raise(epoch, purge.soft);
        }
        for text in &purge.keys {
            self.any_key.raise(epoch, purge.soft);
            self.keys.entry(text.as_bytes().into()).or_insert_with(|| new(&mut count, text)).raise(epoch, purge.soft);
        }
    }

    /// Whatever was marked somewhere is marked everywhere.
    pub(super) fn forget_details(&mut self) {
        let details = self.targets.values().chain(self.prefixes.values()).chain(self.keys.values());
        self.everything = details.fold(self.everything, |all, marks| all.or(*marks));
        self.clear();
    }

    fn clear(&mut self) {
        self.targets.clear();
        self.prefixes.clear();
        self.keys.clear();
        self.any_key = Marks::default();
        self.weight = 0;
    }

    /// The marks of what is stored for `target` with these keys.
    pub(super) fn of(&self, target: &[u8], keys: &SurrogateKeys<'_>) -> Marks {
        let by_target = self.targets.get(target).copied();
        let by_key = keys.listed().iter().filter_map(|key| self.keys.get(*key).copied());
        let by_any_key = keys.overflown().then_some(self.any_key);
        let by_prefix = prefixes_of(&self.prefixes, target);
        by_prefix.chain(by_target).chain(by_key).chain(by_any_key).fold(self.everything, Marks::or)
    }

    /// What makes these marks again.
    pub(super) fn as_purges(&self, site: &str) -> impl Iterator<Item = (u64, Purge)> + use<> {
        let mut purges = BTreeMap::<(u64, bool), Purge>::new();
        let mut note = |marks: &Marks, add: &dyn Fn(&mut Purge)| {
            for (epoch, soft) in [(marks.hard, false), (marks.soft, true)].into_iter().filter(|(epoch, _)| *epoch > 0) {
                let new = || Purge { site: site.to_owned(), soft, ..Purge::default() };
                add(purges.entry((epoch, soft)).or_insert_with(new));
            }
        };
        // Marks are made of texts.
        let text = |text: &Text| String::from_utf8_lossy(text).into_owned();
        note(&self.everything, &|purge| purge.everything = true);
        self.targets.iter().for_each(|(name, marks)| note(marks, &|purge| purge.targets.push(text(name))));
        self.prefixes.iter().for_each(|(name, marks)| note(marks, &|purge| purge.prefixes.push(text(name))));
        self.keys.iter().for_each(|(name, marks)| note(marks, &|purge| purge.keys.push(text(name))));
        purges.into_iter().map(|((epoch, _), purge)| (epoch, purge))
    }
}

fn new(count: &mut impl FnMut(&str), text: &str) -> Marks {
    count(text);
    Marks::default()
}

/// The marks of all prefixes of `target`: as many steps as there are of them, and at most as many more as it has bytes.
fn prefixes_of<'a>(marks: &'a BTreeMap<Text, Marks>, target: &'a [u8]) -> impl Iterator<Item = Marks> + 'a {
    let mut bound = Some(Bound::Included(target));
    std::iter::from_fn(move || {
        loop {
            let (candidate, found) = marks.range::<[u8], _>((Bound::Unbounded, bound?)).next_back()?;
            let common = candidate.iter().zip(target).take_while(|(one, other)| one == other).count();
            if common == candidate.len() {
                bound = Some(Bound::Excluded(&target[..common]));
                return Some(*found);
            }
            // Whatever is a prefix of the target and comes before the candidate is no longer than what they share.
            bound = Some(Bound::Included(&target[..common]));
        }
    })
}
