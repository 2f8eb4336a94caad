//! Which files of a folder are published, and under which keys.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use umbel_content::ObjectPath;
use walkdir::{DirEntry, WalkDir};

/// A file to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// With `/` between its segments, relative to the folder.
    pub(crate) key: String,
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
}

/// Something in the folder that is no document.
#[derive(Debug)]
pub(crate) struct Skipped {
    pub(crate) path: PathBuf,
    pub(crate) reason: Reason,
}

/// Why it is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    LinkOutside,
    LinkBroken,
    LinkLoop,
    NotAFile,
    NotUtf8,
    NoPath,
    Unreadable,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LinkOutside => "a link to outside the folder",
            Self::LinkBroken => "a link to nothing",
            Self::LinkLoop => "a link to a folder above it",
            Self::NotAFile => "neither file nor folder",
            Self::NotUtf8 => "the name is not UTF-8",
            Self::NoPath => "the name cannot be the path of a URL",
            Self::Unreadable => "cannot be read",
        })
    }
}

/// What a folder holds.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// In order of their keys.
    pub(crate) files: Vec<Found>,
    pub(crate) skipped: Vec<Skipped>,
}

/// Lists `folder`, following links only to what is in it.
pub(crate) fn walk(folder: &Path) -> anyhow::Result<Listing> {
    let root = folder.canonicalize().with_context(|| format!("cannot read {}", folder.display()))?;
    ensure!(root.is_dir(), "{} is not a folder", folder.display());
    let mut listing = Listing::default();
    let mut entries = WalkDir::new(&root).follow_links(true).sort_by_file_name().into_iter();
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) if entry.depth() == 0 => {}
            Ok(entry) => match judge(&root, &entry) {
                Ok(found) => listing.files.extend(found),
                Err(reason) => {
                    if entry.file_type().is_dir() {
                        entries.skip_current_dir();
                    }
                    listing.skip(entry.path(), reason);
                }
            },
            Err(error) => listing.skip(error.path().unwrap_or(&root), reason_of(&error)),
        }
    }
    listing.files.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(listing)
}

impl Listing {
    fn skip(&mut self, path: &Path, reason: Reason) {
        self.skipped.push(Skipped { path: path.to_owned(), reason });
    }
}

/// A file, or none for a folder.
fn judge(root: &Path, entry: &DirEntry) -> Result<Option<Found>, Reason> {
    if entry.path_is_symlink() {
        let target = entry.path().canonicalize().map_err(|_| Reason::LinkBroken)?;
        if !target.starts_with(root) {
            return Err(Reason::LinkOutside);
        }
    }
    let relative = entry.path().strip_prefix(root).map_err(|_| Reason::Unreadable)?;
    let key = relative.to_str().ok_or(Reason::NotUtf8)?.to_owned();
    if entry.file_type().is_dir() {
        return Ok(None);
    }
    if !entry.file_type().is_file() {
        return Err(Reason::NotAFile);
    }
    ObjectPath::from_key(&key).map_err(|_| Reason::NoPath)?;
    let size = entry.metadata().map_err(|_| Reason::Unreadable)?.len();
    Ok(Some(Found { key, path: entry.path().to_owned(), size }))
}

fn reason_of(error: &walkdir::Error) -> Reason {
    let dangling = error.path().is_some_and(|path| path.is_symlink() && !path.exists());
    match error.loop_ancestor() {
        Some(_) => Reason::LinkLoop,
        None if dangling => Reason::LinkBroken,
        None => Reason::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, os::unix::fs::symlink};

    #[test]
    fn what_a_folder_publishes() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = folder.path();
        fs::create_dir_all(root.join("a b/ü")).unwrap();
        fs::write(root.join("a b/ü/x.txt"), "x").unwrap();
        fs::write(root.join("empty"), "").unwrap();
        fs::write(outside.path().join("secret"), "s").unwrap();
        symlink("empty", root.join("inside")).unwrap();
        symlink(outside.path().join("secret"), root.join("outside")).unwrap();
        symlink(outside.path(), root.join("outside folder")).unwrap();
        symlink("nothing", root.join("broken")).unwrap();
        symlink("..", root.join("a b/loop")).unwrap();
        fs::write(root.join(OsStr::from_bytes(b"\xff")), "").unwrap();
        fs::write(root.join("two\nlines"), "").unwrap();

        let listing = walk(root).unwrap();
        let keys: Vec<&str> = listing.files.iter().map(|file| file.key.as_str()).collect();
        assert_eq!(keys, ["a b/ü/x.txt", "empty", "inside"]);
        let mut reasons: Vec<String> = listing.skipped.iter().map(|skipped| format!("{:?}", skipped.reason)).collect();
        reasons.sort();
        assert_eq!(reasons, ["LinkBroken", "LinkLoop", "LinkOutside", "LinkOutside", "NoPath", "NotUtf8"]);
    }
}
