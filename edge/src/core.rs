//! What all stations of an edge share.

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use umbel_service::{installation::Installation, passing::Tunnels};
use umbel_wire::token::TokenSigner;

use crate::{
    access::Grants,
    access_log::AccessLog,
    agents::session::Sessions,
    cache::Cache,
    deliver::{Encodings, Limiter},
    fill::Fill,
    fleet::Fleet,
    lookup::Lookup,
    meter::Meter,
    metrics::Metrics,
    petal::PetalHandle,
    plaintext::Plaintext,
    spool::Spool,
    uplink::Uplink,
    view::Current,
};

/// The parts of one edge.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) node_id: String,
    pub(crate) signer: TokenSigner,
    pub(crate) view: Arc<Current>,
    /// Those that readers of private sites have shown.
    pub(crate) grants: Grants,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) lookup: Arc<Lookup>,
    pub(crate) fill: Arc<Fill>,
    pub(crate) plaintext: Plaintext,
    /// Of sites that are pulled.
    pub(crate) cache: Arc<Cache>,
    pub(crate) encodings: Encodings,
    pub(crate) limiter: Limiter,
    pub(crate) spool: Arc<Spool>,
    pub(crate) meter: Meter,
    pub(crate) log: Option<Arc<AccessLog>>,
    pub(crate) metrics: Metrics,
    pub(crate) sessions: Sessions,
    pub(crate) petal: PetalHandle,
    pub(crate) uplink: Option<Uplink>,
    /// Readers' upgraded connections.
    pub(crate) tunnels: Tunnels,
    pub(crate) tasks: TaskTracker,
    /// No more requests are taken.
    pub(crate) shutdown: CancellationToken,
    /// No request waits for anything any more: what is still fetched is for nobody.
    pub(crate) halt: CancellationToken,
}

impl Core {
    /// Requests are answered by this version from now on. First the caches learn what was purged, and before them the way to
    /// origins: a question that goes out afterwards is not answered by an origin that knows less.
    pub(crate) fn apply(&self, installation: Arc<Installation>) {
        self.fleet.set_version(installation.version);
        self.cache.apply(&installation.purges);
        self.lookup.apply(&installation.purges);
        self.view.replace(installation);
    }

    /// Waits until so many bytes may leave.
    pub(crate) async fn pace(&self, bytes: usize) {
        if let Some(uplink) = &self.uplink {
            uplink.take(bytes).await;
        }
    }
}
