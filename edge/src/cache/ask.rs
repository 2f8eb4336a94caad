//! Asks an origin, which asks the provider's server: the request as it is, with the site's id beside it.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header, request::Parts};
use hyper_util::client::legacy;
use rustls::ClientConfig;
use tokio::time::sleep;
use tower_http::timeout::TimeoutBody;
use tracing::debug;
use umbel_service::{
    client::{self, StreamClient},
    listen::PerLane,
    passing::{Times, Upload, pass_interim, silence, watched},
};
use umbel_shared_cache::{Ask, Failed};
use umbel_wire::control::Pull;

use crate::{
    deliver,
    fleet::{Fleet, Member},
    view::Current,
};

/// Says to the origin whose server is meant.
const SITE_HEADER: HeaderName = HeaderName::from_static("umbel-site");

/// Says which version of the configuration the edge has applied: an origin that is behind it does not answer from what it has
/// stored, because it might not know of a purge that the edge knows of.
const VERSION_HEADER: HeaderName = HeaderName::from_static("umbel-version");

/// Says that an answer is the origin's own and why.
const FAILED_HEADER: HeaderName = HeaderName::from_static("umbel-failed");

/// Origins that one request is tried at, if it can be repeated.
const TRIES: usize = 3;

/// An origin that has not answered for so long is asked whether it is there.
const DOUBT: Duration = Duration::from_secs(3);

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
        self.pass(site_id, request, Body::empty()).await
    }
}

/// Why an origin has not answered.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    /// It is there, and took the answer back before its head had left: it knows of nothing better.
    #[error("the answer broke off")]
    TakenBack(#[source] legacy::Error),
    #[error("no answer")]
    Failed(#[source] legacy::Error),
    /// Not in time. Whether all of the request had left.
    #[error("no answer in time")]
    Timeout { sent: bool },
}

impl NoAnswer {
    fn of(error: legacy::Error) -> Self {
        let is_taken_back = reset(&error).is_some_and(|why| why != h2::Reason::REFUSED_STREAM);
        if is_taken_back { Self::TakenBack(error) } else { Self::Failed(error) }
    }

    /// Notes what this says about the origin. A reader who leaves in the middle of an upload, or does not go on with it, breaks it,
    /// too: that says nothing.
    fn tell(&self, origin: &Member, repeatable: bool) {
        let is_the_origins = match self {
            Self::TakenBack(_) => return origin.answered(),
            Self::Failed(error) => repeatable || error.is_connect(),
            Self::Timeout { sent } => *sent,
        };
        if is_the_origins {
            origin.failed();
        }
    }

    /// Nothing was sent, or it may be sent twice.
    fn lets_try_another(&self, repeatable: bool) -> bool {
        match self {
            Self::TakenBack(_) => false,
            Self::Failed(error) => repeatable || error.is_connect(),
            Self::Timeout { .. } => repeatable,
        }
    }
}

impl From<NoAnswer> for Failed {
    fn from(why: NoAnswer) -> Self {
        match why {
            NoAnswer::TakenBack(_) => Self::new(StatusCode::BAD_GATEWAY, "broken", "the answer broke off"),
            NoAnswer::Failed(_) => no_origin(),
            NoAnswer::Timeout { .. } => Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", "no origin answers in time"),
        }
    }
}

fn no_origin() -> Failed {
    Failed::new(StatusCode::BAD_GATEWAY, "no-origin", "no origin answers")
}

impl Origins {
    /// Shows the certificate in `tls` to origins.
    pub(crate) fn new(fleet: Arc<Fleet>, view: Arc<Current>, tls: &ClientConfig) -> Self {
        let clients = |http2| PerLane::new(|| client::streaming(tls.clone(), http2));
        Self { fleet, view, own: clients(false), trailers: clients(true) }
    }

    /// The answer of the provider's server. The request's URI has a path and nothing before it. Safe requests without a
    /// body are tried at several origins; any other goes to the next if nothing of it was sent.
    pub(crate) async fn pass(&self, site_id: &str, parts: &Parts, body: Body) -> Result<Response<Body>, Failed> {
        let repeatable = parts.method.is_safe() && http_body::Body::is_end_stream(&body);
        let times = self.times(site_id);
        let upload = Upload::new(body);
        let version = self.fleet.version();
        let mut last = no_origin();
        let mut origins = self.fleet.origins(parts.uri.path().as_bytes()).into_iter().take(TRIES).peekable();
        while let Some(origin) = origins.next() {
            let Some(content) = upload.begin() else { break };
            let (content, sent) = watched(content);
            let Some(mut request) = addressed(&origin.url, site_id, parts, content) else {
                continue;
            };
            request.headers_mut().insert(VERSION_HEADER, version.into());
            deliver::outbound(&self.view.load(), site_id, &parts.uri, request.headers_mut());
            pass_interim(&mut request, parts.extensions.get());
            let answer = tokio::select! {
                answer = self.client(parts).request(request) => answer.map_err(NoAnswer::of),
                () = silence(&sent, times.first_byte) => Err(NoAnswer::Timeout { sent: sent.borrow().whole }),
                // It is left before its time only for another one.
                () = self.gone(&origin), if repeatable && origins.peek().is_some() => {
                    Err(NoAnswer::Timeout { sent: true })
                }
            };
            match answer {
                Ok(response) => {
                    origin.answered();
                    return checked(response.map(|body| Body::new(TimeoutBody::new(times.between_bytes, body))));
                }
                Err(why) => {
                    debug!(node = origin.id, error = &why as &dyn std::error::Error, "an origin failed");
                    why.tell(&origin, repeatable);
                    let is_over = !why.lets_try_another(repeatable);
                    last = why.into();
                    if is_over {
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    fn client(&self, parts: &Parts) -> &StreamClient<Body> {
        let upgrade = parts.headers.contains_key(header::UPGRADE);
        if parts.headers.contains_key(header::TE) && !upgrade { self.trailers.here() } else { self.own.here() }
    }

    /// How long an origin is waited for.
    fn times(&self, site_id: &str) -> Times {
        let view = self.view.load();
        let pull = view.installation.sites.get(site_id).and_then(|site| site.pull.as_ref());
        pull.map_or_else(|| Times::of(&Pull::default()), Times::of).of_who_asks_another()
    }

    /// Ends when an origin that has not answered for a while does not say either that it is there: a server may take long to answer,
    /// an origin never to say that.
    async fn gone(&self, origin: &Member) {
        loop {
            sleep(DOUBT).await;
            if !self.fleet.is_there(origin, DOUBT).await {
                return;
            }
        }
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

fn checked(mut response: Response<Body>) -> Result<Response<Body>, Failed> {
    match response.headers_mut().remove(FAILED_HEADER) {
        None => Ok(response),
        Some(why) => {
            let why = why.to_str().unwrap_or("unknown");
            let text = format!("the provider's server does not answer: {why}");
            Err(Failed::new(response.status(), why, text))
        }
    }
}
