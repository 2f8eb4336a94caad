//! When a peer whose link ended is dialled again: after pauses that double, and only so often in a row.

use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Links that may end in a row without a chunk from any of them.
const MOST_FAILURES: u32 = 7;

/// The patience with one peer.
#[derive(Debug, Default)]
pub(super) struct Redial {
    failures: u32,
    due: Option<Instant>,
}

impl Redial {
    /// A link to the peer has ended. False: there is no next time. `random`, from 0 to 1, keeps those who lost the same peer at the
    /// same moment from coming back at the same moment.
    pub(super) fn ended(&mut self, now: Instant, random: f64) -> bool {
        self.failures += 1;
        let more = self.failures < MOST_FAILURES;
        let pause = FIRST_PAUSE.saturating_mul(1 << (self.failures - 1).min(16)).min(LONGEST_PAUSE);
        self.due = more.then(|| now + pause.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0));
        more
    }

    /// The peer is being dialled.
    pub(super) fn dialled(&mut self) {
        self.due = None;
    }

    /// The peer has brought a chunk: it may fail as often as one that never did.
    pub(super) fn progressed(&mut self) {
        self.failures = 0;
    }

    /// When to dial; none while there is a link.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds from the start to each attempt on a peer whose links end at once, but for those that bring a chunk first.
    async fn attempts(random: f64, progress_at: &[usize]) -> Vec<u128> {
        let (mut redial, mut at) = (Redial::default(), Vec::new());
        let start = tokio::time::Instant::now();
        loop {
            redial.dialled();
            if progress_at.contains(&at.len()) {
                redial.progressed();
            }
            at.push(start.elapsed().as_millis());
            if !redial.ended(tokio::time::Instant::now().into_std(), random) {
                assert_eq!(redial.due(), None);
                return at;
            }
            tokio::time::sleep_until(redial.due().unwrap().into()).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_and_end() {
        assert_eq!(attempts(1.0, &[]).await, [0, 500, 1500, 3500, 7500, 15_500, 31_500]);
        assert_eq!(attempts(0.0, &[]).await, [0, 250, 750, 1750, 3750, 7750, 15_750]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_chunk_makes_up_for_all_failures_before() {
        assert_eq!(attempts(1.0, &[2]).await, [0, 500, 1500, 2000, 3000, 5000, 9000, 17_000, 33_000]);
    }
}
