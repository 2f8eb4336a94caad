//! The shell around the swarm's plan: does what it asks for, and tells it what came of it. One per version being fetched.
//!
//! A chunk's way: asked from an edge (`edge.rs`) or a peer (`peer.rs`), verified here, written and credited by the store, and
//! only then reported to the plan, offered to peers and given to readers.

mod links;
mod redial;
mod report;

use std::{
    collections::HashMap,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use umbel_content::{ChunkIndex, ChunkSet, Manifest};
use umbel_service::unix_now;
use umbel_swarm::{Action, Config as SwarmConfig, Download as Plan, DropReason, FailReason, Source};
use umbel_wire::agent::{FromAgent, complaint::Reason, from_agent::Message as Errand, from_edge::Message as News};

use crate::{
    agent::Shared,
    edge::{Edge, EdgeError},
    open::{self, OpenError, Opened, Target},
    peer::{LinkCommand, LinkEvent, LinkId},
    presence::Wish,
    problem::Problem,
    progress::{Progress, State},
    store::{Arrival, Lease, StoreError, TicketText},
};
use links::Links;
use report::Tally;

/// Results that wait for the plan.
const EVENT_QUEUE: usize = 256;
const TICK: Duration = Duration::from_millis(250);
/// A download that got nothing at all for this long, from anyone, is given up.
const GIVE_UP: Duration = Duration::from_secs(300);
/// How long links may take to hand over their last receipts.
const FAREWELL: Duration = Duration::from_secs(2);
/// At most once in this time is a version opened again because the edge does not know it.
const OPEN_AGAIN: Duration = Duration::from_secs(1);
/// The ticket for chunks from edges is replaced this long before it expires, in seconds: accounts of old ones are forgotten.
const TICKET_MARGIN: u64 = 60;
/// How long the last chunks' writes are waited for when nobody waits for the download any more.
const LAST_WRITES: Duration = Duration::from_secs(2);

/// A fetch that runs while anyone holds it.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) progress: watch::Receiver<Progress>,
    want: watch::Sender<Range<u32>>,
    _until_dropped: tokio_util::sync::DropGuard,
}

impl Fetch {
    /// A streaming reader needs these chunks next.
    pub(crate) fn want(&self, chunks: Range<u32>) {
        self.want.send_replace(chunks);
    }
}

/// Where a petal's news come from.
pub(crate) struct Petal {
    pub(crate) news: mpsc::Receiver<News>,
    pub(crate) alone: watch::Receiver<bool>,
    pub(crate) wants: watch::Sender<Wish>,
}

/// Starts fetching what is missing. `petal`: none where this site or this agent shares with nobody.
pub(crate) fn start(shared: &Arc<Shared>, target: Target, opened: Opened, lease: Lease, petal: Option<Petal>) -> Fetch {
    let stop = shared.stop.child_token();
    let (want, wanted) = watch::channel(0..0);
    let (publish, progress) =
        watch::channel(Progress { total: lease.0.manifest.layout().length(), ..Progress::default() });
    let shell = Shell::new(shared.clone(), target, opened, lease, publish, stop.clone());
    shared.tasks.spawn(shell.run(petal, wanted));
    Fetch { progress, want, _until_dropped: stop.drop_guard() }
}

/// What came of something that the shell set going.
enum Event {
    /// Some of a chunk has come from an edge.
    Receiving(ChunkIndex),
    EdgeFailed(ChunkIndex, EdgeError),
    Corrupt(Source, ChunkIndex),
    Stored(Source, ChunkIndex, Result<bool, StoreError>),
    Reopened(Box<Result<Opened, OpenError>>),
}

