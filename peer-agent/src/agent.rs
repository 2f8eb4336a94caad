//! The agent: opens what is asked for, fetches what is missing, serves what it holds.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use iroh::Endpoint;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};
use umbel_content::{ChunkIndex, ManifestId, OpenError as DecryptError};
use umbel_service::{files, tls};
use umbel_swarm::Source;
use umbel_wire::agent::PeerAddress;

use crate::{
    config::Config,
    content::{Download, Versioned},
    download::{self, Fetch, Petal},
    edge::EdgeError,
    edges::Edges,
    endpoint::{self, EndpointError},
    enroll,
    identity::{Identity, IdentityError},
    limits::Throttle,
    open::{self, OpenError, Opened, Target},
    over_https,
    peer::Dialer,
    presence::{Presence, Wish},
    problem::Problem,
    progress::{Progress, State},
    receipts::Receipts,
    serve::Server,
    service::Wanted,
    store::{self, Arrival, Lease, Store, StoreError, Version},
};

/// Receipts from receivers that wait to be reported.
const FOREIGN_RECEIPTS: usize = 1024;
/// News of one petal that wait for its download.
const NEWS_QUEUE: usize = 64;
/// Versions of earlier runs that a background service offers.
const MAX_OFFERED: usize = 256;
/// The last report of receipts may take this long when the agent closes.
const LAST_REPORT: Duration = Duration::from_secs(5);
const LEAVING: Duration = Duration::from_secs(1);
/// How long the tasks may take to end when the agent closes.
const LAST_TASKS: Duration = Duration::from_secs(5);

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Not enrolled, or damaged.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The state folder's content.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The CA certificate.
    #[error("the installation's certificate")]
    Tls(#[from] tls::TlsError),
    /// The QUIC endpoint.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}

/// Why content could not be had.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// It could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The state folder: quota, disk full.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The download was given up.
    #[error("download failed: {}", .0.message)]
    Failed(Problem),
    /// A chunk does not decrypt, although it is the one its manifest names: the provider's fault.
    #[error("the content does not decrypt")]
    Decrypt(#[from] DecryptError),
    /// The file to save to.
    #[error("cannot write {path}")]
    Save {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The background service says so.
    #[error("{}", .0.message)]
    Remote(Problem),
    /// The background service went away.
    #[error("background service: {0}")]
    Lost(String),
}

/// How a download is to be driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// All of it soon, in any order.
    #[default]
    Bulk,
    /// The beginning first: someone watches.
    Streaming,
}

/// What to get.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct GetRequest {
    /// `https://host[:port]/path`.
    pub url: String,
    /// Grant JWT, where the site needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// How to drive it.
    #[serde(default)]
    pub priority: Priority,
}

impl fmt::Debug for GetRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GetRequest").field("url", &self.url).field("priority", &self.priority).finish_non_exhaustive()
    }
}

/// Plaintext bytes received, by kind of source.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    edge: AtomicU64,
    peers: AtomicU64,
}

impl Traffic {
    pub(crate) fn count(&self, source: Source, bytes: u64) {
        let counter = match source {
            Source::Edge => &self.edge,
            Source::Peer(_) => &self.peers,
        };
        counter.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What every part of the agent leans on.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) me: [u8; 32],
    pub(crate) edges: Edges,
    pub(crate) store: Store,
    pub(crate) receipts: Receipts,
    pub(crate) dialer: Option<Dialer>,
    pub(crate) download_throttle: Arc<Throttle>,
    pub(crate) traffic: Traffic,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// Where one version is offered.
#[derive(Debug)]
struct Offer {
    wants: watch::Sender<Wish>,
    alone: watch::Receiver<bool>,
}

/// A running agent. Close it with [`Agent::close`]; dropping it alone leaves receipts for the next run.
#[derive(Debug)]
pub struct Agent {
    shared: Arc<Shared>,
    endpoint: Option<Endpoint>,
    server: Option<Arc<Server>>,
    address: watch::Sender<PeerAddress>,
    fetches: Mutex<HashMap<ManifestId, Weak<Fetch>>>,
    offers: Mutex<HashMap<ManifestId, Offer>>,
    presences: TaskTracker,
    leave: CancellationToken,
    _stop: tokio_util::sync::DropGuard,
}

impl Agent {
    /// Opens the state folder, goes online, serves peers and resumes what is owed. Fails if the agent is not enrolled.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        tls::install_provider();
        let identity = Identity::load(&config.state)?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let tls = tls::client(&identity.enrolled().ca_pem, None)?;
        let store = open_store(&config).await?;
        let edges = Edges::new(&config.state, identity.clone(), tls, tasks.clone(), stop.clone());
        edges.warm_up();
        let endpoint = if config.peers { Some(endpoint::bind(&config, &identity).await?) } else { None };
        let (foreign, foreign_queue) = mpsc::channel(FOREIGN_RECEIPTS);
        let receipts = Receipts::new(store.clone(), edges.clone(), identity.key(), foreign_queue);
        let server = endpoint.as_ref().map(|_| {
            let (rate, slots) = (config.upload_rate, config.upload_slots);
            Arc::new(Server::new(store.clone(), edges.clone(), identity.agent_id(), rate, slots, foreign))
        });
        let shared = Arc::new(Shared {
            me: identity.agent_id(),
            download_throttle: Arc::new(Throttle::new(config.download_rate)),
            dialer: endpoint.clone().map(Dialer::new),
            traffic: Traffic::default(),
            config,
            edges,
            store,
            receipts,
            tasks,
            stop: stop.clone(),
        });
        let agent = Self {
            address: watch::Sender::new(PeerAddress { peer: shared.me.to_vec().into(), ..PeerAddress::default() }),
            shared,
            endpoint,
            server,
            fetches: Mutex::default(),
            offers: Mutex::default(),
            presences: TaskTracker::new(),
            leave: CancellationToken::new(),
            _stop: stop.drop_guard(),
        };
        agent.spawn(identity);
        Ok(agent)
    }

