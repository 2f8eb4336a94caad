//! Connections that are read in larger steps than TLS does, which asks for 4 KiB at a time: a system call each.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{TryFutureExt, future::MapOk};
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tokio::{io::BufReader, net::TcpStream};
use tower::Service;

/// For what has come and is not decrypted yet.
const ROOM: usize = 64 * 1024;

/// Makes the connections that `C` makes, read in larger steps.
#[derive(Debug, Clone)]
pub struct Buffered<C>(pub C);

impl<C> Service<Uri> for Buffered<C>
where
    C: Service<Uri, Response = TokioIo<TcpStream>>,
{
    type Response = BufferedStream;
    type Error = C::Error;
    type Future = MapOk<C::Future, fn(TokioIo<TcpStream>) -> BufferedStream>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        self.0.call(uri).map_ok(BufferedStream::new)
    }
}

/// A connection that is read in larger steps.
#[derive(Debug)]
pub struct BufferedStream(TokioIo<BufReader<TcpStream>>);

impl BufferedStream {
    fn new(stream: TokioIo<TcpStream>) -> Self {
        Self(TokioIo::new(BufReader::with_capacity(ROOM, stream.into_inner())))
    }
}

impl Connection for BufferedStream {
    fn connected(&self) -> Connected {
        self.0.inner().get_ref().connected()
    }
}

impl Read for BufferedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Write for BufferedStream {
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
