//! How answers leave by the rules of their site.

use std::{io::Read, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use reqwest::Client;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use tokio_stream::StreamExt;
use tower::ServiceExt;
use umbel_edge::Edge;
use umbel_service::unix_now;

use crate::{
    network::{Network, PRIVATE, SITE, grant, grant_for},
    readers::{field, get},
};

/// An edge in front of sites with rules: one is uploaded, one is pulled.
struct Place {
    network: Network,
    edge: Edge,
    client: Client,
    _state: TempDir,
}

const SITES: [&str; 2] = ["https://docs.test", "https://pulled.test"];

impl Place {
    async fn with(rules: &str) -> Self {
        let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
        for site in &mut network.snapshot.lock().unwrap().sites {
            site.delivery = Some(toml::from_str(rules).unwrap());
        }
        network.publish();
        let edge = network.edge("e1", state.path()).await;
        let client = network.client(&edge, true);
        Self { network, edge, client, _state: state }
    }

    /// Both sites have this at `path`.
    fn has(&self, path: &str, text: &[u8]) {
        self.network.origin.put(SITE, path, text, &[]);
        self.provides(200, &[("content-type", "text/plain"), ("cache-control", "max-age=60"), ("etag", "\"e\"")], text);
    }

    /// The provider's server answers this to everything.
    fn provides(&self, status: u16, fields: &[(&'static str, &'static str)], text: &[u8]) {
        let mut answer = Response::new(Bytes::copy_from_slice(text));
        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
        let fields =
            fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        answer.headers_mut().extend(fields);
        self.network.origin.provide(move |_| {
            let answer = answer.clone().map(Body::from);
            async move { answer }
        });
    }

    async fn get(&self, site: &str, path: &str, fields: &[(&str, &str)]) -> reqwest::Response {
        get(&self.client, &format!("{site}{path}"), fields).await
    }

    fn last_asked(&self, name: &str) -> String {
        let passed_on = self.network.origin.passed_on.lock().unwrap();
        let value = passed_on.last().unwrap().2.get(name).cloned();
        value.map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
    }

    /// The value of a line of the metrics.
    async fn metric(&self, name: &str) -> f64 {
        let request = Request::get("/metrics").body(Body::empty()).unwrap();
        let answer = self.edge.ops().app().oneshot(request).await.unwrap();
        let text = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        let text = std::str::from_utf8(&text).unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0").trim().parse().unwrap()
    }
}

const HANG: Duration = Duration::from_secs(60);

/// What the provider's server gets of a request's content: a piece, its end, or that it breaks off.
type Got = Result<Bytes, ()>;

async fn got(gets: &mut mpsc::Receiver<Got>) -> Got {
    tokio::time::timeout(HANG, gets.recv()).await.expect("the server is told").unwrap()
}

/// The provider's server reads to the end before it answers.
fn reads(place: &Place) -> mpsc::Receiver<Got> {
    let (says, gets) = mpsc::channel(8);
    place.network.origin.provide(move |request| {
        let says = says.clone();
        async move {
            let mut content = request.into_body().into_data_stream();
            while let Some(piece) = content.next().await {
                let is_broken = piece.is_err();
                says.send(piece.map_err(drop)).await.unwrap();
                if is_broken {
                    return Response::new(Body::empty());
                }
            }
            says.send(Ok(Bytes::new())).await.unwrap();
            Response::new(Body::empty())
        }
    });
    gets
}

#[tokio::test]
async fn longer_content_than_the_site_takes_over_http_1() {
    let place = Place::with("limits.request_body = '8B'").await;
    let mut gets = reads(&place);
    let mut tls = umbel_service::tls::client(&place.network.authority.pem, None).unwrap();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(tls));
    // The rest is sent when the server has what comes before.
    for (head, first, rest, status) in [
        ("Content-Length: 8", "abcdefgh", "", "200"),
        ("Content-Length: 9\r\nExpect: 100-continue", "", "", "413"),
        ("Transfer-Encoding: chunked", "3\r\nabc\r\n", "5\r\ndefgh\r\n0\r\n\r\n", "200"),
        ("Transfer-Encoding: chunked", "3\r\nabc\r\n", "6\r\ndefghi\r\n", "413"),
    ] {
        let tcp = tokio::net::TcpStream::connect(place.edge.ports().public).await.unwrap();
        let mut stream = connector.connect("pulled.test".try_into().unwrap(), tcp).await.unwrap();
        let request = format!("POST /x HTTP/1.1\r\nHost: pulled.test\r\nConnection: close\r\n{head}\r\n\r\n{first}");
        stream.write_all(request.as_bytes()).await.unwrap();
        if !first.is_empty() {
            assert!(got(&mut gets).await.is_ok_and(|piece| !piece.is_empty()), "{head} {rest}");
        }
        stream.write_all(rest.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // Whoever closes while there is more to come need not say good-bye.
        drop(tokio::time::timeout(HANG, stream.read_to_end(&mut answer)).await.expect("the connection is closed"));
        assert_eq!(String::from_utf8(answer).unwrap().split(' ').nth(1), Some(status), "{head} {rest}");
        if !first.is_empty() {
            let end = loop {
                match got(&mut gets).await {
                    Ok(piece) if !piece.is_empty() => {}
                    end => break end,
                }
            };
            assert_eq!(end.is_ok(), status == "200", "{head} {rest}");
        }
        assert!(gets.try_recv().is_err(), "{head} {rest}");
    }
    place.edge.stop().await;
}

#[tokio::test]
async fn longer_content_than_the_site_takes_over_http_2() {
    let place = Place::with("limits.request_body = '8B'").await;
    let mut gets = reads(&place);
    let post = |body: reqwest::Body| place.client.post("https://pulled.test/x").body(body).send();
    assert_eq!(post("abcdefghi".into()).await.unwrap().status(), 413);
    assert!(gets.try_recv().is_err(), "nothing is taken of what says that it is too long");
    for (last, status) in [("defgh", 200), ("defghi", 413)] {
        let (pieces, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
        let body = reqwest::Body::wrap_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
        let feeding = async {
            pieces.send(Ok(Bytes::from_static(b"abc"))).await.unwrap();
            assert_eq!(got(&mut gets).await.unwrap(), "abc");
            pieces.send(Ok(Bytes::from_static(last.as_bytes()))).await.unwrap();
            if status == 200 {
                drop(pieces);
                assert_eq!((got(&mut gets).await, got(&mut gets).await), (Ok(last.into()), Ok(Bytes::new())));
            } else {
                assert_eq!(got(&mut gets).await, Err(()));
            }
        };
        let (response, ()) = tokio::join!(post(body), feeding);
        assert_eq!(response.unwrap().status(), status);
    }
    place.edge.stop().await;
}

fn text(length: usize) -> Vec<u8> {
    (0..length).flat_map(|n| format!("{} ", n % 997).into_bytes()).take(length).collect()
}

fn decoded(coding: &str, bytes: &[u8]) -> Vec<u8> {
    let mut reader: Box<dyn Read> = match coding {
        "br" => Box::new(brotli::Decompressor::new(bytes, 4096)),
        "zstd" => Box::new(zstd::stream::read::Decoder::new(bytes).unwrap()),
        "gzip" => Box::new(flate2::read::GzDecoder::new(bytes)),
        _ => Box::new(bytes),
    };
    let mut out = Vec::new();
    reader.read_to_end(&mut out).unwrap();
    out
}

#[tokio::test]
async fn each_reader_gets_the_coding_that_he_takes() {
    let place = Place::with("compression = {}").await;
    // One is encoded as a whole, one as it passes.
    for length in [5_000, 200_000, 2_000_000] {
        let whole = text(length);
        let path = format!("/{length}");
        place.has(&path, &whole);
        for site in SITES {
            for (accepted, coding) in [
                ("gzip, deflate, br, zstd", "br"),
                ("zstd", "zstd"),
                ("gzip;q=0.5", "gzip"),
                ("identity", ""),
                ("br", "br"),
            ] {
                let response = place.get(site, &path, &[("accept-encoding", accepted)]).await;
                assert_eq!(field(&response, "content-encoding"), coding, "{site} {accepted}");
                assert_eq!(field(&response, "vary"), "accept-encoding");
                let tag = field(&response, "etag").to_owned();
                assert_eq!(tag.ends_with(&format!("--{coding}\"")), !coding.is_empty(), "{tag}");
                assert_eq!(tag.starts_with("W/"), !coding.is_empty(), "{tag}");
                let head = place.client.head(format!("{site}{path}")).header("accept-encoding", accepted);
                let head = head.send().await.unwrap();
                for name in ["content-encoding", "etag", "vary", "content-type"] {
                    assert_eq!(field(&head, name), field(&response, name), "{name} of HEAD");
                }
                let body = response.bytes().await.unwrap();
                assert!(coding.is_empty() || body.len() < length / 2);
                assert!(decoded(coding, &body) == whole, "{site} {accepted} {length}");
                let known = [("accept-encoding", accepted), ("if-none-match", tag.as_str())];
                let response = place.get(site, &path, &known).await;
                assert_eq!((response.status(), field(&response, "etag")), (StatusCode::NOT_MODIFIED, tag.as_str()));
                assert_eq!(field(&response, "vary"), "accept-encoding");
                // He who cannot read it any more gets it anew.
                let response = place.get(site, &path, &[("if-none-match", &tag)]).await;
                assert_eq!(response.status() == StatusCode::NOT_MODIFIED, coding.is_empty());
            }
        }
    }
    assert!(place.metric("umbel_edge_encoded_bytes_total{kind=\"encoded\"}").await > 0.0);
    place.edge.stop().await;
}

#[tokio::test]
async fn ranges_are_of_what_is_not_encoded() {
    let place = Place::with("compression = {}").await;
    let whole = text(20_000);
    place.has("/a", &whole);
    for site in SITES {
        let both = [("accept-encoding", "br"), ("range", "bytes=10-19")];
        let response = place.get(site, "/a", &both).await;
        assert_eq!((response.status(), field(&response, "content-encoding")), (StatusCode::PARTIAL_CONTENT, ""));
        assert_eq!(field(&response, "vary"), "accept-encoding");
        let tag = field(&response, "etag").to_owned();
        assert!(tag.starts_with('"'));
        assert_eq!(response.bytes().await.unwrap(), whole[10..20]);
        for (condition, partial) in [(tag.clone(), true), (format!("W/{}--br\"", tag.trim_end_matches('"')), false)] {
            let response = place.get(site, "/a", &[both[0], both[1], ("if-range", &condition)]).await;
            assert_eq!(response.status() == StatusCode::PARTIAL_CONTENT, partial, "{condition}");
            assert_eq!(field(&response, "content-encoding"), if partial { "" } else { "br" });
        }
    }
    place.edge.stop().await;
}

#[tokio::test]
async fn what_is_not_to_be_encoded_is_left_alone() {
    let place = Place::with("compression = { min_size = '2KiB', types = ['model/*'], codings = ['gzip'] }").await;
    let whole = text(3000);
    let stored = ("cache-control", "max-age=60");
    for (number, (fields, length, coding)) in [
        (&[("content-type", "text/css")] as &[_], 3000, "gzip"),
        (&[("content-type", "model/x"), stored], 3000, "gzip"),
        (&[("content-type", "text/css"), ("cache-control", "no-store")], 3000, "gzip"),
        (&[("content-type", "text/css")], 2000, ""),
        (&[("content-type", "image/png")], 3000, ""),
        (&[("content-type", "text/css"), ("cache-control", "max-age=60, no-transform")], 3000, ""),
        (&[("content-type", "text/css"), ("content-encoding", "zstd"), stored], 3000, "zstd"),
    ]
    .into_iter()
    .enumerate()
    {
        place.provides(200, fields, &whole[..length]);
        let path = format!("/{number}");
        let response = place.get(SITES[1], &path, &[("accept-encoding", "zstd, gzip;q=0.1")]).await;
        assert_eq!(place.last_asked("accept-encoding"), "gzip");
        assert_eq!(field(&response, "content-encoding"), coding, "{number}");
        let body = response.bytes().await.unwrap();
        let coding = if coding == "zstd" { "" } else { coding };
        assert_eq!(decoded(coding, &body), &whole[..length], "{number}");
    }
    place.edge.stop().await;
}

#[tokio::test]
async fn what_passes_is_not_held_back() {
    let place = Place::with("compression = {}").await;
    place.network.origin.provide(|_| async {
        let first = tokio_stream::once(Ok::<_, std::io::Error>(Bytes::from_static(b"first")));
        let body = Body::from_stream(first.chain(tokio_stream::pending()));
        Response::builder().header("content-type", "text/html").body(body).unwrap()
    });
    for accepted in ["br", "zstd", "gzip"] {
        let mut response = place.get(SITES[1], "/a", &[("accept-encoding", accepted)]).await;
        assert_eq!(field(&response, "content-encoding"), accepted);
        let mut seen = Vec::new();
        while !readable(accepted, &seen) {
            let chunk = tokio::time::timeout(Duration::from_secs(30), response.chunk()).await;
            seen.extend(chunk.unwrap().unwrap().unwrap());
        }
    }
    place.edge.stop().await;
}

/// What was only flushed has no end, but it can be read.
fn readable(coding: &str, bytes: &[u8]) -> bool {
    let mut reader: Box<dyn Read> = match coding {
        "br" => Box::new(brotli::Decompressor::new(bytes, 4096)),
        "zstd" => Box::new(zstd::stream::read::Decoder::new(bytes).unwrap()),
        _ => Box::new(flate2::read::GzDecoder::new(bytes)),
    };
    let mut out = [0; 5];
    reader.read_exact(&mut out).is_ok() && &out == b"first"
}

#[tokio::test]
async fn browsers_are_told_to_use_https() {
    let place = Place::with("https.hsts = { max_age = '1h', include_subdomains = true }").await;
    place.has("/a", b"x");
    for (path, status) in [("/a", 200), ("/../none", 404)] {
        let response = place.get(SITES[0], path, &[]).await;
        assert_eq!(response.status(), status);
        assert_eq!(field(&response, "strict-transport-security"), "max-age=3600; includeSubDomains");
    }
    place.edge.stop().await;
}

#[tokio::test]
async fn pages_of_other_origins() {
    let place =
        Place::with("cors = { origins = ['https://*.a.test'], methods = ['PUT'], expose = ['x-id'], max_age = '1h' }")
            .await;
    place.has("/a", b"x");
    place.provides(200, &[("access-control-allow-origin", "*"), ("cache-control", "max-age=60")], b"x");
    for site in SITES {
        // Nobody's but the browser's: without a grant, and never passed on.
        let asks = place.client.request(Method::OPTIONS, format!("{site}/a")).header("origin", "https://b.a.test");
        let response = asks.header("access-control-request-method", "PUT").send().await.unwrap();
        assert_eq!(
            (response.status(), field(&response, "access-control-allow-methods")),
            (StatusCode::NO_CONTENT, "PUT")
        );
        assert_eq!(field(&response, "access-control-max-age"), "3600");
        assert_eq!(field(&response, "cache-status"), "umbel-edge; detail=preflight");
        for (origin, allowed) in [("https://b.a.test", "https://b.a.test"), ("https://evil.test", "")] {
            let response = place.get(site, "/a", &[("origin", origin)]).await;
            assert_eq!(field(&response, "access-control-allow-origin"), allowed);
            assert_eq!((response.status(), field(&response, "vary")), (StatusCode::OK, "origin"));
        }
    }
    assert_eq!(place.network.origin.asked("/a"), 1);
    let asks = place.client.request(Method::OPTIONS, format!("{}/a", SITES[0])).header("origin", "https://evil.test");
    let response = asks.header("access-control-request-method", "PUT").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(field(&response, "cache-status"), "umbel-edge; detail=forbidden");
    place.edge.stop().await;
}

#[tokio::test]
async fn what_is_said_to_caches_ends_here() {
    let place = Place::with("").await;
    place.network.origin.put(SITE, "/a", b"x", &[("cache-tag", "t"), ("surrogate-key", "k")]);
    let fields = [
        ("cache-control", "no-store"),
        ("cache-tag", "t"),
        ("cdn-cache-control", "max-age=60"),
        ("surrogate-control", "max-age=60"),
        ("surrogate-key", "k"),
    ];
    place.provides(200, &fields, b"x");
    let grant = format!("Bearer {}", grant_for("members", "/", unix_now() + 100));
    let with_grant = [("authorization", grant.as_str())];
    let sites = [(SITES[0], "", &[][..]), (SITES[1], "max-age=60", &[]), ("https://members.test", "", &with_grant)];
    for (site, targeted, request) in sites {
        for expected in ["fwd=uri-miss", "hit"] {
            let response = place.get(site, "/a", request).await;
            assert!(field(&response, "cache-status").contains(expected), "{site}: {response:?}");
            for name in ["cache-tag", "surrogate-control", "surrogate-key"] {
                assert_eq!(field(&response, name), "", "{site}: {name}");
            }
            assert_eq!(field(&response, "cdn-cache-control"), targeted, "{site}");
        }
    }
    place.edge.stop().await;
}

#[tokio::test]
async fn what_requests_say_about_caching_counts_unless_the_site_says_otherwise() {
    for (rules, expected) in [("", "fwd=request"), ("caching.ignore_requests = true", "umbel-edge; hit")] {
        let place = Place::with(rules).await;
        place.has("/a", b"x");
        place.get(SITES[1], "/a", &[]).await;
        for fields in [[("cache-control", "no-cache")], [("cache-control", "max-age=0")], [("pragma", "no-cache")]] {
            let response = place.get(SITES[1], "/a", &fields).await;
            assert!(field(&response, "cache-status").contains(expected), "{rules} {fields:?}: {response:?}");
        }
        let response = place.get(SITES[1], "/b", &[("cache-control", "only-if-cached")]).await;
        assert_eq!(response.status().as_u16(), if rules.is_empty() { 504 } else { 200 });
        assert_eq!(place.last_asked("pragma"), if rules.is_empty() { "no-cache" } else { "" });
        place.edge.stop().await;
    }
}

#[tokio::test]
async fn who_asks_too_often_waits() {
    let place = Place::with("limits.client = { rate = '1/min', burst = 3 }").await;
    place.has("/a", b"x");
    for _ in 0..3 {
        assert_eq!(place.get(SITES[0], "/a", &[]).await.status(), StatusCode::OK);
    }
    let response = place.get(SITES[0], "/a", &[]).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!((1..=60).contains(&field(&response, "retry-after").parse::<u64>().unwrap()));
    assert_eq!(field(&response, "cache-status"), "umbel-edge; detail=limited");
    assert_eq!(place.metric("umbel_edge_limited_total{kind=\"client\"}").await, 1.0);
    // Every site has its own count, and other news do not reset it.
    assert_eq!(place.get(SITES[1], "/a", &[]).await.status(), StatusCode::OK);
    place.network.publish();
    assert_eq!(place.get(SITES[0], "/a", &[]).await.status(), StatusCode::TOO_MANY_REQUESTS);
    place.edge.stop().await;
}

#[tokio::test]
async fn fields_are_changed_by_rules() {
    let rules = "
        [[request_headers]]
        set = { authorization = 'Basic c2VjcmV0', x-edge = 'yes' }
        remove = ['x-debug']
        [[response_headers]]
        remove = ['server']
        set = { x-frame-options = 'DENY' }
        [[response_headers]]
        prefix = '/a'
        append = { vary = 'x-edge' }";
    let place = Place::with(rules).await;
    place.has("/a", b"x");
    let fields = [("cache-control", "max-age=60"), ("server", "old"), ("content-type", "text/plain")];
    place.provides(200, &fields, b"x");
    for (path, vary) in [("/a", "x-edge"), ("/%61/c", "x-edge"), ("/b", "")] {
        for _ in 0..2 {
            let response = place.get(SITES[1], path, &[("x-debug", "1"), ("x-edge", "no")]).await;
            assert_eq!((field(&response, "server"), field(&response, "x-frame-options")), ("", "DENY"));
            assert_eq!(field(&response, "vary"), vary, "{path}");
        }
        assert_eq!(place.network.origin.asked(path), 1, "what the edge adds makes nothing private");
        assert_eq!(
            (place.last_asked("authorization"), place.last_asked("x-edge")),
            ("Basic c2VjcmV0".into(), "yes".into())
        );
        assert_eq!(place.last_asked("x-debug"), "");
    }
    assert_eq!(field(&place.get(SITES[0], "/a", &[]).await, "x-frame-options"), "DENY");
    place.edge.stop().await;
}

#[tokio::test]
async fn errors_have_pages() {
    let rules = "
        [[error_pages]]
        status = ['404']
        path = '/sorry.html'
        upstream = true
        [[error_pages]]
        status = ['4xx', '5xx']
        html = '<p>Oh'";
    let place = Place::with(rules).await;
    for site in [SITE, PRIVATE] {
        place.network.origin.put(site, "/sorry.html", b"sorry", &[("cache-control", "max-age=60")]);
    }
    let check = async |url: &str, status: u16, kind: &str, text: &str| {
        for method in [Method::GET, Method::HEAD] {
            let response = place.client.request(method.clone(), url).send().await.unwrap();
            assert_eq!((response.status().as_u16(), field(&response, "content-type")), (status, kind), "{url}");
            assert_eq!(field(&response, "content-length"), text.len().to_string());
            assert_eq!(field(&response, "cache-control"), "no-store", "{url}");
            assert!(!response.headers().contains_key("etag"));
            let text = if method == Method::HEAD { "" } else { text };
            assert_eq!(response.text().await.unwrap(), text, "{url}");
        }
    };
    check("https://docs.test/none", 404, "text/plain", "sorry").await;
    check("https://docs.test/%2F", 400, "text/html; charset=utf-8", "<p>Oh").await;
    check("https://private.test/x", 401, "text/html; charset=utf-8", "<p>Oh").await;
    let token = grant("/", unix_now() + 1000);
    check(&format!("https://private.test/none?umbel_grant={token}"), 404, "text/plain", "sorry").await;
    place.network.origin.provide(|request| async move {
        let (status, kind, text) = match request.uri().path() {
            "/sorry.html" => (200, "text/x-pulled", "pulled"),
            "/bad" => (500, "text/x-own", "own"),
            "/away" => (502, "", ""),
            _ => (404, "text/x-own", "gone"),
        };
        let answer =
            Response::builder().status(status).header("content-type", kind).header("cache-control", "no-store");
        let failed = answer.header(if status == 502 { "umbel-failed" } else { "x-y" }, "unreachable");
        failed.header("etag", "\"e\"").body(Body::from(text)).unwrap()
    });
    check("https://pulled.test/none", 404, "text/x-pulled", "pulled").await;
    check("https://pulled.test/away", 502, "text/html; charset=utf-8", "<p>Oh").await;
    let response = place.get(SITES[1], "/bad", &[]).await;
    assert_eq!((response.status().as_u16(), field(&response, "content-type")), (500, "text/x-own"));
    assert_eq!(response.text().await.unwrap(), "own");
    place.edge.stop().await;
}
