//! The receiving side of the peer protocol: one link is one version from one peer.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use iroh::{
    Endpoint, EndpointAddr, EndpointId,
    endpoint::{ConnectOptions, Connection, RecvStream, SendStream},
};
use tokio::{io::BufReader, sync::mpsc};
use umbel_content::{ChunkIndex, ChunkSet, Manifest};
use umbel_wire::{
    MAX_PEER_FRAME, PEER_ALPN,
    agent::Receipt,
    peer::{
        Begin, Cancel, Chunk, FromReceiver, FromSender, Request, from_receiver::Message as Up,
        from_sender::Message as Down, refuse,
    },
};

use crate::{endpoint, frames, limits::Throttle};

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Commands that wait for the link's stream; the download waits when there are more.
const COMMAND_QUEUE: usize = 128;
/// Connections that are kept for the next version.
const MAX_CONNECTIONS: usize = 128;
const READ_BUFFER: usize = 64 * 1024;

/// Why a link ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    #[error("refuses: {}", refuse_text(*.0))]
    Refused(refuse::Reason),
    #[error("breaks the protocol: {0}")]
    Protocol(String),
    #[error("connection lost: {0}")]
    Lost(String),
}

/// What a link tells its download.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    Connected(ChunkSet),
    Have(Vec<u32>),
    /// Some of a chunk has come.
    Receiving(ChunkIndex),
    /// Not verified.
    Chunk(ChunkIndex, Bytes),
    Lack(ChunkIndex),
    Ended(LinkError),
}

/// What a download tells its link.
#[derive(Debug)]
pub(crate) enum LinkCommand {
    Request(ChunkIndex),
    Cancel(ChunkIndex),
    Receipt(Receipt),
}

/// Connections to peers, shared by all versions.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    endpoint: Endpoint,
    open: Arc<Mutex<HashMap<EndpointId, Connection>>>,
}

impl Dialer {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, open: Arc::default() }
    }

    /// The connection to a peer, and whether it was there before.
    async fn connection(&self, address: EndpointAddr) -> Result<(Connection, bool), LinkError> {
        let peer = address.id;
        if let Some(open) = self.reusable(&peer) {
            return Ok((open, true));
        }
        let dialed = tokio::time::timeout(DIAL_TIMEOUT, self.dial(address)).await;
        let connection = dialed.map_err(|_| LinkError::Unreachable("no answer in time".into()))??;
        let mut connections = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|_, other| other.close_reason().is_none());
        if connections.len() < MAX_CONNECTIONS {
            connections.insert(peer, connection.clone());
        }
        Ok((connection, false))
    }

    async fn dial(&self, address: EndpointAddr) -> Result<Connection, LinkError> {
        let options = ConnectOptions::new().with_transport_config(endpoint::receiving());
        let connecting = self.endpoint.connect_with_opts(address, PEER_ALPN, options).await;
        let connecting = connecting.map_err(|error| LinkError::Unreachable(error.to_string()))?;
        connecting.await.map_err(|error| LinkError::Unreachable(error.to_string()))
    }

    /// Nobody answers on this connection: the next link dials. One that another link has dialled since stays.
    fn forget(&self, peer: &EndpointId, silent: &Connection) {
        let mut connections = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if connections.get(peer).is_some_and(|open| open.stable_id() == silent.stable_id()) {
            connections.remove(peer);
        }
    }

    fn reusable(&self, peer: &EndpointId) -> Option<Connection> {
        let connections = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        connections.get(peer).filter(|connection| connection.close_reason().is_none()).cloned()
    }

    /// How many peers are connected.
    pub(crate) fn connected(&self) -> usize {
        let connections = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        connections.values().filter(|connection| connection.close_reason().is_none()).count()
    }

    pub(crate) fn close(&self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// One version from one peer. Dropping it hangs up.
pub(crate) struct Link {
    pub(crate) dialer: Dialer,
    pub(crate) address: EndpointAddr,
    pub(crate) ticket: String,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) throttle: Arc<Throttle>,
    pub(crate) report: Reporter,
}

/// Names a link among all that its download ever had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkId {
    pub(crate) peer: [u8; 32],
    pub(crate) number: u64,
}

/// Where a link's events go. A full queue holds the link back, and through flow control the peer.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    pub(crate) link: LinkId,
    pub(crate) events: mpsc::Sender<(LinkId, LinkEvent)>,
}

impl Reporter {
    async fn tell(&self, event: LinkEvent) {
        // A download that is over does not listen any more, and drops this link.
        let _over = self.events.send((self.link, event)).await;
    }
}

