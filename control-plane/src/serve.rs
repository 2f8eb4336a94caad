//! From a configuration to a running control plane: wait for Postgres, migrate, certify ourselves, listen.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use sqlx::PgPool;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use umbel_service::{
    listen::{Limits, Listener},
    ops::Ops,
    tls::{self, ClientAuth, LiveCertificate, NodeRole, PeerIdentity},
};

use crate::{
    agents,
    authority::{Authority, names_of},
    changes,
    config::Config,
    database, device_page,
    error::{Error, Result},
    grpc,
    metrics::Metrics,
    oauth, rest,
    state::ControlPlane,
};

/// For a REST request from its first byte to its last.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(75);
const READINESS_INTERVAL: Duration = Duration::from_secs(5);
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(3600);

/// A control plane that is bound and about to serve.
#[derive(Debug)]
pub struct Server {
    state: ControlPlane,
    listener: Listener,
    certificate: Arc<LiveCertificate>,
    names: BTreeSet<String>,
    head: watch::Sender<i64>,
    ops: Ops,
    ops_listener: Option<Listener>,
}

/// Runs a control plane until `shutdown`. While Postgres is away at the start it waits; later, requests get 503 and
/// `UNAVAILABLE` until it is back.
///
/// # Errors
/// The configuration cannot be served: a port is taken, the database refuses.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let starting = Server::bind(&config, shutdown.clone());
    match shutdown.run_until_cancelled(starting).await {
        Some(server) => server?.serve().await,
        None => Ok(()),
    }
}

impl Server {
    /// Waits for Postgres, brings its schema up to date, and binds.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn bind(config: &Config, shutdown: CancellationToken) -> anyhow::Result<Self> {
        let db = database::open(&config.database_url, config.database_connections)?;
        let (authority, version) = database::patiently(|| prepare(&db)).await.context("cannot prepare the database")?;
        let names = names(config);
        let pair = authority.issue(&identity(), &names, config.lifetimes.certificate)?;
        let certificate = Arc::new(LiveCertificate::from_pem(&pair.certificate_pem, &pair.key_pem)?);
        let tls = tls::server(certificate.clone(), ClientAuth::Optional(authority.ca_pem()))?;
        let ops = Ops::new("umbel_control_plane");
        let metrics = Metrics::default();
        ops.register(|registry| metrics.register(registry));
        let ops_listener = match config.ops_listen {
            Some(address) => Some(Listener::bind(address, None, Limits::default()).await?),
            None => None,
        };
        let listener = Listener::bind(config.listen, Some(tls), Limits::default()).await?;
        let (head, head_seen) = watch::channel(version);
        let state = ControlPlane::new(config, db, authority, head_seen, metrics, shutdown);
        Ok(Self { state, listener, certificate, names, head, ops, ops_listener })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the shutdown given to [`Server::bind`].
    ///
    /// # Errors
    /// A task ended that should not have.
    pub async fn serve(self) -> anyhow::Result<()> {
        let state = self.state;
        let shutdown = state.shutdown.clone();
        let app = app(&state, &self.ops);
        let mut tasks = JoinSet::new();
        tasks.spawn(self.listener.serve(app, shutdown.clone()));
        if let Some(listener) = self.ops_listener {
            tasks.spawn(listener.serve(self.ops.app(), shutdown.clone()));
        }
        tasks.spawn(changes::follow_head(state.db.clone(), self.head, shutdown.clone()));
        tasks.spawn(keep_certified(state.clone(), self.certificate, self.names));
        tasks.spawn(keep_ready(state.clone(), self.ops));
        tasks.spawn(keep_house(state.db.clone(), shutdown.clone()));
        tracing::info!(url = state.public_url, "control plane is up");
        let outcome = until_done(tasks, &shutdown).await;
        state.db.close().await;
        outcome
    }
}

async fn until_done(mut tasks: JoinSet<()>, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    while let Some(ended) = tasks.join_next().await {
        if !shutdown.is_cancelled() && outcome.is_ok() {
            outcome = Err(anyhow::anyhow!("a task of the control plane ended early"));
        }
        if let Err(error) = ended {
            outcome = Err(error).context("a task of the control plane failed");
        }
        shutdown.cancel();
    }
    outcome
}

async fn prepare(db: &PgPool) -> Result<(Authority, i64)> {
    database::migrate(db).await?;
    Ok((Authority::load_or_create(db).await?, changes::head(db).await?))
}

fn identity() -> PeerIdentity {
    PeerIdentity { role: NodeRole::ControlPlane, node_id: "control-plane".into() }
}

fn names(config: &Config) -> BTreeSet<String> {
    let mut names = names_of([config.public_url.as_str()]);
    names.extend(config.names.iter().cloned());
    if !config.listen.ip().is_unspecified() {
        names.insert(config.listen.ip().to_string());
    }
    names
}

// ---- The port ----

/// Everything that one TLS port answers.
pub(crate) fn app(state: &ControlPlane, ops: &Ops) -> Router {
    let timed = rest::app(state).merge(oauth::app(state)).merge(device_page::app(state));
    // Streams of the gRPC side live as long as they like.
    timed.layer(middleware::from_fn(in_time)).merge(grpc::app(state)).merge(health(ops))
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Error::Busy("the request took too long").into_response(),
    }
}

fn health(ops: &Ops) -> Router {
    let readyz = |State(ops): State<Ops>| async move {
        if ops.is_ready() { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
    };
    Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(readyz)).with_state(ops.clone())
}

// ---- What goes on beside it ----

/// A fresh certificate of our own at two thirds of the old one's life.
async fn keep_certified(state: ControlPlane, certificate: Arc<LiveCertificate>, names: BTreeSet<String>) {
    let lifetime = state.lifetimes.certificate;
    let mut wait = lifetime * 2 / 3;
    while state.shutdown.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
        wait = match renew(&state, &certificate, &names) {
            Ok(()) => lifetime * 2 / 3,
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "cannot renew the control plane's own certificate");
                lifetime / 20
            }
        };
    }
}

fn renew(state: &ControlPlane, certificate: &LiveCertificate, names: &BTreeSet<String>) -> anyhow::Result<()> {
    let pair = state.authority.issue(&identity(), names, state.lifetimes.certificate)?;
    Ok(certificate.replace(&pair.certificate_pem, &pair.key_pem)?)
}

async fn keep_ready(state: ControlPlane, ops: Ops) {
    loop {
        let look = async {
            ops.set_ready(database::answers(&state.db).await);
            tokio::time::sleep(READINESS_INTERVAL).await;
        };
        if state.shutdown.run_until_cancelled(look).await.is_none() {
            return ops.set_ready(false);
        }
    }
}

async fn keep_house(db: PgPool, shutdown: CancellationToken) {
    while shutdown.run_until_cancelled(tokio::time::sleep(HOUSEKEEPING_INTERVAL)).await.is_some() {
        for outcome in [agents::prune(&db).await, changes::prune(&db).await] {
            if let Err(error) = outcome {
                error.log();
            }
        }
    }
}
