//! The bar that people watch.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const TEMPLATE: &str = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}";

/// Bytes sent so far, on standard error if that is a terminal.
#[derive(Debug, Clone)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// A bar for `total` bytes, or an invisible one.
    pub(super) fn new(total: u64, visible: bool) -> Self {
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        bar.set_style(ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// A file whose turn it is.
    pub(super) fn file(&self, key: &str) {
        self.0.set_message(key.to_owned());
    }

    /// Bytes that left.
    pub(super) fn sent(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Bytes that have to be sent again.
    pub(super) fn lost(&self, bytes: u64) {
        self.0.dec(bytes);
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
