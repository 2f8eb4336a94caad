//! The demo's own Postgres, held by a process of its own: it ends with its supervisor, and takes the server with it.

use std::path::PathBuf;

use clap::Args;
use umbel_control_plane::cluster::Cluster;
use umbel_service::{files, telemetry};

use crate::{runtime, serve::ServiceArgs};

/// `umbel demo-postgres`: internal.
#[derive(Debug, Args)]
pub(crate) struct PostgresArgs {
    /// Folder of the cluster
    #[arg(long)]
    folder: PathBuf,
    /// Where to write the URL when it is ready
    #[arg(long)]
    url_file: PathBuf,
    #[command(flatten)]
    service: ServiceArgs,
}

impl PostgresArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        telemetry::init(telemetry::LogFormat::default());
        runtime::server(async {
            let shutdown = self.service.shutdown()?;
            let mut cluster = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                cluster = Cluster::start(&self.folder) => cluster?,
            };
            files::replace(&self.url_file, cluster.url().as_bytes())?;
            tokio::select! {
                () = shutdown.cancelled() => {}
                ended = cluster.wait() => anyhow::bail!("Postgres ended by itself: {}", ended?),
            }
            cluster.stop().await?;
            Ok(())
        })
    }
}
