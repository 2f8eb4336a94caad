//! The access log: a line for each request of a reader, when its answer has been handed to the connection.
//!
//! Lines wait in memory, in bounded space, for the one thread that writes them. If the disk cannot keep up, lines are dropped
//! and counted (`umbel_edge_access_log_dropped_total`); no answer ever waits for the log.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    mem,
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use axum::body::Body;
use http::{HeaderValue, Method, Response, Uri, Version, header, request::Parts};
use prometheus_client::metrics::counter::Counter;
use tracing::warn;
use umbel_service::listen::Connection;

mod body;
mod line;

use body::Logged;

/// Lines that wait take no more than this.
const MOST: usize = 4 * 1024 * 1024;

/// Lines are gathered for so long before they are written.
const GATHER: Duration = Duration::from_millis(50);

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessLogFormat {
    /// An object a line.
    #[default]
    Json,
    /// Apache's "combined", which most tools read.
    Combined,
}

impl FromStr for AccessLogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(Self::Json),
            "combined" => Ok(Self::Combined),
            _ => Err("expected `json` or `combined`"),
        }
    }
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// Standard output (`-`).
    Stdout,
    /// Appended to this file.
    File(PathBuf),
}

impl FromStr for AccessLogTarget {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Err("expected a path, or `-` for standard output"),
            "-" => Ok(Self::Stdout),
            path => Ok(Self::File(path.into())),
        }
    }
}

impl AccessLogTarget {
    fn open(&self) -> io::Result<Box<dyn Write + Send>> {
        Ok(match self {
            Self::Stdout => Box::new(io::stdout()),
            Self::File(path) => Box::new(append_to(path)?),
        })
    }
}

fn append_to(path: &PathBuf) -> io::Result<File> {
    let open = OpenOptions::new().create(true).append(true).open(path);
    open.map_err(|error| {
        io::Error::new(error.kind(), format!("cannot write the access log {}: {error}", path.display()))
    })
}

/// The log of one edge. Dropped, it writes what it has.
#[derive(Debug)]
pub(crate) struct AccessLog {
    format: AccessLogFormat,
    queue: Arc<Queue>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Queue {
    waiting: Mutex<Waiting>,
    news: Condvar,
    dropped: Counter,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    /// Lines in `lines`.
    count: u64,
    reopen: bool,
    end: bool,
}

impl AccessLog {
    /// Begins. `dropped` counts lines that were not written.
    pub(crate) fn open(target: AccessLogTarget, format: AccessLogFormat, dropped: Counter) -> io::Result<Self> {
        let queue = Arc::new(Queue { waiting: Mutex::default(), news: Condvar::new(), dropped });
        let to = target.open()?;
        let writer = thread::Builder::new().name("access-log".to_owned()).spawn({
            let queue = queue.clone();
            move || queue.write(&target, to)
        })?;
        Ok(Self { format, queue, writer: Some(writer) })
    }

    /// Opens the file anew, which someone has moved away. If that fails, the old one goes on.
    pub(crate) fn reopen(&self) {
        self.queue.lock().reopen = true;
        self.queue.news.notify_one();
    }

