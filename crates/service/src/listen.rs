//! Takes connections: TCP, TLS, HTTP/1.1 (`listen/http1.rs`) and HTTP/2 (`listen/http2.rs`), and hands each request to an app with what is known of its connection
//! ([`Connection`], and [`PeerIdentity`] of a client with a certificate) as request extensions.
//!
//! Slow clients are cut off (`listen/pace.rs`), connections are counted against a limit, and at shutdown what runs is
//! finished up to a deadline. Requests that can be read in two ways are refused, and their connections closed (`listen/framing.rs`).

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::{
    Router,
    body::{Body, HttpBody},
};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, header, uri::Authority};
use rustls::{ProtocolVersion, ServerConfig};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, warn};

use self::{
    cork::Transport,
    pace::Patience,
    population::{Population, Resident},
};
use crate::tls::PeerIdentity;

mod cork;
mod forwarded;
#[doc(hidden)]
pub mod fuzzed;
mod http1;
mod http2;
mod interim;
mod lanes;
mod notes;
mod pace;
mod population;
mod proxy;
#[cfg(test)]
mod refused;
#[cfg(test)]
mod slow;
mod stream;
mod vanished;

pub use self::{
    interim::Interim,
    lanes::{Lanes, PerLane},
    proxy::{ForwardedField, Network, Proxies},
};

/// What is known of a connection; an extension of each of its requests.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The client's address.
    pub remote: SocketAddr,
    /// The name it asked for by SNI.
    pub server_name: Option<Arc<str>>,
    /// Whether it came over TLS.
    pub secure: bool,
    /// Over which version of it, as far as it ends here.
    pub tls: Option<&'static str>,
}

/// What answers requests. A [`Router`] is one; what has to be quick need not be.
pub trait App: Clone + Send + Sync + 'static {
    /// The answer to one request.
    fn answer(&self, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send;

    /// What the answers that this thread has made wait for, a bit each: it is to be done before anything of them leaves, and
    /// is better done for many at once. 0: they wait for nothing.
    fn unwritten(&self) -> u16 {
        0
    }

    /// Does what [`App::unwritten`] returned when a turn of the connection ended, on whatever thread. When this returns it is
    /// done, by whomever.
    fn before_sending(&self, _unwritten: u16) {}
}

impl App for Router {
    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        match self.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// What a listener allows.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections; more wait in the kernel's queue.
    pub connections: usize,
    /// Of them, from one client's address (IPv6: from one /64); more are closed at once. None: as many as there may be.
    pub connections_per_client: Option<usize>,
    /// For the TLS handshake, and again for the head of each HTTP/1.1 request.
    pub header_timeout: Duration,
    /// While a client asks for nothing.
    pub keep_alive_timeout: Duration,
    /// Bytes a second that a client must send of its content, or take of each answer, while it is waited for; 0: none.
    pub min_rate: u64,
    /// So long it may be behind that.
    pub min_rate_grace: Duration,
    /// Bytes of a request's head. More than an HTTP/1.1 target may have (64 KiB), or that gets a 431 instead of a 414.
    pub header_bytes: usize,
    /// For requests that run when the shutdown begins.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_client: None,
            header_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(60),
            min_rate: 240,
            min_rate_grace: Duration::from_secs(60),
            header_bytes: 128 * 1024,
            drain: Duration::from_secs(10),
        }
    }
}

/// What may change while a listener runs: each connection goes by what holds when it comes.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// What clients may.
    pub limits: Limits,
    /// Who speaks for others.
    pub proxies: Proxies,
}

impl Limits {
    fn patience(&self) -> Patience {
        Patience { head: self.header_timeout, grace: self.min_rate_grace, rate: self.min_rate }
    }
}

/// Fields of an HTTP/2 request: browsers make one of each cookie. Of an HTTP/1.1 request the library takes 100.
const MOST_FIELDS: usize = 200;

