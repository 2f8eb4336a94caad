//! Connections to servers that are not ours: an HTTP/1.1 answer that can be read in two ways ends its connection
//! (`framing.rs`), and what comes after an answer is never taken for the next one.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures::{TryFutureExt, future::MapOk};
use http::{Extensions, Response, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::{
        self,
        connect::{Connected, Connection},
    },
    rt::TokioIo,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::Service;

use crate::framing::{Ambiguous, Framing};

/// Makes the connections that `C` makes, strict.
#[derive(Debug, Clone)]
pub struct Strict<C> {
    connector: C,
    is_http_2: bool,
}

impl<C> Strict<C> {
    /// They are HTTP/1.1, unless they negotiate HTTP/2.
    pub fn new(connector: C) -> Self {
        Self { connector, is_http_2: false }
    }

    /// They are HTTP/2, whether they negotiate it or not.
    pub fn of_http_2(connector: C) -> Self {
        Self { connector, is_http_2: true }
    }
}

impl<C> Service<Uri> for Strict<C>
where
    C: Service<Uri, Response: Read + Write + Connection + Unpin>,
{
    type Response = StrictStream<C::Response>;
    type Error = C::Error;
    type Future = MapOk<C::Future, fn(C::Response) -> StrictStream<C::Response>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        self.connector.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        self.connector.call(uri).map_ok(if self.is_http_2 { StrictStream::of_http_2 } else { StrictStream::new })
    }
}

/// Whether a server has answered over a connection before: one that fails then may have been closed for its age.
#[derive(Debug, Clone, Default)]
pub struct Used(Arc<AtomicBool>);

impl Used {
    /// The connection of this response has been used.
    pub fn note<B>(response: &Response<B>) {
        if let Some(used) = response.extensions().get::<Self>() {
            used.0.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the connection that failed had been used before.
    pub fn is_noted(error: &legacy::Error) -> bool {
        let mut extras = Extensions::new();
        if let Some(connected) = error.connect_info() {
            connected.get_extras(&mut extras);
        }
        extras.get::<Self>().is_some_and(|used| used.0.load(Ordering::Relaxed))
    }
}

/// A strict connection.
#[derive(Debug)]
pub struct StrictStream<S>(TokioIo<Follow<TokioIo<S>>>);

impl<S: Read + Write + Connection + Unpin> StrictStream<S> {
    fn new(stream: S) -> Self {
        let is_http_1 = !stream.connected().is_negotiated_h2();
        Self(TokioIo::new(Follow::new(TokioIo::new(stream), is_http_1)))
    }

    fn of_http_2(stream: S) -> Self {
        Self(TokioIo::new(Follow::new(TokioIo::new(stream), false)))
    }
}

impl<S: Connection> Connection for StrictStream<S> {
    fn connected(&self) -> Connected {
        // The client asks once.
        self.0.inner().inner.inner().connected().extra(Used::default())
    }
}

impl<S: Read + Write + Unpin> Read for StrictStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: Read + Write + Unpin> Write for StrictStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }
}

/// Reads along, both ways: what an answer is depends on what was asked.
#[derive(Debug)]
struct Follow<S> {
    inner: S,
    sent: Framing,
    answers: Framing,
    /// What came last was not asked for: nothing more is read.
    is_over: bool,
}

impl<S> Follow<S> {
    fn new(inner: S, is_http_1: bool) -> Self {
        let (mut sent, mut answers) = (Framing::new(), Framing::of_answers());
        if !is_http_1 {
            sent.leave();
            answers.leave();
        }
        Self { inner, sent, answers, is_over: false }
    }

    /// These bytes are about to leave.
    fn sends(&mut self, bytes: &[u8]) {
        if !self.sent.is_within() && !bytes.is_empty() {
            self.answers.asks(bytes.starts_with(b"HEAD "));
        }
    }

    /// These have left. The library writes them; what it does not understand of them is another protocol.
    fn has_sent(&mut self, bytes: &[u8]) {
        if self.sent.follow(bytes).is_err() {
            self.sent.leave();
        }
    }

    /// How many of these bytes are for the library.
    fn has_come(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.answers.follow(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err((index, Ambiguous::Unasked)) => {
                self.is_over = true;
                Ok(index)
            }
            Err((_, why)) => Err(io::Error::new(io::ErrorKind::InvalidData, why)),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Follow<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_over {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        let come = buffer.filled().get(before..).unwrap_or_default();
        let taken = self.has_come(come)?;
        buffer.set_filled(before + taken);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Follow<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.sends(bytes);
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.has_sent(bytes.get(..written).unwrap_or(bytes));
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.sends(slices.iter().find(|slice| !slice.is_empty()).map_or(&[], |slice| slice));
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, slices))?;
        let mut left = written;
        for slice in slices {
            let sent = slice.get(..left).unwrap_or(slice);
            self.has_sent(sent);
            left -= sent.len();
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
