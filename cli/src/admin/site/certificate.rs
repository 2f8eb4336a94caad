//! `umbel admin site certificate`

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use reqwest::Method;
use umbel_control_plane::api::NewCertificate;

use super::Session;
use crate::rest::segment;

#[derive(Debug, Subcommand)]
pub(in crate::admin) enum Command {
    /// Set it, or replace the one that is there: edges use it from the next connection on
    Set {
        site: String,
        /// PEM file: the site's certificate, then each issuer but the root
        #[arg(long, value_name = "FILE")]
        chain: PathBuf,
        /// PEM file: its private key, not encrypted
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Show what it is for, and when it ends
    Show { site: String },
    /// Remove it: edges show the installation's again
    Remove { site: String },
}

impl Command {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let path = |site: &str| format!("sites/{}/certificate", segment(site));
        match self {
            Self::Set { site, chain, key } => {
                let new = NewCertificate { chain: text(&chain)?, key: text(&key)? };
                session.send(Method::PUT, &path(&site), &new).await
            }
            Self::Show { site } => session.one(&path(&site)).await,
            Self::Remove { site } => session.delete(&path(&site), &format!("the certificate of {site}")).await,
        }
    }
}

fn text(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}
