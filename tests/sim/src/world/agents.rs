//! What happens at peers: the shell around a download, as `peer-agent` has it.

use std::time::{Duration, Instant};

use umbel_content::{ChunkIndex, ChunkLayout, ChunkSet};
use umbel_swarm::{Action, AgentId, Complaint, Download, DropReason, FailReason, PetalAction};

use super::{Event, NOTICE, PetalEvent, Place, World, id, number};
use crate::outcome::Fate;
use crate::screen::Screen;
use crate::spec::Role;

/// Agents tell the home edge what they got this often.
const REPORT_EVERY: Duration = Duration::from_millis(200);
/// A connection that cannot be made is given up after this time.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Opening a version at another edge takes so many ways there and back.
const OPEN_TRIPS: u32 = 6;

impl World {
    pub(super) fn start(&mut self, agent: u32) {
        let role = self.role(agent);
        let node = &mut self.nodes[agent as usize];
        node.alive = true;
        if role == Role::Honest {
            self.start_download(agent);
        } else {
            node.full = true;
        }
        if self.scenario.together {
            self.join(agent);
            self.after(REPORT_EVERY, Event::Report(agent));
        }
    }

    fn start_download(&mut self, agent: u32) {
        let (chunks, size) = (self.chunks(agent), self.scenario.chunk_size);
        let layout = ChunkLayout::new(u64::from(chunks) * u64::from(size), size).expect("scenarios have legal layouts");
        let seed = self.scenario.seed.wrapping_mul(1_000_003).wrapping_add(u64::from(agent));
        let mut download =
            Box::new(Download::new(self.scenario.config.clone(), layout, ChunkSet::new(chunks), seed, self.instant()));
        if !self.scenario.together {
            download.handle_alone(self.instant());
        }
        self.nodes[agent as usize].download = Some(download);
        if let Some(reader) = self.scenario.peers[agent as usize].reader.clone() {
            let screen = Screen::new(reader, chunks, size, self.now);
            let window = screen.window();
            self.nodes[agent as usize].screen = Some(Box::new(screen));
            return self.download(agent, |download, now| download.handle_want(now, window));
        }
        self.download(agent, |_, _| {});
    }

    pub(super) fn leave(&mut self, agent: u32) {
        let node = &mut self.nodes[agent as usize];
        if !node.alive {
            return;
        }
        node.alive = false;
        node.log = Vec::new();
        let receivers = std::mem::take(&mut node.receivers);
        if let Some(screen) = node.screen.take() {
            self.outcome.peers[agent as usize].watched = Some(screen.watched);
        }
        if let Some(download) = self.nodes[agent as usize].download.take() {
            self.outcome.peers[agent as usize].count(&download.progress());
            self.ended(agent, Fate::Left);
        }
        for receiver in receivers {
            self.after(NOTICE, Event::PeerGone { agent: receiver, peer: agent });
        }
        self.tell_petal(agent, NOTICE, PetalEvent::Gone(agent));
    }

    pub(super) fn wake(&mut self, agent: u32) {
        self.nodes[agent as usize].wake_at = None;
        let now = self.instant();
        let Some(download) = &self.nodes[agent as usize].download else { return };
        match download.poll_timeout() {
            Some(time) if time > now => self.wake_later(agent, Some(time)),
            Some(_) | None => self.download(agent, Download::handle_timeout),
        }
    }

    fn wake_later(&mut self, agent: u32, time: Option<Instant>) {
        let Some(time) = time.map(|time| time.saturating_duration_since(self.epoch).max(self.now)) else { return };
        let node = &mut self.nodes[agent as usize];
        if node.wake_at.is_none_or(|earlier| time < earlier) {
            node.wake_at = Some(time);
            self.at(time, Event::Wake(agent));
        }
    }

    /// Lets something happen to a download, then does what it wants.
    pub(super) fn download(&mut self, agent: u32, happens: impl FnOnce(&mut Download, Instant)) {
        let now = self.instant();
        let Some(download) = &mut self.nodes[agent as usize].download else { return };
        happens(download, now);
        let mut actions = std::mem::take(&mut self.actions);
        while let Some(action) = download.poll_action(now) {
            actions.push(action);
        }
        let timeout = download.poll_timeout();
        self.wake_later(agent, timeout);
        actions.drain(..).for_each(|action| self.act(agent, action));
        self.actions = actions;
    }

