//! Whether a stored response answers a request (RFC 9111, section 4).

use std::borrow::{Borrow, Cow};
use std::cmp::Reverse;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use http::header::RANGE;
use http::{Method, request};

use crate::conditions::{evaluate_stored, is_for_origin, is_plain};
use crate::{
    CacheStatus, Conditional, Forward, Freshness, Piece, Policy, Precondition, RangeOutcome, RequestDirectives, Stored,
    assemble, select,
};

/// What to do with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reuse {
    /// Answer with this stored response.
    Fresh {
        /// Which of the stored responses.
        index: usize,
        /// Its age and lifetime.
        freshness: Freshness,
    },
    /// Answer with this stored response although it is stale.
    Stale {
        /// Which of the stored responses.
        index: usize,
        /// Its age and lifetime.
        freshness: Freshness,
        /// Who allows it.
        why: StaleReason,
        /// Validate it meanwhile, once for all who ask; GET, whatever the method of this request.
        revalidate: Option<Conditional>,
    },
    /// Ask the origin whether this stored response still holds.
    Revalidate {
        /// Which of the stored responses.
        index: usize,
        /// Its age and lifetime.
        freshness: Freshness,
        /// Why it does not answer the request as it is.
        why: Forward,
        /// What to change in the request. `None`: send it as it came, the answer is the client's, a 304 or 412 too.
        conditional: Option<Conditional>,
    },
    /// Ask the origin for the bytes that are missing. With them stored, [`content()`] puts the parts together.
    Complete {
        /// The newest of the parts.
        index: usize,
        /// What to change in the request.
        conditional: Conditional,
    },
    /// Send the request to the origin: nothing stored answers it.
    Forward {
        /// Why.
        why: Forward,
        /// May be applied to the request: the origin can then say with a 304 that a stored response answers it after all
        /// ([`crate::updated_by_304`], [`Stored::adopted_by`]).
        conditional: Option<Conditional>,
    },
    /// Answer with 504: the client wants nothing but a stored response (RFC 9111, section 5.2.1.7).
    GatewayTimeout,
}

/// Who allows a stale answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StaleReason {
    /// `stale-while-revalidate`, or the policy in its place.
    WhileRevalidate,
    /// The request, with `max-stale`.
    MaxStale,
}

/// Decides what to do with a request. `stored` is everything that is stored for its URI, in any order; the shell has replaced what new
/// responses replace.
#[must_use]
pub fn reuse<S: Borrow<Stored>>(stored: &[S], request: &request::Parts, policy: &Policy, now: SystemTime) -> Reuse {
    let asked = match policy.request_directives {
        true => RequestDirectives::of(&request.headers),
        false => RequestDirectives::default(),
    };
    let decision = Decision { stored: stored.iter().map(Borrow::borrow).collect(), request, asked, policy, now };
    match decision.make() {
        answer @ (Reuse::Fresh { .. } | Reuse::Stale { .. }) => answer,
        Reuse::Revalidate { .. } | Reuse::Complete { .. } | Reuse::Forward { .. } if asked.only_if_cached => {
            Reuse::GatewayTimeout
        }
        forward @ (Reuse::Revalidate { .. }
        | Reuse::Complete { .. }
        | Reuse::Forward { .. }
        | Reuse::GatewayTimeout) => forward,
    }
}

impl Reuse {
    /// The member of `Cache-Status` as far as it is known now (RFC 9211). A 504 for `only-if-cached` went nowhere and is no hit, which that
    /// field cannot say: it gets a `detail`.
    #[must_use]
    pub fn cache_status(&self, cache: impl Into<Cow<'static, str>>) -> CacheStatus {
        match self {
            Self::Fresh { freshness, .. } | Self::Stale { freshness, .. } => {
                CacheStatus { ttl: Some(freshness.ttl()), ..CacheStatus::hit(cache) }
            }
            Self::Revalidate { why, .. } | Self::Forward { why, .. } => CacheStatus::forward(cache, *why),
            Self::Complete { .. } => CacheStatus::forward(cache, Forward::Partial),
            Self::GatewayTimeout => {
                CacheStatus { detail: Some("only-if-cached".into()), ..CacheStatus::forward(cache, Forward::Miss) }
            }
        }
    }
}

