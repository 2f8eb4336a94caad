//! Where the documents of a pulled site come from.

use url::{Position, Url};

use crate::{
    api::Pull,
    error::{Error, Result},
};

const MAX_UPSTREAMS: usize = 16;
const MAX_URL: usize = 300;

/// The upstream URLs in the form in which they are stored, and the Host, empty for each URL's own. Whether addresses are
/// public is for origins to see: names change.
pub(super) fn checked(pull: Option<&Pull>) -> Result<(Vec<String>, String)> {
    let Some(pull) = pull else { return Ok(Default::default()) };
    if pull.upstreams.is_empty() || pull.upstreams.len() > MAX_UPSTREAMS {
        return Err(Error::invalid(format!("pull: 1 to {MAX_UPSTREAMS} upstream URLs")));
    }
    let upstreams = pull.upstreams.iter().map(|url| base(url)).collect::<Result<Vec<_>>>()?;
    let host = pull.host.as_deref().map(authority).transpose()?.unwrap_or_default();
    Ok((upstreams, host))
}

/// `https://host` or `http://host:port`, and nothing more.
fn base(text: &str) -> Result<String> {
    let bad = || Error::invalid(format!("pull: `{}` is not http(s)://host[:port] without a path", text.escape_debug()));
    let url = Url::parse(text).map_err(|_| bad())?;
    let plain = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let anonymous = url.username().is_empty() && url.password().is_none();
    if text.len() > MAX_URL || !["http", "https"].contains(&url.scheme()) || !url.has_host() || !plain || !anonymous {
        return Err(bad());
    }
    Ok(url[..Position::BeforePath].to_owned())
}

/// `host` or `host:port`.
fn authority(text: &str) -> Result<String> {
    let base =
        base(&format!("http://{text}")).map_err(|_| Error::invalid("pull: the host is not `host` or `host:port`"))?;
    Ok(base.trim_start_matches("http://").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, expected: Option<&str>) {
        assert_eq!(base(url).ok().as_deref(), expected, "{url}");
    }

    #[test]
    fn upstream_urls() {
        check("https://www.example.org", Some("https://www.example.org"));
        check("https://WWW.example.org/", Some("https://www.example.org"));
        check("http://[::1]:8080", Some("http://[::1]:8080"));
        check("https://example.org:443", Some("https://example.org"));
        for bad in
            ["", "example.org", "ftp://a", "https://", "https://a/b", "https://a?b", "https://a#b", "https://u@a"]
        {
            check(bad, None);
        }
    }

    #[test]
    fn hosts() {
        let pull = |host: &str| Pull { upstreams: vec!["http://a".into()], host: Some(host.into()) };
        assert_eq!(checked(Some(&pull("B.example:81"))).unwrap().1, "b.example:81");
        assert!(checked(Some(&pull("b/c"))).is_err());
        assert!(checked(Some(&Pull::default())).is_err(), "no upstream");
        assert_eq!(checked(None).unwrap(), (vec![], String::new()));
    }
}
