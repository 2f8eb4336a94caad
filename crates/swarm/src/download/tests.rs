//! Tables for each rule of a download, and random histories against a naive model of what may never happen.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const CHUNK: u32 = 64 << 10;
/// Chunks in flight to the edge at first: a megabyte, tags included.
const FULL: usize = 15;
const MS: Duration = Duration::from_millis(1);

/// Some moment; tests count from it.
#[expect(clippy::disallowed_methods, reason = "there is no other way to make an Instant; nothing depends on its value")]
pub(crate) fn epoch() -> Instant {
    static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

fn peer(number: u8) -> AgentId {
    AgentId::new([number; 32])
}

fn from_peer(number: u8) -> Source {
    Source::Peer(peer(number))
}

fn set(len: u32, chunks: impl IntoIterator<Item = u32>) -> ChunkSet {
    let mut set = ChunkSet::new(len);
    chunks.into_iter().for_each(|chunk| {
        set.insert(ChunkIndex::new(chunk));
    });
    set
}

/// A download whose every action is checked as it comes.
struct Bench {
    download: Download,
    now: Instant,
    len: u32,
    held: BTreeSet<u32>,
    asked: BTreeMap<u32, BTreeSet<Source>>,
    peers: BTreeMap<Source, BTreeSet<u32>>,
    dropped: Vec<(Source, DropReason)>,
    unreachable: Vec<u32>,
    done: bool,
}

impl Bench {
    fn new(len: u32) -> Self {
        Self::with(len, Config::default(), [])
    }

    fn with(len: u32, config: Config, held: impl IntoIterator<Item = u32>) -> Self {
        let held: BTreeSet<_> = held.into_iter().collect();
        let layout = ChunkLayout::new(u64::from(len) * u64::from(CHUNK), CHUNK).unwrap();
        let download = Download::new(config, layout, set(len, held.iter().copied()), 1, epoch());
        Self {
            download,
            now: epoch(),
            len,
            held,
            asked: BTreeMap::new(),
            peers: BTreeMap::new(),
            dropped: Vec::new(),
            unreachable: Vec::new(),
            done: false,
        }
    }

    /// Peer 1 is connected, and nothing is to come from the edge.
    fn with_peer(len: u32, have: impl IntoIterator<Item = u32>) -> Self {
        let mut bench = Self::waiting(len);
        bench.connect(1, have);
        bench.share([]);
        bench
    }

    /// Nothing is asked from the edge before the share is known.
    fn waiting(len: u32) -> Self {
        Self::with(len, Config { requests_before_share: 0, ..Config::default() }, [])
    }

    /// Takes all actions; returns what was requested.
    fn drain(&mut self) -> Vec<(Source, u32)> {
        let mut requests = Vec::new();
        while let Some(action) = self.download.poll_action(self.now) {
            assert!(!self.done, "{action:?} after the end");
            match action {
                Action::Request { source, chunk } => {
                    self.check_request(source, chunk.get());
                    requests.push((source, chunk.get()));
                }
                Action::Cancel { source, chunk } => self.forget(source, chunk.get()),
                Action::Drop { peer, reason } => {
                    self.dropped.push((Source::Peer(peer), reason));
                    self.lose(Source::Peer(peer));
                }
                Action::EdgeUnreachable { failures } => self.unreachable.push(failures),
                Action::Done => self.done = true,
            }
        }
        requests
    }

    fn check_request(&mut self, source: Source, chunk: u32) {
        assert!(chunk < self.len && !self.held.contains(&chunk), "asked for {chunk}, which is held");
        if let Source::Peer(_) = source {
            let has = self.peers.get(&source).is_some_and(|have| have.contains(&chunk));
            assert!(has, "asked {source:?} for {chunk}, which it never said to have");
        }
        self.asked.entry(chunk).or_default().insert(source);
        let sources = self.asked[&chunk].len();
        let missing = self.len as usize - self.held.len();
        let endgame = missing <= 32 && self.asked.len() == missing;
        assert!(sources == 1 || (sources == 2 && endgame), "{chunk} is asked from {sources} sources");
    }

    fn forget(&mut self, source: Source, chunk: u32) {
        if let Some(sources) = self.asked.get_mut(&chunk) {
            sources.remove(&source);
            if sources.is_empty() {
                self.asked.remove(&chunk);
            }
        }
    }

    fn lose(&mut self, source: Source) {
        self.peers.remove(&source);
        for chunk in self.asked.keys().copied().collect::<Vec<_>>() {
            self.forget(source, chunk);
        }
    }

    fn share(&mut self, chunks: impl IntoIterator<Item = u32>) -> Vec<(Source, u32)> {
        self.download.handle_share(self.now, set(self.len, chunks));
        self.drain()
    }

    fn alone(&mut self) -> Vec<(Source, u32)> {
        self.download.handle_alone(self.now);
        self.drain()
    }

    fn connect(&mut self, number: u8, have: impl IntoIterator<Item = u32>) -> Vec<(Source, u32)> {
        self.lose(from_peer(number));
        let have: BTreeSet<_> = have.into_iter().collect();
        self.peers.insert(from_peer(number), have.clone());
        self.download.handle_peer_connected(self.now, peer(number), set(self.len, have));
        self.drain()
    }

    fn deliver(&mut self, source: Source, chunk: u32) -> Vec<(Source, u32)> {
        self.forget(source, chunk);
        self.held.insert(chunk);
        self.download.handle_chunk(self.now, source, ChunkIndex::new(chunk));
        self.drain()
    }

    fn fail(&mut self, source: Source, chunk: u32, reason: FailReason) -> Vec<(Source, u32)> {
        self.forget(source, chunk);
        if reason == FailReason::Lack
            && let Some(have) = self.peers.get_mut(&source)
        {
            have.remove(&chunk);
        }
        self.download.handle_failed(self.now, source, ChunkIndex::new(chunk), reason);
        self.drain()
    }

    fn wait(&mut self, time: Duration) -> Vec<(Source, u32)> {
        self.now += time;
        self.download.handle_timeout(self.now);
        self.drain()
    }

    /// Every request under way, by chunk.
    fn under_way(&self) -> Vec<(Source, u32)> {
        self.asked.iter().flat_map(|(chunk, sources)| sources.iter().map(|source| (*source, *chunk))).collect()
    }

    fn under_way_to(&self, source: Source) -> Vec<u32> {
        self.under_way().into_iter().filter(|(to, _)| *to == source).map(|(_, chunk)| chunk).collect()
    }

    /// The edge answers everything from now on, and nobody else does anything. There is an end.
    fn finish_from_edge(&mut self) {
        self.drain();
        for _ in 0..20_000 {
            if self.done {
                assert_eq!(self.held.len(), self.len as usize);
                return;
            }
            match self.under_way_to(Source::Edge).first() {
                Some(chunk) => {
                    self.now += 5 * MS;
                    self.deliver(Source::Edge, *chunk);
                }
                None => {
                    let next = self.download.poll_timeout().expect("something is missing and nothing will happen");
                    self.wait(next.saturating_duration_since(self.now));
                }
            }
        }
        panic!("no end: {:#?}", self.download.progress());
    }
}

#[test]
fn little_is_asked_before_the_share_is_known_then_much() {
    let mut bench = Bench::new(100);
    assert_eq!(bench.drain().len(), 2);
    let asked = bench.share(50..100);
    assert!(asked.len() >= 10 && asked.iter().all(|(source, chunk)| *source == Source::Edge && *chunk >= 50));
    let mut alone = Bench::new(100);
    alone.drain();
    assert_eq!(alone.alone().len() + 2, FULL);
    let mut silent = Bench::new(100);
    silent.drain();
    assert!(silent.wait(999 * MS).is_empty());
    assert_eq!(silent.wait(MS).len() + 2, FULL);
}

#[test]
fn the_pipe_to_the_edge_never_runs_dry() {
    let mut bench = Bench::new(200);
    bench.alone();
    for _ in 0..150 {
        let chunk = bench.under_way_to(Source::Edge)[0];
        bench.now += 10 * MS;
        bench.deliver(Source::Edge, chunk);
        let under_way = bench.under_way_to(Source::Edge).len();
        assert!((16..=32).contains(&under_way), "{under_way}");
    }
    bench.finish_from_edge();
    assert_eq!(bench.download.progress().edge_bytes, bench.download.layout.sealed_length());
}

#[test]
fn resumed_downloads_ask_only_for_the_rest() {
    let mut bench = Bench::with(50, Config::default(), 0..45);
    bench.alone();
    let mut asked = bench.under_way_to(Source::Edge);
    asked.sort_unstable();
    assert_eq!(asked, [45, 46, 47, 48, 49]);
    let mut complete = Bench::with(50, Config::default(), 0..50);
    complete.drain();
    assert!(complete.done && complete.download.poll_timeout().is_none());
    let mut empty = Bench::new(0);
    empty.drain();
    assert!(empty.done);
}

#[test]
fn peers_are_asked_for_the_rarest_and_the_edge_only_for_the_share() {
    let mut bench = Bench::with_peer(100, 0..60);
    let asked = bench.under_way_to(from_peer(1));
    assert_eq!(asked.len(), 2);
    bench.connect(2, (0..60).chain([99]));
    assert!(bench.under_way_to(from_peer(2)).contains(&99), "only peer 2 has it");
    assert!(bench.under_way_to(Source::Edge).is_empty());
}

#[test]
fn readers_are_served_in_order() {
    let mut bench = Bench::waiting(100);
    bench.download.handle_want(bench.now, 40..60);
    assert_eq!(bench.alone().iter().map(|(_, chunk)| *chunk).take(5).collect::<Vec<_>>(), [40, 41, 42, 43, 44]);
    let mut bench = Bench::waiting(100);
    bench.download.handle_want(bench.now, 40..60);
    bench.connect(1, 0..100);
    assert_eq!(bench.under_way_to(from_peer(1)), [40, 41]);
    // A head that nobody has comes from the edge after a short while.
    let mut bench = Bench::waiting(100);
    bench.connect(1, []);
    bench.download.handle_want(bench.now, 40..60);
    assert!(bench.share([]).is_empty());
    assert_eq!(bench.wait(200 * MS), [(Source::Edge, 40)]);
}

#[test]
fn silent_peers_are_not_waited_for_long() {
    let mut bench = Bench::waiting(100);
    bench.connect(1, []);
    assert!(bench.share([]).is_empty(), "a peer may still bring it");
    assert!(bench.wait(900 * MS).is_empty());
    assert!(bench.wait(100 * MS).len() >= 10, "not one did");
    let mut bench = Bench::waiting(100);
    assert!(bench.share([]).len() >= 10, "without any peer there is nothing to wait for");
}

#[test]
fn corrupt_peers_are_dropped_for_good() {
    let mut bench = Bench::with_peer(100, 0..100);
    let chunk = bench.under_way_to(from_peer(1))[0];
    bench.download.handle_corrupt(bench.now, from_peer(1), ChunkIndex::new(chunk));
    let again = bench.drain();
    assert!(again.iter().all(|(source, _)| *source == Source::Edge) && !again.is_empty());
    assert!(bench.connect(1, 0..100).is_empty());
    assert_eq!(bench.dropped, [(from_peer(1), DropReason::Corrupt); 2]);
    bench.finish_from_edge();
}

#[test]
fn peers_that_promise_what_they_lack_are_dropped() {
    let mut bench = Bench::with_peer(200, 0..200);
    let mut lacks = 0;
    while let Some(chunk) = bench.under_way_to(from_peer(1)).first().copied() {
        lacks += 1;
        let instead = bench.fail(from_peer(1), chunk, FailReason::Lack);
        assert!(instead.contains(&(Source::Edge, chunk)) || lacks > 10, "{instead:?} for {chunk}");
    }
    assert_eq!((lacks, bench.dropped.as_slice()), (33, [(from_peer(1), DropReason::Protocol)].as_slice()));
}

#[test]
fn slow_answers_are_overtaken_and_slow_peers_left() {
    let mut bench = Bench::with_peer(12, 0..12);
    let late = bench.under_way_to(from_peer(1));
    let times = bench.wait(Duration::from_secs(3));
    assert!(late.iter().all(|chunk| times.contains(&(Source::Edge, *chunk))), "{times:?}");
    // One that comes after all is welcome, and the edge need not bring it any more.
    bench.deliver(from_peer(1), late[0]);
    assert!(!bench.under_way_to(Source::Edge).contains(&late[0]));
    for _ in 0..20 {
        bench.wait(Duration::from_secs(20));
    }
    assert_eq!(bench.dropped, [(from_peer(1), DropReason::Stalled)]);
}

#[test]
fn a_failing_edge_is_asked_ever_more_rarely_until_another_stands_in() {
    let mut bench = Bench::new(100);
    bench.alone();
    for round in 0..6 {
        for chunk in bench.under_way_to(Source::Edge) {
            assert!(bench.fail(Source::Edge, chunk, FailReason::Error).is_empty(), "no retry at once");
        }
        let pause = bench.download.poll_timeout().unwrap() - bench.now;
        let most = Duration::from_millis(250 << round);
        assert!(pause >= most / 2 && pause <= most, "round {round}: {pause:?}");
        if round < 5 {
            assert_eq!(bench.wait(pause).len(), 1, "one request to try");
        }
    }
    assert_eq!(bench.unreachable, [3, 4, 5, 6]);
    assert!(matches!(bench.download.progress().stall, Some(Stall::EdgeUnreachable { failures: 6, .. })));
    bench.download.handle_edge_changed(bench.now);
    assert_eq!(bench.drain().len(), FULL);
    bench.finish_from_edge();
}

#[test]
fn the_last_chunk_is_asked_twice_where_the_first_is_late() {
    let mut bench = Bench::waiting(3);
    bench.connect(1, [1, 2]);
    bench.share([0]);
    assert_eq!(bench.under_way(), [(Source::Edge, 0), (from_peer(1), 1), (from_peer(1), 2)]);
    bench.now += 10 * MS;
    assert_eq!(
        bench.deliver(Source::Edge, 0),
        [(Source::Edge, 1), (Source::Edge, 2)],
        "the edge is known to be quicker"
    );
    bench.deliver(Source::Edge, 1);
    assert_eq!(bench.under_way_to(from_peer(1)), [2], "the loser is cancelled");
    bench.deliver(from_peer(1), 2);
    assert!(bench.done && bench.under_way().is_empty());
}

#[test]
fn no_more_peers_than_allowed() {
    let mut bench = Bench::with(100, Config { max_peers: 2, ..Config::default() }, []);
    for number in 1..=3 {
        bench.connect(number, [1]);
    }
    assert_eq!(bench.dropped, [(from_peer(3), DropReason::TooMany)]);
    bench.download.handle_peer_connected(bench.now, peer(1), ChunkSet::full(99));
    bench.drain();
    assert_eq!(bench.dropped[1], (from_peer(1), DropReason::Protocol));
    bench.download.handle_have(bench.now, peer(2), &[100]);
    bench.drain();
    assert_eq!(bench.dropped[2], (from_peer(2), DropReason::Protocol));
}

#[test]
fn an_answer_that_is_coming_in_has_not_timed_out() {
    let mut bench = Bench::new(2);
    bench.alone();
    for _ in 0..100 {
        bench.now += Duration::from_secs(5);
        bench.download.handle_receiving(bench.now, Source::Edge, ChunkIndex::new(0));
        bench.download.handle_receiving(bench.now, Source::Edge, ChunkIndex::new(1));
        bench.wait(Duration::ZERO);
    }
    assert_eq!(bench.under_way_to(Source::Edge), [0, 1]);
    assert_eq!(bench.download.progress().stall, None);
}

#[test]
fn a_trickling_peer_is_not_waited_for_without_end() {
    let mut bench = Bench::with_peer(2, 0..2);
    for _ in 0..55 {
        bench.now += 200 * MS;
        for chunk in bench.under_way_to(from_peer(1)) {
            bench.download.handle_receiving(bench.now, from_peer(1), ChunkIndex::new(chunk));
        }
        bench.wait(Duration::ZERO);
    }
    let trickling = bench.download.sources().nth(1).expect("it is connected");
    assert!(trickling.failures > 0, "{trickling:?}");
    assert_eq!(bench.under_way_to(Source::Edge), [0, 1]);
}

#[derive(Debug, Clone)]
enum Step {
    Deliver(usize),
    Fail(usize, FailReason),
    Corrupt(usize),
    Connect(u8, Vec<u32>),
    Have(u8, u32),
    Gone(u8),
    Share(Vec<u32>),
    Alone,
    Want(u32, u32),
    EdgeChanged,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let reason = prop_oneof![Just(FailReason::Lack), Just(FailReason::Timeout), Just(FailReason::Error)];
    let chunks = || prop::collection::vec(0..LEN, 0..LEN as usize);
    prop_oneof![
        8 => any::<usize>().prop_map(Step::Deliver),
        2 => (any::<usize>(), reason).prop_map(|(which, reason)| Step::Fail(which, reason)),
        1 => any::<usize>().prop_map(Step::Corrupt),
        3 => (1..6u8, chunks()).prop_map(|(number, have)| Step::Connect(number, have)),
        3 => (1..6u8, 0..LEN + 1).prop_map(|(number, chunk)| Step::Have(number, chunk)),
        1 => (1..6u8).prop_map(Step::Gone),
        1 => chunks().prop_map(Step::Share),
        1 => Just(Step::Alone),
        1 => (0..LEN, 0..LEN).prop_map(|(from, to)| Step::Want(from, to)),
        1 => Just(Step::EdgeChanged),
        3 => (0..4000u64).prop_map(Step::Wait),
    ]
}

/// More than the endgame, so that both sides of it are walked.
const LEN: u32 = 48;

fn take(bench: &mut Bench, step: Step) {
    let pick = |bench: &Bench, which: usize| {
        let under_way = bench.under_way();
        (!under_way.is_empty()).then(|| under_way[which % under_way.len()])
    };
    let now = bench.now;
    match step {
        Step::Deliver(which) => {
            if let Some((source, chunk)) = pick(bench, which) {
                bench.now += 20 * MS;
                bench.deliver(source, chunk);
            }
        }
        Step::Fail(which, reason) => {
            if let Some((source, chunk)) = pick(bench, which) {
                bench.fail(source, chunk, reason);
            }
        }
        Step::Corrupt(which) => {
            if let Some((source, chunk)) = pick(bench, which) {
                bench.forget(source, chunk);
                bench.download.handle_corrupt(now, source, ChunkIndex::new(chunk));
            }
        }
        Step::Connect(number, have) => {
            bench.connect(number, have);
        }
        Step::Have(number, chunk) => {
            if let Some(have) = bench.peers.get_mut(&from_peer(number)) {
                have.insert(chunk);
            }
            bench.download.handle_have(now, peer(number), &[chunk]);
        }
        Step::Gone(number) => {
            bench.lose(from_peer(number));
            bench.download.handle_peer_gone(now, peer(number));
        }
        Step::Share(chunks) => {
            bench.share(chunks);
        }
        Step::Alone => {
            bench.alone();
        }
        Step::Want(from, to) => bench.download.handle_want(now, from..to),
        Step::EdgeChanged => bench.download.handle_edge_changed(now),
        Step::Wait(ms) => {
            bench.wait(Duration::from_millis(ms));
        }
    }
    bench.drain();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens, no rule is broken (see `Bench::check_request`), the two sides agree about what is under way, and
    /// once the edge answers, the download ends, though no peer ever answers again.
    #[test]
    fn any_history_keeps_the_rules_and_ends(steps in prop::collection::vec(step(), 0..120)) {
        let mut bench = Bench::new(LEN);
        bench.drain();
        for step in steps {
            if bench.done {
                break;
            }
            take(&mut bench, step);
            prop_assert_eq!(bench.asked.len(), bench.download.progress().in_flight);
            prop_assert_eq!(LEN as usize - bench.held.len(), bench.download.progress().missing_chunks as usize);
        }
        if !bench.done {
            bench.finish_from_edge();
        }
    }
}
