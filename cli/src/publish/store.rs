//! The calls of the S3 API that publishing needs: signed by rusty-s3, sent by reqwest, tried again when that can help.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context, bail};
use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use futures::stream;
use instant_xml::FromXml;
use reqwest::{Method, RequestBuilder, StatusCode, header};
use rusty_s3::{
    Bucket, Credentials, S3Action, UrlStyle,
    actions::{
        CompleteMultipartUpload, CompleteMultipartUploadResponse, CreateMultipartUpload, DeleteObjects,
        DeleteObjectsResponse, ListObjectsV2, ListParts, ObjectIdentifier,
    },
};
use url::Url;

use super::{account::AccountArgs, plan::Remote, progress::Progress};
use crate::rest;

/// How long a signature is good for.
const SIGNED_FOR: Duration = Duration::from_secs(900);

/// Bytes of a body that are handed over at a time.
const SLICE: usize = 256 * 1024;

/// One site, seen as a bucket.
pub(super) struct Store {
    /// Of the origin, for people.
    place: String,
    http: reqwest::Client,
    bucket: Bucket,
    credentials: Credentials,
}

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("the origin cannot be reached{}", rest::trust_hint(.0))]
    Transport(#[source] reqwest::Error),
    #[error("the origin answered {status}: {text}")]
    Status { status: StatusCode, code: String, text: String },
}

