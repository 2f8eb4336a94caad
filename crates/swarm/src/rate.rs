//! How fast something is while it is busy. Idle time is not held against it, and bursts do not flatter it.

use std::time::{Duration, Instant};

/// Memory of the average: what was measured this long ago weighs a third.
const MEMORY: Duration = Duration::from_secs(2);
/// Deliveries closer together than this are one delivery as far as speed goes.
const SHORTEST: f64 = 0.001;

/// An average of amount per second of busy time. Old measurements fade when new ones come, never by silence
/// alone: a source that delivers a large chunk every ten seconds is measured as well as one that delivers a hundred a second.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rate {
    amount: f64,
    busy: f64,
    /// Since when the next delivery is being worked on.
    since: Option<Instant>,
}

impl Rate {
    /// Work was handed out. No effect on what is already busy.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// `amount` arrived; more is expected until [`Self::idle`].
    pub(crate) fn delivered(&mut self, now: Instant, amount: f64) {
        let since = self.since.replace(now).unwrap_or(now);
        let took = now.saturating_duration_since(since).as_secs_f64();
        let keep = (-took / MEMORY.as_secs_f64()).exp();
        self.amount = self.amount * keep + amount;
        self.busy = self.busy * keep + took;
    }

    /// Nothing is being worked on any more.
    pub(crate) fn idle(&mut self) {
        self.since = None;
    }

    /// As last measured; `None` before the first delivery.
    pub(crate) fn per_second(&self) -> Option<f64> {
        (self.amount > 0.0).then(|| self.amount / self.busy.max(SHORTEST))
    }

    /// As [`Self::per_second`], with the silence since the last delivery counted against it.
    pub(crate) fn at(&self, now: Instant) -> Option<f64> {
        let silence = self.since.map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64());
        (self.amount > 0.0).then(|| self.amount / (self.busy + silence).max(SHORTEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch() -> Instant {
        crate::download::tests::epoch()
    }

    /// Delivers `amount` at each of the given milliseconds after work began, and compares the speed within a tenth.
    fn check(amount: f64, at_ms: &[u64], expected: f64) {
        let start = epoch();
        let mut rate = Rate::default();
        rate.begin(start);
        for ms in at_ms {
            rate.delivered(start + Duration::from_millis(*ms), amount);
        }
        let measured = rate.per_second().expect("something was delivered");
        assert!((measured / expected - 1.0).abs() < 0.1, "{at_ms:?}: {measured} is not {expected}");
    }

    #[test]
    fn steady_bursty_and_slow_deliveries_are_measured_right() {
        check(100.0, &[100, 200, 300, 400], 1000.0);
        check(100.0, &[400, 400, 400, 400], 1000.0);
        check(1000.0, &[10_000, 20_000], 100.0);
        check(1000.0, &[1, 10_001, 20_001, 30_001], 100.0);
    }

    #[test]
    fn silence_counts_only_while_busy() {
        let start = epoch();
        let mut rate = Rate::default();
        rate.begin(start);
        rate.delivered(start + Duration::from_secs(1), 100.0);
        let later = start + Duration::from_secs(4);
        assert!(rate.at(later).unwrap() < 30.0);
        rate.idle();
        assert!(rate.at(later).unwrap() > 90.0);
        assert!(Rate::default().at(later).is_none());
    }
}
