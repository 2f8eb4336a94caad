//! What a request asks beside the object itself: labels, conditions, checksums.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use s3s::{
    S3Error, S3Result, TrailingHeaders,
    dto::{CopySource, ETag, ETagCondition, Metadata, SSECustomerKey, StreamingBlob, Timestamp},
    s3_error,
    stream::ByteStream,
};
use umbel_content::ObjectPath;

use super::answer;
use crate::{
    intake::{Body, Expected, IntakeError},
    meter::Meter,
    record::Head,
    store::Condition,
    version::{Label, Terms},
};

/// Most bytes of user metadata, names and values (S3's limit).
const MAX_METADATA: usize = 2 * 1024;

/// The path that a key stands for.
pub(super) fn object_path(key: &str) -> S3Result<ObjectPath> {
    ObjectPath::from_key(key).map_err(answer::path)
}

/// The response fields that a provider may store with an object.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) content_type: Option<String>,
    pub(super) cache_control: Option<String>,
    pub(super) content_disposition: Option<String>,
    pub(super) content_encoding: Option<String>,
    pub(super) content_language: Option<String>,
}

/// Takes the fields of a request's input apart.
macro_rules! fields {
    ($input:expr) => {
        Fields {
            content_type: $input.content_type.take(),
            cache_control: $input.cache_control.take(),
            content_disposition: $input.content_disposition.take(),
            content_encoding: $input.content_encoding.take(),
            content_language: $input.content_language.take(),
        }
    };
}
pub(super) use fields;

/// Content is encrypted with keys of ours.
pub(super) fn no_client_key(key: Option<&SSECustomerKey>) -> S3Result<()> {
    if key.is_some() {
        return Err(s3_error!(NotImplemented, "content is always encrypted, but not with keys of clients"));
    }
    Ok(())
}

/// A label for `key`; the media type is guessed by the extension where the client says none.
pub(super) fn label(key: &str, fields: Fields, metadata: Option<Metadata>) -> S3Result<Label> {
    let path = object_path(key)?;
    let guess = || mime_guess::from_path(path.key()).first_or_octet_stream().to_string();
    let media_type = fields.content_type.filter(|text| !text.is_empty()).unwrap_or_else(guess);
    let pairs = [
        ("cache-control", fields.cache_control),
        ("content-disposition", fields.content_disposition),
        ("content-encoding", fields.content_encoding.and_then(|coding| lasting_codings(&coding))),
        ("content-language", fields.content_language),
        // What the object may be purged by.
        ("cache-tag", of_user(&metadata, "cache-tag")),
        ("surrogate-key", of_user(&metadata, "surrogate-key")),
    ];
    let fields =
        pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.filter(|text| !text.is_empty())?)));
    Ok(Label { media_type, fields: fields.collect(), metadata: user_metadata(metadata)?, path })
}

fn of_user(metadata: &Option<Metadata>, name: &str) -> Option<String> {
    metadata.as_ref()?.get(name).map(|value| value.trim().to_owned())
}

/// `aws-chunked` is of the transfer, not of the object.
fn lasting_codings(codings: &str) -> Option<String> {
    let lasting: Vec<&str> =
        codings.split(',').map(str::trim).filter(|coding| !coding.eq_ignore_ascii_case("aws-chunked")).collect();
    Some(lasting.join(", ")).filter(|text| !text.is_empty())
}

fn user_metadata(metadata: Option<Metadata>) -> S3Result<BTreeMap<String, String>> {
    let metadata: BTreeMap<String, String> = metadata.unwrap_or_default().into_iter().collect();
    let bytes: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_METADATA { Err(s3_error!(MetadataTooLarge)) } else { Ok(metadata) }
}

