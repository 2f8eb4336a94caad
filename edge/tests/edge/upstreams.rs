//! Servers of providers that misbehave, seen through an origin and an edge: readers get a 502 or 504 that says why, or a
//! connection that breaks off; what is stale where that is allowed; and nothing of it is kept.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::join_all;
use reqwest::{Client, Response};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use umbel_edge::Edge;
use umbel_origin::{Config, Origin, Store};
use umbel_service::{
    config::Settings,
    listen::{Limits, Listener},
    tls::{self, ClientAuth, NodeRole},
};
use umbel_wire::control::{Pull, Role};

use crate::{
    network::{Network, PULLED},
    pulled::{Raw, connect},
    readers::field,
};

/// Far more than anything here takes; who waits so long waits for good.
const FOR_GOOD: Duration = Duration::from_secs(60);

/// What a server does when it has sent what it sends.
#[derive(Clone, Copy)]
enum Then {
    Closes,
    Stalls,
    /// Sends this over and over.
    Repeats(&'static str),
    /// A byte at a time, for good.
    Drips,
}

/// What a reader gets of it.
#[derive(Debug, Clone, Copy)]
enum Gets {
    Nothing(u16, &'static str),
    /// The beginning, and an error; or nothing at all, where that came first.
    Half,
}

use Gets::{Half, Nothing};
use Then::{Closes, Drips, Repeats, Stalls};

type Case = (&'static str, Then, Gets);

const BROKEN: Gets = Nothing(502, "broken");
const NONSENSE: Gets = Nothing(502, "nonsense");
const TIMEOUT: Gets = Nothing(504, "timeout");

/// None of them needs a time limit.
const BAD: &[Case] = &[
    ("", Closes, BROKEN),
    ("hello\r\n\r\n", Closes, BROKEN),
    ("\0\0\0\0\0\0\0\0\0\r\n\r\n", Closes, BROKEN),
    ("HTTP/2.0 200 OK\r\n\r\n", Closes, BROKEN),
    ("HTTP/1.1 200 OK\r\ncontent-le", Closes, BROKEN),
    ("HTTP/1.1 200 OK\r\n", Repeats("a: b\r\n"), BROKEN),
    ("HTTP/1.1 200 OK\r\na: ", Repeats("endless"), BROKEN),
    ("HTTP/1.1 ", Repeats("endless"), BROKEN),
    ("", Repeats("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"), BROKEN),
    ("", Repeats("HTTP/1.1 100 Continue\r\n\r\n"), BROKEN),
    ("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", Stalls, NONSENSE),
    ("HTTP/1.1 304 Not Modified\r\nconnection: close\r\n\r\n", Closes, NONSENSE),
    ("HTTP/1.1 200 OK\ncontent-length: 2\n\nno", Closes, BROKEN),
    ("HTTP/1.1 200 OK\r\na: b\nset-cookie: c\r\ncontent-length: 2\r\n\r\nno", Closes, BROKEN),
    ("HTTP/1.1 200 OK\r\na: b\rset-cookie: c\r\ncontent-length: 2\r\n\r\nno", Closes, BROKEN),
    ("HTTP/1.1 200 OK\r\na b: c\r\ncontent-length: 2\r\n\r\nno", Closes, BROKEN),
    ("HTTP/1.1 200 OK\r\na: b\r\n c: d\r\ncontent-length: 2\r\n\r\nno", Closes, BROKEN),
    ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nno", Stalls, BROKEN),
    ("HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\nno", Stalls, BROKEN),
    ("HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nno", Stalls, BROKEN),
    ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", Stalls, BROKEN),
    ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", Stalls, BROKEN),
    ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", Stalls, BROKEN),
    ("HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 9\r\n\r\nhalf", Closes, Half),
    ("HTTP/1.1 200 OK\r\ncache-control: no-store\r\ncontent-length: 9\r\n\r\nhalf", Closes, Half),
    ("HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhalf", Closes, Half),
    ("HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", Closes, Half),
    (
        "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
        Closes,
        Half,
    ),
    (
        "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nxyz\r\n",
        Stalls,
        Half,
    ),
    (
        "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\n0\r\n\r\n",
        Stalls,
        Half,
    ),
    (
        "HTTP/1.1 200 OK\r\ncache-control: no-store\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhalf\r\n0\r\n\r\n",
        Stalls,
        Half,
    ),
];

/// They take time, and would take more without a limit.
const SLOW: &[Case] = &[
    ("", Stalls, TIMEOUT),
    ("HTTP/1.1 200 OK\r\ncontent-le", Stalls, TIMEOUT),
    ("HTTP/1.1 200 OK\r\na: ", Drips, TIMEOUT),
    ("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", Stalls, TIMEOUT),
    ("HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 9\r\n\r\nhalf", Stalls, Half),
    ("HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhalf", Stalls, Half),
    ("HTTP/1.1 200 OK\r\ncache-control: no-store\r\ncontent-length: 9\r\n\r\nhalf", Stalls, Half),
];

const GOOD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncache-control: max-age=0, stale-if-error=600\r\n\
    connection: close\r\n\r\nold";

/// A server that does for `/cold/N` what the Nth case says, and for `/stale/N` as well, after one good answer.
struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
    _connections: JoinSet<()>,
}

impl Server {
    async fn new(cases: &'static [Case]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::default());
        let (mut accepting, counted) = (JoinSet::new(), Arc::clone(&asked));
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, cases, Arc::clone(&counted)));
            }
        });
        Self { address, asked, _connections: accepting }
    }

    fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().get(path).copied().unwrap_or_default()
    }
}

