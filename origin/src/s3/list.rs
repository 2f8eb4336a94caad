//! Listings: pages of keys in the order of their bytes, with what a delimiter rolls up.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use object_store::path::Path;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::{S3Request, S3Result, dto::*, s3_error};

use super::{Face, answer, wish};
use crate::{
    record::Head,
    site::Site,
    store::{Store, StoreError, Walk},
};

/// Most entries of a page (S3's limit).
const MAX_PAGE: i32 = 1_000;

/// What stays as it is under `encoding-type=url`.
const URL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'*');

/// Where a page begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum After {
    #[default]
    Start,
    /// Behind this key.
    Key(String),
    /// Behind everything that begins with this.
    Prefix(String),
}

impl After {
    fn token(&self) -> String {
        let (kind, text) = match self {
            Self::Start => ("", ""),
            Self::Key(key) => ("k", key.as_str()),
            Self::Prefix(prefix) => ("p", prefix.as_str()),
        };
        URL_SAFE_NO_PAD.encode(format!("{kind}{text}"))
    }

    fn from_token(token: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        match text.split_at_checked(1)? {
            ("k", key) => Some(Self::Key(key.to_owned())),
            ("p", prefix) => Some(Self::Prefix(prefix.to_owned())),
            _ => None,
        }
    }

    /// A marker of the first version of the call: a key, or what was rolled up.
    fn from_marker(marker: Option<String>, prefix: &str, delimiter: &str) -> Self {
        match marker {
            None => Self::Start,
            Some(marker) if rolled_up(&marker, prefix, delimiter) == Some(&marker) => Self::Prefix(marker),
            Some(marker) => Self::Key(marker),
        }
    }

    /// The least key that is behind it.
    fn least(&self) -> Vec<u8> {
        match self {
            Self::Start => Vec::new(),
            Self::Key(key) => [key.as_bytes(), &[0]].concat(),
            Self::Prefix(prefix) => past(prefix),
        }
    }
}

/// The least bytes that are greater than everything that begins with `prefix`. No byte of UTF-8 is 0xFF.
fn past(prefix: &str) -> Vec<u8> {
    let mut bytes = prefix.as_bytes().to_vec();
    if let Some(last) = bytes.last_mut() {
        *last += 1;
    }
    bytes
}

/// What stands for `key` in a listing with a delimiter, if that is not the key itself.
pub(super) fn rolled_up<'a>(key: &'a str, prefix: &str, delimiter: &str) -> Option<&'a str> {
    if delimiter.is_empty() {
        return None;
    }
    let at = key.strip_prefix(prefix)?.find(delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}

/// One page.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) heads: Vec<Head>,
    pub(super) prefixes: Vec<String>,
    /// Where the next one begins, if there is one.
    pub(super) next: Option<After>,
}

/// Reads one page of at most `most` keys and prefixes.
pub(super) async fn page(
    store: &Store,
    site: &Site,
    prefix: &str,
    delimiter: &str,
    after: &After,
    most: usize,
) -> Result<Page, StoreError> {
    let mut page = Page::default();
    if most == 0 {
        return Ok(page);
    }
    let mut walk = Walk::start(store.clone(), &site.id, prefix).await?;
    walk.skip_to(after.least());
    let mut met: Vec<(String, Path)> = Vec::new();
    let mut last = After::Start;
    while let Some((key, location)) = walk.next().await? {
        if met.len() + page.prefixes.len() == most {
            page.next = Some(last);
            break;
        }
        match rolled_up(&key, prefix, delimiter) {
            Some(rolled) => {
                walk.skip_to(past(rolled));
                last = After::Prefix(rolled.to_owned());
                page.prefixes.push(rolled.to_owned());
            }
            None => {
                last = After::Key(key.clone());
                met.push((key, location));
            }
        }
    }
    page.heads = store.heads(met).await?;
    Ok(page)
}

/// How names are written in an answer.
pub(super) struct Spelling {
    url: bool,
}

impl Spelling {
    pub(super) fn of(encoding: Option<&EncodingType>) -> Self {
        Self { url: encoding.is_some_and(|kind| kind.as_str() == EncodingType::URL) }
    }

    pub(super) fn spell(&self, name: &str) -> String {
        if self.url { utf8_percent_encode(name, URL).to_string() } else { name.to_owned() }
    }

    fn object(&self, head: &Head) -> Object {
        Object {
            key: Some(self.spell(&head.key)),
            e_tag: Some(wish::etag(head)),
            size: Some(wish::size(head.length)),
            last_modified: Some(wish::modified(head.modified_ms)),
            storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
            ..Object::default()
        }
    }

    pub(super) fn prefixes(&self, prefixes: &[String]) -> Option<CommonPrefixList> {
        let spelt = prefixes.iter().map(|prefix| CommonPrefix { prefix: Some(self.spell(prefix)) });
        (!prefixes.is_empty()).then(|| spelt.collect())
    }

    pub(super) fn optional(&self, name: Option<&String>) -> Option<String> {
        name.map(|name| self.spell(name))
    }
}

/// How many entries a page may have.
pub(super) fn page_size(asked: Option<i32>) -> S3Result<i32> {
    match asked {
        None => Ok(MAX_PAGE),
        Some(count) if count < 0 => Err(s3_error!(InvalidArgument, "a page has at least 0 entries")),
        Some(count) => Ok(count.min(MAX_PAGE)),
    }
}

