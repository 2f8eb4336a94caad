use proptest::prelude::*;

use super::*;

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn compression() -> Compression {
    Compression {
        codings: Coding::ALL.to_vec(),
        min_length: 1000,
        types: vec!["image/x-mine".parse().unwrap(), "model/*".parse().unwrap()],
    }
}

#[track_caller]
fn likes(field: &str, expected: &str) {
    let request = headers(&[("accept-encoding", field)]);
    assert_eq!(preferred(&request, &Coding::ALL).map_or("identity", Coding::as_str), expected, "{field}");
    assert_eq!(settled(&request, &Coding::ALL), expected, "{field}");
}

#[test]
fn which_coding() {
    assert_eq!(preferred(&HeaderMap::new(), &Coding::ALL), None);
    for (field, expected) in [
        ("", "identity"),
        ("gzip, deflate, br, zstd", "br"),
        ("gzip, deflate", "gzip"),
        ("deflate", "identity"),
        ("x-gzip", "gzip"),
        ("GZIP", "gzip"),
        ("*", "br"),
        ("*;q=0", "identity"),
        ("br;q=0, *", "zstd"),
        ("gzip;q=0.5, zstd;q=0.8, br;q=0.1", "zstd"),
        ("gzip;q=1.0, *;q=0.5", "gzip"),
        ("gzip; q=0.5", "gzip"),
        ("gzip;q=0", "identity"),
        ("gzip;q=0.000", "identity"),
        ("gzip;q=0.001", "gzip"),
        ("gzip;q=2", "identity"),
        ("gzip;q=", "identity"),
        ("gzip;q=0.0001", "identity"),
        ("gzip;v=1", "identity"),
        ("identity", "identity"),
        ("identity, gzip", "gzip"),
        ("identity;q=1, gzip;q=0.5", "identity"),
        ("identity;q=0.5, gzip;q=1.0", "gzip"),
        ("identity;q=0", "identity"),
        ("identity;q=0, br;q=0.2", "br"),
        ("identity;q=1, *;q=0", "identity"),
        ("gzip;q=0, gzip", "identity"),
        ("*;q=0.5, gzip;q=0", "br"),
    ] {
        likes(field, expected);
    }
    let two = headers(&[("accept-encoding", "gzip;q=0.5"), ("accept-encoding", "br;q=0.2")]);
    assert_eq!(preferred(&two, &Coding::ALL), Some(Coding::Gzip));
    let ours_first = headers(&[("accept-encoding", "br, gzip")]);
    assert_eq!(preferred(&ours_first, &[Coding::Gzip, Coding::Brotli]), Some(Coding::Gzip));
    assert_eq!(preferred(&ours_first, &[]), None);
}

const HTML: (&str, &str) = ("content-type", "text/html; charset=utf-8");
const LONG: (&str, &str) = ("content-length", "5000");

#[track_caller]
fn check(status: u16, response: &[(&'static str, &str)], request: &[(&'static str, &str)], expected: Encoding) {
    let status = StatusCode::from_u16(status).unwrap();
    assert_eq!(
        compression().encoding(&headers(request), status, &headers(response)),
        expected,
        "{status} {response:?} {request:?}"
    );
}

#[test]
fn what_is_encoded() {
    use Encoding::{Encode, Identity, None};
    let (gzip, gzipped) = ([("accept-encoding", "gzip")], Encode(Coding::Gzip));
    check(200, &[HTML, LONG], &gzip, gzipped);
    check(404, &[HTML, LONG], &gzip, gzipped);
    check(200, &[HTML], &gzip, gzipped);
    check(200, &[HTML, LONG], &[], Identity);
    check(200, &[HTML, ("content-length", "999")], &gzip, None);
    check(200, &[HTML, ("content-length", "1000")], &gzip, gzipped);
    check(204, &[HTML], &gzip, None);
    check(304, &[HTML], &gzip, None);
    check(206, &[HTML, ("content-length", "5"), ("content-range", "bytes 0-4/5000")], &gzip, Identity);
    check(200, &[HTML, LONG, ("content-encoding", "br")], &gzip, None);
    check(200, &[HTML, LONG, ("cache-control", "public, No-Transform")], &gzip, None);
    check(200, &[HTML, LONG, ("cache-control", "max-age=1"), ("cache-control", "no-transform")], &gzip, None);
    check(200, &[HTML, LONG], &[gzip[0], ("cache-control", "no-transform")], Identity);
    check(200, &[LONG], &gzip, None);
}

