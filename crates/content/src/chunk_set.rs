//! Sets of chunks as bitmaps.

use crate::{ChunkIndex, MAX_CHUNKS};

/// Why bytes are not the bitmap of a set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BitmapError {
    /// A version with more than [`MAX_CHUNKS`] chunks.
    #[error("{0} chunks are more than a version can have")]
    TooManyChunks(u32),
    /// A bit is set for a chunk that does not exist, or the bitmap is longer than the set.
    #[error("bitmap goes beyond {0} chunks")]
    Beyond(u32),
}

/// A set of chunks of one version that has `len` chunks. Counting is free, and operations on whole sets go 64 chunks at a time.
///
/// Chunks beyond `len` are never in the set, and cannot be put into it. Operations on two sets of different lengths treat the
/// other as if it were cut or filled up with nothing to this one's length.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChunkSet {
    /// Bit `i % 64` of word `i / 64` is chunk `i`; bits from `len` on are 0.
    words: Vec<u64>,
    len: u32,
    count: u32,
}

impl ChunkSet {
    /// No chunk of `len`. Spends `len` bits: check what came from a network against [`MAX_CHUNKS`] first.
    #[must_use]
    pub fn new(len: u32) -> Self {
        Self { words: vec![0; words_for(len)], len, count: 0 }
    }

    /// Every chunk of `len`.
    #[must_use]
    pub fn full(len: u32) -> Self {
        let mut words = vec![u64::MAX; words_for(len)];
        if let Some(last) = words.last_mut() {
            *last = last_mask(len);
        }
        Self { words, len, count: len }
    }

    /// Chunks `indices` of `len`, those beyond it left out.
    #[must_use]
    pub fn from_indices(len: u32, indices: impl IntoIterator<Item = ChunkIndex>) -> Self {
        let mut set = Self::new(len);
        set.extend(indices);
        set
    }

    /// Reads a bitmap: chunk `i` is bit `i % 8` (least significant first) of byte `i / 8`; zero bytes at the end may be missing.
    ///
    /// # Errors
    /// When it names chunks that do not exist, or `len` is more than a version can have.
    pub fn from_bitmap(len: u32, bitmap: &[u8]) -> Result<Self, BitmapError> {
        if len > MAX_CHUNKS {
            return Err(BitmapError::TooManyChunks(len));
        }
        if bitmap.len() > len.div_ceil(8) as usize {
            return Err(BitmapError::Beyond(len));
        }
        let mut words: Vec<u64> = bitmap.chunks(8).map(word_of).collect();
        words.resize(words_for(len), 0);
        if words.last().is_some_and(|last| last & !last_mask(len) != 0) {
            return Err(BitmapError::Beyond(len));
        }
        Ok(Self::counted(words, len))
    }

    /// Writes the bitmap that [`Self::from_bitmap`] reads, without zero bytes at its end.
    #[must_use]
    pub fn to_bitmap(&self) -> Vec<u8> {
        let mut bitmap: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let end = bitmap.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bitmap.truncate(end);
        bitmap
    }

