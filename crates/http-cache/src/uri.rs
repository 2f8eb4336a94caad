//! URIs that responses refer to, seen from the URI they answer for (RFC 3986, section 5).

use http::{HeaderValue, Uri};
use url::Url;

/// Stands in where a request's URI has no authority: then only references without one can be the same.
const NOWHERE: &str = "http://nowhere.invalid";

/// The URI a field refers to, if it is of the same origin (scheme, host and port) as the request's. In the request's form: with an
/// authority only if that has one.
pub(crate) fn same_origin(request: &Uri, reference: &HeaderValue) -> Option<Uri> {
    let base = absolute(request)?;
    let mut target = base.join(reference.to_str().ok()?).ok()?;
    target.set_fragment(None);
    if target.origin() != base.origin() {
        return None;
    }
    match request.authority() {
        Some(_) => target.as_str().parse().ok(),
        None => target[url::Position::BeforePath..].parse().ok(),
    }
}

/// The field refers to the request's own URI.
pub(crate) fn same_resource(request: &Uri, reference: &HeaderValue) -> bool {
    let target = same_origin(request, reference);
    target.is_some_and(|target| absolute(&target) == absolute(request))
}

fn absolute(uri: &Uri) -> Option<Url> {
    if uri.authority().is_some() {
        return Url::parse(&uri.to_string()).ok();
    }
    Url::parse(NOWHERE).ok()?.join(uri.path_and_query()?.as_str()).ok()
}
