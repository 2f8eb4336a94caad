//! A small network in virtual time: one edge with a petal, and agents that run real `Download`s.
//!
//! Every node has an uplink that sends one chunk at a time, taking turns among its receivers as TCP flows would; a downlink;
//! and a latency to everyone. Nothing here is random except through the seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use umbel_content::{ChunkIndex, ChunkLayout, ChunkSet, ManifestId};
use umbel_swarm::{
    Action, AgentId, Complaint, Config, Download, DropReason, FailReason, Locality, Petal, PetalAction, PetalConfig,
    Source,
};

pub(crate) const CHUNK: u32 = 64 << 10;
const VERSION: ManifestId = ManifestId::from_bytes([9; 32]);
/// Agents tell the petal what they got this often.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// How long a dead connection goes unnoticed.
const NOTICE: Duration = Duration::from_millis(500);
const LATEST: Duration = Duration::from_secs(20_000);
const MOST_EVENTS: u64 = 20_000_000;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Role {
    Honest,
    /// Holds everything from the start and asks for nothing.
    Seed,
    /// Says that it holds everything, and sends rubbish.
    Liar,
    /// Says that it holds everything, and never answers.
    Mute,
}

#[derive(Debug, Clone)]
pub(crate) struct Agent {
    pub(crate) role: Role,
    pub(crate) start: Duration,
    pub(crate) up: f64,
    pub(crate) down: f64,
    pub(crate) latency: Duration,
    pub(crate) dies: Option<Duration>,
}

impl Agent {
    /// Bytes per second each way, 10 ms from everyone.
    pub(crate) fn new(rate: f64) -> Self {
        Self {
            role: Role::Honest,
            start: Duration::ZERO,
            up: rate,
            down: rate,
            latency: Duration::from_millis(10),
            dies: None,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) chunks: u32,
    pub(crate) edge_up: f64,
    /// The home edge answers.
    pub(crate) petal: bool,
    pub(crate) agents: Vec<Agent>,
    /// Requests to the edge in these times fail.
    pub(crate) edge_away: Vec<(Duration, Duration)>,
}

/// What came of it, by agent where it says so.
#[derive(Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) finished: Vec<Option<Duration>>,
    /// Chunks that left the edge.
    pub(crate) edge_chunks: u64,
    pub(crate) edge_bytes: Vec<u64>,
    pub(crate) peer_bytes: Vec<u64>,
    /// Corrupt chunks that each agent received, by sender.
    pub(crate) corrupt: BTreeMap<(usize, usize), u32>,
    pub(crate) petal_messages: u64,
}

impl Outcome {
    pub(crate) fn last(&self) -> Duration {
        self.finished.iter().flatten().max().copied().unwrap_or_default()
    }
}

#[derive(Debug)]
enum Event {
    Start(usize),
    Die(usize),
    Wake(usize),
    Report(usize),
    AtPetal(PetalEvent),
    /// At an agent.
    Told(usize, PetalAction),
    Connected {
        agent: usize,
        peer: usize,
    },
    PeerHas {
        agent: usize,
        peer: usize,
        chunk: u32,
    },
    PeerGone {
        agent: usize,
        peer: usize,
    },
    Arrived {
        agent: usize,
        from: Source,
        chunk: u32,
        corrupt: bool,
    },
    Failed {
        agent: usize,
        from: Source,
        chunk: u32,
    },
    /// At a sender.
    Asked {
        sender: Source,
        by: usize,
        chunk: u32,
    },
    Cancelled {
        sender: Source,
        by: usize,
        chunk: u32,
    },
    Sent(Source),
}

#[derive(Debug)]
enum PetalEvent {
    Wake,
    Join(usize),
    Haves(usize, Vec<u32>),
    Complain(usize, usize, Complaint),
    Gone(usize),
}

