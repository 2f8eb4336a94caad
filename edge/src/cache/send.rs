//! Sends what is stored, and passes on what is not: paced, metered, and cut off rather than ended when it is not whole.

use std::{ops::Range, sync::Arc, time::SystemTime};

use axum::body::Body as HttpBody;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, request::Parts};
use http_body::Frame;
use http_body_util::{BodyStream, StreamBody};
use umbel_http_cache::{Body as Planned, Boundary, CacheStatus, Content, Piece, Plan, answer, content};

use super::{
    CACHE_STATUS,
    body::{Body, Reader},
    shelf::Variant,
};
use crate::{core::Core, meter::ResponseMeter, uplink::PIECE};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Consecutive bytes of an answer.
#[derive(Debug, Clone)]
enum Segment {
    /// Framing of a multipart body.
    Text(Bytes),
    /// A stretch of a stored body.
    Stored(Arc<Body>, Range<u64>),
}

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

    fn framing(text: Bytes) -> Self {
        Self { frame: Frame::data(text), counts: false }
    }
}

/// The answer of the stored response at `index`, for a request that may have conditions and ranges (RFC 9110, sections 13
/// and 14). `all` is what is stored with it, where it is a part. None if its body turns out to be evicted.
pub(super) async fn stored(
    core: &Arc<Core>,
    site_id: &str,
    request: &Parts,
    all: &[Variant],
    index: usize,
    status: &CacheStatus,
) -> Option<Response<HttpBody>> {
    let variant = &all[index];
    let Plan { status: code, mut headers, body } = plan(request, variant);
    headers.append(CACHE_STATUS, status.to_value());
    let segments = segments(request, all, index, body, length(&headers));
    for segment in &segments {
        if !segment.can_begin().await {
            return None;
        }
    }
    let meter = core.meter.response(site_id, request.uri.path(), code);
    let mut response = Response::new(body_of(core, segments, meter));
    *response.status_mut() = code;
    *response.headers_mut() = headers;
    Some(response)
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn plan(request: &Parts, variant: &Variant) -> Plan {
    let now = SystemTime::now();
    let boundary = || Boundary::new(&format!("umbel-{:032x}", rand::random::<u128>())).expect("letters and digits");
    let stored = variant.stored();
    match variant.body().length().or(length(stored.headers())) {
        Some(length) => answer(request, stored, length, boundary, now),
        None if stored.part().is_some() => answer(request, stored, 0, boundary, now),
        None => {
            // It still comes in and nobody knows how long it is: no ranges of it.
            let mut request = super::fetch::copy(request);
            request.headers.remove(header::RANGE);
            let mut plan = answer(&request, stored, 0, boundary, now);
            plan.headers.remove(header::CONTENT_LENGTH);
            plan
        }
    }
}

fn segments(request: &Parts, all: &[Variant], index: usize, body: Planned, length: Option<u64>) -> Vec<Segment> {
    let whole = |range: Range<u64>| locate(request, all, index, range);
    match body {
        Planned::None => Vec::new(),
        Planned::Whole => whole(0..length.unwrap_or(u64::MAX)),
        Planned::Range(range) => whole(range),
        Planned::Multi(framing) => {
            let parts = framed(&framing);
            let parts = parts.flat_map(|(text, range)| std::iter::once(Segment::Text(text)).chain(whole(range)));
            parts.chain([Segment::Text(framing.closing().into())]).collect()
        }
    }
}

fn framed(framing: &umbel_http_cache::MultipartFraming) -> impl Iterator<Item = (Bytes, Range<u64>)> {
    framing.parts().iter().map(|part| (Bytes::from(part.header.clone()), part.range.clone()))
}

/// Where bytes of the representation lie.
fn locate(request: &Parts, all: &[Variant], index: usize, want: Range<u64>) -> Vec<Segment> {
    match content(all, index, request) {
        Content::Whole => vec![Segment::Stored(all[index].body().clone(), want)],
        Content::Parts(pieces) => {
            pieces.into_iter().filter_map(|piece| within(&all[piece.index], &piece, &want)).collect()
        }
        // Whoever chose the response has seen that it is there.
        Content::Missing => Vec::new(),
    }
}

fn within(variant: &Variant, Piece { range, .. }: &Piece, want: &Range<u64>) -> Option<Segment> {
    let (start, end) = (range.start.max(want.start), range.end.min(want.end));
    let offset = variant.stored().part()?.range.start;
    (start < end).then(|| Segment::Stored(variant.body().clone(), start - offset..end - offset))
}

fn body_of(core: &Arc<Core>, segments: Vec<Segment>, mut meter: ResponseMeter) -> HttpBody {
    match segments.as_slice() {
        [] => return HttpBody::empty(),
        [Segment::Stored(body, range)] if core.uplink.is_none() => {
            if let Some(short) = body.short() {
                return at_once(short, range, meter);
            }
        }
        _ => {}
    }
    meter.expect(segments.iter().map(Segment::length).fold(0, u64::saturating_add));
    let pieces = stream::iter(segments).flat_map(|segment| segment.bytes().boxed());
    HttpBody::new(StreamBody::new(metered(core.clone(), pieces, meter)))
}

/// What is in memory and short leaves in one piece.
fn at_once(short: &Bytes, range: &Range<u64>, mut meter: ResponseMeter) -> HttpBody {
    let end = range.end.min(short.len() as u64) as usize;
    let bytes = short.slice((range.start as usize).min(end)..end);
    meter.expect(bytes.len() as u64);
    meter.sending(bytes.len());
    HttpBody::from(bytes)
}

impl Segment {
    async fn can_begin(&self) -> bool {
        match self {
            Self::Text(_) => true,
            Self::Stored(body, range) => range.is_empty() || body.can_begin_at(range.start).await,
        }
    }

    fn length(&self) -> u64 {
        match self {
            Self::Text(_) => 0,
            Self::Stored(body, range) => range.end.min(body.length().unwrap_or(u64::MAX)).saturating_sub(range.start),
        }
    }

    fn bytes(self) -> impl Stream<Item = Result<Outgoing, Failure>> + Send {
        match self {
            Self::Text(text) => stream::iter([Ok(Outgoing::framing(text))]).left_stream(),
            Self::Stored(body, range) => {
                let reader = Reader::new(body, range.start);
                let next = move |mut reader: Reader| async move {
                    let bytes = reader.next(range.end).await?;
                    Ok::<_, Failure>(bytes.map(|bytes| (Outgoing::content(Frame::data(bytes)), reader)))
                };
                stream::try_unfold(reader, next).right_stream()
            }
        }
    }
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
