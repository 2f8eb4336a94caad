//! Readers over HTTP/1.1 and HTTP/2.

use std::sync::atomic::Ordering;

use http::{Method, StatusCode, header};
use reqwest::Client;
use tower::ServiceExt;
use umbel_edge::Edge;
use umbel_service::unix_now;
use umbel_wire::{
    control::{Carrier, Policy},
    token::{Grant, parse_network},
};

use crate::network::{Network, PRIVATE, SITE, content, grant, sign};

const BIG: usize = 5 * 64 * 1024 + 1;

pub async fn get(client: &Client, url: &str, fields: &[(&str, &str)]) -> reqwest::Response {
    let request = fields.iter().fold(client.get(url), |request, (name, value)| request.header(*name, *value));
    request.send().await.unwrap()
}

pub fn field<'a>(response: &'a reqwest::Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn whole_objects_and_their_fields() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let edge = network.edge("e1", state.path()).await;
    let own = [("cache-control", "max-age=5"), ("content-language", "de")];
    let version = network.origin.put(SITE, "/own", b"x", &own);
    network.origin.put(SITE, "/a b/ü", b"y", &[]);
    network.origin.put(SITE, "/index.html", b"home", &[]);
    network.origin.put(SITE, "/empty", b"", &[]);
    network.origin.put(SITE, "/big", &content(BIG), &[]);
    for h2 in [false, true] {
        let client = network.client(&edge, h2);
        let response = get(&client, "https://docs.test/own", &[]).await;
        assert_eq!(field(&response, "etag"), format!("\"{version}\""));
        assert_eq!(field(&response, "cache-control"), "max-age=5");
        assert_eq!(field(&response, "content-language"), "de");
        assert_eq!(field(&response, "content-type"), "text/plain");
        assert_eq!(field(&response, "last-modified"), "Sun, 09 Sep 2001 01:46:40 GMT");
        assert_eq!(field(&response, "accept-ranges"), "bytes");
        assert!(response.headers().contains_key("age"));
        let response = get(&client, "https://docs.test/a%20b/%C3%BC", &[]).await;
        assert_eq!(field(&response, "cache-control"), "max-age=60");
        assert_eq!(response.text().await.unwrap(), "y");
        assert_eq!(get(&client, "https://docs.test/", &[]).await.text().await.unwrap(), "home");
        let response = get(&client, "https://docs.test/empty", &[]).await;
        assert_eq!((response.status(), response.content_length()), (StatusCode::OK, Some(0)));
        let response = get(&client, "https://docs.test/big", &[]).await;
        let expected = if h2 { "umbel-edge; hit" } else { "umbel-edge; fwd=uri-miss; stored" };
        assert!(field(&response, "cache-status").starts_with(expected), "{}", field(&response, "cache-status"));
        assert_eq!(response.bytes().await.unwrap(), content(BIG));
        let head = client.head("https://docs.test/big").send().await.unwrap();
        assert_eq!(field(&head, "content-length"), BIG.to_string());
        assert!(head.bytes().await.unwrap().is_empty());
    }
    edge.stop().await;
}

