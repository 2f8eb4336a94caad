//! Over the wire: a node joins by TLS with nothing but its invitation, follows the configuration, and renews.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use http_body_util::BodyExt;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use umbel_control_plane::{
    Config, Lifetimes, Server,
    bootstrap::{Bootstrap, bootstrap},
    cluster::{Cluster, Durability},
    database,
};
use umbel_service::{client, follow::Follower, node::Node, tls};
use umbel_wire::{
    control::{Addresses, Batch, Served, usage_client::UsageClient},
    invitation::Purpose,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn config(cluster: &Cluster, port: u16) -> Config {
    Config {
        listen: SocketAddr::from(([127, 0, 0, 1], port)),
        ops_listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        public_url: format!("https://localhost:{port}"),
        names: Vec::new(),
        database_url: cluster.url(),
        database_connections: 10,
        // Short, so that the node renews within the test.
        lifetimes: Lifetimes { certificate: Duration::from_secs(5), membership: Duration::from_secs(3600) },
    }
}

struct Admin {
    client: client::HttpClient,
    url: String,
    key: String,
}

impl Admin {
    fn new(made: &Bootstrap, url: &str) -> anyhow::Result<Self> {
        let client = client::http(tls::client(&made.ca_pem, None)?);
        Ok(Self { client, url: url.into(), key: made.api_key.clone() })
    }

    async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        let request = axum::http::Request::post(format!("{}/api/v1/{path}", self.url))
            .header("authorization", format!("Bearer {}", self.key))
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes().into())?;
        let response = self.client.request(request).await?;
        assert_eq!(response.status(), 200);
        Ok(serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?)
    }
}

/// A way to a server that can lose what the server says, and be cut.
struct Line {
    deaf: Arc<AtomicBool>,
    connections: JoinSet<()>,
}

impl Line {
    async fn lay(from: u16, to: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", from)).await?;
        let deaf = Arc::new(AtomicBool::new(false));
        let mut connections = JoinSet::new();
        let losing = deaf.clone();
        connections.spawn(async move {
            let mut pairs = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                pairs.spawn(carry(client, to, losing.clone()));
            }
        });
        Ok(Self { deaf, connections })
    }

    async fn cut(mut self) {
        self.connections.shutdown().await;
    }
}

async fn carry(mut client: TcpStream, to: u16, deaf: Arc<AtomicBool>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    let ((mut up, mut down), (mut answers, mut questions)) = (client.split(), server.split());
    let back = async {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = answers.read(&mut bytes).await {
            if !deaf.load(Ordering::SeqCst) && down.write_all(&bytes[..length]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        _ = tokio::io::copy(&mut up, &mut questions) => {}
        () = back => {}
    }
}

/// Two ports that nobody else asks for in the meantime.
fn ports() -> anyhow::Result<[u16; 2]> {
    let held = (std::net::TcpListener::bind("127.0.0.1:0")?, std::net::TcpListener::bind("127.0.0.1:0")?);
    Ok([held.0.local_addr()?.port(), held.1.local_addr()?.port()])
}

/// The node was off for so long that its certificate is over.
fn let_expire(state: &Path) -> anyhow::Result<()> {
    let file = state.join("node.json");
    let mut kept: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    let key = KeyPair::from_pem(kept["key"].as_str().context("no key")?)?;
    let mut params = CertificateParams::default();
    params.not_after = OffsetDateTime::now_utc() - Duration::from_secs(60);
    kept["certificate"] = params.self_signed(&key)?.pem().into();
    Ok(std::fs::write(file, kept.to_string())?)
}

async fn until_applied(db: &PgPool) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    loop {
        ticks.tick().await;
        let applied = sqlx::query_scalar("select last_applied from edge_batches");
        let applied: Option<i64> = applied.fetch_optional(db).await?;
        if applied == Some(1) {
            return Ok(());
        }
    }
}

#[tokio::test]
async fn a_batch_counts_once_though_its_answer_was_lost_and_the_edge_joined_again() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_with(folder.path(), Durability::Disposable).await.unwrap();
    let db = database::open(&cluster.url(), 2).unwrap();
    let made = bootstrap(&db).await.unwrap();
    let [outside, inside] = ports().unwrap();
    let config = Config {
        listen: SocketAddr::from(([127, 0, 0, 1], inside)),
        lifetimes: Lifetimes { certificate: Duration::from_secs(3600), membership: Duration::from_secs(3600) },
        ..config(&cluster, outside)
    };
    let shutdown = CancellationToken::new();
    let mut first = JoinSet::new();
    first.spawn(Server::bind(&config, shutdown.clone()).await.unwrap().serve());
    let line = Line::lay(outside, inside).await.unwrap();
    let admin = Admin::new(&made, &config.public_url).unwrap();
    let tokens = [
        admin.post("join-tokens", json!({ "role": "edge" })).await.unwrap(),
        admin.post("join-tokens", json!({ "role": "edge" })).await.unwrap(),
    ];
    let state = tempfile::tempdir().unwrap();
    let node = enter(state.path(), tokens[0]["token"].as_str()).await.unwrap();
    let served = Served {
        hour: 1_896_102_000,
        site_id: "00000000-0000-0000-0000-000000000001".into(),
        path: "/film".into(),
        status: 200,
        requests: 1,
        bytes: 1000,
    };
    let batch = Batch { number: 1, served: vec![served], received: vec![] };

    // Committed; then everything between Postgres and the edge is killed before the answer arrives.
    let channel = node.control_channel().unwrap();
    UsageClient::new(channel.clone()).submit(Batch { number: 7, ..batch.clone() }).await.unwrap_err();
    line.deaf.store(true, Ordering::SeqCst);
    let mut client = UsageClient::new(channel);
    let sent = batch.clone();
    let lost = tokio::spawn(async move { client.submit(sent).await });
    tokio::time::timeout(PATIENCE, until_applied(&db)).await.expect("the commit in time").unwrap();
    first.shutdown().await;
    line.cut().await;
    lost.await.unwrap().unwrap_err();

    let_expire(state.path()).unwrap();
    let refusal = enter(state.path(), None).await.unwrap_err();
    assert!(format!("{refusal:#}").contains("has expired"), "{refusal:#}");
    let mut second = JoinSet::new();
    second.spawn(Server::bind(&config, shutdown.clone()).await.unwrap().serve());
    let line = Line::lay(outside, inside).await.unwrap();
    let again = enter(state.path(), tokens[1]["token"].as_str()).await.unwrap();
    assert_eq!(again.id, node.id);
    let ack = UsageClient::new(again.control_channel().unwrap()).submit(batch).await.unwrap();
    assert_eq!(ack.into_inner().last_applied, 1);
    let counted: (i64, i64) =
        sqlx::query_as("select sum(requests)::bigint, sum(bytes)::bigint from usage").fetch_one(&db).await.unwrap();
    assert_eq!(counted, (1, 1000));

    line.cut().await;
    shutdown.cancel();
    while let Some(ended) = second.join_next().await {
        ended.unwrap().unwrap();
    }
    db.close().await;
    cluster.stop().await.unwrap();
}

