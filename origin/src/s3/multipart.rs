//! Multipart uploads.

use s3s::{S3Request, S3Result, dto::*, s3_error};
use tracing::warn;

use super::{
    Face, answer,
    list::{self, Spelling},
    wish::{self, Fields, ReadConditions, expected, fields, source_conditions},
};
use crate::{
    intake::Expected,
    site::Site,
    store::{Condition, found},
    uploads::{self, MAX_PART, MAX_PART_NUMBER, Meta, PartName, Plan, Upload, UploadError},
    version::{Shelf, Terms, body_of},
};

/// Completing more than this may take longer than clients wait for the head of an answer: it is sent at once, and the
/// outcome when it is known, as S3 does it.
const SLOW: u64 = 256 * 1024 * 1024;

impl Face {
    pub(super) async fn begin_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<CreateMultipartUploadOutput> {
        let mut input = request.input;
        let site = self.site(request.credentials.as_ref(), &input.bucket)?;
        wish::no_client_key(input.sse_customer_key.as_ref())?;
        let label = wish::label(&input.key, fields!(input), input.metadata.take())?;
        let id = Upload::begin(&self.shelf.store, &site, label).await.map_err(answer::store)?;
        Ok(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        })
    }

    async fn upload(&self, site: &Site, id: &str, key: &str) -> S3Result<Upload> {
        Upload::find(&self.shelf.store, site, id, key).await.map_err(answer::upload)
    }

    pub(super) async fn put_part(&self, request: S3Request<UploadPartInput>) -> S3Result<UploadPartOutput> {
        let mut input = request.input;
        let site = self.site(request.credentials.as_ref(), &input.bucket)?;
        wish::no_client_key(input.sse_customer_key.as_ref())?;
        let number = part_number(input.part_number)?;
        let upload = self.upload(&site, &input.upload_id, &input.key).await?;
        let terms = wish::terms(Condition::Always, expected!(input), &request.headers, request.trailing_headers);
        let body = wish::body(input.body, input.content_length, &self.meter);
        let part = upload.put_part(&self.shelf, number, body, terms).await.map_err(answer::upload)?;
        Ok(UploadPartOutput { e_tag: Some(ETag::Strong(part.etag())), ..UploadPartOutput::default() })
    }

    pub(super) async fn copy_part(&self, request: S3Request<UploadPartCopyInput>) -> S3Result<UploadPartCopyOutput> {
        let mut input = request.input;
        let credentials = request.credentials.as_ref();
        let site = self.site(credentials, &input.bucket)?;
        let number = part_number(input.part_number)?;
        let upload = self.upload(&site, &input.upload_id, &input.key).await?;
        let conditions = source_conditions!(input);
        let (from, head) = self.source(credentials, &input.copy_source, conditions).await?;
        let range = match &input.copy_source_range {
            None => 0..head.length,
            Some(text) => {
                let range = Range::parse(text).map_err(|_| s3_error!(InvalidArgument, "not a range of bytes"))?;
                // A part is what was asked for or nothing: the client has counted on its length.
                if matches!(range, Range::Int { last: Some(last), .. } if last >= head.length) {
                    return Err(s3_error!(InvalidRange));
                }
                range.check(head.length).map_err(|_| s3_error!(InvalidRange))?
            }
        };
        let length = range.end - range.start;
        if length > MAX_PART {
            return Err(s3_error!(EntityTooLarge));
        }
        let plaintext = self.shelf.plaintext(&from, &head, range).map_err(answer::store)?;
        let terms = Terms::plain(Condition::Always, None);
        let part =
            upload.put_part(&self.shelf, number, body_of(plaintext, length), terms).await.map_err(answer::upload)?;
        let result = CopyPartResult {
            e_tag: Some(ETag::Strong(part.etag())),
            last_modified: Some(wish::modified(part.at_ms)),
            ..CopyPartResult::default()
        };
        Ok(UploadPartCopyOutput { copy_part_result: Some(result), ..UploadPartCopyOutput::default() })
    }

    pub(super) async fn complete_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<CompleteMultipartUploadOutput> {
        let input = request.input;
        let site = self.site(request.credentials.as_ref(), &input.bucket)?;
        let condition = wish::write_condition(input.if_match, input.if_none_match)?;
        let wanted = named_parts(input.multipart_upload)?;
        let upload = match Upload::find(&self.shelf.store, &site, &input.upload_id, &input.key).await {
            Ok(upload) => upload,
            Err(UploadError::NoSuchUpload) => {
                return self.completed_before(&site, input.bucket, input.key, &wanted).await;
            }
            Err(error) => return Err(answer::upload(error)),
        };
        let plan = upload.plan(&self.shelf.store, &wanted).await.map_err(answer::upload)?;
        if input.mpu_object_size.is_some_and(|size| u64::try_from(size) != Ok(plan.length)) {
            return Err(s3_error!(InvalidRequest, "the parts are not as large as x-amz-mp-object-size says"));
        }
        let output = completed(input.bucket, input.key, plan.etag.clone());
        if plan.length <= SLOW {
            return complete(self.shelf.clone(), site, upload, plan, condition, output).await;
        }
        let future = Box::pin(complete(self.shelf.clone(), site, upload, plan, condition, output));
        Ok(CompleteMultipartUploadOutput { future: Some(future), ..CompleteMultipartUploadOutput::default() })
    }

    /// A client whose answer was lost asks again: the upload is gone, and the object is made of just these parts.
    async fn completed_before(
        &self,
        site: &Site,
        bucket: String,
        key: String,
        wanted: &[(u32, String)],
    ) -> S3Result<CompleteMultipartUploadOutput> {
        let head = found(self.shelf.store.head(&site.id, &key).await).map_err(answer::store)?;
        let etag = uploads::etag_of(wanted).ok_or_else(|| s3_error!(NoSuchUpload))?;
        if head.is_none_or(|head| head.etag != etag) {
            return Err(s3_error!(NoSuchUpload));
        }
        Ok(completed(bucket, key, etag))
    }

    pub(super) async fn abort_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<AbortMultipartUploadOutput> {
        let input = request.input;
        let site = self.site(request.credentials.as_ref(), &input.bucket)?;
        let upload = self.upload(&site, &input.upload_id, &input.key).await?;
        upload.remove(&self.shelf.store).await.map_err(answer::store)?;
        Ok(AbortMultipartUploadOutput::default())
    }

    pub(super) async fn uploaded_parts(&self, request: S3Request<ListPartsInput>) -> S3Result<ListPartsOutput> {
        let input = request.input;
        let site = self.site(request.credentials.as_ref(), &input.bucket)?;
        let upload = self.upload(&site, &input.upload_id, &input.key).await?;
        let most = list::page_size(input.max_parts)?;
        let marker = input.part_number_marker.unwrap_or(0);
        let parts = upload.parts(&self.shelf.store).await.map_err(answer::store)?;
        let mut rest = parts.iter().filter(|part| i64::from(part.number) > i64::from(marker));
        let page: Vec<Part> = rest.by_ref().take(most.unsigned_abs() as usize).map(part).collect();
        Ok(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            max_parts: Some(most),
            part_number_marker: Some(marker),
            next_part_number_marker: page.last().and_then(|part| part.part_number),
            is_truncated: Some(rest.next().is_some()),
            parts: Some(page),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            ..ListPartsOutput::default()
        })
    }

    pub(super) async fn uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<ListMultipartUploadsOutput> {
        let input = request.input;
        let site = self.site(request.credentials.as_ref(), &input.bucket)?;
        let texts = [&input.prefix, &input.delimiter, &input.key_marker];
        list::check_texts(texts.map(Option::as_ref))?;
        let most = list::page_size(input.max_uploads)?;
        let prefix = input.prefix.as_deref().unwrap_or_default();
        let delimiter = input.delimiter.as_deref().unwrap_or_default();
        let marker = (input.key_marker.as_deref().unwrap_or_default(), input.upload_id_marker.as_deref());
        let all = uploads::going_on(&self.shelf.store, &site).await.map_err(answer::store)?;
        let page = page(&all, prefix, delimiter, marker, most.unsigned_abs() as usize);
        let spelling = Spelling::of(input.encoding_type.as_ref());
        let (next_key, next_id) = page.next.filter(|_| page.truncated).unzip();
        let going_on = page.uploads.iter().map(|(meta, id)| upload(spelling.spell(&meta.key), meta.begun_ms, id));
        Ok(ListMultipartUploadsOutput {
            next_key_marker: next_key.map(|key| spelling.spell(key)),
            next_upload_id_marker: next_id.flatten().map(str::to_owned),
            is_truncated: Some(page.truncated),
            max_uploads: Some(most),
            uploads: Some(going_on.collect()),
            common_prefixes: spelling.prefixes(&page.prefixes),
            prefix: spelling.optional(input.prefix.as_ref()),
            delimiter: spelling.optional(input.delimiter.as_ref()),
            key_marker: spelling.optional(input.key_marker.as_ref()),
            bucket: Some(input.bucket),
            upload_id_marker: input.upload_id_marker,
            encoding_type: input.encoding_type,
            ..ListMultipartUploadsOutput::default()
        })
    }
}

