//! Whether a response may be stored (RFC 9111, section 3).

use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE, HeaderMap, RANGE, SET_COOKIE};
use http::{Method, StatusCode, request, response};

use crate::age::Exchange;
use crate::cache_control::{RequestDirectives, ResponseDirectives};
use crate::freshness::Basis;
use crate::stored::{MAX_ENCODED, Part, whole_millis};
use crate::targeted::Directives;
use crate::uri::same_resource;
use crate::vary::Selecting;
use crate::{Policy, SetCookie, Stored, parse_content_range};

/// Why a response may not be stored, or is not worth it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Uncacheable {
    /// Responses to this method are not stored: any but GET, and POST where the response says that it is what a GET would bring.
    Method,
    /// The request said `no-store`.
    RequestNoStore,
    /// An interim response, one that is about the request's conditions (304, 412, 416), or a switch of protocols.
    Status,
    /// A 206 that nobody asked for, has no single good `Content-Range`, or whose length is another.
    Partial,
    /// `must-understand`, and the status is unknown here.
    NotUnderstood,
    /// `no-store`.
    NoStore,
    /// `private`.
    Private,
    /// `Vary: *`, or a `Vary` that is no list of names.
    VaryAny,
    /// The request had `Authorization` and nothing allows to share the response.
    Authorization,
    /// There is a `Set-Cookie`, and the policy refuses that.
    SetCookie,
    /// Nothing says that it may be reused, and its status is not one to guess by.
    NoFreshness,
    /// It could be stored but never used again: stale from the start, with nothing to validate it by.
    Useless,
    /// The header is too long.
    TooLarge,
}

impl Uncacheable {
    /// A metric's label, or the `detail` of a [`crate::CacheStatus`].
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::RequestNoStore => "request-no-store",
            Self::Status => "status",
            Self::Partial => "bad-partial",
            Self::NotUnderstood => "not-understood",
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::VaryAny => "vary-any",
            Self::Authorization => "authorization",
            Self::SetCookie => "set-cookie",
            Self::NoFreshness => "no-freshness",
            Self::Useless => "useless",
            Self::TooLarge => "header-too-large",
        }
    }

    /// It is in the response, and so likely in the next, whoever asks for that. Otherwise it lies in the request.
    #[must_use]
    pub const fn is_of_the_response(self) -> bool {
        match self {
            Self::NotUnderstood
            | Self::NoStore
            | Self::Private
            | Self::VaryAny
            | Self::SetCookie
            | Self::NoFreshness
            | Self::Useless
            | Self::TooLarge => true,
            Self::Method | Self::RequestNoStore | Self::Status | Self::Partial | Self::Authorization => false,
        }
    }
}

/// Decides whether the response may be stored, and makes what is to be kept of it. The body is the shell's, which stores it only when it
/// came to its end.
///
/// What was stored before for the same URI and matches the same requests ([`Stored::matches`]) has been replaced by it.
///
/// # Errors
/// Why not.
pub fn storable(
    request: &request::Parts,
    response: &response::Parts,
    exchange: Exchange,
    policy: &Policy,
) -> Result<Stored, Uncacheable> {
    let said = Directives::of(&response.headers, policy).said;
    is_for_method(&request.method)?;
    has_status_to_store(response.status)?;
    allowed(response.status, &said)?;
    may_be_asked_by(&request.headers, &said, policy)?;
    let part = part(request, response)?;
    let selecting = Selecting::new(&response.headers, &request.headers).ok_or(Uncacheable::VaryAny)?;
    let exchange = Exchange { requested: whole_millis(exchange.requested), received: whole_millis(exchange.received) };
    let stored = Stored::new(response.status, &response.headers, selecting, exchange, part, policy);
    speaks_of_reuse(&stored, &said)?;
    is_no_private_session(&stored, &said, policy)?;
    is_what_get_brings(request, &stored)?;
    is_of_use(&stored)?;
    Ok(stored)
}

pub(crate) fn is_for_method(method: &Method) -> Result<(), Uncacheable> {
    if matches!(*method, Method::GET | Method::POST) { Ok(()) } else { Err(Uncacheable::Method) }
}

/// What the request has against it: that says nothing about what others ask for.
pub(crate) fn may_be_asked_by(
    request: &HeaderMap,
    said: &ResponseDirectives,
    policy: &Policy,
) -> Result<(), Uncacheable> {
    if policy.request_directives && RequestDirectives::of(request).no_store {
        return Err(Uncacheable::RequestNoStore);
    }
    if request.contains_key(AUTHORIZATION) && !is_for_authorized(said) {
        return Err(Uncacheable::Authorization);
    }
    Ok(())
}

/// RFC 9111, section 3.5.
pub(crate) fn is_for_authorized(said: &ResponseDirectives) -> bool {
    said.public || said.must_revalidate || said.s_maxage.is_some()
}

