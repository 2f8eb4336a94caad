//! One request to a provider's server: which fields go along, whom it is tried at, how long it may take.

use std::{
    io::{self, ErrorKind},
    time::Duration,
};

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header, request::Parts, uri::PathAndQuery};
use http_body::Body as _;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::client::legacy;
use tokio::time::Instant;
use tower_http::timeout::TimeoutBody;
use tracing::debug;
use umbel_http_cache::strip_hop_by_hop;
use umbel_service::{
    client::Used,
    passing::{self, Times, Tunnels, Upload, silence, watched},
};
use umbel_wire::control::{Pull, PullProtocol};

use super::{
    FAILED_HEADER,
    client::{NotPermitted, Over, PullClient, Speaks},
    upstreams::Upstreams,
};

/// Servers that one request is tried at.
const TRIES: usize = 3;

/// Why there is no answer of the provider's server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PullError {
    /// The site's configuration has none that could be asked.
    #[error("the site has no usable upstream server")]
    NoUpstream,
    /// Its address is private, and the operator does not allow that.
    #[error("the upstream server's address is not public")]
    NotPermitted,
    /// No connection.
    #[error("the upstream server cannot be reached")]
    Unreachable(#[source] legacy::Error),
    /// A connection, and no answer that is HTTP.
    #[error("the upstream server's answer is broken")]
    Broken(#[source] legacy::Error),
    /// An answer in HTTP that is none to this request.
    #[error("the upstream server answers something else than it was asked")]
    Nonsense,
    /// No answer in time. Whether all of the request had left.
    #[error("the upstream server does not answer in time")]
    Timeout { sent: bool },
}

impl PullError {
    /// What the reader gets (RFC 9110, sections 15.6.3 and 15.6.5).
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::NoUpstream | Self::NotPermitted | Self::Unreachable(_) | Self::Broken(_) | Self::Nonsense => {
                StatusCode::BAD_GATEWAY
            }
        }
    }

    /// Whether the server may have closed the connection, which it had used before, when this was on its way to it.
    fn is_of_an_old_connection(&self) -> bool {
        match self {
            Self::Broken(error) => Used::is_noted(error) && is_closed(error),
            Self::NoUpstream | Self::NotPermitted | Self::Unreachable(_) | Self::Nonsense | Self::Timeout { .. } => {
                false
            }
        }
    }

    /// A reader who leaves in the middle of an upload, or does not go on with it, breaks it, too: that says nothing about the server.
    fn may_be_the_readers(&self) -> bool {
        matches!(self, Self::Broken(_) | Self::Timeout { sent: false })
    }

    /// Or the server does not know of the request.
    fn may_have_been_sent(&self) -> bool {
        match self {
            Self::Broken(_) | Self::Nonsense | Self::Timeout { .. } => true,
            Self::NoUpstream | Self::NotPermitted | Self::Unreachable(_) => false,
        }
    }

    /// One word for `Cache-Status` and metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NoUpstream => "no-upstream",
            Self::NotPermitted => "not-permitted",
            Self::Unreachable(_) => "unreachable",
            Self::Broken(_) => "broken",
            Self::Nonsense => "nonsense",
            Self::Timeout { .. } => "timeout",
        }
    }
}

/// The connection ended, and not because of what came over it.
fn is_closed(error: &legacy::Error) -> bool {
    causes(error).any(|cause| {
        let broke = cause.downcast_ref::<hyper::Error>();
        broke.is_some_and(|error| error.is_incomplete_message() || error.is_canceled() || error.is_closed())
            || cause.downcast_ref::<io::Error>().is_some_and(|error| is_end(error.kind()))
    })
}

fn is_end(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::BrokenPipe
            | ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::NotConnected
            | ErrorKind::UnexpectedEof
    )
}

fn causes(error: &legacy::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(error), |error| error.source())
}

/// To do it twice is to do it once (RFC 9110, section 9.2.2). A change under a condition may have made its own condition false.
fn may_be_repeated(request: &Parts) -> bool {
    let conditions = [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_UNMODIFIED_SINCE];
    let is_conditional = || conditions.iter().any(|name| request.headers.contains_key(name));
    request.method.is_safe() || request.method.is_idempotent() && !is_conditional()
}

