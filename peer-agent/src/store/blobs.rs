//! Files of ciphertext: one per version, sparse, every chunk at its place.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
};

use umbel_content::{ChunkIndex, ChunkLayout, ManifestId};
use umbel_service::files;

/// The folder of all blobs. Files are opened for each use: agents hold thousands of versions, and a process few files.
#[derive(Debug)]
pub(super) struct Blobs(PathBuf);

impl Blobs {
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        files::private_folder(&folder)?;
        Ok(Self(folder))
    }

    fn path(&self, id: &ManifestId) -> PathBuf {
        let name = id.to_string();
        self.0.join(&name[..2]).join(name)
    }

    /// The file of a version, made if it is new.
    pub(super) fn writable(&self, id: &ManifestId) -> io::Result<File> {
        let path = self.path(id);
        let open = || File::options().create(true).truncate(false).write(true).open(&path);
        match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(path.parent().unwrap_or(&self.0))?;
                open()
            }
            opened => opened,
        }
    }

    pub(super) fn exists(&self, id: &ManifestId) -> bool {
        self.path(id).exists()
    }

    pub(super) fn read(&self, id: &ManifestId, layout: ChunkLayout, chunk: ChunkIndex) -> io::Result<Vec<u8>> {
        let length = layout.sealed_len(chunk).ok_or(io::ErrorKind::NotFound)?;
        let mut sealed = vec![0; length as usize];
        let offset = layout.sealed_offset(chunk).ok_or(io::ErrorKind::NotFound)?;
        File::open(self.path(id))?.read_exact_at(&mut sealed, offset)?;
        Ok(sealed)
    }

    pub(super) fn remove(&self, id: &ManifestId) -> io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
