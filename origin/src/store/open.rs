//! From a URL to a store: `file:///folder`, or `s3://bucket/prefix` with access settings.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use anyhow::Context;
use object_store::{
    ClientOptions, ObjectStore, RetryConfig, aws::AmazonS3Builder, local::LocalFileSystem, prefix::PrefixStore,
};
use url::Url;

use super::Store;

/// How long a request to a bucket is tried again: clients and edges wait for the answer.
const PATIENCE: Duration = Duration::from_secs(20);
const CONNECT: Duration = Duration::from_secs(5);
/// For one request, which carries up to some ten megabytes.
const REQUEST: Duration = Duration::from_secs(60);

/// Where the store lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A bucket, and what all its keys begin with (may be empty).
    Bucket {
        /// Name of the bucket.
        bucket: String,
        /// Without slashes around it.
        prefix: String,
    },
}

/// Neither a folder nor a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected `file:///absolute/folder` or `s3://bucket/prefix`")]
pub struct StoreUrlError;

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        let url = Url::parse(text).map_err(|_| StoreUrlError)?;
        match url.scheme() {
            "file" => url.to_file_path().map(Self::Folder).map_err(|()| StoreUrlError),
            "s3" => {
                let bucket = url.host_str().filter(|host| !host.is_empty()).ok_or(StoreUrlError)?.to_owned();
                Ok(Self::Bucket { bucket, prefix: url.path().trim_matches('/').to_owned() })
            }
            _ => Err(StoreUrlError),
        }
    }
}

/// How to reach a bucket. What is not set comes from the environment as AWS's own tools read it (`AWS_ACCESS_KEY_ID`, web identity,
/// instance roles).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct S3Access {
    /// Base URL of another service than AWS.
    pub endpoint: Option<String>,
    /// Region.
    pub region: Option<String>,
    /// Public half of the credentials.
    pub access_key_id: Option<String>,
    /// Secret half of the credentials.
    pub secret_access_key: Option<String>,
}

impl fmt::Debug for S3Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Access")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens a store; makes the folder, not the bucket.
    pub fn open(url: &StoreUrl, access: &S3Access) -> anyhow::Result<Self> {
        match url {
            StoreUrl::Folder(folder) => open_folder(folder.clone()),
            StoreUrl::Bucket { bucket, prefix } => open_bucket(bucket, prefix, access),
        }
    }
}

fn open_folder(folder: PathBuf) -> anyhow::Result<Store> {
    umbel_service::files::private_folder(&folder)
        .with_context(|| format!("cannot make the store's folder {}", folder.display()))?;
    let objects = LocalFileSystem::new_with_prefix(&folder)?.with_fsync(true).with_automatic_cleanup(true);
    Ok(Store::new(Arc::new(objects), Some(folder)))
}

fn open_bucket(bucket: &str, prefix: &str, access: &S3Access) -> anyhow::Result<Store> {
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(RetryConfig {
        max_retries: 4,
        retry_timeout: PATIENCE,
        ..RetryConfig::default()
    });
    let mut client = ClientOptions::new().with_connect_timeout(CONNECT).with_timeout(REQUEST);
    if let Some(endpoint) = &access.endpoint {
        client = client.with_allow_http(endpoint.starts_with("http://"));
        builder = builder.with_endpoint(endpoint);
    }
    builder = builder.with_client_options(client);
    if let Some(region) = &access.region {
        builder = builder.with_region(region);
    }
    if let (Some(id), Some(secret)) = (&access.access_key_id, &access.secret_access_key) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
    }
    let bucket = builder.build().context("cannot set the S3 store up")?;
    let objects: Arc<dyn ObjectStore> =
        if prefix.is_empty() { Arc::new(bucket) } else { Arc::new(PrefixStore::new(bucket, prefix)) };
    Ok(Store::new(objects, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let check =
            |text: &str, expected: Result<StoreUrl, StoreUrlError>| assert_eq!(text.parse(), expected, "{text}");
        let bucket = |bucket: &str, prefix: &str| Ok(StoreUrl::Bucket { bucket: bucket.into(), prefix: prefix.into() });
        check("file:///var/lib/umbel", Ok(StoreUrl::Folder("/var/lib/umbel".into())));
        check("s3://content", bucket("content", ""));
        check("s3://content/umbel/origin/", bucket("content", "umbel/origin"));
        check("/var/lib/umbel", Err(StoreUrlError));
        check("gs://content", Err(StoreUrlError));
    }
}
