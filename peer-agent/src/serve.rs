//! The sending side of the peer protocol: checks tickets offline, and sends chunks within the user's limits.

mod guests;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use iroh::{
    Endpoint,
    endpoint::{Connection, Incoming, RecvStream, SendStream, VarInt},
};
use tokio::{
    io::BufReader,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use umbel_content::{ChunkIndex, ChunkSet};
use umbel_service::unix_now;
use umbel_wire::{
    agent::{self, Receipt},
    peer::{
        Accept, Chunk, FromReceiver, FromSender, Have, Lack, Refuse, from_receiver::Message as Up,
        from_sender::Message as Down, refuse::Reason,
    },
    receipt,
    token::{KeySet, MAX_TOKEN_BYTES, Ticket, TokenError},
};

use crate::{
    edges::Edges,
    frames,
    limits::Throttle,
    store::{Store, StoreError, Version},
};
use guests::{Guest, Guests};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may last under which no good ticket was shown.
const TICKET_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a member's connection is kept for its next stream.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest frame of a receiver, in bytes: a ticket and a little more.
const MAX_FRAME: usize = MAX_TOKEN_BYTES + 1024;
/// Receipts on one stream beyond one for each chunk sent.
const SPARE_RECEIPTS: u64 = 16;
const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of one receiver that wait. More at once break the protocol: our own agents ask for at most 32.
const MAX_QUEUED: usize = 256;
/// What passes the throttle at once.
const PIECE: usize = 16 * 1024;
const PROTOCOL_ERROR: VarInt = VarInt::from_u32(1);
/// The connection is not needed, or its place is.
const NOT_NEEDED: VarInt = VarInt::from_u32(2);

/// What the sending side counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Bytes of ciphertext.
    pub(crate) sent: AtomicU64,
    /// By [`Reason`].
    pub(crate) refused: [AtomicU64; 8],
}

/// Serves what the store holds.
#[derive(Debug)]
pub(crate) struct Server {
    store: Store,
    edges: Edges,
    me: [u8; 32],
    throttle: Throttle,
    slots: Arc<Semaphore>,
    guests: Arc<Guests>,
    /// Plaintext bytes sent under each ticket, and when it expires.
    spent: Mutex<HashMap<[u8; 16], (u64, u64)>>,
    /// Receipts that receivers gave us, for an edge. Full: dropped, the receiver reports them itself.
    receipts: mpsc::Sender<Receipt>,
    pub(crate) counters: Counters,
}

/// Why a stream ends.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("refused: {0:?}")]
    Refused(Reason),
    #[error("connection lost: {0}")]
    Lost(String),
    #[error("protocol broken: {0}")]
    Protocol(String),
}

/// What a ticket lets its receiver do here.
#[derive(Debug)]
struct Admission {
    ticket: Ticket,
    /// The ticket as it came.
    text: String,
    version: Arc<Version>,
    /// Chunks that were sent on this stream.
    sent: AtomicU64,
}

impl Server {
    pub(crate) fn new(
        store: Store,
        edges: Edges,
        me: [u8; 32],
        upload_rate: u64,
        slots: usize,
        receipts: mpsc::Sender<Receipt>,
    ) -> Self {
        Self {
            store,
            edges,
            me,
            throttle: Throttle::new(upload_rate),
            slots: Arc::new(Semaphore::new(slots)),
            guests: Arc::default(),
            spent: Mutex::default(),
            receipts,
            counters: Counters::default(),
        }
    }

