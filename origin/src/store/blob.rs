//! Writes something large so that it appears as a whole or not at all, with a few parts in memory at most.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart, path::Path};

use super::StoreError;

/// Below this, one put is quicker than a multipart upload.
const SMALL: u64 = 4 * 1024 * 1024;

/// Bytes of a part to the store; larger for what would have more than 9,000 parts (S3 takes 10,000).
const PART: u64 = 8 * 1024 * 1024;
const MAX_PARTS: u64 = 9_000;

/// Parts that are on their way at once.
const IN_FLIGHT: usize = 3;

/// A write that is going on. Dropped before [`BlobWriter::finish`], it leaves nothing visible.
pub(crate) struct BlobWriter {
    objects: Arc<dyn ObjectStore>,
    location: Path,
    state: State,
}

enum State {
    Small(Vec<Bytes>),
    Large(WriteMultipart),
}

impl BlobWriter {
    /// Starts a write of about `length` bytes (`u64::MAX` if it may be anything).
    pub(crate) async fn start(objects: Arc<dyn ObjectStore>, location: Path, length: u64) -> Result<Self, StoreError> {
        let state = if length <= SMALL {
            State::Small(Vec::new())
        } else {
            let part = if length == u64::MAX { 8 * PART } else { PART.max(length / MAX_PARTS) };
            let upload = objects.put_multipart(&location).await?;
            State::Large(WriteMultipart::new_with_chunk_size(upload, usize::try_from(part).unwrap_or(usize::MAX)))
        };
        Ok(Self { objects, location, state })
    }

    /// Appends; waits while too much is on its way.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        match &mut self.state {
            State::Small(all) => all.push(bytes),
            State::Large(upload) => {
                upload.wait_for_capacity(IN_FLIGHT).await?;
                upload.put(bytes);
            }
        }
        Ok(())
    }

    /// Makes all of it visible, durably.
    pub(crate) async fn finish(self) -> Result<(), StoreError> {
        match self.state {
            State::Small(all) => drop(self.objects.put(&self.location, all.into_iter().collect::<PutPayload>()).await?),
            State::Large(upload) => drop(upload.finish().await?),
        }
        Ok(())
    }

    /// Takes back what has been written. Errors do not matter: the store's own expiry is behind it.
    pub(crate) async fn abort(self) {
        if let State::Large(upload) = self.state
            && let Err(error) = upload.abort().await
        {
            tracing::debug!(location = %self.location, %error, "upload to the store not aborted");
        }
    }
}

impl fmt::Debug for BlobWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobWriter").field("location", &self.location).finish_non_exhaustive()
    }
}