    fn spawn(&self, identity: Identity) {
        let (shared, stop) = (&self.shared, &self.shared.stop);
        shared.tasks.spawn(enroll::keep_renewed(identity.clone(), stop.clone()));
        shared.tasks.spawn(shared.receipts.clone().run(stop.clone()));
        shared.tasks.spawn(shared.store.clone().keep_pruned(stop.clone()));
        if let (Some(endpoint), Some(server)) = (&self.endpoint, &self.server) {
            let fleet = shared.edges.watch_fleet();
            shared.tasks.spawn(server.clone().run(endpoint.clone(), stop.clone()));
            shared.tasks.spawn(endpoint::follow_address(endpoint.clone(), self.address.clone(), stop.clone()));
            if shared.config.relay {
                shared.tasks.spawn(endpoint::follow_fleet(endpoint.clone(), identity, fleet, stop.clone()));
            }
        }
        if shared.config.offer_held {
            let versions = shared.store.versions();
            for version in versions.into_iter().filter(|version| !version.held().is_empty()).take(MAX_OFFERED) {
                self.offer(&version, false);
            }
        }
    }

    /// Opens `request` and starts to fetch what is missing of it.
    pub async fn get(&self, request: GetRequest) -> Result<Download, GetError> {
        self.get_part(&Wanted { request, from: 0, version: None }).await
    }

    /// The same, of one certain version, if one is named.
    pub(crate) async fn get_part(&self, wanted: &Wanted) -> Result<Download, GetError> {
        let request = &wanted.request;
        let pinned = wanted.version.as_ref().and_then(|version| self.shared.store.version(&version.parse().ok()?));
        let pinned = pinned.as_ref().map(|version| &version.manifest);
        let target = Target::new(&request.url, request.grant.clone())?;
        let want_inline = !self.shared.store.holds_path(target.path());
        let opened = open::open(&self.shared.edges, &self.shared.me, &target, pinned, want_inline, None).await;
        let opened = match opened {
            Err(OpenError::Edge(EdgeError::Unshared { edge })) if wanted.is_from_the_start() => {
                return self.over_https(&edge, &target).await;
            }
            opened => opened?,
        };
        if wanted.version.as_ref().is_some_and(|version| *version != opened.manifest.id().to_string()) {
            return Err(GetError::Failed(Problem::failed("the content was replaced meanwhile; get it again")));
        }
        let record =
            store::record(&opened.signed, &opened.site_key, &opened.site_id, &opened.home_edge, &opened.ticket.text);
        let lease = self.shared.store.adopt(record, opened.manifest.clone()).await?;
        let (opener, version) = (opened.opener.clone(), lease.0.clone());
        let (mut fetch, mut inline) = (None, None);
        let progress = if lease.0.held().is_full() {
            complete(&lease.0)
        } else if let Some(whole) = whole(&opened) {
            inline = Some(whole);
            self.keep(&lease, &opened)
        } else {
            fetch.insert(self.fetch(target, opened, lease.clone())).progress.clone()
        };
        let (streaming, store) = (request.priority == Priority::Streaming, self.shared.store.clone());
        Ok(Download::version(Versioned { store, version, _lease: lease, opener, fetch, inline, progress, streaming }))
    }