/// One page of uploads that are going on.
#[derive(Debug, Default)]
struct Page<'a> {
    uploads: Vec<&'a (Meta, String)>,
    prefixes: Vec<String>,
    /// The last key or prefix of this page, and the upload's id.
    next: Option<(&'a str, Option<&'a str>)>,
    truncated: bool,
}

/// At most `most` of `all`, which are in order, behind `marker`: a key or what was rolled up, and perhaps the id of an upload.
fn page<'a>(
    all: &'a [(Meta, String)],
    prefix: &str,
    delimiter: &str,
    marker: (&str, Option<&str>),
    most: usize,
) -> Page<'a> {
    let behind_id = all.iter().position(|(meta, id)| meta.key == marker.0 && Some(id.as_str()) == marker.1);
    let behind = behind_id.map_or_else(|| all.partition_point(|(meta, _)| meta.key.as_str() <= marker.0), |at| at + 1);
    let mut page = Page::default();
    for entry in all[behind..].iter().filter(|(meta, _)| most > 0 && meta.key.starts_with(prefix)) {
        let rolled = list::rolled_up(&entry.0.key, prefix, delimiter);
        let last = page.prefixes.last().map_or(marker.0, String::as_str);
        if rolled.is_some_and(|rolled| rolled == last) {
            continue;
        }
        if page.uploads.len() + page.prefixes.len() == most {
            page.truncated = true;
            break;
        }
        page.next = Some(rolled.map_or((&entry.0.key, Some(&entry.1)), |rolled| (rolled, None)));
        match rolled {
            Some(rolled) => page.prefixes.push(rolled.to_owned()),
            None => page.uploads.push(entry),
        }
    }
    page
}

