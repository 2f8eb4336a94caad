//! `umbel admin device`

use clap::Subcommand;
use reqwest::Method;
use umbel_control_plane::api::{DeviceDecision, TrustDomain};

use super::Session;
use crate::rest::segment;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Which agent a code is of
    Show { code: String },
    /// Let the agent in that shows this code
    Approve {
        code: String,
        /// It is the operator's own or a customer's machine (admins)
        #[arg(long)]
        trusted: bool,
    },
    /// Turn it away
    Deny { code: String },
}

impl Command {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let path = |code: &str| format!("device-codes/{}", segment(code));
        let (code, decision) = match self {
            Self::Show { code } => return session.one(&path(&code)).await,
            Self::Approve { code, trusted } => {
                (code, DeviceDecision { approve: true, trust_domain: trusted.then_some(TrustDomain::Trusted) })
            }
            Self::Deny { code } => (code, DeviceDecision { approve: false, trust_domain: None }),
        };
        session.send(Method::POST, &path(&code), &decision).await
    }
}
