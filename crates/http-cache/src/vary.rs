//! Which requests a stored response may answer (RFC 9111, section 4.1; RFC 9110, section 12.5.5).

use std::borrow::{Borrow, Cow};
use std::hash::{Hash, Hasher};

use http::header::{
    ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_LANGUAGE, COOKIE, HeaderMap, VARY,
};
use http::{HeaderName, HeaderValue};

use crate::list::members;
use crate::{Policy, Stored};

/// Fields that one response may vary on; one that names more varies on everything.
pub(crate) const MAX_NAMES: usize = 64;

/// The fields that `Vary` names and what the request said in them, lines joined. `None` is a field that the request did not have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Selecting(pub(crate) Vec<(HeaderName, Option<Vec<u8>>)>);

impl Selecting {
    /// What the response's `Vary` selects of the request. `None` when that is not to be known: `*`, or not a list of names.
    pub(crate) fn new(response: &HeaderMap, request: &HeaderMap) -> Option<Self> {
        let names = vary(response)?;
        Some(Self(names.into_iter().map(|name| (name.clone(), said(request, &name).map(Cow::into_owned))).collect()))
    }

    /// Is this request the same in all fields? `response` is the stored one's header.
    pub(crate) fn matches(&self, request: &HeaderMap, response: &HeaderMap, policy: &Policy) -> bool {
        self.0.iter().all(|(name, stored)| {
            same(name, stored.as_deref(), said(request, name).as_deref())
                || policy.negotiate_language && *name == ACCEPT_LANGUAGE && in_best_language(request, response)
        })
    }
}

/// Tells requests apart that differ in fields which decide what they get of what is stored (`Vary`), by putting these into `state`. Those
/// that do not will get the same: one of them is enough to ask. With nothing stored, all are alike.
pub fn hash_selecting<S: Borrow<Stored>>(stored: &[S], request: &HeaderMap, state: &mut impl Hasher) {
    let names = stored.iter().flat_map(|stored| stored.borrow().selecting.0.iter().map(|(name, _)| name));
    let mut names: Vec<_> = names.collect();
    names.sort_unstable_by_key(|name| name.as_str());
    names.dedup();
    for name in names {
        (name, said(request, name).map(|said| normal(name, &said))).hash(state);
    }
}

/// The names in all `Vary` lines, sorted.
fn vary(response: &HeaderMap) -> Option<Vec<HeaderName>> {
    let listed = response.get_all(VARY).iter().flat_map(|line| members(line.as_bytes(), b','));
    let names: Option<Vec<_>> = listed.take(MAX_NAMES + 1).map(|name| HeaderName::from_bytes(name).ok()).collect();
    let mut names = names.filter(|names| names.len() <= MAX_NAMES && names.iter().all(|name| name != "*"))?;
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    Some(names)
}

/// A field's lines as one.
pub(crate) fn said<'a>(request: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut lines = request.get_all(name).iter().map(HeaderValue::as_bytes);
    let first = lines.next()?;
    let separator: &[u8] = if *name == COOKIE { b"; " } else { b", " };
    Some(lines.fold(Cow::Borrowed(first), |joined, line| Cow::Owned([&joined, separator, line].concat())))
}

/// Equal but for what means nothing in this field (RFC 9111, section 4.1).
fn same(name: &HeaderName, stored: Option<&[u8]>, said: Option<&[u8]>) -> bool {
    match (stored, said) {
        (Some(stored), Some(said)) => stored == said || normal(name, stored) == normal(name, said),
        (stored, said) => stored == said,
    }
}

/// Lists without the whitespace around members; in fields of weighted choices also sorted, in lower case where case means nothing.
fn normal(name: &HeaderName, value: &[u8]) -> Vec<u8> {
    let sorted = [ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE].contains(name);
    if !sorted {
        return members(value, b',').collect::<Vec<_>>().join(&b", "[..]);
    }
    let mut choices: Vec<_> = members(value, b',').map(|member| choice(member, *name == ACCEPT)).collect();
    choices.sort_unstable();
    choices.join(&b", "[..])
}

/// One choice without whitespace and with its weight in thousandths, if it is not 1.
fn choice(member: &[u8], cased: bool) -> Vec<u8> {
    let mut text = Vec::with_capacity(member.len());
    for part in members(member, b';') {
        match weight(part) {
            Some(1000) => {}
            Some(weight) => text.extend_from_slice(format!(";q={weight}").as_bytes()),
            None => {
                text.extend_from_slice(if text.is_empty() { b"" } else { b";" });
                text.extend_from_slice(part);
            }
        }
    }
    if !cased {
        text.make_ascii_lowercase();
    }
    text
}