/// A bound port.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    rules: Arc<ArcSwap<Rules>>,
    lanes: Option<Arc<Lanes>>,
}

impl Listener {
    /// Binds. Without `tls`, plain HTTP.
    pub async fn bind(address: SocketAddr, tls: Option<Arc<ServerConfig>>, limits: Limits) -> io::Result<Self> {
        let tcp = TcpListener::bind(address)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))?;
        vanished::notice(&tcp)?;
        let rules = Rules { limits, proxies: Proxies::default() };
        Ok(Self { tcp, tls, rules: Arc::new(ArcSwap::from_pointee(rules)), lanes: None })
    }

    /// Goes by these rules, which may be shared with other listeners.
    pub fn under(self, rules: Arc<ArcSwap<Rules>>) -> Self {
        Self { rules, ..self }
    }

    /// Serves its connections on these threads, which may be shared with other listeners, and not where [`Listener::serve`] runs.
    pub fn on(self, lanes: Arc<Lanes>) -> Self {
        Self { lanes: Some(lanes), ..self }
    }

    /// Where it really listens (port 0 picks one).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Serves `app` until `shutdown`, then lets running requests finish up to the drain deadline.
    pub async fn serve(self, app: impl App, shutdown: CancellationToken) {
        let mut connections = JoinSet::new();
        let population = Arc::new(Population::default());
        let acceptor = self.tls.clone().map(TlsAcceptor::from);
        loop {
            let next = async {
                let resident = population.enter(|| self.rules.load().limits.connections).await;
                (self.tcp.accept().await, resident)
            };
            let (accepted, resident) = tokio::select! {
                () = shutdown.cancelled() => break,
                next = next => next,
            };
            while connections.try_join_next().is_some() {}
            match accepted {
                Ok((stream, remote)) => {
                    let caller = Caller { remote, by_proxy: false, resident, rules: self.rules.load_full() };
                    let served = (caller, acceptor.clone(), app.clone(), shutdown.clone());
                    self.spawn(&mut connections, stream, served);
                }
                Err(error) => out_of_resources(&error).await,
            }
        }
        drop(self.tcp);
        drain(connections, self.rules.load().limits.drain).await;
    }

    fn spawn<A: App>(
        &self,
        connections: &mut JoinSet<()>,
        stream: TcpStream,
        (caller, acceptor, app, shutdown): Accepted<A>,
    ) {
        let Some(lanes) = &self.lanes else {
            connections.spawn(accept(stream, caller, acceptor, app, shutdown));
            return;
        };
        // A socket wakes the thread that it was registered on.
        match stream.into_std() {
            Ok(stream) => lanes.spawn(connections, async move {
                match TcpStream::from_std(stream) {
                    Ok(stream) => accept(stream, caller, acceptor, app, shutdown).await,
                    Err(error) => warn!(%error, "a connection is lost"),
                }
            }),
            Err(error) => warn!(%error, "a connection is lost"),
        }
    }
}

/// What a connection is accepted with.
type Accepted<A> = (Caller, Option<TlsAcceptor>, A, CancellationToken);

