//! The checks that S3 clients ask for: Content-MD5 and the `x-amz-checksum-*` family; and the MD5 that is an ETag.

use base64::{Engine, engine::general_purpose::STANDARD};
use md5::{Digest, Md5};
use s3s::{
    checksum::ChecksumHasher,
    crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Sha1, Sha256},
};

/// A digest that the client sent is not the body's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0} does not match the body")]
pub(crate) struct Mismatch(pub(crate) &'static str);

/// What the client says of its body, base64 each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) md5: Option<String>,
    pub(crate) crc32: Option<String>,
    pub(crate) crc32c: Option<String>,
    pub(crate) crc64nvme: Option<String>,
    pub(crate) sha1: Option<String>,
    pub(crate) sha256: Option<String>,
}

impl Expected {
    /// Takes over what came with the trailers of a chunked body.
    pub(crate) fn merge_trailers(&mut self, trailers: &http::HeaderMap) {
        let read =
            |name: &str| trailers.get(name).and_then(|value| value.to_str().ok()).map(|text| text.trim().to_owned());
        let slots = [
            ("x-amz-checksum-crc32", &mut self.crc32),
            ("x-amz-checksum-crc32c", &mut self.crc32c),
            ("x-amz-checksum-crc64nvme", &mut self.crc64nvme),
            ("x-amz-checksum-sha1", &mut self.sha1),
            ("x-amz-checksum-sha256", &mut self.sha256),
        ];
        for (name, slot) in slots {
            *slot = read(name).or(slot.take());
        }
    }

    /// Notes that a checksum of this kind will come in the trailers (`x-amz-trailer`).
    pub(crate) fn announce(&mut self, trailer: &str) {
        let slot = match trailer.trim().to_ascii_lowercase().as_str() {
            "x-amz-checksum-crc32" => &mut self.crc32,
            "x-amz-checksum-crc32c" => &mut self.crc32c,
            "x-amz-checksum-crc64nvme" => &mut self.crc64nvme,
            "x-amz-checksum-sha1" => &mut self.sha1,
            "x-amz-checksum-sha256" => &mut self.sha256,
            _ => return,
        };
        slot.get_or_insert_default();
    }
}

/// Running digests of one body.
pub(crate) struct Digests {
    md5: Option<Md5>,
    sums: ChecksumHasher,
}

/// Finished digests.
pub(crate) struct Digested {
    /// None where nobody asked.
    pub(crate) md5: Option<[u8; 16]>,
}

impl Digests {
    /// MD5, and what `expected` names.
    pub(crate) fn new(expected: &Expected) -> Self {
        let sums = ChecksumHasher {
            crc32: expected.crc32.is_some().then(Crc32::new),
            crc32c: expected.crc32c.is_some().then(Crc32c::new),
            sha1: expected.sha1.is_some().then(Sha1::new),
            sha256: expected.sha256.is_some().then(Sha256::new),
            crc64nvme: expected.crc64nvme.is_some().then(Crc64Nvme::new),
        };
        Self { md5: Some(Md5::new()), sums }
    }

    /// For a body whose bytes have been checked before.
    pub(crate) fn none() -> Self {
        Self { md5: None, sums: ChecksumHasher::default() }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        self.sums.update(bytes);
    }

    /// All digests, if they are those that were `expected`.
    pub(crate) fn finish(self, expected: &Expected) -> Result<Digested, Mismatch> {
        let md5 = self.md5.map(|md5| <[u8; 16]>::from(md5.finalize()));
        let sums = self.sums.finalize();
        let md5_text = md5.map(|md5| STANDARD.encode(md5));
        let pairs = [
            ("Content-MD5", &expected.md5, &md5_text),
            ("x-amz-checksum-crc32", &expected.crc32, &sums.checksum_crc32),
            ("x-amz-checksum-crc32c", &expected.crc32c, &sums.checksum_crc32c),
            ("x-amz-checksum-crc64nvme", &expected.crc64nvme, &sums.checksum_crc64nvme),
            ("x-amz-checksum-sha1", &expected.sha1, &sums.checksum_sha1),
            ("x-amz-checksum-sha256", &expected.sha256, &sums.checksum_sha256),
        ];
        let wrong = pairs
            .into_iter()
            .find(|(_, expected, found)| expected.is_some() && expected != found)
            .map(|(name, ..)| name);
        wrong.map_or(Ok(Digested { md5 }), |name| Err(Mismatch(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_checked() {
        let check = |expected: Expected, outcome: Result<(), Mismatch>| {
            let mut digests = Digests::new(&expected);
            digests.update(b"hello ");
            digests.update(b"world");
            assert_eq!(digests.finish(&expected).map(drop), outcome, "{expected:?}");
        };
        let text = |text: &str| Some(text.to_owned());
        check(Expected::default(), Ok(()));
        check(Expected { md5: text("XrY7u+Ae7tCTyyK7j1rNww=="), ..Expected::default() }, Ok(()));
        check(Expected { md5: text("AAAAAAAAAAAAAAAAAAAAAA=="), ..Expected::default() }, Err(Mismatch("Content-MD5")));
        check(Expected { crc32: text("DUoRhQ=="), ..Expected::default() }, Ok(()));
        check(Expected { crc32: text(""), ..Expected::default() }, Err(Mismatch("x-amz-checksum-crc32")));
        let sha256 = text("uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=");
        check(Expected { sha256, ..Expected::default() }, Ok(()));
    }

    #[test]
    fn trailers_fill_what_was_announced() {
        let mut expected = Expected::default();
        expected.announce("X-Amz-Checksum-Crc32");
        assert_eq!(expected.crc32.as_deref(), Some(""));
        let trailers = [("x-amz-checksum-crc32".parse().unwrap(), "DUoRhQ==".parse().unwrap())];
        expected.merge_trailers(&trailers.into_iter().collect());
        assert_eq!(expected.crc32.as_deref(), Some("DUoRhQ=="));
    }
}
