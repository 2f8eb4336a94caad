//! An edge as its clients see it: real sockets, real TLS, real certificates.

#![allow(missing_docs, unreachable_pub)]

mod agents;
mod network;
mod readers;
