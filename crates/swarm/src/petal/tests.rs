//! Tables for each rule of a petal, and random histories against a naive model.

use proptest::prelude::*;

use super::*;
use crate::download::tests::epoch;

const V: ManifestId = ManifestId::from_bytes([7; 32]);
const SECOND: Duration = Duration::from_secs(1);

fn agent(number: u8) -> AgentId {
    AgentId::new([number; 32])
}

fn set(len: u32, chunks: impl IntoIterator<Item = u32>) -> ChunkSet {
    let mut set = ChunkSet::new(len);
    chunks.into_iter().for_each(|chunk| {
        set.insert(ChunkIndex::new(chunk));
    });
    set
}

fn indices(set: &ChunkSet) -> BTreeSet<u32> {
    set.iter().map(ChunkIndex::get).collect()
}

/// A petal and what everyone was told last.
struct Bench {
    petal: Petal,
    now: Instant,
    len: u32,
    shares: BTreeMap<u8, BTreeSet<u32>>,
    sources: BTreeMap<u8, BTreeSet<u8>>,
    /// Messages since the last look.
    told: Vec<PetalAction>,
    have: BTreeMap<u8, BTreeSet<u32>>,
    wants: BTreeSet<u8>,
}

impl Bench {
    fn new(len: u32) -> Self {
        Self {
            petal: Petal::new(PetalConfig::default(), 1),
            now: epoch(),
            len,
            shares: BTreeMap::new(),
            sources: BTreeMap::new(),
            told: Vec::new(),
            have: BTreeMap::new(),
            wants: BTreeSet::new(),
        }
    }

    fn drain(&mut self) {
        while let Some(action) = self.petal.poll_action() {
            match &action {
                PetalAction::Share { agent, chunks, .. } => {
                    self.shares.insert(agent.as_bytes()[0], indices(chunks));
                }
                PetalAction::Introduce { to, peers, .. } => {
                    assert!(!peers.is_empty() && !peers.contains(to));
                    assert!(self.wants.contains(&to.as_bytes()[0]), "{to} fetches nothing");
                    for peer in peers {
                        assert!(self.have.contains_key(&peer.as_bytes()[0]), "{peer} is not there");
                        let sources = self.sources.entry(to.as_bytes()[0]).or_default();
                        assert!(sources.insert(peer.as_bytes()[0]), "{to} knows {peer}");
                    }
                }
                PetalAction::Depart { to, peer, .. } => {
                    self.sources.entry(to.as_bytes()[0]).or_default().remove(&peer.as_bytes()[0]);
                }
            }
            self.told.push(action);
        }
    }

    fn join_at(
        &mut self,
        number: u8,
        have: impl IntoIterator<Item = u32>,
        wants: bool,
        locality: Locality,
    ) -> Result<(), JoinRefused> {
        let have = set(self.len, have);
        self.petal.handle_join(self.now, agent(number), V, self.len, have.clone(), wants, locality)?;
        self.have.insert(number, indices(&have));
        if wants && !have.is_full() {
            self.wants.insert(number);
        }
        self.drain();
        Ok(())
    }

    fn join(&mut self, number: u8, have: impl IntoIterator<Item = u32>, wants: bool) {
        self.join_at(number, have, wants, Locality::default()).unwrap();
    }

    fn took(&mut self, number: u8, chunks: impl IntoIterator<Item = u32>) {
        let chunks: Vec<_> = chunks.into_iter().collect();
        if let Some(have) = self.have.get_mut(&number) {
            have.extend(&chunks);
            if have.len() == self.len as usize {
                self.wants.remove(&number);
                self.sources.remove(&number);
            }
        }
        self.petal.handle_have(self.now, agent(number), V, &chunks);
        self.drain();
    }

    fn forget(&mut self, number: u8) {
        self.have.remove(&number);
        self.wants.remove(&number);
        self.shares.remove(&number);
        self.sources.remove(&number);
    }

    fn leave(&mut self, number: u8) {
        self.forget(number);
        self.petal.handle_leave(self.now, agent(number), V);
        self.drain();
    }

    fn complain(&mut self, from: u8, about: u8, reason: Complaint) {
        if let Some(sources) = self.sources.get_mut(&from) {
            sources.remove(&about);
        }
        self.petal.handle_complaint(self.now, agent(from), agent(about), V, reason);
        self.drain();
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(tick) = self.petal.poll_timeout().filter(|tick| *tick <= end) {
            self.now = tick;
            self.petal.handle_timeout(tick);
            self.drain();
        }
        self.now = end;
    }

    fn sizes(&self) -> Vec<usize> {
        self.shares.values().map(BTreeSet::len).collect()
    }

