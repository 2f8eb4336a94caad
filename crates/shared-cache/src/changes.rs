//! Which targets requests have changed that went past the cache (RFC 9111, section 4.4). What is stored of them is forgotten at once;
//! but a question that is on its way may bring what was there before. So a question remembers when it went out, and what comes of it is
//! not stored if its target was changed since.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::key::Key;

/// Changes that are remembered. When a question has been out for longer than these, what comes of it is not stored.
const MOST: usize = 16 * 1024;

/// When a question went out, among changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Since(u64);

#[derive(Debug, Default)]
pub(crate) struct Changes(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    last: Since,
    of: HashMap<Key, Since>,
    in_order: VecDeque<(Since, Key)>,
    /// Of changes up to this one some are forgotten.
    forgotten: Since,
}

impl Changes {
    /// For a question that goes out now.
    pub(crate) fn now(&self) -> Since {
        self.lock().last
    }

    /// This was changed.
    pub(crate) fn note(&self, key: Key) {
        let mut all = self.lock();
        all.last = Since(all.last.0 + 1);
        let now = all.last;
        all.of.insert(key, now);
        all.in_order.push_back((now, key));
        if all.in_order.len() > MOST
            && let Some((since, key)) = all.in_order.pop_front()
        {
            all.forgotten = since;
            if all.of.get(&key) == Some(&since) {
                all.of.remove(&key);
            }
        }
    }

    /// Whether this was changed since then, or may have been.
    pub(crate) fn has(&self, key: &Key, since: Since) -> bool {
        let all = self.lock();
        since < all.forgotten || all.of.get(key).is_some_and(|changed| *changed > since)
    }

    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        Key::of(&crate::Root::new("s", true, "s"), &format!("/{number}").parse().unwrap())
    }

    #[test]
    fn what_was_changed_since_is_known_or_feared() {
        let changes = Changes::default();
        let before = changes.now();
        assert!(!changes.has(&key(1), before));
        changes.note(key(1));
        assert!(changes.has(&key(1), before) && !changes.has(&key(2), before));
        let after = changes.now();
        assert!(!changes.has(&key(1), after));
        changes.note(key(1));
        (0..MOST).for_each(|_| changes.note(key(3)));
        assert!(changes.has(&key(2), before) && changes.has(&key(1), after) && !changes.has(&key(1), changes.now()));
        assert_eq!(changes.lock().of.len(), 1);
    }
}