/// No key has a control character, and no XML could say what was asked for.
pub(super) fn check_texts<const N: usize>(texts: [Option<&String>; N]) -> S3Result<()> {
    if texts.into_iter().flatten().any(|text| text.contains(char::is_control)) {
        return Err(s3_error!(InvalidArgument, "no key has a control character"));
    }
    Ok(())
}

impl Face {
    pub(super) async fn list_v2(&self, request: S3Request<ListObjectsV2Input>) -> S3Result<ListObjectsV2Output> {
        let input = request.input;
        let site = self.site(request.credentials.as_ref(), &input.bucket)?;
        check_texts([&input.prefix, &input.delimiter, &input.start_after].map(Option::as_ref))?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let after = match (&input.continuation_token, &input.start_after) {
            (Some(token), _) => After::from_token(token)
                .ok_or_else(|| s3_error!(InvalidArgument, "this continuation token is not ours"))?,
            (None, Some(key)) => After::Key(key.clone()),
            (None, None) => After::Start,
        };
        let most = page_size(input.max_keys)?;
        let delimiter = input.delimiter.as_deref().unwrap_or_default();
        let page = page(&self.shelf.store, &site, &prefix, delimiter, &after, most.unsigned_abs() as usize).await;
        let page = page.map_err(answer::store)?;
        let spelling = Spelling::of(input.encoding_type.as_ref());
        Ok(ListObjectsV2Output {
            prefix: Some(spelling.spell(&prefix)),
            max_keys: Some(most),
            key_count: i32::try_from(page.heads.len() + page.prefixes.len()).ok(),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.as_ref().map(After::token),
            contents: Some(page.heads.iter().map(|head| spelling.object(head)).collect()),
            common_prefixes: spelling.prefixes(&page.prefixes),
            delimiter: spelling.optional(input.delimiter.as_ref()),
            start_after: spelling.optional(input.start_after.as_ref()),
            encoding_type: input.encoding_type,
            continuation_token: input.continuation_token,
            name: Some(input.bucket),
            ..ListObjectsV2Output::default()
        })
    }

    pub(super) async fn list_v1(&self, request: S3Request<ListObjectsInput>) -> S3Result<ListObjectsOutput> {
        let input = request.input;
        let site = self.site(request.credentials.as_ref(), &input.bucket)?;
        check_texts([&input.prefix, &input.delimiter, &input.marker].map(Option::as_ref))?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let delimiter = input.delimiter.as_deref().unwrap_or_default();
        let after = After::from_marker(input.marker.clone(), &prefix, delimiter);
        let most = page_size(input.max_keys)?;
        let page = page(&self.shelf.store, &site, &prefix, delimiter, &after, most.unsigned_abs() as usize).await;
        let page = page.map_err(answer::store)?;
        let spelling = Spelling::of(input.encoding_type.as_ref());
        let next_marker = page.next.as_ref().and_then(|next| match next {
            After::Start => None,
            After::Key(name) | After::Prefix(name) => Some(spelling.spell(name)),
        });
        Ok(ListObjectsOutput {
            prefix: Some(spelling.spell(&prefix)),
            max_keys: Some(most),
            is_truncated: Some(page.next.is_some()),
            next_marker,
            contents: Some(page.heads.iter().map(|head| spelling.object(head)).collect()),
            common_prefixes: spelling.prefixes(&page.prefixes),
            delimiter: spelling.optional(input.delimiter.as_ref()),
            marker: spelling.optional(input.marker.as_ref()),
            encoding_type: input.encoding_type,
            name: Some(input.bucket),
            ..ListObjectsOutput::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delimiters_roll_up() {
        let check = |key: &str, prefix: &str, delimiter: &str, expected: Option<&str>| {
            assert_eq!(rolled_up(key, prefix, delimiter), expected, "{key} {prefix} {delimiter}");
        };
        check("a/b/c", "", "/", Some("a/"));
        check("a/b/c", "a/", "/", Some("a/b/"));
        check("a/b/c", "a/b/", "/", None);
        check("a/", "a/", "/", None);
        check("a--b", "", "--", Some("a--"));
        check("a/b", "", "", None);
    }

    #[test]
    fn texts_that_no_answer_could_repeat() {
        let check = |text: &str| check_texts([None, Some(&text.to_owned())]).is_ok();
        assert!(check("") && check("a/ü b") && !check("a\0") && !check("\u{1b}"));
    }

    #[test]
    fn tokens_come_back() {
        for after in [After::Key("a/ü".into()), After::Prefix("a/".into())] {
            assert_eq!(After::from_token(&after.token()), Some(after));
        }
        assert_eq!(After::from_token("%%%"), None);
        assert_eq!(After::from_token(""), None);
    }

    #[test]
    fn a_marker_may_be_a_prefix() {
        assert_eq!(After::from_marker(Some("a/".into()), "", "/"), After::Prefix("a/".into()));
        assert_eq!(After::from_marker(Some("a/b".into()), "", "/"), After::Key("a/b".into()));
        assert_eq!(After::from_marker(Some("a/".into()), "", ""), After::Key("a/".into()));
    }
}
