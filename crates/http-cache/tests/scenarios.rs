//! The rules of RFC 9111 and its kin, section by section, as conversations between a client, the cache of `shell` and an origin.
//!
//! A line is a moment (seconds), a request, what the origin would answer, and what comes of it: the status, what `Cache-Status` says, the
//! body, and behind `<-` the conditions and range that the origin saw. An origin's answer is a status, fields, and after `=` a body. `.` means
//! that it must not be asked, `!` that it cannot be reached.

#![expect(clippy::unwrap_used, reason = "what does not parse here is a mistake in a table")]

mod shell;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use shell::Cache;
use umbel_http_cache::{Policy, SetCookie, http_date};

type Line = (u64, &'static str, &'static str, &'static str);

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

#[track_caller]
fn check(lines: &[Line]) {
    check_with(Policy::default(), lines);
}

#[track_caller]
fn check_with(policy: Policy, lines: &[Line]) {
    let mut cache = Cache::new(policy);
    for (place, (moment, request, answer, expected)) in lines.iter().enumerate() {
        let mut seen = String::new();
        let mut origin = |request: &http::request::Parts, _: &[u8]| {
            assert_ne!(*answer, ".", "line {place}: the origin was asked");
            seen = conditions(&request.headers);
            (*answer != "!").then(|| response(answer, at(*moment)))
        };
        let got = cache.handle(self::request(request, at(*moment)), at(*moment), &mut origin);
        assert_eq!(show(&got) + &seen, *expected, "line {place}: {request}");
    }
}

/// `@5` is the date five seconds after the beginning.
fn fields(text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for field in text.split(" | ").filter(|field| !field.is_empty()) {
        let (name, value) = field.split_once(": ").unwrap();
        let date = value.strip_prefix('@').map(|offset| offset.parse::<i64>().unwrap());
        let value = date.map_or_else(
            || HeaderValue::from_str(value).unwrap(),
            |offset| http_date(UNIX_EPOCH + Duration::from_secs(1_800_000_000_u64.saturating_add_signed(offset))),
        );
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
    }
    headers
}

fn request(text: &str, _now: SystemTime) -> Request<Vec<u8>> {
    let (method, rest) = text.split_once(' ').unwrap_or((text, ""));
    let (uri, rest) = match rest.strip_prefix('/') {
        Some(rest) => rest.split_once(' ').unwrap_or((rest, "")),
        None => ("", rest),
    };
    let mut request =
        Request::builder().method(method).uri(format!("http://a.example/{uri}")).body(Vec::new()).unwrap();
    *request.headers_mut() = fields(rest);
    request
}

fn response(text: &str, now: SystemTime) -> Response<Vec<u8>> {
    let (head, body) = text
        .split_once('=')
        .filter(|(head, _)| head.is_empty() || head.ends_with(' '))
        .unwrap_or_else(|| text.rsplit_once(" =").unwrap_or((text, "")));
    let (status, rest) = head.trim().split_once(' ').unwrap_or((head.trim(), ""));
    let mut response = Response::builder().status(status).body(body.as_bytes().to_vec()).unwrap();
    *response.headers_mut() = fields(rest);
    if !response.headers().contains_key("date") {
        response.headers_mut().insert("date", http_date(now));
    }
    response
}

fn conditions(headers: &HeaderMap) -> String {
    let names = ["if-match", "if-none-match", "if-modified-since", "if-range", "range"];
    let said = names.iter().filter_map(|name| Some(format!("{name}: {}", headers.get(*name)?.to_str().unwrap())));
    match said.collect::<Vec<_>>().join(" | ") {
        none if none.is_empty() => none,
        said => format!(" <- {said}"),
    }
}

fn show(response: &Response<Vec<u8>>) -> String {
    let status = response.headers()["cache-status"].to_str().unwrap().trim_start_matches("test; ");
    let body = String::from_utf8_lossy(response.body());
    format!("{} {status}{}{body}", response.status().as_u16(), if body.is_empty() { "" } else { " =" })
        .replace("\r\n", "~")
}

/// RFC 9111, section 3.
#[test]
fn storing() {
    let refused = |answer: &'static str, reason: &str| {
        let line = format!("{} fwd=uri-miss; fwd-status={}; detail={reason} =A", &answer[..3], &answer[..3]);
        let line: &'static str = line.leak();
        check(&[(0, "GET /", answer, line), (0, "GET /", answer, line)]);
    };
    refused("200 cache-control: no-store, max-age=9 =A", "no-store");
    refused("200 cache-control: private, max-age=9 =A", "private");
    refused("200 cache-control: max-age=9 | vary: * =A", "vary-any");
    refused("200 cache-control: max-age=9 | vary: a b =A", "vary-any");
    refused("599 cache-control: max-age=9, must-understand =A", "not-understood");
    refused("201 etag: \"a\" =A", "no-freshness");
    refused("503 last-modified: @-1000 =A", "no-freshness");
    refused("200 cache-control: no-cache =A", "useless");
    refused("200 cache-control: max-age=0, must-revalidate =A", "useless");
    refused("206 cache-control: max-age=9 | content-range: bytes 0-0/5 =A", "bad-partial");
    refused("412 cache-control: max-age=9 =A", "status");
    refused("416 cache-control: max-age=9 =A", "status");
    refused("200 last-modified: @-1000 | set-cookie: a=b =A", "set-cookie");
    let stored = |answer: &'static str, ttl: u32| {
        let (first, second) = (
            format!("{} fwd=uri-miss; fwd-status={}; stored =A", &answer[..3], &answer[..3]),
            format!("{} hit; ttl={ttl} =A", &answer[..3]),
        );
        check(&[(0, "GET /", answer, first.leak()), (0, "GET /", ".", second.leak())]);
    };
    stored("200 cache-control: max-age=9 =A", 9);
    stored("599 cache-control: max-age=9 =A", 9);
    stored("404 cache-control: no-store, must-understand, max-age=9 =A", 9);
    stored("599 cache-control: public | last-modified: @-1000 =A", 100);
    stored("200 cache-control: max-age=9 | set-cookie: a=b =A", 9);
    stored("200 cache-control: public | last-modified: @-1000 | set-cookie: a=b =A", 100);
    stored("200 cache-control: no-store | cdn-cache-control: max-age=9 =A", 9);
    stored("200 cache-control: private=\"x\", max-age=9 | x: secret =A", 9);
}

