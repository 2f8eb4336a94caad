//! The control plane: accounts, sites and their policies, the certificate authority, memberships of agents, the fleet's
//! configuration, and usage. Postgres is its only state.
//!
//! It decides who belongs to the installation and what everyone is told about it. It is on no delivery path: origins and edges run
//! on the last configuration they saw and spool usage until this is back. Start with [`run`]; then `grpc` (what servers
//! call), `rest` (what `umbel admin` calls) and `oauth` (how agents get in), each of which is thin over
//! `nodes`, `changes`, `usage`, `accounts`, `sites` and `agents`, where the rules and the SQL are.
//!
//! [`cluster`] runs a private Postgres for `umbel demo` and for tests.

mod accounts;
mod agents;
pub mod api;
mod authority;
pub mod bootstrap;
mod changes;
pub mod cluster;
pub mod config;
pub mod database;
mod device_page;
mod error;
mod grpc;
mod metrics;
mod nodes;
mod oauth;
mod presence;
mod purges;
mod rest;
mod secrets;
mod serve;
mod sites;
mod state;
mod usage;

#[cfg(test)]
mod tests;

pub use config::Config;
pub use error::Error;
pub use serve::{Server, run};
pub use state::Lifetimes;
