//! Keeps a session open: hello, challenge, proof, welcome; then errands up and news down until the stream ends; then again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming, transport::Channel};
use tracing::{debug, info, warn};
use umbel_wire::{
    agent::{
        Challenge, FromAgent, FromEdge, Heartbeat, Hello, Proof, Welcome, agents_client::AgentsClient,
        from_agent::Message as Up, from_edge::Message as Down,
    },
    session,
};

use super::{EdgeError, Session, SessionState};
use crate::{fleet, identity::Identity};

const HEARTBEAT: Duration = Duration::from_secs(10);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Messages up that the edge has not read yet; the agent waits when there are more.
const UP_QUEUE: usize = 64;

static SESSIONS: AtomicU64 = AtomicU64::new(1);

/// Everything that one session's task needs.
pub(crate) struct Errand {
    pub(crate) url: Arc<str>,
    pub(crate) channel: Channel,
    pub(crate) identity: Identity,
    pub(crate) state: watch::Sender<SessionState>,
    pub(crate) errands: mpsc::Receiver<FromAgent>,
    /// News for downloads.
    pub(crate) news: mpsc::Sender<Down>,
    pub(crate) fleet: fleet::Known,
    pub(crate) stop: CancellationToken,
}

/// Why a session ended.
enum End {
    Closing,
    Revoked(String),
    Lost(EdgeError),
}

/// Runs until the agent closes or is revoked.
pub(crate) async fn keep_session(mut errand: Errand) {
    let mut pause = FIRST_PAUSE;
    loop {
        let stop = errand.stop.clone();
        let end = tokio::select! { () = stop.cancelled() => End::Closing, end = run(&mut errand) => end };
        let was_up = matches!(&*errand.state.borrow(), SessionState::Up(_));
        match end {
            End::Closing => return,
            End::Revoked(reason) => {
                warn!(edge = %errand.url, reason, "this agent's membership was revoked");
                errand.state.send_replace(SessionState::Down(EdgeError::Membership(reason)));
                // Stays: others hold on to this task's channels, and the pause below is as good an end as any.
                pause = LONGEST_PAUSE;
            }
            End::Lost(error) => {
                info!(edge = %errand.url, %error, "no session");
                errand.state.send_replace(SessionState::Down(error));
                pause = if was_up { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            }
        }
        let jittered = pause.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(jittered) => {} }
    }
}

async fn run(errand: &mut Errand) -> End {
    while errand.errands.try_recv().is_ok() {}
    let opened = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(errand)).await;
    let (up, mut down, welcome, edge_id) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return End::Lost(error),
        Err(_) => return End::Lost(unreachable(errand, "no answer in time")),
    };
    if let Some(fleet) = welcome.fleet {
        // Before the session counts as open: tickets are checked with the fleet's keys.
        errand.fleet.learn(fleet);
    }
    let number = SESSIONS.fetch_add(1, Ordering::Relaxed);
    debug!(edge = %errand.url, edge_id, observed = welcome.observed_address, "session");
    errand.state.send_replace(SessionState::Up(Session { edge_id, token: welcome.session.into(), number }));
    converse(errand, &up, &mut down).await
}

type Opened = (mpsc::Sender<FromAgent>, Streaming<FromEdge>, Welcome, String);

async fn handshake(errand: &Errand) -> Result<Opened, EdgeError> {
    let (up, queue) = mpsc::channel(UP_QUEUE);
    let hello = Hello { membership: errand.identity.enrolled().membership.clone() };
    // The queue is new and empty: this does not fail.
    let _sent = up.try_send(message(Up::Hello(hello)));
    let mut client = AgentsClient::new(errand.channel.clone());
    let answer = client.session(ReceiverStream::new(queue)).await;
    let mut down = answer.map_err(|status| refusal(errand, &status))?.into_inner();
    let first = next(errand, &mut down).await?;
    let Down::Challenge(challenge) = first else { return Err(out_of_turn(errand, first)) };
    let _sent = up.try_send(message(Up::Proof(proof(&errand.identity, &challenge))));
    let second = next(errand, &mut down).await?;
    let Down::Welcome(welcome) = second else { return Err(out_of_turn(errand, second)) };
    Ok((up, down, welcome, challenge.edge))
}

fn out_of_turn(errand: &Errand, message: Down) -> EdgeError {
    let Down::Goodbye(goodbye) = message else { return unreachable(errand, "it does not follow the protocol") };
    if goodbye.revoked { EdgeError::Membership(goodbye.reason) } else { unreachable(errand, &goodbye.reason) }
}

fn proof(identity: &Identity, challenge: &Challenge) -> Proof {
    let signature = session::prove(&identity.key(), &challenge.nonce, &challenge.edge);
    Proof { signature: signature.to_vec().into() }
}

async fn next(errand: &Errand, down: &mut Streaming<FromEdge>) -> Result<Down, EdgeError> {
    let received = down.message().await.map_err(|status| refusal(errand, &status))?;
    received.and_then(|received| received.message).ok_or_else(|| unreachable(errand, "it hung up"))
}

async fn converse(errand: &mut Errand, up: &mpsc::Sender<FromAgent>, down: &mut Streaming<FromEdge>) -> End {
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let outgoing = tokio::select! {
            received = down.message() => match handle(errand, received).await {
                Some(end) => return end,
                None => continue,
            },
            Some(message) = errand.errands.recv() => message,
            _ = heartbeat.tick() => message(Up::Heartbeat(Heartbeat {})),
        };
        if up.send(outgoing).await.is_err() {
            return End::Lost(unreachable(errand, "it hung up"));
        }
    }
}

async fn handle(errand: &Errand, received: Result<Option<FromEdge>, Status>) -> Option<End> {
    let message = match received {
        Ok(Some(FromEdge { message })) => message,
        Ok(None) => return Some(End::Lost(unreachable(errand, "it hung up"))),
        Err(status) => return Some(End::Lost(refusal(errand, &status))),
    };
    match message {
        Some(Down::Fleet(fleet)) => errand.fleet.learn(fleet),
        Some(Down::Goodbye(goodbye)) if goodbye.revoked => return Some(End::Revoked(goodbye.reason)),
        Some(Down::Goodbye(goodbye)) => return Some(End::Lost(unreachable(errand, &goodbye.reason))),
        Some(news @ (Down::Share(_) | Down::Introduction(_) | Down::Departure(_) | Down::Refusal(_))) => {
            drop(errand.news.send(news).await);
        }
        Some(Down::Heartbeat(_) | Down::Challenge(_) | Down::Welcome(_)) | None => {}
    }
    None
}

fn message(message: Up) -> FromAgent {
    FromAgent { message: Some(message) }
}

fn unreachable(errand: &Errand, reason: &str) -> EdgeError {
    EdgeError::Unreachable { url: errand.url.to_string(), reason: reason.to_owned() }
}

fn refusal(errand: &Errand, status: &Status) -> EdgeError {
    if matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied) {
        return EdgeError::Membership(status.message().to_owned());
    }
    unreachable(errand, &super::reason_of(status))
}
