//! One request of an HTTP/2 connection and its answer, which leaves as fast as the client takes it.

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::{SystemTime, UNIX_EPOCH},
};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use futures::future::maybe_done;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use http_body::Frame;

use super::content::Content;
use crate::listen::{
    App, Visitor,
    interim::{Interims, Next},
    pace::{Pace, Patience, Running, Stall},
    without_content,
};

/// Data that fills, with the head of its frame, one TLS record (RFC 8446, section 5.1): a byte more would be a record for itself.
const FRAME: usize = 16 * 1024 - 9;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was answered, to the end or not.
    Answered,
    /// The client took it back before it was.
    TakenBack,
}

/// Answers a request.
pub(super) async fn serve<A: App>(
    visitor: Arc<Visitor<A>>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    (pace, patience): (Arc<Pace>, Patience),
) -> Outcome {
    let _running = Running::begin(pace);
    let is_head = *request.method() == Method::HEAD;
    let answered = match visitor.introduce(with_content(request, patience)) {
        Ok(request) => answer(&visitor.app, request, &mut respond).await,
        Err(refusal) => Some(refusal.answer()),
    };
    let Some(response) = answered else { return Outcome::TakenBack };
    let response = if is_head { without_content(response) } else { response };
    send(response, respond, patience).await;
    Outcome::Answered
}

/// Most requests have none.
fn with_content(request: Request<RecvStream>, patience: Patience) -> Request<Body> {
    let (head, stream) = request.into_parts();
    let content = if stream.is_end_stream() {
        Body::empty()
    } else {
        let length = head.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Body::new(Content::new(stream, length, patience))
    };
    Request::from_parts(head, content)
}

/// None if the client takes the request back first.
async fn answer(
    app: &impl App,
    mut request: Request<Body>,
    respond: &mut SendResponse<Bytes>,
) -> Option<Response<Body>> {
    let interims = Interims::of(&mut request);
    let mut answering = pin!(maybe_done(app.answer(request)));
    loop {
        let next = poll_fn(|cx| match interims.poll_next(answering.as_mut(), cx) {
            Poll::Ready(next) => Poll::Ready(Some(next)),
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        });
        match next.await? {
            Next::Answer(response) => return Some(response),
            Next::Interim(mut interim) => {
                for_http_2(interim.headers_mut());
                // It fails when the client has taken the request back, which is found out next.
                drop(respond.send_informational(interim));
            }
        }
    }
}

/// Sends an answer. An error of its body, or a client who is too slow, ends it with a reset.
async fn send(response: Response<Body>, mut respond: SendResponse<Bytes>, patience: Patience) {
    let (mut head, body) = response.into_parts();
    for_http_2(&mut head.headers);
    head.headers.entry(header::DATE).or_insert_with(date);
    if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
        head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    let ends = body.is_end_stream();
    // If the client has gone, nobody is to be told.
    let Ok(stream) = respond.send_response(Response::from_parts(head, ()), ends) else { return };
    if !ends {
        let mut sending = Sending { stream, stall: Stall::new(patience) };
        if let Err(reason) = sending.all(body).await {
            sending.stream.send_reset(reason);
        }
    }
}

/// Fields that are about an HTTP/1.1 connection (RFC 9113, section 8.2.2).
fn for_http_2(headers: &mut HeaderMap) {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, KEEP_ALIVE, PROXY_CONNECTION] {
        headers.remove(name);
    }
}

/// Now, as a `Date` (RFC 9110, section 6.6.1). It is written once a second on each thread.
fn date() -> HeaderValue {
    thread_local!(static NOW: RefCell<Option<(u64, HeaderValue)>> = const { RefCell::new(None) });
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    NOW.with_borrow_mut(|known| match known {
        Some((of, date)) if *of == second => date.clone(),
        _ => {
            let text = httpdate::fmt_http_date(now);
            let date = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
            known.insert((second, date)).1.clone()
        }
    })
}

/// The content of an answer on its way out.
struct Sending {
    stream: SendStream<Bytes>,
    stall: Stall,
}

impl Sending {
    /// Sends a body to its end; an error says why the stream is to be reset.
    async fn all(&mut self, mut body: Body) -> Result<(), Reason> {
        loop {
            let Some(frame) = poll_fn(|cx| self.poll_body(&mut body, cx)).await? else {
                return self.data(Bytes::new(), true).await;
            };
            let ends = body.is_end_stream();
            match frame.into_data() {
                Ok(data) if data.is_empty() && !ends => {}
                Ok(data) => self.data(data, ends).await?,
                Err(frame) => {
                    let Ok(trailers) = frame.into_trailers() else { continue };
                    return self.stream.send_trailers(trailers).map_err(|_| Reason::CANCEL);
                }
            }
            if ends {
                return Ok(());
            }
        }
    }

    /// What comes next of the body, or the news that the client wants no more.
    fn poll_body(&mut self, body: &mut Body, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Reason>> {
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(frame.transpose().map_err(|_| Reason::INTERNAL_ERROR)),
            Poll::Pending => {
                ready!(self.stream.poll_reset(cx)).ok();
                Poll::Ready(Err(Reason::CANCEL))
            }
        }
    }

    async fn data(&mut self, mut data: Bytes, ends: bool) -> Result<(), Reason> {
        loop {
            let length = data.len().min(poll_fn(|cx| self.poll_room(data.len(), cx)).await?).min(FRAME);
            let piece = data.split_to(length);
            let is_last = data.is_empty();
            self.stream.send_data(piece, ends && is_last).map_err(|_| Reason::CANCEL)?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// How much of so many bytes the client takes now; waits until it is something.
    fn poll_room(&mut self, wanted: usize, cx: &mut Context<'_>) -> Poll<Result<usize, Reason>> {
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        if self.stream.capacity() == 0 {
            self.stream.reserve_capacity(wanted);
        }
        while self.stream.capacity() == 0 {
            match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(Reason::CANCEL)),
                Poll::Pending => return self.stall.poll_too_slow(cx).map(|()| Err(Reason::CANCEL)),
            }
        }
        let room = self.stream.capacity();
        self.stall.moved(room.min(wanted).min(FRAME));
        Poll::Ready(Ok(room))
    }
}
