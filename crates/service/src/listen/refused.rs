//! Requests that somebody could be fooled with, over a real socket: refused, the connection closed, and nothing after them done.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
};
use http::{Request, Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{Limits, Listener};

/// So long nobody waits who gets an answer.
const HANG: Duration = Duration::from_secs(60);

/// What a smuggler wants to be done.
const EVIL: &str = "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n";

struct Server {
    address: SocketAddr,
    /// Paths and contents of the requests that came through.
    done: Arc<Mutex<Vec<String>>>,
    end: CancellationToken,
    serving: JoinHandle<()>,
}

impl Server {
    /// Reads a request to its end before it answers, as one that passes it on does.
    async fn start() -> Self {
        let done = Arc::new(Mutex::new(Vec::new()));
        let seen = done.clone();
        let app = Router::new().fallback_service(tower::service_fn(move |request: Request<Body>| {
            let seen = seen.clone();
            async move {
                let path = request.uri().path().to_owned();
                let content = to_bytes(request.into_body(), 1 << 20).await;
                let status = if content.is_ok() { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
                if let Ok(content) = content {
                    seen.lock().unwrap().push(format!("{path} {}", String::from_utf8_lossy(&content)));
                }
                let mut response = Response::new(Body::from("done"));
                *response.status_mut() = status;
                Ok::<_, Infallible>(response)
            }
        }));
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), None, Limits::default()).await.unwrap();
        let (address, end) = (listener.local_addr().unwrap(), CancellationToken::new());
        let serving = tokio::spawn(listener.serve(app, end.clone()));
        Self { address, done, end, serving }
    }

    /// Everything that comes back until the server closes.
    async fn send(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        timeout(HANG, stream.read_to_end(&mut answer)).await.expect("the connection is closed").unwrap();
        answer
    }

    fn done(&self) -> Vec<String> {
        std::mem::take(&mut *self.done.lock().unwrap())
    }

    /// `before` the smuggled request gets a 400, and is the last thing on its connection.
    async fn refuses(&self, before: &str) {
        let answer = self.send(format!("{before}{EVIL}").as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{before:?}: {answer}");
        assert_eq!(answer.matches("\ndate: ").count(), 1, "{before:?}: {answer}");
        assert_eq!(self.done(), [""; 0], "{before:?}");
    }

    async fn stop(self) {
        self.end.cancel();
        self.serving.await.unwrap();
    }
}

#[tokio::test]
async fn requests_that_can_be_read_in_two_ways() {
    let server = Server::start().await;
    for fields in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        "Content-Length: 0\r\nContent-Length: 4\r\n\r\n",
        "Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
        "Content-Length: 0, 0\r\n\r\n",
        "Content-Length: +5\r\n\r\nabcde",
        "Content-Length: -1\r\n\r\n",
        "Content-Length: 5 5\r\n\r\n",
        "Content-Length: 0x5\r\n\r\n",
        "Content-Length: \r\n\r\n",
        "Content-Length: 99999999999999999999\r\n\r\n",
        "Content-Length : 5\r\n\r\nabcde",
        "Content-Length\t: 5\r\n\r\nabcde",
        " Content-Length: 5\r\n\r\nabcde",
        "X: y\r\n Content-Length: 5\r\n\r\nabcde",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\x0b\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding\r\n: chunked\r\n\r\n0\r\n\r\n",
        "X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "X: y\r\r\n\r\n",
        "X: y\n\n",
        "X: y\r\n\n",
        "X: y\0z\r\n\r\n",
        "X\0: y\r\n\r\n",
        "X y: z\r\n\r\n",
        "X : z\r\n\r\n",
        ": z\r\n\r\n",
        "X\r\n\r\n",
        "X\u{e9}: z\r\n\r\n",
        "Host: b\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0x5\r\nabcde\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n+5\r\nabcde\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5 \r\nabcde\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\nabcde\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5;a\nb\r\nabcde\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5;a\rb\r\nabcde\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nabcdef\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nabcde\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabcde\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0\r\nx: y\n\r\n",
    ] {
        server.refuses(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}")).await;
    }
    for head in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1x\r\nHost: a\r\n\r\n",
        "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: a, b\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        server.refuses(head).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn requests_that_are_fine() {
    let server = Server::start().await;
    let last = "GET /z HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for (request, expected) in [
        ("GET http://A:80/x HTTP/1.1\r\nHost: a\r\n\r\n", "/x "),
        ("\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n", "/x "),
        ("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\na\nb\0c", "/x a\nb\0c"),
        (
            "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n0A\r\n0123456789\r\n0\r\nx: y\r\n\r\n",
            "/x abc0123456789",
        ),
    ] {
        let answer = server.send(format!("{request}{last}").as_bytes()).await;
        assert_eq!(String::from_utf8_lossy(&answer).matches("HTTP/1.1 200 ").count(), 2, "{request:?}");
        assert_eq!(server.done(), [expected, "/z "], "{request:?}");
    }
    server.stop().await;
}

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// RFC 9113, section 4.1.
pub(super) fn frame(kind: u8, flags: u8, stream: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let stream = stream.to_be_bytes();
    [&[0, length[0], length[1], kind, flags, 0, 0, stream[0], stream[1]], payload].concat()
}

