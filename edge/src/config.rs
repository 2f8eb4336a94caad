//! What an operator sets, checked and typed.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use bytesize::ByteSize;
use umbel_service::{
    config::{Said, Settings},
    listen::Rules,
    telemetry::LogLevel,
};
use umbel_wire::control::Addresses;

mod doors;

use crate::{AccessLogFormat, AccessLogTarget};
pub use doors::LIVE;

const MIB: u64 = 1024 * 1024;

/// Settings of an edge; sizes in bytes. In a file they are written as `256MiB` or as plain numbers.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of everything the edge keeps.
    pub state: PathBuf,
    /// Join token, needed the first time only (`join_token`).
    pub join_token: Option<String>,
    /// Readers, agents' gRPC and agents' chunks: TLS.
    pub public_listen: SocketAddr,
    /// Readers over plain HTTP (`plain_listen`); none: only over TLS.
    pub plain_listen: Option<SocketAddr>,
    /// Other edges: mutual TLS.
    pub internal_listen: SocketAddr,
    /// iroh relay: TLS.
    pub relay_listen: SocketAddr,
    /// QUIC address discovery: UDP.
    pub relay_quic_listen: SocketAddr,
    /// Health and metrics: plain HTTP.
    pub ops_listen: SocketAddr,
    /// Where others reach this edge.
    pub addresses: Addresses,
    /// Limits on memory, disk and clients.
    pub limits: Limits,
    /// What the doors go by: limits on connections, trusted proxies.
    pub rules: Rules,
    /// Folder of the certificates of sites (`certificates`): pairs `NAME.crt` and `NAME.key`.
    pub certificates: Option<PathBuf>,
    /// Which log lines are written (`log_level`); none: as `UMBEL_LOG` says.
    pub log_level: Option<LogLevel>,
    /// What all this was made of, to compare it with what the file says later.
    pub said: Said,
    /// A line for each request of a reader goes there (`access_log`); none: nowhere.
    pub access_log: Option<AccessLogTarget>,
    /// How those lines look (`access_log_format`).
    pub access_log_format: AccessLogFormat,
}

/// What an edge may use, and how much it takes from clients.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Ciphertext kept in memory (`memory_cache`).
    pub memory_cache: u64,
    /// Ciphertext kept on disk (`disk_cache`).
    pub disk_cache: u64,
    /// Decrypted chunks kept in memory (`plaintext_cache`).
    pub plaintext_cache: u64,
    /// Usage that waits for the control plane (`spool_limit`); beyond it agents' receipts are refused.
    pub spool: u64,
    /// Bytes per second to readers and agents together (`uplink_limit`); none: no limit.
    pub uplink: Option<u64>,
    /// Sessions of agents (`max_sessions`).
    pub sessions: usize,
    /// Answers to "which version is current" kept on disk (`lookup_entries`).
    pub lookup_entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_cache: 128 * MIB,
            disk_cache: 10 * 1024 * MIB,
            plaintext_cache: 128 * MIB,
            spool: 1024 * MIB,
            uplink: None,
            sessions: 10_000,
            lookup_entries: 200_000,
        }
    }
}

impl Limits {
    fn read(settings: &mut Settings) -> Self {
        let default = Self::default();
        Self {
            memory_cache: size(settings, "memory_cache", default.memory_cache),
            disk_cache: size(settings, "disk_cache", default.disk_cache),
            plaintext_cache: size(settings, "plaintext_cache", default.plaintext_cache),
            spool: size(settings, "spool_limit", default.spool),
            uplink: settings.optional::<ByteSize>("uplink_limit").map(|rate| rate.0),
            sessions: settings.or("max_sessions", default.sessions),
            lookup_entries: settings.or("lookup_entries", default.lookup_entries),
        }
    }
}

