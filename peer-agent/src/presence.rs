//! This agent's place in a petal: joins at the version's home edge, tells it what it holds, and moves to the next edge in order
//! while the home edge is away.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use umbel_content::{ChunkIndex, ChunkSet};
use umbel_wire::agent::{ChunkSet as WireSet, FromAgent, Have, Join, Leave, PeerAddress, from_agent::Message};

use crate::{edge::Edge, edges::Edges, store::Version};

/// Chunks are announced together.
const HAVE_INTERVAL: Duration = Duration::from_millis(200);
const ADDRESS_PATIENCE: Duration = Duration::from_millis(300);
/// A home edge that has been silent for this long while connecting is passed over.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);

/// What this agent wants of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Counts the fetches of the version: each needs a share and introductions of its own.
    pub(crate) fetch: u64,
    /// Whether the last of them runs.
    pub(crate) open: bool,
}

/// Who a version is offered to and where.
pub(crate) struct Presence {
    pub(crate) edges: Edges,
    pub(crate) version: Arc<Version>,
    pub(crate) address: watch::Receiver<PeerAddress>,
    pub(crate) wants: watch::Receiver<Wish>,
    /// Set when no edge of the petal can be reached.
    pub(crate) alone: watch::Sender<bool>,
    pub(crate) stop: CancellationToken,
}

/// Where we joined, and what we said there.
struct Joined {
    edge: Edge,
    session: u64,
    wish: Wish,
    address: PeerAddress,
    said: Arc<ChunkSet>,
}

impl Presence {
    /// Until `stop`, or the version is evicted. Leaves at the end.
    pub(crate) async fn run(mut self) {
        let mut joined: Option<Joined> = None;
        let mut sessions = self.edges.watch_sessions();
        let mut held = self.version.watch_held();
        self.address_known().await;
        let started = tokio::time::Instant::now();
        loop {
            sessions.borrow_and_update();
            held.borrow_and_update();
            let patient = started.elapsed() < CONNECT_PATIENCE;
            joined = self.settle(joined, patient).await;
            let connecting = joined.is_none() && patient;
            let pause = async {
                if connecting {
                    tokio::time::sleep_until(started + CONNECT_PATIENCE).await
                } else {
                    std::future::pending().await
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = self.version.evicted.cancelled() => break,
                Ok(()) = sessions.changed() => {}
                Ok(()) = self.address.changed() => {}
                Ok(()) = self.wants.changed() => {}
                Ok(()) = held.changed() => tokio::time::sleep(HAVE_INTERVAL).await,
                () = pause => {}
            }
        }
        if let Some(joined) = joined {
            self.leave(&joined).await;
        }
    }

    async fn leave(&self, joined: &Joined) {
        joined.edge.tell(message(Message::Leave(Leave { manifest_id: self.id() }))).await;
    }

    /// A peer that is introduced without an address is of no use; so the first Join waits for one, but not long.
    async fn address_known(&mut self) {
        let known = self.address.wait_for(|address| !address.direct.is_empty() || !address.relay_url.is_empty());
        tokio::select! {
            () = self.stop.cancelled() => {}
            _in_time = tokio::time::timeout(ADDRESS_PATIENCE, known) => {}
        }
    }

    fn id(&self) -> Bytes {
        Bytes::copy_from_slice(self.version.id.as_bytes())
    }

    /// Brings what the petal's edge knows up to date; moves there if it is another one now.
    async fn settle(&mut self, joined: Option<Joined>, patient: bool) -> Option<Joined> {
        let home = self.home(patient);
        self.alone.send_if_modified(|alone| {
            std::mem::replace(alone, home.is_none() && !patient) != (home.is_none() && !patient)
        });
        let (edge, session) = home?;
        let wish = *self.wants.borrow_and_update();
        // Who has nothing and wants nothing is of no use to anyone.
        let idle = !wish.open && self.version.held().is_empty();
        if let Some(mut old) = joined {
            let here = old.session == session;
            if here && !idle && old.wish == wish && old.address == *self.address.borrow() {
                self.tell_news(&mut old).await;
                return Some(old);
            }
            // To join again would leave the introductions of the fetch before as they are.
            let anew = old.wish.open && wish.open && old.wish.fetch != wish.fetch;
            if !here || idle || anew {
                self.leave(&old).await;
            }
        }
        if idle { None } else { Some(self.join(edge, session, wish).await) }
    }

    /// The first edge in the site's order that can be spoken to. `patient`: do not pass over one that is connecting.
    fn home(&self, patient: bool) -> Option<(Edge, u64)> {
        for place in self.edges.fleet().meeting_places(&self.version.site_id, &self.version.home_edge) {
            let Some(edge) = self.edges.by_id(&place.id) else { continue };
            match edge.current() {
                Some(session) => return Some((edge, session.number)),
                None if patient && !edge.is_down() => return None,
                None => {}
            }
        }
        None
    }

    async fn join(&self, edge: Edge, session: u64, wish: Wish) -> Joined {
        let (said, address) = (self.version.held(), self.address.borrow().clone());
        let join = Join {
            edge_ticket: self.version.edge_ticket(),
            chunks: self.version.manifest.layout().chunks(),
            have: Some(WireSet { bitmap: said.to_bitmap().into() }),
            address: Some(address.clone()),
            wants: wish.open,
        };
        debug!(version = %self.version.id, edge = %edge.url, wants = wish.open, "join");
        edge.tell(message(Message::Join(join))).await;
        Joined { edge, session, wish, address, said }
    }

    async fn tell_news(&self, joined: &mut Joined) {
        let held = self.version.held();
        let added: Vec<u32> = held.iter_difference(&joined.said).map(ChunkIndex::get).collect();
        if !added.is_empty() {
            joined.edge.tell(message(Message::Have(Have { manifest_id: self.id(), added }))).await;
        }
        joined.said = held;
    }
}

fn message(message: Message) -> FromAgent {
    FromAgent { message: Some(message) }
}
