//! Grant: a provider says that its bearer may read part of a site.

use serde::{Deserialize, Serialize};

use super::{KeySet, TokenError, TokenSigner, check_time};

/// A reader's right to the paths of a site that begin with a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Name of the site.
    #[serde(rename = "aud")]
    pub site: String,
    /// `/` for the whole site.
    pub prefix: String,
    /// Seconds since the Unix epoch.
    #[serde(rename = "nbf", default)]
    pub not_before: u64,
    /// Seconds since the Unix epoch; not valid from this second on.
    #[serde(rename = "exp")]
    pub expires: u64,
}

impl Grant {
    /// The token's text, by one of the site's reader keys.
    pub fn sign(&self, signer: &TokenSigner) -> String {
        signer.sign(self)
    }

    /// Checks that `token` lets its bearer read `path` (decoded) of `site` at `now`. `keys` are that site's reader keys.
    pub fn verify(token: &str, keys: &KeySet, site: &str, path: &str, now: u64) -> Result<Self, TokenError> {
        let (_, grant): (_, Self) = keys.open(token)?;
        if grant.site != site {
            return Err(TokenError::Audience);
        }
        check_time(now, grant.not_before, grant.expires)?;
        if !covers(&grant.prefix, path) {
            return Err(TokenError::Binding);
        }
        Ok(grant)
    }
}

/// Whole segments: `/a` covers `/a` and `/a/b`, not `/ab`.
fn covers(prefix: &str, path: &str) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else { return false };
    prefix.starts_with('/') && (prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn prefixes_end_at_segments() {
        for (prefix, path, expected) in [
            ("/", "/a", true),
            ("/a", "/a", true),
            ("/a", "/a/b", true),
            ("/a/", "/a/b", true),
            ("/a", "/ab", false),
            ("/a/", "/a", false),
            ("", "/a", false),
            ("a", "/a", false),
        ] {
            assert_eq!(covers(prefix, path), expected, "{prefix} {path}");
        }
    }
}
