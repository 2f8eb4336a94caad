//! How a grant travels in plain HTTP: as bearer token (RFC 6750), in a URL's query, or as a cookie (RFC 6265). Here it is found
//! in a request, taken out of what goes on to others, and put into URLs.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::{AUTHORIZATION, COOKIE, REFERER},
    request::Parts,
};

use crate::control::{Carrier, Policy};

/// Query parameter and cookie.
pub const NAME: &str = "umbel_grant";

/// How many tokens of one request are looked at: signatures cost time.
pub const MOST: usize = 8;

/// Where a site takes grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carriers {
    /// `Authorization: Bearer`
    pub bearer: bool,
    /// `?umbel_grant=`
    pub query: bool,
    /// `Cookie: umbel_grant=`
    pub cookie: bool,
}

impl Carriers {
    /// Everywhere.
    pub const ALL: Self = Self { bearer: true, query: true, cookie: true };

    /// What the policy says, or everywhere. What this program does not know is nothing that it takes grants from.
    pub fn of(policy: &Policy) -> Self {
        if policy.carriers.is_empty() {
            return Self::ALL;
        }
        let has = |wanted: Carrier| policy.carriers().any(|carrier| carrier == wanted);
        Self { bearer: has(Carrier::Bearer), query: has(Carrier::Query), cookie: has(Carrier::Cookie) }
    }

    /// The first [`MOST`] tokens that a request brings; any may be the good one.
    pub fn brought<'a>(self, headers: &'a HeaderMap, uri: &'a Uri) -> impl Iterator<Item = &'a str> {
        let bearers = self.bearer.then(|| bearers(headers)).into_iter().flatten();
        let queries = self.query.then(|| parameters(uri.query().unwrap_or_default())).into_iter().flatten();
        let cookies = self.cookie.then(|| cookies(headers)).into_iter().flatten();
        bearers.chain(queries).chain(cookies).take(MOST)
    }

    /// Takes grants out of a request that goes on to the provider's server: they are neither part of the object's name nor
    /// secrets to hand on. In query, cookies and `Referer` the name is ours, whatever is accepted; a bearer token is the
    /// provider's own business where none is taken as a grant. All else stays as it is, byte for byte.
    pub fn take_out(self, request: &mut Parts) {
        if self.bearer {
            keep(&mut request.headers, AUTHORIZATION, |value| (!is_bearer(value)).then(|| value.clone()));
        }
        keep(&mut request.headers, COOKIE, other_cookies);
        keep(&mut request.headers, REFERER, without_grant_in_value);
        take_out_parameter(&mut request.uri);
    }
}

/// The bearer token of a request.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    bearers(headers).next()
}

fn bearers(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let credentials = headers.get_all(AUTHORIZATION).iter().filter_map(|value| value.to_str().ok()?.split_once(' '));
    credentials.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim())
}

fn is_bearer(value: &HeaderValue) -> bool {
    value.as_bytes().split(|byte| *byte == b' ').next().is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer"))
}

/// Tokens in a query. Their letters need no percent-encoding.
fn parameters(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).filter(|(name, _)| *name == NAME).map(|(_, value)| value)
}

fn is_parameter(pair: &str) -> bool {
    pair.split_once('=').map_or(pair, |(name, _)| name) == NAME
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(cookie)
}

/// The token, if this pair of a `Cookie` field is ours. Quotes around a value are part of it to some, so they are no part of it here.
fn cookie(pair: &[u8]) -> Option<&str> {
    let value = pair.trim_ascii().strip_prefix(NAME.as_bytes())?.trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
    let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    std::str::from_utf8(quoted.unwrap_or(value)).ok()
}

fn is_cookie(pair: &[u8]) -> bool {
    pair.split(|byte| *byte == b'=').next().is_some_and(|name| name.trim_ascii() == NAME.as_bytes())
}

fn other_cookies(value: &HeaderValue) -> Option<HeaderValue> {
    let pairs = || value.as_bytes().split(|byte| *byte == b';');
    if !pairs().any(is_cookie) {
        return Some(value.clone());
    }
    let others = pairs().filter(|pair| !is_cookie(pair)).collect::<Vec<_>>().join(&b';');
    // Part of a good value is a good value.
    HeaderValue::from_bytes(others.trim_ascii()).ok().filter(|value| !value.is_empty())
}

