//! `umbel admin node`

use clap::Subcommand;

use super::Session;
use crate::rest::segment;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List origins and edges
    List,
    /// Put a node out of the installation
    Remove { id: String },
}

impl Command {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::List => {
                let columns = [
                    ("ID", "id"),
                    ("ROLE", "role"),
                    ("PUBLIC", "public_url"),
                    ("INTERNAL", "internal_url"),
                    ("S3", "s3_url"),
                    ("RENEWED", "renewed_at"),
                    ("BATCH", "last_batch"),
                ];
                session.list("nodes", &columns).await
            }
            Self::Remove { id } => session.delete(&format!("nodes/{}", segment(&id)), &id).await,
        }
    }
}