#[tokio::test]
async fn ranges_and_preconditions() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let edge = network.edge("e1", state.path()).await;
    let whole = content(BIG);
    let tag = format!("\"{}\"", network.origin.put(SITE, "/big", &whole, &[]));
    let client = network.client(&edge, false);
    let url = "https://docs.test/big";
    for (range, expected) in [
        ("bytes=0-0", 0..1),
        ("bytes=65530-65541", 65530..65542),
        ("bytes=65536-", 65536..BIG),
        ("bytes=-1", BIG - 1..BIG),
        ("bytes=0-", 0..BIG),
    ] {
        let response = get(&client, url, &[("range", range)]).await;
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        let shown = format!("bytes {}-{}/{BIG}", expected.start, expected.end - 1);
        assert_eq!(field(&response, "content-range"), shown);
        assert_eq!(response.bytes().await.unwrap(), whole[expected], "{range}");
    }
    let response = get(&client, url, &[("range", "bytes=0-1,65536-65537")]).await;
    assert!(field(&response, "content-type").starts_with("multipart/byteranges; boundary="));
    let declared = response.content_length().unwrap();
    let body = response.bytes().await.unwrap();
    assert_eq!(body.len() as u64, declared);
    let text = String::from_utf8_lossy(&body);
    assert!(text.contains(&format!("Content-Range: bytes 65536-65537/{BIG}")), "{text}");
    let response = get(&client, url, &[("range", "bytes=999999999-")]).await;
    assert_eq!(response.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(field(&response, "content-range"), format!("bytes */{BIG}"));
    let response = get(&client, url, &[("if-none-match", &tag)]).await;
    assert_eq!((response.status(), field(&response, "etag")), (StatusCode::NOT_MODIFIED, tag.as_str()));
    let response = get(&client, url, &[("if-range", "\"other\""), ("range", "bytes=0-0")]).await;
    assert_eq!((response.status(), response.bytes().await.unwrap().len()), (StatusCode::OK, BIG));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_readers_of_a_cold_object_are_one_fill_a_chunk() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let edge = network.edge("e1", state.path()).await;
    let whole = content(BIG);
    network.origin.put(SITE, "/cold", &whole, &[]);
    let client = network.client(&edge, true);
    let reads = (0..1000).map(|_| async { get(&client, "https://docs.test/cold", &[]).await.bytes().await.unwrap() });
    let bodies = futures::future::join_all(reads).await;
    assert!(bodies.iter().all(|body| *body == whole));
    assert_eq!(network.origin.resolves.load(Ordering::SeqCst), 1);
    assert_eq!(network.origin.chunks.load(Ordering::SeqCst), 6);
    edge.stop().await;
}

#[tokio::test]
async fn what_is_cached_survives_origin_and_restart() {
    let (mut network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let edge = network.edge("e1", state.path()).await;
    let whole = content(BIG);
    network.origin.put(SITE, "/warm", &whole, &[]);
    let client = network.client(&edge, false);
    let read = get(&client, "https://docs.test/warm", &[]).await.bytes().await.unwrap();
    assert_eq!(read, whole);
    network.stop_origin().await;
    let response = get(&client, "https://docs.test/never-seen", &[]).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key(header::RETRY_AFTER));
    edge.stop().await;
    let edge = network.edge("e1", state.path()).await;
    let client = network.client(&edge, false);
    let read = get(&client, "https://docs.test/warm", &[]).await.bytes().await.unwrap();
    assert_eq!(read, whole);
    edge.stop().await;
}

#[tokio::test]
async fn edges_share_fills() {
    let network = Network::new().await;
    let states = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let one = network.edge("e1", states[0].path()).await;
    let two = network.edge("e2", states[1].path()).await;
    let whole = content(40 * 64 * 1024);
    network.origin.put(SITE, "/shared", &whole, &[]);
    for edge in [&one, &two] {
        let client = network.client(edge, true);
        assert_eq!(get(&client, "https://docs.test/shared", &[]).await.bytes().await.unwrap(), whole);
    }
    assert_eq!(network.origin.chunks.load(Ordering::SeqCst), 40, "each chunk left the origin once");
    assert!(one.fills().1 + two.fills().1 >= 40, "each edge has asked the other for its chunks");
    two.stop().await;
    network.origin.put(SITE, "/alone", &whole, &[]);
    let client = network.client(&one, true);
    assert_eq!(get(&client, "https://docs.test/alone", &[]).await.bytes().await.unwrap(), whole, "without the other");
    one.stop().await;
}

