//! Where answers end: that depends on the request and on the status, too (RFC 9112, section 6.3).

use super::{Ambiguous, Content, State};

/// So many interim answers (1xx) may come before the one that counts.
const INTERIM: u8 = 16;

/// What there is to know of one connection's answers besides their fields.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// There is a request without an answer.
    asked: bool,
    /// That request is HEAD.
    is_head: bool,
    /// Of the answer that comes in.
    status: u16,
    interim: u8,
}

impl Answers {
    pub(super) fn asks(&mut self, is_head: bool) {
        *self = Self { asked: true, is_head, ..Self::default() };
    }

    pub(super) fn is_asked(&self) -> bool {
        self.asked
    }

    /// RFC 9112, section 4: the library is as generous with the rest of the line.
    pub(super) fn begin(&mut self, line: &[u8]) -> Result<(), Ambiguous> {
        let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', status @ ..] = line else {
            return Err(Ambiguous::StatusLine);
        };
        let digits = status.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit));
        let digits = digits.ok_or(Ambiguous::StatusLine)?;
        self.status = digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
        Ok(())
    }

    pub(super) fn end_head(&mut self, content: Content) -> Result<State, Ambiguous> {
        match self.status {
            101 => Ok(State::Opaque),
            100..=199 if self.interim == INTERIM => Err(Ambiguous::Interim),
            100..=199 => {
                self.interim += 1;
                Ok(State::StartLine)
            }
            status => {
                self.asked = false;
                Ok(if self.is_head || matches!(status, 204 | 304) { State::StartLine } else { content.begin() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Framing, *};

    /// Whole and byte by byte: what is wrong and where, or whether the answer is there to its end.
    fn check_for(is_head: bool, text: &str, expected: Result<bool, (usize, Ambiguous)>) {
        for size in [1, text.len().max(1)] {
            let (mut framing, mut before) = (Framing::of_answers(), 0);
            framing.asks(is_head);
            let followed = text.as_bytes().chunks(size).try_for_each(|piece| {
                let outcome = framing.follow(piece).map_err(|(index, why)| (before + index, why));
                before += piece.len();
                outcome
            });
            assert_eq!(followed.map(|()| !framing.is_within()), expected, "{text:?} in pieces of {size}");
        }
    }

    fn check(text: &str, expected: Result<bool, Ambiguous>) {
        match expected {
            Ok(whole) => check_for(false, text, Ok(whole)),
            Err(why) => {
                let mut framing = Framing::of_answers();
                framing.asks(false);
                assert_eq!(framing.follow(text.as_bytes()).map_err(|(_, why)| why), Err(why), "{text:?}");
            }
        }
    }

    #[test]
    fn answers_to_their_end() {
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Ok(true));
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no", Ok(false));
        check("HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", Ok(true));
        check("HTTP/1.0 200 OK\r\n\r\nuntil\nit ends", Ok(true));
        check("HTTP/1.1 200 OK\r\ntransfer-encoding: other\r\n\r\nuntil\nit ends", Ok(true));
        check("HTTP/1.1 204 No Content\r\n\r\n", Ok(true));
        check("HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n", Ok(true));
        check("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2  \r\nok\r\n0\r\nx: y\r\n\r\n", Ok(true));
        check("HTTP/1.1 101 Switching Protocols\r\n\r\nany\nthing", Ok(true));
        check("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx", Ok(true));
        check_for(true, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", Ok(true));
    }

    #[test]
    fn what_is_no_answer() {
        use Ambiguous as A;
        for (text, why) in [
            ("hello\r\n", A::StatusLine),
            ("\r\n", A::StatusLine),
            ("HTTP/2.0 200 OK\r\n", A::StatusLine),
            ("HTTP/1.1 20 OK\r\n", A::StatusLine),
            ("HTTP/1.1 200 OK\n", A::BareLf),
            ("HTTP/1.1 200 OK\r\nx: y\nset-cookie: z\r\n", A::BareLf),
            ("HTTP/1.1 200 OK\r\nx: y\rset-cookie: z\r\n", A::BareCr),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n", A::LengthTwice),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n", A::LengthTwice),
            ("HTTP/1.1 200 OK\r\ncontent-length: one\r\n", A::Length),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n", A::Coding),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n", A::Coding),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding:\r\n", A::Coding),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: other\r\ncontent-length: 1\r\n", A::LengthTwice),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n", A::Chunk),
            (&"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(17), A::Interim),
        ] {
            check(text, Err(why));
        }
    }

    /// Up to where it is an answer, so that this can be read before the connection ends.
    #[test]
    fn what_nobody_asked_for() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        check_for(false, &format!("{answer}\r\n"), Err((answer.len(), Ambiguous::Unasked)));
        check_for(false, &format!("{answer}{answer}"), Err((answer.len(), Ambiguous::Unasked)));
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n";
        check_for(true, &format!("{head}ok"), Err((head.len(), Ambiguous::Unasked)));
        assert_eq!(Framing::of_answers().follow(b"HTTP"), Err((0, Ambiguous::Unasked)));
    }
}
