//! Which of a site's upstream servers to ask, in which order. One that failed rests for a growing while; it is asked in
//! that time only if all others fail, too. When it has rested, one request at a time is sent to it before all others, to see whether it
//! answers: only that ends its rest.

use std::time::Duration;

use moka::{ops::compute::Op, sync::Cache};
use tokio::time::Instant;
use umbel_wire::rendezvous;

const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// Failing servers that are remembered, of all sites together, and how long after they were last asked.
const REMEMBERED: u64 = 10_000;
const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, Copy)]
struct Failing {
    failures: u32,
    rests_until: Instant,
}

impl Failing {
    /// After one more failure.
    fn again(before: Option<Self>, now: Instant) -> Self {
        let failures = before.map_or(0, |failing| failing.failures).saturating_add(1);
        Self { failures, rests_until: now }.for_another_rest(now)
    }

    fn for_another_rest(self, now: Instant) -> Self {
        let rest = FIRST_REST.saturating_mul(1 << (self.failures - 1).min(5)).min(LONGEST_REST);
        Self { rests_until: now + rest, ..self }
    }
}

/// What is known of the health of upstream servers, by URL.
#[derive(Debug, Clone)]
pub(crate) struct Upstreams {
    failing: Cache<String, Failing>,
}

impl Default for Upstreams {
    fn default() -> Self {
        let failing = Cache::builder().max_capacity(REMEMBERED).time_to_live(REMEMBERED_FOR).build();
        Self { failing }
    }
}

impl Upstreams {
    /// All of `urls`, the best first: the same object is asked of the same server as long as that is well, so that its caches
    /// and connections stay warm. A request that is `repeatable` loses nothing if the server that it is to try does not answer; any
    /// other is sent there only if nobody else has tried for long.
    pub(crate) fn order<'a>(&self, urls: &'a [String], key: &str, (repeatable, now): (bool, Instant)) -> Vec<&'a str> {
        let mut order = rendezvous::order(key.as_bytes(), urls.iter().map(String::as_str));
        // The cheap look first: nearly always all are well.
        if !order.iter().any(|url| self.failing.contains_key(*url)) {
            return order;
        }
        let patience = if repeatable { Duration::ZERO } else { LONGEST_REST };
        let first = order.first().copied().filter(|first| self.tries(first, now, patience));
        order.sort_by_key(|url| (first != Some(*url)).then(|| self.failing.get(*url).map(|failing| failing.failures)));
        order
    }

    /// Whether the caller is to see whether a server that has rested is back. He is the only one for as long as it rested.
    fn tries(&self, url: &str, now: Instant, patience: Duration) -> bool {
        let mut tries = false;
        self.failing.entry_by_ref(url).and_compute_with(|entry| match entry.map(moka::Entry::into_value) {
            Some(failing) if failing.rests_until + patience <= now => {
                tries = true;
                Op::Put(failing.for_another_rest(now))
            }
            Some(_) | None => Op::Nop,
        });
        tries
    }

    /// It answered.
    pub(crate) fn answered(&self, url: &str) {
        if self.failing.contains_key(url) {
            self.failing.invalidate(url);
        }
    }

    /// It did not answer, or not in HTTP, or that it cannot.
    pub(crate) fn failed(&self, url: &str, now: Instant) {
        self.failing.entry_by_ref(url).and_upsert_with(|entry| Failing::again(entry.map(moka::Entry::into_value), now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_failing_come_last_until_they_have_rested() {
        let urls: Vec<String> = (0..4).map(|n| format!("http://up{n}")).collect();
        let (upstreams, now) = (Upstreams::default(), Instant::now());
        let order = |at| upstreams.order(&urls, "/a", (true, at));
        let first = order(now)[0];
        upstreams.failed(first, now);
        assert_eq!(order(now).last(), Some(&first));
        assert_eq!(order(now + FIRST_REST)[0], first, "rested");
        upstreams.failed(first, now);
        assert_eq!(order(now + FIRST_REST).last(), Some(&first), "rests longer each time");
        upstreams.answered(first);
        assert_eq!(order(now)[0], first);
    }

    /// All readers were sent to a server that was stuck, each time that it had rested.
    #[tokio::test(start_paused = true)]
    async fn one_request_finds_out_whether_a_server_is_back() {
        let urls: Vec<String> = (0..4).map(|n| format!("http://up{n}")).collect();
        let (upstreams, start) = (Upstreams::default(), Instant::now());
        let first = upstreams.order(&urls, "/a", (true, start))[0];
        upstreams.failed(first, start);
        for rests in 1..100 {
            let now = start + rests * FIRST_REST;
            assert_ne!(upstreams.order(&urls, "/a", (false, now))[0], first, "what can be lost is not sent there");
            assert_eq!(upstreams.order(&urls, "/a", (true, now))[0], first);
            for _ in 0..100 {
                assert_eq!(upstreams.order(&urls, "/a", (true, now)).last(), Some(&first));
            }
        }
        let now = start + 100 * FIRST_REST;
        assert_ne!(upstreams.order(&urls, "/a", (false, now))[0], first);
        assert_eq!(upstreams.order(&urls, "/a", (false, now + LONGEST_REST))[0], first, "nobody else has tried");
        upstreams.answered(first);
        assert_eq!(upstreams.order(&urls, "/a", (false, now))[0], first);
    }

    #[test]
    fn objects_spread_over_servers() {
        let urls: Vec<String> = (0..3).map(|n| format!("http://up{n}")).collect();
        let upstreams = Upstreams::default();
        let firsts: std::collections::BTreeSet<_> =
            (0..100).map(|n| upstreams.order(&urls, &format!("/{n}"), (true, Instant::now()))[0].to_owned()).collect();
        assert_eq!(firsts.len(), 3);
    }
}
