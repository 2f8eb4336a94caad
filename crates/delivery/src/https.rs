//! `[https]`: plain HTTP is sent to https, and browsers are told to remember it (RFC 6797).

use std::time::Duration;

use http::{HeaderValue, uri::PathAndQuery};

use crate::{mistakes::Mistakes, proto};

/// What the lists that browsers come with want (hstspreload.org).
const PRELOAD: Duration = Duration::from_secs(31_536_000);

/// As if no document said anything: only https.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Https {
    /// Plain HTTP is answered, too.
    pub allow_plain: bool,
    /// `Strict-Transport-Security` of answers over TLS; over plain HTTP it must not be sent (RFC 6797, section 7.2).
    pub strict: Option<HeaderValue>,
}

impl Https {
    pub(crate) fn read(written: &proto::Https, mistakes: &mut Mistakes) -> Self {
        let strict = written.hsts.as_ref().map(|hsts| strict(hsts, mistakes));
        Self { allow_plain: written.allow_plain, strict }
    }
}

fn strict(written: &proto::Hsts, mistakes: &mut Mistakes) -> HeaderValue {
    let max_age = mistakes.time("https.hsts.max_age", &written.max_age);
    if written.max_age.is_empty() {
        mistakes.add("https.hsts.max_age", "is missing: how long browsers are to remember, such as `180d`");
    }
    let max_age = max_age.unwrap_or_default();
    if written.preload && (max_age < PRELOAD || !written.include_subdomains) {
        mistakes.add("https.hsts.preload", "browsers' lists want include_subdomains and a max_age of at least `365d`");
    }
    let subdomains = if written.include_subdomains { "; includeSubDomains" } else { "" };
    let preload = if written.preload { "; preload" } else { "" };
    let text = format!("max-age={}{subdomains}{preload}", max_age.as_secs());
    HeaderValue::try_from(text).expect("words and a number")
}

/// Where a request over plain HTTP is sent to: the same at `host`, which may come with a port, over https at `port`. The host is to be one
/// that the site has. None if it is none at all.
#[must_use]
pub fn location(host: &str, port: u16, target: Option<&PathAndQuery>) -> Option<HeaderValue> {
    let name = match host.rsplit_once(':') {
        Some((name, digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    // `*`, the target of OPTIONS, is none at another server.
    let target = target.map_or("/", PathAndQuery::as_str);
    let target = if target.starts_with('/') { target } else { "/" };
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    HeaderValue::try_from(format!("https://{name}{port}{target}")).ok().filter(|_| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tests::{mistakes, rules};

    #[test]
    fn hsts() {
        for (written, expected) in [
            ("max_age = '1h'", "max-age=3600"),
            ("max_age = '0s'", "max-age=0"),
            ("max_age = '180d', include_subdomains = true", "max-age=15552000; includeSubDomains"),
            (
                "max_age = '365d', include_subdomains = true, preload = true",
                "max-age=31536000; includeSubDomains; preload",
            ),
        ] {
            assert_eq!(rules(&format!("https.hsts = {{ {written} }}")).https.strict.unwrap(), expected);
        }
        assert_eq!(mistakes("https.hsts = { preload = true }"), ["https.hsts.max_age", "https.hsts.preload"]);
        assert_eq!(mistakes("https.hsts = { max_age = 'long' }"), ["https.hsts.max_age"]);
        assert_eq!(rules(""), crate::Rules::default());
    }

    #[test]
    fn locations() {
        for (host, port, target, expected) in [
            ("a.test", 443, "/x?y=%20", Some("https://a.test/x?y=%20")),
            ("a.test:80", 443, "/", Some("https://a.test/")),
            ("a.test:80", 8443, "//b.test/", Some("https://a.test:8443//b.test/")),
            ("[::1]:80", 8443, "/", Some("https://[::1]:8443/")),
            ("a.test", 443, "*", Some("https://a.test/")),
            (":80", 443, "/", None),
        ] {
            let found = location(host, port, Some(&target.parse().unwrap()));
            assert_eq!(found.as_ref().map(|value| value.to_str().unwrap()), expected);
        }
    }
}
