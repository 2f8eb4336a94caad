//! A GET or HEAD, from the first look at what is stored to what answers it.

use std::{sync::Arc, time::SystemTime};

use axum::body::Body as HttpBody;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use tokio::sync::oneshot;
use umbel_http_cache::{CacheStatus, Conditional, Forward, Reuse, reuse};

use crate::{
    Ask, Failed, SharedCache,
    collapse::{Ended, news},
    fetch::{Answer, Note, Question, is_unchanged},
    key::Key,
    plan::{self, Planned},
    shelf::Variant,
    turn::{Asking, News, Turn},
};

/// How often a request looks at what others' questions brought before it asks by itself.
const LOOKS: usize = 4;

/// How often a request is begun anew because what answers it was evicted in the same moment.
const ATTEMPTS: usize = 8;

/// Who may share an answer: requests for one target, and for one range of it.
pub(crate) type Same = (Key, Option<HeaderValue>);

/// What answers a request. What is to be said in `Cache-Status` comes with it.
#[derive(Debug)]
pub enum Answered {
    /// Something that is stored, or on its way into the store.
    Stored(Planned, CacheStatus),
    /// For the asker alone, to be passed on as it comes.
    Unshared(Box<Response<HttpBody>>, CacheStatus),
    /// Nothing.
    Failed(Failed, CacheStatus),
}

impl<A: Ask> SharedCache<A> {
    /// What is stored and fresh and answers a GET or HEAD without a body as it came: most requests need no more. `said` are
    /// fields that are still to be put into the request for whoever is asked; where they decide which response it is, this
    /// finds none. None: [`SharedCache::answer`] finds out.
    pub async fn fresh(&self, site_id: &str, request: &Parts, said: &[HeaderName]) -> Option<(Planned, CacheStatus)> {
        let all = self.good(site_id, &request.uri, &Key::of(site_id, &request.uri));
        if all.is_empty() || all.iter().any(|variant| variant.stored().varies_on(said)) {
            return None;
        }
        let decision = reuse(&all, request, &self.policy, SystemTime::now());
        let Reuse::Fresh { index, .. } = decision else { return None };
        let planned = plan::planned(request, &all, index).await?;
        Some((planned, decision.cache_status(self.name)))
    }

    /// What answers a GET or HEAD without a body, for something of the site `site_id`.
    pub async fn answer(self: &Arc<Self>, site_id: &str, request: Arc<Parts>) -> Answered {
        let key = Key::of(site_id, &request.uri);
        Asked { cache: self, site_id: site_id.into(), key, request }.answer().await
    }
}

/// A GET or HEAD.
struct Asked<'a, A> {
    cache: &'a Arc<SharedCache<A>>,
    site_id: Arc<str>,
    key: Key,
    request: Arc<Parts>,
}

