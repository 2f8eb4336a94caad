//! The signed description of a version. Signature first, then sizes, then everything else: nothing is allocated for what
//! a manifest merely claims.

use bytes::Bytes;
use prost::Message;

use crate::{
    ChunkIndex, ChunkLayout, ChunkName, KeyId, LayoutError, ManifestId, ObjectPath, PathError, SignatureError, SigningKey,
    SiteName, SiteNameError, TAG_LEN, VerifyingKey, VersionId, proto,
};

/// Largest manifest that is read, in bytes: names of half a million chunks.
pub const MAX_MANIFEST_BYTES: usize = 16 * 1024 * 1024;

const DOMAIN: &[u8] = b"umbel manifest v1";
const NAME_LEN: usize = 32;
const MAX_FIELDS: usize = 64;
const MAX_FIELD_BYTES: usize = 16 * 1024;
const MAX_MEDIA_TYPE: usize = 255;

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Over [`MAX_MANIFEST_BYTES`].
    #[error("manifest of {0} bytes is too large")]
    TooLarge(usize),
    /// Not the site's.
    #[error("manifest: {0}")]
    Signature(#[from] SignatureError),
    /// Not protobuf.
    #[error("manifest is not well-formed")]
    Malformed,
    /// An id has the wrong number of bytes.
    #[error("manifest has an id of the wrong length")]
    Id,
    /// Impossible chunk size or length.
    #[error("manifest: {0}")]
    Layout(#[from] LayoutError),
    /// Length, chunk size and number of names do not add up.
    #[error("manifest names {named} chunks, its length needs {needed}")]
    ChunkCount {
        /// Names in the manifest.
        named: usize,
        /// Chunks that its length and chunk size make.
        needed: u32,
    },
    /// Not a site's name.
    #[error("manifest: {0}")]
    Site(#[from] SiteNameError),
    /// Not an object's path.
    #[error("manifest: {0}")]
    Path(#[from] PathError),
    /// Media type or response fields that could not be sent.
    #[error("manifest has an illegal field `{0}`")]
    Field(String),
}

/// Why a chunk is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// The version has no such chunk.
    #[error("the version has no chunk {0}")]
    NoSuchChunk(ChunkIndex),
    /// Not as many bytes as the manifest says.
    #[error("chunk has {found} bytes instead of {expected}")]
    Length {
        /// Bytes with tag.
        expected: u32,
        /// Bytes that came.
        found: usize,
    },
    /// Other bytes than the manifest says.
    #[error("chunk does not match its name")]
    Name,
}

/// What an origin knows of a version once all its chunks are sealed.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Name of the site.
    pub site: SiteName,
    /// Path of the object.
    pub path: ObjectPath,
    /// Random.
    pub version_id: VersionId,
    /// Content-Type.
    pub media_type: String,
    /// Length and chunk size.
    pub layout: ChunkLayout,
    /// In order.
    pub names: Vec<ChunkName>,
    /// Of the content key.
    pub key_id: KeyId,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Response fields, names in lower case.
    pub fields: Vec<(String, String)>,
}

impl Draft {
    /// Writes the manifest and signs it. What no reader would accept is refused here already.
    pub fn sign(mut self, key: &SigningKey) -> Result<SignedManifest, ManifestError> {
        self.fields.sort();
        let manifest = proto::Manifest {
            site: self.site.to_string(),
            path: self.path.to_string(),
            version_id: self.version_id.as_bytes().to_vec().into(),
            media_type: self.media_type,
            length: self.layout.length(),
            chunk_size: self.layout.chunk_size(),
            chunk_names: self.names.iter().flat_map(|name| *name.as_bytes()).collect::<Vec<u8>>().into(),
            key_id: self.key_id.as_bytes().to_vec().into(),
            created_ms: self.created_ms,
            fields: self.fields.into_iter().map(|(name, value)| proto::Field { name, value }).collect(),
        };
        let bytes = Bytes::from(manifest.encode_to_vec());
        let signature = key.sign(DOMAIN, &[&bytes]);
        let signed = SignedManifest { bytes, signature: signature.to_vec().into() };
        signed.verify(&key.verifying_key()).map(|_| signed)
    }
}

/// A manifest as it travels: the very bytes that were hashed and signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedManifest {
    bytes: Bytes,
    signature: Bytes,
}

impl SignedManifest {
    /// From a message; nothing is checked yet.
    pub fn from_proto(message: proto::SignedManifest) -> Self {
        Self { bytes: message.manifest, signature: message.signature }
    }

    /// As a message.
    pub fn to_proto(&self) -> proto::SignedManifest {
        proto::SignedManifest { manifest: self.bytes.clone(), signature: self.signature.clone() }
    }

