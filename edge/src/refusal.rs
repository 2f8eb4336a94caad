//! Answers that are not content: a status and one line of plain text that says why.

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};

/// Seconds after which a client may try again what failed on our side.
const RETRY_AFTER: u16 = 2;

/// An extension of an answer that is the edge's own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own;

/// A small plain answer; those that are worth a retry say when.
pub(crate) fn refusal(status: StatusCode, reason: &str) -> Response<Body> {
    let text = format!("{}: {reason}\n", status.canonical_reason().unwrap_or("error").to_lowercase());
    let length = text.len();
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.extensions_mut().insert(Own);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status.is_server_error() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
    }
    response
}
