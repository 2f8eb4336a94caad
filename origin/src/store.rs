//! The origin's only state: an object store, a folder or a bucket, shared by any number of origins.
//!
//! | location | what |
//! |---|---|
//! | `blobs/<site id>/<version>` | all chunks of a version, ciphertext, one after the other |
//! | `versions/<site id>/<version>` | its [`Record`] |
//! | `objects/<site id>/<key, see` [`crate::keys`]`>` | the record of the key's current version: replaced in one atomic put |
//! | `replaced/<site id>/<milliseconds>-<version>` | a version to be looked at later: if it is not current by then, it goes |
//! | `uploads/<site id>/<upload>/...` | multipart uploads, see [`crate::uploads`] |
//! | `deleted/<site id>/<milliseconds>` | a site that was deleted: a while later all that is here of it goes |
//!
//! Whatever breaks off in between leaves at most a version that nothing points to, and a mark that lets
//! [`crate::sweep`] find it.

mod blob;
#[cfg(test)]
mod conformance;
mod error;
mod open;
mod walk;

use std::{ops::Range, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion, path::Path,
};
use tokio::sync::{Mutex, MutexGuard};
use umbel_content::VersionId;

pub(crate) use blob::BlobWriter;
pub use error::StoreError;
pub use open::{S3Access, StoreUrl, StoreUrlError};
pub(crate) use walk::Walk;

use crate::{
    keys,
    record::{Beginning, HEAD_READ, Head, Record},
};

/// Where a site's things lie, those that point before what they point to.
pub(crate) const SITE_FOLDERS: [&str; 5] = ["objects", "uploads", "replaced", "versions", "blobs"];

/// Deletions at once, of many.
const DELETIONS: usize = 16;

/// Writers that lose a race for a pointer try again this often.
const MAX_RACES: usize = 32;

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// What must be true of the current object for a write to go ahead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Nothing.
    #[default]
    Always,
    /// There is none (`If-None-Match: *`).
    Absent,
    /// There is one (`If-Match: *`).
    Present,
    /// It has this ETag (`If-Match`).
    Etag(String),
    /// It has another ETag, or there is none (`If-None-Match`).
    NotEtag(String),
}

impl Condition {
    fn check(&self, etag: Option<&str>) -> Result<(), StoreError> {
        let holds = match self {
            Self::Always => true,
            Self::Absent => etag.is_none(),
            Self::Present => etag.is_some(),
            Self::Etag(wanted) if etag.is_none() && !wanted.is_empty() => return Err(StoreError::NotFound),
            Self::Etag(wanted) => etag == Some(wanted),
            Self::NotEtag(unwanted) => etag != Some(unwanted),
        };
        if holds { Ok(()) } else { Err(StoreError::Precondition) }
    }
}

/// A folder or a bucket.
#[derive(Debug, Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// Set for a folder, which has no compare-and-swap: writers of one process take turns.
    folder: Option<PathBuf>,
    turns: Arc<[Mutex<()>]>,
}

impl Store {
    pub(crate) fn new(objects: Arc<dyn ObjectStore>, folder: Option<PathBuf>) -> Self {
        Self { objects, folder, turns: (0..64).map(|_| Mutex::new(())).collect() }
    }

    /// Where it lies on this machine, if it does.
    pub(crate) fn folder(&self) -> Option<&PathBuf> {
        self.folder.as_ref()
    }

