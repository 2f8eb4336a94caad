//! Conversations between readers, the cache and a provider's server.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::body::Body as HttpBody;
use bytes::Bytes;
use foyer::HybridCacheBuilder;
use futures::{FutureExt, StreamExt, stream};
use http::{Method, Request, Response, StatusCode, Uri, request::Parts};
use http_body_util::BodyExt;
use tokio::{sync::Semaphore, task::JoinSet, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use umbel_http_cache::{Policy, Purge, Purges};

use crate::{Answered, Ask, Failed, Key, Place, Root, SharedCache, Shelves, body::SHORT};

/// How a body comes.
enum Comes {
    Whole(Bytes),
    /// In chunks: nobody says how long it is.
    InChunks(Bytes),
    /// The head says that there are so many bytes; these come, and the connection breaks.
    Breaks(usize, Bytes),
    /// These come, and then nothing.
    Stops(Bytes),
    Endless,
}

type Answers = Box<dyn Fn(usize, &Parts) -> (String, Comes) + Send + Sync>;

struct Server {
    answers: Answers,
    may: Semaphore,
    asked: Mutex<Vec<String>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// The conditions and the range of each question.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Ask for Server {
    async fn ask(&self, _: &str, request: &Parts) -> Result<Response<HttpBody>, Failed> {
        let number = {
            let mut asked = self.asked.lock().unwrap();
            let said = ["if-none-match", "range"].iter().filter_map(|name| request.headers.get(*name)?.to_str().ok());
            asked.push(said.collect::<Vec<_>>().join(" "));
            asked.len()
        };
        self.may.acquire().await.unwrap().forget();
        let (head, comes) = (self.answers)(number, request);
        let (status, fields) = head.split_once(' ').unwrap_or((&head, ""));
        let fields = fields.split(" | ").filter_map(|field| field.split_once(": "));
        let response = fields.fold(Response::builder().status(status), |head, (name, value)| head.header(name, value));
        let (length, body) = match comes {
            Comes::Whole(bytes) => (Some(bytes.len()), HttpBody::from(bytes)),
            Comes::InChunks(bytes) => (None, HttpBody::from_stream(stream::iter([Ok::<_, io::Error>(bytes)]))),
            Comes::Breaks(length, bytes) => {
                let frames = [Ok(bytes), Err(io::Error::other("broken"))];
                (Some(length), HttpBody::from_stream(stream::iter(frames)))
            }
            Comes::Stops(bytes) => {
                let frames = stream::iter([Ok::<_, io::Error>(bytes)]).chain(stream::pending());
                (None, HttpBody::from_stream(frames))
            }
            Comes::Endless => {
                let frames = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from(vec![0; 1 << 20])));
                (None, HttpBody::from_stream(frames))
            }
        };
        let response = length.into_iter().fold(response, |head, length| head.header("content-length", length));
        Ok(response.body(body).unwrap())
    }
}

type Cache = Arc<SharedCache<Server>>;

fn root() -> Root<'static> {
    Root::new("site", true, "www.site")
}

async fn cache(answers: impl Fn(usize, &Parts) -> (String, Comes) + Send + Sync + 'static) -> Cache {
    let pieces = HybridCacheBuilder::new().memory(1 << 24).storage().build().await.unwrap();
    let place = Place { name: "test", policy: Policy::default(), serves_while_revalidating: false };
    let may = Semaphore::new(Semaphore::MAX_PERMITS / 2);
    let server = Server { answers: Box::new(answers), may, asked: Mutex::default() };
    SharedCache::new(place, Shelves::new(1 << 24), pieces, server, (TaskTracker::new(), CancellationToken::new()))
}

/// `GET /a?b x: y | z: w`, without the method if that is GET.
fn request(text: &str) -> Arc<Parts> {
    let (method, text) = text.split_once(" /").map_or((Method::GET, text), |(method, _)| match method.parse() {
        Ok(known) if method.chars().all(char::is_uppercase) => (known, &text[method.len() + 1..]),
        _ => (Method::GET, text),
    });
    let (target, fields) = text.split_once(' ').unwrap_or((text, ""));
    let fields = fields.split(" | ").filter_map(|field| field.split_once(": "));
    let request = fields.fold(Request::get(target).method(method), |head, (name, value)| head.header(name, value));
    Arc::new(request.body(()).unwrap().into_parts().0)
}

