//! Carries a plan out: uploads in parallel, large files in parts, deletions at the end.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    Outcome,
    etag::{self, PART_BYTES},
    plan::Plan,
    progress::Progress,
    store::{Part, Store, Uploads, is_taken},
    walk::Found,
};
use crate::exit;

/// S3 takes this many keys in one DeleteObjects.
const DELETIONS: usize = 1000;

/// Parts of one file at the same time.
const PARTS: usize = 4;

/// Multipart uploads that are tried for one file, while others take them away.
const UPLOADS: usize = 3;

/// Uploads, then deletes. A file that fails does not stop the others; with a failure, nothing is deleted.
pub(super) async fn carry_out(store: &Store, plan: &Plan, jobs: usize, progress: &Progress) -> anyhow::Result<Outcome> {
    let large = plan.uploads.iter().any(|file| file.size > PART_BYTES);
    let unfinished = if large { store.unfinished().await? } else { Uploads::default() };
    let mut outcome = Outcome::default();
    let unfinished = &unfinished;
    let sending = |file| async move { (file, upload(store, file, unfinished, progress).await) };
    let mut uploads = stream::iter(&plan.uploads).map(sending).buffer_unordered(jobs);
    while let Some((file, result)) = uploads.next().await {
        match result {
            Ok(()) => {
                outcome.uploaded += 1;
                outcome.bytes += file.size;
            }
            Err(error) => outcome.failures.push(format!("{}: {}", file.key, exit::one_line(&error))),
        }
    }
    if outcome.failures.is_empty() {
        outcome.deleted = delete(store, &plan.deletions).await?;
    }
    Ok(outcome)
}

async fn delete(store: &Store, keys: &[String]) -> anyhow::Result<u64> {
    for some in keys.chunks(DELETIONS) {
        store.delete(some).await?;
    }
    Ok(keys.len() as u64)
}

async fn upload(store: &Store, file: &Found, unfinished: &Uploads, progress: &Progress) -> anyhow::Result<()> {
    progress.file(&file.key);
    if file.size > PART_BYTES {
        return upload_parts(store, file, unfinished, progress).await;
    }
    let (bytes, digest) = read(&file.path, 0, file.size).await?;
    let etag = store.put(&file.key, content_type(&file.path), bytes, progress).await?;
    ensure!(etag == hex::encode(digest), "the origin received something else than was sent (ETag {etag})");
    Ok(())
}

/// Goes on with an upload that was broken off, if there is one. Another publisher may do the same at the same time, and complete
/// the upload first, or put other parts in it: then either the object is there, or an upload of our own is begun.
async fn upload_parts(store: &Store, file: &Found, unfinished: &Uploads, progress: &Progress) -> anyhow::Result<()> {
    let mut upload = unfinished.of(&file.key).map(str::to_owned);
    for _ in 0..UPLOADS {
        let (id, known) = match upload.take() {
            Some(id) => (id.clone(), known_parts(store, file, &id).await?),
            None => (store.begin(&file.key, content_type(&file.path)).await?, BTreeMap::new()),
        };
        let attempt = Attempt { store, file, id: &id, known: &known, progress, counted: AtomicU64::new(0) };
        match attempt.run().await {
            Err(error) if is_taken(&error) => attempt.take_back(),
            outcome => return outcome,
        }
        if is_there(store, file).await? {
            progress.sent(file.size);
            return Ok(());
        }
    }
    anyhow::bail!("somebody else publishes this file at the same time: publish again when they have ended")
}

/// None where the upload is gone: that is found out when the next part is put.
async fn known_parts(store: &Store, file: &Found, upload: &str) -> anyhow::Result<BTreeMap<u16, Part>> {
    let known = store.parts(&file.key, upload).await;
    known.or_else(|error| if is_taken(&error) { Ok(BTreeMap::new()) } else { Err(error) })
}

/// Whether the origin has the very bytes of this file under its key.
async fn is_there(store: &Store, file: &Found) -> anyhow::Result<bool> {
    let Some(etag) = store.etag(&file.key).await? else { return Ok(false) };
    let (path, size) = (file.path.clone(), file.size);
    let hashing = tokio::task::spawn_blocking(move || etag::of_file(&path, size));
    let ours = hashing.await.context("hashing was cut off")?;
    Ok(ours.with_context(|| format!("cannot read {}", file.path.display()))? == etag)
}

/// One go at a multipart upload.
struct Attempt<'a> {
    store: &'a Store,
    file: &'a Found,
    id: &'a str,
    /// Parts that the origin has.
    known: &'a BTreeMap<u16, Part>,
    progress: &'a Progress,
    counted: AtomicU64,
}

impl Attempt<'_> {
    async fn run(&self) -> anyhow::Result<()> {
        let parts = stream::iter(0..etag::parts(self.file.size)).map(|index| self.part(index));
        let digests: Vec<_> = parts.buffered(PARTS).try_collect().await?;
        let etag = self.store.complete(&self.file.key, self.id, &digests).await?;
        ensure!(etag == etag::of_parts(&digests), "the origin received something else than was sent (ETag {etag})");
        Ok(())
    }

    /// Parts that arrived before and are still right are not sent again.
    async fn part(&self, index: u64) -> anyhow::Result<[u8; 16]> {
        let (file, from) = (self.file, index * PART_BYTES);
        let (bytes, digest) = read(&file.path, from, PART_BYTES.min(file.size - from)).await?;
        let size = bytes.len();
        let number = u16::try_from(index + 1).context("the file has too many parts")?;
        if self.known.get(&number).is_some_and(|part| part.is(size, &digest)) {
            self.progress.sent(size as u64);
        } else {
            self.store.put_part(&file.key, self.id, number, bytes, self.progress).await?;
        }
        self.counted.fetch_add(size as u64, Ordering::Relaxed);
        Ok(digest)
    }

    /// What was sent did not count.
    fn take_back(&self) {
        self.progress.lost(self.counted.load(Ordering::Relaxed));
    }
}

/// Reads a part of a file; that it is shorter than it was is an error.
async fn read(path: &Path, from: u64, size: u64) -> anyhow::Result<(Bytes, [u8; 16])> {
    let file = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || read_now(&file, from, size));
    let bytes = reading.await.context("reading was cut off")?;
    bytes.with_context(|| format!("cannot read {}", path.display()))
}

fn read_now(path: &Path, from: u64, size: u64) -> io::Result<(Bytes, [u8; 16])> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    file.read_exact(&mut bytes)?;
    let digest = etag::of_bytes(&bytes);
    Ok((bytes.into(), digest))
}

fn content_type(path: &Path) -> String {
    let kind = mime_guess::from_path(path).first_or_octet_stream();
    let text = kind.type_() == mime_guess::mime::TEXT || kind.subtype() == mime_guess::mime::JAVASCRIPT;
    if text { format!("{kind}; charset=utf-8") } else { kind.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        for (name, expected) in [
            ("a.html", "text/html; charset=utf-8"),
            ("a.js", "text/javascript; charset=utf-8"),
            ("a.PNG", "image/png"),
            ("a.woff2", "font/woff2"),
            ("noextension", "application/octet-stream"),
        ] {
            assert_eq!(content_type(Path::new(name)), expected, "{name}");
        }
    }
}
