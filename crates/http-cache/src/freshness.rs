//! How old an answer is and how long it will do (RFC 9111, section 4.2).

use std::time::{Duration, SystemTime};

use http::HeaderValue;

/// Seconds that an `Age` field can say at least everywhere, RFC 9111, section 1.2.2.
const MAX_SECONDS: u64 = 1 << 31;

/// How long something that was stored may be used without asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// When it was made or last confirmed.
    pub stored_at: SystemTime,
    /// For how long it is fresh from then on.
    pub ttl: Duration,
}

impl Freshness {
    /// Time since it was stored; nothing if the clock went back meanwhile.
    #[must_use]
    pub fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.stored_at).unwrap_or_default()
    }

    /// Younger than its time to live.
    #[must_use]
    pub fn is_fresh(&self, now: SystemTime) -> bool {
        self.age(now) < self.ttl
    }

    /// For how long it has been stale; `None` while it is fresh.
    #[must_use]
    pub fn stale_for(&self, now: SystemTime) -> Option<Duration> {
        self.age(now).checked_sub(self.ttl)
    }

    /// Whole seconds left, negative when stale: the `ttl` of a [`crate::CacheStatus`].
    #[must_use]
    pub fn ttl_left(&self, now: SystemTime) -> i64 {
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        seconds(self.ttl) - seconds(self.age(now))
    }

    /// The `Age` field.
    #[must_use]
    pub fn age_value(&self, now: SystemTime) -> HeaderValue {
        HeaderValue::from(self.age(now).as_secs().min(MAX_SECONDS))
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn life_of_an_answer() {
        let at = |millis| UNIX_EPOCH + Duration::from_secs(1000) + Duration::from_millis(millis);
        let answer = Freshness { stored_at: at(0), ttl: Duration::from_secs(10) };
        for (now, age, fresh, left) in [
            (at(0), "0", true, 10),
            (at(999), "0", true, 10),
            (at(1000), "1", true, 9),
            (at(9999), "9", true, 1),
            (at(10_000), "10", false, 0),
            (at(12_500), "12", false, -2),
            (UNIX_EPOCH, "0", true, 10),
        ] {
            assert_eq!(answer.age_value(now), age);
            assert_eq!((answer.is_fresh(now), answer.ttl_left(now)), (fresh, left), "{age}");
            assert_eq!(answer.stale_for(now).is_none(), fresh);
        }
        assert_eq!(answer.stale_for(at(12_500)), Some(Duration::from_millis(2500)));
        assert_eq!(answer.age_value(UNIX_EPOCH + Duration::from_secs(1 << 40)), "2147483648");
        let eternal = Freshness { stored_at: UNIX_EPOCH, ttl: Duration::MAX };
        assert!(eternal.is_fresh(at(0)) && eternal.ttl_left(at(0)) > 0);
    }
}
