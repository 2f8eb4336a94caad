//! For how long a response is fresh (RFC 9111, section 4.2), and what may be done with it afterwards (section 4.2.4, RFC 5861).

use std::time::{Duration, SystemTime};

use http::header::{DATE, EXPIRES, HeaderMap, LAST_MODIFIED};
use http::{HeaderValue, StatusCode};

use crate::Policy;
use crate::age::UNKNOWN;
use crate::cache_control::{MAX_SECONDS, ResponseDirectives};
use crate::date::parse_http_date;
use crate::targeted::Directives;

/// How old a response is and how old it may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// RFC 9111's `current_age`.
    pub age: Duration,
    /// RFC 9111's `freshness_lifetime`.
    pub lifetime: Duration,
}

impl Freshness {
    /// Younger than its lifetime.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.age < self.lifetime
    }

    /// For how long it has been stale; `None` while it is fresh.
    #[must_use]
    pub fn stale_for(&self) -> Option<Duration> {
        self.age.checked_sub(self.lifetime)
    }

    /// Whole seconds left, negative when stale: the `ttl` of a [`crate::CacheStatus`].
    #[must_use]
    pub fn ttl(&self) -> i64 {
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        seconds(self.lifetime) - seconds(self.age)
    }

    /// The `Age` field (RFC 9111, section 5.1).
    #[must_use]
    pub fn age_value(&self) -> HeaderValue {
        HeaderValue::from(self.age.as_secs().min(MAX_SECONDS.into()))
    }
}

/// Where a lifetime comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Basis {
    /// The origin said it.
    Explicit,
    /// RFC 9111, section 4.2.2.
    Heuristic,
    /// Neither; the lifetime is nothing.
    None,
}

/// What a response's header comes to. Made once when it is stored, so that a hit reads no fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) lifetime: Duration,
    pub(crate) basis: Basis,
    /// Never without validation.
    pub(crate) no_cache: bool,
    /// Validation is pointless while fresh (RFC 8246).
    pub(crate) immutable: bool,
    /// Never stale (RFC 9111, section 4.2.4).
    pub(crate) never_stale: bool,
    /// How long it may be stale while it is validated.
    pub(crate) while_revalidate: Duration,
    /// How long it may be stale when the next server answers with an error.
    pub(crate) if_error: Duration,
    /// How long it may be stale when the next server cannot be reached.
    pub(crate) if_unreachable: Duration,
}

impl Terms {
    /// Reads the header of a response that came at `received`.
    pub(crate) fn of(status: StatusCode, headers: &HeaderMap, received: SystemTime, policy: &Policy) -> Self {
        let directives = Directives::of(headers, policy);
        let (lifetime, basis) = lifetime(status, headers, received, &directives, policy);
        let said = &directives.said;
        // What the policy adds is for responses that are meant to be shared for a while at least.
        let default = |time| if lifetime.is_zero() { Duration::ZERO } else { time };
        let or = |said: Option<u32>, time| said.map_or(default(time), |said| Duration::from_secs(said.into()));
        Self {
            lifetime,
            basis,
            no_cache: said.no_cache.is_whole(),
            immutable: said.immutable,
            never_stale: forbids_stale(said, policy),
            while_revalidate: or(said.stale_while_revalidate, policy.stale_while_revalidate),
            if_error: or(said.stale_if_error, policy.stale_if_error),
            if_unreachable: or(said.stale_if_error, policy.stale_if_unreachable),
        }
    }

    /// There is a time, however short, when it may be used without validation: fresh, or stale in one of the allowed ways.
    pub(crate) fn usable(&self) -> bool {
        let stale = [self.while_revalidate, self.if_error, self.if_unreachable];
        !self.no_cache && (!self.lifetime.is_zero() || !self.never_stale && stale.iter().any(|time| !time.is_zero()))
    }
}

/// RFC 9111, sections 4.2.4 and 5.2.2.10.
fn forbids_stale(said: &ResponseDirectives, policy: &Policy) -> bool {
    let shared = said.s_maxage.is_some() && !policy.stale_despite_s_maxage;
    said.must_revalidate || said.proxy_revalidate || said.no_cache.is_whole() || shared
}

/// RFC 9111, section 4.2.1: the first that is there.
fn lifetime(
    status: StatusCode,
    headers: &HeaderMap,
    received: SystemTime,
    directives: &Directives,
    policy: &Policy,
) -> (Duration, Basis) {
    if let Some(said) = directives.said.lifetime() {
        return (Duration::from_secs(said.into()), Basis::Explicit);
    }
    let date = headers.get(DATE).and_then(parse_http_date).unwrap_or(received);
    if let (Some(expires), false) = (headers.get(EXPIRES), directives.targeted) {
        return (until(expires, date), Basis::Explicit);
    }
    if heuristically_cacheable(status) || directives.said.public {
        return heuristic(headers, date, policy);
    }
    (Duration::ZERO, Basis::None)
}

/// What is no date has passed (RFC 9111, section 5.3).
fn until(expires: &HeaderValue, date: SystemTime) -> Duration {
    let expires = parse_http_date(expires).unwrap_or(SystemTime::UNIX_EPOCH);
    expires.duration_since(date).unwrap_or_default().min(UNKNOWN)
}

