//! What a stream tells the pace of its connection ([`Pace`]): only when somebody waits, since to tell it is to lock it.

use std::{io, task::Poll, time::Instant};

use super::pace::{Awaited, Pace};

/// One direction of a stream.
#[derive(Debug, Default)]
struct Way {
    waits: bool,
    /// Bytes since the pace was told.
    moved: usize,
}

/// Both directions of a stream.
#[derive(Debug, Default)]
pub(super) struct Notes {
    reading: Way,
    writing: Way,
    awaited: Awaited,
}

impl Notes {
    /// There is nothing to read.
    pub(super) fn waits_to_read(&mut self, pace: &Pace) {
        if !self.reading.waits {
            self.reading.waits = true;
            pace.waits_to_read(Instant::now());
        }
    }

    /// So many bytes were read, and this is waited for next.
    pub(super) fn read(&mut self, pace: &Pace, bytes: usize, awaited: Awaited) {
        self.reading.moved += bytes;
        if self.reading.waits || self.awaited != awaited {
            self.awaited = awaited;
            let moved = std::mem::take(&mut self.reading).moved;
            pace.has_read(Instant::now(), moved, awaited);
        }
    }

    /// What came of writing, of which `bytes` left. Returns them.
    pub(super) fn written<T>(
        &mut self,
        pace: &Pace,
        outcome: &Poll<io::Result<T>>,
        bytes: impl Fn(&T) -> usize,
    ) -> usize {
        match outcome {
            Poll::Pending if !self.writing.waits => {
                self.writing.waits = true;
                pace.waits_to_write(Instant::now(), std::mem::take(&mut self.writing.moved));
            }
            Poll::Ready(Ok(written)) => {
                let bytes = bytes(written);
                self.writing.moved += bytes;
                if self.writing.waits {
                    let moved = std::mem::take(&mut self.writing).moved;
                    pace.has_written(Instant::now(), moved);
                }
                return bytes;
            }
            Poll::Pending | Poll::Ready(Err(_)) => {}
        }
        0
    }
}
