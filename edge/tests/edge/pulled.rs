//! Sites that are pulled from their provider's server: what is shared, what is not, and what passes through.

use std::{io, sync::Arc, time::Duration};

use axum::{body::Body, extract::Request};
use bytes::Bytes;
use futures::{StreamExt, future::join_all, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::TokioIo;
use reqwest::Client;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, watch},
};
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use umbel_edge::{Config, Edge};
use umbel_service::unix_now;
use umbel_wire::{
    control::{Addresses, Node, Pull, Role},
    token::Grant,
};

use crate::{
    network::{Network, content, grant_for, sign},
    readers::{field, get, spooled},
};

/// Far more than anything here takes; who waits so long waits for good.
const FOR_GOOD: Duration = Duration::from_secs(30);

/// An edge in front of a provider's server.
struct Place {
    network: Network,
    edge: Edge,
    state: TempDir,
}

impl Place {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(tune: impl FnOnce(&mut Config)) -> Self {
        let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
        let edge = network.edge_with("e1", state.path(), tune).await;
        Self { network, edge, state }
    }

    fn client(&self) -> Client {
        self.network.client(&self.edge, true)
    }

    fn asked(&self, path: &str) -> usize {
        self.network.origin.asked(path)
    }

    /// The fields of the last request that the provider's server got.
    fn last_asked(&self) -> HeaderMap {
        self.network.origin.passed_on.lock().unwrap().last().unwrap().2.clone()
    }

    /// The provider's server has this, whatever it is asked for.
    fn provides(&self, status: u16, fields: &'static [(&'static str, &'static str)], body: &[u8]) {
        let body = Bytes::copy_from_slice(body);
        self.network.origin.provide(move |_| {
            let body = Body::from(body.clone());
            async move { response(status, fields, body) }
        });
    }
}

fn response(status: u16, fields: &[(&'static str, &'static str)], body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    let fields = fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    response.headers_mut().extend(fields);
    response
}

fn url(path: &str) -> String {
    format!("https://pulled.test{path}")
}

async fn text(client: &Client, path: &str, fields: &[(&str, &str)]) -> String {
    get(client, &url(path), fields).await.text().await.unwrap()
}

/// A body that comes piece by piece.
fn piecewise() -> (mpsc::Sender<io::Result<Bytes>>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, Body::from_stream(ReceiverStream::new(receiver)))
}

/// The provider's server answers the first request with this, and others never.
fn provides_once(place: &Place, answer: Response<Body>) {
    let answer = std::sync::Mutex::new(Some(answer));
    place.network.origin.provide(move |_| {
        let answer = answer.lock().unwrap().take();
        async move { answer.expect("asked once") }
    });
}

/// Starts as many requests for `/cold` as there are clients times `each`, and opens the gate when all of them have come to
/// the edge: those on one connection come in order, so an answer to the one behind them says that they have.
async fn all_at_once(clients: &[Client], each: usize, gate: &watch::Sender<bool>) -> Vec<reqwest::Response> {
    for client in clients {
        text(client, "/warm", &[]).await;
    }
    let cold = url("/cold");
    let requests = clients.iter().flat_map(|client| (0..each).map(|_| get(client, &cold, &[])));
    let behind = async {
        for client in clients {
            text(client, "/warm", &[]).await;
        }
        gate.send_replace(true);
    };
    futures::join!(join_all(requests), behind).0
}

/// Answers when the gate is open.
fn provides_behind_gate(
    place: &Place,
    answer: impl Fn() -> Response<Body> + Send + Sync + 'static,
) -> watch::Sender<bool> {
    let gate = watch::Sender::new(false);
    let (opens, answer) = (gate.clone(), Arc::new(answer));
    place.network.origin.provide(move |request| {
        let (mut open, answer) = (opens.subscribe(), answer.clone());
        async move {
            if request.uri().path() == "/cold" {
                open.wait_for(|open| *open).await.unwrap();
                answer()
            } else {
                response(200, &[("cache-control", "no-store")], Body::from("warm"))
            }
        }
    });
    gate
}

