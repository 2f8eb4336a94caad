//! Hot chunks, decrypted, in memory: what is read often is decrypted once.

use std::sync::Arc;

use bytes::Bytes;
use moka::future::Cache;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::error;
use umbel_content::{ChunkIndex, ManifestId};

use crate::{
    fill::{Fill, FillError, Found, Reach, Wanted},
    flights::Flights,
    lookup::Version,
    metrics::Metrics,
};

/// A chunk of a version; not its name, which a manifest of another site could repeat.
type Key = (ManifestId, ChunkIndex);

/// Decrypted chunks.
#[derive(Debug)]
pub(crate) struct Plaintext {
    cache: Cache<Key, Bytes>,
    fill: Arc<Fill>,
    flights: Flights<Key, Result<(Bytes, Found), FillError>>,
    metrics: Metrics,
}

impl Plaintext {
    /// Holds at most `capacity` bytes.
    pub(crate) fn new(
        capacity: u64,
        fill: Arc<Fill>,
        metrics: Metrics,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let weigh = |_: &Key, bytes: &Bytes| u32::try_from(bytes.len() + 128).unwrap_or(u32::MAX);
        let cache = Cache::builder().max_capacity(capacity).weigher(weigh).build();
        Self { cache, fill, flights: Flights::new(tasks, shutdown), metrics }
    }

    /// The plaintext of a chunk, and where it was found.
    pub(crate) async fn chunk(&self, version: &Arc<Version>, chunk: ChunkIndex) -> Result<(Bytes, Found), FillError> {
        let key = (version.manifest.id(), chunk);
        if let Some(bytes) = self.cache.get(&key).await {
            self.metrics.chunk("plaintext");
            return Ok((bytes, Found::Memory));
        }
        let wanted = Wanted::of(version, chunk)?;
        let (fill, cache, version) = (self.fill.clone(), self.cache.clone(), version.clone());
        let fetch = || async move {
            let (sealed, found) = fill.chunk(wanted, Reach::Fleet).await?;
            let plain = version.opener.open(chunk, &sealed).map_err(|_| undecryptable(&version, chunk))?;
            let plain = Bytes::from(plain);
            cache.insert(key, plain.clone()).await;
            Ok((plain, found))
        };
        self.flights.join(key, fetch).await.unwrap_or(Err(FillError::Stopping))
    }
}

fn undecryptable(version: &Version, chunk: ChunkIndex) -> FillError {
    let manifest = &version.manifest;
    error!(site = %manifest.site(), path = %manifest.path(), %chunk, "a chunk that matches its name does not decrypt");
    FillError::Undecryptable
}
