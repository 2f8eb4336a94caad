//! How an edge lets clients in, what of that changes while it runs, and how it closes.

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use axum::body::Body;
use http::{Response, StatusCode};
use rcgen::{CertificateParams, KeyPair};
use reqwest::redirect;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use umbel_edge::{Config, Edge, Reloaded};
use umbel_service::{config::Settings, tls};
use umbel_wire::control::Certificate;

use crate::network::{Network, SITE};

/// So long nobody waits who gets an answer.
const HANG: Duration = Duration::from_secs(60);

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Trusts whatever it is shown, by the certificate that it expects.
async fn connect(edge: &Edge, authority: &str, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let mut config = tls::client(authority, None).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tcp = TcpStream::connect(edge.ports().public).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name.to_owned()).unwrap(), tcp).await
}

async fn status(stream: &mut TlsStream<TcpStream>, path: &str) -> String {
    stream.write_all(format!("HEAD {path} HTTP/1.1\r\nHost: docs.test\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(timeout(HANG, stream.read_u8()).await.expect("an answer").unwrap());
    }
    String::from_utf8(answer[9..12].to_vec()).unwrap()
}

/// A certificate that signs itself: who trusts it sees that it is shown.
fn put_certificate(folder: &Path, name: &str) -> String {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    fs::write(folder.join("site.crt"), &certificate).unwrap();
    fs::write(folder.join("site.key"), key.serialize_pem()).unwrap();
    certificate
}

/// As the file would be read again.
fn configuration(text: &str) -> Config {
    let urls = "public_url = \"https://e:1\"\ninternal_url = \"https://e:2\"\nrelay_url = \"https://e:3\"\n";
    let mut settings = Settings::parse("edge.toml", &format!("{urls}{text}"), "UMBEL_EDGE", []);
    let config = Config::read(&mut settings);
    settings.finish().unwrap();
    config
}

fn keys(keys: &[&str]) -> std::collections::BTreeSet<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

#[tokio::test]
async fn certificates_change_while_it_runs() {
    let (network, state, folder) = (Network::new().await, tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    network.origin.put(SITE, "/x", b"x", &[]);
    let said = configuration("max_sessions = 7\n").said;
    let mut edge = network.edge_with("e1", state.path(), |config| config.said = said).await;
    let mut before = connect(&edge, &network.authority.pem, "docs.test").await.unwrap();
    assert_eq!(status(&mut before, "/x").await, "200");

    let first = put_certificate(folder.path(), "docs.test");
    let text = format!("certificates = {:?}\nmax_connections = 99\nmax_sessions = 8\n", folder.path());
    let reloaded = edge.reload(&configuration(&text)).await.unwrap();
    let expected =
        Reloaded { applied: keys(&["certificates", "max_connections"]), need_a_restart: keys(&["max_sessions"]) };
    assert_eq!(reloaded, expected);
    connect(&edge, &first, "docs.test").await.unwrap();
    connect(&edge, &network.authority.pem, "pulled.test").await.unwrap();
    assert_eq!(status(&mut before, "/x").await, "200", "the connection of before");

    let second = put_certificate(folder.path(), "docs.test");
    let reloaded = edge.reload(&configuration(&text)).await.unwrap();
    assert_eq!(reloaded, Reloaded { applied: keys(&[]), need_a_restart: keys(&["max_sessions"]) });
    connect(&edge, &second, "docs.test").await.unwrap();
    assert!(connect(&edge, &first, "docs.test").await.is_err(), "the old one is shown");

    fs::write(folder.path().join("site.key"), "broken").unwrap();
    edge.reload(&configuration(&text)).await.unwrap();
    connect(&edge, &second, "docs.test").await.unwrap();
    edge.reload(&configuration("")).await.unwrap();
    connect(&edge, &network.authority.pem, "docs.test").await.unwrap();
    edge.stop().await;
}

#[tokio::test]
async fn plain_http_leads_to_https() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    network.origin.put(SITE, "/x", b"x", &[]);
    let edge = network
        .edge_with("e1", state.path(), |config| {
            config.plain_listen = Some(ANY);
            config.rules = configuration("trusted_proxies = [\"127.0.0.0/8\"]").rules;
        })
        .await;
    let plain = edge.ports().plain.unwrap();
    let https = format!("https://docs.test:{}/x", edge.ports().public.port());
    let client = reqwest::Client::builder().no_proxy().redirect(redirect::Policy::none());
    let client = client.resolve("docs.test", plain).resolve("other.test", plain).build().unwrap();
    let get = |host: &str| client.get(format!("http://{host}:{}/x?y", plain.port()));
    let post = client.post(format!("http://docs.test:{}/x", plain.port()));
    for (request, expected, location) in [
        (get("docs.test"), 308, Some(format!("{https}?y"))),
        (get("other.test"), 404, None),
        (post, 308, Some(https.clone())),
        (get("docs.test").header("x-forwarded-for", "192.0.2.7").header("x-forwarded-proto", "https"), 200, None),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), expected);
        let said = response.headers()["cache-status"].to_str().unwrap();
        assert_eq!(said.contains("detail=https-only"), location.is_some(), "{said}");
        assert_eq!(response.headers().get("location").map(|to| to.to_str().unwrap().to_owned()), location);
    }
    edge.stop().await;
}