async fn enter(folder: &Path, token: Option<&str>) -> anyhow::Result<Node> {
    let addresses = Addresses { public_url: "https://localhost:1".into(), ..Addresses::default() };
    Node::enter(folder, Purpose::Edge, token, addresses, &[7; 32]).await
}

#[tokio::test]
async fn a_node_joins_follows_and_renews() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_with(folder.path(), Durability::Disposable).await.unwrap();
    let made = bootstrap(&database::open(&cluster.url(), 2).unwrap()).await.unwrap();
    // The invitation names the port, so it has to be known before; nobody else asks for it in between.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = config(&cluster, port);
    let shutdown = CancellationToken::new();
    let server = Server::bind(&config, shutdown.clone()).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(server.serve());

    let admin = Admin::new(&made, &config.public_url).unwrap();
    let token = admin.post("join-tokens", json!({ "role": "edge" })).await.unwrap();
    let state = tempfile::tempdir().unwrap();
    let node = Arc::new(enter(state.path(), token["token"].as_str()).await.unwrap());
    let first = node.certificate.leaf();

    let follower = Follower::load(state.path()).unwrap();
    let mut installation = follower.subscribe();
    tasks.spawn(follower.run(node.clone(), shutdown.clone()));
    let renewing = node.clone();
    let renewal = shutdown.clone();
    let addresses = Addresses { public_url: "https://localhost:1".into(), ..Addresses::default() };
    tasks.spawn(async move { renewing.keep_renewed(addresses, renewal).await });

    admin.post("sites", json!({ "name": "films", "hosts": ["films.test"] })).await.unwrap();
    let seen = installation.wait_for(|now| now.site_by_host("films.test").is_some());
    let seen = tokio::time::timeout(PATIENCE, seen).await.unwrap().unwrap();
    assert_eq!(seen.nodes.keys().collect::<Vec<_>>(), [&node.id]);
    drop(seen);

    node.renew_soon();
    let renewed = async {
        while node.certificate.leaf() == first {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.expect("a new certificate in time");
    let batch = Batch { number: 1, ..Batch::default() };
    let ack = UsageClient::new(node.control_channel().unwrap()).submit(batch.clone()).await.unwrap();
    assert_eq!(ack.into_inner().last_applied, 1);

    // Without a certificate: no.
    let stranger = client::channel(&config.public_url, tls::client(&made.ca_pem, None).unwrap()).unwrap();
    let refusal = UsageClient::new(stranger).submit(batch).await.unwrap_err();
    assert_eq!(refusal.code(), tonic::Code::Unauthenticated);
    // A spent token: no.
    let other = tempfile::tempdir().unwrap();
    assert!(enter(other.path(), token["token"].as_str()).await.is_err());

    shutdown.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap().unwrap();
    }
    cluster.stop().await.unwrap();
}
