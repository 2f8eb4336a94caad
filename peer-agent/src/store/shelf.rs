//! Which versions there are: by id, by path and by age, with running totals, so that nothing is added up anew for each request.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, atomic::Ordering},
};

use umbel_content::{ChunkIndex, Manifest, ManifestId};

use super::{StoreError, Version};

/// All versions. What it counts of each (`Version::{leases, used, bytes}`) changes here only, under its lock.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    by_id: HashMap<ManifestId, Arc<Version>>,
    by_path: HashMap<String, BTreeSet<ManifestId>>,
    /// The least recently used first.
    by_use: BTreeMap<u64, ManifestId>,
    clock: u64,
    /// Bytes on disk.
    held: u64,
    /// What the versions in use take when they are complete.
    in_use: u64,
    /// Bytes on disk of all others.
    idle: u64,
}

impl Shelf {
    pub(super) fn get(&self, id: &ManifestId) -> Option<&Arc<Version>> {
        self.by_id.get(id)
    }

    /// Everything, the most recently used first.
    pub(super) fn newest_first(&self) -> Vec<Arc<Version>> {
        self.by_use.values().rev().filter_map(|id| self.by_id.get(id).cloned()).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Bytes on disk.
    pub(super) fn held_bytes(&self) -> u64 {
        self.held
    }

    /// Bytes that versions in use will have on disk, and that all others have.
    #[cfg(test)]
    pub(super) fn reserved(&self) -> (u64, u64) {
        (self.in_use, self.idle)
    }

    /// Whether any of a version of this path is held.
    pub(super) fn holds_path(&self, path: &str) -> bool {
        let versions = self.by_path.get(path).into_iter().flatten().filter_map(|id| self.by_id.get(id));
        versions.into_iter().any(|version| version.bytes.load(Ordering::Relaxed) > 0)
    }

    /// Takes in a version that is not here, and that nobody uses yet.
    pub(super) fn insert(&mut self, version: Arc<Version>) {
        let (held, layout) = (version.held(), version.manifest.layout());
        let bytes: u64 = held.iter().filter_map(|chunk| layout.sealed_len(chunk)).map(u64::from).sum();
        version.bytes.store(bytes, Ordering::Relaxed);
        self.held += bytes;
        self.idle += bytes;
        self.by_path.entry(version.manifest.path().as_str().to_owned()).or_default().insert(version.id);
        self.by_id.insert(version.id, version.clone());
        self.touch(&version);
    }

    /// Takes a version out, unless someone uses it.
    pub(super) fn remove_idle(&mut self, id: &ManifestId) -> Option<Arc<Version>> {
        if self.by_id.get(id)?.in_use() {
            return None;
        }
        let version = self.by_id.remove(id)?;
        let bytes = version.bytes.load(Ordering::Relaxed);
        self.held -= bytes;
        self.idle -= bytes;
        self.by_use.remove(&version.used.load(Ordering::Relaxed));
        let path = version.manifest.path().as_str();
        if let Some(versions) = self.by_path.get_mut(path) {
            versions.remove(id);
            if versions.is_empty() {
                self.by_path.remove(path);
            }
        }
        Some(version)
    }

    /// The version was used just now.
    pub(super) fn touch(&mut self, version: &Version) {
        self.clock += 1;
        let before = version.used.swap(self.clock, Ordering::Relaxed);
        self.by_use.remove(&before);
        self.by_use.insert(self.clock, version.id);
    }

    /// One more uses the version: it counts in full from now on.
    pub(super) fn lease(&mut self, version: &Arc<Version>) {
        if version.leases.fetch_add(1, Ordering::AcqRel) == 0 && self.has(version) {
            self.idle -= version.bytes.load(Ordering::Relaxed);
            self.in_use += version.manifest.layout().sealed_length();
        }
    }

    /// One fewer does.
    pub(super) fn release(&mut self, version: &Arc<Version>) {
        if version.leases.fetch_sub(1, Ordering::AcqRel) == 1 && self.has(version) {
            self.in_use -= version.manifest.layout().sealed_length();
            self.idle += version.bytes.load(Ordering::Relaxed);
        }
    }

    /// A chunk is on disk and in the index.
    pub(super) fn gained(&mut self, version: &Arc<Version>, chunk: ChunkIndex) {
        if version.held.send_if_modified(|held| Arc::make_mut(held).insert(chunk)) && self.has(version) {
            let bytes = sealed_len(version, chunk);
            version.bytes.fetch_add(bytes, Ordering::Relaxed);
            self.held += bytes;
            self.idle += if version.in_use() { 0 } else { bytes };
        }
    }

    /// A chunk's bytes are not what they should be.
    pub(super) fn lost(&mut self, version: &Arc<Version>, chunk: ChunkIndex) {
        if version.held.send_if_modified(|held| Arc::make_mut(held).remove(chunk)) && self.has(version) {
            let bytes = sealed_len(version, chunk);
            version.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.held -= bytes;
            self.idle -= if version.in_use() { 0 } else { bytes };
        }
    }

    /// Not evicted meanwhile.
    fn has(&self, version: &Arc<Version>) -> bool {
        self.by_id.get(&version.id).is_some_and(|here| Arc::ptr_eq(here, version))
    }

    /// Which other versions have to go so that this one, which nobody uses yet, fits in full: the least recently used ones that
    /// nobody uses.
    pub(super) fn room_for(&self, quota: u64, manifest: &Manifest) -> Result<Vec<ManifestId>, StoreError> {
        let (id, needed) = (manifest.id(), manifest.layout().sealed_length());
        let free = quota.saturating_sub(self.in_use);
        if needed > free {
            return Err(StoreError::Quota { needed, free });
        }
        let its_own = self.by_id.get(&id).map_or(0, |version| version.bytes.load(Ordering::Relaxed));
        let mut kept = self.idle - its_own;
        let mut victims = Vec::new();
        for version in self.by_use.values().filter_map(|other| self.by_id.get(other)) {
            if kept + needed <= free {
                break;
            }
            if version.id != id && !version.in_use() {
                kept -= version.bytes.load(Ordering::Relaxed);
                victims.push(version.id);
            }
        }
        Ok(victims)
    }
}

fn sealed_len(version: &Version, chunk: ChunkIndex) -> u64 {
    version.manifest.layout().sealed_len(chunk).map_or(0, u64::from)
}
