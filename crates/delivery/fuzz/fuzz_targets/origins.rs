//! Whose pages may read a site, and where plain HTTP is sent to: what a browser says of itself, a host and a target; then the origins
//! of a site, one a line.
#![no_main]

use http::{HeaderMap, HeaderValue, Method, header};
use libfuzzer_sys::fuzz_target;
use umbel_delivery::{Document, Rules, location, proto};

fn rules(origins: Vec<String>) -> Option<Rules> {
    let cors = proto::Cors { origins, methods: vec!["PUT".into()], credentials: true, ..proto::Cors::default() };
    Rules::of(&Document { cors: Some(cors), ..Document::default() }).ok()
}

fuzz_target!(|input: &[u8]| {
    let mut lines = input.split(|byte| *byte == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let (origin, host, target) = (next(), next(), next());
    if let (Ok(host), Ok(target)) = (std::str::from_utf8(host), http::uri::PathAndQuery::try_from(target)) {
        let to = location(host, 8443, Some(&target));
        assert!(to.is_none_or(|to| to.as_bytes().starts_with(b"https://")));
    }
    let Ok(origin) = HeaderValue::from_bytes(origin) else { return };
    let mut request = HeaderMap::from_iter([(header::ORIGIN, origin.clone())]);
    request.insert(header::ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("PUT"));
    let own = lines.take(8).filter_map(|line| String::from_utf8(line.to_vec()).ok()).collect();
    let of_tests = vec!["https://a.test".to_owned(), "https://*.b.test:8443".to_owned()];
    for rules in [rules(of_tests), rules(own)] {
        let Some(cors) = rules.and_then(|rules| rules.cors) else { continue };
        for method in [Method::GET, Method::OPTIONS] {
            let mut response = HeaderMap::from_iter([(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"))]);
            cors.apply(&method, &request, &mut response);
            let allowed = response.get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
            assert!(allowed.is_none_or(|allowed| allowed == origin), "nobody else's");
            assert_eq!(cors.preflight(&Method::OPTIONS, &request), Some(allowed.map(|_| ()).ok_or(umbel_delivery::Foreign)));
        }
    }
});
