//! What every server of Umbel does alike: read its configuration, log, listen with TLS, say how it is, stop in order,
//! join the installation and follow its configuration.
//!
//! It decides nothing about content, readers or money. Start with [`config`] for how a service is set
//! up, [`listen`] for how it takes connections and [`node`] for who it is among the others.

pub mod client;
pub mod config;
pub mod files;
pub mod follow;
mod framing;
pub mod installation;
pub mod listen;
pub mod node;
pub mod ops;
pub mod passing;
pub mod shutdown;
pub mod telemetry;
pub mod tls;

/// Seconds since the Unix epoch, now.
pub fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
