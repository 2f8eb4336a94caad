//! The origin: takes content in through an S3 API, seals it into versions, keeps them in an object store and gives
//! manifests, keys and ciphertext to edges.
//!
//! It decides what an S3 client may do with a bucket (a site) and when a version is current; it does not decide who may read
//! what, and serves no reader. All its state is the [`Store`], which any number of origins share. Start with `version.rs` (a body becomes
//! a version) and `store.rs` (where things lie); `s3.rs` and `edges.rs` are its two faces.

mod config;
mod edges;
mod intake;
mod keys;
mod meter;
mod pull;
mod record;
mod s3;
mod serve;
mod site;
mod store;
mod sweep;
mod uploads;
mod vault;
mod version;

pub use config::Config;
pub use serve::{Identity, Origin, run};
pub use store::{S3Access, Store, StoreError, StoreUrl, StoreUrlError};
