//! HTTP/2 (RFC 9113) on one connection, spoken by the `h2` crate: what it leaves to others is here. A connection and its streams
//! are one task, in turns: first the connection reads, then its streams go on (`http2/stream.rs`), then the connection writes
//! what they have, and it leaves together (`listen/cork.rs`). So the answers to requests that came together leave together, and
//! nothing wakes anything else.
//!
//! A client who does not take an answer, or does not bring its content, loses that stream alone; one who takes back what it asks
//! for all the time loses the connection.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use futures::{future::BoxFuture, stream::FuturesUnordered, task::AtomicWaker};
use h2::server::{Builder, Connection};
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};
use tracing::debug;

use self::stream::Outcome;
use super::{
    App, Limits, Served,
    cork::{Cork, Corked, corked},
    notes::Notes,
    pace::{Awaited, Pace, Seen},
    population::Resident,
};

mod content;
mod stream;

/// Requests that a client may take back before they are answered, beyond those that it lets be answered. One who leaves a
/// page takes back what was asked for it, once (CVE-2023-44487 is about those who never stop).
const TAKEN_BACK: u32 = 500;

/// Of an answer so much waits in the library for its turn; more is asked of the body when it has left.
const SEND_BUFFER: usize = 256 * 1024;

/// Serves a connection to its end.
pub(super) async fn serve<A: App>(Served { transport, unread, resident, rules, visitor, shutdown }: Served<A>) {
    let (remote, limits) = (visitor.connection.remote, rules.limits);
    let (stream, cork) = corked(transport, unread, Box::new(visitor.app.clone()));
    let pace = Arc::new(Pace::default());
    let stream = Watched { inner: stream, pace: pace.clone(), notes: Notes::default(), _resident: resident };
    let hello = builder(limits).handshake(stream);
    let connection = match timeout(limits.header_timeout, hello).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return debug!(%remote, %error, "no HTTP/2 connection"),
        Err(_) => return debug!(%remote, "a client takes too long to begin"),
    };
    let visitor = Arc::new(visitor);
    let begin = |request: Request<h2::RecvStream>, respond| -> BoxFuture<'static, Outcome> {
        Box::pin(stream::serve(visitor.clone(), request, respond, (pace.clone(), limits.patience())))
    };
    let mut turns = Turns::new(connection, cork);
    let (mut idle, mut leaves) = (limits.keep_alive_timeout, false);
    let outcome = loop {
        let watching = pace.watch(limits.patience(), idle);
        tokio::select! {
            biased;
            () = shutdown.cancelled(), if !leaves => {}
            outcome = poll_fn(|cx| turns.poll(cx, begin)) => break outcome,
            seen = watching => match seen {
                Seen::Idle if !leaves => debug!(%remote, "a client asks for nothing"),
                Seen::Idle => {
                    turns.cork.abandon();
                    return debug!(%remote, "a client does not take the end of its connection");
                }
                Seen::TooSlow(slow_in) => {
                    turns.cork.abandon();
                    return debug!(%remote, slow_in, "a client is too slow");
                }
            },
        }
        turns.connection.graceful_shutdown();
        (idle, leaves) = (limits.header_timeout, true);
    };
    if let Err(why) = outcome {
        debug!(%remote, %why, "connection ended");
    }
}

fn builder(limits: Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(250)
        .initial_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .max_send_buffer_size(SEND_BUFFER)
        // Streams that a client resets before they came here, or that are reset because of what it sends. Those that it resets
        // later are counted here; the library bounds CONTINUATION frames by the size of the head.
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(Some(200));
    builder
}

/// Why a connection ended that should not have.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Broken(#[from] h2::Error),
    #[error("a client takes back what it asks for")]
    TakenBack,
}

/// A connection with its streams.
struct Turns {
    connection: Connection<Watched<Corked>, Bytes>,
    streams: FuturesUnordered<BoxFuture<'static, Outcome>>,
    cork: Cork,
    woken: Arc<Woken>,
    waker: Waker,
    taken_back: u32,
}

