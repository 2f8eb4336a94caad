//! What a GET or HEAD of a representation comes to: preconditions (RFC 9110, section 13) and ranges (section 14). Pure.

use std::{
    ops::Range,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, Method, header};

/// More ranges than this in one request are answered with the whole (RFC 9110, section 14.2).
const MAX_RANGES: usize = 32;

/// Longest `Range` field that is looked at.
const MAX_RANGE_FIELD: usize = 1024;

/// What is known of the object.
#[derive(Debug, Clone)]
pub(super) struct Representation {
    /// With quotes; strong.
    pub(super) etag: String,
    /// Whole seconds.
    pub(super) modified: SystemTime,
    pub(super) length: u64,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// 200 with everything.
    Whole,
    /// 206 with these bytes; more than one make a multipart body.
    Partial(Vec<Range<u64>>),
    /// 304.
    NotModified,
    /// 412.
    PreconditionFailed,
    /// 416.
    Unsatisfiable,
}

/// Decides in the order of RFC 9110, section 13.2.2.
pub(super) fn decide(method: &Method, headers: &HeaderMap, object: &Representation) -> Plan {
    if let Some(plan) = preconditions(headers, object) {
        return plan;
    }
    if method != Method::GET || !range_applies(headers, object) {
        return Plan::Whole;
    }
    match headers.get(header::RANGE).and_then(|field| field.to_str().ok()) {
        Some(field) => ranges(field, object.length),
        None => Plan::Whole,
    }
}

fn preconditions(headers: &HeaderMap, object: &Representation) -> Option<Plan> {
    if headers.contains_key(header::IF_MATCH) {
        if !any_tag(headers, header::IF_MATCH, |tag| tag == object.etag) {
            return Some(Plan::PreconditionFailed);
        }
    } else if date(headers, header::IF_UNMODIFIED_SINCE).is_some_and(|since| object.modified > since) {
        return Some(Plan::PreconditionFailed);
    }
    if headers.contains_key(header::IF_NONE_MATCH) {
        let weakly = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag) == object.etag;
        return any_tag(headers, header::IF_NONE_MATCH, weakly).then_some(Plan::NotModified);
    }
    let since = date(headers, header::IF_MODIFIED_SINCE);
    since.is_some_and(|since| object.modified <= since).then_some(Plan::NotModified)
}

fn any_tag(headers: &HeaderMap, name: header::HeaderName, matches: impl Fn(&str) -> bool) -> bool {
    let fields = headers.get_all(name).iter().filter_map(|field| field.to_str().ok());
    fields.flat_map(|field| field.split(',')).map(str::trim).any(|tag| tag == "*" || matches(tag))
}

fn date(headers: &HeaderMap, name: header::HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

/// `If-Range`: the ranges count only for the version that the client has.
fn range_applies(headers: &HeaderMap, object: &Representation) -> bool {
    let Some(field) = headers.get(header::IF_RANGE) else { return true };
    let Ok(text) = field.to_str() else { return false };
    if text.starts_with('"') || text.starts_with("W/") {
        return text == object.etag;
    }
    // A date is strong enough only if it is exact.
    httpdate::parse_http_date(text).is_ok_and(|date| date == object.modified)
}

fn ranges(field: &str, length: u64) -> Plan {
    let Some(specs) = field.trim().strip_prefix("bytes=").filter(|_| field.len() <= MAX_RANGE_FIELD) else {
        return Plan::Whole;
    };
    let specs: Vec<&str> = specs.split(',').map(str::trim).filter(|spec| !spec.is_empty()).collect();
    let Some(parsed) = specs.iter().map(|spec| range(spec, length)).collect::<Option<Vec<_>>>() else {
        return Plan::Whole;
    };
    let wanted: Vec<Range<u64>> = parsed.into_iter().flatten().collect();
    let total: u64 = wanted.iter().map(|range| range.end - range.start).sum();
    match wanted.len() {
        0 if specs.is_empty() => Plan::Whole,
        0 => Plan::Unsatisfiable,
        1 => Plan::Partial(wanted),
        // Many or overlapping ranges cost more than the whole.
        count if count > MAX_RANGES || total > length => Plan::Whole,
        _ => Plan::Partial(wanted),
    }
}

/// None: not a range at all. None inside: beyond the end.
fn range(spec: &str, length: u64) -> Option<Option<Range<u64>>> {
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        let suffix = number(last)?;
        return Some((suffix > 0 && length > 0).then(|| length.saturating_sub(suffix)..length));
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    Some((first < length).then(|| first..last.saturating_add(1).min(length)))
}

/// Digits only; what is too long is beyond any end.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Milliseconds since the Unix epoch, cut to the seconds that HTTP dates have.
pub(super) fn seconds(milliseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(milliseconds / 1000)
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "a list of ranges is meant")]
mod tests {
    use super::*;

