//! What a server knows of the installation: sites, nodes, keys, revocations. Pure bookkeeping over
//! `umbel.control.v1` events; [`crate::follow`] keeps it current.

use std::collections::{BTreeMap, BTreeSet};

use umbel_http_cache::Purges;
use umbel_wire::{
    control::{Change, ConfigEvent, Node, Role, S3Credential, Site, Snapshot, config_event::Event},
    token::{AgentId, KeySet},
};

mod purge_log;

/// One version of the whole configuration.
#[derive(Debug, Clone, Default)]
pub struct Installation {
    /// Of the last event that was applied.
    pub version: u64,
    /// By site id.
    pub sites: BTreeMap<String, Site>,
    /// Ids of sites of which the control plane says that they were deleted; that one is not in `sites` says nothing.
    pub deleted_sites: BTreeSet<String>,
    /// By node id.
    pub nodes: BTreeMap<String, Node>,
    /// Agents whose memberships count no more.
    pub revoked: BTreeSet<AgentId>,
    /// Keys that memberships are signed with, by `kid`.
    pub membership_keys: BTreeMap<String, Vec<u8>>,
    /// Origins only: by access key id.
    pub s3_credentials: BTreeMap<String, S3Credential>,
    /// What of that which this node has stored is not to be used as it is.
    pub purges: Purges,
    hosts: BTreeMap<String, String>,
}

impl Installation {
    /// Applies one event. Whether anything but the version could have changed.
    pub fn apply(&mut self, event: ConfigEvent) -> bool {
        let news = match event.event {
            Some(Event::Snapshot(snapshot)) => {
                let deleted_sites = snapshot.deleted_sites.iter().cloned().collect();
                *self = Self { deleted_sites, purges: self.purges_after(&snapshot), ..Self::default() };
                self.merge(as_change(snapshot));
                true
            }
            Some(Event::Change(change)) if change != Change::default() => {
                self.merge(change);
                true
            }
            Some(Event::Change(_)) | None => self.version != event.version,
        };
        self.version = event.version;
        news
    }

    /// A snapshot says nothing of what was purged before it, but where it is our own.
    fn purges_after(&self, snapshot: &Snapshot) -> Purges {
        if let Some(log) = &snapshot.purge_log {
            return purge_log::read(log);
        }
        let mut purges = self.purges.clone();
        purges.all_is_stale();
        purges
    }

    fn merge(&mut self, change: Change) {
        self.purges.purge(&purge_log::purges(change.purges));
        self.sites.extend(change.sites.into_iter().map(|site| (site.id.clone(), site)));
        self.nodes.extend(change.nodes.into_iter().map(|node| (node.id.clone(), node)));
        let revoked = change.revoked_agents.iter();
        self.revoked.extend(revoked.filter_map(|entry| AgentId::try_from(entry.agent.as_ref()).ok()));
        self.membership_keys.extend(change.membership_keys.into_iter().map(|key| (key.id, key.key.to_vec())));
        let credentials = change.s3_credentials.into_iter();
        self.s3_credentials.extend(credentials.map(|entry| (entry.access_key_id.clone(), entry)));
        for id in &change.removed_sites {
            self.sites.remove(id);
            self.purges.forget(id);
        }
        self.deleted_sites.extend(change.removed_sites);
        self.deleted_sites.retain(|id| !self.sites.contains_key(id));
        change.removed_nodes.iter().for_each(|id| drop(self.nodes.remove(id)));
        change.removed_s3_credentials.iter().for_each(|id| drop(self.s3_credentials.remove(id)));
        self.index_hosts();
    }

    fn index_hosts(&mut self) {
        let hosts = self.sites.values().flat_map(|site| site.hosts.iter().map(|host| (host.clone(), site.id.clone())));
        self.hosts = hosts.collect();
    }

    /// Everything as one snapshot, to be written down.
    pub fn snapshot(&self) -> ConfigEvent {
        let keys = self.membership_keys.iter();
        let snapshot = Snapshot {
            sites: self.sites.values().cloned().collect(),
            nodes: self.nodes.values().cloned().collect(),
            revoked_agents: self
                .revoked
                .iter()
                .map(|agent| umbel_wire::control::RevokedAgent { agent: agent.to_vec().into() })
                .collect(),
            membership_keys: keys
                .map(|(id, key)| umbel_wire::control::PublicKey {
                    id: id.clone(),
                    key: key.clone().into(),
                    ..umbel_wire::control::PublicKey::default()
                })
                .collect(),
            deleted_sites: self.deleted_sites.iter().cloned().collect(),
            s3_credentials: self.s3_credentials.values().cloned().collect(),
            purge_log: Some(purge_log::write(&self.purges)),
        };
        ConfigEvent { version: self.version, event: Some(Event::Snapshot(snapshot)) }
    }

    /// The site that answers on `host` (lower case, no port).
    pub fn site_by_host(&self, host: &str) -> Option<&Site> {
        self.sites.get(self.hosts.get(host)?)
    }