async fn serve(mut stream: TcpStream, cases: &[Case], asked: Arc<Mutex<BTreeMap<String, usize>>>) {
    let Some(path) = path(&mut stream).await else { return };
    let is_first = {
        let mut asked = asked.lock().unwrap();
        let count = asked.entry(path.clone()).or_default();
        *count += 1;
        *count == 1
    };
    if is_first && path.starts_with("/stale") {
        return drop(stream.write_all(GOOD.as_bytes()).await);
    }
    let (sends, then, _) = cases[path.rsplit('/').next().unwrap().parse::<usize>().unwrap()];
    let mut sent = stream.write_all(sends.as_bytes()).await;
    match then {
        Closes => {}
        Stalls => std::future::pending().await,
        Repeats(text) => {
            while sent.is_ok() {
                sent = stream.write_all(text.as_bytes()).await;
            }
        }
        Drips => {
            while sent.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                sent = stream.write_all(b"a").await;
            }
        }
    }
}

/// Of a request, read to the end of its head.
async fn path(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap().split(' ').nth(1)?.to_owned())
}

/// A provider's server, an origin and an edge in a row.
struct Row {
    network: Network,
    edge: Edge,
    origin: Origin,
    end: CancellationToken,
    _folders: [TempDir; 2],
}

impl Row {
    async fn new() -> Self {
        let network = Network::new().await;
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let edge = network.edge("e1", folders[0].path()).await;
        let text = format!(
            "state = \"{0}\"\nstore = \"file://{0}/store\"\ns3_plain = true\ns3_listen = \"127.0.0.1:0\"\n\
             internal_listen = \"127.0.0.1:0\"\nops_listen = \"127.0.0.1:0\"\ns3_url = \"http://localhost\"\n\
             internal_url = \"https://localhost\"\npull_networks = [\"127.0.0.0/8\"]\n",
            folders[1].path().display()
        );
        let mut settings = Settings::parse("origin.toml", &text, "UMBEL_TEST", []);
        let config = Config::read(&mut settings);
        settings.finish().unwrap();
        let store = Store::open(&config.store, &config.store_s3).unwrap();
        let certificate = network.authority.issue(NodeRole::Origin, "origin");
        let identity = umbel_origin::Identity { ca: network.authority.pem.clone(), certificate };
        let end = CancellationToken::new();
        let origin = Origin::start(&config, store, identity, network.subscribe(), end.clone()).await.unwrap();
        let url = format!("https://{}", origin.internal);
        for node in &mut network.snapshot.lock().unwrap().nodes {
            if node.role == i32::from(Role::Origin) {
                node.addresses.as_mut().unwrap().internal_url.clone_from(&url);
            }
        }
        network.publish();
        Self { network, edge, origin, end, _folders: folders }
    }

