//! Clients that are slow on purpose, over a real socket: closed in bounded time, whatever they are slow in.

use std::time::Duration;

use axum::{Router, body::Body};
use bytes::Bytes;
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{Limits, Listener};

/// So long nobody waits who is closed.
const HANG: Duration = Duration::from_secs(60);

const SOON: Duration = Duration::from_millis(200);

async fn app(request: Request<Body>) -> Body {
    if request.uri().path() == "/large" {
        return Body::from(Bytes::from(vec![0; 64 << 20]));
    }
    match axum::body::to_bytes(Body::new(request.into_body()), 1 << 20).await {
        Ok(content) => Body::from(content),
        Err(_) => Body::from("incomplete"),
    }
}

#[tokio::test]
async fn all_are_closed() {
    let limits = Limits {
        header_timeout: SOON,
        keep_alive_timeout: SOON,
        min_rate_grace: SOON,
        min_rate: 1000,
        ..Limits::default()
    };
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), None, limits).await.unwrap();
    let (address, end) = (listener.local_addr().unwrap(), CancellationToken::new());
    let serving = tokio::spawn(listener.serve(Router::new().fallback(app), end.clone()));
    for (first, then) in [
        ("", ""),
        ("G", ""),
        ("GET / HTTP/1.1\r\nHost: a\r\n", "x: y\r\n"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", ""),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\nG", "E"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n", "x"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"),
        ("PRI * HTTP/2.0\r\n\r\nSM", ""),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(first.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let drip = async {
            loop {
                tokio::time::sleep(SOON / 4).await;
                if then.is_empty() || writer.write_all(then.as_bytes()).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let mut answer = Vec::new();
        let closed = async {
            tokio::select! { read = reader.read_to_end(&mut answer) => drop(read), () = drip => {} }
        };
        timeout(HANG, closed).await.unwrap_or_else(|_| panic!("{first:?} stays open"));
    }
    // Reads nothing of what is more than the sockets' buffers hold, and then all that is left: less than the whole.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let closed = async {
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(SOON).await;
        }
    };
    timeout(HANG, closed).await.expect("one who reads nothing is closed");
    end.cancel();
    serving.await.unwrap();
}
