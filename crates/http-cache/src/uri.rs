//! URIs that responses refer to, seen from the URI they answer for (RFC 3986, section 5), and which request targets are the same.

use std::borrow::Cow;

use http::header::HOST;
use http::{HeaderName, HeaderValue, Uri, request};
use url::Url;

/// Stands in where nothing says where the request was sent: then only references without an authority can be the same.
const NOWHERE: &str = "nowhere.invalid";

const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The URI a field refers to, if it is of the same origin (scheme, host and port) as the request's. In the request's form: with an
/// authority only if that has one.
pub(crate) fn same_origin(request: &request::Parts, reference: &HeaderValue) -> Option<Uri> {
    let base = absolute(request)?;
    let mut target = base.join(reference.to_str().ok()?).ok()?;
    target.set_fragment(None);
    if target.origin() != base.origin() {
        return None;
    }
    let (of_request, local) = (request.uri.authority(), &target[url::Position::BeforePath..]);
    match (of_request, request.uri.scheme_str()) {
        (Some(authority), Some(scheme)) => format!("{scheme}://{authority}{local}").parse().ok(),
        _ => local.parse().ok(),
    }
}

/// The field refers to the request's own URI.
pub(crate) fn same_resource(request: &request::Parts, reference: &HeaderValue) -> bool {
    let target = same_origin(request, reference).and_then(|target| Some(target.path_and_query()?.to_string()));
    let own = absolute(request).map(|own| own[url::Position::BeforePath..url::Position::AfterQuery].to_owned());
    target.is_some() && target == own
}

/// The target URI, as the client has it: a server that passes requests on says that in fields, which the shell does not take from
/// clients.
fn absolute(request: &request::Parts) -> Option<Url> {
    let uri = &request.uri;
    let said = |name: &HeaderName| request.headers.get(name).and_then(|value| value.to_str().ok());
    let host = said(&FORWARDED_HOST).or_else(|| uri.authority().map(http::uri::Authority::as_str));
    let host = host.or_else(|| said(&HOST)).filter(|host| !host.is_empty()).unwrap_or(NOWHERE);
    let scheme = said(&FORWARDED_PROTO).or_else(|| uri.scheme_str());
    let scheme = scheme.filter(|scheme| *scheme == "https").unwrap_or("http");
    Url::parse(&format!("{scheme}://{host}/")).ok()?.join(uri.path_and_query()?.as_str()).ok()
}

/// A request target in the one form that all have in common which mean the same whatever the scheme (RFC 3986, sections 6.2.2.1 and
/// 6.2.2.2): what needs no encoding has none, and hexadecimal digits are large. Segments of dots are left: servers differ about them.
#[must_use]
pub fn normal_target(target: &str) -> Cow<'_, str> {
    let Some(first) = target.find('%') else { return Cow::Borrowed(target) };
    let (mut normal, mut rest) = (target[..first].to_owned(), &target[first..]);
    while let Some((before, after)) = rest.split_once('%') {
        normal.push_str(before);
        let byte = after.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => normal.push(byte.into()),
            Some(byte) => normal.push_str(&format!("%{byte:02X}")),
            None => normal.push('%'),
        }
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    normal.push_str(rest);
    Cow::Owned(normal)
}

/// What targets of that form begin with that begin with this in any form. Half of an encoded character is left out: that is a
/// prefix of more.
pub(crate) fn normal_prefix(prefix: &str) -> Cow<'_, str> {
    let half = prefix.len().saturating_sub(2)..;
    let half = prefix
        .as_bytes()
        .get(half)
        .and_then(|last| last.iter().rposition(|byte| *byte == b'%').map(|at| last.len() - at));
    normal_target(&prefix[..prefix.len() - half.unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_that_are_the_same() {
        for (target, expected) in [
            ("/a?b", "/a?b"),
            ("/%70rivate", "/private"),
            ("/%c3%a4%7E?%61=%2f", "/%C3%A4~?a=%2F"),
            ("/100%", "/100%"),
            ("/%zz%4", "/%zz%4"),
            ("/%\u{e4}%41", "/%\u{e4}A"),
            ("/%2541", "/%2541"),
            ("/a/%2e%2E/b", "/a/../b"),
        ] {
            assert_eq!(normal_target(target), expected, "{target}");
        }
        for (prefix, expected) in [
            ("/%70", "/p"),
            ("/a%", "/a"),
            ("/a%7", "/a"),
            ("/a%7e", "/a~"),
            ("/", "/"),
            ("%", ""),
            ("", ""),
            ("/\u{e4}", "/\u{e4}"),
        ] {
            assert_eq!(normal_prefix(prefix), expected, "{prefix}");
        }
    }
}
