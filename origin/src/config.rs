//! The origin's settings.
//!
//! | key | default | what |
//! |---|---|---|
//! | `state` | `/var/lib/umbel/origin` | folder of what the node is and last knew |
//! | `join_token` | | join token; needed for the first start only |
//! | `s3_listen` | `0.0.0.0:9000` | where S3 clients come |
//! | `s3_plain` | `false` | plain HTTP there: for networks that are trusted |
//! | `internal_listen` | `0.0.0.0:9443` | where edges come |
//! | `ops_listen` | `127.0.0.1:9090` | health and metrics |
//! | `s3_url`, `internal_url` | | what others reach these ports by |
//! | `store` | `file://<state>/store` | `file:///folder` or `s3://bucket/prefix` |
//! | `store_s3.endpoint`, `.region`, `.access_key_id`, `.secret_access_key` | from the environment, as AWS's tools | access to a bucket |
//! | `replaced_versions_kept` | `24h` | how long a replaced version stays readable |
//! | `uploads_kept` | `7days` | how long a multipart upload may take |
//! | `pull_networks` | | private networks that sites may be pulled from, as `10.1.0.0/16`; public ones always |
//! | `pull_ca` | | PEM file of more CAs that the servers of pulled sites may have certificates of |
//! | `pull_memory` | `128MiB` | memory for what is stored of pulled sites |
//! | `pull_disk` | `4GiB` | disk, in `state`, for their bodies that are not short |
//! | `deleted_sites_kept` | `7days` | how long the content of a deleted site lies in the store, out of everybody's reach |

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bytesize::ByteSize;
use ipnet::IpNet;
use umbel_service::config::Settings;
use umbel_wire::control::Addresses;

use crate::store::{S3Access, StoreUrl};

/// A checked configuration.
#[derive(Clone)]
pub struct Config {
    /// Folder of what the node is and last knew.
    pub state: PathBuf,
    /// Join token; needed for the first start only.
    pub join: Option<String>,
    /// Where S3 clients come.
    pub s3_listen: SocketAddr,
    /// Plain HTTP for S3 clients.
    pub s3_plain: bool,
    /// Where edges come.
    pub internal_listen: SocketAddr,
    /// Health and metrics.
    pub ops_listen: SocketAddr,
    /// What S3 clients reach this origin by.
    pub s3_url: String,
    /// What edges reach this origin by.
    pub internal_url: String,
    /// Where content lies.
    pub store: StoreUrl,
    /// How to reach a bucket.
    pub store_s3: S3Access,
    /// How long a replaced version stays readable.
    pub replaced_versions_kept: Duration,
    /// How long a multipart upload may take.
    pub uploads_kept: Duration,
    /// How long the content of a deleted site stays in the store.
    pub deleted_sites_kept: Duration,
    /// Networks that sites may be pulled from though they are not public.
    pub pull_networks: Vec<IpNet>,
    /// PEM file of CAs that providers' servers may have certificates of, besides the system's.
    pub pull_ca: Option<PathBuf>,
    /// Bytes of memory for what is stored of pulled sites.
    pub pull_memory: u64,
    /// Bytes of disk for those of its bodies that are not short.
    pub pull_disk: u64,
}

const MIB: u64 = 1024 * 1024;

impl Config {
    /// Takes the origin's keys; mistakes are reported by `settings.finish()`.
    pub fn read(settings: &mut Settings) -> Self {
        let state = settings.path("state", Path::new("/var/lib/umbel/origin"));
        let store_s3 = S3Access {
            endpoint: settings.optional("store_s3.endpoint"),
            region: settings.optional("store_s3.region"),
            access_key_id: settings.optional("store_s3.access_key_id"),
            secret_access_key: settings.optional("store_s3.secret_access_key"),
        };
        if store_s3.access_key_id.is_some() != store_s3.secret_access_key.is_some() {
            settings.reject("`store_s3.access_key_id` and `store_s3.secret_access_key` belong together");
        }
        let days = |count: u64| humantime::Duration::from(Duration::from_secs(count * 24 * 3600));
        let config = Self {
            store: settings.or("store", StoreUrl::Folder(state.join("store"))),
            state,
            join: settings.optional("join_token"),
            s3_listen: settings.or("s3_listen", ([0, 0, 0, 0], 9000).into()),
            s3_plain: settings.or("s3_plain", false),
            internal_listen: settings.or("internal_listen", ([0, 0, 0, 0], 9443).into()),
            ops_listen: settings.or("ops_listen", ([127, 0, 0, 1], 9090).into()),
            s3_url: settings.required("s3_url", String::new()),
            internal_url: settings.required("internal_url", String::new()),
            store_s3,
            replaced_versions_kept: settings.or("replaced_versions_kept", days(1)).into(),
            uploads_kept: settings.or("uploads_kept", days(7)).into(),
            deleted_sites_kept: settings.or("deleted_sites_kept", days(7)).into(),
            pull_networks: settings.list("pull_networks"),
            pull_ca: settings.optional("pull_ca"),
            pull_memory: settings.or("pull_memory", ByteSize(128 * MIB)).0,
            pull_disk: settings.or("pull_disk", ByteSize(4096 * MIB)).0,
        };
        config.check_urls(settings);
        for (key, bytes, least) in [("pull_memory", config.pull_memory, 16), ("pull_disk", config.pull_disk, 64)] {
            if bytes < least * MIB {
                settings.reject_key(key, format!("must be at least {least}MiB"));
            }
        }
        config
    }

    fn check_urls(&self, settings: &mut Settings) {
        let s3_scheme = if self.s3_plain { "http" } else { "https" };
        for (key, text, scheme) in [("s3_url", &self.s3_url, s3_scheme), ("internal_url", &self.internal_url, "https")]
        {
            let fits = url::Url::parse(text).is_ok_and(|url| url.scheme() == scheme && url.has_host());
            if !fits && !text.is_empty() {
                settings.reject_key(key, format!("expected a URL that begins with `{scheme}://` (found `{text}`)"));
            }
        }
    }

    /// What the control plane tells others.
    pub(crate) fn addresses(&self) -> Addresses {
        Addresses { internal_url: self.internal_url.clone(), s3_url: self.s3_url.clone(), ..Addresses::default() }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("state", &self.state)
            .field("s3_listen", &self.s3_listen)
            .field("internal_listen", &self.internal_listen)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let mut settings = Settings::parse("origin.toml", text, "UMBEL_ORIGIN", []);
        let config = Config::read(&mut settings);
        settings.finish().map(|()| config).map_err(|error| error.to_string())
    }

    #[test]
    fn a_short_file_is_enough() {
        let config =
            read("s3_url = \"https://s3.test:9000\"\ninternal_url = \"https://o.test:9443\"\nstate = \"/s\"").unwrap();
        assert_eq!(config.store, StoreUrl::Folder("/s/store".into()));
        assert_eq!(config.replaced_versions_kept, Duration::from_secs(24 * 3600));
        assert_eq!(config.pull_memory, 128 << 20);
    }

    #[test]
    fn every_mistake_is_told() {
        let text = "s3_url = \"s3.test\"\nstore = \"gs://x\"\nreplaced_versions_kept = \"soon\"\n[store_s3]\naccess_key_id = \"a\"\n";
        let error = read(text).unwrap_err();
        for part in [
            "origin.toml:1: `s3_url`",
            "origin.toml:2: `store`",
            "origin.toml:3: `replaced_versions_kept`",
            "`internal_url` is missing",
            "belong together",
        ] {
            assert!(error.contains(part), "{part} not in:\n{error}");
        }
    }
}
