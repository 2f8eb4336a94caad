//! Directives for some caches only: the fields of RFC 9213, and `Surrogate-Control`, from which they came.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use crate::cache_control::{Argument, split};
use crate::list::members;
use crate::{Policy, ResponseDirectives};

const SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");

/// The directives that count for this cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directives {
    pub(crate) said: ResponseDirectives,
    /// They do not come from `Cache-Control`, so `Expires` does not count either (RFC 9213, section 2.2).
    pub(crate) targeted: bool,
}

impl Directives {
    /// Chooses the field: the first target that is well formed and says something, then `Surrogate-Control`, then `Cache-Control`.
    pub(crate) fn of(headers: &HeaderMap, policy: &Policy) -> Self {
        let surrogate = || surrogate(headers, policy.surrogate.as_deref()?);
        match policy.targets.iter().find_map(|name| targeted(headers, name)).or_else(surrogate) {
            Some(said) => Self { said, targeted: true },
            None => Self { said: ResponseDirectives::of(headers), targeted: false },
        }
    }
}

/// RFC 9213, section 2.1: a dictionary of structured fields; what does not parse is not there.
fn targeted(headers: &HeaderMap, name: &HeaderName) -> Option<ResponseDirectives> {
    if !headers.contains_key(name) {
        return None;
    }
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(http::HeaderValue::as_bytes).collect();
    let dictionary: Dictionary = Parser::new(&lines.join(&b", "[..])).parse().ok()?;
    let mut directives = ResponseDirectives::default();
    for (name, value) in &dictionary {
        match argument(value) {
            Some(argument) => directives.set(name.as_str().as_bytes(), &argument),
            // Only what restricts counts when it is said to be false.
            None => {
                matches!(name.as_str(), "no-store" | "no-cache" | "private")
                    && directives.set(name.as_str().as_bytes(), &Argument::None)
            }
        };
    }
    (!dictionary.is_empty()).then_some(directives)
}

/// A member's value as `Cache-Control` would have it; `None` for `?0`. A number must be an integer.
fn argument(value: &ListEntry) -> Option<Argument<'_>> {
    let ListEntry::Item(item) = value else { return Some(Argument::Malformed) };
    match &item.bare_item {
        BareItem::Boolean(true) => Some(Argument::None),
        BareItem::Boolean(false) => None,
        BareItem::Integer(number) => Some(Argument::Text(Cow::Owned(number.to_string().into_bytes()))),
        BareItem::String(text) => Some(names(text.as_str())),
        BareItem::Token(text) => Some(names(text.as_str())),
        BareItem::Decimal(_) | BareItem::ByteSequence(_) | BareItem::Date(_) | BareItem::DisplayString(_) => {
            Some(Argument::Malformed)
        }
    }
}

/// Text is a list of field names. Digits in it are no number: that would have been an integer.
fn names(text: &str) -> Argument<'_> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return Argument::Malformed;
    }
    Argument::Text(Cow::Borrowed(text.as_bytes()))
}

/// `Surrogate-Control`: directives as in `Cache-Control`, each perhaps with the name of the surrogate it is for. `None` unless one is for
/// us that we know.
fn surrogate(headers: &HeaderMap, us: &str) -> Option<ResponseDirectives> {
    let lines = headers.get_all(SURROGATE_CONTROL).iter();
    let mut directives = ResponseDirectives::default();
    let mut any = false;
    for member in lines.flat_map(|line| members(line.as_bytes(), b',')) {
        let mut parts = members(member, b';');
        let (Some(directive), target) = (parts.next(), parts.next()) else { continue };
        if target.is_none_or(|target| target == us.as_bytes()) {
            any |= surrogate_directive(&mut directives, directive);
        }
    }
    any.then_some(directives)
}

