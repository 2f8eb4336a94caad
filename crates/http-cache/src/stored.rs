//! What a cache keeps of a response beside its body.

use std::fmt;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use http::header::{DATE, ETAG, HeaderMap, HeaderName, LAST_MODIFIED};
use http::{HeaderValue, StatusCode};

use crate::age::{Exchange, initial_age};
use crate::date::parse_http_date;
use crate::freshness::Terms;
use crate::hop_by_hop::{is_hop_by_hop, strip_unstorable};
use crate::store::is_for_authorized;
use crate::targeted::Directives;
use crate::vary::Selecting;
use crate::{Freshness, Policy, http_date};

mod codec;

pub(crate) use codec::whole_millis;
pub use codec::{DecodeError, MAX_ENCODED, TooLarge};

/// A stored response but for its body (RFC 9111, section 3).
///
/// Made by [`crate::storable()`], or read with [`Stored::decode`].
#[derive(Clone, PartialEq, Eq)]
pub struct Stored {
    pub(crate) status: StatusCode,
    /// Without fields for one hop, without `Age`, without those that `no-cache` or `private` name; with a `Date`.
    pub(crate) headers: HeaderMap,
    pub(crate) selecting: Selecting,
    pub(crate) exchange: Exchange,
    pub(crate) initial_age: Duration,
    pub(crate) part: Option<Part>,
    /// The age at which it was made stale by something else than time.
    pub(crate) expired_at: Option<Duration>,
    pub(crate) terms: Terms,
}

/// Which bytes a stored 206 has (RFC 9111, section 3.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Not empty.
    pub range: Range<u64>,
    /// Bytes of the whole representation.
    pub complete: u64,
}

impl Stored {
    /// The parts that do not come from the header are checked by the caller.
    pub(crate) fn new(
        status: StatusCode,
        headers: &HeaderMap,
        selecting: Selecting,
        exchange: Exchange,
        part: Option<Part>,
        policy: &Policy,
    ) -> Self {
        let initial_age = initial_age(headers, exchange);
        let headers = storable_fields(headers, exchange.received, policy);
        let terms = Terms::of(status, &headers, exchange.received, policy);
        Self { status, headers, selecting, exchange, initial_age, part, expired_at: None, terms }
    }

    /// Its status. A 206 is a part of a 200.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// Its fields as they are to be sent, but for `Age`.
    #[must_use]
    pub const fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Which bytes its body has, if not all.
    #[must_use]
    pub const fn part(&self) -> Option<&Part> {
        self.part.as_ref()
    }

    /// When it came.
    #[must_use]
    pub const fn received(&self) -> SystemTime {
        self.exchange.received
    }

    /// The request's selecting fields are those of the one that brought this response (RFC 9111, section 4.1). The shell has looked it up
    /// by the request's URI.
    #[must_use]
    pub fn matches(&self, request: &HeaderMap, policy: &Policy) -> bool {
        self.selecting.matches(request, &self.headers, policy)
    }

    /// Whether one of these fields of a request decides if it answers it (`Vary`).
    #[must_use]
    pub fn varies_on(&self, names: &[HeaderName]) -> bool {
        self.selecting.0.iter().any(|(name, _)| names.contains(name))
    }

    /// Whether the answer to a request with `Authorization` that says the same may be for others, too (RFC 9111, section 3.5).
    #[must_use]
    pub fn may_answer_authorized(&self, policy: &Policy) -> bool {
        is_for_authorized(&Directives::of(&self.headers, policy).said)
    }

    /// Its age and lifetime (RFC 9111, section 4.2). A clock that went back makes it no younger than it came.
    #[must_use]
    pub fn freshness(&self, now: SystemTime) -> Freshness {
        let age = self.initial_age + now.duration_since(self.exchange.received).unwrap_or_default();
        let lifetime = self.expired_at.map_or(self.terms.lifetime, |at| at.min(self.terms.lifetime));
        Freshness { age, lifetime }
    }

    /// Stale from now on: a soft purge, or a HEAD that showed something else (RFC 9111, section 4.3.5). It may still be served stale for as
    /// long from now as it might have been at its end.
    pub fn expire(&mut self, now: SystemTime) {
        let age = self.freshness(now).age;
        self.expired_at = Some(self.expired_at.map_or(age, |at| at.min(age)));
    }

