//! The control plane's REST API, as a client: one place for URL, credentials, CA and what errors look like.

use std::{fmt, net::SocketAddr, path::Path, time::Duration};

use anyhow::Context;
use reqwest::{Certificate, Method};
use serde_json::Value;
use umbel_control_plane::api::UsageQuery;
use umbel_service::tls;
use url::Url;

use crate::exit::{Failure, Status};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What to do about a connection that failed for want of trust; nothing for other failures.
pub(crate) fn trust_hint(error: &(dyn std::error::Error + 'static)) -> &'static str {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    if causes.any(|cause| cause.to_string().contains("UnknownIssuer")) {
        ": name the installation's CA certificate with --ca"
    } else {
        ""
    }
}

/// The same about a site, which may have a certificate of its own.
pub(crate) fn site_trust_hint(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let hint = "the edge shows a certificate of an unknown CA for this site: add that CA's certificate to the file that --ca names, \
        beside the installation's";
    (!trust_hint(error).is_empty()).then_some(hint)
}

/// The URL of a server, as a person writes it.
pub(crate) fn server_url(text: &str) -> anyhow::Result<Url> {
    let url = Url::parse(text).ok().filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
    url.with_context(|| format!("`{text}` is not the URL of a server: write it as https://HOST:PORT"))
}

/// An HTTP client that believes the CA in `ca` only, or the system's ones.
pub(crate) fn http_client(ca: Option<&Path>) -> anyhow::Result<reqwest::Client> {
    http_client_with(read_ca(ca)?.as_deref())
}

fn read_ca(ca: Option<&Path>) -> anyhow::Result<Option<String>> {
    let pem = ca.map(|file| std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display())));
    pem.transpose()
}

/// As [`http_client`], for servers of this machine: never through a proxy.
pub(crate) fn local_client(ca: &Path) -> anyhow::Result<reqwest::Client> {
    let pem = std::fs::read_to_string(ca).with_context(|| format!("cannot read {}", ca.display()))?;
    built(reqwest::Client::builder().no_proxy(), Some(&pem))
}

/// An HTTP client for which all of `hosts` are at `addresses`, as a reader of their site: it believes the system's CAs, which a site's
/// own certificate is of, and those in `ca`. It follows no redirects and uses no proxy.
pub(crate) fn client_to(
    ca: Option<&Path>,
    hosts: &[String],
    addresses: &[SocketAddr],
) -> anyhow::Result<reqwest::Client> {
    let builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let builder = hosts.iter().fold(builder, |builder, host| builder.resolve_to_addrs(host, addresses));
    let given = read_ca(ca)?.map(|pem| Certificate::from_pem_bundle(pem.as_bytes()));
    let given = given.transpose().context("the CA certificate is not usable")?;
    built(builder.tls_certs_merge(given.unwrap_or_default()), None)
}

/// As [`http_client`], from PEM.
pub(crate) fn http_client_with(ca: Option<&str>) -> anyhow::Result<reqwest::Client> {
    built(reqwest::Client::builder(), ca)
}

fn built(builder: reqwest::ClientBuilder, ca: Option<&str>) -> anyhow::Result<reqwest::Client> {
    let builder = builder.connect_timeout(CONNECT_TIMEOUT);
    let builder = match ca {
        Some(pem) => {
            let mut config = tls::client(pem, None).context("the CA certificate is not usable")?;
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            builder.tls_backend_preconfigured(config)
        }
        None => builder,
    };
    builder.build().context("cannot make an HTTP client")
}

/// A session with the control plane.
#[derive(Clone)]
pub(crate) struct Api {
    base: Url,
    key: String,
    http: reqwest::Client,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

impl Api {
    /// `base` is the control plane's URL, `key` an API key.
    pub(crate) fn new(base: &str, key: String, http: reqwest::Client) -> anyhow::Result<Self> {
        let base = server_url(base)?;
        Ok(Self { base: base.join("/api/v1/")?, key, http })
    }

    /// GET `path`, which is relative to `/api/v1/`.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None).await
    }

    /// A usage report.
    pub(crate) async fn usage(&self, query: &UsageQuery) -> anyhow::Result<Value> {
        self.answer(self.http.get(self.base.join("usage")?).query(query)).await
    }

    /// POST `body`.
    pub(crate) async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// One call. An empty answer is `null`.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let mut request = self.http.request(method, self.base.join(path)?);
        if let Some(body) = body {
            request = request.json(&body);
        }
        self.answer(request).await
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let response = request.bearer_auth(&self.key).send().await;
        let response = response.map_err(|error| {
            let place = self.base.origin().ascii_serialization();
            let hint = trust_hint(&error);
            anyhow::Error::new(error.without_url())
                .context(format!("the control plane at {place} cannot be reached{hint}"))
        })?;
        let (status, text) = (response.status(), response.text().await?);
        if !status.is_success() {
            return Err(Failure::error(exit_status(status), format!("{status}: {}", reason(&text))));
        }
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).context("the control plane's answer makes no sense")
    }
}

fn exit_status(status: reqwest::StatusCode) -> Status {
    match status.as_u16() {
        401 | 403 => Status::Refused,
        404 => Status::NotFound,
        409 => Status::Conflict,
        502..=504 => Status::Unavailable,
        _ => Status::Other,
    }
}

/// The reason in a problem document (RFC 9457), or its text.
fn reason(text: &str) -> String {
    let json: Value = serde_json::from_str(text).unwrap_or_default();
    json["detail"].as_str().map_or_else(|| text.chars().take(300).collect(), str::to_owned)
}

/// One segment of a path, escaped.
pub(crate) fn segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_ca_has_a_remedy() {
        for (text, expected) in [("invalid peer certificate: UnknownIssuer", true), ("connection refused", false)] {
            let error = std::io::Error::other(std::io::Error::other(text));
            assert_eq!(trust_hint(&error).contains("--ca"), expected, "{text}");
        }
    }

    #[test]
    fn urls_of_servers() {
        for (text, expected) in [
            ("https://a.example:7440", true),
            ("http://127.0.0.1:9000/", true),
            ("localhost:7440", false),
            ("localhost", false),
            ("", false),
        ] {
            assert_eq!(server_url(text).is_ok(), expected, "{text}");
        }
    }
}
