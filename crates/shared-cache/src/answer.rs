//! A GET or HEAD, from the first look at what is stored to what answers it.

use std::{
    hash::{DefaultHasher, Hasher},
    sync::Arc,
    time::SystemTime,
};

use axum::body::Body as HttpBody;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use tokio::sync::oneshot;
use umbel_http_cache::{CacheStatus, Conditional, Forward, RequestDirectives, Reuse, hash_selecting, reuse};

use crate::{
    Ask, Failed, SharedCache,
    collapse::{Ended, news},
    fetch::{Answer, Note, Question, copy, is_unchanged},
    key::{Key, Root},
    plan::{self, Planned},
    shelf::Variant,
    turn::{Asking, News, Turn},
};

/// How often a request looks at what others' questions brought before it asks by itself.
const LOOKS: usize = 4;

/// How often a request is begun anew because what answers it was evicted in the same moment.
const ATTEMPTS: usize = 8;

/// Who may share an answer: requests for one target, and for one range of it, that say the same in all fields on which what is stored
/// is known to depend.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Same {
    key: Key,
    range: Option<HeaderValue>,
    selecting: u64,
}

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
    pub async fn fresh(&self, root: &Root<'_>, request: &Parts, said: &[HeaderName]) -> Option<(Planned, CacheStatus)> {
        let all = self.good(root.site_id(), &request.uri, &Key::of(root, &request.uri));
        if all.is_empty() || all.iter().any(|variant| variant.stored().varies_on(said)) {
            return None;
        }
        let decision = reuse(&all, request, &self.policy, SystemTime::now());
        let Reuse::Fresh { index, .. } = decision else { return None };
        let planned = plan::planned(request, &all, index).await?;
        Some((planned, decision.cache_status(self.name)))
    }

    /// What answers a GET or HEAD without a body, for something under `root`. The request says itself to whom it
    /// concerns where it was sent.
    pub async fn answer(self: &Arc<Self>, root: &Root<'_>, request: Arc<Parts>) -> Answered {
        let key = Key::of(root, &request.uri);
        Asked { cache: self, site_id: root.site_id().into(), key, request }.answer().await
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
        let (mut collapsed, came) = (false, self.cache.turns.moment());
        let (mut brought, mut useless) = (None, Vec::new());
        for look in 1..=ATTEMPTS {
            let basis = self.look(&useless);
            let decision = reuse(&basis, &self.request, &self.cache.policy, SystemTime::now());
            let mut status = decision.cache_status(self.cache.name);
            status.collapsed = collapsed;
            let (about, conditional) = match decision {
                Reuse::Fresh { index, .. } => match self.stored(&basis, index, status).await {
                    Some(answered) => return answered,
                    None => {
                        useless.push(basis[index].clone());
                        continue;
                    }
                },
                Reuse::Stale { index, revalidate: Some(conditional), .. } if !self.cache.serves_while_revalidating => {
                    status = CacheStatus { collapsed, ..CacheStatus::forward(self.cache.name, Forward::Stale) };
                    (Some(index), Some(conditional))
                }
                Reuse::Stale { index, revalidate, .. } => {
                    self.revalidate_beside(&basis, index, revalidate);
                    match self.stored(&basis, index, status).await {
                        Some(answered) => return answered,
                        None => {
                            useless.push(basis[index].clone());
                            continue;
                        }
                    }
                }
                Reuse::GatewayTimeout => {
                    let text = "nothing is stored that answers this";
                    return Answered::Failed(Failed::new(StatusCode::GATEWAY_TIMEOUT, "not-stored", text), status);
                }
                Reuse::Revalidate { index, conditional, .. } => (Some(index), conditional),
                Reuse::Complete { conditional, .. } => (None, Some(conditional)),
                Reuse::Forward { conditional, .. } => (None, conditional.or_else(|| self.ours(&basis))),
            };
            let question = self.question(basis, about, conditional);
            let same = self.same(&question);
            if same.is_some()
                && let Some(answer) = brought.take().and_then(|variant| question.answered_by(self.cache, variant))
                && let Some(answered) = self.told(answer, &question, status.clone()).await
            {
                return answered;
            }
            let turn = match same {
                Some(same) if look < LOOKS => self.cache.turns.take(same, came).await,
                Some(_) | None => Turn::Alone,
            };
            let answer = match turn {
                Turn::Alone | Turn::Theirs { news: News::UnsharedOnce, .. } => question.clone().ask(self.cache).await,
                // Someone else's turn ended between the look and this one.
                Turn::Mine(_) if self.has_news(&question.basis, &useless) => continue,
                Turn::Mine(asking) => self.ask_for_all(question.clone(), asking).await,
                // It is known now: next time it goes out as it came.
                Turn::Theirs { news: News::Unshared | News::Ended(Ended::Own), .. } => continue,
                Turn::Theirs { news: News::Ended(Ended::Failed(failed)), .. } => {
                    status.collapsed = true;
                    question.without_answer(self.cache, failed)
                }
                Turn::Theirs { news: News::Ended(Ended::Error(error)), .. } => {
                    let Some(answer) = question.shared(self.cache, error) else { continue };
                    status.collapsed = true;
                    answer
                }
                Turn::Theirs { news: News::Ended(Ended::Stored(variant)), later } => {
                    collapsed = true;
                    brought = later.then_some(variant);
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

    /// What is stored, without what turned out to be of no use.
    fn look(&self, useless: &[Variant]) -> Arc<[Variant]> {
        let found = self.cache.good(&self.site_id, &self.request.uri, &self.key);
        if useless.is_empty() {
            return found;
        }
        let is_of_use = |variant: &&Variant| !useless.iter().any(|useless| useless.is_same(variant));
        found.iter().filter(is_of_use).cloned().collect()
    }

    /// Something else is stored by now.
    fn has_news(&self, basis: &[Variant], useless: &[Variant]) -> bool {
        let now = self.look(useless);
        let is_old =
            |(one, other): (&Variant, &Variant)| one.is_same(other) && is_unchanged(one.stored(), other.stored());
        now.len() != basis.len() || !now.iter().zip(basis).all(is_old)
    }

    fn question(&self, basis: Arc<[Variant]>, about: Option<usize>, conditional: Option<Conditional>) -> Question {
        let (site_id, key, request) = (self.site_id.clone(), self.key, self.request.clone());
        Question { site_id, key, request, basis, about, conditional }
    }

    /// A reader's validation of its own copy is answered from the whole, which is asked for: the next reader may have none. So is
    /// the range from the first byte to the last, by which players begin. But not what is known to be for the reader alone.
    fn ours(&self, basis: &[Variant]) -> Option<Conditional> {
        let has = |name: HeaderName| self.request.headers.contains_key(name);
        let validates = has(header::IF_NONE_MATCH) || has(header::IF_MODIFIED_SINCE);
        let mut ranges = self.request.headers.get_all(header::RANGE).iter();
        let (is_ranged, is_all) = match (ranges.next(), ranges.next()) {
            (None, _) => (false, false),
            (Some(range), None) => (true, range == "bytes=0-"),
            (Some(_), Some(_)) => (true, false),
        };
        let more = is_ranged && !is_all || has(header::IF_MATCH) || has(header::IF_UNMODIFIED_SINCE);
        let could = self.request.method == Method::GET && (validates || is_all) && !more && !self.is_own(None);
        let may = could && !self.cache.turns.is_unshared(&self.same_range(basis, None));
        may.then(Conditional::default)
    }

    /// What answers this is for nobody else, as far as is known: the request forbids to store it, or is somebody's own and what is
    /// stored does not allow to take it for others.
    fn is_own(&self, about: Option<&Variant>) -> bool {
        let (headers, policy) = (&self.request.headers, &self.cache.policy);
        let for_all = || about.is_some_and(|variant| variant.stored().may_answer_authorized(policy));
        policy.request_directives && RequestDirectives::of(headers).no_store
            || headers.contains_key(header::AUTHORIZATION) && !for_all()
    }

    fn same_range(&self, basis: &[Variant], range: Option<HeaderValue>) -> Same {
        let mut selecting = DefaultHasher::new();
        hash_selecting(basis, &self.request.headers, &mut selecting);
        Same { key: self.key, range, selecting: selecting.finish() }
    }

    /// With whom the answer to a question could be shared.
    fn same(&self, question: &Question) -> Option<Same> {
        let headers = &self.request.headers;
        if self.is_own(question.about.and_then(|index| question.basis.get(index))) {
            return None;
        }
        if question.conditional.is_some() {
            return Some(self.same_range(&question.basis, None));
        }
        let conditions = [
            header::IF_NONE_MATCH,
            header::IF_MODIFIED_SINCE,
            header::IF_MATCH,
            header::IF_UNMODIFIED_SINCE,
            header::IF_RANGE,
        ];
        let depends = conditions.iter().any(|name| headers.contains_key(name));
        let is_for_all = self.request.method == Method::GET && !depends;
        is_for_all.then(|| self.same_range(&question.basis, headers.get(header::RANGE).cloned()))
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
        let Some(asking) = self.cache.turns.try_take(self.same_range(basis, None)) else { return };
        let mut question = self.question(basis.clone(), Some(index), Some(conditional));
        // The reader has his answer, and hears nothing of this.
        question.request = Arc::new(copy(&self.request));
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
                note_down(&mut status, &unshared.note);
                Some(Answered::Unshared(Box::new(unshared.response), status))
            }
            Answer::Stored(variant, note) => {
                note_down(&mut status, &note);
                status.ttl = Some(variant.stored().freshness(SystemTime::now()).ttl());
                let mut planned = plan::planned(&self.request, &question.with_others(&variant), 0).await?;
                if planned.status.is_success() || planned.status == StatusCode::NOT_MODIFIED {
                    planned.headers.extend(note.own);
                }
                Some(Answered::Stored(planned, status))
            }
        }
    }
}

fn failed(why: Failed, mut status: CacheStatus) -> Answered {
    status.detail = Some(why.reason.clone());
    Answered::Failed(why, status)
}

fn note_down(status: &mut CacheStatus, note: &Note) {
    status.forward_status = note.status;
    status.stored = note.stored;
    status.detail = note.detail.map(str::to_owned);
}
