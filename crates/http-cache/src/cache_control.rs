//! The `Cache-Control` field of requests and responses (RFC 9111, section 5.2; RFC 5861; RFC 8246), and `Pragma` (section 5.4).

use std::borrow::Cow;

use http::header::{CACHE_CONTROL, HeaderMap, PRAGMA};
use http::{HeaderName, HeaderValue};

use crate::list::{is_token, members, unquote};

/// The most that a number of seconds can say (RFC 9111, section 1.2.2): larger ones are read as this.
pub const MAX_SECONDS: u32 = 1 << 31;

/// A directive that may be limited to some fields (`no-cache` and `private`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scope {
    /// The directive is not there.
    #[default]
    Nothing,
    /// Only these fields of the response.
    Fields(Vec<HeaderName>),
    /// The whole response.
    Whole,
}

/// What a response's `Cache-Control`, or a field in its place ([`crate::Policy::targets`]), says to a shared cache.
///
/// Where something is said twice the first counts; where it is malformed, the reading that caches less: a `max-age` that is no number is
/// one of 0 (RFC 9111, section 4.2.1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResponseDirectives {
    /// Section 5.2.2.5.
    pub no_store: bool,
    /// Section 5.2.2.4.
    pub no_cache: Scope,
    /// Section 5.2.2.7.
    pub private: Scope,
    /// Section 5.2.2.9.
    pub public: bool,
    /// Section 5.2.2.2.
    pub must_revalidate: bool,
    /// Section 5.2.2.8.
    pub proxy_revalidate: bool,
    /// Section 5.2.2.3.
    pub must_understand: bool,
    /// RFC 8246.
    pub immutable: bool,
    /// Section 5.2.2.1, seconds.
    pub max_age: Option<u32>,
    /// Section 5.2.2.10, seconds.
    pub s_maxage: Option<u32>,
    /// RFC 5861, section 3, seconds.
    pub stale_while_revalidate: Option<u32>,
    /// RFC 5861, section 4, seconds.
    pub stale_if_error: Option<u32>,
}

/// What a request's `Cache-Control` asks for. All of it is advice (RFC 9111, section 5.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestDirectives {
    /// Also `Pragma: no-cache` where there is no `Cache-Control`.
    pub no_cache: bool,
    /// Nothing of this request or its response may be stored.
    pub no_store: bool,
    /// A stored response or nothing.
    pub only_if_cached: bool,
    /// Not older than so many seconds.
    pub max_age: Option<u32>,
    /// Fresh for at least so many more seconds.
    pub min_fresh: Option<u32>,
    /// Stale for at most so many seconds; without a number any staleness will do, which is [`MAX_SECONDS`] here.
    pub max_stale: Option<u32>,
    /// RFC 5861, section 4: stale for so many seconds if the next server fails.
    pub stale_if_error: Option<u32>,
}

/// What stands behind a directive's `=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Argument<'a> {
    /// Nothing, not even the `=`.
    None,
    /// A token or the text of a quoted string.
    Text(Cow<'a, [u8]>),
    /// Something else.
    Malformed,
}

impl ResponseDirectives {
    /// Reads the `Cache-Control` lines of a response.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        for_each(headers, |name, argument| directives.set(name, argument));
        directives
    }

    /// Takes in one directive; its name is in lower case. Tells whether it is known.
    pub(crate) fn set(&mut self, name: &[u8], argument: &Argument<'_>) -> bool {
        match name {
            b"no-store" => self.no_store = true,
            b"no-cache" => self.no_cache.add(argument),
            b"private" => self.private.add(argument),
            b"public" => self.public = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"must-understand" => self.must_understand = true,
            b"immutable" => self.immutable = true,
            b"max-age" => set_first(&mut self.max_age, argument.seconds().or(Some(0))),
            b"s-maxage" => set_first(&mut self.s_maxage, argument.seconds().or(Some(0))),
            b"stale-while-revalidate" => set_first(&mut self.stale_while_revalidate, argument.seconds().or(Some(0))),
            b"stale-if-error" => set_first(&mut self.stale_if_error, argument.seconds().or(Some(0))),
            _ => return false,
        }
        true
    }

    /// The response said for how long it is fresh.
    #[must_use]
    pub(crate) const fn lifetime(&self) -> Option<u32> {
        match self.s_maxage {
            None => self.max_age,
            shared => shared,
        }
    }
}

