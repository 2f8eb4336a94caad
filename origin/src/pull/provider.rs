//! Whom the shield asks: the servers of a site's provider.

use std::sync::Arc;

use axum::{body::Body, extract::Request, response::Response};
use http::request::Parts;
use tokio::sync::watch;
use tracing::debug;
use umbel_service::{installation::Installation, passing};
use umbel_shared_cache::{Ask, Failed, Root, Variant};
use umbel_wire::control::Pull;

use super::{
    forward::{Forward, PullError},
    versions::Versions,
};

/// The way to providers' servers.
#[derive(Debug, Clone)]
pub(crate) struct Providers {
    installation: watch::Receiver<Arc<Installation>>,
    forward: Forward,
    versions: Versions,
}

impl Providers {
    pub(crate) fn new(installation: watch::Receiver<Arc<Installation>>, forward: Forward, versions: Versions) -> Self {
        Self { installation, forward, versions }
    }

    /// Whether this is a site that is pulled.
    pub(crate) fn knows(&self, site_id: &str) -> bool {
        self.pull(site_id).is_some()
    }

    /// The first of its hosts: what agents ask for, who say no host, is what is under that.
    pub(crate) fn home(&self, site_id: &str) -> String {
        let installation = self.installation.borrow();
        installation.sites.get(site_id).and_then(|site| site.hosts.first().cloned()).unwrap_or_default()
    }

    fn pull(&self, site_id: &str) -> Option<Pull> {
        self.installation.borrow().sites.get(site_id)?.pull.clone()
    }

    /// The server's answer to any request.
    pub(crate) async fn pass(&self, site_id: &str, request: Request) -> Result<Response, PullError> {
        let pull = self.pull(site_id).ok_or(PullError::NoUpstream)?;
        self.forward.request(&pull, request).await
    }
}

impl Ask for Providers {
    async fn ask(&self, site_id: &str, request: &Parts) -> Result<Response, Failed> {
        let mut asked = Request::new(Body::empty());
        *asked.method_mut() = request.method.clone();
        *asked.uri_mut() = request.uri.clone();
        *asked.headers_mut() = request.headers.clone();
        asked.extensions_mut().extend(request.extensions.clone());
        self.pass(site_id, asked).await.map_err(Failed::from)
    }

    fn storing(&self, site_id: &str, request: &Parts, variant: &Variant) {
        let home = self.home(site_id);
        let at_home = Root::new(site_id, true, &home);
        let sent_to = passing::said_to_be_sent_to(&request.headers);
        // A version's name says no host. Of another's body it would take the place of the one that agents are given.
        if sent_to.is_none_or(|(secure, host)| Root::new(site_id, secure, host) == at_home) {
            self.versions.begin(site_id, request, variant);
        }
    }
}

impl From<PullError> for Failed {
    fn from(error: PullError) -> Self {
        debug!(error = &error as &dyn std::error::Error, "a provider's server does not answer");
        Self::new(error.status(), error.reason(), error.to_string())
    }
}
