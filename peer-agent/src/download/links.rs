//! The peers of one download: who was introduced, who is connected, under which ticket each delivers, and who is dialled again.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use iroh::EndpointAddr;
use tokio::{sync::mpsc, task::JoinSet};
use tracing::debug;
use umbel_content::Manifest;
use umbel_service::unix_now;
use umbel_wire::{
    agent::{PeerOffer, complaint::Reason},
    peer::refuse,
    token::Ticket,
};

use super::{now, redial::Redial, sleep_until};
use crate::{
    agent::Shared,
    endpoint,
    peer::{self, Link, LinkCommand, LinkError, LinkEvent, LinkId, Reporter},
    store::TicketText,
};

/// Events that wait for the plan; a link with more waits.
const EVENT_QUEUE: usize = 256;
/// Peers that are dialled, connected or to be dialled again at once.
const MAX_LINKS: usize = 48;

/// A peer as the home edge introduced it last.
struct Offer {
    address: EndpointAddr,
    ticket: Arc<TicketText>,
    allowance: Arc<Allowance>,
}

/// Bytes that may still be asked for under a ticket, by whichever of its links. A generous peer would send more, but no edge takes
/// a receipt over the limit.
struct Allowance(AtomicU64);

impl Allowance {
    fn take(&self, bytes: u64) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }
}

/// One attempt at a peer. It keeps its ticket, whatever is offered meanwhile.
struct Open {
    id: LinkId,
    ticket: Arc<TicketText>,
    allowance: Arc<Allowance>,
    commands: mpsc::Sender<LinkCommand>,
    receipted: u64,
    connected: bool,
}

struct Peer {
    offer: Offer,
    link: Option<Open>,
    redial: Redial,
    /// Whether any link to it ever was accepted.
    met: bool,
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

    /// The next event of a link that still counts. Meanwhile those are dialled again whose time has come.
    pub(super) async fn next(&mut self) -> (LinkId, LinkEvent) {
        loop {
            while self.tasks.try_join_next().is_some() {}
            let due = self.peers.values().filter_map(|peer| peer.redial.due()).min();
            tokio::select! {
                // We hold a sender: the channel is never closed.
                Some((id, event)) = self.inbox.recv() => if self.counts(id, &event) {
                    return (id, event);
                },
                () = sleep_until(due) => self.dial_due(now()),
            }
        }
    }

    fn counts(&mut self, id: LinkId, event: &LinkEvent) -> bool {
        let Some(peer) = self.peers.get_mut(&id.peer) else { return false };
        let Some(link) = peer.link.as_mut().filter(|link| link.id == id) else { return false };
        if matches!(event, LinkEvent::Connected(_)) {
            (link.connected, peer.met) = (true, true);
        }
        true
    }

    /// Dials whoever the home edge introduces. One that is connected stays so; the offer is for when it is lost.
    pub(super) fn meet(&mut self, offers: Vec<PeerOffer>) {
        for offer in offers {
            match self.checked(offer) {
                Ok(offer) => self.introduced(offer),
                Err(reason) => debug!(reason, "introduction not used"),
            }
        }
    }

    fn introduced(&mut self, offer: Offer) {
        let peer = *offer.address.id.as_bytes();
        if let Some(known) = self.peers.get_mut(&peer) {
            let same = known.offer.address == offer.address;
            known.offer = offer;
            if known.link.as_ref().is_some_and(|link| link.connected || same) {
                return;
            }
            known.redial = Redial::default();
        } else if self.has_room() {
            self.peers.insert(peer, Peer { offer, link: None, redial: Redial::default(), met: false });
        } else {
            return;
        }
        self.dial(peer);
    }

    /// Someone new is worth more than someone who was lost.
    fn has_room(&mut self) -> bool {
        if self.peers.len() < MAX_LINKS {
            return true;
        }
        let last = self.peers.iter().filter_map(|(id, peer)| Some((peer.redial.due()?, *id))).max();
        last.is_some_and(|(_, lost)| self.peers.remove(&lost).is_some())
    }

    fn dial_due(&mut self, now: Instant) {
        let due = self.peers.iter().filter(|(_, peer)| peer.redial.due().is_some_and(|due| due <= now));
        let due: Vec<_> = due.map(|(id, _)| *id).collect();
        due.into_iter().for_each(|peer| self.dial(peer));
    }

    fn dial(&mut self, peer: [u8; 32]) {
        let (Some(known), Some(dialer)) = (self.peers.get_mut(&peer), self.shared.dialer.clone()) else { return };
        let Offer { address, ticket, allowance } = &known.offer;
        if ticket.expires <= unix_now() {
            debug!("the ticket for a lost peer has expired");
            self.peers.remove(&peer);
            return;
        }
        self.count += 1;
        let id = LinkId { peer, number: self.count };
        let (commands, queue) = peer::commands();
        let link = Link {
            dialer,
            address: address.clone(),
            ticket: ticket.text.clone(),
            manifest: self.manifest.clone(),
            throttle: self.shared.download_throttle.clone(),
            report: Reporter { link: id, events: self.events.clone() },
        };
        self.tasks.spawn(link.run(queue));
        known.redial.dialled();
        let (ticket, allowance) = (ticket.clone(), allowance.clone());
        known.link = Some(Open { id, ticket, allowance, commands, receipted: 0, connected: false });
    }

