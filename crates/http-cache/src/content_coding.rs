//! Content codings that the cache itself applies (RFC 9110, sections 8.4 and 12.5.3): to which responses, which coding, and what becomes of
//! the fields and of the entity tag.
//!
//! An encoded representation is another one than what it was made from, so it has another tag: the same text with the coding behind it, and
//! weak, for two encoders need not agree on a byte. [`plain_conditions()`] turns such tags of a request back before it is answered, and
//! [`tag_of_304()`] the tag of a 304 again. Ranges are of what is not encoded.

use std::fmt;
use std::str::FromStr;

use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap,
    IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE, VARY,
};
use http::{HeaderName, HeaderValue, Method, StatusCode};

use crate::list::members;
use crate::validators::{RequestTag, tags};
use crate::vary::{said, weight};

/// A coding that is applied on the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Coding {
    /// `br` (RFC 7932).
    Brotli,
    /// `zstd` (RFC 8878), with windows that every browser takes (RFC 9659).
    Zstd,
    /// `gzip` (RFC 1952).
    Gzip,
}

/// Not one of the codings that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not `br`, `zstd` or `gzip`")]
pub struct UnknownCoding;

impl Coding {
    /// All, the one that makes things shortest first.
    pub const ALL: [Self; 3] = [Self::Brotli, Self::Zstd, Self::Gzip];

    /// As HTTP calls it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    fn is_called(self, name: &[u8]) -> bool {
        // RFC 9110, section 8.4.1.3.
        let is_x_gzip = self == Self::Gzip && name.eq_ignore_ascii_case(b"x-gzip");
        is_x_gzip || name.eq_ignore_ascii_case(self.as_str().as_bytes())
    }
}

impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Coding {
    type Err = UnknownCoding;

    fn from_str(text: &str) -> Result<Self, UnknownCoding> {
        Self::ALL.into_iter().find(|coding| coding.as_str() == text).ok_or(UnknownCoding)
    }
}

/// The coding that a request likes best of those `offered`, the first among equals; none: as it is. A weight that is none is no consent, and
/// without the field nobody asked for a coding.
#[must_use]
pub fn preferred(request: &HeaderMap, offered: &[Coding]) -> Option<Coding> {
    let asked = said(request, &ACCEPT_ENCODING)?;
    let weights = Weights::of(&asked);
    // `max_by_key` would take the last.
    let best = offered
        .iter()
        .rev()
        .copied()
        .map(|coding| (weights.of_coding(coding), coding))
        .max_by_key(|(weight, _)| *weight)?;
    (best.0 > 0 && best.0 >= weights.of_identity()).then_some(best.1)
}

/// What `Accept-Encoding` says, by name; of two that are the same the first counts.
struct Weights<'a>(Vec<(&'a [u8], u16)>);

impl<'a> Weights<'a> {
    /// Who needs more choices than this wants something else.
    const MOST: usize = 64;

    fn of(asked: &'a [u8]) -> Self {
        Self(members(asked, b',').take(Self::MOST).map(choice).collect())
    }

    fn find(&self, is: impl Fn(&[u8]) -> bool) -> Option<u16> {
        self.0.iter().find(|(name, _)| is(name)).map(|(_, weight)| *weight)
    }

    fn of_coding(&self, coding: Coding) -> u16 {
        self.find(|name| coding.is_called(name)).or_else(|| self.find(|name| name == b"*")).unwrap_or(0)
    }

    /// What is not encoded is good if nothing is said about it, but not better than anything.
    fn of_identity(&self) -> u16 {
        self.find(|name| name.eq_ignore_ascii_case(b"identity")).unwrap_or(0)
    }
}

fn choice(member: &[u8]) -> (&[u8], u16) {
    let mut parts = members(member, b';');
    let name = parts.next().unwrap_or_default();
    (name, parts.next().map_or(Some(1000), weight).unwrap_or(0))
}

/// The `Accept-Encoding` that goes on to a server of which the answer is encoded here if it is not already: the one coding that will be
/// used, so that there is one variant for each instead of one for each browser.
#[must_use]
pub fn settled(request: &HeaderMap, offered: &[Coding]) -> HeaderValue {
    HeaderValue::from_static(preferred(request, offered).map_or("identity", Coding::as_str))
}

