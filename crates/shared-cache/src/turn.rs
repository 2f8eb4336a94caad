//! Request coalescing: of those who want the same from the provider's server at the same time one asks, and the others
//! wait for what comes of it. What turns out to be for one alone is not waited for again for a while.

use std::{
    collections::HashMap,
    fmt::Debug,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::sync::Cache;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// After this long those who wait let another one try: the first may be stuck.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it is remembered that answers are not to be shared.
const UNSHARED_FOR: Duration = Duration::from_secs(10);
const UNSHARED: u64 = 100_000;

/// What came of someone's asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News<E> {
    /// It was for the one who asked alone, and so will be the next: ask yourself.
    Unshared,
    /// It was for the one who asked alone, but the next may be for all again.
    UnsharedOnce,
    /// This is for all.
    Ended(E),
}

/// What came of it, and the number of the asking.
type Told<E> = (u64, News<E>);

/// When somebody came, among those who ask.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment(u64);

type Running<K, E> = Arc<Mutex<HashMap<K, Waiting<E>>>>;

type Receiver<E> = watch::Receiver<Option<Told<E>>>;

/// How one waits for someone else's asking.
struct Wait<E> {
    news: Receiver<E>,
    until: Instant,
    /// Of who has been asking for longest.
    oldest: Receiver<E>,
}

#[derive(Debug)]
struct Waiting<E> {
    number: u64,
    since: Instant,
    news: Receiver<E>,
    oldest: Receiver<E>,
}

impl<E> Waiting<E> {
    /// The news of who asked first, as long as he does.
    fn oldest(&self) -> &Receiver<E> {
        let is_asking = self.oldest.has_changed().is_ok() && self.oldest.borrow().is_none();
        if is_asking { &self.oldest } else { &self.news }
    }
}

/// What can be asked for.
pub(crate) trait Wanted: Hash + Eq + Clone + Debug + Send + Sync + 'static {}
impl<K: Hash + Eq + Clone + Debug + Send + Sync + 'static> Wanted for K {}

/// Who is asking for what.
#[derive(Debug)]
pub(crate) struct Turns<K: Wanted, E> {
    running: Running<K, E>,
    unshared: Cache<K, ()>,
    /// Tells one asking from the next for the same.
    numbers: AtomicU64,
}

/// Whose turn it is.
#[derive(Debug)]
pub(crate) enum Turn<K: Wanted, E> {
    /// Ask, and tell the others.
    Mine(Asking<K, E>),
    /// Someone else asked, and this came of it. `later`: he began when the caller had come, so it is as new as what the caller would
    /// be told himself.
    Theirs { news: News<E>, later: bool },
    /// Ask; there is nothing to tell anyone.
    Alone,
}

/// The right to ask. Dropped without news it goes to one of those who wait.
#[derive(Debug)]
pub(crate) struct Asking<K: Wanted, E> {
    key: K,
    number: u64,
    running: Running<K, E>,
    unshared: Cache<K, ()>,
    news: watch::Sender<Option<Told<E>>>,
}

impl<K: Wanted, E: Clone> Turns<K, E> {
    pub(crate) fn new() -> Self {
        let unshared = Cache::builder().max_capacity(UNSHARED).time_to_live(UNSHARED_FOR).build();
        Self { running: Arc::default(), unshared, numbers: AtomicU64::new(0) }
    }

    /// Who comes now has come before all who begin to ask after this.
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.numbers.load(Ordering::SeqCst))
    }

    /// Whether answers to this are known to be for one alone.
    pub(crate) fn is_unshared(&self, key: &K) -> bool {
        self.unshared.contains_key(key)
    }

    /// Whose turn it is to ask for `key`, for one who came at `came`; if it is someone else's, waits for what comes of it: of his asking, and of that of
    /// whoever has been asking for longest. That one may be stuck for longer than others are waited for, but in the end he knows
    /// that he was, and then nobody need find out once more.
    pub(crate) async fn take(&self, key: K, came: Moment) -> Turn<K, E> {
        let mut first = None;
        loop {
            if self.is_unshared(&key) {
                return Turn::Alone;
            }
            let (mut news, until, now_oldest) = match self.begin_or_wait(&key) {
                Ok(asking) => return Turn::Mine(asking),
                Err(Wait { news, until, oldest }) => (news, until, oldest),
            };
            let oldest = first.get_or_insert(now_oldest);
            let told = tokio::select! {
                told = heard(oldest) => told,
                told = timeout_at(until, heard(&mut news)) => told.ok().flatten(),
            };
            match told {
                Some((number, news)) => return Turn::Theirs { news, later: number >= came.0 },
                // He has gone without a word.
                None if oldest.has_changed().is_err() => first = None,
                None => {}
            }
        }
    }

    /// Whether it is nobody's turn to ask for `key`; then it is the caller's.
    pub(crate) fn try_take(&self, key: K) -> Option<Asking<K, E>> {
        self.begin_or_wait(&key).ok()
    }

    fn begin_or_wait(&self, key: &K) -> Result<Asking<K, E>, Wait<E>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(waiting) = running.get(key)
            && now < waiting.since + PATIENCE
        {
            let (until, oldest) = (waiting.since + PATIENCE, waiting.oldest().clone());
            return Err(Wait { news: waiting.news.clone(), until, oldest });
        }
        let number = self.numbers.fetch_add(1, Ordering::SeqCst);
        let (news, receiver) = watch::channel(None);
        let oldest = running.get(key).map_or(&receiver, Waiting::oldest).clone();
        running.insert(key.clone(), Waiting { number, since: now, news: receiver, oldest });
        let (running, unshared) = (self.running.clone(), self.unshared.clone());
        Ok(Asking { key: key.clone(), number, running, unshared, news })
    }
}