    fn checked(&self, offer: PeerOffer) -> Result<Offer, &'static str> {
        if self.shared.dialer.is_none() {
            return Err("this agent does not share");
        }
        let address =
            offer.address.as_ref().and_then(|address| endpoint::address_of(address, self.shared.config.relay));
        let address = address.ok_or("no usable address")?;
        let peer = *address.id.as_bytes();
        if peer == self.shared.me {
            return Err("oneself");
        }
        let keys = &self.shared.edges.fleet().ticket_keys;
        let ticket = Ticket::verify(&offer.ticket, keys, unix_now()).map_err(|_| "bad ticket")?;
        ticket.allows(&self.shared.me, Some(&peer)).map_err(|_| "ticket for others")?;
        if ticket.manifest != self.manifest.id() {
            return Err("ticket of another version");
        }
        let text = TicketText { id: ticket.id, text: offer.ticket, expires: ticket.expires, sender: Some(peer) };
        let left = ticket.max_bytes.saturating_sub(self.shared.store.credited(&ticket.id));
        Ok(Offer { address, ticket: Arc::new(text), allowance: Arc::new(Allowance(left.into())) })
    }

    fn open(&self, peer: &[u8; 32]) -> Option<&Open> {
        self.peers.get(peer)?.link.as_ref()
    }

    /// The ticket of a link that still counts.
    pub(super) fn ticket(&self, id: LinkId) -> Option<Arc<TicketText>> {
        self.open(&id.peer).filter(|link| link.id == id).map(|link| link.ticket.clone())
    }

    /// False: there is no such peer, its ticket's limit is reached, or its queue is full.
    pub(super) fn command(&self, peer: &[u8; 32], command: LinkCommand) -> bool {
        let Some(link) = self.open(peer) else { return false };
        if let LinkCommand::Request(chunk) = command {
            let bytes = u64::from(self.manifest.layout().plain_len(chunk).unwrap_or_default());
            if !link.allowance.take(bytes) {
                return false;
            }
        }
        link.commands.try_send(command).is_ok()
    }

    /// Hangs up, and does not call again unless the peer is introduced anew.
    pub(super) fn remove(&mut self, peer: &[u8; 32]) {
        self.peers.remove(peer);
    }

    /// The peer has brought a chunk.
    pub(super) fn progressed(&mut self, peer: &[u8; 32]) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.redial.progressed();
        }
    }

    /// The peer's link has ended by itself. It is dialled again where that may help; otherwise the answer is what an edge should
    /// hear about it.
    pub(super) fn ended(&mut self, peer: &[u8; 32], error: &LinkError) -> Option<Reason> {
        let known = self.peers.get_mut(peer)?;
        known.link = None;
        let complaint = match prospect(error, known.met) {
            Prospect::Again if known.redial.ended(now(), rand::random()) => return None,
            // Nothing bad to say, but the edge should know that we have nothing from it.
            Prospect::Again => Some(Reason::Unreachable),
            Prospect::Never(complaint) => complaint,
        };
        self.peers.remove(peer);
        complaint
    }

    /// Gives each sender our receipt for what it has brought since the last one.
    pub(super) fn hand_over_receipts(&mut self) {
        for link in self.peers.values_mut().filter_map(|peer| peer.link.as_mut()) {
            let Some(account) = self.shared.store.account(&link.ticket.id) else { continue };
            if account.bytes > link.receipted {
                let receipt = self.shared.receipts.sign(&account);
                if link.commands.try_send(LinkCommand::Receipt(receipt)).is_ok() {
                    link.receipted = account.bytes;
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

/// Whether there is any point in dialling a peer again.
#[derive(Debug, PartialEq, Eq)]
enum Prospect {
    Again,
    /// What an edge should hear.
    Never(Option<Reason>),
}

/// `met`: whether the peer has accepted us before. The first failure to reach it is worth a complaint, so that the edge finds
/// someone else; later it may be a matter of a moment.
fn prospect(error: &LinkError, met: bool) -> Prospect {
    match error {
        LinkError::Unreachable(_) if !met => Prospect::Never(Some(Reason::Unreachable)),
        LinkError::Unreachable(_) | LinkError::Lost(_) => Prospect::Again,
        LinkError::Protocol(_) => Prospect::Never(Some(Reason::Protocol)),
        LinkError::Refused(reason) => match reason {
            // It may not have heard yet of the edge that signed.
            refuse::Reason::BadTicket
            | refuse::Reason::Busy
            | refuse::Reason::NotHeld
            | refuse::Reason::Unspecified => Prospect::Again,
            refuse::Reason::Expired
            | refuse::Reason::NotForYou
            | refuse::Reason::OverLimit
            | refuse::Reason::Protocol => Prospect::Never(None),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_dialled_again() {
        let never = |complaint| Prospect::Never(complaint);
        let table = [
            (LinkError::Lost("x".into()), true, Prospect::Again),
            (LinkError::Lost("x".into()), false, Prospect::Again),
            (LinkError::Unreachable("x".into()), true, Prospect::Again),
            (LinkError::Unreachable("x".into()), false, never(Some(Reason::Unreachable))),
            (LinkError::Protocol("x".into()), true, never(Some(Reason::Protocol))),
            (LinkError::Refused(refuse::Reason::Busy), false, Prospect::Again),
            (LinkError::Refused(refuse::Reason::NotHeld), false, Prospect::Again),
            (LinkError::Refused(refuse::Reason::OverLimit), true, never(None)),
            (LinkError::Refused(refuse::Reason::Expired), true, never(None)),
        ];
        for (error, met, expected) in table {
            assert_eq!(prospect(&error, met), expected, "{error}, met: {met}");
        }
    }
}
