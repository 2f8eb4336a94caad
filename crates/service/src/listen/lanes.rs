//! Threads that have connections of their own, with all that is done for them: nobody wakes or locks across threads while a
//! request is answered from memory. Work that moves from thread to thread costs more than it brings where each request is short:
//! `docs/design/edge-speed.md`.

use std::{
    cell::Cell,
    future::Future,
    io,
    num::NonZeroUsize,
    sync::Arc,
    thread::{self, JoinHandle},
};

use futures::FutureExt;
use tokio::{
    runtime::{Builder, Handle},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::cork::departures;

/// One thread for each core. Dropped, they end with everything that still runs on them; never drop them on one of them.
#[derive(Debug)]
pub struct Lanes {
    lanes: Vec<Lane>,
    end: CancellationToken,
}

#[derive(Debug)]
struct Lane {
    runtime: Handle,
    /// Each of its connections has a clone.
    seat: Arc<()>,
    thread: Option<JoinHandle<()>>,
}

thread_local!(static LANE: Cell<Option<usize>> = const { Cell::new(None) });

/// One of something for each lane, and one for all other threads: connections to servers, say, whose tasks run where they were
/// made. Of another lane they would be woken across threads, twice for each request.
#[derive(Debug)]
pub struct PerLane<T> {
    lanes: Box<[T]>,
    elsewhere: T,
}

impl<T> PerLane<T> {
    /// Makes all of them.
    pub fn new(make: impl Fn() -> T) -> Self {
        Self { lanes: (0..count()).map(|_| make()).collect(), elsewhere: make() }
    }

    /// That of the thread that asks.
    pub fn here(&self) -> &T {
        LANE.get().and_then(|lane| self.lanes.get(lane)).unwrap_or(&self.elsewhere)
    }
}

fn count() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

impl Lanes {
    /// As many as the process may use cores.
    pub fn start() -> io::Result<Self> {
        let mut lanes = Self { lanes: Vec::new(), end: CancellationToken::new() };
        for number in 0..count() {
            lanes.lanes.push(Lane::start(number, lanes.end.clone())?);
        }
        Ok(lanes)
    }

    /// Runs it where the fewest run.
    pub(super) fn spawn(&self, connections: &mut JoinSet<()>, connection: impl Future<Output = ()> + Send + 'static) {
        let Some(lane) = self.lanes.iter().min_by_key(|lane| Arc::strong_count(&lane.seat)) else { return };
        let seat = lane.seat.clone();
        // An `async` block would have room for the connection twice.
        connections.spawn_on(connection.map(|()| drop(seat)), &lane.runtime);
    }
}

impl Lane {
    fn start(number: usize, end: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let thread = thread::Builder::new().name(format!("lane-{number}")).spawn(move || {
            LANE.set(Some(number));
            let _sending = runtime.spawn(departures());
            runtime.block_on(end.cancelled());
            // Blocking work of a request that nobody waits for any more is not waited for either.
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, seat: Arc::default(), thread: Some(thread) })
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.end.cancel();
        for thread in self.lanes.iter_mut().filter_map(|lane| lane.thread.take()) {
            // It has nothing to say.
            drop(thread.join());
        }
    }
}
