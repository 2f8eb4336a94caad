//! The body of an answer: pieces of text and ranges of the object, decrypted chunk by chunk as the reader takes them.

use std::{ops::Range, sync::Arc};

use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use umbel_content::Slice;

use crate::{core::Core, fill::FillError, lookup::Version, meter::ResponseMeter, uplink::PIECE};

/// Bytes that are fetched ahead of a reader, as a number of chunks between two and eight.
const AHEAD: usize = 4 * 1024 * 1024;

/// A part of a body.
#[derive(Debug, Clone)]
pub(super) enum Part {
    /// Framing of a multipart body.
    Text(Bytes),
    /// Bytes of the object.
    Object(Range<u64>),
}

impl Part {
    /// Bytes of the object in it.
    fn counted(&self) -> u64 {
        match self {
            Self::Text(_) => 0,
            Self::Object(range) => range.end - range.start,
        }
    }
}

/// A step of a body: at most one chunk.
enum Step {
    Text(Bytes),
    Object(Slice),
}

/// Streams `parts`; `first` is the plaintext of the first chunk, if it is there already. A chunk that cannot be had ends the body with an error, which ends the connection (or the HTTP/2 stream): a
/// reader never takes a part for the whole.
pub(super) fn body(
    core: Arc<Core>,
    version: Arc<Version>,
    parts: Vec<Part>,
    mut first: Option<Bytes>,
    mut meter: ResponseMeter,
) -> Body {
    meter.expect(parts.iter().map(Part::counted).sum());
    let ahead = AHEAD / version.manifest.layout().chunk_size() as usize;
    let fetches = stream::iter(steps(&version, parts)).map({
        let core = core.clone();
        move |step| {
            let ready = if matches!(step, Step::Object(_)) { first.take() } else { None };
            fetch(core.clone(), version.clone(), step, ready)
        }
    });
    let pieces = fetches.buffered(ahead.clamp(2, 8)).map(|piece| piece.map_err(std::io::Error::other));
    Body::from_stream(metered(paced(core, small(pieces)), meter))
}

fn steps(version: &Version, parts: Vec<Part>) -> impl Iterator<Item = Step> + use<> {
    let layout = version.manifest.layout();
    parts.into_iter().flat_map(move |part| -> Box<dyn Iterator<Item = Step> + Send> {
        match part {
            Part::Text(text) => Box::new(std::iter::once(Step::Text(text))),
            Part::Object(range) => Box::new(layout.covering(range).map(Step::Object)),
        }
    })
}

/// What is sent, and whether it is the object's.
struct Piece {
    bytes: Bytes,
    counts: bool,
}

async fn fetch(core: Arc<Core>, version: Arc<Version>, step: Step, ready: Option<Bytes>) -> Result<Piece, FillError> {
    match step {
        Step::Text(bytes) => Ok(Piece { bytes, counts: false }),
        Step::Object(Slice { chunk, within }) => {
            let plain = match ready {
                Some(plain) => plain,
                None => core.plaintext.chunk(&version, chunk).await?.0,
            };
            Ok(Piece { bytes: plain.slice(within), counts: true })
        }
    }
}

/// Cut up: each piece is paced and metered for itself.
fn small(
    pieces: impl Stream<Item = std::io::Result<Piece>> + Send + 'static,
) -> impl Stream<Item = std::io::Result<Piece>> + Send + 'static {
    pieces.flat_map(|piece| match piece {
        Ok(piece) => stream::iter(cut(piece).map(Ok)).left_stream(),
        Err(error) => stream::iter([Err(error)]).right_stream(),
    })
}

fn cut(Piece { mut bytes, counts }: Piece) -> impl Iterator<Item = Piece> {
    std::iter::from_fn(move || {
        let length = bytes.len().min(PIECE);
        (length > 0).then(|| Piece { bytes: bytes.split_to(length), counts })
    })
}

/// Waits for the uplink, if it has a limit.
fn paced(
    core: Arc<Core>,
    pieces: impl Stream<Item = std::io::Result<Piece>> + Send + 'static,
) -> impl Stream<Item = std::io::Result<Piece>> + Send + 'static {
    pieces.then(move |piece| {
        let core = core.clone();
        async move {
            if let Ok(piece) = &piece {
                core.pace(piece.bytes.len()).await;
            }
            piece
        }
    })
}

/// The last step before the connection: what passes here leaves, and nothing leaves that is not counted.
fn metered(
    pieces: impl Stream<Item = std::io::Result<Piece>> + Send + 'static,
    mut meter: ResponseMeter,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    pieces.map(move |piece| {
        let piece = piece?;
        if piece.counts {
            meter.sending(piece.bytes.len());
        }
        Ok(piece.bytes)
    })
}
