//! Sites that are pulled: what an edge asks for is asked of the provider's own web server (the origin is its shield). Any
//! method and any path; bodies stream both ways.
//!
//! An edge sends the reader's request as it is, with the site's id in [`SITE_HEADER`].

use std::{path::Path, sync::Arc};

use axum::{
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;
use umbel_service::installation::Installation;
use umbel_wire::control::Pull as PullSettings;

use self::{
    client::PullClient,
    forward::{Forward, PullError},
    guard::Guard,
};

mod client;
mod forward;
mod guard;
mod upstreams;

/// Says which site's server is meant. It goes no further.
pub(crate) const SITE_HEADER: HeaderName = HeaderName::from_static("umbel-site");

/// Set on answers that are the origin's own and not the provider's: one word that says why.
const FAILED_HEADER: HeaderName = HeaderName::from_static("umbel-failed");

/// The shield in front of providers' servers.
#[derive(Debug, Clone)]
pub(crate) struct Pull {
    installation: watch::Receiver<Arc<Installation>>,
    forward: Forward,
}

impl Pull {
    /// `allowed` are networks that may be pulled from though they are not public; `roots` is a PEM file of more CAs.
    pub(crate) fn new(
        installation: watch::Receiver<Arc<Installation>>,
        allowed: Vec<IpNet>,
        roots: Option<&Path>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        let client = PullClient::new(Guard::new(allowed), roots)?;
        Ok(Self { installation, forward: Forward::new(client, shutdown) })
    }

    /// Answers an edge.
    pub(crate) async fn answer(&self, mut request: Request) -> Response {
        let Some(settings) = self.settings(&request) else {
            return (StatusCode::NOT_FOUND, [(FAILED_HEADER, "no-such-site")]).into_response();
        };
        request.headers_mut().remove(SITE_HEADER);
        match self.forward.request(&settings, request).await {
            Ok(response) => response,
            Err(error) => failed(&error),
        }
    }

    fn settings(&self, request: &Request) -> Option<PullSettings> {
        let id = request.headers().get(SITE_HEADER)?.to_str().ok()?;
        self.installation.borrow().sites.get(id)?.pull.clone()
    }
}

fn failed(error: &PullError) -> Response {
    info!(error = error as &dyn std::error::Error, "a request could not be passed on");
    let mut response = Response::new(Body::from(format!("{error}\n")));
    *response.status_mut() = error.status();
    response.headers_mut().insert(FAILED_HEADER, HeaderValue::from_static(error.reason()));
    response
}
