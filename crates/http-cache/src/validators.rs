//! What tells one representation from another (RFC 9110, section 8.8).

use std::time::SystemTime;

use http::HeaderValue;

use crate::date::whole_second;

/// Text that cannot stand in an entity tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an entity tag has only visible ASCII and no quotes")]
pub struct ETagError;

/// A strong entity tag (RFC 9110, section 8.8.3), kept without its quotes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ETag(Box<str>);

/// The validators of a representation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validators {
    etag: ETag,
    last_modified: Option<SystemTime>,
}

impl ETag {
    /// The tag with this text, which comes without quotes.
    ///
    /// # Errors
    /// When the text cannot stand in a tag.
    pub fn strong(text: &str) -> Result<Self, ETagError> {
        let allowed = |b: u8| b.is_ascii_graphic() && b != b'"';
        if !text.bytes().all(allowed) {
            return Err(ETagError);
        }
        Ok(Self(text.into()))
    }

    /// The text without quotes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tag as it is sent, with quotes.
    #[must_use]
    pub fn to_value(&self) -> HeaderValue {
        HeaderValue::try_from(format!("\"{}\"", self.0)).expect("strong() allows only visible ASCII")
    }
}

impl Validators {
    /// The tag must differ between any two representations. A date that two versions of one object share, because they came within one
    /// second, must be left out (or moved): it is taken for a strong validator (RFC 9110, section 8.8.2.2), with which clients put the
    /// pieces of a file together.
    #[must_use]
    pub fn new(etag: ETag, last_modified: Option<SystemTime>) -> Self {
        Self { etag, last_modified: last_modified.map(whole_second) }
    }

    /// The entity tag.
    #[must_use]
    pub const fn etag(&self) -> &ETag {
        &self.etag
    }

    /// When the representation came to be, in whole seconds.
    #[must_use]
    pub const fn last_modified(&self) -> Option<SystemTime> {
        self.last_modified
    }
}

/// An entity tag in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestTag<'a> {
    weak: bool,
    opaque: &'a [u8],
}

impl<'a> RequestTag<'a> {
    /// Reads one tag off the front; also returns what follows.
    pub(crate) fn read(text: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let weak = text.starts_with(b"W/");
        let quoted = if weak { &text[2..] } else { text };
        let opaque = quoted.strip_prefix(b"\"")?;
        let end = opaque.iter().position(|b| *b == b'"')?;
        let allowed = opaque[..end].iter().all(|b| *b > b' ' && *b != 0x7f);
        allowed.then(|| (Self { weak, opaque: &opaque[..end] }, &opaque[end + 1..]))
    }

    pub(crate) const fn is_weak(&self) -> bool {
        self.weak
    }

    /// Its text without quotes.
    pub(crate) const fn opaque(&self) -> &'a [u8] {
        self.opaque
    }

    /// RFC 9110, section 8.8.3.2: the same as the tag of a stored response, whether weak or strong.
    pub(crate) fn is_weakly(&self, other: &RequestTag<'_>) -> bool {
        self.opaque == other.opaque
    }

    /// RFC 9110, section 8.8.3.2: both strong and the same.
    pub(crate) fn is_strongly(&self, other: &RequestTag<'_>) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }

    /// The one tag that a field holds.
    pub(crate) fn only(field: &'a HeaderValue) -> Option<Self> {
        Self::read(field.as_bytes().trim_ascii()).filter(|(_, rest)| rest.is_empty()).map(|(tag, _)| tag)
    }

    /// RFC 9110, section 8.8.3.2: both strong and the same.
    pub(crate) fn matches_strongly(&self, etag: &ETag) -> bool {
        !self.weak && self.matches_weakly(etag)
    }

    /// RFC 9110, section 8.8.3.2: the same, whether weak or strong.
    pub(crate) fn matches_weakly(&self, etag: &ETag) -> bool {
        self.opaque == etag.0.as_bytes()
    }
}

/// Does `*` or any tag of these fields match? What is not a tag ends its field's list.
pub(crate) fn any_tag<'a>(
    fields: impl Iterator<Item = &'a HeaderValue>,
    matches: impl Fn(&RequestTag<'_>) -> bool,
) -> bool {
    fields.map(|field| field.as_bytes().trim_ascii()).any(|list| list == b"*" || tags(list).any(|tag| matches(&tag)))
}

pub(crate) fn tags(mut list: &[u8]) -> impl Iterator<Item = RequestTag<'_>> {
    std::iter::from_fn(move || {
        let start = list.iter().position(|b| !matches!(b, b' ' | b'\t' | b','))?;
        let (tag, rest) = RequestTag::read(&list[start..])?;
        list = rest;
        Some(tag)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(field: &'static str, expected: &[(bool, &str)]) {
        let got: Vec<_> = tags(field.as_bytes()).map(|tag| (tag.weak, tag.opaque)).collect();
        let expected: Vec<_> = expected.iter().map(|(weak, text)| (*weak, text.as_bytes())).collect();
        assert_eq!(got, expected, "{field}");
    }

    #[test]
    fn lists_of_tags() {
        check("", &[]);
        check("\"\"", &[(false, "")]);
        check("\"xyzzy\"", &[(false, "xyzzy")]);
        check("W/\"xyzzy\"", &[(true, "xyzzy")]);
        check("\"xyzzy\", \"r2d2xxxx\", \"c3piozzzz\"", &[(false, "xyzzy"), (false, "r2d2xxxx"), (false, "c3piozzzz")]);
        check(",\t\"a\" ,, W/\"b\",", &[(false, "a"), (true, "b")]);
        check("\"a,b\"", &[(false, "a,b")]);
        check("w/\"a\"", &[]);
        check("\"a\", b, \"c\"", &[(false, "a")]);
        check("\"a", &[]);
        check("\"a b\"", &[]);
    }

    /// RFC 9110, section 8.8.3.2, the table; our own tags are always strong.
    #[test]
    fn comparison() {
        let ours = ETag::strong("1").unwrap();
        for (theirs, strong, weak) in [("W/\"1\"", false, true), ("W/\"2\"", false, false), ("\"1\"", true, true)] {
            let (tag, _) = RequestTag::read(theirs.as_bytes()).unwrap();
            assert_eq!((tag.matches_strongly(&ours), tag.matches_weakly(&ours)), (strong, weak), "{theirs}");
        }
    }

    #[test]
    fn our_own_tags() {
        assert_eq!(ETag::strong("00ff-x").unwrap().to_value(), "\"00ff-x\"");
        for wrong in ["a\"b", "a b", "ä", "\n", "\0"] {
            assert_eq!(ETag::strong(wrong), Err(ETagError), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(list in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'"'), Just(b','), Just(b'W'), Just(b'/')], 0..60)) {
            let _ = tags(&list).count();
        }

        #[test]
        fn tags_are_found_wherever_they_stand(before in "[a-z,]{0,9}", ours in "[!#-~]{0,20}", after in "[a-z,]{0,9}") {
            let etag = ETag::strong(&ours).unwrap();
            let field = HeaderValue::try_from(format!("W/\"{before}\" , {} ,\"{after}\"", etag.to_value().to_str().unwrap())).unwrap();
            prop_assert!(any_tag([&field].into_iter(), |tag| tag.matches_strongly(&etag)));
        }
    }
}