/// What a reader gets: status, fields that begin with `x-`, and the length of the body, or how it ends.
async fn get(cache: &Cache, text: &str) -> String {
    let (status, headers, body) = match cache.answer(&root(), request(text)).await {
        Answered::Stored(planned, _) => {
            let parts: Vec<_> = crate::bytes(planned.segments).collect().await;
            let parts: Result<Vec<_>, _> = parts.into_iter().collect();
            let length = parts.map(|parts| parts.iter().map(|(bytes, _)| bytes.len()).sum::<usize>());
            (planned.status, planned.headers, length.map_err(|error| error.to_string()))
        }
        Answered::Unshared(response, _) => {
            let (head, body) = response.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes().len());
            (head.status, head.headers, body.map_err(|error| error.to_string()))
        }
        Answered::Failed(failed, _) => return failed.reason,
    };
    let own = headers.iter().filter(|(name, _)| name.as_str().starts_with("x-"));
    let own: String = own.map(|(name, value)| format!(" {name}={}", value.to_str().unwrap())).collect();
    let body = body.map_or_else(|error| error, |length| length.to_string());
    format!("{}{own} {body}", status.as_u16())
}

async fn everything_waits() {
    for _ in 0..2000 {
        tokio::task::yield_now().await;
    }
}

/// All of these ask while the first question is out.
async fn crowd(cache: &Cache, texts: impl IntoIterator<Item = String>) -> Vec<String> {
    let may = cache.ask().may.forget_permits(usize::MAX >> 4);
    let mut waits = JoinSet::new();
    for text in texts {
        let cache = cache.clone();
        waits.spawn(async move { get(&cache, &text).await });
    }
    everything_waits().await;
    cache.ask().may.add_permits(may);
    waits.join_all().await
}

fn whole(length: usize) -> Comes {
    Comes::Whole(vec![b'x'; length].into())
}

const STALE: &str = "200 cache-control: max-age=0, stale-if-error=600 | etag: \"a\"";

#[tokio::test]
async fn a_validation_that_breaks_off_leaves_what_was_stored() {
    for (length, first) in [(9, "200 3"), (SHORT + 1, "200 the body was cut off on its way here")] {
        let cache = cache(move |number, _| match number {
            1 => (STALE.into(), whole(3)),
            2 => ("200 cache-control: max-age=60".into(), Comes::Breaks(length, Bytes::from_static(b"half"))),
            _ => ("503".into(), whole(0)),
        })
        .await;
        assert_eq!(get(&cache, "/a").await, "200 3");
        assert_eq!(get(&cache, "/a").await, first, "{length}");
        everything_waits().await;
        assert_eq!(get(&cache, "/a").await, "200 3", "{length}");
        assert_eq!(cache.ask().asked(), ["", "\"a\"", "\"a\""]);
    }
}

#[tokio::test]
async fn what_was_forgotten_does_not_come_back() {
    let cache = cache(|number, _| match number {
        1 => (STALE.into(), whole(3)),
        2 => ("200 cache-control: max-age=60".into(), Comes::Stops(Bytes::from_static(b"half"))),
        _ => ("503".into(), whole(0)),
    })
    .await;
    get(&cache, "/a").await;
    cache.answer(&root(), request("/a")).await;
    cache.forget(&root(), &Uri::from_static("/a"));
    cache.shutdown.cancel();
    cache.tasks.close();
    cache.tasks.wait().await;
    assert!(cache.shelves().get(&Key::of(&root(), &Uri::from_static("/a"))).is_empty());
}

/// Of one that is short the reader hears before anything of it has left.
#[tokio::test]
async fn a_body_of_another_length_is_cut_off() {
    for (said, end) in [(100, "broken"), (100_000, "the body was cut off on its way here")] {
        let part = format!("206 cache-control: max-age=60 | content-range: bytes 0-{}/1000000 | etag: \"a\"", said - 1);
        for (head, asked) in [
            (part, format!("/a range: bytes=0-{}", said - 1)),
            (format!("200 cache-control: max-age=60 | content-length: {said}"), "/a".to_owned()),
        ] {
            for length in [said / 2, said + 1] {
                let head = head.clone();
                let cache = cache(move |_, _| (head.clone(), Comes::InChunks(vec![0; length].into()))).await;
                let got = get(&cache, &asked).await;
                assert!(got.ends_with(end), "{asked} {length}: {got}");
                get(&cache, &asked).await;
                assert_eq!(cache.ask().asked().len(), 2);
            }
        }
    }
}

#[tokio::test]
async fn one_readers_request_does_not_end_coalescing() {
    for own in ["authorization: x", "cache-control: no-store", "x-cookie: too-long"] {
        let cache = cache(|_, request| {
            let too_long = request.headers.contains_key("x-cookie");
            (if too_long { "431" } else { "200 cache-control: max-age=60" }.to_owned(), whole(3))
        })
        .await;
        get(&cache, &format!("/a {own}")).await;
        let got = crowd(&cache, (0..50).map(|_| "/a".to_owned())).await;
        assert!(got.iter().all(|got| got == "200 3"), "{got:?}");
        assert_eq!(cache.ask().asked().len(), 2, "{own}");
    }
}

