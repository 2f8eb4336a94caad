//! A client's connection as the HTTP library sees it: what can be read in two ways ends there (`framing.rs`).

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};
use tracing::debug;

use super::{
    pace::{Awaited, Pace},
    population::Resident,
};
use crate::framing::Framing;

/// For reading over what a client still sends when it has its answer: closed before, it would lose the answer with it
/// (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(1);

/// As long is what an HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: usize = 24;

/// What the stream and those who answer on it tell each other.
#[derive(Debug, Default)]
pub(super) struct Talk {
    refused: AtomicBool,
    other_protocol: AtomicBool,
    /// How long the client is waited for.
    pub(super) pace: Pace,
}

impl Talk {
    /// Whether the client sent what can be read in two ways.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Acquire)
    }

    /// What the client sends from now on is not HTTP/1.1.
    pub(super) fn leave_http(&self) {
        self.other_protocol.store(true, Ordering::Release);
    }
}

/// One direction of a stream, so that its pace is only noted when somebody waits.
#[derive(Debug, Default)]
struct Way {
    waits: bool,
    /// Bytes since the pace was told.
    moved: usize,
}

/// Frames that are put in, one way and the other.
#[derive(Debug, Default)]
struct Resets {
    incoming: Bytes,
    outgoing: Bytes,
}

/// Reads along.
#[derive(Debug)]
pub(super) struct Strict<S> {
    inner: S,
    framing: Framing,
    talk: Arc<Talk>,
    reading: Way,
    writing: Way,
    awaited: Awaited,
    /// Bytes of the HTTP/2 preface that are to come, if it is one.
    preface: usize,
    /// Said to the library in the client's place, after what is refused.
    last_words: &'static [u8],
    /// Resets of HTTP/2 streams that the client has paused for too long: for the library, as if they were the client's, and for
    /// the client.
    resets: Resets,
    linger: Option<Pin<Box<Sleep>>>,
    /// Counts as connected as long as the stream is there, whoever has it.
    _resident: Resident,
}

impl<S> Strict<S> {
    pub(super) fn new(inner: S, resident: Resident) -> (Self, Arc<Talk>) {
        let talk = Arc::new(Talk::default());
        let strict = Self {
            inner,
            framing: Framing::new(),
            talk: talk.clone(),
            reading: Way::default(),
            writing: Way::default(),
            awaited: Awaited::Head,
            preface: PREFACE,
            last_words: &[],
            resets: Resets::default(),
            linger: None,
            _resident: resident,
        };
        (strict, talk)
    }

    fn note_read(&mut self, bytes: usize) {
        self.talk.pace.moves();
        let awaited = self.framing.awaited();
        self.reading.moved += bytes;
        if self.reading.waits || self.awaited != awaited {
            self.awaited = awaited;
            let moved = std::mem::take(&mut self.reading).moved;
            self.talk.pace.has_read(Instant::now(), moved, awaited);
        }
    }

    fn note_written<T>(&mut self, outcome: &Poll<io::Result<T>>, bytes: impl Fn(&T) -> usize) {
        match outcome {
            Poll::Pending if !self.writing.waits => {
                self.writing.waits = true;
                self.talk.pace.waits_to_write(Instant::now(), std::mem::take(&mut self.writing.moved));
            }
            Poll::Ready(Ok(written)) => {
                let bytes = bytes(written);
                if bytes > 0 {
                    self.talk.pace.moves();
                }
                self.writing.moved += bytes;
                if self.writing.waits {
                    let moved = std::mem::take(&mut self.writing).moved;
                    self.talk.pace.has_written(Instant::now(), moved);
                }
            }
            Poll::Pending | Poll::Ready(Err(_)) => {}
        }
    }

