//! Coalescing: however many ask for one thing at once, it is fetched once, and all get what came.

use std::{
    collections::HashMap,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

type Running<K, V> = Arc<Mutex<HashMap<K, watch::Receiver<Option<V>>>>>;

/// Fetches under way, by key. One goes on when those who wait for it leave: the next ones will want it.
#[derive(Debug)]
pub(crate) struct Flights<K, V> {
    running: Running<K, V>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// Takes a flight off the list however it ends.
struct Landing<K: Hash + Eq, V> {
    key: K,
    running: Running<K, V>,
}

impl<K: Hash + Eq, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl<K, V> Flights<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Fetches run in `tasks` and end with `shutdown`.
    pub(crate) fn new(tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        Self { running: Arc::default(), tasks, shutdown }
    }

    /// What the fetch for `key` brings: the one that runs, else a new one. None if it was cut short.
    pub(crate) async fn join<F>(&self, key: K, fetch: impl FnOnce() -> F) -> Option<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut landed = self.board(key, fetch);
        let value = landed.wait_for(Option::is_some).await.ok()?;
        value.clone()
    }

    /// Has `key` fetched, if it is not being fetched already, and does not wait.
    pub(crate) fn start<F>(&self, key: K, fetch: impl FnOnce() -> F)
    where
        F: Future<Output = V> + Send + 'static,
    {
        drop(self.board(key, fetch));
    }

    fn board<F>(&self, key: K, fetch: impl FnOnce() -> F) -> watch::Receiver<Option<V>>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(landed) = running.get(&key) {
            return landed.clone();
        }
        let (done, landed) = watch::channel(None);
        running.insert(key.clone(), landed.clone());
        let landing = Landing { key, running: self.running.clone() };
        let (fetch, shutdown) = (fetch(), self.shutdown.clone());
        self.tasks.spawn(async move {
            let value = shutdown.run_until_cancelled(fetch).await;
            drop(landing);
            done.send_replace(value);
        });
        landed
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn flights() -> Flights<u8, usize> {
        Flights::new(TaskTracker::new(), CancellationToken::new())
    }

    #[tokio::test]
    async fn a_thousand_waiters_are_one_fetch() {
        let (flights, fetches) = (flights(), Arc::new(AtomicUsize::new(0)));
        let waits = (0..1000).map(|_| {
            let fetches = fetches.clone();
            flights.join(1, || async move {
                tokio::task::yield_now().await;
                fetches.fetch_add(1, Ordering::SeqCst)
            })
        });
        let values = futures::future::join_all(waits).await;
        assert!(values.iter().all(|value| *value == Some(0)));
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
        assert_eq!(flights.join(1, || async { 7 }).await, Some(7), "the next one is a new fetch");
    }

    #[tokio::test]
    async fn a_fetch_that_panics_leaves_nothing_behind() {
        let flights = flights();
        assert_eq!(flights.join(1, || async { panic!("as a test") }).await, None);
        assert_eq!(flights.join(1, || async { 2 }).await, Some(2));
    }

    #[tokio::test]
    async fn shutdown_ends_what_never_ends() {
        let flights = flights();
        flights.shutdown.cancel();
        assert_eq!(flights.join(1, std::future::pending).await, None);
    }
}
