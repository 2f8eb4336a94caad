//! The S3 API: a bucket is a site, a key is a path without its first slash. `s3s` reads requests and checks signatures; here is
//! what they mean.

mod answer;
mod list;
mod multipart;
mod object;
mod wish;

use std::{borrow::Cow, sync::Arc};

use axum::{Router, error_handling::HandleError, http::StatusCode};
use futures::future::BoxFuture;
use s3s::{
    HttpError, S3, S3Request, S3Response, S3Result,
    access::{S3Access, S3AccessContext},
    auth::{Credentials, S3Auth, SecretKey},
    config::{S3Config, StaticConfigProvider},
    dto::*,
    s3_error,
    service::S3ServiceBuilder,
};
use tokio::sync::watch;
use tracing::warn;
use umbel_service::installation::Installation;
use url::form_urlencoded;

use crate::{
    meter::{Meter, Operation, Outcome},
    site::Site,
    version::Shelf,
};

/// Largest XML body: 10,000 parts with checksums, or 1,000 keys to be deleted.
const MAX_XML: usize = 8 * 1024 * 1024;

/// The S3 API as an app for a listener.
pub(crate) fn app(shelf: Shelf, installation: watch::Receiver<Arc<Installation>>, meter: Meter) -> Router {
    let mut config = S3Config::default();
    config.xml_max_body_size = MAX_XML;
    config.post_object_max_file_size = 0;
    let mut builder = S3ServiceBuilder::new(Face { shelf, installation: installation.clone(), meter });
    builder.set_auth(Keys(installation));
    builder.set_access(Doorway);
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    Router::new().fallback_service(HandleError::new(builder.build(), broken))
}

async fn broken(error: HttpError) -> StatusCode {
    warn!(?error, "an S3 request could not be answered");
    StatusCode::INTERNAL_SERVER_ERROR
}

/// Looks credentials up in the newest configuration.
struct Keys(watch::Receiver<Arc<Installation>>);

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let installation = self.0.borrow();
        let credential = installation.s3_credentials.get(access_key).ok_or_else(|| s3_error!(InvalidAccessKeyId))?;
        Ok(SecretKey::from(credential.secret_access_key.as_str()))
    }
}

/// Seconds that a presigned URL may live (S3's limit): a week.
const MAX_PRESIGNED: u64 = 604_800;

/// What every request must have. What it may touch is [`Face::site`]'s to say.
struct Doorway;

#[async_trait::async_trait]
impl S3Access for Doorway {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        if context.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "Signature is required"));
        }
        let query = context.uri().query().unwrap_or_default();
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        let too_long = |(name, value): (Cow<'_, str>, Cow<'_, str>)| {
            name == "X-Amz-Expires" && !value.parse().is_ok_and(|life: u64| life <= MAX_PRESIGNED)
        };
        if pairs.any(too_long) {
            return Err(s3_error!(
                AuthorizationQueryParametersError,
                "X-Amz-Expires is at most a week, {MAX_PRESIGNED} seconds"
            ));
        }
        Ok(())
    }
}

/// The origin as S3 clients see it.
#[derive(Debug, Clone)]
pub(crate) struct Face {
    shelf: Shelf,
    installation: watch::Receiver<Arc<Installation>>,
    meter: Meter,
}

impl Face {
    /// The site that `bucket` names, if the request's credentials are for it.
    fn site(&self, credentials: Option<&Credentials>, bucket: &str) -> S3Result<Site> {
        let installation = self.installation.borrow();
        let credentials = credentials.ok_or_else(|| s3_error!(AccessDenied))?;
        let credential =
            installation.s3_credentials.get(&credentials.access_key).ok_or_else(|| s3_error!(AccessDenied))?;
        let site = installation
            .site_by_name(bucket)
            .ok_or_else(|| s3_error!(NoSuchBucket, "there is no site of this name"))?;
        if !credential.site_ids.contains(&site.id) {
            return Err(s3_error!(AccessDenied, "this site belongs to another account"));
        }
        Site::new(site).map_err(|error| {
            warn!(site = site.name, %error, "cannot be used");
            s3_error!(error, InternalError, "this site is not ready")
        })
    }

    /// Their names and when they were made, by name.
    fn own_sites(&self, credentials: Option<&Credentials>) -> S3Result<Vec<(String, Timestamp)>> {
        let installation = self.installation.borrow();
        let credentials = credentials.ok_or_else(|| s3_error!(AccessDenied))?;
        let credential =
            installation.s3_credentials.get(&credentials.access_key).ok_or_else(|| s3_error!(AccessDenied))?;
        let own = credential.site_ids.iter().filter_map(|id| installation.sites.get(id));
        let mut own: Vec<_> = own.map(|site| (site.name.clone(), made_at(&site.id))).collect();
        own.sort();
        Ok(own)
    }

    /// Counts how a request ended.
    async fn counted<T>(&self, operation: Operation, answer: BoxFuture<'_, S3Result<T>>) -> S3Result<S3Response<T>> {
        let result = answer.await;
        let outcome = match &result {
            Ok(_) => Outcome::Done,
            Err(error) if error.status_code().is_some_and(|status| status.is_server_error()) => Outcome::Failed,
            Err(_) => Outcome::Refused,
        };
        self.meter.count(operation, outcome);
        result.map(S3Response::new)
    }
}