/// `q=0.5` as 500 (RFC 9110, section 12.4.2).
pub(crate) fn weight(parameter: &[u8]) -> Option<u16> {
    let value = parameter.strip_prefix(b"q=").or_else(|| parameter.strip_prefix(b"Q="))?;
    let (whole, fraction) = (value.first()?, value.get(1..)?);
    let digits = match fraction {
        [] => &[],
        [b'.', digits @ ..] if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => digits,
        _ => return None,
    };
    let digit = |at: usize| u16::from(digits.get(at).map_or(0, |digit| digit - b'0'));
    let thousandths = digit(0) * 100 + digit(1) * 10 + digit(2);
    match whole {
        b'0' => Some(thousandths),
        b'1' if thousandths == 0 => Some(1000),
        _ => None,
    }
}

/// The stored response is in one language, and the request likes that one better than any other.
fn in_best_language(request: &HeaderMap, response: &HeaderMap) -> bool {
    let mut languages = response.get_all(CONTENT_LANGUAGE).iter().flat_map(|line| members(line.as_bytes(), b','));
    let (Some(stored), None) = (languages.next(), languages.next()) else { return false };
    let Some(asked) = said(request, &ACCEPT_LANGUAGE) else { return false };
    let mut weights: Vec<_> = members(&asked, b',').map(weighted).collect();
    weights.sort_unstable_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    match weights.as_slice() {
        [(best, language), rest @ ..] => {
            *best > 0 && rest.first().is_none_or(|(next, _)| next < best) && language.eq_ignore_ascii_case(stored)
        }
        [] => false,
    }
}

fn weighted(member: &[u8]) -> (u16, &[u8]) {
    let mut parts = members(member, b';');
    let name = parts.next().unwrap_or_default();
    (parts.find_map(weight).unwrap_or(1000), name)
}

