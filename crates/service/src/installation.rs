//! What a server knows of the installation: sites, nodes, keys, revocations. Pure bookkeeping over
//! `umbel.control.v1` events; [`crate::follow`] keeps it current.

use std::collections::{BTreeMap, BTreeSet};

use umbel_wire::{
    control::{Change, ConfigEvent, Node, Role, S3Credential, Site, Snapshot, config_event::Event},
    token::{AgentId, KeySet},
};

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
    hosts: BTreeMap<String, String>,
}

impl Installation {
    /// Applies one event. Whether anything but the version could have changed.
    pub fn apply(&mut self, event: ConfigEvent) -> bool {
        let news = match event.event {
            Some(Event::Snapshot(snapshot)) => {
                *self = Self { deleted_sites: snapshot.deleted_sites.iter().cloned().collect(), ..Self::default() };
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

    fn merge(&mut self, change: Change) {
        self.sites.extend(change.sites.into_iter().map(|site| (site.id.clone(), site)));
        self.nodes.extend(change.nodes.into_iter().map(|node| (node.id.clone(), node)));
        let revoked = change.revoked_agents.iter();
        self.revoked.extend(revoked.filter_map(|entry| AgentId::try_from(entry.agent.as_ref()).ok()));
        self.membership_keys.extend(change.membership_keys.into_iter().map(|key| (key.id, key.key.to_vec())));
        let credentials = change.s3_credentials.into_iter();
        self.s3_credentials.extend(credentials.map(|entry| (entry.access_key_id.clone(), entry)));
        change.removed_sites.iter().for_each(|id| drop(self.sites.remove(id)));
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
                .map(|(id, key)| umbel_wire::control::PublicKey { id: id.clone(), key: key.clone().into() })
                .collect(),
            deleted_sites: self.deleted_sites.iter().cloned().collect(),
            s3_credentials: self.s3_credentials.values().cloned().collect(),
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
    fn a_heartbeat_is_no_news() {
        let mut installation = Installation::default();
        installation.apply(change(9, Change { sites: vec![site("a", "a.test")], ..Change::default() }));
        assert!(!installation.apply(change(9, Change::default())));
    }
}
