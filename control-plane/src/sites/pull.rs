//! Where the documents of a pulled site come from.

use std::ops::RangeInclusive;

use umbel_wire::control;
use url::{Position, Url};

use crate::{
    api::{Protocol, Pull},
    error::{Error, Result},
};

const MAX_UPSTREAMS: usize = 16;
const MAX_URL: usize = 300;

const FIRST_BYTE_MS: RangeInclusive<u32> = 100..=600_000;
const BETWEEN_BYTES_MS: RangeInclusive<u32> = 100..=3_600_000;

/// As it lies in the tables.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) upstreams: Vec<String>,
    /// Empty: each URL's own.
    pub(super) host: String,
    pub(super) protocol: Protocol,
    /// 0: the origin's default.
    pub(super) first_byte_ms: i32,
    pub(super) between_bytes_ms: i32,
}

impl Stored {
    pub(super) fn for_api(self) -> Option<Pull> {
        let given = |ms: i32| Some(ms.unsigned_abs()).filter(|ms| *ms > 0);
        (!self.upstreams.is_empty()).then(|| Pull {
            upstreams: self.upstreams,
            host: Some(self.host).filter(|host| !host.is_empty()),
            protocol: self.protocol,
            first_byte_ms: given(self.first_byte_ms),
            between_bytes_ms: given(self.between_bytes_ms),
        })
    }

    pub(super) fn for_wire(self) -> Option<control::Pull> {
        (!self.upstreams.is_empty()).then(|| control::Pull {
            upstreams: self.upstreams,
            host: self.host,
            protocol: self.protocol.on_wire().into(),
            first_byte_ms: self.first_byte_ms.unsigned_abs(),
            between_bytes_ms: self.between_bytes_ms.unsigned_abs(),
        })
    }
}

/// In the form in which it is stored. Whether addresses are public is for origins to see: names change.
pub(super) fn checked(pull: Option<&Pull>) -> Result<Stored> {
    let Some(pull) = pull else { return Ok(Stored::default()) };
    if pull.upstreams.is_empty() || pull.upstreams.len() > MAX_UPSTREAMS {
        return Err(Error::invalid(format!("pull: 1 to {MAX_UPSTREAMS} upstream URLs")));
    }
    let upstreams = pull.upstreams.iter().map(|url| base(url)).collect::<Result<Vec<_>>>()?;
    let host = pull.host.as_deref().map(authority).transpose()?.unwrap_or_default();
    if pull.protocol == Protocol::Http2 && !host.is_empty() {
        return Err(Error::invalid("pull: over HTTP/2 a server is told the host of its URL, and no other"));
    }
    let first_byte_ms = within(pull.first_byte_ms, FIRST_BYTE_MS, "first_byte_ms")?;
    let between_bytes_ms = within(pull.between_bytes_ms, BETWEEN_BYTES_MS, "between_bytes_ms")?;
    Ok(Stored { upstreams, host, protocol: pull.protocol, first_byte_ms, between_bytes_ms })
}

fn within(ms: Option<u32>, range: RangeInclusive<u32>, name: &str) -> Result<i32> {
    let Some(ms) = ms else { return Ok(0) };
    let fits = range.contains(&ms).then(|| i32::try_from(ms).ok()).flatten();
    fits.ok_or_else(|| Error::invalid(format!("pull: {name} is from {} to {}", range.start(), range.end())))
}

/// `https://host` or `http://host:port`, and nothing more.
fn base(text: &str) -> Result<String> {
    let bad = || Error::invalid(format!("pull: `{}` is not http(s)://host[:port] without a path", text.escape_debug()));
    let url = Url::parse(text).map_err(|_| bad())?;
    let plain = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let anonymous = url.username().is_empty() && url.password().is_none();
    if text.len() > MAX_URL || !["http", "https"].contains(&url.scheme()) || !url.has_host() || !plain || !anonymous {
        return Err(bad());
    }
    Ok(url[..Position::BeforePath].to_owned())
}

/// `host` or `host:port`.
fn authority(text: &str) -> Result<String> {
    let base =
        base(&format!("http://{text}")).map_err(|_| Error::invalid("pull: the host is not `host` or `host:port`"))?;
    Ok(base.trim_start_matches("http://").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, expected: Option<&str>) {
        assert_eq!(base(url).ok().as_deref(), expected, "{url}");
    }

    #[test]
    fn upstream_urls() {
        check("https://www.example.org", Some("https://www.example.org"));
        check("https://WWW.example.org/", Some("https://www.example.org"));
        check("http://[::1]:8080", Some("http://[::1]:8080"));
        check("https://example.org:443", Some("https://example.org"));
        for bad in
            ["", "example.org", "ftp://a", "https://", "https://a/b", "https://a?b", "https://a#b", "https://u@a"]
        {
            check(bad, None);
        }
    }

    #[test]
    fn hosts() {
        let pull = |host: &str| Pull { host: Some(host.into()), ..of_a() };
        assert_eq!(checked(Some(&pull("B.example:81"))).unwrap().host, "b.example:81");
        assert!(checked(Some(&pull("b/c"))).is_err());
        assert!(checked(Some(&Pull::default())).is_err(), "no upstream");
        assert_eq!(checked(None).unwrap(), Stored::default());
        assert!(checked(Some(&Pull { protocol: Protocol::Http2, ..pull("b") })).is_err(), "one authority");
    }

    fn of_a() -> Pull {
        Pull { upstreams: vec!["http://a".into()], ..Pull::default() }
    }

    #[test]
    fn limits() {
        let pull = |first, between| Pull { first_byte_ms: first, between_bytes_ms: between, ..of_a() };
        for (first, between, fits) in [
            (None, None, true),
            (Some(100), Some(3_600_000), true),
            (Some(99), None, false),
            (Some(600_001), None, false),
            (None, Some(0), false),
            (None, Some(u32::MAX), false),
        ] {
            let wanted = pull(first, between);
            let stored = checked(Some(&wanted)).ok();
            assert_eq!(stored.is_some(), fits, "{first:?} {between:?}");
            if let Some(stored) = stored {
                assert_eq!(stored.for_api(), Some(wanted));
            }
        }
    }
}
