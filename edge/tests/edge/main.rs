//! An edge as its clients see it: real sockets, real TLS, real certificates.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![expect(unreachable_pub, reason = "the modules of a test have no outside")]

mod agents;
mod delivery;
mod doors;
mod network;
mod pulled;
mod purges;
mod readers;
mod relay;
mod upstreams;
