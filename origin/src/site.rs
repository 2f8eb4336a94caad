//! What the origin needs of a site: its name, and the two keys that only origins have.

use std::{fmt, sync::Arc};

use umbel_content::{ContentKey, SigningKey, SiteName, VersionId};
use umbel_service::installation::Installation;
use umbel_wire::control;
use zeroize::Zeroizing;

use crate::vault::{self, DoesNotOpen, Secret};

/// One site, cheap to clone.
#[derive(Clone)]
pub(crate) struct Site {
    /// UUID, a folder's name in the store.
    pub(crate) id: Arc<str>,
    pub(crate) name: SiteName,
    pub(crate) signing_key: Arc<SigningKey>,
    wrapping_key: Arc<Secret>,
}

/// The control plane sent a site that an origin can do nothing with.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the configuration of this site is not complete")]
pub(crate) struct Unusable;

impl Site {
    pub(crate) fn new(site: &control::Site) -> Result<Self, Unusable> {
        let seed: [u8; 32] = site.signing_seed.as_ref().try_into().map_err(|_| Unusable)?;
        let wrapping_key: [u8; 32] = site.wrapping_key.as_ref().try_into().map_err(|_| Unusable)?;
        let id = uuid::Uuid::try_parse(&site.id).map_err(|_| Unusable)?;
        Ok(Self {
            id: id.to_string().into(),
            name: site.name.parse().map_err(|_| Unusable)?,
            signing_key: Arc::new(SigningKey::from_seed(&seed)),
            wrapping_key: Arc::new(Zeroizing::new(wrapping_key)),
        })
    }

    /// The site with this id, if there is one that can be used.
    pub(crate) fn by_id(installation: &Installation, id: &str) -> Option<Self> {
        Self::new(installation.sites.get(id)?).ok()
    }

    pub(crate) fn wrap(&self, version: &VersionId, key: &ContentKey) -> Result<Vec<u8>, DoesNotOpen> {
        vault::wrap(self.wrapping_key.as_slice(), version.as_bytes(), key.as_bytes())
    }

    pub(crate) fn unwrap(&self, version: &VersionId, wrapped: &[u8]) -> Result<ContentKey, DoesNotOpen> {
        let key = vault::unwrap(self.wrapping_key.as_slice(), version.as_bytes(), wrapped)?;
        Ok(ContentKey::from_bytes(*key))
    }

    pub(crate) fn wrap_upload(&self, upload: &str, key: &Secret) -> Result<Vec<u8>, DoesNotOpen> {
        vault::wrap(self.wrapping_key.as_slice(), upload.as_bytes(), key)
    }

    pub(crate) fn unwrap_upload(&self, upload: &str, wrapped: &[u8]) -> Result<Secret, DoesNotOpen> {
        vault::unwrap(self.wrapping_key.as_slice(), upload.as_bytes(), wrapped)
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}
