//! `umbel warm`: has edges fetch before readers ask. Each edge is asked as a reader would ask it.

use std::{path::Path, sync::Arc};

use anyhow::{Context, bail, ensure};
use clap::Args;
use futures::{StreamExt, stream};
use http::HeaderMap;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use umbel_control_plane::api::{Edge, Site};
use url::Url;

use crate::{
    admin::Access,
    exit::{self, Failure, Status},
    rest::{self, Api, segment},
    runtime, show,
};

const EXAMPLES: &str = "\
Each edge is asked as browsers ask (Accept-Encoding: gzip, deflate, br, zstd), and where the answer depends on that, for what is
not encoded as well. Warm is what an edge says that it has stored now (Cache-Status).

Exit status: 0 when every edge has stored content or a redirect for every URL, 1 otherwise.

Examples:
  umbel warm --site shop / /img/logo.png
  umbel warm --site films https://films.example.net/new.mp4 --edge edge1.example.net --grant \"$GRANT\"";

/// Requests under way: enough to keep edges busy, and few for the server behind them.
const AT_ONCE: usize = 8;

/// Of today's browsers.
const ACCEPT_ENCODING: &str = "gzip, deflate, br, zstd";

const TEMPLATE: &str = "{bar:30} {pos}/{len} {eta} {msg}";

/// What `umbel warm` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WarmArgs {
    /// URLs on a host of the site, or paths with their queries
    #[arg(value_name = "URL", required = true)]
    urls: Vec<String>,
    /// The site
    #[arg(long, value_name = "NAME")]
    site: String,
    /// Only this edge, by host or id; several with commas [default: all]
    #[arg(long = "edge", value_name = "EDGE", value_delimiter = ',', default_value = "all", hide_default_value = true)]
    edges: Vec<String>,
    /// A grant, where the site needs one
    #[arg(long, value_name = "TOKEN", env = "UMBEL_GRANT", hide_env_values = true)]
    grant: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    access: Access,
}

/// One edge as a reader of one site finds it.
struct Way {
    edge: Edge,
    port: u16,
    http: reqwest::Client,
}

/// What one edge is asked for.
struct Errand {
    way: Arc<Way>,
    url: Url,
}

impl WarmArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        runtime::client(Box::pin(async {
            let (api, ca) = self.access.resolve_with_ca()?;
            let (urls, ways) = prepared(&api, &self.site, &self.urls, &self.edges, ca.as_deref()).await?;
            let errands: Vec<_> = ways
                .iter()
                .flat_map(|way| urls.iter().map(|url| Errand { way: way.clone(), url: url.clone() }))
                .collect();
            let bar = bar(errands.len() as u64, !self.json);
            let grant = self.grant.as_deref();
            let results: Vec<Value> = stream::iter(errands)
                .map(|errand| async { errand.run(grant).await })
                .buffered(AT_ONCE)
                .inspect(|_| bar.inc(1))
                .collect()
                .await;
            bar.finish_and_clear();
            tell(results, self.json)
        }))
    }
}

async fn prepared(
    api: &Api,
    site: &str,
    urls: &[String],
    edges: &[String],
    ca: Option<&Path>,
) -> anyhow::Result<(Vec<Url>, Vec<Arc<Way>>)> {
    let site: Site = read(api.get(&format!("sites/{}", segment(site))).await?)?;
    let urls = urls.iter().map(|text| on_site(&site.name, &site.hosts, text)).collect::<anyhow::Result<Vec<_>>>()?;
    let all: Vec<Edge> = read(api.get("edges").await?)?;
    let chosen = chosen(all, edges)?;
    let mut ways = Vec::new();
    for edge in chosen {
        ways.push(Arc::new(Way::to(edge, &site.hosts, ca).await?));
    }
    Ok((urls, ways))
}

fn read<T: for<'a> serde::Deserialize<'a>>(answer: Value) -> anyhow::Result<T> {
    serde_json::from_value(answer).context("the control plane's answer makes no sense")
}