    /// Accepts until `stop`; every connection's task ends before this does.
    pub(crate) async fn run(self: Arc<Self>, endpoint: Endpoint, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            let incoming = tokio::select! {
                () = stop.cancelled() => break,
                incoming = endpoint.accept() => incoming,
                Some(_) = connections.join_next() => continue,
            };
            let Some(incoming) = incoming else { break };
            match self.guests.enter() {
                Some(guest) => drop(connections.spawn(self.clone().receive(incoming, guest))),
                None => incoming.refuse(),
            }
        }
        connections.shutdown().await;
    }

    async fn receive(self: Arc<Self>, incoming: Incoming, guest: Guest) {
        let Ok(accepting) = incoming.accept() else { return };
        let connected = guest.leave.run_until_cancelled(tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting)).await;
        let Some(Ok(Ok(connection))) = connected else { return };
        guest.is_from(*connection.remote_id().as_bytes());
        let guest = Arc::new(guest);
        self.entertain(&connection, &guest).await;
        connection.close(NOT_NEEDED, b"not needed");
    }

    /// Until the connection is lost, its place is needed, or nothing goes on under it.
    async fn entertain(self: Arc<Self>, connection: &Connection, guest: &Arc<Guest>) {
        let mut streams = JoinSet::new();
        let mut deadline = Instant::now() + TICKET_TIMEOUT;
        loop {
            tokio::select! {
                () = guest.leave.cancelled() => break,
                Some(_) = streams.join_next() => if !guest.is_stranger() {
                    deadline = Instant::now() + IDLE_TIMEOUT;
                },
                accepted = connection.accept_bi() => {
                    let Ok((send, receive)) = accepted else { break };
                    streams.spawn(self.clone().stream(connection.clone(), guest.clone(), send, receive));
                }
                () = sleep_until(deadline) => {
                    if guest.is_stranger() || streams.is_empty() {
                        break;
                    }
                    deadline = Instant::now() + IDLE_TIMEOUT;
                }
            }
        }
        streams.shutdown().await;
    }

    async fn stream(
        self: Arc<Self>,
        connection: Connection,
        guest: Arc<Guest>,
        mut send: SendStream,
        receive: RecvStream,
    ) {
        let (remote, receive) = (*connection.remote_id().as_bytes(), BufReader::new(receive));
        let Err(error) = self.serve(&mut send, receive, &remote, &guest).await else { return };
        debug!(peer = hex::encode(&remote[..5]), %error, "stream ended");
        match error {
            ServeError::Refused(reason) => {
                let bad = matches!(reason, Reason::BadTicket | Reason::NotForYou | Reason::Expired);
                let patient = !bad || guest.refuse();
                self.refuse(&mut send, reason).await;
                if !patient {
                    connection.close(PROTOCOL_ERROR, b"too many bad tickets");
                }
            }
            ServeError::Protocol(_) => {
                self.refuse(&mut send, Reason::Protocol).await;
                connection.close(PROTOCOL_ERROR, b"protocol");
            }
            ServeError::Lost(_) => {}
        }
    }

    async fn refuse(&self, send: &mut SendStream, reason: Reason) {
        self.counters.refused[reason as usize % 8].fetch_add(1, Ordering::Relaxed);
        let refusal = frame(Down::Refuse(Refuse { reason: reason.into() }));
        if send.write_all(&refusal).await.is_ok() && send.finish().is_ok() {
            // Until it has arrived, or the other side is gone.
            let _gone = tokio::time::timeout(HANDSHAKE_TIMEOUT, send.stopped()).await;
        }
    }

    async fn serve(
        &self,
        send: &mut SendStream,
        mut receive: BufReader<RecvStream>,
        remote: &[u8; 32],
        guest: &Guest,
    ) -> Result<(), ServeError> {
        let begin = tokio::time::timeout(BEGIN_TIMEOUT, read(&mut receive)).await;
        let begin = begin.map_err(|_| ServeError::Lost("no word in time".into()))??;
        let Some(Up::Begin(begin)) = begin else { return Err(ServeError::Protocol("no Begin".into())) };
        let ticket = admit(&begin.ticket, &self.edges.fleet().ticket_keys, remote, &self.me, unix_now());
        let ticket = ticket.map_err(ServeError::Refused)?;
        guest.admit();
        let version = self.store.version(&ticket.manifest).ok_or(ServeError::Refused(Reason::NotHeld))?;
        if self.spent(&ticket) >= ticket.max_bytes {
            return Err(ServeError::Refused(Reason::OverLimit));
        }
        let _slot = self.slot()?;
        let held = version.held();
        let have = agent::ChunkSet { bitmap: held.to_bitmap().into() };
        write(send, frame(Down::Accept(Accept { have: Some(have) }))).await?;
        self.transfer(send, receive, Admission { ticket, text: begin.ticket, version, sent: AtomicU64::new(0) }, held)
            .await
    }

    fn slot(&self) -> Result<OwnedSemaphorePermit, ServeError> {
        self.slots.clone().try_acquire_owned().map_err(|_| ServeError::Refused(Reason::Busy))
    }

    fn spent(&self, ticket: &Ticket) -> u64 {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let now = unix_now();
        spent.retain(|_, (_, expires)| *expires > now);
        spent.get(&ticket.id).map_or(0, |(bytes, _)| *bytes)
    }

    /// Counts `bytes` against the ticket before they are sent; not if they would be too many.
    fn spend(&self, ticket: &Ticket, bytes: u64) -> Result<(), ServeError> {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let (sum, _) = spent.entry(ticket.id).or_insert((0, ticket.expires));
        if *sum + bytes > ticket.max_bytes {
            return Err(ServeError::Refused(Reason::OverLimit));
        }
        *sum += bytes;
        Ok(())
    }

    async fn transfer(
        &self,
        send: &mut SendStream,
        receive: BufReader<RecvStream>,
        admission: Admission,
        announced: Arc<ChunkSet>,
    ) -> Result<(), ServeError> {
        let wishes = Wishes::default();
        let reading = self.read_wishes(receive, &admission, &wishes);
        let writing = self.write_chunks(send, &admission, &wishes, announced);
        tokio::select! { ended = reading => ended, ended = writing => ended }
    }

    async fn read_wishes(
        &self,
        mut receive: BufReader<RecvStream>,
        admission: &Admission,
        wishes: &Wishes,
    ) -> Result<(), ServeError> {
        let mut receipts = 0;
        loop {
            match read(&mut receive).await? {
                Some(Up::Request(request)) => wishes.add(request.chunk)?,
                Some(Up::Cancel(cancel)) => wishes.remove(cancel.chunk),
                Some(Up::Receipt(receipt)) => {
                    receipts += 1;
                    // Each costs the check of a signature.
                    if receipts > admission.sent.load(Ordering::Relaxed) + SPARE_RECEIPTS {
                        return Err(ServeError::Protocol("more receipts than chunks".into()));
                    }
                    self.take_receipt(receipt, admission)?;
                }
                Some(Up::Begin(_)) => return Err(ServeError::Protocol("began twice".into())),
                None => return Ok(()),
            }
        }
    }

    fn take_receipt(&self, receipt: Receipt, admission: &Admission) -> Result<(), ServeError> {
        receipt::verify_for(&receipt, &admission.ticket).map_err(|error| ServeError::Protocol(error.to_string()))?;
        let receipt = Receipt { ticket: admission.text.clone(), ..receipt };
        if self.receipts.try_send(receipt).is_err() {
            debug!("receipt of a receiver dropped: it reports it itself");
        }
        Ok(())
    }

    async fn write_chunks(
        &self,
        send: &mut SendStream,
        admission: &Admission,
        wishes: &Wishes,
        mut announced: Arc<ChunkSet>,
    ) -> Result<(), ServeError> {
        let version = &admission.version;
        let mut held = version.watch_held();
        loop {
            let chunk = tokio::select! {
                biased;
                () = version.evicted.cancelled() => return Err(ServeError::Refused(Reason::NotHeld)),
                changed = held.changed() => {
                    if changed.is_ok() {
                        let now_held = held.borrow_and_update().clone();
                        announced = announce(send, &announced, now_held).await?;
                    }
                    continue;
                }
                chunk = wishes.next() => chunk,
            };
            self.send_chunk(send, admission, ChunkIndex::new(chunk)).await?;
        }
    }

    async fn send_chunk(
        &self,
        send: &mut SendStream,
        admission: &Admission,
        chunk: ChunkIndex,
    ) -> Result<(), ServeError> {
        let version = &admission.version;
        if unix_now() >= admission.ticket.expires {
            return Err(ServeError::Refused(Reason::Expired));
        }
        let Some(plain) = version.manifest.layout().plain_len(chunk) else {
            return Err(ServeError::Protocol("asked for a chunk that does not exist".into()));
        };
        let Some(sealed) = self.sealed(version, chunk).await else {
            return write(send, frame(Down::Lack(Lack { chunk: chunk.get() }))).await;
        };
        self.spend(&admission.ticket, u64::from(plain))?;
        let length = u32::try_from(sealed.len()).unwrap_or_default();
        write(send, frame(Down::Chunk(Chunk { chunk: chunk.get(), length }))).await?;
        admission.sent.fetch_add(1, Ordering::Relaxed);
        self.send_body(send, sealed).await
    }

    /// The chunk, verified once more on its way from the disk.
    async fn sealed(&self, version: &Arc<Version>, chunk: ChunkIndex) -> Option<Bytes> {
        let (store, version) = (self.store.clone(), version.clone());
        let read = tokio::task::spawn_blocking(move || store.read(&version, chunk)).await;
        match read {
            Ok(Ok(sealed)) => Some(sealed.into()),
            Ok(Err(StoreError::NotHeld(_))) | Err(_) => None,
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot read a chunk for a peer");
                None
            }
        }
    }

    async fn send_body(&self, send: &mut SendStream, mut sealed: Bytes) -> Result<(), ServeError> {
        while !sealed.is_empty() {
            let piece = sealed.split_to(sealed.len().min(PIECE));
            self.throttle.take(piece.len()).await;
            self.counters.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            send.write_chunk(piece).await.map_err(|error| ServeError::Lost(error.to_string()))?;
        }
        Ok(())
    }
}

