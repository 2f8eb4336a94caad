//! Settings of the control plane.

use std::{fmt, net::SocketAddr, time::Duration};

use umbel_service::config::{ConfigError, Settings};

use crate::state::Lifetimes;

/// Prefix of the environment variables.
pub const ENVIRONMENT: &str = "UMBEL_CONTROL_PLANE";

/// A checked configuration.
#[derive(Clone)]
pub struct Config {
    /// gRPC, REST and agents' enrolment, over TLS. Port 0 picks one.
    pub listen: SocketAddr,
    /// Health and metrics, plain HTTP.
    pub ops_listen: Option<SocketAddr>,
    /// Base URL under which everyone reaches `listen`. Its host is in the control plane's certificate.
    pub public_url: String,
    /// More names and IP addresses for the certificate.
    pub names: Vec<String>,
    /// `postgres://...`; a secret if it holds a password.
    pub database_url: String,
    /// Connections to Postgres at most.
    pub database_connections: u32,
    /// How long what is issued lives.
    pub lifetimes: Lifetimes,
}

impl Config {
    /// Takes the keys `listen`, `ops_listen`, `public_url`, `names`, `database_url`, `database_connections`,
    /// `certificate_lifetime_s` and `membership_lifetime_s`.
    ///
    /// # Errors
    /// Every mistake at once.
    pub fn from_settings(mut settings: Settings) -> Result<Self, ConfigError> {
        let unset = SocketAddr::from(([0, 0, 0, 0], 0));
        let config = Self {
            listen: settings.required("listen", unset),
            ops_listen: settings.optional("ops_listen"),
            public_url: settings.required("public_url", String::new()),
            names: settings.list("names"),
            database_url: settings.required("database_url", String::new()),
            database_connections: settings.or("database_connections", 20),
            lifetimes: Lifetimes {
                certificate: Duration::from_secs(settings.or("certificate_lifetime_s", 24 * 3600)),
                membership: Duration::from_secs(settings.or("membership_lifetime_s", 7 * 24 * 3600)),
            },
        };
        config.check(&mut settings);
        settings.finish()?;
        Ok(config)
    }

    fn check(&self, settings: &mut Settings) {
        let url = url::Url::parse(&self.public_url).ok();
        if !self.public_url.is_empty() && !url.is_some_and(|url| url.scheme() == "https" && url.has_host()) {
            settings.reject_key("public_url", "must be an https:// URL");
        }
        if !self.database_url.is_empty() && crate::database::options(&self.database_url).is_err() {
            settings.reject_key("database_url", "must be a postgres:// URL");
        }
        for name in &self.names {
            if crate::sites::check_host(name).is_err() {
                settings.reject_key("names", format!("`{name}` is neither a DNS name nor an IP address"));
            }
        }
        // Two for requests, one for the listener.
        if self.database_connections < 3 {
            settings.reject_key("database_connections", "at least 3");
        }
        let (minute, year) = (Duration::from_secs(60), Duration::from_secs(366 * 24 * 3600));
        let lifetimes = [
            ("certificate_lifetime_s", self.lifetimes.certificate),
            ("membership_lifetime_s", self.lifetimes.membership),
        ];
        for (key, lifetime) in lifetimes {
            if !(minute..=year).contains(&lifetime) {
                settings.reject_key(key, "from 60 s to a year");
            }
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("ops_listen", &self.ops_listen)
            .field("public_url", &self.public_url)
            .field("names", &self.names)
            .field("lifetimes", &self.lifetimes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        Config::from_settings(Settings::parse("c.toml", text, ENVIRONMENT, []))
    }

    #[test]
    fn mistakes_are_named_together() {
        let text = "listen = \"x\"\npublic_url = \"http://c\"\nnames = [\"a b\"]\ntypo = 1\ncertificate_lifetime_s = 1";
        let ConfigError(mistakes) = read(text).unwrap_err();
        assert_eq!(mistakes.len(), 6, "{mistakes:?}");
    }

    #[test]
    fn defaults_fill_the_rest() {
        let text = "listen = \"127.0.0.1:0\"\npublic_url = \"https://c:1\"\ndatabase_url = \"postgres:///umbel\"";
        let config = read(text).unwrap();
        assert_eq!(config.lifetimes.certificate, Duration::from_secs(86_400));
        assert!(!format!("{config:?}").contains("postgres"));
    }
}