#[tokio::test]
async fn two_thousand_readers_of_a_cold_object_are_one_question() {
    let place = Place::new().await;
    let whole = content(10_000);
    let body = Bytes::from(whole.clone());
    let gate = provides_behind_gate(&place, move || {
        response(200, &[("cache-control", "max-age=60")], Body::from(body.clone()))
    });
    let clients: Vec<_> = (0..10).map(|_| place.client()).collect();
    let responses = all_at_once(&clients, 200, &gate).await;
    let collapsed = responses.iter().filter(|response| field(response, "cache-status").contains("collapsed")).count();
    assert!(collapsed > 0, "who came later was answered from store, the others waited");
    for response in responses {
        assert_eq!(response.bytes().await.unwrap(), whole);
    }
    assert_eq!(place.asked("/cold"), 1);
    place.edge.stop().await;
}

#[tokio::test]
async fn a_failure_is_everyones_at_once_and_nobodys_later() {
    let place = Place::new().await;
    let gate = provides_behind_gate(&place, || response(502, &[("umbel-failed", "unreachable")], Body::empty()));
    let responses = all_at_once(&[place.client()], 100, &gate).await;
    for response in responses {
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        assert!(field(&response, "cache-status").contains("unreachable"), "{}", field(&response, "cache-status"));
        assert!(!response.headers().contains_key("umbel-failed"));
    }
    assert_eq!(place.asked("/cold"), 1);
    place.provides(200, &[("cache-control", "max-age=60")], b"well");
    assert_eq!(text(&place.client(), "/cold", &[]).await, "well");
    place.edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_is_shared_while_it_comes_in_and_goes_on_without_the_first_asker() {
    let place = Place::new().await;
    let whole = content(20 << 20);
    let (pieces, body) = piecewise();
    provides_once(&place, response(200, &[("cache-control", "max-age=60")], body));
    let (mut parts, big) = (whole.chunks(1 << 20).map(Bytes::copy_from_slice), url("/big"));
    pieces.send(Ok(parts.next().unwrap())).await.unwrap();
    let mut first = get(&place.client(), &big, &[]).await;
    assert!(first.chunk().await.unwrap().is_some());
    let clients: Vec<_> = (0..4).map(|number| place.network.client(&place.edge, number > 1)).collect();
    let mut others = join_all((0..20).map(|number| get(&clients[number % 4], &big, &[]))).await;
    let mut bodies = Vec::new();
    for other in &mut others {
        bodies.push(other.chunk().await.unwrap().unwrap().to_vec());
    }
    drop(first);
    let rest = async {
        for part in parts {
            pieces.send(Ok(part)).await.unwrap();
        }
        drop(pieces);
    };
    let reads = others.into_iter().zip(bodies).map(|(other, mut body)| async move {
        body.extend_from_slice(&other.bytes().await.unwrap());
        body
    });
    let (bodies, ()) = futures::join!(join_all(reads), rest);
    assert!(bodies.iter().all(|body| *body == whole));
    assert_eq!(place.asked("/big"), 1);
    place.edge.stop().await;
}

#[tokio::test]
async fn a_body_that_breaks_off_breaks_off_for_all_and_is_not_stored() {
    let place = Place::new().await;
    let client = place.client();
    for (path, fields) in [
        ("/said", &[("cache-control", "max-age=60"), ("content-length", "100000")] as &[_]),
        ("/unsaid", &[("cache-control", "max-age=60")]),
        ("/unshared", &[("cache-control", "no-store"), ("content-length", "100000")]),
    ] {
        let (pieces, body) = piecewise();
        provides_once(&place, response(200, fields, body));
        pieces.send(Ok(content(1000).into())).await.unwrap();
        let one = get(&client, &url(path), &[]).await;
        let two = if path == "/unshared" { None } else { Some(get(&client, &url(path), &[]).await) };
        pieces.send(Err(io::Error::other("broken"))).await.unwrap();
        one.bytes().await.unwrap_err();
        if let Some(two) = two {
            two.bytes().await.unwrap_err();
        }
        place.provides(200, &[("cache-control", "max-age=60")], b"well");
        assert_eq!(text(&client, path, &[]).await, "well");
    }
    place.edge.stop().await;
}

#[tokio::test]
async fn what_is_for_one_alone_is_asked_for_by_each() {
    let place = Place::new().await;
    let client = place.client();
    for (path, control) in [("/a", "no-store"), ("/b", "private"), ("/c", "private, max-age=60")] {
        place.network.origin.provide(move |_| async move { response(200, &[("cache-control", control)], "x".into()) });
        let paths = [path; 30];
        join_all(paths.iter().map(|path| text(&client, path, &[]))).await;
        assert_eq!(place.asked(path), 30, "{control}");
        let response = get(&client, &url(path), &[]).await;
        assert!(field(&response, "cache-status").contains("fwd="), "{}", field(&response, "cache-status"));
    }
    place.edge.stop().await;
}

#[tokio::test]
async fn variants_are_stored_beside_each_other() {
    let place = Place::new().await;
    let client = place.client();
    place.network.origin.provide(|request| async move {
        let language = request.headers().get("accept-language").cloned().unwrap_or(HeaderValue::from_static("none"));
        let fields = [("cache-control", "max-age=60"), ("vary", "accept-language")];
        response(200, &fields, Body::from(language.to_str().unwrap().to_owned()))
    });
    for _ in 0..2 {
        for language in ["de", "en"] {
            assert_eq!(text(&client, "/x", &[("accept-language", language)]).await, language);
        }
        assert_eq!(text(&client, "/x", &[]).await, "none");
    }
    assert_eq!(place.asked("/x"), 3);
    place.edge.stop().await;
}

#[tokio::test]
async fn what_is_stale_is_validated() {
    let place = Place::new().await;
    let client = place.client();
    let fields: &[_] = &[("cache-control", "max-age=0"), ("etag", "\"one\"")];
    place.network.origin.provide(move |request| async move {
        let known = request.headers().get("if-none-match").is_some_and(|tags| tags == "\"one\"");
        let status = if known { 304 } else { 200 };
        response(status, fields, if known { Body::empty() } else { "old".into() })
    });
    assert_eq!(text(&client, "/x", &[]).await, "old");
    let response = get(&client, &url("/x"), &[]).await;
    assert_eq!((response.status(), place.asked("/x")), (StatusCode::OK, 2));
    assert!(field(&response, "cache-status").contains("fwd-status=304"), "{}", field(&response, "cache-status"));
    assert_eq!(response.text().await.unwrap(), "old");
    place.provides(200, &[("cache-control", "max-age=60"), ("etag", "\"two\"")], b"new");
    assert_eq!(text(&client, "/x", &[]).await, "new");
    assert_eq!(place.last_asked()["if-none-match"], "\"one\"");
    assert_eq!(text(&client, "/x", &[]).await, "new");
    assert_eq!(place.asked("/x"), 3);
    place.edge.stop().await;
}

#[tokio::test]
async fn the_stale_helps_when_the_server_fails() {
    let place = Place::new().await;
    let client = place.client();
    place.provides(200, &[("cache-control", "max-age=0, stale-if-error=600")], b"old");
    text(&client, "/x", &[]).await;
    place.provides(502, &[("umbel-failed", "unreachable")], b"");
    assert_eq!(text(&client, "/x", &[]).await, "old");
    place.provides(500, &[], b"oh");
    assert_eq!(text(&client, "/x", &[]).await, "old");
    place.provides(404, &[], b"gone");
    assert_eq!(text(&client, "/x", &[]).await, "gone");
    place.edge.stop().await;
}

#[tokio::test]
async fn the_stale_is_served_while_it_is_validated() {
    let place = Place::new().await;
    let client = place.client();
    place.provides(200, &[("cache-control", "max-age=0, stale-while-revalidate=600")], b"old");
    text(&client, "/cold", &[]).await;
    let gate = provides_behind_gate(&place, || response(200, &[("cache-control", "max-age=60")], "new".into()));
    for _ in 0..10 {
        assert_eq!(text(&client, "/cold", &[]).await, "old", "nobody waits");
    }
    gate.send_replace(true);
    while text(&client, "/cold", &[]).await == "old" {
        tokio::task::yield_now().await;
    }
    assert_eq!(place.asked("/cold"), 2);
    place.edge.stop().await;
}

const BIG: usize = 300_001;

#[tokio::test]
async fn a_stored_whole_answers_for_its_parts() {
    let place = Place::new().await;
    let client = place.client();
    let whole = content(BIG);
    place.provides(200, &[("cache-control", "max-age=60"), ("etag", "\"e\""), ("content-type", "a/b")], &whole);
    assert_eq!(get(&client, &url("/x"), &[]).await.bytes().await.unwrap(), whole);
    for (range, expected) in
        [("bytes=0-0", 0..1), ("bytes=65530-262150", 65530..262_151), ("bytes=-1", BIG - 1..BIG), ("bytes=0-", 0..BIG)]
    {
        let response = get(&client, &url("/x"), &[("range", range)]).await;
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(response.bytes().await.unwrap(), whole[expected], "{range}");
    }
    let response = get(&client, &url("/x"), &[("range", "bytes=0-1,262143-262144")]).await;
    assert!(field(&response, "content-type").starts_with("multipart/byteranges; boundary="));
    let declared = response.content_length().unwrap();
    let body = response.bytes().await.unwrap();
    assert_eq!(body.len() as u64, declared);
    assert!(body.windows(4).any(|bytes| bytes == [b"\r\n", &whole[262_143..262_145]].concat()));
    let response = get(&client, &url("/x"), &[("range", "bytes=999999-")]).await;
    assert_eq!(response.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    let response = get(&client, &url("/x"), &[("if-none-match", "\"e\"")]).await;
    assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
    let response = client.head(url("/x")).send().await.unwrap();
    assert_eq!((response.status(), field(&response, "content-length")), (StatusCode::OK, BIG.to_string().as_str()));
    assert_eq!(place.asked("/x"), 1);
    place.edge.stop().await;
}

#[tokio::test]
async fn a_change_streams_through_and_what_was_stored_is_forgotten() {
    let place = Place::new().await;
    let client = place.client();
    place.provides(200, &[("cache-control", "max-age=60")], b"old");
    assert_eq!(text(&client, "/x", &[]).await, "old");
    let (arrived, mut arrives) = mpsc::channel(1);
    place.network.origin.provide(move |request: Request| {
        let arrived = arrived.clone();
        async move {
            let mut body = request.into_body().into_data_stream();
            let mut length = 0;
            while let Some(piece) = body.next().await {
                length += piece.unwrap().len();
                arrived.send(()).await.unwrap();
            }
            response(200, &[("cache-control", "max-age=60")], Body::from(length.to_string()))
        }
    });
    let (pieces, receiver) = mpsc::channel::<io::Result<Bytes>>(1);
    let body = reqwest::Body::wrap_stream(ReceiverStream::new(receiver));
    let sending = async { client.post(url("/x")).body(body).send().await.unwrap() };
    let feeding = async {
        for _ in 0..3 {
            pieces.send(Ok(Bytes::from_static(b"piece"))).await.unwrap();
            arrives.recv().await.unwrap();
        }
        drop(pieces);
    };
    let (response, ()) = futures::join!(sending, feeding);
    assert_eq!(response.text().await.unwrap(), "15");
    place.provides(200, &[("cache-control", "max-age=60")], b"new");
    assert_eq!(text(&client, "/x", &[]).await, "new");
    place.provides(500, &[], b"no");
    client.delete(url("/x")).send().await.unwrap();
    assert_eq!(text(&client, "/x", &[]).await, "new", "a change that failed changes nothing");
    place.edge.stop().await;
}

#[tokio::test]
async fn grants_stay_at_the_edge() {
    let place = Place::new().await;
    let client = place.client();
    place.provides(200, &[("cache-control", "max-age=60")], b"secret");
    let later = unix_now() + 1000;
    let (one, two) = (grant_for("members", "/", later), grant_for("members", "/a", later));
    let bearer = format!("Bearer {one}");
    let site = "https://members.test/a?x=1";
    assert_eq!(get(&client, site, &[]).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(place.asked("/a?x=1"), 0);
    assert_eq!(get(&client, site, &[("authorization", &bearer)]).await.text().await.unwrap(), "secret");
    let seen = place.last_asked();
    assert!(!seen.contains_key("authorization"), "{seen:?}");
    for url in [format!("{site}&umbel_grant={two}"), format!("https://members.test/a?umbel_grant={one}&x=1")] {
        assert_eq!(get(&client, &url, &[]).await.text().await.unwrap(), "secret");
    }
    assert_eq!(place.asked("/a?x=1"), 1, "all grants find the same");
    assert_eq!(get(&client, site, &[]).await.status(), StatusCode::UNAUTHORIZED, "stored or not");
    let response =
        client.post(format!("{site}&umbel_grant={two}")).header("authorization", &bearer).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN, "a grant is for reading if it does not say otherwise");
    assert_eq!(place.asked("/a?x=1"), 1);
    place.edge.stop().await;
}

#[tokio::test]
async fn nothing_of_a_grant_goes_on() {
    let place = Place::new().await;
    let client = place.client();
    place.provides(200, &[("cache-control", "no-store")], b"secret");
    let every = Grant {
        site: "members".into(),
        prefixes: vec!["/".into()],
        methods: vec!["GET".into(), "POST".into()],
        expires: unix_now() + 1000,
        ..Grant::default()
    };
    let token = sign(&every);
    let own = format!("https://members.test/from?a&umbel_grant={token}");
    for (method, host) in [(Method::GET, "members"), (Method::POST, "members"), (Method::GET, "pulled")] {
        let request = client
            .request(method.clone(), format!("https://{host}.test/x?q=%20&umbel_grant={token}&r"))
            .header("cookie", format!("sid=\"a b\"; umbel_grant={token};t=;u"))
            .header("referer", &own);
        let request =
            if host == "members" { request.bearer_auth(&token) } else { request.bearer_auth("the site's own") };
        assert_eq!(request.send().await.unwrap().status(), StatusCode::OK, "{method} {host}");
        let (_, target, fields) = place.network.origin.passed_on.lock().unwrap().last().unwrap().clone();
        assert_eq!(target, "/x?q=%20&r");
        assert_eq!(fields["cookie"], "sid=\"a b\";t=;u");
        assert_eq!(fields["referer"], "https://members.test/from?a");
        let bearer = fields.get("authorization").map(HeaderValue::as_bytes);
        assert_eq!(bearer, (host == "pulled").then_some(&b"Bearer the site's own"[..]));
        assert!(!format!("{fields:?}").contains(&token));
    }
    place.edge.stop().await;
}

/// RFC 9111, section 3.5: an `Authorization` that the edge consumed does not keep it from sharing; one of the site's own does.
#[tokio::test]
async fn whose_authorization_it_is_decides_who_shares() {
    let place = Place::new().await;
    let client = place.client();
    place.provides(200, &[("cache-control", "max-age=60")], b"x");
    let token = grant_for("members", "/", unix_now() + 1000);
    for (host, asked, controls) in [("members", 1, &["max-age=60", "private"][..]), ("pulled", 2, &["max-age=60"])] {
        let target = format!("/of-{host}");
        for _ in 0..2 {
            let fields = [("authorization", format!("Bearer {token}"))];
            let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
            let response = get(&client, &format!("https://{host}.test{target}"), &fields).await;
            let said: Vec<_> = response.headers().get_all("cache-control").iter().collect();
            assert_eq!(said, controls, "{host}");
        }
        assert_eq!(place.asked(&target), asked, "{host}");
    }
    place.edge.stop().await;
}

#[tokio::test]
async fn readers_are_counted_by_the_bytes_that_they_get() {
    let place = Place::new().await;
    let whole = Bytes::from(content(BIG));
    place.network.origin.provide(move |request: Request| {
        let whole = whole.clone();
        async move {
            let control = if request.uri().path() == "/stored" { "max-age=60" } else { "no-store" };
            let chunked = request.uri().query().is_some();
            let body =
                if chunked { Body::from_stream(stream::iter([io::Result::Ok(whole)])) } else { Body::from(whole) };
            let mut response = response(200, &[], body);
            response.headers_mut().insert("cache-control", HeaderValue::from_static(control));
            response
        }
    });
    let (mut requests, mut bytes) = (0, 0);
    for h2 in [false, true] {
        let client = place.network.client(&place.edge, h2);
        for (path, range, of_the_object) in [
            ("/stored", None, BIG),
            ("/stored", Some("bytes=7-70006"), 70_000),
            ("/stored", Some("bytes=0-1,100000-250009"), 150_012),
            ("/stored", Some("bytes=9999999-"), 0),
            ("/unshared", None, BIG),
            ("/unshared?chunked", None, BIG),
        ] {
            let fields: Vec<_> = range.map(|range| ("range", range)).into_iter().collect();
            let response = get(&client, &url(path), &fields).await;
            assert!(response.bytes().await.unwrap().len() >= of_the_object);
            (requests, bytes) = (requests + 1, bytes + of_the_object as u64);
            assert_eq!(spooled(place.state.path()), (requests, bytes), "{path} {range:?}");
        }
        client.head(url("/stored")).send().await.unwrap();
        client.head(url("/unshared")).send().await.unwrap();
        requests += 2;
        assert_eq!(spooled(place.state.path()), (requests, bytes));
    }
    place.edge.stop().await;
}

#[tokio::test]
async fn trailers_pass_through() {
    let place = Place::new().await;
    place.network.origin.provide(|request: Request| async move {
        assert_eq!(request.headers()["te"], "trailers");
        let trailers = HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static("7"))]);
        let frames = [Frame::data(Bytes::from_static(b"body")), Frame::trailers(trailers)];
        let body = Body::new(StreamBody::new(stream::iter(frames.map(io::Result::Ok))));
        response(200, &[("cache-control", "no-store"), ("trailer", "x-sum")], body)
    });
    let tls = umbel_service::tls::client(&place.network.authority.pem, None).unwrap();
    let client = umbel_service::client::streaming::<Body>(tls, true);
    let url = format!("https://pulled.localhost:{}/x", place.edge.ports().public.port());
    let request = http::Request::get(url).header("te", "trailers").body(Body::empty()).unwrap();
    let collected = client.request(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-sum"], "7");
    assert_eq!(collected.to_bytes(), "body");
    // Over HTTP/1.1, only those that `Trailer` names are written.
    let mut reader = Raw::new(&place.network, &place.edge).await;
    let head = reader.asks("TE: trailers\r\nConnection: TE, close\r\n").await;
    assert!(head.contains("trailer: x-sum\r\n"), "{head}");
    let mut rest = String::new();
    reader.0.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "4\r\nbody\r\n0\r\nx-sum: 7\r\n\r\n");
    place.edge.stop().await;
}