#[test]
fn media_types() {
    let encodes = |kind: &str| {
        let response = headers(&[("content-type", kind), LONG]);
        compression().encoding(&headers(&[("accept-encoding", "gzip")]), StatusCode::OK, &response) != Encoding::None
    };
    for kind in [
        "text/html",
        "TEXT/CSS;charset=x",
        "application/json",
        "application/problem+json",
        "image/svg+xml",
        "font/ttf",
        "application/javascript ; x",
        "model/gltf",
        "image/x-mine",
        "application/wasm",
    ] {
        assert!(encodes(kind), "{kind}");
    }
    for kind in [
        "image/png",
        "video/mp4",
        "application/octet-stream",
        "font/woff2",
        "application/zip",
        "text/event-stream",
        "",
        "x",
        "textual/x",
        "application/jsonx",
    ] {
        assert!(!encodes(kind), "{kind}");
    }
    for wrong in ["", "*", "*/*", "text", "text/", "/html", "text/h*", "text/html; x", "+", "a/b/c"] {
        assert_eq!(wrong.parse::<MediaTypes>(), Err(MediaTypesError), "{wrong}");
    }
}

#[test]
fn fields_of_an_encoded_response() {
    let encoded = |tag: &str| {
        let fields = [
            ("etag", tag),
            LONG,
            ("accept-ranges", "bytes"),
            ("repr-digest", "sha-256=:AA==:"),
            ("last-modified", "x"),
        ];
        let mut response = headers(&fields);
        encode_fields(&mut response, Coding::Brotli, Some(77));
        assert_eq!((&response["content-encoding"], &response["content-length"]), (&"br".parse().unwrap(), &77.into()));
        assert!(!response.contains_key("accept-ranges") && !response.contains_key("repr-digest"));
        response.get("etag").map(|tag| tag.to_str().unwrap().to_owned())
    };
    assert_eq!(encoded("\"a\"").as_deref(), Some("W/\"a--br\""));
    assert_eq!(encoded("W/\"a\"").as_deref(), Some("W/\"a--br\""));
    assert_eq!(encoded("\"\"").as_deref(), Some("W/\"--br\""));
    assert_eq!(encoded("a"), None);
    let mut unknown = headers(&[LONG]);
    encode_fields(&mut unknown, Coding::Gzip, None);
    assert_eq!(unknown, headers(&[("content-encoding", "gzip")]));
}

#[test]
fn what_it_varies_on() {
    for (had, expected) in [
        (&[] as &[_], "accept-encoding"),
        (&[("vary", "Accept-Encoding")], "Accept-Encoding"),
        (&[("vary", "*")], "*"),
        (&[("vary", "origin")], "origin|accept-encoding"),
        (&[("vary", "a, accept-encoding")], "a, accept-encoding"),
    ] {
        let mut response = headers(had);
        vary_on(&mut response, &ACCEPT_ENCODING);
        let lines: Vec<_> = response.get_all("vary").iter().map(|line| line.to_str().unwrap()).collect();
        assert_eq!(lines.join("|"), expected);
    }
}

#[track_caller]
fn conditions(method: &Method, fields: &[(&'static str, &str)], expected: &[(&'static str, &str)]) {
    let mut request = headers(fields);
    plain_conditions(method, &mut request, &Coding::ALL);
    assert_eq!(request, headers(expected), "{method} {fields:?}");
}

