//! Membership: the control plane says that the holder of a key belongs to this network.

use serde::{Deserialize, Serialize};

use super::{AgentId, KeySet, TokenError, TokenSigner, base64, check_time};

const ISSUER: &str = "umbel-control-plane";
const AUDIENCE: &str = "umbel-edge";

/// An agent's proof of who it is, bound to its key (`cnf`, RFC 7800).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The agent's public key.
    #[serde(rename = "sub", with = "base64")]
    pub agent: AgentId,
    /// Account that enrolled it.
    #[serde(rename = "account")]
    pub account_id: String,
    /// `trusted` or `public`.
    pub trust_domain: String,
    /// Unique id of this token.
    #[serde(rename = "jti")]
    pub id: String,
    /// Seconds since the Unix epoch.
    #[serde(rename = "iat")]
    pub issued: u64,
    /// Seconds since the Unix epoch; not valid from this second on.
    #[serde(rename = "exp")]
    pub expires: u64,
}

/// A membership and what is the same in all of them, or follows from it.
#[derive(Serialize, Deserialize)]
struct Claims<T> {
    iss: String,
    aud: String,
    nbf: u64,
    cnf: Confirmation,
    #[serde(flatten)]
    membership: T,
}

#[derive(Serialize, Deserialize)]
struct Confirmation {
    jwk: Jwk,
}

#[derive(Serialize, Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    #[serde(with = "base64")]
    x: AgentId,
}

impl Membership {
    /// The token's text.
    pub fn sign(&self, signer: &TokenSigner) -> String {
        let jwk = Jwk { kty: "OKP".into(), crv: "Ed25519".into(), x: self.agent };
        let cnf = Confirmation { jwk };
        signer.sign(&Claims { iss: ISSUER.into(), aud: AUDIENCE.into(), nbf: self.issued, cnf, membership: self })
    }

    /// Checks everything but that the one who shows it holds the key: see [`crate::session`].
    pub fn verify(token: &str, keys: &KeySet, now: u64) -> Result<Self, TokenError> {
        let (_, claims): (_, Claims<Self>) = keys.open(token)?;
        if claims.iss != ISSUER {
            return Err(TokenError::Issuer);
        }
        if claims.aud != AUDIENCE {
            return Err(TokenError::Audience);
        }
        let (membership, jwk) = (claims.membership, claims.cnf.jwk);
        check_time(now, claims.nbf, membership.expires)?;
        if jwk.kty != "OKP" || jwk.crv != "Ed25519" || jwk.x != membership.agent {
            return Err(TokenError::Binding);
        }
        Ok(membership)
    }
}
