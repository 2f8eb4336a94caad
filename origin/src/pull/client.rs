//! Connections to providers' servers: resolved under the guard, TLS verified against the system's roots and the operator's.

use std::{io, net::SocketAddr, path::Path, pin::Pin, sync::Arc, task::Poll, time::Duration};

use anyhow::Context;
use axum::body::Body;
use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{HttpConnector, dns::Name},
    },
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tower::Service;
use tracing::warn;
use umbel_service::{
    client::{Names, Strict},
    listen::PerLane,
};

use super::guard::Guard;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Less than servers usually wait for the next request (5 s), so that few requests are sent on a connection that just closes.
const IDLE_CONNECTIONS: Duration = Duration::from_secs(4);

/// What a response's head may be at most.
const HEAD_BYTES: usize = 64 * 1024;
const HEAD_FIELDS: usize = 200;

/// Of HTTP/2: so many answers that nobody reads are taken in part before they hold up the others of their connection.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 64 * STREAM_WINDOW;

type Connector = Strict<HttpsConnector<HttpConnector<Guarded>>>;

/// All of a name's addresses are ones that the guard does not permit.
#[derive(Debug, thiserror::Error)]
#[error("the name leads to an address that is not public")]
pub(crate) struct NotPermitted;

/// Names that resolve to permitted addresses only.
#[derive(Debug, Clone)]
pub(crate) struct Guarded {
    names: Names,
    guard: Arc<Guard>,
}

impl Service<Name> for Guarded {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> Poll<io::Result<()>> {
        self.names.poll_ready(context)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (resolving, guard) = (self.names.call(name), self.guard.clone());
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = resolving.await?.filter(|address| guard.permits(address.ip())).collect();
            if addresses.is_empty() {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, NotPermitted));
            }
            Ok(addresses.into_iter())
        })
    }
}

/// Pools of connections to providers' servers.
#[derive(Debug, Clone)]
pub(crate) struct PullClient {
    guard: Arc<Guard>,
    /// A connection for each request: in one for all, answers that nobody reads would hold up the others.
    http1: Pools,
    /// HTTP/2 where the server has it.
    either: Pools,
    http2: Pools,
}

type Pools = Arc<PerLane<Pool>>;

#[derive(Debug, Clone)]
struct Pool {
    kept: Client<Connector, Body>,
    /// Keeps no connection.
    fresh: Client<Connector, Body>,
}

/// What a server is spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    Http1,
    /// What it prefers.
    Either,
    /// HTTP/2 and nothing else, with or without TLS.
    Http2,
}

/// Which connection a request may go out on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// One that others used before, where there is one.
    Any,
    Fresh,
}

impl PullClient {
    /// Trusts the system's roots and those in the PEM file `extra_roots`.
    pub(crate) fn new(guard: Guard, extra_roots: Option<&Path>) -> anyhow::Result<Self> {
        let guard = Arc::new(guard);
        let tls = ClientConfig::builder().with_root_certificates(roots(extra_roots)?).with_no_client_auth();
        let pool = |speaks| Pool {
            kept: client(&guard, tls.clone(), speaks, usize::MAX),
            fresh: client(&guard, tls.clone(), speaks, 0),
        };
        let pools = |speaks| Arc::new(PerLane::new(|| pool(speaks)));
        let [http1, either, http2] = [Speaks::Http1, Speaks::Either, Speaks::Http2].map(pools);
        Ok(Self { http1, either, http2, guard: guard.clone() })
    }

    /// The client for a request, if its server's address may be connected to. A host that is an address by itself never
    /// comes to the resolver.
    pub(super) fn to(&self, uri: &Uri, speaks: Speaks, over: Over) -> Result<&Client<Connector, Body>, NotPermitted> {
        let host = uri.host().unwrap_or_default();
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse();
        if literal.is_ok_and(|address| !self.guard.permits(address)) {
            return Err(NotPermitted);
        }
        let pools = match speaks {
            Speaks::Http1 => &self.http1,
            Speaks::Either => &self.either,
            Speaks::Http2 => &self.http2,
        };
        let pool = pools.here();
        Ok(if over == Over::Fresh { &pool.fresh } else { &pool.kept })
    }
}

fn client(guard: &Arc<Guard>, tls: ClientConfig, speaks: Speaks, idle: usize) -> Client<Connector, Body> {
    let names = Guarded { names: Names::default(), guard: guard.clone() };
    let mut tcp = HttpConnector::new_with_resolver(names);
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    let connector = match speaks {
        Speaks::Http1 => Strict::new(connector.enable_http1().wrap_connector(tcp)),
        Speaks::Either => Strict::new(connector.enable_http1().enable_http2().wrap_connector(tcp)),
        Speaks::Http2 => Strict::of_http_2(connector.enable_http2().wrap_connector(tcp)),
    };
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_CONNECTIONS)
        .pool_max_idle_per_host(idle)
        .http1_max_buf_size(HEAD_BYTES)
        .http1_max_headers(HEAD_FIELDS)
        .http2_only(speaks == Speaks::Http2)
        .http2_max_header_list_size(HEAD_BYTES as u32)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .http2_keep_alive_timeout(Duration::from_secs(10))
        .set_host(false)
        .build(connector)
}

fn roots(extra: Option<&Path>) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        warn!(%error, "a root certificate of the system cannot be read");
    }
    roots.add_parsable_certificates(system.certs);
    let Some(path) = extra else { return Ok(roots) };
    let read = || format!("cannot read certificates from {}", path.display());
    for certificate in CertificateDer::pem_file_iter(path).with_context(read)? {
        roots.add(certificate.with_context(read)?).with_context(read)?;
    }
    Ok(roots)
}
