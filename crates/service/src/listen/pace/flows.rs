//! What an HTTP/2 client does with the streams that it opens, as the frames show it: whether it reads what it asked for
//! (RFC 9113, section 5.2), whether it takes back what it asked for, and
//! whether it asks for anything.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{
    Patience, Waiting,
    frames::{DATA, Frame, Frames, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE},
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

    /// How long nothing can be wrong, or what is.
    pub(in super::super) fn look(&mut self, now: Instant, patience: Patience) -> Result<Duration, &'static str> {
        self.streams.look(now, patience)
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
        let flows = self.open.values_mut().map(|stream| &mut stream.flow).chain([&mut self.connection]);
        let looks: Option<Duration> = flows
            .map(|flow| flow.waiting.look(now, patience))
            .try_fold(patience.grace, |least, look| Some(least.min(look?)));
        looks.ok_or("taking an answer")
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
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { head: Duration::from_secs(10), grace: Duration::from_secs(10), rate: 240 };
    const END_STREAM: u8 = 1;

    struct Connection {
        flows: Flows,
        now: Instant,
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    impl Connection {
        fn new() -> Self {
            Self { flows: Flows::default(), now: Instant::now() }
        }

        fn came(&mut self, kind: u8, stream: u32, payload: &[u8]) {
            let now = self.now;
            self.flows.came(&frame(kind, 0, stream, payload), || now);
        }

        fn granted(&mut self, stream: u32, bytes: u32) {
            self.came(WINDOW_UPDATE, stream, &bytes.to_be_bytes());
        }

        fn left(&mut self, kind: u8, flags: u8, stream: u32, length: usize) {
            let now = self.now;
            for piece in vec![0; length].chunks(16 * 1024) {
                self.flows.left(&frame(kind, flags, stream, piece), || now);
            }
            if length == 0 {
                self.flows.left(&frame(kind, flags, stream, &[]), || now);
            }
        }

        fn is_fine_after(&mut self, seconds: u64) -> bool {
            self.now += Duration::from_secs(seconds);
            self.flows.look(self.now, PATIENCE).is_ok()
        }
    }

    #[test]
    fn one_who_reads_nothing_of_a_stream() {
        let mut connection = Connection::new();
        connection.granted(0, 1_000_000);
        connection.came(HEADERS, 1, b"");
        connection.came(HEADERS, 3, b"");
        connection.left(HEADERS, 0, 1, 0);
        connection.left(DATA, 0, 1, 65_535);
        // The other one is none of its business.
        connection.left(DATA, 0, 3, 1000);
        // What was taken before the wait counts, as over HTTP/1.1.
        assert!(connection.is_fine_after(10));
        assert!(connection.is_fine_after(9));
        assert!(!connection.is_fine_after(1));
    }

    #[test]
    fn one_who_reads_nothing_at_all() {
        let mut connection = Connection::new();
        connection.came(SETTINGS, 0, &[0, 4, 0, 1, 0, 0]);
        connection.came(HEADERS, 1, b"");
        connection.left(DATA, 0, 1, 65_535);
        assert!(connection.is_fine_after(10));
        assert!(!connection.is_fine_after(10), "the stream may go on, the connection may not");
    }

    #[test]
    fn one_who_reads_has_time() {
        let mut connection = Connection::new();
        connection.came(HEADERS, 1, b"");
        connection.left(DATA, 0, 1, 65_535);
        for _ in 0..10 {
            assert!(connection.is_fine_after(5));
            connection.granted(0, 2400);
            connection.granted(1, 2400);
            connection.left(DATA, 0, 1, 2400);
        }
        connection.granted(0, 10);
        connection.granted(1, 10);
        assert!(connection.is_fine_after(3600), "it waits for us");
    }

    #[test]
    fn answers_that_are_sent_are_not_waited_for() {
        let mut connection = Connection::new();
        connection.came(HEADERS, 1, b"");
        connection.left(DATA, END_STREAM, 1, 65_535);
        assert!(connection.is_fine_after(3600));
        connection.came(HEADERS, 3, b"");
        assert!(connection.is_fine_after(9), "from now on it is waited for");
        connection.granted(0, 10);
        assert!(connection.is_fine_after(3600));
    }

    #[test]
    fn one_who_asks_for_nothing() {
        let mut connection = Connection::new();
        let is_idle = |connection: &mut Connection, seconds| {
            connection.now += Duration::from_secs(seconds);
            connection.flows.idle(connection.now, Duration::from_secs(10)).is_none()
        };
        assert!(!is_idle(&mut connection, 0) && !is_idle(&mut connection, 9));
        connection.came(HEADERS, 1, b"");
        assert!(!is_idle(&mut connection, 3600), "somebody waits for an answer");
        connection.left(HEADERS, END_STREAM, 1, 0);
        assert!(!is_idle(&mut connection, 0) && !is_idle(&mut connection, 9));
        connection.came(HEADERS, 3, b"");
        connection.left(HEADERS, END_STREAM, 3, 0);
        assert!(!is_idle(&mut connection, 9), "it asked between two looks");
        assert!(is_idle(&mut connection, 10));
    }

    #[test]
    fn one_who_takes_back_what_it_asks_for() {
        for is_answered in [true, false] {
            let mut connection = Connection::new();
            for stream in 0..2000 {
                connection.came(HEADERS, 2 * stream + 1, b"");
                if is_answered {
                    connection.left(HEADERS, 0, 2 * stream + 1, 0);
                }
                connection.came(RST_STREAM, 2 * stream + 1, &[0, 0, 0, 8]);
            }
            assert_eq!(connection.is_fine_after(0), is_answered);
        }
    }
}
