//! Which version of an object is current? Asks the origin at most once per `lookup_ttl_ms` and object, however many
//! readers there are; while no origin answers, the last answer stands. Readers of an object that others have just read do not
//! wait for the origin: the question that is due is asked behind them (as in RFC 5861, section 3). Nor does anyone while all
//! origins are known to be away: the first who finds out waits, once, and not once for each object.
//!
//! An answer that was purged is asked for anew. Softly purged, it still stands while no origin answers.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use moka::future::Cache;
use tokio::time::{Instant, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Status};
use tracing::{debug, warn};
use umbel_content::{
    ContentKey, Manifest, ManifestError, ObjectPath, Opener, SignedManifest, VerifyingKey, VersionId, proto,
};
use umbel_http_cache::{Entry, Purges, Standing, SurrogateKeys};
use umbel_wire::{
    MAX_MANIFEST_MESSAGE,
    control::Site,
    origin::{ResolveReply, ResolveRequest, content_client::ContentClient},
};

use crate::{
    fleet::{Fleet, Member},
    flights::Flights,
};

mod answer;
pub(crate) mod table;

use answer::{Answer, Use};
use table::Table;

/// Manifests and keys in memory, in bytes.
const MEMORY: u64 = 128 * 1024 * 1024;

/// "There is none" is believed no longer than this.
const ABSENT_FOR: Duration = Duration::from_secs(2);

/// After a failure, a stale answer is used this long before an origin is asked again.
const STALE_FOR: Duration = Duration::from_secs(1);

/// After so long an origin is asked whether it still keeps a version that agents ask for by its id.
const BY_ID_FOR: Duration = Duration::from_secs(600);

/// For an origin, when there is a stale answer to fall back on, and when there is none.
const PATIENCE: Duration = Duration::from_secs(2);
const LONG_PATIENCE: Duration = Duration::from_secs(10);

/// A version that was checked, with all that is needed to serve it.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) site_id: String,
    pub(crate) manifest: Manifest,
    pub(crate) signed: SignedManifest,
    pub(crate) key: ContentKey,
    pub(crate) opener: Opener,
    since: Instant,
}

/// Why there is no version to serve.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LookupError {
    /// The origin is sure that there is none.
    #[error("there is no such object")]
    Absent,
    /// No origin answered, and nothing is known from before.
    #[error("no origin answers")]
    Unavailable,
    /// It is of a site that is pulled, and to be had over HTTPS alone.
    #[error("this is not shared, or not yet: ask for it over HTTPS")]
    Unshared,
    /// What the origin sent is not what it must be.
    #[error("the origin's answer is not valid: {0}")]
    Invalid(#[from] InvalidAnswer),
}

/// What is wrong with an origin's answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum InvalidAnswer {
    /// The manifest is no good.
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    /// It is about something else.
    #[error("manifest of another site, path or version")]
    Other,
    /// The key does not belong to it.
    #[error("content key does not fit the manifest")]
    Key,
}

impl Version {
    /// Checks what somebody says is a version of `path` in `site`.
    pub(crate) fn check(
        site: &Site,
        path: &ObjectPath,
        manifest: Option<proto::SignedManifest>,
        key: &[u8],
    ) -> Result<Self, InvalidAnswer> {
        let site_key = <[u8; 32]>::try_from(site.public_key.as_ref()).map_err(|_| InvalidAnswer::Key)?;
        let signed = SignedManifest::from_proto(manifest.ok_or(InvalidAnswer::Other)?)?;
        let manifest = signed.verify(&VerifyingKey::from_bytes(site_key))?;
        if manifest.site().as_str() != site.name || manifest.path() != path {
            return Err(InvalidAnswer::Other);
        }
        let key = ContentKey::from_bytes(key.try_into().map_err(|_| InvalidAnswer::Key)?);
        if key.id() != manifest.key_id() {
            return Err(InvalidAnswer::Key);
        }
        let opener = Opener::new(&key, manifest.version_id());
        Ok(Self { site_id: site.id.clone(), manifest, signed, key, opener, since: Instant::now() })
    }

    /// Seconds since this edge has it.
    pub(crate) fn age(&self) -> u64 {
        self.since.elapsed().as_secs()
    }

    fn weight(&self) -> usize {
        let message = self.signed.to_proto();
        2 * message.manifest.len() + 1024
    }
}

/// Site id and path.
type Key = (String, String);

/// A version, and the epoch of purges in which it was asked for.
#[derive(Debug, Clone)]
struct Dated {
    version: Arc<Version>,
    epoch: u64,
}

type Outcome = Result<Arc<Version>, LookupError>;

