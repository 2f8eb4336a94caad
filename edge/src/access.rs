//! May this reader have this object? Public sites: yes. Others: with a grant that the provider signed.

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use moka::sync::Cache;
use umbel_http_cache::{ResponseDirectives, Scope};
use umbel_wire::{
    carrier::Carriers,
    control::Site,
    token::{Access, GrantError, MAX_TOKEN_BYTES, ReaderKeys, SignedGrant},
};

use crate::{core::Core, refusal::refusal, view::View};

pub(crate) use umbel_wire::carrier::bearer;

/// Memory for grants whose signatures held, in bytes: some ten thousand.
const REMEMBERED: u64 = 16 * 1024 * 1024;

/// What a grant takes in memory beside its claims, at most.
const OVERHEAD: usize = 512;

/// Why a reader may not. Of several reasons, the greatest is that of the grant that came closest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum NoAccess {
    /// The site needs a grant and there is none.
    #[error("this site needs a grant")]
    Missing,
    /// There is one, and it is not good for this.
    #[error("grant refused: {0}")]
    Refused(GrantError),
}

impl NoAccess {
    /// For metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Refused(error) => error.as_str(),
        }
    }
}

/// Decides, and remembers whose signature held: that is checked once, everything else each time.
#[derive(Debug)]
pub(crate) struct Grants {
    /// By the token's BLAKE3 hash.
    signed: Cache<[u8; 32], Arc<SignedGrant>>,
}

impl Grants {
    pub(crate) fn new() -> Self {
        let weigher =
            |_: &[u8; 32], grant: &Arc<SignedGrant>| u32::try_from(grant.grant().size() + OVERHEAD).unwrap_or(u32::MAX);
        Self { signed: Cache::builder().max_capacity(REMEMBERED).weigher(weigher).build() }
    }

    /// Whether one of the tokens that were brought to a private site gives this access. `keys` are the site's.
    pub(crate) fn check<'a>(
        &self,
        keys: &ReaderKeys,
        access: &Access<'_>,
        brought: impl Iterator<Item = &'a str>,
    ) -> Result<(), NoAccess> {
        let mut closest = NoAccess::Missing;
        for token in brought {
            match self.open(token, keys).and_then(|grant| grant.check(keys, access)) {
                Ok(()) => return Ok(()),
                Err(error) => closest = closest.max(NoAccess::Refused(error)),
            }
        }
        Err(closest)
    }

    fn open(&self, token: &str, keys: &ReaderKeys) -> Result<Arc<SignedGrant>, GrantError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(GrantError::Malformed);
        }
        let name = *blake3::hash(token.as_bytes()).as_bytes();
        // Another site may have another key of the same name.
        if let Some(known) = self.signed.get(&name).filter(|known| known.is_by(keys)) {
            return Ok(known);
        }
        let grant = Arc::new(SignedGrant::open(token, keys)?);
        self.signed.insert(name, grant.clone());
        Ok(grant)
    }
}

/// Decides about a request to any site, with the tokens that it brought.
pub(crate) fn check<'a>(
    core: &Core,
    view: &View,
    site: &Site,
    access: &Access<'_>,
    brought: impl Iterator<Item = &'a str>,
) -> Result<(), NoAccess> {
    if is_public(site) {
        return Ok(());
    }
    let outcome = core.grants.check(view.reader_keys(&site.id), access, brought);
    core.metrics.grant(outcome.err().map_or("good", NoAccess::as_str));
    outcome
}

/// Whether anyone may read. A site without a policy is private.
pub(crate) fn is_public(site: &Site) -> bool {
    site.policy.as_ref().is_some_and(|policy| policy.public)
}

/// Where a private site takes grants.
pub(crate) fn carriers(site: &Site) -> Carriers {
    site.policy.as_ref().map_or(Carriers::ALL, Carriers::of)
}

/// Of a request to any site: what is taken out of it before it goes on. Bearer tokens to a public site are the provider's.
pub(crate) fn taken_out(site: &Site) -> Carriers {
    let carriers = carriers(site);
    Carriers { bearer: carriers.bearer && !is_public(site), ..carriers }
}

/// What needs a grant is not for caches that do not check it, unless the provider says so itself (RFC 9111, section
/// 5.2.2.9). What is said to some caches alone (RFC 9213) would be stronger there: it is not for them either.
pub(crate) fn keep_private(headers: &mut HeaderMap) {
    let targeted = |name: &&HeaderName| name.as_str().ends_with("-cache-control");
    let targeted: Vec<_> = headers.keys().filter(targeted).cloned().collect();
    for name in targeted {
        headers.remove(name);
    }
    let said = ResponseDirectives::of(headers);
    if !(said.public || said.no_store || said.private == Scope::Whole) {
        headers.append(header::CACHE_CONTROL, HeaderValue::from_static("private"));
    }
}

/// What the reader is told (RFC 6750, section 3): what to do about it, and nothing of the keys that the site has.
pub(crate) fn refused(error: NoAccess) -> Response<Body> {
    let (status, code, text) = match error {
        NoAccess::Missing => (StatusCode::UNAUTHORIZED, None, "this site needs a grant"),
        NoAccess::Refused(error) if error.is_invalid() => {
            (StatusCode::UNAUTHORIZED, Some("invalid_token"), told(error))
        }
        NoAccess::Refused(error) => (StatusCode::FORBIDDEN, Some("insufficient_scope"), told(error)),
    };
    let details = code.map(|code| format!(", error=\"{code}\", error_description=\"{text}\"")).unwrap_or_default();
    let mut response = refusal(status, text);
    if let Ok(challenge) = HeaderValue::from_str(&format!("Bearer realm=\"umbel\"{details}")) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

fn told(error: GrantError) -> &'static str {
    match error {
        GrantError::Malformed | GrantError::UnknownKey | GrantError::Signature | GrantError::RetiredKey => {
            "this is not a valid grant"
        }
        GrantError::Site => "this grant is for another site",
        GrantError::NotYet => "this grant is not valid yet",
        GrantError::Expired => "this grant has expired",
        GrantError::Path => "this grant is not for this path",
        GrantError::Method => "this grant is not for this method",
        GrantError::Network => "this grant is not for this network",
    }
}