#[test]
fn set_cookie_is_for_the_policy() {
    let answer = "200 cache-control: max-age=9 | set-cookie: a=b =A";
    check_with(
        Policy { set_cookie: SetCookie::Refuse, ..Policy::default() },
        &[(0, "GET /", answer, "200 fwd=uri-miss; fwd-status=200; detail=set-cookie =A")],
    );
    check_with(
        Policy { set_cookie: SetCookie::Store, ..Policy::default() },
        &[
            (
                0,
                "GET /",
                "200 last-modified: @-1000 | set-cookie: a=b =A",
                "200 fwd=uri-miss; fwd-status=200; stored =A",
            ),
            (0, "GET /", ".", "200 hit; ttl=100 =A"),
        ],
    );
}

/// RFC 9111, section 3.5.
#[test]
fn authorization() {
    let (miss, hit) = ("200 fwd=uri-miss; fwd-status=200; stored =A", "200 hit; ttl=9 =A");
    for allowed in ["public, max-age=9", "must-revalidate, max-age=9", "s-maxage=9"] {
        let answer: &'static str = format!("200 cache-control: {allowed} =A").leak();
        check(&[(0, "GET authorization: x", answer, miss), (0, "GET", ".", hit)]);
    }
    for answer in ["200 cache-control: max-age=9 =A", "200 cdn-cache-control: max-age=9 | cache-control: public =A"] {
        let refused = "200 fwd=uri-miss; fwd-status=200; detail=authorization =A";
        check(&[
            (0, "GET authorization: x", answer, refused),
            (0, "GET", answer, miss),
            (0, "GET authorization: x", ".", hit),
        ]);
    }
}

/// A request whose answers are not to be stored takes nothing from others, who asked otherwise.
#[test]
fn who_may_not_store_removes_nothing() {
    let first = "200 cache-control: max-age=60 | etag: \"a\" =A";
    let miss = "200 fwd=uri-miss; fwd-status=200; stored =A";
    for asked in ["authorization: garbage | cache-control: no-cache", "cache-control: no-cache, no-store"] {
        let get: &'static str = format!("GET {asked}").leak();
        let head: &'static str = format!("HEAD {asked}").leak();
        check(&[
            (0, "GET", first, miss),
            (5, get, "304 x: y", "200 fwd=request; fwd-status=304 =A <- if-none-match: \"a\""),
            (6, "GET", ".", "200 hit; ttl=54 =A"),
            (7, head, "200 etag: \"b\"", "200 fwd=request; fwd-status=200; detail=method"),
            (8, "GET", ".", "200 hit; ttl=52 =A"),
            // What the response says is about it, whoever asked.
            (9, get, "304 cache-control: private", "200 fwd=request; fwd-status=304 =A <- if-none-match: \"a\""),
            (10, "GET", first, miss),
        ]);
    }
}

