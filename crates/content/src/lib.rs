//! What a version of an object is: how its bytes are cut into chunks, encrypted, named, described by a signed manifest, and
//! checked by anyone who receives them.
//!
//! Pure: no clock, no randomness, no socket. It does not decide where chunks lie or who may have them. Start with [`Manifest`]
//! and [`ChunkLayout`].

mod id;
mod layout;
mod manifest;
mod path;
mod seal;
mod set;
mod sign;

/// The protobuf messages (`umbel.content.v1`).
#[allow(missing_debug_implementations, unreachable_pub, clippy::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/umbel.content.v1.rs"));
}

pub use id::{ChunkIndex, ChunkName, IdError, KeyId, ManifestId, VersionId};
pub use layout::{ChunkLayout, LayoutError, MAX_CHUNK_SIZE, MIN_CHUNK_SIZE, Slice, TAG_LEN};
pub use manifest::{ChunkError, Draft, MAX_MANIFEST_BYTES, Manifest, ManifestError, SignedManifest};
pub use path::{ObjectPath, PathError, SiteName, SiteNameError};
pub use seal::{ContentKey, OpenError, Opener, Sealer, open, seal};
pub use set::{ChunkSet, ChunkSetError};
pub use sign::{SignatureError, SigningKey, VerifyingKey};
