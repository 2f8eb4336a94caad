//! Asking the origin whether a stored response still holds, and what its answer changes (RFC 9111, sections 3.2, 4.3.1, 4.3.3 to 4.3.5).

use std::borrow::Borrow;
use std::time::{Duration, SystemTime};

use http::header::{
    CONTENT_LENGTH, DATE, ETAG, HeaderMap, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE,
};
use http::{HeaderName, HeaderValue, Method, StatusCode, request, response};

use crate::age::{Exchange, initial_age};
use crate::conditions::CONDITIONS;
use crate::date::parse_http_date;
use crate::freshness::Terms;
use crate::hop_by_hop::strip_unstorable;
use crate::store::{allowed, is_no_private_session, may_be_asked_by};
use crate::stored::{is_strong, storable_fields, whole_millis};
use crate::targeted::Directives;
use crate::validators::RequestTag;
use crate::vary::Selecting;
use crate::{Policy, Stored, http_date};

/// Fields of a 304 or of the answer to a HEAD that describe the body we have, so that they do not replace what came with it (RFC 9111,
/// section 3.2). The entity tag is the same anyhow, or the update rests on [`Policy::trust_lone_304`].
const OF_THE_BODY: [&str; 6] =
    ["content-length", "content-encoding", "content-range", "content-md5", "content-digest", "etag"];

/// Entity tags that one request offers at most.
const MAX_TAGS: usize = 16;

/// What makes a request to the origin out of a client's. The default asks for the whole anew.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conditional {
    fields: Vec<(HeaderName, HeaderValue)>,
    /// The one stored response whose validators these are.
    about: Option<usize>,
}

impl Conditional {
    /// Takes the client's conditions and `Range` out and puts ours in. What comes back is the cache's; the client's conditions are then
    /// evaluated by [`crate::answer()`].
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in CONDITIONS {
            headers.remove(name);
        }
        headers.remove(RANGE);
        for (name, value) in &self.fields {
            headers.insert(name, value.clone());
        }
    }

    /// It asks whether something still holds; otherwise the origin is asked for the whole anew.
    #[must_use]
    pub fn has_conditions(&self) -> bool {
        self.fields.iter().any(|(name, _)| CONDITIONS.contains(name))
    }

    /// Validates one stored response (RFC 9111, section 4.3.1): by its tag and its date as they came. A part is validated by the client's
    /// range, which it covers; should it have changed, the client's `If-Range` decides whether that range is still wanted.
    pub(crate) fn validating(index: usize, stored: &Stored, request: &request::Parts) -> Self {
        let mut fields = Vec::with_capacity(3);
        fields.extend(stored.etag().map(|tag| (IF_NONE_MATCH, tag.clone())));
        if stored.last_modified().is_some() {
            fields.extend(stored.headers.get(LAST_MODIFIED).map(|date| (IF_MODIFIED_SINCE, date.clone())));
        }
        if stored.part().is_some() {
            let kept = [RANGE, IF_RANGE].into_iter();
            fields.extend(kept.filter_map(|name| Some((name.clone(), request.headers.get(name)?.clone()))));
        }
        Self { fields, about: Some(index) }
    }

    /// Asks which of the stored responses will do, none of which has the request's selecting fields. `None` when none has a tag.
    pub(crate) fn choosing(stored: &[&Stored]) -> Option<Self> {
        let whole = stored.iter().enumerate().filter(|(_, stored)| stored.part().is_none());
        let tagged = whole.filter_map(|(index, stored)| Some((stored.etag()?.as_bytes(), index)));
        let mut tagged: Vec<_> = tagged.take(MAX_TAGS).collect();
        let about = if let [(_, index)] = tagged.as_slice() { Some(*index) } else { None };
        tagged.sort_unstable();
        tagged.dedup_by_key(|(tag, _)| *tag);
        let tags: Vec<_> = tagged.into_iter().map(|(tag, _)| tag).collect();
        let value = HeaderValue::from_bytes(&tags.join(&b", "[..])).ok().filter(|value| !value.is_empty())?;
        Some(Self { fields: vec![(IF_NONE_MATCH, value)], about })
    }

    /// Completes a stored part, if it is still of what the origin has (RFC 9110, section 13.1.5).
    pub(crate) fn completing(etag: &HeaderValue, missing: &std::ops::Range<u64>, complete: u64) -> Self {
        let last = if missing.end == complete { String::new() } else { (missing.end - 1).to_string() };
        let range = HeaderValue::try_from(format!("bytes={}-{last}", missing.start));
        let range = range.expect("digits are visible ASCII");
        Self { fields: vec![(RANGE, range), (IF_RANGE, etag.clone())], about: None }
    }
}

