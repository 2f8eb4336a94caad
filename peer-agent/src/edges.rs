//! All edges that this agent speaks to: which one a URL leads to, who stands in for whom, and where their news goes.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use umbel_content::ManifestId;
use umbel_service::client;
use umbel_wire::agent::from_edge::Message as News;
use url::{Host, Url};

use crate::{
    edge::{Edge, EdgeError, Errand, Http, SessionState, keep_session},
    fleet,
    identity::Identity,
};

/// News of one session that wait for downloads; a session with more waits, and its edge with it.
const NEWS_QUEUE: usize = 256;
/// Sessions up that wait; see [`Edge::tell`].
const ERRAND_QUEUE: usize = 256;
/// How many edges are tried for one request.
const MOST_ATTEMPTS: usize = 4;
/// How long the news of all versions wait for one download to take its own.
const ROOM_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

/// A cheap handle.
#[derive(Debug, Clone)]
pub(crate) struct Edges(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    identity: Identity,
    tls: ClientConfig,
    http: Http,
    known: Mutex<HashMap<String, Edge>>,
    fleet: fleet::Known,
    /// Changes whenever a session comes or goes.
    changes: watch::Sender<u64>,
    rooms: Mutex<HashMap<ManifestId, mpsc::Sender<News>>>,
    news: mpsc::Sender<News>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Edges {
    pub(crate) fn new(
        state: &Path,
        identity: Identity,
        tls: ClientConfig,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let (news, news_queue) = mpsc::channel(NEWS_QUEUE);
        let edges = Self(Arc::new(Inner {
            fleet: fleet::Known::load(state),
            identity,
            http: Http::new(tls.clone()),
            tls,
            known: Mutex::default(),
            changes: watch::Sender::new(0),
            rooms: Mutex::default(),
            news,
            tasks,
            stop,
        }));
        edges.0.tasks.spawn(edges.clone().route(news_queue));
        edges
    }

    async fn route(self, mut news: mpsc::Receiver<News>) {
        loop {
            let news = tokio::select! { () = self.0.stop.cancelled() => return, Some(news) = news.recv() => news };
            let room = subject(&news).and_then(|id| self.rooms().get(&id).cloned());
            if let Some(room) = room {
                // A download that ended meanwhile does not care, and one that does not listen must not keep the others waiting.
                let _ended = room.send_timeout(news, ROOM_PATIENCE).await;
            }
        }
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<ManifestId, mpsc::Sender<News>>> {
        self.0.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Edge>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// News about this version go there, until [`Edges::unsubscribe`].
    pub(crate) fn subscribe(&self, id: ManifestId, room: mpsc::Sender<News>) {
        self.rooms().insert(id, room);
    }

    /// Forgets this version's room if nobody listens there any more, and only then does `and`, before anyone else can
    /// subscribe.
    pub(crate) fn unsubscribe(&self, id: &ManifestId, and: impl FnOnce()) {
        let mut rooms = self.rooms();
        if rooms.get(id).is_some_and(mpsc::Sender::is_closed) {
            rooms.remove(id);
            and();
        }
    }

    pub(crate) fn fleet(&self) -> Arc<fleet::Edges> {
        self.0.fleet.now()
    }

    pub(crate) fn watch_fleet(&self) -> watch::Receiver<Arc<fleet::Edges>> {
        self.0.fleet.watch()
    }

    pub(crate) fn watch_sessions(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// The edge at this base URL; its session starts when it is first asked for.
    pub(crate) fn at(&self, url: &str) -> Result<Edge, EdgeError> {
        let mut known = self.known();
        if let Some(edge) = known.get(url) {
            return Ok(edge.clone());
        }
        let channel = client::channel(url, self.0.tls.clone())
            .map_err(|error| EdgeError::Unreachable { url: url.to_owned(), reason: crate::chain(&error) })?;
        let (state, watched) = watch::channel(SessionState::Connecting);
        let (errands, queue) = mpsc::channel(ERRAND_QUEUE);
        let edge = Edge::new(url, channel.clone(), self.0.http.clone(), watched.clone(), errands);
        known.insert(url.to_owned(), edge.clone());
        self.0.tasks.spawn(keep_session(Errand {
            url: edge.url.clone(),
            channel,
            identity: self.0.identity.clone(),
            state,
            errands: queue,
            news: self.0.news.clone(),
            fleet: self.0.fleet.clone(),
            stop: self.0.stop.clone(),
        }));
        self.0.tasks.spawn(announce(watched, self.clone()));
        Ok(edge)
    }

    /// The edge of this node id: by the session that there is, or where the fleet says.
    pub(crate) fn by_id(&self, id: &str) -> Option<Edge> {
        let open =
            self.known().values().find(|edge| edge.current().is_some_and(|session| session.edge_id == id)).cloned();
        open.or_else(|| self.at(base(&self.fleet().by_id(id)?.public_url)?.as_str()).ok())
    }

    /// All edges with a session.
    pub(crate) fn open(&self) -> Vec<Edge> {
        self.known().values().filter(|edge| edge.current().is_some()).cloned().collect()
    }

    /// Base URLs to try for `url`, in order: where it leads, then everyone else.
    pub(crate) fn candidates(&self, url: &Url) -> Vec<String> {
        let fleet = self.fleet();
        let others = fleet.edges.iter().map(|edge| edge.public_url.clone()).chain(self.0.identity.edges());
        let others: Vec<String> = others.filter_map(|url| base(&url)).collect();
        let mut order = vec![access(url, &others)];
        for other in others {
            if !order.contains(&other) {
                order.push(other);
            }
        }
        order.truncate(MOST_ATTEMPTS);
        order
    }

    /// How many sessions are open, for reports.
    pub(crate) fn sessions(&self) -> Vec<String> {
        let known = self.known();
        known.values().filter(|edge| edge.current().is_some()).map(|edge| edge.url.to_string()).collect()
    }

    /// Opens sessions with the edges of the last run or of enrolment, so that the first download finds one.
    pub(crate) fn warm_up(&self) {
        let fleet = self.fleet();
        let urls = fleet.edges.iter().map(|edge| edge.public_url.clone()).chain(self.0.identity.edges());
        for url in urls.filter_map(|url| base(&url)).take(MOST_ATTEMPTS) {
            if let Err(error) = self.at(&url) {
                tracing::warn!(%error, "unusable edge");
            }
        }
    }
}

async fn announce(mut state: watch::Receiver<SessionState>, edges: Edges) {
    loop {
        tokio::select! {
            () = edges.0.stop.cancelled() => return,
            changed = state.changed() => if changed.is_err() { return },
        }
        edges.0.changes.send_modify(|count| *count += 1);
    }
}

fn subject(news: &News) -> Option<ManifestId> {
    let id = match news {
        News::Share(share) => &share.manifest_id,
        News::Introduction(introduction) => &introduction.manifest_id,
        News::Departure(departure) => &departure.manifest_id,
        News::Refusal(refusal) => &refusal.manifest_id,
        News::Challenge(_) | News::Welcome(_) | News::Goodbye(_) | News::Fleet(_) | News::Heartbeat(_) => return None,
    };
    ManifestId::try_from(id.as_ref()).ok()
}

/// Scheme, host and port, in one spelling.
fn base(url: &str) -> Option<String> {
    Some(authority(&Url::parse(url).ok()?))
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    format!("https://{host}:{}", url.port_or_known_default().unwrap_or(443))
}

/// Where `url` leads: to itself. Names under `.localhost` (RFC 6761) need no DNS: they lead to the known edge on their port.
fn access(url: &Url, known: &[String]) -> String {
    let exact = authority(url);
    let is_local =
        matches!(url.host(), Some(Host::Domain(name)) if name == "localhost" || name.ends_with(".localhost"));
    if !is_local || known.contains(&exact) {
        return exact;
    }
    let port = url.port_or_known_default();
    let on_port = |other: &&String| Url::parse(other).is_ok_and(|other| other.port_or_known_default() == port);
    known.iter().find(on_port).cloned().unwrap_or(exact)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, known: &[&str], expected: &str) {
        let known: Vec<String> = known.iter().map(|url| (*url).to_owned()).collect();
        assert_eq!(access(&Url::parse(url).unwrap(), &known), expected, "{url}");
    }

    #[test]
    fn urls_lead_to_their_authority() {
        let known = ["https://edge1.test:8443", "https://127.0.0.1:9443"];
        check("https://www.site.test/a", &known, "https://www.site.test:443");
        check("https://edge1.test:8443/a", &known, "https://edge1.test:8443");
        check("https://site.localhost:9443/a", &known, "https://127.0.0.1:9443");
        check("https://site.localhost:1/a", &known, "https://site.localhost:1");
        check("https://[::1]:9443/a", &known, "https://[::1]:9443");
    }
}
