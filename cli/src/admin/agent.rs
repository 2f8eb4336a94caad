//! `umbel admin agent`

use clap::Subcommand;

use super::Session;
use crate::rest::segment;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List agents
    List,
    /// Put an agent out, at once and for good
    Revoke { id: String },
}

impl Command {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::List => {
                let columns = [
                    ("ID", "id"),
                    ("NAME", "name"),
                    ("ACCOUNT", "account"),
                    ("DOMAIN", "trust_domain"),
                    ("RENEWED", "renewed_at"),
                    ("REVOKED", "revoked_at"),
                ];
                session.list("agents", &columns).await
            }
            Self::Revoke { id } => {
                session.delete(&format!("agents/{}", segment(&id)), &format!("membership of {id}")).await
            }
        }
    }
}
