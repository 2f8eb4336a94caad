//! Single objects: put, get, head, copy, delete.

use std::ops::Range;

use futures::{StreamExt, TryStreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use s3s::{Body, S3Request, S3Result, dto::*, s3_error};

use super::{
    Face, answer,
    wish::{self, Fields, ReadConditions, expected, fields, source_conditions},
};
use crate::{
    intake::Expected,
    record::Head,
    site::Site,
    store::Condition,
    version::{Label, Terms, body_of},
};

/// Most keys of one DeleteObjects (S3's limit).
const MAX_DELETES: usize = 1_000;
/// Deletes of one request that run at once.
const DELETES: usize = 16;

/// What GetObject and HeadObject ask alike.
struct Read {
    key: ObjectKey,
    conditions: ReadConditions,
    range: Option<s3s::dto::Range>,
    part_number: Option<PartNumber>,
}

/// Takes it out of the input of either.
macro_rules! read {
    ($input:expr) => {
        Read {
            key: $input.key,
            conditions: ReadConditions {
                if_match: $input.if_match,
                if_none_match: $input.if_none_match,
                if_modified_since: $input.if_modified_since,
                if_unmodified_since: $input.if_unmodified_since,
            },
            range: $input.range,
            part_number: $input.part_number,
        }
    };
}

/// What both answer alike.
macro_rules! described {
    ($output:ident, $head:expr, $bytes:expr, $range:expr) => {
        $output {
            accept_ranges: Some("bytes".into()),
            content_length: Some(wish::size($bytes.end - $bytes.start)),
            content_range: $range.map(|range| content_range(&range, &$head)),
            content_type: Some($head.media_type.clone()),
            cache_control: $head.fields.get("cache-control").cloned(),
            content_disposition: $head.fields.get("content-disposition").cloned(),
            content_encoding: $head.fields.get("content-encoding").cloned(),
            content_language: $head.fields.get("content-language").cloned(),
            e_tag: Some(wish::etag(&$head)),
            last_modified: Some(wish::modified($head.modified_ms)),
            metadata: metadata(&$head),
            ..$output::default()
        }
    };
}

impl Face {
    pub(super) async fn put(&self, request: S3Request<PutObjectInput>) -> S3Result<PutObjectOutput> {
        let mut input = request.input;
        let site = self.site(request.credentials.as_ref(), &input.bucket)?;
        wish::no_client_key(input.sse_customer_key.as_ref())?;
        if input.write_offset_bytes.is_some() {
            return Err(s3_error!(NotImplemented, "objects are replaced as a whole"));
        }
        let label = wish::label(&input.key, fields!(input), input.metadata.take())?;
        let condition = wish::write_condition(input.if_match.take(), input.if_none_match.take())?;
        let terms = wish::terms(condition, expected!(input), &request.headers, request.trailing_headers);
        let body = wish::body(input.body, input.content_length, &self.meter);
        let head = self.shelf.take_in(&site, label, body, terms).await.map_err(answer::intake)?;
        Ok(PutObjectOutput { e_tag: Some(wish::etag(&head)), ..PutObjectOutput::default() })
    }

    async fn found(&self, site: &Site, key: &str) -> S3Result<Head> {
        // A key that cannot be has no object.
        wish::object_path(key).map_err(|_| s3_error!(NoSuchKey))?;
        self.shelf.store.head(&site.id, key).await.map_err(answer::store)
    }

    pub(super) async fn get(&self, request: S3Request<GetObjectInput>) -> S3Result<GetObjectOutput> {
        let input = request.input;
        let site = self.site(request.credentials.as_ref(), &input.bucket)?;
        let (head, bytes, range) = self.read(&site, read!(input)).await?;
        let body = self.plaintext(&site, &head, bytes.clone())?;
        Ok(GetObjectOutput { body: Some(body), ..described!(GetObjectOutput, head, bytes, range) })
    }

    /// What a read is of, if its conditions hold: all that is known of the object, the bytes, and the range if one was asked for.
    async fn read(&self, site: &Site, read: Read) -> S3Result<(Head, Range<u64>, Option<Range<u64>>)> {
        let head = self.found(site, &read.key).await?;
        read.conditions.check(&head, wish::not_modified)?;
        let range = wanted(&head, read.range, read.part_number)?;
        let bytes = range.clone().unwrap_or(0..head.length);
        Ok((head, bytes, range))
    }

    fn plaintext(&self, site: &Site, head: &Head, range: Range<u64>) -> S3Result<StreamingBlob> {
        let bytes = self.shelf.plaintext(site, head, range).map_err(answer::store)?;
        let read = self.meter.read.clone();
        let frames = bytes
            .inspect_ok(move |bytes| {
                read.inc_by(bytes.len() as u64);
            })
            .map_ok(Frame::data);
        Ok(StreamingBlob::from(Body::http_body_unsync(StreamBody::new(frames))))
    }

    pub(super) async fn describe(&self, request: S3Request<HeadObjectInput>) -> S3Result<HeadObjectOutput> {
        let input = request.input;
        let site = self.site(request.credentials.as_ref(), &input.bucket)?;
        let (head, bytes, range) = self.read(&site, read!(input)).await?;
        Ok(described!(HeadObjectOutput, head, bytes, range))
    }

    /// What a copy reads, if its conditions hold.
    pub(super) async fn source(
        &self,
        credentials: Option<&s3s::auth::Credentials>,
        source: &CopySource,
        conditions: ReadConditions,
    ) -> S3Result<(Site, Head)> {
        let (bucket, key) = wish::copy_source(source)?;
        let site = self.site(credentials, bucket)?;
        let head = self.found(&site, key).await?;
        conditions.check(&head, wish::precondition_failed)?;
        Ok((site, head))
    }

    /// A copy is a version of its own: under another key even where the bytes are the same.
    pub(super) async fn copy(&self, request: S3Request<CopyObjectInput>) -> S3Result<CopyObjectOutput> {
        let mut input = request.input;
        let credentials = request.credentials.as_ref();
        let site = self.site(credentials, &input.bucket)?;
        let conditions = source_conditions!(input);
        let (from, head) = self.source(credentials, &input.copy_source, conditions).await?;
        let replace =
            input.metadata_directive.as_ref().is_some_and(|directive| directive.as_str() == MetadataDirective::REPLACE);
        if !replace && from.id == site.id && head.key == input.key {
            return Err(s3_error!(
                InvalidRequest,
                "a copy onto itself has to change something: metadata-directive REPLACE"
            ));
        }
        let label = if replace {
            wish::label(&input.key, fields!(input), input.metadata.take())?
        } else {
            Label {
                path: wish::object_path(&input.key)?,
                media_type: head.media_type.clone(),
                fields: head.fields.clone(),
                metadata: head.metadata.clone(),
            }
        };
        let plaintext = self.shelf.plaintext(&from, &head, 0..head.length).map_err(answer::store)?;
        let terms = Terms::plain(Condition::Always, None);
        let head =
            self.shelf.take_in(&site, label, body_of(plaintext, head.length), terms).await.map_err(answer::intake)?;
        let result = CopyObjectResult {
            e_tag: Some(wish::etag(&head)),
            last_modified: Some(wish::modified(head.modified_ms)),
            ..CopyObjectResult::default()
        };
        Ok(CopyObjectOutput { copy_object_result: Some(result), ..CopyObjectOutput::default() })
    }

    pub(super) async fn delete(&self, request: S3Request<DeleteObjectInput>) -> S3Result<DeleteObjectOutput> {
        let input = request.input;
        let site = self.site(request.credentials.as_ref(), &input.bucket)?;
        let condition = wish::write_condition(input.if_match, None)?;
        self.remove(&site, &input.key, &condition).await?;
        Ok(DeleteObjectOutput::default())
    }

    async fn remove(&self, site: &Site, key: &str, condition: &Condition) -> S3Result<()> {
        if wish::object_path(key).is_ok() {
            self.shelf.store.remove(&site.id, key, condition).await.map_err(answer::store)?;
        }
        Ok(())
    }

    pub(super) async fn delete_many(&self, request: S3Request<DeleteObjectsInput>) -> S3Result<DeleteObjectsOutput> {
        let input = request.input;
        let site = self.site(request.credentials.as_ref(), &input.bucket)?;
        if input.delete.objects.len() > MAX_DELETES {
            return Err(s3_error!(MalformedXML, "at most 1,000 keys"));
        }
        let quiet = input.delete.quiet.unwrap_or(false);
        let deletes = input.delete.objects.into_iter().map(|object| async {
            let condition = object.e_tag.map_or(Condition::Always, |etag| Condition::Etag(etag.into_value()));
            if object.key.contains(char::is_control) {
                // No XML could name it.
                let named = object.key.replace(char::is_control, "\u{fffd}");
                return (named, Err(s3_error!(InvalidArgument, "no key has a control character")));
            }
            let result = self.remove(&site, &object.key, &condition).await;
            (object.key, result)
        });
        let mut output = DeleteObjectsOutput::default();
        let mut done = stream::iter(deletes).buffered(DELETES);
        while let Some((key, result)) = done.next().await {
            match result {
                Ok(()) if quiet => {}
                Ok(()) => output
                    .deleted
                    .get_or_insert_default()
                    .push(DeletedObject { key: Some(key), ..DeletedObject::default() }),
                Err(error) => output.errors.get_or_insert_default().push(Error {
                    code: Some(error.code().as_str().to_owned()),
                    message: error.message().map(str::to_owned),
                    key: Some(key),
                    ..Error::default()
                }),
            }
        }
        Ok(output)
    }
}

fn wanted(head: &Head, range: Option<s3s::dto::Range>, part: Option<PartNumber>) -> S3Result<Option<Range<u64>>> {
    match (range, part) {
        (None, None | Some(1)) => Ok(None),
        (None, Some(_)) => Err(s3_error!(NotImplemented, "parts cannot be read once they are one object")),
        (Some(range), _) => range.check(head.length).map(Some).map_err(|_| s3_error!(InvalidRange)),
    }
}

fn content_range(range: &Range<u64>, head: &Head) -> String {
    format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), head.length)
}

fn metadata(head: &Head) -> Option<Metadata> {
    (!head.metadata.is_empty()).then(|| head.metadata.clone().into_iter().collect())
}
