//! What an earlier run left behind: a lock file of a process that is gone, or a server that outlived who started it.

use std::{fs, path::Path, time::Duration};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{Instant, sleep};

use super::ClusterError;

const PATIENCE: Duration = Duration::from_secs(15);

/// Leaves the data folder without a server and without `postmaster.pid`. The caller holds the folder's lock, so a server
/// that runs here has lost its owner.
pub(super) async fn clear(data: &Path) -> Result<(), ClusterError> {
    let pid_file = data.join("postmaster.pid");
    let Some(pid) = read_pid(&pid_file) else { return Ok(()) };
    if runs_in(pid, data) {
        tracing::info!(%pid, "stopping the Postgres of an earlier run");
        stop(pid, Signal::SIGINT).await;
        stop(pid, Signal::SIGQUIT).await;
    }
    match fs::remove_file(&pid_file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ClusterError::io(&pid_file)(error)),
        _ => Ok(()),
    }
}

fn read_pid(pid_file: &Path) -> Option<Pid> {
    let text = fs::read_to_string(pid_file).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    (pid > 1).then(|| Pid::from_raw(pid))
}

/// The postmaster makes its data folder its working folder; another process with a recycled id has another.
fn runs_in(pid: Pid, data: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data)
}

async fn stop(pid: Pid, signal: Signal) {
    let deadline = Instant::now() + PATIENCE;
    if kill(pid, signal).is_err() {
        return;
    }
    while kill(pid, None) != Err(Errno::ESRCH) && Instant::now() < deadline && !is_zombie(pid) {
        sleep(Duration::from_millis(50)).await;
    }
}

/// Ended, and nobody has asked how: as it happens in containers without an init process.
fn is_zombie(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}