/// Passes requests on.
#[derive(Debug, Clone)]
pub(crate) struct Forward {
    client: PullClient,
    upstreams: Upstreams,
    tunnels: Tunnels,
}

impl Forward {
    pub(crate) fn new(client: PullClient, tunnels: Tunnels) -> Self {
        Self { client, upstreams: Upstreams::default(), tunnels }
    }

    /// The answer of the first server that gives one. A request that may change something, or whose body is gone once it was
    /// sent, goes to the next server only if nothing of it was sent to the one before. One that may be repeated is sent again when the
    /// server was just closing the connection, as long as its content is still there (RFC 9110, section 9.2.2). That a server
    /// is overloaded, or can itself reach nobody, is the answer to a safe request only if no other server has a better one.
    pub(crate) async fn request(&self, pull: &Pull, mut request: Request<Body>) -> Result<Response<Body>, PullError> {
        let reader = passing::end_to_end(&mut request);
        let (mut parts, body) = request.into_parts();
        parts.headers.remove(header::HOST);
        let repeatable = parts.method.is_safe() && body.is_end_stream() && reader.is_none();
        let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str).to_owned();
        let (upload, mut last) = (Upload::new(body), Err(PullError::NoUpstream));
        let mut order: Vec<_> = self.upstreams.order(&pull.upstreams, &path, (repeatable, Instant::now()));
        order.truncate(TRIES);
        // What cannot be sent to another has all the time at the one it is sent to.
        let mut patience = Patience::new(Times::of(pull).first_byte, if repeatable { order.len() } else { 1 });
        for (number, url) in order.iter().copied().enumerate() {
            let asked = Asked { pull, url, parts: &parts, path: &path, until: patience.until(Instant::now()) };
            let mut answer = self.ask(&asked, Over::Any, upload.begin().unwrap_or_default()).await;
            if may_be_repeated(&parts)
                && reader.is_none()
                && answer.as_ref().is_err_and(PullError::is_of_an_old_connection)
                && let Some(again) = upload.begin()
            {
                answer = self.ask(&asked, Over::Fresh, again).await;
            }
            match answer.and_then(|response| sensible(&parts, response)) {
                Ok(response) if repeatable && order.len() > 1 && is_unwell(response.status()) => {
                    debug!(url, status = response.status().as_u16(), "an upstream server is not well");
                    // The last one's word counts; it may be about what was asked for.
                    if number + 1 < order.len() {
                        self.upstreams.failed(url, Instant::now());
                    }
                    last = Ok(response);
                }
                Ok(response) => {
                    self.upstreams.answered(url);
                    return Ok(self.answer(pull, response, reader));
                }
                Err(error) => {
                    debug!(url, error = &error as &dyn std::error::Error, "an upstream server failed");
                    if repeatable || !error.may_be_the_readers() {
                        self.upstreams.failed(url, Instant::now());
                    }
                    let is_over = !repeatable && error.may_have_been_sent();
                    // An answer is better than none.
                    last = last.or(Err(error));
                    if is_over {
                        break;
                    }
                }
            }
        }
        last.map(|response| self.answer(pull, response, None))
    }

    async fn ask(&self, asked: &Asked<'_>, over: Over, body: Body) -> Result<Response<Incoming>, PullError> {
        let (body, sent) = watched(body);
        let mut request = addressed(asked, body).ok_or(PullError::NoUpstream)?;
        passing::pass_interim(&mut request, asked.parts.extensions.get());
        let speaks = speaks(asked.pull, &asked.parts.headers);
        let client = self.client.to(request.uri(), speaks, over).map_err(|NotPermitted| PullError::NotPermitted)?;
        let patience = asked.until.saturating_duration_since(sent.borrow().last);
        let answer = tokio::select! {
            answer = client.request(request) => Some(answer),
            () = silence(&sent, patience) => None,
        };
        let timeout = || PullError::Timeout { sent: sent.borrow().whole };
        let response = answer.ok_or_else(timeout)?.map_err(|error| {
            if caused_by_guard(&error) {
                PullError::NotPermitted
            } else if error.is_connect() {
                PullError::Unreachable(error)
            } else {
                PullError::Broken(error)
            }
        })?;
        Used::note(&response);
        Ok(response)
    }

    fn answer(&self, pull: &Pull, mut response: Response<Incoming>, reader: Option<OnUpgrade>) -> Response<Body> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            if let Some(reader) = reader {
                let server = hyper::upgrade::on(&mut response);
                self.tunnels.open(reader, server, |_| std::future::ready(()));
            }
            return response.map(|_| Body::empty());
        }
        strip_hop_by_hop(response.headers_mut());
        // Only the origin itself says this.
        response.headers_mut().remove(FAILED_HEADER);
        response.map(|body| Body::new(TimeoutBody::new(Times::of(pull).between_bytes, body)))
    }
}

