//! Sends what is stored, and passes on what is not: paced, metered, and cut off rather than ended when it is not whole.

use std::sync::Arc;

use axum::body::Body as HttpBody;
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, future::BoxFuture, stream};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, request::Parts};
use http_body::Frame;
use http_body_util::{BodyStream, StreamBody};
use umbel_http_cache::CacheStatus;
use umbel_shared_cache::{Planned, Segment, at_once};

use super::CACHE_STATUS;
use crate::{core::Core, meter::ResponseMeter, uplink::PIECE};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What leaves next.
#[derive(Debug)]
struct Outgoing {
    frame: Frame<Bytes>,
    /// It is the object's own: framing is nothing that a reader asked for.
    counts: bool,
}

impl Outgoing {
    fn content(frame: Frame<Bytes>) -> Self {
        Self { frame, counts: true }
    }
}

/// Sends what is stored.
pub(super) fn stored(
    core: &Arc<Core>,
    site_id: &str,
    request: &Parts,
    planned: Planned,
    status: &CacheStatus,
) -> Response<HttpBody> {
    let Planned { status: code, headers, segments } = planned;
    let path = request.uri.path();
    // Where the uplink has a limit, each piece waits for it.
    let body = match at_once(&segments).filter(|_| core.uplink.is_none()) {
        Some(bytes) => {
            core.meter.at_once(site_id, path, code, bytes.len());
            HttpBody::from(bytes)
        }
        None => in_pieces(core, segments, core.meter.response(site_id, path, code)),
    };
    let mut response = Response::new(body);
    *response.status_mut() = code;
    *response.headers_mut() = headers;
    response.headers_mut().append(CACHE_STATUS, status.to_value());
    response
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn in_pieces(core: &Arc<Core>, segments: Vec<Segment>, mut meter: ResponseMeter) -> HttpBody {
    meter.expect(segments.iter().map(Segment::length).fold(0, u64::saturating_add));
    let pieces = umbel_shared_cache::bytes(segments)
        .map_ok(|(bytes, counts)| Outgoing { frame: Frame::data(bytes), counts })
        .map_err(Failure::from);
    HttpBody::new(StreamBody::new(metered(core.clone(), pieces, meter)))
}

/// Passes a response on as it comes, trailers and all.
pub(super) fn unshared(
    core: &Arc<Core>,
    site_id: &str,
    request: &Parts,
    mut response: Response<HttpBody>,
    status: &CacheStatus,
) -> Response<HttpBody> {
    response.headers_mut().append(CACHE_STATUS, status.to_value());
    let mut meter = core.meter.response(site_id, request.uri.path(), response.status());
    let length = length(response.headers());
    if !http_body::Body::is_end_stream(response.body()) {
        meter.expect(length.unwrap_or(u64::MAX));
    }
    let core = core.clone();
    response.map(|body| {
        let frames = BodyStream::new(body).map(|frame| frame.map(Outgoing::content).map_err(Failure::from));
        HttpBody::new(StreamBody::new(metered(core, frames, meter)))
    })
}

/// Counts what an upgraded connection sends to its reader: it is one answer. Each piece waits for the uplink.
pub(super) fn tunnel(
    core: &Arc<Core>,
    site_id: &str,
    request: &Parts,
) -> impl FnMut(usize) -> BoxFuture<'static, ()> + use<> {
    let mut meter = core.meter.response(site_id, request.uri.path(), StatusCode::SWITCHING_PROTOCOLS);
    meter.expect(u64::MAX);
    let core = core.clone();
    move |bytes| {
        meter.sending(bytes);
        let core = core.clone();
        async move { core.pace(bytes).await }.boxed()
    }
}

/// The last step before the connection: waits for the uplink, and counts.
fn metered(
    core: Arc<Core>,
    frames: impl Stream<Item = Result<Outgoing, Failure>> + Send + 'static,
    meter: ResponseMeter,
) -> impl Stream<Item = Result<Frame<Bytes>, Failure>> + Send + 'static {
    let cut = frames.flat_map(|frame| stream::iter(small(frame)));
    stream::unfold((Box::pin(cut), core, meter), |(mut cut, core, mut meter)| async move {
        let outgoing = cut.next().await?;
        if let Ok(Outgoing { frame, counts }) = &outgoing
            && let Some(bytes) = frame.data_ref()
        {
            core.pace(bytes.len()).await;
            if *counts {
                meter.sending(bytes.len());
            }
        }
        Some((outgoing.map(|outgoing| outgoing.frame), (cut, core, meter)))
    })
}

/// Cut up, so that each piece is paced and metered for itself.
fn small(outgoing: Result<Outgoing, Failure>) -> Vec<Result<Outgoing, Failure>> {
    let Outgoing { frame, counts } = match outgoing {
        Ok(outgoing) => outgoing,
        Err(error) => return vec![Err(error)],
    };
    let mut bytes = match frame.into_data() {
        Ok(bytes) => bytes,
        Err(frame) => return vec![Ok(Outgoing { frame, counts })],
    };
    let mut frames = Vec::with_capacity(bytes.len() / PIECE + 1);
    while !bytes.is_empty() {
        let frame = Frame::data(bytes.split_to(bytes.len().min(PIECE)));
        frames.push(Ok(Outgoing { frame, counts }));
    }
    frames
}

/// The edge's own answer where there is none.
pub(super) fn gateway_error(status: StatusCode, reason: &str, said: &CacheStatus) -> Response<HttpBody> {
    let mut response = crate::refusal::refusal(status, reason);
    response.headers_mut().append(CACHE_STATUS, HeaderValue::clone(&said.to_value()));
    response
}