    /// From now on the site is pulled like this; the edge knows it when this returns.
    async fn pulls(&self, pull: Pull) {
        for site in &mut self.network.snapshot.lock().unwrap().sites {
            if site.id == PULLED {
                site.pull = Some(pull.clone());
            }
        }
        self.network.publish();
        let version = self.network.subscribe().borrow().version;
        self.edge.applied().wait_for(|applied| *applied >= version).await.unwrap();
    }

    fn client(&self) -> Client {
        self.network.client(&self.edge, true)
    }

    async fn stop(self) {
        self.edge.stop().await;
        self.end.cancel();
        self.origin.wait().await.unwrap();
    }
}

async fn get(client: &Client, path: &str) -> Result<Response, reqwest::Error> {
    let asking = client.get(format!("https://pulled.test{path}")).send();
    tokio::time::timeout(FOR_GOOD, asking).await.expect("a reader waits for good")
}

/// What becomes of a reader's request.
async fn check(client: &Client, path: &str, gets: Gets) {
    let outcome = get(client, path).await;
    match (gets, outcome) {
        (Nothing(status, why), Ok(response)) => {
            let said = field(&response, "cache-status");
            assert!(said.contains(&format!("detail={why}")), "{path}: {said}");
            assert_eq!(response.status(), status, "{path}: {said}");
        }
        (Half, Ok(response)) if response.status() == 502 || response.status() == 504 => {
            assert!(field(&response, "cache-status").contains("detail="), "{path}: {response:?}");
        }
        (Half, Ok(response)) => {
            let body = tokio::time::timeout(FOR_GOOD, response.bytes()).await.expect("a reader waits for good");
            body.expect_err(path);
        }
        // Broken off before anything of it came here.
        (Half, Err(_)) => {}
        (Nothing(..), Err(error)) => panic!("{path}: {error:?}"),
    }
}

async fn is_old(client: &Client, path: &str) -> String {
    let response = get(client, path).await.unwrap();
    let said = field(&response, "cache-status").to_owned();
    assert_eq!(response.status(), 200, "{path}: {said}");
    assert_eq!(response.text().await.unwrap(), "old", "{path}: {said}");
    said
}

