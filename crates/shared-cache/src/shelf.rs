//! What is stored, by key: the responses to one target that differ in what the server was asked for (RFC 9111, section 4.1), or
//! in which part they are.

use std::{borrow::Borrow, sync::Arc};

use moka::{ops::compute::Op, sync::Cache};
use umbel_http_cache::{Stamp, Stored};

use crate::{body::Body, key::Key};

/// Responses to one target; the oldest goes when there is one more.
const MOST: usize = 64;

/// Of one response beside its body and fields, roughly.
const OVERHEAD: usize = 1024;

/// A stored response.
#[derive(Debug, Clone)]
pub struct Variant {
    stored: Arc<Stored>,
    body: Arc<Body>,
    stamp: Stamp,
}

impl Variant {
    pub fn new(stored: Stored, body: Arc<Body>, stamp: Stamp) -> Self {
        Self { stored: Arc::new(stored), body, stamp }
    }

    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    pub fn body(&self) -> &Arc<Body> {
        &self.body
    }

    /// Up to when it is known not to be purged.
    pub fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// The same body under another head, which came of a question of this time.
    pub fn with(&self, stored: Stored, stamp: Stamp) -> Self {
        Self::new(stored, self.body.clone(), stamp)
    }

    /// It is this body, whatever its head is by now.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.body, &other.body)
    }

    fn weight(&self) -> usize {
        let fields: usize = self.stored.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        OVERHEAD + fields + self.body.weight()
    }
}

impl Borrow<Stored> for Variant {
    fn borrow(&self) -> &Stored {
        &self.stored
    }
}

/// All that is stored.
#[derive(Debug, Clone)]
pub struct Shelves(Cache<Key, Arc<[Variant]>>);

impl Shelves {
    /// Heads and short bodies take `capacity` bytes of memory at most.
    pub fn new(capacity: u64) -> Self {
        let weigh = |_: &Key, variants: &Arc<[Variant]>| {
            u32::try_from(variants.iter().map(Variant::weight).sum::<usize>()).unwrap_or(u32::MAX)
        };
        Self(Cache::builder().max_capacity(capacity).weigher(weigh).build())
    }

    /// What is stored under `key`, the oldest first.
    pub fn get(&self, key: &Key) -> Arc<[Variant]> {
        let found = self.0.get(key).unwrap_or_default();
        if !found.iter().any(|variant| variant.body.is_lost()) {
            return found;
        }
        self.change(*key, |variants| variants.retain(|variant| !variant.body.is_lost()));
        self.0.get(key).unwrap_or_default()
    }

    /// Changes what is stored under `key`; nobody else does meanwhile.
    pub fn change(&self, key: Key, change: impl FnOnce(&mut Vec<Variant>)) {
        self.0.entry(key).and_compute_with(|entry| {
            let had = entry.is_some();
            let mut variants = entry.map(|entry| entry.into_value().to_vec()).unwrap_or_default();
            change(&mut variants);
            variants.drain(..variants.len().saturating_sub(MOST));
            match (variants.is_empty(), had) {
                (false, _) => Op::Put(variants.into()),
                (true, true) => Op::Remove,
                (true, false) => Op::Nop,
            }
        });
    }

    /// Forgets everything under `key`.
    pub fn remove(&self, key: &Key) {
        self.0.invalidate(key);
    }
}
