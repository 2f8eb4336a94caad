//! The JSON of a site's own certificate.

use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// `PUT sites/{name}/certificate`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCertificate {
    /// PEM: the site's certificate, then each issuer but the root.
    pub chain: String,
    /// PEM: its private key. It is never shown again.
    pub key: String,
}

impl fmt::Debug for NewCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewCertificate").finish_non_exhaustive()
    }
}

/// `GET sites/{name}/certificate`, answer of its `PUT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Hosts that it is for, some with `*.` in front. Edges show it for those that are the site's.
    pub names: Vec<String>,
    /// Distinguished name of who issued it.
    pub issuer: String,
    /// When it ends.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// SHA-256 of the certificate, hex.
    pub fingerprint: String,
    /// When the site got it.
    #[serde(with = "time::serde::rfc3339")]
    pub set_at: OffsetDateTime,
}
