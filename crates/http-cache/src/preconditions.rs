//! Conditional requests (RFC 9110, section 13).

use std::time::SystemTime;

use http::header::{HeaderMap, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE};
use http::{HeaderValue, Method};

use crate::Validators;
use crate::date::parse_http_date;
use crate::validators::{RequestTag, any_tag};

/// What the conditions of a request come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// Do what the method says.
    Proceed {
        /// A `Range` field, if there is one, counts: `If-Range` is missing or holds.
        range_applies: bool,
    },
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// Evaluates the conditions in the order of RFC 9110, section 13.2.2, for a representation that exists.
#[must_use]
pub fn evaluate(method: &Method, headers: &HeaderMap, validators: &Validators) -> Precondition {
    if !may_act(headers, validators) {
        return Precondition::Failed;
    }
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match (client_is_current(reads, headers, validators), reads) {
        (true, true) => Precondition::NotModified,
        (true, false) => Precondition::Failed,
        (false, _) => Precondition::Proceed { range_applies: range_applies(headers, validators) },
    }
}

/// Steps 1 and 2: `If-Match`, or else `If-Unmodified-Since`.
fn may_act(headers: &HeaderMap, validators: &Validators) -> bool {
    if headers.contains_key(IF_MATCH) {
        return any_tag(headers.get_all(IF_MATCH).iter(), |tag| tag.matches_strongly(validators.etag()));
    }
    match (only_date(headers, &IF_UNMODIFIED_SINCE), validators.last_modified()) {
        (Some(since), Some(modified)) => modified <= since,
        _ => true,
    }
}

/// Steps 3 and 4: `If-None-Match`, or else, where something is read, `If-Modified-Since`.
fn client_is_current(reads: bool, headers: &HeaderMap, validators: &Validators) -> bool {
    if headers.contains_key(IF_NONE_MATCH) {
        return any_tag(headers.get_all(IF_NONE_MATCH).iter(), |tag| tag.matches_weakly(validators.etag()));
    }
    match (only_date(headers, &IF_MODIFIED_SINCE), validators.last_modified()) {
        (Some(since), Some(modified)) => reads && modified <= since,
        _ => false,
    }
}

/// Step 5: a tag must match strongly, a date exactly (RFC 9110, section 13.1.5).
fn range_applies(headers: &HeaderMap, validators: &Validators) -> bool {
    let Some(condition) = headers.get(IF_RANGE) else {
        return true;
    };
    if headers.get_all(IF_RANGE).iter().count() > 1 {
        return false;
    }
    match RequestTag::read(condition.as_bytes().trim_ascii()) {
        Some((tag, rest)) => rest.is_empty() && tag.matches_strongly(validators.etag()),
        None => is_date_of(condition, validators),
    }
}

fn is_date_of(condition: &HeaderValue, validators: &Validators) -> bool {
    let date = parse_http_date(condition);
    date.is_some() && date == validators.last_modified()
}