/// What a receiver asked for and has not got.
#[derive(Debug, Default)]
struct Wishes {
    queue: Mutex<VecDeque<u32>>,
    news: tokio::sync::Notify,
}

impl Wishes {
    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<u32>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, chunk: u32) -> Result<(), ServeError> {
        let mut queue = self.queue();
        if queue.len() >= MAX_QUEUED {
            return Err(ServeError::Protocol("asked for too much at once".into()));
        }
        queue.push_back(chunk);
        drop(queue);
        self.news.notify_one();
        Ok(())
    }

    fn remove(&self, chunk: u32) {
        self.queue().retain(|other| *other != chunk);
    }

    /// Taken only when this completes, so it may be dropped and asked again.
    async fn next(&self) -> u32 {
        loop {
            let first = self.queue().pop_front();
            match first {
                Some(chunk) => return chunk,
                None => self.news.notified().await,
            }
        }
    }
}

/// Whether `text` lets `receiver` fetch from `sender`, and what.
pub(crate) fn admit(
    text: &str,
    edges: &KeySet,
    receiver: &[u8; 32],
    sender: &[u8; 32],
    now: u64,
) -> Result<Ticket, Reason> {
    let ticket = Ticket::verify(text, edges, now).map_err(|error| match error {
        TokenError::Expired => Reason::Expired,
        TokenError::Malformed
        | TokenError::UnknownKey
        | TokenError::Signature
        | TokenError::NotYet
        | TokenError::Audience
        | TokenError::Issuer
        | TokenError::Binding => Reason::BadTicket,
    })?;
    ticket.allows(receiver, Some(sender)).map_err(|_| Reason::NotForYou)?;
    Ok(ticket)
}

