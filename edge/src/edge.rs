//! Puts the stations together, runs them, and stops them in order.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use iroh_relay::server::Server as Relay;
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Channel;
use tracing::{info, warn};
use umbel_service::{
    config::ConfigError,
    files,
    installation::Installation,
    listen::{Lanes, Listener},
    node::Node,
    ops::Ops,
    passing::Tunnels,
    tls::{self, LiveCertificate},
};
use umbel_wire::token::TokenSigner;

use crate::{
    access::Grants,
    access_log::{AccessLog, AccessLogTarget},
    agents::session::Sessions,
    cache::{self, Origins},
    certificates::Certificates,
    config::Config,
    core::Core,
    deliver::{Encodings, Limiter},
    fill::Fill,
    fleet::Fleet,
    listen::{self, Doors, Public},
    lookup::{
        Lookup,
        table::{Table, TableWriter},
    },
    meter::Meter,
    metrics::Metrics,
    petal::{PetalActor, PetalHandle},
    plaintext::Plaintext,
    relay,
    reload::{Live, Reloaded},
    spool::{self, Spool},
    uplink::Uplink,
    view::Current,
};

/// For what still runs when the doors are closed.
const LAST_WORK: Duration = Duration::from_secs(10);

const GAUGES_EVERY: Duration = Duration::from_secs(1);

/// Who an edge is, and whom it reports to.
pub struct Identity {
    /// Given by the control plane.
    pub node_id: String,
    /// The installation's CA in PEM.
    pub ca: String,
    /// Shown on every port and to every other server.
    pub certificate: Arc<LiveCertificate>,
    /// Ed25519 seed that tickets are signed with; its public half is in the installation.
    pub ticket_seed: [u8; 32],
    /// Where usage goes; none: it stays in the spool.
    pub control: Option<Channel>,
    /// Asked for a new certificate when hosts are missing in the present one.
    pub node: Option<Arc<Node>>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("node_id", &self.node_id).finish_non_exhaustive()
    }
}

/// Where an edge listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Readers and agents.
    pub public: SocketAddr,
    /// Readers without TLS.
    pub plain: Option<SocketAddr>,
    /// Other edges.
    pub internal: SocketAddr,
    /// iroh relay.
    pub relay: SocketAddr,
    /// Address discovery, UDP.
    pub relay_quic: SocketAddr,
    /// Health and metrics.
    pub ops: SocketAddr,
}

/// A running edge. Dropped, it stops at once, as if it were killed; [`Edge::stop`] lets it finish.
#[derive(Debug)]
pub struct Edge {
    ports: Ports,
    core: Arc<Core>,
    ops: Ops,
    live: Live,
    /// Ends when the doors are closed.
    servers: JoinSet<()>,
    /// Runs until nothing is left to write down.
    background: JoinSet<()>,
    background_end: CancellationToken,
    relay: Relay,
    /// Readers' connections run here, and what they began.
    lanes: Arc<Lanes>,
}

/// What runs beside the requests, and when it ends.
struct Beside {
    shutdown: CancellationToken,
    table: TableWriter,
    petal: PetalActor,
}

impl Edge {
    /// Starts an edge that follows `installation`, until `shutdown`.
    pub async fn start(
        config: Config,
        identity: Identity,
        installation: watch::Receiver<Arc<Installation>>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        tls::install_provider();
        files::private_folder(&config.state).with_context(|| format!("state folder {}", config.state.display()))?;
        let (core, beside) = build(&config, &identity, &installation, shutdown).await?;
        let live = Live::new(&config, identity.certificate.clone());
        live.certificates.follow(&installation.borrow());
        let doors = Doors::open(&config, &identity, &live).await?;
        let relay = relay::start(core.clone(), &config, identity.certificate.clone()).await?;
        let ports = ports(&doors, &relay)?;
        let ops = Ops::new("umbel_edge");
        ops.register(|registry| core.metrics.register(registry));
        let background_end = CancellationToken::new();
        let Doors { public, plain, internal, ops: ops_door, lanes } = doors;
        let mut servers = serve(public, plain, internal, &core);
        let rules = live.rules.clone();
        servers.spawn(core.tunnels.clone().drain(core.shutdown.clone(), move || rules.load().limits.drain));
        let mut background = run_beside(&core, beside, identity.control.clone(), &background_end);
        let following = follow(core.clone(), live.certificates.clone(), identity, installation, ops.clone());
        background.spawn(until(background_end.clone(), following));
        // Answers to the end: "not ready" is an answer.
        background.spawn(ops_door.serve(listen::ops_app(&ops), background_end.clone()));
        background.spawn(until(background_end.clone(), unready_at(core.shutdown.clone(), ops.clone())));
        background.spawn(until(background_end.clone(), live.watch(core.metrics.clone())));
        let service = relay.relay_service().context("the relay does not run")?.clone();
        background.spawn(until(background_end.clone(), relay::drop_revoked(core.clone(), service)));
        info!(node = core.node_id, ?ports, "edge is open");
        Ok(Self { ports, core, ops, live, servers, background, background_end, relay, lanes })
    }

