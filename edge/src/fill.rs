//! Finds a chunk's ciphertext: in memory, on disk, at the chunk's edge, at an origin. Concurrent misses are one fill, and
//! nothing is kept or passed on whose BLAKE3 name does not match.

use std::{path::Path, pin::pin, sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use foyer::{BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder, HybridCachePolicy};
use http::StatusCode;
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};
use umbel_content::{ChunkIndex, ChunkName, Manifest, TAG_LEN, VersionId};

use crate::{
    config::Limits,
    fleet::{Fleet, Member},
    flights::Flights,
    lookup::Version,
    metrics::Metrics,
};

mod name;

pub(crate) use name::Name;

/// Says which chunk an edge wants of another: its BLAKE3 name in hex.
pub(crate) const NAME_HEADER: &str = "umbel-chunk";

/// Chunks that are asked of origins at once, and of other edges; more wait. Counted apart, and never held while waiting for
/// the other kind: two edges that each wait for the other would wait for good.
const ASKED_AT_ONCE: usize = 64;

/// For a source that says nothing at all. One that answers others meanwhile has much to do: to ask elsewhere would add to it.
const PATIENCE: Duration = Duration::from_secs(20);

/// For one chunk from one source in any case, in times [`PATIENCE`].
const TURNS: usize = 4;

/// A disk block of the cache holds several of the largest chunks.
const BLOCK: usize = 32 * 1024 * 1024;

/// Written to disk behind the fills; what does not fit stays in memory only.
const WRITE_BUFFER: usize = 64 * 1024 * 1024;

/// A chunk, as an edge must know it to fetch it.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) site_id: String,
    pub(crate) version: VersionId,
    pub(crate) chunk: ChunkIndex,
    pub(crate) name: ChunkName,
    /// Bytes of ciphertext at most.
    pub(crate) length: usize,
}

/// Whom a fill may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reach {
    /// The chunk's edge first, then origins.
    Fleet,
    /// Origins only: the request came from another edge, and must not go round in circles.
    Origins,
}

/// Where a chunk was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Memory,
    Disk,
    Filled,
}

/// Why a chunk cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum FillError {
    /// The version has no such chunk.
    #[error("there is no such chunk")]
    NoSuchChunk,
    /// Every source was asked.
    #[error("no source has the chunk: {0}")]
    NoSource(Arc<str>),
    /// The chunk is what its name says, but its key does not open it: the version was never readable.
    #[error("the chunk does not decrypt")]
    Undecryptable,
    /// The edge is stopping.
    #[error("the edge is stopping")]
    Stopping,
}

impl Wanted {
    /// Chunk `chunk` of `version`, if it has one.
    pub(crate) fn of(version: &Version, chunk: ChunkIndex) -> Result<Self, FillError> {
        let manifest: &Manifest = &version.manifest;
        let name = manifest.name(chunk).ok_or(FillError::NoSuchChunk)?;
        let length = manifest.layout().sealed_len(chunk).ok_or(FillError::NoSuchChunk)?;
        let (site_id, version) = (version.site_id.clone(), manifest.version_id());
        Ok(Self { site_id, version, chunk, name, length: length as usize })
    }

    fn path(&self) -> String {
        format!("/v1/chunks/{}/{}/{}", self.site_id, self.version, self.chunk)
    }
}

type Outcome = Result<(Bytes, Found), FillError>;

/// The store of ciphertext and its sources.
#[derive(Debug)]
pub(crate) struct Fill {
    cache: HybridCache<Name, Bytes>,
    fleet: Arc<Fleet>,
    flights: Flights<(Name, Reach), Outcome>,
    free: Free,
    metrics: Metrics,
}

/// Who may be asked for one more chunk now.
#[derive(Debug)]
struct Free {
    origins: Semaphore,
    edges: Semaphore,
}

impl Fill {
    /// Opens the cache in `folder`.
    pub(crate) async fn open(
        folder: &Path,
        limits: &Limits,
        fleet: Arc<Fleet>,
        metrics: Metrics,
        (tasks, shutdown): (TaskTracker, CancellationToken),
    ) -> anyhow::Result<Self> {
        umbel_service::files::private_folder(folder)?;
        let cache = open_cache(folder, limits).await.context("cannot open the chunk cache")?;
        let free = Free { origins: Semaphore::new(ASKED_AT_ONCE), edges: Semaphore::new(ASKED_AT_ONCE) };
        let flights = Flights::new(tasks, shutdown);
        Ok(Self { cache, fleet, flights, free, metrics })
    }

    /// The ciphertext of a chunk.
    pub(crate) async fn chunk(self: &Arc<Self>, wanted: Wanted, reach: Reach) -> Outcome {
        let key = Name::from(wanted.name);
        if let Some(entry) = self.cache.memory().get(&key) {
            self.metrics.chunk("memory");
            return Ok((entry.value().clone(), Found::Memory));
        }
        let fill = self.clone();
        let flight = self.flights.join((key, reach), || async move { fill.find(wanted, reach).await });
        flight.await.unwrap_or(Err(FillError::Stopping))
    }

