//! The one thread that writes: group commit of whatever has queued up.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::Arc,
};

use tokio::sync::{mpsc, oneshot};
use umbel_content::ManifestId;

use super::{
    Arrival, Shared, StoreError, Version,
    index::{Change, Index, TicketAccount, VersionRecord},
};

/// One transaction takes at most this many commands.
const BATCH: usize = 64;

type Reply = oneshot::Sender<Result<bool, StoreError>>;

#[derive(Debug)]
pub(super) enum Command {
    Record(ManifestId, Box<VersionRecord>),
    Chunk(Arrival, Reply),
    Forget(ManifestId),
    Acknowledge(Vec<([u8; 16], u64)>, Reply),
    Evict(ManifestId, Reply),
    /// Settled tickets that are long over at this time, in seconds since the Unix epoch, are forgotten.
    Prune(u64),
    Close,
}

/// What one transaction will say.
#[derive(Default)]
struct Batch {
    records: Vec<(ManifestId, Box<VersionRecord>)>,
    written: Vec<(Arrival, Reply)>,
    tickets: BTreeMap<[u8; 16], TicketAccount>,
    removed_tickets: Vec<[u8; 16]>,
    changed: BTreeSet<ManifestId>,
    evicted: Vec<(Arc<Version>, Reply)>,
    acknowledged: Vec<Reply>,
    files: BTreeMap<ManifestId, File>,
}

pub(super) struct Writer {
    index: Index,
    shared: Arc<Shared>,
}

impl Writer {
    pub(super) fn new(index: Index, shared: Arc<Shared>) -> Self {
        Self { index, shared }
    }

    pub(super) fn run(self, mut queue: mpsc::Receiver<Command>) {
        let mut batch = Batch::default();
        while let Some(first) = queue.blocking_recv() {
            let mut closing = !self.prepare(&mut batch, first);
            for _ in 1..BATCH {
                let Ok(command) = queue.try_recv() else { break };
                closing |= !self.prepare(&mut batch, command);
            }
            // A record without chunks has nothing to resume: it goes with the first chunk and costs no commit of its own.
            if closing || batch.records.len() >= BATCH || batch.has_more_than_records() {
                self.commit(std::mem::take(&mut batch));
            }
            batch.files.clear();
            if closing {
                return;
            }
        }
    }

    /// False: the last one.
    fn prepare(&self, batch: &mut Batch, command: Command) -> bool {
        match command {
            Command::Record(id, record) => batch.records.push((id, record)),
            Command::Chunk(arrival, reply) => self.write(batch, arrival, reply),
            Command::Forget(id) => drop(batch.changed.insert(id)),
            Command::Acknowledge(taken, reply) => {
                taken.into_iter().for_each(|(id, bytes)| self.acknowledge(batch, id, bytes));
                batch.acknowledged.push(reply);
            }
            Command::Evict(id, reply) => self.evict(batch, id, reply),
            Command::Prune(now) => self.prune(batch, now),
            Command::Close => return false,
        }
        true
    }

    fn write(&self, batch: &mut Batch, arrival: Arrival, reply: Reply) {
        let (id, chunk) = (arrival.version.id, arrival.chunk);
        let repeated = batch.written.iter().any(|(other, _)| other.version.id == id && other.chunk == chunk);
        if repeated || arrival.version.held().contains(chunk) || arrival.version.evicted.is_cancelled() {
            // Whoever asked may be gone: its download was given up.
            let _unheard = reply.send(Ok(false));
            return;
        }
        if let Err(error) = self.write_file(batch, &arrival) {
            let _unheard = reply.send(Err(error.into()));
            return;
        }
        self.credit(batch, &arrival);
        batch.changed.insert(id);
        batch.written.push((arrival, reply));
    }

    fn write_file(&self, batch: &mut Batch, arrival: &Arrival) -> io::Result<()> {
        let offset =
            arrival.version.manifest.layout().sealed_offset(arrival.chunk).ok_or(io::ErrorKind::InvalidInput)?;
        let file = match batch.files.entry(arrival.version.id) {
            std::collections::btree_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::btree_map::Entry::Vacant(none) => {
                none.insert(self.shared.blobs.writable(&arrival.version.id)?)
            }
        };
        file.write_all_at(&arrival.sealed, offset)
    }