/// RFC 9110, section 8.8.2.2.
#[test]
fn a_date_of_the_same_second_tells_no_parts_apart() {
    let check_made = |made: i64, expected: &'static str| {
        let answer = format!("200 cache-control: max-age=9 | last-modified: @-5 | date: @{made} =0123");
        let line = "200 fwd=uri-miss; fwd-status=200; stored =0123";
        check(&[(0, "GET", answer.leak(), line), (0, "GET range: bytes=0-1 | if-range: @-5", ".", expected)]);
    };
    check_made(-5, "200 hit; ttl=4 =0123");
    check_made(-4, "206 hit; ttl=5 =01");
}

/// RFC 9111, section 4.2.
#[test]
fn freshness() {
    let miss = "200 fwd=uri-miss; fwd-status=200; stored =A";
    check(&[
        (0, "GET", "200 cache-control: max-age=10 =A", miss),
        (9, "GET", ".", "200 hit; ttl=1 =A"),
        (10, "GET", "200 cache-control: max-age=10 =B", "200 fwd=stale; fwd-status=200; stored =B"),
        (11, "GET", ".", "200 hit; ttl=9 =B"),
    ]);
    check(&[(0, "GET", "200 cache-control: max-age=10 | age: 4 =A", miss), (3, "GET", ".", "200 hit; ttl=3 =A")]);
    check(&[(0, "GET", "200 expires: @8 | date: @-2 =A", miss), (3, "GET", ".", "200 hit; ttl=5 =A")]);
    check(&[
        (0, "GET", "200 cache-control: max-age=10 | age: x | etag: \"a\" =A", miss),
        (0, "GET", "304 etag: \"a\"", "200 fwd=stale; fwd-status=304 =A <- if-none-match: \"a\""),
        (5, "GET", ".", "200 hit; ttl=5 =A"),
    ]);
}

/// RFC 9111, section 4.1.
#[test]
fn variants() {
    check(&[
        (0, "GET l: en", "200 cache-control: max-age=10 | vary: L =EN", "200 fwd=uri-miss; fwd-status=200; stored =EN"),
        (
            1,
            "GET l: de",
            "200 cache-control: max-age=10 | vary: L =DE",
            "200 fwd=vary-miss; fwd-status=200; stored =DE",
        ),
        (2, "GET l: en", ".", "200 hit; ttl=8 =EN"),
        (2, "GET l: de", ".", "200 hit; ttl=9 =DE"),
        (3, "GET", "200 cache-control: max-age=10 =X", "200 fwd=vary-miss; fwd-status=200; stored =X"),
        (4, "GET l: en", ".", "200 hit; ttl=9 =X"),
    ]);
}

/// RFC 9111, section 4.1: the origin chooses among the variants by their tags.
#[test]
fn a_304_adopts_a_variant() {
    let answer = "200 cache-control: max-age=10 | vary: L | etag: \"a\" =A";
    check(&[
        (0, "GET l: en", answer, "200 fwd=uri-miss; fwd-status=200; stored =A"),
        (1, "GET l: en-gb", "304 etag: \"a\"", "200 fwd=vary-miss; fwd-status=304 =A <- if-none-match: \"a\""),
        (2, "GET l: en-gb", ".", "200 hit; ttl=9 =A"),
        (2, "GET l: en", ".", "200 hit; ttl=9 =A"),
    ]);
}

