//! Any part may be killed or restarting at any moment: what it is asked is asked again.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long a part may be away.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(250);

/// Tries until it succeeds or patience ends; then, with the last error.
pub(super) async fn patiently<T>(mut attempt: impl AsyncFnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Err(_) if Instant::now() < deadline => sleep(PAUSE).await,
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[tokio::test(start_paused = true)]
    async fn until_it_succeeds_or_patience_ends() {
        let mut failures = 3;
        let attempt = async || {
            failures -= 1;
            if failures > 0 { bail!("not yet") } else { Ok("there") }
        };
        assert_eq!(patiently(attempt).await.unwrap(), "there");
        let began = Instant::now();
        assert_eq!(patiently(async || -> anyhow::Result<()> { bail!("away") }).await.unwrap_err().to_string(), "away");
        assert!(began.elapsed() >= PATIENCE);
    }
}
