//! What is left when the origin fails (RFC 9111, section 4.2.4; RFC 5861, section 4).

use std::time::{Duration, SystemTime};

use http::{StatusCode, request};

use crate::{Freshness, Policy, RequestDirectives, Stored};

/// How the next server failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// It could not be reached, or its answer was none: cut off, garbage, too late.
    Unreachable,
    /// It answered with this status.
    Status(StatusCode),
}

/// Whether a stored response that was to be validated may be served because that failed; if so, its age and lifetime. Otherwise the client
/// gets the error: the origin's, or 502 or 504.
#[must_use]
pub fn on_error(
    stored: &Stored,
    request: &request::Parts,
    failure: Failure,
    policy: &Policy,
    now: SystemTime,
) -> Option<Freshness> {
    let asked = RequestDirectives::of(&request.headers);
    let asked = if policy.request_directives { asked } else { RequestDirectives::default() };
    let by_response = match failure {
        Failure::Unreachable => stored.terms.if_unreachable,
        Failure::Status(status) if is_error(status) => stored.terms.if_error,
        Failure::Status(_) => return None,
    };
    if stored.terms.no_cache || asked.no_cache {
        return None;
    }
    let freshness = stored.freshness(now);
    let by_request = Duration::from_secs(asked.stale_if_error.unwrap_or(0).into());
    match freshness.stale_for() {
        None => Some(freshness),
        Some(_) if stored.terms.never_stale => None,
        Some(late) => (late < by_response.max(by_request)).then_some(freshness),
    }
}

/// RFC 5861, section 4.
fn is_error(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}