/// Takes connections and never says anything.
async fn stuck() -> (String, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let taking = tokio::spawn(async move {
        let mut taken = Vec::new();
        loop {
            taken.push(listener.accept().await.unwrap());
        }
    });
    (url, taking)
}

/// Origins that stop (by SIGSTOP, say) held up all that was asked of them for good.
#[tokio::test]
async fn an_origin_that_is_stuck_is_not_waited_for() {
    let (internal_url, taking) = stuck().await;
    let addresses = Some(Addresses { internal_url, ..Addresses::default() });
    let (one, alone) = (Place::new().await, Place::new().await);
    for place in [&one, &alone] {
        {
            let mut snapshot = place.network.snapshot.lock().unwrap();
            let node =
                Node { id: "stuck".into(), role: Role::Origin.into(), addresses: addresses.clone(), ..Node::default() };
            snapshot.nodes.push(node);
            for site in &mut snapshot.sites {
                site.pull = site.pull.take().map(|_| Pull { first_byte_ms: 1, ..Pull::default() });
            }
        }
        place.provides(200, &[("cache-control", "no-store")], b"well");
    }
    alone.network.snapshot.lock().unwrap().nodes.retain(|node| node.id != "origin");
    for place in [&one, &alone] {
        let version = place.network.publish();
        place.edge.applied().wait_for(|applied| *applied >= version).await.unwrap();
    }
    let (client, lonely) = (one.client(), alone.client());
    // Half of them are for the one that is stuck.
    let paths: Vec<_> = (0..20).map(|number| format!("/{number}")).collect();
    let reads = join_all(paths.iter().map(|path| text(&client, path, &[])));
    let fails = async {
        let answer = lonely.post(url("/x")).send().await.unwrap();
        (answer.status().as_u16(), field(&answer, "cache-status").to_owned())
    };
    let (reads, (status, said)) = futures::join!(reads, fails);
    assert!(reads.iter().all(|body| body == "well"), "{reads:?}");
    assert!(status == 504 && said.contains("detail=timeout"), "{status} {said}");
    taking.abort();
    one.edge.stop().await;
    alone.edge.stop().await;
}

