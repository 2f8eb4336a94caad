//! Ticket: an edge lets one agent fetch one version from one sender, up to so many bytes.

use serde::{Deserialize, Serialize};

use super::{AgentId, KeySet, ManifestId, TokenError, TokenSigner, base64, check_time};

const AUDIENCE: &str = "umbel-transfer";

/// An edge's permission for a transfer. Its issuer is the edge whose key signed it (`kid` = `iss` = node id).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// `jti`, unique. Receipts are counted by it.
    #[serde(rename = "jti", with = "base64")]
    pub id: [u8; 16],
    /// Node id of the edge.
    #[serde(rename = "iss")]
    pub issuer: String,
    /// Who may receive.
    #[serde(rename = "sub", with = "base64")]
    pub receiver: AgentId,
    /// Who may send; none: edges.
    #[serde(rename = "snd", default, with = "base64::option", skip_serializing_if = "Option::is_none")]
    pub sender: Option<AgentId>,
    /// UUID of the site.
    #[serde(rename = "site")]
    pub site_id: String,
    /// Path of the object.
    pub path: String,
    /// The version's manifest.
    #[serde(rename = "mid", with = "base64")]
    pub manifest: ManifestId,
    /// Plaintext bytes.
    #[serde(rename = "max")]
    pub max_bytes: u64,
    /// Seconds since the Unix epoch.
    #[serde(rename = "iat")]
    pub issued: u64,
    /// Seconds since the Unix epoch; not valid from this second on.
    #[serde(rename = "exp")]
    pub expires: u64,
}

/// A ticket and what is the same in all of them.
#[derive(Serialize, Deserialize)]
struct Claims<T> {
    aud: String,
    nbf: u64,
    #[serde(flatten)]
    ticket: T,
}

impl Ticket {
    /// The token's text. `issuer` must be the signer's `kid`, or nobody accepts it.
    pub fn sign(&self, signer: &TokenSigner) -> String {
        signer.sign(&Claims { aud: AUDIENCE.into(), nbf: self.issued, ticket: self })
    }

    /// Checks signature, issuer, audience and time. The caller compares receiver, sender and manifest with what it
    /// sees: [`Ticket::allows`].
    pub fn verify(token: &str, edges: &KeySet, now: u64) -> Result<Self, TokenError> {
        let ticket = Self::verify_signature(token, edges)?;
        check_time(now, ticket.issued, ticket.expires)?;
        Ok(ticket)
    }

    /// As [`Ticket::verify`], at any time: for receipts that come late.
    pub fn verify_signature(token: &str, edges: &KeySet) -> Result<Self, TokenError> {
        let (kid, claims): (_, Claims<Self>) = edges.open(token)?;
        if claims.ticket.issuer != kid {
            return Err(TokenError::Issuer);
        }
        if claims.aud != AUDIENCE {
            return Err(TokenError::Audience);
        }
        Ok(claims.ticket)
    }

    /// Whether this ticket is for a transfer of some version from `sender` (none: an edge) to `receiver`.
    pub fn allows(&self, receiver: &AgentId, sender: Option<&AgentId>) -> Result<(), TokenError> {
        if &self.receiver != receiver || self.sender.as_ref() != sender {
            return Err(TokenError::Binding);
        }
        Ok(())
    }
}
