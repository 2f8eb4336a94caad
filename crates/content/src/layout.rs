//! How the bytes of an object are cut into chunks.

use std::ops::Range;

use crate::ChunkIndex;

/// Smallest chunk size, bytes of plaintext.
pub const MIN_CHUNK_SIZE: u32 = 64 * 1024;
/// Largest chunk size, bytes of plaintext.
pub const MAX_CHUNK_SIZE: u32 = 4 * 1024 * 1024;
/// What encryption adds to each chunk, bytes.
pub const TAG_LEN: u32 = 16;
/// Chunk sizes grow until an object has no more chunks than this.
const WANTED_CHUNKS: u64 = 2048;

/// Why length and chunk size are no layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Not a power of two from 64 KiB to 4 MiB.
    #[error("chunk size {0} is not a power of two from 64 KiB to 4 MiB")]
    ChunkSize(u32),
    /// More chunks than can be numbered.
    #[error("an object of {0} bytes has too many chunks")]
    TooLong(u64),
}

/// Length and chunk size of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkLayout {
    length: u64,
    chunk_size: u32,
}

/// The part of one chunk's plaintext that a byte range touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Which chunk.
    pub chunk: ChunkIndex,
    /// Bytes of its plaintext.
    pub within: Range<usize>,
}

impl ChunkLayout {
    /// Checks a layout that somebody else chose.
    pub fn new(length: u64, chunk_size: u32) -> Result<Self, LayoutError> {
        if !chunk_size.is_power_of_two() || !(MIN_CHUNK_SIZE..=MAX_CHUNK_SIZE).contains(&chunk_size) {
            return Err(LayoutError::ChunkSize(chunk_size));
        }
        if length.div_ceil(chunk_size.into()) > u32::MAX.into() {
            return Err(LayoutError::TooLong(length));
        }
        Ok(Self { length, chunk_size })
    }

    /// The layout for an object of `length` bytes: the smallest chunks that make no more than 2,048 of them, if the
    /// largest chunk allows.
    pub fn for_length(length: u64) -> Self {
        let wanted = length.div_ceil(WANTED_CHUNKS).next_power_of_two();
        let chunk_size = wanted.clamp(MIN_CHUNK_SIZE.into(), MAX_CHUNK_SIZE.into());
        Self { length, chunk_size: u32::try_from(chunk_size).unwrap_or(MAX_CHUNK_SIZE) }
    }

    /// Bytes of plaintext.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of plaintext of every chunk but the last.
    pub fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// Number of chunks; none for an empty object.
    pub fn chunks(&self) -> u32 {
        u32::try_from(self.length.div_ceil(self.chunk_size.into())).unwrap_or(u32::MAX)
    }

    /// Bytes of plaintext of this chunk, if the version has it.
    pub fn plain_len(&self, chunk: ChunkIndex) -> Option<u32> {
        let rest = self.length.checked_sub(self.offset(chunk)).filter(|rest| *rest > 0)?;
        Some(u32::try_from(rest).map_or(self.chunk_size, |rest| rest.min(self.chunk_size)))
    }

    /// Bytes of ciphertext of this chunk with its tag.
    pub fn sealed_len(&self, chunk: ChunkIndex) -> Option<u32> {
        Some(self.plain_len(chunk)? + TAG_LEN)
    }

    /// Where the chunk's plaintext begins in the object.
    pub fn offset(&self, chunk: ChunkIndex) -> u64 {
        u64::from(chunk.get()) * u64::from(self.chunk_size)
    }

    /// Where the chunk's ciphertext begins in a blob of all chunks.
    pub fn sealed_offset(&self, chunk: ChunkIndex) -> u64 {
        u64::from(chunk.get()) * u64::from(self.chunk_size + TAG_LEN)
    }

    /// Bytes of a blob of all chunks.
    pub fn sealed_length(&self) -> u64 {
        self.length + u64::from(self.chunks()) * u64::from(TAG_LEN)
    }

    /// The chunks that `range` of the object touches, in order; what lies beyond the end is left out.
    pub fn covering(&self, range: Range<u64>) -> impl Iterator<Item = Slice> + use<> {
        let (layout, size) = (*self, u64::from(self.chunk_size));
        let range = range.start..range.end.min(self.length);
        let chunks = if range.is_empty() { 0..0 } else { range.start / size..range.end.div_ceil(size) };
        chunks.map(move |index| {
            let chunk = ChunkIndex::new(u32::try_from(index).unwrap_or(u32::MAX));
            let offset = layout.offset(chunk);
            let (start, end) = (range.start.max(offset) - offset, range.end.min(offset + size) - offset);
            Slice { chunk, within: start as usize..end as usize }
        })
    }
}