    /// What nobody holds is in exactly one share, as long as anyone wants it.
    fn check_shares(&self) {
        let shares = || self.shares.iter().filter(|(number, _)| self.wants.contains(*number));
        for chunk in 0..self.len {
            if self.wants.is_empty() || self.have.values().any(|have| have.contains(&chunk)) {
                continue;
            }
            let owners: Vec<_> =
                shares().filter(|(_, share)| share.contains(&chunk)).map(|(number, _)| *number).collect();
            assert_eq!(owners.len(), 1, "chunk {chunk} is in the shares of {owners:?}");
        }
    }
}

#[test]
fn the_first_gets_everything_and_those_who_come_split_the_largest_share() {
    let mut bench = Bench::new(2000);
    let expected: [&[usize]; 4] = [&[2000], &[1000, 1000], &[1000, 500, 500], &[500; 4]];
    for (number, sizes) in (1u8..).zip(expected) {
        bench.join(number, [], true);
        let mut found = bench.sizes();
        found.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(found, sizes);
        bench.check_shares();
    }
    assert!(bench.shares[&1].contains(&0), "the first keeps the front, which is on its way");
}

#[test]
fn what_somebody_holds_is_in_no_share() {
    let mut bench = Bench::new(100);
    bench.join(1, 0..60, true);
    assert_eq!(bench.shares[&1], (60..100).collect());
    bench.join(2, 0..100, false);
    bench.join(3, [], true);
    assert_eq!(bench.shares[&3], BTreeSet::new());
    bench.wait(SECOND);
    assert_eq!(bench.shares[&1], BTreeSet::new(), "a full holder came");
    assert_eq!(bench.sources[&3], BTreeSet::from([1, 2]));
}

#[test]
fn those_who_finish_take_half_of_what_is_left() {
    let mut bench = Bench::new(400);
    bench.join(1, [], true);
    bench.join(2, [], true);
    let second = bench.shares[&2].clone();
    bench.took(2, second);
    assert_eq!(bench.shares[&2].len(), 100);
    bench.check_shares();
    let steps = bench.told.iter().filter(|action| matches!(action, PetalAction::Share { .. })).count();
    assert!(steps <= 6, "{steps} messages");
}

#[test]
fn the_last_few_chunks_are_not_fought_over() {
    let mut bench = Bench::new(8);
    for number in 1..=6 {
        bench.join(number, [], true);
    }
    bench.check_shares();
    bench.told.clear();
    for chunk in 0..6 {
        bench.took(1, [chunk]);
    }
    assert!(bench.told.iter().all(|action| !matches!(action, PetalAction::Share { .. })), "{:?}", bench.told);
}

#[test]
fn shares_of_the_gone_and_the_stalled_go_to_others() {
    let mut bench = Bench::new(100);
    for number in 1..=3 {
        bench.join(number, [], true);
    }
    let copies: Vec<_> = bench.shares[&3].iter().copied().take(5).collect();
    bench.took(3, copies);
    bench.forget(3);
    bench.petal.handle_gone(bench.now, agent(3));
    bench.drain();
    bench.check_shares();
    for second in 0..12 {
        bench.took(1, [second]);
        bench.wait(SECOND);
    }
    assert_eq!(bench.shares[&2], BTreeSet::new(), "no chunk in 12 s");
    bench.check_shares();
}

#[test]
fn a_lone_agent_that_stalls_keeps_its_share() {
    let mut bench = Bench::new(100);
    bench.join(1, [], true);
    bench.wait(SECOND * 60);
    assert_eq!(bench.shares[&1].len(), 100);
    bench.join(2, [], true);
    bench.check_shares();
    assert_eq!(bench.shares[&2].len(), 100);
}

#[test]
fn those_who_cannot_reach_the_holder_take_it_from_the_edge() {
    let mut bench = Bench::new(100);
    bench.join(1, 0..100, false);
    bench.join(2, [], true);
    assert_eq!(bench.shares[&2], BTreeSet::new());
    bench.complain(2, 1, Complaint::Unreachable);
    assert_eq!(bench.shares[&2].len(), 100);
    bench.join(3, [], true);
    assert_eq!(bench.shares[&3], BTreeSet::new());
    bench.complain(3, 2, Complaint::Unreachable);
    assert_eq!(bench.shares[&3], BTreeSet::new(), "agent 1 has it all");
}

