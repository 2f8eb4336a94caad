//! The peer agent: downloads versions from an edge and many peers at once, verifies every chunk, serves what it holds within the
//! user's limits, and keeps only ciphertext on disk. One library with three faces: [`Agent`] inside a program, [`service`] in the
//! background behind a local API, and [`client`] to get content through whichever of the two there is.
//!
//! It decides nothing about who may read what (edges do) nor which chunk comes from whom (`umbel-swarm` does). Start with
//! `agent.rs`, then follow a download: `open.rs`, `download.rs`, `edge.rs` and `peer.rs`, `store.rs`, `receipts.rs`; the other
//! side of a transfer is `serve.rs`.

mod agent;
pub mod client;
mod config;
mod content;
mod destination;
mod download;
mod edge;
mod edges;
mod endpoint;
mod enroll;
mod fleet;
mod frames;
mod identity;
mod limits;
mod open;
mod over_https;
mod peer;
mod presence;
mod problem;
mod progress;
mod receipts;
mod serve;
pub mod service;
mod store;

pub use agent::{Agent, GetError, GetRequest, Priority, StartError, Status};
pub use config::{Bytes, Config, ENVIRONMENT_PREFIX, NotBytes};
pub use content::Download;
pub use destination::Destination;
pub use edge::EdgeError;
pub use endpoint::EndpointError;
pub use enroll::{EnrolError, Enrolment, Prompt, enroll};
pub use identity::{Identity, IdentityError};
pub use open::OpenError;
pub use problem::Problem;
pub use progress::{Progress, SourceRow, State};
pub use store::StoreError;

/// An error and its causes in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some libraries repeat the cause in their own text.
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