/// Final, and about the resource. A 304, 412 or 416 is about conditions and ranges that other requests do not have.
const fn has_status_to_store(status: StatusCode) -> Result<(), Uncacheable> {
    match status.as_u16() {
        0..=199 | 304 | 407 | 412 | 416 => Err(Uncacheable::Status),
        _ => Ok(()),
    }
}

/// Statuses whose caching is known here: those of RFC 9110, and those that others define without rules of their own.
fn understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200..=206 | 300..=303 | 305 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 428 | 429 | 431 | 451 | 500..=505 | 511)
}

/// What the response's own words allow to a shared cache. `must-understand` counts instead of `no-store` where the status is understood
/// (RFC 9111, section 5.2.2.3).
pub(crate) fn allowed(status: StatusCode, said: &ResponseDirectives) -> Result<(), Uncacheable> {
    if said.must_understand && !understood(status) {
        return Err(Uncacheable::NotUnderstood);
    }
    if said.no_store && !said.must_understand {
        return Err(Uncacheable::NoStore);
    }
    if said.private.is_whole() {
        return Err(Uncacheable::Private);
    }
    Ok(())
}

/// Which part of the representation a 206 brings. What its fields say must fit together: bytes at the wrong place are worse than a miss.
fn part(request: &request::Parts, response: &response::Parts) -> Result<Option<Part>, Uncacheable> {
    if response.status != StatusCode::PARTIAL_CONTENT {
        return Ok(None);
    }
    let asked = request.method == Method::GET && request.headers.contains_key(RANGE);
    let part = only(&response.headers, CONTENT_RANGE).and_then(parse_content_range).filter(|_| asked);
    let part = part.ok_or(Uncacheable::Partial)?;
    match response.headers.get(CONTENT_LENGTH) {
        Some(length) if length.as_bytes() != (part.range.end - part.range.start).to_string().as_bytes() => {
            Err(Uncacheable::Partial)
        }
        _ => Ok(Some(part)),
    }
}

fn only(headers: &HeaderMap, name: http::HeaderName) -> Option<&http::HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    lines.next().filter(|_| lines.next().is_none())
}

/// The last condition of RFC 9111, section 3.
fn speaks_of_reuse(stored: &Stored, said: &ResponseDirectives) -> Result<(), Uncacheable> {
    let spoken = said.public || stored.terms.basis == Basis::Explicit;
    let by_status = crate::freshness::heuristically_cacheable(stored.status);
    if spoken || by_status { Ok(()) } else { Err(Uncacheable::NoFreshness) }
}

pub(crate) fn is_no_private_session(
    stored: &Stored,
    said: &ResponseDirectives,
    policy: &Policy,
) -> Result<(), Uncacheable> {
    let refused = match policy.set_cookie {
        SetCookie::Store => false,
        SetCookie::StoreIfExplicit => stored.terms.basis != Basis::Explicit && !said.public,
        SetCookie::Refuse => true,
    };
    if refused && stored.headers.contains_key(SET_COOKIE) { Err(Uncacheable::SetCookie) } else { Ok(()) }
}

/// RFC 9110, section 9.3.3.
fn is_what_get_brings(request: &request::Parts, stored: &Stored) -> Result<(), Uncacheable> {
    if request.method != Method::POST {
        return Ok(());
    }
    let location = only(&stored.headers, CONTENT_LOCATION);
    let same = location.is_some_and(|location| same_resource(request, location));
    let explicit = stored.terms.basis == Basis::Explicit;
    if same && explicit && stored.status.is_success() { Ok(()) } else { Err(Uncacheable::Method) }
}

fn is_of_use(stored: &Stored) -> Result<(), Uncacheable> {
    let validator = stored.etag().is_some() || stored.last_modified().is_some();
    if !validator && !stored.terms.usable() {
        return Err(Uncacheable::Useless);
    }
    // Estimated from above; what is near the bound is not worth counting.
    let length: usize = stored.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 8).sum();
    let selecting: usize = stored
        .selecting
        .0
        .iter()
        .map(|(name, value)| name.as_str().len() + value.as_ref().map_or(0, Vec::len) + 8)
        .sum();
    if length + selecting + 64 > MAX_ENCODED { Err(Uncacheable::TooLarge) } else { Ok(()) }
}

/// A new response takes the place of an old one for the same URI: a whole one of all that would have answered its request, a part of those
/// parts that it contains or that are of something else. `request` is what the new one answered.
#[must_use]
pub fn replaces(new: &Stored, old: &Stored, request: &HeaderMap, policy: &Policy) -> bool {
    if !old.matches(request, policy) {
        return false;
    }
    let conflict = matches!((new.strong_etag(), old.strong_etag()), (Some(new), Some(old)) if new != old);
    match (new.part(), old.part()) {
        (None, _) => true,
        (Some(_), None) => conflict,
        (Some(part), Some(old_part)) => {
            let same = new.strong_etag().is_some() && !conflict && part.complete == old_part.complete;
            !same || part.range.start <= old_part.range.start && old_part.range.end <= part.range.end
        }
    }
}
