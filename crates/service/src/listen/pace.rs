//! Who keeps the server waiting, and for how long that is put up with: in the head of a request, in its content, and in taking
//! the answer. The stream notes what happens ([`Pace`]); whether that is too slow is decided by looking at it ([`Pace::look`]).
//!
//! Over HTTP/2 a stream that is not read is reset, and the others go on; the connection ends only if it moves nothing itself.
//!
//! Only waiting for the client counts. A server behind the edge may take as long as it likes, and so may a client that has
//! nothing to send and nothing to take.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use self::flows::Flows;
use super::stream::Talk;
pub(super) use crate::framing::Awaited;

pub(super) mod flows;
mod frames;

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
    /// Of HTTP/2.
    flows: Option<Box<Flows>>,
}

/// The pace of one connection.
#[derive(Debug, Default)]
pub(super) struct Pace {
    state: Mutex<State>,
    /// Since somebody looked whether the connection is idle. Over HTTP/2 the frames say more.
    moved: AtomicBool,
    /// There are streams to be reset.
    has_paused: AtomicBool,
    /// Requests that are being answered.
    running: AtomicUsize,
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Running(Arc<Talk>);

impl Running {
    pub(super) fn begin(talk: Arc<Talk>) -> Self {
        talk.pace.running.fetch_add(1, Ordering::Relaxed);
        Self(talk)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.pace.moves();
        self.0.pace.running.fetch_sub(1, Ordering::Relaxed);
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
                let Some(wait) = self.idle(now, idle) else { return Seen::Idle };
                until = now + wait.max(BREATH);
            }
            let wait = wait.min(until - now);
            if self.has_paused() {
                // The connection's turn: it only reads when it is asked to.
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(wait).await;
        }
    }

    fn idle(&self, now: Instant, patience: Duration) -> Option<Duration> {
        let mut state = self.lock();
        if let Some(flows) = &mut state.flows {
            return flows.idle(now, patience);
        }
        let moved = self.moved.swap(false, Ordering::Relaxed) || self.running.load(Ordering::Relaxed) > 0;
        (moved || state.awaited == Awaited::Content).then_some(patience)
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

    /// The client sent these bytes of HTTP/2, after the preface.
    pub(super) fn frames_came(&self, bytes: &[u8]) {
        self.lock().flows.get_or_insert_default().came(bytes, Instant::now);
    }

    /// These were sent to it.
    pub(super) fn frames_left(&self, bytes: &[u8]) {
        self.lock().flows.get_or_insert_default().left(bytes, Instant::now);
    }

    /// Whether there are streams whose answer is not taken.
    pub(super) fn has_paused(&self) -> bool {
        self.has_paused.load(Ordering::Acquire)
    }

    /// The frames that reset those streams, if they can be put in between what the client sends now.
    pub(super) fn resets(&self) -> Vec<u8> {
        let mut state = self.lock();
        let Some(flows) = &mut state.flows else { return Vec::new() };
        let resets = flows.resets();
        self.has_paused.store(flows.has_paused(), Ordering::Release);
        resets
    }

    /// Whether a frame can be put in between what is sent to the client.
    pub(super) fn has_room(&self) -> bool {
        self.lock().flows.as_ref().is_some_and(|flows| flows.has_room())
    }

    /// Whether the client is too slow. Streams that it does not read are for [`Pace::resets`].
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
        let Some(writing) = state.writing.look(now, patience) else { return Look::TooSlow("taking the answer") };
        let flows = state.flows.as_mut().map_or(Ok(patience.grace), |flows| {
            let wait = flows.look(now, patience);
            self.has_paused.store(flows.has_paused(), Ordering::Release);
            wait
        });
        match flows {
            Ok(flows) => Look::Again(reading.min(writing).min(flows).max(BREATH)),
            Err(why) => Look::TooSlow(why),
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