/// `max-age=600+30` is fresh for 600 seconds and may be served for 30 more. A CDN is remote to the origin, so `no-store-remote` is for it.
fn surrogate_directive(directives: &mut ResponseDirectives, directive: &[u8]) -> bool {
    let (name, argument) = split(directive);
    let name = name.to_ascii_lowercase();
    match (name.as_slice(), &argument) {
        (b"no-store-remote", _) => directives.set(b"no-store", &Argument::None),
        (b"max-age", Argument::Text(text)) if text.contains(&b'+') => {
            let mut numbers = text.splitn(2, |b| *b == b'+').map(|number| Argument::Text(Cow::Borrowed(number)));
            let (fresh, more) = (numbers.next(), numbers.next());
            directives.set(b"stale-while-revalidate", &more.unwrap_or(Argument::Malformed));
            directives.set(b"max-age", &fresh.unwrap_or(Argument::Malformed))
        }
        (name, argument) => directives.set(name, argument),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn of(fields: &[(&'static str, &str)]) -> Directives {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Directives::of(&headers, &Policy::default())
    }

    #[track_caller]
    fn max_age(field: &'static str, value: &str, expected: Option<u32>) {
        let got = of(&[(field, value), ("cache-control", "max-age=7")]).said;
        assert_eq!(got.max_age, expected, "{field}: {value}");
    }

    #[test]
    fn cdn_cache_control_is_a_dictionary() {
        let field = "cdn-cache-control";
        max_age(field, "max-age=60", Some(60));
        max_age(field, "foobar, max-age=60;x=y", Some(60));
        max_age(field, "max-age=99999999999", Some(crate::MAX_SECONDS));
        max_age(field, "max-age=1, max-age=2", Some(2));
        max_age(field, "no-cache", None);
        // Malformed: as if it were not there.
        for malformed in ["", "max-age=60, &&&", "MaX-aGe=60", "max-age =60", "max-age= 60", "max-age=60,"] {
            max_age(field, malformed, Some(7));
        }
        // Well formed, but not a number: stale.
        for wrong in ["max-age=\"60\"", "max-age=60.5", "max-age=-1", "max-age", "max-age=(1 2)", "max-age=@60"] {
            max_age(field, wrong, Some(0));
        }
        assert!(of(&[("cdn-cache-control", "no-store=?0, public=?0")]).said.no_store);
        assert!(!of(&[("cdn-cache-control", "no-store=?0, public=?0")]).said.public);
        let private = of(&[("cdn-cache-control", "private=\"a, b\", max-age=1")]).said.private;
        assert_eq!(private.fields(), ["a", "b"]);
    }

    #[test]
    fn the_fields_stand_in_for_cache_control() {
        let both = of(&[("cache-control", "no-store"), ("cdn-cache-control", "max-age=5")]);
        assert!(both.targeted && !both.said.no_store);
        let lines = of(&[("cdn-cache-control", "max-age=5"), ("cdn-cache-control", "no-cache")]);
        assert!(lines.said.no_cache.is_whole() && lines.said.max_age == Some(5));
        assert!(!of(&[("cache-control", "no-store"), ("cdn-cache-control", "")]).targeted);
        let first = of(&[("surrogate-control", "no-store"), ("cdn-cache-control", "max-age=5")]);
        assert!(!first.said.no_store);
    }

    #[test]
    fn surrogate_control() {
        let field = "surrogate-control";
        max_age(field, "max-age=60", Some(60));
        max_age(field, "MaX-aGe=60", Some(60));
        max_age(field, "max-age=60;umbel", Some(60));
        max_age(field, "max-age=60;not-for-you", Some(7));
        max_age(field, "foobar", Some(7));
        max_age(field, "max-age= 60", Some(0));
        assert!(of(&[(field, "no-store-remote")]).said.no_store);
        let more = of(&[(field, "max-age=60+30")]).said;
        assert_eq!((more.max_age, more.stale_while_revalidate), (Some(60), Some(30)));
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(cdn in "[ -~]{0,60}", surrogate in "[ -~]{0,60}") {
            of(&[("cdn-cache-control", &cdn), ("surrogate-control", &surrogate)]);
        }
    }
}
