//! Which chunks of a version: a bitmap of fixed length.

use crate::ChunkIndex;

/// Why bytes are no set of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bitmap names chunks beyond the last one")]
pub struct ChunkSetError;

/// A set of the chunks `0..len` of one version. Chunks outside are never members, and inserting one changes nothing.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ChunkSet {
    len: u32,
    words: Vec<u64>,
}

impl ChunkSet {
    /// No chunk, of a version of `len`.
    pub fn new(len: u32) -> Self {
        Self { len, words: vec![0; (len as usize).div_ceil(64)] }
    }

    /// Every chunk of a version of `len`.
    pub fn full(len: u32) -> Self {
        let mut set = Self { len, words: vec![u64::MAX; (len as usize).div_ceil(64)] };
        if let (Some(last), rest @ 1..) = (set.words.last_mut(), len % 64) {
            *last = (1 << rest) - 1;
        }
        set
    }

    /// From a bitmap: chunk i is bit i%8 of byte i/8. Zero bytes at the end may be absent, bits beyond `len` may not be set.
    pub fn from_bitmap(len: u32, bitmap: &[u8]) -> Result<Self, ChunkSetError> {
        let mut set = Self::new(len);
        let used = bitmap.len().min((len as usize).div_ceil(8));
        if bitmap[used..].iter().any(|byte| *byte != 0) {
            return Err(ChunkSetError);
        }
        for (word, bytes) in set.words.iter_mut().zip(bitmap[..used].chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_le_bytes(padded);
        }
        let beyond = !Self::full(len).words.last().copied().unwrap_or(0);
        match set.words.last() {
            Some(last) if last & beyond != 0 => Err(ChunkSetError),
            _ => Ok(set),
        }
    }

    /// The bitmap, without zero bytes at its end.
    pub fn to_bitmap(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(used);
        bytes
    }

    /// Adds a chunk; whether it was absent (and exists).
    pub fn insert(&mut self, chunk: ChunkIndex) -> bool {
        let absent = chunk.get() < self.len && !self.contains(chunk);
        if absent {
            self.words[chunk.get() as usize / 64] |= 1 << (chunk.get() % 64);
        }
        absent
    }

    /// Removes a chunk; whether it was there.
    pub fn remove(&mut self, chunk: ChunkIndex) -> bool {
        let present = self.contains(chunk);
        if present {
            self.words[chunk.get() as usize / 64] &= !(1 << (chunk.get() % 64));
        }
        present
    }

    /// Whether the chunk is a member.
    pub fn contains(&self, chunk: ChunkIndex) -> bool {
        let word = self.words.get(chunk.get() as usize / 64);
        word.is_some_and(|word| word >> (chunk.get() % 64) & 1 == 1)
    }

    /// Chunks in the version, members or not.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Members.
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether every chunk is a member. True of a version without chunks.
    pub fn is_full(&self) -> bool {
        self.count() == self.len
    }

    /// Whether no chunk is a member.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Members in order.
    pub fn iter(&self) -> impl Iterator<Item = ChunkIndex> + '_ {
        bits(self.words.iter().copied())
    }

    /// Those that are not members, in order.
    pub fn iter_missing(&self) -> impl Iterator<Item = ChunkIndex> + '_ {
        bits(self.words.iter().map(|word| !word)).take_while(|chunk| chunk.get() < self.len)
    }

    /// Adds all of `other`, a set of the same version.
    pub fn union_with(&mut self, other: &Self) {
        self.combine(other, |mine, theirs| mine | theirs);
    }

    /// Removes all of `other`, a set of the same version.
    pub fn difference_with(&mut self, other: &Self) {
        self.combine(other, |mine, theirs| mine & !theirs);
    }

    /// Keeps only what is in `other`, a set of the same version.
    pub fn intersect_with(&mut self, other: &Self) {
        self.combine(other, |mine, theirs| mine & theirs);
    }

    /// Whether the two have a chunk in common.
    pub fn intersects(&self, other: &Self) -> bool {
        self.words.iter().zip(&other.words).any(|(mine, theirs)| mine & theirs != 0)
    }

    fn combine(&mut self, other: &Self, operation: impl Fn(u64, u64) -> u64) {
        debug_assert_eq!(self.len, other.len, "sets of different versions");
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine = operation(*mine, *theirs);
        }
    }
}

fn bits(words: impl Iterator<Item = u64>) -> impl Iterator<Item = ChunkIndex> {
    words.zip(0u32..).flat_map(|(mut word, at)| {
        std::iter::from_fn(move || {
            let bit = (word != 0).then(|| word.trailing_zeros())?;
            word &= word - 1;
            Some(ChunkIndex::new(at * 64 + bit))
        })
    })
}

impl std::fmt::Debug for ChunkSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChunkSet({} of {})", self.count(), self.len)
    }
}
