//! How a site's answers leave the edges, as its provider wants it: compression, HTTPS and HSTS.
//!
//! A provider writes a [`Document`]. The control plane takes it in if [`Rules::of`] finds nothing wrong with it, and edges get it as it was
//! written and make the same [`Rules`] of it. What the rules say about a request or an answer is decided here; that it is done is the
//! edge's work. No clock, no socket, no body. `docs/delivery.md` is for providers.

mod compression;
mod document;
mod https;
mod mistakes;
mod rules;

pub use document::{Document, proto};
pub use https::{Https, location};
pub use mistakes::{Invalid, Mistake};
pub use rules::Rules;
