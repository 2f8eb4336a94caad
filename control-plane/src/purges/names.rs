//! What may be purged, in the form in which edges compare it.

use umbel_content::ObjectPath;
use url::Url;

use crate::{
    api::{NewPurge, Site},
    error::{Error, Result},
};

/// Named in one purge.
const MOST: usize = 10_000;

/// Bytes of a URL, and of a surrogate key.
const MAX_URL: usize = 8192;
const MAX_KEY: usize = 1024;

/// Served for a path that names a folder.
const INDEX: &str = "index.html";

/// What a purge names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) targets: Vec<String>,
    pub(super) prefixes: Vec<String>,
    pub(super) keys: Vec<String>,
}

/// Checks all that `new` names of `site`.
pub(super) fn checked(site: &Site, new: &NewPurge) -> Result<Names> {
    let named = new.urls.len() + new.prefixes.len() + new.keys.len();
    if named > MOST {
        return Err(Error::invalid(format!("a purge names at most {MOST} URLs, prefixes and keys")));
    }
    if named == 0 && !new.everything {
        return Err(Error::invalid("nothing to purge: name `urls`, `prefixes` or `keys`, or set `everything`"));
    }
    let all = |texts: &[String], form: fn(&Site, &str) -> Result<String>| -> Result<Vec<String>> {
        let mut names = texts.iter().map(|text| form(site, text)).collect::<Result<Vec<_>>>()?;
        names.sort_unstable();
        names.dedup();
        Ok(names)
    };
    let also = |names: Vec<String>| if site.pull.is_some() { with_names_of_versions(names) } else { names };
    Ok(Names {
        targets: also(all(&new.urls, target)?),
        prefixes: also(all(&new.prefixes, prefix)?),
        keys: all(&new.keys, |_, key| checked_key(key))?,
    })
}

/// What agents know of a pulled site goes by one name for all the ways to encode a path.
fn with_names_of_versions(mut names: Vec<String>) -> Vec<String> {
    let versions = names.iter().filter_map(|name| Some(ObjectPath::from_target(name).ok()?.to_target()));
    names.extend(versions.collect::<Vec<_>>());
    names.sort_unstable();
    names.dedup();
    names
}

fn target(site: &Site, text: &str) -> Result<String> {
    let local = local(site, text)?;
    if site.pull.is_some() {
        return Ok(local);
    }
    let path = object_path(text, &local)?;
    Ok(if path.ends_with('/') { path + INDEX } else { path })
}

fn prefix(site: &Site, text: &str) -> Result<String> {
    let local = local(site, text)?;
    if site.pull.is_some() { Ok(local) } else { object_path(text, &local) }
}

/// Path and query as readers send them.
fn local(site: &Site, text: &str) -> Result<String> {
    if text.len() > MAX_URL {
        return Err(Error::invalid(format!("a URL has at most {MAX_URL} bytes")));
    }
    let wrong = |why: &str| Error::invalid(format!("`{text}`: {why}"));
    let text = text.split('#').next().unwrap_or_default();
    let local = match text.split_once("://") {
        Some((scheme, rest)) if ["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) => {
            let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
            if !url.host_str().is_some_and(|host| site.hosts.iter().any(|known| known == host)) {
                return Err(wrong(&format!("this is not on a host of the site {}", site.name)));
            }
            match rest.find(['/', '?']) {
                Some(start) if rest[start..].starts_with('?') => format!("/{}", &rest[start..]),
                Some(start) => rest[start..].to_owned(),
                None => "/".to_owned(),
            }
        }
        _ if text.starts_with('/') => text.to_owned(),
        _ => return Err(wrong("write a URL of the site, or a path that begins with `/`")),
    };
    if local.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(local);
    }
    // As a browser would send it.
    let url = Url::parse("https://x").and_then(|base| base.join(&local)).map_err(|error| wrong(&error.to_string()))?;
    Ok(url[url::Position::BeforePath..url::Position::AfterQuery].to_owned())
}

fn object_path(text: &str, local: &str) -> Result<String> {
    let path = local.split('?').next().unwrap_or_default();
    let path = ObjectPath::from_uri(path).map_err(|error| Error::invalid(format!("`{text}`: {error}")))?;
    Ok(path.as_str().to_owned())
}

fn checked_key(key: &str) -> Result<String> {
    let good = |byte: u8| byte != b',' && !byte.is_ascii_control();
    if (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(good) && key.trim() == key {
        return Ok(key.to_owned());
    }
    Err(Error::invalid(format!(
        "surrogate key: 1 to {MAX_KEY} bytes without commas, control characters or spaces around"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Policy, Pull};

    fn site(pulled: bool) -> Site {
        let policy = Policy {
            public: true,
            reader_keys: Vec::new(),
            cache_control: String::new(),
            lookup_ttl_ms: 0,
            peers: true,
            trust_domains: Vec::new(),
            carriers: Vec::new(),
            share_above: 1 << 20,
        };
        Site {
            id: uuid::Uuid::nil(),
            name: "films".into(),
            account: "a".into(),
            hosts: vec!["films.test".into()],
            public_key: String::new(),
            policy,
            pull: pulled.then(Pull::default),
            created_at: time::OffsetDateTime::UNIX_EPOCH,
        }
    }

    fn check(pulled: bool, url: &str, expected: Option<&str>) {
        assert_eq!(target(&site(pulled), url).ok().as_deref(), expected, "{url}, pulled: {pulled}");
    }

    #[test]
    fn targets_are_as_edges_see_them() {
        for (url, pulled, uploaded) in [
            ("/a", "/a", "/a"),
            ("https://films.test/a?b=%20c#d", "/a?b=%20c", "/a"),
            ("http://films.test:8080", "/", "/index.html"),
            ("https://FILMS.test?q", "/?q", "/index.html"),
            ("/a%20b/", "/a%20b/", "/a b/index.html"),
            ("/a b", "/a%20b", "/a b"),
            ("/\u{e4}", "/%C3%A4", "/\u{e4}"),
        ] {
            check(true, url, Some(pulled));
            check(false, url, Some(uploaded));
        }
        let long = format!("/{}", "a".repeat(MAX_URL));
        for url in ["", "a", "https://other.test/a", "ftp://films.test/a", long.as_str()] {
            check(true, url, None);
            check(false, url, None);
        }
    }

    #[test]
    fn what_cannot_be_purged_is_refused() {
        let checked = |new: NewPurge| checked(&site(true), &new);
        let keys =
            |keys: &[&str]| NewPurge { keys: keys.iter().map(|key| (*key).into()).collect(), ..NewPurge::default() };
        assert!(checked(NewPurge::default()).is_err());
        assert!(checked(NewPurge { everything: true, ..NewPurge::default() }).is_ok());
        for bad in ["", " a", "a,b", "a\n", &"k".repeat(MAX_KEY + 1)] {
            assert!(checked(keys(&[bad])).is_err(), "{bad:?}");
        }
        assert_eq!(checked(keys(&["b", "a b", "b"])).unwrap().keys, ["a b", "b"]);
        let urls = NewPurge { urls: vec!["/%c3%bc/%61?%62".into(), "/b".into()], ..NewPurge::default() };
        assert_eq!(checked(urls).unwrap().targets, ["/%C3%BC/a?%62", "/%c3%bc/%61?%62", "/b"]);
        assert!(checked(keys(&vec!["k"; MOST + 1])).is_err());
    }
}
