//! How answers leave, by the rules of their site (`umbel_delivery`): what is decided before anything is looked for, and what
//! becomes of an answer on its way out. A site without rules only has its plain HTTP requests sent to https.

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use umbel_delivery::{Https, Rules, location};
use umbel_http_cache::{Compression, plain_conditions, settled};
use umbel_service::listen::Connection;
use umbel_wire::control::Site;

use crate::{core::Core, refusal::refusal, respond, view::View};

mod encode;
mod encoder;

pub(crate) use encode::Encodings;

/// Answers a request for something of `site`.
pub(crate) async fn answer(core: &Arc<Core>, view: &View, site: &Site, request: Parts, body: Body) -> Response<Body> {
    let rules = view.rules(&site.id);
    if !is_secure(&request) && !rules.is_some_and(|rules| rules.https.allow_plain) {
        return to_https(view.https_port, &request);
    }
    match rules {
        None => respond::content(core, view, site, request, body).await,
        Some(rules) => by_rules(core, view, site, rules, request, body).await,
    }
}

async fn by_rules(
    core: &Arc<Core>,
    view: &View,
    site: &Site,
    rules: &Rules,
    mut request: Parts,
    body: Body,
) -> Response<Body> {
    // As it came.
    let asked = Asked { method: request.method.clone(), headers: request.headers.clone(), secure: is_secure(&request) };
    if let Some(compression) = &rules.compression {
        prepare(compression, site, &mut request);
    }
    let mut response = respond::content(core, view, site, request, body).await;
    strict(&rules.https, asked.secure, &mut response);
    match &rules.compression {
        Some(compression) => core.encodings.encode(compression, &asked, response).await,
        None => response,
    }
}

/// What is remembered of a request while it is answered.
struct Asked {
    method: Method,
    headers: HeaderMap,
    secure: bool,
}

/// Makes the request one for what is not encoded. The provider's server hears of one coding, which may save the work.
fn prepare(compression: &Compression, site: &Site, request: &mut Parts) {
    plain_conditions(&request.method, &mut request.headers, &compression.codings);
    if site.pull.is_some() {
        let coding = settled(&request.headers, &compression.codings);
        request.headers.insert(header::ACCEPT_ENCODING, coding);
    }
}

fn is_secure(request: &Parts) -> bool {
    request.extensions.get::<Connection>().is_none_or(|connection| connection.secure)
}

/// The same, with the same method, at the port for TLS.
fn to_https(port: u16, request: &Parts) -> Response<Body> {
    let host = request.uri.authority().map(http::uri::Authority::as_str);
    let host = host.or_else(|| request.headers.get(header::HOST)?.to_str().ok()).unwrap_or_default();
    match location(host, port, request.uri.path_and_query()) {
        Some(location) => {
            let mut response = refusal(StatusCode::PERMANENT_REDIRECT, "this site is on https only");
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
        None => refusal(StatusCode::BAD_REQUEST, "the Host field is missing or malformed"),
    }
}

/// RFC 6797, section 7.1. The provider's server is behind the edge and cannot know.
fn strict(https: &Https, secure: bool, response: &mut Response<Body>) {
    if let Some(value) = https.strict.as_ref().filter(|_| secure) {
        response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::clone(value));
    }
}
