//! How the bytes of an object are cut into chunks, and where each lies.

use std::ops::Range;

use crate::{ChunkIndex, TAG_LEN};

/// Smallest chunk size, 64 KiB of plaintext.
pub const MIN_CHUNK_SIZE: u32 = 64 << 10;
/// Largest chunk size, 4 MiB of plaintext.
pub const MAX_CHUNK_SIZE: u32 = 4 << 20;
/// As many chunks as an object should have at most; only those too large for [`MAX_CHUNK_SIZE`] have more.
pub const TARGET_CHUNKS: u32 = 2048;
/// As many chunks as a version can have (1.9 TiB in chunks of 4 MiB): what still fits into the largest manifest.
pub const MAX_CHUNKS: u32 = 500_000;

/// Why there is no such layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Not a power of two from 64 KiB to 4 MiB.
    #[error("chunk size {0} is not a power of two from 64 KiB to 4 MiB")]
    ChunkSize(u32),
    /// More than [`MAX_CHUNKS`] chunks.
    #[error("{length} bytes in chunks of {chunk_size} are more than {MAX_CHUNKS} chunks")]
    TooManyChunks {
        /// Plaintext bytes of the object.
        length: u64,
        /// Plaintext bytes of a chunk.
        chunk_size: u32,
    },
}

/// The cutting of `length` plaintext bytes into chunks of `chunk_size`, of which only the last may be shorter. An empty object
/// has no chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkLayout {
    length: u64,
    chunk_size: u32,
}

/// The part of one chunk that a byte range needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The chunk.
    pub chunk: ChunkIndex,
    /// Where in its plaintext; never empty.
    pub within: Range<usize>,
}

impl ChunkLayout {
    /// The layout that a new version of this length gets.
    ///
    /// # Errors
    /// [`LayoutError::TooManyChunks`] above about 1.9 TiB.
    pub fn for_length(length: u64) -> Result<Self, LayoutError> {
        Self::new(length, Self::chunk_size_for(length))
    }

    /// The chunk size that a new version of this length gets: the smallest that makes at most [`TARGET_CHUNKS`] chunks.
    #[must_use]
    pub fn chunk_size_for(length: u64) -> u32 {
        let enough = |size: &u32| length <= u64::from(*size) * u64::from(TARGET_CHUNKS);
        let sizes = std::iter::successors(Some(MIN_CHUNK_SIZE), |size| Some(size * 2));
        sizes.take_while(|size| *size < MAX_CHUNK_SIZE).find(enough).unwrap_or(MAX_CHUNK_SIZE)
    }

    /// The layout that someone else chose.
    ///
    /// # Errors
    /// When the chunk size is not legal or there would be too many chunks.
    pub fn new(length: u64, chunk_size: u32) -> Result<Self, LayoutError> {
        if !chunk_size.is_power_of_two() || !(MIN_CHUNK_SIZE..=MAX_CHUNK_SIZE).contains(&chunk_size) {
            return Err(LayoutError::ChunkSize(chunk_size));
        }
        if length.div_ceil(u64::from(chunk_size)) > u64::from(MAX_CHUNKS) {
            return Err(LayoutError::TooManyChunks { length, chunk_size });
        }
        Ok(Self { length, chunk_size })
    }

    /// Plaintext bytes of the object.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Plaintext bytes of every chunk but the last.
    #[must_use]
    pub const fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// How many chunks there are; at most [`MAX_CHUNKS`].
    #[must_use]
    pub fn chunks(&self) -> u32 {
        let chunks = self.length.div_ceil(u64::from(self.chunk_size));
        u32::try_from(chunks).expect("new() allows no more than MAX_CHUNKS")
    }

    /// All chunks in order.
    pub fn indices(&self) -> impl ExactSizeIterator<Item = ChunkIndex> + DoubleEndedIterator + use<> {
        (0..self.chunks()).map(ChunkIndex::new)
    }

    /// Is there such a chunk?
    #[must_use]
    pub fn contains(&self, chunk: ChunkIndex) -> bool {
        chunk.get() < self.chunks()
    }