    /// Whether it answers.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.list("replaced".into()).try_next().await.map(drop)
    }

    // ---- Versions ----

    /// A writer of the chunks of one version; nothing is visible until it has finished.
    pub(crate) async fn blob(&self, site: &str, version: &VersionId, length: u64) -> Result<BlobWriter, StoreError> {
        BlobWriter::start(self.objects.clone(), blob_location(site, version), length).await
    }

    /// Bytes of a version's blob.
    pub(crate) async fn blob_range(
        &self,
        site: &str,
        version: &VersionId,
        range: Range<u64>,
    ) -> Result<Bytes, StoreError> {
        let wanted = range.end - range.start;
        let bytes = self.objects.get_range(&blob_location(site, version), range).await?;
        if bytes.len() as u64 == wanted { Ok(bytes) } else { Err(StoreError::Damaged) }
    }

    pub(crate) async fn put_version(&self, site: &str, version: &VersionId, record: Bytes) -> Result<(), StoreError> {
        self.put(version_location(site, version), record).await
    }

    pub(crate) async fn version(&self, site: &str, version: &VersionId) -> Result<Record, StoreError> {
        Ok(Record::decode(&self.get(version_location(site, version)).await?)?)
    }

    pub(crate) async fn version_head(&self, site: &str, version: &VersionId) -> Result<Head, StoreError> {
        Ok(self.read_head(&version_location(site, version)).await?.0)
    }

    pub(crate) async fn delete_version(&self, site: &str, version: &VersionId) -> Result<(), StoreError> {
        self.delete(&blob_location(site, version)).await?;
        self.delete(&version_location(site, version)).await
    }

    // ---- Marks ----

    /// Has `version` looked at, a while after `at_ms`.
    pub(crate) async fn mark(&self, site: &str, version: &VersionId, at_ms: u64) -> Result<(), StoreError> {
        self.put(format!("replaced/{site}/{at_ms:015}-{version}").into(), Bytes::new()).await
    }

    /// Has all of `site` taken away, a while after `at_ms`.
    pub(crate) async fn mark_deleted(&self, site: &str, at_ms: u64) -> Result<(), StoreError> {
        self.put(deleted_location(site).join(format!("{at_ms:015}")), Bytes::new()).await
    }

    // ---- Objects ----

    /// The current record of `key`.
    pub(crate) async fn current(&self, site: &str, key: &str) -> Result<Record, StoreError> {
        Ok(Record::decode(&self.get(object_location(site, key)).await?)?)
    }

    /// The head of the current record of `key`.
    pub(crate) async fn head(&self, site: &str, key: &str) -> Result<Head, StoreError> {
        Ok(self.read_head(&object_location(site, key)).await?.0)
    }

    /// Makes `record` the current one of its key, if `condition` holds of the one that it replaces.
    pub(crate) async fn publish(&self, site: &str, record: &Record, condition: &Condition) -> Result<(), StoreError> {
        let location = object_location(site, &record.head.key);
        let bytes = record.encode();
        let _turn = self.turn(&location).await;
        for _ in 0..MAX_RACES {
            let current = found(self.read_head(&location).await)?;
            condition.check(current.as_ref().map(|(head, _)| head.etag.as_str()))?;
            if let Some((head, _)) = &current {
                self.mark(site, &head.version()?, now_ms()).await?;
            }
            let mode = self.replacing(current.map(|(_, tag)| tag));
            let put = self.objects.put_opts(&location, bytes.clone().into(), PutOptions::from(mode)).await;
            match put.map_err(StoreError::from) {
                Err(StoreError::Precondition) => {}
                outcome => return outcome.map(drop),
            }
        }
        Err(StoreError::Busy)
    }

    fn replacing(&self, current: Option<UpdateVersion>) -> PutMode {
        match (current, &self.folder) {
            (None, _) => PutMode::Create,
            (Some(_), Some(_)) => PutMode::Overwrite,
            (Some(tag), None) => PutMode::Update(tag),
        }
    }

    /// Takes `key` away, if `condition` holds. Whether there was such an object.
    pub(crate) async fn remove(&self, site: &str, key: &str, condition: &Condition) -> Result<bool, StoreError> {
        let location = object_location(site, key);
        let _turn = self.turn(&location).await;
        let current = found(self.read_head(&location).await)?;
        condition.check(current.as_ref().map(|(head, _)| head.etag.as_str()))?;
        let Some((head, _)) = current else { return Ok(false) };
        self.mark(site, &head.version()?, now_ms()).await?;
        self.delete(&location).await?;
        Ok(true)
    }

    async fn turn(&self, location: &Path) -> MutexGuard<'_, ()> {
        let hash = blake3::hash(location.as_ref().as_bytes());
        self.turns[usize::from(hash.as_bytes()[0]) % self.turns.len()].lock().await
    }

    async fn read_head(&self, location: &Path) -> Result<(Head, UpdateVersion), StoreError> {
        let mut wanted = HEAD_READ;
        loop {
            let options = GetOptions { range: Some(GetRange::Bounded(0..wanted)), ..GetOptions::default() };
            let answer = self.objects.get_opts(location, options).await?;
            let tag = UpdateVersion { e_tag: answer.meta.e_tag.clone(), version: answer.meta.version.clone() };
            let bytes = answer.bytes().await?;
            match Head::read(&bytes)? {
                Beginning::Whole(head, _) => return Ok((*head, tag)),
                Beginning::Needs(more) if more as u64 > wanted => wanted = more as u64,
                Beginning::Needs(_) => return Err(StoreError::Damaged),
            }
        }
    }

    // ---- Plain objects ----

    pub(crate) async fn put(&self, location: Path, bytes: Bytes) -> Result<(), StoreError> {
        self.objects.put(&location, bytes.into()).await?;
        Ok(())
    }

    pub(crate) async fn get(&self, location: Path) -> Result<Bytes, StoreError> {
        Ok(self.objects.get(&location).await?.bytes().await?)
    }

    pub(crate) async fn get_range(&self, location: &Path, range: Range<u64>) -> Result<Bytes, StoreError> {
        Ok(self.objects.get_range(location, range).await?)
    }

    /// A writer of something at `location` that becomes visible as a whole.
    pub(crate) async fn writer(&self, location: Path, length: u64) -> Result<BlobWriter, StoreError> {
        BlobWriter::start(self.objects.clone(), location, length).await
    }

    /// Deletes, durably; nothing there is success.
    pub(crate) async fn delete(&self, location: &Path) -> Result<(), StoreError> {
        found(self.objects.delete(location).await.map_err(StoreError::from))?;
        match &self.folder {
            Some(folder) => sync_folder(folder.join(location.as_ref())).await,
            None => Ok(()),
        }
    }

    /// Deletes everything below `location`; not each of it durably, so it is to be found and asked for again.
    pub(crate) async fn delete_all(&self, location: &Path) -> Result<(), StoreError> {
        let each = self.list(location.clone()).try_for_each_concurrent(DELETIONS, |meta| async move {
            found(self.objects.delete(&meta.location).await.map_err(StoreError::from)).map(drop)
        });
        each.await
    }

    /// Everything below `location`, in no order.
    pub(crate) fn list(&self, location: Path) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        self.objects.list(Some(&location)).map_err(StoreError::from).boxed()
    }

    /// The names right below `location`: folders, then objects.
    pub(crate) async fn names(&self, location: &Path) -> Result<(Vec<String>, Vec<String>), StoreError> {
        let found = self.objects.list_with_delimiter(Some(location)).await?;
        let name = |path: &Path| path.filename().map(str::to_owned);
        let folders = found.common_prefixes.iter().filter_map(name).collect();
        Ok((folders, found.objects.iter().filter_map(|meta| name(&meta.location)).collect()))
    }
}

