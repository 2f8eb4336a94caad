//! The other servers: origins and edges, how to reach them, and which of them are well.
//!
//! Health is learned from the requests that are made anyway; one that failed is left alone for a growing while and asked
//! in the background whether it is back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use rustls::ClientConfig;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{debug, info, warn};
use umbel_service::{
    client::{self, HttpClient},
    installation::Installation,
};
use umbel_wire::{
    control::{Node, Role},
    rendezvous,
};

const PROBE_EVERY: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const LONGEST_REST: Duration = Duration::from_secs(5);

/// Another server.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) url: String,
    pub(crate) channel: Channel,
    begun: Instant,
    failures: AtomicU32,
    /// Milliseconds after `begun`.
    resting_until: AtomicU64,
    /// Milliseconds after `begun`.
    last_answer: AtomicU64,
    /// Who has it asks whether it is there.
    asking: Mutex<()>,
}

impl Member {
    /// Whether it may be asked, as far as is known.
    pub(crate) fn is_well(&self) -> bool {
        self.failures.load(Ordering::Relaxed) == 0
    }

    /// It answered.
    pub(crate) fn answered(&self) {
        self.last_answer.store(self.now(), Ordering::Relaxed);
        if self.failures.swap(0, Ordering::Relaxed) > 0 {
            info!(node = self.id, "is back");
        }
    }

    /// It did not answer, or not as it should.
    pub(crate) fn failed(&self) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        let rest = Duration::from_millis(500).saturating_mul(1 << failures.min(6)).min(LONGEST_REST);
        let until = self.begun.elapsed() + rest;
        self.resting_until.store(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if failures == 0 {
            warn!(node = self.id, url = self.url, "does not answer");
        }
    }

    /// Whether it has answered anything within `span`.
    pub(crate) fn has_answered(&self, span: Duration) -> bool {
        let last = self.last_answer.load(Ordering::Relaxed);
        last > 0 && Duration::from_millis(self.now().saturating_sub(last)) < span
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_due(&self) -> bool {
        !self.is_well() && self.now() >= self.resting_until.load(Ordering::Relaxed)
    }
}

/// Whether there was a connection.
fn is_broken_off(error: &anyhow::Error) -> bool {
    let asking = error.downcast_ref::<hyper_util::client::legacy::Error>();
    asking.is_some_and(|error| !error.is_connect()) || error.is::<hyper::Error>()
}

#[derive(Debug, Default)]
struct Members {
    origins: Vec<Arc<Member>>,
    edges: Vec<Arc<Member>>,
}

/// All other servers of the installation that an edge talks to.
#[derive(Debug)]
pub(crate) struct Fleet {
    node_id: String,
    tls: ClientConfig,
    http: HttpClient,
    members: ArcSwap<Members>,
    /// Of the configuration.
    version: AtomicU64,
}

impl Fleet {
    /// Shows the certificate in `tls` to all of them.
    pub(crate) fn new(node_id: &str, tls: ClientConfig) -> Self {
        let http = client::http(tls.clone());
        Self { node_id: node_id.into(), http, tls, members: ArcSwap::default(), version: AtomicU64::new(0) }
    }

    /// Origins are asked under this version of the configuration from now on.
    pub(crate) fn set_version(&self, version: u64) {
        self.version.store(version, Ordering::SeqCst);
    }

    /// The version of the configuration that origins are asked under: one that has not applied it may not know what was purged.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    /// Takes over who there is; what is known of those that stay is kept.
    pub(crate) fn update(&self, installation: &Installation) {
        let old = self.members.load();
        let edges = installation.nodes(Role::Edge).filter(|node| node.id != self.node_id);
        let members = Members {
            origins: installation.nodes(Role::Origin).filter_map(|node| self.member(&old.origins, node)).collect(),
            edges: edges.filter_map(|node| self.member(&old.edges, node)).collect(),
        };
        self.members.store(Arc::new(members));
    }