impl<A: Ask> Asked<'_, A> {
    async fn answer(&self) -> Answered {
        let mut collapsed = false;
        for look in 1..=ATTEMPTS {
            let basis = self.cache.good(&self.site_id, &self.request.uri, &self.key);
            let decision = reuse(&basis, &self.request, &self.cache.policy, SystemTime::now());
            let mut status = decision.cache_status(self.cache.name);
            status.collapsed = collapsed;
            let (about, conditional) = match decision {
                Reuse::Fresh { index, .. } => match self.stored(&basis, index, status).await {
                    Some(answered) => return answered,
                    None => continue,
                },
                Reuse::Stale { index, revalidate: Some(conditional), .. } if !self.cache.serves_while_revalidating => {
                    status = CacheStatus { collapsed, ..CacheStatus::forward(self.cache.name, Forward::Stale) };
                    (Some(index), Some(conditional))
                }
                Reuse::Stale { index, revalidate, .. } => {
                    self.revalidate_beside(&basis, index, revalidate);
                    match self.stored(&basis, index, status).await {
                        Some(answered) => return answered,
                        None => continue,
                    }
                }
                Reuse::GatewayTimeout => {
                    let text = "nothing is stored that answers this";
                    return Answered::Failed(Failed::new(StatusCode::GATEWAY_TIMEOUT, "not-stored", text), status);
                }
                Reuse::Revalidate { index, conditional, .. } => (Some(index), conditional),
                Reuse::Complete { conditional, .. } => (None, Some(conditional)),
                Reuse::Forward { conditional, .. } => (None, conditional.or_else(|| self.ours())),
            };
            let question = self.question(basis, about, conditional);
            let turn = match self.same(&question) {
                Some(same) if look < LOOKS => self.cache.turns.take(same).await,
                Some(_) | None => Turn::Alone,
            };
            let answer = match turn {
                Turn::Alone | Turn::Theirs(News::Unshared | News::UnsharedError) => {
                    question.clone().ask(self.cache).await
                }
                // Someone else's turn ended between the look and this one.
                Turn::Mine(_) if self.has_news(&question.basis) => continue,
                Turn::Mine(asking) => self.ask_for_all(question.clone(), asking).await,
                Turn::Theirs(News::Failed(Ended::Failed(failed))) => {
                    status.collapsed = true;
                    question.without_answer(self.cache, failed)
                }
                Turn::Theirs(News::Failed(Ended::Error(error))) => {
                    let Some(answer) = question.shared(self.cache, error) else { continue };
                    status.collapsed = true;
                    answer
                }
                Turn::Theirs(News::Stored) => {
                    collapsed = true;
                    continue;
                }
            };
            if let Some(answered) = self.told(answer, &question, status).await {
                return answered;
            }
        }
        let status = CacheStatus::forward(self.cache.name, Forward::Miss);
        let text = "the cache cannot hold the answer";
        failed(Failed::new(StatusCode::SERVICE_UNAVAILABLE, "evicted", text), status)
    }

    /// Something else is stored by now.
    fn has_news(&self, basis: &[Variant]) -> bool {
        let now = self.cache.good(&self.site_id, &self.request.uri, &self.key);
        let is_old =
            |(one, other): (&Variant, &Variant)| one.is_same(other) && is_unchanged(one.stored(), other.stored());
        now.len() != basis.len() || !now.iter().zip(basis).all(is_old)
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
    async fn ask_for_all(&self, question: Question, asking: Asking<Same, Ended>) -> Answer {
        let (cache, (sender, receiver)) = (self.cache.clone(), oneshot::channel());
        let until = cache.shutdown.clone();
        self.cache.tasks.spawn(until.run_until_cancelled_owned(async move {
            let answer = question.ask(&cache).await;
            let (answer, news) = news(&cache, answer).await;
            asking.tell(news);
            // The reader may have left.
            drop(sender.send(answer));
        }));
        receiver.await.unwrap_or_else(|_| Answer::Failed(Failed::stopped()))
    }

    fn revalidate_beside(&self, basis: &Arc<[Variant]>, index: usize, conditional: Option<Conditional>) {
        let Some(conditional) = conditional else { return };
        let Some(asking) = self.cache.turns.try_take((self.key, None)) else { return };
        let question = self.question(basis.clone(), Some(index), Some(conditional));
        let (cache, until) = (self.cache.clone(), self.cache.shutdown.clone());
        self.cache.tasks.spawn(until.run_until_cancelled_owned(async move {
            let answer = question.ask(&cache).await;
            asking.tell(news(&cache, answer).await.1);
        }));
    }

    /// None if it was evicted; nobody finds it any more.
    async fn stored(&self, all: &[Variant], index: usize, status: CacheStatus) -> Option<Answered> {
        Some(Answered::Stored(plan::planned(&self.request, all, index).await?, status))
    }

    /// The answer to the reader's request, by what came of our question. None if that is about something that was evicted.
    async fn told(&self, answer: Answer, question: &Question, mut status: CacheStatus) -> Option<Answered> {
        match answer {
            Answer::Failed(why) => Some(failed(why, status)),
            Answer::Unshared(unshared) => {
                note_down(&mut status, unshared.note);
                Some(Answered::Unshared(Box::new(unshared.response), status))
            }
            Answer::Stored(variant, note) => {
                note_down(&mut status, note);
                status.ttl = Some(variant.stored().freshness(SystemTime::now()).ttl());
                self.stored(&question.with_others(&variant), 0, status).await
            }
        }
    }
}

fn failed(why: Failed, mut status: CacheStatus) -> Answered {
    status.detail = Some(why.reason.clone());
    Answered::Failed(why, status)
}

fn note_down(status: &mut CacheStatus, note: Note) {
    status.forward_status = note.status;
    status.stored = note.stored;
    status.detail = note.detail.map(str::to_owned);
}
