//! The beginning of a session: who are you, and can you prove it?

use rand::Rng;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use umbel_content::VerifyingKey;
use umbel_service::unix_now;
use umbel_wire::{
    agent::{Challenge, FromAgent, FromEdge, from_agent, from_edge},
    session,
    token::{Membership, TokenError},
};

use crate::{core::Core, view::View};

/// Why an agent is not let in. The text is for its user and for the edge's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotWelcome {
    /// It hung up, or said something else first.
    #[error("expected {0}")]
    Protocol(&'static str),
    /// The membership is no good.
    #[error("membership: {0}")]
    Membership(#[from] TokenError),
    /// The membership was good once.
    #[error("membership revoked")]
    Revoked,
    /// It does not hold the key that the membership names.
    #[error("the proof does not match the membership's key")]
    Proof,
}

impl NotWelcome {
    /// For the metric.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Protocol(_) => "protocol",
            Self::Membership(TokenError::Expired) => "expired",
            Self::Membership(_) => "membership",
            Self::Revoked => "revoked",
            Self::Proof => "proof",
        }
    }
}

impl From<NotWelcome> for Status {
    fn from(reason: NotWelcome) -> Self {
        Self::unauthenticated(reason.to_string())
    }
}

/// Checks a membership against the current configuration; used by sessions and by the relay.
pub(crate) fn check_membership(view: &View, token: &str, now: u64) -> Result<Membership, NotWelcome> {
    let membership = Membership::verify(token, &view.membership_keys, now)?;
    if view.installation.revoked.contains(&membership.agent) {
        return Err(NotWelcome::Revoked);
    }
    Ok(membership)
}

/// Hello, Challenge, Proof.
pub(super) async fn welcome(
    core: &Core,
    inbox: &mut Streaming<FromAgent>,
    outbox: &mpsc::Sender<Result<FromEdge, Status>>,
) -> Result<Membership, NotWelcome> {
    let Some(from_agent::Message::Hello(hello)) = next(inbox).await else {
        return Err(NotWelcome::Protocol("Hello"));
    };
    let membership = check_membership(&core.view.load(), &hello.membership, unix_now())?;
    let mut nonce = [0; 32];
    rand::rng().fill_bytes(&mut nonce);
    let challenge = Challenge { nonce: nonce.to_vec().into(), edge: core.node_id.clone() };
    let message = FromEdge { message: Some(from_edge::Message::Challenge(challenge)) };
    outbox.send(Ok(message)).await.map_err(|_| NotWelcome::Protocol("Proof"))?;
    let Some(from_agent::Message::Proof(proof)) = next(inbox).await else {
        return Err(NotWelcome::Protocol("Proof"));
    };
    let key = VerifyingKey::from_bytes(membership.agent);
    if !session::proven(&key, &nonce, &core.node_id, &proof.signature) {
        return Err(NotWelcome::Proof);
    }
    Ok(membership)
}

async fn next(inbox: &mut Streaming<FromAgent>) -> Option<from_agent::Message> {
    inbox.message().await.ok()??.message
}
