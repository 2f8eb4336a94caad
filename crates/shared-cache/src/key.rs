//! What a stored response is found by: the URI that the reader asked for (RFC 9111, section 2), in whatever form it is written. Its
//! scheme and host are part of it, although all hosts of a site are the same server of the provider: that is told which one is meant, and
//! may answer `https://example.org/` with a redirect to `https://www.example.org/`. Not the method: only what a GET brings is stored.

use std::{
    borrow::Cow,
    io::{Read, Write},
};

use foyer::{Code, Error};
use http::Uri;
use umbel_http_cache::normal_target;

/// What the targets of a site lie under: a scheme and a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root<'a> {
    site_id: &'a str,
    secure: bool,
    host: Cow<'a, str>,
}

impl<'a> Root<'a> {
    /// `host` as a reader writes it; `secure` if he asks over HTTPS. Its port is left out: behind all ports of an edge is the same, and
    /// agents, who have another way to ask, know of none.
    pub fn new(site_id: &'a str, secure: bool, host: &'a str) -> Self {
        let port = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
        let host = port.map_or(host, |(host, _)| host);
        let host = host.strip_suffix('.').unwrap_or(host);
        let host = match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(host.to_ascii_lowercase()),
            false => Cow::Borrowed(host),
        };
        Self { site_id, secure, host }
    }

    pub(crate) fn site_id(&self) -> &'a str {
        self.site_id
    }
}

/// The BLAKE3 hash of site, scheme, host and target: keys are of one size, however long a URL is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// For what lies under `root`.
    pub fn of(root: &Root<'_>, uri: &Uri) -> Self {
        let Root { site_id, secure, host } = root;
        Self::hash(&[site_id.as_bytes(), &[(*secure).into()], host.as_bytes(), normal_target(target(uri)).as_bytes()])
    }

    /// A piece of a stored body.
    pub(crate) fn of_piece(body: u128, piece: u64) -> Self {
        Self::hash(&[&body.to_be_bytes(), &piece.to_be_bytes()])
    }

    fn hash(parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_be_bytes()).update(part);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_same_has_one_key() {
        let key = |secure, host, target: &str| Key::of(&Root::new("s", secure, host), &target.parse().unwrap());
        let one = key(true, "www.site", "/a?b");
        for (host, target) in
            [("WWW.Site", "/a?b"), ("www.site:443", "/a?b"), ("www.site:8443", "/a?b"), ("www.site.", "/%61?%62")]
        {
            assert_eq!(key(true, host, target), one, "{host} {target}");
        }
        let others = [
            key(false, "www.site", "/a?b"),
            key(true, "site", "/a?b"),
            key(true, "[::1]", "/a?b"),
            key(true, "www.site", "/a?B"),
            Key::of(&Root::new("t", true, "www.site"), &Uri::from_static("/a?b")),
        ];
        assert!(others.iter().all(|other| *other != one));
    }
}
