//! Clients of other services: gRPC channels and plain HTTP, both over TLS of our own CA, both with time limits.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{
            HttpConnector,
            dns::{GaiResolver, Name},
        },
    },
    rt::{TokioExecutor, TokioTimer},
};
use rustls::ClientConfig;
use tonic::transport::{Channel, Endpoint};
use tower::Service;

mod buffered;
mod strict;

pub use self::buffered::{Buffered, BufferedStream};
pub use self::strict::{Strict, StrictStream, Used};

/// A pooled HTTP client; requests carry whole bodies, responses stream.
pub type HttpClient = StreamClient<Full<Bytes>>;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection without traffic is probed after so long, and given up after twice that.
const SILENCE: Duration = Duration::from_secs(15);

/// Flow-control windows of HTTP/2: on a link of 1 Gbit/s and 40 ms a stream needs 5 MB in flight.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// Less than a [`crate::listen::Listener`] waits for the next request: no request is sent on a connection that just closes.
const IDLE: Duration = Duration::from_secs(5);

/// Of a response; a provider's server may send more than are usual.
const MAX_FIELDS: usize = 256;

/// A pooled HTTP client whose requests stream as well.
pub type StreamClient<B> = Client<HttpsConnector<Buffered<HttpConnector<Names>>>, B>;

/// The system's names, except that all names under `localhost` are this machine, whether or not the system's resolver
/// knows of them (RFC 6761, section 6.3).
#[derive(Debug, Clone)]
pub struct Names(GaiResolver);

impl Default for Names {
    fn default() -> Self {
        Self(GaiResolver::new())
    }
}

impl Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        if is_localhost(name.as_str()) {
            // The port is the connector's to fill in.
            let addresses = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
            return Box::pin(std::future::ready(Ok(addresses.into_iter())));
        }
        let resolving = self.0.call(name);
        Box::pin(async move { Ok(resolving.await?.collect::<Vec<_>>().into_iter()) })
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    // Plain `localhost` is in every hosts file, maybe as ::1 as well.
    name.ends_with(".localhost")
}

fn tcp() -> HttpConnector<Names> {
    let mut connector = HttpConnector::new_with_resolver(Names::default());
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    // A server that vanishes without a word is noticed, also by who waits for the rest of its answer.
    connector.set_keepalive(Some(SILENCE));
    connector.set_keepalive_interval(Some(SILENCE / 3));
    connector.set_keepalive_retries(Some(3));
    connector
}

/// A gRPC channel to `url` that connects when it is first used and again whenever it has to.
pub fn channel(url: &str, tls: ClientConfig) -> Result<Channel, tonic::transport::Error> {
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http2().wrap_connector(tcp());
    let endpoint = Endpoint::from_shared(url.to_owned())?
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    Ok(endpoint.connect_with_connector_lazy(connector))
}

/// A pooled HTTP/2 client.
pub fn http(tls: ClientConfig) -> HttpClient {
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only();
    let connector = connector.enable_http2().wrap_connector(Buffered(tcp()));
    Client::builder(TokioExecutor::new())
        .http2_only(true)
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .http2_keep_alive_timeout(Duration::from_secs(10))
        .build(connector)
}

/// A pooled client for requests with bodies of any kind: HTTP/2, or HTTP/1.1 where a connection is to change its protocol.
pub fn streaming<B>(tls: ClientConfig, http2: bool) -> StreamClient<B>
where
    B: http_body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only();
    let connector = match http2 {
        true => connector.enable_http2().wrap_connector(Buffered(tcp())),
        false => connector.enable_http1().wrap_connector(Buffered(tcp())),
    };
    Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .http1_max_headers(MAX_FIELDS)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .http2_keep_alive_timeout(Duration::from_secs(10))
        .build(connector)
}

/// `base` and `path` as one URI; the base's own path is dropped.
pub fn join(base: &str, path: &str) -> Result<Uri, http::Error> {
    let base: Uri = base.parse()?;
    let mut parts = base.into_parts();
    parts.path_and_query = Some(path.parse()?);
    Ok(Uri::from_parts(parts)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_under_localhost_need_no_resolver() {
        for name in ["demo.localhost", "a.b.LOCALHOST", "demo.localhost."] {
            let mut names = Names(GaiResolver::new());
            let addresses: Vec<_> = names.call(name.parse().unwrap()).await.unwrap().collect();
            assert_eq!(addresses, [SocketAddr::from((Ipv4Addr::LOCALHOST, 0))], "{name}");
        }
        assert!(!is_localhost("notlocalhost"));
        assert!(!is_localhost("localhost.example"));
    }
}