/// Each edge once waited for the other with all the fills that it allowed itself.
#[tokio::test(flavor = "multi_thread")]
async fn cold_edges_that_need_many_chunks_of_each_other_do_not_wait_for_good() {
    let network = Network::new().await;
    let states = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let edges = [network.edge("e1", states[0].path()).await, network.edge("e2", states[1].path()).await];
    let whole = content(8 * 64 * 1024);
    let paths: Vec<_> = (0..100).map(|number| format!("/cold{number}")).collect();
    for path in &paths {
        network.origin.put(SITE, path, &whole, &[]);
    }
    let clients = edges.each_ref().map(|edge| network.client(edge, true));
    let reads = paths.iter().enumerate().map(|(number, path)| {
        let (client, url) = (&clients[number % 2], format!("https://docs.test{path}"));
        async move { get(client, &url, &[]).await.bytes().await.unwrap() }
    });
    assert!(futures::future::join_all(reads).await.iter().all(|body| *body == whole));
    assert_eq!(network.origin.chunks.load(Ordering::SeqCst), 800, "nobody gave the other up");
    for edge in edges {
        edge.stop().await;
    }
}

/// Passes bytes on to `to` until `breaks` changes; then all its connections end, and new ones are passed on again.
async fn pass_on(
    listener: tokio::net::TcpListener,
    to: std::net::SocketAddr,
    breaks: tokio::sync::watch::Receiver<u8>,
) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((mut from, _)) = listener.accept().await {
        let mut breaks = breaks.clone();
        breaks.mark_unchanged();
        connections.spawn(async move {
            let mut to = tokio::net::TcpStream::connect(to).await.unwrap();
            tokio::select! {
                _ = breaks.changed() => {}
                _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
            }
        });
    }
}

#[tokio::test]
async fn a_connection_between_edges_that_breaks_sends_no_fill_elsewhere() {
    let network = Network::new().await;
    let states = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let one = network.edge("e1", states[0].path()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let between = format!("https://{}", listener.local_addr().unwrap());
    let breaks = tokio::sync::watch::Sender::new(0);
    let passing = tokio::spawn(pass_on(listener, one.ports().internal, breaks.subscribe()));
    for node in &mut network.snapshot.lock().unwrap().nodes {
        if let Some(addresses) = node.addresses.as_mut().filter(|_| node.id == "e1") {
            addresses.internal_url = between.clone();
        }
    }
    let two = network.edge("e2", states[1].path()).await;
    let client = network.client(&two, true);
    let whole = content(64 * 1024);
    let urls: Vec<_> = (0..16).map(|number| format!("https://docs.test/{number}")).collect();
    for (number, url) in urls.iter().enumerate() {
        network.origin.put(SITE, &format!("/{number}"), &whole, &[]);
        client.head(url).send().await.unwrap();
    }
    network.origin.slow.send_replace(true);
    let breaking = async {
        // Each fill has come as far as it can, by way of the other edge or not.
        network.origin.asked.subscribe().wait_for(|asked| *asked == 16).await.unwrap();
        breaks.send_modify(|count| *count += 1);
        network.origin.slow.send_replace(false);
    };
    let reads = urls.iter().map(async |url| get(&client, url, &[]).await.bytes().await.unwrap());
    let (bodies, ()) = futures::join!(futures::future::join_all(reads), breaking);
    assert!(bodies.iter().all(|body| *body == whole));
    assert_eq!(network.origin.chunks.load(Ordering::SeqCst), 16, "each chunk left the origin once");
    assert!(two.fills().1 > 0, "the edges do share");
    passing.abort();
    one.stop().await;
    two.stop().await;
}

/// An edge that has just joined knows of the others before they hear of it.
#[tokio::test]
async fn an_edge_that_is_not_known_yet_is_waited_for() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let edge = network.edge("e1", state.path()).await;
    let certificate = network.authority.issue(umbel_service::tls::NodeRole::Edge, "new");
    let tls = umbel_service::tls::client(&network.authority.pem, Some(certificate)).unwrap();
    let client = Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
    let base = format!("https://{}", edge.ports().internal);
    let (chunk, health) = (format!("{base}/v1/chunks/{SITE}/00/0"), format!("{base}/healthz"));
    assert_eq!(get(&client, &health, &[]).await.status(), StatusCode::OK);
    let joining = async {
        // Asked after the chunk, on the same connection.
        assert_eq!(get(&client, &health, &[]).await.status(), StatusCode::OK);
        let node = umbel_wire::control::Node {
            id: "new".into(),
            role: umbel_wire::control::Role::Edge.into(),
            ..Default::default()
        };
        network.snapshot.lock().unwrap().nodes.push(node);
        network.publish();
    };
    let (answer, ()) = futures::join!(get(&client, &chunk, &[]), joining);
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "let in: the address is no good");
    edge.stop().await;
}

