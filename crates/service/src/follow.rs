//! Follows the control plane's configuration: starts from what was last written down, applies each event, tells the
//! service, and writes it down. While the control plane is away, the last configuration stays in force.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use backon::{BackoffBuilder, ExponentialBuilder};
use prost::Message;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use umbel_wire::control::{ConfigEvent, WatchRequest, config_client::ConfigClient};

use crate::{files, installation::Installation, node::Node};

/// The control plane speaks at least every 10 s.
const SILENCE: Duration = Duration::from_secs(35);

/// Snapshots of large installations.
const MAX_EVENT_BYTES: usize = 256 * 1024 * 1024;

/// Keeps an [`Installation`] current.
#[derive(Debug)]
pub struct Follower {
    file: PathBuf,
    current: watch::Sender<Arc<Installation>>,
}

impl Follower {
    /// Starts from the file in `folder`, if it is there and whole.
    pub fn load(folder: &Path) -> anyhow::Result<Self> {
        let file = folder.join("installation.pb");
        let mut installation = Installation::default();
        if let Some(bytes) = files::read(&file).context("cannot read the last configuration")? {
            match ConfigEvent::decode(bytes.as_slice()) {
                Ok(event) => drop(installation.apply(event)),
                Err(error) => warn!(%error, "the last configuration is damaged, waiting for a new one"),
            }
        }
        Ok(Self { file, current: watch::Sender::new(Arc::new(installation)) })
    }

    /// Sees every version from now on, and has the current one at once.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Installation>> {
        self.current.subscribe()
    }

    /// Follows until `shutdown`, reconnecting with growing pauses.
    pub async fn run(self, node: Arc<Node>, shutdown: CancellationToken) -> anyhow::Result<()> {
        let channel = node.control_channel()?;
        let mut pauses = pauses();
        loop {
            let version = self.current.borrow().version;
            let ended = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                ended = self.watch(ConfigClient::new(channel.clone())) => ended,
            };
            if self.current.borrow().version != version {
                pauses = self::pauses();
            }
            let pause = pauses.next().unwrap_or(Duration::from_secs(10));
            warn!(reason = format!("{ended:#}"), ?pause, "configuration stream ended, the last one stays in force");
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn watch(&self, client: ConfigClient<tonic::transport::Channel>) -> anyhow::Error {
        let mut client = client.max_decoding_message_size(MAX_EVENT_BYTES);
        let since = self.current.borrow().version;
        let mut events = match client.watch(WatchRequest { since }).await {
            Ok(reply) => reply.into_inner(),
            Err(status) => return status.into(),
        };
        loop {
            match timeout(SILENCE, events.message()).await {
                Ok(Ok(Some(event))) => self.apply(event),
                Ok(Ok(None)) => return anyhow::anyhow!("closed by the control plane"),
                Ok(Err(status)) => return status.into(),
                Err(_) => return anyhow::anyhow!("silent for {SILENCE:?}"),
            }
        }
    }

    /// In force first: on a full disk revocations still count, they are only not known after a restart.
    fn apply(&self, event: ConfigEvent) {
        let mut next = Installation::clone(&self.current.borrow());
        if next.apply(event) {
            info!(version = next.version, sites = next.sites.len(), nodes = next.nodes.len(), "configuration applied");
            let next = Arc::new(next);
            self.current.send_replace(next.clone());
            if let Err(error) = files::replace(&self.file, &next.snapshot().encode_to_vec()) {
                warn!(%error, file = %self.file.display(), "the configuration is in force but cannot be written down");
            }
        }
    }
}

fn pauses() -> impl Iterator<Item = Duration> {
    let pauses = ExponentialBuilder::default().with_jitter().with_min_delay(Duration::from_millis(200));
    pauses.with_max_delay(Duration::from_secs(10)).without_max_times().build()
}
