//! Interim answers (1xx, RFC 9110, section 15.2; 103 Early Hints, RFC 8297): what leaves for a client before its answer does.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures::{future::MaybeDone, task::AtomicWaker};
use http::{Request, Response, StatusCode, Version};

/// Interim answers to one request that may wait to be sent. They are hints: one more is dropped.
const WAITING: usize = 8;

/// Sends interim answers to the client of the request whose extension this is. Requests of clients who do not know them
/// (HTTP/1.0) have none.
#[derive(Debug, Clone)]
pub struct Interim(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<VecDeque<Response<()>>>,
    sender: AtomicWaker,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Response<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where they come out.
#[derive(Debug)]
pub(super) struct Interims(Option<Arc<Queue>>);

/// What leaves next.
#[derive(Debug)]
pub(super) enum Next<T> {
    Interim(Response<()>),
    /// Nothing comes before it any more.
    Answer(T),
}

impl Interim {
    /// Has it sent, unless the answer has left before it, or too many wait. 100 is not for anybody else to say, and 101 is an
    /// answer (RFC 9110, sections 15.2.1 and 15.2.2): they are not sent.
    pub fn send(&self, interim: Response<()>) {
        let status = interim.status();
        let is_ours = matches!(status, StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS);
        if !status.is_informational() || is_ours {
            return;
        }
        let mut waiting = self.0.lock();
        if waiting.len() < WAITING {
            waiting.push_back(interim);
            drop(waiting);
            self.0.sender.wake();
        }
    }
}

impl Interims {
    /// Gives a request the right to them.
    pub(super) fn of<B>(request: &mut Request<B>) -> Self {
        if request.version() < Version::HTTP_11 {
            return Self(None);
        }
        let queue = Arc::<Queue>::default();
        request.extensions_mut().insert(Interim(queue.clone()));
        Self(Some(queue))
    }

    /// Waits for what leaves next.
    pub(super) fn poll_next<F: Future>(
        &self,
        answer: Pin<&mut MaybeDone<F>>,
        cx: &mut Context<'_>,
    ) -> Poll<Next<F::Output>> {
        let mut answer = answer;
        if let Some(queue) = &self.0 {
            queue.sender.register(cx.waker());
        }
        let is_answered = answer.as_mut().poll(cx).is_ready();
        if let Some(interim) = self.0.as_ref().and_then(|queue| queue.lock().pop_front()) {
            return Poll::Ready(Next::Interim(interim));
        }
        let answer = if is_answered { answer.take_output() } else { None };
        answer.map_or(Poll::Pending, |answer| Poll::Ready(Next::Answer(answer)))
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, net::SocketAddr};

    use axum::{Router, body::Body};
    use bytes::Bytes;
    use http::HeaderValue;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        sync::Semaphore,
        task::JoinHandle,
    };
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::listen::{Limits, Listener};

    static MORE: Semaphore = Semaphore::const_new(0);

    fn hint(status: StatusCode, link: &'static str) -> Response<()> {
        let mut hint = Response::new(());
        *hint.status_mut() = status;
        hint.headers_mut().insert("link", HeaderValue::from_static(link));
        hint.headers_mut().insert("connection", HeaderValue::from_static("x"));
        hint
    }

    /// Gives hints, where it can; `/waits` answers only when somebody has read them.
    async fn app(request: Request<Body>) -> &'static str {
        let interim = request.extensions().get::<Interim>().cloned();
        if let Some(interim) = interim {
            interim.send(hint(StatusCode::CONTINUE, "never"));
            interim.send(hint(StatusCode::EARLY_HINTS, "</a>"));
            interim.send(hint(StatusCode::from_u16(199).unwrap(), "</b>"));
        }
        if request.uri().path() == "/waits" {
            MORE.acquire().await.unwrap().forget();
        }
        "answer"
    }

    async fn serve() -> (SocketAddr, CancellationToken, JoinHandle<()>) {
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), None, Limits::default()).await.unwrap();
        let (address, end) = (listener.local_addr().unwrap(), CancellationToken::new());
        (address, end.clone(), tokio::spawn(listener.serve(Router::new().fallback(app), end)))
    }

    const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nconnection: x\r\n\r\nHTTP/1.1 199 \r\nlink: </b>\r\nconnection: x\r\n\r\n";

    async fn read(stream: &mut TcpStream, until: &str) -> String {
        let mut read = Vec::new();
        while !read.ends_with(until.as_bytes()) {
            read.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(read).unwrap()
    }

    #[tokio::test]
    async fn hints_leave_before_the_answer() {
        let (address, end, serving) = serve().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /waits HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert_eq!(read(&mut stream, "</b>\r\nconnection: x\r\n\r\n").await, HINTS);
        MORE.add_permits(1);
        assert!(read(&mut stream, "answer").await.starts_with("HTTP/1.1 200 OK\r\n"));
        // Several at once: each has its own, in order.
        stream.write_all("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(20).as_bytes()).await.unwrap();
        for _ in 0..20 {
            let answer = read(&mut stream, "answer").await;
            assert!(answer.starts_with(HINTS), "{answer}");
            assert!(answer[HINTS.len()..].starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        }
        // Who does not know them gets none.
        stream.write_all(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(read(&mut stream, "answer").await.starts_with("HTTP/1.0 200 OK\r\n"));
        end.cancel();
        serving.await.unwrap();
    }

    #[test]
    fn more_than_may_wait_are_dropped() {
        let mut request = Request::new(());
        let interims = Interims::of(&mut request);
        let interim = request.extensions().get::<Interim>().unwrap();
        (0..2 * WAITING).for_each(|_| interim.send(hint(StatusCode::EARLY_HINTS, "</a>")));
        let mut answer = std::pin::pin!(futures::future::maybe_done(std::future::pending::<()>()));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let sent = (0..).take_while(|_| interims.poll_next(answer.as_mut(), &mut cx).is_ready()).count();
        assert_eq!(sent, WAITING);
    }

    #[tokio::test]
    async fn hints_over_http_2() {
        let (address, end, serving) = serve().await;
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut sender = sender.ready().await.unwrap();
        let request = Request::get(format!("http://{address}/")).body(()).unwrap();
        let (mut answer, _) = sender.send_request(request, true).unwrap();
        for (status, link) in [(103, "</a>"), (199, "</b>")] {
            let hint = poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap();
            assert_eq!((hint.status().as_u16(), hint.headers()["link"].to_str().unwrap()), (status, link));
            assert!(!hint.headers().contains_key("connection"));
        }
        let answer = answer.await.unwrap();
        assert!(answer.headers().contains_key("date"));
        let mut body = answer.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), Bytes::from("answer"));
        drop((sender, body));
        end.cancel();
        serving.await.unwrap();
        connection.await.unwrap().unwrap();
    }
}
