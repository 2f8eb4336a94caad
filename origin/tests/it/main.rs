//! A whole origin in this process, with certificates and an installation made by hand, driven by its real clients.

#![expect(clippy::unwrap_used, reason = "a test fails by it, helpers included")]

mod awscli;
mod broken;
mod edges;
mod labels;
mod objects;
mod others;
mod pull;
mod refusals;
mod shared;
mod shield;
mod world;
