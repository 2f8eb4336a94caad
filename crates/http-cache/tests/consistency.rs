//! Whatever clients ask and whenever the origin changes or fails: every answer is of one version, whole or the very bytes asked for, and not
//! older than the origin allows. A hit is answered by the same rules as a fill, from wholes and from parts put together.

#![expect(clippy::unwrap_used, reason = "the origin here is well behaved")]

mod shell;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{CONTENT_RANGE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, request};
use proptest::prelude::*;
use shell::Cache;
use umbel_http_cache::{Policy, RangeOutcome, content_range, http_date, parse_content_range, select};

const LENGTH: u64 = 20;
const MAX_AGE: u64 = 10;
const STALE: u64 = 5;

#[derive(Debug, Clone)]
enum Step {
    /// Time passes, in tenths of seconds.
    Wait(u64),
    /// The origin has something new.
    Change,
    /// A request with a range, the versions before the present one whose tag goes in `If-None-Match` and `If-Range`, and `Cache-Control`.
    Get { range: Option<(u64, u64)>, none_match: Option<usize>, if_range: Option<usize>, asks: &'static str },
    /// The same for HEAD.
    Head,
    /// The origin changes by a request.
    Put,
    /// The origin fails for the next request.
    Fail,
}

struct World {
    cache: Cache,
    now: SystemTime,
    /// When each version came.
    since: Vec<SystemTime>,
    weak: bool,
    /// What it says of the freshness of its answers.
    says: &'static str,
}

/// The content of a version, of which no byte is that of another version.
fn content(version: usize) -> Vec<u8> {
    (0..LENGTH).map(|at| (version as u64 * 31 + at) as u8).collect()
}

impl World {
    fn new(says: &'static str, weak: bool) -> Self {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Self { cache: Cache::new(Policy::default()), now, since: vec![now], weak, says }
    }

    fn tag(&self, version: usize) -> HeaderValue {
        let weak = if self.weak { "W/" } else { "" };
        HeaderValue::try_from(format!("{weak}\"{version}\"")).unwrap()
    }

    fn version_of(&self, response: &Response<Vec<u8>>) -> usize {
        (0..self.since.len()).find(|version| response.headers()[ETAG] == self.tag(*version)).unwrap()
    }

    fn earlier(&self, back: usize) -> HeaderValue {
        self.tag(self.since.len() - 1 - back.min(self.since.len() - 1))
    }

    fn send(&mut self, method: Method, headers: HeaderMap, fails: bool) -> Response<Vec<u8>> {
        let mut request = Request::builder().method(method).uri("http://a.example/").body(Vec::new()).unwrap();
        *request.headers_mut() = headers;
        let (version, now, says) = (self.since.len() - 1, self.now, self.says);
        let tag = self.tag(version);
        let mut origin =
            |request: &request::Parts, _: &[u8]| (!fails).then(|| origin(request, version, &tag, says, now));
        self.cache.handle(request, now, &mut origin)
    }

    fn get(&mut self, step: &Step, fails: bool) -> Result<(), TestCaseError> {
        let Step::Get { range, none_match, if_range, asks } = step else { return Ok(()) };
        let mut headers = HeaderMap::new();
        headers.extend(range.map(|(first, last)| (RANGE, format!("bytes={first}-{last}").parse().unwrap())));
        headers.extend(none_match.map(|back| (IF_NONE_MATCH, self.earlier(back))));
        headers.extend(if_range.filter(|_| range.is_some()).map(|back| (IF_RANGE, self.earlier(back))));
        if !asks.is_empty() {
            headers.insert("cache-control", HeaderValue::from_static(asks));
        }
        let response = self.send(Method::GET, headers.clone(), fails);
        self.check(&headers, &response, fails)
    }

    fn check(&self, asked: &HeaderMap, response: &Response<Vec<u8>>, fails: bool) -> Result<(), TestCaseError> {
        match response.status() {
            StatusCode::BAD_GATEWAY => prop_assert!(fails),
            StatusCode::GATEWAY_TIMEOUT => prop_assert_eq!(&asked["cache-control"], "only-if-cached"),
            StatusCode::OK => prop_assert_eq!(response.body(), &content(self.version_of(response))),
            StatusCode::NOT_MODIFIED => prop_assert_eq!(&asked[IF_NONE_MATCH], &response.headers()[ETAG]),
            StatusCode::PARTIAL_CONTENT => {
                let version = self.version_of(response);
                let part = parse_content_range(&response.headers()[CONTENT_RANGE]).unwrap();
                prop_assert_eq!(RangeOutcome::Single(part.range.clone()), select(asked, LENGTH));
                prop_assert_eq!(response.body(), &content(version)[part.range.start as usize..part.range.end as usize]);
                prop_assert!(asked.get(IF_RANGE).is_none_or(|tag| *tag == self.tag(version) && !self.weak));
            }
            other => return Err(TestCaseError::fail(format!("{other}"))),
        }
        match response.headers().contains_key(ETAG) {
            true => self.check_age(asked, response, fails),
            false => Ok(()),
        }
    }

