//! The embedded iroh relay and address discovery: ours, under our certificate, for members only.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use iroh_relay::server::{
    Access, AccessControl, CertConfig, ClientRequest, QuicConfig, RelayConfig, Server, ServerConfig, TlsConfig,
    http_server::RelayService,
};
use tracing::{debug, info};
use umbel_service::{
    tls::{self, ClientAuth, LiveCertificate},
    unix_now,
};

use crate::{agents, config::Config, core::Core};

/// Who was let in just before the revocation came is found this much later.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Admits endpoints whose owner shows a membership for that very key, or has a session here.
struct MembersOnly(Arc<Core>);

impl std::fmt::Debug for MembersOnly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MembersOnly")
    }
}

impl MembersOnly {
    fn check(&self, endpoint: &[u8; 32], token: Option<&str>) -> Result<(), &'static str> {
        let view = self.0.view.load();
        if view.installation.revoked.contains(endpoint) {
            return Err("membership revoked");
        }
        let shown = token.and_then(|token| agents::check_membership(&view, token, unix_now()).ok());
        if shown.is_some_and(|membership| &membership.agent == endpoint) || self.0.sessions.has(endpoint) {
            return Ok(());
        }
        Err("only members may use this relay")
    }
}

impl AccessControl for MembersOnly {
    async fn on_connect(&self, request: &ClientRequest) -> Access {
        let endpoint = request.endpoint_id();
        match self.check(endpoint.as_bytes(), request.auth_token().as_deref()) {
            Ok(()) => Access::Allow,
            Err(reason) => {
                debug!(%endpoint, reason, "relay refused");
                Access::Deny { reason: Some(reason.into()) }
            }
        }
    }
}

/// Starts relay and address discovery; both end when the server is dropped.
pub(crate) async fn start(
    core: Arc<Core>,
    config: &Config,
    certificate: Arc<LiveCertificate>,
) -> anyhow::Result<Server> {
    let mut tls = tls::server(certificate, ClientAuth::None)?.as_ref().clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    // The captive portal's check is not offered to anyone.
    let mut relay = RelayConfig::new(([127, 0, 0, 1], 0));
    relay.tls = Some(TlsConfig::new(config.relay_listen, CertConfig::Manual { server_config: tls.clone() }));
    relay.access = Arc::new(MembersOnly(core));
    let mut quic = QuicConfig::new(config.relay_quic_listen);
    quic.server_config = Some(tls);
    let mut server = ServerConfig::default();
    server.relay = Some(relay);
    server.quic = Some(quic);
    Server::spawn(server).await.with_context(|| format!("cannot start the relay on {}", config.relay_listen))
}

/// Ends the connections of agents as soon as their memberships are revoked, for as long as the relay lives.
pub(crate) async fn drop_revoked(core: Arc<Core>, relay: RelayService) {
    let mut changes = core.view.changes();
    let mut looks = tokio::time::interval(LOOK_AGAIN);
    loop {
        tokio::select! {
            Ok(()) = changes.changed() => {}
            _ = looks.tick() => {}
        }
        let revoked = core.view.load_full().installation.clone();
        for agent in &revoked.revoked {
            let connected = agent.try_into().is_ok_and(|endpoint| relay.clients().disconnect(endpoint, None));
            if connected {
                info!(agent = %hex::encode(&agent[..5]), "membership revoked: off the relay");
            }
        }
    }
}
