//! Sites that are pulled: what an edge asks for is asked of the provider's own web server. The origin is its shield: a shared
//! cache like those of the edges (`umbel-shared-cache`), so that what several edges miss is one question to the provider. Any
//! method and any path; what is not for the store streams through, both ways.
//!
//! An edge sends the reader's request as it is, with the site's id in [`SITE_HEADER`].

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use axum::{
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use futures::TryStreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, request::Parts};
use http_body::Body as _;
use ipnet::IpNet;
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;
use umbel_content::{ObjectPath, VersionId};
use umbel_http_cache::{CacheStatus, Policy};
use umbel_service::{
    files,
    installation::Installation,
    passing::{self, BreaksOffLast, Tunnels},
};
use umbel_shared_cache::{Answered, Failed, Place, Planned, Root, Segment, SharedCache, Shelves, at_once, pieces};

use self::{client::PullClient, forward::Forward, guard::Guard, provider::Providers, versions::Versions};
use crate::version::Shelf;

mod client;
mod forward;
mod guard;
mod provider;
mod upstreams;
mod versions;

/// Says which site's server is meant. It goes no further.
pub(crate) const SITE_HEADER: HeaderName = HeaderName::from_static("umbel-site");

/// Says which version of the configuration the edge has applied. It goes no further.
pub(crate) const VERSION_HEADER: HeaderName = HeaderName::from_static("umbel-version");

/// Set on answers that are the origin's own and not the provider's: one word that says why.
const FAILED_HEADER: HeaderName = HeaderName::from_static("umbel-failed");

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// As this cache calls itself in `Cache-Status`.
const NAME: &str = "umbel-origin";

/// What pulls may use.
#[derive(Debug, Clone)]
pub(crate) struct PullSettings {
    /// Networks that may be pulled from though they are not public.
    pub(crate) networks: Vec<IpNet>,
    /// PEM file of more CAs.
    pub(crate) roots: Option<PathBuf>,
    /// Memory for responses, in bytes.
    pub(crate) memory: u64,
    /// Disk for bodies that are not short, in bytes.
    pub(crate) disk: u64,
    /// Where those lie.
    pub(crate) folder: PathBuf,
}

/// The shield in front of providers' servers.
#[derive(Debug, Clone)]
pub(crate) struct Pull {
    installation: watch::Receiver<Arc<Installation>>,
    providers: Providers,
    cache: Arc<SharedCache<Providers>>,
}

impl Pull {
    /// Questions are asked in tasks of `tasks`, until `end`.
    pub(crate) async fn open(
        settings: &PullSettings,
        shelf: &Shelf,
        installation: watch::Receiver<Arc<Installation>>,
        (tasks, end): (TaskTracker, CancellationToken),
        tunnels: Tunnels,
    ) -> anyhow::Result<Self> {
        let client = PullClient::new(Guard::new(settings.networks.clone()), settings.roots.as_deref())?;
        let versions = Versions::new(shelf, installation.clone(), (tasks.clone(), end.clone()));
        let forward = Forward::new(client, tunnels);
        let providers = Providers::new(installation.clone(), forward, versions);
        let cache = open_cache(&settings.folder, settings, providers.clone(), (tasks, end)).await?;
        Ok(Self { installation, providers, cache })
    }

    /// Whether this site is pulled.
    pub(crate) fn knows(&self, site_id: &str) -> bool {
        self.providers.knows(site_id)
    }

    /// Answers an edge.
    pub(crate) async fn answer(&self, mut request: Request) -> Response {
        let site = request.headers_mut().remove(SITE_HEADER);
        let site_id = site.as_ref().and_then(|id| id.to_str().ok()).filter(|id| self.providers.knows(id));
        let Some(site_id) = site_id else {
            return (StatusCode::NOT_FOUND, [(FAILED_HEADER, "no-such-site")]).into_response();
        };
        let asked = request.headers_mut().remove(VERSION_HEADER);
        let asked = asked.and_then(|version| version.to_str().ok()?.parse().ok()).unwrap_or_default();
        let knows_enough = self.knows_what_was_purged(asked);
        if knows_enough && self.is_for_the_cache(&request) {
            self.shared(site_id, request).await
        } else {
            self.pass(site_id, request).await
        }
    }

    /// An edge that has applied a version of the configuration that this origin has not may know of a purge that it does not:
    /// then nothing is answered from what is stored.
    fn knows_what_was_purged(&self, asked: u64) -> bool {
        let current = self.installation.borrow();
        self.cache.apply(&current.purges);
        asked <= current.version
    }

    /// Whether the answer may come from what is stored.
    fn is_for_the_cache(&self, request: &Request) -> bool {
        matches!(*request.method(), Method::GET | Method::HEAD)
            && request.body().is_end_stream()
            && !passing::is_upgrade(request)
    }

    async fn shared(&self, site_id: &str, mut request: Request) -> Response {
        passing::end_to_end(&mut request);
        let (parts, _) = request.into_parts();
        let request = Arc::new(parts);
        let home = self.providers.home(site_id);
        match self.cache.answer(&root(site_id, &request.headers, &home), request.clone()).await {
            Answered::Stored(planned, status) => stored(planned, &status),
            Answered::Unshared(mut response, status) => {
                response.headers_mut().append(CACHE_STATUS, status.to_value());
                response.map(breaking_off_last)
            }
            Answered::Failed(failed, _) => failure(&failed),
        }
    }