impl<K: Wanted, E> Asking<K, E> {
    /// Ends the waiting of the others.
    pub(crate) fn tell(self, news: News<E>) {
        if matches!(news, News::Unshared) {
            self.unshared.insert(self.key.clone(), ());
        }
        self.news.send_replace(Some((self.number, news)));
    }
}

impl<K: Wanted, E> Drop for Asking<K, E> {
    fn drop(&mut self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.get(&self.key).is_some_and(|waiting| waiting.number == self.number) {
            running.remove(&self.key);
        }
    }
}

async fn heard<E: Clone>(news: &mut Receiver<E>) -> Option<Told<E>> {
    news.wait_for(Option::is_some).await.ok()?.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    type TestTurns = Turns<u8, &'static str>;

    async fn mine(turns: &TestTurns, key: u8) -> Asking<u8, &'static str> {
        match turns.take(key, turns.moment()).await {
            Turn::Mine(asking) => asking,
            other @ (Turn::Theirs { .. } | Turn::Alone) => panic!("{other:?}"),
        }
    }

    async fn many_get(news: News<&'static str>) {
        let turns = Arc::new(TestTurns::new());
        let asking = mine(&turns, 1).await;
        let waits: Vec<_> = (0..100)
            .map(|_| {
                let turns = turns.clone();
                tokio::spawn(async move { turns.take(1, turns.moment()).await })
            })
            .collect();
        // All who wait, each with two, and whoever comes.
        while asking.news.receiver_count() < 201 {
            tokio::task::yield_now().await;
        }
        asking.tell(news.clone());
        for wait in waits {
            match wait.await.unwrap() {
                Turn::Theirs { news: told, .. } => assert_eq!(told, news),
                other @ (Turn::Mine(_) | Turn::Alone) => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn one_asks_and_all_are_told() {
        many_get(News::Ended("stored")).await;
        many_get(News::Unshared).await;
        many_get(News::UnsharedOnce).await;
        many_get(News::Ended("broken")).await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_is_stuck_or_gone_is_replaced() {
        let turns = TestTurns::new();
        let stuck = mine(&turns, 1).await;
        let second = mine(&turns, 1).await;
        drop(stuck);
        assert!(turns.try_take(1).is_none(), "the first's end does not end the second's turn");
        drop(second);
        mine(&turns, 1).await;
    }

    /// Ten wait for one who is stuck, until one of them may try, and then one more comes; what they are told.
    async fn ten_hear(
        ends: impl AsyncFnOnce(Asking<u8, &'static str>, Asking<u8, &'static str>),
        expected: News<&'static str>,
    ) {
        let turns = Arc::new(TestTurns::new());
        let stuck = mine(&turns, 1).await;
        let (took, mut taken) = tokio::sync::mpsc::channel(10);
        let mut waits = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let (turns, took) = (turns.clone(), took.clone());
            waits.spawn(async move { took.send(turns.take(1, turns.moment()).await).await.unwrap() });
        }
        let Some(Turn::Mine(next)) = taken.recv().await else { panic!("one tries after a while") };
        waits.spawn(async move { took.send(turns.take(1, turns.moment()).await).await.unwrap() });
        // Time passes when all wait.
        tokio::time::sleep(PATIENCE / 4).await;
        ends(stuck, next).await;
        for _ in 0..10 {
            match taken.recv().await.unwrap() {
                Turn::Theirs { news: told, .. } => assert_eq!(told, expected),
                other @ (Turn::Mine(_) | Turn::Alone) => panic!("{other:?}"),
            }
        }
        waits.join_all().await;
    }

    /// Each of them ended only when it was his turn to ask, one every five seconds.
    #[tokio::test(start_paused = true)]
    async fn what_comes_of_one_who_was_stuck_is_for_all_who_wait() {
        let fails = async |stuck: Asking<_, _>, _next: Asking<_, _>| {
            stuck.tell(News::Ended("stuck"));
            // Not before all have heard it.
            tokio::time::sleep(PATIENCE / 2).await;
        };
        ten_hear(fails, News::Ended("stuck")).await;
        let goes = async |stuck: Asking<_, _>, next: Asking<_, _>| {
            drop(stuck);
            tokio::time::sleep(PATIENCE / 2).await;
            next.tell(News::Ended("stored"));
        };
        ten_hear(goes, News::Ended("stored")).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_for_one_alone_is_not_waited_for() {
        let turns = TestTurns::new();
        mine(&turns, 1).await.tell(News::Unshared);
        assert!(matches!(turns.take(1, turns.moment()).await, Turn::Alone));
        assert!(matches!(turns.take(2, turns.moment()).await, Turn::Mine(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_does_not_end_coalescing() {
        let turns = TestTurns::new();
        for news in [News::UnsharedOnce, News::Ended("an error")] {
            mine(&turns, 1).await.tell(news);
        }
        mine(&turns, 1).await;
    }
}