    fn member(&self, old: &[Arc<Member>], node: &Node) -> Option<Arc<Member>> {
        let url = node.addresses.as_ref()?.internal_url.as_str();
        if let Some(same) = old.iter().find(|member| member.id == node.id && member.url == url) {
            return Some(same.clone());
        }
        let channel = client::channel(url, self.tls.clone())
            .inspect_err(|error| warn!(node = node.id, url, %error, "has no usable address"))
            .ok()?;
        Some(Arc::new(Member {
            id: node.id.clone(),
            url: url.into(),
            channel,
            begun: Instant::now(),
            failures: AtomicU32::new(0),
            resting_until: AtomicU64::new(0),
            last_answer: AtomicU64::new(0),
            asking: Mutex::new(()),
        }))
    }

    /// Origins to ask for `key`, those that are well first.
    pub(crate) fn origins(&self, key: &[u8]) -> Vec<Arc<Member>> {
        let members = self.members.load();
        let ids = members.origins.iter().map(|origin| origin.id.as_str());
        let ordered = rendezvous::order(key, ids);
        let find = |id: &str| members.origins.iter().find(|origin| origin.id == id).cloned();
        let mut origins: Vec<Arc<Member>> = ordered.into_iter().filter_map(find).collect();
        origins.sort_by_key(|origin| !origin.is_well());
        origins
    }

    /// Whether an origin may be asked, as far as is known.
    pub(crate) fn has_origin(&self) -> bool {
        self.members.load().origins.iter().any(|origin| origin.is_well())
    }

    /// The edge that fills the chunk of this name, if it is another one.
    pub(crate) fn edge_of_chunk(&self, name: &[u8]) -> Option<Arc<Member>> {
        let members = self.members.load();
        let well = members.edges.iter().filter(|edge| edge.is_well()).map(|edge| edge.id.as_str());
        let first = *rendezvous::order(name, well.chain([self.node_id.as_str()])).first()?;
        members.edges.iter().find(|edge| edge.id == first).cloned()
    }

    /// `GET path` at a member: status and at most `limit` bytes of body. All requests to a member share a connection: that one
    /// which stood breaks says nothing of the member, and is no reason for all of them to turn to others at once.
    pub(crate) async fn get(
        &self,
        member: &Member,
        path: &str,
        header: (&'static str, String),
        limit: usize,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let uri = client::join(&member.url, path)?;
        let request = Request::get(uri).header(header.0, header.1).body(Full::default())?;
        match self.get_once(request.clone(), limit).await {
            Err(error) if is_broken_off(&error) => {
                debug!(node = member.id, error = format!("{error:#}"), "the connection broke, asking again");
                self.get_once(request, limit).await
            }
            answer => answer,
        }
    }

    async fn get_once(&self, request: Request<Full<Bytes>>, limit: usize) -> anyhow::Result<(StatusCode, Bytes)> {
        let response = self.http.request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), limit).collect().await;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => anyhow::Error::from(*error).context("body"),
            Err(error) => anyhow::anyhow!("body: {error}"),
        })?;
        Ok((status, body.to_bytes()))
    }

    /// Asks those that do not answer whether they are back, until `shutdown`.
    pub(crate) async fn probe(self: Arc<Self>, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(PROBE_EVERY);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            let members = self.members.load_full();
            let due = members.origins.iter().chain(&members.edges).filter(|member| member.is_due());
            futures::future::join_all(due.map(|member| self.probe_one(member))).await;
        }
    }

    /// Whether it has said anything within `span`, or does so when it is asked; of those who want to know, one asks.
    pub(crate) async fn is_there(&self, member: &Member, span: Duration) -> bool {
        let _asking = member.asking.lock().await;
        if member.is_well() && !member.has_answered(span) {
            self.probe_one(member).await;
        }
        member.is_well()
    }

    /// Any answer at all shows that it is there.
    async fn probe_one(&self, member: &Member) {
        let header = ("user-agent", "umbel-edge".to_owned());
        match timeout(PROBE_TIMEOUT, self.get(member, "/healthz", header, 64 * 1024)).await {
            Ok(Ok((status, _))) if !status.is_server_error() => member.answered(),
            Ok(_) | Err(_) => member.failed(),
        }
    }
}
