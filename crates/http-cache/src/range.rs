//! Byte ranges (RFC 9110, section 14).

use std::ops::Range;

use http::HeaderValue;
use http::header::{HeaderMap, RANGE};

/// As many ranges as one request may ask for; with more it gets the whole (RFC 9110, section 17.15).
pub const MAX_RANGES: usize = 32;

/// Which bytes are to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeOutcome {
    /// All of them, with 200: no range was asked for, or none that makes sense.
    Whole,
    /// These, with 206 and `Content-Range`. Not empty.
    Single(Range<u64>),
    /// These, with 206 and `multipart/byteranges`: at least two, in the order asked for, not empty, not overlapping.
    Multi(Vec<Range<u64>>),
    /// None, with 416.
    Unsatisfiable,
}

/// One `range-spec`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spec {
    /// `first-last`, both inclusive.
    Int { first: u64, last: u64 },
    /// The last so many bytes.
    Suffix(u64),
}

/// What the `Range` field of a GET request selects of a representation of `length` bytes. Other methods have no ranges.
///
/// Ranges that overlap are sent as one (RFC 9110, section 15.3.7.2). A field that is malformed, in another unit, there twice, or too long a list counts for
/// nothing (section 14.2).
#[must_use]
pub fn select(headers: &HeaderMap, length: u64) -> RangeOutcome {
    let mut fields = headers.get_all(RANGE).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return RangeOutcome::Whole;
    };
    match parse(field) {
        Some(specs) => outcome(&specs, length),
        None => RangeOutcome::Whole,
    }
}

/// `Content-Range` of a part (RFC 9110, section 14.4); without a range, that of a 416.
#[must_use]
pub fn content_range(range: Option<&Range<u64>>, length: u64) -> HeaderValue {
    let text = match range {
        Some(range) => format!("bytes {}-{}/{length}", range.start, range.end.saturating_sub(1)),
        None => format!("bytes */{length}"),
    };
    HeaderValue::try_from(text).expect("digits are visible ASCII")
}

fn outcome(specs: &[Spec], length: u64) -> RangeOutcome {
    // A suffix of nothing is satisfiable, but no Content-Range can say so.
    if length == 0 && specs.iter().any(|spec| matches!(spec, Spec::Suffix(1..))) {
        return RangeOutcome::Whole;
    }
    let mut ranges = coalesce(specs.iter().filter_map(|spec| spec.resolve(length)));
    match (ranges.pop(), ranges.is_empty()) {
        (None, _) => RangeOutcome::Unsatisfiable,
        (Some(only), true) => RangeOutcome::Single(only),
        (Some(last), false) => {
            ranges.push(last);
            RangeOutcome::Multi(ranges)
        }
    }
}

impl Spec {
    /// The bytes that are there of what is asked for, if any.
    fn resolve(self, length: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::Int { first, last } => first..last.saturating_add(1).min(length),
            Self::Suffix(suffix) => length.saturating_sub(suffix)..length,
        };
        (range.start < range.end).then_some(range)
    }
}

/// Joins ranges that overlap. A joined range takes the place of the first of its parts.
fn coalesce(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut by_start: Vec<(usize, Range<u64>)> = ranges.enumerate().collect();
    by_start.sort_by_key(|(_, range)| range.start);
    let mut joined: Vec<(usize, Range<u64>)> = Vec::with_capacity(by_start.len());
    for (place, range) in by_start {
        match joined.last_mut() {
            Some((first, last)) if range.start < last.end => {
                *first = place.min(*first);
                last.end = last.end.max(range.end);
            }
            _ => joined.push((place, range)),
        }
    }
    joined.sort_by_key(|(place, _)| *place);
    joined.into_iter().map(|(_, range)| range).collect()
}

/// `bytes=` and a list of specs. `None` unless all of it is well formed and there are not too many.
fn parse(field: &HeaderValue) -> Option<Vec<Spec>> {
    let (unit, set) = field.to_str().ok()?.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let members = set.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty());
    let specs: Vec<Spec> = members.take(MAX_RANGES + 1).map(parse_spec).collect::<Option<_>>()?;
    (1..=MAX_RANGES).contains(&specs.len()).then_some(specs)
}

fn parse_spec(member: &str) -> Option<Spec> {
    match member.split_once('-')? {
        ("", suffix) => Some(Spec::Suffix(number(suffix)?)),
        (first, "") => Some(Spec::Int { first: number(first)?, last: u64::MAX }),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Spec::Int { first, last })
        }
    }
}

