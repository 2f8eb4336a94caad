//! The shell around [`umbel_swarm::Petal`]: turns what sessions say into its events, and its actions into messages to sessions,
//! with tickets for those that are introduced to each other. One task owns it.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use rand::RngExt;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tracing::debug;
use umbel_content::{ChunkSet, ManifestId};
use umbel_service::unix_now;
use umbel_swarm::{AgentId, Complaint as Grievance, Locality, Petal, PetalAction, PetalConfig};
use umbel_wire::{
    agent::{
        self, Complaint, Departure, Have, Introduction, Leave, PeerAddress, PeerOffer, Refusal, Share,
        complaint::Reason, from_edge::Message,
    },
    token::{Ticket, TokenSigner},
};

use crate::agents::{
    open::{TICKET_LIFE, new_ticket_id},
    session::Session,
};

pub(crate) mod join;

/// Events that wait. When it is full, sessions are heard later: their senders wait.
const QUEUE: usize = 4096;

enum Event {
    Join(Box<Joining>),
    Have { agent: AgentId, session: u64, version: ManifestId, added: Vec<u32> },
    Leave { agent: AgentId, session: u64, version: ManifestId },
    Complaint { agent: AgentId, session: u64, version: ManifestId, about: AgentId, reason: Grievance },
    Gone { agent: AgentId, session: u64 },
}

/// A Join that was checked.
#[derive(Debug)]
pub(crate) struct Joining {
    session: Arc<Session>,
    chunks: u32,
    have: ChunkSet,
    wants: bool,
    address: PeerAddress,
    /// For the version, from an edge.
    ticket: Ticket,
}

/// Tells the petal what sessions say.
#[derive(Debug, Clone)]
pub(crate) struct PetalHandle {
    events: mpsc::Sender<Event>,
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Event")
    }
}

impl PetalHandle {
    /// A handle and its actor, which must [`PetalActor::run`]; it ends when all handles are gone.
    pub(crate) fn new(node_id: &str, signer: TokenSigner) -> (Self, PetalActor) {
        let (sender, events) = mpsc::channel(QUEUE);
        let actor = PetalActor {
            events,
            petal: Petal::new(PetalConfig::default(), rand::rng().random()),
            present: HashMap::new(),
            versions: HashMap::new(),
            node_id: node_id.into(),
            signer,
        };
        (Self { events: sender }, actor)
    }

    async fn tell(&self, event: Event) {
        // Fails only when the edge is stopping.
        let _stopping = self.events.send(event).await;
    }

    async fn join(&self, joining: Joining) {
        self.tell(Event::Join(Box::new(joining))).await;
    }

    /// The agent holds more chunks.
    pub(crate) async fn have(&self, session: &Session, have: Have) {
        let Some(version) = version_key(&have.manifest_id) else { return };
        let (agent, session) = (session.agent.into(), session.id);
        self.tell(Event::Have { agent, session, version, added: have.added }).await;
    }

    /// The agent is done with a version.
    pub(crate) async fn leave(&self, session: &Session, leave: Leave) {
        let Some(version) = version_key(&leave.manifest_id) else { return };
        self.tell(Event::Leave { agent: session.agent.into(), session: session.id, version }).await;
    }

    /// The agent cannot get on with another.
    pub(crate) async fn complaint(&self, session: &Session, complaint: Complaint) {
        let Some(version) = version_key(&complaint.manifest_id) else { return };
        let Ok(about) = <[u8; 32]>::try_from(complaint.peer.as_ref()) else { return };
        let reason = match complaint.reason() {
            Reason::CorruptChunk => Grievance::Corrupt,
            Reason::Protocol => Grievance::Protocol,
            Reason::Stalled => Grievance::Stalled,
            Reason::Unreachable | Reason::Unspecified => Grievance::Unreachable,
        };
        let (agent, session) = (session.agent.into(), session.id);
        self.tell(Event::Complaint { agent, session, version, about: about.into(), reason }).await;
    }

    /// The session has ended.
    pub(crate) async fn gone(&self, session: Arc<Session>) {
        self.tell(Event::Gone { agent: session.agent.into(), session: session.id }).await;
    }
}

fn version_key(manifest_id: &[u8]) -> Option<ManifestId> {
    manifest_id.try_into().ok()
}

/// An agent that has joined something.
#[derive(Debug)]
struct Present {
    session: Arc<Session>,
    address: PeerAddress,
    joined: HashSet<ManifestId>,
}

/// What tickets for a version say.
#[derive(Debug, Clone)]
struct About {
    site_id: String,
    path: String,
    max_bytes: u64,
}

/// Owns the petal.
#[derive(Debug)]
pub(crate) struct PetalActor {
    events: mpsc::Receiver<Event>,
    petal: Petal,
    present: HashMap<AgentId, Present>,
    versions: HashMap<ManifestId, About>,
    node_id: String,
    signer: TokenSigner,
}

