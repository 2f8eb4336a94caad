//! `umbel admin agent`

use clap::Subcommand;
use umbel_control_plane::api::Agent;

use super::Session;
use crate::{
    rest::segment,
    show::{self, Column},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List agents
    List,
    /// Put an agent out, at once and for good
    Revoke { id: String },
}

const COLUMNS: [Column<Agent>; 6] = [
    ("ID", |agent| agent.id.clone()),
    ("NAME", |agent| agent.name.clone()),
    ("ACCOUNT", |agent| agent.account.clone().unwrap_or_default()),
    ("DOMAIN", |agent| agent.trust_domain.clone()),
    ("RENEWED", |agent| show::time(agent.renewed_at)),
    ("REVOKED", |agent| agent.revoked_at.map(show::time).unwrap_or_default()),
];

impl Command {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::List => session.list("agents", &COLUMNS).await,
            Self::Revoke { id } => {
                session.delete(&format!("agents/{}", segment(&id)), &format!("membership of {id}")).await
            }
        }
    }
}
