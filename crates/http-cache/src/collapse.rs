//! Errors that are not stored, and yet are for those who waited for the same answer (RFC 9111, section 4, "collapse requests").
//!
//! A response that may be stored and reused may answer all who wait for it. An error without any lifetime is none of these, but
//! who waits would get it as well: a gateway may say itself that the server behind it failed (RFC 9110, section 15.6: 5xx is about
//! the server, not about who asked). That something is not there (404, 410) may be reused by heuristics (RFC 9110, section 15.1;
//! RFC 9111, section 4.2.2), and those who waited are the shortest lifetime that there is. Any other 4xx is about the request: 401,
//! 403 and 429 are somebody's own.
//!
//! Who says `no-store`, `private` or `no-cache`, sets a cookie, or says how long the response is good, has decided: "must not use
//! the response to satisfy any other request" (RFC 9111, section 5.2.2.5) means these requests, too.

use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HeaderMap, RETRY_AFTER, SET_COOKIE, VARY};
use http::{HeaderValue, StatusCode, request, response};

use crate::age::Exchange;
use crate::freshness::Basis;
use crate::purge::{CACHE_TAG, SURROGATE_KEY};
use crate::store::{allowed, is_for_method, may_be_asked_by};
use crate::targeted::Directives;
use crate::vary::Selecting;
use crate::{Policy, Stored};

/// An error for those who wait for it at this moment. It is never put into a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedError {
    /// With the body that came; none if that was made for somebody who is known by a cookie.
    pub whole: Option<Stored>,
    /// With a text of the cache's own, for want of that body.
    pub bare: Stored,
}

/// Fields that are said again beside the status.
const KEPT: [http::HeaderName; 4] = [RETRY_AFTER, VARY, SURROGATE_KEY, CACHE_TAG];

/// What those get who wait for the answer to this request, if [`crate::storable()`] has refused it. None: it is the asker's alone.
#[must_use]
pub fn shared_error(
    request: &request::Parts,
    response: &response::Parts,
    exchange: Exchange,
    policy: &Policy,
) -> Option<SharedError> {
    let is_personal = request.headers.contains_key(COOKIE);
    if !is_of_the_server(response.status) && (is_personal || !is_gone(response.status)) {
        return None;
    }
    let said = Directives::of(&response.headers, policy).said;
    is_for_method(&request.method).ok()?;
    may_be_asked_by(&request.headers, &said, policy).ok()?;
    allowed(response.status, &said).ok()?;
    if said.no_cache.is_whole() || said.no_store || response.headers.contains_key(SET_COOKIE) {
        return None;
    }
    let selecting = Selecting::new(&response.headers, &request.headers)?;
    let with = |headers: &HeaderMap| Stored::new(response.status, headers, selecting.clone(), exchange, None, policy);
    let whole = with(&response.headers);
    if whole.terms.basis == Basis::Explicit {
        return None;
    }
    Some(SharedError { whole: (!is_personal).then_some(whole), bare: with(&bare(&response.headers)) })
}

/// Whether it answers this request of one who waited.
#[must_use]
pub fn shares_error(waiting: &request::Parts, error: &Stored, policy: &Policy) -> bool {
    let is_personal = [COOKIE, AUTHORIZATION].iter().any(|name| waiting.headers.contains_key(name));
    // What is not there for one may be there for somebody who is known.
    error.matches(&waiting.headers, policy) && (is_of_the_server(error.status) || !is_personal)
}

fn is_of_the_server(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NETWORK_AUTHENTICATION_REQUIRED
}

const fn is_gone(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE)
}

fn bare(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in KEPT {
        kept.extend(headers.get_all(&name).iter().map(|value| (name.clone(), value.clone())));
    }
    kept.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    kept
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    type Fields<'a> = &'a [(&'static str, &'a str)];

    fn request(fields: Fields<'_>) -> request::Parts {
        let request = http::Request::get("/a");
        fields
            .iter()
            .fold(request, |request, (name, value)| request.header(*name, *value))
            .body(())
            .unwrap()
            .into_parts()
            .0
    }

    fn shared(asked: Fields<'_>, status: u16, said: Fields<'_>) -> Option<SharedError> {
        let response = http::Response::builder().status(status);
        let response = said.iter().fold(response, |response, (name, value)| response.header(*name, *value));
        let exchange = Exchange { requested: UNIX_EPOCH, received: UNIX_EPOCH };
        shared_error(&request(asked), &response.body(()).unwrap().into_parts().0, exchange, &Policy::default())
    }

    #[derive(Debug, PartialEq, Eq)]
    enum For {
        /// With its body.
        All,
        /// Without.
        Status,
        Asker,
    }

    fn check(asked: Fields<'_>, status: u16, said: Fields<'_>, expected: For) {
        let found = match shared(asked, status, said) {
            Some(SharedError { whole: Some(_), .. }) => For::All,
            Some(SharedError { whole: None, .. }) => For::Status,
            None => For::Asker,
        };
        assert_eq!(found, expected, "{asked:?} {status} {said:?}");
    }

    #[test]
    fn for_whom() {
        for status in [500, 501, 502, 503, 504, 599, 404, 410] {
            check(&[], status, &[], For::All);
            check(&[], status, &[("vary", "accept")], For::All);
            for said in [
                ("cache-control", "no-store"),
                ("cache-control", "private"),
                ("cache-control", "no-cache"),
                ("cache-control", "max-age=0"),
                ("expires", "0"),
                ("set-cookie", "a=b"),
                ("vary", "*"),
            ] {
                check(&[], status, &[said], For::Asker);
            }
            check(&[("cache-control", "no-store")], status, &[], For::Asker);
            check(&[("authorization", "Bearer x")], status, &[], For::Asker);
            let known = if status < 500 { For::Asker } else { For::Status };
            check(&[("cookie", "a=b")], status, &[], known);
        }
        for status in [200, 301, 400, 401, 403, 407, 412, 416, 429, 511] {
            check(&[], status, &[], For::Asker);
        }
    }

    #[test]
    fn who_shares_it() {
        let check = |asked: Fields<'_>, status: u16, said: Fields<'_>, waiting: Fields<'_>, expected: bool| {
            let error = shared(asked, status, said).unwrap().bare;
            let shares = shares_error(&request(waiting), &error, &Policy::default());
            assert_eq!(shares, expected, "{asked:?} {status} {said:?} {waiting:?}");
        };
        check(&[], 500, &[], &[("cookie", "a=b")], true);
        check(&[], 404, &[], &[], true);
        check(&[], 404, &[], &[("cookie", "a=b")], false);
        check(&[], 404, &[], &[("authorization", "Bearer x")], false);
        check(&[("accept", "text/html")], 500, &[("vary", "accept")], &[("accept", "text/html")], true);
        check(&[("accept", "text/html")], 500, &[("vary", "accept")], &[("accept", "image/png")], false);
    }

    #[test]
    fn what_is_said_again() {
        let error = shared(&[], 503, &[("retry-after", "7"), ("vary", "accept"), ("x-trace", "secret")]).unwrap();
        let names: Vec<_> = error.bare.headers().keys().map(http::HeaderName::as_str).collect();
        assert_eq!(names, ["retry-after", "vary", "content-type", "date"]);
        assert_eq!(error.whole.unwrap().headers()["x-trace"], "secret");
    }
}
