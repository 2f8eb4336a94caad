//! The signed description of a version.

use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{self, DecodeContext, WireType};

use crate::{
    ChunkIndex, ChunkLayout, ChunkName, IdError, KeyId, LayoutError, ManifestId, ObjectPath, PathError, SIGNATURE_LEN,
    SignatureError, SigningKey, SiteName, SiteNameError, VerifyingKey, VersionId, proto,
};

mod fields;

/// What a manifest's signature begins with.
pub const MANIFEST_DOMAIN: &[u8] = b"umbel manifest v1";
/// Bytes of the largest manifest.
pub const MAX_MANIFEST_BYTES: usize = 16 << 20;
/// Response fields that a version can bring along.
pub const MAX_FIELDS: usize = 64;
/// Bytes of their names and values together.
pub const MAX_FIELD_BYTES: usize = 16 << 10;
/// Bytes of the longest media type.
pub const MAX_MEDIA_TYPE_BYTES: usize = 255;

/// Number of `Manifest.fields` in the protobuf.
const FIELDS_TAG: u32 = 10;

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ManifestError {
    /// More than [`MAX_MANIFEST_BYTES`].
    #[error("manifest has {0} bytes, more than {MAX_MANIFEST_BYTES}")]
    TooLarge(usize),
    /// Not signed by the site.
    #[error("manifest is not signed by the site")]
    Signature(#[source] SignatureError),
    /// Not the protobuf message.
    #[error("manifest cannot be decoded")]
    Decode(#[source] prost::DecodeError),
    /// Not the name of a site.
    #[error("manifest names no valid site")]
    Site(#[source] SiteNameError),
    /// Not the path of an object.
    #[error("manifest names no valid path")]
    Path(#[source] PathError),
    /// Not an id of that kind.
    #[error("manifest has a wrong {name}")]
    Id {
        /// Which of its ids.
        name: &'static str,
        /// What is wrong with it.
        #[source]
        source: IdError,
    },
    /// Not a media type.
    #[error("manifest has no valid media type")]
    MediaType,
    /// Length and chunk size that cannot be.
    #[error("manifest has no valid chunk layout")]
    Layout(#[source] LayoutError),
    /// As many names as the layout does not have.
    #[error("manifest has {got} bytes of chunk names for {chunks} chunks")]
    Names {
        /// Chunks of the layout.
        chunks: u32,
        /// Bytes of names that there are.
        got: usize,
    },
    /// Response fields that are too many, too long, out of order, or must not be set.
    #[error("manifest has a bad response field: {0}")]
    Field(&'static str),
}

/// Why bytes are not a chunk of a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// The version has fewer chunks.
    #[error("there is no chunk {0}")]
    NoSuchChunk(ChunkIndex),
    /// Too short or too long.
    #[error("chunk {chunk} has {expected} bytes, got {got}")]
    Length {
        /// Which chunk.
        chunk: ChunkIndex,
        /// Bytes of its ciphertext.
        expected: u32,
        /// Bytes that there were.
        got: usize,
    },
    /// The right number of wrong bytes.
    #[error("chunk {0} is corrupt")]
    Corrupt(ChunkIndex),
}

/// A version's description, not yet signed.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The site.
    pub site: SiteName,
    /// Where in the site.
    pub path: ObjectPath,
    /// Random, unique per upload.
    pub version_id: VersionId,
    /// As sent in Content-Type.
    pub media_type: String,
    /// Length and chunk size.
    pub layout: ChunkLayout,
    /// One name per chunk, in order.
    pub names: Vec<ChunkName>,
    /// Names the content key.
    pub key_id: KeyId,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Response fields that come with the object. Names in lower case, each once; any order.
    pub fields: Vec<(String, String)>,
}

/// A manifest as it travels: bytes and signature, small enough but otherwise unchecked until [`Self::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedManifest {
    bytes: Bytes,
    signature: [u8; SIGNATURE_LEN],
    id: ManifestId,
}

/// The description of a version, signed by its site and consistent in itself: names and layout agree, every text is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    id: ManifestId,
    site: SiteName,
    path: ObjectPath,
    version_id: VersionId,
    media_type: String,
    layout: ChunkLayout,
    names: Bytes,
    key_id: KeyId,
    created_ms: u64,
    fields: Vec<(String, String)>,
}

impl Draft {
    /// Checks the draft as its readers will, and signs it.
    ///
    /// # Errors
    /// When readers would refuse it.
    pub fn sign(mut self, key: &SigningKey) -> Result<SignedManifest, ManifestError> {
        self.fields.sort();
        let bytes = Bytes::from(self.into_proto().encode_to_vec());
        Manifest::decode(bytes.clone())?;
        let signature = key.sign(MANIFEST_DOMAIN, &[&bytes]);
        Ok(SignedManifest { id: ManifestId::of(&bytes), bytes, signature })
    }

    fn into_proto(self) -> proto::Manifest {
        let field = |(name, value)| proto::Field { name, value };
        proto::Manifest {
            site: self.site.to_string(),
            path: self.path.to_string(),
            version_id: Bytes::copy_from_slice(self.version_id.as_bytes()),
            media_type: self.media_type,
            length: self.layout.length(),
            chunk_size: self.layout.chunk_size(),
            chunk_names: self.names.iter().flat_map(|name| *name.as_bytes()).collect(),
            key_id: Bytes::copy_from_slice(self.key_id.as_bytes()),
            created_ms: self.created_ms,
            fields: self.fields.into_iter().map(field).collect(),
        }
    }
}

impl SignedManifest {
    /// Takes a manifest out of its message. Only its sizes are checked.
    ///
    /// # Errors
    /// When it is too large or its signature has a wrong length.
    pub fn from_proto(message: proto::SignedManifest) -> Result<Self, ManifestError> {
        if message.manifest.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge(message.manifest.len()));
        }
        let wrong_length = |_| ManifestError::Signature(SignatureError);
        let signature = message.signature.as_ref().try_into().map_err(wrong_length)?;
        Ok(Self { id: ManifestId::of(&message.manifest), bytes: message.manifest, signature })
    }

    /// The message that carries it.
    #[must_use]
    pub fn to_proto(&self) -> proto::SignedManifest {
        proto::SignedManifest { manifest: self.bytes.clone(), signature: Bytes::copy_from_slice(&self.signature) }
    }

    /// Reads what [`Self::encode`] wrote. Only sizes are checked.
    ///
    /// # Errors
    /// When it is no such message or too large.
    pub fn decode(encoded: impl Buf) -> Result<Self, ManifestError> {
        let length = encoded.remaining();
        // A little more for the signature and the lengths.
        if length > MAX_MANIFEST_BYTES + 256 {
            return Err(ManifestError::TooLarge(length));
        }
        Self::from_proto(proto::SignedManifest::decode(encoded).map_err(ManifestError::Decode)?)
    }

    /// The encoded message, to be kept on disk.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.to_proto().encode_to_vec()
    }

    /// Checks the signature, and only then looks at what was signed.
    ///
    /// # Errors
    /// When the site did not sign it, or what it signed makes no sense.
    pub fn verify(&self, site_key: &VerifyingKey) -> Result<Manifest, ManifestError> {
        site_key.verify(MANIFEST_DOMAIN, &[&self.bytes], &self.signature).map_err(ManifestError::Signature)?;
        Manifest::decode(self.bytes.clone())
    }

    /// The BLAKE3 hash of the manifest's bytes.
    #[must_use]
    pub const fn id(&self) -> ManifestId {
        self.id
    }

    /// The manifest's bytes, as they were signed.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The signature.
    #[must_use]
    pub const fn signature(&self) -> &[u8; SIGNATURE_LEN] {
        &self.signature
    }
}

