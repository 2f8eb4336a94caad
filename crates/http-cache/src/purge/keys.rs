//! Surrogate keys of a response: `Surrogate-Key` (separated by spaces) and `Cache-Tag` (by commas).

use http::{HeaderMap, HeaderName};

/// Names separated by spaces.
pub const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");

/// Names separated by commas.
pub const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");

/// Surrogate keys that a response may have.
pub const MAX_KEYS: usize = 1000;

/// Bytes of a surrogate key.
pub const MAX_KEY: usize = 1024;

/// What a response may be purged by beside its target. One with too many keys, or too long ones, has any key: it is purged
/// too often rather than not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SurrogateKeys<'a> {
    listed: Vec<&'a [u8]>,
    overflown: bool,
}

impl<'a> SurrogateKeys<'a> {
    /// Those of a response.
    #[must_use]
    pub fn of(headers: &'a HeaderMap) -> Self {
        let mut keys = Self::default();
        headers.get_all(SURROGATE_KEY).iter().for_each(|value| keys.add(value.as_bytes(), b' '));
        headers.get_all(CACHE_TAG).iter().for_each(|value| keys.add(value.as_bytes(), b','));
        keys
    }

    /// Those of a response whose fields are texts; names are lower case.
    #[must_use]
    pub fn of_texts(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut keys = Self::default();
        for (name, value) in fields {
            match name {
                "surrogate-key" => keys.add(value.as_bytes(), b' '),
                "cache-tag" => keys.add(value.as_bytes(), b','),
                _ => {}
            }
        }
        keys
    }

    fn add(&mut self, value: &'a [u8], separator: u8) {
        for key in value.split(|byte| *byte == separator).map(<[u8]>::trim_ascii).filter(|key| !key.is_empty()) {
            if self.listed.len() == MAX_KEYS || key.len() > MAX_KEY {
                self.overflown = true;
                return;
            }
            self.listed.push(key);
        }
    }

    /// Those that could be told apart.
    pub(crate) fn listed(&self) -> &[&'a [u8]] {
        &self.listed
    }

    /// Whether there are more.
    pub(crate) const fn overflown(&self) -> bool {
        self.overflown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(fields: &[(&'static str, &str)], expected: &[&str], overflown: bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let keys = SurrogateKeys::of(&headers);
        let listed: Vec<_> = expected.iter().map(|key| key.as_bytes()).collect();
        assert_eq!((keys.listed, keys.overflown), (listed, overflown), "{fields:?}");
        if fields.len() < 2 {
            assert_eq!(SurrogateKeys::of_texts(fields.iter().copied()), SurrogateKeys::of(&headers));
        }
    }

    #[test]
    fn keys_of_both_kinds() {
        check(&[], &[], false);
        check(&[("surrogate-key", "a  b\tc d")], &["a", "b\tc", "d"], false);
        check(&[("cache-tag", "a b, c,,d ")], &["a b", "c", "d"], false);
        check(&[("surrogate-key", "a"), ("surrogate-key", "b"), ("cache-tag", "c")], &["a", "b", "c"], false);
        check(&[("x-key", "a")], &[], false);
        let long = "x".repeat(MAX_KEY + 1);
        check(&[("surrogate-key", &format!("a {long} b"))], &["a"], true);
        check(&[("surrogate-key", &long[1..])], &[&long[1..]], false);
        let many = vec!["k"; MAX_KEYS + 1].join(",");
        check(&[("cache-tag", &many)], &["k"; MAX_KEYS], true);
        check(&[("cache-tag", &many[2..])], &["k"; MAX_KEYS], false);
    }
}
