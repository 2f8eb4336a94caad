//! Where the requests of an HTTP/1.1 connection begin and end (RFC 9112), read along before the HTTP library sees the bytes; and
//! where answers do, on connections to servers that are not ours (`framing/answers.rs`).
//!
//! The library reads generously, as the RFC allows: a line may end without CR, a length may stand beside a transfer coding or be
//! there twice. Another program on the way may read such bytes as other requests than we do, and so let somebody slip one
//! past (request smuggling). Here nothing passes that can be read in two ways. What a line may have in it beyond that is
//! left to the library, which is strict about it.

use memchr::memchr2;

use self::answers::Answers;

mod answers;

/// What is kept of a line that comes in pieces; those that frame a message are shorter.
const LINE: usize = 256;

/// What a connection waits for when it waits for the client to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Awaited {
    /// The first byte of all, or the rest of a request's line and fields.
    #[default]
    Head,
    /// The content of a request.
    Content,
    /// Another request, if there is one: whoever keeps connections open may do so.
    Nothing,
}

/// Why a connection is not read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ambiguous {
    /// LF without CR.
    #[error("a line ends without CR")]
    BareLf,
    /// CR without LF.
    #[error("a CR within a line")]
    BareCr,
    /// More than one `Content-Length`, or one beside `Transfer-Encoding`, or two of those.
    #[error("the length of the content is given twice")]
    LengthTwice,
    /// Not a number, or not one that makes sense.
    #[error("malformed Content-Length")]
    Length,
    /// Anything but `chunked`; in an answer, anything beside it.
    #[error("a transfer coding other than chunked")]
    Coding,
    /// A malformed line before a chunk, or more bytes in the chunk than it said.
    #[error("malformed chunk")]
    Chunk,
    /// Trailers that would frame or route another message.
    #[error("a trailer field that must not be one")]
    Trailer,
    /// What should be an answer does not begin like one.
    #[error("no status line")]
    StatusLine,
    /// More 1xx than anybody needs.
    #[error("too many interim answers")]
    Interim,
    /// There is no request that it could answer.
    #[error("an answer that nobody asked for")]
    Unasked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a request line or status line, or in it.
    StartLine,
    Fields,
    /// Bytes of content that are to come.
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// Another protocol.
    Opaque,
}

/// What the fields so far say about the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    None,
    Length(u64),
    Chunked,
    /// Of an answer: all until the connection ends, in a coding that nobody here knows.
    UntilEnd,
}

impl Content {
    /// What comes after the head.
    fn begin(self) -> State {
        match self {
            // In an answer: all until the connection ends.
            Self::None | Self::UntilEnd => State::Opaque,
            Self::Length(0) => State::StartLine,
            Self::Length(length) => State::Length(length),
            Self::Chunked => State::ChunkSize,
        }
    }
}

/// Follows one connection.
#[derive(Debug)]
pub(crate) struct Framing {
    /// On a connection that brings answers.
    answers: Option<Answers>,
    state: State,
    content: Content,
    /// What came so far of the present line, without its end.
    begun: Vec<u8>,
    /// The last byte was a CR.
    cr: bool,
}

impl Framing {
    /// At the beginning of a connection that brings requests.
    pub(crate) fn new() -> Self {
        Self { answers: None, state: State::StartLine, content: Content::None, begun: Vec::new(), cr: false }
    }

    /// At the beginning of one that brings answers, as soon as there are requests for them ([`Framing::asks`]).
    pub(crate) fn of_answers() -> Self {
        Self { answers: Some(Answers::default()), ..Self::new() }
    }

    /// A request leaves whose answer comes next.
    pub(crate) fn asks(&mut self, is_head: bool) {
        if let Some(answers) = &mut self.answers {
            answers.asks(is_head);
        }
    }

    /// From here on the connection speaks another protocol.
    pub(crate) fn leave(&mut self) {
        self.state = State::Opaque;
    }

    /// Whether the last message is not here to its end.
    pub(crate) fn is_within(&self) -> bool {
        !matches!(self.state, State::StartLine | State::Opaque) || !self.begun.is_empty()
    }