/// All that is known of which versions are current.
#[derive(Debug)]
pub(crate) struct Lookup {
    fleet: Arc<Fleet>,
    table: Arc<Table>,
    current: Cache<Key, Answer>,
    /// Versions that agents asked for by id, for [`BY_ID_FOR`].
    by_id: Cache<(Key, VersionId), Dated>,
    /// Who asks after a purge does not join a question that went out before it: the number tells them apart.
    flights: Flights<(Key, Option<VersionId>, u64), Outcome>,
    purges: ArcSwap<Purges>,
}

impl Lookup {
    /// Starts from what `table` remembers.
    pub(crate) fn new(fleet: Arc<Fleet>, table: Arc<Table>, tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        let weigh = |key: &Key, weight: usize| u32::try_from(key.0.len() + key.1.len() + weight).unwrap_or(u32::MAX);
        let current = Cache::builder().max_capacity(MEMORY).weigher(move |key, answer: &Answer| {
            weigh(key, answer.version.as_ref().map_or(256, |version| version.weight()))
        });
        let by_id = Cache::builder()
            .max_capacity(MEMORY / 4)
            .time_to_live(BY_ID_FOR)
            .weigher(move |key: &(Key, VersionId), dated: &Dated| weigh(&key.0, dated.version.weight()));
        Self {
            fleet,
            table,
            current: current.build(),
            by_id: by_id.build(),
            flights: Flights::new(tasks, shutdown),
            purges: ArcSwap::default(),
        }
    }

    /// From now on these count: what they name is asked for anew.
    pub(crate) fn apply(&self, purges: &Purges) {
        self.purges.store(Arc::new(purges.clone()));
    }

    /// What purges leave of an answer. They name what is pulled by the target of requests, and what was uploaded by its path.
    fn standing(&self, site: &Site, path: &ObjectPath, version: Option<&Version>, epoch: u64) -> Standing {
        let purges = self.purges.load();
        if epoch >= purges.epoch() {
            return Standing::Good;
        }
        let target = site.pull.as_ref().map(|_| path.to_target());
        let fields = || version.into_iter().flat_map(|version| version.manifest.fields());
        let keys = || SurrogateKeys::of_texts(fields().map(|(name, value)| (name.as_str(), value.as_str())));
        purges.standing(Entry { site: &site.id, target: target.as_deref().unwrap_or(path.as_str()) }, keys, epoch)
    }

    /// The last answer, if it was not purged for good.
    async fn last(&self, site: &Site, path: &ObjectPath, key: &Key) -> Option<Answer> {
        let answer = self.current.get(key).await?;
        (self.standing(site, path, answer.version.as_deref(), answer.epoch) != Standing::Gone).then_some(answer)
    }

    /// The version of `path` that is current.
    pub(crate) async fn current(self: &Arc<Self>, site: &Site, path: &ObjectPath) -> Outcome {
        let key = (site.id.clone(), path.as_str().to_owned());
        let answer = self.last(site, path, &key).await;
        let good = answer.as_ref().map_or(Use::Over, |answer| self.good_for(site, path, answer));
        if let (Use::Fresh, Some(answer)) = (good, answer.clone()) {
            return answer.version.ok_or(LookupError::Absent);
        }
        let (lookup, site, path) = (self.clone(), site.clone(), path.clone());
        let flight = (key.clone(), None, self.purges.load().latest(&key.0));
        let refresh = || async move { lookup.refresh(site, path, key).await };
        if let (Use::WhileAsking, Some(answer)) = (good, answer) {
            self.flights.start(flight, refresh);
            return answer.version.ok_or(LookupError::Absent);
        }
        self.flights.join(flight, refresh).await.unwrap_or(Err(LookupError::Unavailable))
    }

    /// A version from before, however old, is good while somebody is asked, if nobody is expected to answer.
    fn good_for(&self, site: &Site, path: &ObjectPath, answer: &Answer) -> Use {
        let good = match self.standing(site, path, answer.version.as_deref(), answer.epoch) {
            Standing::Good => answer.use_at(Instant::now()),
            Standing::Stale | Standing::Gone => Use::Over,
        };
        let alone = may_stand(site) && answer.version.is_some() && !self.fleet.has_origin();
        if good == Use::Over && alone { Use::WhileAsking } else { good }
    }

