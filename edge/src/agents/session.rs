//! A session: an agent's presence at this edge, from its proof of identity to the end of its stream.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::Rng;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};
use umbel_content::ManifestId;
use umbel_service::unix_now;
use umbel_wire::{
    agent::{FromAgent, FromEdge, Goodbye, Heartbeat, Welcome, from_agent, from_edge::Message},
    token::{AgentId, Membership},
};

use super::hello::{self, NotWelcome};
use crate::{core::Core, lookup::Version, petal};

/// For Hello and Proof together.
const HANDSHAKE: Duration = Duration::from_secs(10);

const HEARTBEAT: Duration = Duration::from_secs(10);

/// An agent that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(30);

/// Messages that wait for an agent. One that does not take them is dropped: it comes back and joins again.
const OUTBOX: usize = 512;

/// Versions whose chunks a session may fetch; the one that was used longest ago makes room.
const MAX_OPENED: usize = 1024;

/// An agent that is here.
#[derive(Debug)]
pub(crate) struct Session {
    /// Unique in this process.
    pub(crate) id: u64,
    pub(crate) agent: AgentId,
    pub(crate) trust_domain: String,
    pub(crate) remote: SocketAddr,
    outbox: mpsc::Sender<Result<FromEdge, Status>>,
    opened: Mutex<HashMap<ManifestId, (u64, Arc<Version>)>>,
    opens: AtomicU64,
    ended: CancellationToken,
}

impl Session {
    /// Says something to the agent, or ends the session if it does not listen.
    pub(crate) fn push(&self, message: Message) {
        if self.outbox.try_send(Ok(FromEdge { message: Some(message) })).is_err() {
            debug!(session = self.id, "an agent does not take its messages");
            self.ended.cancel();
        }
    }

    /// The session may fetch this version's chunks from now on.
    pub(crate) fn opened(&self, version: Arc<Version>) {
        let count = self.opens.fetch_add(1, Ordering::Relaxed);
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.insert(version.manifest.id(), (count, version));
        if opened.len() > MAX_OPENED {
            let oldest = opened.iter().min_by_key(|(_, (count, _))| *count).map(|(id, _)| *id);
            oldest.map(|id| opened.remove(&id));
        }
    }

    /// The version of this manifest, if the session opened it.
    pub(crate) fn version(&self, id: ManifestId) -> Option<Arc<Version>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let (used, version) = opened.get_mut(&id)?;
        *used = self.opens.fetch_add(1, Ordering::Relaxed);
        Some(version.clone())
    }
}

/// All agents that are here.
#[derive(Debug)]
pub(crate) struct Sessions {
    by_bearer: RwLock<HashMap<String, Arc<Session>>>,
    by_agent: Mutex<HashMap<AgentId, usize>>,
    free: Arc<Semaphore>,
    next: AtomicU64,
}

impl Sessions {
    /// At most `limit` at once.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            by_bearer: RwLock::default(),
            by_agent: Mutex::default(),
            free: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))),
            next: AtomicU64::new(1),
        }
    }

    /// The session that `bearer` belongs to.
    pub(crate) fn find(&self, bearer: &str) -> Option<Arc<Session>> {
        self.by_bearer.read().unwrap_or_else(PoisonError::into_inner).get(bearer).cloned()
    }

    /// Whether this agent has a session here.
    pub(crate) fn has(&self, agent: &AgentId) -> bool {
        self.by_agent.lock().unwrap_or_else(PoisonError::into_inner).contains_key(agent)
    }

    fn enter(&self, bearer: String, session: Arc<Session>) {
        *self.by_agent.lock().unwrap_or_else(PoisonError::into_inner).entry(session.agent).or_default() += 1;
        self.by_bearer.write().unwrap_or_else(PoisonError::into_inner).insert(bearer, session);
    }

    fn leave(&self, bearer: &str) {
        let left = self.by_bearer.write().unwrap_or_else(PoisonError::into_inner).remove(bearer);
        let mut by_agent = self.by_agent.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(session) = left else { return };
        if let Some(count) = by_agent.get_mut(&session.agent) {
            *count -= 1;
            if *count == 0 {
                by_agent.remove(&session.agent);
            }
        }
    }
}

/// Begins a session in a task of its own; returns what goes down its stream.
pub(super) fn serve(
    core: &Arc<Core>,
    remote: SocketAddr,
    inbox: Streaming<FromAgent>,
) -> Result<mpsc::Receiver<Result<FromEdge, Status>>, Status> {
    let permit = core.sessions.free.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Status::unavailable("this edge has as many sessions as it can take"))?;
    let (outbox, receiver) = mpsc::channel(OUTBOX);
    core.tasks.spawn(run(core.clone(), remote, inbox, outbox, permit));
    Ok(receiver)
}