#[tokio::test]
async fn corrupt_chunks_are_never_served() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let edge = network.edge("e1", state.path()).await;
    network.origin.put(SITE, "/bad", &content(BIG), &[]);
    network.origin.corrupt.store(true, Ordering::SeqCst);
    let client = network.client(&edge, false);
    assert_eq!(get(&client, "https://docs.test/bad", &[]).await.status(), StatusCode::BAD_GATEWAY);
    network.origin.corrupt.store(false, Ordering::SeqCst);
    let read = get(&client, "https://docs.test/bad", &[]).await.bytes().await.unwrap();
    assert_eq!(read, content(BIG));
    edge.stop().await;
}

#[tokio::test]
async fn private_sites_need_a_grant_and_fetch_nothing_without() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let edge = network.edge("e1", state.path()).await;
    network.origin.put(PRIVATE, "/a/secret", b"s", &[]);
    let client = network.client(&edge, true);
    let (later, past) = (unix_now() + 100, unix_now() - 1);
    let bearer = |grant: String| format!("Bearer {grant}");
    let url = "https://private.test/a/secret";
    for (authorization, expected) in [
        (String::new(), StatusCode::UNAUTHORIZED),
        ("Basic eDp5".into(), StatusCode::UNAUTHORIZED),
        (bearer("nonsense".into()), StatusCode::UNAUTHORIZED),
        (bearer(grant("/b", later)), StatusCode::FORBIDDEN),
        (bearer(grant("/a", past)), StatusCode::UNAUTHORIZED),
    ] {
        let response = get(&client, url, &[("authorization", &authorization)]).await;
        assert_eq!(response.status(), expected, "{authorization}");
        assert!(field(&response, "www-authenticate").starts_with("Bearer realm=\"umbel\""));
        let token = authorization.trim_start_matches("Bearer ").to_owned();
        assert!(token.len() < 10 || !response.text().await.unwrap().contains(&token));
    }
    assert_eq!(network.origin.resolves.load(Ordering::SeqCst), 0);
    let response = get(&client, url, &[("authorization", &bearer(grant("/a", later)))]).await;
    assert_eq!(response.text().await.unwrap(), "s");
    let with_query = format!("{url}?umbel_grant={}", grant("/", later));
    let response = get(&client, &with_query, &[]).await;
    assert_eq!(field(&response, "cache-control"), "max-age=60");
    assert_eq!(response.headers().get_all("cache-control").iter().nth(1).unwrap(), "private");
    assert_eq!(response.text().await.unwrap(), "s");
    edge.stop().await;
}

#[tokio::test]
async fn any_good_grant_of_an_accepted_carrier_opens() {
    let network = Network::new().await;
    network.origin.put(PRIVATE, "/a/secret", b"s", &[]);
    let later = unix_now() + 1000;
    let (good, bad) = (grant("/a", later), grant("/b", later));
    let (query, cookie) = (format!("umbel_grant={good}"), format!("a=b; umbel_grant={bad}; umbel_grant=\"{good}\""));
    for (carriers, requests) in [
        (&[][..], [(&*query, "", "", 200), ("", &*cookie, &*bad, 200), ("", "", &*good, 200), ("", "", &*bad, 403)]),
        (
            &[Carrier::Cookie],
            [(&query, "", &good, 401), (&query, &cookie, "", 200), ("", "", &good, 401), ("", "", "", 401)],
        ),
        (
            &[Carrier::Query, Carrier::Bearer],
            [("", &cookie, "", 401), (&query, "", "", 200), ("", &cookie, &good, 200), (&query, "", &bad, 200)],
        ),
    ] {
        policy(&network, |policy| policy.carriers = carriers.iter().map(|&carrier| carrier.into()).collect());
        let state = tempfile::tempdir().unwrap();
        let edge = network.edge("e1", state.path()).await;
        let client = network.client(&edge, true);
        for (query, cookie, bearer, expected) in requests {
            let url = format!("https://private.test/a/secret?{query}");
            let fields = [("cookie", cookie), ("authorization", &format!("Bearer {bearer}"))];
            let status = get(&client, &url, &fields).await.status();
            assert_eq!(status, expected, "{carriers:?}: {query:.20} {cookie:.20} {bearer:.20}");
        }
        edge.stop().await;
    }
}