struct Decision<'a> {
    stored: Vec<&'a Stored>,
    request: &'a request::Parts,
    asked: RequestDirectives,
    policy: &'a Policy,
    now: SystemTime,
}

impl Decision<'_> {
    fn make(&self) -> Reuse {
        if !matches!(self.request.method, Method::GET | Method::HEAD) {
            return Reuse::Forward { why: Forward::Method, conditional: None };
        }
        let matching = self.matching();
        if matching.is_empty() {
            return self.miss();
        }
        match matching.iter().copied().find(|index| self.covers(*index)) {
            Some(index) => self.judge(index),
            None => self.complete(matching[0]),
        }
    }

    /// Those with the request's selecting fields, newest first (RFC 9111, section 4.1).
    fn matching(&self) -> Vec<usize> {
        let is = |index: &usize| self.stored[*index].matches(&self.request.headers, self.policy);
        let mut matching: Vec<_> = (0..self.stored.len()).filter(is).collect();
        matching.sort_by_key(|index| Reverse((self.stored[*index].date(), self.stored[*index].received(), *index)));
        matching
    }

    fn miss(&self) -> Reuse {
        if self.stored.is_empty() {
            return Reuse::Forward { why: Forward::UriMiss, conditional: None };
        }
        let plain = self.request.method == Method::GET && is_plain(&self.request.headers);
        let conditional = plain.then(|| Conditional::choosing(&self.stored)).flatten();
        Reuse::Forward { why: Forward::VaryMiss, conditional }
    }

    /// The bytes that the request wants are there.
    fn covers(&self, index: usize) -> bool {
        match wanted(self.request, self.stored[index]) {
            Some(want) => assemble(&self.stored, index, want).is_ok(),
            None => self.stored[index].part().is_none(),
        }
    }

    /// Some of the bytes are there, of something that the origin can be asked to complete.
    fn complete(&self, index: usize) -> Reuse {
        let stored = self.stored[index];
        let forward = Reuse::Forward { why: Forward::Partial, conditional: None };
        let (Some(part), Some(tag), Some(want)) = (stored.part(), stored.strong_etag(), wanted(self.request, stored))
        else {
            return forward;
        };
        match assemble(&self.stored, index, want.clone()).err().as_deref() {
            // Nothing of it is there, or too much is missing: one request would not do.
            Some([gap]) if *gap != want && !self.asked.no_cache && !stored.terms.no_cache => {
                Reuse::Complete { index, conditional: Conditional::completing(tag, gap, part.complete) }
            }
            _ => forward,
        }
    }

    fn judge(&self, index: usize) -> Reuse {
        let stored = self.stored[index];
        let freshness = stored.freshness(self.now);
        let never = stored.terms.no_cache || stored.terms.never_stale;
        if stored.terms.no_cache {
            return self.revalidate(index, freshness, Forward::Stale);
        }
        if self.asked.no_cache || evaluate_stored(self.request, stored) == Precondition::Failed {
            return self.revalidate(index, freshness, Forward::Request);
        }
        let pleases = self.pleases(stored, freshness);
        match freshness.stale_for() {
            None if pleases || self.tolerates(freshness) => Reuse::Fresh { index, freshness },
            None => self.revalidate(index, freshness, Forward::Request),
            Some(_) if !never && self.tolerates(freshness) => {
                Reuse::Stale { index, freshness, why: StaleReason::MaxStale, revalidate: None }
            }
            Some(late)
                if !never && pleases && self.asked.min_fresh.is_none() && late < stored.terms.while_revalidate =>
            {
                let revalidate = Some(Conditional::validating(index, stored, self.request));
                Reuse::Stale { index, freshness, why: StaleReason::WhileRevalidate, revalidate }
            }
            Some(_) => self.revalidate(index, freshness, Forward::Stale),
        }
    }

    /// What the client asks of a fresh response (RFC 9111, sections 5.2.1.1 and 5.2.1.3). `max-age=0` is a reload, which says nothing
    /// about what never changes (RFC 8246).
    fn pleases(&self, stored: &Stored, freshness: Freshness) -> bool {
        let reload = self.asked.max_age == Some(0) && stored.terms.immutable && freshness.is_fresh();
        let young = self.asked.max_age.is_none_or(|most| freshness.age <= seconds(most));
        let lasts = self.asked.min_fresh.is_none_or(|least| freshness.age + seconds(least) <= freshness.lifetime);
        (young || reload) && lasts || !freshness.is_fresh() && young
    }

    /// How far the response is from what the client would like is within its `max-stale` (RFC 9111, section 5.2.1.2).
    fn tolerates(&self, freshness: Freshness) -> bool {
        let late =
            (freshness.age + self.asked.min_fresh.map_or(Duration::ZERO, seconds)).saturating_sub(freshness.lifetime);
        let old = self.asked.max_age.map_or(Duration::ZERO, |most| freshness.age.saturating_sub(seconds(most)));
        self.asked.max_stale.is_some_and(|most| late.max(old) <= seconds(most))
    }

    /// A HEAD goes as it came, since its answer tells as much; what depends on the origin's state does as well.
    fn revalidate(&self, index: usize, freshness: Freshness, why: Forward) -> Reuse {
        let as_it_came = self.request.method == Method::HEAD || is_for_origin(&self.request.headers);
        let conditional = (!as_it_came).then(|| Conditional::validating(index, self.stored[index], self.request));
        Reuse::Revalidate { index, freshness, why, conditional }
    }
}

