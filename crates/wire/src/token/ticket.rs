//! Ticket: an edge lets one agent fetch one version from one sender, up to so many bytes.

use serde::{Deserialize, Serialize};

use super::{AgentId, KeySet, ManifestId, TokenError, TokenSigner, base64, base64_array, check_time};

const AUDIENCE: &str = "umbel-transfer";

/// An edge's permission for a transfer. Its issuer is the edge whose key signed it (`kid` = `iss` = node id).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// `jti`, unique. Receipts are counted by it.
    pub id: [u8; 16],
    /// Node id of the edge.
    pub issuer: String,
    /// Who may receive.
    pub receiver: AgentId,
    /// Who may send; none: edges.
    pub sender: Option<AgentId>,
    /// UUID of the site.
    pub site_id: String,
    /// Path of the object.
    pub path: String,
    /// The version's manifest.
    pub manifest: ManifestId,
    /// Plaintext bytes.
    pub max_bytes: u64,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snd: Option<String>,
    jti: String,
    site: String,
    path: String,
    mid: String,
    max: u64,
    iat: u64,
    nbf: u64,
    exp: u64,
}

impl Ticket {
    /// The token's text. `issuer` must be the signer's `kid`, or nobody accepts it.
    pub fn sign(&self, signer: &TokenSigner) -> String {
        signer.sign(&Claims {
            iss: self.issuer.clone(),
            aud: AUDIENCE.into(),
            sub: base64(&self.receiver),
            snd: self.sender.as_ref().map(|sender| base64(sender)),
            jti: base64(&self.id),
            site: self.site_id.clone(),
            path: self.path.clone(),
            mid: base64(self.manifest.as_bytes()),
            max: self.max_bytes,
            iat: self.issued,
            nbf: self.issued,
            exp: self.expires,
        })
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
        let (kid, claims): (_, Claims) = edges.open(token)?;
        if claims.iss != kid {
            return Err(TokenError::Issuer);
        }
        if claims.aud != AUDIENCE {
            return Err(TokenError::Audience);
        }
        Ok(Self {
            id: base64_array(&claims.jti)?,
            issuer: claims.iss,
            receiver: base64_array(&claims.sub)?,
            sender: claims.snd.as_deref().map(base64_array).transpose()?,
            site_id: claims.site,
            path: claims.path,
            manifest: ManifestId::from_bytes(base64_array(&claims.mid)?),
            max_bytes: claims.max,
            issued: claims.iat,
            expires: claims.exp,
        })
    }

    /// Whether this ticket is for a transfer of some version from `sender` (none: an edge) to `receiver`.
    pub fn allows(&self, receiver: &AgentId, sender: Option<&AgentId>) -> Result<(), TokenError> {
        if &self.receiver != receiver || self.sender.as_ref() != sender {
            return Err(TokenError::Binding);
        }
        Ok(())
    }
}