    async fn find(&self, wanted: Wanted, reach: Reach) -> Outcome {
        let key = Name::from(wanted.name);
        match self.cache.get(&key).await {
            Ok(Some(entry)) => {
                self.metrics.chunk("disk");
                return Ok((entry.value().clone(), Found::Disk));
            }
            Ok(None) => self.metrics.chunk("miss"),
            Err(error) => warn!(%error, "the chunk cache cannot be read"),
        }
        let bytes = self.fetch(&wanted, reach).await?;
        self.cache.insert(key, bytes.clone());
        Ok((bytes, Found::Filled))
    }

    async fn fetch(&self, wanted: &Wanted, reach: Reach) -> Result<Bytes, FillError> {
        let mut last = "there is no origin".to_owned();
        let edge = self.fleet.edge_of_chunk(wanted.name.as_bytes()).filter(|_| reach == Reach::Fleet);
        let origins = self.fleet.origins(wanted.name.as_bytes()).into_iter();
        let edge = edge.into_iter().map(|node| ("edge", &self.free.edges, node));
        for (kind, free, source) in edge.chain(origins.map(|node| ("origin", &self.free.origins, node))) {
            // Closed never.
            let _permit = free.acquire().await;
            match self.fetch_from(&source, wanted).await {
                Ok(bytes) => {
                    self.metrics.filled(kind);
                    return Ok(bytes);
                }
                Err(error) => {
                    debug!(kind, node = source.id, error = format!("{error:#}"), "fill failed");
                    self.metrics.fill_failed(kind);
                    last = format!("{kind} {}: {error:#}", source.id);
                }
            }
        }
        warn!(site = wanted.site_id, version = %wanted.version, chunk = %wanted.chunk, last, "a chunk cannot be filled");
        Err(FillError::NoSource(last.into()))
    }

    async fn fetch_from(&self, source: &Member, wanted: &Wanted) -> anyhow::Result<Bytes> {
        let (path, header) = (wanted.path(), (NAME_HEADER, wanted.name.to_string()));
        let get = self.fleet.get(source, &path, header, wanted.length);
        let answer = patiently(get, || source.has_answered(PATIENCE))
            .await
            .context("no answer in time")
            .and_then(|answer| answer);
        let (status, bytes) = answer.inspect_err(|_| source.failed())?;
        if status.is_server_error() && status != StatusCode::BAD_GATEWAY {
            source.failed();
        } else {
            source.answered();
        }
        anyhow::ensure!(status == StatusCode::OK, "answered {status}");
        if ChunkName::of(&bytes) != wanted.name {
            source.failed();
            anyhow::bail!("sent {} bytes that do not match the chunk's name", bytes.len());
        }
        Ok(bytes)
    }

    /// Writes to disk what is still on its way there.
    pub(crate) async fn close(&self) {
        if let Err(error) = self.cache.close().await {
            warn!(%error, "the chunk cache was not closed cleanly");
        }
    }
}

/// What `get` brings, unless the source is silent for too long.
async fn patiently<T>(get: impl Future<Output = T>, is_talking: impl Fn() -> bool) -> Option<T> {
    let mut get = pin!(get);
    for _ in 0..TURNS {
        if let Ok(answer) = timeout(PATIENCE, get.as_mut()).await {
            return Some(answer);
        }
        if !is_talking() {
            break;
        }
    }
    None
}

async fn open_cache(folder: &Path, limits: &Limits) -> anyhow::Result<HybridCache<Name, Bytes>> {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let device = FsDeviceBuilder::new(folder).with_capacity(size(limits.disk_cache)).build()?;
    let engine = BlockEngineConfig::new(device)
        .with_block_size(BLOCK)
        .with_buffer_pool_size(WRITE_BUFFER)
        .with_submit_queue_size_threshold(2 * WRITE_BUFFER)
        .with_flushers(2);
    let cache = HybridCacheBuilder::new()
        .with_name("chunks")
        // On insertion rather than eviction: what was filled survives a crash.
        .with_policy(HybridCachePolicy::WriteOnInsertion)
        .memory(size(limits.memory_cache))
        .with_shards(8)
        .with_weighter(|_, bytes: &Bytes| bytes.len() + TAG_LEN as usize)
        .storage()
        .with_engine_config(engine)
        .build();
    Ok(cache.await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(answers_after: u64, is_talking: bool, expected: Option<u64>) {
        let get = async {
            tokio::time::sleep(Duration::from_secs(answers_after)).await;
            answers_after
        };
        assert_eq!(patiently(get, || is_talking).await, expected, "{answers_after} s, talking: {is_talking}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_has_much_to_do_is_waited_for_and_one_that_is_silent_is_not() {
        check(19, false, Some(19)).await;
        check(21, false, None).await;
        check(21, true, Some(21)).await;
        check(79, true, Some(79)).await;
        check(81, true, None).await;
    }
}
