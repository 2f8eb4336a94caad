//! Streams that are read and streams that are not, by the frames.

use super::*;

const PATIENCE: Patience = Patience { head: Duration::from_secs(10), grace: Duration::from_secs(10), rate: 240 };
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

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
        self.flows.came(&frame(kind, END_HEADERS, stream, payload), || now);
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
    assert!(!connection.flows.has_paused());
    assert!(connection.is_fine_after(1));
    assert_eq!(connection.flows.resets(), frames::reset(1));
    assert!(connection.is_fine_after(3600) && !connection.flows.has_paused(), "the other one goes on");
}

#[test]
fn one_who_lets_no_answer_begin() {
    let mut connection = Connection::new();
    connection.came(SETTINGS, 0, &[0, 4, 0, 0, 0, 0]);
    connection.came(HEADERS, 1, b"");
    assert!(connection.is_fine_after(3600), "it waits for us");
    connection.left(HEADERS, 0, 1, 0);
    assert!(connection.is_fine_after(9) && !connection.flows.has_paused());
    assert!(connection.is_fine_after(1));
    assert_eq!(connection.flows.resets(), frames::reset(1));
}

#[test]
fn one_who_reads_again_in_time() {
    let mut connection = Connection::new();
    connection.granted(0, 1_000_000);
    connection.came(HEADERS, 1, b"");
    connection.left(DATA, 0, 1, 65_535);
    assert!(connection.is_fine_after(10) && connection.is_fine_after(10));
    assert!(connection.flows.has_paused());
    connection.granted(1, 10);
    assert_eq!(connection.flows.resets(), [0; 0]);
    assert!(connection.is_fine_after(3600) && !connection.flows.has_paused());
}

#[test]
fn one_who_leaves_no_room_for_a_reset() {
    let mut connection = Connection::new();
    connection.granted(0, 1_000_000);
    connection.came(HEADERS, 1, b"");
    connection.left(DATA, 0, 1, 65_535);
    let now = connection.now;
    connection.flows.came(&[0, 0, 9, DATA], || now);
    assert!(connection.is_fine_after(10) && connection.is_fine_after(10));
    assert_eq!((connection.flows.has_paused(), connection.flows.resets()), (true, Vec::new()));
    assert!(connection.is_fine_after(9));
    assert!(!connection.is_fine_after(1), "then all of it ends");
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