/// RFC 7541, section 6.2.2: nothing indexed, nothing compressed.
pub(super) fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

async fn read_frame(stream: &mut TcpStream) -> (u8, u8, Vec<u8>) {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
    stream.read_exact(&mut payload).await.unwrap();
    (head[3], head[8], payload)
}

/// Whether a request over HTTP/2 is answered; else its stream or its connection is reset.
async fn is_answered(address: SocketAddr, more: &[(&str, &str)], content: &str) -> bool {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/x")];
    let head = fields(&[&pseudo, more].concat());
    let bytes = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, &[]),
        frame(HEADERS, END_HEADERS, 1, &head),
        frame(DATA, END_STREAM, 1, content.as_bytes()),
    ];
    stream.write_all(&bytes.concat()).await.unwrap();
    loop {
        match timeout(HANG, read_frame(&mut stream)).await.expect("an answer") {
            // `:status: 200` of the static table.
            (HEADERS, 1, head) if head.first() == Some(&0x88) => return true,
            (HEADERS | RST_STREAM, 1, _) | (GOAWAY, ..) => return false,
            _ => {}
        }
    }
}

#[tokio::test]
async fn http_2_requests_that_are_malformed() {
    let server = Server::start().await;
    for (more, content, expected) in [
        (&[("content-length", "3")][..], "abc", true),
        (&[("te", "trailers")], "abc", true),
        (&[("content-length", "2")], "abc", false),
        (&[("content-length", "4")], "abc", false),
        (&[("content-length", "+3")], "abc", false),
        (&[("content-length", "3"), ("content-length", "2")], "abc", false),
        (&[("transfer-encoding", "chunked")], "0\r\n\r\n", false),
        (&[("connection", "close")], "", false),
        (&[("keep-alive", "1")], "", false),
        (&[("proxy-connection", "close")], "", false),
        (&[("upgrade", "h2c")], "", false),
        (&[("te", "gzip")], "", false),
        (&[("X-Upper", "y")], "", false),
        (&[("x y", "z")], "", false),
        (&[("x", "y\r\nz: 1")], "", false),
        (&[("x", "y\0")], "", false),
        (&[(":path", "/evil")], "", false),
        (&[("x", "y"), (":path", "/evil")], "", false),
        (&[("host", "a"), ("host", "b")], "", false),
    ] {
        assert_eq!(is_answered(server.address, more, content).await, expected, "{more:?}");
        let done: Vec<String> = if expected { vec![format!("/x {content}")] } else { Vec::new() };
        assert_eq!(server.done(), done, "{more:?}");
    }
    server.stop().await;
}
