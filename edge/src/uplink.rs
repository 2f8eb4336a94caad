//! The limit on what leaves an edge: one pacer for readers' and agents' bodies.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// A body is sent in pieces of this size, so that all get their turn under a limit.
pub(crate) const PIECE: usize = 32 * 1024;

/// How far a sender may be ahead of the clock: smooths the timer's coarseness.
const SLACK: Duration = Duration::from_millis(4);

/// Paces bytes to a rate.
#[derive(Debug)]
pub(crate) struct Uplink {
    bytes_per_second: u64,
    begun: Instant,
    /// Nanoseconds after `begun` at which the next byte may leave.
    next: AtomicU64,
}

impl Uplink {
    /// So many bytes a second.
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), begun: Instant::now(), next: AtomicU64::new(0) }
    }

    /// Returns when `bytes` more may be sent; senders are served in the order of their calls.
    pub(crate) async fn take(&self, bytes: usize) {
        let due = self.begun + Duration::from_nanos(self.reserve(bytes));
        if due > Instant::now() + SLACK {
            tokio::time::sleep_until(due).await;
        }
    }

    fn reserve(&self, bytes: usize) -> u64 {
        let now = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let cost = (bytes as u64).saturating_mul(1_000_000_000) / self.bytes_per_second;
        let take = |next: u64| Some(next.max(now).saturating_add(cost));
        let (Ok(before) | Err(before)) = self.next.fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        before.max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_senders_together_keep_to_the_rate() {
        let uplink = Uplink::new(1_000_000);
        let start = Instant::now();
        let sends = (0..100).map(|_| uplink.take(20_000));
        futures::future::join_all(sends).await;
        let elapsed = start.elapsed();
        assert!(elapsed >= Duration::from_millis(1970) && elapsed <= Duration::from_millis(2010), "{elapsed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_uplink_saves_nothing_up() {
        let uplink = Uplink::new(1_000_000);
        tokio::time::advance(Duration::from_secs(60)).await;
        let start = Instant::now();
        for _ in 0..11 {
            uplink.take(100_000).await;
        }
        assert!(start.elapsed() >= Duration::from_millis(990));
    }
}