/// One or more digits. A number beyond 64 bits is beyond every object, so the largest will do.
fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::RangeOutcome::{Multi, Single, Unsatisfiable, Whole};
    use super::*;

    fn selected(field: &str, length: u64) -> RangeOutcome {
        select(&HeaderMap::from_iter([(RANGE, HeaderValue::from_str(field).unwrap())]), length)
    }

    #[track_caller]
    fn check(field: &str, length: u64, expected: RangeOutcome) {
        assert_eq!(selected(field, length), expected, "{field} of {length}");
    }

    /// RFC 9110, section 14.1.2: examples for a representation of 10000 bytes.
    #[test]
    fn examples_of_the_rfc() {
        check("bytes=0-499", 10_000, Single(0..500));
        check("bytes=500-999", 10_000, Single(500..1000));
        check("bytes=-500", 10_000, Single(9500..10_000));
        check("bytes=9500-", 10_000, Single(9500..10_000));
        check("bytes=0-0,-1", 10_000, Multi(vec![0..1, 9999..10_000]));
        check("bytes= 0-999, 4500-5499, -1000", 10_000, Multi(vec![0..1000, 4500..5500, 9000..10_000]));
        check("bytes=500-600,601-999", 10_000, Multi(vec![500..601, 601..1000]));
        check("bytes=500-700,601-999", 10_000, Single(500..1000));
    }

    #[test]
    fn ends_of_the_object() {
        check("bytes=0-9", 10, Single(0..10));
        check("bytes=0-10", 10, Single(0..10));
        check("bytes=9-9", 10, Single(9..10));
        check("bytes=9-", 10, Single(9..10));
        check("bytes=10-", 10, Unsatisfiable);
        check("bytes=10-20", 10, Unsatisfiable);
        check("bytes=-10", 10, Single(0..10));
        check("bytes=-11", 10, Single(0..10));
        check("bytes=-0", 10, Unsatisfiable);
        check("bytes=-0,10-", 10, Unsatisfiable);
        check("bytes=-0,3-4,20-", 10, Single(3..5));
        check("bytes=0-", 0, Unsatisfiable);
        check("bytes=-0", 0, Unsatisfiable);
        check("bytes=-5", 0, Whole);
        check("bytes=0-99999999999999999999999", 10, Single(0..10));
        check("bytes=99999999999999999999999-", 10, Unsatisfiable);
        check("bytes=-99999999999999999999999", 10, Single(0..10));
        check("bytes=0-18446744073709551615", u64::MAX, Single(0..u64::MAX));
    }

    #[test]
    fn what_is_malformed_counts_for_nothing() {
        for field in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=1",
            "bytes=2-1",
            "bytes=0-1,2-1",
            "bytes=0-1;2-3",
            "bytes=+1-2",
            "bytes=0x1-2",
            "bytes=1 - 2",
            "bytes=--1",
            "bytes=1-2-3",
            "items=0-1",
            "0-1",
        ] {
            check(field, 10, Whole);
        }
        check("Bytes=0-1", 10, Single(0..2));
        check("bytes=,0-1,, ", 10, Single(0..2));
        let twice = HeaderMap::from_iter([(RANGE, HeaderValue::from_static("bytes=0-1"))]);
        let mut twice = twice;
        twice.append(RANGE, HeaderValue::from_static("bytes=2-3"));
        assert_eq!(select(&twice, 10), Whole);
        assert_eq!(select(&HeaderMap::new(), 10), Whole);
    }

    #[test]
    fn order_is_kept_and_overlaps_are_joined() {
        check("bytes=8-9,0-1", 10, Multi(vec![8..10, 0..2]));
        check("bytes=8-9,0-3,2-5", 10, Multi(vec![8..10, 0..6]));
        check("bytes=2-5,8-9,0-3", 10, Multi(vec![0..6, 8..10]));
        check("bytes=0-,0-,0-", 10, Single(0..10));
        check("bytes=0-9,3-4,6-6", 10, Single(0..10));
        check("bytes=5-6,5-6", 10, Single(5..7));
    }

    #[test]
    fn too_many_ranges_are_the_whole() {
        let list = |count: u64| (0..count).map(|i| format!("{0}-{0}", 2 * i)).collect::<Vec<_>>().join(",");
        let expected: Vec<_> = (0..32).map(|i| 2 * i..2 * i + 1).collect();
        check(&format!("bytes={}", list(32)), 100, Multi(expected));
        check(&format!("bytes={}", list(33)), 100, Whole);
        check(&format!("bytes={}", "0-,".repeat(5000)), 100, Whole);
    }

    #[test]
    fn content_ranges() {
        assert_eq!(content_range(Some(&(0..500)), 1234), "bytes 0-499/1234");
        assert_eq!(content_range(None, 1234), "bytes */1234");
    }

    /// Which bytes a spec asks for, byte by byte.
    fn asked(spec: Spec, length: u64) -> impl Iterator<Item = u64> {
        (0..length).filter(move |byte| match spec {
            Spec::Int { first, last } => first <= *byte && *byte <= last,
            Spec::Suffix(suffix) => length - byte <= suffix,
        })
    }

    fn spec() -> impl Strategy<Value = (String, Spec)> {
        prop_oneof![
            (0u64..40, 0u64..40).prop_map(|(first, more)| {
                (format!("{first}-{}", first + more), Spec::Int { first, last: first + more })
            }),
            (0u64..40).prop_map(|first| (format!("{first}-"), Spec::Int { first, last: u64::MAX })),
            (0u64..40).prop_map(|suffix| (format!("-{suffix}"), Spec::Suffix(suffix))),
        ]
    }

    proptest! {
        #[test]
        fn exactly_the_bytes_asked_for_are_sent_once(length in 1u64..40, specs in proptest::collection::vec(spec(), 1..8)) {
            let (texts, specs): (Vec<_>, Vec<_>) = specs.into_iter().unzip();
            let mut model: Vec<u64> = specs.into_iter().flat_map(|spec| asked(spec, length)).collect();
            model.sort_unstable();
            model.dedup();
            let ranges = match selected(&format!("bytes={}", texts.join(",")), length) {
                Whole => return Err(TestCaseError::fail("a well-formed range was ignored")),
                Single(range) => vec![range],
                Multi(ranges) => { prop_assert!(ranges.len() > 1); ranges }
                Unsatisfiable => vec![],
            };
            prop_assert!(ranges.iter().all(|range| range.start < range.end));
            let mut sent: Vec<u64> = ranges.into_iter().flatten().collect();
            sent.sort_unstable();
            prop_assert_eq!(sent, model);
        }

        #[test]
        fn garbage_is_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), text in "bytes=[0-9,\\- ]{0,60}", length: u64) {
            for bytes in [bytes.as_slice(), text.as_bytes()] {
                if let Ok(value) = HeaderValue::from_bytes(bytes) {
                    let _ = select(&HeaderMap::from_iter([(RANGE, value)]), length);
                }
            }
        }
    }
}
