//! `umbel admin token`

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use reqwest::Method;
use serde::Serialize;
use umbel_control_plane::api::{NewEnrolmentToken, NewJoinToken, NodeRole, TrustDomain};

use super::Session;
use crate::show;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a token; it is shown once
    Create {
        /// What its user becomes
        #[arg(value_enum)]
        purpose: Purpose,
        /// How long it may be used, e.g. 2h or 7days [default: a day]
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        expires_in: Option<Duration>,
        /// Agents: how many it lets in
        #[arg(long, value_name = "N", default_value_t = 1)]
        uses: u32,
        /// Agents: they are the operator's own or a customer's machines (admins)
        #[arg(long)]
        trusted: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Purpose {
    Origin,
    Edge,
    Agent,
}

impl Command {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let Self::Create { purpose, expires_in, uses, trusted } = self;
        let expires_in = expires_in.map(|life| life.as_secs());
        let trust_domain = trusted.then_some(TrustDomain::Trusted);
        match purpose {
            Purpose::Origin => {
                create(session, "join-tokens", &NewJoinToken { role: NodeRole::Origin, expires_in }).await
            }
            Purpose::Edge => create(session, "join-tokens", &NewJoinToken { role: NodeRole::Edge, expires_in }).await,
            Purpose::Agent => {
                create(session, "enrolment-tokens", &NewEnrolmentToken { uses, expires_in, trust_domain }).await
            }
        }
    }
}

/// Prints the token alone, so that a script can use it as it is.
async fn create(session: &Session, path: &str, wanted: &impl Serialize) -> anyhow::Result<()> {
    let answer = session.api.call(Method::POST, path, Some(serde_json::to_value(wanted)?)).await?;
    match answer["token"].as_str() {
        Some(token) if !session.json => show::line(token),
        _ => show::json(&answer),
    }
}