    /// What is waited for next.
    pub(crate) fn awaited(&self) -> Awaited {
        match self.state {
            State::Opaque => Awaited::Nothing,
            State::StartLine if self.begun.is_empty() && !self.cr => Awaited::Nothing,
            State::StartLine | State::Fields => Awaited::Head,
            State::Length(_) | State::ChunkSize | State::Chunk(_) | State::ChunkEnd | State::Trailers => {
                Awaited::Content
            }
        }
    }

    /// Whether what comes is, or would be, a request's line and fields.
    pub(crate) fn is_in_head(&self) -> bool {
        matches!(self.state, State::StartLine | State::Fields)
    }

    /// Reads on. At what must not be there it says the index of the byte that makes it so.
    pub(crate) fn follow(&mut self, bytes: &[u8]) -> Result<(), (usize, Ambiguous)> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            at += match self.state {
                State::Opaque => return Ok(()),
                State::StartLine if self.is_unasked() => return Err((at, Ambiguous::Unasked)),
                State::Length(left) | State::Chunk(left) => self.pass(left, rest.len()),
                State::StartLine | State::Fields | State::ChunkSize | State::ChunkEnd | State::Trailers => {
                    self.line(rest).map_err(|(offset, why)| (at + offset, why))?
                }
            };
        }
        Ok(())
    }

    fn is_unasked(&self) -> bool {
        self.answers.as_ref().is_some_and(|answers| !answers.is_asked())
    }

    fn pass(&mut self, left: u64, there: usize) -> usize {
        let passed = usize::try_from(left).unwrap_or(usize::MAX).min(there);
        let left = left - passed as u64;
        self.state = match (self.state, left) {
            (State::Chunk(_), 0) => State::ChunkEnd,
            (State::Chunk(_), left) => State::Chunk(left),
            (_, 0) => State::StartLine,
            (_, left) => State::Length(left),
        };
        passed
    }

    /// Reads to the end of the line or of the bytes, and says how far that was.
    fn line(&mut self, bytes: &[u8]) -> Result<usize, (usize, Ambiguous)> {
        if std::mem::take(&mut self.cr) {
            return match bytes.first() {
                Some(b'\n') => self.end_line(&[]).map(|()| 1).map_err(|why| (0, why)),
                _ => Err((0, Ambiguous::BareCr)),
            };
        }
        let Some(end) = memchr2(b'\r', b'\n', bytes) else {
            self.begin(bytes).map_err(|why| (0, why))?;
            return Ok(bytes.len());
        };
        let (line, after) = bytes.split_at(end);
        match after {
            [b'\r', b'\n', ..] => self.end_line(line).map(|()| end + 2).map_err(|why| (end + 1, why)),
            [b'\r'] => {
                self.begin(line).map_err(|why| (0, why))?;
                self.cr = true;
                Ok(bytes.len())
            }
            [b'\r', ..] => Err((end + 1, Ambiguous::BareCr)),
            _ => Err((end, Ambiguous::BareLf)),
        }
    }

    /// Keeps as much of a line as it takes to know that it is too long.
    fn begin(&mut self, bytes: &[u8]) -> Result<(), Ambiguous> {
        if self.state == State::ChunkEnd && !bytes.is_empty() {
            return Err(Ambiguous::Chunk);
        }
        let room = (LINE + 1).saturating_sub(self.begun.len());
        self.begun.extend(bytes.iter().take(room));
        Ok(())
    }

    fn end_line(&mut self, rest: &[u8]) -> Result<(), Ambiguous> {
        if self.begun.is_empty() {
            return self.whole_line(rest);
        }
        self.begin(rest)?;
        let mut line = std::mem::take(&mut self.begun);
        let outcome = self.whole_line(&line);
        line.clear();
        self.begun = line;
        outcome
    }

    fn whole_line(&mut self, line: &[u8]) -> Result<(), Ambiguous> {
        self.state = match (self.state, line) {
            (State::StartLine, _) if self.answers.is_some() => self.status_line(line)?,
            // Empty lines before a request are not part of it (RFC 9112, section 2.2).
            (State::StartLine, b"") => State::StartLine,
            (State::StartLine, _) => State::Fields,
            (State::Fields, b"") => self.end_head()?,
            (State::Fields, _) => self.field(line)?,
            (State::ChunkSize, _) => match chunk_size(self.chunk_line(line))? {
                0 => State::Trailers,
                size => State::Chunk(size),
            },
            (State::ChunkEnd, b"") => State::ChunkSize,
            (State::ChunkEnd, _) => return Err(Ambiguous::Chunk),
            (State::Trailers, b"") => State::StartLine,
            (State::Trailers, _) => trailer(line)?,
            (state @ (State::Length(_) | State::Chunk(_) | State::Opaque), _) => state,
        };
        Ok(())
    }

    fn status_line(&mut self, line: &[u8]) -> Result<State, Ambiguous> {
        self.answers.as_mut().map_or(Ok(()), |answers| answers.begin(line)).map(|()| State::Fields)
    }

    /// Servers are known that pad the size of a chunk, and nobody smuggles anything with answers that way.
    fn chunk_line<'a>(&self, line: &'a [u8]) -> &'a [u8] {
        if self.answers.is_some() { line.trim_ascii_end() } else { line }
    }

    /// RFC 9112, sections 6.1 and 6.3. Other codings than chunked nobody uses in requests but those who look for a gap. An answer in
    /// one ends with its connection, which leaves no gap.
    fn coding(&self, value: &[u8]) -> Result<Content, Ambiguous> {
        let is_chunked = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
        if is_chunked(value) {
            Ok(Content::Chunked)
        } else if self.answers.is_some() && !value.is_empty() && !value.split(|byte| *byte == b',').any(is_chunked) {
            Ok(Content::UntilEnd)
        } else {
            Err(Ambiguous::Coding)
        }
    }

    fn end_head(&mut self) -> Result<State, Ambiguous> {
        let content = std::mem::replace(&mut self.content, Content::None);
        if let Some(answers) = &mut self.answers {
            return answers.end_head(content);
        }
        Ok(if content == Content::None { State::StartLine } else { content.begin() })
    }

    fn field(&mut self, line: &[u8]) -> Result<State, Ambiguous> {
        let (name, value) = split(line);
        // Of a line that came in pieces only so much is kept: a number could be another one.
        let value = if line.len() > LINE { b"too long".as_slice() } else { value };
        let said = if name.eq_ignore_ascii_case(b"content-length") {
            Content::Length(length(value)?)
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.coding(value)?
        } else {
            return Ok(State::Fields);
        };
        if self.content != Content::None {
            return Err(Ambiguous::LengthTwice);
        }
        self.content = said;
        Ok(State::Fields)
    }
}

