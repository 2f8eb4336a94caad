//! Whom a request came from, in the words of the proxies that passed it on: `Forwarded` (RFC 7239) and `X-Forwarded-For`.
//!
//! Each proxy adds whom it got the request from at the right end; so it is read from there, and only as long as who wrote it
//! is trusted. (The crates for it split quoted text at commas, or end the program at a lone quote.)

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue};

use super::proxy::ForwardedField;

const FORWARDED: &str = "forwarded";
const X_FORWARDED_FOR: &str = "x-forwarded-for";
const X_FORWARDED_PROTO: &str = "x-forwarded-proto";

/// Proxies that one request may have come through; what more are named is not read.
const MOST: usize = 64;

/// What the last trusted proxy says, and those before it that it got the request from, as long as they are trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Claim {
    /// Of the client; none: nobody says that, or not so that it can be understood.
    pub(super) address: Option<IpAddr>,
    /// Whether the client came over TLS, if they say that.
    pub(super) secure: Option<bool>,
}

/// The client of a request that a trusted proxy has sent: the last address that is not trusted, or the first of all. Whatever
/// stands to the left of it is a client's to write, and is not read.
pub(super) fn client(headers: &HeaderMap, field: ForwardedField, trusts: impl Fn(IpAddr) -> bool) -> Claim {
    match field {
        ForwardedField::Forwarded => walk(Claim::default(), forwarded(headers), trusts),
        ForwardedField::XForwardedFor => {
            let said = Claim { address: None, secure: x_forwarded_proto(headers) };
            walk(said, members(headers).map(|member| Claim { address: x_node(member), ..said }), trusts)
        }
    }
}

/// Whether the client came over TLS, as the trusted proxy that the request came from says; of its address nothing is read.
pub(super) fn secure(headers: &HeaderMap, field: ForwardedField) -> Option<bool> {
    match field {
        ForwardedField::Forwarded => forwarded(headers).next()?.secure,
        ForwardedField::XForwardedFor => x_forwarded_proto(headers),
    }
}

fn walk(mut claim: Claim, hops: impl Iterator<Item = Claim>, trusts: impl Fn(IpAddr) -> bool) -> Claim {
    for hop in hops.take(MOST) {
        let Some(address) = hop.address else {
            return Claim { secure: hop.secure.or(claim.secure), ..claim };
        };
        claim = hop;
        if !trusts(address) {
            break;
        }
    }
    claim
}

/// From right to left.
fn lines<'a>(headers: &'a HeaderMap, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).iter().rev().map(HeaderValue::as_bytes)
}

fn members(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    lines(headers, X_FORWARDED_FOR).flat_map(|line| line.rsplit(|byte| *byte == b','))
}

fn x_node(member: &[u8]) -> Option<IpAddr> {
    node(str::from_utf8(member).ok()?.trim())
}

fn x_forwarded_proto(headers: &HeaderMap) -> Option<bool> {
    let last = lines(headers, X_FORWARDED_PROTO).next()?.rsplit(|byte| *byte == b',').next()?;
    is_secure(str::from_utf8(last).ok()?)
}

fn forwarded(headers: &HeaderMap) -> impl Iterator<Item = Claim> {
    let elements = lines(headers, FORWARDED).flat_map(|line| RightToLeft(Some(line)));
    elements.filter(|element| !element.trim_ascii().is_empty()).map(|element| hop(element).unwrap_or_default())
}

/// The elements of a line, each of which ends at a comma that is not within quotes, as far as can be told from the right: a quote
/// that a client has begun does not take in what a proxy has added behind it.
struct RightToLeft<'a>(Option<&'a [u8]>);

impl<'a> Iterator for RightToLeft<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let line = self.0.take()?;
        let mut quoted = false;
        let comma = line.iter().enumerate().rev().find(|(index, byte)| {
            let is_escaped = || {
                let before = line.get(..*index).unwrap_or_default();
                before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
            };
            quoted ^= **byte == b'"' && !(quoted && is_escaped());
            **byte == b',' && !quoted
        });
        let Some((comma, _)) = comma else { return Some(line) };
        let (rest, element) = line.split_at(comma);
        self.0 = Some(rest);
        element.get(1..)
    }
}

/// One element: `for=192.0.2.7;proto=https`. None if it is malformed.
fn hop(element: &[u8]) -> Option<Claim> {
    let mut claim = Claim::default();
    for pair in pairs(str::from_utf8(element).ok()?)?.into_iter().filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let value = unquoted(value);
        if name.eq_ignore_ascii_case("for") {
            claim.address = node(&value);
        } else if name.eq_ignore_ascii_case("proto") {
            claim.secure = is_secure(&value);
        }
    }
    Some(claim)
}