/// The queue of commands for a new link.
pub(crate) fn commands() -> (mpsc::Sender<LinkCommand>, mpsc::Receiver<LinkCommand>) {
    mpsc::channel(COMMAND_QUEUE)
}

/// The two directions of a link that was accepted, and what the peer holds.
type Accepted = (SendStream, BufReader<RecvStream>, ChunkSet);

impl Link {
    /// Runs until the peer, or the download by dropping its commands, ends it. The last event says why.
    pub(crate) async fn run(self, commands: mpsc::Receiver<LinkCommand>) {
        let ended = match self.begin().await {
            Err(error) => error,
            Ok((send, receive, have)) => {
                self.report.tell(LinkEvent::Connected(have)).await;
                self.converse(send, receive, commands).await
            }
        };
        self.report.tell(LinkEvent::Ended(ended)).await;
    }

    async fn begin(&self) -> Result<Accepted, LinkError> {
        let (connection, kept) = self.dialer.connection(self.address.clone()).await?;
        let began = self.introduce_in_time(&connection).await;
        let silent = match &began {
            Err(LinkError::Unreachable(_)) => true,
            Err(_) => connection.close_reason().is_some(),
            Ok(_) => false,
        };
        if !silent {
            return began;
        }
        self.dialer.forget(&self.address.id, &connection);
        if !kept {
            return began;
        }
        // A peer that was killed and came back knows nothing of the connection that we kept: no reason to complain yet.
        let (connection, _) = self.dialer.connection(self.address.clone()).await?;
        self.introduce_in_time(&connection).await
    }

    async fn introduce_in_time(&self, connection: &Connection) -> Result<Accepted, LinkError> {
        let answered = tokio::time::timeout(ACCEPT_TIMEOUT, self.introduce(connection)).await;
        answered.unwrap_or_else(|_| Err(LinkError::Unreachable("no word in time".into())))
    }

    /// Shows the ticket and reads what the peer says to it.
    async fn introduce(&self, connection: &Connection) -> Result<Accepted, LinkError> {
        let (mut send, receive) = connection.open_bi().await.map_err(|error| LinkError::Lost(error.to_string()))?;
        let mut receive = BufReader::with_capacity(READ_BUFFER, receive);
        self.send(&mut send, Up::Begin(Begin { ticket: self.ticket.clone() })).await?;
        let answer = read(&mut receive).await?;
        match answer {
            Down::Accept(accept) => {
                let bitmap = accept.have.unwrap_or_default().bitmap;
                let have = ChunkSet::from_bitmap(self.manifest.layout().chunks(), &bitmap);
                Ok((send, receive, have.map_err(|error| LinkError::Protocol(error.to_string()))?))
            }
            Down::Refuse(refusal) => Err(LinkError::Refused(refusal.reason())),
            Down::Have(_) | Down::Chunk(_) | Down::Lack(_) => Err(LinkError::Protocol("spoke out of turn".into())),
        }
    }

    async fn send(&self, send: &mut SendStream, message: Up) -> Result<(), LinkError> {
        let frame = frames::encode(&FromReceiver { message: Some(message) });
        send.write_all(&frame).await.map_err(|error| LinkError::Lost(error.to_string()))
    }

    async fn converse(
        &self,
        mut send: SendStream,
        mut receive: BufReader<RecvStream>,
        mut commands: mpsc::Receiver<LinkCommand>,
    ) -> LinkError {
        let asked = Asked::default();
        let mut news = News::of(&self.manifest);
        let up = async {
            while let Some(command) = commands.recv().await {
                if let Err(error) = self.command(&mut send, command, &asked).await {
                    return error;
                }
            }
            // Tells the sender that nothing follows; what was written is still delivered.
            let _ended = send.finish();
            LinkError::Lost("not needed any more".into())
        };
        let down = async {
            loop {
                if let Err(error) = self.receive(&mut receive, &asked, &mut news).await {
                    return error;
                }
            }
        };
        tokio::select! { ended = up => ended, ended = down => ended }
    }

    async fn command(&self, send: &mut SendStream, command: LinkCommand, asked: &Asked) -> Result<(), LinkError> {
        let message = match command {
            LinkCommand::Request(chunk) => {
                asked.add(chunk.get());
                Up::Request(Request { chunk: chunk.get() })
            }
            LinkCommand::Cancel(chunk) => Up::Cancel(Cancel { chunk: chunk.get() }),
            LinkCommand::Receipt(receipt) => Up::Receipt(receipt),
        };
        self.send(send, message).await
    }

