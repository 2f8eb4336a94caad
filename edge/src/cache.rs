//! The shared HTTP cache in front of sites that are pulled: what is stored and fresh is answered here, the rest is asked of an
//! origin, which asks the provider's server. `umbel-http-cache` decides; here is who asks and who waits (`cache/turn.rs`), what
//! comes of a question (`cache/fetch.rs`), where bodies lie (`cache/body.rs`) and how they leave (`cache/send.rs`).

use std::{path::Path, sync::Arc, time::SystemTime};

use anyhow::Context;
use axum::body::Body as HttpBody;
use foyer::{BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCacheBuilder, HybridCachePolicy};
use http::{HeaderName, Method, Request, Response, StatusCode, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use rustls::ClientConfig;
use tokio::sync::oneshot;
use umbel_http_cache::{CacheStatus, Conditional, Forward, Policy, Reuse, invalidates, reuse, strip_hop_by_hop};
use umbel_service::passing;
use umbel_wire::control::Site;

use self::{
    ask::{Ask, Failed},
    body::Pieces,
    fetch::{Answer, Note, Question},
    key::Key,
    shelf::{Shelves, Variant},
    turn::{Asking, News, Turn, Turns},
};
use crate::{config::Limits, core::Core};

mod ask;
mod body;
mod fetch;
mod key;
mod send;
mod shelf;
mod turn;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// As this cache calls itself in `Cache-Status`.
const NAME: &str = "umbel-edge";

/// How often a request looks at what others' questions brought before it asks by itself.
const LOOKS: usize = 4;

/// How often a request is begun anew because what answers it was evicted in the same moment.
const ATTEMPTS: usize = 8;

/// A disk block of the store of bodies holds many pieces.
const BLOCK: usize = 16 * 1024 * 1024;
const WRITE_BUFFER: usize = 64 * 1024 * 1024;

/// Who may share an answer: requests for one target, and for one range of it.
type Same = (Key, Option<http::HeaderValue>);

/// Everything that is stored, and who is asking for more.
#[derive(Debug)]
pub(crate) struct Cache {
    policy: Policy,
    shelves: Shelves,
    pieces: Pieces,
    turns: Turns<Same, Failed>,
    ask: Ask,
}

impl Cache {
    /// Keeps long bodies in `folder`. Shows the certificate in `tls` to origins.
    pub(crate) async fn open(folder: &Path, limits: &Limits, tls: &ClientConfig) -> anyhow::Result<Self> {
        umbel_service::files::private_folder(folder)?;
        let pieces = open_pieces(folder, limits).await.context("cannot open the store of bodies")?;
        Ok(Self {
            policy: Policy::default(),
            shelves: Shelves::new(limits.plaintext_cache / 2),
            pieces,
            turns: Turns::new(),
            ask: Ask::new(tls),
        })
    }

    /// Writes to disk what is still on its way there.
    pub(crate) async fn close(&self) {
        if let Err(error) = self.pieces.close().await {
            tracing::warn!(%error, "the store of bodies was not closed cleanly");
        }
    }
}

async fn open_pieces(folder: &Path, limits: &Limits) -> anyhow::Result<Pieces> {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let device = FsDeviceBuilder::new(folder).with_capacity(size(limits.disk_cache)).build()?;
    let engine = BlockEngineConfig::new(device)
        .with_block_size(BLOCK)
        .with_buffer_pool_size(WRITE_BUFFER)
        .with_submit_queue_size_threshold(2 * WRITE_BUFFER);
    let cache = HybridCacheBuilder::new()
        .with_name("bodies")
        .with_policy(HybridCachePolicy::WriteOnInsertion)
        .memory(size(limits.plaintext_cache / 2))
        .with_shards(8)
        .with_weighter(|_, bytes: &bytes::Bytes| bytes.len() + 64)
        .storage()
        .with_engine_config(engine);
    Ok(cache.build().await?)
}

/// Answers a request for something of a site that is pulled.
pub(crate) async fn answer(core: &Arc<Core>, site: &Site, mut request: Request<HttpBody>) -> Response<HttpBody> {
    let upgrade = passing::upgrade(&mut request);
    let (mut parts, body) = request.into_parts();
    passing::end_to_end(&mut parts.headers);
    if let Err(circles) = passing::say_where_from(&mut parts) {
        let status = CacheStatus { detail: Some("loop".to_owned()), ..CacheStatus::forward(NAME, Forward::Bypass) };
        return send::gateway_error(StatusCode::LOOP_DETECTED, &circles.to_string(), &status);
    }
    let is_read = matches!(parts.method, Method::GET | Method::HEAD) && http_body::Body::is_end_stream(&body);
    if upgrade.is_some() || !is_read {
        return pass_on(core, site, parts, body, upgrade).await;
    }
    let asked =
        Asked { core, site_id: site.id.as_str().into(), key: Key::of(site, &parts.uri), request: Arc::new(parts) };
    asked.answer().await
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
    let mut response = match core.cache.ask.ask(&core.fleet, &site.id, &parts, body).await {
        Ok(response) => response,
        Err(failed) => return failure(&failed, status),
    };
    status.forward_status = Some(response.status());
    if let (Some(reader), StatusCode::SWITCHING_PROTOCOLS) = (upgrade, response.status()) {
        let server = hyper::upgrade::on(&mut response);
        core.tasks.spawn(core.shutdown.clone().run_until_cancelled_owned(passing::tunnel(reader, server)));
        return response.map(|_| HttpBody::empty());
    }
    let (mut head, body) = response.into_parts();
    for changed in invalidates(&parts, &head) {
        core.cache.shelves.remove(&Key::of(site, &changed));
    }
    strip_hop_by_hop(&mut head.headers);
    let response = Response::from_parts(head, HttpBody::new(body));
    send::unshared(core, &site.id, &parts, response, &status)
}

fn failure(failed: &Failed, mut status: CacheStatus) -> Response<HttpBody> {
    status.detail = Some(match failed {
        Failed::NoOrigin => "no-origin".to_owned(),
        Failed::Nonsense => "nonsense".to_owned(),
        Failed::Upstream(_, why) => why.clone(),
    });
    send::gateway_error(failed.status(), &failed.to_string(), &status)
}

/// A GET or HEAD.
struct Asked<'a> {
    core: &'a Arc<Core>,
    site_id: Arc<str>,
    key: Key,
    request: Arc<Parts>,
}

