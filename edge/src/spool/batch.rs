//! From records to what the control plane takes: equal keys are summed, receipts of one ticket keep the highest.
//! A pure function of a segment that no longer changes, so a batch number always stands for the same content.

use std::collections::BTreeMap;

use umbel_wire::control::{Batch, Received, Served};

use super::segment::{Entry, Record};

/// What usage of readers is summed by: hour, site, path, status.
pub(crate) type ServedKey = (u64, String, String, u32);

/// Requests and bytes.
pub(crate) type Amount = (u64, u64);

pub(super) fn key(served: &Served) -> ServedKey {
    (served.hour, served.site_id.clone(), served.path.clone(), served.status)
}

pub(super) fn served((hour, site_id, path, status): ServedKey, (requests, bytes): Amount) -> Served {
    Served { hour, site_id, path, status, requests, bytes }
}

/// The batch of this number with these records.
pub(crate) fn build(number: u64, records: Vec<Record>) -> Batch {
    let mut sums: BTreeMap<ServedKey, Amount> = BTreeMap::new();
    let mut receipts: BTreeMap<(String, Vec<u8>), Received> = BTreeMap::new();
    for record in records {
        match record.entry {
            Some(Entry::Served(entry)) => {
                let sum = sums.entry(key(&entry)).or_default();
                *sum = (sum.0 + entry.requests, sum.1 + entry.bytes);
            }
            Some(Entry::Received(entry)) => {
                let ticket = (entry.issuer.clone(), entry.ticket_id.to_vec());
                let kept = receipts.entry(ticket).or_insert_with(|| entry.clone());
                if entry.bytes > kept.bytes {
                    *kept = entry;
                }
            }
            None => {}
        }
    }
    Batch {
        number,
        served: sums.into_iter().map(|(key, amount)| served(key, amount)).collect(),
        received: receipts.into_values().collect(),
    }
}
