//! Comma-separated lists as HTTP writes them (RFC 9110, section 5.6.1), and quoted strings (section 5.6.4).

use std::borrow::Cow;

/// The members of a list, without the whitespace around them; empty ones are left out.
///
/// A separator within a quoted string does not separate. A quote that is never closed does not quote: what follows it is read as if the
/// quote were a letter, so that nobody hides a `no-store` behind it.
pub(crate) fn members(mut field: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut quotes = true;
    std::iter::from_fn(move || {
        while !field.is_empty() {
            let end = member_end(field, separator, &mut quotes);
            let member = field[..end].trim_ascii();
            field = field.get(end + 1..).unwrap_or_default();
            if !member.is_empty() {
                return Some(member);
            }
        }
        None
    })
}

/// Where the first member ends. Each byte is looked at once, but for those after a quote that is never closed, which are looked at twice:
/// from then on `quotes` is off.
fn member_end(field: &[u8], separator: u8, quotes: &mut bool) -> usize {
    let mut at = 0;
    while at < field.len() && field[at] != separator {
        if field[at] == b'"' && *quotes {
            match closing_quote(&field[at + 1..]) {
                Some(length) => at += length + 1,
                None => *quotes = false,
            }
        }
        at += 1;
    }
    at
}

/// The place of the quote that ends a quoted string whose opening quote has been read.
fn closing_quote(text: &[u8]) -> Option<usize> {
    let mut escaped = false;
    text.iter().position(|byte| {
        let ends = !escaped && *byte == b'"';
        escaped = !escaped && *byte == b'\\';
        ends
    })
}

/// The text of a quoted string, or `None` when it is not one.
pub(crate) fn unquote(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    let inner = text.strip_prefix(b"\"")?;
    if closing_quote(inner)? + 1 != inner.len() {
        return None;
    }
    let inner = &inner[..inner.len() - 1];
    if !inner.contains(&b'\\') {
        return Some(Cow::Borrowed(inner));
    }
    let mut escaped = false;
    let unescaped = inner.iter().copied().filter(|byte| {
        escaped = !escaped && *byte == b'\\';
        !escaped
    });
    Some(Cow::Owned(unescaped.collect()))
}

/// RFC 9110, section 5.6.2.
pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(field: &str, expected: &[&str]) {
        let got: Vec<_> = members(field.as_bytes(), b',').map(|member| str::from_utf8(member).unwrap()).collect();
        assert_eq!(got, expected, "{field}");
    }

    #[test]
    fn lists() {
        check("", &[]);
        check(" , ,", &[]);
        check("a", &["a"]);
        check(" a ,\tb,,c ", &["a", "b", "c"]);
        check("a=\"1, 2\", b", &["a=\"1, 2\"", "b"]);
        check("a=\"1\\\", 2\", b", &["a=\"1\\\", 2\"", "b"]);
        check("a=\"1, b, c", &["a=\"1", "b", "c"]);
        check("a=\"\\\", b", &["a=\"\\\"", "b"]);
    }

    #[test]
    fn quoted_strings() {
        for (text, expected) in
            [("\"\"", Some("")), ("\"a\"", Some("a")), ("\"a\\\"b\"", Some("a\"b")), ("\"a\\\\\"", Some("a\\"))]
        {
            assert_eq!(unquote(text.as_bytes()).as_deref(), expected.map(str::as_bytes), "{text}");
        }
        for text in ["", "a", "\"", "\"a", "a\"", "\"a\"b", "\"a\\\""] {
            assert_eq!(unquote(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(field in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'"'), Just(b','), Just(b'\\')], 0..80)) {
            for member in members(&field, b',') {
                prop_assert!(!member.is_empty());
                let _ = unquote(member);
            }
        }
    }
}