impl RequestDirectives {
    /// Reads the `Cache-Control` lines of a request, or else `Pragma`.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        if headers.contains_key(CACHE_CONTROL) {
            for_each(headers, |name, argument| directives.set(name, argument));
        } else {
            directives.no_cache = headers.get_all(PRAGMA).iter().any(says_no_cache);
        }
        directives
    }

    fn set(&mut self, name: &[u8], argument: &Argument<'_>) -> bool {
        match name {
            b"no-cache" => self.no_cache = true,
            b"no-store" => self.no_store = true,
            b"only-if-cached" => self.only_if_cached = true,
            b"max-age" => set_first(&mut self.max_age, argument.seconds().or(Some(0))),
            b"min-fresh" => set_first(&mut self.min_fresh, argument.seconds().or(Some(MAX_SECONDS))),
            b"max-stale" if *argument == Argument::None => set_first(&mut self.max_stale, Some(MAX_SECONDS)),
            b"max-stale" => set_first(&mut self.max_stale, argument.seconds()),
            b"stale-if-error" => set_first(&mut self.stale_if_error, argument.seconds()),
            _ => return false,
        }
        true
    }
}

impl Scope {
    /// The directive is there and limited to nothing.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        matches!(self, Self::Whole)
    }

    /// The fields it is limited to.
    #[must_use]
    pub fn fields(&self) -> &[HeaderName] {
        match self {
            Self::Fields(fields) => fields,
            Self::Nothing | Self::Whole => &[],
        }
    }

    /// One more occurrence. What is no list of field names is the whole response.
    fn add(&mut self, argument: &Argument<'_>) {
        let named = match argument {
            Argument::Text(text) => field_names(text),
            Argument::None | Argument::Malformed => None,
        };
        *self = match (std::mem::take(self), named) {
            (Self::Whole, _) | (_, None) => Self::Whole,
            (Self::Nothing, Some(names)) => Self::Fields(names),
            (Self::Fields(mut names), Some(more)) => {
                names.extend(more);
                Self::Fields(names)
            }
        };
    }
}

fn field_names(list: &[u8]) -> Option<Vec<HeaderName>> {
    let names: Option<Vec<_>> = members(list, b',').map(|name| HeaderName::from_bytes(name).ok()).collect();
    names.filter(|names| !names.is_empty())
}

impl<'a> Argument<'a> {
    /// Reads what follows a directive's name.
    fn read(text: Option<&'a [u8]>) -> Self {
        let Some(text) = text else { return Self::None };
        match unquote(text) {
            Some(text) => Self::Text(text),
            None if is_token(text) => Self::Text(Cow::Borrowed(text)),
            None => Self::Malformed,
        }
    }

    /// One or more digits (RFC 9111, section 1.2.2).
    pub(crate) fn seconds(&self) -> Option<u32> {
        match self {
            Self::Text(text) => seconds(text),
            Self::None | Self::Malformed => None,
        }
    }
}

/// One or more digits; more than [`MAX_SECONDS`] is that.
pub(crate) fn seconds(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0u32, |sum, digit| sum.saturating_mul(10).saturating_add(u32::from(digit - b'0')));
    Some(number.min(MAX_SECONDS))
}

/// The first value said counts (RFC 9111, section 4.2.1).
fn set_first(slot: &mut Option<u32>, value: Option<u32>) {
    *slot = slot.or(value);
}