/// Changes the private site's policy, for edges that start from now on.
fn policy(network: &Network, change: impl FnOnce(&mut Policy)) {
    let mut snapshot = network.snapshot.lock().unwrap();
    let site = snapshot.sites.iter_mut().find(|site| site.id == PRIVATE).unwrap();
    change(site.policy.as_mut().unwrap());
    drop(snapshot);
    network.publish();
}

#[tokio::test]
async fn a_grant_may_be_for_one_path_network_or_method() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let edge = network.edge("e1", state.path()).await;
    network.origin.put(PRIVATE, "/a/index.html", b"i", &[]);
    let client = network.client(&edge, false);
    let whole = whole_site();
    let here = |text: &str| vec![parse_network(text).unwrap()];
    for (grant, expected) in [
        (whole.clone(), 200),
        (Grant { prefixes: vec![], paths: vec!["/a/".into()], ..whole.clone() }, 200),
        (Grant { prefixes: vec![], paths: vec!["/a/index.html".into()], ..whole.clone() }, 403),
        (Grant { networks: here("127.0.0.0/8"), ..whole.clone() }, 200),
        (Grant { networks: here("192.0.2.0/24"), ..whole.clone() }, 403),
        (Grant { methods: vec!["POST".into()], ..whole.clone() }, 403),
    ] {
        let url = format!("https://private.test/a/?umbel_grant={}", sign(&grant));
        assert_eq!(get(&client, &url, &[]).await.status(), expected, "{grant:?}");
    }
    let counted = metrics(&edge).await;
    for (kind, count) in [("good", 3), ("path", 1), ("network", 1), ("method", 1)] {
        let line = format!("umbel_edge_grants_total{{kind=\"{kind}\"}} {count}\n");
        assert!(counted.contains(&line), "{line}: {counted}");
    }
    edge.stop().await;
}

fn whole_site() -> Grant {
    Grant { site: "private".into(), prefixes: vec!["/".into()], expires: unix_now() + 1000, ..Grant::default() }
}