/// The date in a field, if there is one such field and it holds a date. Otherwise its condition is to be ignored.
pub(crate) fn only_date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut fields = headers.get_all(name).iter();
    match (fields.next(), fields.next()) {
        (Some(field), None) => parse_http_date(field),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;
    use crate::ETag;

    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn validators() -> Validators {
        let modified = UNIX_EPOCH + Duration::from_millis(784_111_777_654);
        Validators::new(ETag::strong("xyzzy").unwrap(), Some(modified))
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[track_caller]
    fn check(method: &Method, fields: &[(&'static str, &'static str)], expected: Precondition) {
        assert_eq!(evaluate(method, &headers(fields), &validators()), expected, "{method} {fields:?}");
    }

    const WITH_RANGE: Precondition = Precondition::Proceed { range_applies: true };
    const WITHOUT_RANGE: Precondition = Precondition::Proceed { range_applies: false };

    #[test]
    fn each_condition() {
        use Precondition::{Failed, NotModified};
        let (get, head, put) = (&Method::GET, &Method::HEAD, &Method::PUT);
        check(get, &[], WITH_RANGE);
        check(get, &[("if-match", "\"xyzzy\"")], WITH_RANGE);
        check(get, &[("if-match", "*")], WITH_RANGE);
        check(get, &[("if-match", "W/\"xyzzy\"")], Failed);
        check(get, &[("if-match", "\"other\"")], Failed);
        check(get, &[("if-match", "\"other\""), ("if-match", "\"xyzzy\"")], WITH_RANGE);
        check(get, &[("if-match", "xyzzy")], Failed);
        check(get, &[("if-unmodified-since", EARLIER)], Failed);
        check(get, &[("if-unmodified-since", THEN)], WITH_RANGE);
        check(get, &[("if-unmodified-since", LATER)], WITH_RANGE);
        check(get, &[("if-unmodified-since", "yesterday")], WITH_RANGE);
        check(get, &[("if-unmodified-since", EARLIER), ("if-unmodified-since", EARLIER)], WITH_RANGE);
        check(get, &[("if-none-match", "\"xyzzy\"")], NotModified);
        check(get, &[("if-none-match", "W/\"xyzzy\"")], NotModified);
        check(get, &[("if-none-match", "\"a\", \"xyzzy\"")], NotModified);
        check(get, &[("if-none-match", "*")], NotModified);
        check(head, &[("if-none-match", "*")], NotModified);
        check(put, &[("if-none-match", "*")], Failed);
        check(get, &[("if-none-match", "\"other\"")], WITH_RANGE);
        check(get, &[("if-none-match", "xyzzy")], WITH_RANGE);
        check(get, &[("if-modified-since", EARLIER)], WITH_RANGE);
        check(get, &[("if-modified-since", THEN)], NotModified);
        check(get, &[("if-modified-since", "Sunday, 06-Nov-94 08:49:37 GMT")], NotModified);
        check(head, &[("if-modified-since", LATER)], NotModified);
        check(put, &[("if-modified-since", LATER)], WITH_RANGE);
        check(get, &[("if-modified-since", "")], WITH_RANGE);
        check(get, &[("if-range", "\"xyzzy\"")], WITH_RANGE);
        check(get, &[("if-range", "W/\"xyzzy\"")], WITHOUT_RANGE);
        check(get, &[("if-range", "\"other\"")], WITHOUT_RANGE);
        check(get, &[("if-range", "\"xyzzy\", \"other\"")], WITHOUT_RANGE);
        check(get, &[("if-range", THEN)], WITH_RANGE);
        check(get, &[("if-range", EARLIER)], WITHOUT_RANGE);
        check(get, &[("if-range", LATER)], WITHOUT_RANGE);
        check(get, &[("if-range", "junk")], WITHOUT_RANGE);
        check(get, &[("if-range", THEN), ("if-range", THEN)], WITHOUT_RANGE);
    }

    /// RFC 9110, section 13.2.2: what comes first decides, and tags make dates void.
    #[test]
    fn order() {
        use Precondition::{Failed, NotModified};
        let get = &Method::GET;
        check(get, &[("if-match", "\"xyzzy\""), ("if-unmodified-since", EARLIER)], WITH_RANGE);
        check(get, &[("if-match", "\"other\""), ("if-none-match", "\"xyzzy\"")], Failed);
        check(get, &[("if-match", "\"xyzzy\""), ("if-none-match", "\"xyzzy\"")], NotModified);
        check(get, &[("if-unmodified-since", EARLIER), ("if-none-match", "\"xyzzy\"")], Failed);
        check(get, &[("if-none-match", "\"other\""), ("if-modified-since", LATER)], WITH_RANGE);
        check(get, &[("if-none-match", "\"xyzzy\""), ("if-range", "\"xyzzy\"")], NotModified);
        check(get, &[("if-none-match", "\"other\""), ("if-range", "\"other\"")], WITHOUT_RANGE);
    }

    #[test]
    fn without_a_date_conditions_on_dates_are_ignored() {
        let undated = Validators::new(ETag::strong("xyzzy").unwrap(), None);
        let check = |field, expected| {
            assert_eq!(evaluate(&Method::GET, &headers(&[(field, THEN)]), &undated), expected, "{field}");
        };
        check("if-modified-since", WITH_RANGE);
        check("if-unmodified-since", WITH_RANGE);
        check("if-range", WITHOUT_RANGE);
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(field in 0usize..5, bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let name = [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE][field].clone();
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = evaluate(&Method::GET, &HeaderMap::from_iter([(name, value)]), &validators());
            }
        }
    }
}
