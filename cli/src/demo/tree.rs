//! What a demo publishes: the folder it is given, or a real tree that is found on the machine.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail, ensure};
use walkdir::WalkDir;

use super::state::State;
use crate::publish::walk::{self, Found};

/// What a found tree has at least.
const MIN_BYTES: u64 = 100 * 1000 * 1000;
const MIN_FILES: usize = 1000;
/// And at most.
const MAX_FILES: usize = 1500;
/// So that one small file of a large tree does not stand for all.
const MAX_SMALL_FILE: u64 = 4 * 1000 * 1000;
const MIN_BIG_FILE: u64 = 50 * 1000 * 1000;
const MAX_BIG_FILE: u64 = 400 * 1000 * 1000;

/// The documents.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) folder: PathBuf,
    pub(super) files: Vec<Found>,
}

impl Tree {
    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// The folder `given`, or one that is put together from files of this machine.
    pub(super) fn choose(given: Option<&Path>, state: &State) -> anyhow::Result<Self> {
        let folder = match given {
            Some(folder) => folder.canonicalize().with_context(|| format!("cannot read {}", folder.display()))?,
            None => stage(state)?,
        };
        if given.is_some() && state.path("").starts_with(&folder) {
            bail!("the state folder lies inside {}: choose another with --state", folder.display());
        }
        let files = walk::walk(&folder)?.files;
        ensure!(!files.is_empty(), "{} holds no files to publish", folder.display());
        Ok(Self { folder, files })
    }
}

fn stage(state: &State) -> anyhow::Result<PathBuf> {
    let staged = state.path("content");
    // Beside the folder, so that it is not published itself.
    if state.path("content.complete").exists() {
        return Ok(staged);
    }
    match fs::remove_dir_all(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).context("cannot prepare the content");
        }
        _ => {}
    }
    let found = find()?;
    for (source, target) in found {
        let target = staged.join(target);
        place(&source, &target).with_context(|| format!("cannot place {}", target.display()))?;
    }
    fs::write(state.path("content.complete"), "").context("cannot prepare the content")?;
    Ok(staged)
}

/// A copy: a second name of the same file would let who edits the demo's content edit the machine's own files.
fn place(source: &Path, target: &Path) -> io::Result<()> {
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(source, target).map(drop)
}

/// Pairs of a file and its place in the tree.
fn find() -> anyhow::Result<Vec<(PathBuf, PathBuf)>> {
    let sysroot = sysroot();
    let docs = sysroot.as_ref().map(|root| root.join("share/doc/rust/html"));
    let roots = docs.into_iter().chain(["/usr/share/doc", "/usr/share", "/usr/lib"].map(PathBuf::from));
    let mut files = Vec::new();
    for root in roots {
        if files.len() < MIN_FILES {
            files.extend(small_files(&root, MAX_FILES - files.len()));
        }
    }
    let mut bytes: u64 = files.iter().map(|(source, _)| size(source)).sum();
    for big in big_files(sysroot.as_deref()) {
        if bytes >= MIN_BYTES && files.iter().any(|(_, target)| target.starts_with("large")) {
            break;
        }
        bytes += size(&big);
        let name = big.file_name().map(PathBuf::from).unwrap_or_default();
        files.push((big, Path::new("large").join(name)));
    }
    ensure!(
        bytes >= MIN_BYTES && files.len() >= MIN_FILES,
        "this machine has no tree to show ({} files, {}): name a folder with --dir",
        files.len(),
        crate::show::bytes(bytes),
    );
    Ok(files)
}

fn sysroot() -> Option<PathBuf> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).stderr(Stdio::null()).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(path.trim())).filter(|path| path.is_dir())
}

fn small_files(root: &Path, most: usize) -> Vec<(PathBuf, PathBuf)> {
    let entries = WalkDir::new(root).sort_by_file_name().into_iter().filter_map(Result::ok);
    let files = entries.filter(|entry| entry.file_type().is_file() && readable(entry.path(), MAX_SMALL_FILE));
    let name = root.file_name().map(PathBuf::from).unwrap_or_default();
    let place = |path: &Path| Some(name.join(path.strip_prefix(root).ok()?));
    files.filter_map(|entry| Some((entry.path().to_owned(), place(entry.path())?))).take(most).collect()
}

/// Smallest first: one that is large enough is enough.
fn big_files(sysroot: Option<&Path>) -> Vec<PathBuf> {
    let program = std::env::current_exe().ok();
    let folders = sysroot.map(|root| root.join("lib")).into_iter().chain(["/usr/lib".into(), "/usr/share".into()]);
    let entries = folders.flat_map(|folder| WalkDir::new(folder).max_depth(4).into_iter().filter_map(Result::ok));
    let files = entries.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).chain(program);
    let mut big: Vec<PathBuf> =
        files.filter(|path| readable(path, MAX_BIG_FILE) && size(path) >= MIN_BIG_FILE).collect();
    big.sort_by_key(|path| (size(path), path.clone()));
    big.dedup_by_key(|path| path.file_name().map(ToOwned::to_owned));
    big
}

fn readable(path: &Path, most: u64) -> bool {
    path.to_str().is_some() && size(path) <= most && fs::File::open(path).is_ok()
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}