async fn metrics(edge: &Edge) -> String {
    let request = http::Request::get("/metrics").body(axum::body::Body::empty()).unwrap();
    let answer = edge.ops().app().oneshot(request).await.unwrap();
    String::from_utf8(axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn grants_end_with_their_key() {
    let network = Network::new().await;
    network.origin.put(PRIVATE, "/a", b"a", &[]);
    let url = format!("https://private.test/a?umbel_grant={}", sign(&whole_site()));
    for (not_after, expected) in [(unix_now() + 1000, 200), (unix_now(), 401)] {
        policy(&network, |policy| policy.reader_keys[0].not_after = not_after);
        let state = tempfile::tempdir().unwrap();
        let edge = network.edge("e1", state.path()).await;
        assert_eq!(get(&network.client(&edge, true), &url, &[]).await.status(), expected);
        assert_eq!(metrics(&edge).await.contains("kind=\"retired_key\"} 1"), expected == 401);
        edge.stop().await;
    }
}

#[tokio::test]
async fn bad_requests_get_reasons() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let edge = network.edge("e1", state.path()).await;
    network.origin.put(SITE, "/x", b"x", &[]);
    let client = network.client(&edge, false);
    let long = format!("/{}", "a".repeat(20_000));
    let longest = format!("/{}", "a".repeat(100_000));
    for (path, expected) in [
        ("/x%2Fy", StatusCode::BAD_REQUEST),
        ("/x%00y", StatusCode::BAD_REQUEST),
        ("/%FF", StatusCode::BAD_REQUEST),
        ("/%2e%2e%5cx/%zz", StatusCode::BAD_REQUEST),
        ("/none", StatusCode::NOT_FOUND),
        ("/.well-known/umbel/v1/x", StatusCode::NOT_FOUND),
        (&long, StatusCode::URI_TOO_LONG),
    ] {
        let response = get(&client, &format!("https://docs.test{path}"), &[]).await;
        assert_eq!(response.status(), expected, "{path:.40}");
    }
    assert_eq!(raw(&network, &edge, "docs.test", "/../etc/passwd").await, 400);
    assert_eq!(raw(&network, &edge, "docs.test", "/%2e%2e/etc/passwd").await, 400);
    assert_eq!(raw(&network, &edge, "docs.test", &longest).await, 414);
    assert_eq!(raw(&network, &edge, "other.test", "/x").await, 421);
    assert_eq!(raw(&network, &edge, "b@d", "/x").await, 400);
    let many = |one: &str| vec![one; 5000].join(",");
    for (name, value, expected) in [
        ("range", format!("bytes={}", many("0-0")), StatusCode::OK),
        ("range", format!("bytes={}", many("1-0")), StatusCode::OK),
        ("range", "bytes=0-0,0-0,0-".into(), StatusCode::PARTIAL_CONTENT),
        ("range", "bytes=99999999999999999999999-".into(), StatusCode::RANGE_NOT_SATISFIABLE),
        ("range", "lines=0-0".into(), StatusCode::OK),
        ("if-none-match", many("\"a\""), StatusCode::OK),
        ("if-none-match", many("\""), StatusCode::OK),
        ("if-modified-since", "yesterday".into(), StatusCode::OK),
        ("if-range", "x".repeat(10_000), StatusCode::OK),
    ] {
        let response = get(&client, "https://docs.test/x", &[(name, &value)]).await;
        assert_eq!(response.status(), expected, "{name}: {value:.40}");
        assert!(response.bytes().await.unwrap().len() < 1000, "{name}: {value:.40}");
    }
    let response = client.request(Method::POST, "https://docs.test/x").body("y").send().await.unwrap();
    assert_eq!((response.status(), field(&response, "allow")), (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD"));
    edge.stop().await;
}

/// The status of a request that no client library would send.
async fn raw(network: &Network, edge: &Edge, host: &str, path: &str) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut tls = umbel_service::tls::client(&network.authority.pem, None).unwrap();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(tls));
    let tcp = tokio::net::TcpStream::connect(edge.ports().public).await.unwrap();
    let mut stream = connector.connect("docs.test".try_into().unwrap(), tcp).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer)[9..].trim().parse().unwrap()
}

#[tokio::test]
async fn a_new_version_replaces_the_old_one_when_the_answer_is_too_old() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    for site in &mut network.snapshot.lock().unwrap().sites {
        site.policy.as_mut().unwrap().lookup_ttl_ms = 0;
    }
    let edge = network.edge("e1", state.path()).await;
    network.origin.put(SITE, "/x", b"old", &[]);
    let client = network.client(&edge, false);
    assert_eq!(get(&client, "https://docs.test/x", &[]).await.text().await.unwrap(), "old");
    network.origin.put(SITE, "/x", b"new", &[]);
    assert_eq!(get(&client, "https://docs.test/x", &[]).await.text().await.unwrap(), "new");
    network.origin.remove(SITE, "/x");
    assert_eq!(get(&client, "https://docs.test/x", &[]).await.status(), StatusCode::NOT_FOUND);
    edge.stop().await;
}

