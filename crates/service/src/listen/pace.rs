//! Who keeps the server waiting, and for how long that is put up with: in the head of a request, in its content, and in taking
//! the answer. The stream notes what happens ([`Pace`]); whether that is too slow is decided by looking at it ([`Pace::look`]).
//!
//! Over HTTP/2 each stream has a pace of its own as well ([`Stall`]): one that is not read, or does not bring its content, is
//! reset, and the others go on.
//!
//! Only waiting for the client counts. A server behind the edge may take as long as it likes, and so may a client that has
//! nothing to send and nothing to take.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::time::Sleep;

pub(super) use crate::framing::Awaited;

/// How slow is too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience {
    /// For a head.
    pub(super) head: Duration,
    /// So long a client may be behind the rate.
    pub(super) grace: Duration,
    /// Bytes a second that it must move while it is waited for; 0: none.
    pub(super) rate: u64,
}

/// What became of looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing is wrong; it cannot be before so long.
    Again(Duration),
    TooSlow(&'static str),
}

/// The shortest time between two looks.
const BREATH: Duration = Duration::from_millis(100);

/// One direction: time that was spent waiting for the client, and what it moved meanwhile.
#[derive(Debug, Default)]
struct Waiting {
    since: Option<Instant>,
    waited: Duration,
    moved: u64,
}