    /// The site of this name.
    pub fn site_by_name(&self, name: &str) -> Option<&Site> {
        self.sites.values().find(|site| site.name == name)
    }

    /// All nodes of one role.
    pub fn nodes(&self, role: Role) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(move |node| node.role() == role)
    }

    /// Keys that memberships are checked with.
    pub fn membership_key_set(&self) -> KeySet {
        KeySet::new(self.membership_keys.iter().map(|(id, key)| (id.as_str(), key.as_slice())))
    }

    /// Keys that tickets are checked with: one an edge, named by its node id.
    pub fn ticket_key_set(&self) -> KeySet {
        KeySet::new(self.nodes(Role::Edge).map(|node| (node.id.as_str(), node.ticket_key.as_ref())))
    }
}

fn as_change(snapshot: Snapshot) -> Change {
    Change {
        sites: snapshot.sites,
        nodes: snapshot.nodes,
        revoked_agents: snapshot.revoked_agents,
        membership_keys: snapshot.membership_keys,
        s3_credentials: snapshot.s3_credentials,
        ..Change::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(id: &str, host: &str) -> Site {
        Site { id: id.into(), name: id.into(), hosts: vec![host.into()], ..Site::default() }
    }

    fn change(version: u64, change: Change) -> ConfigEvent {
        ConfigEvent { version, event: Some(Event::Change(change)) }
    }

    #[test]
    fn changes_add_replace_and_remove() {
        let mut installation = Installation::default();
        installation
            .apply(change(1, Change { sites: vec![site("a", "a.test"), site("b", "b.test")], ..Change::default() }));
        installation.apply(change(2, Change { sites: vec![site("a", "new.test")], ..Change::default() }));
        assert!(installation.site_by_host("a.test").is_none());
        assert_eq!(installation.site_by_host("new.test").unwrap().id, "a");
        installation.apply(change(3, Change { removed_sites: vec!["b".into()], ..Change::default() }));
        assert!(installation.site_by_host("b.test").is_none());
        assert_eq!(installation.version, 3);
    }

    #[test]
    fn deleted_is_what_was_said_to_be() {
        let mut installation = Installation::default();
        let deleted = |installation: &Installation| installation.deleted_sites.iter().cloned().collect::<String>();
        installation
            .apply(change(1, Change { sites: vec![site("a", "a.test"), site("b", "b.test")], ..Change::default() }));
        installation.apply(change(2, Change { removed_sites: vec!["b".into()], ..Change::default() }));
        assert_eq!(deleted(&installation), "b");
        let mut again = Installation::default();
        again.apply(installation.snapshot());
        assert_eq!(deleted(&again), "b", "what is written down");
        again.apply(change(3, Change { sites: vec![site("b", "b.test")], ..Change::default() }));
        assert_eq!(deleted(&again), "", "a database was restored");
        let lost = ConfigEvent { version: 1, event: Some(Event::Snapshot(Snapshot::default())) };
        installation.apply(lost);
        assert_eq!((installation.sites.len(), deleted(&installation).as_str()), (0, ""), "a database was lost");
    }

    #[test]
    fn what_is_written_down_comes_back() {
        let mut installation = Installation::default();
        installation.apply(change(9, Change { sites: vec![site("a", "a.test")], ..Change::default() }));
        let mut again = Installation::default();
        assert!(again.apply(installation.snapshot()));
        assert_eq!((again.version, again.sites), (9, installation.sites));
    }

    #[test]
    fn purges_are_written_down_and_a_gap_makes_all_stale() {
        use umbel_http_cache::{Entry, Standing, SurrogateKeys};
        use umbel_wire::control::Purge;
        let standing = |installation: &Installation, stamp| {
            let entry = Entry { site: "a", target: "/x" };
            installation.purges.standing(entry, SurrogateKeys::default, stamp)
        };
        let mut installation = Installation::default();
        let purge = Purge { site_id: "a".into(), targets: vec!["/x".into()], ..Purge::default() };
        installation.apply(change(1, Change { purges: vec![purge], ..Change::default() }));
        assert_eq!(standing(&installation, 0), Standing::Gone);
        let mut again = Installation::default();
        again.apply(installation.snapshot());
        assert_eq!([0, 1].map(|stamp| standing(&again, stamp)), [Standing::Gone, Standing::Good]);
        again.apply(ConfigEvent { version: 9, event: Some(Event::Snapshot(Snapshot::default())) });
        assert_eq!([1, 2].map(|stamp| standing(&again, stamp)), [Standing::Stale, Standing::Good]);
    }

    #[test]
    fn a_heartbeat_is_no_news() {
        let mut installation = Installation::default();
        installation.apply(change(9, Change { sites: vec![site("a", "a.test")], ..Change::default() }));
        assert!(!installation.apply(change(9, Change::default())));
    }
}
