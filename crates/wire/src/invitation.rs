//! The one string that lets a server or an agent in: where the control plane is, how to know it, and a secret.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

/// Longest invitation that is looked at, in bytes.
const MAX_LENGTH: usize = 8 * 1024;
const PREFIX: &str = "umbel1.";

/// What an invitation lets its holder become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// A node of this installation: an origin.
    Origin,
    /// A node of this installation: an edge.
    Edge,
    /// An end user's agent.
    Agent,
}

/// A join token (servers, one use) or an enrolment token (agents). The text form is
/// `umbel1.` and base64url JSON; it is a secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invitation {
    /// What it is for.
    pub purpose: Purpose,
    /// Base URL of the control plane.
    pub url: String,
    /// The installation's CA certificate in PEM: the first connection is already verified.
    pub ca: String,
    /// What is checked and, for servers, used up.
    pub secret: String,
}

/// Why a string is no invitation.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("this is not an umbel token: it starts with `umbel1.` and comes from `umbel admin token create`")]
pub struct NotAnInvitation;

impl Invitation {
    /// The text that people copy.
    pub fn encode(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
    }

    /// Reads the text form; white space around it is forgiven.
    pub fn decode(text: &str) -> Result<Self, NotAnInvitation> {
        let text = text.trim();
        if text.len() > MAX_LENGTH {
            return Err(NotAnInvitation);
        }
        let body = text.strip_prefix(PREFIX).ok_or(NotAnInvitation)?;
        let json = URL_SAFE_NO_PAD.decode(body).map_err(|_| NotAnInvitation)?;
        serde_json::from_slice(&json).map_err(|_| NotAnInvitation)
    }
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invitation").field("purpose", &self.purpose).field("url", &self.url).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invitation() -> Invitation {
        Invitation { purpose: Purpose::Edge, url: "https://c:1".into(), ca: "PEM".into(), secret: "s3cr3t".into() }
    }

    #[test]
    fn survives_the_way_through_a_terminal() {
        let text = format!("  {}\n", invitation().encode());
        assert_eq!(Invitation::decode(&text), Ok(invitation()));
    }

    #[test]
    fn anything_else_is_refused() {
        let long = format!("{PREFIX}{}", "A".repeat(MAX_LENGTH));
        for text in ["", "umbel1.", "umbel1.!!", "umbel2.e30", "umbel1.e30", &long] {
            assert_eq!(Invitation::decode(text), Err(NotAnInvitation), "{text:.20}");
        }
    }

    #[test]
    fn debug_keeps_the_secret() {
        assert!(!format!("{:?}", invitation()).contains("s3cr3t"));
    }
}