    /// What has no version, from the edge that said so.
    async fn over_https(&self, edge: &str, target: &Target) -> Result<Download, GetError> {
        let edge = self.shared.edges.at(edge).map_err(OpenError::from)?;
        let body = over_https::begin(&edge, target, &self.shared).await.map_err(OpenError::from)?;
        Ok(Download::over_https(body))
    }

    /// Writes and credits an object that came whole inside the answer, while readers have it already.
    fn keep(&self, lease: &Lease, opened: &Opened) -> watch::Receiver<Progress> {
        let (shared, lease, total) = (self.shared.clone(), lease.clone(), opened.manifest.layout().length());
        let (sealed, ticket) = (opened.inline.clone(), opened.ticket.clone());
        let (publish, progress) = watch::channel(Progress { total, ..Progress::default() });
        self.shared.tasks.spawn(async move {
            let arrival = Arrival { version: lease.0.clone(), chunk: ChunkIndex::new(0), sealed, ticket };
            let written = shared.store.write(arrival).await;
            if let Ok(true) = written {
                shared.traffic.count(Source::Edge, total);
            }
            publish.send_modify(|progress| match written {
                Ok(true) => (progress.state, progress.from_edge) = (State::Complete, total),
                Ok(false) => (progress.state, progress.from_disk) = (State::Complete, total),
                Err(error) => progress.state = State::Failed(error.into()),
            });
        });
        progress
    }

    /// The fetch of this version: the one that runs, or a new one.
    fn fetch(&self, target: Target, opened: Opened, lease: Lease) -> Arc<Fetch> {
        let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        fetches.retain(|_, fetch| fetch.strong_count() > 0);
        let running = fetches.get(&lease.0.id).and_then(Weak::upgrade);
        if let Some(fetch) = running.filter(|fetch| fetch.progress.borrow().state == State::Running) {
            return fetch;
        }
        let (id, petal) = (lease.0.id, self.petal(&opened, &lease.0));
        let fetch = Arc::new(download::start(&self.shared, target, opened, lease, petal));
        fetches.insert(id, Arc::downgrade(&fetch));
        fetch
    }

    fn petal(&self, opened: &Opened, version: &Arc<Version>) -> Option<Petal> {
        if opened.home_edge.is_empty() {
            return None;
        }
        // Before the offer, so that the end of an older fetch cannot undo it.
        let (room, news) = mpsc::channel(NEWS_QUEUE);
        self.shared.edges.subscribe(version.id, room);
        if !self.offer(version, true) {
            drop(news);
            self.shared.edges.unsubscribe(&version.id, || {});
            return None;
        }
        let offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        let offer = offers.get(&version.id)?;
        let mut alone = offer.alone.clone();
        // It may be so already.
        alone.mark_changed();
        Some(Petal { news, alone, wants: offer.wants.clone() })
    }

    /// Takes this version's place in its petal. False: it is not shared. Objects of one chunk come inside the edge's first
    /// answer: sharing them would cost more than it saves.
    fn offer(&self, version: &Arc<Version>, wants: bool) -> bool {
        if self.endpoint.is_none() || version.home_edge.is_empty() || version.manifest.layout().chunks() < 2 {
            return false;
        }
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        offers.retain(|_, offer| !offer.wants.is_closed());
        if let Some(offer) = offers.get(&version.id) {
            if wants {
                offer.wants.send_modify(|wish| *wish = Wish { fetch: wish.fetch + 1, open: true });
            }
        } else {
            let (wants, wanted) = watch::channel(Wish { fetch: 0, open: wants });
            let (alone, is_alone) = watch::channel(false);
            offers.insert(version.id, Offer { wants, alone: is_alone });
            self.presences.spawn(
                Presence {
                    edges: self.shared.edges.clone(),
                    version: version.clone(),
                    address: self.address.subscribe(),
                    wants: wanted,
                    alone,
                    stop: self.leave.clone(),
                }
                .run(),
            );
        }
        true
    }

    /// Drops all cached content that is not in use; how many versions went.
    pub async fn flush(&self) -> Result<usize, StoreError> {
        self.shared.store.flush().await
    }

    /// Reports all receipts; how many stay behind for want of an edge.
    pub async fn flush_receipts(&self) -> usize {
        self.shared.receipts.flush().await
    }