/// It is reset before its head has left.
#[tokio::test]
async fn an_answer_that_is_taken_back_says_nothing_about_the_origin() {
    let place = Place::new().await;
    place.network.origin.provide(|_| async {
        let broken = stream::iter([Err::<Bytes, _>(io::Error::other("broken"))]);
        response(200, &[], Body::from_stream(broken))
    });
    let tls = umbel_service::tls::client(&place.network.authority.pem, None).unwrap();
    let client = umbel_service::client::streaming::<Body>(tls, true);
    let url = format!("https://pulled.localhost:{}/x", place.edge.ports().public.port());
    let request = http::Request::get(url).header("te", "trailers").body(Body::empty()).unwrap();
    let answer = client.request(request).await.unwrap();
    assert_eq!(answer.status(), 502);
    let said = answer.headers()["cache-status"].to_str().unwrap();
    assert!(said.contains("detail=broken"), "{said}");
    place.edge.stop().await;
}

/// A reader who speaks HTTP/1.1 as he likes.
pub struct Raw(pub TlsStream<TcpStream>);

impl Raw {
    pub async fn new(network: &Network, edge: &Edge) -> Self {
        Self(connect(network, edge, b"http/1.1").await)
    }

    /// The head of the answer to a GET of `/x` with these lines.
    pub async fn asks(&mut self, lines: &str) -> String {
        self.0.write_all(format!("GET /x HTTP/1.1\r\nHost: pulled.test\r\n{lines}\r\n").as_bytes()).await.unwrap();
        self.head().await
    }