#[tokio::test]
async fn who_asks_is_told_to_the_providers_server() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    network.origin.provide(|_| async { Response::new(Body::from("hello")) });
    let mut edge = network.edge("e1", state.path()).await;
    let client = network.client(&edge, true);
    for (text, expected) in [("", "127.0.0.1"), ("trusted_proxies = [\"127.0.0.1\"]", "192.0.2.7"), ("", "127.0.0.1")] {
        edge.reload(&configuration(text)).await.unwrap();
        // A connection goes by the rules of its beginning.
        let client = if text.is_empty() { &network.client(&edge, true) } else { &client };
        let url = format!("https://pulled.test:{}/{expected}{}", edge.ports().public.port(), text.len());
        let request = client.post(url).header("x-forwarded-for", "1.1.1.1, 192.0.2.7");
        assert_eq!(request.send().await.unwrap().status(), 200);
        let told = network.origin.passed_on.lock().unwrap().last().unwrap().2["x-forwarded-for"].clone();
        assert_eq!(told, expected, "{text}");
    }
    edge.stop().await;
}

#[tokio::test]
async fn what_runs_is_finished_and_the_idle_leave() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let (asked, go_on) = (watch::Sender::new(false), watch::Sender::new(false));
    let (at_provider, let_go) = (asked.clone(), go_on.clone());
    network.origin.provide(move |_| {
        at_provider.send_replace(true);
        let mut go_on = let_go.subscribe();
        async move {
            go_on.wait_for(|go_on| *go_on).await.unwrap();
            Response::new(Body::from("hello"))
        }
    });
    network.origin.put(SITE, "/x", b"x", &[]);
    let edge = network.edge("e1", state.path()).await;
    let mut idle = connect(&edge, &network.authority.pem, "docs.test").await.unwrap();
    assert_eq!(status(&mut idle, "/x").await, "200");
    let url = format!("https://pulled.test:{}/x", edge.ports().public.port());
    let running = tokio::spawn(network.client(&edge, false).get(url).send());
    asked.subscribe().wait_for(|asked| *asked).await.unwrap();
    let ops = edge.ops().clone();
    assert!(ops.is_ready());
    let public = edge.ports().public;
    let stopping = tokio::spawn(edge.stop());
    let left = timeout(HANG, idle.read_to_end(&mut Vec::new())).await.expect("idle connections are closed");
    assert_eq!(left.unwrap_or(0), 0);
    assert!(!ops.is_ready());
    assert!(TcpStream::connect(public).await.is_err(), "nobody new comes in");
    go_on.send_replace(true);
    let response = running.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers().get("connection").map(|value| value.to_str().unwrap()), Some("close"));
    stopping.await.unwrap();
}

/// What signs itself for these names: certificate and key.
fn self_signed(names: &[&str]) -> Certificate {
    let key = KeyPair::generate().unwrap();
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let chain_pem = CertificateParams::new(names).unwrap().self_signed(&key).unwrap().pem();
    Certificate { chain_pem, key_pem: key.serialize_pem() }
}

/// As the control plane would send it; the edge has it when this returns.
async fn bring(network: &Network, edge: &Edge, certificate: Option<Certificate>) {
    for site in &mut network.snapshot.lock().unwrap().sites {
        if site.id == SITE {
            site.certificate = certificate.clone();
        }
    }
    let version = network.publish();
    edge.applied().wait_for(|applied| *applied >= version).await.unwrap();
}

#[tokio::test]
async fn certificates_of_sites_come_with_the_configuration() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    network.origin.put(SITE, "/x", b"x", &[]);
    let edge = network.edge("e1", state.path()).await;
    let installation = &network.authority.pem;
    let mut before = connect(&edge, installation, "docs.test").await.unwrap();
    assert_eq!(status(&mut before, "/x").await, "200");

    // It names a host of another site as well, for which it is not.
    let first = self_signed(&["docs.test", "pulled.test"]);
    bring(&network, &edge, Some(first.clone())).await;
    let mut between = connect(&edge, &first.chain_pem, "docs.test").await.unwrap();
    connect(&edge, installation, "pulled.test").await.unwrap();

    let second = self_signed(&["docs.test"]);
    bring(&network, &edge, Some(second.clone())).await;
    connect(&edge, &second.chain_pem, "docs.test").await.unwrap();
    assert!(connect(&edge, &first.chain_pem, "docs.test").await.is_err(), "the old one is shown");
    for stream in [&mut before, &mut between] {
        assert_eq!(status(stream, "/x").await, "200", "a connection of before");
    }
    edge.stop().await;

    // It is there from the start; what is broken is not used.
    let edge = network.edge("e1", state.path()).await;
    connect(&edge, &second.chain_pem, "docs.test").await.unwrap();
    bring(&network, &edge, Some(Certificate { key_pem: "broken".into(), ..second })).await;
    connect(&edge, installation, "docs.test").await.unwrap();
    bring(&network, &edge, None).await;
    connect(&edge, installation, "docs.test").await.unwrap();
    edge.stop().await;
}
