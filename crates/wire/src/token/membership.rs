//! Membership: the control plane says that the holder of a key belongs to this network.

use serde::{Deserialize, Serialize};

use super::{AgentId, KeySet, TokenError, TokenSigner, base64, base64_array, check_time};

const ISSUER: &str = "umbel-control-plane";
const AUDIENCE: &str = "umbel-edge";

/// An agent's proof of who it is, bound to its key (`cnf`, RFC 7800).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The agent's public key.
    pub agent: AgentId,
    /// Account that enrolled it.
    pub account_id: String,
    /// `trusted` or `public`.
    pub trust_domain: String,
    /// Unique id of this token.
    pub id: String,
    /// Seconds since the Unix epoch.
    pub issued: u64,
    /// Seconds since the Unix epoch; not valid from this second on.
    pub expires: u64,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    jti: String,
    iat: u64,
    nbf: u64,
    exp: u64,
    account: String,
    trust_domain: String,
    cnf: Confirmation,
}

#[derive(Serialize, Deserialize)]
struct Confirmation {
    jwk: Jwk,
}

#[derive(Serialize, Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
}

impl Membership {
    /// The token's text.
    pub fn sign(&self, signer: &TokenSigner) -> String {
        let x = base64(&self.agent);
        signer.sign(&Claims {
            iss: ISSUER.into(),
            aud: AUDIENCE.into(),
            sub: x.clone(),
            jti: self.id.clone(),
            iat: self.issued,
            nbf: self.issued,
            exp: self.expires,
            account: self.account_id.clone(),
            trust_domain: self.trust_domain.clone(),
            cnf: Confirmation { jwk: Jwk { kty: "OKP".into(), crv: "Ed25519".into(), x } },
        })
    }

    /// Checks everything but that the one who shows it holds the key: see [`crate::session`].
    pub fn verify(token: &str, keys: &KeySet, now: u64) -> Result<Self, TokenError> {
        let (_, claims): (_, Claims) = keys.open(token)?;
        if claims.iss != ISSUER {
            return Err(TokenError::Issuer);
        }
        if claims.aud != AUDIENCE {
            return Err(TokenError::Audience);
        }
        check_time(now, claims.nbf, claims.exp)?;
        let jwk = claims.cnf.jwk;
        if jwk.kty != "OKP" || jwk.crv != "Ed25519" || jwk.x != claims.sub {
            return Err(TokenError::Binding);
        }
        Ok(Self {
            agent: base64_array(&jwk.x)?,
            account_id: claims.account,
            trust_domain: claims.trust_domain,
            id: claims.jti,
            issued: claims.iat,
            expires: claims.exp,
        })
    }
}