    /// What is served was current not longer ago than the origin allows.
    fn check_age(&self, asked: &HeaderMap, response: &Response<Vec<u8>>, fails: bool) -> Result<(), TestCaseError> {
        let ended = self.since.get(self.version_of(response) + 1);
        let old = ended.map_or(Duration::ZERO, |ended| self.now.duration_since(*ended).unwrap());
        let said = |word: &str| self.says.contains(word);
        let lifetime = if said("max-age") { MAX_AGE } else { 0 };
        let stale = if said("stale-while-revalidate") { STALE } else { 0 };
        let on_error = if !fails || said("must-revalidate") || said("no-cache") { 0 } else { 24 * 3600 };
        let validated = asked.get("cache-control").is_some_and(|asks| asks == "no-cache");
        // Dates have no fractions, by which a response may seem younger.
        let most = if validated { 0 } else { lifetime + stale.max(on_error) };
        prop_assert!(old <= Duration::from_secs(most), "{old:?} since the version ended; {most} s allowed");
        Ok(())
    }
}

fn origin(
    request: &request::Parts,
    version: usize,
    tag: &HeaderValue,
    says: &'static str,
    now: SystemTime,
) -> Response<Vec<u8>> {
    let mut response = Response::new(Vec::new());
    let headers = response.headers_mut();
    headers.insert(ETAG, tag.clone());
    headers.insert("cache-control", HeaderValue::from_static(says));
    headers.insert("date", http_date(now));
    if request.headers.get(IF_NONE_MATCH) == Some(tag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    let strong = !tag.as_bytes().starts_with(b"W/");
    let range_applies = request.headers.get(IF_RANGE).is_none_or(|condition| condition == tag && strong);
    let whole = content(version);
    match select(&request.headers, LENGTH) {
        RangeOutcome::Single(range) if range_applies && request.method == Method::GET => {
            response.headers_mut().insert(CONTENT_RANGE, content_range(Some(&range), LENGTH));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            *response.body_mut() = whole[range.start as usize..range.end as usize].to_vec();
        }
        RangeOutcome::Whole | RangeOutcome::Single(_) | RangeOutcome::Multi(_) | RangeOutcome::Unsatisfiable => {
            response.headers_mut().insert("content-length", LENGTH.into());
            *response.body_mut() = whole;
        }
    }
    response
}

fn step() -> impl Strategy<Value = Step> {
    let range = prop::option::of((0..LENGTH, 0..LENGTH).prop_map(|(a, b)| (a.min(b), a.max(b))));
    let asks = prop_oneof![6 => Just(""), 1 => Just("no-cache"), 1 => Just("only-if-cached"), 1 => Just("no-store")];
    let back = || prop::option::weighted(0.2, 0usize..3);
    prop_oneof![
        4 => (0u64..80).prop_map(Step::Wait),
        2 => Just(Step::Change),
        10 => (range, back(), back(), asks).prop_map(|(range, none_match, if_range, asks)| Step::Get { range, none_match, if_range, asks }),
        1 => Just(Step::Head),
        1 => Just(Step::Put),
        1 => Just(Step::Fail),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn answers_are_of_one_version(
        steps in prop::collection::vec(step(), 1..40),
        weak in prop::bool::weighted(0.2),
        says in prop::sample::select(vec!["max-age=10", "max-age=10, must-revalidate", "max-age=10, stale-while-revalidate=5", "no-cache", "max-age=0"]),
    ) {
        let mut world = World::new(says, weak);
        let mut fails = false;
        for step in &steps {
            match step {
                Step::Wait(tenths) => world.now += Duration::from_millis(100 * tenths),
                Step::Change => world.since.push(world.now),
                Step::Get { .. } => world.get(step, std::mem::take(&mut fails))?,
                Step::Head => drop(world.send(Method::HEAD, HeaderMap::new(), std::mem::take(&mut fails))),
                Step::Put => {
                    world.since.push(world.now);
                    drop(world.send(Method::PUT, HeaderMap::new(), false));
                    prop_assert!(world.cache.entries.values().all(Vec::is_empty), "a change is seen at once");
                }
                Step::Fail => fails = true,
            }
        }
    }
}
