//! What is under way between nodes: requests, answers, and what becomes of them when someone is not there.

use std::time::Duration;

use rand::RngExt;

use super::{Event, NOTICE, Place, World};
use crate::spec::Role;
use crate::uplink::Uplink;

/// A receiver hears this often that a long chunk is coming in.
const RECEIVING_EVERY: Duration = Duration::from_millis(500);

impl World {
    pub(super) fn uplink(&mut self, place: Place) -> &mut Uplink {
        match place {
            Place::Edge(edge) => &mut self.edges[edge as usize].uplink,
            Place::Peer(peer) => &mut self.nodes[peer as usize].uplink,
        }
    }

    pub(super) fn asked(&mut self, sender: Place, by: u32, chunk: u32) {
        match sender {
            Place::Edge(edge) if self.edge_is_away(edge) => {
                return self.after(self.latency(by), Event::Failed { agent: by, from: sender, chunk });
            }
            Place::Peer(peer) if !self.answers(peer, by) => return,
            Place::Edge(_) | Place::Peer(_) => {}
        }
        if self.uplink(sender).ask(by, chunk) {
            self.send_next(sender);
        }
    }

    fn answers(&self, peer: u32, by: u32) -> bool {
        self.nodes[peer as usize].alive && self.role(peer) != Role::Mute && !self.is_parted(peer, by)
    }

    fn sending_time(&self, sender: Place) -> Duration {
        let rate = match sender {
            Place::Edge(edge) => self.scenario.edges[edge as usize].up,
            Place::Peer(peer) => self.scenario.peers[peer as usize].up,
        };
        Duration::from_secs_f64(f64::from(self.scenario.chunk_size) / rate)
    }

    fn send_next(&mut self, sender: Place) {
        if let Some((agent, chunk)) = self.uplink(sender).begin() {
            let takes = self.sending_time(sender);
            self.after(takes, Event::Sent(sender));
            self.receive_on(agent, sender, chunk, self.now + takes);
        }
    }

    /// Bytes of a chunk come in until it is here.
    pub(super) fn receive_on(&mut self, agent: u32, from: Place, chunk: u32, until: Duration) {
        if self.now + RECEIVING_EVERY < until {
            self.after(RECEIVING_EVERY, Event::Receiving { agent, from, chunk, until });
        }
    }

    pub(super) fn sent(&mut self, sender: Place) {
        let Some((agent, chunk)) = self.uplink(sender).end() else { return };
        self.send_next(sender);
        match sender {
            Place::Edge(_) => self.outcome.edge_chunks += 1,
            Place::Peer(peer) if !self.answers(peer, agent) || self.gets_lost(peer) => return,
            Place::Peer(_) => self.outcome.peer_chunks += 1,
        }
        let corrupt = matches!(sender, Place::Peer(peer) if self.role(peer) == Role::Liar);
        let way = self.between(agent, sender) + self.held_up(sender);
        self.after(way, Event::Incoming { agent, from: sender, chunk, corrupt });
    }

    /// The last byte has reached the receiver's line, which takes in one chunk after the other.
    pub(super) fn incoming(&mut self, agent: u32, from: Place, chunk: u32, corrupt: bool) {
        let receiving = f64::from(self.scenario.chunk_size) / self.scenario.peers[agent as usize].down;
        let node = &mut self.nodes[agent as usize];
        node.down_free = self.now.max(node.down_free + Duration::from_secs_f64(receiving));
        if node.down_free == self.now {
            return self.arrived(agent, from, chunk, corrupt);
        }
        let free = node.down_free;
        self.at(free, Event::Arrived { agent, from, chunk, corrupt });
    }

    fn gets_lost(&mut self, peer: u32) -> bool {
        let ppm = self.scenario.peers[peer as usize].lost_ppm;
        ppm > 0 && self.rng.random_range(0..1_000_000) < ppm
    }

    /// A connection that carries less than its sender's line could brings each chunk later.
    fn held_up(&self, sender: Place) -> Duration {
        match sender {
            Place::Edge(_) => Duration::ZERO,
            Place::Peer(peer) => {
                let flow = self.scenario.peers[peer as usize].flow;
                let slowest = Duration::from_secs_f64(f64::from(self.scenario.chunk_size) / flow);
                slowest.saturating_sub(self.sending_time(sender))
            }
        }
    }

    /// Whoever waits for an answer from it hears that it is dead, and those who had joined there meet elsewhere.
    pub(super) fn edge_dies(&mut self, edge: u16) {
        for (agent, chunk) in self.edges[edge as usize].uplink.give_up() {
            self.after(NOTICE, Event::Failed { agent, from: Place::Edge(edge), chunk });
        }
        self.home_dies(edge);
    }
}
