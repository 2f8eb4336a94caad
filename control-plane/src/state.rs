//! What every handler works with.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use umbel_wire::invitation::{Invitation, Purpose};

use crate::{
    authority::{Authority, names_of},
    config::Config,
    metrics::Metrics,
    presence::Presence,
    sites::check_host,
};

/// How long what is issued lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Certificates of nodes and of the control plane itself.
    pub certificate: Duration,
    /// Memberships of agents.
    pub membership: Duration,
}

/// The control plane behind its faces; a cheap handle.
#[derive(Debug, Clone)]
pub(crate) struct ControlPlane(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) db: PgPool,
    pub(crate) authority: Authority,
    pub(crate) public_url: String,
    /// What the control plane itself is reached by.
    pub(crate) own_names: BTreeSet<String>,
    pub(crate) lifetimes: Lifetimes,
    /// Newest configuration version.
    pub(crate) head: watch::Receiver<i64>,
    pub(crate) metrics: Metrics,
    /// Who follows the configuration here.
    pub(crate) presence: Presence,
    /// Ends the streams that would otherwise stay open for ever.
    pub(crate) shutdown: CancellationToken,
}

impl ControlPlane {
    pub(crate) fn new(
        config: &Config,
        db: PgPool,
        authority: Authority,
        head: watch::Receiver<i64>,
        metrics: Metrics,
        shutdown: CancellationToken,
    ) -> Self {
        let public_url = config.public_url.trim_end_matches('/').to_owned();
        let mut own_names = names_of([config.public_url.as_str()]);
        own_names.extend(config.names.iter().filter_map(|name| check_host(name).ok()));
        let lifetimes = config.lifetimes;
        let presence = Presence::default();
        Self(Arc::new(Inner { db, authority, public_url, own_names, lifetimes, head, metrics, presence, shutdown }))
    }

    /// The string that lets a node or an agent in.
    pub(crate) fn invitation(&self, purpose: Purpose, secret: String) -> String {
        let invitation =
            Invitation { purpose, url: self.public_url.clone(), ca: self.authority.ca_pem().to_owned(), secret };
        invitation.encode()
    }
}

impl std::ops::Deref for ControlPlane {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}