/// A stored response after news of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updated {
    /// Which of the stored responses.
    pub index: usize,
    /// What it is now; it answers the request that brought the news.
    pub stored: Stored,
    /// What becomes of what is stored.
    pub fate: Fate,
}

/// What becomes of a stored response after news of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stays, as it is now.
    Kept,
    /// It stays as it was: the news came of a request whose answers are not to be stored, which says nothing about the response.
    Untouched,
    /// It goes: the origin says now that it is not to be stored.
    Removed,
}

/// What a 304 changes (RFC 9111, section 4.3.4). `stored` is what was stored for the URI when [`crate::reuse()`] decided, `conditional` what it
/// said to apply to the request.
///
/// The first of the result answers the request; if it did not match it before, store it as [`Stored::adopted_by`] the request as well.
/// Nothing in the result means that the 304 is about something we do not have: ask again with [`Conditional::default`].
#[must_use]
pub fn updated_by_304<S: Borrow<Stored>>(
    stored: &[S],
    conditional: &Conditional,
    request: &request::Parts,
    response: &response::Parts,
    exchange: Exchange,
    policy: &Policy,
) -> Vec<Updated> {
    let all: Vec<&Stored> = stored.iter().map(Borrow::borrow).collect();
    let mut selected = selected_by(&all, &response.headers);
    if selected.is_empty() && policy.trust_lone_304 {
        selected.extend(conditional.about.filter(|index| *index < all.len()));
    }
    selected.sort_by_key(|index| (Some(*index) != conditional.about, std::cmp::Reverse(all[*index].date())));
    let update = |index: usize| update(all[index], index, request, &response.headers, exchange, policy);
    selected.into_iter().filter_map(update).collect()
}

/// What the answer to a HEAD changes (RFC 9111, section 4.3.5): the stored responses that might have answered it are updated if they are
/// of the same, and otherwise stale.
#[must_use]
pub fn updated_by_head<S: Borrow<Stored>>(
    stored: &[S],
    request: &request::Parts,
    response: &response::Parts,
    exchange: Exchange,
    policy: &Policy,
) -> Vec<Updated> {
    if request.method != Method::HEAD || response.status != StatusCode::OK {
        return Vec::new();
    }
    let all = stored.iter().map(Borrow::borrow).enumerate();
    let matching = all.filter(|(_, stored)| stored.matches(&request.headers, policy));
    let news = |(index, stored): (usize, &Stored)| {
        let same = is_of_same(stored, &response.headers);
        let updated = same.then(|| update(stored, index, request, &response.headers, exchange, policy)).flatten();
        updated.unwrap_or_else(|| expired(stored, index, (request, exchange.received), policy))
    };
    matching.map(news).collect()
}

fn expired(stored: &Stored, index: usize, (request, now): (&request::Parts, SystemTime), policy: &Policy) -> Updated {
    let mut stored = stored.clone();
    stored.expire(now);
    let said = Directives::of(&stored.headers, policy).said;
    let fate = match may_be_asked_by(&request.headers, &said, policy) {
        Ok(()) => Fate::Kept,
        Err(_) => Fate::Untouched,
    };
    Updated { index, stored, fate }
}

/// All validators and the length that the answer to a HEAD has are those of the stored response.
fn is_of_same(stored: &Stored, head: &HeaderMap) -> bool {
    let same = |name: HeaderName| head.get(&name).is_none_or(|value| stored.headers.get(&name) == Some(value));
    let length = match (stored.part(), head.get(CONTENT_LENGTH)) {
        (Some(part), Some(length)) => length.as_bytes() == part.complete.to_string().as_bytes(),
        (None, Some(_)) => same(CONTENT_LENGTH),
        (_, None) => true,
    };
    stored.status.is_success() && same(ETAG) && same(LAST_MODIFIED) && length
}

