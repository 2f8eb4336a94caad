//! What an HTTP/2 client does with the streams that it opens, as the frames show it: whether it reads what it asked for
//! (RFC 9113, section 5.2), whether it takes back what it asked for, and
//! whether it asks for anything.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{
    Patience, Waiting,
    frames::{self, DATA, Frame, Frames, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE},
};

/// Streams that are followed at a time. The library refuses more than it was told to allow, but only when it comes to them.
const MOST: usize = 1000;

/// Requests that a client may take back before they are answered, beyond those that it lets be answered. One who leaves a
/// page takes back what was asked for it, once.
const TAKEN_BACK: u32 = 500;

const INITIAL_WINDOW: i64 = 65_535;
const SETTINGS_INITIAL_WINDOW_SIZE: u16 = 4;

/// What may be sent, and how long it is waited for more.
#[derive(Debug)]
struct Flow {
    window: i64,
    waiting: Waiting,
}

impl Flow {
    fn new(window: i64) -> Self {
        Self { window, waiting: Waiting::default() }
    }

    fn sent(&mut self, bytes: i64, now: impl Fn() -> Instant) {
        self.window -= bytes;
        self.waiting.moved = self.waiting.moved.saturating_add(bytes.unsigned_abs());
        if self.window <= 0 {
            self.waiting.begin(now());
        }
    }

    fn granted(&mut self, bytes: i64, now: impl Fn() -> Instant) {
        self.window = self.window.saturating_add(bytes);
        if self.window > 0 && self.waiting.since.is_some() {
            self.waiting.end(now(), 0);
        }
    }
}

#[derive(Debug)]
struct Stream {
    flow: Flow,
    is_answered: bool,
}

/// The streams of one connection.
#[derive(Debug)]
pub(in super::super) struct Flows {
    incoming: Frames,
    outgoing: Frames,
    streams: Streams,
}

#[derive(Debug)]
struct Streams {
    /// What each stream begins with.
    initial: i64,
    connection: Flow,
    /// Those whose answer has not left to its end.
    open: HashMap<u32, Stream>,
    /// Those of them whose answer is not taken, and which are to be reset.
    paused: Vec<u32>,
    last: u32,
    taken_back: u32,
    /// Since when nothing is open, and what had been opened until then.
    idle: Option<(u32, Instant)>,
}

impl Default for Flows {
    fn default() -> Self {
        let streams = Streams {
            initial: INITIAL_WINDOW,
            connection: Flow::new(INITIAL_WINDOW),
            open: HashMap::new(),
            paused: Vec::new(),
            last: 0,
            taken_back: 0,
            idle: None,
        };
        Self { incoming: Frames::default(), outgoing: Frames::default(), streams }
    }
}

impl Flows {
    /// The client sent these bytes, after the preface. The clock is only read where somebody begins or ends to wait.
    pub(in super::super) fn came(&mut self, bytes: &[u8], now: impl Fn() -> Instant + Copy) {
        let streams = &mut self.streams;
        self.incoming.follow(bytes, |frame| streams.came(&frame, now));
    }

    /// These were sent to it.
    pub(in super::super) fn left(&mut self, bytes: &[u8], now: impl Fn() -> Instant + Copy) {
        let streams = &mut self.streams;
        self.outgoing.follow(bytes, |frame| streams.left(&frame, now));
    }

    /// How long nothing can be wrong, or what is wrong with the connection. What is wrong with a stream alone is for
    /// [`Flows::resets`].
    pub(in super::super) fn look(&mut self, now: Instant, patience: Patience) -> Result<Duration, &'static str> {
        self.streams.look(now, patience)
    }

    /// Whether there are streams to be reset.
    pub(in super::super) fn has_paused(&self) -> bool {
        !self.streams.paused.is_empty()
    }

    /// The frames that reset them, for both sides of the connection; nothing as long as there is no room for them between the
    /// client's.
    pub(in super::super) fn resets(&mut self) -> Vec<u8> {
        if self.incoming.has_room() { self.streams.resets() } else { Vec::new() }
    }

    /// Whether a frame may be put in between those that are sent.
    pub(in super::super) fn has_room(&self) -> bool {
        self.outgoing.has_room()
    }

    /// How long nothing is asked for yet, or that this has been long enough.
    pub(in super::super) fn idle(&mut self, now: Instant, patience: Duration) -> Option<Duration> {
        self.streams.idle(now, patience)
    }
}