/// RFC 9111, section 4.2.2.
fn heuristic(headers: &HeaderMap, date: SystemTime, policy: &Policy) -> (Duration, Basis) {
    let modified = headers.get(LAST_MODIFIED).and_then(parse_http_date);
    let Some(unchanged) = modified.and_then(|modified| date.duration_since(modified).ok()) else {
        return (Duration::ZERO, Basis::None);
    };
    let lifetime = (unchanged / 100).saturating_mul(policy.heuristic.percent).min(policy.heuristic.most);
    (Duration::from_secs(lifetime.as_secs()), Basis::Heuristic)
}

/// RFC 9110, section 15.1.
pub(crate) fn heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 206 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::http_date;

    const RECEIVED: SystemTime = UNIX_EPOCH;

    fn terms(status: u16, fields: &[(&'static str, &str)]) -> Terms {
        let received = RECEIVED + Duration::from_secs(10_000_000);
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let value = match value.strip_prefix('@') {
                Some(offset) => {
                    let offset: i64 = offset.parse().unwrap();
                    http_date(RECEIVED + Duration::from_secs(10_000_000_u64.saturating_add_signed(offset)))
                }
                None => HeaderValue::from_str(value).unwrap(),
            };
            headers.append(*name, value);
        }
        Terms::of(StatusCode::from_u16(status).unwrap(), &headers, received, &Policy::default())
    }

    #[track_caller]
    fn check(status: u16, fields: &[(&'static str, &str)], seconds: u64, basis: Basis) {
        let terms = terms(status, fields);
        assert_eq!((terms.lifetime.as_secs(), terms.basis), (seconds, basis), "{status} {fields:?}");
    }

    #[test]
    fn lifetimes() {
        use Basis::{Explicit, Heuristic, None};
        check(200, &[], 0, None);
        check(200, &[("cache-control", "max-age=5")], 5, Explicit);
        check(200, &[("cache-control", "max-age=5, s-maxage=7")], 7, Explicit);
        check(200, &[("cache-control", "max-age=500"), ("cache-control", "s-maxage=1")], 1, Explicit);
        check(200, &[("cache-control", "max-age=5"), ("expires", "@99")], 5, Explicit);
        check(200, &[("cache-control", "max-age=0"), ("expires", "@99")], 0, Explicit);
        check(200, &[("expires", "@99"), ("date", "@0")], 99, Explicit);
        check(200, &[("expires", "@99"), ("date", "@-1")], 100, Explicit);
        check(200, &[("expires", "@99"), ("date", "@100")], 0, Explicit);
        check(200, &[("expires", "@99")], 99, Explicit);
        check(200, &[("expires", "@99"), ("date", "foo")], 99, Explicit);
        check(200, &[("expires", "0")], 0, Explicit);
        check(200, &[("expires", "@9"), ("expires", "@99")], 9, Explicit);
        check(200, &[("expires", "0"), ("last-modified", "@-1000")], 0, Explicit);
        check(200, &[("last-modified", "@-1000"), ("date", "@0")], 100, Heuristic);
        check(200, &[("last-modified", "@-1000"), ("date", "@1000")], 200, Heuristic);
        check(200, &[("last-modified", "@1"), ("date", "@0")], 0, None);
        check(200, &[("last-modified", "@-9000000")], 86_400, Heuristic);
        check(
            200,
            &[("cdn-cache-control", "max-age=5"), ("cache-control", "max-age=9"), ("expires", "@99")],
            5,
            Explicit,
        );
        check(200, &[("cdn-cache-control", "public"), ("expires", "@99")], 0, None);
        check(200, &[("cdn-cache-control", ""), ("expires", "@99")], 99, Explicit);
        for status in [203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
            check(status, &[("last-modified", "@-1000")], 100, Heuristic);
        }
        for status in [201, 202, 302, 303, 307, 400, 403, 500, 502, 503, 504, 599] {
            check(status, &[("last-modified", "@-1000")], 0, None);
            check(status, &[("last-modified", "@-1000"), ("cache-control", "public")], 100, Heuristic);
            check(status, &[("cache-control", "max-age=5")], 5, Explicit);
        }
    }

    #[test]
    fn staleness() {
        let of = |line: &str| terms(200, &[("cache-control", line)]);
        assert!(!of("max-age=5").never_stale);
        for line in ["must-revalidate", "proxy-revalidate", "s-maxage=5", "no-cache"] {
            assert!(of(line).never_stale, "{line}");
        }
        assert!(!of("no-cache=\"a\"").never_stale);
        let both = of("max-age=0, stale-while-revalidate=3, stale-if-error=4");
        assert_eq!(
            (both.while_revalidate.as_secs(), both.if_error.as_secs(), both.if_unreachable.as_secs()),
            (3, 4, 4)
        );
        assert!(both.usable());
        assert!(!of("no-cache, max-age=5").usable());
        assert!(!of("max-age=0, must-revalidate").usable());
    }

    #[test]
    fn numbers_for_readers() {
        let of = |age, lifetime| Freshness { age: Duration::from_secs(age), lifetime: Duration::from_secs(lifetime) };
        assert!(of(4, 5).is_fresh() && !of(5, 5).is_fresh());
        assert_eq!((of(4, 5).stale_for(), of(7, 5).stale_for()), (None, Some(Duration::from_secs(2))));
        assert_eq!((of(4, 5).ttl(), of(7, 5).ttl()), (1, -2));
        assert_eq!(of(1 << 40, 5).age_value(), "2147483648");
    }
}
