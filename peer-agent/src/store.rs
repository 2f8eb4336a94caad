//! What lies on disk: one file of ciphertext per version, and an index that says which chunks of it are verified and which
//! ticket each of them is owed to.
//!
//! One writer thread does all writing. It takes whatever has queued up, writes the chunks, and then marks them and credits
//! their tickets in one redb transaction: so a chunk that the index names was written before, is credited exactly once, and
//! survives `kill -9` of the process (the page cache does). After a power cut the index may be ahead of the data; that is why
//! [`Store::read`] checks every chunk against the manifest again, and forgets one that does not match.

mod accounts;
mod blobs;
mod index;
mod shelf;
mod writer;

use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use umbel_content::{ChunkIndex, ChunkSet, Manifest, ManifestId, SignedManifest};
use umbel_service::unix_now;

use accounts::Accounts;
use blobs::Blobs;
use index::Index;
pub(crate) use index::{TicketAccount, VersionRecord};
use shelf::Shelf;
use writer::{Command, Writer};

/// How often settled tickets are looked for that nobody will ask for again.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);
/// Chunks that may wait for the writer; whoever brings more waits, which slows the network down to the disk's pace.
const WRITE_QUEUE: usize = 64;

/// Why the state folder does not serve.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another agent runs on it.
    #[error("the state folder is in use by another agent")]
    InUse,
    /// The index.
    #[error("index of the state folder")]
    Index(#[source] Box<redb::Error>),
    /// A file.
    #[error("state folder")]
    Io(#[from] io::Error),
    /// The version does not fit.
    #[error("the file needs {needed} bytes, the agent's disk quota leaves {free}")]
    Quota {
        /// Bytes of ciphertext.
        needed: u64,
        /// Bytes that could be made free.
        free: u64,
    },
    /// Not held, or not any more.
    #[error("chunk {0} is not held")]
    NotHeld(ChunkIndex),
    /// The agent is closing.
    #[error("the agent is closing")]
    Closed,
}

impl<E: Into<redb::Error>> From<IndexFault<E>> for StoreError {
    fn from(IndexFault(error): IndexFault<E>) -> Self {
        Self::Index(Box::new(error.into()))
    }
}

/// Any of redb's errors on its way into ours.
pub(crate) struct IndexFault<E>(pub(crate) E);

/// A version that is held in part or in full.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) id: ManifestId,
    pub(crate) manifest: Manifest,
    pub(crate) site_id: String,
    pub(crate) home_edge: String,
    held: watch::Sender<Arc<ChunkSet>>,
    edge_ticket: Mutex<String>,
    leases: AtomicUsize,
    /// Order of use; the lowest goes first.
    used: AtomicU64,
    /// Ciphertext on disk.
    bytes: AtomicU64,
    /// Cancelled when the version was evicted.
    pub(crate) evicted: CancellationToken,
}

impl Version {
    pub(crate) fn held(&self) -> Arc<ChunkSet> {
        self.held.borrow().clone()
    }

    /// Changes with every chunk.
    pub(crate) fn watch_held(&self) -> watch::Receiver<Arc<ChunkSet>> {
        self.held.subscribe()
    }

