//! The crate against RFC 9111 read word for word: a second implementation, slow and obvious, over lists of text, for one stored response
//! of a GET. It shares nothing with the crate but the form of dates.

#![expect(clippy::unwrap_used, reason = "the model is fed with what it understands")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue, Method, Request, Response, request, response};
use proptest::prelude::*;
use proptest::sample::select;
use umbel_http_cache::{Exchange, Failure, Forward, Policy, Reuse, http_date, on_error, reuse, storable};

/// Moments are seconds after this.
const START: u64 = 1_800_000_000;

fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(START.saturating_add_signed(seconds))
}

#[derive(Debug, Clone)]
struct Asked {
    method: &'static str,
    directives: Vec<(&'static str, Option<u64>)>,
    pragma: bool,
    authorization: bool,
    foo: Option<&'static str>,
}

#[derive(Debug, Clone)]
struct Answered {
    status: u16,
    directives: Vec<(&'static str, Option<u64>)>,
    /// Seconds after the start; `Err` is no date.
    expires: Option<Result<i64, ()>>,
    date: Option<i64>,
    age: Option<u64>,
    last_modified: Option<i64>,
    etag: bool,
    vary: Option<&'static str>,
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Serve,
    ServeStale,
    Validate,
    Miss,
    Timeout,
}

fn has(list: &[(&'static str, Option<u64>)], name: &str) -> bool {
    list.iter().any(|(n, _)| *n == name)
}

fn number(list: &[(&'static str, Option<u64>)], name: &str) -> Option<u64> {
    list.iter().find(|(n, _)| *n == name).map(|(_, value)| value.unwrap_or(0))
}

impl Answered {
    /// Section 4.2.1, and 4.2.2 for a cache with a tenth and a day.
    fn freshness_lifetime(&self, response_time: i64) -> (i64, bool) {
        let date_value = self.date.unwrap_or(response_time);
        if let Some(s_maxage) = number(&self.directives, "s-maxage") {
            return (s_maxage as i64, true);
        }
        if let Some(max_age) = number(&self.directives, "max-age") {
            return (max_age as i64, true);
        }
        match self.expires {
            Some(Ok(expires)) => return ((expires - date_value).max(0), true),
            Some(Err(())) => return (0, true),
            None => {}
        }
        let by_default = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501].contains(&self.status);
        match self.last_modified {
            Some(modified) if by_default || has(&self.directives, "public") => {
                (((date_value - modified) / 10).clamp(0, 86_400), false)
            }
            _ => (0, false),
        }
    }

    /// Section 4.2.3.
    fn current_age(&self, request_time: i64, response_time: i64, now: i64) -> i64 {
        let age_value = self.age.unwrap_or(0) as i64;
        let apparent_age = (response_time - self.date.unwrap_or(response_time)).max(0);
        let response_delay = response_time - request_time;
        let corrected_age_value = age_value + response_delay;
        let corrected_initial_age = apparent_age.max(corrected_age_value);
        let resident_time = now - response_time;
        corrected_initial_age + resident_time
    }

    /// Section 3.
    fn may_be_stored(&self, asked: &Asked, response_time: i64) -> bool {
        let d = &self.directives;
        let understood = self.status != 599;
        let (_, explicit) = self.freshness_lifetime(response_time);
        // "the request method is understood by the cache" (a POST needs more, which the model does not give it)
        asked.method == "GET"
            // "the response status code is final", and 304 is for what is stored already
            && self.status != 304
            // "if the response status code is 206 or 304, or the must-understand cache directive is present: the cache understands"
            && (!has(d, "must-understand") || understood)
            // "the no-store cache directive is not present in the response", unless must-understand is
            && (!has(d, "no-store") || has(d, "must-understand"))
            // 5.2.1.5
            && !has(&asked.directives, "no-store")
            // "if the cache is shared: the private response directive is either not present"
            && !has(d, "private")
            // "if the cache is shared: the Authorization header field is not present in the request, or a response directive is
            // present that explicitly allows shared caching"
            && (!asked.authorization || has(d, "must-revalidate") || has(d, "public") || has(d, "s-maxage"))
            // "the response contains at least one of the following"
            && (has(d, "public") || explicit || [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501].contains(&self.status))
            // 4.1: "a stored response with a Vary header field value containing a member * always fails to match"
            && self.vary != Some("*")
    }

    /// Not in the RFC: there will be a use for it.
    fn is_of_use(&self, response_time: i64) -> bool {
        let (lifetime, _) = self.freshness_lifetime(response_time);
        let later =
            ["stale-while-revalidate", "stale-if-error"].iter().any(|name| number(&self.directives, name) > Some(0));
        let reusable = !has(&self.directives, "no-cache") && (lifetime > 0 || !self.must_not_be_stale() && later);
        self.etag || self.last_modified.is_some() || reusable
    }

    /// Section 4.2.4.
    fn must_not_be_stale(&self) -> bool {
        ["no-cache", "must-revalidate", "proxy-revalidate", "s-maxage"].iter().any(|name| has(&self.directives, name))
    }

    /// Section 4, with 5.2.1 for the request's wishes.
    fn answers(&self, first: &Asked, asked: &Asked, moments: (i64, i64, i64)) -> Outcome {
        let (request_time, response_time, now) = moments;
        let forward = |outcome| if has(&asked.directives, "only-if-cached") { Outcome::Timeout } else { outcome };
        if asked.method == "POST" {
            return forward(Outcome::Miss);
        }
        if self.vary == Some("foo") && first.foo != asked.foo {
            return forward(Outcome::Miss);
        }
        let (lifetime, _) = self.freshness_lifetime(response_time);
        let age = self.current_age(request_time, response_time, now);
        let fresh = lifetime > age;
        let pragma = asked.pragma && asked.directives.is_empty();
        if has(&self.directives, "no-cache") || has(&asked.directives, "no-cache") || pragma {
            return forward(Outcome::Validate);
        }
        // 5.2.1.1: "an age that is less than or equal to"; RFC 8246 has no use for reloads.
        let reload = has(&self.directives, "immutable") && fresh && number(&asked.directives, "max-age") == Some(0);
        let too_old = match number(&asked.directives, "max-age") {
            Some(max_age) if !reload => (age - max_age as i64).max(0),
            _ => 0,
        };
        // 5.2.1.3: "whose freshness lifetime is no less than its current age plus the specified time"
        let too_late = match number(&asked.directives, "min-fresh") {
            Some(min_fresh) => (age + min_fresh as i64 - lifetime).max(0),
            None => 0,
        };
        // 5.2.1.2: "has exceeded its freshness lifetime by no more than"; without a value, any.
        let stale = (age - lifetime).max(0);
        let max_stale = match asked.directives.iter().find(|(name, _)| *name == "max-stale") {
            None => None,
            Some((_, None)) => Some(1 << 31),
            Some((_, Some(value))) => Some(*value as i64),
        };
        let excused = max_stale.is_some_and(|most| stale.max(too_old).max(too_late) <= most);
        if fresh && (too_old == 0 && too_late == 0 || excused) {
            return Outcome::Serve;
        }
        if !fresh && !self.must_not_be_stale() {
            if excused {
                return Outcome::ServeStale;
            }
            let window = number(&self.directives, "stale-while-revalidate").unwrap_or(0) as i64;
            if too_old == 0 && !has(&asked.directives, "min-fresh") && stale < window {
                return Outcome::ServeStale;
            }
        }
        forward(Outcome::Validate)
    }

    /// RFC 5861, section 4.
    fn survives_error(&self, asked: &Asked, moments: (i64, i64, i64)) -> bool {
        let (request_time, response_time, now) = moments;
        let (lifetime, _) = self.freshness_lifetime(response_time);
        let stale = self.current_age(request_time, response_time, now) - lifetime;
        let pragma = asked.pragma && asked.directives.is_empty();
        if has(&self.directives, "no-cache") || has(&asked.directives, "no-cache") || pragma {
            return false;
        }
        let window = |list| number(list, "stale-if-error").unwrap_or(0) as i64;
        stale < 0 || !self.must_not_be_stale() && stale < window(&self.directives).max(window(&asked.directives))
    }

    fn parts(&self) -> response::Parts {
        let mut headers = HeaderMap::new();
        let date = |seconds| http_date(time(seconds));
        cache_control(&mut headers, &self.directives);
        headers.extend(self.expires.map(|at| (http::header::EXPIRES, at.map_or(HeaderValue::from_static("0"), date))));
        headers.extend(self.date.map(|at| (http::header::DATE, date(at))));
        headers.extend(self.age.map(|age| (http::header::AGE, age.into())));
        headers.extend(self.last_modified.map(|at| (http::header::LAST_MODIFIED, date(at))));
        headers.extend(self.etag.then(|| (http::header::ETAG, HeaderValue::from_static("\"a\""))));
        headers.extend(self.vary.map(|vary| (http::header::VARY, HeaderValue::from_static(vary))));
        let mut parts = Response::builder().status(self.status).body(()).unwrap().into_parts().0;
        parts.headers = headers;
        parts
    }
}

impl Asked {
    fn parts(&self) -> request::Parts {
        let method: Method = self.method.parse().unwrap();
        let mut parts = Request::builder().method(method).uri("http://a.example/").body(()).unwrap().into_parts().0;
        cache_control(&mut parts.headers, &self.directives);
        if self.pragma {
            parts.headers.insert("pragma", HeaderValue::from_static("no-cache"));
        }
        if self.authorization {
            parts.headers.insert("authorization", HeaderValue::from_static("x"));
        }
        if let Some(foo_field) = self.foo {
            parts.headers.insert("foo", HeaderValue::from_static(foo_field));
        }
        parts
    }
}

/// Half of them on lines of their own.
fn cache_control(headers: &mut HeaderMap, directives: &[(&'static str, Option<u64>)]) {
    let texts =
        directives.iter().map(|(name, value)| value.map_or((*name).to_owned(), |value| format!("{name}={value}")));
    for line in texts.collect::<Vec<_>>().chunks(2) {
        headers.append("cache-control", HeaderValue::try_from(line.join(",")).unwrap());
    }
}

const SECONDS: &[u64] = &[0, 1, 5, 10, 20, 60];

fn seconds() -> impl Strategy<Value = u64> {
    select(SECONDS)
}

fn directives(
    words: &'static [&'static str],
    numbers: &'static [&'static str],
) -> impl Strategy<Value = Vec<(&'static str, Option<u64>)>> {
    let words = prop::sample::subsequence(words, 0..=2.min(words.len()));
    let numbers = prop::sample::subsequence(numbers, 0..=2.min(numbers.len()));
    (words, numbers, prop::collection::vec(seconds(), 2)).prop_map(|(words, numbers, values)| {
        let numbers = numbers.into_iter().zip(values).map(|(name, value)| (name, Some(value)));
        words.into_iter().map(|name| (name, None)).chain(numbers).collect()
    })
}

fn asked() -> impl Strategy<Value = Asked> {
    let words: &[&str] = &["no-cache", "only-if-cached", "max-stale", "unheard-of"];
    let numbers: &[&str] = &["max-age", "min-fresh", "max-stale", "stale-if-error"];
    (
        prop_oneof![10 => Just("GET"), 1 => Just("POST"), 1 => Just("HEAD")],
        directives(words, numbers),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
        prop::option::of(select(vec!["1", "2"])),
    )
        .prop_map(|(method, mut directives, pragma, authorization, foo_field)| {
            // Said once: what counts of two is tested elsewhere.
            if has(&directives[..directives.len().min(2)], "max-stale") {
                let mut seen = false;
                directives.retain(|(name, _)| *name != "max-stale" || !std::mem::replace(&mut seen, true));
            }
            Asked { method, directives, pragma, authorization, foo: foo_field }
        })
}

fn answered() -> impl Strategy<Value = Answered> {
    let words: &[&str] = &[
        "no-store",
        "no-cache",
        "private",
        "public",
        "must-revalidate",
        "proxy-revalidate",
        "must-understand",
        "immutable",
        "unheard-of",
    ];
    let numbers: &[&str] = &["max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"];
    let offset = || -100i64..100;
    (
        select(vec![200u16, 200, 200, 201, 204, 302, 304, 404, 500, 599]),
        directives(words, numbers),
        prop::option::weighted(0.3, prop_oneof![9 => offset().prop_map(Ok), 1 => Just(Err(()))]),
        prop::option::weighted(0.4, offset()),
        prop::option::weighted(0.3, 0u64..30),
        prop::option::weighted(0.3, -2000i64..50),
        any::<bool>(),
        prop::option::weighted(0.3, select(vec!["foo", "*"])),
    )
        .prop_map(|(status, directives, expires, date, age, last_modified, etag, vary)| Answered {
            status,
            directives,
            expires,
            date,
            age,
            last_modified,
            etag,
            vary,
        })
}

/// What the crate decides, in the model's words.
fn outcome(reuse: &Reuse) -> Outcome {
    match reuse {
        Reuse::Fresh { .. } => Outcome::Serve,
        Reuse::Stale { .. } => Outcome::ServeStale,
        Reuse::Revalidate { why, .. } => {
            assert!(matches!(why, Forward::Stale | Forward::Request), "{why:?}");
            Outcome::Validate
        }
        Reuse::Forward { .. } | Reuse::Complete { .. } => Outcome::Miss,
        Reuse::GatewayTimeout => Outcome::Timeout,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6000))]

    #[test]
    fn the_crate_is_the_rfc(first in asked(), answer in answered(), second in asked(), delay in prop_oneof![2 => Just(0i64), 1 => 0i64..5], later in prop_oneof![seconds().prop_map(|at| at as i64), 0i64..120]) {
        let policy = Policy { stale_if_unreachable: Duration::ZERO, ..Policy::default() };
        let exchange = Exchange { requested: time(0), received: time(delay) };
        let stored = storable(&first.parts(), &answer.parts(), exchange, &policy);
        let expected = answer.may_be_stored(&first, delay) && answer.is_of_use(delay);
        prop_assert_eq!(stored.is_ok(), expected, "stored: {:?}", stored);
        let Ok(stored) = stored else { return Ok(()) };
        let (now, moments) = (time(delay + later), (0, delay, delay + later));
        let decision = reuse(&[&stored], &second.parts(), &policy, now);
        prop_assert_eq!(outcome(&decision), answer.answers(&first, &second, moments), "{:?}", stored);
        let survives = on_error(&stored, &second.parts(), Failure::Status(http::StatusCode::BAD_GATEWAY), &policy, now);
        prop_assert_eq!(survives.is_some(), answer.survives_error(&second, moments), "{:?}", stored);
    }
}
