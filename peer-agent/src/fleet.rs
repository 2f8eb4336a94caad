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
    /// Of the installation that this is from; 0: not known.
    version: u64,
    pub(crate) edges: Vec<Edge>,
    pub(crate) ticket_keys: KeySet,
}

impl Edges {
    pub(crate) fn new(fleet: Fleet) -> Self {
        let mut edges = fleet.edges;
        edges.truncate(MAX_EDGES);
        let ticket_keys = KeySet::new(edges.iter().map(|edge| (edge.id.as_str(), edge.ticket_key.as_ref())));
        Self { version: fleet.version, edges, ticket_keys }
    }

    /// As the agent's last run left it; empty if it left none.
    pub(crate) fn load(state: &Path) -> Self {
        let bytes = files::read(&state.join(FILE)).ok().flatten().unwrap_or_default();
        Self::new(Fleet::decode(Bytes::from(bytes)).unwrap_or_default())
    }

    pub(crate) fn save(&self, state: &Path) {
        let fleet = Fleet { edges: self.edges.clone(), version: self.version };
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

    /// An edge says what the fleet is. One that is behind, or does not know, changes nothing.
    pub(crate) fn learn(&self, fleet: Fleet) {
        if fleet.edges.is_empty() {
            return;
        }
        let learned = Edges::new(fleet);
        let changed = self.now.send_if_modified(|now| {
            let changed = learned.version >= now.version && learned.edges != now.edges;
            if learned.version > now.version || changed {
                *now = Arc::new(learned);
            }
            changed
        });
        if changed {
            self.now().save(&self.state);
        }
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

    #[test]
    fn an_older_fleet_changes_nothing() {
        let state = tempfile::tempdir().unwrap();
        let fleet = |version: u64, id: &str| Fleet { edges: vec![Edge { id: id.into(), ..Edge::default() }], version };
        let known = Known::load(state.path());
        let mut told = known.watch();
        let mut check = |learned: Fleet, expected: &str, news: bool| {
            known.learn(learned);
            assert_eq!((known.now().edges[0].id.as_str(), told.has_changed().unwrap()), (expected, news));
            told.mark_unchanged();
        };
        check(fleet(0, "of unknown age"), "of unknown age", true);
        check(fleet(5, "a"), "a", true);
        check(fleet(4, "older"), "a", false);
        check(fleet(0, "of unknown age"), "a", false);
        check(Fleet { version: 9, ..Fleet::default() }, "a", false);
        check(fleet(5, "the same, otherwise"), "the same, otherwise", true);
        check(fleet(7, "the same, otherwise"), "the same, otherwise", false);
        check(fleet(6, "older than what is the same"), "the same, otherwise", false);
        check(fleet(8, "b"), "b", true);
        let again = Known::load(state.path());
        again.learn(fleet(7, "older than the last run's"));
        assert_eq!(again.now().edges[0].id, "b");
    }
}