impl Turns {
    fn new(connection: Connection<Watched<Corked>, Bytes>, cork: Cork) -> Self {
        let woken = Arc::new(Woken::default());
        let (streams, waker) = (FuturesUnordered::new(), Waker::from(woken.clone()));
        Self { connection, streams, cork, woken, waker, taken_back: 0 }
    }

    /// One turn. When the connection has ended, what is left of its streams can reach nobody.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        begin: impl Fn(Request<h2::RecvStream>, h2::server::SendResponse<Bytes>) -> BoxFuture<'static, Outcome>,
    ) -> Poll<Result<(), Ended>> {
        self.woken.begin(cx.waker());
        let waker = self.waker.clone();
        let mut inner = Context::from_waker(&waker);
        let outcome = loop {
            self.woken.forget();
            if let Poll::Ready(outcome) = self.poll_connection(&mut inner, &begin) {
                self.cork.remove();
                break Poll::Ready(outcome);
            }
            if let Err(ended) = self.poll_streams(cx) {
                break Poll::Ready(Err(ended));
            }
            if !self.woken.is_woken() {
                break Poll::Pending;
            }
        };
        self.cork.release(cx);
        self.woken.end();
        outcome
    }

    /// Reads and writes, until there is neither anything to read nor anything that could be written.
    fn poll_connection(
        &mut self,
        cx: &mut Context<'_>,
        begin: impl Fn(Request<h2::RecvStream>, h2::server::SendResponse<Bytes>) -> BoxFuture<'static, Outcome>,
    ) -> Poll<Result<(), Ended>> {
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => self.streams.push(begin(request, respond)),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.into())),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        while let Poll::Ready(Some(outcome)) = futures::Stream::poll_next(Pin::new(&mut self.streams), cx) {
            self.taken_back = match outcome {
                Outcome::Answered => self.taken_back.saturating_sub(1),
                Outcome::TakenBack => self.taken_back + 1,
            };
            if self.taken_back > TAKEN_BACK {
                return Err(Ended::TakenBack);
            }
        }
        Ok(())
    }
}

/// Tells whether the connection is to be polled again. Its streams wake it while it is their turn, which need not wake the task.
#[derive(Debug, Default)]
struct Woken {
    woken: AtomicBool,
    in_turn: AtomicBool,
    task: AtomicWaker,
}

impl Woken {
    fn begin(&self, task: &Waker) {
        self.in_turn.store(true, Ordering::SeqCst);
        self.task.register(task);
    }

    fn forget(&self) {
        self.woken.store(false, Ordering::SeqCst);
    }

    fn is_woken(&self) -> bool {
        self.woken.load(Ordering::SeqCst)
    }

    /// From here on the task is woken. It is at once if something came while it could not be.
    fn end(&self) {
        self.in_turn.store(false, Ordering::SeqCst);
        if self.is_woken() {
            self.task.wake();
        }
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        if !self.in_turn.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

/// What the library reads from and writes to. Of reading there is nothing to be said: a client that sends nothing is idle, or one
/// of its streams is slow.
#[derive(Debug)]
struct Watched<S> {
    inner: S,
    pace: Arc<Pace>,
    notes: Notes,
    /// Counts as connected as long as the stream is there.
    _resident: Resident,
}

impl<S> Watched<S> {
    fn note<T>(&mut self, outcome: &Poll<io::Result<T>>, bytes: impl Fn(&T) -> usize) {
        self.notes.written(&self.pace, outcome, bytes);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_read(cx, buf);
        let Self { notes, pace, .. } = &mut *self;
        if outcome.is_ready() {
            notes.read(pace, 0, Awaited::Nothing);
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.note(&outcome, |written| *written);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.note(&outcome, |written| *written);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(cx);
        self.note(&outcome, |()| 0);
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.note(&outcome, |()| 0);
        outcome
    }
}
