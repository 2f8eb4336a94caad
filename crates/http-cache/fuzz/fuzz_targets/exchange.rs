//! Every parser that sees the network, on its way through the decisions: lines `name: value` of a request, a response, and a second request,
//! each ended by an empty line. The first byte picks status and moment.
#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, request, response};
use libfuzzer_sys::fuzz_target;
use umbel_http_cache::{
    Boundary, Conditional, Exchange, Failure, Policy, Reuse, Stored, answer, content, invalidates, on_error, reuse, storable, updated_by_304,
    updated_by_head,
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
