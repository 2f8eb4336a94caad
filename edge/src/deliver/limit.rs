//! Shuts out who asks too often: one client, then all of a site together. Who is shut out as a client takes nothing from the
//! others' share. And who sends too much ([`Cap`]).

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use governor::{
    DefaultDirectRateLimiter, Quota,
    clock::{Clock, DefaultClock},
};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};
use moka::sync::Cache;
use umbel_delivery::{Limits, Rate, network};

use crate::{metrics::Metrics, refusal::refusal};

/// Clients that are remembered, of all sites; those who asked least are forgotten first. Some 200 bytes each.
const CLIENTS: u64 = 200_000;
const SITES: u64 = 10_000;

/// No burst takes longer to come back.
const REMEMBERED: Duration = Duration::from_hours(1);

type Limiters<K> = Cache<K, Arc<DefaultDirectRateLimiter>>;

/// How often everyone has asked.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// By the number of the rules: new rules, new count.
    clients: Limiters<(u64, IpAddr)>,
    sites: Limiters<u64>,
    metrics: Metrics,
}

impl Limiter {
    pub(crate) fn new(metrics: Metrics) -> Self {
        let clients = Cache::builder().max_capacity(CLIENTS).time_to_idle(REMEMBERED).build();
        let sites = Cache::builder().max_capacity(SITES).time_to_idle(REMEMBERED).build();
        Self { clients, sites, metrics }
    }

    /// The answer to one who asks too often.
    pub(super) fn refuse(&self, number: u64, limits: &Limits, client: Option<IpAddr>) -> Option<Response<Body>> {
        let of_client = limits.client.zip(client).and_then(|(rate, client)| {
            let limiter = self.clients.get_with((number, network(client)), || limiter(rate));
            wait(&limiter).map(|wait| ("client", wait))
        });
        let of_site = || {
            let limiter = limits.site.map(|rate| self.sites.get_with(number, || limiter(rate)))?;
            wait(&limiter).map(|wait| ("site", wait))
        };
        let (kind, wait) = of_client.or_else(of_site)?;
        self.metrics.limited(kind);
        Some(too_many(wait))
    }
}

/// What the content of one request may be.
#[derive(Debug, Default)]
pub(super) struct Cap {
    limit: Option<u64>,
    is_exceeded: Arc<AtomicBool>,
}

impl Cap {
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self { limit, is_exceeded: Arc::default() }
    }

    /// The answer to one who says that he is about to send more.
    pub(super) fn refuse(&self, request: &HeaderMap) -> Option<Response<Body>> {
        let length = request.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse::<u64>().ok()?;
        (length > self.limit?).then(too_large)
    }

    /// The content, which breaks off where it becomes too much.
    pub(super) fn of(&self, body: Body) -> Body {
        let Some(limit) = self.limit.filter(|_| !body.is_end_stream()) else { return body };
        let is_exceeded = self.is_exceeded.clone();
        let note = move |error: Box<dyn std::error::Error + Send + Sync>| {
            if error.is::<http_body_util::LengthLimitError>() {
                is_exceeded.store(true, Ordering::Release);
            }
            error
        };
        Body::new(Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX)).map_err(note))
    }

    /// In place of what came of a request that was cut off.
    pub(super) fn answer(&self, response: Response<Body>) -> Response<Body> {
        if self.is_exceeded.load(Ordering::Acquire) { too_large() } else { response }
    }
}

fn too_large() -> Response<Body> {
    refusal(StatusCode::PAYLOAD_TOO_LARGE, "the site does not take as much")
}

fn limiter(Rate { each, burst }: Rate) -> Arc<DefaultDirectRateLimiter> {
    // A rate of no time was a mistake in the document.
    let quota = Quota::with_period(each).unwrap_or(Quota::per_second(burst));
    Arc::new(DefaultDirectRateLimiter::direct(quota.allow_burst(burst)))
}

fn wait(limiter: &DefaultDirectRateLimiter) -> Option<Duration> {
    limiter.check().err().map(|not_until| not_until.wait_time_from(DefaultClock::default().now()))
}

fn too_many(wait: Duration) -> Response<Body> {
    let mut response = refusal(StatusCode::TOO_MANY_REQUESTS, "later again");
    let seconds = HeaderValue::from(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
    response.headers_mut().insert(header::RETRY_AFTER, seconds);
    response
}