/// `If-Match` and `If-None-Match` of a write.
pub(super) fn write_condition(
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
) -> S3Result<Condition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::Always),
        (Some(ETagCondition::Any), None) => Ok(Condition::Present),
        (Some(ETagCondition::ETag(etag)), None) => Ok(Condition::Etag(etag.into_value())),
        (None, Some(ETagCondition::Any)) => Ok(Condition::Absent),
        (None, Some(ETagCondition::ETag(etag))) => Ok(Condition::NotEtag(etag.into_value())),
        (Some(_), Some(_)) => Err(s3_error!(NotImplemented, "If-Match together with If-None-Match")),
    }
}

/// The conditions of a read.
#[derive(Debug, Default)]
pub(super) struct ReadConditions {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
    pub(super) if_modified_since: Option<Timestamp>,
    pub(super) if_unmodified_since: Option<Timestamp>,
}

impl ReadConditions {
    /// Checks them in the order of RFC 9110, section 13.2.2. `unchanged` is the answer where the client has it already: 304 to a read,
    /// 412 to a copy.
    pub(super) fn check(&self, head: &Head, unchanged: fn() -> S3Error) -> S3Result<()> {
        let matches = |condition: &ETagCondition| match condition {
            ETagCondition::Any => true,
            ETagCondition::ETag(etag) => etag.value() == head.etag,
        };
        // HTTP dates have whole seconds.
        let modified = modified(head.modified_ms / 1000 * 1000);
        match (&self.if_match, &self.if_unmodified_since) {
            (Some(condition), _) if !matches(condition) => return Err(s3_error!(PreconditionFailed)),
            (None, Some(time)) if modified > *time => return Err(s3_error!(PreconditionFailed)),
            _ => {}
        }
        match (&self.if_none_match, &self.if_modified_since) {
            (Some(condition), _) if matches(condition) => Err(unchanged()),
            (None, Some(time)) if modified <= *time => Err(unchanged()),
            _ => Ok(()),
        }
    }
}

/// Takes the conditions on what a copy reads out of a request's input.
macro_rules! source_conditions {
    ($input:expr) => {
        ReadConditions {
            if_match: $input.copy_source_if_match.take(),
            if_none_match: $input.copy_source_if_none_match.take(),
            if_modified_since: $input.copy_source_if_modified_since.take(),
            if_unmodified_since: $input.copy_source_if_unmodified_since.take(),
        }
    };
}
pub(super) use source_conditions;

pub(super) fn not_modified() -> S3Error {
    s3_error!(NotModified)
}

pub(super) fn precondition_failed() -> S3Error {
    s3_error!(PreconditionFailed)
}

/// A time of ours as S3 tells it.
pub(super) fn modified(ms: u64) -> Timestamp {
    Timestamp::from(std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms))
}

pub(super) fn etag(head: &Head) -> ETag {
    ETag::Strong(head.etag.clone())
}

/// A number of bytes as S3 tells it.
pub(super) fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The request's body, counted.
pub(super) fn body(blob: Option<StreamingBlob>, content_length: Option<i64>, meter: &Meter) -> Body {
    let declared = content_length.and_then(|length| u64::try_from(length).ok());
    let Some(blob) = blob else { return Body::new(futures::stream::empty().boxed(), Some(declared.unwrap_or(0))) };
    let length = blob.remaining_length().exact().map(|length| length as u64).or(declared);
    let received = meter.received.clone();
    let bytes = blob
        .inspect_ok(move |bytes| {
            received.inc_by(bytes.len() as u64);
        })
        .map_err(IntakeError::Broken);
    Body::new(bytes.boxed(), length)
}

/// Takes the digests of a request's input apart.
macro_rules! expected {
    ($input:expr) => {
        Expected {
            md5: $input.content_md5.take(),
            crc32: $input.checksum_crc32.take(),
            crc32c: $input.checksum_crc32c.take(),
            crc64nvme: $input.checksum_crc64nvme.take(),
            sha1: $input.checksum_sha1.take(),
            sha256: $input.checksum_sha256.take(),
        }
    };
}
pub(super) use expected;

