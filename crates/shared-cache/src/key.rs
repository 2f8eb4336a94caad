//! What a stored response is found by: the site, path and query of the request (RFC 9111, section 2), in whatever form they are written. Not the host: all hosts
//! of a site are the same server of the provider. Not the method: only what a GET brings is stored.

use std::io::{Read, Write};

use foyer::{Code, Error};
use http::Uri;
use umbel_http_cache::normal_target;

/// The BLAKE3 hash of site id and target: keys are of one size, however long a URL is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// For a request to the site `site_id`.
    pub fn of(site_id: &str, uri: &Uri) -> Self {
        Self::hash(site_id.as_bytes(), normal_target(target(uri)).as_bytes())
    }

    /// A piece of a stored body.
    pub(crate) fn of_piece(body: u128, piece: u64) -> Self {
        Self::hash(&body.to_be_bytes(), &piece.to_be_bytes())
    }

    fn hash(first: &[u8], second: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(first.len() as u64).to_be_bytes()).update(first).update(second);
        Self(hasher.finalize().into())
    }
}

/// Path and query.
pub(crate) fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str)
}

impl Code for Key {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        writer.write_all(&self.0).map_err(Error::io_error)
    }

    fn decode(reader: &mut impl Read) -> foyer::Result<Self> {
        let mut bytes = [0; 32];
        reader.read_exact(&mut bytes).map_err(Error::io_error)?;
        Ok(Self(bytes))
    }

    fn estimated_size(&self) -> usize {
        32
    }
}
