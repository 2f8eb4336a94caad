//! `umbel grant`: how a provider lets a reader in.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::json;
use umbel_service::{files, unix_now};
use umbel_wire::token::{Grant, TokenSigner};

use crate::show;

/// What `umbel grant` takes.
#[derive(Debug, Subcommand)]
pub(crate) enum GrantCommand {
    /// Make a reader key: the file stays with you, the public half goes to `umbel admin key reader set`
    NewKey {
        /// The name that grants call it by
        id: String,
        /// Where to keep it
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Sign a grant: its bearer may read part of a site
    Create {
        /// The reader key, as `umbel grant new-key` made it
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The site
        #[arg(long, value_name = "NAME")]
        site: String,
        /// Paths it opens: this one and those below it
        #[arg(long, default_value = "/")]
        prefix: String,
        /// How long it opens them, e.g. 10min or 7days
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
        expires_in: Duration,
    },
}

/// The file of a reader key. A secret.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReaderKey {
    id: String,
    /// Base64url.
    seed: String,
}

impl GrantCommand {
    pub(crate) fn answers_as_json(&self) -> bool {
        matches!(self, Self::NewKey { json: true, .. })
    }

    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::NewKey { id, output, json } => new_key(id, &output, json),
            Self::Create { key, site, prefix, expires_in } => show::line(create(&key, site, prefix, expires_in)?),
        }
    }
}

fn new_key(id: String, output: &Path, json: bool) -> anyhow::Result<()> {
    ensure!(!output.exists(), "{} is there already", output.display());
    let seed: [u8; 32] = rand::random();
    let signer = TokenSigner::from_seed(id.clone(), &seed);
    let key = ReaderKey { id, seed: URL_SAFE_NO_PAD.encode(seed) };
    files::replace(output, &serde_json::to_vec(&key)?).with_context(|| format!("cannot write {}", output.display()))?;
    let public = URL_SAFE_NO_PAD.encode(signer.public());
    if json { show::json(&json!({ "id": key.id, "public_key": public })) } else { show::line(public) }
}

fn create(key: &Path, site: String, prefix: String, expires_in: Duration) -> anyhow::Result<String> {
    ensure!(prefix.starts_with('/'), "the prefix begins with /");
    let text = std::fs::read(key).with_context(|| format!("cannot read {}", key.display()))?;
    let key: ReaderKey = serde_json::from_slice(&text).context("this is not a reader key")?;
    let seed = URL_SAFE_NO_PAD.decode(&key.seed).ok().and_then(|seed| <[u8; 32]>::try_from(seed).ok());
    let signer = TokenSigner::from_seed(key.id, &seed.context("this is not a reader key")?);
    let now = unix_now();
    let grant = Grant { site, prefix, not_before: now, expires: now.saturating_add(expires_in.as_secs()) };
    Ok(grant.sign(&signer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use umbel_wire::token::KeySet;

    #[test]
    fn a_new_key_signs_grants_that_hold() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.json");
        new_key("k1".into(), &file, true).unwrap();
        let kept: ReaderKey = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let seed: [u8; 32] = URL_SAFE_NO_PAD.decode(&kept.seed).unwrap().try_into().unwrap();
        let public = *TokenSigner::from_seed("k1", &seed).public();
        let keys = KeySet::new([("k1", public.as_slice())]);
        let token = create(&file, "site".into(), "/a".into(), Duration::from_secs(60)).unwrap();
        assert!(Grant::verify(&token, &keys, "site", "/a/b", unix_now()).is_ok());
        assert!(Grant::verify(&token, &keys, "site", "/b", unix_now()).is_err());
        assert!(new_key("k1".into(), &file, true).is_err());
    }
}