/// A URL that a reader of the site could ask for.
fn on_site(site: &str, hosts: &[String], text: &str) -> anyhow::Result<Url> {
    let first = hosts.first().with_context(|| format!("the site {site} has no host: no reader would find it"))?;
    let base = Url::parse(&format!("https://{first}/"))?;
    let url = base.join(text).with_context(|| format!("`{text}` is no URL"))?;
    let known = url.host_str().is_some_and(|host| hosts.iter().any(|known| known == host));
    ensure!(known, Failure::error(Status::Usage, format!("`{text}` is not on a host of the site {site}")));
    Ok(url)
}

/// Those that are named, by id or by the host of their URL.
fn chosen(all: Vec<Edge>, names: &[String]) -> anyhow::Result<Vec<Edge>> {
    let is = |edge: &Edge, name: &str| {
        let url = Url::parse(&edge.url).ok();
        let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
        let port = url.as_ref().and_then(Url::port_or_known_default).unwrap_or_default();
        name == "all"
            || name == edge.id.to_string()
            || name == edge.url
            || name == host
            || name == format!("{host}:{port}")
    };
    if let Some(name) = names.iter().find(|name| !all.iter().any(|edge| is(edge, name))) {
        let known: Vec<_> = all.iter().map(|edge| edge.url.as_str()).collect();
        bail!(Failure::error(Status::NotFound, format!("there is no edge `{name}`; there are: {}", known.join(", "))));
    }
    Ok(all.into_iter().filter(|edge| names.iter().any(|name| is(edge, name))).collect())
}

impl Way {
    /// The site's hosts lead to this edge.
    async fn to(edge: Edge, hosts: &[String], ca: Option<&Path>) -> anyhow::Result<Self> {
        let url = rest::server_url(&edge.url)?;
        let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(443));
        let addresses = tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await;
        let addresses: Vec<_> = addresses.with_context(|| format!("the edge {} cannot be found", edge.url))?.collect();
        Ok(Self { port, http: rest::client_to(ca, hosts, &addresses)?, edge })
    }
}

impl Errand {
    async fn run(self, grant: Option<&str>) -> Value {
        let (url, edge) = (self.url.as_str(), self.way.edge.url.as_str());
        match self.fetch(grant).await {
            Ok(Fetched { status, bytes, said, stored, .. }) => json!({
                "url": url, "edge": edge, "status": status, "bytes": bytes, "cache_status": said, "stored": stored
            }),
            Err(error) => json!({ "url": url, "edge": edge, "error": exit::one_line(&error) }),
        }
    }

    /// As browsers would, and where that may not be all that there is, as those who know no coding.
    async fn fetch(&self, grant: Option<&str>) -> anyhow::Result<Fetched> {
        let encoded = self.ask(grant, Some(ACCEPT_ENCODING)).await?;
        if !encoded.varies {
            return Ok(encoded);
        }
        let plain = self.ask(grant, None).await?;
        let status = if is_content(encoded.status) { plain.status } else { encoded.status };
        let (bytes, stored) = (encoded.bytes + plain.bytes, encoded.stored && plain.stored);
        Ok(Fetched { status, bytes, stored, ..encoded })
    }

    async fn ask(&self, grant: Option<&str>, codings: Option<&str>) -> anyhow::Result<Fetched> {
        let mut url = self.url.clone();
        let _good_for_https = url.set_port(Some(self.way.port));
        let mut request = self.way.http.get(url);
        if let Some(grant) = grant {
            request = request.bearer_auth(grant);
        }
        if let Some(codings) = codings {
            request = request.header("accept-encoding", codings);
        }
        let mut response = request.send().await.map_err(|error| match rest::site_trust_hint(&error) {
            Some(hint) => anyhow::Error::new(error.without_url()).context(hint),
            None => error.without_url().into(),
        })?;
        let said = list(response.headers(), "cache-status");
        let varies = list(response.headers(), "vary").to_ascii_lowercase();
        let varies = varies.split(',').any(|name| matches!(name.trim(), "*" | "accept-encoding"));
        let (status, mut bytes) = (response.status().as_u16(), 0);
        while let Some(piece) = response.chunk().await.map_err(reqwest::Error::without_url)? {
            bytes += piece.len() as u64;
        }
        Ok(Fetched { status, bytes, stored: is_stored(&said), said, varies })
    }
}

/// What one edge has answered.
struct Fetched {
    status: u16,
    bytes: u64,
    /// `Cache-Status`.
    said: String,
    stored: bool,
    /// By `Accept-Encoding`.
    varies: bool,
}

