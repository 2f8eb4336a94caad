//! Long bodies of pulled sites become versions, as uploads do, while they come in: so agents can share them. Whoever asked is
//! not held up by it, and a body that does not come to its end leaves nothing behind.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use http::{HeaderMap, Method, StatusCode, Uri, header, request::Parts};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio::sync::{oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info};
use umbel_content::{ObjectPath, PathError};
use umbel_http_cache::{Policy, Stored};
use umbel_service::installation::Installation;
use umbel_shared_cache::{Elsewhere, Keeping, Variant};

use crate::{
    intake::{Body, IntakeError},
    record::Head,
    site::Site,
    store::{Condition, StoreError, now_ms},
    version::{Label, Shelf, Terms, random_name},
};

/// From this length on a body becomes a version, unless the site's policy says otherwise.
const SHARE_ABOVE: u64 = 1024 * 1024;

/// Bodies that become versions at once; each takes up to about 20 MB of memory meanwhile. More are not shared.
const AT_ONCE: usize = 8;

/// Fields of a response that a version keeps.
const KEPT: [header::HeaderName; 4] =
    [header::CACHE_CONTROL, header::CONTENT_DISPOSITION, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE];

/// What stands for itself in the path of a URI (RFC 3986, section 3.3).
const NOT_IN_PATHS: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Makes versions of bodies.
#[derive(Debug, Clone)]
pub(crate) struct Versions {
    shelf: Shelf,
    installation: watch::Receiver<Arc<Installation>>,
    tasks: TaskTracker,
    end: CancellationToken,
}

impl Versions {
    pub(crate) fn new(
        shelf: &Shelf,
        installation: watch::Receiver<Arc<Installation>>,
        (tasks, end): (TaskTracker, CancellationToken),
    ) -> Self {
        let shelf = Shelf::for_at_once(shelf.store.clone(), AT_ONCE);
        Self { shelf, installation, tasks, end }
    }

    /// Begins to make a version of a response that begins to come in, if it is one to be shared.
    pub(super) fn begin(&self, site_id: &str, request: &Parts, variant: &Variant) {
        if !is_for_agents(request, variant.stored()) {
            return;
        }
        let (least, length) = (self.least(site_id), length(variant.stored().headers()));
        if length.is_some_and(|length| length < least) {
            return;
        }
        let (Ok(path), Some(site)) = (object_path(&request.uri), self.site(site_id)) else { return };
        let keeping = length.map(|_| variant.body().keep_elsewhere());
        let (versions, variant, end) = (self.clone(), variant.clone(), self.end.clone());
        self.tasks.spawn(end.run_until_cancelled_owned(async move {
            let keeping = match keeping {
                Some(keeping) => keeping,
                None if variant.body().reaches(least).await => variant.body().keep_elsewhere(),
                None => return,
            };
            let shown = path.to_string();
            match versions.seal(site, path, variant.stored(), length, keeping).await {
                Ok(version) => info!(path = shown, version, "a body that was pulled is a version now"),
                Err(error) => {
                    debug!(path = shown, error = &error as &dyn std::error::Error, "a body did not become a version");
                }
            }
        }));
    }

    fn site(&self, id: &str) -> Option<Site> {
        Site::by_id(&self.installation.borrow(), id)
    }

    fn least(&self, site_id: &str) -> u64 {
        let installation = self.installation.borrow();
        let policy = installation.sites.get(site_id).and_then(|site| site.policy.as_ref());
        policy.map(|policy| policy.share_above).filter(|bytes| *bytes > 0).unwrap_or(SHARE_ABOVE)
    }

    async fn seal(
        &self,
        site: Site,
        path: ObjectPath,
        stored: &Stored,
        length: Option<u64>,
        keeping: Keeping,
    ) -> Result<String, IntakeError> {
        let (bytes, kept) = bytes(keeping);
        let terms = Terms { expires_ms: expires_ms(stored), ..Terms::plain(Condition::Always, Some(random_name())) };
        let head = self.shelf.take_in(&site, label(path, stored.headers()), Body::new(bytes, length), terms).await?;
        let version = head.version().map_err(StoreError::from)?;
        self.shelf.store.mark(&site.id, &version, head.next_look()).await?;
        let name = version.to_string();
        if let Ok(keeping) = kept.await {
            let shelf = self.shelf.clone();
            keeping.done(Arc::new(Sealed { name: name.clone(), shelf, site, head }));
        }
        Ok(name)
    }
}