/// RFC 9111, section 5.2.1.
#[test]
fn what_requests_ask() {
    let miss =
        (0, "GET", "200 cache-control: max-age=10 | etag: \"a\" =A", "200 fwd=uri-miss; fwd-status=200; stored =A");
    let asked = "200 fwd=request; fwd-status=304 =A <- if-none-match: \"a\"";
    for request in ["max-age=3", "min-fresh=7", "no-cache", "max-age=0"] {
        let request: &'static str = format!("GET cache-control: {request}").leak();
        check(&[miss, (5, request, "304 etag: \"a\"", asked), (9, "GET", ".", "200 hit; ttl=6 =A")]);
    }
    for request in ["max-age=5", "min-fresh=5", "no-store", "only-if-cached", "max-age=3, max-stale=2"] {
        let request: &'static str = format!("GET cache-control: {request}").leak();
        check(&[miss, (5, request, ".", "200 hit; ttl=5 =A")]);
    }
    for (request, expected) in [("max-stale", "200 hit; ttl=-90 =A"), ("max-stale=90", "200 hit; ttl=-90 =A")] {
        let request: &'static str = format!("GET cache-control: {request}").leak();
        check(&[miss, (100, request, ".", expected)]);
    }
    let stale = "200 fwd=stale; fwd-status=304 =A <- if-none-match: \"a\"";
    check(&[miss, (100, "GET cache-control: max-stale=89", "304 etag: \"a\"", stale)]);
    check(&[miss, (5, "GET pragma: no-cache", "304 etag: \"a\"", asked)]);
    check(&[miss, (5, "GET pragma: no-cache | cache-control: x", ".", "200 hit; ttl=5 =A")]);
    check(&[(0, "GET cache-control: only-if-cached", ".", "504 fwd=miss; detail=only-if-cached")]);
    check(&[miss, (50, "GET cache-control: only-if-cached", ".", "504 fwd=miss; detail=only-if-cached")]);
    check(&[(
        0,
        "GET cache-control: no-store",
        miss.2,
        "200 fwd=uri-miss; fwd-status=200; detail=request-no-store =A",
    )]);
    let deaf = Policy { request_directives: false, ..Policy::default() };
    check_with(deaf, &[miss, (5, "GET cache-control: no-cache", ".", "200 hit; ttl=5 =A")]);
}

/// RFC 8246.
#[test]
fn immutable() {
    let miss = "200 fwd=uri-miss; fwd-status=200; stored =A";
    check(&[
        (0, "GET", "200 cache-control: max-age=10, immutable | etag: \"a\" =A", miss),
        (5, "GET cache-control: max-age=0", ".", "200 hit; ttl=5 =A"),
        (
            5,
            "GET cache-control: no-cache",
            "304 etag: \"a\"",
            "200 fwd=request; fwd-status=304 =A <- if-none-match: \"a\"",
        ),
        (20, "GET", "304 etag: \"a\"", "200 fwd=stale; fwd-status=304 =A <- if-none-match: \"a\""),
    ]);
}

/// RFC 9111, sections 4.3.1 and 4.3.4.
#[test]
fn validation() {
    let miss = "200 fwd=uri-miss; fwd-status=200; stored =A";
    let both = "200 cache-control: max-age=10 | etag: W/\"a\" | last-modified: @-500 =A";
    let validated =
        "200 fwd=stale; fwd-status=304 =A <- if-none-match: W/\"a\" | if-modified-since: Fri, 15 Jan 2027 07:51:40 GMT";
    check(&[
        (0, "GET", both, miss),
        (20, "GET", "304 etag: W/\"a\"", validated),
        (29, "GET", ".", "200 hit; ttl=1 =A"),
    ]);
    let weak = "200 cache-control: max-age=10 | etag: \"a\" =A";
    let asked = "200 fwd=stale; fwd-status=304 =A <- if-none-match: \"a\"";
    // A tag of its own: trusted, as there was but one to speak of.
    check(&[(0, "GET", weak, miss), (20, "GET", "304 etag: \"b\"", asked), (25, "GET", ".", "200 hit; ttl=5 =A")]);
    let strict = Policy { trust_lone_304: false, ..Policy::default() };
    check_with(
        strict,
        &[(0, "GET", weak, miss), (20, "GET", "304 etag: \"b\"", "304 fwd=stale; fwd-status=304; detail=status")],
    );
    check(&[
        (0, "GET", weak, miss),
        (
            20,
            "GET",
            "200 cache-control: max-age=10 | etag: \"b\" =B",
            "200 fwd=stale; fwd-status=200; stored =B <- if-none-match: \"a\"",
        ),
        (25, "GET", ".", "200 hit; ttl=5 =B"),
    ]);
    // The client's own conditions are evaluated after validation.
    check(&[
        (0, "GET", weak, miss),
        (20, "GET if-none-match: \"a\"", "304 etag: \"a\"", "304 fwd=stale; fwd-status=304 <- if-none-match: \"a\""),
        (40, "GET if-none-match: \"b\"", "304 etag: \"a\"", asked),
        (
            60,
            "GET if-none-match: \"b\"",
            "200 cache-control: max-age=9 | etag: \"b\" =B",
            "304 fwd=stale; fwd-status=200; stored <- if-none-match: \"a\"",
        ),
    ]);
    // What may not be stored any more.
    check(&[
        (0, "GET", weak, miss),
        (20, "GET", "304 etag: \"a\" | cache-control: no-store", asked),
        (20, "GET", weak, miss),
    ]);
}