#[test]
fn conditions_on_encoded_forms() {
    let (br, get) = (("accept-encoding", "br, gzip"), &Method::GET);
    let tag = ("if-none-match", "W/\"a--br\"");
    conditions(get, &[br, tag], &[br, tag, ("if-none-match", "\"a\"")]);
    conditions(&Method::HEAD, &[br, tag], &[br, tag, ("if-none-match", "\"a\"")]);
    // Who does not take the coding any more needs the whole.
    conditions(get, &[tag], &[tag]);
    conditions(get, &[("accept-encoding", "gzip"), tag], &[("accept-encoding", "gzip"), tag]);
    let others = ("if-none-match", "\"x\", W/\"y\", \"z--br\", W/\"q--bz2\", W/\"a--gzip\"");
    conditions(get, &[br, others], &[br, others, ("if-none-match", "\"a\"")]);
    conditions(&Method::PUT, &[br, tag], &[br, tag]);
    // He who changes what he has read means what it was made from.
    conditions(&Method::PUT, &[("if-match", "W/\"a--br\"")], &[("if-match", "W/\"a--br\""), ("if-match", "\"a\"")]);
    let range = ("range", "bytes=5-");
    conditions(get, &[br, range, ("if-range", "Sun, 06 Nov 1994 08:49:37 GMT")], &[br]);
    conditions(
        get,
        &[range, ("if-range", "Sun, 06 Nov 1994 08:49:37 GMT")],
        &[range, ("if-range", "Sun, 06 Nov 1994 08:49:37 GMT")],
    );
    conditions(get, &[br, range, ("if-range", "\"a\"")], &[br, range, ("if-range", "\"a\"")]);
    conditions(get, &[br, range], &[br, range]);
}

#[test]
fn tags_of_304() {
    let check = |fields: &[(&'static str, &str)], expected: Option<&str>| {
        let tag = tag_of_304(&headers(fields), &HeaderValue::from_static("\"a\""));
        assert_eq!(tag.as_ref().map(|tag| tag.to_str().unwrap()), expected, "{fields:?}");
    };
    let br = ("accept-encoding", "br, gzip;q=0.5");
    check(&[br, ("if-none-match", "W/\"a--br\"")], Some("W/\"a--br\""));
    check(&[br, ("if-none-match", "\"b\", W/\"a--gzip\"")], Some("W/\"a--gzip\""));
    check(&[br, ("if-none-match", "\"a\"")], None);
    check(&[br, ("if-none-match", "W/\"b--br\"")], None);
    check(&[br, ("if-none-match", "*")], None);
    check(&[br, ("if-none-match", "W/\"a--zstd\"")], None);
    check(&[("if-none-match", "W/\"a--br\"")], None);
}

proptest! {
    #[test]
    fn a_tag_comes_back_as_it_was(text in "[!#-~]{0,30}", which in 0usize..3) {
        let coding = Coding::ALL[which];
        let plain = HeaderValue::try_from(format!("\"{text}\"")).unwrap();
        let encoded = encoded_tag(&plain, coding).unwrap();
        prop_assert_ne!(&encoded, &plain);
        let mut request = headers(&[("accept-encoding", coding.as_str())]);
        request.insert("if-none-match", encoded.clone());
        prop_assert_eq!(tag_of_304(&request, &plain), Some(encoded));
        plain_conditions(&Method::GET, &mut request, &Coding::ALL);
        prop_assert!(request.get_all("if-none-match").iter().any(|tag| tag == plain));
    }

    #[test]
    fn garbage_is_no_panic(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'"'), Just(b','), Just(b';'), Just(b'-')], 0..80)) {
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            let mut request = HeaderMap::from_iter([(ACCEPT_ENCODING, value.clone()), (IF_NONE_MATCH, value.clone())]);
            plain_conditions(&Method::GET, &mut request, &Coding::ALL);
            let _ = (preferred(&request, &Coding::ALL), tag_of_304(&request, &value));
            let mut response = HeaderMap::from_iter([(CONTENT_TYPE, value.clone()), (ETAG, value.clone()), (VARY, value)]);
            let _ = compression().encoding(&request, StatusCode::OK, &response);
            vary_on(&mut response, &ACCEPT_ENCODING);
            encode_fields(&mut response, Coding::Gzip, None);
        }
    }
}
