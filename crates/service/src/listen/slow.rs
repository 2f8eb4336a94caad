//! Clients that are slow on purpose, over a real socket: closed in bounded time, whatever they are slow in.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, body::Body};
use bytes::Bytes;
use futures::StreamExt;
use http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Limits, Listener,
    refused::{DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, SETTINGS, fields, frame},
};

/// So long nobody waits who is closed.
const HANG: Duration = Duration::from_secs(60);

const SOON: Duration = Duration::from_millis(200);

async fn app(request: Request<Body>) -> Body {
    if request.uri().path() == "/large" {
        return Body::from(Bytes::from(vec![0; 64 << 20]));
    }
    if let Some(length) = request.uri().path().strip_prefix("/long/").and_then(|length| length.parse().ok()) {
        return Body::from(Bytes::from(vec![0; length]));
    }
    if request.uri().path() == "/thinks" {
        tokio::time::sleep(5 * SOON).await;
    }
    match axum::body::to_bytes(Body::new(request.into_body()), 1 << 20).await {
        Ok(content) => Body::from(content),
        Err(_) => Body::from("incomplete"),
    }
}

/// What none of the clients here can keep.
fn tight() -> Limits {
    let limits = Limits { header_timeout: SOON, keep_alive_timeout: SOON, ..Limits::default() };
    Limits { min_rate_grace: SOON, min_rate: 1000, ..limits }
}

async fn serve(limits: Limits) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    serve_app(limits, Router::new().fallback(app)).await
}

async fn serve_app(limits: Limits, app: Router) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), None, limits).await.unwrap();
    let (address, end) = (listener.local_addr().unwrap(), CancellationToken::new());
    let serving = tokio::spawn(listener.serve(app, end.clone()));
    (address, end, serving)
}

#[tokio::test]
async fn all_are_closed() {
    let (address, end, serving) = serve(tight()).await;
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

/// This is about time itself: longer than an idle connection is kept.
#[tokio::test]
async fn who_waits_for_an_answer_is_not_idle() {
    let (address, end, serving) = serve(tight()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /thinks HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(timeout(HANG, stream.read_u8()).await.unwrap().unwrap());
    }
    let head = String::from_utf8(answer).unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && !head.contains("connection: close"), "{head}");
    end.cancel();
    serving.await.unwrap();
}

/// Where the kernel's buffers end is not known: some of these answers are in them but for their end, which waits here.
#[tokio::test]
async fn who_leaves_the_end_of_an_answer_is_closed() {
    let (address, end, serving) = serve(Limits { drain: HANG, ..tight() }).await;
    let mut clients = Vec::new();
    for length in (1..80).map(|number| number * 52_000) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let request = format!("GET /long/{length} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        clients.push(stream);
    }
    for stream in &clients {
        stream.readable().await.unwrap();
    }
    end.cancel();
    timeout(HANG / 2, serving).await.expect("none stays until the shutdown's deadline").unwrap();
}

