//! Sites that are pulled: what an edge gets of real little servers, good ones and bad ones.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Router, body::Body, extract::Request};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use umbel_origin::{Config, Origin};
use umbel_service::{
    client::{self, StreamClient},
    installation::Installation,
    listen::{Limits, Listener},
    tls::{self, ClientAuth, NodeRole},
};
use umbel_wire::control::{Change, ConfigEvent, Pull, PullProtocol, Purge, Site, config_event::Event};

use crate::world::{Ca, SEED, World, with_site};

pub(crate) const PULLED: &str = "0190d3a0-0000-7000-8000-000000000003";

/// An origin as an edge sees it.
pub(crate) struct Shield {
    pub(crate) world: World,
    pub(crate) origin: Origin,
    pub(crate) installation: watch::Sender<Arc<Installation>>,
    client: StreamClient<Body>,
    servers: JoinSet<()>,
}

impl Shield {
    /// One that may pull from this machine.
    pub(crate) async fn new() -> Self {
        Self::with(|config| config.pull_networks = vec!["127.0.0.0/8".parse().unwrap()]).await
    }

    async fn with(tune: impl FnOnce(&mut Config)) -> Self {
        let world = World::plain().await;
        let (origin, installation) = world.beside_with(tune).await;
        let client = edge(&world, NodeRole::Edge);
        Self { world, origin, installation, client, servers: JoinSet::new() }
    }

    pub(crate) fn pulls_from(&self, upstreams: &[String]) {
        self.pulls(Pull { upstreams: upstreams.to_vec(), ..Pull::default() });
    }

    pub(crate) fn pulls(&self, pull: Pull) {
        let site = Site {
            id: PULLED.into(),
            name: "pulled".into(),
            signing_seed: SEED.to_vec().into(),
            wrapping_key: vec![9; 32].into(),
            pull: Some(pull),
            ..Site::default()
        };
        self.installation.send_replace(with_site(site));
    }

    /// The version of the configuration that it is then.
    pub(crate) fn purge(&self, purge: Purge) -> u64 {
        let version = self.installation.borrow().version + 1;
        let change = Change { purges: vec![Purge { site_id: PULLED.into(), ..purge }], ..Change::default() };
        let event = ConfigEvent { version, event: Some(Event::Change(change)) };
        self.installation.send_modify(|installation| {
            Arc::make_mut(installation).apply(event);
        });
        version
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> http::request::Builder {
        let url = format!("https://localhost:{}{path}", self.origin.internal.port());
        http::Request::builder().method(method).uri(url).header("umbel-site", PULLED)
    }

    pub(crate) async fn ask(&self, request: http::request::Builder, body: Body) -> Response<Incoming> {
        self.client.request(request.body(body).unwrap()).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Response<Incoming> {
        self.ask(self.request("GET", path), Body::empty()).await
    }

    /// Status, and why there is no answer.
    async fn check(&self, upstream: &str, status: u16, why: &str) {
        self.pulls_from(&[upstream.to_owned()]);
        let answer = self.get("/x").await;
        assert_eq!((answer.status().as_u16(), said(&answer, "umbel-failed")), (status, why), "{upstream}");
    }

    /// A server that is written with axum.
    pub(crate) async fn serve<F>(&mut self, answer: impl Fn(Request) -> F + Clone + Send + Sync + 'static) -> SocketAddr
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        self.serve_over(None, answer).await
    }

    async fn serve_over<F>(
        &mut self,
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(Request) -> F + Clone + Send + Sync + 'static,
    ) -> SocketAddr
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(any, tls, Limits::default()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(answer);
        self.servers.spawn(listener.serve(app, CancellationToken::new()));
        address
    }

    /// A server that does anything with its connections, whose numbers it gets.
    pub(crate) async fn raw<F>(&mut self, serve: impl Fn(usize, TcpStream) -> F + Send + 'static) -> SocketAddr
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.servers.spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(number, stream));
            }
        });
        address
    }

    pub(crate) async fn stop(self) {
        self.world.shutdown.cancel();
        self.origin.wait().await.unwrap();
        self.world.stop().await;
    }
}

fn edge(world: &World, role: NodeRole) -> StreamClient<Body> {
    client::streaming(tls::client(&world.ca.pem, Some(world.ca.certificate(role))).unwrap(), false)
}

