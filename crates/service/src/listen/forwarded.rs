//! Whom a request came from, in the words of the proxies that passed it on: `Forwarded` (RFC 7239) and `X-Forwarded-For`.
//!
//! Each proxy adds whom it got the request from at the right end; so it is read from there, and only as long as who wrote it
//! is trusted. (The crates for it split quoted text at commas, or end the program at a lone quote.)

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use super::proxy::ForwardedField;

const FORWARDED: &str = "forwarded";
const X_FORWARDED_FOR: &str = "x-forwarded-for";
const X_FORWARDED_PROTO: &str = "x-forwarded-proto";

/// Proxies that one request may have come through; who names more is not believed.
const MOST: usize = 64;

/// What the last trusted proxy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) address: IpAddr,
    /// Whether the client came over TLS, if it says that.
    pub(super) secure: Option<bool>,
}

/// The client of a request that a trusted proxy has sent: the last address that is not trusted, or the first of all.
/// None if the fields do not say, or nothing that can be understood.
pub(super) fn client(headers: &HeaderMap, field: ForwardedField, trusts: impl Fn(IpAddr) -> bool) -> Option<Claim> {
    let hops = match field {
        ForwardedField::Forwarded => forwarded(headers)?,
        ForwardedField::XForwardedFor => x_forwarded_for(headers)?,
    };
    let mut claim = None;
    for hop in hops.into_iter().rev().map_while(|hop| hop) {
        claim = Some(hop);
        if !trusts(hop.address) {
            break;
        }
    }
    claim
}

/// From left to right; none where the address is hidden.
type Hops = Vec<Option<Claim>>;

fn lines<'a>(headers: &'a HeaderMap, name: &str) -> Option<Vec<&'a str>> {
    headers.get_all(name).iter().map(|line| line.to_str().ok()).collect()
}

fn x_forwarded_for(headers: &HeaderMap) -> Option<Hops> {
    let secure = headers.get_all(X_FORWARDED_PROTO).iter().next_back().and_then(|value| value.to_str().ok());
    let secure = secure.and_then(|protos| is_secure(protos.rsplit(',').next()?));
    let lines = lines(headers, X_FORWARDED_FOR)?;
    let members: Vec<&str> = lines.iter().flat_map(|line| line.split(',')).collect();
    let hop = |member: &str| node(member.trim()).map(|address| Claim { address, secure });
    (members.len() <= MOST).then(|| members.into_iter().map(hop).collect())
}

fn forwarded(headers: &HeaderMap) -> Option<Hops> {
    let mut hops = Hops::new();
    for line in lines(headers, FORWARDED)? {
        for element in split(line, ',')? {
            if !element.is_empty() {
                hops.push(hop(element)?);
            }
            if hops.len() > MOST {
                return None;
            }
        }
    }
    Some(hops)
}

/// One element: `for=192.0.2.7;proto=https`. None if it is malformed.
fn hop(element: &str) -> Option<Option<Claim>> {
    let (mut address, mut secure) = (None, None);
    for pair in split(element, ';')?.into_iter().filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let value = unquoted(value);
        if name.eq_ignore_ascii_case("for") {
            address = node(&value);
        } else if name.eq_ignore_ascii_case("proto") {
            secure = is_secure(&value);
        }
    }
    Some(address.map(|address| Claim { address, secure }))
}

/// At each separator that is not within quotes. None if a quote does not end.
fn split(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = text.split(|character: char| {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        character == separator && !quoted
    });
    let parts = parts.map(str::trim).collect();
    (!quoted).then_some(parts)
}

fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return value.to_owned() };
    let mut escaped = false;
    let keep = |character: &char| {
        escaped = *character == '\\' && !escaped;
        !escaped
    };
    inner.chars().filter(keep).collect()
}

/// An address, with or without a port (RFC 7239, section 6). None for `unknown` and made-up names.
fn node(text: &str) -> Option<IpAddr> {
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse().ok().or_else(with_port).or_else(bare).map(|address: IpAddr| address.to_canonical())
}

fn is_secure(proto: &str) -> Option<bool> {
    match proto.trim().to_ascii_lowercase().as_str() {
        "https" => Some(true),
        "http" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(field: ForwardedField, lines: &[(&'static str, &str)]) -> Option<(String, Option<bool>)> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        let trusts = |address: IpAddr| address.to_string().starts_with("10.");
        client(&headers, field, trusts).map(|claim| (claim.address.to_string(), claim.secure))
    }

    fn check(field: ForwardedField, lines: &[(&'static str, &str)], expected: Option<(&str, Option<bool>)>) {
        let expected = expected.map(|(address, secure)| (address.to_owned(), secure));
        assert_eq!(read(field, lines), expected, "{lines:?}");
    }

    #[test]
    fn x_forwarded_for() {
        let check = |lines: &[_], expected| check(ForwardedField::XForwardedFor, lines, expected);
        let name = "x-forwarded-for";
        check(&[(name, "192.0.2.7")], Some(("192.0.2.7", None)));
        check(&[(name, "1.1.1.1, 192.0.2.7, 10.0.0.1")], Some(("192.0.2.7", None)));
        check(&[(name, "1.1.1.1"), (name, "192.0.2.7:99")], Some(("192.0.2.7", None)));
        check(&[(name, "10.0.0.2, 10.0.0.1")], Some(("10.0.0.2", None)));
        check(&[(name, "192.0.2.7, nonsense, 10.0.0.1")], Some(("10.0.0.1", None)));
        check(&[(name, "nonsense")], None);
        check(&[("forwarded", "for=192.0.2.7")], None);
        check(&[(name, "2001:db8::7"), ("x-forwarded-proto", "http, https")], Some(("2001:db8::7", Some(true))));
        check(&[(name, &"1.1.1.1,".repeat(70))], None);
    }

    #[test]
    fn forwarded() {
        let check = |lines: &[_], expected| check(ForwardedField::Forwarded, lines, expected);
        let name = "forwarded";
        check(&[(name, "for=192.0.2.7;proto=https;by=10.0.0.1")], Some(("192.0.2.7", Some(true))));
        check(&[(name, "For=\"[2001:db8::7]:4711\"")], Some(("2001:db8::7", None)));
        check(&[(name, "for=\"[2001:db8::7]\"")], Some(("2001:db8::7", None)));
        check(&[(name, "for=1.1.1.1, for=192.0.2.7;host=\"a,b;c\\\"\", for=10.0.0.1")], Some(("192.0.2.7", None)));
        check(&[(name, "for=1.1.1.1"), (name, "for=192.0.2.7")], Some(("192.0.2.7", None)));
        check(&[(name, "for=1.1.1.1, for=unknown, for=10.0.0.1")], Some(("10.0.0.1", None)));
        check(&[(name, "for=192.0.2.7, for=_hidden")], None);
        check(&[(name, "for=192.0.2.7;host=\"")], None);
        check(&[(name, "192.0.2.7")], None);
        check(&[("x-forwarded-for", "192.0.2.7")], None);
        check(&[(name, "for=\"\\1.1.1.1\"")], Some(("1.1.1.1", None)));
    }
}
