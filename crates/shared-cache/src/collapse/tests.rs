use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::SystemTime,
};

use foyer::HybridCacheBuilder;
use http::{Request, Response, StatusCode, header, request::Parts};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use umbel_http_cache::{Policy, Purge, Purges};

use super::*;
use crate::{Answered, Ask, Place, Root, Shelves};

const WAITING: usize = 50;

fn root() -> Root<'static> {
    Root::new("site", true, "www.site")
}

/// Answers always in the same way, as often as it may.
#[derive(Debug)]
struct Provider {
    fields: &'static [(&'static str, &'static str)],
    status: StatusCode,
    length: usize,
    may: Semaphore,
    asked: AtomicUsize,
}

impl Ask for Provider {
    async fn ask(&self, _: &str, _: &Parts) -> Result<Response<HttpBody>, Failed> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.may.acquire().await.unwrap().forget();
        let response = Response::builder().status(self.status);
        let response = self.fields.iter().fold(response, |response, (name, value)| response.header(*name, *value));
        Ok(response.body(HttpBody::from(vec![b'x'; self.length])).unwrap())
    }
}

fn provider(status: u16, fields: &'static [(&'static str, &'static str)]) -> Provider {
    let status = StatusCode::from_u16(status).unwrap();
    Provider { fields, status, length: 100, may: Semaphore::new(0), asked: AtomicUsize::new(0) }
}

async fn cache(provider: Provider) -> Arc<SharedCache<Provider>> {
    let pieces = HybridCacheBuilder::new().memory(1 << 20).storage().build().await.unwrap();
    let place = Place { name: "test", policy: Policy::default(), serves_while_revalidating: false };
    SharedCache::new(place, Shelves::new(1 << 20), pieces, provider, (TaskTracker::new(), CancellationToken::new()))
}

