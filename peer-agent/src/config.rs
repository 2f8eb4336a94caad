//! What the user decides: where state lives, how much the agent may use, with whom it shares.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

use umbel_service::config::Settings;

/// Prefix of environment variables.
pub const ENVIRONMENT_PREFIX: &str = "UMBEL_AGENT";

const DEFAULT_QUOTA: Bytes = Bytes(20 << 30);
const DEFAULT_UPLOAD_SLOTS: usize = 32;

/// An amount of bytes in human units: `0`, `500K`, `10 MiB`, `2GB`. K, M, G are powers of 1000; Ki, Mi, Gi of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = NotBytes;

    fn from_str(text: &str) -> Result<Self, NotBytes> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| NotBytes)?;
        let factor = match unit.trim().trim_end_matches(['B', 'b']).to_ascii_lowercase().as_str() {
            "" => 1,
            "k" => 1000,
            "m" => 1_000_000,
            "g" => 1_000_000_000,
            "t" => 1_000_000_000_000,
            "ki" => 1 << 10,
            "mi" => 1 << 20,
            "gi" => 1 << 30,
            "ti" => 1 << 40,
            _ => return Err(NotBytes),
        };
        number.checked_mul(factor).map(Self).ok_or(NotBytes)
    }
}

/// Not an amount of bytes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected an amount of bytes such as `0`, `500K` or `10MiB`")]
pub struct NotBytes;

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The agent's configuration, validated.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of the agent's identity, index and ciphertext; its owner's alone.
    pub state: PathBuf,
    /// Bytes per second to peers; 0: any number.
    pub upload_rate: u64,
    /// Bytes per second from edges and peers together; 0: any number.
    pub download_rate: u64,
    /// Bytes of ciphertext that may lie in the state folder; 0: none, so that nothing can be fetched.
    pub disk_quota: u64,
    /// Whether to exchange chunks with peers at all.
    pub peers: bool,
    /// Whether peers may be reached through the edges' relays where no direct way is found.
    pub relay: bool,
    /// UDP addresses for peers; empty: every interface, any port.
    pub bind: Vec<SocketAddr>,
    /// Peers that are served at the same time.
    pub upload_slots: usize,
    /// Whether versions of earlier runs are offered to peers: a background service's part.
    pub offer_held: bool,
}

impl Config {
    /// The defaults, with state in `state`.
    pub fn default_in(state: impl Into<PathBuf>) -> Self {
        Self {
            state: state.into(),
            upload_rate: 0,
            download_rate: 0,
            disk_quota: DEFAULT_QUOTA.0,
            peers: true,
            relay: true,
            bind: Vec::new(),
            upload_slots: DEFAULT_UPLOAD_SLOTS,
            offer_held: true,
        }
    }

    /// Takes the agent's keys from `settings`; mistakes are noted there. `state` is the folder unless a key says otherwise.
    ///
    /// Keys: `state`, `peers`, `relay`, `bind` (list), `limits.upload-rate`, `limits.download-rate`, `limits.disk`,
    /// `limits.upload-slots`.
    pub fn read(settings: &mut Settings, state: &Path) -> Self {
        let defaults = Self::default_in(state);
        let config = Self {
            state: settings.path("state", state),
            upload_rate: settings.or("limits.upload-rate", Bytes(defaults.upload_rate)).0,
            download_rate: settings.or("limits.download-rate", Bytes(defaults.download_rate)).0,
            disk_quota: settings.or("limits.disk", Bytes(defaults.disk_quota)).0,
            peers: settings.or("peers", defaults.peers),
            relay: settings.or("relay", defaults.relay),
            bind: settings.list("bind"),
            upload_slots: settings.or("limits.upload-slots", defaults.upload_slots),
            offer_held: defaults.offer_held,
        };
        if config.upload_slots == 0 {
            settings.reject_key("limits.upload-slots", "must be at least 1; `peers = false` switches sharing off");
        }
        config
    }

    /// The unix socket of the background service's local API.
    pub fn socket(&self) -> PathBuf {
        socket_in(&self.state)
    }

    /// For an agent that talks to this machine only, as in demos and tests.
    #[must_use]
    pub fn on_loopback(mut self) -> Self {
        self.bind = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        self
    }
}

pub(crate) fn socket_in(state: &Path) -> PathBuf {
    state.join("agent.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<u64>) {
        assert_eq!(text.parse::<Bytes>().ok().map(|bytes| bytes.0), expected, "{text}");
    }

    #[test]
    fn amounts_of_bytes() {
        check("0", Some(0));
        check("500K", Some(500_000));
        check("10 MiB", Some(10 << 20));
        check("2GB", Some(2_000_000_000));
        check("", None);
        check("-1", None);
        check("10 miles", None);
        check("99999999999999T", None);
        // What 0 means depends on the key.
        assert!(!NotBytes.to_string().contains("limit"));
    }

    #[test]
    fn mistakes_are_named_where_they_stand() {
        let text = "peers = true\n[limits]\nupload-slots = 0\ndisk = \"much\"\n";
        let mut settings = Settings::parse("agent.toml", text, ENVIRONMENT_PREFIX, []);
        Config::read(&mut settings, Path::new("/s"));
        let umbel_service::config::ConfigError(mistakes) = settings.finish().unwrap_err();
        let places: Vec<&str> = mistakes.iter().map(|mistake| mistake.place.as_str()).collect();
        assert_eq!(places, ["agent.toml:4", "agent.toml:3"]);
    }

    #[test]
    fn every_key_is_read() {
        let text = "peers = false\nrelay = false\nbind = [\"127.0.0.1:9\"]\n\
                    [limits]\nupload-rate = \"1M\"\ndownload-rate = \"2M\"\ndisk = \"1G\"\nupload-slots = 3\n";
        let mut settings = Settings::parse("agent.toml", text, ENVIRONMENT_PREFIX, []);
        let config = Config::read(&mut settings, Path::new("/s"));
        settings.finish().unwrap();
        assert_eq!(
            (config.upload_rate, config.download_rate, config.disk_quota),
            (1_000_000, 2_000_000, 1_000_000_000)
        );
        assert_eq!((config.peers, config.relay, config.bind.len(), config.upload_slots), (false, false, 1, 3));
    }
}
