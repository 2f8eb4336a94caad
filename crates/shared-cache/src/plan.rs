//! What of the store answers a request: status, fields, and where the bytes lie, for conditions and ranges too (RFC 9110,
//! sections 13 and 14).

use std::{ops::Range, sync::Arc, time::SystemTime};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{HeaderMap, StatusCode, header, request::Parts};
use umbel_http_cache::{Body as PlannedBody, Boundary, Content, MultipartFraming, Piece, Plan, answer, content};

use crate::{
    body::{Body, BodyError, Reader},
    shelf::Variant,
};

/// An answer that is ready to be sent.
#[derive(Debug)]
pub struct Planned {
    /// Its status.
    pub status: StatusCode,
    /// Its fields, without `Cache-Status`.
    pub headers: HeaderMap,
    /// Its body.
    pub segments: Vec<Segment>,
}

/// Consecutive bytes of an answer.
#[derive(Debug, Clone)]
pub enum Segment {
    /// Framing of a multipart body.
    Text(Bytes),
    /// A stretch of a stored body.
    Stored(Arc<Body>, Range<u64>),
}

/// The answer of the stored response at `index`. `all` is what is stored with it, where it is a part. None if its body turns
/// out to be evicted.
pub(crate) async fn planned(request: &Parts, all: &[Variant], index: usize) -> Option<Planned> {
    let Plan { status, headers, body } = plan(request, &all[index]);
    let segments = segments(request, all, index, body, length(&headers));
    for segment in &segments {
        if !segment.can_serve().await {
            return None;
        }
    }
    Some(Planned { status, headers, segments })
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
            let mut request = crate::fetch::copy(request);
            request.headers.remove(header::RANGE);
            let mut plan = answer(&request, stored, 0, boundary, now);
            plan.headers.remove(header::CONTENT_LENGTH);
            plan
        }
    }
}

fn segments(request: &Parts, all: &[Variant], index: usize, body: PlannedBody, length: Option<u64>) -> Vec<Segment> {
    let whole = |range: Range<u64>| locate(request, all, index, range);
    match body {
        PlannedBody::None => Vec::new(),
        PlannedBody::Whole => whole(0..length.unwrap_or(u64::MAX)),
        PlannedBody::Range(range) => whole(range),
        PlannedBody::Multi(framing) => {
            let parts = framed(&framing);
            let parts = parts.flat_map(|(text, range)| std::iter::once(Segment::Text(text)).chain(whole(range)));
            parts.chain([Segment::Text(framing.closing().into())]).collect()
        }
    }
}

fn framed(framing: &MultipartFraming) -> impl Iterator<Item = (Bytes, Range<u64>)> {
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

/// The bytes of an answer, as they come. The flag says whether they are the object's own: framing is nothing that a reader asked
/// for. The first segment has its reader at once: its body waits for it, however long nobody wants the bytes.
pub fn bytes(segments: Vec<Segment>) -> impl Stream<Item = Result<(Bytes, bool), BodyError>> + Send {
    let mut rest = segments.into_iter();
    let first = rest.next().map(|segment| segment.bytes().boxed());
    stream::iter(first).chain(stream::iter(rest).map(|segment| segment.bytes().boxed())).flatten()
}

/// All of an answer, if it is short and there: it can leave in one piece.
pub fn at_once(segments: &[Segment]) -> Option<Bytes> {
    match segments {
        [] => Some(Bytes::new()),
        [Segment::Stored(body, range)] => {
            let short = body.short()?;
            let end = range.end.min(short.len() as u64) as usize;
            Some(short.slice((range.start as usize).min(end)..end))
        }
        _ => None,
    }
}

impl Segment {
    async fn can_serve(&self) -> bool {
        match self {
            Self::Text(_) => true,
            Self::Stored(body, range) => body.can_serve(range).await,
        }
    }

    /// Bytes of the object in it, as far as that is known.
    pub fn length(&self) -> u64 {
        match self {
            Self::Text(_) => 0,
            Self::Stored(body, range) => range.end.min(body.length().unwrap_or(u64::MAX)).saturating_sub(range.start),
        }
    }

    fn bytes(self) -> impl Stream<Item = Result<(Bytes, bool), BodyError>> + Send {
        match self {
            Self::Text(text) => stream::iter([Ok((text, false))]).left_stream(),
            Self::Stored(body, range) => {
                let reader = Reader::new(body, range.start);
                let next = move |mut reader: Reader| async move {
                    let bytes = reader.next(range.end).await?;
                    Ok(bytes.map(|bytes| ((bytes, true), reader)))
                };
                stream::try_unfold(reader, next).right_stream()
            }
        }
    }
}
