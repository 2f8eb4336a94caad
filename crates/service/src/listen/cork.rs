//! Gathers what a connection writes in one turn, so that it leaves together: many small answers over HTTP/2 would otherwise be a
//! TLS record and a system call each.
//!
//! The protocol's half ([`Corked`]) writes and flushes as it likes; bytes leave when there are many, or when the connection's
//! task ends its turn and calls [`Cork::release`]. Over TLS they wait encrypted in the session, which has a bound.
//!
//! An interim answer of HTTP/1.1, which the protocol's library cannot send, is put in where its messages end ([`Between`]).
//!
//! What has to be done before they leave ([`App::before_sending`]) is shared, too: on a lane, what waits for it leaves when all
//! connections that are ready have had their turns, and the first of them does it for all ([`departures`]).

use std::{
    cell::RefCell,
    convert::Infallible,
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::App;

/// Over plain TCP, more than this in one write is not copied to leave with others.
const GATHERED: usize = 16 * 1024;

/// A connection as a server has it.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(TcpStream, Vec<u8>),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What the protocol reads from and writes to.
#[derive(Debug)]
pub(super) struct Corked(Arc<Mutex<State>>);

/// The other half, which lets bytes go.
#[derive(Debug)]
pub(super) struct Cork(Arc<Mutex<State>>);

struct State {
    transport: Transport,
    gate: Box<dyn Gate>,
    /// What is to be done before anything leaves.
    unwritten: u16,
    /// It is among those of [`Leaving`].
    leaves: bool,
    /// Nobody ends turns any more: a flush is one again.
    open: bool,
    /// Something was written and not flushed.
    waiting: bool,
    /// Came before the protocol began to read.
    unread: Bytes,
    /// The protocol has handed over all that it has to write.
    is_between: bool,
    interim: Interim,
}

/// An interim answer on its way out.
#[derive(Debug, Default)]
struct Interim {
    bytes: Vec<u8>,
    /// Waits until it has left.
    task: Option<Waker>,
}

/// What of an [`App`] decides when bytes may leave.
pub(super) trait Gate: Send + Sync {
    fn unwritten(&self) -> u16;
    fn before_sending(&self, unwritten: u16);
}

impl<A: App> Gate for A {
    fn unwritten(&self) -> u16 {
        App::unwritten(self)
    }

    fn before_sending(&self, unwritten: u16) {
        App::before_sending(self, unwritten);
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("open", &self.open).field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

/// Both halves of a connection, of which `unread` has been read already.
pub(super) fn corked(transport: Transport, unread: Bytes, gate: Box<dyn Gate>) -> (Corked, Cork) {
    let state = State {
        transport,
        gate,
        unwritten: 0,
        leaves: false,
        open: false,
        waiting: false,
        unread,
        is_between: true,
        interim: Interim::default(),
    };
    let state = Arc::new(Mutex::new(state));
    (Corked(state.clone()), Cork(state))
}

/// Connections of one lane that have something to send, with their tasks.
#[derive(Default)]
struct Leaving {
    connections: Vec<(Arc<Mutex<State>>, Waker)>,
    /// That of [`departures`]; none where there is no such task.
    sender: Option<Waker>,
}

thread_local!(static LEAVING: RefCell<Leaving> = RefCell::default());

/// Nobody comes to those who leave later any more, so that nobody does.
struct Closing;

impl Drop for Closing {
    fn drop(&mut self) {
        LEAVING.with_borrow_mut(|leaving| leaving.sender = None);
    }
}

/// The task of a lane that lets bytes go. It comes after those that are ready when the first of them has something to send.
pub(super) async fn departures() -> Infallible {
    let (mut now, _closing) = (Vec::new(), Closing);
    poll_fn(move |cx| {
        LEAVING.with_borrow_mut(|leaving| {
            leaving.sender.get_or_insert_with(|| cx.waker().clone());
            mem::swap(&mut leaving.connections, &mut now);
        });
        for (state, task) in now.drain(..) {
            let mut state = lock(&state);
            state.leaves = false;
            state.release(&mut Context::from_waker(&task));
        }
        Poll::Pending
    })
    .await
}

impl Cork {
    /// The turn is over: what was written leaves, now or, on a lane, after others' turns. While the socket takes no more, the task
    /// is woken when it does; an error is seen by the protocol, at its next write.
    pub(super) fn release(&self, cx: &mut Context<'_>) {
        let mut state = lock(&self.0);
        state.put_in_interim(cx);
        state.unwritten |= state.gate.unwritten();
        if !state.waiting || state.leaves {
            return;
        }
        let can_wait = state.unwritten != 0 && !state.open;
        if can_wait && self.leave_later(cx.waker()) {
            state.leaves = true;
        } else {
            state.release(cx);
        }
    }

    /// False where nobody would come to it later.
    fn leave_later(&self, task: &Waker) -> bool {
        LEAVING.with_borrow_mut(|leaving| {
            let Some(sender) = &leaving.sender else { return false };
            if leaving.connections.is_empty() {
                sender.wake_by_ref();
            }
            leaving.connections.push((self.0.clone(), task.clone()));
            true
        })
    }

    /// What puts interim answers in between what the protocol writes.
    pub(super) fn between(&self) -> Between {
        Between(self.0.clone())
    }

    /// Whoever has not taken what was written gets nothing more of it: else the kernel would keep it for him, long after the
    /// connection has ended here.
    pub(super) fn abandon(&self) {
        let state = lock(&self.0);
        let tcp = match &state.transport {
            Transport::Plain(tcp, _) => tcp,
            Transport::Tls(tls) => tls.get_ref().0,
        };
        if let Err(error) = tcp.set_zero_linger() {
            debug!(%error, "a connection ends slowly");
        }
    }

    /// From now on every flush is one: the protocol has ended and somebody else has the connection.
    pub(super) fn remove(&self) {
        lock(&self.0).open = true;
    }
}

/// Where the messages that the protocol writes end.
#[derive(Debug)]
pub(super) struct Between(Arc<Mutex<State>>);

impl Between {
    /// Returns when these bytes are on their way, behind all that the protocol has written and before what it writes next. The
    /// protocol's task has to be the one that waits.
    pub(super) async fn put(&self, bytes: Vec<u8>) {
        lock(&self.0).interim.bytes = bytes;
        poll_fn(|cx| {
            let mut state = lock(&self.0);
            if state.interim.bytes.is_empty() {
                return Poll::Ready(());
            }
            state.interim.task = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// What was written leaves.
    fn release(&mut self, cx: &mut Context<'_>) {
        if self.waiting && self.poll_release(cx).is_ready() {
            self.waiting = false;
        }
    }

    /// While the protocol has something to write that the client does not take, this waits behind it.
    fn put_in_interim(&mut self, cx: &mut Context<'_>) {
        if self.interim.bytes.is_empty() || !self.is_between {
            return;
        }
        let mut bytes = mem::take(&mut self.interim.bytes);
        match self.poll_take(cx, &[IoSlice::new(&bytes)]) {
            // The protocol sees the error, at its next write.
            Poll::Ready(Err(_)) => {}
            Poll::Ready(Ok(taken)) => self.interim.bytes = bytes.split_off(taken),
            Poll::Pending => self.interim.bytes = bytes,
        }
        if self.interim.bytes.is_empty()
            && let Some(task) = self.interim.task.take()
        {
            task.wake();
        }
    }

    /// From here on something may leave.
    fn open_gate(&mut self) {
        let unwritten = self.unwritten | self.gate.unwritten();
        if unwritten != 0 {
            self.gate.before_sending(unwritten);
            self.unwritten = 0;
        }
    }

    /// Takes some of `bufs`.
    fn poll_take(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.waiting = true;
        if let Transport::Tls(tls) = &mut self.transport {
            let taken = io::Write::write_vectored(&mut tls.get_mut().1.writer(), bufs)?;
            if taken > 0 || bufs.iter().all(|buf| buf.is_empty()) {
                return Poll::Ready(Ok(taken));
            }
        } else if self.gather(bufs) {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        // As much is waiting as may.
        self.open_gate();
        match &mut self.transport {
            Transport::Plain(tcp, gathered) => {
                ready!(poll_send(tcp, gathered, cx))?;
                Pin::new(tcp).poll_write_vectored(cx, bufs)
            }
            Transport::Tls(tls) => {
                ready!(Pin::new(&mut **tls).poll_flush(cx))?;
                Poll::Ready(io::Write::write_vectored(&mut tls.get_mut().1.writer(), bufs))
            }
        }
    }

    /// Copies what is short, to leave with others. Whether it did.
    fn gather(&mut self, bufs: &[IoSlice<'_>]) -> bool {
        let Transport::Plain(_, gathered) = &mut self.transport else { return false };
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        let fits = gathered.len() + length <= GATHERED;
        if fits {
            bufs.iter().for_each(|buf| gathered.extend_from_slice(buf));
        }
        fits
    }

    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open_gate();
        match &mut self.transport {
            Transport::Plain(tcp, gathered) => poll_send(tcp, gathered, cx),
            Transport::Tls(tls) => Pin::new(&mut **tls).poll_flush(cx),
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open_gate();
        match &mut self.transport {
            Transport::Plain(tcp, gathered) => {
                ready!(poll_send(tcp, gathered, cx))?;
                Pin::new(tcp).poll_shutdown(cx)
            }
            Transport::Tls(tls) => Pin::new(&mut **tls).poll_shutdown(cx),
        }
    }
}

/// All that was gathered, which takes no memory afterwards.
fn poll_send(tcp: &mut TcpStream, gathered: &mut Vec<u8>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    while !gathered.is_empty() {
        let sent = ready!(Pin::new(&mut *tcp).poll_write(cx, gathered))?;
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        gathered.drain(..sent);
    }
    *gathered = Vec::new();
    Poll::Ready(Ok(()))
}

impl AsyncRead for Corked {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        if !state.unread.is_empty() {
            let length = state.unread.len().min(buf.remaining());
            buf.put_slice(&state.unread.split_to(length));
            return Poll::Ready(Ok(()));
        }
        match &mut state.transport {
            Transport::Plain(tcp, _) => Pin::new(tcp).poll_read(cx, buf),
            Transport::Tls(tls) => Pin::new(&mut **tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Corked {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.0);
        state.is_between = false;
        state.poll_take(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        state.is_between = true;
        if !state.open {
            return Poll::Ready(Ok(()));
        }
        state.poll_release(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).poll_end(cx)
    }
}