    /// What is to be remembered of a request until it has been answered.
    pub(crate) fn begin(self: &Arc<Self>, request: &Parts) -> Pending {
        Pending {
            log: self.clone(),
            begun: Instant::now(),
            connection: request.extensions.get().cloned(),
            method: request.method.clone(),
            uri: request.uri.clone(),
            version: request.version,
            referer: request.headers.get(header::REFERER).cloned(),
            agent: request.headers.get(header::USER_AGENT).cloned(),
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.queue.lock().end = true;
        self.queue.news.notify_one();
        if let Some(writer) = self.writer.take() {
            // It has nothing to say that was not logged.
            drop(writer.join());
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.lines.len() + line.len() > MOST {
            self.dropped.inc();
            return;
        }
        waiting.lines.extend_from_slice(line);
        waiting.count += 1;
        if waiting.count == 1 {
            self.news.notify_one();
        }
    }

    /// What waits, when there is something; it has then been gathered for a moment.
    fn next(&self) -> Waiting {
        let wait = |waiting| self.news.wait_while(waiting, |waiting: &mut Waiting| waiting.is_quiet());
        let waiting = wait(self.lock()).unwrap_or_else(PoisonError::into_inner);
        let gathering = |waiting: &mut Waiting| !waiting.reopen && !waiting.end && waiting.lines.len() < MOST / 2;
        let gathered = self.news.wait_timeout_while(waiting, GATHER, gathering);
        let mut waiting = gathered.unwrap_or_else(PoisonError::into_inner).0;
        let end = waiting.end;
        Waiting { end, ..mem::take(&mut *waiting) }
    }

    fn write(&self, target: &AccessLogTarget, mut to: Box<dyn Write + Send>) {
        let mut fails = false;
        loop {
            let Waiting { lines, count, reopen, end } = self.next();
            let outcome = to.write_all(&lines).and_then(|()| to.flush());
            if let Err(error) = &outcome {
                self.dropped.inc_by(count);
                // Once: there may be no end to it.
                if !fails {
                    warn!(%error, "the access log is not written");
                }
            }
            fails = outcome.is_err();
            if reopen {
                match target.open() {
                    Ok(anew) => to = anew,
                    Err(error) => warn!(%error, "the old one goes on"),
                }
            }
            if end {
                return;
            }
        }
    }
}

impl Waiting {
    fn is_quiet(&self) -> bool {
        self.lines.is_empty() && !self.reopen && !self.end
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Pending {
    log: Arc<AccessLog>,
    begun: Instant,
    connection: Option<Connection>,
    method: Method,
    uri: Uri,
    version: Version,
    referer: Option<HeaderValue>,
    agent: Option<HeaderValue>,
}

impl Pending {
    /// This is the answer, of the site of this name. What leaves in one piece is logged at once, the rest at its end.
    pub(crate) fn answered(self, site: Option<&str>, response: Response<Body>) -> Response<Body> {
        let bytes =
            if self.method == Method::HEAD { Some(0) } else { http_body::Body::size_hint(response.body()).exact() };
        let (status, outcome) = (response.status().as_u16(), outcome(&response));
        match bytes {
            Some(bytes) => {
                self.write(site, status, outcome, bytes);
                response
            }
            None => {
                let (site, outcome) = (site.map(Box::from), outcome.map(Box::from));
                response.map(|body| Body::new(Logged::new(body, self, site, status, outcome)))
            }
        }
    }

    fn write(&self, site: Option<&str>, status: u16, cache: Option<&str>, bytes: u64) {
        let connection = self.connection.as_ref();
        let line = line::Line {
            time: SystemTime::now(),
            client: connection.map(|connection| connection.remote.ip().to_canonical()),
            site,
            method: self.method.as_str(),
            target: &self.uri,
            version: self.version,
            status,
            bytes,
            duration: self.begun.elapsed(),
            referer: self.referer.as_ref().map(HeaderValue::as_bytes),
            agent: self.agent.as_ref().map(HeaderValue::as_bytes),
            cache,
            tls: connection.and_then(|connection| connection.tls),
        };
        line.with(self.log.format, |text| self.log.queue.add(text));
    }
}

/// `hit`, or why it was forwarded (none where no content was looked for), as the edge says it in `Cache-Status`, which has its own member last (RFC 9211).
fn outcome(response: &Response<Body>) -> Option<&str> {
    let said = response.headers().get_all(crate::respond::CACHE_STATUS).iter().next_back()?.to_str().ok()?;
    let first = said.split("; ").nth(1).filter(|first| !first.starts_with("detail="))?;
    Some(first.strip_prefix("fwd=").unwrap_or(first))
}

#[cfg(test)]
mod tests;