/// All lines of a field that is a list.
fn list(fields: &HeaderMap, name: &str) -> String {
    let lines: Vec<_> = fields.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    lines.join(", ")
}

/// Whether the edge says in `Cache-Status` that it has it now. Its own member is the last (RFC 9211, section 2).
fn is_stored(said: &str) -> bool {
    let own = said.rsplit(", ").next().unwrap_or_default();
    own.split(';').skip(1).map(str::trim).any(|parameter| matches!(parameter, "hit" | "stored"))
}

fn is_content(status: u16) -> bool {
    (200..400).contains(&status)
}

fn bar(length: u64, visible: bool) -> ProgressBar {
    let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(length), target).with_style(style)
}

fn is_good(result: &Value) -> bool {
    result["status"].as_u64().and_then(|status| u16::try_from(status).ok()).is_some_and(is_content)
}

fn is_warm(result: &Value) -> bool {
    is_good(result) && result["stored"] == true
}

fn tell(results: Vec<Value>, json: bool) -> anyhow::Result<()> {
    let (asked, bad) = (results.len(), results.iter().filter(|result| !is_good(result)).count());
    let bytes: u64 = results.iter().filter_map(|result| result["bytes"].as_u64()).sum();
    let warm = results.iter().filter(|result| is_warm(result)).count();
    let unstored = asked - bad - warm;
    if !json {
        for result in results.iter().filter(|result| !is_warm(result)) {
            let (what, why) = match result.get("error").or_else(|| result.get("status")) {
                Some(_) if is_good(result) => ("unstored", &result["cache_status"]),
                why => ("failed", why.unwrap_or(&Value::Null)),
            };
            let (url, edge, why) = (show::cell(&result["url"]), show::cell(&result["edge"]), show::cell(why));
            show::line(format_args!("{what:<9} {url} at {edge}: {why}"))?;
        }
        show::line(format_args!("warmed    {warm} of {asked}, {}", show::bytes(bytes)))?;
    } else {
        let counts = json!({
            "warmed": warm, "unstored": unstored, "failed": bad, "bytes": bytes, "answers": results
        });
        show::json(&counts)?;
    }
    let text = match (bad, unstored) {
        (0, 0) => return Ok(()),
        (0, _) => format!("{unstored} of {asked} were fetched and are not stored"),
        _ => format!("{bad} of {asked} could not be fetched"),
    };
    let error = Failure::error(Status::Other, text);
    Err(if json { Failure::told(&error) } else { error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn urls_of_a_site() {
        let hosts = ["a.test".to_owned(), "b.test".to_owned()];
        for (text, expected) in [
            ("/x?y", Some("https://a.test/x?y")),
            ("https://b.test/x", Some("https://b.test/x")),
            ("https://c.test/x", None),
        ] {
            assert_eq!(on_site("s", &hosts, text).ok().map(String::from).as_deref(), expected, "{text}");
        }
        assert!(on_site("s", &[], "/x").is_err());
    }

    #[test]
    fn stored_is_what_the_edge_says_of_itself() {
        for (said, expected) in [
            ("umbel-edge; hit; ttl=60", true),
            ("umbel-origin; fwd=uri-miss; stored, umbel-edge; fwd=uri-miss; fwd-status=200; stored", true),
            ("umbel-origin; hit, umbel-edge; fwd=uri-miss; fwd-status=200; ttl=60", false),
            ("umbel-edge; fwd=uri-miss; detail=stored-not", false),
            ("", false),
        ] {
            assert_eq!(is_stored(said), expected, "{said}");
        }
    }

    #[test]
    fn edges_by_name() {
        let edge = |url: &str| Edge { id: Uuid::now_v7(), url: url.into(), alive: true };
        let all = vec![edge("https://e1.test"), edge("https://e2.test:8443")];
        let id = all[0].id.to_string();
        for (name, expected) in [
            ("all", Some(2)),
            (id.as_str(), Some(1)),
            ("e1.test", Some(1)),
            ("e1.test:443", Some(1)),
            ("https://e2.test:8443", Some(1)),
            ("e3.test", None),
        ] {
            let found = chosen(all.clone(), &[name.to_owned()]);
            assert_eq!(found.ok().map(|found| found.len()), expected, "{name}");
        }
    }
}