impl Asked<'_> {
    async fn answer(&self) -> Response<HttpBody> {
        let mut collapsed = false;
        for look in 1..=ATTEMPTS {
            let basis = self.core.cache.shelves.get(&self.key);
            let decision = reuse(&basis, &self.request, &self.core.cache.policy, SystemTime::now());
            let mut status = decision.cache_status(NAME);
            status.collapsed = collapsed;
            let (about, conditional) = match decision {
                Reuse::Fresh { index, .. } => match self.stored(&basis, index, &status).await {
                    Some(response) => return response,
                    None => continue,
                },
                Reuse::Stale { index, revalidate, .. } => {
                    self.revalidate_beside(&basis, index, revalidate);
                    match self.stored(&basis, index, &status).await {
                        Some(response) => return response,
                        None => continue,
                    }
                }
                Reuse::GatewayTimeout => {
                    return send::gateway_error(
                        StatusCode::GATEWAY_TIMEOUT,
                        "nothing is stored that answers this",
                        &status,
                    );
                }
                Reuse::Revalidate { index, conditional, .. } => (Some(index), conditional),
                Reuse::Complete { conditional, .. } => (None, Some(conditional)),
                Reuse::Forward { conditional, .. } => (None, conditional.or_else(|| self.ours())),
            };
            let question = self.question(basis, about, conditional);
            let turn = match self.same(&question) {
                Some(same) if look < LOOKS => self.core.cache.turns.take(same).await,
                Some(_) | None => Turn::Alone,
            };
            let answer = match turn {
                Turn::Alone | Turn::Theirs(News::Unshared) => question.clone().ask(self.core).await,
                Turn::Mine(asking) => self.ask_for_all(question.clone(), asking).await,
                Turn::Theirs(News::Failed(failed)) => question.without_answer(self.core, failed),
                Turn::Theirs(News::Stored) => {
                    collapsed = true;
                    continue;
                }
            };
            if let Some(response) = self.told(answer, &question, status).await {
                return response;
            }
        }
        let status = CacheStatus { detail: Some("evicted".to_owned()), ..CacheStatus::forward(NAME, Forward::Miss) };
        send::gateway_error(StatusCode::SERVICE_UNAVAILABLE, "the cache cannot hold the answer", &status)
    }

    fn question(&self, basis: Arc<[Variant]>, about: Option<usize>, conditional: Option<Conditional>) -> Question {
        let (site_id, key, request) = (self.site_id.clone(), self.key, self.request.clone());
        Question { site_id, key, request, basis, about, conditional }
    }

    /// A reader's validation of its own copy is answered from the whole, which is asked for: the next reader may have none.
    fn ours(&self) -> Option<Conditional> {
        let has = |name: HeaderName| self.request.headers.contains_key(name);
        let validates = has(header::IF_NONE_MATCH) || has(header::IF_MODIFIED_SINCE);
        let more = has(header::RANGE) || has(header::IF_MATCH) || has(header::IF_UNMODIFIED_SINCE);
        (self.request.method == Method::GET && validates && !more).then(Conditional::default)
    }

    /// With whom the answer to a question could be shared.
    fn same(&self, question: &Question) -> Option<Same> {
        let headers = &self.request.headers;
        if question.conditional.is_some() {
            return Some((self.key, None));
        }
        let conditions = [
            header::IF_NONE_MATCH,
            header::IF_MODIFIED_SINCE,
            header::IF_MATCH,
            header::IF_UNMODIFIED_SINCE,
            header::IF_RANGE,
        ];
        let depends = conditions.iter().any(|name| headers.contains_key(name));
        (self.request.method == Method::GET && !depends).then(|| (self.key, headers.get(header::RANGE).cloned()))
    }

    /// Asks for everyone who wants the same, in a task of its own: it goes on when this reader leaves.
    async fn ask_for_all(&self, question: Question, asking: Asking<Same, Failed>) -> Answer {
        let (core, (sender, receiver)) = (self.core.clone(), oneshot::channel());
        let until = core.shutdown.clone();
        core.tasks.clone().spawn(until.run_until_cancelled_owned(async move {
            let answer = question.ask(&core).await;
            asking.tell(news(&answer));
            // The reader may have left.
            drop(sender.send(answer));
        }));
        receiver.await.unwrap_or(Answer::Failed(Failed::NoOrigin))
    }

    fn revalidate_beside(&self, basis: &Arc<[Variant]>, index: usize, conditional: Option<Conditional>) {
        let Some(conditional) = conditional else { return };
        let Some(asking) = self.core.cache.turns.try_take((self.key, None)) else { return };
        let question = self.question(basis.clone(), Some(index), Some(conditional));
        let (core, until) = (self.core.clone(), self.core.shutdown.clone());
        core.tasks.clone().spawn(until.run_until_cancelled_owned(async move {
            let answer = question.ask(&core).await;
            asking.tell(news(&answer));
        }));
    }

    /// None if it was evicted; nobody finds it any more.
    async fn stored(&self, all: &[Variant], index: usize, status: &CacheStatus) -> Option<Response<HttpBody>> {
        send::stored(self.core, &self.site_id, &self.request, all, index, status).await
    }

    /// The answer to the reader's request, by what came of our question. None if that is about something that was evicted.
    async fn told(&self, answer: Answer, question: &Question, mut status: CacheStatus) -> Option<Response<HttpBody>> {
        match answer {
            Answer::Failed(failed) => Some(failure(&failed, status)),
            Answer::Unshared(response, note) => {
                note_down(&mut status, note);
                Some(send::unshared(self.core, &self.site_id, &self.request, *response, &status))
            }
            Answer::Stored(variant, note) => {
                note_down(&mut status, note);
                status.ttl = Some(variant.stored().freshness(SystemTime::now()).ttl());
                self.stored(&question.with_others(&variant), 0, &status).await
            }
        }
    }
}

fn note_down(status: &mut CacheStatus, note: Note) {
    status.forward_status = note.status;
    status.stored = note.stored;
    status.detail = note.detail.map(str::to_owned);
}

/// What those who wait are told.
fn news(answer: &Answer) -> News<Failed> {
    match answer {
        Answer::Stored(_, note) if note.detail.is_some() => News::Failed(Failed::NoOrigin),
        Answer::Stored(variant, _) if variant.stored().freshness(SystemTime::now()).is_fresh() => News::Stored,
        Answer::Stored(..) | Answer::Unshared(..) => News::Unshared,
        Answer::Failed(failed) => News::Failed(failed.clone()),
    }
}