/// A query without the grant in it.
pub(crate) fn without_grant(query: &str) -> String {
    let rest = query.split('&').filter(|pair| pair.split_once('=').is_none_or(|(name, _)| name != "umbel_grant"));
    rest.collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;
    use umbel_wire::{
        control::PublicKey,
        token::{Grant, TokenSigner},
    };

    const NOW: u64 = 1_000_000;

    fn keys(kid: &str, seed: u8) -> ReaderKeys {
        let key = TokenSigner::from_seed(kid, &[seed; 32]).public().to_vec().into();
        ReaderKeys::new(&[PublicKey { id: kid.into(), key, not_after: 0 }])
    }

    fn grant(prefix: &str, expires: u64, seed: u8) -> String {
        let grant = Grant { site: "docs".into(), prefixes: vec![prefix.into()], expires, ..Grant::default() };
        grant.sign(&TokenSigner::from_seed("k", &[seed; 32]))
    }

    fn access(now: u64) -> Access<'static> {
        Access { site: "docs", path: "/a/b", method: "GET", client: [127, 0, 0, 1].into(), now }
    }

    #[test]
    fn any_good_grant_opens_and_the_closest_says_why_not() {
        let (grants, keys) = (Grants::new(), keys("k", 1));
        let [good, elsewhere] = ["/a", "/b"].map(|prefix| grant(prefix, NOW + 1, 1));
        let (old, foreign) = (grant("/", NOW, 1), grant("/", NOW + 1, 2));
        let check = |brought: &[&str], expected: Result<(), NoAccess>| {
            // Twice: the second time, signatures are remembered.
            for _ in 0..2 {
                let found = grants.check(&keys, &access(NOW), brought.iter().copied());
                assert_eq!(found, expected, "{brought:?}");
            }
        };
        let refused = |error| Err(NoAccess::Refused(error));
        check(&[], Err(NoAccess::Missing));
        check(&[&good], Ok(()));
        check(&["x", &foreign, &old, &elsewhere, &good], Ok(()));
        check(&[&elsewhere, &old, &foreign, "x"], refused(GrantError::Path));
        check(&[&foreign, &old, "x"], refused(GrantError::Expired));
        check(&["x", &foreign], refused(GrantError::Signature));
        check(&[&"x".repeat(MAX_TOKEN_BYTES + 1)], refused(GrantError::Malformed));
    }

    #[test]
    fn what_is_remembered_is_checked_again() {
        let grants = Grants::new();
        let token = grant("/a", NOW + 1, 1);
        let check = |keys: &ReaderKeys, now: u64| grants.check(keys, &access(now), [token.as_str()].into_iter());
        assert_eq!(check(&keys("k", 1), NOW), Ok(()));
        assert_eq!(check(&keys("k", 1), NOW + 1), Err(NoAccess::Refused(GrantError::Expired)));
        assert_eq!(check(&keys("k", 2), NOW), Err(NoAccess::Refused(GrantError::Signature)));
        assert_eq!(check(&keys("l", 1), NOW), Err(NoAccess::Refused(GrantError::UnknownKey)));
        assert_eq!(check(&keys("k", 1), NOW), Ok(()));
    }

    #[test]
    fn other_caches_are_told() {
        for (own, expected) in [
            (&[][..], &["private"][..]),
            (&["max-age=60"], &["max-age=60", "private"]),
            (&["s-maxage=60, must-revalidate"], &["s-maxage=60, must-revalidate", "private"]),
            (&["max-age=60, Public"], &["max-age=60, Public"]),
            (&["max-age=60", "no-store"], &["max-age=60", "no-store"]),
            (&["private"], &["private"]),
            (&["max-age=60, private=\"x\""], &["max-age=60, private=\"x\"", "private"]),
        ] {
            let lines = |lines: &[&str]| -> HeaderMap {
                lines.iter().map(|line| (header::CACHE_CONTROL, line.parse().unwrap())).collect()
            };
            let mut headers = lines(own);
            keep_private(&mut headers);
            assert_eq!(headers, lines(expected));
        }
    }

    #[test]
    fn readers_are_told_what_to_do() {
        for (error, status, code) in [
            (NoAccess::Missing, 401, None),
            (NoAccess::Refused(GrantError::Expired), 401, Some("invalid_token")),
            (NoAccess::Refused(GrantError::Signature), 401, Some("invalid_token")),
            (NoAccess::Refused(GrantError::Network), 403, Some("insufficient_scope")),
        ] {
            let response = refused(error);
            let challenge = response.headers()[header::WWW_AUTHENTICATE].to_str().unwrap();
            assert_eq!(response.status(), status, "{error}");
            assert!(challenge.starts_with("Bearer realm=\"umbel\"") && !challenge.contains("key"), "{challenge}");
            assert_eq!(challenge.contains("error="), code.is_some(), "{challenge}");
            assert!(code.is_none_or(|code| challenge.contains(&format!("error=\"{code}\""))), "{challenge}");
        }
    }
}