/// The terms of a body with digests before it or behind it.
pub(super) fn terms(
    condition: Condition,
    mut expected: Expected,
    headers: &http::HeaderMap,
    trailers: Option<TrailingHeaders>,
) -> Terms {
    let announced = headers.get_all("x-amz-trailer").iter().filter_map(|value| value.to_str().ok());
    announced.flat_map(|names| names.split(',')).for_each(|name| expected.announce(name));
    Terms { condition, expected, trailers, etag: None, expires_ms: 0 }
}

/// Bucket and key that a copy reads.
pub(super) fn copy_source(source: &CopySource) -> S3Result<(&str, &str)> {
    match source {
        CopySource::Bucket { bucket, key, version_id } if version_id.as_deref().is_none_or(|id| id == "null") => {
            Ok((bucket, key))
        }
        CopySource::Bucket { .. } => {
            Err(s3_error!(NotImplemented, "versions of an object are not kept for S3 clients"))
        }
        CopySource::AccessPoint { .. } | CopySource::Outpost { .. } => {
            Err(s3_error!(NotImplemented, "a copy source is `bucket/key`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_guessed_where_none_is_said() {
        let check = |key: &str, said: Option<&str>, expected: &str| {
            let fields = Fields { content_type: said.map(str::to_owned), ..Fields::default() };
            assert_eq!(label(key, fields, None).unwrap().media_type, expected);
        };
        check("a/index.html", None, "text/html");
        check("a/index.html", Some("text/plain"), "text/plain");
        check("film.mp4", Some(""), "video/mp4");
        check("README", None, "application/octet-stream");
    }

    #[test]
    fn surrogate_keys_are_metadata_that_edges_see() {
        let metadata = [("cache-tag", " a,b"), ("surrogate-key", ""), ("colour", "green")];
        let metadata: Metadata = metadata.map(|(name, value)| (name.into(), value.into())).into();
        let label = label("x", Fields::default(), Some(metadata)).unwrap();
        assert_eq!(label.fields, [("cache-tag".into(), "a,b".into())].into());
        assert_eq!(label.metadata.len(), 3);
    }

    #[test]
    fn the_transfers_coding_is_not_the_objects() {
        let check = |said: &str, expected: Option<&str>| assert_eq!(lasting_codings(said).as_deref(), expected);
        check("aws-chunked", None);
        check("gzip,aws-chunked", Some("gzip"));
        check("gzip, br", Some("gzip, br"));
    }

    #[test]
    fn keys_that_no_edge_could_serve_are_refused() {
        for key in ["../x", "a/../b", "a\0b", ".well-known/umbel/x", &"x".repeat(1025)] {
            assert!(object_path(key).is_err(), "{key}");
        }
        assert!(object_path("a/ü b/").is_ok() && object_path(&"x".repeat(1024)).is_ok());
    }

    #[test]
    fn conditions_of_a_read() {
        let head = Head { etag: "e".into(), modified_ms: 5_500, ..Head::default() };
        let etag = |text: &str| Some(ETagCondition::ETag(ETag::Strong(text.into())));
        let check = |conditions: ReadConditions, expected: Option<u16>| {
            let status = conditions.check(&head, not_modified).err().map(|error| error.status_code().unwrap().as_u16());
            assert_eq!(status, expected, "{conditions:?}");
        };
        check(ReadConditions::default(), None);
        check(
            ReadConditions { if_match: etag("e"), if_unmodified_since: Some(modified(0)), ..Default::default() },
            None,
        );
        check(ReadConditions { if_match: etag("x"), ..Default::default() }, Some(412));
        check(ReadConditions { if_unmodified_since: Some(modified(4_000)), ..Default::default() }, Some(412));
        check(ReadConditions { if_none_match: etag("e"), ..Default::default() }, Some(304));
        check(
            ReadConditions { if_none_match: etag("x"), if_modified_since: Some(modified(9_000)), ..Default::default() },
            None,
        );
        check(ReadConditions { if_modified_since: Some(modified(5_000)), ..Default::default() }, Some(304));
        check(ReadConditions { if_modified_since: Some(modified(4_000)), ..Default::default() }, None);
    }
}
