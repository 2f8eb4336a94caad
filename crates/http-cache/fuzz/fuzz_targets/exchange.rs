//! Every parser that sees the network, on its way through the decisions: lines `name: value` of a request, a response, and a second request,
//! each ended by an empty line. The first byte picks status and moment.
#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, request, response};
use libfuzzer_sys::fuzz_target;
use umbel_http_cache::{
    Boundary, Coding, Compression, Conditional, Encoding, Entry, Exchange, Failure, MAX_KEY, Policy, Purge, Purges, Reuse, Standing, Stored,
    SurrogateKeys, answer, content, encode_fields, invalidates, on_error, plain_conditions, preferred, reuse, settled, storable, tag_of_304,
    updated_by_304, updated_by_head,
};

fn headers<'a>(lines: &mut impl Iterator<Item = &'a [u8]>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.take_while(|line| !line.is_empty()).take(64) {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii())) {
            headers.append(name, value);
        }
    }
    headers
}

fn asked(method: Method, headers: HeaderMap) -> request::Parts {
    let mut parts = Request::new(()).into_parts().0;
    (parts.method, parts.headers) = (method, headers);
    parts.uri = "https://a.example/x?y".parse().unwrap();
    parts
}

fn answered(status: u16, headers: HeaderMap) -> response::Parts {
    let mut parts = Response::new(()).into_parts().0;
    (parts.status, parts.headers) = (status.try_into().unwrap(), headers);
    parts
}

/// Which coding an answer gets, and that its tag is known again when the reader brings it back.
fn codings(request: &request::Parts, response: &response::Parts) {
    let compression = Compression { codings: Coding::ALL.to_vec(), min_length: 0, types: Vec::new() };
    let preferred = preferred(&request.headers, &compression.codings);
    assert_eq!(settled(&request.headers, &compression.codings), preferred.map_or("identity", Coding::as_str));
    let mut conditions = request.headers.clone();
    plain_conditions(&request.method, &mut conditions, &compression.codings);
    if let Some(tag) = response.headers.get("etag") {
        let _ = tag_of_304(&request.headers, tag);
    }
    let Encoding::Encode(coding) = compression.encoding(&request.headers, response.status, &response.headers) else { return };
    assert_eq!(Some(coding), preferred);
    let mut encoded = response.headers.clone();
    encode_fields(&mut encoded, coding, Some(1));
    assert_eq!(encoded["content-encoding"], coding.as_str());
    // Of several tags none is known.
    if let (Some(tag), 1) = (encoded.get("etag"), response.headers.get_all("etag").iter().count()) {
        let mut again = HeaderMap::from_iter(request.headers.get("accept-encoding").map(|value| ("accept-encoding".parse().unwrap(), value.clone())));
        again.insert("if-none-match", tag.clone());
        if request.headers.get_all("accept-encoding").iter().count() == 1 {
            assert_eq!(tag_of_304(&again, &response.headers["etag"]).as_ref(), Some(tag));
        }
    }
}

/// Whatever keys a response has, purging one of them is enough.
fn purged(response: &HeaderMap) {
    let keys = || SurrogateKeys::of(response);
    let purge = |key: &[u8]| {
        let mut purges = Purges::default();
        let keys = vec![String::from_utf8_lossy(key).into_owned()];
        purges.purge(&[Purge { site: "s".into(), keys, ..Purge::default() }]);
        purges
    };
    for line in response.get_all("cache-tag") {
        let first = line.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
        if !first.is_empty() && first.len() <= MAX_KEY && std::str::from_utf8(first).is_ok() {
            let entry = Entry { site: "s", target: "/" };
            assert_eq!(purge(first).standing(entry, keys, 0), Standing::Gone);
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((pick, input)) = input.split_first() else { return };
    let mut lines = input.split(|b| *b == b'\n');
    let policy = Policy { negotiate_language: true, ..Policy::default() };
    let received = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let exchange = Exchange { requested: received, received };
    let now = received + Duration::from_secs(u64::from(*pick));
    let method = if pick & 1 == 0 { Method::GET } else { Method::POST };
    let (first, response) = (asked(method, headers(&mut lines)), headers(&mut lines));
    let response = answered([200, 206, 404, 599][usize::from(pick >> 6)], response);
    let second = asked(Method::GET, headers(&mut lines));
    let _ = invalidates(&first, &response);
    codings(&second, &response);
    purged(&response.headers);
    let Ok(stored) = storable(&first, &response, exchange, &policy) else { return };
    let encoded = stored.encode().expect("storable has measured it");
    assert_eq!(Stored::decode(&encoded, &policy).expect("it was just encoded"), stored);
    let all = [&stored];
    let decision = reuse(&all, &second, &policy, now);
    let _ = (decision.cache_status("fuzz").to_value(), on_error(&stored, &second, Failure::Unreachable, &policy, now));
    if let Reuse::Fresh { index, .. } | Reuse::Stale { index, .. } = decision {
        let _ = (answer(&second, &stored, 100, || Boundary::from([0; 16]), now), content(&all, index, &second));
    }
    let _ = updated_by_304(&all, &Conditional::default(), &second, &answered(304, response.headers.clone()), exchange, &policy);
    let head = asked(Method::HEAD, second.headers.clone());
    let _ = updated_by_head(&all, &head, &answered(200, second.headers), exchange, &policy);
});
