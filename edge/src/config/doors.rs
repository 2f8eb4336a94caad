//! How an edge lets clients in. All of this can change while it runs: see [`LIVE`].

use std::time::Duration;

use bytesize::ByteSize;
use umbel_service::{
    config::Settings,
    listen::{Limits, Proxies, Rules},
};

/// The keys that a running edge takes over when it is told to read its file again; the others need a restart.
pub const LIVE: [&str; 13] = [
    "certificates",
    "drain",
    "forwarded_field",
    "header_timeout",
    "keep_alive_timeout",
    "log_level",
    "max_connections",
    "max_connections_per_client",
    "max_header_size",
    "min_rate",
    "min_rate_grace",
    "proxy_protocol",
    "trusted_proxies",
];

/// Takes the keys of what listeners go by.
pub(super) fn read(settings: &mut Settings) -> Rules {
    let rules = Rules { limits: limits(settings), proxies: proxies(settings) };
    check(&rules, settings);
    rules
}

fn limits(settings: &mut Settings) -> Limits {
    let default = Limits::default();
    let size = settings.or("max_header_size", ByteSize(default.header_bytes as u64)).0;
    Limits {
        connections: settings.or("max_connections", default.connections),
        connections_per_client: settings.optional("max_connections_per_client"),
        header_timeout: duration(settings, "header_timeout", default.header_timeout),
        keep_alive_timeout: duration(settings, "keep_alive_timeout", default.keep_alive_timeout),
        min_rate: settings.or("min_rate", ByteSize(default.min_rate)).0,
        min_rate_grace: duration(settings, "min_rate_grace", default.min_rate_grace),
        header_bytes: usize::try_from(size).unwrap_or(usize::MAX),
        drain: duration(settings, "drain", default.drain),
    }
}

fn proxies(settings: &mut Settings) -> Proxies {
    Proxies {
        trusted: settings.list("trusted_proxies"),
        protocol: settings.or("proxy_protocol", false),
        field: settings.or("forwarded_field", Proxies::default().field),
    }
}

fn check(rules: &Rules, settings: &mut Settings) {
    let Rules { limits, proxies } = rules;
    let counts = [
        ("max_connections", limits.connections),
        ("max_connections_per_client", limits.connections_per_client.unwrap_or(1)),
    ];
    for (key, _) in counts.into_iter().filter(|(_, limit)| *limit == 0) {
        settings.reject_key(key, "must be more than 0");
    }
    let times = [
        ("header_timeout", limits.header_timeout),
        ("keep_alive_timeout", limits.keep_alive_timeout),
        ("min_rate_grace", limits.min_rate_grace),
    ];
    for (key, _) in times.into_iter().filter(|(_, time)| time.is_zero()) {
        settings.reject_key(key, "must be more than 0");
    }
    if !(8 * 1024..=16 * 1024 * 1024).contains(&limits.header_bytes) {
        settings.reject_key("max_header_size", "must be from 8KiB to 16MiB");
    }
    if proxies.protocol && proxies.trusted.is_empty() {
        settings.reject_key("proxy_protocol", "is only read from those in `trusted_proxies`, and there are none");
    }
}

fn duration(settings: &mut Settings, key: &str, default: Duration) -> Duration {
    settings.or(key, humantime::Duration::from(default)).into()
}