#[tokio::test]
async fn who_is_known_asks_with_others_where_that_is_allowed() {
    // One, and one more for those who came while that was out.
    for (said, expected) in [("public, max-age=0", 3), ("max-age=0", 51)] {
        let cache = cache(move |number, _| match number {
            1 => (format!("200 cache-control: {said} | etag: \"a\""), whole(3)),
            _ => ("304".into(), whole(0)),
        })
        .await;
        get(&cache, "/a").await;
        let got = crowd(&cache, (0..50).map(|user| format!("/a authorization: {user}"))).await;
        assert!(got.iter().all(|got| got == "200 3"), "{got:?}");
        assert_eq!(cache.ask().asked().len(), expected, "{said}");
    }
}

/// The second question goes out when all have come, so its answer is as new for each of them as his own would be.
#[tokio::test]
async fn what_is_to_be_validated_each_time_is_validated_once_for_all_who_came_before() {
    for (said, expected) in
        [("no-cache", vec!["", "\"a\""]), ("max-age=0, must-revalidate", vec!["", "\"a\""]), ("max-age=60", vec![""])]
    {
        let cache = cache(move |number, _| match number {
            1 => (format!("200 cache-control: {said} | etag: \"a\""), whole(3)),
            _ => ("304".into(), whole(0)),
        })
        .await;
        let got = crowd(&cache, (0..200).map(|_| "/a".to_owned())).await;
        assert!(got.iter().all(|got| got == "200 3"), "{got:?}");
        assert_eq!(cache.ask().asked(), expected, "{said}");
    }
    let cache = cache(|_, _| ("200 cache-control: max-age=60 | etag: \"a\"".into(), whole(3))).await;
    get(&cache, "/a").await;
    crowd(&cache, (0..50).map(|_| "/a cache-control: no-cache".to_owned())).await;
    assert_eq!(cache.ask().asked().len(), 3, "reloads");
}

#[tokio::test]
async fn what_is_private_is_asked_for_by_each() {
    let cache = cache(|_, _| ("200 cache-control: private".into(), whole(3))).await;
    crowd(&cache, (0..50).map(|_| "/a".to_owned())).await;
    assert_eq!(cache.ask().asked().len(), 50);
}

#[tokio::test]
async fn of_each_group_one_asks() {
    let cache = cache(|_, request| {
        let group = request.headers["x-group"].to_str().unwrap().len();
        ("200 cache-control: max-age=60 | vary: x-group".into(), whole(group))
    })
    .await;
    let names = (0..500).map(|number| format!("/a x-group: {}", "g".repeat(1 + number % 20)));
    let got = crowd(&cache, names).await;
    assert_eq!(got.len(), 500);
    for group in 1..=20 {
        assert_eq!(got.iter().filter(|got| **got == format!("200 {group}")).count(), 25);
    }
    assert_eq!(cache.ask().asked().len(), 20);
}

#[tokio::test]
async fn fields_that_are_not_stored_are_for_the_asker() {
    let cache = cache(|number, _| match number {
        1 => ("200 cache-control: max-age=0, private=\"x-user\" | etag: \"a\" | x-user: 1".into(), whole(3)),
        2 => ("304 x-user: 2".into(), whole(0)),
        _ => ("304 cache-control: max-age=60, private=\"x-user\" | x-user: 3".into(), whole(0)),
    })
    .await;
    for expected in ["200 x-user=1 3", "200 x-user=2 3", "200 x-user=3 3", "200 3"] {
        assert_eq!(get(&cache, "/a").await, expected);
    }
}

#[tokio::test]
async fn the_range_from_the_first_byte_on_brings_the_whole() {
    let shared = cache(|_, _| ("200 cache-control: max-age=60".into(), whole(9))).await;
    assert_eq!(get(&shared, "/a range: bytes=0-").await, "206 9");
    assert_eq!(get(&shared, "/a").await, "200 9");
    assert_eq!(shared.ask().asked(), [""]);
    let private = cache(|_, _| ("200 cache-control: private".into(), whole(9))).await;
    assert_eq!(get(&private, "/a range: bytes=0-").await, "206 9");
    get(&private, "/a range: bytes=0-").await;
    assert_eq!(private.ask().asked(), ["", "bytes=0-"], "what is private is asked for as the reader does");
}

#[tokio::test]
async fn a_readers_copy_of_what_is_private_is_validated() {
    let cache = cache(|_, request| match request.headers.contains_key("if-none-match") {
        true => ("304 etag: \"a\"".into(), whole(0)),
        false => ("200 cache-control: private | etag: \"a\"".into(), whole(9)),
    })
    .await;
    for _ in 0..2 {
        assert_eq!(get(&cache, "/a if-none-match: \"a\"").await, "304 0");
    }
    assert_eq!(cache.ask().asked(), ["", "\"a\""]);
}