impl Manifest {
    fn decode(bytes: Bytes) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        count_fields(bytes.clone())?;
        let id = ManifestId::of(&bytes);
        let message = proto::Manifest::decode(bytes).map_err(ManifestError::Decode)?;
        Self::check(id, message)
    }

    fn check(id: ManifestId, message: proto::Manifest) -> Result<Self, ManifestError> {
        let layout = ChunkLayout::new(message.length, message.chunk_size).map_err(ManifestError::Layout)?;
        check_names(&layout, &message.chunk_names)?;
        fields::check_media_type(&message.media_type)?;
        Ok(Self {
            id,
            site: SiteName::new(&message.site).map_err(ManifestError::Site)?,
            path: ObjectPath::from_decoded(&message.path).map_err(ManifestError::Path)?,
            version_id: id_of("version id", &message.version_id)?,
            media_type: message.media_type,
            layout,
            names: message.chunk_names,
            key_id: id_of("key id", &message.key_id)?,
            created_ms: message.created_ms,
            fields: fields::check(message.fields)?,
        })
    }

    /// The BLAKE3 hash of the manifest's bytes.
    #[must_use]
    pub const fn id(&self) -> ManifestId {
        self.id
    }

    /// The site that signed it. That the object was asked for in this site is for the caller to check.
    #[must_use]
    pub const fn site(&self) -> &SiteName {
        &self.site
    }

    /// The object. That it is the one that was asked for is for the caller to check.
    #[must_use]
    pub const fn path(&self) -> &ObjectPath {
        &self.path
    }

    /// The version.
    #[must_use]
    pub const fn version_id(&self) -> VersionId {
        self.version_id
    }

    /// As sent in Content-Type: visible ASCII and spaces.
    #[must_use]
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// Length, chunk size, and what follows from them.
    #[must_use]
    pub const fn layout(&self) -> ChunkLayout {
        self.layout
    }

    /// Plaintext bytes of the object.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.layout.length()
    }

    /// How many chunks there are.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        self.layout.chunks()
    }

    /// The names of all chunks, 32 bytes each.
    #[must_use]
    pub const fn names(&self) -> &Bytes {
        &self.names
    }

    /// The name of a chunk.
    #[must_use]
    pub fn name(&self, chunk: ChunkIndex) -> Option<ChunkName> {
        let (names, _) = self.names.as_chunks::<{ ChunkName::LEN }>();
        names.get(chunk.as_usize()).copied().map(ChunkName::from_bytes)
    }

    /// Names the content key.
    #[must_use]
    pub const fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn created_ms(&self) -> u64 {
        self.created_ms
    }

    /// Response fields that come with the object, names in lower case, sorted, each once.
    #[must_use]
    pub fn fields(&self) -> &[(String, String)] {
        &self.fields
    }

    /// The value of one response field, by its name in lower case.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        let position = self.fields.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok()?;
        Some(&self.fields[position].1)
    }

    /// Is this the ciphertext of that chunk? Nothing that fails here may be written, used or passed on.
    ///
    /// # Errors
    /// When it is not.
    pub fn verify_chunk(&self, chunk: ChunkIndex, sealed: &[u8]) -> Result<(), ChunkError> {
        let no_such = ChunkError::NoSuchChunk(chunk);
        let (Some(expected), Some(name)) = (self.layout.sealed_len(chunk), self.name(chunk)) else {
            return Err(no_such);
        };
        if sealed.len() != expected as usize {
            return Err(ChunkError::Length { chunk, expected, got: sealed.len() });
        }
        if ChunkName::of(sealed) != name {
            return Err(ChunkError::Corrupt(chunk));
        }
        Ok(())
    }
}

fn check_names(layout: &ChunkLayout, names: &Bytes) -> Result<(), ManifestError> {
    let chunks = layout.chunks();
    if names.len() != chunks as usize * ChunkName::LEN {
        return Err(ManifestError::Names { chunks, got: names.len() });
    }
    Ok(())
}

fn id_of<'a, T: TryFrom<&'a [u8], Error = IdError>>(name: &'static str, bytes: &'a [u8]) -> Result<T, ManifestError> {
    T::try_from(bytes).map_err(|source| ManifestError::Id { name, source })
}

/// Walks over the encoded message without keeping anything, because millions of empty fields take two bytes each there and
/// fifty in memory.
fn count_fields(mut bytes: Bytes) -> Result<(), ManifestError> {
    let mut count = 0;
    while bytes.has_remaining() {
        let (tag, wire_type) = encoding::decode_key(&mut bytes).map_err(ManifestError::Decode)?;
        count += usize::from(tag == FIELDS_TAG && wire_type == WireType::LengthDelimited);
        if count > MAX_FIELDS {
            return Err(ManifestError::Field("there are too many"));
        }
        encoding::skip_field(wire_type, tag, &mut bytes, DecodeContext::default()).map_err(ManifestError::Decode)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