/// Name and value of a field, without the whitespace around them: what looks like a field that counts, counts.
fn split(line: &[u8]) -> (&[u8], &[u8]) {
    let colon = memchr::memchr(b':', line).unwrap_or(line.len());
    let (name, value) = line.split_at(colon);
    (name.trim_ascii(), value.get(1..).unwrap_or_default().trim_ascii())
}

/// RFC 9110, section 8.6: digits alone, and one number.
fn length(value: &[u8]) -> Result<u64, Ambiguous> {
    let digits = value.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<i64>().ok());
    number.filter(|_| digits).and_then(|number| u64::try_from(number).ok()).ok_or(Ambiguous::Length)
}

/// RFC 9112, section 7.1. Extensions are read over.
fn chunk_size(line: &[u8]) -> Result<u64, Ambiguous> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extension) = line.split_at(digits);
    let extension_fits = match extension.trim_ascii_start() {
        [] => extension.is_empty(),
        [b';', text @ ..] => text.iter().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e)),
        _ => false,
    };
    if line.len() > LINE || !extension_fits {
        return Err(Ambiguous::Chunk);
    }
    let size = std::str::from_utf8(size).ok().and_then(|size| i64::from_str_radix(size, 16).ok());
    size.and_then(|size| u64::try_from(size).ok()).ok_or(Ambiguous::Chunk)
}