/// A set of media types: `text/html`, `text/*`, or `+json` for all whose name ends so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaTypes(Box<str>);

/// Text that is no set of media types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a media type such as `text/html`, `text/*` or `+json`")]
pub struct MediaTypesError;

impl FromStr for MediaTypes {
    type Err = MediaTypesError;

    fn from_str(text: &str) -> Result<Self, MediaTypesError> {
        let is_token = |text: &str| crate::list::is_token(text.as_bytes()) && !text.contains('*');
        let good = match (text.strip_prefix('+'), text.split_once('/')) {
            (Some(suffix), _) => is_token(suffix),
            (None, Some((kind, "*"))) => is_token(kind),
            (None, Some((kind, subtype))) => is_token(kind) && is_token(subtype),
            (None, None) => false,
        };
        good.then(|| Self(text.to_ascii_lowercase().into())).ok_or(MediaTypesError)
    }
}

/// Whether a media type, in lower case and without parameters, is in such a set.
fn is_in(set: &str, essence: &str) -> bool {
    match (set.starts_with('+'), set.strip_suffix('*')) {
        (true, _) => essence.ends_with(set),
        (false, Some(kind)) => essence.starts_with(kind),
        (false, None) => essence == set,
    }
}

/// What is text or nearly so. Images, films, archives and fonts for the web are compressed already.
const USUAL: [&str; 19] = [
    "text/*",
    "+json",
    "+xml",
    "application/javascript",
    "application/x-javascript",
    "application/json",
    "application/x-ndjson",
    "application/xml",
    "application/wasm",
    "application/yaml",
    "application/toml",
    "application/sql",
    "application/vnd.apple.mpegurl",
    "application/x-mpegurl",
    "application/vnd.ms-fontobject",
    "font/ttf",
    "font/otf",
    "image/x-icon",
    "image/bmp",
];

/// Events are to arrive one by one.
const NEVER: &str = "text/event-stream";

/// Which responses of a site are encoded, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compression {
    /// Which codings, the better one first.
    pub codings: Vec<Coding>,
    /// Bytes below which nothing is gained.
    pub min_length: u64,
    /// Media types beside the usual ones.
    pub types: Vec<MediaTypes>,
}

/// What is done with the content of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// It is as it is for everyone.
    None,
    /// Not for this request; others may get it encoded, so it varies.
    Identity,
    /// This.
    Encode(Coding),
}

impl Compression {
    /// What is done with a response to GET or HEAD, or to any other method that brings content. A length that is not known is long.
    #[must_use]
    pub fn encoding(&self, request: &HeaderMap, status: StatusCode, response: &HeaderMap) -> Encoding {
        if !may_have_content(status) || !self.may_encode(response) {
            return Encoding::None;
        }
        let left = status == StatusCode::PARTIAL_CONTENT || forbids(request);
        match preferred(request, &self.codings) {
            Some(coding) if !left => Encoding::Encode(coding),
            Some(_) | None => Encoding::Identity,
        }
    }

    fn may_encode(&self, response: &HeaderMap) -> bool {
        let length = response.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        // The length of a part says nothing about the whole.
        let long = length.is_none_or(|length: u64| length >= self.min_length)
            || response.contains_key(http::header::CONTENT_RANGE);
        long && !response.contains_key(CONTENT_ENCODING) && !forbids(response) && self.is_of_type(response)
    }

    fn is_of_type(&self, response: &HeaderMap) -> bool {
        let Some(essence) = response.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
        let essence = essence.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        self.types.iter().any(|types| is_in(&types.0, &essence))
            || essence != NEVER && USUAL.iter().any(|usual| is_in(usual, &essence))
    }
}

/// `no-transform` of a request or a response (RFC 9111, sections 5.2.1.6 and 5.2.2.6).
fn forbids(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(CACHE_CONTROL).iter();
    lines.any(|line| members(line.as_bytes(), b',').any(|directive| directive.eq_ignore_ascii_case(b"no-transform")))
}

fn may_have_content(status: StatusCode) -> bool {
    !status.is_informational()
        && ![StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
}

/// Digests of content that is not sent any more.
const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];

