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
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use tokio::sync::{oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info};
use umbel_content::{MAX_FIELD_BYTES, ObjectPath};
use umbel_http_cache::{CACHE_TAG, Policy, SURROGATE_KEY, Stored};
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
const KEPT: [HeaderName; 4] =
    [header::CACHE_CONTROL, header::CONTENT_DISPOSITION, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE];

/// Fields that it has to keep, since it may be purged by them, and what separates the names in them.
const PURGED_BY: [(HeaderName, &str); 2] = [(SURROGATE_KEY, " "), (CACHE_TAG, ",")];

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
        let (Some(path), Some(site)) = (object_path(request), self.site(site_id)) else { return };
        let Some(label) = label(path, variant.stored().headers()) else { return };
        let keeping = length.map(|_| variant.body().keep_elsewhere());
        let (versions, variant, end) = (self.clone(), variant.clone(), self.end.clone());
        self.tasks.spawn(end.run_until_cancelled_owned(async move {
            let keeping = match keeping {
                Some(keeping) => keeping,
                None if variant.body().reaches(least).await => variant.body().keep_elsewhere(),
                None => return,
            };
            let shown = label.path.to_string();
            match versions.seal(site, label, variant.stored(), length, keeping).await {
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
        label: Label,
        stored: &Stored,
        length: Option<u64>,
        keeping: Keeping,
    ) -> Result<String, IntakeError> {
        let (bytes, kept) = bytes(keeping);
        let terms = Terms { expires_ms: expires_ms(stored), ..Terms::plain(Condition::Always, Some(random_name())) };
        let head = self.shelf.take_in(&site, label, Body::new(bytes, length), terms).await?;
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

fn object_path(request: &Parts) -> Option<ObjectPath> {
    ObjectPath::from_target(request.uri.path_and_query()?.as_str()).ok()
}

/// None where a version could not be purged by what the response can be purged by.
fn label(path: ObjectPath, headers: &HeaderMap) -> Option<Label> {
    let media_type = text(headers, &header::CONTENT_TYPE).filter(|text| text.contains('/'));
    Some(Label {
        path,
        media_type: media_type.unwrap_or_else(|| "application/octet-stream".to_owned()),
        fields: kept(headers)?,
        metadata: BTreeMap::new(),
    })
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn kept(headers: &HeaderMap) -> Option<BTreeMap<String, String>> {
    let mut kept: BTreeMap<_, _> =
        KEPT.iter().filter_map(|name| Some((name.to_string(), text(headers, name)?))).collect();
    for (name, separator) in PURGED_BY.iter().filter(|(name, _)| headers.contains_key(name)) {
        let texts = headers.get_all(name).iter().map(HeaderValue::to_str);
        let names = texts.collect::<Result<Vec<_>, _>>().ok()?.join(separator);
        kept.insert(name.to_string(), names.trim().to_owned());
    }
    let bytes: usize = kept.iter().map(|(name, value)| name.len() + value.len()).sum();
    (bytes <= MAX_FIELD_BYTES).then_some(kept)
}

fn expires_ms(stored: &Stored) -> u64 {
    let left = u64::try_from(stored.freshness(SystemTime::now()).ttl()).unwrap_or(0);
    now_ms().saturating_add(left.saturating_mul(1000))
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

    fn check(fields: &[(&'static str, &str)], expected: Option<&[(&str, &str)]>) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let expected = expected.map(|fields| {
            fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
        });
        assert_eq!(kept(&headers), expected, "{fields:?}");
    }

    #[test]
    fn what_a_version_keeps_of_a_response() {
        check(&[("etag", "\"a\""), ("cache-control", "max-age=1")], Some(&[("cache-control", "max-age=1")]));
        check(
            &[("surrogate-key", "a b"), ("surrogate-key", "c"), ("cache-tag", "d"), ("cache-tag", "e f")],
            Some(&[("surrogate-key", "a b c"), ("cache-tag", "d,e f")]),
        );
        check(&[("content-language", "\u{fc}")], Some(&[]));
        check(&[("cache-tag", "\u{fc}")], None);
        check(&[("surrogate-key", &"k ".repeat(MAX_FIELD_BYTES))], None);
    }
}