    /// This response as the answer to another request, for which the origin has confirmed it: with that request's selecting fields.
    #[must_use]
    pub fn adopted_by(&self, request: &HeaderMap) -> Option<Self> {
        Some(Self { selecting: Selecting::new(&self.headers, request)?, ..self.clone() })
    }

    pub(crate) fn etag(&self) -> Option<&HeaderValue> {
        self.headers.get(ETAG)
    }

    /// Good for putting parts together (RFC 9110, section 8.8.1).
    pub(crate) fn strong_etag(&self) -> Option<&HeaderValue> {
        self.etag().filter(|tag| is_strong(tag))
    }

    pub(crate) fn last_modified(&self) -> Option<SystemTime> {
        self.headers.get(LAST_MODIFIED).and_then(parse_http_date)
    }

    pub(crate) fn date(&self) -> SystemTime {
        self.headers.get(DATE).and_then(parse_http_date).unwrap_or(self.exchange.received)
    }
}

/// A quoted string without `W/`.
pub(crate) fn is_strong(tag: &HeaderValue) -> bool {
    let tag = tag.as_bytes();
    tag.len() >= 2 && tag.starts_with(b"\"") && tag.ends_with(b"\"")
}

/// What is kept of a header (RFC 9111, section 3.1).
pub(crate) fn storable_fields(headers: &HeaderMap, received: SystemTime, policy: &Policy) -> HeaderMap {
    let mut kept = headers.clone();
    strip_unstorable(&mut kept);
    kept.remove(http::header::AGE);
    for name in withheld(headers, policy) {
        kept.remove(name);
    }
    if kept.get(DATE).and_then(parse_http_date).is_none() {
        kept.insert(DATE, http_date(received));
    }
    kept
}

/// Fields of a response that are not in what is stored of it, because it names them in `no-cache` or `private`: they are for the one who
/// asked for it, and whoever else is answered from store does not get them. `response` is the header that came, a 304's too.
#[must_use]
pub fn withheld_fields(stored: &Stored, response: &HeaderMap, policy: &Policy) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for name in withheld(&stored.headers, policy) {
        if !is_hop_by_hop(name.as_str()) && !fields.contains_key(&name) {
            fields.extend(response.get_all(&name).iter().map(|value| (name.clone(), value.clone())));
        }
    }
    fields
}

/// Fields that `no-cache` or `private` keep out of the cache (RFC 9111, sections 5.2.2.4 and 5.2.2.7).
fn withheld(headers: &HeaderMap, policy: &Policy) -> Vec<HeaderName> {
    let said = Directives::of(headers, policy).said;
    [said.no_cache.fields(), said.private.fields()].concat()
}

/// Without values: there may be secrets among them.
impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored")
            .field("status", &self.status)
            .field("fields", &self.headers.len())
            .field("varies_on", &self.selecting.0.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("exchange", &self.exchange)
            .field("initial_age", &self.initial_age)
            .field("part", &self.part)
            .field("expired_at", &self.expired_at)
            .field("terms", &self.terms)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};

    use super::*;

    #[test]
    fn what_is_named_is_not_kept_and_yet_there_for_the_asker() {
        let policy = Policy::default();
        let request = Request::get("/").body(()).unwrap().into_parts().0;
        let response = Response::builder()
            .header("cache-control", "max-age=9, private=\"x, connection\", no-cache=\"Set-Cookie\"");
        let response = response.header("x", "1").header("set-cookie", "a").header("set-cookie", "b").header("y", "2");
        let response = response.header("connection", "close").body(()).unwrap().into_parts().0;
        let now = std::time::UNIX_EPOCH;
        let stored = crate::storable(&request, &response, Exchange { requested: now, received: now }, &policy).unwrap();
        assert!(!stored.headers().contains_key("x") && !stored.headers().contains_key("set-cookie"));
        let own = withheld_fields(&stored, &response.headers, &policy);
        let mut all: Vec<_> = own.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        all.sort();
        assert_eq!(all, ["set-cookie: a", "set-cookie: b", "x: 1"]);
    }
}
