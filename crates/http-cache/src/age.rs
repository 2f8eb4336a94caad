//! How old a response is (RFC 9111, sections 4.2.3 and 5.1).

use std::time::{Duration, SystemTime};

use http::header::{AGE, DATE, HeaderMap};

use crate::cache_control::{MAX_SECONDS, seconds};
use crate::date::{parse_http_date, whole_second};
use crate::list::members;

/// Older than any response may be: no lifetime is longer.
pub(crate) const UNKNOWN: Duration = Duration::from_secs(MAX_SECONDS as u64);

/// When a response was asked for and when its header came, by our clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// RFC 9111's `request_time`.
    pub requested: SystemTime,
    /// RFC 9111's `response_time`.
    pub received: SystemTime,
}

/// `corrected_initial_age`: how old a response was when it came.
pub(crate) fn initial_age(headers: &HeaderMap, exchange: Exchange) -> Duration {
    let Some(said) = age_field(headers) else { return UNKNOWN };
    let delay = exchange.received.duration_since(exchange.requested).unwrap_or_default();
    apparent_age(headers, exchange.received).max(said + delay).min(UNKNOWN)
}

/// What `Date` says, in whole seconds, as it has no others.
fn apparent_age(headers: &HeaderMap, received: SystemTime) -> Duration {
    let date = headers.get(DATE).and_then(parse_http_date);
    date.and_then(|date| whole_second(received).duration_since(date).ok()).unwrap_or_default()
}

/// The `Age` field; `None` when there is one that cannot be understood.
///
/// RFC 9111, section 5.1 advises to take the first of a list and to ignore what is no number. Ignoring it takes an old response for a
/// new one, so here it is taken for too old instead, as is a field that is there twice or says the same twice: two caches wrote it, or
/// somebody who wants them to disagree. A list of different numbers in one line is read as advised.
fn age_field(headers: &HeaderMap) -> Option<Duration> {
    let mut lines = headers.get_all(AGE).iter();
    let Some(line) = lines.next() else { return Some(Duration::ZERO) };
    let mut values = members(line.as_bytes(), b',');
    let first = values.next()?;
    if lines.next().is_some() || values.any(|value| value == first) {
        return None;
    }
    seconds(first).map(|seconds| Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::http_date;

    const NOW: SystemTime = UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        NOW + Duration::from_secs(1_000_000 + seconds)
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[track_caller]
    fn field(lines: &[&str], expected: Option<u64>) {
        let lines: Vec<_> = lines.iter().map(|line| ("age", *line)).collect();
        assert_eq!(age_field(&headers(&lines)), expected.map(Duration::from_secs), "{lines:?}");
    }

    #[test]
    fn age_fields() {
        field(&[], Some(0));
        field(&["7200"], Some(7200));
        field(&["7200,0"], Some(7200));
        field(&["0,7200"], Some(0));
        field(&["99999999999"], Some(MAX_SECONDS.into()));
        for wrong in ["", "abc", "-7200", "7200.0", "0, 0", "3600, 3600", "7200;foo=bar", "7200;foo=111", "\"5\""] {
            field(&[wrong], None);
        }
        for lines in [["7200", "0"], ["0", "7200"], ["0", "0"]] {
            field(&lines, None);
        }
    }

    /// RFC 9111, section 4.2.3, line by line.
    #[test]
    fn arithmetic() {
        let date = |seconds| http_date(at(seconds)).to_str().unwrap().to_owned();
        let check = |fields: &[(&'static str, &str)], requested, received, expected| {
            let exchange = Exchange { requested: at(requested), received: at(received) };
            assert_eq!(initial_age(&headers(fields), exchange), Duration::from_secs(expected), "{fields:?}");
        };
        check(&[], 0, 0, 0);
        check(&[], 0, 3, 3);
        check(&[("age", "10")], 0, 3, 13);
        check(&[("date", &date(0))], 40, 42, 42);
        check(&[("date", &date(0)), ("age", "100")], 40, 42, 102);
        check(&[("date", &date(99))], 40, 42, 2);
        check(&[("date", "foo")], 40, 42, 2);
        check(&[("age", "x")], 0, 0, UNKNOWN.as_secs());
        check(&[], 5, 3, 0);
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(lines in proptest::collection::vec("[ -~]{0,20}", 0..3), requested: u32, received: u32) {
            let lines: Vec<_> = lines.iter().map(|line| ("age", line.as_str())).collect();
            let exchange = Exchange { requested: at(requested.into()), received: at(received.into()) };
            prop_assert!(initial_age(&headers(&lines), exchange) <= UNKNOWN);
        }
    }
}
