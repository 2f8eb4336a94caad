//! Clients who vanish without a word, with their machine or their network: where nothing is sent to them, and nothing is waited for
//! from them, nobody but TCP itself would notice.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpListener;

/// A connection without traffic is probed after so long,
const SILENCE: Duration = Duration::from_secs(60);

/// and then this often,
const AGAIN: Duration = Duration::from_secs(15);

/// until so many were not answered.
const PROBES: u32 = 4;

/// Has it noticed for all connections of a port: they have what its socket has when they come.
pub(super) fn notice(listener: &TcpListener) -> io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(SILENCE).with_interval(AGAIN).with_retries(PROBES);
    SockRef::from(listener).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn all_connections_are_probed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        notice(&listener).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.keepalive().unwrap());
        assert_eq!((socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap()), (SILENCE, AGAIN));
    }
}
