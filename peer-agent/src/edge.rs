//! One edge: the session that shows who we are, the calls under it, and chunks by HTTPS.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};
use tonic::{Code, Status, transport::Channel};
use umbel_content::{ChunkIndex, ManifestId};
use umbel_service::client::{self, HttpClient, StreamClient};
use umbel_wire::{
    CHUNKS_PATH, MAX_MANIFEST_MESSAGE,
    agent::{FromAgent, OpenReply, OpenRequest, Receipt, ReportRequest, agents_client::AgentsClient},
};

use crate::limits::Throttle;

mod session;

pub(crate) use session::{Errand, keep_session};

/// A call that takes longer is tried elsewhere.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// An answer may have to come from the provider's own server.
const READER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a lost session is waited for before a refusal is believed.
const NEW_SESSION: Duration = Duration::from_millis(300);
/// How long a caller waits for a session that is being opened.
const SESSION_PATIENCE: Duration = Duration::from_secs(10);

/// Why an edge could not help.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EdgeError {
    /// Not reached, or it cannot answer now: another edge may do.
    #[error("edge {url} cannot be reached: {reason}")]
    Unreachable {
        /// Which.
        url: String,
        /// Why.
        reason: String,
    },
    /// The membership was refused.
    #[error("the edge refuses this agent: {0}")]
    Membership(String),
    /// A grant is missing.
    #[error("this content needs a grant: {0}")]
    GrantMissing(String),
    /// The grant was refused.
    #[error("no right to this content: {0}")]
    Forbidden(String),
    /// There is no such object.
    #[error("not found: {0}")]
    NotFound(String),
    /// The object has no version: it is to be had over HTTPS alone.
    #[error("{edge} has no version of this; get it over HTTPS, from the beginning")]
    Unshared {
        /// Who said so.
        edge: String,
    },
    /// The request makes no sense to the edge.
    #[error("the edge refuses the request: {0}")]
    Refused(String),
}

impl EdgeError {
    /// Whether another edge might answer differently.
    pub(crate) fn elsewhere(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// Where a session stands.
#[derive(Debug, Clone)]
pub(crate) enum SessionState {
    Connecting,
    Up(Session),
    Down(EdgeError),
}

/// What an edge said to whom it knows.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) edge_id: String,
    pub(crate) token: Arc<str>,
    /// Differs between sessions.
    pub(crate) number: u64,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("edge_id", &self.edge_id).field("number", &self.number).finish_non_exhaustive()
    }
}

/// The ways to an edge beside gRPC.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    /// All in one connection.
    chunks: HttpClient,
    /// Each on its own connection (HTTP/1.1): who does not read on keeps nobody waiting, and `Host` may be another than the edge's.
    readers: StreamClient<Full<Bytes>>,
}

impl Http {
    pub(crate) fn new(tls: ClientConfig) -> Self {
        Self { chunks: client::http(tls.clone()), readers: client::streaming(tls, false) }
    }
}

/// A handle on an edge; its session is kept by a task of its own.
#[derive(Debug, Clone)]
pub(crate) struct Edge {
    pub(crate) url: Arc<str>,
    channel: Channel,
    http: Http,
    state: watch::Receiver<SessionState>,
    /// What goes up the session's stream. Full: the edge does not read, and what waits is said again after reconnecting.
    errands: mpsc::Sender<FromAgent>,
}

impl Edge {
    pub(crate) fn new(
        url: &str,
        channel: Channel,
        http: Http,
        state: watch::Receiver<SessionState>,
        errands: mpsc::Sender<FromAgent>,
    ) -> Self {
        Self { url: url.into(), channel, http, state, errands }
    }

    /// The session, if there is one right now.
    pub(crate) fn current(&self) -> Option<Session> {
        match &*self.state.borrow() {
            SessionState::Up(session) => Some(session.clone()),
            SessionState::Connecting | SessionState::Down(_) => None,
        }
    }

    /// Whether the last attempt failed.
    pub(crate) fn is_down(&self) -> bool {
        matches!(&*self.state.borrow(), SessionState::Down(_))
    }