/// RFC 9111, section 4.3.2.
#[test]
fn conditions_of_clients() {
    let miss = (
        0,
        "GET",
        "200 cache-control: max-age=10 | etag: \"a\" | last-modified: @-500 =A",
        "200 fwd=uri-miss; fwd-status=200; stored =A",
    );
    let (same, other) = ("304 hit; ttl=5", "200 hit; ttl=5 =A");
    for (request, expected) in [
        ("if-none-match: \"a\"", same),
        ("if-none-match: W/\"a\"", same),
        ("if-none-match: \"x\", \"a\"", same),
        ("if-none-match: *", same),
        ("if-none-match: \"x\"", other),
        ("if-none-match: a", other),
        ("if-modified-since: @-500", same),
        ("if-modified-since: @0", same),
        ("if-modified-since: @-501", other),
        ("if-modified-since: x", other),
        ("if-none-match: \"x\" | if-modified-since: @0", other),
        ("if-none-match: \"a\" | if-modified-since: @-501", same),
        ("if-match: \"a\"", other),
        ("if-unmodified-since: @0", other),
    ] {
        check(&[miss, (5, format!("GET {request}").leak(), ".", expected)]);
    }
    // Whether it does not hold any more only the origin knows.
    check(&[
        miss,
        (5, "GET if-match: \"b\"", "412", "412 fwd=request; fwd-status=412; detail=status <- if-match: \"b\""),
    ]);
    // Nothing is stored that would not answer others.
    check(&[
        (
            0,
            "GET if-none-match: \"a\"",
            "304 etag: \"a\"",
            "304 fwd=uri-miss; fwd-status=304; detail=status <- if-none-match: \"a\"",
        ),
        (0, "GET", miss.2, miss.3),
    ]);
    check(&[
        (0, "GET", "404 cache-control: max-age=10 | etag: \"a\" =A", "404 fwd=uri-miss; fwd-status=404; stored =A"),
        (5, "GET if-none-match: \"a\"", ".", "404 hit; ttl=5 =A"),
    ]);
    // Without Last-Modified, by Date.
    check(&[
        (0, "GET", "200 cache-control: max-age=10 =A", miss.3),
        (5, "GET if-modified-since: @0", ".", same),
        (5, "GET if-modified-since: @-1", ".", other),
    ]);
}

/// RFC 5861 and RFC 9111, section 4.2.4.
#[test]
fn serving_stale() {
    let miss = "200 fwd=uri-miss; fwd-status=200; stored =A";
    check(&[
        (0, "GET", "200 cache-control: max-age=10, stale-while-revalidate=20 =A", miss),
        (15, "GET", "200 cache-control: max-age=10, stale-while-revalidate=20 =B", "200 hit; ttl=-5 =A"),
        (16, "GET", ".", "200 hit; ttl=9 =B"),
        (46, "GET", "200 cache-control: max-age=10 =C", "200 fwd=stale; fwd-status=200; stored =C"),
    ]);
    let failing = |line: &str, answer: &'static str, expected: &'static str| {
        let stored: &'static str = format!("200 cache-control: {line} =A").leak();
        check(&[(0, "GET", stored, miss), (20, "GET", answer, expected)]);
    };
    failing("max-age=10", "!", "200 fwd=stale =A");
    failing("max-age=10", "503", "503 fwd=stale; fwd-status=503");
    failing("max-age=10, stale-if-error=11", "503", "200 fwd=stale; fwd-status=503 =A");
    failing("max-age=10, stale-if-error=10", "503", "503 fwd=stale; fwd-status=503");
    failing("max-age=10, stale-if-error=10", "!", "502 fwd=stale");
    failing("max-age=10, stale-if-error=10", "404 =X", "404 fwd=stale; fwd-status=404; detail=useless =X");
    for forbidden in ["must-revalidate", "proxy-revalidate", "s-maxage=10"] {
        failing(
            &format!("{forbidden}, max-age=10, stale-if-error=99, stale-while-revalidate=99"),
            "!",
            "502 fwd=stale",
        );
        failing(&format!("{forbidden}, max-age=10, stale-if-error=99"), "503", "503 fwd=stale; fwd-status=503");
    }
    let lenient = Policy { stale_despite_s_maxage: true, ..Policy::default() };
    check_with(
        lenient,
        &[
            (0, "GET", "200 cache-control: s-maxage=10, stale-if-error=99 =A", miss),
            (20, "GET", "!", "200 fwd=stale =A"),
        ],
    );
    let tag = "200 cache-control: no-cache | etag: \"a\" =A";
    check(&[(0, "GET", tag, miss), (1, "GET", "!", "502 fwd=stale <- if-none-match: \"a\"")]);
    check(&[
        (0, "GET", "200 cache-control: max-age=10 =A", miss),
        (20, "GET cache-control: no-cache", "!", "502 fwd=request"),
    ]);
    check(&[
        (0, "GET", "200 cache-control: max-age=10 =A", miss),
        (20, "GET cache-control: stale-if-error=11", "503", "200 fwd=stale; fwd-status=503 =A"),
    ]);
}

