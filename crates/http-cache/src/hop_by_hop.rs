//! Fields that are for the next hop only (RFC 9110, section 7.6.1; RFC 9111, section 3.1).

use http::header::{
    CONNECTION, HeaderMap, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderName, HeaderValue};

use crate::list::members;

/// Never stored and never passed on, whether or not `Connection` names them.
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

/// Removes what is for one hop, and what `Connection` names.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    for name in named(headers) {
        headers.remove(name);
    }
    for name in &ALWAYS {
        headers.remove(name);
    }
}

fn named(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes);
    lines.flat_map(|line| members(line, b',')).filter_map(|name| HeaderName::from_bytes(name).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_end_to_end_fields_stay() {
        let mut headers = HeaderMap::new();
        for name in ALWAYS.iter().map(HeaderName::as_str).chain(["a", "b", "c"]) {
            headers.append(name, HeaderValue::from_static("A, b,c d"));
        }
        strip_hop_by_hop(&mut headers);
        let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["c"]);
        assert!(ALWAYS.iter().all(|name| is_hop_by_hop(name.as_str())) && !is_hop_by_hop("c"));
    }
}
