//! How long an answer to "which version is current" is good.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{PATIENCE, Version};

/// An answer is used while the next one is fetched if it is no older than twice its life, or its life and this. So a version
/// stays for at most so long, and as long as an origin takes, beyond `lookup_ttl_ms`; with 0 there, not at all.
const GRACE: Duration = Duration::from_secs(2);

/// Which version is current, or that there is none.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) version: Option<Arc<Version>>,
    /// Stands until then without asking anyone.
    until: Instant,
    /// Stands until then while somebody is asked.
    grace: Instant,
    /// Of purges, when the question went out that brought it.
    pub(super) epoch: u64,
}

/// What an answer is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Fresh,
    WhileAsking,
    Over,
}

impl Answer {
    /// There is this version, for so long.
    pub(super) fn found(version: Arc<Version>, life: Duration, epoch: u64) -> Self {
        Self::lasting(Some(version), life, GRACE, epoch)
    }

    /// There is none, for so long. Somebody may be waiting for it to be there: no grace.
    pub(super) fn absent(life: Duration, epoch: u64) -> Self {
        Self::lasting(None, life, Duration::ZERO, epoch)
    }

    /// What is pulled is fresh for as long as HTTP says, and not a moment longer.
    pub(super) fn pulled(version: Arc<Version>, life: Duration, epoch: u64) -> Self {
        Self::lasting(Some(version), life, Duration::ZERO, epoch)
    }

    fn lasting(version: Option<Arc<Version>>, life: Duration, grace: Duration, epoch: u64) -> Self {
        let until = Instant::now() + life;
        Self { version, until, grace: until + life.min(grace), epoch }
    }

    /// The same while it is being replaced, which takes no longer than an origin may.
    pub(super) fn while_asking(self) -> Self {
        let until = Instant::now() + PATIENCE;
        Self { until, grace: until, ..self }
    }

    pub(super) fn use_at(&self, now: Instant) -> Use {
        if now < self.until {
            Use::Fresh
        } else if now < self.grace {
            Use::WhileAsking
        } else {
            Use::Over
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answer: &Answer, after_ms: u64, expected: Use) {
        let good = answer.use_at(Instant::now() + Duration::from_millis(after_ms));
        assert_eq!(good, expected, "after {after_ms} ms: {answer:?}");
    }

    fn found(life_ms: u64) -> Answer {
        Answer::lasting(None, Duration::from_millis(life_ms), GRACE, 0)
    }

    #[tokio::test(start_paused = true)]
    async fn how_long_an_answer_is_good() {
        check(&found(0), 0, Use::Over);
        check(&found(1000), 999, Use::Fresh);
        check(&found(1000), 1000, Use::WhileAsking);
        check(&found(1000), 1999, Use::WhileAsking);
        check(&found(1000), 2000, Use::Over);
        check(&found(60_000), 61_999, Use::WhileAsking);
        check(&found(60_000), 62_000, Use::Over);
        check(&Answer::absent(Duration::from_secs(1), 0), 999, Use::Fresh);
        check(&Answer::absent(Duration::from_secs(1), 0), 1000, Use::Over);
        check(&found(0).while_asking(), 1999, Use::Fresh);
        check(&found(0).while_asking(), 2000, Use::Over);
    }
}