/// RFC 9111, sections 3.3 and 3.4.
#[test]
fn parts() {
    let part = "206 cache-control: max-age=10 | etag: \"a\" | content-range: bytes 2-5/10 =2345";
    let miss = (0, "GET range: bytes=2-5", part, "206 fwd=uri-miss; fwd-status=206; stored =2345 <- range: bytes=2-5");
    check(&[
        miss,
        (1, "GET range: bytes=3-4", ".", "206 hit; ttl=9 =34"),
        (1, "GET range: bytes=2-5", ".", "206 hit; ttl=9 =2345"),
        (
            1,
            "GET range: bytes=-2",
            "206 cache-control: max-age=10 | etag: \"a\" | content-range: bytes 8-9/10 =89",
            "206 fwd=partial; fwd-status=206; stored =89 <- range: bytes=-2",
        ),
        (
            2,
            "GET range: bytes=4-7",
            "206 cache-control: max-age=10 | etag: \"a\" | content-range: bytes 6-7/10 =67",
            "206 fwd=partial; fwd-status=206; stored =4567 <- if-range: \"a\" | range: bytes=6-7",
        ),
        (3, "GET range: bytes=2-", ".", "206 hit; ttl=9 =23456789"),
        (
            4,
            "GET",
            "206 cache-control: max-age=10 | etag: \"a\" | content-range: bytes 0-1/10 =01",
            "200 fwd=partial; fwd-status=206; stored =0123456789 <- if-range: \"a\" | range: bytes=0-1",
        ),
        (5, "GET", ".", "200 hit; ttl=9 =0123456789"),
        (
            5,
            "GET range: bytes=0-0,-1",
            ".",
            "206 hit; ttl=9 =--B~Content-Type: application/octet-stream~Content-Range: bytes 0-0/10~~0~--B~Content-Type: application/octet-stream~Content-Range: bytes 9-9/10~~9~--B--~",
        ),
        (5, "GET range: bytes=10-", ".", "416 hit; ttl=9"),
        (5, "GET if-none-match: \"a\"", ".", "304 hit; ttl=9"),
    ]);
    // The rest is of something else.
    check(&[
        miss,
        (
            1,
            "GET range: bytes=4-7",
            "200 cache-control: max-age=10 | etag: \"b\" =abcdefghij",
            "206 fwd=partial; fwd-status=200; stored =efgh <- if-range: \"a\" | range: bytes=6-7",
        ),
        (2, "GET range: bytes=2-5", ".", "206 hit; ttl=9 =cdef"),
    ]);
    // Without a strong validator nothing is put together.
    for tag in ["", " | etag: W/\"a\""] {
        let part: &'static str =
            format!("206 cache-control: max-age=10{tag} | content-range: bytes 2-5/10 =2345").leak();
        check(&[
            (0, "GET range: bytes=2-5", part, miss.3),
            (1, "GET range: bytes=2-5", ".", "206 hit; ttl=9 =2345"),
            (
                1,
                "GET",
                "200 cache-control: max-age=10 =0123456789",
                "200 fwd=partial; fwd-status=200; stored =0123456789",
            ),
        ]);
    }
    // A stale part is validated as the part it is.
    check(&[
        miss,
        (
            20,
            "GET range: bytes=3-4",
            "304 etag: \"a\"",
            "206 fwd=stale; fwd-status=304 =34 <- if-none-match: \"a\" | range: bytes=3-4",
        ),
        (21, "GET range: bytes=3-4", ".", "206 hit; ttl=9 =34"),
    ]);
    // A client that has the old version wants nothing of the new one but the whole.
    check(&[
        miss,
        (
            20,
            "GET range: bytes=3-4 | if-range: \"a\"",
            "200 cache-control: max-age=10 | etag: \"b\" =abcdefghij",
            "200 fwd=stale; fwd-status=200; stored =abcdefghij <- if-none-match: \"a\" | if-range: \"a\" | range: bytes=3-4",
        ),
    ]);
    for wrong in ["bytes 2-6/10", "bytes 2-5/*", "bytes 2-5/4", "bytes 5-2/10", "x 2-5/10", "bytes */10", "bytes 2-5"] {
        let part: &'static str =
            format!("206 cache-control: max-age=10 | content-length: 4 | content-range: {wrong} =2345").leak();
        check(&[(
            0,
            "GET range: bytes=2-5",
            part,
            "206 fwd=uri-miss; fwd-status=206; detail=bad-partial =2345 <- range: bytes=2-5",
        )]);
    }
}

