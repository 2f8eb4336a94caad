//! What a demo publishes: the folder it is given, or a real tree that is found on the machine.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};
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

/// The folder that is put together, and the file beside it that says that it is complete.
const CONTENT: &str = "content";
const COMPLETE: &str = "content.complete";

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

    fn of(folder: PathBuf) -> anyhow::Result<Self> {
        let files = walk::walk(&folder)?.files;
        ensure!(!files.is_empty(), "{} holds no files to publish", folder.display());
        Ok(Self { folder, files })
    }
}

/// Where the documents come from. Nothing has been made yet.
#[derive(Debug)]
pub(super) enum Source {
    /// A folder that is there: given, or put together by an earlier run.
    There(Tree),
    /// Files of this machine, and their places in the folder that is to be put together.
    Found(Vec<(PathBuf, PathBuf)>),
}

impl Source {
    /// The folder `given`, or files that are found on this machine.
    pub(super) fn choose(given: Option<&Path>, state: &State) -> anyhow::Result<Self> {
        if let Some(folder) = given {
            let folder = folder.canonicalize().with_context(|| format!("cannot read {}", folder.display()))?;
            apart(&folder, state)?;
            return Tree::of(folder).map(Self::There);
        }
        // Beside the folder, so that it is not published itself.
        if !state.is_fresh() && state.path(COMPLETE).exists() {
            return Tree::of(state.path(CONTENT)).map(Self::There);
        }
        find().map(Self::Found)
    }

    /// Bytes of all documents.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::There(tree) => tree.bytes(),
            Self::Found(files) => files.iter().map(|(source, _)| size(source)).sum(),
        }
    }

    /// Whether the documents are copied first.
    pub(super) fn is_copied(&self) -> bool {
        matches!(self, Self::Found(_))
    }

    /// The documents, put together if they have to be: all or none.
    pub(super) fn into_tree(self, state: &State) -> anyhow::Result<Tree> {
        let files = match self {
            Self::There(tree) => return Ok(tree),
            Self::Found(files) => files,
        };
        let staged = state.path(CONTENT);
        let placed = stage(&files, &staged);
        if placed.is_err() {
            let _left = fs::remove_dir_all(&staged);
        }
        placed.context("cannot prepare the content")?;
        fs::write(state.path(COMPLETE), "").context("cannot prepare the content")?;
        Tree::of(staged)
    }
}

/// The state must neither be published nor be dropped with what is to be published in it.
fn apart(folder: &Path, state: &State) -> anyhow::Result<()> {
    let place = state.path("");
    ensure!(
        !place.starts_with(folder),
        "the state folder lies inside {}: choose another with --state",
        folder.display()
    );
    ensure!(
        !(state.is_fresh() && folder.starts_with(&place)),
        "{} lies inside the state folder, which --fresh empties: leave --fresh out, or choose another folder with --state",
        folder.display()
    );
    Ok(())
}

fn stage(files: &[(PathBuf, PathBuf)], staged: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    for (source, target) in files {
        let target = staged.join(target);
        place(source, &target).with_context(|| format!("cannot place {}", target.display()))?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said to `--dir STATE/dir`, or nothing.
    fn check(dir: &str, state: &str, fresh: bool, expected: Option<&str>) {
        let root = tempfile::tempdir().unwrap();
        State::take(&root.path().join(state), false, None).unwrap().begin().unwrap();
        let dir = root.path().join(dir);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("file"), "x").unwrap();
        let state = State::take(&root.path().join(state), fresh, None).unwrap();
        let refusal = Source::choose(Some(&dir), &state).err().map(|error| error.to_string());
        let as_expected = match (&refusal, expected) {
            (Some(refusal), Some(words)) => refusal.contains(words),
            (refusal, None) => refusal.is_none(),
            (None, Some(_)) => false,
        };
        assert!(as_expected, "{dir:?}: {refusal:?}");
        assert!(dir.join("file").exists());
    }

    #[test]
    fn content_and_state_are_apart() {
        check("content", "state", true, None);
        check("", "state", false, Some("lies inside"));
        check("state/mine", "state", false, None);
        check("state/mine", "state", true, Some("--fresh empties"));
    }
}