    fn check(length: u64, fields: &[(header::HeaderName, &str)], expected: Plan) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value.parse().unwrap());
        }
        let object = Representation { etag: "\"v\"".into(), modified: seconds(1_000_000_500), length };
        assert_eq!(decide(&Method::GET, &headers, &object), expected, "{fields:?}");
    }

    /// 1,000,000 seconds after the epoch: when the object was made.
    const MADE: &str = "Mon, 12 Jan 1970 13:46:40 GMT";
    const EARLIER: &str = "Mon, 12 Jan 1970 13:46:39 GMT";

    #[test]
    fn range_fields() {
        use Plan::{Partial, Unsatisfiable, Whole};
        for (field, expected) in [
            ("bytes=0-0", Partial(vec![0..1])),
            ("bytes=5-", Partial(vec![5..10])),
            ("bytes=-3", Partial(vec![7..10])),
            ("bytes=-30", Partial(vec![0..10])),
            ("bytes=0-99999999999999999999999", Partial(vec![0..10])),
            ("bytes=0-1, 4-5", Partial(vec![0..2, 4..6])),
            ("bytes=0-1,20-", Partial(vec![0..2])),
            ("bytes=10-", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=3-2", Whole),
            ("bytes=", Whole),
            ("bytes=a-b", Whole),
            ("items=0-1", Whole),
            ("bytes=0-,0-", Whole),
        ] {
            check(10, &[(header::RANGE, field)], expected);
        }
        check(0, &[(header::RANGE, "bytes=0-")], Unsatisfiable);
    }

    #[test]
    fn preconditions_and_ranges() {
        use Plan::{NotModified, Partial, PreconditionFailed, Whole};
        let range = (header::RANGE, "bytes=0-1");
        check(10, &[(header::IF_NONE_MATCH, "\"v\"")], NotModified);
        check(10, &[(header::IF_NONE_MATCH, "\"a\", W/\"v\"")], NotModified);
        check(10, &[(header::IF_NONE_MATCH, "*")], NotModified);
        check(10, &[(header::IF_NONE_MATCH, "\"a\""), (header::IF_MODIFIED_SINCE, MADE)], Whole);
        check(10, &[(header::IF_MODIFIED_SINCE, MADE)], NotModified);
        check(10, &[(header::IF_MODIFIED_SINCE, EARLIER)], Whole);
        check(10, &[(header::IF_MODIFIED_SINCE, "yesterday")], Whole);
        check(10, &[(header::IF_MATCH, "\"a\"")], PreconditionFailed);
        check(10, &[(header::IF_MATCH, "\"v\""), range.clone()], Partial(vec![0..2]));
        check(10, &[(header::IF_UNMODIFIED_SINCE, EARLIER)], PreconditionFailed);
        check(10, &[(header::IF_RANGE, "\"v\""), range.clone()], Partial(vec![0..2]));
        check(10, &[(header::IF_RANGE, "\"a\""), range.clone()], Whole);
        check(10, &[(header::IF_RANGE, "W/\"v\""), range.clone()], Whole);
        check(10, &[(header::IF_RANGE, MADE), range.clone()], Partial(vec![0..2]));
        check(10, &[(header::IF_RANGE, EARLIER), range], Whole);
    }
}
