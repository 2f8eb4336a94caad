//! The user's rate limits. Every uploaded byte passes [`Throttle::take`] before it is written to a connection, every
//! downloaded one before more is read, so that flow control carries the limit to the sender.

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// What may pass at once when nothing passed before: a quarter of a second's worth, within these bounds.
const SMALLEST_BURST: u32 = 16 * 1024;
const LARGEST_BURST: u32 = 1024 * 1024;

/// A token bucket of bytes.
#[derive(Debug)]
pub(crate) struct Throttle(Option<(DefaultDirectRateLimiter, usize)>);

impl Throttle {
    /// At most so many bytes per second; 0, or more than 4 GB/s, means any number.
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        let rate = u32::try_from(bytes_per_second).ok().and_then(NonZeroU32::new);
        Self(rate.map(|rate| {
            let burst = (rate.get() / 4).clamp(SMALLEST_BURST, LARGEST_BURST);
            let quota = Quota::per_second(rate).allow_burst(NonZeroU32::new(burst).unwrap_or(rate));
            (RateLimiter::direct(quota), burst as usize)
        }))
    }

    /// Waits until `bytes` may pass.
    pub(crate) async fn take(&self, bytes: usize) {
        let Some((limiter, burst)) = &self.0 else { return };
        let mut left = bytes;
        while left > 0 {
            let piece = left.min(*burst);
            let cells = u32::try_from(piece).ok().and_then(NonZeroU32::new);
            if let Some(cells) = cells {
                // Fails only above the burst, and a piece is at most that.
                let _within_burst = limiter.until_n_ready(cells).await;
            }
            left -= piece;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[tokio::test]
    async fn no_limit_never_waits() {
        Throttle::new(0).take(usize::MAX).await;
    }

    #[tokio::test]
    async fn a_limit_is_never_exceeded() {
        let throttle = Throttle::new(1 << 20);
        let start = Instant::now();
        throttle.take(768 << 10).await;
        // A quarter second's burst is free, the other half megabyte is not.
        assert!(start.elapsed() >= Duration::from_millis(490));
    }
}
