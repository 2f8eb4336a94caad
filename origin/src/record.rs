//! What the store keeps of one version beside its chunks: a head that answers S3 clients, and the signed manifest with the
//! wrapped content key that answers edges. The head comes first, so that a listing reads only that.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use umbel_content::{ChunkLayout, SignedManifest, VersionId};

use crate::store::now_ms;

/// First bytes of every record; the digit is the format's number.
const MAGIC: &[u8; 8] = b"UMBELR1\n";

/// Bytes that are read at once for a head; hardly any is longer.
pub(crate) const HEAD_READ: u64 = 4 * 1024;

/// Longest head that is believed.
const MAX_HEAD: usize = 64 * 1024;

/// A day.
const LOOK_AGAIN_MS: u64 = 24 * 3600 * 1000;

/// What S3 clients ask of an object, and what finds and opens its chunks.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Head {
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) version_id: Bytes,
    /// The content key under the site's wrapping key.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) wrapped_key: Bytes,
    /// The S3 key.
    #[prost(string, tag = "3")]
    pub(crate) key: String,
    /// Without quotes.
    #[prost(string, tag = "4")]
    pub(crate) etag: String,
    /// Plaintext bytes.
    #[prost(uint64, tag = "5")]
    pub(crate) length: u64,
    /// Plaintext bytes of a chunk.
    #[prost(uint32, tag = "6")]
    pub(crate) chunk_size: u32,
    /// Milliseconds since the Unix epoch.
    #[prost(uint64, tag = "7")]
    pub(crate) modified_ms: u64,
    #[prost(string, tag = "8")]
    pub(crate) media_type: String,
    /// Response fields by name in lower case.
    #[prost(btree_map = "string, string", tag = "9")]
    pub(crate) fields: BTreeMap<String, String>,
    /// S3's user metadata.
    #[prost(btree_map = "string, string", tag = "10")]
    pub(crate) metadata: BTreeMap<String, String>,
    /// Of what was pulled: until when it was fresh when it came, in milliseconds since the Unix epoch. 0: it was uploaded.
    #[prost(uint64, tag = "11")]
    pub(crate) expires_ms: u64,
}

/// A head and its manifest.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    pub(crate) head: Head,
    pub(crate) manifest: SignedManifest,
}

/// Not a record, or not a whole one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a whole version record")]
pub struct BadRecord;

/// The beginning of a record.
#[derive(Debug, PartialEq)]
pub(crate) enum Beginning {
    /// A whole head, and where the manifest begins.
    Whole(Box<Head>, usize),
    /// So many bytes are needed.
    Needs(usize),
}

impl Record {
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_slice(MAGIC);
        bytes.put_u32(u32::try_from(self.head.encoded_len()).unwrap_or(u32::MAX));
        bytes.put_slice(&self.head.encode_to_vec());
        bytes.put_slice(&self.manifest.to_proto().encode_to_vec());
        bytes.freeze()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, BadRecord> {
        let Beginning::Whole(head, end) = Head::read(bytes)? else { return Err(BadRecord) };
        let message = umbel_content::proto::SignedManifest::decode(bytes.slice(end..)).map_err(|_| BadRecord)?;
        Ok(Self { head: *head, manifest: SignedManifest::from_proto(message).map_err(|_| BadRecord)? })
    }
}

impl Head {
    /// Reads the head from a record's first bytes.
    pub(crate) fn read(bytes: &Bytes) -> Result<Beginning, BadRecord> {
        let length = bytes.strip_prefix(MAGIC).and_then(|rest| rest.first_chunk::<4>()).ok_or(BadRecord)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| BadRecord)?;
        let (start, end) = (MAGIC.len() + 4, MAGIC.len() + 4 + length);
        if length > MAX_HEAD {
            return Err(BadRecord);
        }
        if bytes.len() < end {
            return Ok(Beginning::Needs(end));
        }
        Self::decode(bytes.slice(start..end)).map(|head| Beginning::Whole(Box::new(head), end)).map_err(|_| BadRecord)
    }

    /// When the sweep should look at a version that was pulled: when it has expired, and not in a year if that is in a year, as
    /// it may be replaced before.
    pub(crate) fn next_look(&self) -> u64 {
        self.expires_ms.min(now_ms().saturating_add(LOOK_AGAIN_MS))
    }

    /// The version's id.
    pub(crate) fn version(&self) -> Result<VersionId, BadRecord> {
        VersionId::try_from(self.version_id.as_ref()).map_err(|_| BadRecord)
    }

    /// How the version is cut.
    pub(crate) fn layout(&self) -> Result<ChunkLayout, BadRecord> {
        ChunkLayout::new(self.length, self.chunk_size).map_err(|_| BadRecord)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_head_is_read_from_a_records_beginning() {
        let head = Head { key: "a/b".into(), length: 7, chunk_size: 65536, ..Head::default() };
        let manifest = SignedManifest::from_proto(umbel_content::proto::SignedManifest {
            manifest: Bytes::from(vec![7; 9000]),
            signature: Bytes::from(vec![1; 64]),
        })
        .unwrap();
        let record = Record { head: head.clone(), manifest };
        let bytes = record.encode();
        assert_eq!(Record::decode(&bytes), Ok(record));
        let Ok(Beginning::Whole(read, end)) = Head::read(&bytes.slice(..4096)) else { panic!() };
        assert_eq!(*read, head);
        assert_eq!(Head::read(&bytes.slice(..end - 1)), Ok(Beginning::Needs(end)));
        assert_eq!(Head::read(&Bytes::from_static(b"UMBELR1\n\xff\xff\xff\xff")), Err(BadRecord));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::decode(&Bytes::from([MAGIC.as_slice(), &bytes].concat()));
        }
    }
}