/// `accept` fails for want of file descriptors or memory: waiting is all that can help.
async fn out_of_resources(error: &io::Error) {
    warn!(%error, "cannot accept connections");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn drain(mut connections: JoinSet<()>, deadline: Duration) {
    let finished = timeout(deadline, async { while connections.join_next().await.is_some() {} }).await;
    if finished.is_err() {
        warn!(connections = connections.len(), "closing connections that did not finish in time");
        connections.shutdown().await;
    }
}

/// Who is at the door.
struct Caller {
    remote: SocketAddr,
    /// The connection is a trusted proxy's.
    by_proxy: bool,
    resident: Resident,
    rules: Arc<Rules>,
}

impl Caller {
    /// Learns from a trusted proxy who it brings, and counts him. False: he may not come in.
    async fn introduce(&mut self, stream: &mut TcpStream) -> bool {
        let (Rules { limits, proxies }, remote) = (&*self.rules, self.remote);
        let is_proxy = proxies.trusts(remote.ip());
        self.by_proxy = is_proxy;
        if is_proxy && proxies.protocol {
            match timeout(limits.header_timeout, proxy::read_header(stream)).await {
                Ok(Ok(client)) => self.remote = client.unwrap_or(remote),
                Ok(Err(error)) => {
                    warn!(%remote, %error, "a trusted proxy's connection is refused");
                    return false;
                }
                Err(_) => return false,
            }
        }
        let speaks_for_many = is_proxy && self.remote == remote;
        let limit = limits.connections_per_client.filter(|_| !speaks_for_many);
        self.resident.comes_from(self.remote.ip(), limit)
    }
}

async fn accept(
    mut stream: TcpStream,
    mut caller: Caller,
    acceptor: Option<TlsAcceptor>,
    app: impl App,
    shutdown: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(remote = %caller.remote, %error, "no TCP_NODELAY");
    }
    if !caller.introduce(&mut stream).await {
        return debug!(remote = %caller.remote, "a connection is refused");
    }
    // One of its own: to look at it is to lock it.
    let shutdown = shutdown.child_token();
    let patience = caller.rules.limits.header_timeout;
    let opening = async {
        match acceptor {
            Some(acceptor) => Opened::over_tls(acceptor, stream).await,
            None => Opened::plain(stream).await,
        }
    };
    let opened = tokio::select! {
        opened = timeout(patience, opening) => opened,
        () = shutdown.cancelled() => return,
    };
    let Opened { transport, unread, is_http_2, server_name, tls, identity } = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return debug!(remote = %caller.remote, %error, "a connection does not come about"),
        Err(_) => return debug!(remote = %caller.remote, "a client takes too long to begin"),
    };
    let Caller { remote, by_proxy, resident, rules } = caller;
    let connection = Connection { remote, server_name, secure: tls.is_some(), tls };
    let visitor = Visitor { app, connection, by_proxy, identity, rules: rules.clone() };
    let served = Served { transport, unread, resident, rules, visitor, shutdown };
    // Boxed: each of them has its own size.
    if is_http_2 {
        Box::pin(http2::serve(served)).await;
    } else {
        Box::pin(http1::serve(served)).await;
    }
}

/// A connection of which it is known what it speaks.
struct Opened {
    transport: Transport,
    unread: Bytes,
    is_http_2: bool,
    server_name: Option<Arc<str>>,
    tls: Option<&'static str>,
    identity: Option<PeerIdentity>,
}

impl Opened {
    /// The client chose by ALPN (RFC 9113, section 3.2).
    async fn over_tls(acceptor: TlsAcceptor, stream: TcpStream) -> io::Result<Self> {
        let tls = acceptor.accept(stream).await?;
        let session = tls.get_ref().1;
        let identity = session.peer_certificates().and_then(|chain| PeerIdentity::from_certificate(chain.first()?));
        let server_name = session.server_name().map(Arc::from);
        let is_newest = session.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let version = if is_newest { "TLSv1.3" } else { "TLSv1.2" };
        let is_http_2 = session.alpn_protocol() == Some(b"h2");
        let transport = Transport::Tls(Box::new(tls));
        Ok(Self { transport, unread: Bytes::new(), is_http_2, server_name, tls: Some(version), identity })
    }

    /// The client knew beforehand (RFC 9113, section 3.3).
    async fn plain(mut stream: TcpStream) -> io::Result<Self> {
        let (is_http_2, unread) = preface(&mut stream).await?;
        let transport = Transport::Plain(stream, Vec::new());
        Ok(Self { transport, unread, is_http_2, server_name: None, tls: None, identity: None })
    }
}

