//! Logs: human-readable or JSON on standard error, filtered by `UMBEL_LOG` (default `info`).

use std::{
    str::FromStr,
    sync::{Mutex, PoisonError},
};

use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs, one object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("expected `text` or `json`"),
        }
    }
}

static FILTER: Mutex<Option<reload::Handle<EnvFilter, Registry>>> = Mutex::new(None);

/// Installs the process-wide subscriber; a second call changes nothing.
pub fn init(format: LogFormat) {
    let (filter, handle) = reload::Layer::new(default_filter());
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    let installed = match format {
        LogFormat::Text => registry.with(layer.with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(layer.json()).try_init(),
    };
    if installed.is_ok() {
        *FILTER.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
    }
}

fn default_filter() -> EnvFilter {
    EnvFilter::try_from_env("UMBEL_LOG").unwrap_or_else(|_| EnvFilter::new("info"))
}

/// Which lines are written: `info`, `debug`, or by module: `info,umbel_edge=debug`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLevel(String);

impl FromStr for LogLevel {
    type Err = tracing_subscriber::filter::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        EnvFilter::builder().parse(text).map(|_| Self(text.to_owned()))
    }
}

/// From now on these lines are written; none: those that `UMBEL_LOG` names.
pub fn set_level(level: Option<&LogLevel>) {
    let filter = level.map_or_else(default_filter, |LogLevel(text)| EnvFilter::new(text));
    if let Some(handle) = &*FILTER.lock().unwrap_or_else(PoisonError::into_inner)
        && let Err(error) = handle.reload(filter)
    {
        tracing::warn!(%error, "the log level stays as it is");
    }
}