    /// The session, as soon as there is one; why not, as soon as that is known.
    pub(crate) async fn session(&self) -> Result<Session, EdgeError> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| !matches!(state, SessionState::Connecting));
        let settled =
            tokio::time::timeout(SESSION_PATIENCE, settled).await.map_err(|_| self.unreachable("no answer in time"))?;
        match &*settled.map_err(|_| self.unreachable("the agent is closing"))? {
            SessionState::Up(session) => Ok(session.clone()),
            SessionState::Down(error) => Err(error.clone()),
            SessionState::Connecting => Err(self.unreachable("no session")),
        }
    }

    /// A session other than `old`, which the edge does not know any more.
    async fn session_after(&self, old: u64) -> Result<Session, EdgeError> {
        let mut state = self.state.clone();
        let newer = state.wait_for(|state| matches!(state, SessionState::Up(session) if session.number != old));
        let came = tokio::time::timeout(SESSION_PATIENCE, newer).await.is_ok_and(|newer| newer.is_ok());
        if came { self.session().await } else { Err(self.unreachable("the session ended")) }
    }

    pub(crate) fn unreachable(&self, reason: impl Into<String>) -> EdgeError {
        EdgeError::Unreachable { url: self.url.to_string(), reason: reason.into() }
    }

    /// Sends something up the session's stream.
    pub(crate) async fn tell(&self, message: FromAgent) {
        // The session's task ends only when the agent closes.
        let _closing = self.errands.send(message).await;
    }

    /// As [`Edge::tell`], for what may get lost when the edge does not keep up.
    pub(crate) fn mention(&self, message: FromAgent) {
        if self.errands.try_send(message).is_err() {
            tracing::debug!(edge = %self.url, "session is busy");
        }
    }

    fn client(&self) -> AgentsClient<Channel> {
        AgentsClient::new(self.channel.clone()).max_decoding_message_size(MAX_MANIFEST_MESSAGE)
    }

    pub(crate) async fn open(&self, request: OpenRequest) -> Result<OpenReply, EdgeError> {
        let mut session = self.session().await?;
        for last in [false, true] {
            let call = authorized(request.clone(), &session)?;
            match tokio::time::timeout(CALL_TIMEOUT, self.client().open(call)).await {
                Ok(Ok(reply)) => return Ok(reply.into_inner()),
                Ok(Err(status)) if !last && status.code() == Code::Unauthenticated => {
                    // The session may have ended a moment ago; if not, it is the grant that is missing.
                    match tokio::time::timeout(NEW_SESSION, self.session_after(session.number)).await {
                        Ok(newer) => session = newer?,
                        Err(_) if self.current().is_some_and(|current| current.number == session.number) => {
                            return Err(self.refusal(&status));
                        }
                        Err(_) => return Err(self.unreachable("the session ended")),
                    }
                }
                Ok(Err(status)) => return Err(self.refusal(&status)),
                Err(_) => return Err(self.unreachable("no answer in time")),
            }
        }
        Err(self.unreachable("the session ended"))
    }

    fn refusal(&self, status: &Status) -> EdgeError {
        let message = status.message().to_owned();
        match status.code() {
            Code::Unauthenticated => EdgeError::GrantMissing(message),
            Code::PermissionDenied => EdgeError::Forbidden(message),
            Code::NotFound => EdgeError::NotFound(message),
            Code::FailedPrecondition => EdgeError::Unshared { edge: self.url.to_string() },
            Code::InvalidArgument | Code::OutOfRange => EdgeError::Refused(message),
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => self.unreachable(reason_of(status)),
        }
    }

    /// One refusal text for each receipt; empty: taken.
    pub(crate) async fn report(&self, receipts: Vec<Receipt>) -> Result<Vec<String>, EdgeError> {
        let session = self.session().await?;
        let call = authorized(ReportRequest { receipts }, &session)?;
        match tokio::time::timeout(CALL_TIMEOUT, self.client().report(call)).await {
            Ok(Ok(reply)) => Ok(reply.into_inner().refusals),
            Ok(Err(status)) => Err(self.refusal(&status)),
            Err(_) => Err(self.unreachable("no answer in time")),
        }
    }

    /// The ciphertext of one chunk, not verified. `length` is what the manifest says; `received` is called as bytes come.
    pub(crate) async fn chunk(
        &self,
        manifest: &ManifestId,
        chunk: ChunkIndex,
        length: usize,
        throttle: &Throttle,
        mut received: impl FnMut(),
    ) -> Result<Bytes, EdgeError> {
        let session = self.session().await?;
        let uri = client::join(&self.url, &format!("{CHUNKS_PATH}/{manifest}/{chunk}"))
            .map_err(|error| self.unreachable(error.to_string()))?;
        let request = Request::get(uri)
            .header(header::AUTHORIZATION, format!("Bearer {}", session.token))
            .body(Full::default())
            .map_err(|error| self.unreachable(error.to_string()))?;
        let response =
            self.http.chunks.request(request).await.map_err(|error| self.unreachable(crate::chain(&error)))?;
        if response.status() != StatusCode::OK {
            return Err(self.chunk_refusal(response.status(), &session).await);
        }
        let mut body = response.into_body();
        let mut sealed = BytesMut::with_capacity(length);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.unreachable(crate::chain(&error)))?;
            let Ok(data) = frame.into_data() else { continue };
            if sealed.len() + data.len() > length {
                return Err(self.unreachable("a chunk came longer than its manifest says"));
            }
            throttle.take(data.len()).await;
            sealed.extend_from_slice(&data);
            received();
        }
        Ok(sealed.freeze())
    }

    /// As any reader asks.
    pub(crate) async fn read(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, EdgeError> {
        let asking = self.http.readers.request(request);
        let asked =
            tokio::time::timeout(READER_TIMEOUT, asking).await.map_err(|_| self.unreachable("no answer in time"))?;
        asked.map_err(|error| self.unreachable(crate::chain(&error)))
    }

    async fn chunk_refusal(&self, status: StatusCode, session: &Session) -> EdgeError {
        if status == StatusCode::UNAUTHORIZED {
            // The chunk is asked for again; by then there should be a new session.
            let _renewed = tokio::time::timeout(Duration::from_secs(2), self.session_after(session.number)).await;
        }
        if status == StatusCode::NOT_FOUND {
            return EdgeError::NotFound("the edge does not know this version in this session".into());
        }
        self.unreachable(format!("status {status} for a chunk"))
    }
}

fn authorized<M>(message: M, session: &Session) -> Result<tonic::Request<M>, EdgeError> {
    let mut request = tonic::Request::new(message);
    let bearer =
        format!("Bearer {}", session.token).parse().map_err(|_| EdgeError::Refused("unusable session".into()))?;
    request.metadata_mut().insert("authorization", bearer);
    Ok(request)
}

fn reason_of(status: &Status) -> String {
    if status.message().is_empty() { status.code().description().to_owned() } else { status.message().to_owned() }
}
