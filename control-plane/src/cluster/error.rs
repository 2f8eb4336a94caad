use std::{
    io,
    path::{Path, PathBuf},
    process::ExitStatus,
};

/// Why there is no private Postgres; each is a line that an operator can act on.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No `initdb` and `postgres` on this machine.
    #[error("no PostgreSQL server programs found; install them (Debian, Ubuntu: apt-get install postgresql)")]
    NotInstalled,
    /// Started by root, and there is no other user to run Postgres as.
    #[error("Postgres does not run as root, and there is neither a user `postgres` nor `nobody` to run it as")]
    NoUser,
    /// Whom Postgres runs as cannot get into a folder above its data.
    #[error("user {user} cannot enter {}: choose a state folder that others may pass through, such as one in /var/lib", path.display())]
    Unreachable {
        /// The folder that stands in the way.
        path: PathBuf,
        /// Whom Postgres would run as.
        user: String,
    },
    /// Another process of ours runs this cluster.
    #[error("{} is in use by another umbel process", dir.display())]
    InUse {
        /// The cluster's folder.
        dir: PathBuf,
    },
    /// The disk is full.
    #[error("no space left on the disk for Postgres")]
    DiskFull,
    /// A program ended when it should not have.
    #[error("{program} failed ({status}): {reason}")]
    Failed {
        /// `initdb` or `postgres`.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The last thing it said.
        reason: String,
    },
    /// It runs but does not answer or obey.
    #[error("cannot talk to the private Postgres")]
    Connect(#[source] sqlx::Error),
    /// A folder or file cannot be made.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A child process cannot be started or waited for.
    #[error("cannot run a Postgres program")]
    Io(#[source] io::Error),
}

impl ClusterError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            if source.kind() == io::ErrorKind::StorageFull {
                return Self::DiskFull;
            }
            Self::File { path: path.to_owned(), source }
        }
    }

    /// From what a program wrote before it ended.
    pub(super) fn from_log(program: &'static str, status: ExitStatus, log: &str) -> Self {
        if log.contains("No space left on device") {
            return Self::DiskFull;
        }
        let telling = |line: &&str| line.contains("error:") || line.contains("FATAL") || line.contains("PANIC");
        let line = log.lines().find(telling).or_else(|| log.lines().rfind(|line| !line.trim().is_empty()));
        Self::Failed { program, status, reason: line.unwrap_or("it said nothing").trim().to_owned() }
    }
}