/// RFC 9110, section 14, from a whole stored response.
#[test]
fn ranges_of_the_whole() {
    let miss = (
        0,
        "GET",
        "200 cache-control: max-age=10 | etag: \"a\" =0123456789",
        "200 fwd=uri-miss; fwd-status=200; stored =0123456789",
    );
    for (request, expected) in [
        ("range: bytes=0-1", "206 hit; ttl=5 =01"),
        ("range: bytes=-1", "206 hit; ttl=5 =9"),
        ("range: bytes=8-", "206 hit; ttl=5 =89"),
        ("range: bytes=10-", "416 hit; ttl=5"),
        ("range: x=0-1", "200 hit; ttl=5 =0123456789"),
        ("range: bytes=0-1 | if-range: \"a\"", "206 hit; ttl=5 =01"),
        ("range: bytes=0-1 | if-range: \"b\"", "200 hit; ttl=5 =0123456789"),
        ("range: bytes=0-1 | if-range: W/\"a\"", "200 hit; ttl=5 =0123456789"),
        ("range: bytes=0-1 | if-none-match: \"a\"", "304 hit; ttl=5"),
    ] {
        check(&[miss, (5, format!("GET {request}").leak(), ".", expected)]);
    }
    check(&[miss, (5, "HEAD range: bytes=0-1", ".", "200 hit; ttl=5")]);
    check(&[
        miss,
        (20, "GET range: bytes=0-1", "304 etag: \"a\"", "206 fwd=stale; fwd-status=304 =01 <- if-none-match: \"a\""),
    ]);
}

/// RFC 9111, section 4.3.5.
#[test]
fn head() {
    let miss = (
        0,
        "GET",
        "200 cache-control: max-age=10 | etag: \"a\" | content-length: 1 =A",
        "200 fwd=uri-miss; fwd-status=200; stored =A",
    );
    check(&[
        miss,
        (5, "HEAD", ".", "200 hit; ttl=5"),
        (
            20,
            "HEAD",
            "200 cache-control: max-age=10 | etag: \"a\" | content-length: 1",
            "200 fwd=stale; fwd-status=200; detail=method",
        ),
        (25, "GET", ".", "200 hit; ttl=5 =A"),
    ]);
    for other in ["etag: \"b\"", "content-length: 2", "last-modified: @0"] {
        let answer: &'static str = format!("200 cache-control: max-age=10 | {other}").leak();
        check(&[
            miss,
            (5, "HEAD cache-control: no-cache", answer, "200 fwd=request; fwd-status=200; detail=method"),
            (6, "GET", "304 etag: \"a\"", "200 fwd=stale; fwd-status=304 =A <- if-none-match: \"a\""),
        ]);
    }
    check(&[
        miss,
        (5, "HEAD cache-control: no-cache", "404", "404 fwd=request; fwd-status=404; detail=method"),
        (6, "GET", ".", "200 hit; ttl=4 =A"),
    ]);
}

