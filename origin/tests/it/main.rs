//! A whole origin in this process, with certificates and an installation made by hand, driven by its real clients.

mod awscli;
mod broken;
mod edges;
mod objects;
mod others;
mod world;