    async fn receive(
        &self,
        receive: &mut BufReader<RecvStream>,
        asked: &Asked,
        news: &mut News,
    ) -> Result<(), LinkError> {
        let event = match read(receive).await? {
            Down::Have(have) => {
                news.take(have.added.len())?;
                LinkEvent::Have(have.added)
            }
            Down::Lack(lack) => {
                asked.answered(lack.chunk)?;
                LinkEvent::Lack(ChunkIndex::new(lack.chunk))
            }
            Down::Chunk(chunk) => {
                asked.answered(chunk.chunk)?;
                self.chunk(receive, &chunk).await?
            }
            Down::Refuse(refusal) => return Err(LinkError::Refused(refusal.reason())),
            Down::Accept(_) => return Err(LinkError::Protocol("accepted twice".into())),
        };
        self.report.tell(event).await;
        Ok(())
    }

    async fn chunk(&self, receive: &mut BufReader<RecvStream>, head: &Chunk) -> Result<LinkEvent, LinkError> {
        let chunk = ChunkIndex::new(head.chunk);
        if self.manifest.layout().sealed_len(chunk) != Some(head.length) {
            return Err(LinkError::Protocol("sent a chunk of the wrong length".into()));
        }
        let mut sealed = Vec::with_capacity(head.length as usize);
        while sealed.len() < head.length as usize {
            let piece = READ_BUFFER.min(head.length as usize - sealed.len());
            self.throttle.take(piece).await;
            let bytes =
                frames::read_exactly(receive, piece).await.map_err(|error| LinkError::Lost(error.to_string()))?;
            sealed.extend_from_slice(&bytes);
            self.report.tell(LinkEvent::Receiving(chunk)).await;
        }
        Ok(LinkEvent::Chunk(chunk, sealed.into()))
    }
}

/// How often each chunk was asked for and not answered. One that was cancelled may come all the same, or not.
#[derive(Debug, Default)]
struct Asked(Mutex<BTreeMap<u32, u32>>);

impl Asked {
    fn add(&self, chunk: u32) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(chunk).or_default() += 1;
    }

    fn answered(&self, chunk: u32) -> Result<(), LinkError> {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match asked.get_mut(&chunk) {
            Some(1) => drop(asked.remove(&chunk)),
            Some(times) => *times -= 1,
            None => return Err(LinkError::Protocol("answered what nobody asked".into())),
        }
        Ok(())
    }
}

/// What a peer may still announce. Each chunk once would do; a disk that fails makes it a little more.
#[derive(Debug)]
struct News(u64);

impl News {
    fn of(manifest: &Manifest) -> Self {
        Self(4 * u64::from(manifest.layout().chunks()) + 1024)
    }

    fn take(&mut self, chunks: usize) -> Result<(), LinkError> {
        let left = self.0.checked_sub(1 + chunks as u64);
        self.0 = left.ok_or_else(|| LinkError::Protocol("announces chunks without end".into()))?;
        Ok(())
    }
}

async fn read(receive: &mut BufReader<RecvStream>) -> Result<Down, LinkError> {
    match frames::read::<FromSender>(receive, MAX_PEER_FRAME).await {
        Ok(Some(FromSender { message: Some(message) })) => Ok(message),
        Ok(Some(_)) => Err(LinkError::Protocol("sent an unknown message".into())),
        Ok(None) => Err(LinkError::Lost("it hung up".into())),
        Err(frames::FrameError::Io(error)) => Err(LinkError::Lost(error.to_string())),
        Err(error) => Err(LinkError::Protocol(error.to_string())),
    }
}

fn refuse_text(reason: refuse::Reason) -> &'static str {
    match reason {
        refuse::Reason::Unspecified => "no reason given",
        refuse::Reason::BadTicket => "bad ticket",
        refuse::Reason::Expired => "ticket expired",
        refuse::Reason::NotForYou => "ticket of another agent",
        refuse::Reason::NotHeld => "not held",
        refuse::Reason::OverLimit => "over the ticket's limit",
        refuse::Reason::Busy => "busy",
        refuse::Reason::Protocol => "protocol broken",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_one_answer() {
        let asked = Asked::default();
        [1, 2, 1].into_iter().for_each(|chunk| asked.add(chunk));
        let answers = [1, 3, 1, 1, 2, 2].map(|chunk| asked.answered(chunk).is_ok());
        assert_eq!(answers, [true, false, true, false, true, false]);
    }

    #[test]
    fn announcements_end() {
        let mut news = News(10);
        assert!(news.take(4).is_ok() && news.take(4).is_ok());
        assert!(news.take(0).is_err(), "an empty one counts, too");
    }
}
