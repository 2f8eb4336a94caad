//! The content of an HTTP/2 request. The client may send on as it is read; who brings it too slowly is told that it is not
//! whole.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame, SizeHint};

use crate::listen::pace::{Patience, Stall};

/// Bytes as they come, then trailers.
#[derive(Debug)]
pub(super) struct Content {
    stream: RecvStream,
    /// What the client said and has not sent yet; the library sees to it that it keeps its word.
    left: Option<u64>,
    has_data: bool,
    stall: Stall,
}

impl Content {
    /// `length` is what the client said that it would be.
    pub(super) fn new(stream: RecvStream, length: Option<u64>, patience: Patience) -> Self {
        Self { stream, left: length, has_data: true, stall: Stall::new(patience) }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let Poll::Ready(data) = self.stream.poll_data(cx) else {
            ready!(self.stall.poll_too_slow(cx));
            let slow = io::Error::new(ErrorKind::TimedOut, "the client brings its content too slowly");
            return Poll::Ready(Some(Err(slow)));
        };
        let data = data.map(|data| {
            let bytes = data.map_err(io::Error::other)?;
            self.stall.moved(bytes.len());
            self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
            self.stream.flow_control().release_capacity(bytes.len()).map_err(io::Error::other)?;
            Ok(bytes)
        });
        Poll::Ready(data)
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.has_data {
            if let Some(data) = ready!(self.poll_data(cx)) {
                return Poll::Ready(Some(data.map(Frame::data)));
            }
            self.has_data = false;
        }
        let trailers = ready!(self.stream.poll_trailers(cx)).map_err(io::Error::other);
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