/// At each semicolon that is not within quotes. None if a quote does not end.
fn pairs(text: &str) -> Option<Vec<&str>> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = text.split(|character: char| {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        character == ';' && !quoted
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

    fn read(field: ForwardedField, lines: &[(&'static str, &str)]) -> (String, Option<bool>) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let trusts = |address: IpAddr| address.to_string().starts_with("10.");
        let claim = client(&headers, field, trusts);
        (claim.address.map_or(String::new(), |address| address.to_string()), claim.secure)
    }

    type Line<'a> = (&'static str, &'a str);
    type Said<'a> = (&'a str, Option<bool>);

    fn check(field: ForwardedField, lines: &[Line], (address, secure): Said) {
        assert_eq!(read(field, lines), (address.to_owned(), secure), "{lines:?}");
    }

    #[test]
    fn x_forwarded_for() {
        let check = |lines: &[Line], said: Said| check(ForwardedField::XForwardedFor, lines, said);
        let name = "x-forwarded-for";
        check(&[(name, "192.0.2.7")], ("192.0.2.7", None));
        check(&[(name, "1.1.1.1, 192.0.2.7, 10.0.0.1")], ("192.0.2.7", None));
        check(&[(name, "1.1.1.1"), (name, "192.0.2.7:99")], ("192.0.2.7", None));
        check(&[(name, "10.0.0.2, 10.0.0.1")], ("10.0.0.2", None));
        check(&[(name, "192.0.2.7, nonsense, 10.0.0.1")], ("10.0.0.1", None));
        check(&[(name, "nonsense")], ("", None));
        check(&[("forwarded", "for=192.0.2.7")], ("", None));
        check(&[(name, "2001:db8::7"), ("x-forwarded-proto", "http, https")], ("2001:db8::7", Some(true)));
        check(&[(name, &"1.1.1.1,".repeat(70))], ("", None));
        check(&[(name, &format!("{}192.0.2.7", "1.1.1.1,".repeat(70)))], ("192.0.2.7", None));
        check(&[(name, &format!("1.1.1.1{}", ",10.0.0.1".repeat(70)))], ("10.0.0.1", None));
        check(&[(name, "\u{e4}"), (name, "\u{e4}, 192.0.2.7")], ("192.0.2.7", None));
        check(&[("x-forwarded-proto", "\u{e4}, https")], ("", Some(true)));
    }

    #[test]
    fn forwarded() {
        let check = |lines: &[Line], said: Said| check(ForwardedField::Forwarded, lines, said);
        let name = "forwarded";
        check(&[(name, "for=192.0.2.7;proto=https;by=10.0.0.1")], ("192.0.2.7", Some(true)));
        check(&[(name, "For=\"[2001:db8::7]:4711\"")], ("2001:db8::7", None));
        check(&[(name, "for=\"[2001:db8::7]\"")], ("2001:db8::7", None));
        check(&[(name, "for=1.1.1.1, for=192.0.2.7;host=\"a,b;c\\\"\", for=10.0.0.1")], ("192.0.2.7", None));
        check(&[(name, "for=1.1.1.1"), (name, "for=192.0.2.7")], ("192.0.2.7", None));
        check(&[(name, "for=1.1.1.1, for=unknown, for=10.0.0.1")], ("10.0.0.1", None));
        check(&[(name, "for=192.0.2.7, for=_hidden")], ("", None));
        check(&[(name, "for=192.0.2.7;host=\"")], ("", None));
        check(&[(name, "192.0.2.7")], ("", None));
        check(&[("x-forwarded-for", "192.0.2.7")], ("", None));
        check(&[(name, "for=\"\\1.1.1.1\"")], ("1.1.1.1", None));
        check(&[(name, "proto=https")], ("", Some(true)));
        check(&[(name, "for=1.1.1.1;proto=http, for=unknown;proto=https, for=10.0.0.1")], ("10.0.0.1", Some(true)));
        for junk in ["for=\"", "\"", "\\", "\\\"", "\u{e4}", ",,,", "for", "for=\"\\", &"for=1.1.1.1,".repeat(70)] {
            for claim in ["for=192.0.2.7;proto=https", "proto=https;for=\"192.0.2.7:9\";host=\"a,\\\\\\\"b\""] {
                check(&[(name, &format!("{junk}, {claim}"))], ("192.0.2.7", Some(true)));
                check(&[(name, &format!("{junk},{claim}, for=10.0.0.1"))], ("192.0.2.7", Some(true)));
                check(&[(name, junk), (name, claim), (name, "for=10.0.0.1")], ("192.0.2.7", Some(true)));
            }
        }
    }
}
