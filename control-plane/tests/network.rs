//! Over the wire: a node joins by TLS with nothing but its invitation, follows the configuration, and renews.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use umbel_control_plane::{
    Config, Lifetimes, Server,
    bootstrap::{Bootstrap, bootstrap},
    cluster::{Cluster, Durability},
    database,
};
use umbel_service::{client, follow::Follower, node::Node, tls};
use umbel_wire::{
    control::{Addresses, Batch, usage_client::UsageClient},
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
