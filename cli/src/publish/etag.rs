//! The ETag that the S3 API gives to a file: MD5 of its bytes, or of the MD5s of its parts.

use std::{fs::File, io, io::Read, path::Path};

use md5::{Digest, Md5};

/// Files above this are sent in parts of this many bytes. Fixed, so that the ETag of a file can be computed before it is sent.
pub(super) const PART_BYTES: u64 = 16 * 1024 * 1024;

/// The ETag (without quotes) that `umbel publish` would cause for this file.
pub(super) fn of_file(path: &Path, size: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    if size <= PART_BYTES {
        return Ok(hex::encode(digest(&mut file)?));
    }
    let mut digests = Vec::new();
    for _ in 0..parts(size) {
        digests.push(digest(&mut (&mut file).take(PART_BYTES))?);
    }
    Ok(of_parts(&digests))
}

/// How many parts a file of `size` bytes has; at least one.
pub(super) fn parts(size: u64) -> u64 {
    size.div_ceil(PART_BYTES).max(1)
}

/// The ETag of a multipart upload.
pub(super) fn of_parts(digests: &[[u8; 16]]) -> String {
    format!("{}-{}", hex::encode(Md5::digest(digests.concat())), digests.len())
}

/// MD5 of bytes in memory.
pub(super) fn of_bytes(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

fn digest(bytes: &mut impl Read) -> io::Result<[u8; 16]> {
    let mut hash = Md5::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match bytes.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            read => hash.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_s3_has_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for (bytes, expected) in [
            (0, "d41d8cd98f00b204e9800998ecf8427e".to_owned()),
            (PART_BYTES, hex::encode(of_bytes(&vec![7; 16 << 20]))),
            (PART_BYTES + 1, of_parts(&[of_bytes(&vec![7; 16 << 20]), of_bytes(&[7])])),
        ] {
            std::fs::write(&path, vec![7; usize::try_from(bytes).unwrap()]).unwrap();
            assert_eq!(of_file(&path, bytes).unwrap(), expected);
        }
    }
}
