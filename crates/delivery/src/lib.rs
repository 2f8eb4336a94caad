//! How a site's answers leave the edges, as its provider wants it: compression, HTTPS and HSTS, CORS, rate limits, rules for
//! header fields, error pages.
//!
//! A provider writes a [`Document`]. The control plane takes it in if [`Rules::of`] finds nothing wrong with it, and edges get it as it was
//! written and make the same [`Rules`] of it. What the rules say about a request or an answer is decided here; that it is done is the
//! edge's work. No clock, no socket, no body. `docs/delivery.md` is for providers.

mod compression;
mod cors;
mod document;
mod headers;
mod https;
mod limits;
mod mistakes;
mod pages;
mod rules;

pub use cors::{Cors, Foreign};
pub use document::{Document, proto};
pub use headers::HeaderRules;
pub use https::{Https, location};
pub use limits::{Limits, Rate, network};
pub use mistakes::{Invalid, Mistake};
pub use pages::{ErrorPages, Page};
pub use rules::Rules;
