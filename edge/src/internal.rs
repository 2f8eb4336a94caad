//! The port of the other edges: ciphertext by `GET /v1/chunks/{site id}/{version id, hex}/{index}` with the chunk's name
//! in a field, from the cache or else from an origin, never from a third edge.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use tokio::time::timeout;
use umbel_content::{ChunkIndex, MAX_CHUNK_SIZE, TAG_LEN};
use umbel_service::tls::{NodeRole, PeerIdentity};

use crate::{
    agents::chunks::status,
    core::Core,
    fill::{NAME_HEADER, Reach, Wanted},
    refusal::refusal,
};

/// How long an edge that is not known may be one that has just joined.
const NEWS: Duration = Duration::from_secs(2);

/// Answers another edge.
pub(crate) async fn answer(State(core): State<Arc<Core>>, request: Request) -> Response<Body> {
    let (parts, _) = request.into_parts();
    if parts.uri.path() == "/healthz" {
        return Response::new(Body::from("ok\n"));
    }
    let identity = parts.extensions.get::<PeerIdentity>().filter(|identity| identity.role == NodeRole::Edge);
    let is_member = match identity {
        Some(identity) => is_member(&core, &identity.node_id).await,
        None => false,
    };
    if !is_member {
        return refusal(StatusCode::FORBIDDEN, "for edges of this installation only");
    }
    if parts.method != Method::GET {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, "chunks are only fetched");
    }
    let Some(wanted) = wanted(parts.uri.path(), &parts.headers) else {
        return refusal(StatusCode::BAD_REQUEST, "not a chunk's address and name");
    };
    match core.fill.chunk(wanted, Reach::Origins).await {
        Ok((sealed, _)) => {
            let mut response = Response::new(Body::from(sealed));
            let kind = HeaderValue::from_static("application/octet-stream");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Err(error) => refusal(status(&error), &error.to_string()),
    }
}

/// A node that was removed keeps its certificate until it expires; that is not enough. One that has just joined may know of
/// this edge before this edge hears of it.
async fn is_member(core: &Core, node_id: &str) -> bool {
    let is_known = || core.view.load().installation.nodes.contains_key(node_id);
    let mut changes = core.view.changes();
    let heard_of = async {
        while !is_known() && changes.changed().await.is_ok() {}
        is_known()
    };
    timeout(NEWS, heard_of).await.unwrap_or(false)
}

fn wanted(path: &str, headers: &HeaderMap) -> Option<Wanted> {
    let mut parts = path.strip_prefix("/v1/chunks/")?.split('/');
    let (site_id, version, chunk) = (parts.next()?, parts.next()?, parts.next()?);
    // The id goes into a request of ours: a UUID has no other letters.
    let plain = site_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if parts.next().is_some() || !plain || site_id.is_empty() || site_id.len() > 64 {
        return None;
    }
    Some(Wanted {
        site_id: site_id.to_owned(),
        version: version.parse().ok()?,
        chunk: ChunkIndex::new(chunk.parse().ok()?),
        name: headers.get(NAME_HEADER)?.to_str().ok()?.parse().ok()?,
        length: (MAX_CHUNK_SIZE + TAG_LEN) as usize,
    })
}