impl Config {
    /// Takes an edge's keys from `settings`; whether all were good says [`Settings::finish`].
    pub fn read(settings: &mut Settings) -> Self {
        let any = |port| SocketAddr::from(([0, 0, 0, 0], port));
        let relay_quic_listen = settings.or("relay_quic_listen", any(7842));
        let addresses = Addresses {
            public_url: url(settings, "public_url"),
            internal_url: url(settings, "internal_url"),
            relay_url: url(settings, "relay_url"),
            relay_quic_port: settings.or("relay_quic_port", u32::from(relay_quic_listen.port())),
            s3_url: String::new(),
        };
        let mut config = Self {
            state: settings.path("state", Path::new("/var/lib/umbel/edge")),
            join_token: settings.optional("join_token"),
            public_listen: settings.or("public_listen", any(443)),
            plain_listen: settings.optional("plain_listen"),
            internal_listen: settings.or("internal_listen", any(7440)),
            relay_listen: settings.or("relay_listen", any(7443)),
            relay_quic_listen,
            ops_listen: settings.or("ops_listen", SocketAddr::from(([127, 0, 0, 1], 9440))),
            addresses,
            limits: Limits::read(settings),
            rules: doors::read(settings),
            certificates: settings.optional::<String>("certificates").map(PathBuf::from),
            log_level: settings.optional("log_level"),
            said: Said::default(),
            access_log: settings.optional("access_log"),
            access_log_format: settings.or("access_log_format", AccessLogFormat::default()),
        };
        config.said = settings.said();
        config.check(settings);
        config
    }

    fn check(&self, settings: &mut Settings) {
        if self.limits.uplink == Some(0) {
            settings.reject_key("uplink_limit", "must be more than 0; leave it out for no limit");
        }
        if self.limits.disk_cache < 64 * MIB {
            settings.reject_key("disk_cache", "must be at least 64MiB");
        }
        if self.limits.sessions == 0 {
            settings.reject_key("max_sessions", "must be more than 0");
        }
    }
}

fn size(settings: &mut Settings, key: &str, default: u64) -> u64 {
    settings.or(key, ByteSize(default)).0
}

fn url(settings: &mut Settings, key: &str) -> String {
    let url: String = settings.required(key, "https://placeholder".into());
    let parsed = url.parse::<http::Uri>();
    if !parsed.is_ok_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some()) {
        settings.reject_key(key, format!("must be an https URL (found `{url}`)"));
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Config, Result<(), umbel_service::config::ConfigError>) {
        let mut settings = Settings::parse("edge.toml", text, "UMBEL_EDGE", []);
        let config = Config::read(&mut settings);
        (config, settings.finish())
    }

    const URLS: &str = "public_url = \"https://e:1\"\ninternal_url = \"https://e:2\"\nrelay_url = \"https://e:3\"\n";

    #[test]
    fn sizes_are_human_and_urls_required() {
        let (config, outcome) = read(&format!("{URLS}disk_cache = \"1GiB\"\nuplink_limit = \"50MB\"\n"));
        outcome.unwrap();
        assert_eq!((config.limits.disk_cache, config.limits.uplink), (1 << 30, Some(50_000_000)));
        assert_eq!(config.addresses.relay_quic_port, 7842);
    }

    /// The file that is shipped is read as it is, and again with what is commented out in it.
    #[test]
    fn the_example_explains_every_key() {
        let text = include_str!("../../deploy/edge.toml");
        let all: String = text.lines().map(|line| uncommented(line).to_owned() + "\n").collect();
        for text in [text, &all] {
            read(text).1.unwrap();
        }
        let mut settings = Settings::parse("edge.toml", &all, "UMBEL_EDGE", []);
        let said = Config::read(&mut settings).said;
        let keys: std::collections::BTreeSet<String> = settings.asked().map(str::to_owned).collect();
        assert_eq!(said.differs_in(&Said::default()), keys, "keys that the code knows");
        for key in LIVE {
            assert!(keys.contains(key), "{key} is no key");
        }
    }

    /// A key that is commented out.
    fn uncommented(line: &str) -> &str {
        let setting =
            line.strip_prefix("# ").filter(|rest| rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')));
        setting.unwrap_or(line)
    }

    #[test]
    fn what_needs_a_restart_is_known() {
        let (before, _) = read(&format!("{URLS}drain = \"5s\"\n"));
        let (after, outcome) = read(&format!("{URLS}drain = \"6s\"\nmax_sessions = 5\n"));
        outcome.unwrap();
        let changed = before.said.differs_in(&after.said);
        assert_eq!(changed.iter().map(String::as_str).collect::<Vec<_>>(), ["drain", "max_sessions"]);
    }

    #[test]
    fn mistakes_are_named_together() {
        let (_, outcome) = read("public_url = \"http://e\"\nuplink_limit = 0\nmemory_cache = \"lots\"\n");
        let text = outcome.unwrap_err().to_string();
        for word in ["public_url", "internal_url", "relay_url", "uplink_limit", "memory_cache"] {
            assert!(text.contains(word), "{word} in {text}");
        }
    }
}