pub(crate) fn said<'a>(answer: &'a Response<Incoming>, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

pub(crate) async fn text(answer: Response<Incoming>) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

pub(crate) fn http(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// Reads a request's head.
pub(crate) async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// An address where nobody listens.
pub(crate) async fn dead() -> String {
    http(TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap())
}

#[tokio::test]
async fn private_addresses_are_not_pulled_from() {
    let mut shield = Shield::with(|_| {}).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let address = shield
        .raw(move |_, _stream| {
            counted.fetch_add(1, Ordering::SeqCst);
            async {}
        })
        .await;
    let port = address.port();
    for host in
        ["127.0.0.1", "localhost", "any.localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1", "2130706433"]
    {
        shield.check(&format!("http://{host}:{port}"), 502, "not-permitted").await;
    }
    for host in ["127.0.0.1", "localhost", "[::1]"] {
        shield.check(&format!("https://{host}:{port}"), 502, "not-permitted").await;
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    shield.stop().await;
    let mut shield = Shield::new().await;
    let address = shield.serve(|_| async { Response::new(Body::from("ok")) }).await;
    for host in ["127.0.0.1", "localhost", "any.localhost"] {
        shield.check(&format!("http://{host}:{}", address.port()), 200, "").await;
    }
    shield.check("http://10.0.0.1", 502, "not-permitted").await;
    shield.stop().await;
}

#[tokio::test]
async fn a_dead_server_is_passed_over_and_what_changes_something_is_tried_once() {
    let mut shield = Shield::new().await;
    let good = http(shield.serve(|_| async { Response::new(Body::from("good")) }).await);
    let closed = Arc::new(AtomicUsize::new(0));
    let counted = closed.clone();
    let bad = http(
        shield
            .raw(move |_, mut stream| {
                let counted = counted.clone();
                async move {
                    if head(&mut stream).await.is_some() {
                        counted.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
            .await,
    );
    shield.pulls_from(&[dead().await, good, dead().await]);
    for number in 0..10 {
        assert_eq!(text(shield.get(&format!("/{number}")).await).await, "good");
    }
    shield.check(&dead().await, 502, "unreachable").await;
    shield.pulls_from(&[bad.clone(), bad.replace("127.0.0.1", "localhost"), bad.replace("127.0.0.1", "a.localhost")]);
    let answer = shield.ask(shield.request("POST", "/x"), Body::from("change")).await;
    assert_eq!((answer.status(), said(&answer, "umbel-failed")), (StatusCode::BAD_GATEWAY, "broken"));
    assert_eq!(closed.load(Ordering::SeqCst), 1);
    shield.pulls_from(&[]);
    assert_eq!(said(&shield.get("/x").await, "umbel-failed"), "no-upstream");
    shield.stop().await;
}

/// Nothing was sent to it.
#[tokio::test]
async fn what_changes_something_goes_past_a_server_that_refuses_the_connection() {
    let mut shield = Shield::new().await;
    let echo = |request: Request| async { Response::new(request.into_body()) };
    let good = http(shield.serve(echo).await);
    shield.pulls_from(&[dead().await, good, dead().await]);
    for number in 0..20 {
        let content = format!("change {number}");
        let answer = shield.ask(shield.request("POST", &format!("/{number}")), Body::from(content.clone())).await;
        assert_eq!((answer.status(), said(&answer, "umbel-failed")), (StatusCode::OK, ""), "{number}");
        assert_eq!(text(answer).await, content);
    }
    shield.stop().await;
}

/// A server that says it is not well is one that failed, as long as there is another.
#[tokio::test]
async fn another_server_answers_for_one_that_is_not_well() {
    let mut shield = Shield::new().await;
    for status in [502, 503, 504] {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let unwell = move |request: Request| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move {
                let text = format!("{} is not to be had", request.uri().path());
                Response::builder().status(status).body(Body::from(text)).unwrap()
            }
        };
        let bad = http(shield.serve(unwell).await);
        let good = http(shield.serve(|_| async { Response::new(Body::from("good")) }).await);
        shield.pulls_from(&[bad.clone(), good]);
        for number in 0..20 {
            assert_eq!(text(shield.get(&format!("/{status}/{number}")).await).await, "good");
        }
        let asked = count.load(Ordering::SeqCst);
        assert!((1..5).contains(&asked), "it rests: {asked}");
        // Whoever has nobody else to ask passes it on.
        shield.pulls_from(std::slice::from_ref(&bad));
        for method in ["GET", "POST"] {
            let answer = shield.ask(shield.request(method, "/x"), Body::empty()).await;
            assert_eq!((answer.status().as_u16(), said(&answer, "umbel-failed")), (status, ""));
            assert_eq!(text(answer).await, "/x is not to be had");
        }
        shield.pulls_from(&[dead().await, bad, dead().await]);
        let answer = shield.get("/y").await;
        assert_eq!((answer.status().as_u16(), said(&answer, "umbel-failed")), (status, ""), "better than none");
        assert_eq!(text(answer).await, "/y is not to be had");
    }
    shield.stop().await;
}

/// Answers the first request of each connection with its method and content, and closes it when the second has come, which is
/// said to `too_late`.
async fn one_answer(mut stream: TcpStream, too_late: Arc<Mutex<Vec<String>>>) {
    let Some(head_of_first) = head(&mut stream).await else { return };
    let length = head_of_first.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut content = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut content).await.unwrap();
    let method = head_of_first.split(' ').next().unwrap();
    let answer = [method.as_bytes(), b" ", &content].concat();
    let fields = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\ncache-control: no-store\r\n\r\n", answer.len());
    stream.write_all(&[fields.as_bytes(), &answer].concat()).await.unwrap();
    let second = head(&mut stream).await;
    too_late.lock().unwrap().extend(second.and_then(|head| Some(head.split_once(' ')?.0.to_owned())));
}

/// Servers close connections that were idle for long, just when the next request is on its way.
#[tokio::test]
async fn what_may_be_repeated_is_sent_again_when_an_old_connection_closes() {
    let mut shield = Shield::new().await;
    let too_late = Arc::new(Mutex::new(Vec::new()));
    let noted = too_late.clone();
    let address = shield.raw(move |_, stream| one_answer(stream, noted.clone())).await;
    shield.pulls_from(&[http(address)]);
    let small = "x".repeat(1000);
    for (method, body) in [("GET", ""), ("PUT", &*small), ("PUT", ""), ("DELETE", ""), ("DELETE", "x"), ("GET", "")] {
        assert_eq!(text(shield.get("/first").await).await, "GET ");
        let answer = shield.ask(shield.request(method, "/x"), Body::from(body.to_owned())).await;
        assert_eq!((answer.status(), said(&answer, "umbel-failed")), (StatusCode::OK, ""), "{method}");
        assert_eq!(text(answer).await, format!("{method} {body}"));
    }
    let conditional = shield.request("PUT", "/x").header("if-match", "\"1\"");
    for request in [shield.request("POST", "/x"), conditional] {
        assert_eq!(text(shield.get("/first").await).await, "GET ");
        let lost = too_late.lock().unwrap().len();
        let answer = shield.ask(request, Body::from("x")).await;
        // Unless the connection before was not free yet.
        let is_lost = too_late.lock().unwrap().len() > lost;
        assert_eq!(answer.status(), if is_lost { StatusCode::BAD_GATEWAY } else { StatusCode::OK });
    }
    assert!(too_late.lock().unwrap().len() > 1, "connections are used again");
    shield.stop().await;
}

/// It was not closed: who answers nonsense once would do so again.
#[tokio::test]
async fn an_old_connection_that_brings_nonsense_is_not_tried_again() {
    let mut shield = Shield::new().await;
    let asked = Arc::new(Mutex::new(0));
    let counted = asked.clone();
    let serve = async |mut stream: TcpStream, counted: Arc<Mutex<i32>>| {
        while let Some(head) = head(&mut stream).await {
            let fine = head.starts_with("GET /first?");
            *counted.lock().unwrap() += i32::from(!fine);
            let answer = if fine { "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" } else { "nonsense\r\n\r\n" };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    };
    let address = shield.raw(move |_, stream| serve(stream, counted.clone())).await;
    shield.pulls_from(&[http(address)]);
    for number in 1..5 {
        assert_eq!(text(shield.get(&format!("/first?{number}")).await).await, "ok");
        let answer = shield.ask(shield.request("PUT", "/x"), Body::from("x")).await;
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        assert_eq!(*asked.lock().unwrap(), number);
    }
    shield.stop().await;
}

/// It was not closed for its age.
#[tokio::test]
async fn a_new_connection_that_closes_is_not_tried_again() {
    let mut shield = Shield::new().await;
    let (asked, mut seen) = watch::channel(0);
    let address = shield
        .raw(move |_, mut stream| {
            let asked = asked.clone();
            async move {
                if head(&mut stream).await.is_some() {
                    asked.send_modify(|asked| *asked += 1);
                }
            }
        })
        .await;
    shield.pulls_from(&[http(address)]);
    let answer = shield.ask(shield.request("PUT", "/x"), Body::from("x")).await;
    assert_eq!((answer.status(), said(&answer, "umbel-failed")), (StatusCode::BAD_GATEWAY, "broken"));
    assert_eq!(*seen.borrow_and_update(), 1);
    shield.stop().await;
}

#[tokio::test]
async fn who_does_not_answer_in_time_is_not_waited_for() {
    let mut shield = Shield::new().await;
    let silent = shield
        .raw(|_, stream| async move {
            std::future::pending::<()>().await;
            drop(stream)
        })
        .await;
    shield.pulls(Pull { upstreams: vec![http(silent)], first_byte_ms: 50, ..Pull::default() });
    for body in [Body::empty(), Body::from("upload")] {
        let answer = shield.ask(shield.request("PUT", "/x"), body).await;
        assert_eq!((answer.status(), said(&answer, "umbel-failed")), (StatusCode::GATEWAY_TIMEOUT, "timeout"));
    }
    let half = shield
        .raw(|_, mut stream| async move {
            head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
            std::future::pending::<()>().await;
        })
        .await;
    shield.pulls(Pull { upstreams: vec![http(half)], between_bytes_ms: 50, ..Pull::default() });
    let answer = shield.get("/x").await;
    assert_eq!(answer.status(), StatusCode::OK);
    answer.into_body().collect().await.unwrap_err();
    shield.stop().await;
}

/// It was cut off at once.
#[tokio::test]
async fn an_upgraded_connection_goes_on_while_the_origin_stops() {
    let mut shield = Shield::new().await;
    let address = shield
        .raw(|_, mut stream| async move {
            head(&mut stream).await.unwrap();
            let answer = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            let (mut from, mut to) = stream.split();
            tokio::io::copy(&mut from, &mut to).await.unwrap();
        })
        .await;
    shield.pulls_from(&[http(address)]);
    let request = shield.request("GET", "/x").header("connection", "upgrade").header("upgrade", "websocket");
    let answer = shield.ask(request, Body::empty()).await;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = hyper_util::rt::TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    shield.world.shutdown.cancel();
    let door = shield.origin.internal;
    while TcpStream::connect(door).await.is_ok() {
        tokio::task::yield_now().await;
    }
    stream.write_all(b"there").await.unwrap();
    stream.flush().await.unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"there");
    drop(stream);
    shield.stop().await;
}

#[tokio::test]
async fn an_upload_may_take_longer_than_an_answer() {
    let mut shield = Shield::new().await;
    let address = shield
        .serve(|request| async { Response::new(Body::from(request.into_body().collect().await.unwrap().to_bytes())) })
        .await;
    shield.pulls(Pull { upstreams: vec![http(address)], first_byte_ms: 2000, ..Pull::default() });
    let (pieces, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let body = Body::from_stream(futures::stream::unfold(receiver, |mut receiver| async {
        Some((receiver.recv().await?, receiver))
    }));
    let feeding = async {
        // Together more than the server may take to answer; this is about time itself.
        for _ in 0..10 {
            tokio::time::sleep(std::time::Duration::from_millis(250)).await;
            pieces.send(Ok(Bytes::from_static(b"x"))).await.unwrap();
        }
        drop(pieces);
    };
    let (answer, ()) = futures::join!(shield.ask(shield.request("PUT", "/x"), body), feeding);
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(text(answer).await, "x".repeat(10));
    shield.stop().await;
}

/// For who asks, and not for who is answered from store.
#[tokio::test]
async fn hints_pass_to_who_asks() {
    let mut shield = Shield::new().await;
    let address = shield
        .raw(|_, mut stream| async move {
            while let Some(head) = head(&mut stream).await {
                let hint = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nconnection: x-a\r\nx-a: 1\r\n\r\n";
                let many = if head.starts_with("GET") { 3 } else { 1 };
                stream.write_all(hint.repeat(many).as_bytes()).await.unwrap();
                let answer = "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        })
        .await;
    shield.pulls_from(&[http(address)]);
    for (method, expected) in [("GET", 3), ("GET", 0), ("POST", 1)] {
        let hints = Arc::new(Mutex::new(Vec::new()));
        let heard = hints.clone();
        let mut request = shield.request(method, "/x").body(Body::empty()).unwrap();
        hyper::ext::on_informational(&mut request, move |hint| {
            let fields: Vec<_> = hint.headers().keys().map(|name| name.as_str().to_owned()).collect();
            heard.lock().unwrap().push((hint.status().as_u16(), fields));
        });
        let answer = shield.client.request(request).await.unwrap();
        assert_eq!(text(answer).await, "ok");
        assert_eq!(*hints.lock().unwrap(), vec![(103, vec!["link".to_owned()]); expected], "{method}");
    }
    shield.stop().await;
}

/// Of a server that has one protocol alone, with TLS and without.
#[tokio::test]
async fn servers_are_asked_in_the_protocol_that_the_site_says() {
    let ca = Ca::new();
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, &ca.pem).unwrap();
    let mut shield = Shield::with(|config| {
        config.pull_networks = vec!["127.0.0.0/8".parse().unwrap()];
        config.pull_ca = Some(roots);
    })
    .await;
    let version = |request: Request| async move {
        let host = request.uri().authority().map(ToString::to_string);
        let host = host.or_else(|| Some(request.headers().get("host")?.to_str().ok()?.to_owned()));
        let te = request.headers().contains_key("te");
        Response::new(Body::from(format!("{:?} {} {te}", request.version(), host.is_some())))
    };
    let plain = http(shield.serve(version).await);
    let tls = tls::server(ca.certificate(NodeRole::Origin), ClientAuth::None).unwrap();
    let both = shield.serve_over(Some(tls), version).await;
    let mut only = tls::server(ca.certificate(NodeRole::Origin), ClientAuth::None).unwrap();
    Arc::get_mut(&mut only).unwrap().alpn_protocols = vec![b"h2".to_vec()];
    let only = shield.serve_over(Some(only), version).await;
    let [both, only] = [both, only].map(|address| format!("https://localhost:{}", address.port()));
    for (url, protocol, te, expected) in [
        (&both, PullProtocol::Auto, false, "HTTP/1.1 true false"),
        (&both, PullProtocol::Auto, true, "HTTP/2.0 true true"),
        (&both, PullProtocol::Http1, true, "HTTP/1.1 true true"),
        (&both, PullProtocol::Http2, false, "HTTP/2.0 true false"),
        (&only, PullProtocol::Http2, false, "HTTP/2.0 true false"),
        (&plain, PullProtocol::Http2, false, "HTTP/2.0 true false"),
        (&plain, PullProtocol::Auto, false, "HTTP/1.1 true false"),
    ] {
        shield.pulls(Pull { upstreams: vec![url.clone()], protocol: protocol.into(), ..Pull::default() });
        for _ in 0..2 {
            let mut request = shield.request("GET", "/x");
            if te {
                request = request.header("te", "trailers");
            }
            assert_eq!(text(shield.ask(request, Body::empty()).await).await, expected, "{url} {protocol:?}");
        }
    }
    shield.stop().await;
}

#[tokio::test]
async fn garbage_is_no_answer() {
    let mut shield = Shield::new().await;
    for garbage in [
        "",
        "hello\r\n\r\n",
        "HTTP/9.9 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
        "\0\0\0\0\0\0\0\0\0\r\n\r\n",
    ] {
        let address = shield
            .raw(move |_, mut stream| async move {
                head(&mut stream).await;
                stream.write_all(garbage.as_bytes()).await.unwrap();
            })
            .await;
        shield.check(&http(address), 502, "broken").await;
    }
    for (line, lines) in [
        ("a: b\r\n".to_owned(), usize::MAX),
        (format!("a: {}\r\n", "b".repeat(1000)), usize::MAX),
        ("b".repeat(1 << 20), 1 << 20),
    ] {
        let address = shield
            .raw(move |_, mut stream| {
                let line = line.clone();
                async move {
                    head(&mut stream).await;
                    let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
                    for _ in 0..lines {
                        if sent.is_err() {
                            return;
                        }
                        sent = stream.write_all(line.as_bytes()).await;
                    }
                }
            })
            .await;
        shield.check(&http(address), 502, "broken").await;
    }
    shield.stop().await;
}

/// Else an edge would think that it is the origin which does not answer. Of what is short and would be stored it hears before
/// anything has left.
#[tokio::test]
async fn a_body_that_breaks_off_has_a_head() {
    let mut shield = Shield::new().await;
    for (control, length, expected) in
        [("max-age=60", 90_000, None), ("no-store", 9, None), ("max-age=60", 9, Some("broken"))]
    {
        let address = shield
            .raw(move |_, mut stream| async move {
                head(&mut stream).await;
                let fields = format!("cache-control: {control}\r\ncontent-length: {length}");
                let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nhalf");
                stream.write_all(answer.as_bytes()).await.unwrap();
            })
            .await;
        shield.pulls_from(&[http(address)]);
        for number in 0..10 {
            let answer = shield.get(&format!("/{length}-{number}")).await;
            if let Some(reason) = expected {
                assert_eq!((answer.status(), said(&answer, "umbel-failed")), (StatusCode::BAD_GATEWAY, reason));
                continue;
            }
            assert_eq!(answer.status(), StatusCode::OK, "{control}");
            answer.into_body().collect().await.unwrap_err();
        }
    }
    shield.stop().await;
}

/// One answer is all that a request gets, whatever else its server sends, and at whatever time.
#[tokio::test]
async fn what_was_not_asked_for_answers_nobody() {
    let mut shield = Shield::new().await;
    let address = shield
        .raw(|_, mut stream| async move {
            let evil = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
            while let Some(head) = head(&mut stream).await {
                let path = head.split(' ').nth(1).unwrap().to_owned();
                let length = path.len();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{path}{evil}");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        })
        .await;
    shield.pulls_from(&[http(address)]);
    for number in 0..20 {
        let path = format!("/{number}");
        assert_eq!(text(shield.get(&path).await).await, path);
    }
    shield.stop().await;
}

/// RFC 9110, section 15.2.
#[tokio::test]
async fn interim_answers_are_read_over() {
    let mut shield = Shield::new().await;
    let address = shield
        .raw(|_, mut stream| async move {
            let hint = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";
            let answer = "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 2\r\n\r\nok";
            while head(&mut stream).await.is_some() {
                let all = format!("HTTP/1.1 100 Continue\r\n\r\n{hint}{hint}{answer}");
                stream.write_all(all.as_bytes()).await.unwrap();
            }
        })
        .await;
    shield.pulls_from(&[http(address)]);
    for path in ["/x", "/x", "/y"] {
        let answer = shield.get(path).await;
        assert_eq!((answer.status(), said(&answer, "link")), (StatusCode::OK, ""));
        assert_eq!(text(answer).await, "ok");
    }
    shield.stop().await;
}

#[tokio::test]
async fn tls_is_verified_with_the_operators_roots() {
    let ca = Ca::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("private-ca.pem");
    std::fs::write(&file, &ca.pem).unwrap();
    for trusted in [true, false] {
        let shield = Shield::with(|config| {
            config.pull_networks = vec!["127.0.0.0/8".parse().unwrap()];
            config.pull_ca = trusted.then(|| file.clone());
        })
        .await;
        let tls = tls::server(ca.certificate(NodeRole::Origin), ClientAuth::None).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(any, Some(tls), Limits::default()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = Router::new().fallback(|| async { "secure" });
        let server = tokio::spawn(listener.serve(app, CancellationToken::new()));
        let (status, why) = if trusted { (200, "") } else { (502, "unreachable") };
        shield.check(&format!("https://localhost:{port}"), status, why).await;
        shield.check(&format!("https://127.0.0.1:{port}"), status, why).await;
        shield.check(&format!("https://other.localhost:{port}"), 502, "unreachable").await;
        server.abort();
        shield.stop().await;
    }
}

#[tokio::test]
async fn fields_for_one_hop_stay_there() {
    let mut shield = Shield::new().await;
    let seen = Arc::new(Mutex::new(http::HeaderMap::new()));
    let sees = seen.clone();
    let address = shield
        .raw(move |_, mut stream| {
            let sees = sees.clone();
            async move {
                let request = head(&mut stream).await.unwrap();
                let mut seen = http::HeaderMap::new();
                for line in request.lines().skip(1).filter_map(|line| line.split_once(": ")) {
                    seen.append(http::HeaderName::from_bytes(line.0.as_bytes()).unwrap(), line.1.parse().unwrap());
                }
                *sees.lock().unwrap() = seen;
                let answer = "HTTP/1.1 200 OK\r\nconnection: close, x-b\r\nx-b: 1\r\nkeep-alive: 5\r\nx-end: 2\r\n\
                    umbel-failed: timeout\r\nproxy-authenticate: a\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        })
        .await;
    for (host, expected) in [("", address.to_string()), ("www.example.org", "www.example.org".to_owned())] {
        shield.pulls(Pull { upstreams: vec![http(address)], host: host.into(), ..Pull::default() });
        let request = shield.request("GET", "/x").header("connection", "x-a").header("x-a", "1").header("x-end", "2");
        let request = request.header("proxy-authorization", "secret").header("keep-alive", "3");
        let answer = shield.ask(request, Body::empty()).await;
        let seen = seen.lock().unwrap().clone();
        assert_eq!((seen["host"].to_str().unwrap(), seen.get_all("host").iter().count()), (expected.as_str(), 1));
        for name in ["connection", "x-a", "proxy-authorization", "keep-alive", "umbel-site"] {
            assert!(!seen.contains_key(name), "{name}");
        }
        for name in ["x-b", "keep-alive", "proxy-authenticate", "umbel-failed"] {
            assert_eq!(said(&answer, name), "", "{name}");
        }
        assert_eq!(
            (answer.status(), said(&answer, "x-end"), &seen["x-end"]),
            (StatusCode::OK, "2", &"2".parse().unwrap())
        );
    }
    shield.stop().await;
}

#[tokio::test]
async fn only_edges_may_pull() {
    let mut shield = Shield::new().await;
    let address = shield.serve(|_| async { Response::new(Body::from("x")) }).await;
    shield.pulls_from(&[http(address)]);
    for role in [NodeRole::Origin, NodeRole::ControlPlane] {
        let other = edge(&shield.world, role);
        let answer = other.request(shield.request("GET", "/x").body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    }
    let anonymous = client::streaming(tls::client(&shield.world.ca.pem, None).unwrap(), false);
    anonymous.request(shield.request("GET", "/x").body(Body::empty()).unwrap()).await.unwrap_err();
    let other = http::Request::get(format!("https://localhost:{}/x", shield.origin.internal.port()));
    let answer = shield.ask(other.header("umbel-site", "none"), Body::empty()).await;
    assert_eq!((answer.status(), said(&answer, "umbel-failed")), (StatusCode::NOT_FOUND, "no-such-site"));
    shield.stop().await;
}

#[tokio::test]
async fn bodies_stream() {
    let mut shield = Shield::new().await;
    let (go_on, goes_on) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let body = Body::from_stream(futures::stream::unfold(goes_on, |mut goes_on| async {
        Some((goes_on.recv().await?, goes_on))
    }));
    let body = Arc::new(Mutex::new(Some(body)));
    let address = shield
        .serve(move |_| {
            let body = body.lock().unwrap().take().unwrap();
            async { Response::new(body) }
        })
        .await;
    shield.pulls_from(&[http(address)]);
    go_on.send(Ok(Bytes::from_static(b"first"))).await.unwrap();
    let mut answer = shield.get("/x").await;
    assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
    go_on.send(Ok(Bytes::from_static(b"last"))).await.unwrap();
    drop(go_on);
    assert_eq!(text(answer).await, "last");
    shield.stop().await;
}
