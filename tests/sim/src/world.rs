//! The network in virtual time. Edges have real `Petal`s, peers real `Download`s; lines, delays and deaths are ours.
//!
//! Every node has an uplink that sends a chunk at a time and takes turns among receivers, a downlink that takes in one after the
//! other, and a way to the middle of the network. `agents.rs` is what happens at peers, `lines.rs` what is under way between
//! nodes, `homes.rs` what happens at home edges.

mod agents;
mod homes;
mod lines;

use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use umbel_content::{ChunkSet, ManifestId};
use umbel_swarm::{Action, AgentId, Complaint, Download, Petal, PetalAction, PetalConfig, Source};

use crate::outcome::{Fate, Outcome};
use crate::queue::Queue;
use crate::screen::Screen;
use crate::spec::{Role, Scenario};
use crate::uplink::Uplink;

/// How long a dead connection goes unnoticed.
const NOTICE: Duration = Duration::from_millis(500);
/// Memory of petals is measured this often, at most.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// And this often in all.
const MEASUREMENTS: u32 = 200;

/// A sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Edge(u16),
    Peer(u32),
}

#[derive(Debug)]
enum Event {
    Start(u32),
    Leave(u32),
    Wake(u32),
    Report(u32),
    Announce(u32),
    Play(u32),
    Told(u32, Box<PetalAction>),
    Connected { agent: u32, peer: u32 },
    NotConnected { agent: u32, peer: u32 },
    PeerHas { agent: u32, peer: u32, from: u32, to: u32 },
    PeerGone { agent: u32, peer: u32 },
    Incoming { agent: u32, from: Place, chunk: u32, corrupt: bool },
    Arrived { agent: u32, from: Place, chunk: u32, corrupt: bool },
    Receiving { agent: u32, from: Place, chunk: u32, until: Duration },
    Failed { agent: u32, from: Place, chunk: u32 },
    OtherEdge { agent: u32 },
    Rejoin { agent: u32 },
    Asked { sender: Place, by: u32, chunk: u32 },
    Cancelled { sender: Place, by: u32, chunk: u32 },
    Sent(Place),
    AtPetal(u16, Box<PetalEvent>),
    PetalWake(u16),
    EdgeDies(u16),
    Measure,
}

#[derive(Debug)]
enum PetalEvent {
    Join { agent: u32, have: ChunkSet, wants: bool },
    Haves(u32, Vec<u32>),
    Complain(u32, u32, Complaint),
    Gone(u32),
}

/// A peer as it is now.
#[derive(Debug, Default)]
struct Node {
    download: Option<Box<Download>>,
    alive: bool,
    /// Holds everything, or says so.
    full: bool,
    edge: u16,
    /// The edge where it has joined.
    home: Option<u16>,
    /// Who fetches from here and hears what is new.
    receivers: Vec<u32>,
    /// What came, in the order of coming; not kept once everything is here.
    log: Vec<u32>,
    /// So much of the log was said to the home edge, and to receivers.
    reported: u32,
    announced: u32,
    announcing: bool,
    wake_at: Option<Duration>,
    down_free: Duration,
    uplink: Uplink,
    screen: Option<Box<Screen>>,
}

/// An edge as it is now.
#[derive(Debug)]
struct EdgeNode {
    petal: Petal,
    wake: Option<Duration>,
    uplink: Uplink,
}

/// A network, about to run.
#[derive(Debug)]
pub(crate) struct World {
    scenario: Scenario,
    epoch: Instant,
    now: Duration,
    rng: ChaCha8Rng,
    queue: Queue<Event>,
    nodes: Vec<Node>,
    edges: Vec<EdgeNode>,
    outcome: Outcome,
    /// Honest peers that are here or to come and are not done.
    awaited: usize,
    /// For actions of one download, so that the memory is used again.
    actions: Vec<Action>,
}

/// Names are spread, so that their order says nothing.
fn id(agent: u32) -> AgentId {
    let mut key = [0; 32];
    let mixed = (u64::from(agent) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    key[..8].copy_from_slice(&(mixed ^ (mixed >> 29)).to_be_bytes());
    key[8..12].copy_from_slice(&agent.to_be_bytes());
    AgentId::new(key)
}

fn number(id: AgentId) -> u32 {
    let [.., a, b, c, d] = *id.as_bytes().first_chunk::<12>().unwrap_or(&[0; 12]);
    u32::from_be_bytes([a, b, c, d])
}

fn version(object: u16) -> ManifestId {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&object.to_be_bytes());
    ManifestId::from_bytes(bytes)
}

#[expect(clippy::disallowed_methods, reason = "some moment to count from; nothing depends on its value")]
fn epoch() -> Instant {
    Instant::now()
}

impl World {
    pub(crate) fn new(scenario: Scenario) -> Self {
        let edge =
            |seed: u64| EdgeNode { petal: new_petal(&scenario.petal, seed), wake: None, uplink: Uplink::default() };
        let mut world = Self {
            epoch: epoch(),
            now: Duration::ZERO,
            rng: ChaCha8Rng::seed_from_u64(scenario.seed),
            queue: Queue::new(),
            nodes: scenario.peers.iter().map(|peer| Node { edge: peer.edge, ..Node::default() }).collect(),
            edges: (0..scenario.edges.len() as u64).map(|number| edge(scenario.seed ^ (number << 32))).collect(),
            outcome: Outcome::new(&scenario),
            awaited: scenario.peers.iter().filter(|peer| peer.role == Role::Honest).count(),
            actions: Vec::new(),
            scenario,
        };
        world.arrange();
        world
    }

