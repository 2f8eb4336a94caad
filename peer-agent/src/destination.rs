//! Where content is saved: a file that appears when all of it is there, or a device or FIFO that takes it as it comes.

use std::{
    fs::Permissions,
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    pin::Pin,
    time::Duration,
};

use tempfile::TempPath;
use tokio::{
    fs::File,
    io::{AsyncWrite, AsyncWriteExt},
    net::unix::pipe,
};

use crate::agent::GetError;

/// Symbolic links that are followed one after the other, as many as Linux follows.
const MAX_LINKS: usize = 40;
/// How often a FIFO is looked at that nobody reads yet.
const READER_INTERVAL: Duration = Duration::from_millis(50);
/// As any program's new file has before its umask.
const NEW_FILE: u32 = 0o666;

/// A path that content can be saved to, looked at before any of it is fetched.
///
/// A new or regular file is replaced in one step, when all is there; until then the content is in a temporary file next to it, which
/// is gone if the destination is dropped. Symbolic links are followed. A device or a FIFO is written to as it is.
#[derive(Debug)]
pub struct Destination {
    path: PathBuf,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// Written here, then renamed to the path.
    Replace {
        file: std::fs::File,
        part: TempPath,
        target: PathBuf,
    },
    Device,
    Fifo,
}

impl Destination {
    /// Looks at `path` and makes the temporary file. Blocking, for a moment.
    ///
    /// # Errors
    /// [`GetError::Save`]: a folder, or nothing can be written there.
    pub fn prepare(path: &Path) -> Result<Self, GetError> {
        let way = way(path).map_err(|source| fault(path, source))?;
        Ok(Self { path: path.to_owned(), way })
    }

    /// Ready to be written to. For a FIFO this waits for its reader.
    pub(crate) async fn open(self) -> Result<Saving, GetError> {
        let fault = |source| fault(&self.path, source);
        let (out, rename): (Out, _) = match self.way {
            Way::Replace { file, part, target } => (Box::pin(File::from_std(file)), Some((part, target))),
            Way::Device => {
                let device = File::options().write(true).open(&self.path).await.map_err(fault)?;
                (Box::pin(device), None)
            }
            Way::Fifo => (Box::pin(when_read(&self.path).await.map_err(fault)?), None),
        };
        Ok(Saving { path: self.path, out, rename })
    }
}

fn fault(path: &Path, source: io::Error) -> GetError {
    GetError::Save { path: path.display().to_string(), source }
}

fn way(path: &Path) -> io::Result<Way> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(found) if found.is_file() => replace(path),
        Ok(found) if found.file_type().is_fifo() => Ok(Way::Fifo),
        Ok(_) => Ok(Way::Device),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Err(_) if path.as_os_str().as_bytes().ends_with(b"/") => Err(io::ErrorKind::IsADirectory.into()),
        Err(_) => replace(path),
    }
}

fn replace(path: &Path) -> io::Result<Way> {
    let target = followed(path)?;
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut part = tempfile::Builder::new();
    part.prefix(".umbel-").suffix(".part").permissions(Permissions::from_mode(NEW_FILE));
    let (file, part) = part.tempfile_in(folder)?.into_parts();
    Ok(Way::Replace { file, part, target })
}

/// Where symbolic links lead, which may be a file that does not exist yet.
fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..=MAX_LINKS {
        let Ok(link) = std::fs::read_link(&path) else { return Ok(path) };
        path = path.parent().unwrap_or(Path::new("")).join(link);
    }
    Err(io::Error::other("too many symbolic links"))
}

/// A blocking open would keep the process from ending while nobody reads.
async fn when_read(path: &Path) -> io::Result<pipe::Sender> {
    loop {
        match pipe::OpenOptions::new().open_sender(path) {
            Err(error) if is_unread(&error) => tokio::time::sleep(READER_INTERVAL).await,
            opened => return opened,
        }
    }
}

/// What Linux says of a FIFO without a reader.
fn is_unread(error: &io::Error) -> bool {
    const ENXIO: i32 = 6;
    error.raw_os_error() == Some(ENXIO)
}

type Out = Pin<Box<dyn AsyncWrite + Send>>;

/// A destination on its way.
pub(crate) struct Saving {
    path: PathBuf,
    out: Out,
    rename: Option<(TempPath, PathBuf)>,
}

