//! What happens at home edges: the shell around a petal, as `edge` has it.

use std::time::Duration;

use rand::RngExt;
use umbel_swarm::PetalAction;

use super::{Event, NOTICE, PetalEvent, World, id, new_petal, number, version};

impl World {
    /// The home edge of this peer's version: the first in the version's order that is there.
    fn home(&self, agent: u32) -> Option<u16> {
        let edges = self.edges.len() as u16;
        let first = self.scenario.peers[agent as usize].object % edges;
        (0..edges).map(|step| (first + step) % edges).find(|edge| !self.edge_is_away(*edge))
    }

    /// Joins where its version's peers meet now.
    pub(super) fn join(&mut self, agent: u32) {
        if !self.nodes[agent as usize].alive {
            return;
        }
        self.nodes[agent as usize].home = self.home(agent);
        let have = self.held(agent);
        let wants = self.nodes[agent as usize].download.is_some();
        let node = &mut self.nodes[agent as usize];
        node.reported = node.log.len() as u32;
        self.tell_petal(agent, self.latency(agent), PetalEvent::Join { agent, have, wants });
    }

    pub(super) fn tell_petal(&mut self, agent: u32, delay: Duration, event: PetalEvent) {
        if let Some(home) = self.nodes[agent as usize].home {
            self.outcome.to_home += 1;
            self.after(delay, Event::AtPetal(home, Box::new(event)));
        }
    }

    pub(super) fn home_dies(&mut self, edge: u16) {
        let seed = self.rng.random();
        self.edges[edge as usize].petal = new_petal(&self.scenario.petal, seed);
        for agent in 0..self.nodes.len() as u32 {
            if self.nodes[agent as usize].home == Some(edge) {
                self.nodes[agent as usize].home = None;
                let pause = NOTICE + Duration::from_millis(self.rng.random_range(0..1000));
                self.after(pause, Event::Rejoin { agent });
            }
        }
    }

    pub(super) fn at_petal(&mut self, edge: u16, event: PetalEvent) {
        if self.edge_is_away(edge) {
            return;
        }
        let now = self.instant();
        let about = |agent: u32| (id(agent), version(self.scenario.peers[agent as usize].object));
        let petal = &mut self.edges[edge as usize].petal;
        match event {
            PetalEvent::Join { agent, have, wants } => {
                let (name, version) = about(agent);
                let locality = self.scenario.peers[agent as usize].locality;
                // Who is refused goes on alone.
                let _refused = petal.handle_join(now, name, version, have.len(), have, wants, locality);
            }
            PetalEvent::Haves(agent, chunks) => {
                let (name, version) = about(agent);
                petal.handle_have(now, name, version, &chunks);
            }
            PetalEvent::Complain(agent, other, complaint) => {
                let (name, version) = about(agent);
                petal.handle_complaint(now, name, id(other), version, complaint);
            }
            PetalEvent::Gone(agent) => petal.handle_gone(now, id(agent)),
        }
        self.after_petal(edge);
    }

    pub(super) fn petal_wake(&mut self, edge: u16) {
        let now = self.instant();
        self.edges[edge as usize].wake = None;
        self.edges[edge as usize].petal.handle_timeout(now);
        self.after_petal(edge);
    }

    /// Sends what the petal has to say, and comes back when it wants.
    fn after_petal(&mut self, edge: u16) {
        while let Some(action) = self.edges[edge as usize].petal.poll_action() {
            let (PetalAction::Share { agent: to, .. }
            | PetalAction::Introduce { to, .. }
            | PetalAction::Depart { to, .. }) = &action;
            let to = number(*to);
            self.outcome.from_home += 1;
            self.after(self.latency(to), Event::Told(to, Box::new(action)));
        }
        let node = &mut self.edges[edge as usize];
        let timeout = node.petal.poll_timeout().map(|time| time.saturating_duration_since(self.epoch).max(self.now));
        if let Some(time) = timeout.filter(|time| node.wake.is_none_or(|earlier| *time < earlier)) {
            node.wake = Some(time);
            self.at(time, Event::PetalWake(edge));
        }
    }
}