    fn note_frames<'a>(&self, outcome: &Poll<io::Result<usize>>, slices: impl IntoIterator<Item = &'a [u8]>) {
        let Poll::Ready(Ok(written)) = outcome else { return };
        if !self.framing.is_http_2() {
            return;
        }
        let mut left = *written;
        for slice in slices {
            let sent = slice.get(..left).unwrap_or(slice);
            self.talk.pace.frames_left(sent);
            left -= sent.len();
        }
    }

    /// Puts a NUL where the library must not read on, and an end of the head behind it, which it waits for: no head may have
    /// one, so it answers 400 and closes. In content the connection ends there, and that is an error, too.
    fn check(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        if self.talk.other_protocol.load(Ordering::Acquire) {
            self.framing.leave();
        }
        let Some(read) = buffer.filled_mut().get_mut(before..) else { return };
        let Err((index, why)) = self.framing.follow(read) else {
            let (_preface, frames) = read.split_at(self.preface.min(read.len()));
            self.preface -= read.len() - frames.len();
            if self.framing.is_http_2() && !frames.is_empty() {
                self.talk.pace.frames_came(frames);
            }
            return;
        };
        debug!(%why, "a client's bytes are refused");
        if let Some(byte) = read.get_mut(index) {
            *byte = 0;
        }
        buffer.set_filled(before + index + 1);
        if self.framing.is_in_head() {
            self.last_words = b"\r\n\r\n";
        }
        self.talk.refused.store(true, Ordering::Release);
    }
}

impl<S> Strict<S> {
    /// Tells the library that the client has taken back the streams that it has paused. A stream cannot be reset from outside
    /// in any other way.
    fn resets_streams(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        if self.talk.pace.has_paused() && self.resets.outgoing.is_empty() {
            let frames = Bytes::from(self.talk.pace.resets());
            self.resets = Resets { incoming: frames.clone(), outgoing: frames };
        }
        if self.resets.incoming.is_empty() {
            return false;
        }
        let length = self.resets.incoming.len().min(buffer.remaining());
        buffer.put_slice(&self.resets.incoming.split_to(length));
        true
    }
}

impl<S: AsyncWrite + Unpin> Strict<S> {
    /// Tells the client as well, where a frame has ended. Nothing of these streams comes behind: all that the client allowed had
    /// left before.
    fn poll_reset_streams(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.resets.outgoing.is_empty() && self.talk.pace.has_room() {
            let outcome = Pin::new(&mut self.inner).poll_write(cx, &self.resets.outgoing);
            self.note_written(&outcome, |written| *written);
            let written = ready!(outcome)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            drop(self.resets.outgoing.split_to(written));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.talk.is_refused() {
            let (said, rest) = self.last_words.split_at(self.last_words.len().min(buffer.remaining()));
            buffer.put_slice(said);
            self.last_words = rest;
            return Poll::Ready(Ok(()));
        }
        if self.resets_streams(buffer) {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        if Pin::new(&mut self.inner).poll_read(cx, buffer)?.is_pending() {
            if !self.reading.waits {
                self.reading.waits = true;
                self.talk.pace.waits_to_read(Instant::now());
            }
            return Poll::Pending;
        }
        self.check(buffer, before);
        self.note_read(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_reset_streams(cx))?;
        let outcome = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.note_written(&outcome, |written| *written);
        self.note_frames(&outcome, [bytes]);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_reset_streams(cx))?;
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.note_written(&outcome, |written| *written);
        self.note_frames(&outcome, slices.iter().map(|slice| &**slice));
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_reset_streams(cx))?;
        let outcome = Pin::new(&mut self.inner).poll_flush(cx);
        self.note_written(&outcome, |()| 0);
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_shutdown(cx);
        // What was written last may still wait for the client.
        self.note_written(&outcome, |()| 0);
        ready!(outcome)?;
        if self.framing.is_within() || self.talk.is_refused() { self.poll_linger(cx) } else { Poll::Ready(Ok(())) }
    }
}

impl<S: AsyncRead + Unpin> Strict<S> {
    /// Until the client has closed as well, or its time is over.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let over = self.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut scratch = [0; 4096];
        while over.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
