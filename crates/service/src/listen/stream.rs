//! A client's connection as the HTTP library sees it: what can be read in two ways ends there (`framing.rs`).

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};
use tracing::debug;

use super::{notes::Notes, pace::Pace, population::Resident};
use crate::framing::Framing;

/// For reading over what a client still sends when it has its answer: closed before, it would lose the answer with it
/// (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(1);

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

impl AsRef<Pace> for Arc<Talk> {
    fn as_ref(&self) -> &Pace {
        &self.pace
    }
}

/// Reads along.
#[derive(Debug)]
pub(super) struct Strict<S> {
    inner: S,
    framing: Framing,
    talk: Arc<Talk>,
    notes: Notes,
    /// Said to the library in the client's place, after what is refused.
    last_words: &'static [u8],
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
            notes: Notes::default(),
            last_words: &[],
            linger: None,
            _resident: resident,
        };
        (strict, talk)
    }

    fn note_written<T>(&mut self, outcome: &Poll<io::Result<T>>, bytes: impl Fn(&T) -> usize) {
        if self.notes.written(&self.talk.pace, outcome, bytes) > 0 {
            self.talk.pace.moves();
        }
    }

    /// Puts a NUL where the library must not read on, and an end of the head behind it, which it waits for: no head may have
    /// one, so it answers 400 and closes. In content the connection ends there, and that is an error, too.
    fn check(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        if self.talk.other_protocol.load(Ordering::Acquire) {
            self.framing.leave();
        }
        let Some(read) = buffer.filled_mut().get_mut(before..) else { return };
        let Err((index, why)) = self.framing.follow(read) else { return };
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

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.talk.is_refused() {
            let (said, rest) = self.last_words.split_at(self.last_words.len().min(buffer.remaining()));
            buffer.put_slice(said);
            self.last_words = rest;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        if Pin::new(&mut self.inner).poll_read(cx, buffer)?.is_pending() {
            let Self { notes, talk, .. } = &mut *self;
            notes.waits_to_read(&talk.pace);
            return Poll::Pending;
        }
        self.check(buffer, before);
        let Self { notes, talk, framing, .. } = &mut *self;
        talk.pace.moves();
        notes.read(&talk.pace, buffer.filled().len() - before, framing.awaited());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.note_written(&outcome, |written| *written);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.note_written(&outcome, |written| *written);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
