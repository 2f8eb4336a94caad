//! The peers of one download: who was introduced, who is connected, and under which ticket each delivers.

use std::{collections::HashMap, sync::Arc};

use tokio::{sync::mpsc, task::JoinSet};
use tracing::debug;
use umbel_content::Manifest;
use umbel_service::unix_now;
use umbel_wire::{
    agent::{PeerOffer, complaint::Reason},
    token::Ticket,
};

use crate::{
    agent::Shared,
    endpoint,
    peer::{self, Link, LinkCommand, LinkError, LinkEvent, LinkId, Reporter},
    store::TicketText,
};

/// Events that wait for the plan; a link with more waits.
const EVENT_QUEUE: usize = 256;
/// Peers that are dialled or connected at once.
const MAX_LINKS: usize = 48;

struct Peer {
    id: LinkId,
    ticket: Arc<TicketText>,
    max_bytes: u64,
    commands: mpsc::Sender<LinkCommand>,
    receipted: u64,
}

/// The links of one download.
pub(super) struct Links {
    shared: Arc<Shared>,
    manifest: Arc<Manifest>,
    peers: HashMap<[u8; 32], Peer>,
    count: u64,
    events: mpsc::Sender<(LinkId, LinkEvent)>,
    inbox: mpsc::Receiver<(LinkId, LinkEvent)>,
    tasks: JoinSet<()>,
}

impl Links {
    pub(super) fn new(shared: Arc<Shared>, manifest: Arc<Manifest>) -> Self {
        let (events, inbox) = mpsc::channel(EVENT_QUEUE);
        Self { shared, manifest, peers: HashMap::new(), count: 0, events, inbox, tasks: JoinSet::new() }
    }

    /// The next event of a link that still counts.
    pub(super) async fn next(&mut self) -> (LinkId, LinkEvent) {
        loop {
            while self.tasks.try_join_next().is_some() {}
            // We hold a sender: the channel is never closed.
            let Some((id, event)) = self.inbox.recv().await else { return std::future::pending().await };
            if self.ticket(id).is_some() {
                return (id, event);
            }
        }
    }

    /// Dials whoever the home edge introduces, unless there is a link already.
    pub(super) fn meet(&mut self, offers: Vec<PeerOffer>) {
        for offer in offers {
            if self.peers.len() >= MAX_LINKS {
                return;
            }
            if let Err(reason) = self.dial(offer) {
                debug!(reason, "introduction not used");
            }
        }
    }

    fn dial(&mut self, offer: PeerOffer) -> Result<(), &'static str> {
        let dialer = self.shared.dialer.clone().ok_or("this agent does not share")?;
        let address =
            offer.address.as_ref().and_then(|address| endpoint::address_of(address, self.shared.config.relay));
        let address = address.ok_or("no usable address")?;
        let peer = *address.id.as_bytes();
        if peer == self.shared.me || self.peers.contains_key(&peer) {
            return Ok(());
        }
        let ticket = self.checked(&offer.ticket, &peer)?;
        self.count += 1;
        let id = LinkId { peer, number: self.count };
        let (commands, queue) = peer::commands();
        let link = Link {
            dialer,
            address,
            ticket: offer.ticket.clone(),
            manifest: self.manifest.clone(),
            throttle: self.shared.download_throttle.clone(),
            report: Reporter { link: id, events: self.events.clone() },
        };
        self.tasks.spawn(link.run(queue));
        let text = TicketText { id: ticket.id, text: offer.ticket, expires: ticket.expires, sender: Some(peer) };
        let receipted = self.shared.store.credited(&ticket.id);
        self.peers.insert(peer, Peer { id, ticket: Arc::new(text), max_bytes: ticket.max_bytes, commands, receipted });
        Ok(())
    }

    fn checked(&self, text: &str, peer: &[u8; 32]) -> Result<Ticket, &'static str> {
        let keys = &self.shared.edges.fleet().ticket_keys;
        let ticket = Ticket::verify(text, keys, unix_now()).map_err(|_| "bad ticket")?;
        ticket.allows(&self.shared.me, Some(peer)).map_err(|_| "ticket for others")?;
        if ticket.manifest == self.manifest.id() { Ok(ticket) } else { Err("ticket of another version") }
    }

    /// The ticket of a link that still counts.
    pub(super) fn ticket(&self, id: LinkId) -> Option<Arc<TicketText>> {
        self.peers.get(&id.peer).filter(|peer| peer.id == id).map(|peer| peer.ticket.clone())
    }

    /// False: there is no such peer, its ticket's limit is reached, or its queue is full.
    pub(super) fn command(&self, peer: &[u8; 32], command: LinkCommand) -> bool {
        let Some(peer) = self.peers.get(peer) else { return false };
        if let LinkCommand::Request(chunk) = command {
            let bytes = u64::from(self.manifest.layout().plain_len(chunk).unwrap_or_default());
            if self.shared.store.credited(&peer.ticket.id) + bytes > peer.max_bytes {
                return false;
            }
        }
        peer.commands.try_send(command).is_ok()
    }

    /// Hangs up.
    pub(super) fn remove(&mut self, peer: &[u8; 32]) {
        self.peers.remove(peer);
    }

    /// Gives each sender our receipt for what it has brought since the last one.
    pub(super) fn hand_over_receipts(&mut self) {
        for peer in self.peers.values_mut() {
            let Some(account) = self.shared.store.account(&peer.ticket.id) else { continue };
            if account.bytes > peer.receipted {
                let receipt = self.shared.receipts.sign(&account);
                if peer.commands.try_send(LinkCommand::Receipt(receipt)).is_ok() {
                    peer.receipted = account.bytes;
                }
            }
        }
    }

    /// The last receipts, then the end of every link.
    pub(super) async fn farewell(mut self) {
        self.hand_over_receipts();
        self.peers.clear();
        loop {
            tokio::select! {
                ended = self.tasks.join_next() => if ended.is_none() { return },
                Some(_) = self.inbox.recv() => {}
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }
}

/// What an edge should hear about a peer whose link ended like this.
pub(super) fn worth_a_complaint(error: &LinkError) -> Option<Reason> {
    match error {
        LinkError::Unreachable(_) => Some(Reason::Unreachable),
        LinkError::Protocol(_) => Some(Reason::Protocol),
        LinkError::Refused(_) | LinkError::Lost(_) => None,
    }
}
