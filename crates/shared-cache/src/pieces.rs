//! Where the pieces of long bodies lie: in memory, and beyond that on disk.

use std::path::Path;

use bytes::Bytes;
use foyer::{
    BlockEngineConfig, DeviceBuilder, Error, FsDeviceBuilder, HybridCache, HybridCacheBuilder, HybridCachePolicy,
    RecoverMode,
};

use crate::key::Key;

/// A disk block holds many pieces.
const BLOCK: usize = 16 * 1024 * 1024;
const WRITE_BUFFER: usize = 32 * 1024 * 1024;

/// Pieces of bodies, in memory and on disk.
pub type Pieces = HybridCache<Key, Bytes>;

/// Keeps up to `memory` bytes of pieces in memory, and up to `disk` bytes in `folder`.
///
/// # Errors
/// The folder cannot be used.
pub async fn open(folder: &Path, memory: u64, disk: u64) -> Result<Pieces, Error> {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let device = FsDeviceBuilder::new(folder).with_capacity(size(disk)).build()?;
    let engine = BlockEngineConfig::new(device)
        .with_block_size(BLOCK)
        .with_buffer_pool_size(WRITE_BUFFER)
        .with_submit_queue_size_threshold(2 * WRITE_BUFFER);
    let cache = HybridCacheBuilder::new()
        .with_name("bodies")
        .with_policy(HybridCachePolicy::WriteOnInsertion)
        .memory(size(memory))
        .with_shards(8)
        .with_weighter(|_, bytes: &Bytes| bytes.len() + 64)
        .storage()
        // What was there belongs to responses that were forgotten when the last process ended.
        .with_recover_mode(RecoverMode::None)
        .with_engine_config(engine);
    cache.build().await
}
