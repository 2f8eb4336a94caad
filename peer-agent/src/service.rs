//! The background service: an agent behind a local HTTP API on a unix socket that only its owner can open.
//!
//! | route | answer |
//! |---|---|
//! | `POST /v1/content` with a [`GetRequest`] as JSON | the content, in order, as it arrives; `umbel-download` names the download |
//! | `GET /v1/downloads/{id}` | its [`Progress`] |
//! | `GET /v1/downloads/{id}/progress` | its progress as it changes, one JSON object a line, until it ends |
//! | `GET /v1/status` | [`crate::Status`] |
//! | `POST /v1/flush` | drops all cached content that is not in use |
//! | `POST /v1/receipts/flush` | reports all receipts to an edge |

use std::{
    collections::VecDeque,
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Path as PathPart, State as Extracted},
    response::{AppendHeaders, IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use tokio::{net::UnixListener, sync::watch};
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    agent::{Agent, GetError, GetRequest, StartError},
    config::{Config, socket_in},
    problem::Problem,
    progress::{Progress, State},
};

/// Names the version in the response to a request for content: its manifest.
pub(crate) const VERSION_FIELD: &str = "umbel-version";
/// Names the download in the response to a request for content.
pub const DOWNLOAD_FIELD: &str = "umbel-download";
/// Longest request that is read, in bytes.
const MAX_REQUEST: usize = 64 * 1024;
/// Downloads whose progress can be asked for.
const REMEMBERED: usize = 256;

/// Why the service does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The agent.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The socket.
    #[error("local API at {path}")]
    Socket {
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What `POST /v1/content` takes: a [`GetRequest`], and where to go on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Wanted {
    #[serde(flatten)]
    pub(crate) request: GetRequest,
    /// Bytes that are left out at the beginning.
    #[serde(default)]
    pub(crate) from: u64,
    /// The only version that will do, by its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
}

impl Wanted {
    /// Whether any version will do, and what is not one as well.
    pub(crate) fn is_from_the_start(&self) -> bool {
        self.from == 0 && self.version.is_none()
    }
}

#[derive(Clone)]
struct Api {
    agent: Arc<Agent>,
    downloads: Arc<Downloads>,
    /// Cancelled when those who still read have had their time.
    over: CancellationToken,
}

/// A download as programs may ask for it.
#[derive(Clone)]
struct Known {
    progress: watch::Receiver<Progress>,
    /// Why its content broke off.
    broke: Arc<OnceLock<Problem>>,
}

#[derive(Default)]
struct Downloads {
    count: AtomicU64,
    recent: Mutex<VecDeque<(u64, Known)>>,
}

impl Known {
    fn now(&self) -> Progress {
        let progress = self.progress.borrow().clone();
        match self.broke.get() {
            Some(problem) => Progress { state: State::Failed(problem.clone()), ..progress },
            None => progress,
        }
    }
}

impl Downloads {
    fn remember(&self, known: Known) -> u64 {
        let id = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == REMEMBERED {
            recent.pop_front();
        }
        recent.push_back((id, known));
        id
    }

    fn find(&self, id: u64) -> Option<Known> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().find(|(other, _)| *other == id).map(|(_, known)| known.clone())
    }
}

/// Runs until `shutdown`; then leaves, reports receipts and ends every task.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ServiceError> {
    let state = config.state.clone();
    // The state folder's lock comes first: whoever holds it owns the socket.
    let agent = Arc::new(Agent::start(config).await?);
    let socket = listen(&state)
        .map_err(|source| ServiceError::Socket { path: socket_in(&state).display().to_string(), source })?;
    info!(agent = hex::encode(&agent_id(&agent)[..5]), socket = %socket_in(&state).display(), "agent runs");
    serve(agent.clone(), socket, shutdown).await;
    // A socket that nobody listens on would only confuse.
    let _gone = std::fs::remove_file(socket_in(&state));
    if let Some(agent) = Arc::into_inner(agent) {
        agent.close().await;
    }
    Ok(())
}

fn agent_id(agent: &Agent) -> Vec<u8> {
    hex::decode(agent.status().agent).unwrap_or_else(|_| vec![0; 32])
}

