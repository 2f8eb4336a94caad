//! What the HTTP answer for an immutable representation is: preconditions and ranges (RFC 9110), freshness and age (RFC 9111), and
//! `Cache-Status` (RFC 9211).
//!
//! Everything here is a pure function of request, representation and time: no clock is read, nothing is sent. Where the
//! representation comes from, who may read it and how its bytes get out is for the edge to do.
//!
//! Start at [`decide()`], which plans a whole answer; the other modules are its stations in order.

mod cache_status;
mod date;
mod decide;
mod freshness;
mod multipart;
mod preconditions;
mod range;
mod validators;

pub use cache_status::{CacheStatus, Forward};
pub use date::{http_date, parse_http_date};
pub use decide::{Body, Plan, Representation, decide};
pub use freshness::Freshness;
pub use multipart::{Boundary, BoundaryError, MultipartFraming, Part};
pub use preconditions::{Precondition, evaluate};
pub use range::{MAX_RANGES, RangeOutcome, content_range, select};
pub use validators::{ETag, ETagError, Validators};