/// Ids of sites are UUIDs of version 7: they tell when they were made.
fn made_at(site_id: &str) -> Timestamp {
    let told = uuid::Uuid::try_parse(site_id).ok().and_then(|id| id.get_timestamp());
    wish::modified(told.map_or(0, |time| {
        let (seconds, nanos) = time.to_unix();
        seconds * 1000 + u64::from(nanos) / 1_000_000
    }))
}

fn bucket_list(sites: Vec<(String, Timestamp)>) -> ListBucketsOutput {
    let buckets = sites.into_iter().map(|(name, made)| Bucket {
        name: Some(name),
        creation_date: Some(made),
        bucket_region: None,
    });
    ListBucketsOutput { buckets: Some(buckets.collect()), ..ListBucketsOutput::default() }
}

/// `Face` answers each call with the method of the same purpose, boxed: their futures are large.
macro_rules! face {
    ($($name:ident, $input:ident, $output:ident, $operation:ident, $method:ident;)*) => {
        #[async_trait::async_trait]
        impl S3 for Face {
            $(async fn $name(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                self.counted(Operation::$operation, Box::pin(self.$method(request))).await
            })*
        }
    };
}

face! {
    put_object, PutObjectInput, PutObjectOutput, PutObject, put;
    get_object, GetObjectInput, GetObjectOutput, GetObject, get;
    head_object, HeadObjectInput, HeadObjectOutput, HeadObject, describe;
    copy_object, CopyObjectInput, CopyObjectOutput, CopyObject, copy;
    delete_object, DeleteObjectInput, DeleteObjectOutput, DeleteObject, delete;
    delete_objects, DeleteObjectsInput, DeleteObjectsOutput, DeleteObjects, delete_many;
    list_objects, ListObjectsInput, ListObjectsOutput, ListObjects, list_v1;
    list_objects_v2, ListObjectsV2Input, ListObjectsV2Output, ListObjects, list_v2;
    create_multipart_upload, CreateMultipartUploadInput, CreateMultipartUploadOutput, CreateMultipartUpload, begin_upload;
    upload_part, UploadPartInput, UploadPartOutput, UploadPart, put_part;
    upload_part_copy, UploadPartCopyInput, UploadPartCopyOutput, UploadPartCopy, copy_part;
    complete_multipart_upload, CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CompleteMultipartUpload, complete_upload;
    abort_multipart_upload, AbortMultipartUploadInput, AbortMultipartUploadOutput, AbortMultipartUpload, abort_upload;
    list_parts, ListPartsInput, ListPartsOutput, ListParts, uploaded_parts;
    list_multipart_uploads, ListMultipartUploadsInput, ListMultipartUploadsOutput, ListMultipartUploads, uploads;
    list_buckets, ListBucketsInput, ListBucketsOutput, Bucket, buckets;
    head_bucket, HeadBucketInput, HeadBucketOutput, Bucket, check_bucket;
    get_bucket_location, GetBucketLocationInput, GetBucketLocationOutput, Bucket, locate_bucket;
    create_bucket, CreateBucketInput, CreateBucketOutput, Bucket, claim_bucket;
    delete_bucket, DeleteBucketInput, DeleteBucketOutput, Bucket, keep_bucket;
    get_object_tagging, GetObjectTaggingInput, GetObjectTaggingOutput, HeadObject, tags;
}

#[expect(clippy::unused_async, reason = "every answer is awaited alike")]
impl Face {
    async fn buckets(&self, request: S3Request<ListBucketsInput>) -> S3Result<ListBucketsOutput> {
        self.own_sites(request.credentials.as_ref()).map(bucket_list)
    }

    async fn check_bucket(&self, request: S3Request<HeadBucketInput>) -> S3Result<HeadBucketOutput> {
        self.site(request.credentials.as_ref(), &request.input.bucket)?;
        Ok(HeadBucketOutput::default())
    }

    async fn locate_bucket(&self, request: S3Request<GetBucketLocationInput>) -> S3Result<GetBucketLocationOutput> {
        self.site(request.credentials.as_ref(), &request.input.bucket)?;
        Ok(GetBucketLocationOutput::default())
    }

    /// Sites are taken away by the control plane, too.
    async fn keep_bucket(&self, request: S3Request<DeleteBucketInput>) -> S3Result<DeleteBucketOutput> {
        self.site(request.credentials.as_ref(), &request.input.bucket)?;
        Err(s3_error!(AccessDenied, "a bucket is a site: sites are deleted with `umbel admin site delete`"))
    }

    /// Objects have no tags.
    async fn tags(&self, request: S3Request<GetObjectTaggingInput>) -> S3Result<GetObjectTaggingOutput> {
        let input = request.input;
        let site = self.site(request.credentials.as_ref(), &input.bucket)?;
        self.shelf.store.head(&site.id, &input.key).await.map_err(answer::store)?;
        Ok(GetObjectTaggingOutput { tag_set: Vec::new(), version_id: None })
    }

    /// Sites are made by the control plane: a client that makes sure of its bucket is told that it is there.
    async fn claim_bucket(&self, request: S3Request<CreateBucketInput>) -> S3Result<CreateBucketOutput> {
        let bucket = &request.input.bucket;
        match self.site(request.credentials.as_ref(), bucket) {
            Ok(_) => Ok(CreateBucketOutput { location: Some(format!("/{bucket}")) }),
            Err(error) if *error.code() == s3s::S3ErrorCode::NoSuchBucket => {
                Err(s3_error!(AccessDenied, "a bucket is a site: sites are made with `umbel admin site create`"))
            }
            Err(_) => Err(s3_error!(BucketAlreadyExists)),
        }
    }
}
