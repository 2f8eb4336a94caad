//! `umbel admin host`

use clap::Subcommand;
use reqwest::Method;
use serde_json::json;

use super::Session;
use crate::rest::segment;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Let a site answer on a host name
    Add { site: String, host: String },
    /// Take a host name from a site
    Remove { site: String, host: String },
}

impl Command {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let path = |site: &str, host: &str| format!("sites/{}/hosts/{}", segment(site), segment(host));
        match self {
            Self::Add { site, host } => session.send(Method::PUT, &path(&site, &host), &json!({})).await,
            Self::Remove { site, host } => session.delete(&path(&site, &host), &host).await,
        }
    }
}