impl PetalActor {
    /// Until every handle is gone.
    pub(crate) async fn run(mut self) {
        loop {
            let alarm = self.petal.poll_timeout().map(Instant::from_std);
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => self.handle(event),
                    None => return,
                },
                () = sleep_until(alarm.unwrap_or_else(Instant::now)), if alarm.is_some() => {
                    self.petal.handle_timeout(now());
                }
            }
            while let Some(action) = self.petal.poll_action() {
                self.act(action);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Join(joining) => self.handle_join(*joining),
            Event::Have { agent, session, version, added } => {
                if self.is_here(agent, session) {
                    self.petal.handle_have(now(), agent, version, &added);
                }
            }
            Event::Leave { agent, session, version } => {
                if self.is_here(agent, session) {
                    self.petal.handle_leave(now(), agent, version);
                    self.forget(agent, version);
                }
            }
            Event::Complaint { agent, session, version, about, reason } => {
                if self.is_here(agent, session) {
                    debug!(%agent, %about, ?reason, "complaint");
                    self.petal.handle_complaint(now(), agent, about, version, reason);
                }
            }
            Event::Gone { agent, session } => {
                if self.is_here(agent, session) {
                    self.handle_gone(agent);
                }
            }
        }
    }

    /// What an older session of the same agent says does not count any more.
    fn is_here(&self, agent: AgentId, session: u64) -> bool {
        self.present.get(&agent).is_some_and(|present| present.session.id == session)
    }

    fn handle_join(&mut self, joining: Joining) {
        let Joining { session, chunks, have, wants, address, ticket } = joining;
        let agent = AgentId::from(session.agent);
        let version = ticket.manifest;
        if self.present.contains_key(&agent) && !self.is_here(agent, session.id) {
            self.handle_gone(agent);
        }
        let place = locality(session.remote.ip());
        // Introductions that follow from this need the address, and tickets need the version.
        let present = self.present.entry(agent).or_insert_with(|| Present {
            session: session.clone(),
            address: PeerAddress::default(),
            joined: HashSet::new(),
        });
        present.address = address;
        if let Err(reason) = self.petal.handle_join(now(), agent, version, chunks, have, wants, place) {
            refuse(&session, ticket.manifest, reason.to_string());
            return self.forget_if_idle(agent);
        }
        present.joined.insert(version);
        let about = About { site_id: ticket.site_id, path: ticket.path, max_bytes: ticket.max_bytes };
        self.versions.insert(version, about);
    }

    fn handle_gone(&mut self, agent: AgentId) {
        self.petal.handle_gone(now(), agent);
        let Some(present) = self.present.remove(&agent) else { return };
        for version in present.joined {
            self.forget_version_if_empty(version);
        }
    }

    fn forget(&mut self, agent: AgentId, version: ManifestId) {
        if let Some(present) = self.present.get_mut(&agent) {
            present.joined.remove(&version);
        }
        self.forget_version_if_empty(version);
        self.forget_if_idle(agent);
    }

    fn forget_if_idle(&mut self, agent: AgentId) {
        if self.present.get(&agent).is_some_and(|present| present.joined.is_empty()) {
            self.present.remove(&agent);
        }
    }

    fn forget_version_if_empty(&mut self, version: ManifestId) {
        if self.petal.members(version) == 0 {
            self.versions.remove(&version);
        }
    }

    fn act(&self, action: PetalAction) {
        match action {
            PetalAction::Share { agent, version, chunks } => {
                let chunks = Some(bitmap(&chunks));
                self.push(agent, Message::Share(Share { manifest_id: id(version), chunks }));
            }
            PetalAction::Introduce { to, version, peers } => {
                let peers: Vec<PeerOffer> =
                    peers.into_iter().filter_map(|peer| self.offer(to, version, peer)).collect();
                if !peers.is_empty() {
                    self.push(to, Message::Introduction(Introduction { manifest_id: id(version), peers }));
                }
            }
            PetalAction::Depart { to, version, peer } => {
                let peer = peer.as_bytes().to_vec().into();
                self.push(to, Message::Departure(Departure { manifest_id: id(version), peer }));
            }
        }
    }

    fn push(&self, agent: AgentId, message: Message) {
        if let Some(present) = self.present.get(&agent) {
            present.session.push(message);
        }
    }

    fn offer(&self, to: AgentId, version: ManifestId, peer: AgentId) -> Option<PeerOffer> {
        let about = self.versions.get(&version)?;
        let (now, address) = (unix_now(), self.present.get(&peer)?.address.clone());
        let ticket = Ticket {
            id: new_ticket_id(),
            issuer: self.node_id.clone(),
            receiver: *to.as_bytes(),
            sender: Some(*peer.as_bytes()),
            site_id: about.site_id.clone(),
            path: about.path.clone(),
            manifest: version,
            max_bytes: about.max_bytes,
            issued: now,
            expires: now + TICKET_LIFE,
        };
        let have = self.petal.have(peer, version).map(bitmap);
        Some(PeerOffer { address: Some(address), ticket: ticket.sign(&self.signer), have })
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

fn id(version: ManifestId) -> bytes::Bytes {
    version.as_bytes().to_vec().into()
}

fn bitmap(chunks: &ChunkSet) -> agent::ChunkSet {
    agent::ChunkSet { bitmap: chunks.to_bitmap().into() }
}

fn refuse(session: &Session, manifest: ManifestId, reason: String) {
    debug!(session = session.id, reason, "join refused");
    let manifest_id = manifest.as_bytes().to_vec().into();
    session.push(Message::Refusal(Refusal { manifest_id, reason }));
}

/// As far as the address alone tells.
fn locality(address: IpAddr) -> Locality {
    let subnet = match address.to_canonical() {
        IpAddr::V4(address) => 1 << 32 | u64::from(address.to_bits() >> 8),
        IpAddr::V6(address) => 1 << 48 | u64::try_from(address.to_bits() >> 80).unwrap_or_default(),
    };
    Locality { subnet, ..Locality::default() }
}
