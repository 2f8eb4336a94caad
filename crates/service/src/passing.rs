//! What a server does to each request that it passes on to another, edge and origin alike.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version, header, request};
use hyper::upgrade::OnUpgrade;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use umbel_http_cache::strip_hop_by_hop;
use umbel_wire::control::Pull;

use crate::listen::Connection;

mod interim;
mod tunnel;
mod upload;

pub use self::{interim::pass_interim, tunnel::Tunnels, upload::Upload};

const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
const LOOP_NAME: &str = "umbel";

/// Edges that a request may pass: a site's server may itself be behind one.
const MAX_ROUNDS: usize = 3;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

const WEBSOCKET: &str = "websocket";

/// From the last of the request to the head of the answer, unless the site says otherwise.
const FIRST_BYTE: Duration = Duration::from_secs(30);

/// Between two pieces of an answer's body, unless the site says otherwise.
const BETWEEN_BYTES: Duration = Duration::from_secs(60);

/// What an origin may need besides its server's time: a connection to it, and its turn behind another who asks for the same.
const MARGIN: Duration = Duration::from_secs(10);

/// The fields that [`say_where_from`] writes.
pub const SAID: [HeaderName; 5] = [CDN_LOOP, header::VIA, FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST];

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Whether a request asks for an upgrade that is passed on: to WebSocket (RFC 6455, section 4.1), the one protocol that is begun by
/// a server's word and stays what it was asked for. Others would let a request through after which nobody looks at what passes: over
/// `h2c`, any number of requests to the provider's server, whatever grant the first one had. A server that does not
/// upgrade answers as if it had not been asked (RFC 9110, section 7.8).
pub fn is_upgrade<B: HttpBody>(request: &Request<B>) -> bool {
    let names_upgrade = |line: &HeaderValue| {
        line.as_bytes().split(|byte| *byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    };
    request.version() == Version::HTTP_11
        && *request.method() == Method::GET
        && request.headers().get_all(header::CONNECTION).iter().any(names_upgrade)
        && is_websocket(request.headers())
        && request.body().is_end_stream()
}

/// Whether these fields are about WebSocket and no other protocol.
pub fn is_websocket(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(header::UPGRADE).iter();
    let first = protocols.next().is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()));
    first && protocols.next().is_none()
}

/// Takes out the fields of a request that are for this hop only. A wish for trailers and for an upgrade ([`is_upgrade`]) is said
/// again to the next; of the latter, this is the client's half. Several lines of cookies, into which HTTP/2 clients
/// split them, become one (RFC 9113, section 8.2.3): servers read but one, and know of `; ` alone.
pub fn end_to_end<B: HttpBody>(request: &mut Request<B>) -> Option<OnUpgrade> {
    let upgrade = is_upgrade(request).then(|| hyper::upgrade::on(&mut *request));
    let headers = request.headers_mut();
    let trailers = headers.get(header::TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    strip_hop_by_hop(headers);
    headers.remove(HTTP2_SETTINGS);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if upgrade.is_some() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(WEBSOCKET));
    }
    if let Some(cookies) = crumbs(headers) {
        headers.insert(header::COOKIE, cookies);
    }
    upgrade
}

/// The cookies of several lines.
fn crumbs(headers: &HeaderMap) -> Option<HeaderValue> {
    let lines: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    (lines.len() > 1).then(|| HeaderValue::from_bytes(&lines.join(&b"; "[..])).ok()).flatten()
}

/// Where a reader has sent a request, as [`say_where_from`] says it: whether over HTTPS, and the host as he wrote it.
pub fn sent_to(request: &request::Parts) -> (bool, &str) {
    let secure = request.extensions.get::<Connection>().is_some_and(|connection| connection.secure);
    let host = request.uri.authority().map(http::uri::Authority::as_str);
    let host = host.or_else(|| request.headers.get(header::HOST)?.to_str().ok());
    (secure, host.unwrap_or_default())
}

/// Where a request was sent, as the server in front says; none if it does not.
pub fn said_to_be_sent_to(headers: &HeaderMap) -> Option<(bool, &str)> {
    let text = |name: &HeaderName| headers.get(name)?.to_str().ok();
    Some((text(&FORWARDED_PROTO) == Some("https"), text(&FORWARDED_HOST)?))
}

/// Says that a request was sent there over HTTPS, in the name of nobody.
pub fn say_sent_to(headers: &mut HeaderMap, host: &str) {
    let host = host.parse().ok();
    let fields = [(FORWARDED_PROTO, Some(HeaderValue::from_static("https"))), (FORWARDED_HOST, host)];
    headers.extend(fields.into_iter().filter_map(|(name, value)| Some((name, value?))));
}

/// A request has come through servers of this kind too often: it goes in a circle (RFC 9110, section 15.5.9; RFC 8586).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request goes round in circles")]
pub struct GoesInCircles;

