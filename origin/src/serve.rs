//! Builds the origin from its configuration and runs it until it is told to stop.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};
use umbel_service::{
    follow::{self, Follower},
    installation::Installation,
    listen::{App, Lanes, Limits, Listener},
    node::Node,
    ops::Ops,
    passing::Tunnels,
    tls::{self, ClientAuth, LiveCertificate},
};
use umbel_wire::invitation::Purpose;

use crate::{
    config::Config,
    edges::Edges,
    meter::Meter,
    pull::{Pull, PullSettings},
    s3,
    store::Store,
    sweep::{Keep, Sweep},
    version::Shelf,
};

/// How often the store is asked whether it is there.
const CHECK: Duration = Duration::from_secs(5);

/// Joins if it has to, follows the control plane, and serves until `shutdown`.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let node = Node::enter(&config.state, Purpose::Origin, config.join.as_deref(), config.addresses(), &[]).await?;
    let node = Arc::new(node);
    let follower = Follower::load(&config.state)?;
    let identity = Identity { ca: node.ca.clone(), certificate: node.certificate.clone() };
    let store = Store::open(&config.store, &config.store_s3)?;
    let origin = Origin::start(&config, store, identity, follower.subscribe(), shutdown.clone()).await?;
    let mut upkeep = JoinSet::new();
    // Requests are answered by whatever is in force, which it is before it is written.
    upkeep.spawn(follow::confirm(node.clone(), follower.written(), follower.written(), shutdown.clone()));
    upkeep.spawn(follower.run(node.clone(), shutdown.clone()));
    let addresses = config.addresses();
    let until = shutdown.clone();
    upkeep.spawn(async move { node.keep_renewed(addresses, until).await });
    let mut serving = Box::pin(origin.wait());
    let stopped = tokio::select! {
        stopped = &mut serving => stopped,
        // Told to stop, or broken: either way requests that run are finished first.
        Some(task) = upkeep.join_next() => {
            shutdown.cancel();
            task.context("a part of the origin broke").flatten().and(serving.await)
        }
    };
    shutdown.cancel();
    while let Some(task) = upkeep.join_next().await {
        task??;
    }
    stopped
}

/// What an origin shows and whom it believes.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The installation's CA, PEM.
    pub ca: String,
    /// For S3 clients and edges alike.
    pub certificate: Arc<LiveCertificate>,
}

/// A running origin.
#[derive(Debug)]
pub struct Origin {
    /// Where S3 clients reach it.
    pub s3: SocketAddr,
    /// Where edges reach it.
    pub internal: SocketAddr,
    /// Where health and metrics are.
    pub ops: SocketAddr,
    sweep: Sweep,
    tasks: JoinSet<()>,
    /// What is being asked of providers' servers. It ends after those who may be waiting for it.
    pulls: TaskTracker,
    pulls_end: CancellationToken,
    /// Edges' connections run here, and the questions that they began: it ends last.
    _lanes: Arc<Lanes>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.pulls_end.cancel();
    }
}

fn pull_settings(config: &Config) -> PullSettings {
    PullSettings {
        networks: config.pull_networks.clone(),
        roots: config.pull_ca.clone(),
        memory: config.pull_memory,
        disk: config.pull_disk,
        folder: config.state.join("pulled"),
    }
}

impl Origin {
    /// Binds and serves. `installation` may come from a control plane or from a test. What `config` says about joining and
    /// where the store lies is not looked at.
    pub async fn start(
        config: &Config,
        store: Store,
        identity: Identity,
        installation: watch::Receiver<Arc<Installation>>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        let ops = Ops::new("umbel_origin");
        let meter = Meter::default();
        ops.register(|registry| meter.register(registry));
        let s3_tls = tls::server(identity.certificate.clone(), ClientAuth::None)?;
        let s3_listener =
            Listener::bind(config.s3_listen, (!config.s3_plain).then_some(s3_tls), Limits::default()).await?;
        let internal_tls = tls::server(identity.certificate, ClientAuth::Required(&identity.ca))?;
        let lanes = Arc::new(Lanes::start().context("threads for connections")?);
        let internal_listener = Listener::bind(config.internal_listen, Some(internal_tls), Limits::default()).await?;
        let ops_listener = Listener::bind(config.ops_listen, None, Limits::default()).await?;

        let keep = Keep {
            replaced: config.replaced_versions_kept,
            uploads: config.uploads_kept,
            deleted_sites: config.deleted_sites_kept,
        };
        let sweep = Sweep::new(store.clone(), keep, installation.clone(), meter.clone());
        let mut origin = Self {
            s3: s3_listener.local_addr()?,
            internal: internal_listener.local_addr()?,
            ops: ops_listener.local_addr()?,
            sweep: sweep.clone(),
            tasks: JoinSet::new(),
            pulls: TaskTracker::new(),
            pulls_end: CancellationToken::new(),
            _lanes: lanes.clone(),
        };
        let shelf = Shelf::new(store.clone());
        let s3_app = s3::app(shelf.clone(), installation.clone(), meter.clone());
        let pulls = (origin.pulls.clone(), origin.pulls_end.clone());
        let tunnels = Tunnels::new(&origin.pulls_end);
        let pull = Pull::open(&pull_settings(config), &shelf, installation.clone(), pulls, tunnels.clone()).await?;
        let edges_door = Edges::new(store.clone(), pull, installation.clone(), meter.clone()).door();
        origin.serve(s3_listener, s3_app, &shutdown);
        origin.serve(internal_listener.on(lanes), edges_door, &shutdown);
        origin.serve(ops_listener, ops.app(), &shutdown);
        origin.tasks.spawn(tunnels.drain(shutdown.clone(), || Limits::default().drain));
        origin.tasks.spawn(sweep.run(shutdown.clone()));
        origin.tasks.spawn(watch_store(store, installation, ops, meter, shutdown));
        info!(s3 = %origin.s3, internal = %origin.internal, ops = %origin.ops, "origin started");
        Ok(origin)
    }

    fn serve(&mut self, listener: Listener, app: impl App, shutdown: &CancellationToken) {
        self.tasks.spawn(listener.serve(app, shutdown.clone()));
    }

    /// Removes what is due now, rather than when its time comes.
    pub async fn sweep(&self) -> anyhow::Result<()> {
        self.sweep.once().await.context("sweep not finished")
    }

    /// Returns when everything has stopped, with an error if something stopped that should not have.
    pub async fn wait(mut self) -> anyhow::Result<()> {
        while let Some(task) = self.tasks.join_next().await {
            task.context("a part of the origin broke")?;
        }
        self.pulls_end.cancel();
        self.pulls.close();
        self.pulls.wait().await;
        Ok(())
    }
}

/// Ready while the store answers and the installation is known.
async fn watch_store(
    store: Store,
    installation: watch::Receiver<Arc<Installation>>,
    ops: Ops,
    meter: Meter,
    shutdown: CancellationToken,
) {
    loop {
        let checked = tokio::select! {
            () = shutdown.cancelled() => break,
            checked = store.check() => checked,
        };
        if let Err(error) = &checked {
            warn!(error = error as &dyn std::error::Error, "the store does not answer");
        }
        meter.store_up.set(i64::from(checked.is_ok()));
        ops.set_ready(checked.is_ok() && installation.borrow().version > 0);
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(CHECK) => {}
        }
    }
    ops.set_ready(false);
}
