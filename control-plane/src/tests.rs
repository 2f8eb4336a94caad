//! The control plane against a real Postgres, one cluster a test.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, body::Body, http::Request as HttpRequest};
use http_body_util::BodyExt;
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::Request;
use tower::ServiceExt;
use umbel_service::{
    ops::Ops,
    tls::{NodeRole, PeerIdentity},
};
use umbel_wire::{
    control::{Addresses, JoinReply, JoinRequest, nodes_server::Nodes},
    invitation::Invitation,
};

use crate::{
    Config, Lifetimes,
    authority::Authority,
    bootstrap::bootstrap,
    changes,
    cluster::{Cluster, Durability},
    database,
    metrics::Metrics,
    serve,
    state::ControlPlane,
};

mod agents;
mod certificates;
mod configuration;
mod joining;
mod outage;
mod purges;
mod rest;
mod usage;

/// A control plane without its port: handlers are called as the port would call them.
struct World {
    state: ControlPlane,
    app: Router,
    admin: String,
    _head: AbortOnDropHandle<()>,
    cluster: Cluster,
    folder: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cluster = Cluster::start_with(folder.path(), Durability::Disposable).await.unwrap();
        let db = database::open(&cluster.url(), 10).unwrap();
        let admin = bootstrap(&db).await.unwrap().api_key;
        let (head, seen) = watch::channel(changes::head(&db).await.unwrap());
        let shutdown = CancellationToken::new();
        let authority = Authority::load_or_create(&db).await.unwrap();
        let follower = tokio::spawn(changes::follow_head(db.clone(), head, shutdown.clone()));
        let state = ControlPlane::new(&config(&cluster), db, authority, seen, Metrics::default(), shutdown);
        let app = serve::app(&state, &Ops::new("test"));
        Self { state, app, admin, _head: AbortOnDropHandle::new(follower), cluster, folder }
    }

    async fn end(self) {
        self.state.shutdown.cancel();
        self.state.db.close().await;
        self.cluster.stop().await.unwrap();
        self.folder.close().unwrap();
    }

    fn db(&self) -> &PgPool {
        &self.state.db
    }

    /// A REST call as the admin.
    async fn admin(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.call(Some(&self.admin), method, path, body).await
    }

    /// A REST call with a bearer token; the answer's status and JSON (null where there is none).
    async fn call(&self, bearer: Option<&str>, method: &str, path: &str, body: Value) -> (u16, Value) {
        let mut request = HttpRequest::builder().method(method).uri(format!("/api/v1/{path}"));
        if let Some(bearer) = bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        let request = if body.is_null() {
            request.body(Body::empty())
        } else {
            request.header("content-type", "application/json").body(body.to_string().into())
        };
        let (status, text) = self.send(request.unwrap()).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// POSTs a form.
    async fn form(&self, path: &str, fields: &[(&str, &str)]) -> (u16, String) {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = HttpRequest::post(path).header("content-type", "application/x-www-form-urlencoded");
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn send(&self, request: HttpRequest<Body>) -> (u16, String) {
        let response = self.app.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A provider with an API key.
    async fn provider(&self, name: &str) -> String {
        let new = serde_json::json!({ "name": name, "role": "provider" });
        assert_eq!(self.admin("POST", "accounts", new).await.0, 200);
        let (status, key) = self.admin("POST", "api-keys", serde_json::json!({ "account": name })).await;
        assert_eq!(status, 200);
        key["api_key"].as_str().unwrap().to_owned()
    }

    async fn create_site(&self, bearer: &str, name: &str, hosts: &[&str]) -> Value {
        let new = serde_json::json!({ "name": name, "hosts": hosts });
        let (status, site) = self.call(Some(bearer), "POST", "sites", new).await;
        assert_eq!(status, 200, "{site}");
        site
    }

    async fn join_secret(&self, role: &str) -> String {
        let (status, token) = self.admin("POST", "join-tokens", serde_json::json!({ "role": role })).await;
        assert_eq!(status, 200, "{token}");
        Invitation::decode(token["token"].as_str().unwrap()).unwrap().secret
    }

    /// A node that has joined.
    async fn node(&self, role: NodeRole) -> PeerIdentity {
        let request = join_request(self.join_secret(role.as_str()).await);
        let reply = self.join(request).await.unwrap();
        PeerIdentity { role, node_id: reply.node_id }
    }

    async fn join(&self, request: JoinRequest) -> Result<JoinReply, tonic::Status> {
        Ok(self.state.join(Request::new(request)).await?.into_inner())
    }
}

fn config(cluster: &Cluster) -> Config {
    let day = Duration::from_secs(86_400);
    Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        ops_listen: None,
        public_url: "https://control.test".into(),
        names: Vec::new(),
        database_url: cluster.url(),
        database_connections: 10,
        lifetimes: Lifetimes { certificate: day, membership: day },
    }
}

/// As a node that has crashed after sending it would send it again, it is the same for the same secret only if it is kept.
fn join_request(secret: String) -> JoinRequest {
    let csr = CertificateParams::new(vec!["evil.example".into()]).unwrap();
    let csr_pem = csr.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    let addresses = Addresses {
        public_url: "https://edge1.test:443".into(),
        internal_url: "https://10.0.0.1:7443".into(),
        ..Addresses::default()
    };
    JoinRequest { secret, csr_pem, addresses: Some(addresses), ticket_key: vec![7; 32].into() }
}

fn by<T>(peer: &PeerIdentity, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(peer.clone());
    request
}
