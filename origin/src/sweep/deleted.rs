//! Content of sites that were deleted. Only what the control plane says counts: a site that the configuration does not have, or
//! no longer has, may be one of a control plane that lost its database.

use std::collections::BTreeSet;

use tracing::info;

use super::{Sweep, millis};
use crate::store::{SITE_FOLDERS, StoreError, deleted_location, found, now_ms};

impl Sweep {
    /// Marks what lies in the store of deleted sites, and removes it when the mark is due; a site that is back loses its mark.
    pub(super) async fn deleted_sites(&self) -> Result<(), StoreError> {
        let marked = self.sites("deleted").await?;
        for site in marked.iter().filter(|site| !self.is_deleted(site)) {
            self.store.delete_all(&deleted_location(site)).await?;
            info!(site, "a site that had been deleted is back");
        }
        for site in self.stored_sites().await? {
            if self.is_deleted(&site) {
                self.deleted_site(&site).await?;
            }
        }
        Ok(())
    }

    fn is_deleted(&self, site: &str) -> bool {
        let installation = self.installation.borrow();
        installation.deleted_sites.contains(site) && !installation.sites.contains_key(site)
    }

    async fn stored_sites(&self) -> Result<BTreeSet<String>, StoreError> {
        let mut sites = BTreeSet::new();
        for folder in SITE_FOLDERS {
            sites.extend(self.sites(folder).await?);
        }
        Ok(sites)
    }

    async fn deleted_site(&self, site: &str) -> Result<(), StoreError> {
        let Some(since_ms) = self.deleted_since(site).await? else {
            info!(site, kept = ?self.keep.deleted_sites, "content of a deleted site is going to be removed");
            return self.store.mark_deleted(site, now_ms()).await;
        };
        if since_ms > now_ms().saturating_sub(millis(self.keep.deleted_sites)) {
            return Ok(());
        }
        // What points to content before the content.
        for folder in SITE_FOLDERS {
            self.store.delete_all(&format!("{folder}/{site}").into()).await?;
        }
        self.store.delete_all(&deleted_location(site)).await?;
        self.meter.swept_sites.inc();
        info!(site, "removed the content of a deleted site");
        Ok(())
    }

    /// Of the oldest mark, in milliseconds since the Unix epoch.
    async fn deleted_since(&self, site: &str) -> Result<Option<u64>, StoreError> {
        let marks = found(self.store.names(&deleted_location(site)).await)?.unwrap_or_default().1;
        Ok(marks.iter().filter_map(|mark| mark.parse().ok()).min())
    }
}