    /// Where it really listens.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// The version of the configuration that requests are answered by.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.core.view.changes()
    }

    /// Health and metrics, as its ops port shows them.
    pub fn ops(&self) -> &Ops {
        &self.ops
    }

    /// Takes over what can change while it runs. See [`crate::LIVE`].
    ///
    /// # Errors
    /// A new folder of certificates is not as it should be: then nothing is taken over.
    pub async fn reload(&mut self, config: &Config) -> Result<Reloaded, ConfigError> {
        self.live.reload(config, &self.core.metrics).await
    }

    /// Chunks that came from origins and from other edges since the start.
    pub fn fills(&self) -> (u64, u64) {
        (self.core.metrics.fills("origin"), self.core.metrics.fills("edge"))
    }

    /// Opens the access log anew, after its file has been moved away.
    pub fn reopen_log(&self) {
        if let Some(log) = &self.core.log {
            log.reopen();
        }
    }

    /// Stops taking requests, finishes those that run, says goodbye to agents, writes everything down.
    pub async fn stop(mut self) {
        self.core.shutdown.cancel();
        while self.servers.join_next().await.is_some() {}
        self.core.halt.cancel();
        self.core.tasks.close();
        if timeout(LAST_WORK, self.core.tasks.wait()).await.is_err() {
            warn!("some work did not end in time");
        }
        let lanes = tokio::task::spawn_blocking(move || drop(self.lanes));
        if timeout(LAST_WORK, lanes).await.is_err() {
            warn!("a thread of readers' connections does not end");
        }
        self.background_end.cancel();
        if timeout(LAST_WORK, async { while self.background.join_next().await.is_some() {} }).await.is_err() {
            self.background.shutdown().await;
        }
        if let Err(error) = self.relay.shutdown().await {
            warn!(%error, "the relay did not stop cleanly");
        }
        self.core.fill.close().await;
        self.core.cache.close().await;
        info!("edge is closed");
    }
}

async fn build(
    config: &Config,
    identity: &Identity,
    installation: &watch::Receiver<Arc<Installation>>,
    shutdown: CancellationToken,
) -> anyhow::Result<(Arc<Core>, Beside)> {
    let (limits, tasks, metrics) = (&config.limits, TaskTracker::new(), Metrics::default());
    let client_tls = tls::client(&identity.ca, Some(identity.certificate.clone()))?;
    let fleet = Arc::new(Fleet::new(&identity.node_id, client_tls.clone()));
    let (lookups, table) = Table::open(&config.state.join("lookup.redb"), limits.lookup_entries)?;
    let halt = CancellationToken::new();
    let ends = || (tasks.clone(), halt.clone());
    let current = installation.borrow().clone();
    fleet.update(&current);
    let view = Arc::new(Current::new(&identity.node_id, current.clone()));
    let origins = Origins::new(fleet.clone(), view.clone(), &client_tls);
    let cache = cache::open(&config.state.join("bodies"), limits, origins, ends()).await?;
    let fill = Fill::open(&config.state.join("chunks"), limits, fleet.clone(), metrics.clone(), ends()).await?;
    let fill = Arc::new(fill);
    let spool =
        Arc::new(Spool::open(&config.state.join("spool"), limits.spool).context("cannot open the usage spool")?);
    let signer = TokenSigner::from_seed(identity.node_id.as_str(), &identity.ticket_seed);
    let (petal, actor) = PetalHandle::new(&identity.node_id, signer.clone());
    let core = Arc::new(Core {
        node_id: identity.node_id.clone(),
        signer,
        view,
        grants: Grants::new(),
        lookup: Arc::new(Lookup::new(fleet.clone(), Arc::new(lookups), tasks.clone(), halt.clone())),
        plaintext: Plaintext::new(limits.plaintext_cache, fill.clone(), metrics.clone(), tasks.clone(), halt.clone()),
        cache,
        encodings: Encodings::new(limits.plaintext_cache / 8, metrics.clone()),
        limiter: Limiter::new(metrics.clone()),
        log: config.access_log.clone().map(|target| open_log(target, config, &metrics)).transpose()?,
        meter: Meter { spool: spool.clone(), reader_bytes: metrics.reader_bytes.clone() },
        sessions: Sessions::new(limits.sessions),
        uplink: limits.uplink.map(Uplink::new),
        fleet,
        fill,
        spool,
        metrics,
        petal,
        tunnels: Tunnels::new(&halt),
        tasks,
        shutdown: shutdown.clone(),
        halt,
    });
    core.apply(current);
    Ok((core, Beside { shutdown, table, petal: actor }))
}

