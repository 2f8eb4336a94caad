//! What each ticket is owed, and which of them still are.

use std::collections::{BTreeSet, HashMap};

use super::TicketAccount;

type Id = [u8; 16];

/// A settled ticket is forgotten this long after it expired, in seconds. By then nobody delivers or counts under it any more.
const KEEP: u64 = 24 * 3600;

/// All accounts.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    all: HashMap<Id, TicketAccount>,
    /// Those with bytes that no edge has acknowledged.
    owed: BTreeSet<Id>,
}

impl Accounts {
    pub(super) fn get(&self, id: &Id) -> Option<&TicketAccount> {
        self.all.get(id)
    }

    pub(super) fn put(&mut self, account: TicketAccount) {
        if account.is_settled() {
            self.owed.remove(&account.id);
        } else {
            self.owed.insert(account.id);
        }
        self.all.insert(account.id, account);
    }

    pub(super) fn remove(&mut self, id: &Id) {
        self.owed.remove(id);
        self.all.remove(id);
    }

    pub(super) fn owed(&self) -> impl ExactSizeIterator<Item = Option<&TicketAccount>> {
        self.owed.iter().map(|id| self.all.get(id))
    }

    /// Those that will never be asked for again.
    pub(super) fn bygone(&self, now: u64) -> Vec<Id> {
        let bygone =
            self.all.values().filter(|account| account.is_settled() && account.expires.saturating_add(KEEP) < now);
        bygone.map(|account| account.id).collect()
    }
}