/// Says to the next server whom the request came from and by which way: `X-Forwarded-For`, `-Proto` and `-Host`, `Via`
/// (RFC 9110, section 7.6.3) and `CDN-Loop` (RFC 8586). What the client claims of the first three is not believed, and not
/// passed on; nor is a `Forwarded`.
pub fn say_where_from(request: &mut request::Parts) -> Result<(), GoesInCircles> {
    let rounds = request.headers.get_all(CDN_LOOP).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    if rounds.filter(|member| member.trim_ascii() == LOOP_NAME.as_bytes()).count() >= MAX_ROUNDS {
        return Err(GoesInCircles);
    }
    request.headers.append(CDN_LOOP, HeaderValue::from_static(LOOP_NAME));
    let via = if request.version == Version::HTTP_2 { "2 umbel" } else { "1.1 umbel" };
    request.headers.remove(header::FORWARDED);
    request.headers.append(header::VIA, HeaderValue::from_static(via));
    let connection = request.extensions.get::<Connection>();
    let (remote, secure) =
        connection.map(|connection| (connection.remote.ip().to_canonical(), connection.secure)).unzip();
    let host = request.uri.authority().and_then(|authority| authority.as_str().parse().ok());
    let host = host.or_else(|| request.headers.get(header::HOST).cloned());
    let proto = secure.map(|secure| HeaderValue::from_static(if secure { "https" } else { "http" }));
    let remote = remote.and_then(|remote| remote.to_string().parse().ok());
    for (name, value) in [(FORWARDED_FOR, remote), (FORWARDED_PROTO, proto), (FORWARDED_HOST, host)] {
        request.headers.remove(&name);
        request.headers.extend(value.map(|value: HeaderValue| (name, value)));
    }
    Ok(())
}

/// A body that breaks off behind what is there of it: the head and the bytes before leave first, so that whoever reads knows that
/// he was answered, and that it is the answer which is not whole.
#[derive(Debug)]
pub struct BreaksOffLast {
    body: Body,
    broken: Option<Broken>,
}

struct Broken {
    error: Option<axum::Error>,
    /// Until the task that sends has had a turn, and has written what it has. Waking it is not enough: one that has several
    /// streams to see to comes back to this one before it writes, and a reset takes the place of what was to leave before.
    turn: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl std::fmt::Debug for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Broken").field(&self.error).finish()
    }
}

impl BreaksOffLast {
    /// Wraps a body.
    #[must_use]
    pub fn new(body: Body) -> Self {
        Self { body, broken: None }
    }
}

impl HttpBody for BreaksOffLast {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        if self.broken.is_none() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Err(error)) => {
                    self.broken = Some(Broken { error: Some(error), turn: Box::pin(tokio::task::yield_now()) });
                }
                other => return Poll::Ready(other),
            }
        }
        let Some(broken) = self.broken.as_mut().filter(|broken| broken.error.is_some()) else {
            return Poll::Ready(None);
        };
        ready!(broken.turn.as_mut().poll(cx));
        Poll::Ready(broken.error.take().map(Err))
    }

    fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// How long the server of a pulled site is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// From the last of the request to the head of the answer.
    pub first_byte: Duration,
    /// Between two pieces of an answer's body.
    pub between_bytes: Duration,
}

impl Times {
    /// As the site says.
    #[must_use]
    pub fn of(pull: &Pull) -> Self {
        let or = |ms, default| if ms == 0 { default } else { Duration::from_millis(u64::from(ms)) };
        Self { first_byte: or(pull.first_byte_ms, FIRST_BYTE), between_bytes: or(pull.between_bytes_ms, BETWEEN_BYTES) }
    }

    /// For one who asks somebody who keeps to these times.
    #[must_use]
    pub fn of_who_asks_another(self) -> Self {
        Self { first_byte: self.first_byte + MARGIN, between_bytes: self.between_bytes + MARGIN }
    }
}

/// What has left of a request's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// When its last piece left.
    pub last: Instant,
    /// There is no more of it.
    pub whole: bool,
}

/// A request's content, and what has left of it.
pub fn watched(body: Body) -> (Body, watch::Receiver<Sent>) {
    let whole = body.is_end_stream();
    let (sent, seen) = watch::channel(Sent { last: Instant::now(), whole });
    if whole {
        return (body, seen);
    }
    (Body::new(Watched { body, sent }), seen)
}

