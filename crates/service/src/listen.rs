//! Takes connections: TCP, TLS, HTTP/1.1 and HTTP/2, and hands each request to an app with what is known of its connection
//! ([`Connection`], and [`PeerIdentity`] of a client with a certificate) as request extensions.
//!
//! Slow clients are cut off (`listen/pace.rs`), connections are counted against a limit, and at shutdown what runs is
//! finished up to a deadline. Requests that can be read in two ways are refused, and their connections closed (`listen/framing.rs`).

use std::{convert::Infallible, future::poll_fn, io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::{
    Router,
    body::{Body, HttpBody},
};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, uri::Authority};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use rustls::{ProtocolVersion, ServerConfig};
use tokio::{
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
    pace::{Patience, Running, Seen},
    population::{Population, Resident},
    stream::{Strict, Talk},
    turns::{Requests, Turns},
};
use crate::tls::PeerIdentity;

mod cork;
mod forwarded;
#[doc(hidden)]
pub mod fuzzed;
mod lanes;
mod pace;
mod population;
mod proxy;
#[cfg(test)]
mod refused;
#[cfg(test)]
mod slow;
mod stream;
mod turns;

pub use self::{
    lanes::Lanes,
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
                    let caller = Caller { remote, resident, rules: self.rules.load_full() };
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
        (caller, acceptor, app, shutdown): Served<A>,
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

/// What a connection is served with.
type Served<A> = (Caller, Option<TlsAcceptor>, A, CancellationToken);

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
    resident: Resident,
    rules: Arc<Rules>,
}

impl Caller {
    /// Learns from a trusted proxy who it brings, and counts him. False: he may not come in.
    async fn introduce(&mut self, stream: &mut TcpStream) -> bool {
        let (Rules { limits, proxies }, remote) = (&*self.rules, self.remote);
        let is_proxy = proxies.trusts(remote.ip());
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
    let remote = caller.remote;
    let Some(acceptor) = acceptor else {
        let connection = Connection { remote, server_name: None, secure: false, tls: None };
        let transport = Transport::Plain(stream, Vec::new());
        return serve_connection(transport, caller, connection, None, app, shutdown).await;
    };
    let tls = match timeout(caller.rules.limits.header_timeout, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return debug!(%remote, %error, "TLS handshake failed"),
        Err(_) => return debug!(%remote, "TLS handshake took too long"),
    };
    let session = tls.get_ref().1;
    let identity = session.peer_certificates().and_then(|chain| PeerIdentity::from_certificate(chain.first()?));
    let server_name = session.server_name().map(Arc::from);
    let is_newest = session.protocol_version() == Some(ProtocolVersion::TLSv1_3);
    let tls_version = Some(if is_newest { "TLSv1.3" } else { "TLSv1.2" });
    let connection = Connection { remote, server_name, secure: true, tls: tls_version };
    serve_connection(Transport::Tls(Box::new(tls)), caller, connection, identity, app, shutdown).await;
}

async fn serve_connection(
    transport: Transport,
    Caller { remote, resident, rules }: Caller,
    connection: Connection,
    identity: Option<PeerIdentity>,
    app: impl App,
    shutdown: CancellationToken,
) {
    let (stream, cork) = cork::corked(transport, Box::new(app.clone()));
    let (stream, talk) = Strict::new(stream, resident);
    let (limits, watched) = (rules.limits, talk.clone());
    let requests = Requests::default();
    let builder = builder(limits, requests.clone());
    let mut turns = Turns::new(requests, cork);
    // One of its own: to look at it is to lock it.
    let shutdown = shutdown.child_token();
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        let behind = rules.proxies.behind(&connection, request.headers());
        request.extensions_mut().insert(behind.unwrap_or_else(|| connection.clone()));
        if let Some(identity) = &identity {
            request.extensions_mut().insert(identity.clone());
        }
        // Boxed: a connection that waits for a request has no room for its answer.
        Box::pin(answer(app.clone(), request, talk.clone()))
    });
    let mut serving = std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let (mut idle, mut leaves) = (limits.keep_alive_timeout, false);
    let outcome = loop {
        let watching = watched.pace.watch(limits.patience(), idle);
        tokio::select! {
            // Looked at first: who is answered after the end has begun is told to leave.
            biased;
            () = shutdown.cancelled(), if !leaves => {}
            outcome = poll_fn(|cx| turns.poll(serving.as_mut(), cx)) => break outcome,
            seen = watching => match seen {
                Seen::Idle if !leaves => debug!(%remote, "a client asks for nothing"),
                Seen::Idle => {
                    turns.abandon();
                    return debug!(%remote, "a client does not take the end of its connection");
                }
                Seen::TooSlow(slow_in) => {
                    turns.abandon();
                    return debug!(%remote, slow_in, "a client is too slow");
                }
            },
        }
        serving.as_mut().graceful_shutdown();
        (idle, leaves) = (limits.header_timeout, true);
    };
    if let Err(error) = outcome {
        debug!(%remote, %error, "connection ended");
    }
}

async fn answer(app: impl App, request: Request<Incoming>, talk: Arc<Talk>) -> Result<Response<Body>, Infallible> {
    if !is_for_one_host(&request) {
        return Ok(refusal("an HTTP/1.1 request has one Host field, and a target with a host has the same\n"));
    }
    if request.headers().len() > MOST_FIELDS {
        return Ok(too_many_fields());
    }
    let is_head = *request.method() == Method::HEAD;
    let running = Running::begin(talk.clone());
    let response = app.answer(request.map(content)).await;
    if talk.is_refused() {
        return Ok(refusal("the content of this request is malformed\n"));
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        talk.leave_http();
    }
    let response = if is_head { without_content(response) } else { response };
    Ok(if response.body().size_hint().exact().is_some() {
        response
    } else {
        response.map(|body| until_end(body, running))
    })
}

/// What is there already is as good as sent.
fn until_end(body: Body, running: Running) -> Body {
    Body::new(body.map_frame(move |frame| {
        let _until_dropped = &running;
        frame
    }))
}

/// Whoever may read a request otherwise than we do does not get to send another (RFC 9112, section 11.2).
fn refusal(reason: &'static str) -> Response<Body> {
    let mut refusal = Response::new(Body::from(reason));
    *refusal.status_mut() = StatusCode::BAD_REQUEST;
    refusal.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    refusal
}

/// RFC 6585, section 5.
fn too_many_fields() -> Response<Body> {
    let mut refusal = Response::new(Body::empty());
    *refusal.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    refusal
}

/// Most requests have none.
fn content(body: Incoming) -> Body {
    if body.is_end_stream() { Body::empty() } else { Body::new(body) }
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

fn builder(limits: Limits, requests: Requests) -> Builder<Requests> {
    let mut builder = Builder::new(requests);
    builder
        .http1()
        // `listen/pace.rs` counts, without a timer for each request.
        .header_read_timeout(None)
        // Without `pipeline_flush`: it would keep hyper's own 414 and 431 from ever leaving.
        .max_buf_size(limits.header_bytes.max(8 * 1024));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(250)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .max_send_buf_size(1024 * 1024)
        // Streams that a client resets before they came here, or that are reset because of what it sends. Those that it resets
        // later are counted in `listen/pace/flows.rs`; the library bounds CONTINUATION frames by the size of the head.
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(200)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

#[cfg(test)]
mod tests {
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
