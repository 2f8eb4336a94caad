//! Certificates that sites' providers brought, as the configuration has them: each for its own site's hosts and no others, whatever
//! else it names.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use rustls::sign::CertifiedKey;
use tracing::{info, warn};
use umbel_service::{installation::Installation, tls};
use umbel_wire::control::{Certificate, Site};

use super::{BrokenPair, Described};

/// What the configuration has.
#[derive(Debug, Default)]
pub(super) struct OfSites {
    /// By site id.
    known: Mutex<BTreeMap<String, Kept>>,
    by_host: ArcSwap<HashMap<String, Arc<CertifiedKey>>>,
}

#[derive(Debug)]
struct Kept {
    sent: Certificate,
    /// The last that was good.
    good: Option<Good>,
}

#[derive(Debug, Clone)]
struct Good {
    key: Arc<CertifiedKey>,
    described: Described,
}

impl OfSites {
    /// From now on these; those that have not changed are not read again.
    pub(super) fn replace(&self, installation: &Installation) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *known);
        if before.is_empty() && installation.sites.values().all(|site| site.certificate.is_none()) {
            return;
        }
        let mut before = before;
        let mut by_host = HashMap::new();
        for site in installation.sites.values() {
            let Some(sent) = &site.certificate else { continue };
            let kept = before.remove(&site.id).filter(|kept| kept.sent == *sent);
            let kept = kept.unwrap_or_else(|| Kept { sent: sent.clone(), good: read(site, sent) });
            if let Some(good) = &kept.good {
                let own = site.hosts.iter().filter(|host| good.described.is_for(host));
                by_host.extend(own.map(|host| (host.clone(), good.key.clone())));
            }
            known.insert(site.id.clone(), kept);
        }
        self.by_host.store(Arc::new(by_host));
    }

    /// For this name, in lower case.
    pub(super) fn find(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        self.by_host.load().get(host).cloned()
    }

    pub(super) fn described(&self) -> Vec<Described> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().filter_map(|kept| Some(kept.good.as_ref()?.described.clone())).collect()
    }
}

/// The control plane has checked it. If it does not hold here all the same, the site's readers are shown what they would be without it.
fn read(site: &Site, sent: &Certificate) -> Option<Good> {
    match described(site, sent) {
        Ok(good) => {
            info!(site = site.name, names = ?good.described.names, "the site's own certificate is in use");
            Some(good)
        }
        Err(why) => {
            warn!(site = site.name, %why, "the site's own certificate is not used");
            None
        }
    }
}

fn described(site: &Site, sent: &Certificate) -> Result<Good, BrokenPair> {
    let key = tls::certified(&sent.chain_pem, &sent.key_pem)?;
    let described = Described::of(&format!("site {}", site.name), &key)?;
    Ok(Good { key: Arc::new(key), described })
}
