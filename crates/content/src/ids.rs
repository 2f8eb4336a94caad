//! The names of things: fixed numbers of bytes, written in lower-case hex.

use std::fmt;

/// Why bytes or text are not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not as many bytes as this kind of id has.
    #[error("expected {expected} bytes, got {got}")]
    Length {
        /// Bytes that this kind of id has.
        expected: usize,
        /// Bytes that there were.
        got: usize,
    },
    /// Text that is not twice as many hex digits.
    #[error("expected {expected} hex digits")]
    Hex {
        /// Digits that this kind of id is written with.
        expected: usize,
    },
}

/// Writes `bytes` as lower-case hex.
pub(crate) fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Reads exactly `N` bytes of hex, in either case.
pub(crate) fn read_hex<const N: usize>(text: &str) -> Result<[u8; N], IdError> {
    let wrong = || IdError::Hex { expected: 2 * N };
    if text.len() != 2 * N {
        return Err(wrong());
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = hex_pair(pair[0], pair[1]).ok_or_else(wrong)?;
    }
    Ok(bytes)
}

/// The byte that two hex digits stand for.
pub(crate) fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |d: u8| char::from(d).to_digit(16);
    let value = digit(high)? << 4 | digit(low)?;
    u8::try_from(value).ok()
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// How many bytes there are.
            pub const LEN: usize = $len;

            /// Takes the bytes as they are.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl From<[u8; $len]> for $name {
            fn from(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = $crate::ids::IdError;

            fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
                let wrong = |_| $crate::ids::IdError::Length { expected: $len, got: bytes.len() };
                bytes.try_into().map(Self).map_err(wrong)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::ids::IdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::ids::read_hex(text).map(Self)
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                $crate::ids::write_hex(f, &self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}
pub(crate) use byte_id;

byte_id! {
    /// Name of a chunk: the BLAKE3 hash of its ciphertext with its tag.
    ChunkName, 32
}

byte_id! {
    /// Name of a manifest: the BLAKE3 hash of its bytes as they were signed.
    ManifestId, 32
}

byte_id! {
    /// Name of a version: random bytes, drawn once per upload.
    VersionId, 16
}

byte_id! {
    /// Names a content key without revealing anything of it. See [`crate::ContentKey::id`].
    KeyId, 16
}

impl ChunkName {
    /// The name of the chunk with this ciphertext (tag included).
    #[must_use]
    pub fn of(sealed: &[u8]) -> Self {
        Self(*blake3::hash(sealed).as_bytes())
    }
}

impl ManifestId {
    /// The id of the manifest with these bytes.
    #[must_use]
    pub fn of(manifest: &[u8]) -> Self {
        Self(*blake3::hash(manifest).as_bytes())
    }
}

/// Which chunk of a version, counted from 0. That it exists in a version is for [`crate::ChunkLayout`] to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkIndex(u32);

impl ChunkIndex {
    /// The chunk with this number.
    #[must_use]
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number, for indexing memory.
    #[must_use]
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

impl From<u32> for ChunkIndex {
    fn from(index: u32) -> Self {
        Self(index)
    }
}

impl From<ChunkIndex> for u32 {
    fn from(index: ChunkIndex) -> Self {
        index.0
    }
}

impl fmt::Display for ChunkIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_goes_both_ways_and_nothing_else_is_an_id() {
        let id = VersionId::from_bytes(std::array::from_fn(|i| u8::try_from(i * 17).unwrap()));
        assert_eq!(id.to_string(), "00112233445566778899aabbccddeeff");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        for wrong in [
            "",
            "00",
            "00112233445566778899aabbccddeef",
            "00112233445566778899aabbccddeefg",
            "+0112233445566778899aabbccddeeff",
            "ä0112233445566778899aabbccddeef",
        ] {
            assert_eq!(wrong.parse::<VersionId>(), Err(IdError::Hex { expected: 32 }), "{wrong}");
        }
        assert_eq!(VersionId::try_from([0u8; 15].as_slice()), Err(IdError::Length { expected: 16, got: 15 }));
    }
}
