//! JSON Web Tokens (RFC 7519, EdDSA as in RFC 8037): membership, grant and ticket. Every claim that is
//! written is also checked: issuer, audience, expiry, not-before, and whom or what the token is bound to. Time is an argument.

use std::{collections::BTreeMap, fmt};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Serialize, de::DeserializeOwned};
use umbel_content::{ManifestId, SigningKey};

mod base64;
mod grant;
mod membership;
mod ticket;

pub use grant::{Access, Grant, GrantError, ReaderKeys, SignedGrant, Unchecked, Unreadable, parse_network};
pub use membership::Membership;
pub use ticket::Ticket;

/// Longest token that is looked at, in bytes: a ticket for the longest path fits with room.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Clocks of two machines may differ by this much, in seconds.
const LEEWAY: u64 = 30;

/// An agent's Ed25519 public key, which is also its name among peers.
pub type AgentId = [u8; 32];

/// Why a token is not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum TokenError {
    /// Not a token of ours at all, or of another algorithm.
    #[error("malformed token")]
    Malformed,
    /// Signed by a key that is not (or no longer) known here.
    #[error("signed by an unknown key")]
    UnknownKey,
    /// The signature does not match.
    #[error("wrong signature")]
    Signature,
    /// Its time is over.
    #[error("expired")]
    Expired,
    /// Its time has not come.
    #[error("not valid yet")]
    NotYet,
    /// Made for another use.
    #[error("meant for another audience")]
    Audience,
    /// Made by another issuer than its key's.
    #[error("from another issuer")]
    Issuer,
    /// Bound to another key, site, path or version than it was shown for.
    #[error("bound to something else")]
    Binding,
}

/// Makes tokens: an Ed25519 key and the `kid` that others know it by.
#[derive(Clone)]
pub struct TokenSigner {
    kid: String,
    key: EncodingKey,
    public: [u8; 32],
}

impl TokenSigner {
    /// From the 32-byte Ed25519 seed.
    pub fn from_seed(kid: impl Into<String>, seed: &[u8; 32]) -> Self {
        // RFC 8410, section 7: the fixed head of a PKCS#8 Ed25519 private key.
        const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        let der = [PKCS8.as_slice(), seed].concat();
        let public = *SigningKey::from_seed(seed).verifying_key().as_bytes();
        Self { kid: kid.into(), key: EncodingKey::from_ed_der(&der), public }
    }

    /// The `kid`.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public half, 32 bytes.
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    fn sign<C: Serialize>(&self, claims: &C) -> String {
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        // Fails only for claims that are no JSON object; ours are structs.
        jsonwebtoken::encode(&header, claims, &self.key).unwrap_or_default()
    }
}

impl fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSigner").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// Public keys by `kid`.
#[derive(Clone, Default)]
pub struct KeySet(BTreeMap<String, DecodingKey>);

impl KeySet {
    /// From pairs of `kid` and 32-byte public key; others are left out.
    pub fn new<'a>(keys: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let known = keys.into_iter().filter(|(_, key)| key.len() == 32);
        Self(known.map(|(kid, key)| (kid.to_owned(), DecodingKey::from_ed_der(key))).collect())
    }

    /// Whether there is a key of this name.
    pub fn contains(&self, kid: &str) -> bool {
        self.0.contains_key(kid)
    }

    /// As [`open`], with these keys.
    fn open<C: DeserializeOwned>(&self, token: &str) -> Result<(String, C), TokenError> {
        open(token, |kid| self.0.get(kid))
    }
}

/// Checks length, algorithm, key and signature; returns the `kid` and the claims. Nothing else is checked.
fn open<'k, C: DeserializeOwned>(
    token: &str,
    key_of: impl FnOnce(&str) -> Option<&'k DecodingKey>,
) -> Result<(String, C), TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::Malformed);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
    if header.alg != Algorithm::EdDSA {
        return Err(TokenError::Malformed);
    }
    let kid = header.kid.ok_or(TokenError::Malformed)?;
    let key = key_of(&kid).ok_or(TokenError::UnknownKey)?;
    let data = jsonwebtoken::decode(token, key, &signature_only()).map_err(refusal)?;
    Ok((kid, data.claims))
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The library would read a clock for `exp` and `nbf`; the claims check themselves against the time they are given.
fn signature_only() -> Validation {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    validation
}

fn refusal(error: jsonwebtoken::errors::Error) -> TokenError {
    let wrong = matches!(error.kind(), jsonwebtoken::errors::ErrorKind::InvalidSignature);
    if wrong { TokenError::Signature } else { TokenError::Malformed }
}

fn check_time(now: u64, not_before: u64, expires: u64) -> Result<(), TokenError> {
    if now + LEEWAY < not_before {
        return Err(TokenError::NotYet);
    }
    // No leeway at the end: who hands out a token can make it longer.
    if now >= expires {
        return Err(TokenError::Expired);
    }
    Ok(())
}
