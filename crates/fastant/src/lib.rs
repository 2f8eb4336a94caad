//! Stands in for the crate of the same name, which foyer's disk statistics use (see `[patch.crates-io]`): the same names over
//! the standard library's clock.
//!
//! The original calibrates the CPU's time stamp counter in a constructor that runs before `main`, for 20 ms, in every
//! program that links it. `umbel get` of a small file takes 4 ms in all, so this is worth a few lines of our own. It has what
//! foyer 0.22 needs and no more; when foyer needs more, the build says so.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

static START: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);

/// Nanoseconds since this process first asked for the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(u64);

impl Instant {
    /// Now.
    pub fn now() -> Self {
        Self(u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Time since `earlier`; zero if that is later.
    pub fn duration_since(&self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// An [`Instant`] that threads share.
#[derive(Debug)]
pub struct Atomic(AtomicU64);

impl Atomic {
    /// Holds `instant`.
    pub fn new(instant: Instant) -> Self {
        Self(AtomicU64::new(instant.0))
    }

    /// What it holds.
    pub fn load(&self, order: Ordering) -> Instant {
        Instant(self.0.load(order))
    }

    /// Holds `instant` from now on.
    pub fn store(&self, instant: Instant, order: Ordering) {
        self.0.store(instant.0, order);
    }
}
