//! Content for a program on this machine: through the background service if one runs, and else through an agent of its own.

mod transfer;

use std::{fmt, path::Path, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, BodyStream, Full, Limited};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::de::DeserializeOwned;
use tokio::{net::UnixStream, sync::watch};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    agent::{GetError, GetRequest, StartError, Status},
    config::socket_in,
    problem::Problem,
    progress::{Progress, State},
    service::{DOWNLOAD_FIELD, Flushed, Reported, VERSION_FIELD, Wanted},
};

use transfer::{Part, carried};
pub use transfer::{Transfer, get};

/// Longest answer other than content, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;

/// What a body may have in flight on the socket, and the frames that it is cut into, in bytes.
const WINDOW: u32 = 4 << 20;
const FRAME: u32 = 256 << 10;

/// A background service on this machine: one connection, for as long as the service runs.
#[derive(Clone)]
pub struct LocalClient {
    requests: http2::SendRequest<Full<Bytes>>,
    _connection: Arc<AbortOnDropHandle<()>>,
}

impl fmt::Debug for LocalClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalClient").finish_non_exhaustive()
    }
}

impl LocalClient {
    /// The service of the agent in `state`; none if it does not run.
    pub async fn connect(state: &Path) -> Option<Self> {
        let stream = UnixStream::connect(socket_in(state)).await.ok()?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(WINDOW).initial_connection_window_size(2 * WINDOW).max_frame_size(FRAME);
        let (requests, connection) = builder.handshake(TokioIo::new(stream)).await.ok()?;
        // Its error shows up in the responses and their bodies.
        let connection = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
        Some(Self { requests, _connection: Arc::new(connection) })
    }

    /// How the agent is.
    pub async fn status(&self) -> Result<Status, GetError> {
        self.ask(Method::GET, "/v1/status").await
    }

    /// Drops all cached content that is not in use; how many versions went.
    pub async fn flush(&self) -> Result<usize, GetError> {
        self.ask::<Flushed>(Method::POST, "/v1/flush").await.map(|flushed| flushed.versions)
    }

    /// Reports all receipts to an edge; how many stay behind.
    pub async fn flush_receipts(&self) -> Result<usize, GetError> {
        self.ask::<Reported>(Method::POST, "/v1/receipts/flush").await.map(|reported| reported.left)
    }

    /// Opens `request` and starts to fetch it. The content breaks off if the service goes away; [`get`] goes on.
    pub async fn get(&self, request: &GetRequest) -> Result<Transfer, GetError> {
        let wanted = Wanted { request: request.clone(), from: 0, version: None };
        let publish = watch::Sender::new(Progress::default());
        let part = self.part(&wanted, &publish).await?;
        Ok(Transfer::new(None, wanted, publish, part))
    }

    async fn part(&self, wanted: &Wanted, publish: &watch::Sender<Progress>) -> Result<Part, GetError> {
        let body = serde_json::to_vec(wanted).map_err(|error| lost(&error))?;
        let response = self.send(Method::POST, "/v1/content", body).await?;
        let response = succeeded(response).await?;
        let text = |name: &str| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let (media_type, id) = (text(header::CONTENT_TYPE.as_str()), text(DOWNLOAD_FIELD));
        let rest: Option<u64> = text(header::CONTENT_LENGTH.as_str()).parse().ok();
        let version = Some(text(VERSION_FIELD)).filter(|version| !version.is_empty());
        let following = follow(self.clone(), id.clone(), publish.clone());
        let content = content(self.clone(), id, response.into_body()).boxed();
        let _following = AbortOnDropHandle::new(tokio::spawn(following));
        Ok(Part { media_type, length: rest.map(|rest| wanted.from + rest), version, content, _following, agent: None })
    }

    async fn ask<A: DeserializeOwned>(&self, method: Method, path: &str) -> Result<A, GetError> {
        let response = self.send(method, path, Vec::new()).await?;
        let body = collect(succeeded(response).await?).await?;
        serde_json::from_slice(&body).map_err(|error| lost(&error))
    }

    async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Response<Incoming>, GetError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://agent{path}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| lost(&error))?;
        self.requests.clone().send_request(request).await.map_err(|error| lost(&error))
    }
}

fn lost(error: &(dyn std::error::Error + 'static)) -> GetError {
    GetError::Lost(crate::chain(error))
}

async fn collect(response: Response<Incoming>) -> Result<Bytes, GetError> {
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| lost(error.as_ref()))
}

async fn succeeded(response: Response<Incoming>) -> Result<Response<Incoming>, GetError> {
    if response.status() == StatusCode::OK {
        return Ok(response);
    }
    let status = response.status();
    let problem = serde_json::from_slice(&collect(response).await?);
    Err(GetError::Remote(
        problem.unwrap_or_else(|_| Problem { code: "failed".into(), message: format!("status {status}") }),
    ))
}

/// The content; what went wrong, in the service's own words, if the body breaks off.
fn content(client: LocalClient, id: String, body: Incoming) -> impl Stream<Item = Result<Bytes, GetError>> + Send {
    stream::unfold((BodyStream::new(body), client, id, false), |(mut body, client, id, over)| async move {
        if over {
            return None;
        }
        let (item, over) = match body.next().await? {
            Ok(frame) => (Ok(frame.into_data().unwrap_or_default()), false),
            Err(error) => (Err(client.reason(&id, &error).await), true),
        };
        Some((item, (body, client, id, over)))
    })
}

impl LocalClient {
    async fn reason(&self, id: &str, error: &hyper::Error) -> GetError {
        match self.ask::<Progress>(Method::GET, &format!("/v1/downloads/{id}")).await {
            Ok(Progress { state: State::Failed(problem), .. }) => GetError::Failed(problem),
            Ok(_) | Err(_) => lost(error),
        }
    }
}

/// Passes the service's progress on; ends with the download.
async fn follow(client: LocalClient, id: String, publish: watch::Sender<Progress>) {
    let followed = client.send(Method::GET, &format!("/v1/downloads/{id}/progress"), Vec::new()).await;
    let Ok(response) = followed else { return };
    let mut body = BodyStream::new(response.into_body());
    let (mut text, before) = (Vec::new(), publish.borrow().clone());
    while let Some(Ok(frame)) = body.next().await {
        text.extend_from_slice(&frame.into_data().unwrap_or_default());
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            if let Ok(progress) = serde_json::from_slice(&line) {
                publish.send_replace(carried(&before, progress));
            }
        }
        if text.len() > MAX_ANSWER {
            return;
        }
    }
}

/// Why [`get`] failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No agent could be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The content could not be had.
    #[error(transparent)]
    Get(#[from] GetError),
}

impl FetchError {
    /// A word for programs: see [`Problem::code`]; `not_enrolled`, or else `not_started`, if there is no agent.
    pub fn code(&self) -> &str {
        match self {
            Self::Start(StartError::Identity(_)) => "not_enrolled",
            Self::Start(StartError::Store(_)) => "storage",
            Self::Start(StartError::Tls(_) | StartError::Endpoint(_)) => "not_started",
            Self::Get(error) => error.code(),
        }
    }
}

impl GetError {
    /// Whether it says nothing of the content: the service that was to bring it is gone, or goes.
    fn is_lost(&self) -> bool {
        match self {
            Self::Lost(_) => true,
            Self::Remote(problem) | Self::Failed(problem) => problem.is_closing(),
            Self::Open(_) | Self::Store(_) | Self::Decrypt(_) | Self::Save { .. } => false,
        }
    }
}
