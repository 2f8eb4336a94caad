//! The machine's `initdb` and `postgres`: where they are and how they are called.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::{Child, Command};

use super::{ClusterError, Durability, Owner, SUPERUSER};

/// Debian and Ubuntu keep the server programs of each version out of the PATH.
const VERSIONED: &str = "/usr/lib/postgresql";
const LOG_LIMIT: u64 = 16 << 20;

#[derive(Debug)]
pub(super) struct Programs {
    bin: PathBuf,
}

impl Programs {
    pub(super) fn find() -> Result<Self, ClusterError> {
        let path = env::var_os("PATH").unwrap_or_default();
        let on_path = env::split_paths(&path).filter_map(resolve);
        on_path
            .chain(versioned(Path::new(VERSIONED)))
            .find(|bin| has_both(bin))
            .map(|bin| Self { bin })
            .ok_or(ClusterError::NotInstalled)
    }

    pub(super) async fn initdb(
        &self,
        owner: Option<&Owner>,
        home: &Path,
        data: &Path,
        durability: Durability,
    ) -> Result<(), ClusterError> {
        let mut command = self.command("initdb", owner, home);
        command.arg("-D").arg(data);
        command.args(["-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-instructions"]);
        if durability == Durability::Disposable {
            command.arg("--no-sync");
        }
        let output = command.kill_on_drop(true).output().await.map_err(ClusterError::Io)?;
        if output.status.success() {
            return Ok(());
        }
        Err(ClusterError::from_log("initdb", output.status, &String::from_utf8_lossy(&output.stderr)))
    }

    /// Starts the postmaster in a process group of its own: Ctrl-C in a terminal is for us to act on, in our order.
    pub(super) fn postgres(
        &self,
        owner: Option<&Owner>,
        home: &Path,
        data: &Path,
        socket_dir: &Path,
        durability: Durability,
    ) -> Result<Child, ClusterError> {
        let log = open_log(home)?;
        let mut command = self.command("postgres", owner, home);
        command.arg("-D").arg(data).arg("-k").arg(socket_dir);
        for setting in ["listen_addresses=", "port=5432", "unix_socket_permissions=0700", "log_checkpoints=off"] {
            command.args(["-c", setting]);
        }
        if durability == Durability::Disposable {
            for setting in ["fsync=off", "synchronous_commit=off", "full_page_writes=off"] {
                command.args(["-c", setting]);
            }
        }
        command.process_group(0).stdout(Stdio::null()).stderr(log);
        command.spawn().map_err(ClusterError::Io)
    }

    fn command(&self, program: &str, owner: Option<&Owner>, home: &Path) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(home).stdin(Stdio::null()).env("LC_ALL", "C");
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        if let Some(owner) = owner {
            command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
        }
        command
    }
}

/// The last kilobytes of the server's log.
pub(super) fn log_tail(home: &Path) -> String {
    let log = fs::read(home.join("postgres.log")).unwrap_or_default();
    let from = log.len().saturating_sub(8 << 10);
    String::from_utf8_lossy(&log[from..]).into_owned()
}

fn open_log(home: &Path) -> Result<fs::File, ClusterError> {
    let path = home.join("postgres.log");
    let big = fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_LIMIT);
    let mut options = fs::OpenOptions::new();
    options.create(true).write(true).append(!big).truncate(big);
    options.open(&path).map_err(ClusterError::io(&path))
}

/// Postgres finds its other files beside the real program, not beside a link to it.
fn resolve(folder: PathBuf) -> Option<PathBuf> {
    Some(folder.join("initdb").canonicalize().ok()?.parent()?.to_owned())
}

fn has_both(bin: &Path) -> bool {
    ["initdb", "postgres"].iter().all(|program| bin.join(program).is_file())
}

/// The versions' `bin` folders, newest first.
fn versioned(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, bin)| bin).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_version_first() {
        let root = tempfile::tempdir().unwrap();
        for version in ["9", "15", "17", "not-a-version"] {
            fs::create_dir_all(root.path().join(version).join("bin")).unwrap();
        }
        let expected = ["17", "15", "9"].map(|version| root.path().join(version).join("bin"));
        assert_eq!(versioned(root.path()), expected);
    }
}
