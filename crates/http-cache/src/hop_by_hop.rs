//! Fields that are for the next hop only (RFC 9110, section 7.6.1; RFC 9111, section 3.1).

use http::header::{
    CONNECTION, HeaderMap, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderName, HeaderValue};

use crate::list::members;

/// Never stored and, but for `Trailer`, never passed on, whether or not `Connection` names them.
static ALWAYS: [HeaderName; 10] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Whether a field of this name (lower case) is for one hop, whatever `Connection` says.
#[must_use]
pub fn is_hop_by_hop(name: &str) -> bool {
    ALWAYS.iter().any(|always| always == name)
}

/// Removes what is for one hop, and what `Connection` names. `Trailer` is not (RFC 9110, sections 6.6.2 and 7.6.1): who passes
/// trailers on says which.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    for name in named(headers) {
        headers.remove(name);
    }
    for name in ALWAYS.iter().filter(|name| **name != TRAILER) {
        headers.remove(name);
    }
}

/// Removes what is not stored: what is for one hop, and what is about trailers, which are not kept.
pub(crate) fn strip_unstorable(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    headers.remove(TRAILER);
}

fn named(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes);
    lines.flat_map(|line| members(line, b',')).filter_map(|name| HeaderName::from_bytes(name).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn only_end_to_end_fields_stay() {
        let mut headers = HeaderMap::new();
        for name in ALWAYS.iter().map(HeaderName::as_str).chain(["a", "b", "c"]) {
            headers.append(name, HeaderValue::from_static("A, b,c d"));
        }
        let names = |headers: &HeaderMap| headers.keys().map(|name| name.as_str().to_owned()).collect::<BTreeSet<_>>();
        strip_hop_by_hop(&mut headers);
        assert_eq!(names(&headers), BTreeSet::from(["c", "trailer"].map(String::from)));
        strip_unstorable(&mut headers);
        assert_eq!(names(&headers), BTreeSet::from(["c".to_owned()]));
        assert!(ALWAYS.iter().all(|name| is_hop_by_hop(name.as_str())) && !is_hop_by_hop("c"));
    }
}
