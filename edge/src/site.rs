//! Which site a request is for: by its host (RFC 9110, section 7.2), else by the name in the TLS handshake.

use http::{HeaderMap, StatusCode, Uri, Version, header};
use umbel_content::host_name;
use umbel_service::installation::Installation;
use umbel_wire::control::Site;

/// Why there is no site for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSite {
    /// None, several that differ, or not a host name.
    #[error("the Host field is missing or malformed")]
    BadHost,
    /// A good name that no site has.
    #[error("there is no site on this host")]
    Unknown,
    /// The connection was made for another host, and this one is not ours.
    #[error("this host is not served on this connection")]
    Misdirected,
}

impl NoSite {
    /// The answer to the request.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::BadHost => StatusCode::BAD_REQUEST,
            Self::Unknown => StatusCode::NOT_FOUND,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
        }
    }
}

/// The site that a request asks for. `server_name` is that of the TLS handshake.
pub(crate) fn find<'a>(
    installation: &'a Installation,
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
    server_name: Option<&str>,
) -> Result<&'a Site, NoSite> {
    let host = requested_host(version, uri, headers, server_name)?;
    installation.site_by_host(&host).ok_or_else(|| match server_name.and_then(host_name) {
        Some(name) if name != host => NoSite::Misdirected,
        _ => NoSite::Unknown,
    })
}

fn requested_host(
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
    server_name: Option<&str>,
) -> Result<String, NoSite> {
    let mut fields = headers.get_all(header::HOST).iter();
    let field = match (fields.next(), fields.next()) {
        (_, Some(_)) => return Err(NoSite::BadHost),
        (field, None) => field.map(|value| value.to_str().map_err(|_| NoSite::BadHost)).transpose()?,
    };
    let given = match (uri.authority(), field) {
        // HTTP/2 allows both, but not that they differ (RFC 9113, section 8.3.1); in HTTP/1.1 a target with an authority makes
        // `Host` void (RFC 9112, section 3.2.2).
        (Some(authority), Some(field))
            if version >= Version::HTTP_2 && host_name(authority.as_str()) != host_name(field) =>
        {
            return Err(NoSite::BadHost);
        }
        (Some(authority), _) => Some(authority.as_str()),
        (None, Some(field)) => Some(field),
        (None, None) if version < Version::HTTP_11 => server_name,
        (None, None) => None,
    };
    host_name(given.ok_or(NoSite::BadHost)?).ok_or(NoSite::BadHost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use umbel_wire::control::{ConfigEvent, Snapshot, config_event::Event};

    fn installation() -> Installation {
        let site = Site { id: "s".into(), name: "s".into(), hosts: vec!["docs.test".into()], ..Site::default() };
        let snapshot = Snapshot { sites: vec![site], ..Snapshot::default() };
        let mut installation = Installation::default();
        installation.apply(ConfigEvent { version: 1, event: Some(Event::Snapshot(snapshot)) });
        installation
    }

    fn check(hosts: &[&[u8]], sni: Option<&str>, expected: Result<&str, NoSite>) {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, http::HeaderValue::from_bytes(host).unwrap());
        }
        let installation = installation();
        let found = find(&installation, Version::HTTP_11, &Uri::from_static("/x"), &headers, sni);
        assert_eq!(found.map(|site| site.id.as_str()), expected, "{hosts:?} {sni:?}");
    }

    #[test]
    fn hosts() {
        check(&[b"docs.test"], None, Ok("s"));
        check(&[b"DOCS.test.:8443"], Some("other.test"), Ok("s"));
        check(&[b"docs.test:"], None, Ok("s"));
        check(&[b"docs.test:65535"], None, Ok("s"));
        check(&[b"docs.test:65536"], None, Err(NoSite::BadHost));
        check(&[b"docs.test:99999"], None, Err(NoSite::BadHost));
        check(&[b"other.test"], None, Err(NoSite::Unknown));
        check(&[b"other.test"], Some("other.test"), Err(NoSite::Unknown));
        check(&[b"other.test"], Some("docs.test"), Err(NoSite::Misdirected));
        check(&[], Some("docs.test"), Err(NoSite::BadHost));
        check(&[b""], None, Err(NoSite::BadHost));
        check(&[b"docs.test", b"docs.test"], None, Err(NoSite::BadHost));
        check(&[b"docs.test/../x"], None, Err(NoSite::BadHost));
        check(&[b"docs\xff.test"], None, Err(NoSite::BadHost));
        check(&["a".repeat(300).as_bytes()], None, Err(NoSite::BadHost));
    }

    #[test]
    fn http_1_0_has_only_the_handshake() {
        let installation = installation();
        let found = find(&installation, Version::HTTP_10, &Uri::from_static("/"), &HeaderMap::new(), Some("docs.test"));
        assert_eq!(found.unwrap().id, "s");
    }

    #[test]
    fn http_2_has_an_authority() {
        let uri = Uri::from_static("https://docs.test:8443/x");
        let installation = installation();
        let found = |version, host: Option<&'static str>| {
            let host = host.map(|host| (header::HOST, http::HeaderValue::from_static(host)));
            find(&installation, version, &uri, &host.into_iter().collect(), None).is_ok()
        };
        assert!(found(Version::HTTP_2, None));
        assert!(found(Version::HTTP_2, Some("DOCS.test:8443")));
        assert!(!found(Version::HTTP_2, Some("other.test")));
        assert!(found(Version::HTTP_11, Some("other.test")));
    }
}