    /// Where the chunk's plaintext begins in the object.
    #[must_use]
    pub fn offset(&self, chunk: ChunkIndex) -> Option<u64> {
        self.contains(chunk).then(|| u64::from(chunk.get()) * u64::from(self.chunk_size))
    }

    /// Plaintext bytes of this chunk.
    #[must_use]
    pub fn plain_len(&self, chunk: ChunkIndex) -> Option<u32> {
        let left = self.length - self.offset(chunk)?;
        Some(u32::try_from(left).map_or(self.chunk_size, |left| left.min(self.chunk_size)))
    }

    /// Ciphertext bytes of this chunk, tag included.
    #[must_use]
    pub fn sealed_len(&self, chunk: ChunkIndex) -> Option<u32> {
        Some(self.plain_len(chunk)? + TAG_LEN)
    }

    /// Where the chunk's ciphertext begins in a blob of all ciphertexts, one after the other.
    #[must_use]
    pub fn sealed_offset(&self, chunk: ChunkIndex) -> Option<u64> {
        Some(self.offset(chunk)? + u64::from(chunk.get()) * u64::from(TAG_LEN))
    }

    /// Where the chunk's ciphertext lies in a blob of all ciphertexts.
    #[must_use]
    pub fn sealed_range(&self, chunk: ChunkIndex) -> Option<Range<u64>> {
        let start = self.sealed_offset(chunk)?;
        Some(start..start + u64::from(self.sealed_len(chunk)?))
    }

    /// Bytes of all ciphertexts together.
    #[must_use]
    pub fn sealed_length(&self) -> u64 {
        self.length + u64::from(self.chunks()) * u64::from(TAG_LEN)
    }

    /// The chunk that holds this plaintext byte.
    #[must_use]
    pub fn chunk_at(&self, offset: u64) -> Option<ChunkIndex> {
        let index = u32::try_from(offset / u64::from(self.chunk_size)).ok()?;
        (offset < self.length).then_some(ChunkIndex::new(index))
    }

    /// The chunks that a plaintext range touches, in order, with the part of each that it needs. What of the range lies
    /// beyond the object is left out.
    pub fn covering(&self, range: Range<u64>) -> impl ExactSizeIterator<Item = Slice> + use<> {
        let range = range.start..range.end.min(self.length);
        let touched = match (self.chunk_at(range.start), range.end.checked_sub(1)) {
            (Some(first), Some(last)) if range.start <= last => {
                let last = self.chunk_at(last).map_or(0, ChunkIndex::get);
                first.get()..last + 1
            }
            _ => 0..0,
        };
        let size = u64::from(self.chunk_size);
        touched.map(move |chunk| slice_of(chunk, size, &range))
    }
}