/// RFC 9111, section 4.3.4: by strong validators, else by a weak one, else the only one there is.
fn selected_by(all: &[&Stored], headers: &HeaderMap) -> Vec<usize> {
    let chosen = |is: &dyn Fn(&Stored) -> bool| -> Vec<usize> {
        all.iter().enumerate().filter(|(_, stored)| is(stored)).map(|(index, _)| index).collect()
    };
    let (tag, date) = (headers.get(ETAG), headers.get(LAST_MODIFIED).and_then(parse_http_date));
    let strong = chosen(&|stored| has_strong(stored, tag, date));
    let by_strong_tag = tag.is_some_and(is_strong);
    if !strong.is_empty() || by_strong_tag {
        return strong;
    }
    if tag.is_some() || date.is_some() {
        let weak = chosen(&|stored| has_weak(stored, tag, date));
        return weak.into_iter().max_by_key(|index| (all[*index].date(), *index)).into_iter().collect();
    }
    let lone = all.len() == 1 && all[0].etag().is_none() && all[0].last_modified().is_none();
    if lone { vec![0] } else { Vec::new() }
}

/// A date is strong if it is well before the response was made (RFC 9110, section 8.8.2.2), and does not count against a tag.
fn has_strong(stored: &Stored, tag: Option<&HeaderValue>, date: Option<SystemTime>) -> bool {
    match (tag.filter(|tag| is_strong(tag)), stored.etag()) {
        (Some(tag), Some(ours)) => return tag == ours,
        (None, Some(_)) if tag.is_some() => return false,
        _ => {}
    }
    let settled = |date| stored.date().duration_since(date).is_ok_and(|since| since >= Duration::from_secs(60));
    date.is_some_and(|date| stored.last_modified() == Some(date) && settled(date))
}

fn has_weak(stored: &Stored, tag: Option<&HeaderValue>, date: Option<SystemTime>) -> bool {
    match (tag, stored.etag()) {
        (Some(tag), Some(ours)) => match (RequestTag::only(tag), RequestTag::only(ours)) {
            (Some(tag), Some(ours)) => tag.is_weakly(&ours),
            _ => tag == ours,
        },
        _ => date.is_some() && stored.last_modified() == date,
    }
}

/// The stored response with the new header (RFC 9111, section 3.2). `None` when it cannot be told any more which requests it is for.
fn update(
    stored: &Stored,
    index: usize,
    request: &request::Parts,
    news: &HeaderMap,
    exchange: Exchange,
    policy: &Policy,
) -> Option<Updated> {
    let exchange = Exchange { requested: whole_millis(exchange.requested), received: whole_millis(exchange.received) };
    let merged = merge(&stored.headers, news, exchange.received);
    let said = Directives::of(&merged, policy).said;
    let headers = storable_fields(&merged, exchange.received, policy);
    let (selecting, known) = selecting(stored, &headers, request, policy)?;
    let terms = Terms::of(stored.status, &headers, exchange.received, policy);
    let initial_age = initial_age(news, exchange);
    let (status, part) = (stored.status, stored.part.clone());
    let stored = Stored { status, headers, selecting, exchange, initial_age, part, expired_at: None, terms };
    let allowed = allowed(status, &said).and_then(|()| is_no_private_session(&stored, &said, policy));
    let fate = match may_be_asked_by(&request.headers, &said, policy) {
        _ if !known || allowed.is_err() => Fate::Removed,
        Ok(()) => Fate::Kept,
        Err(_) => Fate::Untouched,
    };
    Some(Updated { index, stored, fate })
}

/// New fields replace old ones of the same name.
fn merge(old: &HeaderMap, news: &HeaderMap, received: SystemTime) -> HeaderMap {
    let mut news = news.clone();
    strip_unstorable(&mut news);
    for name in OF_THE_BODY {
        news.remove(name);
    }
    if news.get(DATE).and_then(parse_http_date).is_none() {
        news.insert(DATE, http_date(received));
    }
    let mut merged = old.clone();
    for name in news.keys() {
        merged.remove(name);
    }
    merged.extend(news);
    merged
}

/// What the response now varies on. Of the request that brought the news, if it is one the response is for; of others we know only what
/// we kept. False when it varies on everything now.
fn selecting(
    stored: &Stored,
    headers: &HeaderMap,
    request: &request::Parts,
    policy: &Policy,
) -> Option<(Selecting, bool)> {
    let new = Selecting::new(headers, &request.headers);
    if stored.matches(&request.headers, policy) {
        return Some(new.map_or_else(|| (stored.selecting.clone(), false), |new| (new, true)));
    }
    let names = |selecting: &Selecting| selecting.0.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let same = new.is_some_and(|new| names(&new) == names(&stored.selecting));
    same.then(|| (stored.selecting.clone(), true))
}