fn for_each(headers: &HeaderMap, mut directive: impl FnMut(&[u8], &Argument<'_>) -> bool) {
    for field in headers.get_all(CACHE_CONTROL) {
        for member in members(field.as_bytes(), b',') {
            let (name, argument) = split(member);
            directive(&name.to_ascii_lowercase(), &argument);
        }
    }
}

/// A directive's name and argument. Whitespace around the `=` is not allowed: the name is still read, since that is the side of caution.
pub(crate) fn split(member: &[u8]) -> (&[u8], Argument<'_>) {
    match member.iter().position(|b| *b == b'=') {
        None => (member, Argument::None),
        Some(at) => {
            let (name, text) = (&member[..at], &member[at + 1..]);
            let spaced = name.trim_ascii_end() != name || text.trim_ascii_start() != text;
            (name.trim_ascii_end(), if spaced { Argument::Malformed } else { Argument::read(Some(text)) })
        }
    }
}

fn says_no_cache(pragma: &HeaderValue) -> bool {
    members(pragma.as_bytes(), b',').any(|member| member.eq_ignore_ascii_case(b"no-cache"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn response(lines: &[&str]) -> ResponseDirectives {
        ResponseDirectives::of(&lines.iter().map(|line| (CACHE_CONTROL, HeaderValue::from_str(line).unwrap())).fold(
            HeaderMap::new(),
            |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            },
        ))
    }

    #[track_caller]
    fn max_age(line: &str, expected: Option<u32>) {
        assert_eq!(response(&[line]).max_age, expected, "{line}");
    }

    /// RFC 9111, sections 1.2.2 and 4.2.1.
    #[test]
    fn numbers() {
        max_age("max-age=3600", Some(3600));
        max_age("MaX-aGe=3600", Some(3600));
        max_age("foobar, max-age=3600", Some(3600));
        max_age("max-age=\"3600\"", Some(3600));
        max_age("max-age=003600", Some(3600));
        max_age("max-age=2147483647", Some(MAX_SECONDS - 1));
        max_age("max-age=2147483649", Some(MAX_SECONDS));
        max_age("max-age=99999999999999999999", Some(MAX_SECONDS));
        for malformed in [
            "max-age",
            "max-age=",
            "max-age=\"\"",
            "max-age='3600'",
            "max-age=-3600",
            "max-age=+3600",
            "max-age=3600.0",
            "max-age=a3600",
            "max-age=3600a",
            "max-age =3600",
            "max-age= 3600",
            "max-age=3600;x",
        ] {
            max_age(malformed, Some(0));
        }
        for absent in ["", "ext=\"max-age=3600\"", "xmax-age=1", "s-maxage=1", "max-age3600"] {
            max_age(absent, None);
        }
        max_age("ext=\"max-age=3600\", max-age=1", Some(1));
        max_age("ext=\"a\\\"max-age=5, \", max-age=1", Some(1));
    }

    #[test]
    fn the_first_of_several_counts() {
        max_age("max-age=1, max-age=1800", Some(1));
        assert_eq!(response(&["max-age=1800", "max-age=1"]).max_age, Some(1800));
        max_age("max-age=x, max-age=1800", Some(0));
    }

    #[test]
    fn words() {
        assert!(response(&["No-StOrE"]).no_store);
        assert!(response(&["no-store=what"]).no_store);
        assert!(response(&["x=\"unclosed, no-store"]).no_store);
        let all = response(&["public, must-revalidate", "proxy-revalidate, must-understand, immutable"]);
        assert!(all.public && all.must_revalidate && all.proxy_revalidate && all.must_understand && all.immutable);
        let times = response(&["s-maxage=1, stale-while-revalidate=2, stale-if-error=3"]);
        assert_eq!((times.s_maxage, times.stale_while_revalidate, times.stale_if_error), (Some(1), Some(2), Some(3)));
    }

    #[test]
    fn scopes() {
        let names = |names: &[&'static str]| Scope::Fields(names.iter().map(|n| HeaderName::from_static(n)).collect());
        let check = |line: &str, expected: Scope| assert_eq!(response(&[line]).private, expected, "{line}");
        check("", Scope::Nothing);
        check("private", Scope::Whole);
        check("private=\"a, B\"", names(&["a", "b"]));
        check("private=a", names(&["a"]));
        check("private=\"a\", private=\"b\"", names(&["a", "b"]));
        check("private=\"a\", private", Scope::Whole);
        check("private, private=\"a\"", Scope::Whole);
        check("private=\"\"", Scope::Whole);
        check("private=\"a b\"", Scope::Whole);
        check("private=\"a", Scope::Whole);
    }

    #[test]
    fn requests() {
        let read = |fields: &[(&'static str, &'static str)]| {
            RequestDirectives::of(
                &fields.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect(),
            )
        };
        let none = RequestDirectives::default();
        let check = |line: &'static str, expected| assert_eq!(read(&[("cache-control", line)]), expected, "{line}");
        check("max-age=5", RequestDirectives { max_age: Some(5), ..none });
        check("max-age=x", RequestDirectives { max_age: Some(0), ..none });
        check("max-stale", RequestDirectives { max_stale: Some(MAX_SECONDS), ..none });
        check("max-stale=7", RequestDirectives { max_stale: Some(7), ..none });
        check("max-stale=x", none);
        check("min-fresh=9", RequestDirectives { min_fresh: Some(9), ..none });
        check("min-fresh", RequestDirectives { min_fresh: Some(MAX_SECONDS), ..none });
        check("stale-if-error=9", RequestDirectives { stale_if_error: Some(9), ..none });
        check("only-if-cached, no-store", RequestDirectives { only_if_cached: true, no_store: true, ..none });
        check("no-cache", RequestDirectives { no_cache: true, ..none });
        assert!(read(&[("pragma", "x, No-Cache")]).no_cache);
        assert!(!read(&[("pragma", "no-cache"), ("cache-control", "x")]).no_cache);
        assert!(!read(&[("pragma", "other")]).no_cache);
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(lines in proptest::collection::vec("[ -~\\x80-\\xff\t]{0,60}", 0..4)) {
            let headers: HeaderMap = lines.iter().filter_map(|line| Some((CACHE_CONTROL, HeaderValue::from_str(line).ok()?))).collect();
            let _ = (ResponseDirectives::of(&headers), RequestDirectives::of(&headers));
        }

        #[test]
        fn a_directive_is_found_among_others(before in "[a-z]{1,8}(=\"[a-z,= ]{0,8}\")?", n in 0u32..5000, after in "[a-z]{1,8}(=[0-9]{1,4})?") {
            prop_assume!(!before.starts_with("max-age") && !after.starts_with("max-age"));
            let line = format!("{before},\tmax-age={n} ,,{after}");
            prop_assert_eq!(response(&[&line]).max_age, Some(n));
        }
    }
}
