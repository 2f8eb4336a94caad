//! Conditional requests answered from a stored response (RFC 9111, section 4.3.2).

use std::time::Duration;

use http::header::{HeaderMap, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE};
use http::{HeaderName, HeaderValue, Method, request};

use crate::preconditions::only_date;
use crate::validators::{RequestTag, any_tag};
use crate::{Precondition, Stored, parse_http_date};

/// Fields by which a request depends on what the server has.
pub(crate) const CONDITIONS: [HeaderName; 5] =
    [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE];

/// What the conditions of a GET or HEAD come to for a stored response, in the order of RFC 9110, section 13.2.2.
///
/// [`Precondition::Failed`] is for the origin to say: what is stored may be fresh and yet not the newest. Conditions on responses that
/// bring no representation count for nothing (RFC 9110, section 13.2.1).
pub(crate) fn evaluate_stored(request: &request::Parts, stored: &Stored) -> Precondition {
    let headers = &request.headers;
    if !stored.status().is_success() {
        return Precondition::Proceed { range_applies: false };
    }
    if !origin_may_act(headers, stored) {
        return Precondition::Failed;
    }
    if client_is_current(headers, stored) {
        return Precondition::NotModified;
    }
    Precondition::Proceed { range_applies: request.method == Method::GET && range_applies(headers, stored) }
}

/// The request depends on the state of the origin, not of caches.
pub(crate) fn is_for_origin(headers: &HeaderMap) -> bool {
    headers.contains_key(IF_MATCH) || headers.contains_key(IF_UNMODIFIED_SINCE)
}

/// The request has conditions, or asks for a part.
pub(crate) fn is_plain(headers: &HeaderMap) -> bool {
    !headers.contains_key(RANGE) && !CONDITIONS.iter().any(|name| headers.contains_key(name))
}

fn origin_may_act(headers: &HeaderMap, stored: &Stored) -> bool {
    if headers.contains_key(IF_MATCH) {
        let ours = stored.etag().and_then(RequestTag::only);
        return any_tag(headers.get_all(IF_MATCH).iter(), |tag| ours.is_some_and(|ours| tag.is_strongly(&ours)))
            || has_star(headers, &IF_MATCH);
    }
    let Some(since) = only_date(headers, &IF_UNMODIFIED_SINCE) else { return true };
    stored.last_modified().is_some_and(|modified| modified <= since)
}

fn has_star(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(name).iter().any(|field| field.as_bytes().trim_ascii() == b"*")
}

fn client_is_current(headers: &HeaderMap, stored: &Stored) -> bool {
    if headers.contains_key(IF_NONE_MATCH) {
        return has_star(headers, &IF_NONE_MATCH) || has_tag(headers, stored);
    }
    let Some(since) = only_date(headers, &IF_MODIFIED_SINCE) else { return false };
    // Without Last-Modified the response is as new as its Date.
    stored.last_modified().unwrap_or_else(|| stored.date()) <= since
}

/// `If-None-Match` has the stored tag, compared weakly. A tag that is malformed on both sides, but the same, is the same.
fn has_tag(headers: &HeaderMap, stored: &Stored) -> bool {
    let Some(etag) = stored.etag() else { return false };
    let mut fields = headers.get_all(IF_NONE_MATCH).iter();
    match RequestTag::only(etag) {
        Some(ours) => any_tag(fields, |tag| tag.is_weakly(&ours)),
        None => fields.any(|field| field.as_bytes().trim_ascii() == etag.as_bytes().trim_ascii()),
    }
}

/// RFC 9110, section 13.1.5: a strong tag, or the exact date if that is strong.
fn range_applies(headers: &HeaderMap, stored: &Stored) -> bool {
    let mut fields = headers.get_all(IF_RANGE).iter();
    match (fields.next(), fields.next()) {
        (None, _) => true,
        (Some(condition), None) => is_validator_of(condition, stored),
        (Some(_), Some(_)) => false,
    }
}

fn is_validator_of(condition: &HeaderValue, stored: &Stored) -> bool {
    // What was made in the second of its date may have been made anew in it (RFC 9110, section 8.8.2.2).
    let is_strong =
        |modified| stored.date().duration_since(modified).is_ok_and(|since| since >= Duration::from_secs(1));
    match RequestTag::only(condition) {
        Some(tag) => stored.etag().and_then(RequestTag::only).is_some_and(|ours| tag.is_strongly(&ours)),
        None => parse_http_date(condition).is_some_and(|date| stored.last_modified() == Some(date) && is_strong(date)),
    }
}
