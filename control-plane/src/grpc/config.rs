//! `umbel.control.v1.Config`.

use std::{pin::Pin, time::Duration};

use futures::{Stream, stream};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tonic::{Request, Response, Status, async_trait};
use umbel_service::tls::PeerIdentity;
use umbel_wire::control::{
    Change, ConfigEvent, ConfirmReply, ConfirmRequest, WatchRequest, config_event::Event, config_server::Config,
};

use uuid::Uuid;

use super::caller;
use crate::{changes, error::Result, nodes, presence::Here, purges, state::ControlPlane};

const HEARTBEAT: Duration = Duration::from_secs(10);
/// After Postgres failed to say what changed.
const RETRY: Duration = Duration::from_secs(1);

#[async_trait]
impl Config for ControlPlane {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<ConfigEvent, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (node, _) = caller(self, &request).await?;
        // `caller` found it, or it would have refused.
        let peer = request.extensions().get::<PeerIdentity>().cloned();
        let peer = peer.ok_or_else(|| Status::unauthenticated("no client certificate"))?;
        let watcher = Watcher::new(self.clone(), node, peer, request.get_ref().since);
        let events = stream::unfold(Some(watcher), |watcher| async {
            let mut watcher = watcher?;
            match watcher.next().await? {
                Ok(event) => Some((Ok(event), Some(watcher))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn confirm(&self, request: Request<ConfirmRequest>) -> Result<Response<ConfirmReply>, Status> {
        let (node, _) = caller(self, &request).await?;
        purges::confirm(&self.db, node, request.get_ref().version).await?;
        Ok(Response::new(ConfirmReply {}))
    }
}

/// One node's place in the history.
struct Watcher {
    state: ControlPlane,
    peer: PeerIdentity,
    head: watch::Receiver<i64>,
    since: u64,
    /// Nothing was sent yet: the first event tells the node where it stands, even if nothing changed.
    fresh: bool,
    next_heartbeat: Instant,
    _counted: Counted,
    _here: Here,
}

/// One in the gauge for as long as it lives.
struct Counted(Gauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Watcher {
    fn new(state: ControlPlane, node: Uuid, peer: PeerIdentity, since: u64) -> Self {
        let gauge = state.metrics.watchers.clone();
        gauge.inc();
        Self {
            head: state.head.clone(),
            _here: state.presence.enter(node),
            state,
            peer,
            since,
            fresh: true,
            next_heartbeat: Instant::now() + HEARTBEAT,
            _counted: Counted(gauge),
        }
    }

    /// The next event, however long it takes; none: the control plane is stopping.
    async fn next(&mut self) -> Option<Result<ConfigEvent, Status>> {
        let shutdown = self.state.shutdown.clone();
        let event = shutdown.run_until_cancelled(self.event()).await?;
        self.next_heartbeat = Instant::now() + HEARTBEAT;
        self.fresh = false;
        if let Ok(event) = &event {
            self.since = event.version;
        }
        Some(event)
    }

    async fn event(&mut self) -> Result<ConfigEvent, Status> {
        let mut look_at = Instant::now();
        loop {
            let behind = self.fresh || self.head.borrow_and_update().unsigned_abs() > self.since;
            if behind && Instant::now() >= look_at {
                match self.look().await {
                    Ok(event) => return Ok(event),
                    Err(error) if error.is_away() => look_at = Instant::now() + RETRY,
                    Err(error) => return Err(error.into()),
                }
            }
            tokio::select! {
                // The sender lives as long as the control plane.
                Ok(()) = self.head.changed() => {}
                () = sleep_until(look_at), if behind => {}
                () = sleep_until(self.next_heartbeat) => return Ok(self.heartbeat()),
            }
        }
    }

    async fn look(&self) -> Result<ConfigEvent> {
        let (_, role) = nodes::member(&self.state.db, &self.peer).await?;
        changes::event_since(&self.state.db, role, self.since).await
    }

    fn heartbeat(&self) -> ConfigEvent {
        ConfigEvent { version: self.since, event: Some(Event::Change(Change::default())) }
    }
}
