//! Fields that are for the next hop only (RFC 9110, section 7.6.1; RFC 9111, section 3.1).

use http::header::{CONNECTION, HeaderMap};
use http::{HeaderName, HeaderValue};

use crate::list::members;

/// Never stored and never passed on, whether or not `Connection` names them.
const ALWAYS: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether a field of this name (lower case) is for one hop, whatever `Connection` says.
#[must_use]
pub fn is_hop_by_hop(name: &str) -> bool {
    ALWAYS.contains(&name)
}

/// Removes what is for one hop, and what `Connection` names.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    for name in named(headers) {
        headers.remove(name);
    }
    for name in ALWAYS {
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
        for name in ALWAYS.into_iter().chain(["a", "b", "c"]) {
            headers.append(name, HeaderValue::from_static("A, b,c d"));
        }
        strip_hop_by_hop(&mut headers);
        let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["c"]);
        assert!(ALWAYS.into_iter().all(is_hop_by_hop) && !is_hop_by_hop("c"));
    }
}
