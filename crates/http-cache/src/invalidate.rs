//! What a request that changes something makes stale (RFC 9111, section 4.4).

use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderName, Uri, request, response};

use crate::uri::same_origin;

/// Fields that may name something else that has changed.
const NAMED_IN: [HeaderName; 2] = [LOCATION, CONTENT_LOCATION];

/// URIs whose stored responses are to be invalidated: the request's, and those of the same origin that the response names. Nothing after a
/// safe method or an error. The shell removes all variants of each.
///
/// The request's URI is taken as the key under which the shell stores; absolute if it is. Where it was sent is said by its
/// `X-Forwarded-Host` and `X-Forwarded-Proto`, else by itself, else by its `Host`.
#[must_use]
pub fn invalidates(request: &request::Parts, response: &response::Parts) -> Vec<Uri> {
    let done = response.status.is_success() || response.status.is_redirection();
    // Methods that we do not know are not safe (RFC 9110, section 9.2.1).
    if request.method.is_safe() || !done {
        return Vec::new();
    }
    let named = NAMED_IN.iter().flat_map(|name| response.headers.get_all(name).iter().take(1));
    let named = named.filter_map(|reference| same_origin(request, reference));
    let mut uris = vec![request.uri.clone()];
    for uri in named {
        if !uris.contains(&uri) {
            uris.push(uri);
        }
    }
    uris
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use proptest::prelude::*;

    use super::*;

    fn of(method: &str, uri: &str, status: u16, fields: &[(&str, &str)]) -> Vec<String> {
        let request = Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0;
        let response =
            fields.iter().fold(Response::builder().status(status), |r, (name, value)| r.header(*name, *value));
        let response = response.body(()).unwrap().into_parts().0;
        invalidates(&request, &response).iter().map(Uri::to_string).collect()
    }

    const HERE: &str = "https://a.example/x/y?z";

    #[test]
    fn who_invalidates() {
        for method in ["GET", "HEAD", "OPTIONS", "TRACE"] {
            assert!(of(method, HERE, 200, &[]).is_empty(), "{method}");
        }
        for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH", "UNHEARD-OF"] {
            for (status, count) in [(200, 1), (204, 1), (303, 1), (400, 0), (404, 0), (500, 0)] {
                assert_eq!(of(method, HERE, status, &[]).len(), count, "{method} {status}");
            }
        }
    }

    #[test]
    fn what_is_invalidated() {
        let check = |uri: &str, location: &str, expected: &[&str]| {
            assert_eq!(of("POST", uri, 201, &[("location", location)]), expected, "{uri} {location}");
        };
        check(HERE, "new", &[HERE, "https://a.example/x/new"]);
        check(HERE, "/b#part", &[HERE, "https://a.example/b"]);
        check(HERE, "../b?c", &[HERE, "https://a.example/b?c"]);
        check(HERE, "https://a.example:443/b", &[HERE, "https://a.example/b"]);
        check(HERE, "//A.EXAMPLE/b", &[HERE, "https://a.example/b"]);
        check(HERE, "", &[HERE]);
        for elsewhere in [
            "http://a.example/b",
            "https://b.example/b",
            "https://a.example:8443/b",
            "//b/c",
            "mailto:a@b",
            "https://[/",
        ] {
            check(HERE, elsewhere, &[HERE]);
        }
        check("/x", "/y", &["/x", "/y"]);
        check("/x", "https://a.example/y", &["/x"]);
        let sent = |uri: &str, fields: &[(&str, &str)]| {
            let request =
                fields.iter().fold(Request::post(uri), |request, (name, value)| request.header(*name, *value));
            let response = Response::builder().status(201).header("location", "https://www.site/posts/7");
            let (request, response) = (request.body(()).unwrap(), response.body(()).unwrap());
            let changed = invalidates(&request.into_parts().0, &response.into_parts().0);
            changed.iter().map(Uri::to_string).collect::<Vec<_>>()
        };
        let secure = ("x-forwarded-proto", "https");
        let forwarded = ("x-forwarded-host", "WWW.site:443");
        assert_eq!(sent("/posts", &[("host", "www.site"), secure]), ["/posts", "/posts/7"]);
        assert_eq!(sent("/posts", &[("host", "origin"), forwarded, secure]), ["/posts", "/posts/7"]);
        let of_an_edge = "https://origin:8443/posts";
        assert_eq!(sent(of_an_edge, &[forwarded, secure]), [of_an_edge, "https://origin:8443/posts/7"]);
        for elsewhere in [&[("host", "www.site")][..], &[("host", "b"), secure], &[secure], &[("host", ""), secure]] {
            assert_eq!(sent("/posts", elsewhere), ["/posts"]);
        }
        let both = of("PUT", HERE, 200, &[("location", "/1"), ("content-location", "/2")]);
        assert_eq!(both, [HERE, "https://a.example/1", "https://a.example/2"]);
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(location in "[ -~]{0,40}", path in "/[a-z/.?]{0,10}") {
            prop_assert!(!of("POST", &path, 200, &[("location", &location)]).is_empty());
        }
    }
}
