//! Encryption of chunks: AES-256-GCM with the chunk's number as nonce.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::{ChunkIndex, ContentKey, VersionId};

/// Bytes by which ciphertext is longer than plaintext: the tag, which comes last.
pub const TAG_LEN: u32 = 16;

const TAG: usize = TAG_LEN as usize;

/// Why ciphertext does not open. More is not known, on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("chunk {0} is not what was sealed under this key, version and number")]
pub struct OpenError(pub ChunkIndex);

/// Encrypts the chunks of one version. Keeps the key schedule, so make one per version rather than one per chunk.
///
/// A (key, chunk) pair must be sealed once, ever: sealing other bytes under the same pair would reveal both. Draw a new key
/// whenever an upload starts again.
pub struct Sealer(Cipher);

/// Decrypts the chunks of one version. Keeps the key schedule, so make one per version rather than one per chunk.
pub struct Opener(Cipher);

impl Sealer {
    /// For the chunks of this version.
    #[must_use]
    pub fn new(key: &ContentKey, version: VersionId) -> Self {
        Self(Cipher::new(key, version))
    }

    /// Encrypts one chunk in place. Without [`TAG_LEN`] bytes of spare capacity the vector has to grow, which copies it.
    ///
    /// # Panics
    /// Above 64 GiB, which no chunk has.
    #[must_use]
    pub fn seal(&self, chunk: ChunkIndex, mut plaintext: Vec<u8>) -> Vec<u8> {
        plaintext.reserve_exact(TAG);
        let tag = self
            .0
            .key
            .seal_in_place_separate_tag(nonce(chunk), self.0.aad(chunk), &mut plaintext)
            .expect("AES-GCM takes anything up to 64 GiB");
        plaintext.extend_from_slice(tag.as_ref());
        plaintext
    }
}

impl Opener {
    /// For the chunks of this version.
    #[must_use]
    pub fn new(key: &ContentKey, version: VersionId) -> Self {
        Self(Cipher::new(key, version))
    }

    /// Decrypts one chunk into new memory.
    ///
    /// # Errors
    /// When the ciphertext is not the one that was sealed.
    pub fn open(&self, chunk: ChunkIndex, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG>().ok_or(OpenError(chunk))?;
        let mut plaintext = vec![0; ciphertext.len()];
        self.0
            .key
            .open_separate_gather(nonce(chunk), self.0.aad(chunk), ciphertext, tag, &mut plaintext)
            .map_err(|_| OpenError(chunk))?;
        Ok(plaintext)
    }

    /// Decrypts one chunk where it lies.
    ///
    /// # Errors
    /// When the ciphertext is not the one that was sealed.
    pub fn open_in_place(&self, chunk: ChunkIndex, mut sealed: Vec<u8>) -> Result<Vec<u8>, OpenError> {
        let length =
            self.0.key.open_in_place(nonce(chunk), self.0.aad(chunk), &mut sealed).map_err(|_| OpenError(chunk))?.len();
        sealed.truncate(length);
        Ok(sealed)
    }
}

/// Encrypts a single chunk. See [`Sealer::seal`].
#[must_use]
pub fn seal(key: &ContentKey, version: &VersionId, chunk: ChunkIndex, plaintext: Vec<u8>) -> Vec<u8> {
    Sealer::new(key, *version).seal(chunk, plaintext)
}

/// Decrypts a single chunk. See [`Opener::open`].
///
/// # Errors
/// When the ciphertext is not the one that was sealed.
pub fn open(key: &ContentKey, version: &VersionId, chunk: ChunkIndex, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    Opener::new(key, *version).open(chunk, sealed)
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sealer").field(&self.0.version).finish()
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Opener").field(&self.0.version).finish()
    }
}

struct Cipher {
    key: LessSafeKey,
    version: VersionId,
}

impl Cipher {
    fn new(key: &ContentKey, version: VersionId) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key.as_bytes()).expect("32 bytes are an AES-256 key");
        Self { key: LessSafeKey::new(key), version }
    }

    /// Binds the ciphertext to its version and place: version id, then the number in big endian.
    fn aad(&self, chunk: ChunkIndex) -> Aad<[u8; VersionId::LEN + 4]> {
        let mut aad = [0; VersionId::LEN + 4];
        aad[..VersionId::LEN].copy_from_slice(self.version.as_bytes());
        aad[VersionId::LEN..].copy_from_slice(&chunk.get().to_be_bytes());
        Aad::from(aad)
    }
}

/// The chunk's number as 96 bits in big endian. Unique, as a key belongs to one version.
fn nonce(chunk: ChunkIndex) -> Nonce {
    let mut nonce = [0; 12];
    nonce[8..].copy_from_slice(&chunk.get().to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> ContentKey {
        ContentKey::from_bytes([7; 32])
    }

    fn version() -> VersionId {
        VersionId::from_bytes([9; 16])
    }

    #[test]
    fn a_chunk_opens_only_as_what_it_is() {
        let third = ChunkIndex::new(3);
        let sealed = seal(&key(), &version(), third, b"hello".to_vec());
        assert_eq!(open(&key(), &version(), third, &sealed).unwrap(), b"hello");
        let other_key = ContentKey::from_bytes([8; 32]);
        let other_version = VersionId::from_bytes([8; 16]);
        assert_eq!(open(&other_key, &version(), third, &sealed), Err(OpenError(third)));
        assert_eq!(open(&key(), &other_version, third, &sealed), Err(OpenError(third)));
        let fourth = ChunkIndex::new(4);
        assert_eq!(open(&key(), &version(), fourth, &sealed), Err(OpenError(fourth)));
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_again(plain in proptest::collection::vec(any::<u8>(), 0..2000), chunk: u32) {
            let (sealer, opener, chunk) = (Sealer::new(&key(), version()), Opener::new(&key(), version()), ChunkIndex::new(chunk));
            let sealed = sealer.seal(chunk, plain.clone());
            prop_assert_eq!(sealed.len(), plain.len() + TAG);
            prop_assert_eq!(&opener.open(chunk, &sealed).unwrap(), &plain);
            prop_assert_eq!(&opener.open_in_place(chunk, sealed).unwrap(), &plain);
        }

        #[test]
        fn one_wrong_bit_is_noticed(plain in proptest::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, bit in 0u8..8) {
            let chunk = ChunkIndex::new(0);
            let mut sealed = seal(&key(), &version(), chunk, plain);
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert!(open(&key(), &version(), chunk, &sealed).is_err());
            prop_assert!(Opener::new(&key(), version()).open_in_place(chunk, sealed).is_err());
        }

        #[test]
        fn garbage_is_refused(garbage in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(open(&key(), &version(), ChunkIndex::new(1), &garbage).is_err());
            prop_assert!(Opener::new(&key(), version()).open_in_place(ChunkIndex::new(1), garbage).is_err());
        }
    }
}