async fn run(
    core: Arc<Core>,
    remote: SocketAddr,
    mut inbox: Streaming<FromAgent>,
    outbox: mpsc::Sender<Result<FromEdge, Status>>,
    _permit: OwnedSemaphorePermit,
) {
    let handshake = timeout(HANDSHAKE, hello::welcome(&core, &mut inbox, &outbox));
    let welcomed = tokio::select! {
        () = core.shutdown.cancelled() => return,
        welcomed = handshake => welcomed.unwrap_or(Err(NotWelcome::Protocol("Hello and Proof in time"))),
    };
    match welcomed {
        Ok(membership) => stay(&core, remote, inbox, outbox, membership).await,
        Err(reason) => {
            warn!(%remote, %reason, "session refused");
            core.metrics.refused(reason.kind());
            // The agent may be gone already.
            let _unheard = outbox.try_send(Err(reason.into()));
        }
    }
}

async fn stay(
    core: &Arc<Core>,
    remote: SocketAddr,
    inbox: Streaming<FromAgent>,
    outbox: mpsc::Sender<Result<FromEdge, Status>>,
    membership: Membership,
) {
    let session = Arc::new(Session {
        id: core.sessions.next.fetch_add(1, Ordering::Relaxed),
        agent: membership.agent,
        trust_domain: membership.trust_domain,
        remote,
        outbox,
        opened: Mutex::default(),
        opens: AtomicU64::new(0),
        ended: CancellationToken::new(),
    });
    let bearer = new_bearer();
    core.sessions.enter(bearer.clone(), session.clone());
    core.metrics.sessions.inc();
    info!(session = session.id, agent = %hex::encode(&session.agent[..5]), %remote, "agent came");
    session.push(Message::Welcome(Welcome {
        session: bearer.clone(),
        fleet: Some(core.view.load().fleet.clone()),
        observed_address: remote.to_string(),
    }));
    let reason = converse(core, &session, inbox, membership.expires).await;
    core.sessions.leave(&bearer);
    core.metrics.sessions.dec();
    info!(session = session.id, reason, "agent left");
    core.petal.gone(session).await;
}

/// 256 random bits.
fn new_bearer() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

/// Listens and talks until one side ends it; returns why.
async fn converse(
    core: &Arc<Core>,
    session: &Arc<Session>,
    mut inbox: Streaming<FromAgent>,
    expires: u64,
) -> &'static str {
    let mut changes = core.view.changes();
    // The membership may have been revoked since it was checked.
    changes.mark_changed();
    let mut fleet = core.view.load().fleet.clone();
    let mut beats = interval(HEARTBEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let expiry = Instant::now() + Duration::from_secs(expires.saturating_sub(unix_now()));
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            () = core.shutdown.cancelled() => return goodbye(session, false, "the edge is stopping"),
            () = session.ended.cancelled() => return "it did not take its messages",
            () = sleep_until(expiry) => return goodbye(session, false, "membership expired"),
            () = sleep_until(heard + SILENCE) => return goodbye(session, false, "silent for too long"),
            _ = beats.tick() => session.push(Message::Heartbeat(Heartbeat {})),
            _ = changes.changed() => {
                let view = core.view.load();
                if view.installation.revoked.contains(&session.agent) {
                    return goodbye(session, true, "membership revoked");
                }
                if view.fleet != fleet {
                    fleet.clone_from(&view.fleet);
                    session.push(Message::Fleet(fleet.clone()));
                }
            }
            message = inbox.message() => match message {
                Ok(Some(message)) => {
                    heard = Instant::now();
                    handle(core, session, message).await;
                }
                Ok(None) | Err(_) => return "the agent hung up",
            },
        }
    }
}

fn goodbye(session: &Session, revoked: bool, reason: &'static str) -> &'static str {
    session.push(Message::Goodbye(Goodbye { revoked, reason: reason.into() }));
    reason
}

async fn handle(core: &Arc<Core>, session: &Arc<Session>, message: FromAgent) {
    match message.message {
        Some(from_agent::Message::Join(join)) => petal::join::handle(core, session, join).await,
        Some(from_agent::Message::Have(have)) => core.petal.have(session, have).await,
        Some(from_agent::Message::Leave(leave)) => core.petal.leave(session, leave).await,
        Some(from_agent::Message::Complaint(complaint)) => core.petal.complaint(session, complaint).await,
        // A second Hello or Proof says nothing new.
        Some(from_agent::Message::Heartbeat(_) | from_agent::Message::Hello(_) | from_agent::Message::Proof(_))
        | None => {}
    }
}
