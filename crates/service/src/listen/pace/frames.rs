//! Where the frames of one direction of an HTTP/2 connection begin and end (RFC 9113, section 4.1).

/// Of a frame's payload so much is kept, where it is looked at. The library takes no longer frames.
const KEPT: usize = 16 * 1024;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const WINDOW_UPDATE: u8 = 8;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Why a stream is reset: it is not needed any more (RFC 9113, section 7).
const CANCEL: u8 = 8;

/// The frame that resets a stream.
pub(super) fn reset(stream: u32) -> [u8; 13] {
    let [a, b, c, d] = stream.to_be_bytes();
    [0, 0, 4, RST_STREAM, 0, a, b, c, d, 0, 0, 0, CANCEL]
}

/// A frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) length: u32,
    /// Only of those that change windows.
    pub(super) payload: &'a [u8],
}

impl Frame<'_> {
    /// Of DATA and HEADERS: nothing comes after it.
    pub(super) fn ends_stream(&self) -> bool {
        self.flags & END_STREAM != 0
    }

    /// Of SETTINGS: it only confirms.
    pub(super) fn is_acknowledgement(&self) -> bool {
        self.flags & 1 != 0
    }
}

/// Follows one direction.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; 9],
    /// Bytes of the head that are there.
    have: usize,
    /// Bytes of the payload that are to come.
    left: usize,
    payload: Vec<u8>,
    /// The head of a request or an answer goes on in the next frame.
    in_block: bool,
}

impl Frames {
    /// Whether another frame may be put in here.
    pub(super) fn has_room(&self) -> bool {
        self.have == 0 && !self.in_block
    }

    /// Calls `each` for each frame that ends in these bytes.
    pub(super) fn follow(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame<'_>)) {
        while !bytes.is_empty() {
            bytes = self.follow_head(bytes);
            if self.have < self.head.len() {
                return;
            }
            bytes = self.follow_payload(bytes);
            if self.left > 0 {
                return;
            }
            let [.., kind, flags, _, _, _, _] = self.head;
            if matches!(kind, HEADERS | PUSH_PROMISE | CONTINUATION) {
                self.in_block = flags & END_HEADERS == 0;
            }
            each(self.frame());
            self.have = 0;
        }
    }

    fn follow_head<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Some(missing) = self.head.get_mut(self.have..).filter(|missing| !missing.is_empty()) else { return bytes };
        let (now, later) = bytes.split_at(missing.len().min(bytes.len()));
        missing[..now.len()].copy_from_slice(now);
        self.have += now.len();
        if self.have == self.head.len() {
            let [high, middle, low, ..] = self.head;
            self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
            self.payload.clear();
        }
        later
    }

    fn follow_payload<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (now, later) = bytes.split_at(self.left.min(bytes.len()));
        if matches!(self.head[3], SETTINGS | WINDOW_UPDATE) {
            let room = KEPT.saturating_sub(self.payload.len());
            self.payload.extend(now.iter().take(room));
        }
        self.left -= now.len();
        later
    }

    fn frame(&self) -> Frame<'_> {
        let [high, middle, low, kind, flags, a, b, c, d] = self.head;
        Frame {
            kind,
            flags,
            stream: u32::from_be_bytes([a & 0x7f, b, c, d]),
            length: u32::from_be_bytes([0, high, middle, low]),
            payload: &self.payload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_in_pieces() {
        let bytes = [
            &[0, 0, 6, SETTINGS, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 7][..],
            &[0, 0, 0, SETTINGS, 1, 0, 0, 0, 0],
            &[0, 0, 3, DATA, 1, 0x80, 0, 1, 2, b'a', b'b', b'c'],
            &[0, 0, 4, WINDOW_UPDATE, 0, 0, 0, 0, 3, 0, 0, 0, 9],
            &[0, 0, 5, DATA, 0, 0, 0, 0, 1, b'd'],
        ]
        .concat();
        for size in 1..=bytes.len() {
            let (mut frames, mut seen) = (Frames::default(), Vec::new());
            for piece in bytes.chunks(size) {
                frames.follow(piece, |frame| {
                    seen.push((frame.kind, frame.flags, frame.stream, frame.length, frame.payload.to_vec()));
                });
            }
            let expected = [
                (SETTINGS, 0, 0, 6, vec![0, 4, 0, 0, 0, 7]),
                (SETTINGS, 1, 0, 0, vec![]),
                (DATA, 1, 258, 3, vec![]),
                (WINDOW_UPDATE, 0, 3, 4, vec![0, 0, 0, 9]),
            ];
            assert_eq!(seen, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn where_a_frame_may_be_put_in() {
        let mut frames = Frames::default();
        for (bytes, expected) in [
            (&[0, 0, 1][..], false),
            (&[DATA, 0, 0, 0, 0, 1], false),
            (b"a", true),
            (&[0, 0, 1, HEADERS, 0, 0, 0, 0, 3, b'b'], false),
            (&[0, 0, 1, CONTINUATION, 0, 0, 0, 0, 3, b'b'], false),
            (&[0, 0, 1, CONTINUATION, END_HEADERS, 0, 0, 0, 3, b'b'], true),
            (&[0, 0, 1, HEADERS, END_HEADERS | END_STREAM, 0, 0, 0, 5, b'b'], true),
            (&reset(3), true),
        ] {
            frames.follow(bytes, |_| {});
            assert_eq!(frames.has_room(), expected, "{bytes:?}");
        }
    }
}