struct Shell {
    shared: Arc<Shared>,
    target: Target,
    lease: Lease,
    manifest: Arc<Manifest>,
    edge: Edge,
    ticket: Arc<TicketText>,
    plan: Plan,
    links: Links,
    /// Requests to the edge that can still be called off.
    asked: HashMap<ChunkIndex, CancellationToken>,
    reopening: bool,
    /// When the version was last opened again.
    opened_again: Option<Instant>,
    events: mpsc::Sender<Event>,
    inbox: mpsc::Receiver<Event>,
    tasks: JoinSet<()>,
    publish: watch::Sender<Progress>,
    tally: Tally,
    last_arrival: Instant,
    stop: CancellationToken,
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Shell {
    fn new(
        shared: Arc<Shared>,
        target: Target,
        opened: Opened,
        lease: Lease,
        publish: watch::Sender<Progress>,
        stop: CancellationToken,
    ) -> Self {
        let manifest = Arc::new(opened.manifest);
        let held = lease.0.held().as_ref().clone();
        let plan = Plan::new(SwarmConfig::default(), manifest.layout(), held, rand::random(), now());
        let (events, inbox) = mpsc::channel(EVENT_QUEUE);
        Self {
            links: Links::new(shared.clone(), manifest.clone()),
            edge: opened.edge,
            ticket: opened.ticket,
            asked: HashMap::new(),
            reopening: false,
            opened_again: None,
            tasks: JoinSet::new(),
            last_arrival: now(),
            shared,
            target,
            lease,
            manifest,
            plan,
            events,
            inbox,
            publish,
            tally: Tally::default(),
            stop,
        }
    }

    async fn run(mut self, petal: Option<Petal>, wanted: watch::Receiver<Range<u32>>) {
        let (mut petal, wants) = match petal {
            Some(petal) => (Some((petal.news, petal.alone)), Some(petal.wants)),
            None => {
                self.plan.handle_alone(now());
                (None, None)
            }
        };
        let outcome = self.work(&mut petal, wanted).await;
        if let Some(wants) = wants {
            // Our room closes with this, which tells it from that of a fetch that has begun meanwhile.
            drop(petal);
            self.shared.edges.unsubscribe(&self.lease.0.id, || {
                wants.send_modify(|wish| wish.open = false);
            });
        }
        let state = match outcome {
            Ok(()) => State::Complete,
            Err(problem) => State::Failed(problem),
        };
        self.report(state);
        debug!(version = %self.lease.0.id, progress = ?self.plan.progress(), sources = ?self.plan.sources().collect::<Vec<_>>(), "download ended");
        self.tasks.abort_all();
        let goodbye = self.links.farewell();
        // Receipts that do not get through this way are reported to an edge all the same.
        let _in_time = tokio::time::timeout(FAREWELL, goodbye).await;
    }

    /// Until every chunk is here.
    async fn work(
        &mut self,
        petal: &mut Option<(mpsc::Receiver<News>, watch::Receiver<bool>)>,
        mut wanted: watch::Receiver<Range<u32>>,
    ) -> Result<(), Problem> {
        let mut tick = tokio::time::interval(TICK);
        let stop = self.stop.clone();
        loop {
            if self.act()? {
                return Ok(());
            }
            let timeout = self.plan.poll_timeout();
            tokio::select! {
                () = stop.cancelled() => {
                    let last = tokio::time::timeout(LAST_WRITES, self.given_up()).await;
                    return last.unwrap_or_else(|_| Err(Problem::closing()));
                }
                Some(event) = self.inbox.recv() => self.handle(event)?,
                (id, event) = self.links.next() => self.handle_link(id, event),
                news = next_news(petal) => self.handle_news(petal, news),
                Ok(()) = wanted.changed() => {
                    let window = wanted.borrow_and_update().clone();
                    self.plan.handle_want(now(), window);
                }
                () = sleep_until(timeout) => self.plan.handle_timeout(now()),
                _ = tick.tick() => self.tick()?,
            }
            while self.tasks.try_join_next().is_some() {}
        }
    }

    /// Nobody waits any more: perhaps because the last reader has read the last chunk before its arrival was counted.
    async fn given_up(&mut self) -> Result<(), Problem> {
        while self.lease.0.held().is_full() {
            if self.act()? {
                return Ok(());
            }
            match self.inbox.recv().await {
                Some(event) => self.handle(event)?,
                None => break,
            }
        }
        // Or the agent is closing: then someone does wait.
        Err(Problem::closing())
    }

    /// Does what the plan asks for. True when it is done.
    fn act(&mut self) -> Result<bool, Problem> {
        while let Some(action) = self.plan.poll_action(now()) {
            match action {
                Action::Request { source: Source::Edge, chunk } => self.ask_edge(chunk),
                Action::Request { source: Source::Peer(peer), chunk } => {
                    // Over its ticket's limit, or our queue is full: not its fault, so nobody hears of it.
                    if !self.links.command(peer.as_bytes(), LinkCommand::Request(chunk)) {
                        debug!(%peer, %chunk, "cannot ask for more; hanging up");
                        self.links.remove(peer.as_bytes());
                        self.plan.handle_peer_gone(now(), peer);
                    }
                }
                Action::Cancel { source: Source::Edge, chunk } => {
                    if let Some(asked) = self.asked.remove(&chunk) {
                        asked.cancel();
                    }
                }
                Action::Cancel { source: Source::Peer(peer), chunk } => {
                    self.links.command(peer.as_bytes(), LinkCommand::Cancel(chunk));
                }
                Action::Drop { peer, reason } => self.drop_peer(peer.as_bytes(), reason),
                Action::EdgeUnreachable { failures } => self.reopen(failures),
                Action::Done => return Ok(true),
            }
        }
        Ok(false)
    }

    fn ask_edge(&mut self, chunk: ChunkIndex) {
        let (edge, manifest, throttle) =
            (self.edge.clone(), self.manifest.clone(), self.shared.download_throttle.clone());
        let (asked, events) = (CancellationToken::new(), self.events.clone());
        self.asked.insert(chunk, asked.clone());
        let store = self.storing(Source::Edge, chunk, self.ticket.clone());
        self.tasks.spawn(async move {
            let length = manifest.layout().sealed_len(chunk).unwrap_or_default() as usize;
            let progress = events.clone();
            let id = manifest.id();
            let fetching =
                edge.chunk(&id, chunk, length, &throttle, || drop(progress.try_send(Event::Receiving(chunk))));
            let fetched = tokio::select! { () = asked.cancelled() => return, fetched = fetching => fetched };
            match fetched {
                Ok(sealed) => store(sealed).await,
                Err(error) => drop(events.send(Event::EdgeFailed(chunk, error)).await),
            }
        });
    }

    /// What is done with a chunk that came: verified, written, reported. Not called off any more.
    fn storing(
        &self,
        source: Source,
        chunk: ChunkIndex,
        ticket: Arc<TicketText>,
    ) -> impl FnOnce(Bytes) -> Storing + use<> {
        let (version, store, events) = (self.lease.0.clone(), self.shared.store.clone(), self.events.clone());
        move |sealed| {
            Box::pin(async move {
                if version.manifest.verify_chunk(chunk, &sealed).is_err() {
                    return drop(events.send(Event::Corrupt(source, chunk)).await);
                }
                let outcome = store.write(Arrival { version, chunk, sealed, ticket }).await;
                drop(events.send(Event::Stored(source, chunk, outcome)).await);
            })
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Problem> {
        match event {
            Event::Receiving(chunk) => {
                self.last_arrival = now();
                self.plan.handle_receiving(now(), Source::Edge, chunk);
            }
            Event::EdgeFailed(chunk, error) => {
                debug!(%chunk, %error, "edge failed");
                self.asked.remove(&chunk);
                self.plan.handle_failed(now(), Source::Edge, chunk, FailReason::Error);
                if matches!(error, EdgeError::NotFound(_)) {
                    self.open_again();
                }
            }
            Event::Corrupt(source, chunk) => {
                warn!(?source, %chunk, version = %self.lease.0.id, "a chunk does not match the manifest");
                self.plan.handle_corrupt(now(), source, chunk);
            }
            Event::Stored(source, chunk, outcome) => self.stored(source, chunk, outcome)?,
            Event::Reopened(outcome) => self.reopened(*outcome)?,
        }
        Ok(())
    }

    fn stored(&mut self, source: Source, chunk: ChunkIndex, outcome: Result<bool, StoreError>) -> Result<(), Problem> {
        let new = outcome?;
        self.last_arrival = now();
        self.asked.remove(&chunk);
        self.plan.handle_chunk(now(), source, chunk);
        if let Source::Peer(peer) = source {
            self.links.progressed(peer.as_bytes());
        }
        let bytes = u64::from(self.manifest.layout().plain_len(chunk).unwrap_or_default());
        let sealed = u64::from(self.manifest.layout().sealed_len(chunk).unwrap_or_default());
        self.tally.delivered((self.name(source), source != Source::Edge), sealed);
        if new {
            self.tally.count(source, bytes);
            self.shared.traffic.count(source, bytes);
        }
        Ok(())
    }

    fn handle_link(&mut self, id: LinkId, event: LinkEvent) {
        let Some(ticket) = self.links.ticket(id) else { return };
        let (peer, at) = (id.peer.into(), now());
        match event {
            LinkEvent::Connected(have) => {
                debug!(%peer, ?have, "peer connected");
                self.plan.handle_peer_connected(at, peer, have);
            }
            LinkEvent::Have(added) => self.plan.handle_have(at, peer, &added),
            LinkEvent::Receiving(chunk) => {
                self.last_arrival = at;
                self.plan.handle_receiving(at, Source::Peer(peer), chunk);
            }
            LinkEvent::Chunk(chunk, sealed) => {
                let storing = self.storing(Source::Peer(peer), chunk, ticket)(sealed);
                self.tasks.spawn(storing);
            }
            LinkEvent::Lack(chunk) => self.plan.handle_failed(at, Source::Peer(peer), chunk, FailReason::Lack),
            LinkEvent::Ended(error) => {
                debug!(%peer, %error, "link ended");
                self.plan.handle_peer_gone(at, peer);
                if let Some(reason) = self.links.ended(&id.peer, &error) {
                    self.complain(&id.peer, reason);
                }
            }
        }
    }

    fn handle_news(&mut self, petal: &mut Option<(mpsc::Receiver<News>, watch::Receiver<bool>)>, news: PetalNews) {
        match news {
            PetalNews::Said(News::Share(share)) => {
                let bitmap = share.chunks.unwrap_or_default().bitmap;
                match ChunkSet::from_bitmap(self.manifest.layout().chunks(), &bitmap) {
                    Ok(chunks) => self.plan.handle_share(now(), chunks),
                    Err(error) => warn!(%error, "the home edge sent a share that makes no sense"),
                }
            }
            PetalNews::Said(News::Introduction(introduction)) => self.links.meet(introduction.peers),
            PetalNews::Said(News::Departure(departure)) => {
                if let Ok(peer) = <[u8; 32]>::try_from(departure.peer.as_ref()) {
                    self.links.remove(&peer);
                    self.plan.handle_peer_gone(now(), peer.into());
                }
            }
            PetalNews::Said(News::Refusal(refusal)) => {
                debug!(reason = refusal.reason, "no petal");
                self.plan.handle_alone(now());
            }
            PetalNews::Said(_) => {}
            PetalNews::Alone => self.plan.handle_alone(now()),
            PetalNews::Over => *petal = None,
        }
    }

    fn drop_peer(&mut self, peer: &[u8; 32], reason: DropReason) {
        self.links.remove(peer);
        let reason = match reason {
            DropReason::Corrupt => Reason::CorruptChunk,
            DropReason::Protocol => Reason::Protocol,
            DropReason::Stalled => Reason::Stalled,
            DropReason::TooMany => return,
        };
        self.complain(peer, reason);
    }

    fn complain(&self, peer: &[u8; 32], reason: Reason) {
        let id = self.lease.0.id;
        let complaint = umbel_wire::agent::Complaint {
            manifest_id: Bytes::copy_from_slice(id.as_bytes()),
            peer: Bytes::copy_from_slice(peer),
            reason: reason.into(),
        };
        let message = FromAgent { message: Some(Errand::Complaint(complaint)) };
        let fleet = self.shared.edges.fleet();
        let places = fleet.meeting_places(&self.lease.0.site_id, &self.lease.0.home_edge);
        let home =
            places.iter().filter_map(|place| self.shared.edges.by_id(&place.id)).find(|edge| edge.current().is_some());
        if let Some(home) = home {
            home.mention(message);
        }
    }

    /// Another edge for the same version.
    fn reopen(&mut self, failures: u32) {
        if std::mem::replace(&mut self.reopening, true) {
            return;
        }
        warn!(edge = %self.edge.url, failures, "edge fails; trying another");
        self.spawn_open(Some(self.edge.url.to_string()));
    }

    /// The same version, anew: the edge knows nothing of it in this session, perhaps because the session is a new one; or its
    /// ticket ends.
    fn open_again(&mut self) {
        let just_done = self.opened_again.is_some_and(|at| now().saturating_duration_since(at) < OPEN_AGAIN);
        if just_done || std::mem::replace(&mut self.reopening, true) {
            return;
        }
        debug!(edge = %self.edge.url, "opening the version again");
        self.opened_again = Some(now());
        self.spawn_open(None);
    }

    fn spawn_open(&mut self, avoid: Option<String>) {
        let (shared, target, manifest) = (self.shared.clone(), self.target.clone(), self.manifest.clone());
        let events = self.events.clone();
        self.tasks.spawn(async move {
            let opened = open::open(&shared.edges, &shared.me, &target, Some(&manifest), false, avoid.as_deref()).await;
            drop(events.send(Event::Reopened(Box::new(opened))).await);
        });
    }

    fn reopened(&mut self, outcome: Result<Opened, OpenError>) -> Result<(), Problem> {
        self.reopening = false;
        match outcome {
            Ok(opened) if opened.manifest.id() == self.manifest.id() => {
                self.edge = opened.edge;
                self.ticket = opened.ticket;
                self.asked.drain().for_each(|(_, asked)| asked.cancel());
                self.plan.handle_edge_changed(now());
            }
            Ok(_) => warn!("another edge offers another version"),
            Err(error) if error.may_heal() => debug!(%error, "no other edge"),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), Problem> {
        self.report(State::Running);
        self.links.hand_over_receipts();
        if self.ticket.expires <= unix_now() + TICKET_MARGIN {
            self.open_again();
        }
        if now().saturating_duration_since(self.last_arrival) > GIVE_UP {
            return Err(self.why_nothing_comes());
        }
        Ok(())
    }
}

type Storing = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

enum PetalNews {
    Said(News),
    Alone,
    /// The petal's channels are closed.
    Over,
}

async fn next_news(petal: &mut Option<(mpsc::Receiver<News>, watch::Receiver<bool>)>) -> PetalNews {
    let Some((news, alone)) = petal else { return std::future::pending().await };
    loop {
        tokio::select! {
            said = news.recv() => return said.map_or(PetalNews::Over, PetalNews::Said),
            changed = alone.changed() => match changed {
                Ok(()) if *alone.borrow_and_update() => return PetalNews::Alone,
                Ok(()) => {}
                Err(_) => return PetalNews::Over,
            },
        }
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
