//! One question to the provider's server and what comes of it: news of what is stored, a response to store, or one that is for
//! the asker alone (RFC 9111, sections 3, 4.3.3 to 4.3.5; RFC 5861, section 4).

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::body::Body as HttpBody;
use http::{HeaderMap, HeaderName, Method, Response, StatusCode, header, request::Parts, response};
use http_body_util::BodyExt;
use tokio::time::timeout;
use tracing::debug;
use umbel_http_cache::{
    Conditional, Content, Exchange, Failure, Fate, SharedError, Stamp, Stored, Updated, as_asked, content, on_error,
    replaces, shared_error, shares_error, storable, strip_hop_by_hop, updated_by_304, updated_by_head, withheld_fields,
};

use crate::{
    Ask, Failed, SharedCache,
    body::{Body, SHORT},
    changes::Since,
    collapse::{self, Read},
    key::Key,
    shelf::Variant,
};

/// What this cache can do for origins that address it (W3C Edge Architecture).
const SURROGATE_CAPABILITY: HeaderName = HeaderName::from_static("surrogate-capability");

/// A body that is known to be short is waited for so long: most often it comes with its head, and the answer leaves in one piece,
/// or is a 502 if it breaks off.
const MOMENT: Duration = Duration::from_millis(20);

/// What is to be asked.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) site_id: Arc<str>,
    pub(crate) key: Key,
    /// As the reader sent it, ready to be passed on.
    pub(crate) request: Arc<Parts>,
    /// What was stored when it was decided to ask.
    pub(crate) basis: Arc<[Variant]>,
    /// The stored response that the question is about.
    pub(crate) about: Option<usize>,
    /// What makes our question out of the reader's.
    pub(crate) conditional: Option<Conditional>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Answer {
    /// This response is stored, or still good, and answers the question.
    Stored(Variant, Note),
    /// For the asker, to be passed on as it comes.
    Unshared(Box<Unshared>),
    /// Nothing.
    Failed(Failed),
}

/// What is not stored.
#[derive(Debug)]
pub(crate) struct Unshared {
    pub(crate) response: Response<HttpBody>,
    pub(crate) note: Note,
    /// What those get who wait for the same.
    pub(crate) error: Option<(SharedError, Stamp)>,
}

/// What is to be known of an answer beside it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Note {
    /// What the provider's server answered.
    pub(crate) status: Option<StatusCode>,
    pub(crate) stored: bool,
    /// Why it was not stored, or served stale.
    pub(crate) detail: Option<&'static str>,
    pub(crate) whose: Whose,
    /// Fields that are the asker's and not stored.
    pub(crate) own: HeaderMap,
}

/// For whom an answer is, of those who wait for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Whose {
    #[default]
    All,
    /// For the asker; others are to look again. It may be older than something that was changed, or the asker asked for himself.
    Outdated,
    /// For the asker.
    Askers,
    /// For the asker, and the next one for whoever asks for that.
    EachAskers,
}

/// When a question went out.
#[derive(Debug, Clone)]
struct Asked {
    stamp: Stamp,
    since: Since,
}

impl Question {
    /// Asks, and stores what may be stored. Only a request without a body is asked this way.
    pub(crate) async fn ask<A: Ask>(self, cache: &Arc<SharedCache<A>>) -> Answer {
        match self.try_once(cache).await {
            Some(answer) => answer,
            // What came does not fit what we have: the whole, then, and nothing that it could be about.
            None => {
                let anew =
                    Self { conditional: Some(Conditional::default()), basis: Arc::default(), about: None, ..self };
                anew.try_once(cache).await.unwrap_or_else(|| Answer::Failed(Failed::nonsense()))
            }
        }
    }

    async fn try_once<A: Ask>(&self, cache: &Arc<SharedCache<A>>) -> Option<Answer> {
        let requested = SystemTime::now();
        let (sent, asked) = (self.sent(cache), Asked { stamp: cache.stamp(), since: cache.changes.now() });
        let response = match cache.ask.ask(&self.site_id, &sent).await {
            Ok(response) => response,
            Err(failed) => return Some(self.without_answer(cache, failed)),
        };
        let exchange = Exchange { requested, received: SystemTime::now() };
        let (parts, body) = response.into_parts();
        if let (StatusCode::NOT_MODIFIED, Some(conditional)) = (parts.status, &self.conditional) {
            return self.confirmed(cache, conditional, &parts, exchange, &asked);
        }
        match self.stale(cache, Failure::Status(parts.status)) {
            Some(stale) => Some(stale),
            None => self.take(cache, sent, Response::from_parts(parts, body), exchange, asked).await,
        }
    }