#[tokio::test(start_paused = true)]
async fn nobody_begins_to_wait_for_a_body_that_is_silent() {
    let cache = cache(|number, _| match number {
        1 => ("200 cache-control: max-age=60".into(), Comes::Stops(Bytes::from_static(b"begun"))),
        _ => ("200 cache-control: max-age=60".into(), whole(9)),
    })
    .await;
    cache.answer(&root(), request("/a")).await;
    everything_waits().await;
    assert!(get(&cache, "/a").now_or_never().is_none());
    assert_eq!(cache.ask().asked().len(), 1, "it may still come");
    time::sleep(Duration::from_secs(5)).await;
    assert_eq!(get(&cache, "/a").await, "200 9");
    assert_eq!(get(&cache, "/a").await, "200 9");
    assert_eq!(cache.ask().asked().len(), 2);
}

#[tokio::test]
async fn what_has_no_end_is_not_taken_in_for_nobody() {
    let cache = cache(|_, _| ("200 cache-control: max-age=60".into(), Comes::Endless)).await;
    let Answered::Stored(planned, _) = cache.answer(&root(), request("/a")).await else { panic!("it is stored") };
    drop(planned);
    cache.tasks.close();
    time::timeout(Duration::from_secs(60), cache.tasks.wait()).await.expect("it is given up");
    assert!(cache.shelves().get(&Key::of(&root(), &Uri::from_static("/a"))).is_empty());
}

#[tokio::test]
async fn what_was_asked_for_before_a_change_is_not_stored() {
    let cache = cache(|number, _| ("200 cache-control: max-age=60".into(), whole(number))).await;
    let may = cache.ask().may.forget_permits(usize::MAX >> 4);
    let before = tokio::spawn({
        let cache = cache.clone();
        async move { get(&cache, "/a").await }
    });
    everything_waits().await;
    let response = Response::builder().status(201).header("location", "https://www.site/a").body(()).unwrap();
    let fields = "x-forwarded-host: www.site | x-forwarded-proto: https";
    cache.passed(&root(), &request(&format!("POST /posts {fields}")), &response.into_parts().0);
    let after = tokio::spawn({
        let cache = cache.clone();
        async move { get(&cache, "/a").await }
    });
    everything_waits().await;
    cache.ask().may.add_permits(may);
    assert_eq!(before.await.unwrap(), "200 1");
    assert_eq!(after.await.unwrap(), "200 2", "he came after it");
    assert_eq!(get(&cache, "/a").await, "200 2");
}

#[tokio::test]
async fn a_purge_of_something_else_changes_no_shelf() {
    let cache = cache(|_, _| ("200 cache-control: max-age=60".into(), whole(3))).await;
    get(&cache, "/%70rivate").await;
    let key = Key::of(&root(), &Uri::from_static("/private"));
    let before = cache.shelves().get(&key);
    let mut purges = Purges::default();
    let mut purge = |target: &str| {
        purges.purge(&[Purge { site: "site".into(), targets: vec![target.into()], ..Purge::default() }]);
        cache.apply(&purges);
    };
    purge("/b");
    assert_eq!(get(&cache, "/private").await, "200 3");
    assert!(Arc::ptr_eq(&before, &cache.shelves().get(&key)) && before[0].stamp().epoch() == 1);
    purge("/priv%61te");
    get(&cache, "/private").await;
    assert_eq!(cache.ask().asked().len(), 2);
}

#[tokio::test]
async fn who_may_not_store_leaves_it_to_others() {
    let cache = cache(|number, _| match number {
        1 => ("200 cache-control: max-age=60 | etag: \"a\"".into(), whole(3)),
        _ => ("304".into(), whole(0)),
    })
    .await;
    get(&cache, "/a").await;
    assert_eq!(get(&cache, "/a authorization: garbage | cache-control: no-cache").await, "200 3");
    assert_eq!(get(&cache, "/a").await, "200 3");
    assert_eq!(cache.ask().asked().len(), 2);
    assert_eq!(StatusCode::OK, cache.shelves().get(&Key::of(&root(), &Uri::from_static("/a")))[0].stored().status());
}

#[tokio::test]
async fn what_one_host_redirects_to_is_not_what_the_other_answers() {
    let cache = cache(|_, request| match request.headers["x-forwarded-host"] == "site" {
        true => ("301 cache-control: max-age=60 | location: https://www.site/".into(), whole(0)),
        false => ("200 cache-control: max-age=60".into(), whole(3)),
    })
    .await;
    for (host, expected) in [("site", 301), ("www.site", 200), ("site", 301)] {
        let request = request(&format!("/ x-forwarded-host: {host}"));
        let answered = cache.answer(&Root::new("site", true, host), request).await;
        let Answered::Stored(planned, _) = answered else { panic!("{host}: {answered:?}") };
        assert_eq!(planned.status.as_u16(), expected, "{host}");
    }
    assert_eq!(cache.ask().asked().len(), 2);
}