impl CallError {
    fn may_pass(&self) -> bool {
        match self {
            Self::Transport(error) => !error.is_builder(),
            Self::Status { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
        }
    }
}

/// Whether another publisher had a hand in it: the upload is completed or gone, or has other parts than those that were put.
pub(super) fn is_taken(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref().map(|error: &CallError| match error {
        CallError::Status { code, .. } => code.as_str(),
        CallError::Transport(_) => "",
    });
    // The last is what an origin says that finds a part's bytes gone while it puts them together.
    code.is_some_and(|code| ["NoSuchUpload", "InvalidPart", "NoSuchKey"].contains(&code))
}

/// An answer, read to its end.
struct Answer {
    etag: Option<String>,
    text: String,
}

/// Uploads that were broken off: key to upload id.
#[derive(Debug, Default)]
pub(super) struct Uploads(BTreeMap<String, String>);

impl Uploads {
    /// The upload of this key that was begun last.
    pub(super) fn of(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

/// A part that the origin has.
#[derive(Debug)]
pub(super) struct Part {
    size: u64,
    etag: String,
}

impl Part {
    /// Whether it is this one.
    pub(super) fn is(&self, size: usize, digest: &[u8; 16]) -> bool {
        self.size == size as u64 && self.etag == hex::encode(digest)
    }
}

#[derive(FromXml)]
#[xml(rename = "ListMultipartUploadsResult", ns("http://s3.amazonaws.com/doc/2006-03-01/"))]
struct UploadList {
    uploads: Vec<UploadEntry>,
    #[xml(rename = "IsTruncated")]
    truncated: Option<bool>,
    #[xml(rename = "NextKeyMarker")]
    next_key: Option<String>,
    #[xml(rename = "NextUploadIdMarker")]
    next_upload: Option<String>,
}

#[derive(FromXml)]
#[xml(rename = "Upload", ns("http://s3.amazonaws.com/doc/2006-03-01/"))]
struct UploadEntry {
    #[xml(rename = "Key")]
    key: String,
    #[xml(rename = "UploadId")]
    id: String,
}

impl Store {
    /// The bucket of `site`; nothing is sent yet.
    pub(super) fn open(account: &AccountArgs, site: &str) -> anyhow::Result<Self> {
        let account = account.resolve()?;
        let place = account.endpoint.origin().ascii_serialization();
        let bucket = Bucket::new(account.endpoint, UrlStyle::Path, site.to_owned(), "us-east-1")?;
        Ok(Self { place, http: rest::http_client(account.ca.as_deref())?, bucket, credentials: account.credentials })
    }

    /// All objects of the site by key.
    pub(super) async fn list(&self) -> anyhow::Result<BTreeMap<String, Remote>> {
        let mut objects = BTreeMap::new();
        let mut token: Option<String> = None;
        loop {
            let mut action = ListObjectsV2::new(&self.bucket, Some(&self.credentials));
            if let Some(token) = token.take() {
                action.with_continuation_token(token);
            }
            let answer = self.call(Method::GET, &action, |request| request).await;
            let answer = answer.with_context(|| format!("cannot list the site at {}", self.place))?;
            let page = ListObjectsV2::parse_response(&answer.text).context("the list of the site makes no sense")?;
            for object in page.contents {
                let etag = unquoted(&object.etag.unwrap_or_default());
                objects.insert(object.key, Remote { size: object.size.unwrap_or(0), etag });
            }
            token = page.next_continuation_token;
            if token.is_none() {
                return Ok(objects);
            }
        }
    }

    /// Puts a whole object; returns its ETag.
    pub(super) async fn put(
        &self,
        key: &str,
        kind: String,
        bytes: Bytes,
        progress: &Progress,
    ) -> anyhow::Result<String> {
        let action = self.bucket.put_object(Some(&self.credentials), key);
        let send = |request: RequestBuilder| with_body(request.header(header::CONTENT_TYPE, &kind), &bytes, progress);
        let answer = self.call_counted(Method::PUT, &action, send, progress, bytes.len()).await?;
        answer.etag.context("the origin gave no ETag")
    }

    /// Begins a multipart upload; returns its id.
    pub(super) async fn begin(&self, key: &str, kind: String) -> anyhow::Result<String> {
        let action = self.bucket.create_multipart_upload(Some(&self.credentials), key);
        let answer = self.call(Method::POST, &action, |request| request.header(header::CONTENT_TYPE, &kind)).await?;
        let reply = CreateMultipartUpload::parse_response(&answer.text)?;
        Ok(reply.upload_id().to_owned())
    }

    /// Puts one part, numbered from 1.
    pub(super) async fn put_part(
        &self,
        key: &str,
        upload: &str,
        number: u16,
        bytes: Bytes,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        let action = self.bucket.upload_part(Some(&self.credentials), key, number, upload);
        let send = |request| with_body(request, &bytes, progress);
        self.call_counted(Method::PUT, &action, send, progress, bytes.len()).await.map(drop)
    }

    /// Turns parts into an object; returns its ETag.
    pub(super) async fn complete(&self, key: &str, upload: &str, digests: &[[u8; 16]]) -> anyhow::Result<String> {
        let etags: Vec<String> = digests.iter().map(|digest| format!("\"{}\"", hex::encode(digest))).collect();
        let etags = || etags.iter().map(String::as_str);
        let action = CompleteMultipartUpload::new(&self.bucket, Some(&self.credentials), key, upload, etags());
        let body = CompleteMultipartUpload::new(&self.bucket, Some(&self.credentials), key, upload, etags()).body();
        let answer = self.call(Method::POST, &action, |request| request.body(body.clone())).await?;
        // S3 may say 200 and tell of an error in the body.
        if answer.text.contains("<Error>") {
            return Err(refused(StatusCode::OK, &answer.text).into());
        }
        let reply = CompleteMultipartUploadResponse::parse(&answer.text).context("the upload was not completed")?;
        Ok(unquoted(reply.etag()))
    }

    /// The ETag of an object; none if it is not there.
    pub(super) async fn etag(&self, key: &str) -> anyhow::Result<Option<String>> {
        let action = self.bucket.head_object(Some(&self.credentials), key);
        let attempt = || self.once(Method::HEAD, action.sign(SIGNED_FOR), |request| request);
        match attempt.retry(pauses()).when(CallError::may_pass).await {
            Ok(answer) => Ok(answer.etag),
            Err(CallError::Status { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Uploads of this site that were begun and neither completed nor aborted.
    pub(super) async fn unfinished(&self) -> anyhow::Result<Uploads> {
        let mut uploads = Uploads::default();
        let mut marker: Option<(String, String)> = None;
        loop {
            // An empty key signs a request to the bucket itself.
            let mut action = self.bucket.get_object(Some(&self.credentials), "");
            action.query_mut().insert("uploads", "");
            if let Some((key, id)) = marker.take() {
                action.query_mut().insert("key-marker", key);
                action.query_mut().insert("upload-id-marker", id);
            }
            let answer = self.call(Method::GET, &action, |request| request).await?;
            let page: UploadList = instant_xml::from_str(&answer.text).context("the list of uploads makes no sense")?;
            uploads.0.extend(page.uploads.into_iter().map(|upload| (upload.key, upload.id)));
            match (page.truncated, page.next_key, page.next_upload) {
                (Some(true), Some(key), Some(id)) => marker = Some((key, id)),
                _ => return Ok(uploads),
            }
        }
    }

    /// The parts of an upload that the origin has, by number.
    pub(super) async fn parts(&self, key: &str, upload: &str) -> anyhow::Result<BTreeMap<u16, Part>> {
        let mut parts = BTreeMap::new();
        let mut marker = None;
        loop {
            let mut action = ListParts::new(&self.bucket, Some(&self.credentials), key, upload);
            if let Some(marker) = marker {
                action.set_part_number_marker(marker);
            }
            let answer = self.call(Method::GET, &action, |request| request).await?;
            let page = ListParts::parse_response(&answer.text).context("the list of parts makes no sense")?;
            let listed = page.parts.into_iter();
            parts.extend(listed.map(|part| (part.number, Part { size: part.size, etag: unquoted(&part.etag) })));
            marker = page.next_part_number_marker;
            if marker.is_none() {
                return Ok(parts);
            }
        }
    }

    /// Deletes objects, at most 1,000.
    pub(super) async fn delete(&self, keys: &[String]) -> anyhow::Result<()> {
        let keys: Vec<_> = keys.iter().map(|key| ObjectIdentifier::new(key.clone())).collect();
        let action = || {
            let mut action = DeleteObjects::new(&self.bucket, Some(&self.credentials), keys.iter());
            action.set_quiet(true);
            action
        };
        let (body, md5) = action().body_with_md5();
        let send = |request: RequestBuilder| request.header("content-md5", &md5).body(body.clone());
        let answer = self.call(Method::POST, &action(), send).await?;
        let reply = DeleteObjectsResponse::parse(&answer.text).context("the answer to a deletion makes no sense")?;
        if let Some(first) = reply.errors.first() {
            bail!("cannot delete {}: {} ({} in all)", first.key, first.message, reply.errors.len());
        }
        Ok(())
    }

    async fn call<'a>(
        &self,
        method: Method,
        action: &impl S3Action<'a>,
        send: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> anyhow::Result<Answer> {
        let attempt = || self.once(method.clone(), action.sign(SIGNED_FOR), &send);
        Ok(attempt.retry(pauses()).when(CallError::may_pass).await?)
    }

    /// As [`Store::call`], for a body whose bytes `progress` counts as they are read: what a failed attempt counted is taken back.
    async fn call_counted<'a>(
        &self,
        method: Method,
        action: &impl S3Action<'a>,
        send: impl Fn(RequestBuilder) -> (RequestBuilder, Counter),
        progress: &Progress,
        size: usize,
    ) -> anyhow::Result<Answer> {
        let attempt = || async {
            let request = self.http.request(method.clone(), action.sign(SIGNED_FOR));
            let (request, counter) = send(request);
            let outcome = answer(request).await;
            match &outcome {
                Ok(_) => progress.sent((size as u64).saturating_sub(counter.count())),
                Err(_) => progress.lost(counter.count()),
            }
            outcome
        };
        Ok(attempt.retry(pauses()).when(CallError::may_pass).await?)
    }

    async fn once(
        &self,
        method: Method,
        url: Url,
        send: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, CallError> {
        answer(send(self.http.request(method, url))).await
    }
}

async fn answer(request: RequestBuilder) -> Result<Answer, CallError> {
    // The URL carries a signature, which is nobody's business.
    let response = request.send().await.map_err(|error| CallError::Transport(error.without_url()))?;
    let status = response.status();
    let etag = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok()).map(unquoted);
    let text = response.text().await.map_err(|error| CallError::Transport(error.without_url()))?;
    if status.is_success() { Ok(Answer { etag, text }) } else { Err(refused(status, &text)) }
}

fn refused(status: StatusCode, text: &str) -> CallError {
    CallError::Status { status, code: between(text, "Code").unwrap_or_default(), text: reason(text) }
}

fn between(text: &str, tag: &str) -> Option<String> {
    Some(text.split_once(&format!("<{tag}>"))?.1.split_once("</")?.0.to_owned())
}

/// What an S3 error says, without its XML.
fn reason(text: &str) -> String {
    match (between(text, "Code"), between(text, "Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code,
        (None, _) => text.chars().take(200).collect(),
    }
}

/// How many bytes of a body have been taken.
#[derive(Clone, Default)]
struct Counter(std::sync::Arc<AtomicU64>);

impl Counter {
    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn with_body(request: RequestBuilder, bytes: &Bytes, progress: &Progress) -> (RequestBuilder, Counter) {
    let counter = Counter::default();
    // An empty body has a length too: S3 insists on it.
    let request = request.header(header::CONTENT_LENGTH, bytes.len());
    if bytes.is_empty() {
        return (request.body(Bytes::new()), counter);
    }
    let (counting, progress, bytes) = (counter.clone(), progress.clone(), bytes.clone());
    let slices = (0..bytes.len()).step_by(SLICE).map(move |from| {
        let slice = bytes.slice(from..bytes.len().min(from + SLICE));
        counting.0.fetch_add(slice.len() as u64, Ordering::Relaxed);
        progress.sent(slice.len() as u64);
        Ok::<_, std::io::Error>(slice)
    });
    (request.body(reqwest::Body::wrap_stream(stream::iter(slices))), counter)
}

fn pauses() -> ExponentialBuilder {
    let pauses = ExponentialBuilder::default().with_jitter().with_min_delay(Duration::from_millis(200));
    pauses.with_max_delay(Duration::from_secs(5)).with_max_times(6)
}

fn unquoted(etag: &str) -> String {
    etag.trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_without_xml() {
        let xml = "<?xml?><Error><Code>NoSuchBucket</Code><Message>no such site</Message></Error>";
        assert_eq!(reason(xml), "NoSuchBucket: no such site");
        assert_eq!(reason("plain"), "plain");
    }

    #[test]
    fn who_took_an_upload() {
        for (code, expected) in
            [("NoSuchUpload", true), ("InvalidPart", true), ("NoSuchKey", true), ("AccessDenied", false)]
        {
            let xml = format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
            let error = anyhow::Error::from(refused(StatusCode::NOT_FOUND, &xml));
            assert_eq!(is_taken(&error), expected, "{code}");
        }
    }

    #[test]
    fn lists_of_uploads() {
        let xml = r#"<?xml version="1.0"?><ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
            <Bucket>b</Bucket><IsTruncated>false</IsTruncated><Upload><Key>a b</Key><UploadId>7</UploadId>
            <Initiated>2026-01-01T00:00:00Z</Initiated></Upload></ListMultipartUploadsResult>"#;
        let list: UploadList = instant_xml::from_str(xml).unwrap();
        assert_eq!((list.uploads[0].key.as_str(), list.uploads[0].id.as_str()), ("a b", "7"));
    }
}
