//! Asks an origin, which asks the provider's server: the request as it is, with the site's id beside it.

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header, request::Parts};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use rustls::ClientConfig;
use tracing::debug;
use umbel_service::{
    client::{self, StreamClient},
    listen::PerLane,
};
use umbel_shared_cache::{Ask, Failed};

use crate::{deliver, fleet::Fleet, view::Current};

/// Says to the origin whose server is meant.
const SITE_HEADER: HeaderName = HeaderName::from_static("umbel-site");

/// Says which version of the configuration the edge has applied: an origin that is behind it does not answer from what it has
/// stored, because it might not know of a purge that the edge knows of.
const VERSION_HEADER: HeaderName = HeaderName::from_static("umbel-version");

/// Says that an answer is the origin's own and why.
const FAILED_HEADER: HeaderName = HeaderName::from_static("umbel-failed");

/// Origins that one request is tried at, if it can be repeated.
const TRIES: usize = 3;

/// The way to origins.
#[derive(Debug)]
pub(crate) struct Origins {
    fleet: Arc<Fleet>,
    view: Arc<Current>,
    /// A connection for each request (HTTP/1.1): in one for all, those who do not read what they asked for would fill the
    /// window that it has for all, or hold all the streams that it may have.
    own: PerLane<StreamClient<Body>>,
    /// HTTP/2, for those who ask for trailers.
    trailers: PerLane<StreamClient<Body>>,
}

impl Ask for Origins {
    async fn ask(&self, site_id: &str, request: &Parts) -> Result<Response<Body>, Failed> {
        self.pass(site_id, request, Body::empty()).await.map(|response| response.map(Body::new))
    }
}

impl Origins {
    /// Shows the certificate in `tls` to origins.
    pub(crate) fn new(fleet: Arc<Fleet>, view: Arc<Current>, tls: &ClientConfig) -> Self {
        let clients = |http2| PerLane::new(|| client::streaming(tls.clone(), http2));
        Self { fleet, view, own: clients(false), trailers: clients(true) }
    }

    /// The answer of the provider's server. The request's URI has a path and nothing before it. Safe requests without a
    /// body are tried at several origins.
    pub(crate) async fn pass(&self, site_id: &str, parts: &Parts, body: Body) -> Result<Response<Incoming>, Failed> {
        let repeatable = parts.method.is_safe() && http_body::Body::is_end_stream(&body);
        let tries = if repeatable { TRIES } else { 1 };
        let upgrade = parts.headers.contains_key(header::UPGRADE);
        let client =
            if parts.headers.contains_key(header::TE) && !upgrade { self.trailers.here() } else { self.own.here() };
        let mut body = Some(body);
        let version = self.fleet.version();
        for origin in self.fleet.origins(parts.uri.path().as_bytes()).into_iter().take(tries) {
            let Some(mut request) = addressed(&origin.url, site_id, parts, body.take().unwrap_or_default()) else {
                continue;
            };
            request.headers_mut().insert(VERSION_HEADER, version.into());
            deliver::outbound(&self.view.load(), site_id, &parts.uri, request.headers_mut());
            match client.request(request).await {
                Ok(response) => {
                    origin.answered();
                    return checked(response);
                }
                // It took the answer back before the head had left: it is there, and knows of nothing better.
                Err(error) if reset(&error).is_some_and(|why| why != h2::Reason::REFUSED_STREAM) => {
                    debug!(node = origin.id, error = &error as &dyn std::error::Error, "an answer broke off");
                    origin.answered();
                    return Err(Failed::new(StatusCode::BAD_GATEWAY, "broken", "the answer broke off"));
                }
                Err(error) => {
                    debug!(node = origin.id, error = &error as &dyn std::error::Error, "an origin failed");
                    // A reader who leaves in the middle of an upload breaks it, too: that says nothing about the origin.
                    if repeatable || error.is_connect() {
                        origin.failed();
                    }
                }
            }
        }
        Err(Failed::new(StatusCode::BAD_GATEWAY, "no-origin", "no origin answers"))
    }
}

/// Why an origin has ended one stream, if it has: the connection and its other streams go on (RFC 9113, section 5.4.2).
fn reset(error: &legacy::Error) -> Option<h2::Reason> {
    let causes = std::iter::successors(std::error::Error::source(error), |error| error.source());
    let mut causes = causes.filter_map(|error| error.downcast_ref::<h2::Error>());
    causes.find(|error| error.is_reset() && error.is_remote())?.reason()
}

fn addressed(url: &str, site_id: &str, parts: &Parts, body: Body) -> Option<Request<Body>> {
    let target = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    // `OPTIONS *` has no form with a host.
    let target = if target == "*" && parts.method == Method::OPTIONS { "/" } else { target };
    let uri: Uri = client::join(url, target).ok()?;
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = parts.headers.clone();
    request.headers_mut().remove(header::HOST);
    request.headers_mut().insert(SITE_HEADER, HeaderValue::from_str(site_id).ok()?);
    Some(request)
}

fn checked(mut response: Response<Incoming>) -> Result<Response<Incoming>, Failed> {
    match response.headers_mut().remove(FAILED_HEADER) {
        None => Ok(response),
        Some(why) => {
            let why = why.to_str().unwrap_or("unknown");
            let text = format!("the provider's server does not answer: {why}");
            Err(Failed::new(response.status(), why, text))
        }
    }
}
