//! The folder in which a demo lives: ours by a marker, used by one demo at a time, dropped only when asked to.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use umbel_service::files;

use super::ports::USUAL_BASE;

const MARKER: &str = "umbel-demo.json";

/// The marker's content: what has to stay as it is while the state is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    /// Of this layout of the folder.
    version: u32,
    base_port: u16,
}

const VERSION: u32 = 1;

/// The folder, held until it is dropped.
#[derive(Debug)]
pub(super) struct State {
    folder: PathBuf,
    /// What was not there before: the folder, and those above it, the topmost first.
    made: Vec<PathBuf>,
    /// What is in it is to be dropped.
    fresh: bool,
    base_port: u16,
    _lock: fs::File,
}

impl State {
    /// Takes the folder, making it if there is none; what is in it stays until [`State::begin`].
    pub(super) fn take(folder: &Path, fresh: bool, base_port: Option<u16>) -> anyhow::Result<Self> {
        let made = missing(folder)?;
        make(folder)?;
        let folder = folder.canonicalize().with_context(|| format!("cannot use {}", folder.display()))?;
        if made.is_empty() && is_foreign(&folder)? {
            bail!("{} is not empty and not a demo's state folder: choose another with --state", folder.display());
        }
        let lock = lock(&folder)?;
        let base_port = settle(&folder, fresh, base_port)?;
        Ok(Self { folder, made, fresh, base_port, _lock: lock })
    }

    /// From here on the folder is this run's: drops what was in it, if it is to be, and marks it.
    pub(super) fn begin(&self) -> anyhow::Result<()> {
        if self.fresh {
            empty(&self.folder)?;
        }
        let marker = serde_json::to_vec(&Marker { version: VERSION, base_port: self.base_port })?;
        self.write(MARKER, &String::from_utf8_lossy(&marker)).map(drop)
    }

    /// Leaves everything as it was before [`State::take`], as far as it goes.
    pub(super) fn abandon(self) {
        if !self.path(MARKER).exists() {
            let _left = fs::remove_file(self.path("lock"));
        }
        for folder in self.made.iter().rev() {
            // Not if somebody put something there meanwhile.
            let _left = fs::remove_dir(folder);
        }
    }

    /// Whether nothing of an earlier run is kept.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh
    }

    pub(super) fn base_port(&self) -> u16 {
        self.base_port
    }

    /// A file or folder in it.
    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }

    /// A folder in it, which only its owner may enter.
    pub(super) fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        files::private_folder(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Writes a file that only its owner may read.
    pub(super) fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        files::replace(&path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Says early what would otherwise be said late and by everybody: the disk is too small.
    pub(super) fn ensure_space(&self, bytes: u64) -> anyhow::Result<()> {
        let usage = nix::sys::statvfs::statvfs(&self.folder).context("cannot tell how much space is left")?;
        let free = usage.blocks_available().saturating_mul(usage.fragment_size());
        // What is dropped makes room.
        let free = free.saturating_add(if self.fresh { held(&self.folder) } else { 0 });
        ensure!(
            free >= bytes,
            "not enough space in {}: {} free, about {} needed (choose another folder with --state)",
            self.folder.display(),
            crate::show::bytes(free),
            crate::show::bytes(bytes),
        );
        Ok(())
    }
}

/// Where a demo's state lies unless told otherwise. Root's Postgres runs as another user, who must be able to get there.
pub(super) fn usual_folder() -> anyhow::Result<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Ok("/var/lib/umbel-demo".into());
    }
    if let Some(folder) = std::env::var_os("XDG_STATE_HOME").filter(|folder| !folder.is_empty()) {
        return Ok(PathBuf::from(folder).join("umbel-demo"));
    }
    let home = std::env::var_os("HOME").context("HOME is not set: say where with --state")?;
    Ok(PathBuf::from(home).join(".local/state/umbel-demo"))
}

/// Bytes in files below `folder`.
fn held(folder: &Path) -> u64 {
    let entries = walkdir::WalkDir::new(folder).into_iter().filter_map(Result::ok);
    entries.filter_map(|entry| entry.metadata().ok().filter(fs::Metadata::is_file)).map(|file| file.len()).sum()
}

/// The folders on the way to `folder`, and itself, that are not there, the topmost first.
fn missing(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let folder = std::path::absolute(folder).with_context(|| format!("cannot use {}", folder.display()))?;
    let mut missing: Vec<_> = folder.ancestors().take_while(|path| !path.exists()).map(Path::to_owned).collect();
    missing.reverse();
    Ok(missing)
}

