//! What an earlier run left behind: a lock file of a process that is gone, or a server that outlived who started it.

use std::{fs, os::unix::ffi::OsStrExt, path::Path, time::Duration};

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
        if runs_in(pid, data) {
            return Err(ClusterError::InUse { dir: data.to_owned() });
        }
    }
    // Children of a postmaster that was killed may still write for a moment; without the lock file, nothing would keep a new
    // one from writing beside them.
    wait_until_empty(data).await?;
    if kill(pid, None) == Err(Errno::ESRCH) {
        // Postgres knows better than we what a lock file of a process that is gone is worth.
        return Ok(());
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

async fn wait_until_empty(data: &Path) -> Result<(), ClusterError> {
    let deadline = Instant::now() + PATIENCE;
    while has_servers(data) {
        if Instant::now() > deadline {
            return Err(ClusterError::InUse { dir: data.to_owned() });
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Whether any process of Postgres, a postmaster or its children, works in `data`, as far as we may know.
fn has_servers(data: &Path) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    processes.into_iter().any(|process| {
        let postgres = || {
            fs::read_link(process.join("exe")).is_ok_and(|exe| exe.file_name().is_some_and(|name| name == "postgres"))
        };
        fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == data) && postgres()
    })
}

/// The postmaster makes its data folder its working folder, and has it in its command line, which may be read even where root
/// may not look into other users' processes, as in containers; another process with a recycled id has neither.
fn runs_in(pid: Pid, data: &Path) -> bool {
    let named = || {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument == data.as_os_str().as_bytes())
    };
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data) || named()
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