async fn misbehave(cases: &'static [Case], limits: Pull) {
    let (row, server) = (Row::new().await, Server::new(cases).await);
    let (client, upstreams) = (row.client(), vec![format!("http://{}", server.address)]);
    row.pulls(Pull { upstreams: upstreams.clone(), ..Pull::default() }).await;
    let paths: Vec<_> =
        (0..cases.len()).map(|number| (format!("/cold/{number}"), format!("/stale/{number}"))).collect();
    join_all(paths.iter().map(|(_, stale)| is_old(&client, stale))).await;
    row.pulls(Pull { upstreams, ..limits }).await;
    join_all(cases.iter().zip(&paths).map(async |((.., gets), (cold, stale))| {
        check(&client, cold, *gets).await;
        let before = server.asked(cold);
        check(&client, cold, *gets).await;
        assert!(server.asked(cold) > before, "{cold}: nothing is stored");
        if let Nothing(..) = gets {
            let said = is_old(&client, stale).await;
            assert!(said.contains("detail=stale-if-error"), "{stale}: {said}");
            assert!(server.asked(stale) > 1, "{stale}: the server was asked");
        }
    }))
    .await;
    row.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_do_not_speak_http() {
    misbehave(BAD, Pull::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_take_for_ever() {
    misbehave(SLOW, Pull { first_byte_ms: 300, between_bytes_ms: 300, ..Pull::default() }).await;
}

const HINT: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nconnection: x-a\r\nx-a: 1\r\ncontent-length: 7\r\n\r\n";

/// Gives a hint, and answers when somebody has read it. `/x` may be stored.
async fn hints(listener: TcpListener, read: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let read = read.clone();
        connections.spawn(async move {
            while let Some(path) = path(&mut stream).await {
                stream.write_all(HINT.as_bytes()).await.unwrap();
                read.acquire().await.unwrap().forget();
                let control = if path == "/x" { "max-age=60" } else { "no-store" };
                let answer = format!("HTTP/1.1 200 OK\r\ncache-control: {control}\r\ncontent-length: 2\r\n\r\nok");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
    }
}

#[tokio::test]
async fn hints_pass_before_the_answer_to_who_asks() {
    let row = Row::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstreams = vec![format!("http://{}", listener.local_addr().unwrap())];
    let read = Arc::new(Semaphore::new(0));
    let hinting = tokio::spawn(hints(listener, read.clone()));
    row.pulls(Pull { upstreams, ..Pull::default() }).await;
    let mut reader = Raw::new(&row.network, &row.edge).await;
    let head = reader.asks("").await;
    assert_eq!(head, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
    read.add_permits(1);
    assert!(reader.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    reader.0.read_u16().await.unwrap();
    assert!(reader.asks("").await.starts_with("HTTP/1.1 200 OK\r\n"), "what is stored has no hints");
    let stream = connect(&row.network, &row.edge, b"h2").await;
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    for (method, path) in [("GET", "/unshared"), ("POST", "/changed")] {
        let request = http::Request::builder().method(method).uri(format!("https://pulled.test{path}"));
        let (mut answer, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
        let hint = poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!((hint.status().as_u16(), &hint.headers()["link"]), (103, &"</a>".parse().unwrap()), "{path}");
        read.add_permits(1);
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    drop(sender);
    hinting.abort();
    row.stop().await;
    connection.abort();
}

/// Nobody but the reader follows: an origin that did would have to be kept from where readers may not go.
#[tokio::test]
async fn redirects_are_the_readers() {
    const LOOP: &str = "HTTP/1.1 301 Moved Permanently\r\nlocation: /cold/0\r\ncontent-length: 0\r\n\r\n";
    let (row, server) = (Row::new().await, Server::new(&[(LOOP, Closes, Half)]).await);
    row.pulls(Pull { upstreams: vec![format!("http://{}", server.address)], ..Pull::default() }).await;
    let client = umbel_service::client::streaming(tls::client(&row.network.authority.pem, None).unwrap(), true);
    let url = format!("https://pulled.localhost:{}/cold/0", row.edge.ports().public.port());
    let response = client.request(http::Request::get(url).body(axum::body::Body::empty()).unwrap()).await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["location"]), (301, &"/cold/0".parse().unwrap()));
    assert_eq!(server.asked("/cold/0"), 1);
    row.stop().await;
}

#[tokio::test]
async fn servers_that_cannot_be_had() {
    let (row, server) = (Row::new().await, Server::new(BAD).await);
    let client = row.client();
    row.pulls(Pull { upstreams: vec![format!("http://{}", server.address)], ..Pull::default() }).await;
    is_old(&client, "/stale/0").await;
    // No label may be as long, so that no resolver is asked.
    let nowhere = format!("http://{}.test", "a".repeat(70));
    let certificate = row.network.authority.issue(NodeRole::Origin, "another");
    let tls = tls::server(certificate, ClientAuth::None).unwrap();
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), Some(tls), Limits::default()).await.unwrap();
    let another = format!("https://www.another.localhost:{}", listener.local_addr().unwrap().port());
    let end = CancellationToken::new();
    let serving = tokio::spawn(listener.serve(axum::Router::new(), end.clone()));
    let private = "http://10.0.0.1".to_owned();
    for (url, why) in [(nowhere, "unreachable"), (another, "unreachable"), (private, "not-permitted")] {
        row.pulls(Pull { upstreams: vec![url], ..Pull::default() }).await;
        check(&client, "/cold/0", Nothing(502, why)).await;
        assert!(is_old(&client, "/stale/0").await.contains("detail=stale-if-error"), "{why}");
    }
    end.cancel();
    serving.await.unwrap();
    row.stop().await;
}
