//! What a person keeps in `~/.config/umbel`: where the control plane and the S3 API are, and with what to log in there.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use umbel_service::config::Settings;

/// `~/.config/umbel`, or as `XDG_CONFIG_HOME` has it.
pub(crate) fn folder() -> anyhow::Result<PathBuf> {
    if let Some(home) = std::env::var_os("XDG_CONFIG_HOME").filter(|home| !home.is_empty()) {
        return Ok(PathBuf::from(home).join("umbel"));
    }
    let home = std::env::var_os("HOME").context("HOME is not set: where are your settings?")?;
    Ok(PathBuf::from(home).join(".config/umbel"))
}

/// The environment. What is not UTF-8 stands there with replacement characters: a setting like that is then told as a mistake.
pub(crate) fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (text(name), text(value)))
}

/// The settings in `file`, or in the usual place, where there may be none.
pub(crate) fn open(file: Option<&Path>, usual: &str) -> anyhow::Result<Settings> {
    const NO_ENVIRONMENT: &str = "UMBEL_NO_SUCH";
    match file {
        Some(file) => Ok(Settings::load(Some(file), NO_ENVIRONMENT, [])),
        None => {
            let usual = folder()?.join(usual);
            Ok(Settings::load(usual.exists().then_some(usual.as_path()), NO_ENVIRONMENT, []))
        }
    }
}

/// The first that is there, or an error that says how to give one.
pub(crate) fn choose(given: Option<String>, kept: Option<String>, what: &str, how: &str) -> anyhow::Result<String> {
    match given.or(kept).filter(|value| !value.is_empty()) {
        Some(value) => Ok(value),
        None => bail!("{what} is not known: {how}"),
    }
}
