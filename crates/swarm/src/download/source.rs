//! One source's pipe: how much may be in flight to it, how long an answer may take, and when it may be asked again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use umbel_content::ChunkIndex;

use crate::rate::Rate;

/// How a kind of source is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PipeLimits {
    /// Requests in flight whatever the measured rate says.
    pub min_requests: usize,
    /// And bytes: what a first measurement needs to be about the line and not about its delay.
    pub min_bytes: u64,
    /// Requests in flight at most.
    pub max_requests: usize,
    /// Bytes in flight at most, once `min_requests` are there.
    pub max_bytes: u64,
    /// What may wait at the source beyond a round trip's worth, so that it never runs dry.
    pub queue_target: Duration,
    /// An answer may take this long on top of what the measured rate lets expect.
    pub timeout: Duration,
    /// And this many times the expected time.
    pub timeout_factor: u32,
    /// Rate assumed for the first timeout, bytes per second.
    pub assumed_rate: u32,
    /// First pause after a failure; doubles with each further one.
    pub backoff: Duration,
    /// The longest pause.
    pub max_backoff: Duration,
}

impl PipeLimits {
    /// The edge: trusted, far from its timeout most of the time, asked again for ever.
    pub const EDGE: Self = Self {
        min_requests: 4,
        min_bytes: 1 << 20,
        max_requests: 32,
        max_bytes: 64 << 20,
        queue_target: Duration::from_millis(200),
        timeout: Duration::from_secs(10),
        timeout_factor: 8,
        assumed_rate: 256 << 10,
        backoff: Duration::from_millis(250),
        max_backoff: Duration::from_secs(15),
    };
    /// A peer: overtaken soon, left after a few failures.
    pub const PEER: Self = Self {
        min_requests: 2,
        min_bytes: 128 << 10,
        max_requests: 32,
        max_bytes: 32 << 20,
        queue_target: Duration::from_millis(200),
        timeout: Duration::from_secs(2),
        timeout_factor: 3,
        assumed_rate: 256 << 10,
        backoff: Duration::from_millis(500),
        max_backoff: Duration::from_secs(30),
    };
}

/// One chunk asked from one source.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) sent: Instant,
    /// When it should be here if the source keeps its pace.
    pub(crate) expected: Instant,
    /// When it counts as failed.
    pub(crate) deadline: Instant,
    /// Time it was given at first.
    allowance: Duration,
    bytes: u64,
}

/// How soon a source could bring one more chunk: the lower, the better. Known pace before unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Readiness {
    unknown: bool,
    wait: Duration,
    in_flight: usize,
}

/// Requests in flight to one source, and what was measured of it.
#[derive(Debug)]
pub(crate) struct Pipe {
    limits: PipeLimits,
    rate: Rate,
    /// The shortest answer seen lately; one chunk's sending time included.
    latency: Option<Duration>,
    in_flight: BTreeMap<ChunkIndex, Request>,
    in_flight_bytes: u64,
    /// In a row, without a chunk between.
    failures: u32,
    /// Answers that did not come in time, in a row: the next may take longer.
    timeouts: u32,
    paused_until: Option<Instant>,
    delivered_bytes: u64,
}

impl Pipe {
    pub(crate) fn new(limits: PipeLimits) -> Self {
        Self {
            limits,
            rate: Rate::default(),
            latency: None,
            in_flight: BTreeMap::new(),
            in_flight_bytes: 0,
            failures: 0,
            timeouts: 0,
            paused_until: None,
            delivered_bytes: 0,
        }
    }

    pub(crate) fn is_ready(&self, now: Instant) -> bool {
        self.paused_until.is_none_or(|until| until <= now)
    }

    pub(crate) fn paused_until(&self) -> Option<Instant> {
        self.paused_until
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    pub(crate) fn rate(&self) -> &Rate {
        &self.rate
    }

    pub(crate) fn delivered_bytes(&self) -> u64 {
        self.delivered_bytes
    }

    pub(crate) fn in_flight(&self) -> &BTreeMap<ChunkIndex, Request> {
        &self.in_flight
    }

    /// May one more request of this size go out?
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        let count = self.in_flight.len();
        if self.failures > 0 {
            return count == 0;
        }
        count < self.limits.min_requests
            || (count < self.limits.max_requests && self.in_flight_bytes + bytes <= self.window_bytes())
    }

    /// Bandwidth times delay: what keeps the source busy for a round trip and a little more.
    fn window_bytes(&self) -> u64 {
        let delay = self.latency.unwrap_or_default() + self.limits.queue_target;
        let product = self.rate.per_second().unwrap_or_default() * delay.as_secs_f64();
        (product as u64).clamp(self.limits.min_bytes, self.limits.max_bytes.max(self.limits.min_bytes))
    }