    /// The request as it goes out.
    fn sent<A>(&self, cache: &SharedCache<A>) -> Parts {
        let mut request = copy(&self.request);
        // Of the asker, who may hear things before the answer.
        request.extensions = self.request.extensions.clone();
        if let Some(conditional) = &self.conditional {
            conditional.apply(&mut request.headers);
            // A stale response is validated by GET whatever the reader's method.
            request.method = Method::GET;
        }
        request.headers.extend(cache.policy.surrogate_capability().map(|value| (SURROGATE_CAPABILITY, value)));
        request
    }

    /// Nobody could be asked, or someone else asked the same in vain.
    pub(crate) fn without_answer<A>(&self, cache: &SharedCache<A>, failed: Failed) -> Answer {
        self.stale(cache, Failure::Unreachable).unwrap_or(Answer::Failed(failed))
    }

    /// Someone else asked the same, and the provider's server answered with an error that is for all who waited. None if it is not
    /// for this request.
    pub(crate) fn shared<A>(&self, cache: &SharedCache<A>, error: Variant) -> Option<Answer> {
        let status = error.stored().status();
        if let Some(stale) = self.stale(cache, Failure::Status(status)) {
            return Some(stale);
        }
        // Who came after a purge is not answered with what was asked for before it.
        let is_for_this = cache.is_good(&self.site_id, &self.request.uri, &error)
            && shares_error(&self.request, error.stored(), &cache.policy);
        is_for_this.then_some(Answer::Stored(error, Note { status: Some(status), ..Note::default() }))
    }

    /// Someone else's question, which went out when this reader was here already, brought what is stored now: it is as new as what he
    /// would be told himself. None if it does not answer him.
    pub(crate) fn answered_by<A>(&self, cache: &SharedCache<A>, variant: Variant) -> Option<Answer> {
        let is_for_this = cache.is_good(&self.site_id, &self.request.uri, &variant)
            && variant.stored().matches(&self.request.headers, &cache.policy)
            && self.has_content(&variant);
        is_for_this.then(|| Answer::Stored(variant, Note::default()))
    }

    /// What was to be validated, if it may be served because that failed.
    fn stale<A>(&self, cache: &SharedCache<A>, failure: Failure) -> Option<Answer> {
        let variant = self.basis.get(self.about?)?;
        if cache.is_gone(&self.site_id, &self.request.uri, variant) {
            return None;
        }
        on_error(variant.stored(), &self.request, failure, &cache.policy, SystemTime::now())?;
        let status = if let Failure::Status(status) = failure { Some(status) } else { None };
        Some(Answer::Stored(variant.clone(), Note { status, detail: Some("stale-if-error"), ..Note::default() }))
    }

    /// A 304: what it confirms, the first of which answers the question. None if it is about something that we do not have.
    fn confirmed<A: Ask>(
        &self,
        cache: &SharedCache<A>,
        conditional: &Conditional,
        response: &response::Parts,
        exchange: Exchange,
        Asked { stamp, since }: &Asked,
    ) -> Option<Answer> {
        let news = updated_by_304(&self.basis, conditional, &self.request, response, exchange, &cache.policy);
        let first = news.first()?;
        let whose = match first.fate {
            Fate::Kept if !cache.changes.has(&self.key, *since) => Whose::All,
            Fate::Kept | Fate::Untouched => Whose::Outdated,
            Fate::Removed => Whose::EachAskers,
        };
        let mut answer = self.basis.get(first.index)?.with(first.stored.clone(), stamp.clone());
        let is_new = !answer.stored().matches(&self.request.headers, &cache.policy);
        if is_new {
            answer = answer.with(answer.stored().adopted_by(&self.request.headers)?, stamp.clone());
        }
        cache.update(self.key, &self.basis, news, stamp);
        if is_new && whose == Whose::All {
            cache.put(self.key, &self.request, answer.clone(), *since);
        }
        let own = withheld_fields(answer.stored(), &response.headers, &cache.policy);
        let note = Note { status: Some(response.status), whose, own, ..Note::default() };
        self.has_content(&answer).then_some(Answer::Stored(answer, note))
    }