    /// This version of `path`, current or not, as long as the origin keeps it.
    pub(crate) async fn version(self: &Arc<Self>, site: &Site, path: &ObjectPath, id: VersionId) -> Outcome {
        let key = (site.id.clone(), path.as_str().to_owned());
        if let Some(Answer { version: Some(version), .. }) = self.last(site, path, &key).await
            && version.manifest.version_id() == id
        {
            return Ok(version);
        }
        if let Some(version) = self.known(site, path, &key, id).await {
            return Ok(version);
        }
        let (lookup, site, path) = (self.clone(), site.clone(), path.clone());
        let flight = (key.clone(), Some(id), self.purges.load().latest(&key.0));
        let flight = self.flights.join(flight, || async move { lookup.ask_for(site, path, key, id).await });
        flight.await.unwrap_or(Err(LookupError::Unavailable))
    }

    /// A version that was asked for by its id. It never changes: only who purges it for good means that it must not be there.
    async fn known(&self, site: &Site, path: &ObjectPath, key: &Key, id: VersionId) -> Option<Arc<Version>> {
        let Dated { version, epoch } = self.by_id.get(&(key.clone(), id)).await?;
        (self.standing(site, path, Some(&version), epoch) != Standing::Gone).then_some(version)
    }

    async fn ask_for(self: Arc<Self>, site: Site, path: ObjectPath, key: Key, id: VersionId) -> Outcome {
        if let Some(version) = self.known(&site, &path, &key, id).await {
            return Ok(version);
        }
        // After a restart the table may be all there is. Until it is known what was purged meanwhile it is a last resort.
        let remembered = self.remembered(&site, &path, &key).await.map(|(dated, standing)| (dated.version, standing));
        let remembered = remembered.filter(|(version, _)| version.manifest.version_id() == id);
        if let Some((version, Standing::Good)) = remembered {
            return Ok(version);
        }
        let epoch = self.purges.load().epoch();
        let request = self.request(&site, &path, Some(id), None);
        let reply = match (self.resolve(&key, request, LONG_PATIENCE).await, remembered) {
            (Err(status), Some((version, _))) if status.code() != Code::NotFound => return Ok(version),
            (reply, _) => reply.map_err(|status| failure(&status))?,
        };
        let version = Version::check(&site, &path, reply.manifest, &reply.content_key)?;
        if version.manifest.version_id() != id {
            return Err(InvalidAnswer::Other.into());
        }
        let version = Arc::new(version);
        self.by_id.insert((key, id), Dated { version: version.clone(), epoch }).await;
        Ok(version)
    }

    /// Asks, unless another flight has landed since this one was called for. Whoever comes in the meantime is served the answer
    /// that is there, if it is still good for that.
    async fn refresh(self: Arc<Self>, site: Site, path: ObjectPath, key: Key) -> Outcome {
        if let Some(answer) = self.last(&site, &path, &key).await {
            match self.good_for(&site, &path, &answer) {
                Use::Fresh => return answer.version.ok_or(LookupError::Absent),
                Use::WhileAsking => self.current.insert(key.clone(), answer.while_asking()).await,
                Use::Over => {}
            }
        }
        self.ask(site, path, key).await
    }

    async fn ask(self: Arc<Self>, site: Site, path: ObjectPath, key: Key) -> Outcome {
        let epoch = self.purges.load().epoch();
        let known = match self.last(&site, &path, &key).await {
            Some(Answer { version, epoch, .. }) => version.map(|version| Dated { version, epoch }),
            None => match self.remembered(&site, &path, &key).await {
                Some((dated, _)) if may_stand(&site) && !self.fleet.has_origin() => {
                    return self.stands_for(STALE_FOR, key, dated).await;
                }
                remembered => remembered.map(|(dated, _)| dated),
            },
        };
        let patience = if known.is_some() { PATIENCE } else { LONG_PATIENCE };
        let known_id = known.as_ref().map(|dated| dated.version.manifest.version_id());
        let answered = self.resolve(&key, self.request(&site, &path, None, known_id), patience).await;
        match (answered, known) {
            (Ok(reply), Some(Dated { version, epoch: before })) if reply.unchanged => {
                if before < epoch {
                    self.table.keep(key.clone(), version.clone(), epoch);
                }
                self.stands_as(&site, &reply, key, Dated { version, epoch }).await
            }
            (Ok(reply), _) => self.found(&site, &path, key, reply, epoch).await,
            (Err(status), _) if status.code() == Code::NotFound => self.absent(&site, key, epoch).await,
            (Err(status), _) if status.code() == Code::FailedPrecondition => Err(LookupError::Unshared),
            (Err(status), Some(dated)) if may_stand(&site) && self.stands(&site, &path, &dated) => {
                debug!(site = site.name, %path, %status, "no origin answers, the last version stands");
                self.stands_for(STALE_FOR, key, dated).await
            }
            (Err(status), _) => {
                warn!(site = site.name, %path, %status, "no origin answers");
                Err(failure(&status))
            }
        }
    }