    /// The version of an object that is current: that of what is stored, if it is fresh. Nobody is asked for it: a question
    /// for an agent has none of the fields that readers' questions have, and what came of it would be all readers'. Nor is
    /// there one for an edge that has applied a version of the configuration (`asked_under`) that this origin has not.
    pub(crate) async fn current(
        &self,
        site_id: &str,
        path: &ObjectPath,
        asked_under: u64,
    ) -> Result<Current, NoVersion> {
        let (mut asked, ()) = Request::new(()).into_parts();
        asked.uri = target(path).ok_or(NoVersion::Unshared)?;
        if !self.knows_what_was_purged(asked_under) {
            return Err(NoVersion::Unshared);
        }
        let home = self.providers.home(site_id);
        passing::say_sent_to(&mut asked.headers, &home);
        let root = Root::new(site_id, true, &home);
        let (planned, status) = self.cache.fresh(&root, &asked, &[]).await.ok_or(NoVersion::Unshared)?;
        if is_gone(planned.status) {
            return Err(NoVersion::Absent);
        }
        let [Segment::Stored(body, _)] = planned.segments.as_slice() else { return Err(NoVersion::Unshared) };
        let place = timeout(versions::PATIENCE, body.elsewhere()).await.ok().flatten().ok_or(NoVersion::Unshared)?;
        let version = place.name().parse().map_err(|_| NoVersion::Unshared)?;
        let fresh = Duration::from_secs(status.ttl.and_then(|ttl| u64::try_from(ttl).ok()).unwrap_or(0));
        Ok(Current { version, fresh })
    }

    /// Forgets what is stored of an object.
    pub(crate) fn forget(&self, site_id: &str, path: &ObjectPath) {
        if let Some(target) = target(path) {
            self.cache.forget(&Root::new(site_id, true, &self.providers.home(site_id)), &target);
        }
    }

    /// Changes something, or is nothing that a cache understands.
    async fn pass(&self, site_id: &str, request: Request) -> Response {
        let asked = head_of(&request);
        match self.providers.pass(site_id, request).await {
            Ok(response) => {
                let (head, body) = response.into_parts();
                let home = self.providers.home(site_id);
                self.cache.passed(&root(site_id, &asked.headers, &home), &asked, &head);
                Response::from_parts(head, breaking_off_last(body))
            }
            Err(error) => failure(&error.into()),
        }
    }
}

/// What a request is for, beside its target. What nobody says is the site's first host.
fn root<'a>(site_id: &'a str, headers: &'a HeaderMap, home: &'a str) -> Root<'a> {
    let (secure, host) = passing::said_to_be_sent_to(headers).unwrap_or((true, home));
    Root::new(site_id, secure, host)
}

async fn open_cache(
    folder: &Path,
    settings: &PullSettings,
    providers: Providers,
    ends: (TaskTracker, CancellationToken),
) -> anyhow::Result<Arc<SharedCache<Providers>>> {
    files::private_folder(folder)?;
    // Heads and short bodies are what most questions are about; pieces are read while they come in, or from disk.
    let (responses, in_pieces) = (settings.memory / 4 * 3, settings.memory / 4);
    let pieces = pieces::open(folder, in_pieces, settings.disk).await.context("cannot open the store of bodies")?;
    // Edges serve what is stale while they validate it. If the origin did so as well, it would tell them that it still holds.
    let place = Place { name: NAME, policy: Policy::default(), serves_while_revalidating: false };
    Ok(SharedCache::new(place, Shelves::new(responses), pieces, providers, ends))
}

/// A version of something that is pulled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Current {
    pub(crate) version: VersionId,
    /// How long it need not be asked for again.
    pub(crate) fresh: Duration,
}

/// Why there is no version of something that is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoVersion {
    #[error("the provider's server has no such object")]
    Absent,
    #[error("this is not shared, or not yet: ask for it over HTTPS")]
    Unshared,
}

fn target(path: &ObjectPath) -> Option<Uri> {
    path.to_target().parse().ok()
}

fn is_gone(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE)
}

/// Method, target and fields, without what belongs to the connection.
fn head_of(request: &Request) -> Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = request.method().clone();
    head.uri = request.uri().clone();
    head.headers = request.headers().clone();
    head
}

fn stored(Planned { status, headers, segments }: Planned, said: &CacheStatus) -> Response {
    let body = match at_once(&segments) {
        Some(bytes) => Body::from(bytes),
        None => {
            let bytes = umbel_shared_cache::bytes(segments).map_ok(|(bytes, _)| bytes);
            breaking_off_last(Body::from_stream(bytes))
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response.headers_mut().append(CACHE_STATUS, said.to_value());
    response
}

/// Or an edge would take a server that breaks off for an origin that does.
fn breaking_off_last(body: Body) -> Body {
    Body::new(BreaksOffLast::new(body))
}

fn failure(failed: &Failed) -> Response {
    info!(reason = failed.reason, "a request could not be passed on");
    let mut response = Response::new(Body::from(format!("{failed}\n")));
    *response.status_mut() = failed.status;
    let reason = HeaderValue::from_str(&failed.reason).unwrap_or(HeaderValue::from_static("failed"));
    response.headers_mut().insert(FAILED_HEADER, reason);
    response
}