    /// Any other response. None if it is a part for a reader who wanted more.
    async fn take<A: Ask>(
        &self,
        cache: &Arc<SharedCache<A>>,
        sent: Parts,
        response: Response<HttpBody>,
        exchange: Exchange,
        asked: Asked,
    ) -> Option<Answer> {
        let (mut parts, mut body) = response.into_parts();
        let news = updated_by_head(&self.basis, &sent, &parts, exchange, &cache.policy);
        cache.update(self.key, &self.basis, news, &asked.stamp);
        let note = Note { status: Some(parts.status), ..Note::default() };
        let (reason, whose) = match storable(&sent, &parts, exchange, &cache.policy) {
            Ok(stored) => {
                let own = withheld_fields(&stored, &parts.headers, &cache.policy);
                let body_here = Arc::new(Body::new(cache.pieces.clone()));
                let variant = Variant::new(stored, body_here, asked.stamp.clone());
                if self.has_content(&variant) {
                    return Some(self.store(cache, (sent, asked.since), variant, body, Note { own, ..note }).await);
                }
                ("another-part", Whose::Askers)
            }
            Err(why) if why.is_of_the_response() && !is_error(parts.status) => (why.as_str(), Whose::EachAskers),
            Err(why) => (why.as_str(), Whose::Askers),
        };
        // A part for a reader who wanted more.
        if self.conditional.is_some() && parts.status == StatusCode::PARTIAL_CONTENT {
            return None;
        }
        let error = shared_error(&sent, &parts, exchange, &cache.policy).map(|error| (error, asked.stamp));
        strip_hop_by_hop(&mut parts.headers);
        // We asked for the whole, and it turns out that this is for nobody but the reader.
        if self.conditional.is_some() && !as_asked(&self.request, &mut parts, exchange, &cache.policy) {
            body = HttpBody::empty();
        }
        let response = Response::from_parts(parts, body);
        let note = Note { detail: Some(reason), whose, ..note };
        Some(Answer::Unshared(Box::new(Unshared { response, note, error })))
    }

    async fn store<A: Ask>(
        &self,
        cache: &Arc<SharedCache<A>>,
        (sent, since): (Parts, Since),
        variant: Variant,
        mut body: HttpBody,
        note: Note,
    ) -> Answer {
        let length = length_of(variant.stored());
        let is_short = length.is_some_and(|length| length <= SHORT as u64);
        // Who has something else to show need not begin with what may break off.
        if is_short && let Some(stale) = self.stale(cache, Failure::Unreachable) {
            let (same, read) = collapse::read(body).await;
            match read {
                Read::Broken => return stale,
                Read::All(bytes) if Some(bytes.len() as u64) != length => return stale,
                Read::All(_) | Read::NotAll => body = same,
            }
        }
        let replaced = cache.put(self.key, &sent, variant.clone(), since);
        let (stored, whose) = if replaced.is_some() { (true, Whose::All) } else { (false, Whose::Outdated) };
        if stored {
            cache.ask.storing(&self.site_id, &sent, &variant);
        }
        let replaced = replaced.unwrap_or_default();
        cache.tasks.spawn(pump(cache.clone(), self.key, variant.clone(), replaced, body));
        if is_short && timeout(MOMENT, variant.body().ends_well()).await == Ok(false) {
            return Answer::Failed(Failed::broken());
        }
        Answer::Stored(variant, Note { stored, whose, ..note })
    }

    /// With what was there before, a response has all that the reader wants.
    fn has_content(&self, variant: &Variant) -> bool {
        content(&self.with_others(variant), 0, &self.request) != Content::Missing
    }

    /// A response and those that were stored beside it: a part may need others.
    pub(crate) fn with_others(&self, variant: &Variant) -> Vec<Variant> {
        let others = self.basis.iter().filter(|other| !other.is_same(variant));
        std::iter::once(variant).chain(others).cloned().collect()
    }
}

/// Without the connection's extensions.
pub(crate) fn copy(parts: &Parts) -> Parts {
    let (mut copy, ()) = http::Request::new(()).into_parts();
    copy.method = parts.method.clone();
    copy.uri = parts.uri.clone();
    copy.version = parts.version;
    copy.headers = parts.headers.clone();
    copy
}

fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// Bytes that the body of a response has, if it says so.
fn length_of(stored: &Stored) -> Option<u64> {
    match stored.part() {
        Some(part) => Some(part.range.end - part.range.start),
        None => stored.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok(),
    }
}

/// Why a body does not come to its end.
#[derive(Debug, thiserror::Error)]
enum BrokenOff {
    #[error("the answer broke off")]
    Answer(#[from] axum::Error),
    #[error("it is not as long as it should be")]
    Length,
    #[error("nobody reads it, and nobody knows how long it is")]
    Unread,
    #[error("this program ends")]
    Shutdown,
}

/// Takes a body in to its end, whoever waits for it or not. If that does not come, what it replaced is still better than nothing.
async fn pump<A: Ask>(
    cache: Arc<SharedCache<A>>,
    key: Key,
    variant: Variant,
    replaced: Vec<Variant>,
    incoming: HttpBody,
) {
    let body = variant.body();
    body.expect(length_of(variant.stored()));
    let outcome = cache.shutdown.run_until_cancelled(take_in(body, incoming, length_of(variant.stored())));
    match outcome.await.unwrap_or(Err(BrokenOff::Shutdown)) {
        Ok(()) => {
            body.complete();
            // Its weight is known only now.
            cache.shelves.change(key, |variants| {
                if variants.iter().any(|other| other.is_same(&variant)) {
                    debug!(length = body.length(), "a body is complete");
                }
            });
        }
        Err(why) => {
            debug!(error = &why as &dyn std::error::Error, "a body does not come to its end");
            cache.shelves.change(key, |variants| {
                let before = variants.len();
                variants.retain(|other| !other.is_same(&variant));
                // Otherwise something newer is there, or it was to be forgotten.
                if variants.len() < before {
                    variants.splice(0..0, replaced);
                }
            });
            body.cut_off();
        }
    }
}

async fn take_in(body: &Body, mut incoming: HttpBody, length: Option<u64>) -> Result<(), BrokenOff> {
    while let Some(frame) = incoming.frame().await {
        let Ok(bytes) = frame?.into_data() else { continue };
        if length.is_some_and(|length| body.so_far() + bytes.len() as u64 > length) {
            return Err(BrokenOff::Length);
        }
        body.push(bytes).await;
        if length.is_none() && body.is_unread() {
            return Err(BrokenOff::Unread);
        }
    }
    if length.is_some_and(|length| body.so_far() != length) { Err(BrokenOff::Length) } else { Ok(()) }
}

impl<A> SharedCache<A> {
    /// Stores a response that was asked for then in place of those that it replaces, which are returned. None if its target was
    /// changed since: it is not stored.
    pub(crate) fn put(&self, key: Key, request: &Parts, new: Variant, since: Since) -> Option<Vec<Variant>> {
        let mut replaced = None;
        self.shelves.change(key, |variants| {
            if self.changes.has(&key, since) {
                return;
            }
            let is_old = |old: &mut Variant| replaces(new.stored(), old.stored(), &request.headers, &self.policy);
            replaced = Some(variants.extract_if(.., is_old).collect());
            variants.push(new);
        });
        replaced
    }

    /// Takes over what the provider's server said about stored responses; what changed meanwhile is left alone.
    fn update(&self, key: Key, basis: &[Variant], news: Vec<Updated>, stamp: &Stamp) {
        if news.is_empty() {
            return;
        }
        self.shelves.change(key, |variants| {
            for Updated { index, stored, fate } in news {
                let Some(place) = basis.get(index).and_then(|old| position(variants, old)) else { continue };
                match fate {
                    Fate::Kept => variants[place] = variants[place].with(stored, stamp.clone()),
                    Fate::Untouched => {}
                    Fate::Removed => drop(variants.remove(place)),
                }
            }
        });
    }
}

fn position(variants: &[Variant], of: &Variant) -> Option<usize> {
    variants.iter().position(|other| other.is_same(of) && is_unchanged(other.stored(), of.stored()))
}

/// Of two validations that overlap the first to end counts; the other's is as good.
pub(crate) fn is_unchanged(one: &Stored, other: &Stored) -> bool {
    one.received() == other.received()
}
