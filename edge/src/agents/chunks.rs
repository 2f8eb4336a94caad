//! Ciphertext for agents: `GET {CHUNKS_PATH}/{manifest id}/{index}` under a session that opened that version.

use std::{pin::Pin, sync::Arc};

use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, stream};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use umbel_content::{ChunkIndex, ManifestId};
use umbel_wire::CHUNKS_PATH;

use crate::{
    access,
    core::Core,
    fill::{FillError, Reach, Wanted},
    refusal::refusal,
    uplink::PIECE,
};

/// Answers a request for a chunk.
pub(crate) async fn serve(core: &Arc<Core>, method: &Method, path: &str, headers: &HeaderMap) -> Response<Body> {
    if method != Method::GET {
        let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, "chunks are only fetched");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    let Some(session) = access::bearer(headers).and_then(|bearer| core.sessions.find(bearer)) else {
        return refusal(StatusCode::UNAUTHORIZED, "there is no such session");
    };
    let Some((manifest, chunk)) = parse(path) else {
        return refusal(StatusCode::BAD_REQUEST, "not a chunk's address");
    };
    let Some(version) = session.version(manifest) else {
        return refusal(StatusCode::NOT_FOUND, "this session has not opened this version");
    };
    let found = match Wanted::of(&version, chunk) {
        Ok(wanted) => core.fill.chunk(wanted, Reach::Fleet).await,
        Err(error) => Err(error),
    };
    match found {
        Ok((sealed, _)) => answer(core, version.manifest.layout().length(), sealed),
        Err(error) => refusal(status(&error), &error.to_string()),
    }
}

/// What a failed fill means to who asked for the chunk.
pub(crate) fn status(error: &FillError) -> StatusCode {
    match error {
        FillError::NoSuchChunk => StatusCode::NOT_FOUND,
        FillError::NoSource(_) | FillError::Undecryptable => StatusCode::BAD_GATEWAY,
        FillError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn parse(path: &str) -> Option<(ManifestId, ChunkIndex)> {
    let (manifest, chunk) = path.strip_prefix(CHUNKS_PATH)?.strip_prefix('/')?.split_once('/')?;
    Some((manifest.parse().ok()?, ChunkIndex::new(chunk.parse().ok()?)))
}

/// `object` is the length of the whole object.
fn answer(core: &Arc<Core>, object: u64, sealed: Bytes) -> Response<Body> {
    let length = sealed.len();
    let body = if core.uplink.is_some() {
        Body::from_stream(paced(core.clone(), object, sealed))
    } else {
        core.metrics.sent(object, length);
        Body::from(sealed)
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

fn paced(
    core: Arc<Core>,
    object: u64,
    sealed: Bytes,
) -> Pin<Box<dyn Stream<Item = Result<Bytes, std::convert::Infallible>> + Send>> {
    Box::pin(stream::unfold((core, sealed), move |(core, mut rest)| async move {
        if rest.is_empty() {
            return None;
        }
        let piece = rest.split_to(rest.len().min(PIECE));
        core.pace(piece.len()).await;
        core.metrics.sent(object, piece.len());
        Some((Ok(piece), (core, rest)))
    }))
}
