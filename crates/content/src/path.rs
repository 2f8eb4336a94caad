//! Names that people choose: sites and paths. Validated once, safe everywhere after.

use std::{fmt, str::FromStr};

/// Longest path after decoding, in bytes (as S3 keys).
const MAX_PATH: usize = 1024;
/// Longest path as it stands in a request, in bytes.
const MAX_RAW_PATH: usize = 8 * 1024;
/// What edges answer themselves.
const RESERVED: &str = "/.well-known/umbel/";

/// Why text is no site name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a site name has 3 to 63 of a-z, 0-9 and inner hyphens")]
pub struct SiteNameError;

/// Name of a site: a DNS label, and a valid name of an S3 bucket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteName(String);

impl SiteName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SiteName {
    type Err = SiteNameError;

    fn from_str(text: &str) -> Result<Self, SiteNameError> {
        let legal = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        let hyphens_inside = !text.starts_with('-') && !text.ends_with('-');
        if legal && hyphens_inside && (3..=63).contains(&text.len()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(SiteNameError)
        }
    }
}

impl fmt::Display for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why text is no path of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// 414 for a reader.
    #[error("path is too long: at most {MAX_PATH} bytes after decoding")]
    TooLong,
    /// Does not begin with a slash.
    #[error("path does not begin with `/`")]
    NotAbsolute,
    /// A slash that hides as %2F.
    #[error("path has an encoded slash")]
    EncodedSlash,
    /// NUL or another control character.
    #[error("path has a control character")]
    ControlCharacter,
    /// `.` or `..` as a segment.
    #[error("path has a `.` or `..` segment")]
    DotSegment,
    /// A broken percent-encoding, or not UTF-8 after decoding.
    #[error("path is not percent-encoded UTF-8")]
    Encoding,
    /// Belongs to the network itself.
    #[error("path begins with `{RESERVED}`, which is reserved")]
    Reserved,
}

/// Path of an object in its site: absolute, decoded UTF-8, free of dot segments and control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectPath(String);

impl ObjectPath {
    /// From decoded text (`/a b/ü`).
    pub fn from_decoded(text: &str) -> Result<Self, PathError> {
        if text.len() > MAX_PATH {
            return Err(PathError::TooLong);
        }
        if !text.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        if text.chars().any(char::is_control) {
            return Err(PathError::ControlCharacter);
        }
        if text.split('/').any(|segment| matches!(segment, "." | "..")) {
            return Err(PathError::DotSegment);
        }
        if text.starts_with(RESERVED) {
            return Err(PathError::Reserved);
        }
        Ok(Self(text.to_owned()))
    }

    /// From the path of a request as it stands there (`/a%20b/%C3%BC`), without query.
    pub fn from_uri(raw: &str) -> Result<Self, PathError> {
        if raw.len() > MAX_RAW_PATH {
            return Err(PathError::TooLong);
        }
        let mut bytes = Vec::with_capacity(raw.len());
        let mut rest = raw.as_bytes();
        while let Some((first, tail)) = rest.split_first() {
            (rest, _) = match first {
                b'%' => (tail.get(2..).ok_or(PathError::Encoding)?, bytes.push(decoded(tail)?)),
                plain => (tail, bytes.push(*plain)),
            };
        }
        let text = String::from_utf8(bytes).map_err(|_| PathError::Encoding)?;
        Self::from_decoded(&text)
    }

    /// Percent-encoded, as it stands in a URL (RFC 3986, section 3.3).
    pub fn to_uri(&self) -> String {
        let mut uri = String::with_capacity(self.0.len());
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte) {
                uri.push(char::from(byte));
            } else {
                uri.push_str(&format!("%{byte:02X}"));
            }
        }
        uri
    }

    /// Decoded, with the slash at its beginning.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Decoded, without the slash at its beginning: the S3 key.
    pub fn key(&self) -> &str {
        &self.0[1..]
    }
}

fn decoded(after_percent: &[u8]) -> Result<u8, PathError> {
    let digits = after_percent.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
    let digits = digits.filter(|pair| pair.bytes().all(|byte| byte.is_ascii_hexdigit())).ok_or(PathError::Encoding)?;
    match u8::from_str_radix(digits, 16).map_err(|_| PathError::Encoding)? {
        b'/' => Err(PathError::EncodedSlash),
        byte => Ok(byte),
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
