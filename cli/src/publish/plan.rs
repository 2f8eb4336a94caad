//! What has to be sent and deleted, so that the site equals the folder.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    etag,
    walk::{Found, Reason, Skipped},
};

/// What the site has under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    pub(super) size: u64,
    /// Without quotes.
    pub(super) etag: String,
}

/// The difference.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) uploads: Vec<Found>,
    pub(super) deletions: Vec<String>,
    pub(super) unchanged: usize,
}

impl Plan {
    /// Bytes of all uploads.
    pub(super) fn upload_bytes(&self) -> u64 {
        self.uploads.iter().map(|file| file.size).sum()
    }

    /// Deletes nothing of which it cannot be said that it is gone: what could not be read, and what lies below it.
    pub(super) fn spare(&mut self, skipped: &[Skipped], root: &Path) {
        let unread = skipped.iter().filter(|skipped| skipped.reason == Reason::Unreadable);
        let unread: Vec<&Path> = unread.filter_map(|skipped| skipped.path.strip_prefix(root).ok()).collect();
        self.deletions.retain(|key| !unread.iter().any(|path| Path::new(key).starts_with(path)));
    }
}

/// Compares sizes first; only files of equal size are read.
pub(super) async fn compare(
    files: Vec<Found>,
    mut remote: BTreeMap<String, Remote>,
    delete: bool,
) -> anyhow::Result<Plan> {
    let total = files.len();
    let pairs: Vec<_> = files.into_iter().map(|file| (remote.remove(&file.key), file)).collect();
    let changed = stream::iter(pairs).map(|(known, file)| changed(known, file)).buffered(4);
    let uploads: Vec<Found> = changed.try_filter_map(|file| async { Ok(file) }).try_collect().await?;
    let deletions = if delete { remote.into_keys().collect() } else { Vec::new() };
    Ok(Plan { unchanged: total - uploads.len(), uploads, deletions })
}

async fn changed(known: Option<Remote>, file: Found) -> anyhow::Result<Option<Found>> {
    let Some(known) = known.filter(|known| known.size == file.size) else { return Ok(Some(file)) };
    let hashing = tokio::task::spawn_blocking(move || (etag::of_file(&file.path, file.size), file));
    let (etag, file) = hashing.await.context("hashing was cut off")?;
    let etag = etag.with_context(|| format!("cannot read {}", file.path.display()))?;
    Ok((etag != known.etag).then_some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_differs() {
        let folder = tempfile::tempdir().unwrap();
        let file = |key: &str, text: &str| {
            let path = folder.path().join(key);
            std::fs::write(&path, text).unwrap();
            Found { key: key.into(), path, size: text.len() as u64 }
        };
        let known = |text: &str| Remote { size: text.len() as u64, etag: hex::encode(etag::of_bytes(text.as_bytes())) };
        let files = vec![file("same", "1"), file("other", "2"), file("longer", "33"), file("new", "")];
        let remote = [("same", "1"), ("other", "x"), ("longer", "3"), ("gone", "4")];
        let remote: BTreeMap<_, _> = remote.into_iter().map(|(key, text)| (key.to_owned(), known(text))).collect();
        let plan = compare(files, remote, true).await.unwrap();
        let uploads: Vec<_> = plan.uploads.iter().map(|file| file.key.as_str()).collect();
        assert_eq!(uploads, ["other", "longer", "new"]);
        assert_eq!((plan.deletions, plan.unchanged), (vec!["gone".to_owned()], 1));
    }

    #[test]
    fn what_cannot_be_read_is_not_gone() {
        let deletions = ["a", "closed/x", "closed2/x", "file"].map(str::to_owned).to_vec();
        let mut plan = Plan { deletions, ..Plan::default() };
        let skipped = |path: &str, reason| Skipped { path: Path::new("/root").join(path), reason };
        let all = [
            skipped("closed", Reason::Unreadable),
            skipped("file", Reason::Unreadable),
            skipped("a", Reason::NotAFile),
        ];
        plan.spare(&all, Path::new("/root"));
        assert_eq!(plan.deletions, ["a", "closed2/x"]);
        plan.spare(&[skipped("", Reason::Unreadable)], Path::new("/root"));
        assert!(plan.deletions.is_empty());
    }
}
