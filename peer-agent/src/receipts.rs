//! Receipts on their way to an edge: our own, computed from what the store has credited and kept there until an edge has them on
//! disk; and those that receivers gave us, which they report themselves as well.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use umbel_content::SigningKey;
use umbel_service::unix_now;
use umbel_wire::{
    agent::Receipt,
    receipt::{self, ReceiptError},
    token::TokenError,
};

use crate::{
    edges::Edges,
    store::{Store, TicketAccount},
};

const INTERVAL: Duration = Duration::from_secs(1);
/// Receipts in one report.
const BATCH: usize = 256;
/// Others' receipts that are kept for the next report, the highest of each ticket.
const MAX_FOREIGN: usize = 4096;
/// A ticket that no edge knows the key of is given up so long after it expired, in seconds.
const UNKNOWN_FOR: u64 = 24 * 3600;

/// Signs and reports. A cheap handle.
#[derive(Debug, Clone)]
pub(crate) struct Receipts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    edges: Edges,
    key: SigningKey,
    /// One report at a time.
    reporting: Mutex<Foreign>,
}

#[derive(Debug)]
struct Foreign {
    queue: mpsc::Receiver<Receipt>,
    waiting: HashMap<String, Receipt>,
}

impl Receipts {
    pub(crate) fn new(store: Store, edges: Edges, key: SigningKey, foreign: mpsc::Receiver<Receipt>) -> Self {
        let reporting = Mutex::new(Foreign { queue: foreign, waiting: HashMap::new() });
        Self(Arc::new(Inner { store, edges, key, reporting }))
    }

    /// Our receipt for all bytes under a ticket so far.
    pub(crate) fn sign(&self, account: &TicketAccount) -> Receipt {
        receipt::sign(&self.0.key, &account.text, &account.id, account.bytes)
    }

    /// Reports each second until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! { () = stop.cancelled() => return, _ = interval.tick() => {} }
            tokio::select! { () = stop.cancelled() => return, _ = self.flush() => {} }
        }
    }

    /// Reports all that is owed; how many of our own receipts stay behind, for want of an edge.
    pub(crate) async fn flush(&self) -> usize {
        let mut foreign = self.0.reporting.lock().await;
        let owed = self.0.store.owed();
        let Some(left) = self.report_own(&owed).await else { return owed.len() };
        foreign.collect();
        self.report_foreign(&mut foreign).await;
        left
    }

    /// None: no edge can take them now.
    async fn report_own(&self, owed: &[TicketAccount]) -> Option<usize> {
        let mut left = owed.len();
        for batch in owed.chunks(BATCH) {
            let receipts: Vec<Receipt> = batch.iter().map(|account| self.sign(account)).collect();
            let refusals = self.report(receipts).await?;
            let settled = batch.iter().zip(&refusals).filter(|(account, refusal)| !may_heal(account, refusal));
            let settled = settled.inspect(|(account, refusal)| {
                if !refusal.is_empty() {
                    warn!(ticket = hex::encode(account.id), refusal, "a receipt was refused for good");
                }
            });
            let taken: Vec<_> = settled.map(|(account, _)| (account.id, account.bytes)).collect();
            left -= taken.len();
            self.0.store.acknowledge(taken).await.ok()?;
        }
        Some(left)
    }

    async fn report_foreign(&self, foreign: &mut Foreign) {
        let receipts: Vec<Receipt> = foreign.waiting.values().cloned().collect();
        for batch in receipts.chunks(BATCH) {
            if self.report(batch.to_vec()).await.is_none() {
                return;
            }
            for receipt in batch {
                foreign.waiting.remove(&receipt.ticket);
            }
        }
    }

    async fn report(&self, receipts: Vec<Receipt>) -> Option<Vec<String>> {
        for edge in self.0.edges.open() {
            match edge.report(receipts.clone()).await {
                Ok(refusals) => return Some(refusals),
                Err(error) => debug!(edge = %edge.url, %error, "receipts wait"),
            }
        }
        None
    }
}

/// An edge that has not heard yet of the edge that issued the ticket does not know its key; it will, unless that edge is gone
/// for good.
fn may_heal(account: &TicketAccount, refusal: &str) -> bool {
    let unknown = ReceiptError::Ticket(TokenError::UnknownKey).to_string();
    refusal == unknown && unix_now() < account.expires + UNKNOWN_FOR
}

impl Foreign {
    fn collect(&mut self) {
        while let Ok(receipt) = self.queue.try_recv() {
            let higher = self.waiting.get(&receipt.ticket).is_none_or(|known| known.bytes < receipt.bytes);
            if higher && self.waiting.len() < MAX_FOREIGN {
                self.waiting.insert(receipt.ticket.clone(), receipt);
            }
        }
    }
}