    pub async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    /// Five bytes there, and what comes of them.
    async fn echoes(&mut self, word: &[u8; 5]) -> [u8; 5] {
        self.0.write_all(word).await.unwrap();
        let mut back = [0; 5];
        self.0.read_exact(&mut back).await.unwrap();
        back
    }
}

/// A connection to an edge for the site that is pulled.
pub async fn connect(network: &Network, edge: &Edge, protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut tls = umbel_service::tls::client(&network.authority.pem, None).unwrap();
    tls.alpn_protocols = vec![protocol.to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let tcp = TcpStream::connect(edge.ports().public).await.unwrap();
    connector.connect("pulled.test".try_into().unwrap(), tcp).await.unwrap()
}

const WEBSOCKET: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n";

/// The provider's server takes any request for an upgrade, and turns round each five bytes that come.
fn upgrades(place: &Place) {
    place.network.origin.provide(|mut request: Request| async move {
        if !request.headers().contains_key("upgrade") {
            return response(200, &[("content-length", "2")], "no".into());
        }
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut word = [0; 5];
            while stream.read_exact(&mut word).await.is_ok() {
                word.reverse();
                stream.write_all(&word).await.unwrap();
                stream.flush().await.unwrap();
            }
            stream.shutdown().await.unwrap();
        });
        response(101, &[("upgrade", "websocket"), ("connection", "upgrade")], Body::empty())
    });
}

