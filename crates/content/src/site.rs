//! Names of sites.

use std::fmt;
use std::str::FromStr;

/// Why text is not the name of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SiteNameError {
    /// Shorter than 3 or longer than 63 bytes.
    #[error("a site name has 3 to 63 characters")]
    Length,
    /// Something other than `a-z`, `0-9` and `-`.
    #[error("a site name consists of a-z, 0-9 and -")]
    Character,
    /// A `-` at an end.
    #[error("a site name begins and ends with a letter or digit")]
    Hyphen,
    /// Begins with `xn--`, which DNS keeps for itself.
    #[error("a site name does not begin with xn--")]
    Reserved,
}

/// The name of a site, which is a DNS label and the name of an S3 bucket at once: 3 to 63 of `a-z`, `0-9`, `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteName(Box<str>);

impl SiteName {
    /// Checks a name.
    ///
    /// # Errors
    /// When it is none.
    pub fn new(name: &str) -> Result<Self, SiteNameError> {
        if !(3..=63).contains(&name.len()) {
            return Err(SiteNameError::Length);
        }
        if !name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
            return Err(SiteNameError::Character);
        }
        if name.starts_with('-') || name.ends_with('-') {
            return Err(SiteNameError::Hyphen);
        }
        if name.starts_with("xn--") {
            return Err(SiteNameError::Reserved);
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SiteName {
    type Err = SiteNameError;

    fn from_str(name: &str) -> Result<Self, SiteNameError> {
        Self::new(name)
    }
}

impl AsRef<str> for SiteName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SiteName({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: Result<(), SiteNameError>) {
        assert_eq!(SiteName::new(name).map(|site| assert_eq!(site.as_str(), name)), expected, "{name}");
    }

    #[test]
    fn names() {
        use SiteNameError::{Character, Hyphen, Length, Reserved};
        check("abc", Ok(()));
        check("0-0", Ok(()));
        check(&"a".repeat(63), Ok(()));
        check("", Err(Length));
        check("ab", Err(Length));
        check(&"a".repeat(64), Err(Length));
        check("Abc", Err(Character));
        check("a.b.c", Err(Character));
        check("a/b", Err(Character));
        check("../x", Err(Character));
        check("süd", Err(Character));
        check("-ab", Err(Hyphen));
        check("ab-", Err(Hyphen));
        check("xn--abc", Err(Reserved));
    }
}
