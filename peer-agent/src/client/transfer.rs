//! Content on its way. Where the background service goes away in the middle, the one that comes in its place goes on, or an agent of
//! our own does.

use std::{fmt, path::Path, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use super::{FetchError, LocalClient};
use crate::{
    agent::{Agent, GetError, GetRequest, StartError},
    config::{Config, socket_in},
    destination::Destination,
    problem::Problem,
    progress::Progress,
    service::Wanted,
    store::StoreError,
};

/// How long a service that was killed is waited for: supervisors take some seconds.
const RESTART: Duration = Duration::from_secs(10);
/// The same for one that ended by itself, and took its socket with it.
const ENDED: Duration = Duration::from_secs(2);
/// How long content is waited for that neither a service nor an agent of our own can bring.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Pauses between attempts double between these.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Services that may go away in a row without a byte from any of them.
const MOST_FRUITLESS: u32 = 5;
/// What people are told meanwhile.
const AWAY: &str = "the background service is away";

/// Content on its way, from either kind of agent.
pub struct Transfer {
    media_type: String,
    length: Option<u64>,
    publish: watch::Sender<Progress>,
    part: Part,
    /// Where to go on; none: what comes from a service ends with it.
    config: Option<Config>,
    wanted: Wanted,
    fruitless: u32,
}

/// What one agent brings of it.
pub(super) struct Part {
    pub(super) media_type: String,
    /// Of the whole content, in bytes, if that is known.
    pub(super) length: Option<u64>,
    /// Its manifest, hex; none: it is no version.
    pub(super) version: Option<String>,
    pub(super) content: BoxStream<'static, Result<Bytes, GetError>>,
    pub(super) _following: AbortOnDropHandle<()>,
    /// Our own.
    pub(super) agent: Option<Agent>,
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer").field("length", &self.length).finish_non_exhaustive()
    }
}

/// Opens `request` through the background service of `config`'s state folder, or through an agent that lives as long as the
/// [`Transfer`]. A service that goes away is waited for, a while; then an agent of our own takes its place.
pub async fn get(config: Config, request: GetRequest) -> Result<Transfer, FetchError> {
    let wanted = Wanted { request, from: 0, version: None };
    let publish = watch::Sender::new(Progress::default());
    let part = match LocalClient::connect(&config.state).await {
        None => alone(&config, &wanted, &publish).await?,
        Some(service) => match service.part(&wanted, &publish).await {
            Err(error) if error.is_lost() => anew(&config, &wanted, &publish, error).await?,
            part => part?,
        },
    };
    Ok(Transfer::new(Some(config), wanted, publish, part))
}

