//! Tables for each rule of a download.

use std::time::Instant;

/// Some moment; tests count from it.
#[expect(
    clippy::disallowed_methods,
    reason = "there is no other way to make an Instant; nothing depends on its value"
)]
pub(crate) fn epoch() -> Instant {
    static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}