/// `None` instead of [`StoreError::NotFound`].
pub(crate) fn found<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(StoreError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the removal of `file` last over a loss of power. Its folder may be gone with it.
async fn sync_folder(file: PathBuf) -> Result<(), StoreError> {
    let synced = tokio::task::spawn_blocking(move || match file.parent().map(std::fs::File::open) {
        Some(Ok(folder)) => folder.sync_all(),
        Some(Err(_)) | None => Ok(()),
    });
    synced.await.map_err(|_| StoreError::Interrupted)?.map_err(StoreError::Io)
}

fn blob_location(site: &str, version: &VersionId) -> Path {
    format!("blobs/{site}/{version}").into()
}

fn version_location(site: &str, version: &VersionId) -> Path {
    format!("versions/{site}/{version}").into()
}

pub(crate) fn deleted_location(site: &str) -> Path {
    format!("deleted/{site}").into()
}

fn object_location(site: &str, key: &str) -> Path {
    located(&objects_folder(site), &keys::location(key))
}

pub(crate) fn objects_folder(site: &str) -> Path {
    format!("objects/{site}").into()
}

/// `names` below `folder` as they are; [`crate::keys`] made them fit.
pub(crate) fn located(folder: &Path, names: &str) -> Path {
    let joined = format!("{folder}/{names}");
    // Only names that `keys` did not make could be refused; escaped they are at least somewhere of their own.
    Path::parse(&joined).unwrap_or_else(|_| Path::from(joined))
}
