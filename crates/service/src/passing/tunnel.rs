//! Upgraded connections: bytes of another protocol between a client and a server, both ways, until one of them ends or both are
//! silent.

use std::{io, time::Duration};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use super::{Sent, silence};

/// After so long without a byte either way both connections are closed. Those who keep one open for news say something within
/// a minute or two, because of the many devices on the way that forget a silent connection; and one of whom nothing is
/// heard for longer cannot be told from one that has gone.
const IDLE: Duration = Duration::from_secs(300);

/// What passes at a time.
const PIECE: usize = 16 * 1024;

/// All upgraded connections of a server. They count as requests that run: at shutdown they go on up to a deadline.
#[derive(Debug, Clone)]
pub struct Tunnels {
    tasks: TaskTracker,
    end: CancellationToken,
}

impl Tunnels {
    /// None yet. All end with `end`.
    #[must_use]
    pub fn new(end: &CancellationToken) -> Self {
        Self { tasks: TaskTracker::new(), end: end.child_token() }
    }

    /// Begins to copy both ways when both are upgraded. `to_client` is told of bytes before they are sent to the client, and
    /// they are sent when what it returns is ready.
    pub fn open<F>(&self, client: OnUpgrade, server: OnUpgrade, to_client: impl FnMut(usize) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send,
    {
        self.run(async move {
            match tokio::try_join!(client, server) {
                Ok((client, server)) => between(TokioIo::new(client), TokioIo::new(server), to_client).await,
                Err(error) => debug!(%error, "an upgrade did not come about"),
            }
        });
    }

    fn run(&self, tunnel: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(self.end.clone().run_until_cancelled_owned(tunnel));
    }

    /// Waits for `shutdown`, and then until there are none any more; after `drain` it ends them.
    pub async fn drain(self, shutdown: CancellationToken, drain: impl FnOnce() -> Duration) {
        shutdown.cancelled().await;
        self.tasks.close();
        if timeout(drain(), self.tasks.wait()).await.is_err() {
            debug!(tunnels = self.tasks.len(), "closing upgraded connections that did not finish in time");
        }
        self.end.cancel();
        self.tasks.wait().await;
    }
}

async fn between<F: Future<Output = ()>>(
    client: impl AsyncRead + AsyncWrite,
    server: impl AsyncRead + AsyncWrite,
    to_client: impl FnMut(usize) -> F,
) {
    let (from_client, client) = tokio::io::split(client);
    let (from_server, server) = tokio::io::split(server);
    let (moved, seen) = watch::channel(now());
    let up = copy(from_client, server, &moved, |_| std::future::ready(()));
    let down = copy(from_server, client, &moved, to_client);
    tokio::select! {
        ended = async { tokio::try_join!(up, down) } => {
            if let Err(error) = ended {
                debug!(%error, "an upgraded connection broke");
            }
        }
        () = silence(&seen, IDLE) => debug!("nothing passes over an upgraded connection"),
    }
}

fn now() -> Sent {
    Sent { last: Instant::now(), whole: false }
}

/// One way, to its end, which is passed on.
async fn copy<F: Future<Output = ()>>(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &watch::Sender<Sent>,
    mut about_to_send: impl FnMut(usize) -> F,
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let length = from.read(&mut buffer).await?;
        moved.send_replace(now());
        if length == 0 {
            return to.shutdown().await;
        }
        about_to_send(length).await;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            let written = to.write(rest).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            rest = rest.get(written..).unwrap_or_default();
            moved.send_replace(now());
        }
        to.flush().await?;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_nothing_passes() {
        let ((mut client, here), (mut server, there)) = (tokio::io::duplex(100), tokio::io::duplex(100));
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = sent.clone();
        let tunnel = tokio::spawn(between(here, there, move |bytes| {
            counted.fetch_add(bytes, Ordering::Relaxed);
            std::future::ready(())
        }));
        let start = Instant::now();
        for _ in 0..10 {
            tokio::time::sleep(IDLE / 2).await;
            server.write_all(b"news").await.unwrap();
            client.read_exact(&mut [0; 4]).await.unwrap();
            tokio::time::sleep(IDLE / 3).await;
            client.write_all(b"ping").await.unwrap();
            server.read_exact(&mut [0; 4]).await.unwrap();
        }
        assert_eq!((client.read(&mut [0]).await.unwrap(), server.read(&mut [0]).await.unwrap()), (0, 0));
        assert_eq!(start.elapsed().as_secs(), (10 * (IDLE / 2 + IDLE / 3) + IDLE).as_secs());
        tunnel.await.unwrap();
        assert_eq!(sent.load(Ordering::Relaxed), 40, "to the client alone");
    }

    /// What is sent to one who takes nothing does not keep it open.
    #[tokio::test(start_paused = true)]
    async fn it_ends_when_nothing_is_taken() {
        let ((_client, here), (mut server, there)) = (tokio::io::duplex(100), tokio::io::duplex(100));
        let start = Instant::now();
        let tunnel = tokio::spawn(between(here, there, |_| std::future::ready(())));
        while server.write_all(&[0; 50]).await.is_ok() {}
        tunnel.await.unwrap();
        assert_eq!(start.elapsed().as_secs(), IDLE.as_secs());
    }

    #[tokio::test]
    async fn an_end_is_passed_on_and_the_other_way_goes_on() {
        let ((mut client, here), (mut server, there)) = (tokio::io::duplex(100), tokio::io::duplex(100));
        let tunnel = tokio::spawn(between(here, there, |_| std::future::ready(())));
        client.write_all(b"last").await.unwrap();
        client.shutdown().await.unwrap();
        let mut came = Vec::new();
        server.read_to_end(&mut came).await.unwrap();
        assert_eq!(came, b"last");
        server.write_all(b"answer").await.unwrap();
        drop(server);
        came.clear();
        client.read_to_end(&mut came).await.unwrap();
        assert_eq!(came, b"answer");
        tunnel.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_run_at_shutdown_have_until_the_deadline() {
        let (shutdown, second) = (CancellationToken::new(), Duration::from_secs(1));
        for (takes, expected) in [(3 * second, 3 * second), (300 * second, 10 * second)] {
            let tunnels = Tunnels::new(&CancellationToken::new());
            tunnels.run(tokio::time::sleep(takes));
            shutdown.cancel();
            let start = Instant::now();
            tunnels.drain(shutdown.clone(), || 10 * second).await;
            assert_eq!(start.elapsed().as_secs(), expected.as_secs());
        }
    }
}
