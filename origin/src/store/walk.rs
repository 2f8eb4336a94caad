//! Meets the objects of a site in the order of their keys' bytes, folder by folder: memory is for the folders on the way
//! down, and whatever lies outside the wanted prefix or before the wanted start is never listed.

use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;

use super::{Store, StoreError, found, located, objects_folder};
use crate::{
    keys::{self, Entry},
    record::Head,
};

/// Records that are read at once, where only they tell the key.
const READS: usize = 16;

/// A walk that is going on.
#[derive(Debug)]
pub(crate) struct Walk {
    store: Store,
    prefix: Vec<u8>,
    /// Keys before this are not met.
    start: Vec<u8>,
    /// What is still to be met of the folders on the way down, last first.
    levels: Vec<Vec<Step>>,
}

#[derive(Debug)]
struct Step {
    /// What the keys behind it begin with; of an object, its key.
    bytes: Vec<u8>,
    location: Path,
    folder: bool,
}

impl Walk {
    /// Over the keys of `site` that begin with `prefix`.
    pub(crate) async fn start(store: Store, site: &str, prefix: &str) -> Result<Self, StoreError> {
        let mut walk = Self { store, prefix: prefix.as_bytes().to_vec(), start: Vec::new(), levels: Vec::new() };
        let top = prefix.rfind('/').map_or("", |slash| &prefix[..=slash]);
        let objects = objects_folder(site);
        match keys::folder(top) {
            Some(names) => walk.enter(located(&objects, &names), top.as_bytes().to_vec()).await?,
            None => walk.enter(objects, Vec::new()).await?,
        }
        Ok(walk)
    }

    /// Goes on with the first key that is not less than `start`.
    pub(crate) fn skip_to(&mut self, start: Vec<u8>) {
        self.start = self.start.clone().max(start);
    }

    /// The next key and where its record lies.
    pub(crate) async fn next(&mut self) -> Result<Option<(String, Path)>, StoreError> {
        while let Some(level) = self.levels.last_mut() {
            let Some(step) = level.pop() else {
                self.levels.pop();
                continue;
            };
            if !self.wanted(&step) {
                continue;
            }
            if step.folder {
                self.enter(step.location, step.bytes).await?;
            } else if let Ok(key) = String::from_utf8(step.bytes) {
                return Ok(Some((key, step.location)));
            }
        }
        Ok(None)
    }

    fn wanted(&self, step: &Step) -> bool {
        if step.folder {
            let has_prefix = step.bytes.starts_with(&self.prefix) || self.prefix.starts_with(&step.bytes);
            has_prefix && (step.bytes >= self.start || self.start.starts_with(&step.bytes))
        } else {
            step.bytes.starts_with(&self.prefix) && step.bytes >= self.start
        }
    }

    async fn enter(&mut self, folder: Path, bytes: Vec<u8>) -> Result<(), StoreError> {
        let (folders, files) = found(self.store.names(&folder).await)?.unwrap_or_default();
        let mut steps = Vec::with_capacity(folders.len() + files.len());
        let mut hashed = Vec::new();
        for name in &folders {
            if let Some(Entry::Folder(rest)) = Entry::folder(name) {
                steps.push(Step {
                    bytes: [bytes.as_slice(), &rest].concat(),
                    location: located(&folder, name),
                    folder: true,
                });
            }
        }
        for name in &files {
            match Entry::file(name) {
                Some(Entry::Object(rest)) => {
                    let bytes = [bytes.as_slice(), &rest].concat();
                    steps.push(Step { bytes, location: located(&folder, name), folder: false });
                }
                Some(Entry::Hashed) => hashed.push(located(&folder, name)),
                Some(Entry::Folder(_)) | None => {}
            }
        }
        steps.extend(self.read_keys(hashed).await?);
        steps.sort_unstable_by(|a, b| b.bytes.cmp(&a.bytes).then(b.folder.cmp(&a.folder)));
        self.levels.push(steps);
        Ok(())
    }

    async fn read_keys(&self, locations: Vec<Path>) -> Result<Vec<Step>, StoreError> {
        let store = &self.store;
        let heads = locations.into_iter().map(|location| async move {
            let head = found(store.read_head(&location).await)?;
            Ok::<_, StoreError>(head.map(|(head, _)| Step { bytes: head.key.into_bytes(), location, folder: false }))
        });
        let steps: Vec<Option<Step>> = stream::iter(heads).buffer_unordered(READS).try_collect().await?;
        Ok(steps.into_iter().flatten().collect())
    }
}

impl Store {
    /// The heads of records that a walk met; those that went in the meantime are left out.
    pub(crate) async fn heads(&self, met: Vec<(String, Path)>) -> Result<Vec<Head>, StoreError> {
        let heads = met.into_iter().map(|(_, location)| async move {
            Ok::<_, StoreError>(found(self.read_head(&location).await)?.map(|(head, _)| head))
        });
        let heads: Vec<Option<Head>> = stream::iter(heads).buffered(READS).try_collect().await?;
        Ok(heads.into_iter().flatten().collect())
    }
}
