//! The content key of a version.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::ZeroizeOnDrop;

use crate::{IdError, KeyId};

/// The context string that key ids are derived under.
const KEY_ID_CONTEXT: &str = "umbel key id v1";

/// The AES-256 key of one version, wiped when dropped and never printed. Whoever holds it can read the version; it leaves
/// memory only over the authenticated connections that are meant for it.
#[derive(Clone, ZeroizeOnDrop)]
pub struct ContentKey([u8; 32]);

impl ContentKey {
    /// A key of these bytes, which must come from a cryptographic generator and serve one version only.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret itself.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public name of this key: the first 16 bytes of BLAKE3 in key derivation mode over the key.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let mut id = [0; 16];
        blake3::Hasher::new_derive_key(KEY_ID_CONTEXT).update(&self.0).finalize_xof().fill(&mut id);
        KeyId::from_bytes(id)
    }
}

impl TryFrom<&[u8]> for ContentKey {
    type Error = IdError;

    fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
        let wrong = |_| IdError::Length { expected: 32, got: bytes.len() };
        bytes.try_into().map(Self).map_err(wrong)
    }
}

/// Takes the same time wherever the keys differ.
impl PartialEq for ContentKey {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for ContentKey {}

impl fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentKey(id {})", self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_never_printed_and_its_id_depends_on_it() {
        let key = ContentKey::from_bytes([0xab; 32]);
        assert!(!format!("{key:?}").contains("abab"));
        assert_eq!(key.id(), ContentKey::from_bytes([0xab; 32]).id());
        assert_ne!(key.id(), ContentKey::from_bytes([0xac; 32]).id());
    }
}