struct Timed {
    at: Duration,
    number: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Chunks waiting to be sent, by receiver, served in turn.
#[derive(Default)]
struct Uplink {
    queues: BTreeMap<usize, VecDeque<u32>>,
    sending: Option<(usize, u32)>,
    last: usize,
}

impl Uplink {
    fn next(&mut self) -> Option<(usize, u32)> {
        let after = self.queues.range(self.last + 1..).next();
        let (&to, _) = after.or_else(|| self.queues.iter().next())?;
        let queue = self.queues.get_mut(&to)?;
        let chunk = queue.pop_front()?;
        if queue.is_empty() {
            self.queues.remove(&to);
        }
        self.last = to;
        self.sending = Some((to, chunk));
        self.sending
    }

    fn cancel(&mut self, by: usize, chunk: u32) {
        if let Some(queue) = self.queues.get_mut(&by) {
            queue.retain(|waiting| *waiting != chunk);
            if queue.is_empty() {
                self.queues.remove(&by);
            }
        }
    }
}

struct Node {
    download: Option<Download>,
    alive: bool,
    /// Who fetches from here and hears what is new.
    receivers: BTreeSet<usize>,
    unreported: Vec<u32>,
    wake_at: Option<Duration>,
    down_free: Duration,
    finished: Option<Duration>,
}

pub(crate) struct World {
    scenario: Scenario,
    epoch: Instant,
    now: Duration,
    number: u64,
    queue: BinaryHeap<Reverse<Timed>>,
    nodes: Vec<Node>,
    uplinks: BTreeMap<Source, Uplink>,
    petal: Petal,
    petal_wake: Option<Duration>,
    outcome: Outcome,
}

pub(crate) fn id(agent: usize) -> AgentId {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&(agent as u64).to_be_bytes());
    AgentId::new(key)
}

fn number(id: AgentId) -> usize {
    u64::from_be_bytes(id.as_bytes()[..8].try_into().expect("eight bytes")) as usize
}

#[expect(clippy::disallowed_methods, reason = "some moment to count from; nothing depends on its value")]
pub(crate) fn epoch() -> Instant {
    Instant::now()
}

/// Runs until every honest agent that lives has everything.
pub(crate) fn run(scenario: Scenario) -> Outcome {
    let mut world = World::new(scenario);
    let mut events = 0;
    while !world.is_over() {
        let Some(Reverse(next)) = world.queue.pop() else { panic!("nothing left to happen: {}", world.describe()) };
        world.now = next.at;
        events += 1;
        assert!(world.now < LATEST && events < MOST_EVENTS, "no end after {events} events: {}", world.describe());
        world.handle(next.event);
    }
    world.into_outcome()
}

impl World {
    fn new(scenario: Scenario) -> Self {
        let agents = scenario.agents.len();
        let node = |_| Node {
            download: None,
            alive: true,
            receivers: BTreeSet::new(),
            unreported: Vec::new(),
            wake_at: None,
            down_free: Duration::ZERO,
            finished: None,
        };
        let mut world = Self {
            epoch: epoch(),
            now: Duration::ZERO,
            number: 0,
            queue: BinaryHeap::new(),
            nodes: (0..agents).map(node).collect(),
            uplinks: BTreeMap::new(),
            petal: Petal::new(PetalConfig::default(), scenario.seed),
            petal_wake: None,
            outcome: Outcome {
                finished: vec![None; agents],
                edge_chunks: 0,
                edge_bytes: vec![0; agents],
                peer_bytes: vec![0; agents],
                corrupt: BTreeMap::new(),
                petal_messages: 0,
            },
            scenario,
        };
        for agent in 0..agents {
            let spec = world.scenario.agents[agent].clone();
            world.at(spec.start, Event::Start(agent));
            if let Some(time) = spec.dies {
                world.at(time, Event::Die(agent));
            }
        }
        world
    }

    fn describe(&self) -> String {
        let progress: Vec<_> = self.nodes.iter().map(|node| node.download.as_ref().map(Download::progress)).collect();
        format!("seed {}, at {:?}, {:?}\n{progress:#?}", self.scenario.seed, self.now, self.scenario)
    }