#[tokio::test]
async fn readers_of_a_hot_object_do_not_wait_for_a_slow_origin() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    for site in &mut network.snapshot.lock().unwrap().sites {
        site.policy.as_mut().unwrap().lookup_ttl_ms = 1500;
    }
    let edge = network.edge("e1", state.path()).await;
    network.origin.put(SITE, "/x", b"old", &[]);
    let client = network.client(&edge, false);
    let read = async || get(&client, "https://docs.test/x", &[]).await.text().await.unwrap();
    assert_eq!(read().await, "old");
    network.origin.put(SITE, "/x", b"new", &[]);
    network.origin.slow.send_replace(true);
    let asked = || network.origin.resolves.load(Ordering::SeqCst);
    // The answer gets too old while it is read again and again; no reader is held up by the question that follows.
    while asked() == 1 {
        assert_eq!(read().await, "old");
        tokio::task::yield_now().await;
    }
    assert_eq!(read().await, "old");
    assert_eq!(asked(), 2, "and it is asked once");
    network.origin.slow.send_replace(false);
    while read().await == "old" {
        tokio::task::yield_now().await;
    }
    assert_eq!(asked(), 2, "the answer that was waited for came into force");
    edge.stop().await;
}

/// The origin hangs: connections stand, nothing is ever answered.
#[tokio::test]
async fn an_origin_that_hangs_is_waited_for_once_and_not_by_the_readers_of_each_object() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    for site in &mut network.snapshot.lock().unwrap().sites {
        site.policy.as_mut().unwrap().lookup_ttl_ms = 0;
    }
    let edge = network.edge("e1", state.path()).await;
    let paths: Vec<_> = (0..30).map(|number| format!("/cached{number}")).collect();
    let client = network.client(&edge, true);
    let read = async |path: &str| get(&client, &format!("https://docs.test{path}"), &[]).await.text().await.unwrap();
    for path in &paths {
        network.origin.put(SITE, path, b"old", &[]);
        assert_eq!(read(path).await, "old");
    }
    network.origin.slow.send_replace(true);
    let all = async || {
        for path in &paths {
            assert_eq!(read(path).await, "old");
        }
    };
    let limit = std::time::Duration::from_secs(20);
    tokio::time::timeout(limit, all()).await.expect("2 seconds once, not 2 seconds for each");
    edge.stop().await;
    // What is known from the disk only, too.
    let edge = network.edge("e1", state.path()).await;
    let client = network.client(&edge, true);
    let read = async |path: &str| get(&client, &format!("https://docs.test{path}"), &[]).await.text().await.unwrap();
    let all = async || {
        for path in &paths {
            assert_eq!(read(path).await, "old");
        }
    };
    tokio::time::timeout(limit, all()).await.expect("2 seconds once, not 2 seconds for each");
    network.origin.put(SITE, &paths[0], b"new", &[]);
    network.origin.slow.send_replace(false);
    while read(&paths[0]).await == "old" {
        tokio::task::yield_now().await;
    }
    edge.stop().await;
}

/// As far as this test reads a spool.
#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(message, optional, tag = "1")]
    served: Option<umbel_wire::control::Served>,
}

/// Requests and bytes that are written down, wherever the segments stand.
pub fn spooled(state: &std::path::Path) -> (u64, u64) {
    let mut segments = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(state.join("spool")).unwrap().map(Result::unwrap) {
        let number = entry.file_name().to_str().unwrap().split('.').next().unwrap().to_owned();
        let sealed = entry.path().with_extension("sealed");
        // Sealed since it was listed, perhaps.
        segments.insert(number, std::fs::read(entry.path()).or_else(|_| std::fs::read(sealed)).unwrap());
    }
    let (mut requests, mut total) = (0, 0);
    for mut rest in segments.values().map(Vec::as_slice) {
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let end = 8 + u32::from_le_bytes(*length) as usize;
            let record: Record = prost::Message::decode(&after[8..end]).unwrap();
            let served = record.served.unwrap();
            (requests, total) = (requests + served.requests, total + served.bytes);
            rest = &after[end..];
        }
    }
    (requests, total)
}

