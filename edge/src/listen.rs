//! The doors of an edge: what is bound where, and what each request of the public port comes to.

use std::sync::Arc;

use anyhow::Context;
use axum::{Router, body::Body, extract::Request};
use http::Response;
use tower::ServiceExt;
use umbel_service::{
    listen::{App, Lanes, Limits, Listener},
    ops::Ops,
    tls::{self, ClientAuth},
};

use crate::{
    Identity,
    agents::{self, AgentService},
    config::Config,
    core::Core,
    internal,
    reload::Live,
    respond,
    route::{Station, station},
};

/// Bound ports.
#[derive(Debug)]
pub(crate) struct Doors {
    pub(crate) public: Listener,
    pub(crate) plain: Option<Listener>,
    pub(crate) internal: Listener,
    pub(crate) ops: Listener,
    /// Of the public ports.
    pub(crate) lanes: Arc<Lanes>,
}

impl Doors {
    /// Binds all TCP ports but the relay's.
    pub(crate) async fn open(config: &Config, identity: &Identity, live: &Live) -> anyhow::Result<Self> {
        let public_tls = tls::server(live.certificates.clone(), ClientAuth::None)?;
        let internal_tls = tls::server(identity.certificate.clone(), ClientAuth::Required(&identity.ca))?;
        // Only the public ports go by rules that may change. Other edges are as slow as their readers.
        let within = Limits { drain: config.rules.limits.drain, min_rate: 0, ..Limits::default() };
        let bind = Listener::bind;
        let lanes = Arc::new(Lanes::start().context("threads for connections")?);
        let for_readers = |door: Listener| door.under(live.rules.clone()).on(lanes.clone());
        let plain = match config.plain_listen {
            Some(address) => Some(for_readers(bind(address, None, within).await.context("plain port")?)),
            None => None,
        };
        let public = bind(config.public_listen, Some(public_tls), within).await.context("public port")?;
        let internal = bind(config.internal_listen, Some(internal_tls), within).await.context("internal port")?;
        let ops = bind(config.ops_listen, None, within).await.context("ops port")?;
        Ok(Self { public: for_readers(public), plain, internal, ops, lanes })
    }
}

/// Readers, agents' calls and agents' chunks.
#[derive(Debug, Clone)]
pub(crate) struct Public {
    core: Arc<Core>,
    agents: agents::Service,
}

impl Public {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let agents = AgentService::service(core.clone());
        Self { core, agents }
    }
}

impl App for Public {
    async fn answer(&self, request: Request) -> Response<Body> {
        match station(request.uri().path(), request.headers()) {
            Station::Agents => call(self.agents.clone(), request).await,
            Station::Chunks => {
                let (parts, _) = request.into_parts();
                let answer = agents::chunks::serve(&self.core, &parts.method, parts.uri.path(), &parts.headers).await;
                self.core.metrics.chunk_answered(answer.status());
                answer
            }
            Station::Readers => respond::answer(&self.core, request).await,
        }
    }

    fn unwritten(&self) -> u16 {
        self.core.meter.unwritten()
    }

    fn before_sending(&self, unwritten: u16) {
        self.core.meter.before_sending(unwritten);
    }
}

async fn call(agents: agents::Service, request: Request) -> Response<Body> {
    match agents.oneshot(request).await {
        Ok(response) => response.map(Body::new),
        Err(never) => match never {},
    }
}

/// The other edges.
pub(crate) fn internal_app(core: Arc<Core>) -> Router {
    Router::new().fallback(internal::answer).with_state(core)
}

/// Health and metrics.
pub(crate) fn ops_app(ops: &Ops) -> Router {
    ops.app()
}