/// All lines of a field through `kept`, which may leave some out. What stays as it is costs nothing.
fn keep(headers: &mut HeaderMap, name: HeaderName, kept: impl Fn(&HeaderValue) -> Option<HeaderValue>) {
    if headers.get_all(&name).iter().all(|value| kept(value).as_ref() == Some(value)) {
        return;
    }
    let values: Vec<_> = headers.get_all(&name).iter().filter_map(kept).collect();
    headers.remove(&name);
    headers.extend(values.into_iter().map(|value| (name.clone(), value)));
}

fn without_grant_in_value(value: &HeaderValue) -> Option<HeaderValue> {
    let Ok(url) = value.to_str() else { return Some(value.clone()) };
    match without_grant(url) {
        Cow::Borrowed(_) => Some(value.clone()),
        Cow::Owned(rest) => rest.parse().ok(),
    }
}

fn take_out_parameter(uri: &mut Uri) {
    let Some(target) = uri.path_and_query() else { return };
    let Cow::Owned(rest) = without_grant(target.as_str()) else { return };
    let mut parts = std::mem::take(uri).into_parts();
    // A part of a target that was good is a good target.
    parts.path_and_query = rest.parse().ok();
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

/// A URL or request target as it may be shown to others, for example in a log.
pub fn without_grant(url: &str) -> Cow<'_, str> {
    let (before, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
    let Some((path, query)) = before.split_once('?') else { return url.into() };
    if !query.split('&').any(is_parameter) {
        return url.into();
    }
    let others: Vec<_> = query.split('&').filter(|pair| !is_parameter(pair)).collect();
    let mark = if others.is_empty() { "" } else { "?" };
    format!("{path}{mark}{}{fragment}", others.join("&")).into()
}

/// The URL that brings this grant and no other.
pub fn signed_url(url: &str, token: &str) -> String {
    let plain = without_grant(url);
    let (before, fragment) = plain.split_at(plain.find('#').unwrap_or(plain.len()));
    let mark = if before.contains('?') { '&' } else { '?' };
    format!("{before}{mark}{NAME}={token}{fragment}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BEARER: Carriers = Carriers { bearer: true, query: false, cookie: false };
    const QUERY: Carriers = Carriers { bearer: false, query: true, cookie: false };
    const COOKIES: Carriers = Carriers { bearer: false, query: false, cookie: true };

    fn request(target: &str, fields: &[(&str, &str)]) -> Parts {
        let builder = http::Request::get(target);
        let builder = fields.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
        builder.body(()).unwrap().into_parts().0
    }

    fn check(carriers: Carriers, target: &str, fields: &[(&str, &str)], expected: &[&str]) {
        let request = request(target, fields);
        let found: Vec<_> = carriers.brought(&request.headers, &request.uri).collect();
        assert_eq!(found, expected, "{target} {fields:?}");
    }

    #[test]
    fn where_a_grant_may_stand() {
        let all = Carriers::ALL;
        let (query, bearer, cookie) =
            ("/x?a=b&umbel_grant=q&c", ("authorization", "bearer h"), ("cookie", "umbel_grant=c"));
        check(all, query, &[("authorization", "Basic abc")], &["q"]);
        check(all, query, &[cookie, bearer], &["h", "q", "c"]);
        check(BEARER, query, &[cookie, bearer], &["h"]);
        check(QUERY, query, &[cookie, bearer], &["q"]);
        check(COOKIES, query, &[cookie, bearer], &["c"]);
        check(all, "/x", &[], &[]);
        check(all, "/x?umbel_grantx=1&xumbel_grant=2&umbel_grant&UMBEL_GRANT=3", &[], &[]);
        check(all, "/umbel_grant=1?umbel_grant=2&umbel_grant=3", &[], &["2", "3"]);
        check(
            COOKIES,
            "/",
            &[("cookie", "a=b; umbel_grant=1;umbel_grant=2; c"), ("cookie", "umbel_grant=\"3\"")],
            &["1", "2", "3"],
        );
        check(COOKIES, "/", &[("cookie", "a=umbel_grant=1; Umbel_grant=2; umbel_grantx=3")], &[]);
        let many = (0..30).map(|number| format!("umbel_grant={number}")).collect::<Vec<_>>().join("; ");
        check(COOKIES, "/", &[("cookie", &many)], &["0", "1", "2", "3", "4", "5", "6", "7"]);
    }

    #[test]
    fn a_policy_names_carriers() {
        let policy = |carriers: &[i32]| Carriers::of(&Policy { carriers: carriers.to_vec(), ..Policy::default() });
        assert_eq!(policy(&[]), Carriers::ALL);
        assert_eq!(policy(&[Carrier::Cookie.into(), 77]), COOKIES);
        assert_eq!(policy(&[77]), Carriers { bearer: false, query: false, cookie: false });
    }

    fn check_out(carriers: Carriers, fields: &[(&str, &str)], expected: &[(&str, &str)]) {
        let mut taken = request("/", fields);
        carriers.take_out(&mut taken);
        assert_eq!(taken.headers, request("/", expected).headers, "{fields:?}");
    }

    #[test]
    fn a_grant_does_not_go_on() {
        let basic = ("authorization", "Basic x");
        check_out(Carriers::ALL, &[("authorization", "Bearer g"), basic], &[basic]);
        check_out(Carriers::ALL, &[("authorization", "bearer")], &[]);
        check_out(QUERY, &[("authorization", "Bearer g")], &[("authorization", "Bearer g")]);
        check_out(QUERY, &[("cookie", "umbel_grant=g")], &[]);
        for (cookies, rest) in [
            ("a=1; umbel_grant=g; b=\"2 \"", "a=1; b=\"2 \""),
            ("umbel_grant=g; a=1;b;=;c=umbel_grant=", "a=1;b;=;c=umbel_grant="),
            ("a=1;umbel_grant=g", "a=1"),
            ("umbel_grant;a", "a"),
            ("a ;; b ;", "a ;; b ;"),
        ] {
            check_out(QUERY, &[("cookie", cookies)], &[("cookie", rest)]);
        }
        check_out(
            QUERY,
            &[
                ("referer", "https://a.test/x?b&umbel_grant=g"),
                ("cookie", "a"),
                ("cookie", "umbel_grant=g"),
                ("cookie", "b"),
            ],
            &[("referer", "https://a.test/x?b"), ("cookie", "a"), ("cookie", "b")],
        );
    }

    #[test]
    fn urls() {
        for (url, rest) in [
            ("https://a.test/x?a=b&umbel_grant=q&c", "https://a.test/x?a=b&c"),
            ("/x?umbel_grant=q", "/x"),
            ("/x?umbel_grant=q&umbel_grant=r#f?umbel_grant=s", "/x#f?umbel_grant=s"),
            ("/x?a=%20", "/x?a=%20"),
            ("/x?", "/x?"),
            ("/x?&umbel_grant&", "/x?&"),
            ("/umbel_grant=1", "/umbel_grant=1"),
        ] {
            assert_eq!(without_grant(url), rest);
            let signed = signed_url(url, "t");
            assert_eq!(without_grant(&signed), rest, "{signed}");
        }
        assert_eq!(signed_url("https://a.test/x?a&umbel_grant=old#f", "new"), "https://a.test/x?a&umbel_grant=new#f");
    }

    /// Pieces of what matters, in any order.
    fn text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![Just("umbel_grant".to_owned()), "[ -~]{0,3}", "[=;&?# \"/]",];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn taken_out_is_gone_and_others_stay(query in text(), cookies in text(), authorization in text()) {
            let mut request = request("/x", &[]);
            let target = format!("/x?{}", query.replace([' ', '#', '"'], ""));
            let Ok(uri) = target.parse::<Uri>() else { return Ok(()) };
            request.uri = uri;
            for (name, value) in [(COOKIE, &cookies), (AUTHORIZATION, &authorization), (REFERER, &query)] {
                request.headers.insert(name, HeaderValue::from_str(value).unwrap());
            }
            Carriers::ALL.take_out(&mut request);
            prop_assert_eq!(Carriers::ALL.brought(&request.headers, &request.uri).count(), 0);
            let once = request.clone();
            Carriers::ALL.take_out(&mut request);
            prop_assert_eq!(&once.headers, &request.headers);
            prop_assert_eq!(&once.uri, &request.uri);
            let others = target.split_once('?').unwrap().1.split('&').filter(|pair| !is_parameter(pair));
            let left: Vec<_> = request.uri.query().map(|query| query.split('&').collect()).unwrap_or_default();
            prop_assert_eq!(left, others.collect::<Vec<_>>());
        }

        #[test]
        fn a_signed_url_brings_its_grant(url in "https://a.test/[a-z?&=#_]{0,20}", token in "[A-Za-z0-9_.-]{1,40}") {
            let signed = signed_url(&url, &token);
            let before = signed.split('#').next().unwrap();
            let query = before.split_once('?').unwrap().1;
            prop_assert_eq!(parameters(query).collect::<Vec<_>>(), [token.as_str()]);
        }
    }
}
