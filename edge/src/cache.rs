//! The shared HTTP cache in front of sites that are pulled: what is stored and fresh is answered here, the rest is asked of an
//! origin, which asks the provider's server. `umbel-shared-cache` has what every such cache has; here is whom an edge asks
//! (`cache/ask.rs`), what passes by the cache, and how answers leave (`cache/send.rs`).

use std::{path::Path, sync::Arc};

use anyhow::Context;
use axum::body::Body as HttpBody;
use http::{HeaderName, Method, Request, Response, StatusCode, request::Parts};
use hyper::upgrade::OnUpgrade;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use umbel_http_cache::{CacheStatus, Forward, Policy, strip_hop_by_hop};
use umbel_service::passing;
use umbel_shared_cache::{Answered, Failed, Place, Root, SharedCache, Shelves, pieces};
use umbel_wire::control::Site;

pub(crate) use self::ask::Origins;
use crate::{config::Limits, core::Core};

mod ask;
mod send;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// As this cache calls itself in `Cache-Status`.
const NAME: &str = "umbel-edge";

/// The cache of an edge.
pub(crate) type Cache = SharedCache<Origins>;

/// Keeps long bodies in `folder`.
pub(crate) async fn open(
    folder: &Path,
    limits: &Limits,
    origins: Origins,
    ends: (TaskTracker, CancellationToken),
) -> anyhow::Result<Arc<Cache>> {
    umbel_service::files::private_folder(folder)?;
    let memory = limits.plaintext_cache / 2;
    let pieces = pieces::open(folder, memory, limits.disk_cache).await.context("cannot open the store of bodies")?;
    let place = Place { name: NAME, policy: Policy::default(), serves_while_revalidating: true };
    Ok(SharedCache::new(place, Shelves::new(memory), pieces, origins, ends))
}

/// Answers a request for something of a site that is pulled.
pub(crate) async fn answer(core: &Arc<Core>, site: &Site, mut request: Request<HttpBody>) -> Response<HttpBody> {
    let upgrade = passing::end_to_end(&mut request);
    let (mut parts, body) = request.into_parts();
    let is_read = matches!(parts.method, Method::GET | Method::HEAD) && http_body::Body::is_end_stream(&body);
    let is_read = is_read && upgrade.is_none();
    if is_read {
        let (secure, host) = passing::sent_to(&parts);
        let fresh = core.cache.fresh(&Root::new(&site.id, secure, host), &parts, &passing::SAID).await;
        if let Some((planned, status)) = fresh {
            return send::stored(core, &site.id, &parts, planned, &status);
        }
    }
    if let Err(circles) = passing::say_where_from(&mut parts) {
        let status = CacheStatus { detail: Some("loop".to_owned()), ..CacheStatus::forward(NAME, Forward::Bypass) };
        return send::gateway_error(StatusCode::LOOP_DETECTED, &circles.to_string(), &status);
    }
    if !is_read {
        return pass_on(core, site, parts, body, upgrade).await;
    }
    let request = Arc::new(parts);
    let (secure, host) = passing::sent_to(&request);
    match core.cache.answer(&Root::new(&site.id, secure, host), request.clone()).await {
        Answered::Stored(planned, status) => send::stored(core, &site.id, &request, planned, &status),
        Answered::Unshared(response, status) => send::unshared(core, &site.id, &request, *response, &status),
        Answered::Failed(failed, status) => send::gateway_error(failed.status, &failed.text, &status),
    }
}

/// A request that changes something, or that no cache understands.
async fn pass_on(
    core: &Arc<Core>,
    site: &Site,
    parts: Parts,
    body: HttpBody,
    upgrade: Option<OnUpgrade>,
) -> Response<HttpBody> {
    let why = if upgrade.is_some() { Forward::Bypass } else { Forward::Method };
    let mut status = CacheStatus::forward(NAME, why);
    let mut response = match core.cache.ask().pass(&site.id, &parts, body).await {
        Ok(response) => response,
        Err(Failed { status: code, reason, text }) => {
            status.detail = Some(reason);
            return send::gateway_error(code, &text, &status);
        }
    };
    status.forward_status = Some(response.status());
    if let (Some(reader), StatusCode::SWITCHING_PROTOCOLS) = (upgrade, response.status()) {
        let server = hyper::upgrade::on(&mut response);
        core.tunnels.open(reader, server, send::tunnel(core, &site.id, &parts));
        return response.map(|_| HttpBody::empty());
    }
    let (mut head, body) = response.into_parts();
    let (secure, host) = passing::sent_to(&parts);
    core.cache.passed(&Root::new(&site.id, secure, host), &parts, &head);
    strip_hop_by_hop(&mut head.headers);
    let response = Response::from_parts(head, HttpBody::new(body));
    send::unshared(core, &site.id, &parts, response, &status)
}
