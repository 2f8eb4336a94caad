//! What a pulled site has beside versions (short things, and those that are not for all): read from an edge as any HTTP reader
//! would, without a session. The edge meters it, so nothing of it is owed a receipt.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use umbel_service::client;
use umbel_swarm::Source;
use umbel_wire::carrier;

use crate::{
    agent::{GetError, Shared},
    edge::{Edge, EdgeError},
    open::Target,
    problem::Problem,
    progress::{Progress, SourceRow, State},
};

/// How long an edge may be silent in the middle of a body.
const SILENCE: Duration = Duration::from_secs(60);
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// As servers know this program.
const NAME: &str = concat!("umbel-agent/", env!("CARGO_PKG_VERSION"));

/// A body that comes in while it is read, no faster than that.
#[derive(Debug)]
pub(crate) struct OverHttps {
    head: HeaderMap,
    length: Option<u64>,
    progress: watch::Receiver<Progress>,
    body: Reading,
}

#[derive(Debug)]
struct Reading {
    edge: Edge,
    shared: Arc<Shared>,
    body: Incoming,
    publish: watch::Sender<Progress>,
    /// When progress was last told, and how much there was.
    told: (Instant, u64),
    received: u64,
}

/// Asks `edge` for what `target` names.
pub(crate) async fn begin(edge: &Edge, target: &Target, shared: &Arc<Shared>) -> Result<OverHttps, EdgeError> {
    let (head, body) = ask(edge, target).await?.into_parts();
    let length = text(&head.headers, &header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
    let (publish, progress) = watch::channel(Progress { total: length.unwrap_or(0), ..Progress::default() });
    let (edge, shared) = (edge.clone(), shared.clone());
    let body = Reading { edge, shared, body, publish, told: (Instant::now(), 0), received: 0 };
    Ok(OverHttps { head: head.headers, length, progress, body })
}

/// A grant is brought as it was given, and if that is not taken, otherwise: a site may take grants in some ways alone.
async fn ask(edge: &Edge, target: &Target) -> Result<Response<Incoming>, EdgeError> {
    let as_bearer = !target.grant_in_query();
    let response = attempt(edge, target, as_bearer).await?;
    if response.status() != StatusCode::UNAUTHORIZED || target.grant().is_none() {
        return checked(edge, response);
    }
    checked(edge, attempt(edge, target, !as_bearer).await?)
}

/// With the grant as bearer token, or in the query and as a cookie, which are the site's business in no case.
async fn attempt(edge: &Edge, target: &Target, as_bearer: bool) -> Result<Response<Incoming>, EdgeError> {
    let unusable = |error: http::Error| EdgeError::Refused(error.to_string());
    let mut path = target.path_and_query();
    let mut request = Request::get("/").header(header::HOST, target.authority()).header(header::USER_AGENT, NAME);
    if let Some(grant) = target.grant() {
        let pair = format!("{}={grant}", carrier::NAME);
        if as_bearer {
            request = request.header(header::AUTHORIZATION, format!("Bearer {grant}"));
        } else {
            request = request.header(header::COOKIE, &pair);
        }
        if !as_bearer && !target.grant_in_query() {
            let separator = if path.contains('?') { '&' } else { '?' };
            path = format!("{path}{separator}{pair}");
        }
    }
    let request = request.uri(client::join(&edge.url, &path).map_err(unusable)?);
    edge.read(request.body(Full::default()).map_err(unusable)?).await
}

fn checked(edge: &Edge, response: Response<Incoming>) -> Result<Response<Incoming>, EdgeError> {
    let status = response.status();
    let location = text(response.headers(), &header::LOCATION).unwrap_or("another URL").to_owned();
    Err(match status {
        StatusCode::OK => return Ok(response),
        StatusCode::UNAUTHORIZED => EdgeError::GrantMissing("give one with --grant, or in the URL".into()),
        StatusCode::FORBIDDEN => EdgeError::Forbidden(format!("the site answers {status}")),
        StatusCode::NOT_FOUND | StatusCode::GONE => EdgeError::NotFound(format!("the site answers {status}")),
        StatusCode::TOO_MANY_REQUESTS => edge.unreachable("it was asked too often; try again later"),
        _ if status.is_redirection() => EdgeError::Refused(format!("the site has moved this; get {location}")),
        _ if status.is_server_error() => {
            edge.unreachable(format!("the site's server does not answer as it should ({status}); try again later"))
        }
        _ => EdgeError::Refused(format!("the site answers {status}")),
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

impl OverHttps {
    pub(crate) fn media_type(&self) -> &str {
        text(&self.head, &header::CONTENT_TYPE).unwrap_or("application/octet-stream")
    }

    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    pub(crate) fn into_stream(self) -> BoxStream<'static, Result<Bytes, GetError>> {
        stream::unfold(Some(self.body), |reading| async move {
            let mut reading = reading?;
            match reading.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(reading))),
                Ok(None) => {
                    reading.tell(State::Complete);
                    None
                }
                Err(error) => {
                    let error = GetError::Open(error.into());
                    reading.tell(State::Failed(Problem::from(&error)));
                    Some((Err(error), None))
                }
            }
        })
        .boxed()
    }
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, EdgeError> {
        loop {
            let frame = timeout(SILENCE, self.body.frame()).await.map_err(|_| self.broken("silence"))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| self.broken(&crate::chain(&error)))?;
            let Ok(bytes) = frame.into_data() else { continue };
            self.shared.download_throttle.take(bytes.len()).await;
            self.received += bytes.len() as u64;
            self.shared.traffic.count(Source::Edge, bytes.len() as u64);
            if self.told.0.elapsed() >= TELL_EVERY {
                self.tell(State::Running);
            }
            return Ok(Some(bytes));
        }
    }

    fn broken(&self, why: &str) -> EdgeError {
        self.edge.unreachable(format!("what it sent broke off ({why}); run it again"))
    }

    fn tell(&mut self, state: State) {
        let (since, before) = std::mem::replace(&mut self.told, (Instant::now(), self.received));
        let seconds = since.elapsed().as_secs_f64().max(0.001);
        let speed = ((self.received - before) as f64 / seconds) as u64;
        let source =
            SourceRow { name: self.edge.url.to_string(), peer: false, bytes: self.received, rate: speed, in_flight: 0 };
        self.publish.send_modify(|progress| {
            let total = if state == State::Complete { self.received } else { progress.total };
            *progress = Progress {
                total,
                state,
                speed,
                from_edge: self.received,
                sources: vec![source],
                ..Progress::default()
            };
        });
    }
}