impl Streams {
    fn came(&mut self, frame: &Frame<'_>, now: impl Fn() -> Instant + Copy) {
        match frame.kind {
            HEADERS if frame.stream > self.last => self.begin(frame.stream, now),
            RST_STREAM => {
                let ended = self.open.remove(&frame.stream);
                let is_taken_back = ended.is_some_and(|stream| !stream.is_answered);
                self.taken_back = self.taken_back.saturating_add(u32::from(is_taken_back));
            }
            SETTINGS if !frame.is_acknowledgement() => self.settings(frame.payload, now),
            WINDOW_UPDATE => {
                let more = frame
                    .payload
                    .first_chunk()
                    .map_or(0, |more| i64::from(u32::from_be_bytes(*more) & i32::MAX as u32));
                if frame.stream == 0 {
                    self.connection.granted(more, now);
                } else if let Some(stream) = self.open.get_mut(&frame.stream) {
                    stream.flow.granted(more, now);
                }
            }
            _ => {}
        }
    }

    fn begin(&mut self, number: u32, now: impl Fn() -> Instant) {
        if self.open.is_empty() && self.connection.waiting.since.is_some() {
            // Nobody has waited since the last stream ended.
            self.connection.waiting.forget(now());
        }
        self.last = number;
        if self.open.len() < MOST {
            self.open.insert(number, Stream { flow: Flow::new(self.initial), is_answered: false });
        }
    }

    fn settings(&mut self, payload: &[u8], now: impl Fn() -> Instant + Copy) {
        for setting in payload.chunks_exact(6) {
            let [a, b, c, d, e, f] = setting else { continue };
            if u16::from_be_bytes([*a, *b]) == SETTINGS_INITIAL_WINDOW_SIZE {
                let initial = i64::from(u32::from_be_bytes([*c, *d, *e, *f]));
                let more = initial - std::mem::replace(&mut self.initial, initial);
                self.open.values_mut().for_each(|stream| stream.flow.granted(more, now));
            }
        }
    }

    fn left(&mut self, frame: &Frame<'_>, now: impl Fn() -> Instant + Copy) {
        match frame.kind {
            DATA => {
                let bytes = i64::from(frame.length);
                self.connection.sent(bytes, now);
                if let Some(stream) = self.open.get_mut(&frame.stream) {
                    stream.flow.sent(bytes, now);
                }
            }
            HEADERS => {
                if let Some(stream) = self.open.get_mut(&frame.stream)
                    && !std::mem::replace(&mut stream.is_answered, true)
                {
                    self.taken_back = self.taken_back.saturating_sub(1);
                    stream.flow.sent(0, now);
                }
            }
            RST_STREAM => drop(self.open.remove(&frame.stream)),
            _ => {}
        }
        if matches!(frame.kind, DATA | HEADERS) && frame.ends_stream() {
            self.open.remove(&frame.stream);
        }
    }

    fn look(&mut self, now: Instant, patience: Patience) -> Result<Duration, &'static str> {
        if self.taken_back > TAKEN_BACK {
            return Err("letting its requests be answered");
        }
        if self.open.is_empty() {
            return Ok(patience.grace);
        }
        let mut least = patience.grace;
        let known = self.paused.len();
        for (number, stream) in &mut self.open {
            match stream.flow.waiting.look(now, patience) {
                Some(wait) => least = least.min(wait),
                None if self.paused.contains(number) => return Err("sending a frame to its end"),
                None => {
                    self.paused.push(*number);
                    stream.flow.waiting.forget(now);
                }
            }
        }
        match self.connection.waiting.look(now, patience) {
            Some(wait) => Ok(least.min(wait)),
            // What the streams held may be free now.
            None if self.paused.len() > known => {
                self.connection.waiting.forget(now);
                Ok(least)
            }
            None => Err("taking an answer"),
        }
    }

    fn resets(&mut self) -> Vec<u8> {
        let paused = std::mem::take(&mut self.paused);
        let still = |number: &u32| self.open.get(number).is_some_and(|stream| stream.flow.waiting.since.is_some());
        let reset: Vec<_> = paused.into_iter().filter(still).collect();
        self.open.retain(|number, _| !reset.contains(number));
        reset.into_iter().flat_map(frames::reset).collect()
    }

    fn idle(&mut self, now: Instant, patience: Duration) -> Option<Duration> {
        if !self.open.is_empty() {
            self.idle = None;
            return Some(patience);
        }
        let since = match self.idle {
            Some((last, since)) if last == self.last => since,
            Some(_) | None => now,
        };
        self.idle = Some((self.last, since));
        patience.checked_sub(now.saturating_duration_since(since)).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests;