    /// Whether it was not purged for good since.
    fn stands(&self, site: &Site, path: &ObjectPath, dated: &Dated) -> bool {
        self.standing(site, path, Some(&dated.version), dated.epoch) != Standing::Gone
    }

    async fn stands_for(&self, life: Duration, key: Key, Dated { version, epoch }: Dated) -> Outcome {
        self.current.insert(key, Answer::found(version.clone(), life, epoch)).await;
        Ok(version)
    }

    async fn found(&self, site: &Site, path: &ObjectPath, key: Key, reply: ResolveReply, epoch: u64) -> Outcome {
        let version = Version::check(site, path, reply.manifest.clone(), &reply.content_key)
            .inspect_err(|error| warn!(site = site.name, %path, %error, "refused what the origin sent"))?;
        let version = Arc::new(version);
        self.table.keep(key.clone(), version.clone(), epoch);
        self.stands_as(site, &reply, key, Dated { version, epoch }).await
    }

    /// As long as the origin's answer and the site's policy say.
    async fn stands_as(&self, site: &Site, reply: &ResolveReply, key: Key, dated: Dated) -> Outcome {
        if site.pull.is_none() {
            return self.stands_for(ttl(site), key, dated).await;
        }
        let life = ttl(site).min(Duration::from_millis(reply.fresh_ms));
        self.current.insert(key, Answer::pulled(dated.version.clone(), life, dated.epoch)).await;
        Ok(dated.version)
    }

    async fn absent(&self, site: &Site, key: Key, epoch: u64) -> Outcome {
        self.table.forget(key.clone());
        self.current.insert(key, Answer::absent(ttl(site).min(ABSENT_FOR), epoch)).await;
        Err(LookupError::Absent)
    }

    /// What the table has, if it was not purged for good.
    async fn remembered(&self, site: &Site, path: &ObjectPath, key: &Key) -> Option<(Dated, Standing)> {
        let kept = self.table.read(key.clone()).await?;
        // Checked again: the site may have another key by now.
        let version = Version::check(site, path, kept.manifest, &kept.content_key).ok().map(Arc::new)?;
        let standing = self.standing(site, path, Some(&version), kept.epoch);
        if standing == Standing::Gone {
            self.table.forget(key.clone());
            return None;
        }
        Some((Dated { version, epoch: kept.epoch }, standing))
    }

    /// Made after the epoch was read that the answer is kept under: so the origin knows of all that was purged until then.
    fn request(
        &self,
        site: &Site,
        path: &ObjectPath,
        id: Option<VersionId>,
        known: Option<VersionId>,
    ) -> ResolveRequest {
        let bytes = |id: Option<VersionId>| id.map(|id| id.as_bytes().to_vec()).unwrap_or_default().into();
        ResolveRequest {
            site_id: site.id.clone(),
            path: path.as_str().to_owned(),
            version_id: bytes(id),
            known_version_id: bytes(known),
            configuration_version: self.fleet.version(),
        }
    }

    /// Asks one origin after the other, those that are well first.
    async fn resolve(&self, key: &Key, request: ResolveRequest, patience: Duration) -> Result<ResolveReply, Status> {
        let mut last = Status::unavailable("there is no origin");
        for origin in self.fleet.origins(key.1.as_bytes()) {
            match timeout(patience, resolve_at(&origin, request.clone())).await {
                Ok(Err(status)) if is_origins_fault(&status) => {
                    origin.failed();
                    last = status;
                }
                Ok(answer) => {
                    origin.answered();
                    return answer;
                }
                Err(_) => {
                    origin.failed();
                    last = Status::deadline_exceeded("no answer in time");
                }
            }
        }
        Err(last)
    }
}

async fn resolve_at(origin: &Member, request: ResolveRequest) -> Result<ResolveReply, Status> {
    let client = ContentClient::new(origin.channel.clone());
    let mut client = client.max_decoding_message_size(MAX_MANIFEST_MESSAGE);
    Ok(client.resolve(request).await?.into_inner())
}

fn is_origins_fault(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Internal | Code::Unknown | Code::Cancelled | Code::DataLoss
    )
}

fn failure(status: &Status) -> LookupError {
    if status.code() == Code::NotFound { LookupError::Absent } else { LookupError::Unavailable }
}

/// Whether the last answer stands while no origin answers. Of what is pulled, HTTP's rules decide, which the origin applies.
fn may_stand(site: &Site) -> bool {
    site.pull.is_none()
}

fn ttl(site: &Site) -> Duration {
    Duration::from_millis(site.policy.as_ref().map_or(0, |policy| policy.lookup_ttl_ms).into())
}