/// The part of chunk number `chunk` that lies in `range`, which touches it.
fn slice_of(chunk: u32, size: u64, range: &Range<u64>) -> Slice {
    let base = u64::from(chunk) * size;
    let inside = |offset: u64| {
        let within = offset.saturating_sub(base).min(size);
        usize::try_from(within).expect("a chunk fits into memory")
    };
    Slice { chunk: ChunkIndex::new(chunk), within: inside(range.start)..inside(range.end) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    #[test]
    fn chunk_sizes_follow_the_length() {
        for (length, size, chunks) in [
            (0, 64 * KIB, 0),
            (1, 64 * KIB, 1),
            (64 * KIB - 1, 64 * KIB, 1),
            (64 * KIB, 64 * KIB, 1),
            (64 * KIB + 1, 64 * KIB, 2),
            (128 * MIB - 1, 64 * KIB, 2048),
            (128 * MIB, 64 * KIB, 2048),
            (128 * MIB + 1, 128 * KIB, 1025),
            (256 * MIB, 128 * KIB, 2048),
            (4096 * MIB, 2 * MIB, 2048),
            (4096 * MIB + 1, 4 * MIB, 1025),
            (8192 * MIB, 4 * MIB, 2048),
            (8192 * MIB + 1, 4 * MIB, 2049),
            (500_000 * 4 * MIB, 4 * MIB, 500_000),
        ] {
            let layout = ChunkLayout::for_length(length).unwrap();
            assert_eq!((u64::from(layout.chunk_size()), layout.chunks()), (size, chunks), "{length}");
        }
    }

    #[test]
    fn what_cannot_be_laid_out_is_refused() {
        assert!(matches!(ChunkLayout::for_length(500_000 * 4 * MIB + 1), Err(LayoutError::TooManyChunks { .. })));
        assert!(matches!(ChunkLayout::for_length(u64::MAX), Err(LayoutError::TooManyChunks { .. })));
        for size in [0, 1, 32 << 10, (64 << 10) + 1, 96 << 10, 8 << 20, u32::MAX] {
            assert_eq!(ChunkLayout::new(1, size), Err(LayoutError::ChunkSize(size)));
        }
    }

    #[test]
    fn the_last_chunk_is_what_is_left() {
        for (length, lens) in [
            (0, vec![]),
            (1, vec![1]),
            (65535, vec![65535]),
            (65536, vec![65536]),
            (65537, vec![65536, 1]),
            (131_071, vec![65536, 65535]),
            (131_072, vec![65536, 65536]),
            (131_073, vec![65536, 65536, 1]),
        ] {
            let layout = ChunkLayout::new(length, MIN_CHUNK_SIZE).unwrap();
            let got: Vec<_> = layout.indices().filter_map(|chunk| layout.plain_len(chunk)).collect();
            assert_eq!(got, lens, "{length}");
            assert_eq!(layout.plain_len(ChunkIndex::new(layout.chunks())), None);
            assert_eq!(layout.sealed_range(ChunkIndex::new(u32::MAX)), None);
        }
    }

    /// Goes through the object chunk by chunk and cuts the range against each.
    fn naive_covering(layout: &ChunkLayout, range: &Range<u64>) -> Vec<Slice> {
        let mut slices = Vec::new();
        for chunk in layout.indices() {
            let base = u64::from(chunk.get()) * u64::from(layout.chunk_size());
            let end = base + u64::from(layout.plain_len(chunk).unwrap());
            let (from, to) = (range.start.clamp(base, end), range.end.clamp(base, end));
            if from < to {
                let within = usize::try_from(from - base).unwrap()..usize::try_from(to - base).unwrap();
                slices.push(Slice { chunk, within });
            }
        }
        slices
    }

    /// Offsets that are often near a chunk boundary or beyond every object.
    fn offsets() -> impl Strategy<Value = u64> {
        let near = (0u64..20, 0u64..5).prop_map(|(chunk, by)| (chunk * 65536 + by).saturating_sub(2));
        prop_oneof![near, 0u64..1_500_000, Just(u64::MAX), Just(u64::MAX - 1)]
    }

    proptest! {
        #[test]
        fn ranges_touch_the_chunks_that_a_naive_search_finds(length in 0u64..1_200_000, start in offsets(), end in offsets()) {
            let layout = ChunkLayout::new(length, MIN_CHUNK_SIZE).unwrap();
            let slices: Vec<_> = layout.covering(start..end).collect();
            prop_assert_eq!(&slices, &naive_covering(&layout, &(start..end)));
        }

        #[test]
        fn chunks_lie_end_to_end(length in any::<u64>(), shift in 16u32..=22) {
            let length = length % (u64::from(TARGET_CHUNKS) << shift);
            let layout = ChunkLayout::new(length, 1 << shift).unwrap();
            let (mut plain, mut sealed) = (0, 0);
            for chunk in layout.indices() {
                prop_assert_eq!(layout.offset(chunk), Some(plain));
                prop_assert_eq!(layout.chunk_at(plain), Some(chunk));
                plain += u64::from(layout.plain_len(chunk).unwrap());
                prop_assert_eq!(layout.chunk_at(plain - 1), Some(chunk));
                let range = layout.sealed_range(chunk).unwrap();
                prop_assert_eq!(range.start, sealed);
                sealed = range.end;
            }
            prop_assert_eq!((plain, sealed), (length, layout.sealed_length()));
            prop_assert_eq!(layout.chunk_at(length), None);
        }
    }
}
