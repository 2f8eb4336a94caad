//! What went wrong: a word for programs, a sentence for people.

use serde::{Deserialize, Serialize};

use crate::{agent::GetError, edge::EdgeError, open::OpenError, store::StoreError};

/// Why content could not be had, as the local API and [`crate::State`] tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `bad_request`, `grant_missing`, `forbidden`, `not_found`, `unreachable`, `membership`, `storage`, `unverified`, `closing`
    /// (the agent is), `failed`.
    pub code: String,
    /// For people.
    pub message: String,
}

/// The agent's own end, which says nothing of the content.
const CLOSING: &str = "closing";

impl Problem {
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new("failed", message)
    }

    pub(crate) fn closing() -> Self {
        Self::new(CLOSING, "the agent is closing")
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.code == CLOSING
    }
}

impl From<&GetError> for Problem {
    fn from(error: &GetError) -> Self {
        match error {
            GetError::Failed(problem) | GetError::Remote(problem) => problem.clone(),
            GetError::Open(_)
            | GetError::Store(_)
            | GetError::Decrypt(_)
            | GetError::Save { .. }
            | GetError::Lost(_) => Self::new(error.code(), crate::chain(error)),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        (&GetError::from(error)).into()
    }
}

impl From<OpenError> for Problem {
    fn from(error: OpenError) -> Self {
        (&GetError::from(error)).into()
    }
}

impl GetError {
    /// A word for programs: see [`Problem::code`].
    pub fn code(&self) -> &str {
        match self {
            Self::Open(error) => opening(error),
            Self::Store(error) => storing(error),
            Self::Decrypt(_) => "unverified",
            Self::Save { .. } => "storage",
            Self::Lost(_) => "failed",
            Self::Failed(problem) | Self::Remote(problem) => &problem.code,
        }
    }
}

fn opening(error: &OpenError) -> &'static str {
    match error {
        OpenError::Url(_) | OpenError::Path(_) => "bad_request",
        OpenError::Edge(error) => match error {
            EdgeError::Unreachable { .. } => "unreachable",
            EdgeError::Membership(_) => "membership",
            EdgeError::GrantMissing(_) => "grant_missing",
            EdgeError::Forbidden(_) => "forbidden",
            EdgeError::NotFound(_) => "not_found",
            EdgeError::Unshared { .. } => "failed",
            EdgeError::Refused(_) => "bad_request",
        },
        OpenError::Manifest(_) | OpenError::Ticket(_) | OpenError::Chunk(_) | OpenError::Answer(_) => "unverified",
    }
}

fn storing(error: &StoreError) -> &'static str {
    match error {
        StoreError::Quota { .. } | StoreError::Io(_) | StoreError::Index(_) => "storage",
        StoreError::Closed => CLOSING,
        StoreError::InUse | StoreError::NotHeld(_) => "failed",
    }
}
