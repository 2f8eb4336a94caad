//! The `Cache-Status` field (RFC 9211), written as structured fields (RFC 9651).

use std::borrow::Cow;
use std::fmt::{self, Display, Write};

use http::{HeaderValue, StatusCode};

/// Largest integer of a structured field, RFC 9651, section 3.3.1.
const MAX_INTEGER: i64 = 999_999_999_999_999;

/// Most members are no longer.
const USUAL: usize = 48;

/// Why a request went forward (RFC 9211, section 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Forward {
    /// The cache was set up not to handle this request.
    Bypass,
    /// The method's semantics ask for it.
    Method,
    /// Nothing is stored for this URI.
    UriMiss,
    /// Something is stored for this URI, but not what the selecting fields ask for.
    VaryMiss,
    /// Nothing stored could be used; no more is said.
    Miss,
    /// Something fresh is stored, but the request asks for more.
    Request,
    /// What is stored is stale.
    Stale,
    /// Only part of what was asked for is stored.
    Partial,
}

/// How one cache handled one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheStatus {
    /// The cache's name.
    pub cache: Cow<'static, str>,
    /// Why it went forward; `None` for a hit.
    pub forward: Option<Forward>,
    /// What the next server answered.
    pub forward_status: Option<StatusCode>,
    /// Seconds for which the answer is still fresh; negative when it is stale.
    pub ttl: Option<i64>,
    /// The answer was stored.
    pub stored: bool,
    /// Several requests went forward as one.
    pub collapsed: bool,
    /// Anything else.
    pub detail: Option<String>,
}

impl CacheStatus {
    /// Satisfied without going forward.
    #[must_use]
    pub fn hit(cache: impl Into<Cow<'static, str>>) -> Self {
        let cache = cache.into();
        Self { cache, forward: None, forward_status: None, ttl: None, stored: false, collapsed: false, detail: None }
    }

    /// Went forward.
    #[must_use]
    pub fn forward(cache: impl Into<Cow<'static, str>>, why: Forward) -> Self {
        Self { forward: Some(why), ..Self::hit(cache) }
    }

    /// The member that this cache adds to the field's list.
    #[must_use]
    pub fn to_value(&self) -> HeaderValue {
        let mut text = String::with_capacity(USUAL);
        write!(text, "{self}").expect("a string takes everything");
        HeaderValue::try_from(text).expect("what structured fields are made of is visible ASCII")
    }
}

impl Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_item(f, &self.cache)?;
        match self.forward {
            None => f.write_str("; hit")?,
            Some(why) => write!(f, "; fwd={}", why.as_str())?,
        }
        if let Some(status) = self.forward_status {
            write!(f, "; fwd-status={}", status.as_u16())?;
        }
        if let Some(ttl) = self.ttl {
            write!(f, "; ttl={}", ttl.clamp(-MAX_INTEGER, MAX_INTEGER))?;
        }
        for (name, _) in [("stored", self.stored), ("collapsed", self.collapsed)].iter().filter(|(_, set)| *set) {
            write!(f, "; {name}")?;
        }
        match &self.detail {
            Some(detail) => f.write_str("; detail=").and_then(|()| write_item(f, detail)),
            None => Ok(()),
        }
    }
}

impl Forward {
    /// The token of RFC 9211; also good as a metric's label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Miss => "miss",
            Self::Request => "request",
            Self::Stale => "stale",
            Self::Partial => "partial",
        }
    }
}

/// A token where the text is one, else a string.
fn write_item(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    if is_token(text) { f.write_str(text) } else { write_string(f, text) }
}

/// RFC 9651, section 3.3.3: printable ASCII, `"` and `\` escaped. What a string cannot hold becomes a `?`.
fn write_string(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            ' '..='~' => f.write_char(c)?,
            _ => f.write_char('?')?,
        }
    }
    f.write_char('"')
}

/// RFC 9651, section 3.3.4.
fn is_token(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&b);
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '*') && text.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(status: &CacheStatus, expected: &str) {
        assert_eq!(status.to_value(), expected);
    }

    /// RFC 9211, sections 3 and 2, but for the order of parameters, which means nothing.
    #[test]
    fn examples_of_the_rfc() {
        check(&CacheStatus::hit("ExampleCache"), "ExampleCache; hit");
        check(&CacheStatus { ttl: Some(376), ..CacheStatus::hit("ExampleCache") }, "ExampleCache; hit; ttl=376");
        check(&CacheStatus { ttl: Some(-412), ..CacheStatus::hit("ExampleCache") }, "ExampleCache; hit; ttl=-412");
        let stored = CacheStatus { stored: true, ..CacheStatus::forward("ExampleCache", Forward::UriMiss) };
        check(&stored, "ExampleCache; fwd=uri-miss; stored");
        let collapsed = CacheStatus { collapsed: true, ..CacheStatus::forward("ExampleCache", Forward::UriMiss) };
        check(&collapsed, "ExampleCache; fwd=uri-miss; collapsed");
        let stale = CacheStatus::forward("ExampleCache", Forward::Stale);
        let revalidated = CacheStatus { forward_status: Some(StatusCode::NOT_MODIFIED), ..stale };
        check(&revalidated, "ExampleCache; fwd=stale; fwd-status=304");
    }

    #[test]
    fn what_is_no_token_is_quoted() {
        let detail = |text: &str| CacheStatus { detail: Some(text.into()), ..CacheStatus::hit("e") };
        check(&detail("MEMORY"), "e; hit; detail=MEMORY");
        check(&detail("memory:hot/1"), "e; hit; detail=memory:hot/1");
        check(&detail("two words"), "e; hit; detail=\"two words\"");
        check(&detail("a\"b\\c"), "e; hit; detail=\"a\\\"b\\\\c\"");
        check(&detail(""), "e; hit; detail=\"\"");
        check(&detail("1st"), "e; hit; detail=\"1st\"");
        check(&detail("ü\r\n"), "e; hit; detail=\"???\"");
        check(&CacheStatus::hit("edge one"), "\"edge one\"; hit");
        check(&CacheStatus { ttl: Some(i64::MAX), ..CacheStatus::hit("e") }, "e; hit; ttl=999999999999999");
    }

    proptest! {
        #[test]
        fn nothing_gets_out_of_its_quotes(cache: String, detail: String, ttl: i64) {
            let status = CacheStatus { ttl: Some(ttl), detail: Some(detail), ..CacheStatus::hit(cache) };
            prop_assert!(status.to_value().to_str().is_ok());
        }
    }
}