#[test]
fn liars_are_out_after_several_independent_complaints() {
    let mut bench = Bench::new(100);
    bench.join(9, 0..100, false);
    for number in 1..=4 {
        bench.join(number, [], true);
    }
    for (from, is_out) in [(1, false), (1, false), (2, false), (3, true)] {
        bench.complain(from, 9, Complaint::Corrupt);
        assert_eq!(bench.petal.have(agent(9), V).is_none(), is_out, "after {from}");
    }
    bench.forget(9);
    assert!(bench.told.contains(&PetalAction::Depart { to: agent(4), version: V, peer: agent(9) }));
    bench.check_shares();
    assert_eq!(bench.join_at(9, [], true, Locality::default()), Err(JoinRefused::Distrusted));
    bench.now += SECOND * 3601;
    assert_eq!(bench.join_at(9, [], true, Locality::default()), Ok(()));
}

#[test]
fn joins_beyond_the_limits_are_refused() {
    let mut petal = Petal::new(PetalConfig { max_versions: 2, max_chunks: 1000, ..PetalConfig::default() }, 1);
    let mut join = |number: u8, version: u8, chunks: u32, len: u32| {
        let version = ManifestId::from_bytes([version; 32]);
        petal.handle_join(epoch(), agent(number), version, chunks, ChunkSet::new(len), true, Locality::default())
    };
    let table = [
        (1, 1, 100, 100, Ok(())),
        (2, 1, 99, 99, Err(JoinRefused::OtherLayout { given: 99, known: 100 })),
        (2, 1, 100, 99, Err(JoinRefused::OtherLayout { given: 99, known: 100 })),
        (1, 2, 1001, 1001, Err(JoinRefused::ChunkCount(1001))),
        (1, 2, 0, 0, Err(JoinRefused::ChunkCount(0))),
        (1, 2, 10, 10, Ok(())),
        (1, 3, 10, 10, Err(JoinRefused::TooManyVersions)),
        (1, 1, 100, 100, Ok(())),
    ];
    for (number, version, chunks, len, expected) in table {
        assert_eq!(join(number, version, chunks, len), expected, "{number} {version} {chunks} {len}");
    }
}

#[test]
fn who_stops_wanting_keeps_its_receivers() {
    // With or without its last chunks announced before; with all of it, or some.
    for (announced, holds) in [(40, 100), (100, 100), (40, 40)] {
        let mut bench = Bench::new(100);
        (1..=3).for_each(|number| bench.join(number, [], true));
        bench.took(1, 0..announced);
        bench.told.clear();
        bench.wants.remove(&1);
        bench.sources.remove(&1);
        bench.join(1, 0..holds, false);
        let links = bench.told.iter().filter(|action| !matches!(action, PetalAction::Share { .. })).collect::<Vec<_>>();
        assert!(links.is_empty(), "{holds}: {links:?}");
        assert_eq!(bench.sources[&2], BTreeSet::from([1, 3]), "{holds}");
        bench.wait(SECOND);
        bench.check_shares();
        // Nobody is told any more to fetch from a source that left, nor is it forgotten as one.
        bench.leave(2);
        bench.leave(1);
        assert!(bench.told.contains(&PetalAction::Depart { to: agent(3), version: V, peer: agent(1) }));
        bench.check_shares();
    }
}

#[test]
fn who_wants_again_keeps_its_receivers_and_meets_others() {
    let mut bench = Bench::new(100);
    bench.join(1, 0..40, false);
    bench.join(2, [], true);
    bench.join(3, 0..60, false);
    bench.told.clear();
    bench.join(1, 0..40, true);
    assert_eq!(bench.sources[&1], BTreeSet::from([2, 3]));
    assert!(bench.told.iter().all(|action| !matches!(action, PetalAction::Depart { .. })), "{:?}", bench.told);
    bench.check_shares();
    bench.took(1, 40..100);
    bench.check_shares();
}

#[test]
fn a_refreshed_join_without_links_is_introduced() {
    let mut bench = Bench::new(100);
    bench.join(1, 0..100, false);
    bench.join(2, 0..50, false);
    bench.join(3, [], true);
    for (about, left) in [(1, 1), (2, 0)] {
        bench.complain(3, about, Complaint::Stalled);
        assert_eq!(bench.sources[&3].len(), left);
    }
    // Room was elsewhere when they came: both are full of receivers that leave again.
    let few = PetalConfig { max_receivers: 1, ..PetalConfig::default() };
    let mut bench = Bench { petal: Petal::new(few, 1), ..Bench::new(100) };
    bench.join(1, 0..100, false);
    bench.join(2, [], true);
    bench.join(3, 0..10, true);
    bench.complain(3, 2, Complaint::Unreachable);
    assert_eq!(bench.sources[&3], BTreeSet::new());
    bench.leave(2);
    bench.join(3, 0..10, true);
    assert_eq!(bench.sources[&3], BTreeSet::from([1]));
}