fn open_log(target: AccessLogTarget, config: &Config, metrics: &Metrics) -> anyhow::Result<Arc<AccessLog>> {
    Ok(Arc::new(AccessLog::open(target, config.access_log_format, metrics.access_log_dropped.clone())?))
}

fn ports(doors: &Doors, relay: &Relay) -> anyhow::Result<Ports> {
    Ok(Ports {
        public: doors.public.local_addr()?,
        plain: doors.plain.as_ref().map(Listener::local_addr).transpose()?,
        internal: doors.internal.local_addr()?,
        relay: relay.https_addr().context("the relay has no address")?,
        relay_quic: relay.quic_addr().context("address discovery has no address")?,
        ops: doors.ops.local_addr()?,
    })
}

fn serve(public: Listener, plain: Option<Listener>, internal: Listener, core: &Arc<Core>) -> JoinSet<()> {
    let mut servers = JoinSet::new();
    let shutdown = &core.shutdown;
    let app = Public::new(core.clone());
    if let Some(plain) = plain {
        servers.spawn(plain.serve(app.clone(), shutdown.clone()));
    }
    servers.spawn(public.serve(app, shutdown.clone()));
    servers.spawn(internal.serve(listen::internal_app(core.clone()), shutdown.clone()));
    servers
}

fn run_beside(core: &Arc<Core>, beside: Beside, control: Option<Channel>, end: &CancellationToken) -> JoinSet<()> {
    let mut background = JoinSet::new();
    let Beside { shutdown, table, petal } = beside;
    background.spawn(core.spool.clone().run(end.clone()));
    if let Some(channel) = control {
        background.spawn(spool::send::run(core.spool.clone(), channel, end.clone()));
    }
    background.spawn(core.fleet.clone().probe(shutdown));
    background.spawn(table.run(end.clone()));
    background.spawn(until(end.clone(), petal.run()));
    background.spawn(until(end.clone(), watch_gauges(core.clone())));
    background
}

async fn until(end: CancellationToken, work: impl Future<Output = ()>) {
    end.run_until_cancelled(work).await;
}

async fn unready_at(shutdown: CancellationToken, ops: Ops) {
    shutdown.cancelled().await;
    ops.set_ready(false);
}

async fn watch_gauges(core: Arc<Core>) {
    let mut ticks = tokio::time::interval(GAUGES_EVERY);
    loop {
        ticks.tick().await;
        core.metrics.spool_bytes.set(i64::try_from(core.spool.bytes()).unwrap_or(i64::MAX));
    }
}

/// Takes over each version of the configuration.
async fn follow(
    core: Arc<Core>,
    certificates: Arc<Certificates>,
    identity: Identity,
    mut installation: watch::Receiver<Arc<Installation>>,
    ops: Ops,
) {
    loop {
        let current = installation.borrow_and_update().clone();
        ops.set_ready(current.version > 0 && !core.shutdown.is_cancelled());
        renew_if_hosts_are_missing(&identity, &current);
        core.fleet.update(&current);
        certificates.follow(&current);
        core.apply(current);
        if installation.changed().await.is_err() {
            return;
        }
    }
}

fn renew_if_hosts_are_missing(identity: &Identity, installation: &Installation) {
    let (Some(node), Some(leaf)) = (&identity.node, identity.certificate.leaf()) else { return };
    let names = tls::names_and_end(&leaf).map(|(names, _)| names).unwrap_or_default();
    let mut hosts = installation.sites.values().flat_map(|site| &site.hosts);
    if let Some(host) = hosts.find(|host| !names.iter().any(|name| tls::covers(name, host))) {
        info!(host, "asking for a certificate that has all hosts");
        node.renew_soon();
    }
}
