//! Grant: a provider says that its bearer may read part of a site.

use serde::{Deserialize, Serialize};

use super::{KeySet, TokenError, TokenSigner, check_time};

/// A reader's right to the paths of a site that begin with a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Name of the site.
    pub site: String,
    /// `/` for the whole site.
    pub prefix: String,
    /// Seconds since the Unix epoch.
    pub not_before: u64,
    /// Seconds since the Unix epoch; not valid from this second on.
    pub expires: u64,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    aud: String,
    prefix: String,
    #[serde(default)]
    nbf: u64,
    exp: u64,
}

impl Grant {
    /// The token's text, by one of the site's reader keys.
    pub fn sign(&self, signer: &TokenSigner) -> String {
        signer.sign(&Claims {
            aud: self.site.clone(),
            prefix: self.prefix.clone(),
            nbf: self.not_before,
            exp: self.expires,
        })
    }

    /// Checks that `token` lets its bearer read `path` (decoded) of `site` at `now`. `keys` are that site's reader keys.
    pub fn verify(token: &str, keys: &KeySet, site: &str, path: &str, now: u64) -> Result<Self, TokenError> {
        let (_, claims): (_, Claims) = keys.open(token)?;
        if claims.aud != site {
            return Err(TokenError::Audience);
        }
        check_time(now, claims.nbf, claims.exp)?;
        if !covers(&claims.prefix, path) {
            return Err(TokenError::Binding);
        }
        Ok(Self { site: claims.aud, prefix: claims.prefix, not_before: claims.nbf, expires: claims.exp })
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