/// The bytes of a stored part's representation that the request wants, all of those between where there are several ranges. `None` if it is
/// no part, or the request is no GET.
fn wanted(request: &request::Parts, stored: &Stored) -> Option<Range<u64>> {
    let part = stored.part().filter(|_| request.method == Method::GET)?;
    let range_applies = evaluate_stored(request, stored) == Precondition::Proceed { range_applies: true };
    if !range_applies || !request.headers.contains_key(RANGE) {
        return Some(0..part.complete);
    }
    Some(match select(&request.headers, part.complete) {
        RangeOutcome::Whole => 0..part.complete,
        RangeOutcome::Single(range) => range,
        RangeOutcome::Multi(ranges) => {
            let (starts, ends) = (ranges.iter().map(|range| range.start), ranges.iter().map(|range| range.end));
            starts.min().unwrap_or(0)..ends.max().unwrap_or(0)
        }
        RangeOutcome::Unsatisfiable => 0..0,
    })
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

/// Where the bytes of an answer lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// In the body of the stored response, which is whole.
    Whole,
    /// In the bodies of stored parts, in order; what the plan of [`crate::answer()`] sends is among them.
    Parts(Vec<Piece>),
    /// They are not all there. After [`reuse()`] chose the response they are; after a fill brought something else than was asked for they may
    /// not be: ask again, with [`Conditional::default`].
    Missing,
}

/// Where the bytes are that the request wants of the stored response at `index`.
#[must_use]
pub fn content<S: Borrow<Stored>>(stored: &[S], index: usize, request: &request::Parts) -> Content {
    let Some(chosen) = stored.get(index).map(Borrow::borrow) else { return Content::Missing };
    if chosen.part().is_none() {
        return Content::Whole;
    }
    let pieces = wanted(request, chosen).and_then(|want| assemble(stored, index, want).ok());
    pieces.map_or(Content::Missing, Content::Parts)
}
