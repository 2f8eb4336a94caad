//! The configuration as requests need it: derived once a version, then only read.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;
use umbel_service::installation::Installation;
use umbel_wire::{
    agent,
    control::{Role, Site},
    token::KeySet,
};

/// One version of the configuration with everything that follows from it.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) installation: Arc<Installation>,
    pub(crate) membership_keys: KeySet,
    pub(crate) ticket_keys: KeySet,
    /// As agents are told.
    pub(crate) fleet: agent::Fleet,
    reader_keys: BTreeMap<String, KeySet>,
}

impl View {
    fn of(installation: Arc<Installation>) -> Self {
        let reader_keys = installation.sites.values().map(|site| (site.id.clone(), reader_keys(site))).collect();
        Self {
            membership_keys: installation.membership_key_set(),
            ticket_keys: installation.ticket_key_set(),
            fleet: fleet(&installation),
            reader_keys,
            installation,
        }
    }

    /// Keys that grants of this site are checked with.
    pub(crate) fn reader_keys(&self, site_id: &str) -> KeySet {
        self.reader_keys.get(site_id).cloned().unwrap_or_default()
    }
}

fn reader_keys(site: &Site) -> KeySet {
    let keys = site.policy.iter().flat_map(|policy| &policy.reader_keys);
    KeySet::new(keys.map(|key| (key.id.as_str(), key.key.as_ref())))
}

fn fleet(installation: &Installation) -> agent::Fleet {
    let edges = installation.nodes(Role::Edge).map(|node| {
        let addresses = node.addresses.clone().unwrap_or_default();
        agent::Edge {
            id: node.id.clone(),
            public_url: addresses.public_url,
            relay_url: addresses.relay_url,
            relay_quic_port: addresses.relay_quic_port,
            ticket_key: node.ticket_key.clone(),
        }
    });
    agent::Fleet { edges: edges.collect(), version: installation.version }
}

/// The current view.
#[derive(Debug)]
pub(crate) struct Current {
    view: ArcSwap<View>,
    changes: watch::Sender<u64>,
}

impl Current {
    /// Starts with this configuration.
    pub(crate) fn new(installation: Arc<Installation>) -> Self {
        let changes = watch::Sender::new(installation.version);
        Self { view: ArcSwap::from_pointee(View::of(installation)), changes }
    }

    /// Reads without waiting for anyone.
    pub(crate) fn load(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    /// As [`Current::load`], to be kept across waiting.
    pub(crate) fn load_full(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// From now on this one.
    pub(crate) fn replace(&self, installation: Arc<Installation>) {
        let version = installation.version;
        self.view.store(Arc::new(View::of(installation)));
        self.changes.send_replace(version);
    }

    /// Wakes up after each change, when [`Current::load`] has it.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