/// The bytes of a body, and the right to say that it is elsewhere, once all of them were taken.
fn bytes(keeping: Keeping) -> (BoxStream<'static, Result<Bytes, IntakeError>>, oneshot::Receiver<Keeping>) {
    let (end, ended) = oneshot::channel();
    let bytes = stream::unfold(Some((keeping, end)), |state| async move {
        let (mut keeping, end) = state?;
        match keeping.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some((keeping, end)))),
            Ok(None) => {
                // Whoever waits for it may have given up.
                drop(end.send(keeping));
                None
            }
            Err(error) => Some((Err(IntakeError::Broken(error.into())), None)),
        }
    });
    (bytes.fuse().boxed(), ended)
}

/// Agents ask without any fields, and know no cookies.
fn is_for_agents(request: &Parts, stored: &Stored) -> bool {
    request.method == Method::GET
        && stored.status() == StatusCode::OK
        && stored.part().is_none()
        && !stored.headers().contains_key(header::SET_COOKIE)
        && stored.matches(&HeaderMap::new(), &Policy::default())
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn label(path: ObjectPath, headers: &HeaderMap) -> Label {
    let text = |name: &header::HeaderName| headers.get(name)?.to_str().ok().map(str::to_owned);
    let fields = KEPT.iter().filter_map(|name| Some((name.to_string(), text(name)?)));
    let media_type = text(&header::CONTENT_TYPE).filter(|text| text.contains('/'));
    Label {
        path,
        media_type: media_type.unwrap_or_else(|| "application/octet-stream".to_owned()),
        fields: fields.collect(),
        metadata: BTreeMap::new(),
    }
}

fn expires_ms(stored: &Stored) -> u64 {
    let left = u64::try_from(stored.freshness(SystemTime::now()).ttl()).unwrap_or(0);
    now_ms().saturating_add(left.saturating_mul(1000))
}

/// The name of the object that a URL of a pulled site means: its path, decoded, and its query as it is.
pub(super) fn object_path(uri: &Uri) -> Result<ObjectPath, PathError> {
    let path = ObjectPath::from_uri(uri.path())?;
    // It would look like one with a query; and nobody could keep what has no name.
    if path.as_str().contains('?') || path.key().is_empty() {
        return Err(PathError::Encoding);
    }
    match uri.query() {
        Some(query) => ObjectPath::from_decoded(&format!("{path}?{query}")),
        None => Ok(path),
    }
}

/// The request target for an object's name.
pub(super) fn target(path: &ObjectPath) -> Option<Uri> {
    let (path, query) =
        path.as_str().split_once('?').map_or((path.as_str(), None), |(path, query)| (path, Some(query)));
    let encoded = utf8_percent_encode(path, NOT_IN_PATHS).to_string();
    query.map_or(encoded.clone(), |query| format!("{encoded}?{query}")).parse().ok()
}

/// A body that is a version.
#[derive(Debug)]
struct Sealed {
    name: String,
    shelf: Shelf,
    site: Site,
    head: Head,
}

impl Elsewhere for Sealed {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&self, offset: u64) -> BoxFuture<'static, Option<Bytes>> {
        let pieces = self.shelf.plaintext(&self.site, &self.head, offset..self.head.length);
        async move { pieces.ok()?.next().await?.ok() }.boxed()
    }
}

/// How long somebody who wants a version waits for one that is being made.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_targets() {
        let check = |target_text: &str, name: Option<&str>, back: &str| {
            let path = object_path(&target_text.parse().unwrap()).ok();
            assert_eq!(path.as_ref().map(ObjectPath::as_str), name, "{target_text}");
            if let Some(path) = path {
                assert_eq!(target(&path).unwrap().to_string(), back, "{target_text}");
            }
        };
        check("/a/b.bin", Some("/a/b.bin"), "/a/b.bin");
        check("/a+b(1)~%20%C3%BC", Some("/a+b(1)~ \u{fc}"), "/a+b(1)~%20%C3%BC");
        check("/a?x=%20&y", Some("/a?x=%20&y"), "/a?x=%20&y");
        check("/a%3Fb", None, "");
        check("/a%2Fb", None, "");
        check("/", None, "");
        check("/a/../b", None, "");
    }
}
