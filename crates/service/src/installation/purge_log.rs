//! Purges as they are told and written down, and as they are checked.

use umbel_http_cache::{Purge, Purges};
use umbel_wire::control::{self, NumberedPurge, PurgeLog};

/// What the control plane told.
pub(super) fn purges(told: Vec<control::Purge>) -> Vec<Purge> {
    told.into_iter().map(from_wire).collect()
}

/// As it was written down.
pub(super) fn read(log: &PurgeLog) -> Purges {
    let purges = log.purges.iter().filter_map(|entry| Some((entry.epoch, from_wire(entry.purge.clone()?))));
    Purges::restored(log.epoch, log.unknown_before, purges)
}

/// To be written down.
pub(super) fn write(purges: &Purges) -> PurgeLog {
    let numbered = |(epoch, purge)| NumberedPurge { epoch, purge: Some(to_wire(purge)) };
    PurgeLog {
        epoch: purges.epoch(),
        unknown_before: purges.unknown_before(),
        purges: purges.iter().map(numbered).collect(),
    }
}

fn from_wire(told: control::Purge) -> Purge {
    let control::Purge { site_id, soft, everything, targets, prefixes, keys } = told;
    Purge { site: site_id, soft, everything, targets, prefixes, keys }
}

fn to_wire(purge: Purge) -> control::Purge {
    let Purge { site, soft, everything, targets, prefixes, keys } = purge;
    control::Purge { site_id: site, soft, everything, targets, prefixes, keys }
}