#[tokio::test]
async fn an_upgraded_connection_passes_both_ways() {
    let place = Place::new().await;
    upgrades(&place);
    let mut reader = Raw::new(&place.network, &place.edge).await;
    let head = reader.asks(WEBSOCKET).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let asked = place.last_asked();
    assert_eq!((asked["upgrade"].as_bytes(), asked["connection"].as_bytes()), (&b"websocket"[..], &b"upgrade"[..]));
    assert_eq!(&reader.echoes(b"abcde").await, b"edcba");
    reader.0.shutdown().await.unwrap();
    let mut rest = Vec::new();
    reader.0.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
    let Place { edge, state, .. } = place;
    edge.stop().await;
    assert_eq!(spooled(state.path()), (1, 5), "what the reader was sent is counted");
}

/// It was cut off at once.
#[tokio::test]
async fn an_upgraded_connection_goes_on_while_the_edge_stops() {
    let place = Place::new().await;
    upgrades(&place);
    let mut reader = Raw::new(&place.network, &place.edge).await;
    assert!(reader.asks(WEBSOCKET).await.starts_with("HTTP/1.1 101 "));
    let door = place.edge.ports().public;
    let stopping = tokio::spawn(place.edge.stop());
    while TcpStream::connect(door).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(&reader.echoes(b"abcde").await, b"edcba");
    drop(reader);
    stopping.await.unwrap();
}