    pub(crate) fn edge_ticket(&self) -> String {
        self.edge_ticket.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_edge_ticket(&self, ticket: &str) {
        ticket.clone_into(&mut self.edge_ticket.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn in_use(&self) -> bool {
        self.leases.load(Ordering::Acquire) > 0
    }
}

/// Keeps a version from being evicted.
#[derive(Debug)]
pub(crate) struct Lease(pub(crate) Arc<Version>, Arc<Shared>);

impl Clone for Lease {
    fn clone(&self) -> Self {
        self.1.shelf().lease(&self.0);
        Self(self.0.clone(), self.1.clone())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.1.shelf().release(&self.0);
    }
}

#[derive(Debug)]
struct Shared {
    blobs: Blobs,
    quota: u64,
    shelf: Mutex<Shelf>,
    accounts: Mutex<Accounts>,
}

impl Shared {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A cheap handle on the state folder's content.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// A chunk on its way to the disk: already checked against the manifest.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) version: Arc<Version>,
    pub(crate) chunk: ChunkIndex,
    pub(crate) sealed: Bytes,
    pub(crate) ticket: Arc<TicketText>,
}

/// A ticket with what is needed to count under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TicketText {
    pub(crate) id: [u8; 16],
    pub(crate) text: String,
    pub(crate) expires: u64,
    /// The peer that sends under it; none: edges do.
    pub(crate) sender: Option<[u8; 32]>,
}

impl Store {
    /// Opens the folder and reads its index. Blocking.
    pub(crate) fn open(state: &Path, quota: u64) -> Result<Self, StoreError> {
        let index = Index::open(&state.join("index.redb"))?;
        let blobs = Blobs::open(state.join("chunks"))?;
        let (shelf, mut accounts) = index.load(&blobs)?;
        let bygone = accounts.bygone(unix_now());
        if !bygone.is_empty() {
            index.change(|change| bygone.iter().try_for_each(|id| change.remove_ticket(id)))?;
            bygone.iter().for_each(|id| accounts.remove(id));
        }
        let shared = Arc::new(Shared { blobs, quota, shelf: Mutex::new(shelf), accounts: Mutex::new(accounts) });
        let (commands, queue) = mpsc::channel(WRITE_QUEUE);
        let writer = Writer::new(index, shared.clone());
        let writer = tokio::task::spawn_blocking(move || writer.run(queue));
        Ok(Self { shared, commands, writer: Arc::new(Mutex::new(Some(writer))) })
    }

    /// Ends the writer after what is queued.
    pub(crate) async fn close(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A failed send means that the writer has ended already.
        let _ended = self.commands.send(Command::Close).await;
        if let Some(writer) = writer {
            let _panicked = writer.await;
        }
    }

    /// Forgets settled tickets now and then, until `stop`.
    pub(crate) async fn keep_pruned(self, stop: CancellationToken) {
        let mut interval = tokio::time::interval(PRUNE_INTERVAL);
        // The first is at once, and opening has done it.
        interval.tick().await;
        loop {
            tokio::select! { () = stop.cancelled() => return, _ = interval.tick() => {} }
            if self.send(Command::Prune(unix_now())).await.is_err() {
                return;
            }
        }
    }

    /// The version, if any of it is held.
    pub(crate) fn version(&self, id: &ManifestId) -> Option<Arc<Version>> {
        self.shared.shelf().get(id).cloned()
    }

    /// Everything held, the most recently used first.
    pub(crate) fn versions(&self) -> Vec<Arc<Version>> {
        self.shared.shelf().newest_first()
    }

    /// How many versions are held.
    pub(crate) fn count(&self) -> usize {
        self.shared.shelf().len()
    }

    /// Whether the current content of this path of this site is likely held.
    pub(crate) fn holds_path(&self, path: &str) -> bool {
        self.shared.shelf().holds_path(path)
    }

    /// Makes room for a version and takes it in, or finds it again. Its chunks are then written with [`Store::write`].
    pub(crate) async fn adopt(&self, record: VersionRecord, manifest: Manifest) -> Result<Lease, StoreError> {
        let (lease, new) = loop {
            match self.try_adopt(&record, &manifest)? {
                Adoption::Taken(lease, new) => break (lease, new),
                // What became free may be gone again, and a victim may be in use by now: looked at anew.
                Adoption::Crowded(victims) => {
                    for victim in victims {
                        self.evict(victim).await?;
                    }
                }
            }
        };
        if new || manifest.layout().chunks() > 1 {
            self.send(Command::Record(lease.0.id, Box::new(record))).await?;
        }
        Ok(lease)
    }

    /// Under one lock: whether there is room, and the reservation.
    fn try_adopt(&self, record: &VersionRecord, manifest: &Manifest) -> Result<Adoption, StoreError> {
        let mut shelf = self.shared.shelf();
        let known = shelf.get(&manifest.id()).cloned();
        // One in use is reserved in full already; an idle one counts with what it holds, and that will grow.
        let grows = known.as_ref().is_none_or(|known| !known.in_use() && !known.held().is_full());
        if grows {
            let victims = shelf.room_for(self.shared.quota, manifest)?;
            if !victims.is_empty() {
                return Ok(Adoption::Crowded(victims));
            }
        }
        let new = known.is_none();
        let version = known.unwrap_or_else(|| {
            let version = Arc::new(new_version(record, manifest.clone(), None));
            shelf.insert(version.clone());
            version
        });
        version.set_edge_ticket(&record.edge_ticket);
        shelf.touch(&version);
        shelf.lease(&version);
        Ok(Adoption::Taken(Lease(version, self.shared.clone()), new))
    }

    async fn evict(&self, id: ManifestId) -> Result<bool, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Evict(id, reply)).await?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Evicts everything that nobody uses; how many versions went.
    pub(crate) async fn flush(&self) -> Result<usize, StoreError> {
        let mut gone = 0;
        for version in self.versions() {
            gone += usize::from(self.evict(version.id).await?);
        }
        Ok(gone)
    }

    /// Writes a verified chunk and credits its ticket. False if it was held already: then nothing is credited.
    pub(crate) async fn write(&self, arrival: Arrival) -> Result<bool, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Chunk(arrival, reply)).await?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// A held chunk's ciphertext, checked once more. Blocking.
    pub(crate) fn read(&self, version: &Arc<Version>, chunk: ChunkIndex) -> Result<Vec<u8>, StoreError> {
        if !version.held().contains(chunk) {
            return Err(StoreError::NotHeld(chunk));
        }
        let sealed = self.shared.blobs.read(&version.id, version.manifest.layout(), chunk);
        match sealed {
            Ok(sealed) if version.manifest.verify_chunk(chunk, &sealed).is_ok() => Ok(sealed),
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof && error.kind() != io::ErrorKind::NotFound => {
                Err(error.into())
            }
            Ok(_) | Err(_) => {
                self.forget(version, chunk);
                Err(StoreError::NotHeld(chunk))
            }
        }
    }

