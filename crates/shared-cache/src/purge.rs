//! What purges leave of what is stored. Nothing is looked for when a purge comes: a stored response is checked when it is about
//! to be used, once for each epoch of [`Purges`].

use std::{sync::Arc, time::SystemTime};

use http::Uri;
use umbel_http_cache::{Entry, Purges, Stamp, Standing, SurrogateKeys};

use crate::{
    SharedCache,
    key::{Key, target},
    shelf::Variant,
};

impl<A> SharedCache<A> {
    /// From now on these count: what they name and was asked for before is not used as it is any more. Those of an epoch of
    /// before are left alone.
    pub fn apply(&self, purges: &Purges) {
        if self.purges.load().epoch() >= purges.epoch() {
            return;
        }
        let next = Arc::new(purges.clone());
        self.purges.rcu(|now| if now.epoch() < next.epoch() { next.clone() } else { now.clone() });
    }

    /// For a question that goes out now: what comes of it is as old as this, whatever was purged meanwhile.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp::new(self.purges.load().epoch())
    }

    /// What is stored under `key` and was not purged.
    pub(crate) fn good(&self, site: &str, uri: &Uri, key: &Key) -> Arc<[Variant]> {
        let (found, purges) = (self.shelves.get(key), self.purges.load());
        if found.iter().all(|variant| variant.stamp().epoch() >= purges.epoch()) {
            return found;
        }
        let entry = Entry { site, target: target(uri) };
        // Most purges are about something else: then nothing changes but how far each is known to be good.
        if found.iter().all(|variant| standing(variant, &purges, entry) == Standing::Good) {
            found.iter().for_each(|variant| variant.stamp().renew(purges.epoch()));
            return found;
        }
        let mut good = Arc::default();
        self.shelves.change(*key, |variants| {
            variants.retain_mut(|variant| remains(variant, &purges, entry));
            good = variants.as_slice().into();
        });
        good
    }

    /// Whether it was purged for good since it was taken from the shelf.
    pub(crate) fn is_gone(&self, site: &str, uri: &Uri, variant: &Variant) -> bool {
        self.standing(site, uri, variant) == Standing::Gone
    }

    /// Whether no purge was about it since it was asked for.
    pub(crate) fn is_good(&self, site: &str, uri: &Uri, variant: &Variant) -> bool {
        self.standing(site, uri, variant) == Standing::Good
    }

    fn standing(&self, site: &str, uri: &Uri, variant: &Variant) -> Standing {
        standing(variant, &self.purges.load(), Entry { site, target: target(uri) })
    }
}

fn standing(variant: &Variant, purges: &Purges, entry: Entry<'_>) -> Standing {
    purges.standing(entry, || SurrogateKeys::of(variant.stored().headers()), variant.stamp().epoch())
}

/// Whether it is kept, perhaps as something stale.
fn remains(variant: &mut Variant, purges: &Purges, entry: Entry<'_>) -> bool {
    match standing(variant, purges, entry) {
        Standing::Good => variant.stamp().renew(purges.epoch()),
        Standing::Stale => {
            let mut stored = variant.stored().clone();
            stored.expire(SystemTime::now());
            *variant = variant.with(stored, Stamp::new(purges.epoch()));
        }
        Standing::Gone => return false,
    }
    true
}