/// A tunnel of requests would pass by grants and limits.
#[tokio::test]
async fn only_websocket_is_upgraded_to() {
    let place = Place::new().await;
    upgrades(&place);
    let mut reader = Raw::new(&place.network, &place.edge).await;
    for lines in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Upgrade: websocket\r\n",
    ] {
        let head = reader.asks(lines).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{lines:?}: {head}");
        reader.0.read_u16().await.unwrap();
        let asked = place.last_asked();
        let left = ["upgrade", "connection", "http2-settings"].map(|name| asked.contains_key(name));
        assert_eq!(left, [false; 3], "{lines:?}");
    }
    place.edge.stop().await;
}

/// A body without end.
fn endless() -> Body {
    Body::from_stream(stream::repeat_with(|| io::Result::Ok(Bytes::from_static(&[7; 64 * 1024]))))
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_who_do_not_read_hold_up_nobody_else() {
    let place = Place::new().await;
    place.network.origin.provide(|request: Request| async move {
        match request.uri().path() {
            "/small" => response(200, &[("cache-control", "no-store")], "small".into()),
            "/pending" => response(
                200,
                &[("cache-control", "no-store")],
                Body::from_stream(stream::pending::<io::Result<Bytes>>()),
            ),
            _ => response(200, &[("cache-control", "no-store")], endless()),
        }
    });
    let clients: Vec<_> = (0..12).map(|_| place.network.client(&place.edge, false)).collect();
    let endless = url("/endless");
    let stalled = join_all(clients.iter().map(|client| get(client, &endless, &[]))).await;
    let asleep: Vec<_> = (0..2).map(|_| place.client()).collect();
    let pending = url("/pending");
    let waiting = (0..300).map(|number| get(&asleep[number % 2], &pending, &[]));
    let waiting = tokio::time::timeout(FOR_GOOD, join_all(waiting)).await.expect("each has its answer's head");
    let client = place.client();
    for _ in 0..20 {
        let small = tokio::time::timeout(FOR_GOOD, text(&client, "/small", &[]));
        assert_eq!(small.await.expect("others are served"), "small");
    }
    drop((stalled, waiting));
    place.edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_was_evicted_is_asked_for_again() {
    let place = Place::with(|config| {
        config.limits.disk_cache = 64 << 20;
        config.limits.plaintext_cache = 4 << 20;
    })
    .await;
    let whole = content(8 << 20);
    place.provides(200, &[("cache-control", "max-age=600")], &whole);
    let client = place.client();
    for number in 0..20 {
        assert_eq!(get(&client, &url(&format!("/{number}")), &[]).await.bytes().await.unwrap(), whole);
    }
    // The one who finds that something is missing may have begun already.
    let first = get(&client, &url("/0"), &[]).await.bytes().await;
    assert!(first.is_err() || place.asked("/0") == 2);
    assert_eq!(get(&client, &url("/0"), &[]).await.bytes().await.unwrap(), whole);
    assert_eq!(place.asked("/0"), 2);
    place.edge.stop().await;
}