    /// How the agent is.
    pub fn status(&self) -> Status {
        let shared = &self.shared;
        let (disk_used, disk_quota) = shared.store.disk();
        let sent = self.server.as_ref().map(|server| &server.counters);
        Status {
            agent: hex::encode(shared.me),
            sessions: shared.edges.sessions(),
            peers: shared.dialer.as_ref().map_or(0, Dialer::connected),
            from_edges: shared.traffic.edge.load(Ordering::Relaxed),
            from_peers: shared.traffic.peers.load(Ordering::Relaxed),
            to_peers: sent.map_or(0, |counters| counters.sent.load(Ordering::Relaxed)),
            refused_tickets: sent
                .map_or(0, |counters| counters.refused.iter().map(|count| count.load(Ordering::Relaxed)).sum()),
            versions: shared.store.count(),
            receipts_owed: shared.store.owed_count(),
            disk_used,
            disk_quota,
            upload_rate: shared.config.upload_rate,
            download_rate: shared.config.download_rate,
            address: self.address.borrow().direct.clone(),
        }
    }

    /// Where peers reach this agent, once that is known. Empty: it does without peers, or it is closing.
    pub async fn address(&self) -> Vec<String> {
        if self.endpoint.is_none() {
            return Vec::new();
        }
        let mut address = self.address.subscribe();
        let known = address.wait_for(|address| !address.direct.is_empty());
        tokio::select! {
            known = known => known.map(|address| address.direct.clone()).unwrap_or_default(),
            () = self.leave.cancelled() => Vec::new(),
        }
    }

    /// Leaves all petals, reports receipts, ends every task. Nothing of the agent runs after this.
    pub async fn close(self) {
        let shared = self.shared.clone();
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.leave.cancel();
        self.presences.close();
        let _left = tokio::time::timeout(LEAVING, self.presences.wait()).await;
        match tokio::time::timeout(LAST_REPORT, shared.receipts.flush()).await {
            Ok(0) => {}
            Ok(left) => info!(left, "receipts wait for the next run"),
            Err(_) => warn!("receipts wait for the next run: the edge does not answer"),
        }
        shared.stop.cancel();
        if let Some(dialer) = &shared.dialer {
            dialer.close();
        }
        shared.tasks.close();
        if tokio::time::timeout(LAST_TASKS, shared.tasks.wait()).await.is_err() {
            warn!(left = shared.tasks.len(), "tasks do not end; closing without them");
        }
        if let Some(endpoint) = &self.endpoint {
            endpoint.close().await;
        }
        shared.store.close().await;
    }
}

async fn open_store(config: &Config) -> Result<Store, StoreError> {
    let (state, quota) = (config.state.clone(), config.disk_quota);
    files::private_folder(&state)?;
    let opened = tokio::task::spawn_blocking(move || Store::open(&state, quota)).await;
    opened.map_err(|_| StoreError::Closed)?
}

/// The ciphertext of an object of one chunk, if it came inside the answer.
fn whole(opened: &Opened) -> Option<Bytes> {
    let whole = opened.manifest.layout().chunks() == 1 && !opened.inline.is_empty();
    whole.then(|| opened.inline.clone())
}

/// Progress of a version that is all here.
fn complete(version: &Version) -> watch::Receiver<Progress> {
    let total = version.manifest.layout().length();
    watch::channel(Progress { state: State::Complete, total, from_disk: total, ..Progress::default() }).1
}

/// How an agent is. Bytes count since it started; of content if received, of ciphertext if sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Public key, hex.
    pub agent: String,
    /// Edges with an open session.
    pub sessions: Vec<String>,
    /// Peers that we are connected to as a receiver.
    pub peers: usize,
    /// Bytes received from edges.
    pub from_edges: u64,
    /// Bytes received from peers.
    pub from_peers: u64,
    /// Bytes sent to peers.
    pub to_peers: u64,
    /// Requests of peers that were refused.
    pub refused_tickets: u64,
    /// Versions held, in part or in full.
    pub versions: usize,
    /// Tickets with bytes that no edge has acknowledged yet.
    pub receipts_owed: usize,
    /// Bytes of ciphertext on disk.
    pub disk_used: u64,
    /// How many there may be.
    pub disk_quota: u64,
    /// Bytes per second; 0: no limit.
    pub upload_rate: u64,
    /// Bytes per second; 0: no limit.
    pub download_rate: u64,
    /// Where peers reach this agent.
    pub address: Vec<String>,
}
