//! HTTP/1.1 (RFC 9112) on one connection, spoken by hyper. What hyper would read generously is refused before it sees it
//! (`listen/stream.rs`); interim answers, which it does not know, are put in between what it writes (`listen/cork.rs`).

use std::{convert::Infallible, future::poll_fn, io::Write, pin::pin, sync::Arc};

use axum::body::{Body, HttpBody};
use futures::future::maybe_done;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::TokioIo;
use tracing::debug;

use super::{
    App, Refusal, Served, Visitor,
    cork::{Between, corked},
    interim::{Interims, Next},
    pace::{Running, Seen},
    stream::{Strict, Talk},
    without_content,
};

/// Serves a connection to its end.
pub(super) async fn serve<A: App>(Served { transport, unread, resident, rules, visitor, shutdown }: Served<A>) {
    let remote = visitor.connection.remote;
    let (stream, cork) = corked(transport, unread, Box::new(visitor.app.clone()));
    let (stream, talk) = Strict::new(stream, resident);
    let (limits, watched) = (rules.limits, talk.clone());
    let (visitor, between) = (Arc::new(visitor), Arc::new(cork.between()));
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        // Boxed: a connection that waits for a request has no room for its answer.
        Box::pin(answer(visitor.clone(), request, talk.clone(), between.clone()))
    });
    let mut builder = http1::Builder::new();
    // `listen/pace.rs` counts, without a timer for each request. And without `pipeline_flush`: it would keep hyper's own 414 and 431
    // from ever leaving.
    builder.header_read_timeout(None).max_buf_size(limits.header_bytes.max(8 * 1024));
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let (mut idle, mut leaves) = (limits.keep_alive_timeout, false);
    let outcome = loop {
        let watching = watched.pace.watch(limits.patience(), idle);
        let turn = poll_fn(|cx| {
            let outcome = serving.as_mut().poll(cx);
            if outcome.is_ready() {
                cork.remove();
            }
            cork.release(cx);
            outcome
        });
        tokio::select! {
            // Looked at first: who is answered after the end has begun is told to leave.
            biased;
            () = shutdown.cancelled(), if !leaves => {}
            outcome = turn => break outcome,
            seen = watching => match seen {
                Seen::Idle if !leaves => debug!(%remote, "a client asks for nothing"),
                Seen::Idle => {
                    cork.abandon();
                    return debug!(%remote, "a client does not take the end of its connection");
                }
                Seen::TooSlow(slow_in) => {
                    cork.abandon();
                    return debug!(%remote, slow_in, "a client is too slow");
                }
            },
        }
        serving.as_mut().graceful_shutdown();
        (idle, leaves) = (limits.header_timeout, true);
    };
    if let Err(error) = outcome {
        debug!(%remote, %error, "connection ended");
    }
}

async fn answer<A: App>(
    visitor: Arc<Visitor<A>>,
    request: Request<Incoming>,
    talk: Arc<Talk>,
    between: Arc<Between>,
) -> Result<Response<Body>, Infallible> {
    let mut request = match visitor.introduce(request) {
        Ok(request) => request,
        Err(refusal) => return Ok(refusal.answer()),
    };
    let is_head = *request.method() == Method::HEAD;
    let running = Running::begin(talk.clone());
    let interims = Interims::of(&mut request);
    let mut answering = pin!(maybe_done(visitor.app.answer(request.map(content))));
    let response = loop {
        match poll_fn(|cx| interims.poll_next(answering.as_mut(), cx)).await {
            Next::Interim(interim) => between.put(written(&interim)).await,
            Next::Answer(response) => break response,
        }
    };
    if talk.is_refused() {
        return Ok(Refusal::Content.answer());
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        talk.leave_http();
    }
    let response = if is_head { without_content(response) } else { response };
    Ok(if response.body().size_hint().exact().is_some() {
        response
    } else {
        response.map(|body| until_end(body, running))
    })
}

/// An interim answer as it is written (RFC 9112, section 4).
fn written(interim: &Response<()>) -> Vec<u8> {
    let status = interim.status();
    let mut bytes = Vec::with_capacity(256);
    // A vector takes everything.
    drop(write!(bytes, "HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default()));
    for (name, value) in interim.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// What is there already is as good as sent.
fn until_end(body: Body, running: Running<Arc<Talk>>) -> Body {
    Body::new(body.map_frame(move |frame| {
        let _until_dropped = &running;
        frame
    }))
}

/// Most requests have none.
fn content(body: Incoming) -> Body {
    if body.is_end_stream() { Body::empty() } else { Body::new(body) }
}
