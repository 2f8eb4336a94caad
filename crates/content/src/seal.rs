//! Encryption of chunks: AES-256-GCM under the version's own key, nonce the chunk's position, additional data the version and
//! the position. A key belongs to one version, so a (key, nonce) pair is used once, ever.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::ZeroizeOnDrop;

use crate::{ChunkIndex, KeyId, TAG_LEN, VersionId};

/// Ciphertext that was not made by this key for this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chunk does not decrypt")]
pub struct OpenError;

/// The key of one version. Wiped from memory when dropped.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct ContentKey([u8; 32]);

impl ContentKey {
    /// From 32 random bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes, for those who may pass it on.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its public name.
    pub fn id(&self) -> KeyId {
        let hash = blake3::derive_key("umbel key id v1", &self.0);
        KeyId::try_from(&hash[..16]).expect("16 bytes")
    }

    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &self.0).expect("a key of 32 bytes"))
    }
}

impl fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentKey({})", self.id())
    }
}

fn nonce(chunk: ChunkIndex) -> Nonce {
    let mut bytes = [0; 12];
    bytes[8..].copy_from_slice(&chunk.get().to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn aad(version: &VersionId, chunk: ChunkIndex) -> Aad<[u8; 20]> {
    let mut bytes = [0; 20];
    bytes[..16].copy_from_slice(version.as_bytes());
    bytes[16..].copy_from_slice(&chunk.get().to_be_bytes());
    Aad::from(bytes)
}

/// Encrypts the chunks of one version; keeps the key schedule.
pub struct Sealer {
    cipher: LessSafeKey,
    version: VersionId,
}

impl Sealer {
    /// For one version. Never seal two plaintexts for one chunk of it.
    pub fn new(key: &ContentKey, version: VersionId) -> Self {
        Self { cipher: key.cipher(), version }
    }

    /// Encrypts in place and appends the tag.
    pub fn seal(&self, chunk: ChunkIndex, mut plain: Vec<u8>) -> Vec<u8> {
        self.cipher
            .seal_in_place_append_tag(nonce(chunk), aad(&self.version, chunk), &mut plain)
            .expect("a chunk is far below AES-GCM's limit of 64 GiB");
        plain
    }
}

/// Decrypts the chunks of one version; keeps the key schedule.
pub struct Opener {
    cipher: LessSafeKey,
    version: VersionId,
}

impl Opener {
    /// For one version.
    pub fn new(key: &ContentKey, version: VersionId) -> Self {
        Self { cipher: key.cipher(), version }
    }

    /// Decrypts into a new buffer.
    pub fn open(&self, chunk: ChunkIndex, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let plain_len = sealed.len().checked_sub(TAG_LEN as usize).ok_or(OpenError)?;
        let (body, tag) = sealed.split_at(plain_len);
        let mut plain = vec![0; plain_len];
        self.cipher
            .open_separate_gather(nonce(chunk), aad(&self.version, chunk), body, tag, &mut plain)
            .map_err(|_| OpenError)?;
        Ok(plain)
    }

    /// Decrypts in place and cuts the tag off.
    pub fn open_in_place(&self, chunk: ChunkIndex, mut sealed: Vec<u8>) -> Result<Vec<u8>, OpenError> {
        let plain_len = self
            .cipher
            .open_in_place(nonce(chunk), aad(&self.version, chunk), &mut sealed)
            .map_err(|_| OpenError)?
            .len();
        sealed.truncate(plain_len);
        Ok(sealed)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("version", &self.version).finish_non_exhaustive()
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Encrypts one chunk.
pub fn seal(key: &ContentKey, version: VersionId, chunk: ChunkIndex, plain: Vec<u8>) -> Vec<u8> {
    Sealer::new(key, version).seal(chunk, plain)
}

/// Decrypts one chunk.
pub fn open(key: &ContentKey, version: VersionId, chunk: ChunkIndex, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    Opener::new(key, version).open(chunk, sealed)
}
