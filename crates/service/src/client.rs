//! Clients of other services: gRPC channels and plain HTTP, both over TLS of our own CA, both with time limits.

use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::ClientConfig;
use tonic::transport::{Channel, Endpoint};

/// A pooled HTTP client; requests carry whole bodies, responses stream.
pub type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Flow-control windows of HTTP/2: on a link of 1 Gbit/s and 40 ms a stream needs 5 MB in flight.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

fn tcp() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
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
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http2().wrap_connector(tcp());
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

/// `base` and `path` as one URI; the base's own path is dropped.
pub fn join(base: &str, path: &str) -> Result<Uri, http::Error> {
    let base: Uri = base.parse()?;
    let mut parts = base.into_parts();
    parts.path_and_query = Some(path.parse()?);
    Ok(Uri::from_parts(parts)?)
}