/// Others may pass through it, and see nothing: its own folders are private.
fn make(folder: &Path) -> anyhow::Result<()> {
    let made = fs::create_dir_all(folder);
    made.with_context(|| format!("cannot make {}", folder.display()))?;
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none()) {
        let mode = fs::Permissions::from_mode(0o711);
        fs::set_permissions(folder, mode).with_context(|| format!("cannot use {}", folder.display()))?;
    }
    Ok(())
}

fn is_foreign(folder: &Path) -> io::Result<bool> {
    let names: Vec<_> = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    // The lock comes before the marker: a demo that was killed between the two has left only that.
    Ok(names.iter().any(|name| name != "lock") && !names.iter().any(|name| name == MARKER))
}

fn lock(folder: &Path) -> anyhow::Result<fs::File> {
    let path = folder.join("lock");
    let file = fs::File::create(&path).with_context(|| format!("cannot use {}", folder.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            bail!("another demo runs in {}: stop it, or use --state", folder.display())
        }
        Err(fs::TryLockError::Error(error)) => Err(error).context("cannot lock the state folder"),
    }
}

/// The marker goes last: a folder that was emptied by half is still known as ours.
fn empty(folder: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot empty {}", folder.display());
    for entry in fs::read_dir(folder).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        if entry.file_name() == "lock" || entry.file_name() == MARKER {
            continue;
        }
        let is_folder = entry.file_type().with_context(failed)?.is_dir();
        let removed = if is_folder { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
        removed.with_context(failed)?;
    }
    match fs::remove_file(folder.join(MARKER)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(failed),
        _ => Ok(()),
    }
}

/// Ports are in certificates, tokens and everybody's memory: a kept state keeps them.
fn settle(folder: &Path, fresh: bool, wanted: Option<u16>) -> anyhow::Result<u16> {
    let path = folder.join(MARKER);
    let kept = files::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let Some(kept) = kept.filter(|_| !fresh) else { return Ok(wanted.unwrap_or(USUAL_BASE)) };
    let marker: Option<Marker> = serde_json::from_slice(&kept).ok();
    let marker = marker.filter(|marker| marker.version == VERSION);
    let Some(marker) = marker else { bail!("{} is of another version: run with --fresh", folder.display()) };
    if let Some(wanted) = wanted.filter(|wanted| *wanted != marker.base_port) {
        bail!(
            "the kept state uses ports from {}, not {wanted}: leave --base-port out, or run with --fresh as well to begin anew",
            marker.base_port
        );
    }
    Ok(marker.base_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_folder_of_ours_is_emptied() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("precious"), "").unwrap();
        assert!(State::take(folder.path(), true, None).is_err());
        assert!(folder.path().join("precious").exists());
    }

    #[test]
    fn a_run_that_never_begins_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let entries = |path: &Path| fs::read_dir(path).unwrap().count();
        State::take(&folder.path().join("new/er"), true, None).unwrap().abandon();
        State::take(folder.path(), false, None).unwrap().abandon();
        assert_eq!(entries(folder.path()), 0);

        State::take(folder.path(), false, None).unwrap().begin().unwrap();
        fs::write(folder.path().join("kept"), "").unwrap();
        State::take(folder.path(), true, Some(9100)).unwrap().abandon();
        assert!(folder.path().join("kept").exists());
        assert_eq!(State::take(folder.path(), false, None).unwrap().base_port(), USUAL_BASE);
    }

    #[test]
    fn a_kept_state_keeps_its_ports() {
        let folder = tempfile::tempdir().unwrap();
        let take = |fresh, port| {
            let state = State::take(folder.path(), fresh, port)?;
            state.begin().map(|()| state.base_port())
        };
        assert_eq!(take(false, Some(9000)).unwrap(), 9000);
        assert_eq!(take(false, None).unwrap(), 9000);
        assert!(take(false, Some(9100)).is_err());
        fs::write(folder.path().join("x"), "").unwrap();
        assert_eq!(take(true, Some(9100)).unwrap(), 9100);
        assert!(!folder.path().join("x").exists());
    }

    #[test]
    fn one_demo_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let _first = State::take(folder.path(), false, None).unwrap();
        let second = State::take(folder.path(), false, None).unwrap_err();
        assert!(second.to_string().contains("another demo"), "{second}");
    }
}