/// The `Accept-Encoding` of a request, brought down to the codings that make a difference to the origin, in their order.
///
/// A shell that puts this in the request before it looks into the cache, and sends the same to the origin, keeps one variant for each
/// answer there can be instead of one for each browser. `None` when none of them is acceptable: then the field is to be removed.
#[must_use]
pub fn accept_encoding(request: &HeaderMap, codings: &[&str]) -> Option<HeaderValue> {
    let asked = said(request, &ACCEPT_ENCODING)?;
    let weights: Vec<_> = members(&asked, b',').map(weighted).collect();
    let weight_of = |coding: &str| {
        let named = weights.iter().find(|(_, name)| name.eq_ignore_ascii_case(coding.as_bytes()));
        named.or_else(|| weights.iter().find(|(_, name)| *name == b"*")).map_or(0, |(weight, _)| *weight)
    };
    let accepted: Vec<_> = codings.iter().copied().filter(|coding| weight_of(coding) > 0).collect();
    HeaderValue::try_from(accepted.join(", ")).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn requests_are_told_apart_by_what_is_stored() {
        let stored = |vary: &str| {
            let headers = headers(&[("vary", vary)]);
            let exchange = crate::Exchange { requested: std::time::UNIX_EPOCH, received: std::time::UNIX_EPOCH };
            let selecting = Selecting::new(&headers, &HeaderMap::new()).unwrap();
            Stored::new(http::StatusCode::OK, &headers, selecting, exchange, None, &Policy::default())
        };
        let of = |stored: &[Stored], fields: &[(&str, &str)]| {
            let mut state = std::hash::DefaultHasher::new();
            hash_selecting(stored, &headers(fields), &mut state);
            state.finish()
        };
        let (both, one) = ([stored("a"), stored("accept, a")], [stored("a")]);
        assert_eq!(of(&[], &[("a", "1")]), of(&[], &[("a", "2")]), "nothing is known");
        assert_ne!(of(&one, &[("a", "1")]), of(&one, &[("a", "2")]));
        assert_ne!(of(&one, &[("a", "")]), of(&one, &[]));
        assert_eq!(of(&one, &[("a", "1"), ("b", "1")]), of(&one, &[("a", "1"), ("accept", "x")]));
        assert_ne!(of(&both, &[("accept", "x")]), of(&both, &[("accept", "y")]));
        assert_eq!(of(&both, &[("accept", "x, y")]), of(&both, &[("accept", "y;q=1,x")]));
    }

    #[track_caller]
    fn check(vary: &str, first: &[(&str, &str)], second: &[(&str, &str)], expected: bool) {
        let response = headers(&[("vary", vary)]);
        let selecting = Selecting::new(&response, &headers(first)).unwrap();
        assert_eq!(
            selecting.matches(&headers(second), &response, &Policy::default()),
            expected,
            "{vary}: {first:?} {second:?}"
        );
    }

    #[test]
    fn matching() {
        check("", &[("foo", "1")], &[("foo", "2")], true);
        check("Foo", &[("foo", "1")], &[("foo", "1")], true);
        check("Foo", &[("foo", "1")], &[("foo", "2")], false);
        check("Foo", &[("foo", "1")], &[], false);
        check("Foo", &[], &[("foo", "1")], false);
        check("Foo", &[], &[("foo", "")], false);
        check("Foo", &[], &[("bar", "1")], true);
        check("foo, BAR", &[("foo", "1"), ("bar", "abc")], &[("bar", "abc"), ("foo", "1")], true);
        check("foo, bar", &[("foo", "1"), ("bar", "abc")], &[("foo", "1"), ("bar", "ab")], false);
    }

    #[test]
    fn what_means_nothing() {
        check("foo", &[("foo", "1, 2")], &[("foo", "1"), ("foo", "2")], true);
        check("foo", &[("foo", "1,2")], &[("foo", " 1, 2 ")], true);
        check("foo", &[("foo", "1,2")], &[("foo", "2,1")], false);
        check("foo", &[("foo", "a")], &[("foo", "A")], false);
        check("foo", &[("foo", "\"1,2\"")], &[("foo", "\"1, 2\"")], false);
        check("cookie", &[("cookie", "a=1; b=2")], &[("cookie", "a=1"), ("cookie", "b=2")], true);
        let language = |first, second, expected| {
            check("accept-language", &[("accept-language", first)], &[("accept-language", second)], expected);
        };
        language("en, de", "de, en", true);
        language("en, de", "eN, De", true);
        language("en, de", " en ,   de", true);
        language("en, de;q=0.5", "de ; q=0.50,en;q=1", true);
        language("en, de;q=0.5", "en, de;q=0.4", false);
        check("accept", &[("accept", "a/b;c=D")], &[("accept", "a/b;c=d")], false);
        check("accept", &[("accept", "a/b;c=D, x/y")], &[("accept", "x/y,a/b; c=D")], true);
    }

    #[test]
    fn what_is_no_list_of_names_varies_on_everything() {
        for vary in ["*", "*, *", ", *", "*, foo", "foo, *", "a b", "a\"b\"", &"a,".repeat(65)] {
            assert_eq!(Selecting::new(&headers(&[("vary", vary)]), &HeaderMap::new()), None, "{vary}");
        }
        assert_eq!(Selecting::new(&headers(&[("vary", "a"), ("vary", "*")]), &HeaderMap::new()), None);
    }

    #[test]
    fn languages_are_negotiated_if_the_policy_says_so() {
        let policy = Policy { negotiate_language: true, ..Policy::default() };
        let response = headers(&[("vary", "accept-language"), ("content-language", "de")]);
        let selecting = Selecting::new(&response, &headers(&[("accept-language", "en, de")])).unwrap();
        let matches = |asked| selecting.matches(&headers(&[("accept-language", asked)]), &response, &policy);
        assert!(matches("fr;q=0.5, de;q=1.0") && matches("DE"));
        assert!(!matches("fr, de") && !matches("fr, de;q=0.5") && !matches("de;q=0") && !matches("en"));
    }

    #[test]
    fn codings_that_make_a_difference() {
        let check = |asked: &str, expected: Option<&str>| {
            let value = accept_encoding(&headers(&[("accept-encoding", asked)]), &["br", "gzip"]);
            assert_eq!(value.as_ref().map(|value| value.to_str().unwrap()), expected, "{asked}");
        };
        check("gzip, deflate, br, zstd", Some("br, gzip"));
        check("GZIP;q=0.3", Some("gzip"));
        check("br;q=0, *", Some("gzip"));
        check("identity", None);
        check("", None);
        assert_eq!(accept_encoding(&HeaderMap::new(), &["br"]), None);
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(vary in "[ -~]{0,40}", value in "[ -~]{0,60}", other in "[ -~]{0,60}") {
            let response = headers(&[("vary", &vary), ("content-language", &other)]);
            for name in ["accept-language", "foo", "accept-encoding"] {
                let request = headers(&[(name, &value)]);
                let policy = Policy { negotiate_language: true, ..Policy::default() };
                if let Some(selecting) = Selecting::new(&response, &request) {
                    prop_assert!(selecting.matches(&request, &response, &policy), "a request is like itself");
                }
                let _ = (accept_encoding(&request, &["br"]), normal(&HeaderName::from_static(name), value.as_bytes()));
            }
        }

        #[test]
        fn order_means_nothing_among_choices(choices in proptest::collection::vec("[a-z]{1,3}(;q=0\\.[0-9]{1,3})?", 1..6), seed: u64) {
            let mut turned = choices.clone();
            turned.rotate_left(usize::try_from(seed % choices.len() as u64).unwrap());
            let name = ACCEPT_ENCODING;
            prop_assert_eq!(normal(&name, choices.join(",").as_bytes()), normal(&name, turned.join(" , ").as_bytes()));
        }
    }
}
