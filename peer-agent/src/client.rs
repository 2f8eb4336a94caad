//! Content for a program on this machine: through the background service if one runs, and else through an agent of its own.

use std::{path::Path, pin::Pin};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, BodyStream, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{net::UnixStream, sync::watch};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    agent::{self, Agent, GetError, GetRequest, StartError, Status},
    config::{Config, socket_in},
    progress::{Progress, State},
    service::{DOWNLOAD_FIELD, Flushed, Problem, Reported, classify},
};

/// Longest answer other than content, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;

/// A background service on this machine.
#[derive(Debug, Clone)]
pub struct LocalClient {
    state: std::path::PathBuf,
}

impl LocalClient {
    /// The service of the agent in `state`; none if it does not run.
    pub async fn connect(state: &Path) -> Option<Self> {
        UnixStream::connect(socket_in(state)).await.ok().map(|_| Self { state: state.to_owned() })
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

    /// Opens `request` and starts to fetch it.
    pub async fn get(&self, request: &GetRequest) -> Result<Transfer, GetError> {
        let body = serde_json::to_vec(request).map_err(|error| lost(&error))?;
        let (response, connection) = self.send(Method::POST, "/v1/content", body).await?;
        let response = succeeded(response).await?;
        let text = |name: &str| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let (media_type, id) = (text(header::CONTENT_TYPE.as_str()), text(DOWNLOAD_FIELD));
        let length = text(header::CONTENT_LENGTH.as_str()).parse().map_err(|error| lost(&error))?;
        let (publish, progress) = watch::channel(Progress { total: length, ..Progress::default() });
        let following = AbortOnDropHandle::new(tokio::spawn(follow(self.clone(), id.clone(), publish)));
        let content = content(self.clone(), id, response.into_body(), (connection, following));
        Ok(Transfer { media_type, length, progress, content: content.boxed(), agent: None })
    }

    async fn ask<A: DeserializeOwned>(&self, method: Method, path: &str) -> Result<A, GetError> {
        let (response, _connection) = self.send(method, path, Vec::new()).await?;
        let body = collect(succeeded(response).await?).await?;
        serde_json::from_slice(&body).map_err(|error| lost(&error))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), GetError> {
        let stream = UnixStream::connect(socket_in(&self.state)).await.map_err(|error| lost(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| lost(&error))?;
        // Its error shows up in the response or the body.
        let connection = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "agent")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| lost(&error))?;
        let response = sender.send_request(request).await.map_err(|error| lost(&error))?;
        Ok((response, connection))
    }
}

fn lost(error: &(dyn std::error::Error + 'static)) -> GetError {
    GetError::Remote(Problem { code: "failed".into(), message: format!("background service: {}", crate::chain(error)) })
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
fn content(
    client: LocalClient,
    id: String,
    body: Incoming,
    keep: (AbortOnDropHandle<()>, AbortOnDropHandle<()>),
) -> impl Stream<Item = Result<Bytes, GetError>> + Send {
    stream::unfold((BodyStream::new(body), keep, client, id, false), |(mut body, keep, client, id, over)| async move {
        if over {
            return None;
        }
        let (item, over) = match body.next().await? {
            Ok(frame) => (Ok(frame.into_data().unwrap_or_default()), false),
            Err(error) => (Err(client.reason(&id, &error).await), true),
        };
        Some((item, (body, keep, client, id, over)))
    })
}

impl LocalClient {
    async fn reason(&self, id: &str, error: &hyper::Error) -> GetError {
        match self.ask::<Progress>(Method::GET, &format!("/v1/downloads/{id}")).await {
            Ok(Progress { state: State::Failed(reason), .. }) => GetError::Failed(reason),
            Ok(_) | Err(_) => lost(error),
        }
    }
}

/// Passes the service's progress on; ends with the download.
async fn follow(client: LocalClient, id: String, publish: watch::Sender<Progress>) {
    let followed = client.send(Method::GET, &format!("/v1/downloads/{id}/progress"), Vec::new()).await;
    let Ok((response, _connection)) = followed else { return };
    let mut body = BodyStream::new(response.into_body());
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.next().await {
        text.extend_from_slice(&frame.into_data().unwrap_or_default());
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            if let Ok(progress) = serde_json::from_slice(&line) {
                publish.send_replace(progress);
            }
        }
        if text.len() > MAX_ANSWER {
            return;
        }
    }
}

/// Content on its way, from either kind of agent.
pub struct Transfer {
    media_type: String,
    length: u64,
    progress: watch::Receiver<Progress>,
    content: Pin<Box<dyn Stream<Item = Result<Bytes, GetError>> + Send>>,
    agent: Option<Agent>,
}

impl std::fmt::Debug for Transfer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transfer").field("length", &self.length).finish_non_exhaustive()
    }
}

/// Opens `request` through the background service of `config`'s state folder, or through an agent that lives as long as the
/// [`Transfer`].
pub async fn get(config: Config, request: GetRequest) -> Result<Transfer, FetchError> {
    if let Some(service) = LocalClient::connect(&config.state).await {
        return Ok(service.get(&request).await?);
    }
    let agent = Agent::start(Config { offer_held: false, ..config }).await?;
    let download = match agent.get(request).await {
        Ok(download) => download,
        Err(error) => {
            agent.close().await;
            return Err(error.into());
        }
    };
    let (media_type, length, progress) = (download.media_type().to_owned(), download.length(), download.progress());
    Ok(Transfer { media_type, length, progress, content: download.into_stream().boxed(), agent: Some(agent) })
}

impl Transfer {
    /// Content-Type.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// Bytes of the content.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Changes a few times per second, and when the download ends.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// The next bytes, in order; none at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, GetError>> {
        self.content.next().await
    }

    /// Saves the content as `path`, by way of `path.part`: the name appears when all is there. Call [`Transfer::close`] then.
    pub async fn save_to(&mut self, path: &Path) -> Result<(), GetError> {
        agent::save(&mut self.content, path).await
    }

    /// Ends the transfer; an agent of its own reports its receipts and stops.
    pub async fn close(self) {
        drop(self.content);
        if let Some(agent) = self.agent {
            agent.close().await;
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
    /// A word for programs: see [`Problem::code`]; `not_started` if there is no agent.
    pub fn code(&self) -> &str {
        match self {
            Self::Start(_) => "not_started",
            Self::Get(error) => error.code(),
        }
    }
}

impl GetError {
    /// A word for programs: see [`Problem::code`].
    pub fn code(&self) -> &str {
        if let Self::Remote(problem) = self { &problem.code } else { classify(self).1 }
    }
}