fn request(fields: &[(&str, &str)]) -> Arc<Parts> {
    let request = fields.iter().fold(Request::get("/a"), |request, (name, value)| request.header(*name, *value));
    Arc::new(request.body(()).unwrap().into_parts().0)
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Got {
    status: StatusCode,
    body: String,
    collapsed: bool,
}

async fn got(answered: Answered) -> Got {
    let (status, body, said) = match answered {
        Answered::Stored(planned, said) => {
            let bytes = crate::bytes(planned.segments);
            let parts: Vec<_> = bytes.map(|part| part.unwrap().0.to_vec()).collect().await;
            (planned.status, parts.concat(), said)
        }
        Answered::Unshared(response, said) => {
            (response.status(), response.into_body().collect().await.unwrap().to_bytes().to_vec(), said)
        }
        Answered::Failed(failed, said) => (failed.status, failed.text.into_bytes(), said),
    };
    Got { status, body: String::from_utf8(body).unwrap(), collapsed: said.collapsed }
}

async fn everything_waits() {
    for _ in 0..10 * WAITING {
        tokio::task::yield_now().await;
    }
}

/// Many ask at once; what the first and the others get, and how often the provider's server was asked.
async fn crowd(cache: &Arc<SharedCache<Provider>>, fields: &'static [(&'static str, &'static str)]) -> (Got, Vec<Got>) {
    let mut waits = JoinSet::new();
    for number in 0..=WAITING {
        let cache = cache.clone();
        waits.spawn(async move { (number, got(cache.answer(&root(), request(fields)).await).await) });
    }
    everything_waits().await;
    assert_eq!(cache.ask().asked.load(Ordering::Relaxed), 1);
    cache.ask().may.add_permits(Semaphore::MAX_PERMITS / 2);
    let mut all = waits.join_all().await;
    all.sort_by_key(|(number, _)| *number);
    let mut all = all.into_iter().map(|(_, got)| got);
    (all.next().unwrap(), all.collect())
}

#[tokio::test]
async fn an_error_is_for_all_who_wait() {
    for status in [500, 503, 404] {
        let cache = cache(provider(status, &[("x-trace", "1")])).await;
        let (first, others) = crowd(&cache, &[]).await;
        assert_eq!((first.status.as_u16(), first.body.len(), first.collapsed), (status, 100, false));
        let expected = Got { collapsed: true, ..first };
        assert!(others.len() == WAITING && others.iter().all(|other| *other == expected), "{others:?}");
        assert_eq!(cache.ask().asked.load(Ordering::Relaxed), 1);
        // It was not stored, and coalescing goes on.
        cache.answer(&root(), request(&[])).await;
        assert_eq!(cache.ask().asked.load(Ordering::Relaxed), 2);
        cache.answer(&root(), request(&[])).await;
        assert_eq!(cache.ask().asked.load(Ordering::Relaxed), 3);
    }
}

#[tokio::test]
async fn of_a_long_or_personal_body_only_the_status_is_for_all() {
    let long = cache(Provider { length: SHORT + 1, ..provider(502, &[]) }).await;
    let personal = cache(provider(502, &[])).await;
    for (cache, fields) in [(long, &[][..]), (personal, &[("cookie", "a=b")])] {
        let (first, others) = crowd(&cache, fields).await;
        assert_eq!(first.body.len(), cache.ask().length);
        let text = "the server answers 502 Bad Gateway\n".to_owned();
        let expected = Got { status: StatusCode::BAD_GATEWAY, body: text, collapsed: true };
        assert!(others.iter().all(|other| *other == expected), "{others:?}");
        assert_eq!(cache.ask().asked.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn an_error_that_is_somebodys_own_is_not() {
    for fields in [&[("set-cookie", "a=b")], &[("cache-control", "no-store")], &[("cache-control", "private")]] {
        let cache = cache(provider(500, fields)).await;
        let (_, others) = crowd(&cache, &[]).await;
        assert!(others.iter().all(|other| !other.collapsed && other.body.len() == 100));
        assert_eq!(cache.ask().asked.load(Ordering::Relaxed), 1 + WAITING);
    }
}

#[tokio::test]
async fn who_has_something_stale_gets_that() {
    let fields = &[("cache-control", "max-age=0, stale-if-error=60"), ("etag", "\"a\"")];
    let cache = cache(Provider { length: 3, ..provider(200, fields) }).await;
    cache.ask().may.add_permits(1);
    got(cache.answer(&root(), request(&[])).await).await;
    let error = cache.ask().asked.load(Ordering::Relaxed);
    assert_eq!(error, 1);
    let question = crate::fetch::Question {
        site_id: "site".into(),
        key: crate::Key::of(&root(), &request(&[]).uri),
        request: request(&[]),
        basis: cache.shelves().get(&crate::Key::of(&root(), &request(&[]).uri)),
        about: Some(0),
        conditional: None,
    };
    match question.shared(&cache, error_of(&cache, 0)) {
        Some(Answer::Stored(variant, note)) => {
            assert_eq!((variant.stored().status(), note.detail), (StatusCode::OK, Some("stale-if-error")));
        }
        other => panic!("{other:?}"),
    }
    let without = crate::fetch::Question { about: None, ..question };
    assert!(
        matches!(without.shared(&cache, error_of(&cache, 0)), Some(Answer::Stored(error, _)) if error.stored().status() == 500)
    );
}

/// An error that answers a question of this epoch.
fn error_of(cache: &SharedCache<Provider>, epoch: u64) -> Variant {
    let exchange = umbel_http_cache::Exchange { requested: SystemTime::now(), received: SystemTime::now() };
    let response = Response::builder().status(500).body(()).unwrap().into_parts().0;
    let error = umbel_http_cache::shared_error(&request(&[]), &response, exchange, &cache.policy).unwrap();
    for_all(cache, error, None, Stamp::new(epoch))
}

#[tokio::test]
async fn who_comes_after_a_purge_gets_no_error_of_before() {
    let cache = cache(provider(404, &[])).await;
    let before = tokio::spawn({
        let cache = cache.clone();
        async move { got(cache.answer(&root(), request(&[])).await).await }
    });
    everything_waits().await;
    let mut purges = Purges::default();
    purges.purge(&[Purge { site: "site".into(), targets: vec!["/a".into()], ..Purge::default() }]);
    cache.apply(&purges);
    let after = tokio::spawn({
        let cache = cache.clone();
        async move { got(cache.answer(&root(), request(&[(header::ACCEPT.as_str(), "*/*")])).await).await }
    });
    everything_waits().await;
    assert_eq!(cache.ask().asked.load(Ordering::Relaxed), 1);
    cache.ask().may.add_permits(2);
    assert!(!before.await.unwrap().collapsed);
    assert!(!after.await.unwrap().collapsed);
    assert_eq!(cache.ask().asked.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_holds_nobody_up() {
    let slow = stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"begun")) }).chain(stream::pending());
    let (mut body, bytes) = read(HttpBody::from_stream(slow)).await;
    assert_eq!(bytes, Read::NotAll);
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "begun");
    let broken = [Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("broken"))];
    let (body, bytes) = read(HttpBody::from_stream(stream::iter(broken))).await;
    assert_eq!(bytes, Read::Broken);
    assert!(body.collect().await.is_err());
}
