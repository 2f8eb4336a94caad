//! Who this agent is: its key, and the membership that the control plane gave it. Kept in the state folder.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use umbel_content::SigningKey;
use umbel_service::files;

const KEY_FILE: &str = "agent.key";
const MEMBERSHIP_FILE: &str = "membership.json";

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Never enrolled.
    #[error("this agent is not enrolled: run `umbel agent enroll`")]
    NotEnrolled,
    /// A file of the state folder cannot be read or written.
    #[error("state folder {folder}")]
    Io {
        /// Which.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the state folder does not make sense.
    #[error("{0} in the state folder is damaged: enrol again")]
    Damaged(&'static str),
}

/// What enrolment brought.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Enrolled {
    pub(crate) control_plane_url: String,
    pub(crate) ca_pem: String,
    pub(crate) edges: Vec<String>,
    pub(crate) membership: String,
    /// Seconds since the Unix epoch.
    pub(crate) renew_at: u64,
    /// Seconds since the Unix epoch.
    pub(crate) expires_at: u64,
}

/// An enrolled agent. Its key is also its name among peers.
#[derive(Clone)]
pub struct Identity {
    state: PathBuf,
    seed: [u8; 32],
    enrolled: Arc<ArcSwap<Enrolled>>,
}

impl Identity {
    /// Reads the identity of the agent in `state`.
    pub fn load(state: &Path) -> Result<Self, IdentityError> {
        let fault = |source| IdentityError::Io { folder: state.to_owned(), source };
        let seed = files::read(&state.join(KEY_FILE)).map_err(fault)?.ok_or(IdentityError::NotEnrolled)?;
        let seed = seed.try_into().map_err(|_| IdentityError::Damaged(KEY_FILE))?;
        let json = files::read(&state.join(MEMBERSHIP_FILE)).map_err(fault)?.ok_or(IdentityError::NotEnrolled)?;
        let enrolled: Enrolled = serde_json::from_slice(&json).map_err(|_| IdentityError::Damaged(MEMBERSHIP_FILE))?;
        Ok(Self { state: state.to_owned(), seed, enrolled: Arc::new(ArcSwap::from_pointee(enrolled)) })
    }

    /// Writes down what enrolment with the key of `seed` brought.
    pub(crate) fn save(state: &Path, seed: [u8; 32], enrolled: Enrolled) -> Result<Self, IdentityError> {
        let fault = |source| IdentityError::Io { folder: state.to_owned(), source };
        files::replace(&state.join(KEY_FILE), &seed).map_err(fault)?;
        let identity =
            Self { state: state.to_owned(), seed, enrolled: Arc::new(ArcSwap::from_pointee(enrolled.clone())) };
        identity.update(enrolled)?;
        Ok(identity)
    }

    /// Replaces the membership.
    pub(crate) fn update(&self, enrolled: Enrolled) -> Result<(), IdentityError> {
        let json = serde_json::to_vec_pretty(&enrolled).map_err(|_| IdentityError::Damaged(MEMBERSHIP_FILE))?;
        files::replace(&self.state.join(MEMBERSHIP_FILE), &json)
            .map_err(|source| IdentityError::Io { folder: self.state.clone(), source })?;
        self.enrolled.store(Arc::new(enrolled));
        Ok(())
    }

    pub(crate) fn key(&self) -> SigningKey {
        SigningKey::from_seed(&self.seed)
    }

    pub(crate) fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    pub(crate) fn enrolled(&self) -> Arc<Enrolled> {
        self.enrolled.load_full()
    }

    /// The agent's Ed25519 public key.
    pub fn agent_id(&self) -> [u8; 32] {
        *self.key().verifying_key().as_bytes()
    }

    /// The public key as others write it: base64url.
    pub fn name(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.agent_id())
    }

    /// Base URLs of the edges that enrolment named.
    pub fn edges(&self) -> Vec<String> {
        self.enrolled().edges.clone()
    }

    /// When the membership ends, in seconds since the Unix epoch.
    pub fn expires_at(&self) -> u64 {
        self.enrolled().expires_at
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// The key in `state`, if the agent made one before: enrolling again keeps the agent's name.
pub(crate) fn existing_seed(state: &Path) -> io::Result<Option<[u8; 32]>> {
    Ok(files::read(&state.join(KEY_FILE))?.and_then(|bytes| bytes.try_into().ok()))
}