    /// Chunks that the version has, in the set or not.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Chunks in the set.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// No chunk is in the set (which is not to say that `len` is 0).
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Every chunk is in the set.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.count == self.len
    }

    /// Is this chunk in the set?
    #[must_use]
    pub fn contains(&self, chunk: ChunkIndex) -> bool {
        let (word, bit) = place(chunk);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Puts a chunk into the set. True if it is new there; false if it was there before or does not exist.
    pub fn insert(&mut self, chunk: ChunkIndex) -> bool {
        let (word, bit) = place(chunk);
        if chunk.get() >= self.len || self.words[word] & bit != 0 {
            return false;
        }
        self.words[word] |= bit;
        self.count += 1;
        true
    }

    /// Takes a chunk out of the set. True if it was there.
    pub fn remove(&mut self, chunk: ChunkIndex) -> bool {
        let (word, bit) = place(chunk);
        let was_there = self.contains(chunk);
        if was_there {
            self.words[word] &= !bit;
            self.count -= 1;
        }
        was_there
    }

    /// Takes all chunks out.
    pub fn clear(&mut self) {
        self.words.fill(0);
        self.count = 0;
    }

    /// Puts everything into the set that is in the other.
    pub fn union_with(&mut self, other: &Self) {
        self.combine(other, |a, b| a | b);
    }

    /// Takes everything out that is in the other.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, |a, b| a & !b);
    }

    /// Takes everything out that is not in the other.
    pub fn intersect_with(&mut self, other: &Self) {
        self.combine(other, |a, b| a & b);
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut set = self.clone();
        set.union_with(other);
        set
    }

    /// What is in this set and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut set = self.clone();
        set.subtract(other);
        set
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut set = self.clone();
        set.intersect_with(other);
        set
    }

    /// What is not in this set.
    #[must_use]
    pub fn complement(&self) -> Self {
        Self::full(self.len).difference(self)
    }

    /// How many chunks are in this set and not in the other.
    #[must_use]
    pub fn difference_count(&self, other: &Self) -> u32 {
        self.pairs(other).map(|(a, b)| (a & !b).count_ones()).sum()
    }

    /// How many chunks are in both.
    #[must_use]
    pub fn intersection_count(&self, other: &Self) -> u32 {
        self.pairs(other).map(|(a, b)| (a & b).count_ones()).sum()
    }

    /// Is any chunk in both?
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        self.pairs(other).any(|(a, b)| a & b != 0)
    }

    /// Is everything in this set also in the other?
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.pairs(other).all(|(a, b)| a & !b == 0)
    }

    /// The chunks in the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = ChunkIndex> + '_ {
        indices(self.words.iter().copied())
    }

    /// The chunks that are not in the set, in order.
    pub fn iter_missing(&self) -> impl Iterator<Item = ChunkIndex> + '_ {
        let len = self.len;
        indices(self.words.iter().map(|word| !word)).take_while(move |chunk| chunk.get() < len)
    }

    /// The chunks in this set and not in the other, in order, without making a set of them.
    pub fn iter_difference<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = ChunkIndex> + 'a {
        indices(self.pairs(other).map(|(a, b)| a & !b))
    }

    /// The chunks in both, in order, without making a set of them.
    pub fn iter_intersection<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = ChunkIndex> + 'a {
        indices(self.pairs(other).map(|(a, b)| a & b))
    }

    /// Words of both side by side, as many as this set has.
    fn pairs<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (u64, u64)> + 'a {
        let others = other.words.iter().copied().chain(std::iter::repeat(0));
        self.words.iter().copied().zip(others)
    }

    fn combine(&mut self, other: &Self, op: impl Fn(u64, u64) -> u64) {
        let mut words: Vec<u64> = self.pairs(other).map(|(a, b)| op(a, b)).collect();
        if let Some(last) = words.last_mut() {
            *last &= last_mask(self.len);
        }
        *self = Self::counted(words, self.len);
    }

    fn counted(words: Vec<u64>, len: u32) -> Self {
        let count = words.iter().map(|word| word.count_ones()).sum();
        Self { words, len, count }
    }
}

impl Extend<ChunkIndex> for ChunkSet {
    fn extend<T: IntoIterator<Item = ChunkIndex>>(&mut self, chunks: T) {
        for chunk in chunks {
            self.insert(chunk);
        }
    }
}

const fn words_for(len: u32) -> usize {
    len.div_ceil(64) as usize
}

/// The bits of the last word that stand for chunks.
const fn last_mask(len: u32) -> u64 {
    match len % 64 {
        0 => u64::MAX,
        bits => (1 << bits) - 1,
    }
}

const fn place(chunk: ChunkIndex) -> (usize, u64) {
    (chunk.as_usize() / 64, 1 << (chunk.get() % 64))
}