#[tokio::test]
async fn a_response_is_in_the_spool_before_its_last_bytes_arrive() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let edge = network.edge("e1", state.path()).await;
    network.origin.put(SITE, "/big", &content(BIG), &[]);
    network.origin.put(SITE, "/small", b"x", &[]);
    let (mut requests, mut bytes) = (0, 0);
    for h2 in [false, true] {
        let client = network.client(&edge, h2);
        for (path, range, of_the_object) in [
            ("/small", "bytes=0-", 1),
            ("/big", "bytes=0-", BIG),
            ("/big", "bytes=7-70006", 70_000),
            ("/big", "bytes=0-1,70000-70009", 12),
        ] {
            let response = get(&client, &format!("https://docs.test{path}"), &[("range", range)]).await;
            assert!(response.bytes().await.unwrap().len() >= of_the_object);
            (requests, bytes) = (requests + 1, bytes + of_the_object as u64);
            assert_eq!(spooled(state.path()), (requests, bytes), "{path} {range}");
        }
        client.head("https://docs.test/big").send().await.unwrap();
        requests += 1;
        assert_eq!(spooled(state.path()), (requests, bytes));
    }
    edge.stop().await;
}

#[tokio::test]
async fn a_response_in_progress_is_written_down_but_for_the_last_64_kib() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let edge = network.edge("e1", state.path()).await;
    network.origin.put(SITE, "/long", &content(200 * 64 * 1024), &[]);
    let client = network.client(&edge, true);
    let mut response = get(&client, "https://docs.test/long", &[]).await;
    let mut read = 0;
    while let Some(piece) = response.chunk().await.unwrap() {
        read += piece.len() as u64;
        assert!(spooled(state.path()).1 + 64 * 1024 > read, "{read}");
    }
    assert_eq!(spooled(state.path()), (1, read));
    edge.stop().await;
}

#[tokio::test]
async fn an_edge_that_was_removed_gets_nothing_more() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let edge = network.edge("e1", state.path()).await;
    let certificate = network.authority.issue(umbel_service::tls::NodeRole::Edge, "removed");
    let tls = umbel_service::tls::client(&network.authority.pem, Some(certificate)).unwrap();
    let client = Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
    let url = format!("https://{}/v1/chunks/{SITE}/00/0", edge.ports().internal);
    assert_eq!(get(&client, &url, &[]).await.status(), StatusCode::FORBIDDEN);
    edge.stop().await;
}

#[tokio::test]
async fn requests_are_in_the_access_log() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let path = state.path().join("access.log");
    let edge = network
        .edge_with("e1", state.path(), |config| {
            config.access_log = Some(path.to_str().unwrap().parse().unwrap());
        })
        .await;
    network.origin.put(SITE, "/big", &content(BIG), &[]);
    let client = network.client(&edge, true);
    for url in ["https://docs.test/big?umbel_grant=secret", "https://docs.test/none", "https://docs.test/big"] {
        get(&client, url, &[("user-agent", "a \"test\"")]).await.bytes().await.unwrap();
    }
    client.head("https://docs.test/big").send().await.unwrap();
    drop(client);
    edge.stop().await;
    let lines: Vec<serde_json::Value> =
        std::fs::read_to_string(&path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said: Vec<_> = lines
        .iter()
        .map(|line| {
            (line["method"].as_str().unwrap(), line["target"].as_str().unwrap(), line["status"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(
        said,
        [("GET", "/big?umbel_grant=-", 200), ("GET", "/none", 404), ("GET", "/big", 200), ("HEAD", "/big", 200)]
    );
    let bytes: Vec<_> = [0, 2, 3].map(|index: usize| lines[index]["bytes"].as_u64().unwrap()).into();
    assert_eq!(bytes, [BIG as u64, BIG as u64, 0]);
    for line in &lines[..3] {
        assert_eq!((&line["user_agent"], &line["tls"]), (&"a \"test\"".into(), &"TLSv1.3".into()), "{line}");
        assert_eq!((&line["client"], &line["protocol"]), (&"127.0.0.1".into(), &"HTTP/2.0".into()), "{line}");
    }
    assert_eq!((&lines[0]["cache"], &lines[2]["cache"]), (&"uri-miss".into(), &"hit".into()));
}
