//! The configuration as requests need it: derived once a version, then only read.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use arc_swap::{ArcSwap, Guard};
use http::Uri;
use tokio::sync::watch;
use tracing::warn;
use umbel_delivery::Rules;
use umbel_service::installation::Installation;
use umbel_wire::{
    agent,
    control::{Role, Site},
    token::{KeySet, ReaderKeys},
};

/// One version of the configuration with everything that follows from it.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) installation: Arc<Installation>,
    pub(crate) membership_keys: KeySet,
    pub(crate) ticket_keys: KeySet,
    /// As agents are told.
    pub(crate) fleet: agent::Fleet,
    reader_keys: BTreeMap<String, ReaderKeys>,
    /// Of the sites that have any, by site id.
    rules: BTreeMap<String, Arc<SiteRules>>,
    /// Where this edge answers readers over TLS, as they see it.
    pub(crate) https_port: u16,
}

/// Rules, and a number by which what is counted under them is found.
#[derive(Debug)]
pub(crate) struct SiteRules {
    pub(crate) number: u64,
    pub(crate) rules: Rules,
}

impl View {
    /// What is the same as in `before` is taken from there.
    fn of(node_id: &str, installation: Arc<Installation>, before: &Self) -> Self {
        let reader_keys = installation.sites.values().map(|site| (site.id.clone(), reader_keys(site))).collect();
        Self {
            membership_keys: installation.membership_key_set(),
            ticket_keys: installation.ticket_key_set(),
            fleet: fleet(&installation),
            reader_keys,
            rules: installation.sites.values().filter_map(|site| rules(site, before)).collect(),
            https_port: https_port(node_id, &installation),
            installation,
        }
    }

    /// Keys that grants of this site are checked with.
    pub(crate) fn reader_keys(&self, site_id: &str) -> &ReaderKeys {
        static NONE: LazyLock<ReaderKeys> = LazyLock::new(ReaderKeys::default);
        self.reader_keys.get(site_id).unwrap_or(&NONE)
    }

    /// How answers of this site leave, if it says anything about it.
    pub(crate) fn rules(&self, site_id: &str) -> Option<&Arc<SiteRules>> {
        self.rules.get(site_id)
    }
}

/// Checked by the control plane. One that knows more than this edge may send what is a mistake to it: better no rules than half
/// of them.
fn rules(site: &Site, before: &View) -> Option<(String, Arc<SiteRules>)> {
    let document = site.delivery.as_ref()?;
    let known = before.installation.sites.get(&site.id).and_then(|site| site.delivery.as_ref());
    if known == Some(document) {
        return before.rules.get_key_value(&site.id).map(|(id, rules)| (id.clone(), rules.clone()));
    }
    match Rules::of(document) {
        Ok(rules) => Some((site.id.clone(), Arc::new(SiteRules { number: rand::random(), rules }))),
        Err(mistakes) => {
            warn!(site = site.name, %mistakes, "the site's delivery rules are not understood and left out");
            None
        }
    }
}

fn https_port(node_id: &str, installation: &Installation) -> u16 {
    let addresses = installation.nodes.get(node_id).and_then(|node| node.addresses.as_ref());
    let url = addresses.and_then(|addresses| addresses.public_url.parse::<Uri>().ok());
    url.and_then(|url| url.port_u16()).unwrap_or(443)
}

fn reader_keys(site: &Site) -> ReaderKeys {
    ReaderKeys::new(site.policy.iter().flat_map(|policy| &policy.reader_keys))
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
    node_id: String,
    view: ArcSwap<View>,
    changes: watch::Sender<u64>,
}

impl Current {
    /// Starts with this configuration.
    pub(crate) fn new(node_id: &str, installation: Arc<Installation>) -> Self {
        let changes = watch::Sender::new(installation.version);
        let view = ArcSwap::from_pointee(View::of(node_id, installation, &View::default()));
        Self { node_id: node_id.to_owned(), view, changes }
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
        let view = View::of(&self.node_id, installation, &self.view.load());
        self.view.store(Arc::new(view));
        self.changes.send_replace(version);
    }

    /// Wakes up after each change, when [`Current::load`] has it.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
