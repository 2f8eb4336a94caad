//! Readers' usage between its counting and its writing: that of all answers which leave together is written down together.

use std::{
    cell::Cell,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
};

use umbel_wire::control::Served;

/// Threads add to lists of their own, so that they do not wait for each other. As many as [`Lists`] has bits.
const STRIPES: usize = 16;

/// Some of the lists, a bit each.
pub(crate) type Lists = u16;

/// A list that is so long is written down at once.
const LONG: usize = 64;

/// A [`Served`] that most often is added to another of its kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage<'a> {
    pub(crate) hour: u64,
    pub(crate) site_id: &'a str,
    pub(crate) path: &'a str,
    pub(crate) status: u32,
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
}

/// What was counted and not written down yet.
#[derive(Debug, Default)]
pub(super) struct Tally {
    lists: [Mutex<Vec<Served>>; STRIPES],
    /// Those with anything in them. Changed by who has the list.
    filled: AtomicU16,
}

impl Tally {
    /// Adds to the list of this thread; whether it is long.
    pub(super) fn add(&self, usage: Usage<'_>) -> bool {
        let stripe = stripe();
        let mut list = self.lock(stripe);
        match list.last_mut() {
            Some(last) if usage.is_like(last) => {
                last.requests += usage.requests;
                last.bytes += usage.bytes;
            }
            Some(_) | None => list.push(usage.into()),
        }
        self.filled.fetch_or(1 << stripe, Ordering::Release);
        list.len() >= LONG
    }

    /// The list of this thread, if anything is in it.
    pub(super) fn mine(&self) -> Lists {
        self.filled.load(Ordering::Acquire) & (1 << stripe())
    }

    /// Has what is in these lists written down. When this returns it is, by whomever.
    pub(super) fn empty(&self, lists: Lists, write: impl Fn(&[Served])) {
        let filled = self.filled.load(Ordering::Acquire) & lists;
        for stripe in (0..STRIPES).filter(|stripe| filled & (1 << stripe) != 0) {
            let mut list = self.lock(stripe);
            if !list.is_empty() {
                write(&list);
                list.clear();
            }
            self.filled.fetch_and(!(1 << stripe), Ordering::Release);
        }
    }

    fn lock(&self, stripe: usize) -> MutexGuard<'_, Vec<Served>> {
        self.lists[stripe].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Usage<'_> {
    /// It is of the same response, in the same hour.
    fn is_like(&self, served: &Served) -> bool {
        (self.hour, self.status) == (served.hour, served.status)
            && self.path == served.path
            && self.site_id == served.site_id
    }
}

impl From<Usage<'_>> for Served {
    fn from(Usage { hour, site_id, path, status, requests, bytes }: Usage<'_>) -> Self {
        Self { hour, site_id: site_id.to_owned(), path: path.to_owned(), status, requests, bytes }
    }
}

/// That of this thread.
fn stripe() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static STRIPE: Cell<usize> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES));
    STRIPE.get()
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, thread};

    use super::*;

    fn usage(path: &str) -> Usage<'_> {
        Usage { hour: 0, site_id: "", path, status: 0, requests: 1, bytes: 10 }
    }

    #[test]
    fn what_one_thread_counted_another_has_written() {
        let (tally, written) = (Tally::default(), RefCell::new(Vec::new()));
        let lists = thread::scope(|scope| {
            let counting = scope.spawn(|| {
                assert_eq!(tally.mine(), 0);
                for path in ["/a", "/a", "/b"] {
                    assert!(!tally.add(usage(path)));
                }
                tally.mine()
            });
            counting.join().unwrap()
        });
        let write = |served: &[Served]| written.borrow_mut().extend_from_slice(served);
        tally.empty(!lists, write);
        assert!(written.borrow().is_empty(), "lists of others");
        tally.empty(lists, write);
        tally.empty(lists, write);
        assert_eq!(*written.borrow(), [Usage { requests: 2, bytes: 20, ..usage("/a") }, usage("/b")].map(Served::from));
    }

    #[test]
    fn a_long_list_says_so() {
        let tally = Tally::default();
        let long: Vec<_> = (0..LONG).map(|number| tally.add(usage(&number.to_string()))).collect();
        assert_eq!(long.iter().position(|long| *long), Some(LONG - 1));
    }
}
