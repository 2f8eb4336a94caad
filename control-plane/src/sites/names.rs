//! What sites, hosts and reader keys may be called.

use std::net::IpAddr;

use crate::error::{Error, Result};

/// 3 to 63 of a-z, 0-9 and `-`, beginning and ending with a letter or digit: good as a DNS label and as an S3 bucket.
pub(super) fn check_site_name(name: &str) -> Result<()> {
    if (3..=63).contains(&name.len()) && is_label(name) {
        return Ok(());
    }
    Err(Error::invalid("site name: 3 to 63 of a-z, 0-9, `-`, beginning and ending with a letter or digit"))
}

/// A DNS name or an IP address, in the form in which it is stored: lower case, no port, no final dot.
pub(crate) fn check_host(host: &str) -> Result<String> {
    const EXPECTED: Error =
        Error::Invalid(std::borrow::Cow::Borrowed("host: a DNS name or an IP address, without port"));
    if host.len() > 253 {
        return Err(EXPECTED);
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let labels = host.split('.').all(|label| (1..=63).contains(&label.len()) && is_label(label));
    // A name that ends in a number is no DNS name but an address written badly.
    let number = host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if labels && !number { Ok(host) } else { Err(EXPECTED) }
}

/// A host that a site may have, as [`check_host`] has it. `localhost` is every machine's name for itself, edges' too.
pub(super) fn check_site_host(host: &str) -> Result<String> {
    match check_host(host)? {
        host if host == "localhost" => Err(Error::invalid("host: localhost is no site's, something.localhost may be")),
        host => Ok(host),
    }
}

pub(super) fn check_reader_key_id(id: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=64).contains(&id.len()) && id.bytes().all(fits) {
        return Ok(());
    }
    Err(Error::invalid("reader key id: 1 to 64 of a-z, A-Z, 0-9, `-`, `_`, `.`"))
}

fn is_label(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.bytes().all(inside) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn site_names() {
        let long = "a".repeat(64);
        for (name, fits) in [
            ("abc", true),
            ("a-1", true),
            ("ab", false),
            (&long[..63], true),
            (&long, false),
            ("-abc", false),
            ("abc-", false),
            ("Abc", false),
            ("a.b.c", false),
            ("a\0bc", false),
            ("../etc", false),
        ] {
            assert_eq!(check_site_name(name).is_ok(), fits, "{name}");
        }
    }

    #[test]
    fn localhost_is_no_sites() {
        for (host, fits) in
            [("localhost", false), ("LocalHost.", false), ("demo.localhost", true), ("localhost.net", true)]
        {
            assert_eq!(check_site_host(host).is_ok(), fits, "{host}");
        }
    }

    #[test]
    fn hosts() {
        let long = format!("{}.{}", "a".repeat(63), "b".repeat(64));
        for (host, expected) in [
            ("Example.NET", Some("example.net")),
            ("example.net.", Some("example.net")),
            ("localhost", Some("localhost")),
            ("127.0.0.1", Some("127.0.0.1")),
            ("::1", Some("::1")),
            ("xn--bcher-kva.example", Some("xn--bcher-kva.example")),
            ("127.0.0", None),
            ("example.net:443", None),
            ("*.example.net", None),
            ("a..b", None),
            ("", None),
            (".", None),
            ("a b", None),
            ("b\u{fc}cher.example", None),
            (&long, None),
        ] {
            assert_eq!(check_host(host).ok().as_deref(), expected, "{host}");
        }
    }
}