    fn is_over(&self) -> bool {
        let waits = |(spec, node): (&Agent, &Node)| spec.role == Role::Honest && node.alive && node.finished.is_none();
        !self.scenario.agents.iter().zip(&self.nodes).any(waits)
    }

    fn into_outcome(mut self) -> Outcome {
        for (agent, node) in self.nodes.iter().enumerate() {
            self.outcome.finished[agent] = node.finished;
            if let Some(download) = &node.download {
                let progress = download.progress();
                self.outcome.edge_bytes[agent] = progress.edge_bytes;
                self.outcome.peer_bytes[agent] = progress.peer_bytes;
                assert!(node.finished.is_none() || download.held().is_full());
            }
        }
        self.outcome
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.number += 1;
        self.queue.push(Reverse(Timed { at, number: self.number, event }));
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    fn instant(&self) -> Instant {
        self.epoch + self.now
    }

    fn latency(&self, agent: usize) -> Duration {
        self.scenario.agents[agent].latency
    }

    fn between(&self, agent: usize, source: Source) -> Duration {
        match source {
            Source::Edge => self.latency(agent),
            Source::Peer(peer) => self.latency(agent) + self.latency(number(peer)),
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start(agent) => self.start(agent),
            Event::Die(agent) => self.die(agent),
            Event::Wake(agent) => {
                self.nodes[agent].wake_at = None;
                self.download(agent, |download, now| download.handle_timeout(now));
            }
            Event::Report(agent) => self.report(agent),
            Event::Told(agent, action) => self.told(agent, action),
            Event::Connected { agent, peer } => self.connected(agent, peer),
            Event::PeerHas { agent, peer, chunk } => {
                self.download(agent, |download, now| download.handle_have(now, id(peer), &[chunk]));
            }
            Event::PeerGone { agent, peer } => {
                self.download(agent, |download, now| download.handle_peer_gone(now, id(peer)))
            }
            Event::Arrived { agent, from, chunk, corrupt } => self.arrived(agent, from, chunk, corrupt),
            Event::Failed { agent, from, chunk } => self.download(agent, |download, now| {
                download.handle_failed(now, from, ChunkIndex::new(chunk), FailReason::Error);
            }),
            Event::Asked { sender, by, chunk } => self.asked(sender, by, chunk),
            Event::Cancelled { sender, by, chunk } => self.uplinks.entry(sender).or_default().cancel(by, chunk),
            Event::Sent(sender) => self.sent(sender),
            Event::AtPetal(event) => self.at_petal(event),
        }
    }

    // ---- agents ----

    fn start(&mut self, agent: usize) {
        if self.scenario.agents[agent].role == Role::Honest {
            let layout =
                ChunkLayout::new(u64::from(self.scenario.chunks) * u64::from(CHUNK), CHUNK).expect("64 KiB chunks");
            let have = ChunkSet::new(self.scenario.chunks);
            let seed = self.scenario.seed.wrapping_mul(1000) + agent as u64;
            self.nodes[agent].download = Some(Download::new(Config::default(), layout, have, seed, self.instant()));
        }
        self.download(agent, |_, _| {});
        self.tell_petal(agent, PetalEvent::Join(agent));
        self.after(REPORT_EVERY, Event::Report(agent));
    }

    fn die(&mut self, agent: usize) {
        self.nodes[agent].alive = false;
        self.nodes[agent].download = None;
        for receiver in std::mem::take(&mut self.nodes[agent].receivers) {
            self.after(NOTICE, Event::PeerGone { agent: receiver, peer: agent });
        }
        self.after(NOTICE, Event::AtPetal(PetalEvent::Gone(agent)));
    }

    fn report(&mut self, agent: usize) {
        if !self.nodes[agent].alive {
            return;
        }
        let chunks = std::mem::take(&mut self.nodes[agent].unreported);
        if !chunks.is_empty() {
            self.tell_petal(agent, PetalEvent::Haves(agent, chunks));
        }
        if self.nodes[agent].finished.is_none() {
            self.after(REPORT_EVERY, Event::Report(agent));
        }
    }

    fn tell_petal(&mut self, agent: usize, event: PetalEvent) {
        if self.scenario.petal {
            self.outcome.petal_messages += 1;
            self.after(self.latency(agent), Event::AtPetal(event));
        }
    }

    fn told(&mut self, agent: usize, action: PetalAction) {
        match action {
            PetalAction::Share { chunks, .. } => {
                self.download(agent, |download, now| download.handle_share(now, chunks))
            }
            PetalAction::Introduce { peers, .. } => {
                for peer in peers.into_iter().map(number) {
                    let handshake = self.between(agent, Source::Peer(id(peer))) * 3;
                    self.after(handshake, Event::Connected { agent, peer });
                }
            }
            PetalAction::Depart { peer, .. } => {
                self.download(agent, |download, now| download.handle_peer_gone(now, peer))
            }
        }
    }

    fn connected(&mut self, agent: usize, peer: usize) {
        if !self.nodes[agent].alive || self.nodes[agent].finished.is_some() {
            return;
        }
        if !self.nodes[peer].alive {
            return self.tell_petal(agent, PetalEvent::Complain(agent, peer, Complaint::Unreachable));
        }
        let have = match &self.nodes[peer].download {
            Some(download) => download.held().clone(),
            None => ChunkSet::full(self.scenario.chunks),
        };
        self.nodes[peer].receivers.insert(agent);
        self.download(agent, |download, now| download.handle_peer_connected(now, id(peer), have));
    }

    fn arrived(&mut self, agent: usize, from: Source, chunk: u32, corrupt: bool) {
        let index = ChunkIndex::new(chunk);
        let Some(download) = &self.nodes[agent].download else { return };
        let is_new = !download.held().contains(index);
        if corrupt {
            if let Source::Peer(peer) = from {
                *self.outcome.corrupt.entry((agent, number(peer))).or_default() += 1;
            }
            return self.download(agent, |download, now| download.handle_corrupt(now, from, index));
        }
        if is_new {
            self.nodes[agent].unreported.push(chunk);
            for receiver in self.nodes[agent].receivers.clone() {
                let delay = self.latency(agent) + self.latency(receiver);
                self.after(delay, Event::PeerHas { agent: receiver, peer: agent, chunk });
            }
        }
        self.download(agent, |download, now| download.handle_chunk(now, from, index));
    }

    /// Lets something happen to a download, then does what it wants.
    fn download(&mut self, agent: usize, happens: impl FnOnce(&mut Download, Instant)) {
        let now = self.instant();
        let Some(download) = &mut self.nodes[agent].download else { return };
        happens(download, now);
        let mut actions = Vec::new();
        while let Some(action) = download.poll_action(now) {
            actions.push(action);
        }
        let timeout = download.poll_timeout().map(|time| time.saturating_duration_since(self.epoch));
        actions.into_iter().for_each(|action| self.act(agent, action));
        if let Some(time) = timeout
            && self.nodes[agent].wake_at.is_none_or(|earlier| time < earlier)
        {
            self.nodes[agent].wake_at = Some(time);
            self.at(time.max(self.now), Event::Wake(agent));
        }
    }

    fn act(&mut self, agent: usize, action: Action) {
        match action {
            Action::Request { source, chunk } => {
                self.after(self.between(agent, source), Event::Asked { sender: source, by: agent, chunk: chunk.get() });
            }
            Action::Cancel { source, chunk } => {
                self.after(
                    self.between(agent, source),
                    Event::Cancelled { sender: source, by: agent, chunk: chunk.get() },
                );
            }
            Action::Drop { peer, reason } => {
                self.nodes[number(peer)].receivers.remove(&agent);
                let complaint = match reason {
                    DropReason::Corrupt => Complaint::Corrupt,
                    DropReason::Protocol => Complaint::Protocol,
                    DropReason::Stalled => Complaint::Stalled,
                    DropReason::TooMany => return,
                };
                self.tell_petal(agent, PetalEvent::Complain(agent, number(peer), complaint));
            }
            Action::EdgeUnreachable { .. } => {}
            Action::Done => self.nodes[agent].finished = Some(self.now),
        }
    }

    // ---- senders ----

    fn asked(&mut self, sender: Source, by: usize, chunk: u32) {
        match sender {
            Source::Edge if self.scenario.edge_away.iter().any(|(from, to)| (*from..*to).contains(&self.now)) => {
                return self.after(self.latency(by), Event::Failed { agent: by, from: sender, chunk });
            }
            Source::Peer(peer) if !self.nodes[number(peer)].alive => return,
            Source::Peer(peer) if self.scenario.agents[number(peer)].role == Role::Mute => return,
            Source::Edge | Source::Peer(_) => {}
        }
        let uplink = self.uplinks.entry(sender).or_default();
        uplink.queues.entry(by).or_default().push_back(chunk);
        if uplink.sending.is_none() {
            self.send_next(sender);
        }
    }

    fn send_next(&mut self, sender: Source) {
        let rate = match sender {
            Source::Edge => self.scenario.edge_up,
            Source::Peer(peer) => self.scenario.agents[number(peer)].up,
        };
        if self.uplinks.entry(sender).or_default().next().is_some() {
            self.after(Duration::from_secs_f64(f64::from(CHUNK) / rate), Event::Sent(sender));
        }
    }

    fn sent(&mut self, sender: Source) {
        let Some((agent, chunk)) = self.uplinks.entry(sender).or_default().sending.take() else { return };
        self.send_next(sender);
        if let Source::Peer(peer) = sender
            && !self.nodes[number(peer)].alive
        {
            return;
        }
        self.outcome.edge_chunks += u64::from(sender == Source::Edge);
        let receiving = Duration::from_secs_f64(f64::from(CHUNK) / self.scenario.agents[agent].down);
        let at = (self.now + self.between(agent, sender)).max(self.nodes[agent].down_free + receiving);
        self.nodes[agent].down_free = at;
        let corrupt = matches!(sender, Source::Peer(peer) if self.scenario.agents[number(peer)].role == Role::Liar);
        self.at(at, Event::Arrived { agent, from: sender, chunk, corrupt });
    }

    // ---- the petal ----

    fn at_petal(&mut self, event: PetalEvent) {
        let now = self.instant();
        match event {
            PetalEvent::Join(agent) => {
                let chunks = self.scenario.chunks;
                let download = self.nodes[agent].download.as_ref();
                let have = download.map_or_else(|| ChunkSet::full(chunks), |download| download.held().clone());
                let wants = download.is_some();
                self.petal
                    .handle_join(now, id(agent), VERSION, chunks, have, wants, Locality::default())
                    .expect("a sensible join");
            }
            PetalEvent::Haves(agent, chunks) => self.petal.handle_have(now, id(agent), VERSION, &chunks),
            PetalEvent::Complain(agent, about, complaint) => {
                self.petal.handle_complaint(now, id(agent), id(about), VERSION, complaint);
            }
            PetalEvent::Gone(agent) => self.petal.handle_gone(now, id(agent)),
            PetalEvent::Wake => {
                self.petal_wake = None;
                self.petal.handle_timeout(now);
            }
        }
        while let Some(action) = self.petal.poll_action() {
            let (PetalAction::Share { agent: to, .. }
            | PetalAction::Introduce { to, .. }
            | PetalAction::Depart { to, .. }) = &action;
            let to = number(*to);
            self.outcome.petal_messages += 1;
            self.after(self.latency(to), Event::Told(to, action));
        }
        let timeout = self.petal.poll_timeout().map(|time| time.saturating_duration_since(self.epoch));
        if let Some(time) = timeout
            && self.petal_wake.is_none_or(|earlier| time < earlier)
        {
            self.petal_wake = Some(time);
            self.at(time.max(self.now), Event::AtPetal(PetalEvent::Wake));
        }
    }
}
