//! Readers' usage between its counting and its writing: that of all answers which leave together is written down together.

use std::{
    cell::Cell,
    mem,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use umbel_wire::control::Served;

/// Threads add to lists of their own, so that they do not wait for each other.
const STRIPES: usize = 16;

/// A list that is so long is written down at once.
const LONG: usize = 64;

/// What was counted and not written down yet.
#[derive(Debug, Default)]
pub(super) struct Tally([Mutex<Vec<Served>>; STRIPES]);

impl Tally {
    /// Adds to the list of this thread; whether it is long.
    pub(super) fn add(&self, served: Served) -> bool {
        let mut list = self.0[stripe()].lock().unwrap_or_else(PoisonError::into_inner);
        match list.last_mut() {
            Some(last) if is_same(last, &served) => {
                last.requests += served.requests;
                last.bytes += served.bytes;
            }
            Some(_) | None => list.push(served),
        }
        list.len() >= LONG
    }

    /// What this thread added, and is in no list any more.
    pub(super) fn take_mine(&self) -> Vec<Served> {
        take(&self.0[stripe()])
    }

    /// What all threads added.
    pub(super) fn take_all(&self) -> Vec<Served> {
        self.0.iter().flat_map(take).collect()
    }
}

fn take(list: &Mutex<Vec<Served>>) -> Vec<Served> {
    mem::take(&mut *list.lock().unwrap_or_else(PoisonError::into_inner))
}

fn is_same(one: &Served, other: &Served) -> bool {
    (one.hour, one.status) == (other.hour, other.status) && one.path == other.path && one.site_id == other.site_id
}

/// That of this thread.
fn stripe() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static STRIPE: Cell<usize> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES));
    STRIPE.get()
}