    fn act(&mut self, agent: u32, action: Action) {
        match action {
            Action::Request { source, chunk } => {
                let sender = self.place(agent, source);
                self.outcome.requests += 1;
                self.after(self.between(agent, sender), Event::Asked { sender, by: agent, chunk: chunk.get() });
            }
            Action::Cancel { source, chunk } => {
                let sender = self.place(agent, source);
                self.after(self.between(agent, sender), Event::Cancelled { sender, by: agent, chunk: chunk.get() });
            }
            Action::Drop { peer, reason } => self.drop_peer(agent, peer, reason),
            Action::EdgeUnreachable { .. } => {
                self.after(self.latency(agent) * OPEN_TRIPS, Event::OtherEdge { agent });
            }
            Action::Done => self.done(agent),
        }
    }

    fn drop_peer(&mut self, agent: u32, peer: AgentId, reason: DropReason) {
        let peer = number(peer);
        self.nodes[peer as usize].receivers.retain(|receiver| *receiver != agent);
        match reason {
            DropReason::Corrupt => self.complain(agent, peer, Complaint::Corrupt),
            DropReason::Protocol => self.complain(agent, peer, Complaint::Protocol),
            DropReason::Stalled => self.complain(agent, peer, Complaint::Stalled),
            DropReason::TooMany => {}
        }
    }

    fn done(&mut self, agent: u32) {
        self.announce(agent);
        self.send_report(agent);
        let node = &mut self.nodes[agent as usize];
        let Some(download) = node.download.take() else { return };
        assert!(download.held().is_full(), "done means that every chunk is here");
        node.full = true;
        self.outcome.peers[agent as usize].count(&download.progress());
        let started = self.scenario.peers[agent as usize].start;
        self.ended(agent, Fate::Done(self.now - started));
    }

    pub(super) fn complain(&mut self, agent: u32, about: u32, complaint: Complaint) {
        if self.nodes[agent as usize].download.is_some() {
            self.tell_petal(agent, self.latency(agent), PetalEvent::Complain(agent, about, complaint));
        }
    }

    pub(super) fn report(&mut self, agent: u32) {
        if !self.nodes[agent as usize].alive || self.nodes[agent as usize].full {
            return;
        }
        self.send_report(agent);
        self.after(REPORT_EVERY, Event::Report(agent));
    }

    fn send_report(&mut self, agent: u32) {
        let node = &mut self.nodes[agent as usize];
        let news = node.log[node.reported as usize..].to_vec();
        node.reported = node.log.len() as u32;
        if !news.is_empty() {
            self.tell_petal(agent, self.latency(agent), PetalEvent::Haves(agent, news));
        }
    }

    pub(super) fn told(&mut self, agent: u32, action: PetalAction) {
        match action {
            PetalAction::Share { chunks, .. } => {
                self.download(agent, |download, now| download.handle_share(now, chunks));
            }
            PetalAction::Introduce { peers, .. } => {
                peers.into_iter().map(number).for_each(|peer| self.dial(agent, peer));
            }
            PetalAction::Depart { peer, .. } => {
                self.download(agent, |download, now| download.handle_peer_gone(now, peer));
            }
        }
    }

    fn dial(&mut self, agent: u32, peer: u32) {
        let (ours, theirs) = (self.scenario.peers[agent as usize].nat, self.scenario.peers[peer as usize].nat);
        if !ours.reaches(theirs) || self.is_parted(agent, peer) || !self.nodes[peer as usize].alive {
            return self.after(DIAL_TIMEOUT, Event::NotConnected { agent, peer });
        }
        let handshake = self.between(agent, Place::Peer(peer)) * 3;
        self.after(handshake, Event::Connected { agent, peer });
    }

    pub(super) fn connected(&mut self, agent: u32, peer: u32) {
        if self.nodes[agent as usize].download.is_none() {
            return;
        }
        if !self.nodes[peer as usize].alive {
            return self.complain(agent, peer, Complaint::Unreachable);
        }
        let have = self.held(peer);
        let sender = &mut self.nodes[peer as usize];
        if !sender.receivers.contains(&agent) {
            sender.receivers.push(agent);
        }
        self.outcome.between_peers += 2;
        self.download(agent, |download, now| download.handle_peer_connected(now, id(peer), have));
    }