/// RFC 9110, section 6.5.1.
fn trailer(line: &[u8]) -> Result<State, Ambiguous> {
    let (name, _) = split(line);
    let framing: [&[u8]; 4] = [b"content-length", b"transfer-encoding", b"host", b"connection"];
    if framing.iter().any(|frames| name.eq_ignore_ascii_case(frames)) {
        return Err(Ambiguous::Trailer);
    }
    Ok(State::Trailers)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole and byte by byte: the outcome, and whether the next request would begin after the last byte.
    fn check(text: &str, expected: Result<bool, Ambiguous>) {
        let mut whole = Framing::new();
        let at_once = whole.follow(text.as_bytes()).map(|()| !whole.is_within());
        let mut pieces = Framing::new();
        let followed = text.as_bytes().chunks(1).try_for_each(|byte| pieces.follow(byte));
        let in_pieces = followed.map(|()| !pieces.is_within());
        assert_eq!(at_once.map_err(|(_, why)| why), expected, "{text:?}");
        assert_eq!(in_pieces.map_err(|(_, why)| why), expected, "{text:?} in pieces");
    }

    #[test]
    fn requests_one_after_the_other() {
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(true));
        check("\r\nGET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", Ok(true));
        check("GET / HTTP/1.1\r\nHost: a\r\n", Ok(false));
        check("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\na\nbGET / HTTP/1.1\r\n\r\n", Ok(true));
        check("POST / HTTP/1.1\r\ncontent-length:0\r\n\r\n", Ok(true));
        check("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab", Ok(false));
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n";
        check(&format!("{chunked}3\r\na\rb\r\n0A;x=\"y\"\r\n0123456789\r\n0\r\nx: y\r\n\r\nGET"), Ok(false));
        check(&format!("{chunked}0\r\n\r\n"), Ok(true));
    }

    #[test]
    fn what_can_be_read_in_two_ways() {
        use Ambiguous as A;
        for (fields, why) in [
            ("Host: a\n", A::BareLf),
            ("Host: a\rb\r\n", A::BareCr),
            ("Host: a\r\r\n", A::BareCr),
            ("Content-Length: 1\r\nContent-Length: 1\r\n", A::LengthTwice),
            ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", A::LengthTwice),
            ("Transfer-Encoding: chunked\r\nContent-Length : 1\r\n", A::LengthTwice),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", A::LengthTwice),
            ("Content-Length: +5\r\n", A::Length),
            ("Content-Length: 5, 5\r\n", A::Length),
            ("Content-Length:\r\n", A::Length),
            ("Content-Length: 0x5\r\n", A::Length),
            ("Content-Length: 9223372036854775808\r\n", A::Length),
            ("Transfer-Encoding: identity, chunked\r\n", A::Coding),
            ("Transfer-Encoding: chunked, identity\r\n", A::Coding),
            ("Transfer-Encoding: xchunked\r\n", A::Coding),
            ("Transfer-Encoding: \x0bchunked\r\n", A::Coding),
            ("Transfer-Encoding:\r\n", A::Coding),
        ] {
            check(&format!("POST / HTTP/1.1\r\n{fields}"), Err(why));
        }
        for chunks in
            ["5 \r\n", "\r\n", "-1\r\n", "0x1\r\n", "1;\x01\r\n", "ffffffffffffffff\r\n", "1\r\nab", "1 g\r\n"]
        {
            check(&format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"), Err(A::Chunk));
        }
        check("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\n", Err(A::BareLf));
        check("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\ncontent-length: 5\r\n", Err(A::Trailer));
        let long = "0".repeat(300);
        check(&format!("POST / HTTP/1.1\r\nContent-Length: {long}5\r\n"), Err(A::Length));
        check(&format!("POST / HTTP/1.1\r\nContent-Length: {long}\r\n"), Err(A::Length));
        check(&format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;{long}\r\n"), Err(A::Chunk));
    }
}
