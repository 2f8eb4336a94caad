//! Takes away what nobody can ask for any more: versions that were replaced long enough ago, multipart uploads that nobody
//! completed, deleted sites, and what broken writes left in a folder. Any number of origins may sweep one store.

mod deleted;

use std::{
    collections::BTreeMap,
    path::Path as FilePath,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::TryStreamExt;
use object_store::path::Path;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use umbel_content::VersionId;
use umbel_service::installation::Installation;

use crate::{
    meter::Meter,
    record::Head,
    store::{Condition, Store, StoreError, found, now_ms},
    uploads,
};

/// Staged files of broken writes are left alone for this long: their writer may be another process.
const STAGED_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How long things are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    /// Versions, after they were replaced.
    pub(crate) replaced: Duration,
    /// Multipart uploads, after they began.
    pub(crate) uploads: Duration,
    /// Deleted sites, after an origin heard of it.
    pub(crate) deleted_sites: Duration,
}

/// Sweeps one store.
#[derive(Debug, Clone)]
pub(crate) struct Sweep {
    store: Store,
    keep: Keep,
    installation: watch::Receiver<Arc<Installation>>,
    meter: Meter,
}

impl Sweep {
    pub(crate) fn new(
        store: Store,
        keep: Keep,
        installation: watch::Receiver<Arc<Installation>>,
        meter: Meter,
    ) -> Self {
        Self { store, keep, installation, meter }
    }

    /// Sweeps again and again until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let shortest = self.keep.replaced.min(self.keep.uploads).min(self.keep.deleted_sites);
        let pause = (shortest / 10).clamp(Duration::from_secs(1), Duration::from_secs(300));
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let swept = tokio::select! {
                () = shutdown.cancelled() => return,
                swept = self.once() => swept,
            };
            if let Err(error) = swept {
                warn!(error = &error as &dyn std::error::Error, "sweep not finished, trying again later");
            }
        }
    }

    /// One sweep over everything.
    pub(crate) async fn once(&self) -> Result<(), StoreError> {
        for site in self.sites("replaced").await? {
            self.replaced(&site).await?;
        }
        for site in self.sites("uploads").await? {
            self.uploads(&site).await?;
        }
        self.deleted_sites().await?;
        if let Some(folder) = self.store.folder().cloned() {
            let removed = tokio::task::spawn_blocking(move || remove_staged(&folder)).await;
            removed.map_err(|_| StoreError::Interrupted)?;
        }
        Ok(())
    }

    async fn sites(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        Ok(found(self.store.names(&Path::from(folder)).await)?.unwrap_or_default().0)
    }

    /// A version goes when its *latest* mark is due: it may have been current for a while after its first.
    async fn replaced(&self, site: &str) -> Result<(), StoreError> {
        let marks: Vec<_> = self.store.list(format!("replaced/{site}").into()).try_collect().await?;
        let mut versions: BTreeMap<VersionId, (u64, Vec<Path>)> = BTreeMap::new();
        for mark in marks {
            let Some((at_ms, version)) = mark.location.filename().and_then(read_mark) else { continue };
            let entry = versions.entry(version).or_default();
            entry.0 = entry.0.max(at_ms);
            entry.1.push(mark.location);
        }
        let due = now_ms().saturating_sub(millis(self.keep.replaced));
        for (version, (_, marks)) in versions.into_iter().filter(|(_, (at_ms, _))| *at_ms <= due) {
            self.settle(site, &version, &marks).await?;
        }
        Ok(())
    }

    async fn settle(&self, site: &str, version: &VersionId, marks: &[Path]) -> Result<(), StoreError> {
        match self.current(site, version).await? {
            None => {
                self.store.delete_version(site, version).await?;
                self.meter.swept.inc();
                info!(site, %version, "removed a replaced version");
            }
            Some(head) if head.expires_ms == 0 => {}
            // Its version is marked with it, and goes like one that was replaced.
            Some(head) if head.expires_ms.saturating_add(millis(self.keep.replaced)) <= now_ms() => {
                found(self.store.remove(site, &head.key, &Condition::Etag(head.etag)).await)?;
            }
            Some(head) => self.store.mark(site, version, head.next_look()).await?,
        }
        for mark in marks {
            self.store.delete(mark).await?;
        }
        Ok(())
    }

    /// The head of its object, if the version is current.
    async fn current(&self, site: &str, version: &VersionId) -> Result<Option<Head>, StoreError> {
        let Some(head) = found(self.store.version_head(site, version).await)? else { return Ok(None) };
        let current = found(self.store.head(site, &head.key).await)?;
        Ok(current.filter(|current| current.version_id == head.version_id))
    }

    async fn uploads(&self, site: &str) -> Result<(), StoreError> {
        let (ids, _) = found(self.store.names(&format!("uploads/{site}").into()).await)?.unwrap_or_default();
        for id in ids {
            if self.is_over(site, &id).await? {
                uploads::remove_rest(&self.store, site, &id).await?;
                info!(site, upload = id, "removed an upload that nobody completed");
            }
        }
        Ok(())
    }

    /// All of an upload is older than uploads are kept: so the rest of a removed one goes, too, and one that parts still come
    /// for stays.
    async fn is_over(&self, site: &str, id: &str) -> Result<bool, StoreError> {
        let due = SystemTime::now() - self.keep.uploads;
        let mut files = self.store.list(format!("uploads/{site}/{id}").into());
        while let Some(file) = files.try_next().await? {
            if SystemTime::from(file.last_modified) > due {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn read_mark(name: &str) -> Option<(u64, VersionId)> {
    let (at_ms, version) = name.split_once('-')?;
    Some((at_ms.parse().ok()?, version.parse().ok()?))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Removes files that `object_store` staged (`name#number`) and nobody will finish. Best effort: what cannot be read now can
/// be next time.
fn remove_staged(folder: &FilePath) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            remove_staged(&entry.path());
        } else if is_staged(&entry.file_name().to_string_lossy())
            && is_old(&entry)
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            warn!(file = %entry.path().display(), %error, "cannot remove what a broken write left");
        }
    }
}

fn is_staged(name: &str) -> bool {
    name.rsplit_once('#')
        .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_old(entry: &std::fs::DirEntry) -> bool {
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > STAGED_LIFE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staged_files_are_told_from_ours() {
        let check = |name: &str, expected: bool| assert_eq!(is_staged(name), expected, "{name}");
        check("index.html!#1", true);
        check("00ff#12", true);
        check("index.html!", false);
        check("a#b!", false);
        check("a#", false);
    }

    #[test]
    fn marks_come_back() {
        let version = VersionId::from_bytes([7; 16]);
        assert_eq!(read_mark(&format!("{:015}-{version}", 42)), Some((42, version)));
        assert_eq!(read_mark("nonsense"), None);
    }
}
