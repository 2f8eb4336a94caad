//! Which of a site's upstream servers to ask, in which order. One that failed rests for a growing while; it is asked in
//! that time only if all others fail, too.

use std::time::Duration;

use moka::sync::Cache;
use tokio::time::Instant;
use umbel_wire::rendezvous;

const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// Failing servers that are remembered, of all sites together.
const REMEMBERED: u64 = 10_000;

#[derive(Debug, Clone, Copy)]
struct Failing {
    failures: u32,
    rests_until: Instant,
}

/// What is known of the health of upstream servers, by URL.
#[derive(Debug, Clone)]
pub(crate) struct Upstreams {
    failing: Cache<String, Failing>,
}

impl Default for Upstreams {
    fn default() -> Self {
        let failing = Cache::builder().max_capacity(REMEMBERED).time_to_live(2 * LONGEST_REST).build();
        Self { failing }
    }
}

impl Upstreams {
    /// All of `urls`, the best first: the same object is asked of the same server as long as that is well, so that its caches
    /// and connections stay warm.
    pub(crate) fn order<'a>(&self, urls: &'a [String], key: &str, now: Instant) -> Vec<&'a str> {
        let mut order = rendezvous::order(key.as_bytes(), urls.iter().map(String::as_str));
        order.sort_by_key(|url| {
            self.failing.get(*url).filter(|failing| failing.rests_until > now).map(|failing| failing.failures)
        });
        order
    }

    /// It answered.
    pub(crate) fn answered(&self, url: &str) {
        // The cheap look first: it is nearly always well.
        if self.failing.contains_key(url) {
            self.failing.invalidate(url);
        }
    }

    /// It did not answer, or not in HTTP.
    pub(crate) fn failed(&self, url: &str, now: Instant) {
        let failures = self.failing.get(url).map_or(0, |failing| failing.failures) + 1;
        let rest = FIRST_REST.saturating_mul(1 << (failures - 1).min(5)).min(LONGEST_REST);
        self.failing.insert(url.to_owned(), Failing { failures, rests_until: now + rest });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_failing_come_last_until_they_have_rested() {
        let urls: Vec<String> = (0..4).map(|n| format!("http://up{n}")).collect();
        let (upstreams, now) = (Upstreams::default(), Instant::now());
        let order = upstreams.order(&urls, "/a", now);
        let first = order[0];
        upstreams.failed(first, now);
        assert_eq!(upstreams.order(&urls, "/a", now).last(), Some(&first));
        assert_eq!(upstreams.order(&urls, "/a", now + FIRST_REST)[0], first, "rested");
        upstreams.failed(first, now);
        assert_eq!(upstreams.order(&urls, "/a", now + FIRST_REST).last(), Some(&first), "rests longer each time");
        upstreams.answered(first);
        assert_eq!(upstreams.order(&urls, "/a", now)[0], first);
    }

    #[test]
    fn objects_spread_over_servers() {
        let urls: Vec<String> = (0..3).map(|n| format!("http://up{n}")).collect();
        let upstreams = Upstreams::default();
        let firsts: std::collections::BTreeSet<_> =
            (0..100).map(|n| upstreams.order(&urls, &format!("/{n}"), Instant::now())[0].to_owned()).collect();
        assert_eq!(firsts.len(), 3);
    }
}
