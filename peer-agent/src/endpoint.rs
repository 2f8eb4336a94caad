//! This agent's place on the QUIC network: an iroh endpoint that knows our own edges' relays and nobody else's.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayConfig, RelayMap, RelayMode, RelayUrl, SecretKey, TransportAddr, Watcher,
    endpoint::{PortmapperConfig, QuicTransportConfig, VarInt, presets},
    tls::CaTlsConfig,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use umbel_wire::{PEER_ALPN, agent::PeerAddress};

use crate::{config::Config, fleet, identity::Identity};

/// Streams of one connection, each a version.
const MAX_STREAMS: u32 = 64;
/// What one version's stream may have in flight: a path of 1 Gbit/s and 40 ms.
const STREAM_WINDOW: u32 = 5 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// What a receiver may send before it is read: tickets, requests and receipts are small.
const REQUEST_WINDOW: u32 = 32 * 1024;
const REQUESTS_WINDOW: u32 = 256 * 1024;
const IDLE: Duration = Duration::from_secs(30);
/// Addresses of one peer that are looked at.
const MAX_ADDRESSES: usize = 32;

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The CA certificate.
    #[error("the installation's certificate is damaged")]
    Certificate(#[source] rustls::pki_types::pem::Error),
    /// An address of the configuration.
    #[error("cannot listen for peers: {0}")]
    Bind(String),
}

/// Binds; relays are added as the fleet becomes known ([`follow_fleet`]).
pub(crate) async fn bind(config: &Config, identity: &Identity) -> Result<Endpoint, EndpointError> {
    let roots = CertificateDer::pem_slice_iter(identity.enrolled().ca_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let relays = if config.relay { RelayMode::Custom(RelayMap::empty()) } else { RelayMode::Disabled };
    let mut builder = Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(identity.seed()))
        .alpns(vec![PEER_ALPN.to_vec()])
        .relay_mode(relays)
        .clear_address_lookup()
        .portmapper_config(PortmapperConfig::Disabled)
        .ca_tls_config(CaTlsConfig::custom_roots(roots.map_err(EndpointError::Certificate)?))
        .transport_config(sending());
    if !config.bind.is_empty() {
        builder = builder.clear_ip_transports();
    }
    for address in &config.bind {
        builder = builder.bind_addr(*address).map_err(|error| EndpointError::Bind(error.to_string()))?;
    }
    builder.bind().await.map_err(|error| EndpointError::Bind(error.to_string()))
}

/// For connections that others open, to get chunks from us.
///
/// The seam for congestion control: iroh's CUBIC suits LANs and loopback; far and lossy paths will want BBR3
/// (`QuicTransportConfigBuilder::congestion_controller_factory`), chosen by measured round-trip time.
fn sending() -> QuicTransportConfig {
    QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(REQUEST_WINDOW))
        .receive_window(VarInt::from_u32(REQUESTS_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .max_idle_timeout(IDLE.try_into().ok())
        .build()
}

/// For connections that we open, to get chunks: the other side has no streams to open.
pub(crate) fn receiving() -> QuicTransportConfig {
    QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .max_idle_timeout(IDLE.try_into().ok())
        .build()
}

/// Uses the relays of the fleet as it is now, and as it changes.
pub(crate) async fn follow_fleet(
    endpoint: Endpoint,
    identity: Identity,
    mut fleet: watch::Receiver<Arc<fleet::Edges>>,
    stop: CancellationToken,
) {
    let mut used = BTreeSet::new();
    loop {
        let current = fleet.borrow_and_update().clone();
        let relays = current.edges.iter().filter_map(|edge| relay(edge, &identity)).collect::<Vec<_>>();
        let wanted: BTreeSet<RelayUrl> = relays.iter().map(|relay| relay.url.clone()).collect();
        for relay in relays.into_iter().filter(|relay| !used.contains(&relay.url)) {
            endpoint.insert_relay(relay.url.clone(), Arc::new(relay)).await;
        }
        for gone in used.difference(&wanted) {
            endpoint.remove_relay(gone).await;
        }
        used = wanted;
        tokio::select! { () = stop.cancelled() => return, changed = fleet.changed() => if changed.is_err() { return } }
    }
}

/// Members only: the relay is shown the membership, over TLS.
fn relay(edge: &umbel_wire::agent::Edge, identity: &Identity) -> Option<RelayConfig> {
    let url: RelayUrl = edge.relay_url.parse().ok()?;
    let mut config = RelayConfig::from(url);
    match (u16::try_from(edge.relay_quic_port), config.quic.as_mut()) {
        (Ok(port @ 1..), Some(quic)) => quic.port = port,
        _ => config.quic = None,
    }
    Some(config.with_auth_token(identity.enrolled().membership.clone()))
}

/// Follows this agent's own address, as others are to be told. Ends with `stop`.
pub(crate) async fn follow_address(endpoint: Endpoint, address: watch::Sender<PeerAddress>, stop: CancellationToken) {
    let mut watched = endpoint.watch_addr();
    address.send_replace(described(&watched.get()));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = watched.updated() => match changed {
                Ok(changed) => drop(address.send_replace(described(&changed))),
                Err(_) => return,
            },
        }
    }
}

fn described(address: &EndpointAddr) -> PeerAddress {
    PeerAddress {
        peer: address.id.as_bytes().to_vec().into(),
        direct: address.ip_addrs().map(SocketAddr::to_string).take(MAX_ADDRESSES).collect(),
        relay_url: address.relay_urls().next().map_or_else(String::new, ToString::to_string),
    }
}

/// A peer's address as the edge told it; what cannot be read of it is left out. None: no peer is named.
pub(crate) fn address_of(peer: &PeerAddress, relay: bool) -> Option<EndpointAddr> {
    let id = EndpointId::from_bytes(peer.peer.as_ref().try_into().ok()?).ok()?;
    let direct = peer.direct.iter().take(MAX_ADDRESSES).filter_map(|text| text.parse().ok()).map(TransportAddr::Ip);
    let relays = peer.relay_url.parse().ok().filter(|_| relay).map(TransportAddr::Relay);
    Some(EndpointAddr::from_parts(id, direct.chain(relays)))
}
