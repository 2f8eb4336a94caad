//! Keys at rest. A version's content key and an upload's staging key lie in the store wrapped with the site's wrapping key
//! (AES-256-GCM, random nonce, bound to what the key is for); staged parts lie there sealed, too.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

/// Bytes that sealing adds to a frame.
pub(crate) const TAG: u64 = 16;

/// Plaintext bytes of every frame of a staged part but the last.
pub(crate) const FRAME: u64 = 1024 * 1024;

/// A secret AES-256 key; zeroed when dropped.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// Something sealed does not open: another key, or not the bytes that were sealed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("sealed data does not open with this key")]
pub struct DoesNotOpen;

/// A fresh random key.
pub(crate) fn random_key() -> Secret {
    Zeroizing::new(rand::random())
}

fn aead(key: &[u8]) -> Result<LessSafeKey, DoesNotOpen> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| DoesNotOpen)
}

/// Wraps `key` under `wrapping_key`; the result opens only with the same `purpose`.
pub(crate) fn wrap(wrapping_key: &[u8], purpose: &[u8], key: &[u8; 32]) -> Result<Vec<u8>, DoesNotOpen> {
    let nonce: [u8; NONCE_LEN] = rand::random();
    let mut sealed = key.to_vec();
    aead(wrapping_key)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(purpose), &mut sealed)
        .map_err(|_| DoesNotOpen)?;
    Ok([nonce.as_slice(), &sealed].concat())
}

/// The key that [`wrap`] wrapped.
pub(crate) fn unwrap(wrapping_key: &[u8], purpose: &[u8], wrapped: &[u8]) -> Result<Secret, DoesNotOpen> {
    let (nonce, sealed) = wrapped.split_first_chunk::<NONCE_LEN>().ok_or(DoesNotOpen)?;
    let mut sealed = Zeroizing::new(sealed.to_vec());
    let opened = aead(wrapping_key)?
        .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(purpose), &mut sealed)
        .map_err(|_| DoesNotOpen)?;
    Ok(Zeroizing::new((&*opened).try_into().map_err(|_| DoesNotOpen)?))
}

/// Seals and opens the frames of one staged part. Its key is derived from the upload's key and the part's own name in the
/// store, which is random: so no two parts share a key, and a frame's number serves as its nonce.
pub(crate) struct PartKey(LessSafeKey);

impl PartKey {
    pub(crate) fn new(upload_key: &Secret, data_id: &str) -> Result<Self, DoesNotOpen> {
        let key = Zeroizing::new(*blake3::keyed_hash(upload_key, data_id.as_bytes()).as_bytes());
        aead(key.as_slice()).map(Self)
    }

    pub(crate) fn seal(&self, frame: u64, mut plain: Vec<u8>) -> Result<Bytes, DoesNotOpen> {
        self.0.seal_in_place_append_tag(nonce(frame), Aad::empty(), &mut plain).map_err(|_| DoesNotOpen)?;
        Ok(plain.into())
    }

    pub(crate) fn open(&self, frame: u64, sealed: Bytes) -> Result<Bytes, DoesNotOpen> {
        let mut sealed = BytesMut::from(sealed);
        let length = self.0.open_in_place(nonce(frame), Aad::empty(), &mut sealed).map_err(|_| DoesNotOpen)?.len();
        sealed.truncate(length);
        Ok(sealed.freeze())
    }
}

fn nonce(frame: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[4..].copy_from_slice(&frame.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_key_opens_for_its_purpose_only() {
        let (site, other, key) = (random_key(), random_key(), random_key());
        let wrapped = wrap(site.as_slice(), b"version 1", &key).unwrap();
        assert_eq!(unwrap(site.as_slice(), b"version 1", &wrapped).unwrap(), key);
        assert_eq!(unwrap(site.as_slice(), b"version 2", &wrapped), Err(DoesNotOpen));
        assert_eq!(unwrap(other.as_slice(), b"version 1", &wrapped), Err(DoesNotOpen));
        assert_eq!(unwrap(site.as_slice(), b"version 1", &wrapped[..20]), Err(DoesNotOpen));
        assert_eq!(unwrap(b"short", b"version 1", &wrapped), Err(DoesNotOpen));
    }

    #[test]
    fn frames_open_in_their_place_only() {
        let upload = random_key();
        let part = PartKey::new(&upload, "a").unwrap();
        let sealed = part.seal(3, b"plain".to_vec()).unwrap();
        assert_eq!(part.open(3, sealed.clone()).unwrap(), "plain");
        assert!(part.open(4, sealed.clone()).is_err());
        assert!(PartKey::new(&upload, "b").unwrap().open(3, sealed).is_err());
    }
}
