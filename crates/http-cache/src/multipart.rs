//! `multipart/byteranges` (RFC 9110, section 14.6).

use std::fmt;
use std::ops::Range;

use http::HeaderValue;

use crate::content_range;

/// Text that cannot stand between parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a boundary has 1 to 70 letters, digits, - or _")]
pub struct BoundaryError;

/// What stands between the parts (RFC 2046, section 5.1.1, and of that only what needs no quotes). It must not occur in the content, so draw it at random.
#[derive(Clone, PartialEq, Eq)]
pub struct Boundary(Box<str>);

impl Boundary {
    /// Checks a boundary.
    ///
    /// # Errors
    /// When it is too long or has other characters than letters, digits, `-` and `_`.
    pub fn new(text: &str) -> Result<Self, BoundaryError> {
        let allowed = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !allowed || !(1..=70).contains(&text.len()) {
            return Err(BoundaryError);
        }
        Ok(Self(text.into()))
    }
}

/// A boundary of these random bytes, in hex.
impl From<[u8; 16]> for Boundary {
    fn from(random: [u8; 16]) -> Self {
        Self(format!("{:032x}", u128::from_be_bytes(random)).into())
    }
}

impl fmt::Debug for Boundary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Boundary({})", self.0)
    }
}

/// One part: its header is sent, then these bytes of the representation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Boundary and header fields, up to the empty line.
    pub header: Vec<u8>,
    /// The bytes of the representation that follow.
    pub range: Range<u64>,
}

/// The body of a multipart answer, but for the representation's own bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MultipartFraming {
    boundary: Boundary,
    parts: Vec<Part>,
}

impl MultipartFraming {
    /// Parts for these ranges of a representation of `length` bytes.
    #[must_use]
    pub fn new(ranges: Vec<Range<u64>>, length: u64, media_type: &HeaderValue, boundary: Boundary) -> Self {
        let part = |(place, range)| Part { header: header(place, &range, length, media_type, &boundary), range };
        let parts = ranges.into_iter().enumerate().map(part).collect();
        Self { boundary, parts }
    }

    /// The parts in the order in which they are sent.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// What comes after the last part.
    #[must_use]
    pub fn closing(&self) -> Vec<u8> {
        format!("\r\n--{}--\r\n", self.boundary.0).into_bytes()
    }

    /// The body's `Content-Type`.
    #[must_use]
    pub fn content_type(&self) -> HeaderValue {
        let text = format!("multipart/byteranges; boundary={}", self.boundary.0);
        HeaderValue::try_from(text).expect("Boundary allows only visible ASCII")
    }

    /// Bytes of the body, framing and content.
    #[must_use]
    pub fn content_length(&self) -> u64 {
        let part = |part: &Part| part.header.len() as u64 + (part.range.end - part.range.start);
        self.parts.iter().map(part).sum::<u64>() + self.closing().len() as u64
    }
}

fn header(place: usize, range: &Range<u64>, length: u64, media_type: &HeaderValue, boundary: &Boundary) -> Vec<u8> {
    let line_end = if place == 0 { "" } else { "\r\n" };
    let mut header = format!("{line_end}--{}\r\nContent-Type: ", boundary.0).into_bytes();
    header.extend_from_slice(media_type.as_bytes());
    header.extend_from_slice(b"\r\nContent-Range: ");
    header.extend_from_slice(content_range(Some(range), length).as_bytes());
    header.extend_from_slice(b"\r\n\r\n");
    header
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(framing: &MultipartFraming, content: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        for Part { header, range } in framing.parts() {
            body.extend_from_slice(header);
            body.extend_from_slice(
                &content[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()],
            );
        }
        body.extend(framing.closing());
        body
    }

    /// RFC 9110, section 15.3.7.2, the example.
    #[test]
    fn framing_is_that_of_the_rfc() {
        let boundary = Boundary::new("THIS_STRING_SEPARATES").unwrap();
        let media_type = HeaderValue::from_static("application/pdf");
        let framing = MultipartFraming::new(vec![500..503, 7000..7002], 8000, &media_type, boundary);
        let expected = "--THIS_STRING_SEPARATES\r\n\
            Content-Type: application/pdf\r\n\
            Content-Range: bytes 500-502/8000\r\n\
            \r\n\
            ...\r\n\
            --THIS_STRING_SEPARATES\r\n\
            Content-Type: application/pdf\r\n\
            Content-Range: bytes 7000-7001/8000\r\n\
            \r\n\
            ..\r\n\
            --THIS_STRING_SEPARATES--\r\n";
        assert_eq!(String::from_utf8(body(&framing, &[b'.'; 8000])).unwrap(), expected);
        assert_eq!(framing.content_length(), expected.len() as u64);
        assert_eq!(framing.content_type(), "multipart/byteranges; boundary=THIS_STRING_SEPARATES");
    }

    #[test]
    fn boundaries() {
        assert_eq!(Boundary::from([0x0a; 16]), Boundary::new(&"0a".repeat(16)).unwrap());
        for wrong in ["", "a b", "a\r\nb", "ä", "a\"b", &"x".repeat(71)] {
            assert_eq!(Boundary::new(wrong), Err(BoundaryError), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn the_announced_length_is_that_of_the_body(ranges in proptest::collection::vec((0u64..500, 1u64..500), 2..32)) {
            let ranges = ranges.into_iter().map(|(start, len)| start..start + len).collect();
            let framing = MultipartFraming::new(ranges, 1000, &HeaderValue::from_static("text/plain"), Boundary::from([7; 16]));
            prop_assert_eq!(framing.content_length(), body(&framing, &[0; 1000]).len() as u64);
        }
    }
}
