//! How an agent gets and renews its membership at the control plane: OAuth 2.0 device grant (RFC 8628), an enrolment token, or
//! renewal. Every way ends in a token request that the agent's key has signed.
//!
//! Requests are forms (`application/x-www-form-urlencoded`), answers JSON, as RFC 6749 has it.

use std::fmt;

use serde::{Deserialize, Serialize};
use umbel_content::{SigningKey, VerifyingKey};

const DOMAIN: &[u8] = b"umbel enrol v1";
const RENEWAL_DOMAIN: &[u8] = b"umbel renew v1";

/// Path of the device authorization endpoint.
pub const DEVICE_AUTHORIZATION_PATH: &str = "/oauth/device_authorization";
/// Path of the token endpoint.
pub const TOKEN_PATH: &str = "/oauth/token";

/// `grant_type` of the device grant.
pub const DEVICE_CODE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// `grant_type` of an enrolment token.
pub const ENROLMENT_TOKEN_GRANT: &str = "urn:umbel:params:oauth:grant-type:enrolment-token";
/// `grant_type` of a renewal.
pub const RENEWAL_GRANT: &str = "urn:umbel:params:oauth:grant-type:membership-renewal";

/// A renewal's timestamp may be off by this much, in seconds.
pub const RENEWAL_WINDOW: u64 = 300;

/// Asks for a device code. `public_key` is the agent's, base64url; `name` helps the person who approves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceAuthorizationRequest {
    /// Base64url, 32 bytes.
    pub public_key: String,
    /// Usually the host name.
    #[serde(default)]
    pub name: String,
}

/// RFC 8628, section 3.2.
#[derive(Clone, Serialize, Deserialize)]
pub struct DeviceAuthorization {
    /// What the agent polls with. A secret.
    pub device_code: String,
    /// What a person types.
    pub user_code: String,
    /// Where.
    pub verification_uri: String,
    /// Where, with the code filled in.
    pub verification_uri_complete: String,
    /// Seconds that both codes live.
    pub expires_in: u64,
    /// Seconds between polls.
    pub interval: u64,
}

impl fmt::Debug for DeviceAuthorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceAuthorization").field("user_code", &self.user_code).finish_non_exhaustive()
    }
}

/// A request to the token endpoint. Which fields count depends on the grant.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct TokenRequest {
    /// One of the `*_GRANT` constants.
    pub grant_type: String,
    /// [`DEVICE_CODE_GRANT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_code: Option<String>,
    /// [`ENROLMENT_TOKEN_GRANT`]: the secret of the invitation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// [`RENEWAL_GRANT`]: seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    /// The agent's, base64url.
    pub public_key: String,
    /// Base64url, by [`prove`] or [`prove_renewal`].
    pub signature: String,
    /// What the agent is called in lists.
    #[serde(default)]
    pub name: String,
}

impl fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRequest")
            .field("grant_type", &self.grant_type)
            .field("public_key", &self.public_key)
            .finish_non_exhaustive()
    }
}

/// What an agent needs to take part.
#[derive(Clone, Serialize, Deserialize)]
pub struct TokenReply {
    /// The membership, a JWT.
    pub access_token: String,
    /// `PoP`: of no use without the agent's key.
    pub token_type: String,
    /// Seconds that the membership lives.
    pub expires_in: u64,
    /// The installation's CA, PEM.
    pub ca_pem: String,
    /// Public base URLs of the edges.
    pub edges: Vec<String>,
}

impl fmt::Debug for TokenReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenReply").field("edges", &self.edges).finish_non_exhaustive()
    }
}

/// RFC 6749, section 5.2, with the codes of RFC 8628, section 3.5.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TokenRefusal {
    /// `authorization_pending`, `slow_down`, `access_denied`, `expired_token`, `invalid_grant`, ...
    pub error: String,
    /// For people.
    #[serde(default)]
    pub error_description: String,
}

/// Signs a token request; `secret` is the device code or the enrolment token.
pub fn prove(key: &SigningKey, secret: &str) -> [u8; 64] {
    key.sign(DOMAIN, &[secret.as_bytes(), key.verifying_key().as_bytes()])
}

/// Whether `signature` shows that `agent` itself asks. The key at the end has a fixed length, so no two secrets read alike.
pub fn proven(agent: &VerifyingKey, secret: &str, signature: &[u8]) -> bool {
    agent.verify(DOMAIN, &[secret.as_bytes(), agent.as_bytes()], signature).is_ok()
}

/// Signs a renewal at `timestamp` (seconds since the Unix epoch).
pub fn prove_renewal(key: &SigningKey, timestamp: u64) -> [u8; 64] {
    key.sign(RENEWAL_DOMAIN, &[&timestamp.to_be_bytes(), key.verifying_key().as_bytes()])
}

/// Whether `signature` shows that `agent` itself asks for a renewal, about `now`.
pub fn renewal_proven(agent: &VerifyingKey, timestamp: u64, signature: &[u8], now: u64) -> bool {
    now.abs_diff(timestamp) <= RENEWAL_WINDOW
        && agent.verify(RENEWAL_DOMAIN, &[&timestamp.to_be_bytes(), agent.as_bytes()], signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_hold_for_one_key_secret_and_time() {
        let (key, other) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
        let proof = prove(&key, "secret");
        assert!(proven(&key.verifying_key(), "secret", &proof));
        assert!(!proven(&key.verifying_key(), "secret2", &proof));
        assert!(!proven(&other.verifying_key(), "secret", &proof));
        let renewal = prove_renewal(&key, 1000);
        assert!(renewal_proven(&key.verifying_key(), 1000, &renewal, 1000 + RENEWAL_WINDOW));
        assert!(!renewal_proven(&key.verifying_key(), 1000, &renewal, 1001 + RENEWAL_WINDOW));
        assert!(!renewal_proven(&key.verifying_key(), 1001, &renewal, 1000));
    }
}