    /// The manifest's id.
    pub fn id(&self) -> ManifestId {
        ManifestId::from_bytes(*blake3::hash(&self.bytes).as_bytes())
    }

    /// Checks size, signature, and then all it says.
    pub fn verify(&self, site_key: &VerifyingKey) -> Result<Manifest, ManifestError> {
        if self.bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge(self.bytes.len()));
        }
        site_key.verify(DOMAIN, &[&self.bytes], &self.signature)?;
        let message = proto::Manifest::decode(self.bytes.clone()).map_err(|_| ManifestError::Malformed)?;
        Manifest::from_proto(message, self.id())
    }
}

/// A manifest that was checked.
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

impl Manifest {
    fn from_proto(message: proto::Manifest, id: ManifestId) -> Result<Self, ManifestError> {
        let layout = ChunkLayout::new(message.length, message.chunk_size)?;
        if message.chunk_names.len() as u64 != u64::from(layout.chunks()) * NAME_LEN as u64 {
            let named = message.chunk_names.len() / NAME_LEN;
            return Err(ManifestError::ChunkCount { named, needed: layout.chunks() });
        }
        check_media_type(&message.media_type)?;
        Ok(Self {
            id,
            site: message.site.parse()?,
            path: ObjectPath::from_decoded(&message.path)?,
            version_id: message.version_id.as_ref().try_into().map_err(|_| ManifestError::Id)?,
            media_type: message.media_type,
            layout,
            names: message.chunk_names,
            key_id: message.key_id.as_ref().try_into().map_err(|_| ManifestError::Id)?,
            created_ms: message.created_ms,
            fields: checked_fields(message.fields)?,
        })
    }

    /// BLAKE3 of its bytes.
    pub fn id(&self) -> ManifestId {
        self.id
    }

    /// Name of the site.
    pub fn site(&self) -> &SiteName {
        &self.site
    }

    /// Path of the object.
    pub fn path(&self) -> &ObjectPath {
        &self.path
    }

    /// The version.
    pub fn version_id(&self) -> VersionId {
        self.version_id
    }

    /// Content-Type.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// Length and chunk size.
    pub fn layout(&self) -> ChunkLayout {
        self.layout
    }

    /// Names the content key.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// Milliseconds since the Unix epoch.
    pub fn created_ms(&self) -> u64 {
        self.created_ms
    }

    /// Response fields, sorted, names in lower case.
    pub fn fields(&self) -> &[(String, String)] {
        &self.fields
    }

    /// The name of a chunk, if the version has it.
    pub fn name(&self, chunk: ChunkIndex) -> Option<ChunkName> {
        let start = (chunk.get() as usize).checked_mul(NAME_LEN)?;
        ChunkName::try_from(self.names.get(start..start.checked_add(NAME_LEN)?)?).ok()
    }

    /// Whether `sealed` is the ciphertext of this chunk.
    pub fn verify_chunk(&self, chunk: ChunkIndex, sealed: &[u8]) -> Result<(), ChunkError> {
        let (Some(name), Some(expected)) = (self.name(chunk), self.layout.sealed_len(chunk)) else {
            return Err(ChunkError::NoSuchChunk(chunk));
        };
        debug_assert!(expected > TAG_LEN);
        if sealed.len() != expected as usize {
            return Err(ChunkError::Length { expected, found: sealed.len() });
        }
        if ChunkName::of(sealed) != name {
            return Err(ChunkError::Name);
        }
        Ok(())
    }
}

fn check_media_type(text: &str) -> Result<(), ManifestError> {
    let sendable = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if sendable && text.contains('/') && text.len() <= MAX_MEDIA_TYPE {
        Ok(())
    } else {
        Err(ManifestError::Field("content-type".into()))
    }
}

fn checked_fields(fields: Vec<proto::Field>) -> Result<Vec<(String, String)>, ManifestError> {
    let total: usize = fields.iter().map(|field| field.name.len() + field.value.len()).sum();
    if fields.len() > MAX_FIELDS || total > MAX_FIELD_BYTES {
        return Err(ManifestError::Field("(too many)".into()));
    }
    fields.into_iter().map(checked_field).collect()
}

fn checked_field(field: proto::Field) -> Result<(String, String), ManifestError> {
    let token = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
    let name_ok = !field.name.is_empty() && field.name.bytes().all(token);
    // Field values may carry UTF-8 (obs-text, RFC 9110, section 5.5), but nothing that ends a line.
    let value_ok = !field.value.chars().any(|c| c.is_control() && c != '\t');
    if name_ok && value_ok { Ok((field.name, field.value)) } else { Err(ManifestError::Field(field.name)) }
}