fn listen(state: &Path) -> io::Result<UnixListener> {
    let path = socket_in(state);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn serve(agent: Arc<Agent>, socket: UnixListener, shutdown: CancellationToken) {
    let over = CancellationToken::new();
    let app = app(Api { agent, downloads: Arc::default(), over: over.clone() });
    let stop = shutdown.clone();
    let serving = axum::serve(socket, app).with_graceful_shutdown(async move { stop.cancelled().await });
    let mut serving = std::pin::pin!(serving.into_future());
    tokio::select! {
        ended = &mut serving => if let Err(error) = ended { tracing::error!(%error, "local API ended") },
        () = async { shutdown.cancelled().await; tokio::time::sleep(DRAIN).await } => {
            over.cancel();
            let _in_time = tokio::time::timeout(DRAIN, serving).await;
        }
    }
}

/// Running local requests may take this long to finish when the service stops.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(1);

fn app(api: Api) -> Router {
    Router::new()
        .route("/v1/content", post(content))
        .route("/v1/downloads/{id}", get(progress))
        .route("/v1/downloads/{id}/progress", get(follow))
        .route("/v1/status", get(status))
        .route("/v1/flush", post(flush))
        .route("/v1/receipts/flush", post(flush_receipts))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(api)
}

async fn content(Extracted(api): Extracted<Api>, Json(wanted): Json<Wanted>) -> Response {
    let download = match api.agent.get_part(&wanted).await {
        Ok(download) => download,
        Err(error) => return problem(&error),
    };
    let known = Known { progress: download.progress(), broke: Arc::default() };
    let id = api.downloads.remember(known.clone());
    let head = [
        (header::CONTENT_TYPE, Some(download.media_type().to_owned())),
        (header::CONTENT_LENGTH, download.length().map(|length| length.saturating_sub(wanted.from).to_string())),
        (header::HeaderName::from_static(VERSION_FIELD), download.manifest_id()),
        (header::HeaderName::from_static(DOWNLOAD_FIELD), Some(id.to_string())),
    ];
    let head = head.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let broken = move |error: GetError| {
        // The first is the one that counts.
        let _said = known.broke.set(Problem::from(&error));
        error
    };
    let over = api.over.clone();
    let end = async move { over.is_cancelled().then(|| Err(GetError::Failed(Problem::closing()))) };
    let content = download.into_stream_from(wanted.from).take_until(api.over.cancelled_owned());
    // An error: the reader learns that it broke off, whether or not its length was announced.
    let content = content.chain(futures::stream::once(end).filter_map(std::future::ready)).map_err(broken);
    (AppendHeaders(head), Body::from_stream(content)).into_response()
}

async fn progress(Extracted(api): Extracted<Api>, PathPart(id): PathPart<u64>) -> Response {
    match api.downloads.find(id) {
        Some(known) => Json(known.now()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn follow(Extracted(api): Extracted<Api>, PathPart(id): PathPart<u64>) -> Response {
    let Some(known) = api.downloads.find(id) else { return StatusCode::NOT_FOUND.into_response() };
    // The last line is the one that says how it ended.
    let lines =
        WatchStream::new(known.progress).take_until(api.over.cancelled_owned()).scan(false, |ended, progress| {
            let line = (!*ended).then(|| line(&progress));
            *ended = progress.state != State::Running;
            futures::future::ready(line)
        });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines.map(Ok::<_, io::Error>))).into_response()
}

fn line(progress: &Progress) -> Bytes {
    let mut line = serde_json::to_vec(progress).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

async fn status(Extracted(api): Extracted<Api>) -> Response {
    Json(api.agent.status()).into_response()
}

async fn flush(Extracted(api): Extracted<Api>) -> Response {
    match api.agent.flush().await {
        Ok(versions) => Json(Flushed { versions }).into_response(),
        Err(error) => problem(&error.into()),
    }
}

/// What `POST /v1/flush` did.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Flushed {
    pub(crate) versions: usize,
}

async fn flush_receipts(Extracted(api): Extracted<Api>) -> Response {
    Json(Reported { left: api.agent.flush_receipts().await }).into_response()
}

/// What `POST /v1/receipts/flush` did.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reported {
    pub(crate) left: usize,
}

fn problem(error: &GetError) -> Response {
    let problem = Problem::from(error);
    (status_of(&problem.code), Json(problem)).into_response()
}

/// HTTP status of the local API.
fn status_of(code: &str) -> StatusCode {
    match code {
        "bad_request" => StatusCode::BAD_REQUEST,
        "unreachable" | "unverified" => StatusCode::BAD_GATEWAY,
        "membership" | "forbidden" => StatusCode::FORBIDDEN,
        "grant_missing" => StatusCode::UNAUTHORIZED,
        "not_found" => StatusCode::NOT_FOUND,
        "storage" => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