#[test]
fn near_ones_meet_first() {
    let mut bench = Bench::new(100);
    let place = |subnet| Locality { country: *b"DE", operator: 100 + subnet as u32 / 10, subnet };
    for number in 0..60u8 {
        bench.join_at(number, 0..100, false, place(u64::from(number / 6) + 1)).unwrap();
    }
    bench.join_at(200, [], true, place(4)).unwrap();
    let near = bench.sources[&200].iter().filter(|number| **number / 6 + 1 == 4).count();
    assert_eq!((near, bench.sources[&200].len()), (6, 8));
}

#[test]
fn links_are_bounded_and_renewed() {
    let mut bench = Bench::new(100);
    for number in 1..=60 {
        bench.join(number, [], true);
    }
    let counts: Vec<_> = bench.sources.values().map(BTreeSet::len).collect();
    assert!(counts.iter().all(|count| (1..=16).contains(count)), "{counts:?}");
    for number in 1..=40 {
        bench.leave(number);
    }
    let counts: Vec<_> = bench.sources.values().map(BTreeSet::len).collect();
    assert!(counts.len() == 20 && counts.iter().all(|count| (8..=16).contains(count)), "{counts:?}");
}

#[test]
fn nothing_remains_of_those_who_left() {
    let mut bench = Bench::new(100);
    for number in 1..=20 {
        bench.join(number, [], true);
    }
    for number in 1..=20 {
        bench.leave(number);
    }
    bench.wait(SECOND * 5);
    assert_eq!((bench.petal.versions(), bench.petal.joined.len(), bench.petal.poll_timeout()), (0, 0, None));
}

#[derive(Debug, Clone)]
enum Step {
    Join(u8, Vec<u32>, bool),
    Took(u8, Vec<u32>),
    TookShare(u8, usize),
    Leave(u8),
    Complain(u8, u8, Complaint),
    Wait(u64),
}

const LEN: u32 = 40;

fn step() -> impl Strategy<Value = Step> {
    let who = || 1..12u8;
    let chunks = |most: usize| prop::collection::vec(0..LEN, 0..most);
    let reason = prop_oneof![Just(Complaint::Unreachable), Just(Complaint::Stalled)];
    prop_oneof![
        3 => (who(), chunks(LEN as usize), any::<bool>()).prop_map(|(who, have, wants)| Step::Join(who, have, wants)),
        4 => who().prop_map(|who| Step::Join(who, Vec::new(), true)),
        4 => (who(), chunks(10)).prop_map(|(who, chunks)| Step::Took(who, chunks)),
        6 => (who(), 0..40usize).prop_map(|(who, count)| Step::TookShare(who, count)),
        2 => who().prop_map(Step::Leave),
        2 => (who(), who(), reason).prop_map(|(from, about, reason)| Step::Complain(from, about, reason)),
        2 => (0..12_000u64).prop_map(Step::Wait),
    ]
}

fn take(bench: &mut Bench, step: Step) {
    match step {
        Step::Join(who, have, wants) => {
            bench.leave(who);
            bench.join(who, have, wants);
        }
        Step::Took(who, chunks) if bench.have.contains_key(&who) => bench.took(who, chunks),
        Step::TookShare(who, count) if bench.have.contains_key(&who) => {
            let share: Vec<_> = bench.shares.get(&who).into_iter().flatten().copied().take(count).collect();
            bench.took(who, share);
        }
        Step::Took(..) | Step::TookShare(..) => {}
        Step::Leave(who) => bench.leave(who),
        Step::Complain(from, about, reason) => {
            if bench.sources.get(&from).is_some_and(|sources| sources.contains(&about)) {
                bench.complain(from, about, reason);
            }
        }
        Step::Wait(ms) => bench.wait(Duration::from_millis(ms)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens: what nobody holds is in exactly one share, links are bounded and sensible (see `Bench::drain`), and
    /// the directory says what agents said.
    #[test]
    fn any_history_keeps_the_rules(steps in prop::collection::vec(step(), 0..80)) {
        let mut bench = Bench::new(LEN);
        for step in steps {
            take(&mut bench, step);
            bench.check_shares();
            for (number, have) in &bench.have {
                let known = bench.petal.have(agent(*number), V).map(indices);
                prop_assert_eq!(known.as_ref(), Some(have));
            }
            prop_assert!(bench.sources.values().all(|sources| sources.len() <= 16));
        }
        for number in 1..12 {
            bench.leave(number);
        }
        prop_assert_eq!(bench.petal.versions(), 0);
    }
}
