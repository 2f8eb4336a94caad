//! `umbel admin node`

use clap::Subcommand;
use umbel_control_plane::api::Node;

use super::Session;
use crate::{
    rest::segment,
    show::{self, Column},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List origins and edges
    List,
    /// Put a node out of the installation
    Remove { id: String },
}

const COLUMNS: [Column<Node>; 7] = [
    ("ID", |node| node.id.to_string()),
    ("ROLE", |node| node.role.clone()),
    ("PUBLIC", |node| node.public_url.clone()),
    ("INTERNAL", |node| node.internal_url.clone()),
    ("S3", |node| node.s3_url.clone()),
    ("RENEWED", |node| show::time(node.renewed_at)),
    ("BATCH", |node| node.last_batch.map(|batch| batch.to_string()).unwrap_or_default()),
];

impl Command {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::List => session.list("nodes", &COLUMNS).await,
            Self::Remove { id } => session.delete(&format!("nodes/{}", segment(&id)), &id).await,
        }
    }
}