/// RFC 9111, section 4.4; RFC 9110, section 9.3.3.
#[test]
fn methods() {
    let stored = (0, "GET /x", "200 cache-control: max-age=10 =A", "200 fwd=uri-miss; fwd-status=200; stored =A");
    for method in ["POST", "PUT", "DELETE", "M-SEARCH"] {
        let done = "200 fwd=method; fwd-status=200; detail=method";
        check(&[stored, (1, format!("{method} /x").leak(), "200", done), (2, "GET /x", stored.2, stored.3)]);
        check(&[
            stored,
            (1, format!("{method} /y").leak(), "200 location: /x", done),
            (2, "GET /x", stored.2, stored.3),
        ]);
        check(&[
            stored,
            (1, format!("{method} /y").leak(), "200 content-location: x", done),
            (2, "GET /x", stored.2, stored.3),
        ]);
        check(&[
            stored,
            (1, format!("{method} /y").leak(), "200 location: http://b.example/x", done),
            (2, "GET /x", ".", "200 hit; ttl=8 =A"),
        ]);
        let failed: &'static str = format!(
            "500 fwd=method; fwd-status=500; detail={}",
            if method == "POST" { "no-freshness" } else { "method" }
        )
        .leak();
        check(&[stored, (1, format!("{method} /x").leak(), "500", failed), (2, "GET /x", ".", "200 hit; ttl=8 =A")]);
    }
    check(&[
        stored,
        (
            1,
            "POST /x",
            "200 cache-control: max-age=10 | content-location: http://a.example/x =P",
            "200 fwd=method; fwd-status=200; stored =P",
        ),
        (2, "GET /x", ".", "200 hit; ttl=9 =P"),
        (
            2,
            "POST /x",
            "200 cache-control: max-age=10 | content-location: /y =P",
            "200 fwd=method; fwd-status=200; detail=method =P",
        ),
    ]);
}

#[test]
fn fields_of_answers() {
    let mut cache = Cache::new(Policy::default());
    let answer = "200 cache-control: max-age=99, no-cache=\"secret\" | secret: 1 | connection: hop | hop: 1 | keep-alive: 1 | age: 5 | test: 1 | content-type: a/b | cache-status: far; hit =A";
    let mut origin = |_: &http::request::Parts, _: &[u8]| Some(response(answer, at(0)));
    let first = cache.handle(request("GET", at(0)), at(0), &mut origin);
    assert_eq!((first.headers()["secret"].to_str().unwrap(), first.headers().get("hop")), ("1", None));
    let hit = cache.handle(request("GET", at(7)), at(7), &mut origin);
    let names: Vec<_> = hit.headers().keys().map(HeaderName::as_str).collect();
    for gone in ["secret", "connection", "hop", "keep-alive"] {
        assert!(!names.contains(&gone), "{gone}");
    }
    assert_eq!(hit.headers()["age"], "12");
    assert_eq!(hit.headers()["date"], http_date(at(0)));
    assert_eq!(hit.headers()["content-length"], "1");
    let statuses: Vec<_> = hit.headers().get_all("cache-status").iter().collect();
    assert_eq!(statuses, ["far; hit", "test; hit; ttl=87"]);
    let unchanged = cache.handle(request("GET if-modified-since: @7", at(7)), at(7), &mut origin);
    assert_eq!((unchanged.status().as_u16(), unchanged.headers().get("content-length")), (304, None));
    assert_eq!(unchanged.headers()["content-type"], "a/b", "another cache may have to learn it");
    assert_eq!(
        (&unchanged.headers()["test"], &unchanged.headers()["age"]),
        (&HeaderValue::from_static("1"), &HeaderValue::from_static("12"))
    );
}

/// RFC 9111, section 3.2.
#[test]
fn a_304_replaces_fields() {
    let mut cache = Cache::new(Policy::default());
    let mut answers = [
        "304 etag: \"a\" | cache-control: max-age=50 | test: 3 | content-encoding: y | content-length: 7 | content-type: c/d | age: 2",
        "200 cache-control: max-age=1 | etag: \"a\" | test: 1 | test: 2 | content-encoding: x | content-type: a/b =A",
    ]
    .to_vec();
    let mut now = at(0);
    let mut last = None;
    while let Some(answer) = answers.pop() {
        let mut origin = |_: &http::request::Parts, _: &[u8]| Some(response(answer, now));
        last = Some(cache.handle(request("GET", now), now, &mut origin));
        now = at(60);
    }
    let last = last.unwrap();
    let all =
        |name: &str| last.headers().get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>().join("+");
    let got = ["test", "content-encoding", "content-length", "content-type", "age", "cache-control"].map(all);
    assert_eq!(got, ["3", "x", "1", "c/d", "2", "max-age=50"]);
    assert_eq!(last.body(), b"A");
}