/// From the service that comes back, or if none does, from an agent of our own.
async fn anew(
    config: &Config,
    wanted: &Wanted,
    publish: &watch::Sender<Progress>,
    lost: GetError,
) -> Result<Part, FetchError> {
    publish.send_modify(|progress| progress.stall = Some(AWAY.into()));
    let since = Instant::now();
    let mut pause = FIRST_PAUSE;
    while since.elapsed() < GIVE_UP {
        if let Some(service) = LocalClient::connect(&config.state).await {
            match service.part(wanted, publish).await {
                Err(error) if error.is_lost() => {}
                part => return Ok(part?),
            }
        } else if since.elapsed() >= patience(&config.state) {
            match alone(config, wanted, publish).await {
                // A service that is just starting, or still ending.
                Err(FetchError::Start(StartError::Store(StoreError::InUse))) => {}
                part => return part,
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Err(lost.into())
}

fn patience(state: &Path) -> Duration {
    if socket_in(state).exists() { RESTART } else { ENDED }
}

async fn alone(config: &Config, wanted: &Wanted, publish: &watch::Sender<Progress>) -> Result<Part, FetchError> {
    let agent = Agent::start(Config { offer_held: false, ..config.clone() }).await?;
    let download = match agent.get_part(wanted).await {
        Ok(download) => download,
        Err(error) => {
            agent.close().await;
            return Err(error.into());
        }
    };
    let mut progress = download.progress();
    let (publish, before) = (publish.clone(), publish.borrow().clone());
    let following = async move {
        loop {
            let news = progress.borrow_and_update().clone();
            publish.send_replace(carried(&before, news));
            if progress.changed().await.is_err() {
                return;
            }
        }
    };
    Ok(Part {
        media_type: download.media_type().to_owned(),
        length: download.length(),
        version: download.manifest_id(),
        content: download.into_stream_from(wanted.from).boxed(),
        _following: AbortOnDropHandle::new(tokio::spawn(following)),
        agent: Some(agent),
    })
}

/// What came over the network before a service went away is no less so because it is on disk now.
pub(super) fn carried(before: &Progress, news: Progress) -> Progress {
    let from_edge = before.from_edge.min(news.from_disk);
    let from_peers = before.from_peers.min(news.from_disk - from_edge);
    Progress {
        from_disk: news.from_disk - from_edge - from_peers,
        from_edge: news.from_edge + from_edge,
        from_peers: news.from_peers + from_peers,
        ..news
    }
}

impl Transfer {
    pub(super) fn new(config: Option<Config>, wanted: Wanted, publish: watch::Sender<Progress>, part: Part) -> Self {
        let (media_type, length) = (part.media_type.clone(), part.length);
        let wanted = Wanted { version: part.version.clone(), ..wanted };
        Self { media_type, length, publish, part, config, wanted, fruitless: 0 }
    }

    /// Content-Type.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// Bytes of the content; none: only its end will tell.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Changes a few times per second, and when the download ends.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.publish.subscribe()
    }

    /// The next bytes, in order; none at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, GetError>> {
        loop {
            let error = match self.part.content.next().await {
                Some(Ok(bytes)) => {
                    self.wanted.from += bytes.len() as u64;
                    self.fruitless = 0;
                    return Some(Ok(bytes));
                }
                None if self.length.is_none_or(|length| self.wanted.from >= length) => return None,
                None => GetError::Lost("the content broke off".into()),
                Some(Err(error)) => error,
            };
            if let Err(error) = self.go_on(error).await {
                return Some(Err(error));
            }
        }
    }

    /// The rest, if what went wrong is that the service has gone.
    async fn go_on(&mut self, lost: GetError) -> Result<(), GetError> {
        let Some(config) = self.config.as_ref().filter(|_| self.part.agent.is_none()) else { return Err(lost) };
        // What is no version may be something else by now.
        let can_go_on = self.wanted.version.is_some() || self.wanted.from == 0;
        if !lost.is_lost() || !can_go_on || self.fruitless >= MOST_FRUITLESS {
            return Err(lost);
        }
        self.fruitless += 1;
        let part = anew(config, &self.wanted, &self.publish, lost).await;
        self.part = part.map_err(|error| match error {
            FetchError::Get(error) => error,
            FetchError::Start(_) => GetError::Failed(Problem::new(error.code(), crate::chain(&error))),
        })?;
        Ok(())
    }

    /// Saves the content. Call [`Transfer::close`] then.
    pub async fn save_to(&mut self, destination: Destination) -> Result<(), GetError> {
        let mut saving = destination.open().await?;
        while let Some(bytes) = self.next().await {
            saving.write(&bytes?).await?;
        }
        saving.finish().await
    }

    /// Ends the transfer; an agent of its own reports its receipts and stops.
    pub async fn close(self) {
        drop(self.part.content);
        if let Some(agent) = self.part.agent {
            agent.close().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_go_on_where_they_were() {
        let figures =
            |from_disk, from_edge, from_peers| Progress { from_disk, from_edge, from_peers, ..Progress::default() };
        for (before, news, expected) in [
            (figures(0, 0, 0), figures(5, 1, 2), figures(5, 1, 2)),
            (figures(5, 10, 20), figures(35, 1, 2), figures(5, 11, 22)),
            // Some of it was lost.
            (figures(5, 10, 20), figures(15, 1, 2), figures(0, 11, 7)),
            (figures(5, 10, 20), figures(0, 1, 2), figures(0, 1, 2)),
        ] {
            assert_eq!(carried(&before, news), expected);
        }
    }
}
