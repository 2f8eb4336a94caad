//! What a shared HTTP cache decides: what may be stored and answered from store (RFC 9111, RFC 5861, RFC 8246, RFC 9213), what the answer is
//! (preconditions and ranges, RFC 9110), and how it tells what it did (`Cache-Status`, RFC 9211).
//!
//! Everything here is a pure function of request, response, stored metadata, policy and time: no clock is read, nothing is sent, no body is
//! touched. Where bodies lie, who may read them, and who waits for whom is for the edge to do.
//!
//! Content that is uploaded, and so immutable, is answered by [`decide()`]. For content pulled from a server, follow a request: [`reuse()`]
//! looks at what is stored; a response that comes goes through [`storable()`], or [`updated_by_304()`] and [`updated_by_head()`]; a failure
//! through [`on_error()`], and [`shared_error()`] for those who wait; a change through [`invalidates()`]; and what is to be sent comes from [`answer()`]. Whether it is encoded on its
//! way out is [`Compression::encoding`]. `docs/design/http-caching.md`
//! argues the decisions.

mod age;
mod answer;
mod cache_control;
mod cache_status;
mod collapse;
mod conditions;
mod content_coding;
mod date;
mod decide;
mod freshness;
mod hop_by_hop;
mod invalidate;
mod list;
mod multipart;
mod partial;
mod policy;
mod preconditions;
mod purge;
mod range;
mod reuse;
mod revalidate;
mod stale;
mod store;
mod stored;
mod targeted;
mod uri;
mod validators;
mod vary;

pub use age::Exchange;
pub use answer::{answer, as_asked};
pub use cache_control::{MAX_SECONDS, RequestDirectives, ResponseDirectives, Scope};
pub use cache_status::{CacheStatus, Forward};
pub use collapse::{SharedError, shared_error, shares_error};
pub use content_coding::{
    Coding, Compression, Encoding, MediaTypes, MediaTypesError, UnknownCoding, encode_fields, plain_conditions,
    preferred, settled, tag_of_304, vary_on,
};
pub use date::{http_date, parse_http_date};
pub use decide::{Body, Plan, Representation, decide};
pub use freshness::Freshness;
pub use hop_by_hop::{is_hop_by_hop, strip_hop_by_hop};
pub use invalidate::invalidates;
pub use multipart::{Boundary, BoundaryError, MultipartFraming, Part as MultipartPart};
pub use partial::{Piece, assemble, parse_content_range};
pub use policy::{Heuristic, Policy, SetCookie};
pub use preconditions::{Precondition, evaluate};
pub use purge::{CACHE_TAG, Entry, MAX_KEY, MAX_KEYS, Purge, Purges, SURROGATE_KEY, Stamp, Standing, SurrogateKeys};
pub use range::{MAX_RANGES, RangeOutcome, content_range, select};
pub use reuse::{Content, Reuse, StaleReason, content, reuse};
pub use revalidate::{Conditional, Fate, Updated, updated_by_304, updated_by_head};
pub use stale::{Failure, on_error};
pub use store::{Uncacheable, replaces, storable};
pub use stored::{DecodeError, MAX_ENCODED, Part, Stored, TooLarge, withheld_fields};
pub use uri::normal_target;
pub use validators::{ETag, ETagError, Validators};
pub use vary::{accept_encoding, hash_selecting};
