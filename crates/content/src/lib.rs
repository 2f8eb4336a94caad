//! What a version of an object *is*: how its bytes are cut into chunks, how a chunk is encrypted and named, what its
//! signed manifest says, which chunks a byte range touches, and which paths and site names exist at all.
//!
//! Everything here is a pure function of its arguments: random bytes and times are passed in, nothing is read or sent. The
//! crate does not decide where chunks are kept, who may read them or from whom they come; that is the work of the
//! services and of `umbel-swarm`.
//!
//! Start at [`ChunkLayout`], go on to [`Sealer`] and [`Opener`], and end at [`Draft::sign`] and [`SignedManifest::verify`].
//! `vectors/README.md` describes the same for other languages.

mod chunk_set;
mod host;
mod ids;
mod key;
mod layout;
mod manifest;
mod path;
mod seal;
mod sign;
mod site;

pub use chunk_set::{BitmapError, ChunkSet};
pub use host::host_name;
pub use ids::{ChunkIndex, ChunkName, IdError, KeyId, ManifestId, VersionId};
pub use key::ContentKey;
pub use layout::{ChunkLayout, LayoutError, MAX_CHUNK_SIZE, MAX_CHUNKS, MIN_CHUNK_SIZE, Slice, TARGET_CHUNKS};
pub use manifest::{
    ChunkError, Draft, MANIFEST_DOMAIN, MAX_FIELD_BYTES, MAX_FIELDS, MAX_MANIFEST_BYTES, MAX_MEDIA_TYPE_BYTES,
    Manifest, ManifestError, SignedManifest,
};
pub use path::{MAX_PATH_BYTES, MAX_URI_BYTES, ObjectPath, PathError, RESERVED_PREFIX};
pub use seal::{OpenError, Opener, Sealer, TAG_LEN, open, seal};
pub use sign::{SIGNATURE_LEN, SignatureError, SigningKey, VerifyingKey};
pub use site::{SiteName, SiteNameError};

/// The protobuf messages of `umbel.content.v1`, as generated. Nothing in them has been checked: see [`SignedManifest`].
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/umbel.content.v1.rs"));
}