/// Up to eight bytes as one word, the first byte lowest.
fn word_of(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// The numbers of the bits that are set, lowest first.
fn indices(words: impl Iterator<Item = u64>) -> impl Iterator<Item = ChunkIndex> {
    (0u32..).step_by(64).zip(words).flat_map(|(base, word)| {
        let clear_lowest = |word: &u64| Some(word & (word - 1)).filter(|word| *word != 0);
        let remaining = std::iter::successors(Some(word).filter(|word| *word != 0), clear_lowest);
        remaining.map(move |word| ChunkIndex::new(base + word.trailing_zeros()))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(len: u32, chunks: &BTreeSet<u32>) -> ChunkSet {
        ChunkSet::from_indices(len, chunks.iter().copied().map(ChunkIndex::new))
    }

    fn numbers(chunks: impl Iterator<Item = ChunkIndex>) -> BTreeSet<u32> {
        let chunks: Vec<u32> = chunks.map(ChunkIndex::get).collect();
        assert!(chunks.is_sorted());
        chunks.into_iter().collect()
    }

    #[test]
    fn full_and_empty_at_the_edges_of_words() {
        for len in [0, 1, 7, 8, 9, 63, 64, 65, 127, 128, 129, 2048] {
            let (empty, full) = (ChunkSet::new(len), ChunkSet::full(len));
            assert!(full.is_full() && empty.is_empty(), "{len}");
            assert_eq!((full.count(), empty.count()), (len, 0));
            assert_eq!(numbers(full.iter()), (0..len).collect());
            assert_eq!(numbers(empty.iter_missing()), (0..len).collect());
            assert_eq!((full.iter_missing().count(), empty.iter().count()), (0, 0));
            assert_eq!(empty.complement(), full);
            assert_eq!(ChunkSet::from_bitmap(len, &full.to_bitmap()), Ok(full));
        }
    }

    #[test]
    fn what_does_not_exist_cannot_be_put_in() {
        let mut chunks = ChunkSet::new(10);
        for beyond in [10, 63, 64, u32::MAX] {
            assert!(!chunks.insert(ChunkIndex::new(beyond)));
            assert!(!chunks.contains(ChunkIndex::new(beyond)));
            assert!(!chunks.remove(ChunkIndex::new(beyond)));
        }
        assert!(chunks.is_empty());
        chunks.union_with(&ChunkSet::full(64));
        assert_eq!(chunks, ChunkSet::full(10));
    }

    #[test]
    fn bitmaps() {
        #[track_caller]
        fn check(len: u32, bitmap: &[u8], expected: Result<&[u32], BitmapError>) {
            let got = ChunkSet::from_bitmap(len, bitmap).map(|chunks| numbers(chunks.iter()));
            assert_eq!(got, expected.map(|chunks| chunks.iter().copied().collect()));
        }
        check(0, &[], Ok(&[]));
        check(0, &[0], Err(BitmapError::Beyond(0)));
        check(10, &[], Ok(&[]));
        check(10, &[0b101], Ok(&[0, 2]));
        check(10, &[0, 0b10], Ok(&[9]));
        check(10, &[0, 0b100], Err(BitmapError::Beyond(10)));
        check(10, &[0, 0, 0], Err(BitmapError::Beyond(10)));
        check(64, &[0, 0, 0, 0, 0, 0, 0, 0x80], Ok(&[63]));
        check(65, &[0, 0, 0, 0, 0, 0, 0, 0, 2], Err(BitmapError::Beyond(65)));
        check(MAX_CHUNKS + 1, &[], Err(BitmapError::TooManyChunks(MAX_CHUNKS + 1)));
    }

    proptest! {
        #[test]
        fn sets_behave_like_sets(
            len in 0u32..300,
            other_len in 0u32..300,
            a in proptest::collection::btree_set(0u32..300, 0..100),
            b in proptest::collection::btree_set(0u32..300, 0..100),
        ) {
            let (x, y) = (set(len, &a), set(other_len, &b));
            let a: BTreeSet<u32> = a.into_iter().filter(|i| *i < len).collect();
            let b: BTreeSet<u32> = b.into_iter().filter(|i| *i < other_len && *i < len).collect();
            prop_assert_eq!(&numbers(x.iter()), &a);
            prop_assert_eq!(x.count() as usize, a.len());
            prop_assert_eq!(numbers(x.iter_missing()), (0..len).filter(|i| !a.contains(i)).collect());
            prop_assert_eq!(numbers(x.union(&y).iter()), &a | &b);
            prop_assert_eq!(numbers(x.difference(&y).iter()), &a - &b);
            prop_assert_eq!(numbers(x.intersection(&y).iter()), &a & &b);
            prop_assert_eq!(numbers(x.iter_difference(&y)), &a - &b);
            prop_assert_eq!(numbers(x.iter_intersection(&y)), &a & &b);
            prop_assert_eq!(x.difference_count(&y) as usize, (&a - &b).len());
            prop_assert_eq!(x.intersection_count(&y) as usize, (&a & &b).len());
            prop_assert_eq!(x.intersects(&y), !a.is_disjoint(&b));
            prop_assert_eq!(x.is_subset(&y), a.is_subset(&b));
            prop_assert_eq!(x.union(&y).count() as usize, (&a | &b).len());
        }

        #[test]
        fn chunks_come_and_go(len in 1u32..200, steps in proptest::collection::vec((any::<bool>(), 0u32..220), 0..200)) {
            let (mut chunks, mut model) = (ChunkSet::new(len), BTreeSet::new());
            for (insert, i) in steps {
                let chunk = ChunkIndex::new(i);
                if insert {
                    prop_assert_eq!(chunks.insert(chunk), i < len && model.insert(i));
                } else {
                    prop_assert_eq!(chunks.remove(chunk), model.remove(&i));
                }
                prop_assert_eq!(chunks.count() as usize, model.len());
            }
            prop_assert_eq!(numbers(chunks.iter()), model);
        }

        #[test]
        fn bitmaps_go_both_ways(len in 0u32..300, chunks in proptest::collection::btree_set(0u32..300, 0..100)) {
            let chunks = set(len, &chunks);
            let bitmap = chunks.to_bitmap();
            prop_assert!(bitmap.last() != Some(&0));
            prop_assert_eq!(ChunkSet::from_bitmap(len, &bitmap), Ok(chunks));
        }

        #[test]
        fn garbage_is_an_answer_and_no_panic(len: u32, small in 0u32..500, bitmap in proptest::collection::vec(any::<u8>(), 0..70)) {
            for len in [len, small] {
                if let Ok(chunks) = ChunkSet::from_bitmap(len, &bitmap) {
                    prop_assert!(chunks.iter().all(|chunk| chunk.get() < len));
                    let end = bitmap.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                    prop_assert_eq!(&chunks.to_bitmap(), &bitmap[..end]);
                }
            }
        }
    }
}