async fn announce(
    send: &mut SendStream,
    announced: &ChunkSet,
    held: Arc<ChunkSet>,
) -> Result<Arc<ChunkSet>, ServeError> {
    let added: Vec<u32> = held.iter_difference(announced).map(ChunkIndex::get).collect();
    for added in added.chunks(MAX_ADDED) {
        write(send, frame(Down::Have(Have { added: added.to_vec() }))).await?;
    }
    Ok(held)
}

/// So many chunk numbers fit into a frame, each at most five bytes.
const MAX_ADDED: usize = 16 * 1024;

fn frame(message: Down) -> Bytes {
    frames::encode(&FromSender { message: Some(message) })
}

async fn write(send: &mut SendStream, frame: Bytes) -> Result<(), ServeError> {
    send.write_chunk(frame).await.map_err(|error| ServeError::Lost(error.to_string()))
}

async fn read(receive: &mut BufReader<RecvStream>) -> Result<Option<Up>, ServeError> {
    match frames::read::<FromReceiver>(receive, MAX_FRAME).await {
        Ok(Some(FromReceiver { message: Some(message) })) => Ok(Some(message)),
        Ok(Some(_)) => Err(ServeError::Protocol("sent an unknown message".into())),
        Ok(None) => Ok(None),
        Err(frames::FrameError::Io(error)) => Err(ServeError::Lost(error.to_string())),
        Err(error) => Err(ServeError::Protocol(error.to_string())),
    }
}