impl Saving {
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), GetError> {
        self.out.write_all(bytes).await.map_err(|source| fault(&self.path, source))
    }

    /// That was all.
    pub(crate) async fn finish(mut self) -> Result<(), GetError> {
        self.out.flush().await.map_err(|source| fault(&self.path, source))?;
        let Some((part, target)) = self.rename else { return Ok(()) };
        // It drops, and so removes, the part if it fails.
        part.persist(&target).map_err(|failed| fault(&self.path, failed.error))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    async fn save(path: &Path, content: &[u8]) -> Result<(), GetError> {
        let mut saving = Destination::prepare(path)?.open().await?;
        saving.write(content).await?;
        saving.finish().await
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn links_are_followed_and_files_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("other")).unwrap();
        std::fs::write(at("other/old"), "old").unwrap();
        std::fs::write(at("new.part"), "the user's own").unwrap();
        symlink("other/old", at("link")).unwrap();
        symlink(at("link"), at("to link")).unwrap();
        symlink("other/none", at("dangling")).unwrap();
        symlink("loop", at("loop")).unwrap();
        for (path, is_in) in [("new", "new"), ("to link", "other/old"), ("dangling", "other/none")] {
            save(&at(path), path.as_bytes()).await.unwrap();
            assert_eq!(std::fs::read_to_string(at(is_in)).unwrap(), path);
        }
        assert!(Destination::prepare(&at("loop")).is_err());
        assert!(at("to link").is_symlink() && at("link").is_symlink() && at("dangling").is_symlink());
        assert_eq!(std::fs::read_to_string(at("new.part")).unwrap(), "the user's own");
        assert_eq!(names(folder.path()), ["dangling", "link", "loop", "new", "new.part", "other", "to link"]);
        assert_eq!(names(&at("other")), ["none", "old"]);
        // As any other program would have made it.
        std::fs::write(at("usual"), "").unwrap();
        let mode = |name| std::fs::metadata(at(name)).unwrap().permissions().mode();
        assert_eq!(mode("new"), mode("usual"));
    }

    #[tokio::test]
    async fn two_at_once_do_not_mix_and_nothing_stays_of_those_that_fail() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut one = Destination::prepare(&path).unwrap().open().await.unwrap();
        let mut two = Destination::prepare(&path).unwrap().open().await.unwrap();
        let dropped = Destination::prepare(&path).unwrap();
        one.write(b"abc").await.unwrap();
        two.write(b"abc").await.unwrap();
        one.write(b"abc").await.unwrap();
        one.finish().await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "abcabc");
        two.finish().await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "abc");
        drop(dropped);
        assert_eq!(names(folder.path()), ["file"]);
        // The rename fails.
        let mut saving = Destination::prepare(&path).unwrap().open().await.unwrap();
        saving.write(b"abc").await.unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(saving.finish().await.is_err());
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[tokio::test]
    async fn folders_are_refused_before_anything_is_fetched() {
        let folder = tempfile::tempdir().unwrap();
        let (path, none) = (folder.path(), folder.path().join("none/"));
        symlink(path, path.join("link")).unwrap();
        for path in [path, &path.join("link"), &path.join(".."), &none] {
            let error = Destination::prepare(path).unwrap_err();
            assert!(crate::chain(&error).contains("is a directory"), "{error}");
        }
        for path in ["", "none/file"] {
            assert!(Destination::prepare(&none.join(path)).is_err(), "{path}");
        }
        assert_eq!(names(path), ["link"]);
    }

    #[tokio::test]
    async fn a_fifo_is_written_to_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let reading = tokio::task::spawn_blocking({
            let path = path.clone();
            move || std::fs::read(path).unwrap()
        });
        let content = vec![7; 200_000];
        save(&path, &content).await.unwrap();
        assert!(reading.await.unwrap() == content);
        assert!(std::fs::metadata(&path).unwrap().file_type().is_fifo());
        assert_eq!(names(folder.path()), ["fifo"]);
    }

    #[tokio::test]
    async fn devices_stay_and_their_faults_are_told() {
        let folder = tempfile::tempdir().unwrap();
        for (name, minor, succeeds) in [("null", "3", true), ("full", "7", false)] {
            let path = folder.path().join(name);
            let made = std::process::Command::new("mknod").arg(&path).args(["c", "1", minor]).output().unwrap();
            // Only root may make them, and only where devices may be.
            if !made.status.success() || std::fs::OpenOptions::new().write(true).open(&path).is_err() {
                return;
            }
            assert_eq!(save(&path, &[7; 10_000]).await.is_ok(), succeeds, "{name}");
            assert!(std::fs::metadata(&path).unwrap().file_type().is_char_device(), "{name}");
        }
        assert_eq!(names(folder.path()), ["full", "null"]);
    }
}