async fn complete(
    shelf: Shelf,
    site: Site,
    upload: Upload,
    plan: Plan,
    condition: Condition,
    output: CompleteMultipartUploadOutput,
) -> S3Result<CompleteMultipartUploadOutput> {
    let label = upload.label().map_err(answer::path)?;
    let body = upload.body(&shelf.store, &plan).map_err(answer::store)?;
    shelf.take_in(&site, label, body, Terms::plain(condition, Some(plan.etag))).await.map_err(answer::intake)?;
    if let Err(error) = upload.remove(&shelf.store).await {
        warn!(error = &error as &dyn std::error::Error, "parts of a completed upload stay until they are old");
    }
    Ok(output)
}

fn completed(bucket: String, key: String, etag: String) -> CompleteMultipartUploadOutput {
    CompleteMultipartUploadOutput {
        location: Some(format!("/{bucket}/{key}")),
        e_tag: Some(ETag::Strong(etag)),
        bucket: Some(bucket),
        key: Some(key),
        ..CompleteMultipartUploadOutput::default()
    }
}

fn part_number(number: PartNumber) -> S3Result<u32> {
    let number = u32::try_from(number).ok().filter(|number| (1..=MAX_PART_NUMBER).contains(number));
    number.ok_or_else(|| s3_error!(InvalidArgument, "part numbers go from 1 to 10,000"))
}

fn named_parts(named: Option<CompletedMultipartUpload>) -> S3Result<Vec<(u32, String)>> {
    let parts = named.and_then(|named| named.parts).unwrap_or_default();
    if parts.is_empty() || parts.len() > MAX_PART_NUMBER as usize {
        return Err(s3_error!(MalformedXML, "name 1 to 10,000 parts"));
    }
    let parts = parts.into_iter().map(|part| {
        let number = part_number(part.part_number.unwrap_or(0))?;
        let etag = part.e_tag.ok_or_else(|| s3_error!(InvalidPart, "part {number} has no ETag"))?;
        Ok((number, etag.into_value()))
    });
    parts.collect()
}

fn part(part: &PartName) -> Part {
    Part {
        part_number: i32::try_from(part.number).ok(),
        e_tag: Some(ETag::Strong(part.etag())),
        size: Some(wish::size(part.length)),
        last_modified: Some(wish::modified(part.at_ms)),
        ..Part::default()
    }
}

fn upload(key: String, begun_ms: u64, id: &str) -> MultipartUpload {
    MultipartUpload {
        key: Some(key),
        upload_id: Some(id.to_owned()),
        initiated: Some(wish::modified(begun_ms)),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        ..MultipartUpload::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_uploads_meet_each_once() {
        let keys = ["a", "b/1", "b/2", "b/2", "b/3", "c/", "c/x/1", "d"];
        let all: Vec<_> = keys
            .iter()
            .enumerate()
            .map(|(number, key)| {
                let mut meta = Meta::default();
                (*key).clone_into(&mut meta.key);
                (meta, number.to_string())
            })
            .collect();
        let check = |prefix: &str, delimiter: &str, expected: &[&str]| {
            for most in 1..10 {
                let (mut seen, mut marker) = (Vec::new(), (String::new(), None));
                loop {
                    let page = page(&all, prefix, delimiter, (&marker.0, marker.1.as_deref()), most);
                    assert!(page.uploads.len() + page.prefixes.len() <= most);
                    seen.extend(page.uploads.iter().map(|(meta, id)| format!("{} {id}", meta.key)));
                    seen.extend(page.prefixes);
                    let Some((key, id)) = page.next.filter(|_| page.truncated) else { break };
                    marker = (key.to_owned(), id.map(str::to_owned));
                }
                seen.sort();
                assert_eq!(seen, expected, "{prefix} {delimiter} by {most}");
            }
        };
        check("", "/", &["a 0", "b/", "c/", "d 7"]);
        check("b/", "/", &["b/1 1", "b/2 2", "b/2 3", "b/3 4"]);
        check("c", "/", &["c/"]);
        check("c/", "/", &["c/ 5", "c/x/"]);
        check("b", "", &["b/1 1", "b/2 2", "b/2 3", "b/3 4"]);
        assert!(!page(&all, "", "", ("", None), 0).truncated);
    }
}