    fn credit(&self, batch: &mut Batch, arrival: &Arrival) {
        let ticket = &arrival.ticket;
        let plain = arrival.version.manifest.layout().plain_len(arrival.chunk).unwrap_or_default();
        let fresh = || TicketAccount {
            id: ticket.id,
            text: ticket.text.clone(),
            expires: ticket.expires,
            bytes: 0,
            acknowledged: 0,
        };
        if self.account(batch, ticket.id).is_none() {
            batch.tickets.insert(ticket.id, fresh());
        }
        if let Some(account) = batch.tickets.get_mut(&ticket.id) {
            account.bytes += u64::from(plain);
        }
    }

    /// Takes a ticket's account into the batch, if it has one.
    fn account(&self, batch: &mut Batch, id: [u8; 16]) -> Option<()> {
        if batch.tickets.contains_key(&id) {
            return Some(());
        }
        let account = self.shared.accounts().get(&id).cloned()?;
        batch.tickets.insert(id, account);
        Some(())
    }

    fn acknowledge(&self, batch: &mut Batch, id: [u8; 16], bytes: u64) {
        if self.account(batch, id).is_none() {
            return;
        }
        let Some(account) = batch.tickets.get_mut(&id) else { return };
        account.acknowledged = account.acknowledged.max(bytes.min(account.bytes));
    }

    fn prune(&self, batch: &mut Batch, now: u64) {
        let bygone = self.shared.accounts().bygone(now);
        // Not those that this very batch counts under.
        batch.removed_tickets.extend(bygone.into_iter().filter(|id| !batch.tickets.contains_key(id)));
    }

    fn evict(&self, batch: &mut Batch, id: ManifestId, reply: Reply) {
        let removed = self.shared.shelf().remove_idle(&id);
        match removed {
            Some(version) => {
                version.evicted.cancel();
                batch.files.remove(&id);
                batch.records.retain(|(other, _)| *other != id);
                // Before the commit: the same version may be taken in anew in this very batch. An index that names chunks
                // of a file that is gone does no harm.
                if let Err(error) = self.shared.blobs.remove(&id) {
                    tracing::warn!(version = %id, %error, "cannot remove a file");
                }
                batch.evicted.push((version, reply));
            }
            None => drop(reply.send(Ok(false))),
        }
    }

    fn commit(&self, batch: Batch) {
        let outcome = if batch.is_empty() { Ok(()) } else { self.index.change(|change| self.fill(change, &batch)) };
        match outcome {
            Ok(()) => self.publish(batch),
            Err(error) => fail(batch, &error),
        }
    }

    fn fill(&self, change: &Change, batch: &Batch) -> Result<(), StoreError> {
        for (version, _) in &batch.evicted {
            change.remove_version(&version.id)?;
        }
        for (id, record) in &batch.records {
            change.put_version(id, record)?;
        }
        for id in &batch.changed {
            let Some(version) = self.shared.shelf().get(id).cloned() else { continue };
            let mut held = version.held().as_ref().clone();
            for (arrival, _) in batch.written.iter().filter(|(arrival, _)| arrival.version.id == *id) {
                held.insert(arrival.chunk);
            }
            change.put_held(id, &held)?;
        }
        for id in &batch.removed_tickets {
            change.remove_ticket(id)?;
        }
        for account in batch.tickets.values() {
            change.put_ticket(account)?;
        }
        Ok(())
    }

    fn publish(&self, batch: Batch) {
        {
            let mut accounts = self.shared.accounts();
            batch.removed_tickets.iter().for_each(|id| accounts.remove(id));
            batch.tickets.into_values().for_each(|account| accounts.put(account));
        }
        for (arrival, reply) in batch.written {
            self.shared.shelf().gained(&arrival.version, arrival.chunk);
            let _unheard = reply.send(Ok(true));
        }
        for (version, reply) in batch.evicted {
            tracing::debug!(version = %version.id, "evicted");
            let _unheard = reply.send(Ok(true));
        }
        for reply in batch.acknowledged {
            let _unheard = reply.send(Ok(true));
        }
    }
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.records.is_empty() && !self.has_more_than_records()
    }

    fn has_more_than_records(&self) -> bool {
        let tickets = self.tickets.len() + self.removed_tickets.len();
        tickets > 0 || !self.changed.is_empty() || !self.evicted.is_empty() || !self.acknowledged.is_empty()
    }
}

/// Nothing of the batch counts.
fn fail(batch: Batch, error: &StoreError) {
    tracing::error!(error = crate::chain(error), "the index could not be written");
    let replies = batch.written.into_iter().map(|(_, reply)| reply);
    for reply in replies.chain(batch.evicted.into_iter().map(|(_, reply)| reply)).chain(batch.acknowledged) {
        let fault = io::Error::other("the index could not be written");
        let _unheard = reply.send(Err(fault.into()));
    }
}
