//! Follows the control plane's configuration: starts from what was last written down, applies each event, tells the
//! service, writes it down, and confirms it. While the control plane is away, the last configuration stays in force; but what
//! was stored before a restart counts as stale until the control plane has said what was purged meanwhile.

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
use tracing::{debug, info, warn};
use umbel_http_cache::Purges;
use umbel_wire::control::{ConfigEvent, ConfirmRequest, WatchRequest, config_client::ConfigClient};

use crate::{files, installation::Installation, node::Node};

/// The control plane speaks at least every 10 s.
const SILENCE: Duration = Duration::from_secs(35);

/// The control plane hears at least so often that this node is there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// For the control plane to take a confirmation.
const PATIENCE: Duration = Duration::from_secs(10);

/// Snapshots of large installations.
const MAX_EVENT_BYTES: usize = 256 * 1024 * 1024;

/// Keeps an [`Installation`] current.
#[derive(Debug)]
pub struct Follower {
    file: PathBuf,
    current: watch::Sender<Arc<Installation>>,
    written: watch::Sender<u64>,
}

impl Follower {
    /// Starts from the file in `folder`, if it is there and whole.
    pub fn load(folder: &Path) -> anyhow::Result<Self> {
        let file = folder.join("installation.pb");
        // Higher than any count of before, should the file be lost: there is no purge every millisecond for years.
        let mut installation = Installation::default();
        installation.purges = Purges::beginning_at(crate::unix_now().saturating_mul(1000));
        if let Some(bytes) = files::read(&file).context("cannot read the last configuration")? {
            match ConfigEvent::decode(bytes.as_slice()) {
                Ok(event) => drop(installation.apply(event)),
                Err(error) => warn!(%error, "the last configuration is damaged, waiting for a new one"),
            }
        }
        installation.purges.fell_behind();
        let follower = Self { file, current: watch::Sender::default(), written: watch::Sender::new(0) };
        follower.put_in_force(installation);
        Ok(follower)
    }

    /// Sees every version from now on, and has the current one at once.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Installation>> {
        self.current.subscribe()
    }

    /// The last version that would be there after a crash.
    pub fn written(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
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

    fn apply(&self, event: ConfigEvent) {
        let mut next = Installation::clone(&self.current.borrow());
        let news = next.apply(event);
        // The first event says all that was missed.
        if next.purges.caught_up() || news {
            info!(version = next.version, sites = next.sites.len(), nodes = next.nodes.len(), "configuration applied");
            self.put_in_force(next);
        }
    }

    /// In force first: on a full disk revocations still count, they are only not known after a restart.
    fn put_in_force(&self, next: Installation) {
        let next = Arc::new(next);
        self.current.send_replace(next.clone());
        match files::replace(&self.file, &next.snapshot().encode_to_vec()) {
            Ok(()) => drop(self.written.send_replace(next.version)),
            Err(error) => {
                let file = self.file.display();
                warn!(%error, %file, "the configuration is in force but cannot be written down");
            }
        }
    }
}

/// Tells the control plane until `shutdown` which version is `written` down and has been `applied` by whoever serves by it.
pub async fn confirm(
    node: Arc<Node>,
    mut written: watch::Receiver<u64>,
    mut applied: watch::Receiver<u64>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let channel = node.control_channel()?;
    loop {
        let version = (*written.borrow_and_update()).min(*applied.borrow_and_update());
        let call = async {
            let mut client = ConfigClient::new(channel.clone());
            let answered = timeout(PATIENCE, client.confirm(ConfirmRequest { version })).await;
            answered.context("the control plane does not answer")?.context("the control plane refuses")
        };
        let pause = match shutdown.run_until_cancelled(call).await {
            None => return Ok(()),
            Some(Ok(_)) => SIGN_OF_LIFE,
            Some(Err(error)) => {
                debug!(error = format!("{error:#}"), version, "not confirmed, trying again");
                Duration::from_secs(1)
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
            Ok(()) = written.changed() => {}
            Ok(()) = applied.changed() => {}
        }
    }
}

fn pauses() -> impl Iterator<Item = Duration> {
    let pauses = ExponentialBuilder::default().with_jitter().with_min_delay(Duration::from_millis(200));
    pauses.with_max_delay(Duration::from_secs(10)).without_max_times().build()
}