struct Watched {
    body: Body,
    sent: watch::Sender<Sent>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let whole = frame.is_none() || self.body.is_end_stream();
        self.sent.send_replace(Sent { last: Instant::now(), whole });
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Ends when nothing has left for so long.
pub async fn silence(sent: &watch::Receiver<Sent>, patience: Duration) {
    loop {
        let until = sent.borrow().last + patience;
        if until <= Instant::now() {
            return;
        }
        sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::Router;
    use hyper_util::{client::legacy::Client, rt::TokioExecutor};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::listen::{Limits, Listener};

    fn request(fields: &[(&'static str, &'static str)]) -> request::Parts {
        let request = Request::get("/x").header("host", "docs.test").body(()).unwrap();
        let mut parts = request.into_parts().0;
        parts.headers.extend(
            fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))),
        );
        let server_name = Some(Arc::from("docs.test"));
        parts.extensions.insert(Connection {
            remote: ([192, 0, 2, 7], 99).into(),
            server_name,
            secure: true,
            tls: None,
        });
        parts
    }

    /// Resets took the place of heads where one turn of the connection had seen to several streams.
    #[tokio::test]
    async fn an_answer_that_breaks_off_has_a_head() {
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), None, Limits::default()).await.unwrap();
        let (address, end) = (listener.local_addr().unwrap(), CancellationToken::new());
        let app = Router::new().fallback(|| async {
            let pieces = [Err::<Bytes, _>(std::io::Error::other("broken"))];
            Body::new(BreaksOffLast::new(Body::from_stream(futures::stream::iter(pieces))))
        });
        let serving = tokio::spawn(listener.serve(app, end.clone()));
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Body>();
        for together in [1, 50] {
            let answers = (0..together).map(|_| client.get(format!("http://{address}/").parse().unwrap()));
            for answer in futures::future::join_all(answers).await {
                let answer = answer.unwrap();
                assert_eq!(answer.status(), 200);
                axum::body::to_bytes(Body::new(answer.into_body()), 100).await.unwrap_err();
            }
        }
        end.cancel();
        serving.await.unwrap();
    }

    #[test]
    fn where_a_request_comes_from() {
        let mut parts = request(&[("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=1.1.1.1"), ("via", "1.1 other")]);
        say_where_from(&mut parts).unwrap();
        let said =
            |name: &str| parts.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(said("x-forwarded-for"), ["192.0.2.7"]);
        assert_eq!(said("forwarded"), [""; 0]);
        assert_eq!((said("x-forwarded-proto"), said("x-forwarded-host")), (vec!["https"], vec!["docs.test"]));
        assert_eq!((said("via"), said("cdn-loop")), (vec!["1.1 other", "1.1 umbel"], vec!["umbel"]));
    }

    #[test]
    fn circles_end() {
        let mut parts = request(&[("cdn-loop", "other, umbel")]);
        for round in 1..=2 {
            assert_eq!(say_where_from(&mut parts), Ok(()), "round {round}");
        }
        assert_eq!(say_where_from(&mut parts), Err(GoesInCircles));
    }

    /// What goes on of a request with these fields, whether as an upgrade or not.
    fn goes_on(mut request: Request<Body>, fields: &[(&'static str, &'static str)]) -> (bool, Vec<(String, String)>) {
        let fields =
            fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        for (name, value) in fields {
            request.headers_mut().append(name, value);
        }
        let upgrade = end_to_end(&mut request);
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        let mut left: Vec<_> =
            request.headers().iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        left.sort_unstable();
        (upgrade.is_some(), left)
    }

    #[test]
    fn only_what_is_for_the_next_server_goes_on() {
        let fields = [
            ("connection", "x-a"),
            ("x-a", "1"),
            ("te", "trailers"),
            ("http2-settings", "x"),
            ("b", "2"),
            ("cookie", "c=1"),
            ("cookie", "d=2; e=3"),
        ];
        let (upgrade, left) = goes_on(Request::new(Body::empty()), &fields);
        let expected = [("b", "2"), ("cookie", "c=1; d=2; e=3"), ("te", "trailers")];
        assert_eq!((upgrade, left), (false, expected.map(|(name, value)| (name.into(), value.into())).into()));
    }

    #[test]
    fn upgrades_are_to_websocket_alone() {
        let get = || Request::new(Body::empty());
        let is = |request: Request<Body>, fields: &[(&'static str, &'static str)]| {
            let (upgrade, left) = goes_on(request, fields);
            let kept: Vec<_> = left.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let expected: &[_] = if upgrade { &[("connection", "upgrade"), ("upgrade", "websocket")] } else { &[] };
            assert_eq!(kept, expected, "{fields:?}");
            upgrade
        };
        let websocket = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
        assert!(is(get(), &websocket));
        for fields in [
            &[("upgrade", "websocket")][..],
            &[("connection", "close"), ("upgrade", "websocket")],
            &[("connection", "upgrade"), ("upgrade", "h2c"), ("http2-settings", "x")],
            &[("connection", "upgrade, http2-settings"), ("upgrade", "h2c"), ("http2-settings", "x")],
            &[("connection", "upgrade"), ("upgrade", "websocket, h2c")],
            &[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")],
            &[("connection", "upgrade"), ("upgrade", "websocket/13")],
            &[("connection", "upgrade"), ("upgrade", "echo")],
            &[("connection", "upgrade")],
        ] {
            assert!(!is(get(), fields), "{fields:?}");
        }
        let mut post = get();
        *post.method_mut() = Method::POST;
        let (mut old, mut new) = (get(), get());
        *old.version_mut() = Version::HTTP_10;
        *new.version_mut() = Version::HTTP_2;
        for request in [post, old, new, get().map(|_| Body::from("content"))] {
            assert!(!is(request, &websocket));
        }
    }
}