    /// How long one more request of this size would take; `None` as long as nothing was measured.
    pub(crate) fn expected_time(&self, bytes: u64) -> Option<Duration> {
        let rate = self.rate.per_second()?;
        let sending =
            Duration::try_from_secs_f64((self.in_flight_bytes + bytes) as f64 / rate).unwrap_or(Duration::MAX);
        Some(sending.saturating_add(self.latency.unwrap_or_default()))
    }

    pub(crate) fn readiness(&self, bytes: u64) -> Readiness {
        let wait = self.expected_time(bytes);
        Readiness { unknown: wait.is_none(), wait: wait.unwrap_or_default(), in_flight: self.in_flight.len() }
    }

    /// Longest time that an answer may take now. Doubles with every timeout in a row, so that even the slowest line
    /// gets a chunk through some time.
    fn allowance(&self, bytes: u64) -> Duration {
        let assumed =
            || Duration::from_secs_f64((self.in_flight_bytes + bytes) as f64 / f64::from(self.limits.assumed_rate));
        let usual = self
            .expected_time(bytes)
            .map_or_else(assumed, |expected| expected.saturating_mul(self.limits.timeout_factor));
        let patient = self.limits.timeout.saturating_add(usual).saturating_mul(1 << self.timeouts.min(10));
        patient.min(Duration::from_secs(24 * 3600))
    }

    pub(crate) fn sent(&mut self, now: Instant, chunk: ChunkIndex, bytes: u64) {
        let allowance = self.allowance(bytes);
        let expected = self.expected_time(bytes).unwrap_or(allowance / 2).min(allowance);
        self.in_flight_bytes += bytes;
        self.rate.begin(now);
        self.in_flight.insert(
            chunk,
            Request { sent: now, expected: now + expected, deadline: now + allowance, allowance, bytes },
        );
    }

    /// The answer is coming in: its time limit starts anew, `times` times at most counted from when it was asked.
    pub(crate) fn moving(&mut self, now: Instant, chunk: ChunkIndex, times: u32) {
        if let Some(request) = self.in_flight.get_mut(&chunk) {
            let latest = request.sent + request.allowance.saturating_mul(times).min(Duration::from_secs(24 * 3600));
            let anew = now + request.allowance;
            request.deadline = anew.min(latest).max(request.deadline);
        }
    }

    /// The chunk is here. One that was not asked for (any more) says nothing about the pace.
    pub(crate) fn delivered(&mut self, now: Instant, chunk: ChunkIndex, bytes: u64) {
        self.delivered_bytes += bytes;
        if !self.in_flight.contains_key(&chunk) {
            return;
        }
        self.rate.delivered(now, bytes as f64);
        if let Some(request) = self.forget(chunk) {
            self.saw_latency(now.saturating_duration_since(request.sent));
        }
        self.forgive();
    }

    fn saw_latency(&mut self, sample: Duration) {
        self.latency = Some(match self.latency {
            Some(known) if known < sample => known + (sample - known) / 64,
            Some(_) | None => sample,
        });
    }

    /// The request is over, whatever became of it.
    pub(crate) fn forget(&mut self, chunk: ChunkIndex) -> Option<Request> {
        let request = self.in_flight.remove(&chunk)?;
        self.in_flight_bytes -= request.bytes;
        if self.in_flight.is_empty() {
            self.rate.idle();
        }
        Some(request)
    }

    /// A request sent at `sent` failed. All that were under way together fail as one. `jitter` is in 0..1.
    /// True if this failure counts.
    pub(crate) fn failed(&mut self, now: Instant, sent: Instant, timed_out: bool, jitter: f64) -> bool {
        if self.paused_until.is_some_and(|until| now < until || sent < until) {
            return false;
        }
        let doubled = self.limits.backoff.saturating_mul(1 << self.failures.min(16)).min(self.limits.max_backoff);
        self.failures = self.failures.saturating_add(1);
        self.timeouts = self.timeouts.saturating_add(u32::from(timed_out));
        self.paused_until = Some(now + doubled.mul_f64(0.5 + jitter / 2.0));
        true
    }

    /// It works, or another server stands behind this pipe now: ask at once.
    pub(crate) fn forgive(&mut self) {
        self.failures = 0;
        self.timeouts = 0;
        self.paused_until = None;
    }

    /// The next request that runs out of time.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.in_flight.values().map(|request| request.deadline).min()
    }

    /// Requests that have run out of time.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<ChunkIndex> {
        let late = self.in_flight.iter().filter(|(_, request)| request.deadline <= now);
        late.map(|(chunk, _)| *chunk).collect()
    }
}
