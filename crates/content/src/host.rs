//! Host names as requests have them, in the form in which a site is found by them.

/// Longest host name in DNS.
const MAX_HOST: usize = 253;

/// Lower case, without port and final dot; none if it is no host at all, or no port.
#[must_use]
pub fn host_name(host: &str) -> Option<String> {
    let host = match host.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            // RFC 3986, section 3.2.3, allows none after the colon.
            if !port.is_empty() && port.parse::<u16>().is_err() {
                return None;
            }
            host
        }
        _ => host,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'[' | b']' | b':');
    let good = !host.is_empty() && host.len() <= MAX_HOST && host.bytes().all(fine);
    good.then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let check = |host: &str, expected: Option<&str>| assert_eq!(host_name(host).as_deref(), expected, "{host}");
        check("Docs.TEST", Some("docs.test"));
        check("docs.test.:8443", Some("docs.test"));
        check("docs.test:", Some("docs.test"));
        check("docs.test:65535", Some("docs.test"));
        check("docs.test:65536", None);
        check("[::1]:80", Some("[::1]"));
        check("", None);
        check(".", None);
        check("a/b", None);
        check("d\u{f6}cs.test", None);
        check(&"a".repeat(254), None);
    }
}