    fn forget(&self, version: &Arc<Version>, chunk: ChunkIndex) {
        tracing::warn!(version = %version.id, %chunk, "chunk on disk is damaged; forgotten");
        self.shared.shelf().lost(version, chunk);
        // A full queue only delays it: the next read finds the damage again.
        let _later = self.commands.try_send(Command::Forget(version.id));
    }

    /// Tickets with bytes that no edge has acknowledged.
    pub(crate) fn owed(&self) -> Vec<TicketAccount> {
        self.shared.accounts().owed().flatten().cloned().collect()
    }

    /// How many those are.
    pub(crate) fn owed_count(&self) -> usize {
        self.shared.accounts().owed().len()
    }

    /// What is credited to a ticket.
    pub(crate) fn credited(&self, ticket: &[u8; 16]) -> u64 {
        self.shared.accounts().get(ticket).map_or(0, |account| account.bytes)
    }

    pub(crate) fn account(&self, ticket: &[u8; 16]) -> Option<TicketAccount> {
        self.shared.accounts().get(ticket).cloned()
    }

    /// Edges have taken receipts of so many bytes. Returns when that is written down.
    pub(crate) async fn acknowledge(&self, taken: Vec<([u8; 16], u64)>) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Acknowledge(taken, reply)).await?;
        answer.await.map_err(|_| StoreError::Closed)?.map(drop)
    }

    /// Bytes of ciphertext held, and the quota.
    pub(crate) fn disk(&self) -> (u64, u64) {
        (self.shared.shelf().held_bytes(), self.shared.quota)
    }

    async fn send(&self, command: Command) -> Result<(), StoreError> {
        self.commands.send(command).await.map_err(|_| StoreError::Closed)
    }
}

/// What came of an attempt to take a version in.
enum Adoption {
    /// Reserved; whether it is a new one.
    Taken(Lease, bool),
    /// These have to go first.
    Crowded(Vec<ManifestId>),
}

fn new_version(record: &VersionRecord, manifest: Manifest, held: Option<ChunkSet>) -> Version {
    let held = held.unwrap_or_else(|| ChunkSet::new(manifest.layout().chunks()));
    Version {
        id: manifest.id(),
        manifest,
        site_id: record.site_id.clone(),
        home_edge: record.home_edge.clone(),
        held: watch::Sender::new(Arc::new(held)),
        edge_ticket: Mutex::new(record.edge_ticket.clone()),
        leases: AtomicUsize::new(0),
        used: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        evicted: CancellationToken::new(),
    }
}

/// A record of a version that was just opened.
pub(crate) fn record(
    signed: &SignedManifest,
    site_key: &[u8; 32],
    site_id: &str,
    home_edge: &str,
    edge_ticket: &str,
) -> VersionRecord {
    let message = signed.to_proto();
    VersionRecord {
        manifest: message.manifest,
        signature: message.signature,
        site_key: Bytes::copy_from_slice(site_key),
        site_id: site_id.into(),
        home_edge: home_edge.into(),
        edge_ticket: edge_ticket.into(),
    }
}

#[cfg(test)]
mod tests;
