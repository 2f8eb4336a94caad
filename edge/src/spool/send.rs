//! Brings sealed batches to the control plane, oldest first, one at a time.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};
use tracing::{debug, info, warn};
use umbel_wire::control::{Batch, BatchAck, usage_client::UsageClient};

use super::Spool;

const TIMEOUT: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Response metadata of a refused gap: the last number that the control plane applied.
pub(crate) const LAST_APPLIED: &str = "umbel-last-applied";

/// Sends until `shutdown`. While the control plane is away, the spool grows.
pub(crate) async fn run(spool: Arc<Spool>, channel: Channel, shutdown: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    loop {
        let outcome = tokio::select! {
            () = shutdown.cancelled() => return,
            outcome = send_all(&spool, &channel) => outcome,
        };
        let wait = match outcome {
            Ok(()) => None,
            Err(error) => {
                warn!(
                    error = format!("{error:#}"),
                    waiting = spool.bytes(),
                    ?pause,
                    "usage not delivered, trying again"
                );
                Some(pause)
            }
        };
        pause = wait.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE));
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = spool.until_sealed(), if wait.is_none() => {}
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
        }
    }
}

async fn send_all(spool: &Arc<Spool>, channel: &Channel) -> anyhow::Result<()> {
    while let Some(batch) = off_thread(spool, |spool| spool.oldest()).await? {
        let number = batch.number;
        let ack = submit(channel, batch).await;
        settle(spool, number, ack).await?;
    }
    Ok(())
}

async fn submit(channel: &Channel, batch: Batch) -> Result<BatchAck, Status> {
    debug!(number = batch.number, served = batch.served.len(), received = batch.received.len(), "sending usage");
    let mut request = tonic::Request::new(batch);
    request.set_timeout(TIMEOUT);
    Ok(UsageClient::new(channel.clone()).submit(request).await?.into_inner())
}

/// What the answer to batch `number` means for the spool.
pub(super) async fn settle(spool: &Arc<Spool>, number: u64, ack: Result<BatchAck, Status>) -> anyhow::Result<()> {
    match ack {
        Ok(ack) if ack.last_applied == number => {
            off_thread(spool, move |spool| spool.acknowledged(number)).await?;
            info!(number, "usage delivered");
            Ok(())
        }
        // Numbers beyond ours were applied, and we never send one before its predecessor is acknowledged and gone: they
        // are from before this spool was lost, and so is "our" number.
        Ok(ack) if ack.last_applied > number => renumber(spool, ack.last_applied).await,
        Ok(ack) => anyhow::bail!("the control plane acknowledged {} instead of {number}", ack.last_applied),
        Err(status) if status.code() == Code::FailedPrecondition => {
            let last = last_applied(&status).context("usage was refused as out of order")?;
            anyhow::ensure!(last + 1 != number, "the control plane refused the very batch it waits for: {status}");
            renumber(spool, last).await
        }
        Err(status) => Err(status.into()),
    }
}

async fn renumber(spool: &Arc<Spool>, last_applied: u64) -> anyhow::Result<()> {
    off_thread(spool, move |spool| spool.continue_after(last_applied)).await
}

/// From the metadata, else the last number in the message.
fn last_applied(status: &Status) -> Option<u64> {
    if let Some(value) = status.metadata().get(LAST_APPLIED) {
        return value.to_str().ok()?.parse().ok();
    }
    let mut words = status.message().split(|letter: char| !letter.is_ascii_digit());
    words.rfind(|word| !word.is_empty())?.parse().ok()
}

async fn off_thread<T: Send + 'static>(
    spool: &Arc<Spool>,
    job: impl FnOnce(&Spool) -> std::io::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let spool = spool.clone();
    Ok(tokio::task::spawn_blocking(move || job(&spool)).await??)
}