/// Makes the fields of a response those of its encoded form, which has `length` bytes if that is known. `Vary` is [`vary_on()`]'s.
pub fn encode_fields(response: &mut HeaderMap, coding: Coding, length: Option<u64>) {
    response.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
    response.remove(ACCEPT_RANGES);
    response.remove(CONTENT_LENGTH);
    for digest in DIGESTS {
        response.remove(digest);
    }
    response.extend(length.map(|length| (CONTENT_LENGTH, length.into())));
    if let Some(tag) = response.remove(ETAG) {
        // What is no tag cannot be told from itself.
        response.extend(encoded_tag(&tag, coding).map(|tag| (ETAG, tag)));
    }
}

/// Adds a name to `Vary`.
pub fn vary_on(response: &mut HeaderMap, name: &HeaderName) {
    if !varies_on(response, name) {
        response.append(VARY, HeaderValue::from(name.clone()));
    }
}

fn varies_on(response: &HeaderMap, name: &HeaderName) -> bool {
    let mut listed = response.get_all(VARY).iter().flat_map(|line| members(line.as_bytes(), b','));
    listed.any(|member| member == b"*" || member.eq_ignore_ascii_case(name.as_str().as_bytes()))
}

/// Between a tag's text and the coding.
const MARK: &str = "--";

/// The tag of an encoded form.
fn encoded_tag(tag: &HeaderValue, coding: Coding) -> Option<HeaderValue> {
    let tag = RequestTag::only(tag)?;
    HeaderValue::from_bytes(&[b"W/\"", tag.opaque(), MARK.as_bytes(), coding.as_str().as_bytes(), b"\""].concat()).ok()
}

/// The text of the tag that an encoded form was made from, and the coding.
fn plain_text<'a>(tag: &RequestTag<'a>) -> Option<(&'a [u8], Coding)> {
    let text = tag.opaque();
    let of =
        |coding: Coding| Some((text.strip_suffix(coding.as_str().as_bytes())?.strip_suffix(MARK.as_bytes())?, coding));
    tag.is_weak().then(|| Coding::ALL.into_iter().find_map(of)).flatten()
}

/// Makes the conditions of a request such as they can be evaluated for what is not encoded: beside each tag of an encoded form stands the
/// plain one. In `If-None-Match` of a read only if the request takes that coding: a 304 must not send anyone back to what he cannot
/// decode. A part that a date stands for could be of either form, so such a range is not asked for.
pub fn plain_conditions(method: &Method, request: &mut HeaderMap, offered: &[Coding]) {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let weights = said(request, &ACCEPT_ENCODING).map(std::borrow::Cow::into_owned).unwrap_or_default();
    let weights = Weights::of(&weights);
    if reads {
        add_plain(request, &IF_NONE_MATCH, |coding| weights.of_coding(coding) > 0);
    }
    add_plain(request, &IF_MATCH, |_| true);
    let by_date = request.get(IF_RANGE).is_some_and(|condition| RequestTag::only(condition).is_none());
    if by_date && preferred(request, offered).is_some() {
        request.remove(IF_RANGE);
        request.remove(RANGE);
    }
}

fn add_plain(request: &mut HeaderMap, name: &HeaderName, accepted: impl Fn(Coding) -> bool) {
    let lines = request.get_all(name).iter();
    let encoded = lines.flat_map(|line| tags(line.as_bytes())).filter_map(|tag| plain_text(&tag));
    let plain: Vec<_> = encoded
        .filter(|(_, coding)| accepted(*coding))
        .filter_map(|(text, _)| HeaderValue::from_bytes(&[b"\"", text, b"\""].concat()).ok())
        .collect();
    for tag in plain {
        request.append(name, tag);
    }
}

/// The tag of a 304: that of the encoded form which the request named and takes, if it named one of what is stored under `tag`. `request`
/// is as it came.
#[must_use]
pub fn tag_of_304(request: &HeaderMap, tag: &HeaderValue) -> Option<HeaderValue> {
    let asked = said(request, &ACCEPT_ENCODING)?;
    let weights = Weights::of(&asked);
    let ours = RequestTag::only(tag)?;
    let lines = request.get_all(IF_NONE_MATCH).iter();
    let mut named = lines.flat_map(|line| tags(line.as_bytes())).filter_map(|tag| plain_text(&tag));
    let (_, coding) = named.find(|(text, coding)| *text == ours.opaque() && weights.of_coding(*coding) > 0)?;
    encoded_tag(tag, coding)
}

#[cfg(test)]
mod tests;
