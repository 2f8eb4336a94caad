//! The edges of the installation, as the last edge that we spoke to sees them: where they are, and the keys that check their tickets.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use prost::Message;
use tokio::sync::watch;
use umbel_service::files;
use umbel_wire::{
    agent::{Edge, Fleet},
    rendezvous,
    token::KeySet,
};

const FILE: &str = "fleet.pb";
/// More edges than this are not looked at.
const MAX_EDGES: usize = 10_000;

/// One version of the fleet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Edges {
    pub(crate) edges: Vec<Edge>,
    pub(crate) ticket_keys: KeySet,
}

impl Edges {
    pub(crate) fn new(fleet: Fleet) -> Self {
        let mut edges = fleet.edges;
        edges.truncate(MAX_EDGES);
        let ticket_keys = KeySet::new(edges.iter().map(|edge| (edge.id.as_str(), edge.ticket_key.as_ref())));
        Self { edges, ticket_keys }
    }

    /// As the agent's last run left it; empty if it left none.
    pub(crate) fn load(state: &Path) -> Self {
        let bytes = files::read(&state.join(FILE)).ok().flatten().unwrap_or_default();
        Self::new(Fleet::decode(Bytes::from(bytes)).unwrap_or_default())
    }

    pub(crate) fn save(&self, state: &Path) {
        let fleet = Fleet { edges: self.edges.clone(), ..Fleet::default() };
        if let Err(error) = files::replace(&state.join(FILE), &fleet.encode_to_vec()) {
            tracing::warn!(%error, "cannot write down the fleet");
        }
    }

    pub(crate) fn by_id(&self, id: &str) -> Option<&Edge> {
        self.edges.iter().find(|edge| edge.id == id)
    }

    /// Where the peers of a site meet: the edge that was named, then all others, in the order that everyone computes alike.
    pub(crate) fn meeting_places(&self, site_id: &str, home: &str) -> Vec<Edge> {
        let ids = self.edges.iter().map(|edge| edge.id.as_str());
        let mut order = rendezvous::order(site_id.as_bytes(), ids);
        // Stable: all but the first stay in order.
        order.sort_by_key(|id| *id != home);
        order.into_iter().filter_map(|id| self.by_id(id).cloned()).collect()
    }
}

/// The fleet as it is known now; whoever follows it sees it change.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    state: Arc<Path>,
    now: watch::Sender<Arc<Edges>>,
}

impl Known {
    pub(crate) fn load(state: &Path) -> Self {
        Self { state: state.into(), now: watch::Sender::new(Arc::new(Edges::load(state))) }
    }

    pub(crate) fn now(&self) -> Arc<Edges> {
        self.now.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Edges>> {
        self.now.subscribe()
    }

    /// An edge says what the fleet is.
    pub(crate) fn learn(&self, fleet: Fleet) {
        if fleet.edges.is_empty() || fleet.edges == self.now().edges {
            return;
        }
        let edges = Edges::new(fleet);
        edges.save(&self.state);
        self.now.send_replace(Arc::new(edges));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_agents_meet_at_the_same_place_whatever_order_they_heard() {
        let edge = |id: &str| Edge { id: id.into(), ..Edge::default() };
        let one = Edges::new(Fleet { edges: vec![edge("a"), edge("b"), edge("c")], ..Fleet::default() });
        let other = Edges::new(Fleet { edges: vec![edge("c"), edge("a"), edge("b")], ..Fleet::default() });
        let (first, second) = (one.meeting_places("s", "b"), other.meeting_places("s", "b"));
        assert_eq!(first, second);
        assert_eq!(first[0].id, "b");
        assert_eq!(first.len(), 3);
    }
}
