//! Reader keys of a provider, in files.

use std::path::Path;

use anyhow::{Context, ensure};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::json;
use umbel_service::files;
use umbel_wire::token::TokenSigner;

use crate::show;

/// The file of a reader key. A secret.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReaderKey {
    pub(crate) id: String,
    /// Base64url.
    seed: String,
}

impl ReaderKey {
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is not a reader key", file.display()))
    }

    pub(crate) fn signer(&self) -> anyhow::Result<TokenSigner> {
        let seed = URL_SAFE_NO_PAD.decode(&self.seed).ok().and_then(|seed| <[u8; 32]>::try_from(seed).ok());
        Ok(TokenSigner::from_seed(&self.id, &seed.context("this reader key is damaged: its seed is not 32 bytes")?))
    }

    /// As the control plane knows it.
    pub(crate) fn public(&self) -> anyhow::Result<String> {
        Ok(URL_SAFE_NO_PAD.encode(self.signer()?.public()))
    }
}

pub(super) fn make(id: String, output: &Path, json: bool) -> anyhow::Result<()> {
    ensure!(!output.exists(), "{} is there already", output.display());
    let key = ReaderKey { id, seed: URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()) };
    files::replace(output, &serde_json::to_vec(&key)?).with_context(|| format!("cannot write {}", output.display()))?;
    let public = key.public()?;
    if json { show::json(&json!({ "id": key.id, "public_key": public })) } else { show::line(public) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.json");
        make("k1".into(), &file, true).unwrap();
        let key = ReaderKey::read(&file).unwrap();
        assert_eq!(key.signer().unwrap().kid(), "k1");
        assert!(make("k1".into(), &file, true).is_err());
        std::fs::write(&file, r#"{"id":"k","seed":"AA"}"#).unwrap();
        assert!(ReaderKey::read(&file).unwrap().signer().is_err());
    }
}