impl Waiting {
    fn begin(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    fn end(&mut self, now: Instant, moved: usize) {
        if let Some(since) = self.since.take() {
            self.waited += now.saturating_duration_since(since);
        }
        self.moved = self.moved.saturating_add(moved as u64);
    }

    fn waited(&self, now: Instant) -> Duration {
        self.waited + self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    fn forget(&mut self, now: Instant) {
        *self = Self { since: self.since.map(|_| now), ..Self::default() };
    }

    /// Each stretch of waiting as long as the grace must have moved what the rate asks for.
    fn look(&mut self, now: Instant, patience: Patience) -> Option<Duration> {
        let waited = self.waited(now);
        if patience.rate == 0 {
            return Some(patience.grace);
        }
        if waited < patience.grace {
            return Some(patience.grace - waited);
        }
        let owed = u128::from(patience.rate) * waited.as_millis() / 1000;
        if u128::from(self.moved) < owed.max(1) {
            return None;
        }
        self.forget(now);
        Some(patience.grace)
    }
}

#[derive(Debug, Default)]
struct State {
    awaited: Awaited,
    reading: Waiting,
    writing: Waiting,
}

/// The pace of one connection.
#[derive(Debug, Default)]
pub(super) struct Pace {
    state: Mutex<State>,
    /// Since somebody looked whether the connection is idle. Over HTTP/2 only requests count.
    moved: AtomicBool,
    /// Requests that are being answered.
    running: AtomicUsize,
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Running<P: AsRef<Pace>>(P);

impl<P: AsRef<Pace>> Running<P> {
    pub(super) fn begin(of: P) -> Self {
        of.as_ref().running.fetch_add(1, Ordering::Relaxed);
        Self(of)
    }
}

impl<P: AsRef<Pace>> Drop for Running<P> {
    fn drop(&mut self) {
        let pace = self.0.as_ref();
        pace.moves();
        pace.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waiting for the client in one direction of one stream, by whoever it is that waits.
#[derive(Debug)]
pub(super) struct Stall {
    patience: Patience,
    waiting: Waiting,
    /// There as soon as somebody has waited.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    pub(super) fn new(patience: Patience) -> Self {
        Self { patience, waiting: Waiting::default(), timer: None }
    }

    /// The client moved so much.
    pub(super) fn moved(&mut self, bytes: usize) {
        if self.waiting.since.is_some() {
            self.waiting.end(Instant::now(), bytes);
        } else {
            self.waiting.moved = self.waiting.moved.saturating_add(bytes as u64);
        }
    }

    /// The client is waited for; ready when that has been too long.
    pub(super) fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.patience.rate == 0 {
            return Poll::Pending;
        }
        let now = Instant::now();
        self.waiting.begin(now);
        let grace = self.patience.grace;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(grace)));
        while timer.as_mut().poll(cx).is_ready() {
            match self.waiting.look(now, self.patience) {
                Some(wait) => timer.as_mut().reset((now + wait.max(BREATH)).into()),
                None => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}

/// What may become of a client that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// It has asked for nothing for as long as it may.
    Idle,
    /// It is too slow, in this.
    TooSlow(&'static str),
}

impl Pace {
    /// Returns when something is to be done about the client; that it has asked for nothing for as long as `idle`, or twice as
    /// long at most, is something. One timer for both: it is polled with each turn of the connection.
    pub(super) async fn watch(&self, patience: Patience, idle: Duration) -> Seen {
        let mut until = Instant::now() + idle;
        loop {
            let now = Instant::now();
            let wait = match self.look(now, patience) {
                Look::Again(wait) => wait,
                Look::TooSlow(why) => return Seen::TooSlow(why),
            };
            if now >= until {
                if self.is_idle() {
                    return Seen::Idle;
                }
                until = now + idle.max(BREATH);
            }
            tokio::time::sleep(wait.min(until - now)).await;
        }
    }

    fn is_idle(&self) -> bool {
        let moved = self.moved.swap(false, Ordering::Relaxed) || self.running.load(Ordering::Relaxed) > 0;
        !moved && self.lock().awaited != Awaited::Content
    }

    /// Something was read or written.
    pub(super) fn moves(&self) {
        self.moved.store(true, Ordering::Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing to read yet, though somebody would.
    pub(super) fn waits_to_read(&self, now: Instant) {
        self.lock().reading.begin(now);
    }

    /// Something was read; from now on `awaited` is waited for.
    pub(super) fn has_read(&self, now: Instant, bytes: usize, awaited: Awaited) {
        let mut state = self.lock();
        state.reading.end(now, bytes);
        if state.awaited != awaited {
            state.awaited = awaited;
            state.reading.forget(now);
        }
    }

    /// The client takes no more for now, after it took `bytes` without hesitation.
    pub(super) fn waits_to_write(&self, now: Instant, bytes: usize) {
        let mut state = self.lock();
        state.writing.moved = state.writing.moved.saturating_add(bytes as u64);
        state.writing.begin(now);
    }

    /// The client took something.
    pub(super) fn has_written(&self, now: Instant, bytes: usize) {
        self.lock().writing.end(now, bytes);
    }

    /// Whether the client is too slow.
    pub(super) fn look(&self, now: Instant, patience: Patience) -> Look {
        let mut state = self.lock();
        let reading = match state.awaited {
            Awaited::Head => match patience.head.checked_sub(state.reading.waited(now)) {
                Some(left) if !left.is_zero() => left,
                _ => return Look::TooSlow("sending a request's head"),
            },
            Awaited::Content => match state.reading.look(now, patience) {
                Some(left) => left,
                None => return Look::TooSlow("sending a request's content"),
            },
            Awaited::Nothing => patience.grace,
        };
        match state.writing.look(now, patience) {
            Some(writing) => Look::Again(reading.min(writing).max(BREATH)),
            None => Look::TooSlow("taking the answer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { head: Duration::from_secs(10), grace: Duration::from_secs(10), rate: 240 };

    struct Clock(Instant);

    impl Clock {
        fn after(&mut self, seconds: u64) -> Instant {
            self.0 += Duration::from_secs(seconds);
            self.0
        }
    }

    #[test]
    fn a_head_in_drops() {
        let (pace, mut clock) = (Pace::default(), Clock(Instant::now()));
        for _ in 0..9 {
            pace.waits_to_read(clock.0);
            pace.has_read(clock.after(1), 1, Awaited::Head);
            assert!(matches!(pace.look(clock.0, PATIENCE), Look::Again(_)));
        }
        pace.waits_to_read(clock.0);
        assert!(matches!(pace.look(clock.after(1), PATIENCE), Look::TooSlow(_)));
    }

    #[test]
    fn content_at_a_rate() {
        for (bytes, expected) in [(2400, true), (2399, false), (0, false)] {
            let (pace, mut clock) = (Pace::default(), Clock(Instant::now()));
            pace.has_read(clock.0, 100, Awaited::Content);
            pace.waits_to_read(clock.0);
            pace.has_read(clock.after(9), bytes, Awaited::Content);
            assert_eq!(pace.look(clock.0, PATIENCE), Look::Again(Duration::from_secs(1)));
            pace.waits_to_read(clock.0);
            assert_eq!(pace.look(clock.after(1), PATIENCE) != Look::TooSlow("sending a request's content"), expected);
        }
    }

    #[test]
    fn a_reader_that_takes_little() {
        for (bytes, expected) in [(3000, true), (5, false)] {
            let (pace, mut clock) = (Pace::default(), Clock(Instant::now()));
            pace.has_read(clock.0, 100, Awaited::Nothing);
            pace.waits_to_write(clock.0, 0);
            pace.has_written(clock.after(5), bytes);
            pace.waits_to_write(clock.0, 0);
            pace.has_written(clock.after(5), 0);
            assert_eq!(pace.look(clock.0, PATIENCE) != Look::TooSlow("taking the answer"), expected);
        }
    }

    #[test]
    fn who_owes_nothing_has_time() {
        let (pace, mut clock) = (Pace::default(), Clock(Instant::now()));
        pace.has_read(clock.0, 100, Awaited::Nothing);
        pace.waits_to_read(clock.0);
        assert!(matches!(pace.look(clock.after(3600), PATIENCE), Look::Again(_)));
        // What the server does not read, the client cannot be blamed for.
        pace.has_read(clock.0, 100, Awaited::Content);
        assert!(matches!(pace.look(clock.after(3600), PATIENCE), Look::Again(_)));
    }
}