    /// What a peer says that it holds.
    pub(super) fn held(&self, agent: u32) -> ChunkSet {
        match &self.nodes[agent as usize].download {
            Some(download) => download.held().clone(),
            None => ChunkSet::full(self.chunks(agent)),
        }
    }

    /// Tells receivers what is new.
    pub(super) fn announce(&mut self, agent: u32) {
        let node = &mut self.nodes[agent as usize];
        node.announcing = false;
        let (from, to) = (node.announced, node.log.len() as u32);
        node.announced = to;
        if from == to {
            return;
        }
        let receivers = std::mem::take(&mut self.nodes[agent as usize].receivers);
        for receiver in &receivers {
            self.outcome.between_peers += 1;
            if self.nodes[*receiver as usize].download.is_some() {
                let delay = self.between(*receiver, Place::Peer(agent));
                self.after(delay, Event::PeerHas { agent: *receiver, peer: agent, from, to });
            }
        }
        self.nodes[agent as usize].receivers = receivers;
    }

    pub(super) fn peer_has(&mut self, agent: u32, peer: u32, from: u32, to: u32) {
        if self.is_parted(agent, peer) {
            return;
        }
        let log = std::mem::take(&mut self.nodes[peer as usize].log);
        if let Some(added) = log.get(from as usize..to as usize) {
            self.download(agent, |download, now| download.handle_have(now, id(peer), added));
        }
        self.nodes[peer as usize].log = log;
    }

    pub(super) fn arrived(&mut self, agent: u32, from: Place, chunk: u32, corrupt: bool) {
        let source = source(from);
        let index = ChunkIndex::new(chunk);
        let node = &mut self.nodes[agent as usize];
        let Some(download) = &node.download else { return };
        if corrupt {
            if let Place::Peer(peer) = from {
                *self.outcome.corrupt.entry((agent, peer)).or_default() += 1;
            }
            return self.download(agent, |download, now| download.handle_corrupt(now, source, index));
        }
        if !download.held().contains(index) {
            node.log.push(chunk);
            if !std::mem::replace(&mut node.announcing, true) {
                self.after(self.scenario.announce_every, Event::Announce(agent));
            }
        }
        self.download(agent, |download, now| download.handle_chunk(now, source, index));
        if self.nodes[agent as usize].screen.as_ref().is_some_and(|screen| screen.is_waiting()) {
            self.play(agent);
        }
    }

    pub(super) fn receiving(&mut self, agent: u32, from: Place, chunk: u32, until: Duration) {
        let source = source(from);
        if let Some(download) = &mut self.nodes[agent as usize].download {
            download.handle_receiving(self.epoch + self.now, source, ChunkIndex::new(chunk));
            self.receive_on(agent, from, chunk, until);
        }
    }

    pub(super) fn failed(&mut self, agent: u32, from: Place, chunk: u32) {
        if self.place(agent, source(from)) == from {
            self.download(agent, |download, now| {
                download.handle_failed(now, source(from), ChunkIndex::new(chunk), FailReason::Error);
            });
        }
    }

    /// The access edge is dead; the next one that is not stands in.
    pub(super) fn other_edge(&mut self, agent: u32) {
        let (edges, before) = (self.edges.len() as u16, self.nodes[agent as usize].edge);
        let next = (1..=edges).map(|step| (before + step) % edges).find(|edge| !self.edge_is_away(*edge));
        if let Some(next) = next.filter(|_| self.edge_is_away(before)) {
            self.nodes[agent as usize].edge = next;
            self.download(agent, Download::handle_edge_changed);
        }
    }

    /// The reader is due to see the next chunk.
    pub(super) fn play(&mut self, agent: u32) {
        let node = &mut self.nodes[agent as usize];
        let Some(screen) = &mut node.screen else { return };
        let held = node.download.as_ref().map(|download| download.held());
        let next = screen.play(self.now, |chunk| held.is_none_or(|held| held.contains(ChunkIndex::new(chunk))));
        let window = screen.window();
        if let Some(chunk_time) = next {
            self.after(chunk_time, Event::Play(agent));
        }
        self.download(agent, |download, now| download.handle_want(now, window));
    }
}

fn source(place: Place) -> umbel_swarm::Source {
    match place {
        Place::Edge(_) => umbel_swarm::Source::Edge,
        Place::Peer(peer) => umbel_swarm::Source::Peer(id(peer)),
    }
}