    /// Comings, goings and deaths.
    fn arrange(&mut self) {
        for agent in 0..self.nodes.len() as u32 {
            let peer = &self.scenario.peers[agent as usize];
            let (start, leaves) = (peer.start, peer.leaves);
            self.at(start, Event::Start(agent));
            if let Some(time) = leaves {
                self.at(time, Event::Leave(agent));
            }
        }
        for edge in 0..self.edges.len() as u16 {
            for away in self.scenario.edges[edge as usize].away.clone() {
                self.at(away.start, Event::EdgeDies(edge));
            }
        }
        self.after(self.measure_every(), Event::Measure);
    }

    /// Until every honest peer that is there has everything, or the scenario's end.
    pub(crate) fn run(mut self) -> Outcome {
        while self.awaited > 0 {
            let Some((at, event)) = self.queue.pop().filter(|(at, _)| *at <= self.scenario.until) else { break };
            self.now = at;
            self.outcome.events += 1;
            self.handle(event);
        }
        self.measure();
        self.into_outcome()
    }

    fn into_outcome(mut self) -> Outcome {
        self.outcome.ended = self.now;
        for (node, result) in self.nodes.iter_mut().zip(&mut self.outcome.peers) {
            if let Some(screen) = node.screen.take() {
                result.watched = Some(screen.watched);
            }
            if let Some(download) = &node.download {
                result.count(&download.progress());
            }
        }
        self.outcome
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.queue.push(at, event);
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.queue.push(self.now + delay, event);
    }

    fn instant(&self) -> Instant {
        self.epoch + self.now
    }

    fn latency(&self, agent: u32) -> Duration {
        self.scenario.peers[agent as usize].latency
    }

    /// One way. Edges are in the middle of the network.
    fn between(&self, agent: u32, place: Place) -> Duration {
        match place {
            Place::Edge(_) => self.latency(agent),
            Place::Peer(peer) => self.latency(agent) + self.latency(peer),
        }
    }

    fn place(&self, agent: u32, source: Source) -> Place {
        match source {
            Source::Edge => Place::Edge(self.nodes[agent as usize].edge),
            Source::Peer(peer) => Place::Peer(number(peer)),
        }
    }

    fn chunks(&self, agent: u32) -> u32 {
        self.scenario.objects[self.scenario.peers[agent as usize].object as usize]
    }

    fn role(&self, agent: u32) -> Role {
        self.scenario.peers[agent as usize].role
    }

    /// Do packets get from one to the other?
    fn is_parted(&self, one: u32, other: u32) -> bool {
        one % 2 != other % 2 && self.scenario.partitions.iter().any(|partition| partition.contains(&self.now))
    }

    fn edge_is_away(&self, edge: u16) -> bool {
        self.scenario.edges[edge as usize].is_away(self.now)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start(agent) => self.start(agent),
            Event::Leave(agent) => self.leave(agent),
            Event::Wake(agent) => self.wake(agent),
            Event::Report(agent) => self.report(agent),
            Event::Announce(agent) => self.announce(agent),
            Event::Play(agent) => self.play(agent),
            Event::Told(agent, action) => self.told(agent, *action),
            Event::Connected { agent, peer } => self.connected(agent, peer),
            Event::NotConnected { agent, peer } => self.complain(agent, peer, Complaint::Unreachable),
            Event::PeerHas { agent, peer, from, to } => self.peer_has(agent, peer, from, to),
            Event::PeerGone { agent, peer } => {
                self.download(agent, |download, now| download.handle_peer_gone(now, id(peer)));
            }
            Event::Incoming { agent, from, chunk, corrupt } => self.incoming(agent, from, chunk, corrupt),
            Event::Arrived { agent, from, chunk, corrupt } => self.arrived(agent, from, chunk, corrupt),
            Event::Receiving { agent, from, chunk, until } => self.receiving(agent, from, chunk, until),
            Event::Failed { agent, from, chunk } => self.failed(agent, from, chunk),
            Event::OtherEdge { agent } => self.other_edge(agent),
            Event::Rejoin { agent } => self.join(agent),
            Event::Asked { sender, by, chunk } => self.asked(sender, by, chunk),
            Event::Cancelled { sender, by, chunk } => self.uplink(sender).cancel(by, chunk),
            Event::Sent(sender) => self.sent(sender),
            Event::AtPetal(edge, event) => self.at_petal(edge, *event),
            Event::PetalWake(edge) => self.petal_wake(edge),
            Event::EdgeDies(edge) => self.edge_dies(edge),
            Event::Measure => {
                self.measure();
                self.after(self.measure_every(), Event::Measure);
            }
        }
    }

    fn measure_every(&self) -> Duration {
        // The first measurements are close together, later ones as far apart as the run is long.
        MEASURE_EVERY.max(self.now / MEASUREMENTS * 2)
    }

    /// How much the home edges keep, for how many.
    fn measure(&mut self) {
        let bytes: usize = self.edges.iter().map(|edge| edge.petal.memory()).sum();
        let members = self.edges.iter().map(|edge| edge.petal.memberships()).sum();
        self.outcome.measured(self.now, bytes, members, self.queue.len());
    }

    /// Nothing more comes of this peer.
    fn ended(&mut self, agent: u32, fate: Fate) {
        self.awaited -= 1;
        self.outcome.peers[agent as usize].fate = fate;
    }
}

fn new_petal(config: &PetalConfig, seed: u64) -> Petal {
    Petal::new(config.clone(), seed)
}
