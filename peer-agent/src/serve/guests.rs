//! Who is connected: members, who have shown a ticket, and strangers, who get few places and little time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// Connections in all.
const MAX_GUESTS: usize = 256;
/// Of these, connections under which no good ticket was shown yet.
const MAX_STRANGERS: usize = 64;
/// Connections of one peer. Its own agent needs one; those that it lost without a word linger for a while.
const MAX_PER_PEER: usize = 4;
/// Tickets that are not good, under one connection.
const MAX_REFUSALS: u32 = 32;

type Id = [u8; 32];

/// The places.
#[derive(Debug, Default)]
pub(super) struct Guests(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    count: u64,
    /// By order of arrival.
    present: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    peer: Option<Id>,
    stranger: bool,
    refusals: u32,
    leave: CancellationToken,
}

/// One connection's place, for as long as this lives.
#[derive(Debug)]
pub(super) struct Guest {
    guests: Arc<Guests>,
    number: u64,
    /// Cancelled when the place is needed for another.
    pub(super) leave: CancellationToken,
}

impl Guests {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection that comes in; none if members have them all. Whoever means well shows a ticket at once, so among
    /// too many strangers it is the one who has been here longest that goes.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Guest> {
        let mut book = self.book();
        let strangers = book.present.values().filter(|entry| entry.stranger).count();
        let full = book.present.len() >= MAX_GUESTS;
        if strangers >= MAX_STRANGERS || (full && strangers > 0) {
            book.show_out(|entry| entry.stranger);
        } else if full {
            return None;
        }
        book.count += 1;
        let (number, leave) = (book.count, CancellationToken::new());
        book.present.insert(number, Entry { peer: None, stranger: true, refusals: 0, leave: leave.clone() });
        Some(Guest { guests: self.clone(), number, leave })
    }
}

impl Book {
    /// The first of those goes.
    fn show_out(&mut self, which: impl Fn(&Entry) -> bool) {
        let first = self.present.iter().find(|(_, entry)| which(entry)).map(|(number, _)| *number);
        if let Some(entry) = first.and_then(|number| self.present.remove(&number)) {
            entry.leave.cancel();
        }
    }
}

impl Guest {
    fn change<T>(&self, with: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        self.guests.book().present.get_mut(&self.number).map(with)
    }

    /// Whose connection it is, by the handshake. Of too many of one peer the oldest goes.
    pub(super) fn is_from(&self, peer: Id) {
        self.change(|entry| entry.peer = Some(peer));
        let mut book = self.guests.book();
        if book.present.values().filter(|entry| entry.peer == Some(peer)).count() > MAX_PER_PEER {
            book.show_out(|entry| entry.peer == Some(peer));
        }
    }

    /// A good ticket was shown.
    pub(super) fn admit(&self) {
        self.change(|entry| entry.stranger = false);
    }

    /// A ticket was shown that is not good. False: it was one too many.
    pub(super) fn refuse(&self) -> bool {
        self.change(|entry| {
            entry.refusals += 1;
            entry.refusals < MAX_REFUSALS
        })
        .unwrap_or(false)
    }

    pub(super) fn is_stranger(&self) -> bool {
        self.change(|entry| entry.stranger).unwrap_or(true)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.guests.book().present.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(guests: &Arc<Guests>, count: usize) -> Vec<Guest> {
        (0..count).map(|_| guests.enter().unwrap()).collect()
    }

    /// Which of them had to go.
    fn gone(guests: &[Guest]) -> Vec<usize> {
        (0..guests.len()).filter(|at| guests[*at].leave.is_cancelled()).collect()
    }

    #[test]
    fn the_stranger_who_has_been_here_longest_makes_room() {
        let guests = Arc::default();
        let present = enter(&guests, MAX_STRANGERS);
        present[0].admit();
        let one_more = guests.enter().unwrap();
        assert!(gone(&present).is_empty(), "a member is no stranger");
        let another = guests.enter().unwrap();
        assert_eq!(gone(&present), [1]);
        drop((one_more, another));
        let _free = enter(&guests, 2);
        assert_eq!(gone(&present), [1], "who left is not counted");
    }

    #[test]
    fn members_keep_their_places() {
        let guests: Arc<Guests> = Arc::default();
        let mut present: Vec<Guest> = Vec::new();
        for _ in 0..MAX_GUESTS {
            present.push(guests.enter().unwrap());
            present[present.len() - 1].admit();
        }
        assert!(guests.enter().is_none());
        assert!(gone(&present).is_empty());
        present.pop();
        let stranger = guests.enter().unwrap();
        let _another = guests.enter().unwrap();
        assert!(stranger.leave.is_cancelled(), "among members there is one place for strangers");
    }

    #[test]
    fn one_peer_has_few_places() {
        let guests = Arc::default();
        let present = enter(&guests, MAX_PER_PEER + 2);
        for (at, guest) in present.iter().enumerate() {
            guest.is_from([u8::from(at == 0); 32]);
            guest.admit();
        }
        assert_eq!(gone(&present), [1]);
    }

    #[test]
    fn bad_tickets_come_to_an_end() {
        let guests: Arc<Guests> = Arc::default();
        let guest = guests.enter().unwrap();
        assert_eq!((0..100).take_while(|_| guest.refuse()).count() + 1, MAX_REFUSALS as usize);
    }
}