#[tokio::test]
async fn an_idle_http_2_client_is_told_to_go() {
    let (address, end, serving) = serve(Limits { keep_alive_timeout: 10 * SOON, ..Limits::default() }).await;
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Body>(TokioExecutor::new(), stream).await.unwrap();
    let asks = async {
        let request = Request::get(format!("http://{address}/")).body(Body::empty()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert!(axum::body::to_bytes(Body::new(answer.into_body()), 100).await.unwrap().is_empty());
        // It stays.
        std::future::pending::<()>().await;
    };
    let ended = async {
        tokio::select! { ended = connection => ended, () = asks => unreachable!() }
    };
    timeout(HANG, ended).await.expect("an idle connection is closed").unwrap();
    end.cancel();
    serving.await.unwrap();
}

/// The kernel would keep the rest for it, and the connection, as long as it likes.
#[tokio::test]
async fn what_one_does_not_take_is_not_kept_for_it() {
    let (address, end, serving) = serve(tight()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let reset =
        timeout(HANG, stream.ready(Interest::ERROR)).await.expect("its connection is reset, though it reads nothing");
    assert!(reset.unwrap().is_error());
    end.cancel();
    serving.await.unwrap();
}

/// A video that waits for its viewer is no reason to take the page away from him.
#[tokio::test]
async fn a_stream_that_is_not_read_ends_alone() {
    let ended = CancellationToken::new();
    let running = ended.clone();
    let app = Router::new().fallback(async move |request: Request<Body>| {
        if request.uri().path() == "/" {
            return Body::from("page");
        }
        let (zeros, running) = (Bytes::from_static(&[0; 10_000]), running.drop_guard());
        Body::from_stream(futures::stream::repeat(zeros).map(move |piece| {
            let _running = &running;
            Ok::<_, std::io::Error>(piece)
        }))
    });
    let (address, end, serving) = serve_app(Limits { min_rate_grace: SOON, ..Limits::default() }, app).await;
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Body>(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut ask = async |path| {
        let request = Request::get(format!("http://{address}{path}")).body(Body::empty()).unwrap();
        Body::new(sender.send_request(request).await.unwrap().into_body())
    };
    let video = ask("/video").await;
    timeout(HANG, ended.cancelled()).await.expect("it ends, though nobody reads it");
    let page = ask("/").await;
    assert_eq!(axum::body::to_bytes(page, 100).await.unwrap(), "page");
    let rest = axum::body::to_bytes(video, usize::MAX);
    timeout(HANG, rest).await.expect("who reads on is told").unwrap_err();
    drop(sender);
    connection.await.unwrap().unwrap();
    end.cancel();
    serving.await.unwrap();
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const CONTINUATION: u8 = 9;

/// Less than it takes the library to miss the answers to its pings.
const BEFORE_PINGS: Duration = Duration::from_secs(30);

/// Reads whatever comes, sends what `next` makes of a number, and as soon as that is none, nothing more.
async fn is_closed(address: SocketAddr, next: impl Fn(u16) -> Option<Vec<u8>>) -> bool {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let send = async {
        for bytes in (0..).map_while(next) {
            if writer.write_all(&bytes).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let mut scratch = vec![0; 1 << 16];
    let read = async { while reader.read(&mut scratch).await.is_ok_and(|bytes| bytes > 0) {} };
    let closed = async {
        tokio::select! { () = read => {}, () = send => {} }
    };
    timeout(BEFORE_PINGS, closed).await.is_ok()
}

/// Whether these bytes come back.
async fn is_answered(address: SocketAddr, first: &[u8], expected: &[u8]) -> bool {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), first].concat()).await.unwrap();
    let mut answer = Vec::new();
    let come = async {
        while !answer.windows(expected.len()).any(|bytes| bytes == expected) {
            if stream.read_buf(&mut answer).await.is_ok_and(|bytes| bytes > 0) {
                continue;
            }
            return false;
        }
        true
    };
    timeout(HANG, come).await.unwrap_or(false)
}

fn request(method: &str, path: &str) -> Vec<u8> {
    fields(&[(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path)])
}

#[tokio::test]
async fn http_2_clients_are_closed_as_well() {
    let (address, end, serving) = serve(tight()).await;
    let stalls = frame(HEADERS, END_STREAM | END_HEADERS, 1, &request("GET", "/large"));
    assert!(is_answered(address, &stalls, &frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])).await, "one who reads nothing");
    let resets = |number: u16| {
        let stream = 2 * number + 1;
        let pair =
            [frame(HEADERS, END_HEADERS, stream, &request("POST", "/")), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])];
        (number < 10_000).then(|| pair.concat())
    };
    assert!(is_closed(address, resets).await, "one who takes back what it asks for");
    let drips = [frame(HEADERS, END_HEADERS, 1, &request("POST", "/")), frame(DATA, 0, 1, b"x")].concat();
    assert!(is_answered(address, &drips, b"incomplete").await, "one who does not bring what it promised");
    let never_ends = |number| match number {
        0 => Some(frame(HEADERS, END_STREAM, 1, &request("GET", "/"))),
        _ => (number < 60_000).then(|| frame(CONTINUATION, 0, 1, &fields(&[("x", "y")]))),
    };
    assert!(is_closed(address, never_ends).await, "one whose head does not end");
    end.cancel();
    serving.await.unwrap();
}
