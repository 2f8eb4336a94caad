//! May this reader have this object? Public sites: yes. Others: with a grant that the provider signed.

use http::{HeaderMap, Uri, header, request::Parts};
use umbel_wire::{
    control::Site,
    token::{Grant, KeySet, TokenError},
};

/// Query parameter that carries a grant where a header cannot.
const PARAMETER: &str = "umbel_grant";

/// Why a reader may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAccess {
    /// The site needs a grant and there is none.
    #[error("this site needs a grant")]
    Missing,
    /// There is one, and it is not good for this.
    #[error("grant refused: {0}")]
    Refused(TokenError),
}

/// Decides for a decoded `path` at `now` (Unix seconds). `keys` are the site's reader keys.
pub(crate) fn check(site: &Site, keys: &KeySet, path: &str, grant: Option<&str>, now: u64) -> Result<(), NoAccess> {
    if is_public(site) {
        return Ok(());
    }
    let grant = grant.ok_or(NoAccess::Missing)?;
    Grant::verify(grant, keys, &site.name, path, now).map(drop).map_err(NoAccess::Refused)
}

/// Whether anyone may read. A site without a policy is private.
pub(crate) fn is_public(site: &Site) -> bool {
    site.policy.as_ref().is_some_and(|policy| policy.public)
}

/// The grant that a request brings: a bearer token (RFC 6750) or the query parameter.
pub(crate) fn brought<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    bearer(headers).or_else(|| {
        let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
        // A JWT's letters need no percent-encoding.
        pairs.into_iter().find(|(name, _)| *name == PARAMETER).map(|(_, value)| value)
    })
}

/// Removes the grant from a request that goes on to the provider's server: it is for the edge, and neither a part of the
/// object's name nor a secret to hand on.
pub(crate) fn take_out(request: &mut Parts) {
    if bearer(&request.headers).is_some() {
        request.headers.remove(header::AUTHORIZATION);
    }
    let Some(query) = request.uri.query() else { return };
    let rest: Vec<_> =
        query.split('&').filter(|pair| pair.split_once('=').is_none_or(|(name, _)| name != PARAMETER)).collect();
    let (path, rest) = (request.uri.path(), rest.join("&"));
    let target = if rest.is_empty() { path.to_owned() } else { format!("{path}?{rest}") };
    let mut uri = std::mem::take(&mut request.uri).into_parts();
    // A part of a target that was good is a good target.
    uri.path_and_query = target.parse().ok();
    request.uri = Uri::from_parts(uri).unwrap_or_default();
}

/// The bearer token of a request.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use umbel_wire::{control::Policy, token::TokenSigner};

    const NOW: u64 = 1_000_000;

    fn grant(site: &str, prefix: &str, not_before: u64, expires: u64, seed: u8) -> String {
        let signer = TokenSigner::from_seed("k", &[seed; 32]);
        Grant { site: site.into(), prefix: prefix.into(), not_before, expires }.sign(&signer)
    }

    fn check_private(grant: Option<&str>, expected: Result<(), NoAccess>) {
        let site = Site { name: "docs".into(), policy: Some(Policy::default()), ..Site::default() };
        let signer = TokenSigner::from_seed("k", &[1; 32]);
        let keys = KeySet::new([("k", signer.public().as_slice())]);
        assert_eq!(check(&site, &keys, "/a/b", grant, NOW), expected, "{grant:?}");
    }

    #[test]
    fn grants() {
        let refused = |error| Err(NoAccess::Refused(error));
        check_private(None, Err(NoAccess::Missing));
        check_private(Some(&grant("docs", "/", 0, NOW + 1, 1)), Ok(()));
        check_private(Some(&grant("docs", "/a", 0, NOW + 1, 1)), Ok(()));
        check_private(Some(&grant("docs", "/b", 0, NOW + 1, 1)), refused(TokenError::Binding));
        check_private(Some(&grant("other", "/", 0, NOW + 1, 1)), refused(TokenError::Audience));
        check_private(Some(&grant("docs", "/", 0, NOW, 1)), refused(TokenError::Expired));
        check_private(Some(&grant("docs", "/", NOW + 100, NOW + 200, 1)), refused(TokenError::NotYet));
        check_private(Some(&grant("docs", "/", 0, NOW + 1, 2)), refused(TokenError::Signature));
        check_private(Some("nonsense"), refused(TokenError::Malformed));
    }

    #[test]
    fn a_grant_does_not_go_on() {
        for (target, rest) in [
            ("https://a.test/x?a=b&umbel_grant=q&c", "https://a.test/x?a=b&c"),
            ("/x?umbel_grant=q", "/x"),
            ("/x?a=%20", "/x?a=%20"),
            ("/x", "/x"),
        ] {
            let request = http::Request::get(target).header("authorization", "Bearer g").body(()).unwrap();
            let mut parts = request.into_parts().0;
            take_out(&mut parts);
            assert_eq!((parts.uri.to_string().as_str(), parts.headers.len()), (rest, 0));
        }
    }

    #[test]
    fn where_a_grant_may_stand() {
        let mut headers = HeaderMap::new();
        let uri = Uri::from_static("/x?a=b&umbel_grant=q&c");
        assert_eq!(brought(&headers, &uri), Some("q"));
        headers.insert(header::AUTHORIZATION, "Basic abc".parse().unwrap());
        assert_eq!(brought(&headers, &uri), Some("q"));
        headers.insert(header::AUTHORIZATION, "bearer h".parse().unwrap());
        assert_eq!(brought(&headers, &uri), Some("h"));
        assert_eq!(brought(&HeaderMap::new(), &Uri::from_static("/x")), None);
    }
}