/// As HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether it begins so, and what was read to know it.
async fn preface(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(bool, Bytes)> {
    let mut first = BytesMut::with_capacity(PREFACE.len());
    while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
        let room = PREFACE.len() - first.len();
        if (&mut *stream).take(room as u64).read_buf(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok((first == PREFACE[..], first.freeze()))
}

/// A connection, with all that it is served with.
struct Served<A> {
    transport: Transport,
    /// Came before it was known which protocol this is.
    unread: Bytes,
    resident: Resident,
    rules: Arc<Rules>,
    visitor: Visitor<A>,
    shutdown: CancellationToken,
}

/// Who asks, and who answers.
struct Visitor<A> {
    app: A,
    connection: Connection,
    /// It is a trusted proxy's.
    by_proxy: bool,
    identity: Option<PeerIdentity>,
    rules: Arc<Rules>,
}

impl<A: App> Visitor<A> {
    /// A request as the app sees it; else why it does not get to see it.
    fn introduce<B>(&self, mut request: Request<B>) -> Result<Request<B>, Refusal> {
        if !is_for_one_host(&request) {
            return Err(Refusal::Host);
        }
        if request.headers().len() > MOST_FIELDS {
            return Err(Refusal::TooManyFields);
        }
        let behind = self.rules.proxies.behind(&self.connection, self.by_proxy, request.headers());
        request.extensions_mut().insert(behind.unwrap_or_else(|| self.connection.clone()));
        if let Some(identity) = &self.identity {
            request.extensions_mut().insert(identity.clone());
        }
        Ok(request)
    }
}

/// Why no app sees a request.
#[derive(Debug, Clone, Copy)]
enum Refusal {
    /// Whoever may read a request otherwise than we do does not get to send another (RFC 9112, section 11.2).
    Host,
    /// RFC 6585, section 5.
    TooManyFields,
    /// What came behind its head can be read in two ways.
    Content,
}

impl Refusal {
    fn answer(self) -> Response<Body> {
        let (status, text) = match self {
            Self::Host => (
                StatusCode::BAD_REQUEST,
                "an HTTP/1.1 request has one Host field, and a target with a host has the same\n",
            ),
            Self::Content => (StatusCode::BAD_REQUEST, "the content of this request is malformed\n"),
            Self::TooManyFields => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, ""),
        };
        let mut refusal = Response::new(Body::from(text));
        *refusal.status_mut() = status;
        if status == StatusCode::BAD_REQUEST {
            refusal.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        refusal
    }
}

/// The answer to HEAD: what is known of the content, and nothing of it (RFC 9110, section 9.3.2). Over HTTP/2 nobody else
/// keeps it back.
fn without_content(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact().filter(|_| !body.is_end_stream()) {
        parts.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    Response::from_parts(parts, Body::empty())
}

/// RFC 9112, section 3.2. Where there are two, the next program on the way may have read the other one.
fn is_for_one_host<B>(request: &Request<B>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => false,
        (None, None) => request.version() != Version::HTTP_11,
        // HTTP/2 says it in the target, and who answers compares the two.
        (Some(host), None) => request.version() > Version::HTTP_11 || is_same_host(request.uri(), host),
    }
}

fn is_same_host(target: &Uri, field: &HeaderValue) -> bool {
    let Some(authority) = target.authority() else { return true };
    let Ok(field) = Authority::try_from(field.as_bytes()) else { return false };
    let usual = if target.scheme_str() == Some("https") { 443 } else { 80 };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(usual);
    authority.host().eq_ignore_ascii_case(field.host()) && port(authority) == port(&field)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper_util::{client::legacy::Client, rt::TokioExecutor};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn check(address: SocketAddr, head: &str, expected: u16) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        let status = std::str::from_utf8(&answer[9..]).unwrap();
        assert_eq!(status, expected.to_string(), "{head:.80}");
    }

    #[tokio::test]
    async fn heads_that_no_app_sees() {
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), None, Limits::default()).await.unwrap();
        let (address, end) = (listener.local_addr().unwrap(), CancellationToken::new());
        let app = Router::new().fallback(|| async { "here" });
        let serving = tokio::spawn(listener.serve(app, end.clone()));
        let fields: String = (0..200).map(|number| format!("\r\nx-{number}: y")).collect();
        for (head, expected) in [
            ("GET / HTTP/1.1\r\nHost: a", 200),
            ("GET / HTTP/1.0", 200),
            ("GET / HTTP/1.1", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a", 400),
            ("GET / HTTP/1.0\r\nHost: a\r\nHost: b", 400),
            ("GET /a\0b HTTP/1.1\r\nHost: a", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2", 400),
            (&format!("GET /{} HTTP/1.1\r\nHost: a", "a".repeat(100_000)), 414),
            (&format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}", "a".repeat(200_000)), 431),
            (&format!("GET / HTTP/1.1\r\nHost: a{fields}"), 431),
        ] {
            check(address, head, expected).await;
        }
        end.cancel();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn fields_of_http_2() {
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), None, Limits::default()).await.unwrap();
        let (address, end) = (listener.local_addr().unwrap(), CancellationToken::new());
        let serving = tokio::spawn(listener.serve(Router::new().fallback(|| async { "here" }), end.clone()));
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Body>();
        for (fields, expected) in [(200, 200), (201, 431)] {
            let mut request = Request::get(format!("http://{address}/")).body(Body::empty()).unwrap();
            request.headers_mut().extend((0..fields).map(|_| (header::COOKIE, HeaderValue::from_static("a=b"))));
            assert_eq!(client.request(request).await.unwrap().status(), expected, "{fields}");
        }
        end.cancel();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn heads_answer_has_no_content() {
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), None, Limits::default()).await.unwrap();
        let (address, end) = (listener.local_addr().unwrap(), CancellationToken::new());
        // As `s3s` does it: the whole body of an error, whatever the method.
        let app = Router::new().fallback_service(tower::service_fn(|request: Request<Body>| async move {
            let body = match request.uri().path() {
                "/known" => Body::from("twelve bytes"),
                "/empty" => Body::empty(),
                _ => Body::from_stream(tokio_stream::iter([Ok::<_, io::Error>("of unknown length")])),
            };
            Ok::<_, Infallible>(Response::new(body))
        }));
        let serving = tokio::spawn(listener.serve(app, end.clone()));
        for h2 in [false, true] {
            let client = Client::builder(TokioExecutor::new()).http2_only(h2).build_http::<Body>();
            for (path, expected) in [("/known", Some("12")), ("/empty", None), ("/stream", None)] {
                let request = Request::head(format!("http://{address}{path}")).body(Body::empty()).unwrap();
                let response = client.request(request).await.unwrap();
                let length = response.headers().get(header::CONTENT_LENGTH).map(|value| value.to_str().unwrap());
                assert_eq!(length, expected, "{path}, h2: {h2}");
                let body = axum::body::to_bytes(Body::new(response.into_body()), 1000).await;
                assert!(body.is_ok_and(|body| body.is_empty()), "{path}, h2: {h2}");
            }
        }
        end.cancel();
        serving.await.unwrap();
    }

    /// Always has something to be done before bytes leave.
    #[derive(Clone)]
    struct Busy;

    impl App for Busy {
        async fn answer(&self, _: Request<Body>) -> Response<Body> {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("other"));
            response
        }

        fn unwritten(&self) -> u16 {
            1
        }
    }

    /// It was kept for others' turns, after which nobody came again.
    #[tokio::test]
    async fn an_upgrade_is_answered_whatever_others_wait_for() {
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), None, Limits::default()).await.unwrap();
        let listener = listener.on(Arc::new(Lanes::start().unwrap()));
        let (address, end) = (listener.local_addr().unwrap(), CancellationToken::new());
        let serving = tokio::spawn(listener.serve(Busy, end.clone()));
        check(address, "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: other", 101).await;
        end.cancel();
        serving.await.unwrap();
    }
}
