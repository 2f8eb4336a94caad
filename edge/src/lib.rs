//! The edge: answers HTTP readers as a shared cache and agents as their super peer, fills what it does not have, and meters
//! what it delivers.
//!
//! It decides who may read what (`access`), which version is current (`lookup`), where bytes come from (`fill`) and whom an
//! agent meets (`petal` around `umbel_swarm`). It does not decide what a version is (`umbel_content`), HTTP semantics
//! (`umbel_http_cache`) or prices. The modules are named after the stations of a request: start with `listen`, follow `route`,
//! `site`, `access`, `lookup`, `fill`, `respond`, `meter`.

mod access;
mod access_log;
mod agents;
mod cache;
mod certificates;
mod config;
mod core;
mod deliver;
mod edge;
mod fill;
mod fleet;
mod flights;
mod internal;
mod listen;
mod lookup;
mod meter;
mod metrics;
mod petal;
mod plaintext;
mod refusal;
mod relay;
mod reload;
mod respond;
mod route;
mod run;
mod site;
mod spool;
mod uplink;
mod view;

pub use access_log::{AccessLogFormat, AccessLogTarget};
pub use certificates::{Described, look as look_at_certificates};
pub use config::{Config, LIVE, Limits};
pub use edge::{Edge, Identity, Ports};
pub use metrics::LARGE_OBJECT;
pub use reload::Reloaded;
pub use run::{Reread, run};