/// What a server is asked in for this request. HTTP/2 has no upgrades here, and no host but the URL's.
fn speaks(pull: &Pull, headers: &HeaderMap) -> Speaks {
    match pull.protocol() {
        _ if headers.contains_key(header::UPGRADE) => Speaks::Http1,
        PullProtocol::Http2 => Speaks::Http2,
        PullProtocol::Auto if headers.contains_key(header::TE) && pull.host.is_empty() => Speaks::Either,
        PullProtocol::Auto | PullProtocol::Http1 => Speaks::Http1,
    }
}

/// Another protocol, or that nothing has changed, is no answer to one who did not ask for it; passed on, it would break
/// a reader's connection or leave him without what he wants.
fn sensible(asked: &Parts, response: Response<Incoming>) -> Result<Response<Incoming>, PullError> {
    let has = |name| asked.headers.contains_key(name);
    let sense = match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => has(header::UPGRADE) && passing::is_websocket(response.headers()),
        StatusCode::NOT_MODIFIED => has(header::IF_NONE_MATCH) || has(header::IF_MODIFIED_SINCE),
        _ => true,
    };
    if sense { Ok(response) } else { Err(PullError::Nonsense) }
}

/// It cannot answer now, and another one may (RFC 9110, sections 15.6.3 to 15.6.5).
fn is_unwell(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// How long all servers together may take to begin an answer: one that is stuck is left, when there are others, after half of
/// what remains.
struct Patience {
    end: Instant,
    servers: usize,
}

impl Patience {
    fn new(whole: Duration, servers: usize) -> Self {
        Self { end: Instant::now() + whole, servers }
    }

    /// Until when the next server is waited for.
    fn until(&mut self, now: Instant) -> Instant {
        let left = self.end.saturating_duration_since(now);
        self.servers = self.servers.saturating_sub(1);
        if self.servers == 0 { self.end } else { now + left / 2 }
    }
}

/// A request at one server.
struct Asked<'a> {
    pull: &'a Pull,
    url: &'a str,
    parts: &'a Parts,
    path: &'a str,
    /// How long its answer is waited for.
    until: Instant,
}

/// The request for one server; none if its URL is no good.
fn addressed(asked: &Asked<'_>, body: Body) -> Option<Request<Body>> {
    let Asked { pull, parts, .. } = asked;
    let mut target = asked.url.parse::<Uri>().ok()?.into_parts();
    target.path_and_query = Some(asked.path.parse().ok()?);
    let host = if pull.host.is_empty() { target.authority.as_ref()?.as_str() } else { pull.host.as_str() };
    let host = HeaderValue::from_str(host).ok()?;
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.headers_mut() = parts.headers.clone();
    *request.uri_mut() = Uri::from_parts(target).ok()?;
    request.headers_mut().insert(header::HOST, host);
    Some(request)
}

fn caused_by_guard(error: &legacy::Error) -> bool {
    let mut inner = causes(error).filter_map(|error| error.downcast_ref::<io::Error>()?.get_ref());
    inner.any(|error| error.is::<NotPermitted>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_servers_together_have_one_time() {
        let start = Instant::now();
        let second = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::new(Duration::from_secs(40), 3);
        assert_eq!(patience.until(second(0)), second(20));
        assert_eq!(patience.until(second(20)), second(30));
        assert_eq!(patience.until(second(30)), second(40));
        assert_eq!(Patience::new(Duration::from_secs(40), 1).until(second(0)), second(40));
        assert_eq!(Patience::new(Duration::from_secs(40), 2).until(second(50)), second(50));
    }
}
