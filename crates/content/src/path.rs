//! Paths of objects, checked once where they come in.

use std::fmt::{self, Write};

use crate::ids::hex_pair;

/// Bytes of the longest path, decoded: the slash and the longest S3 key.
pub const MAX_PATH_BYTES: usize = 1025;
/// Bytes of the longest path as it stands in a URI. Each decoded byte may take three.
pub const MAX_URI_BYTES: usize = 8 << 10;
/// Paths under this are the network's own and no object's.
pub const RESERVED_PREFIX: &str = "/.well-known/umbel/";

/// Why text is not the path of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Longer than [`MAX_PATH_BYTES`] decoded or [`MAX_URI_BYTES`] raw: over HTTP 414.
    #[error("path is too long")]
    TooLong,
    /// Does not begin with a slash: 400.
    #[error("path does not begin with a slash")]
    NotAbsolute,
    /// A `%` without two hex digits, or a `?` or `#`, which end a path: 400.
    #[error("path is not percent-encoded correctly")]
    Encoding,
    /// A slash as `%2F`, which would make one segment look like two: 404, as no object has such a path.
    #[error("path has an encoded slash")]
    EncodedSlash,
    /// Decodes to something that is not UTF-8: 400.
    #[error("path is not UTF-8")]
    NotUtf8,
    /// NUL or another control character: 400.
    #[error("path has a control character")]
    Control,
    /// A segment `.` or `..`: 400, however it is encoded.
    #[error("path has a segment . or ..")]
    DotSegment,
    /// Under [`RESERVED_PREFIX`]: 404.
    #[error("path is reserved")]
    Reserved,
}

/// The absolute path of an object in its site, decoded: begins with a slash, has at most [`MAX_PATH_BYTES`] bytes, no control
/// characters and no segments that a file system would take for directions. Empty segments and backslashes are ordinary
/// characters, as in S3 keys.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectPath(Box<str>);

impl ObjectPath {
    /// Checks a decoded path.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_decoded(path: &str) -> Result<Self, PathError> {
        if path.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        if !path.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        if path.chars().any(char::is_control) {
            return Err(PathError::Control);
        }
        if path.split('/').any(|segment| matches!(segment, "." | "..")) {
            return Err(PathError::DotSegment);
        }
        if path.starts_with(RESERVED_PREFIX) {
            return Err(PathError::Reserved);
        }
        Ok(Self(path.into()))
    }

    /// Decodes and checks the path of a request as it stands in the request line, without query.
    ///
    /// # Errors
    /// When it is none; the kind says how to answer.
    pub fn from_uri(raw: &str) -> Result<Self, PathError> {
        if raw.len() > MAX_URI_BYTES {
            return Err(PathError::TooLong);
        }
        let decoded = String::from_utf8(percent_decode(raw.as_bytes())?).map_err(|_| PathError::NotUtf8)?;
        Self::from_decoded(&decoded)
    }

    /// The path of the object with this S3 key.
    ///
    /// # Errors
    /// When no path can be made of it.
    pub fn from_key(key: &str) -> Result<Self, PathError> {
        if key.len() >= MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        Self::from_decoded(&format!("/{key}"))
    }

    /// The name of what a request's target means on a site that is pulled: its path, decoded, and its query as it is.
    ///
    /// # Errors
    /// When it has none.
    pub fn from_target(target: &str) -> Result<Self, PathError> {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let path = Self::from_uri(path)?;
        // It would look like one with a query; and nobody could keep what has no name.
        if path.0.contains('?') || path.key().is_empty() {
            return Err(PathError::Encoding);
        }
        match query {
            Some(query) => Self::from_decoded(&format!("{path}?{query}")),
            None => Ok(path),
        }
    }

    /// The path, decoded.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path without its first slash: the object's S3 key. Empty for `/`.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.0[1..]
    }

    /// Whether a server may read it as another path: some take `\` for `/`, read no further than `;`, or decode once more. What
    /// is checked of such a path would not be what they answer. That matters where a right is to some paths only.
    #[must_use]
    pub fn may_be_another(&self) -> bool {
        let is_dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
        let encoded = |code: &[u8]| self.0.as_bytes().windows(code.len()).any(|part| part.eq_ignore_ascii_case(code));
        self.0.split(['/', '\\']).any(is_dots) || [&b"%2e"[..], b"%2f", b"%5c"].into_iter().any(encoded)
    }

    /// The path as it stands in a URI. All but unreserved characters (RFC 3986, section 2.3) and slashes are encoded.
    #[must_use]
    pub fn to_uri(&self) -> String {
        let mut uri = String::with_capacity(self.0.len());
        for byte in self.0.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => uri.push(byte.into()),
                other => write!(uri, "%{other:02X}").expect("a String takes everything"),
            }
        }
        uri
    }

    /// The request target for a name of [`ObjectPath::from_target`]. What may stand for itself in a path does (RFC 3986,
    /// section 3.3), as browsers send it.
    #[must_use]
    pub fn to_target(&self) -> String {
        let (path, query) = self.0.split_once('?').map_or((&*self.0, None), |(path, query)| (path, Some(query)));
        let mut target = String::with_capacity(self.0.len());
        for byte in path.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => target.push(byte.into()),
                _ if b"-._~!$&'()*+,;=:@/".contains(&byte) => target.push(byte.into()),
                other => write!(target, "%{other:02X}").expect("a String takes everything"),
            }
        }
        if let Some(query) = query {
            target.push('?');
            target.push_str(query);
        }
        target
    }
}

impl AsRef<str> for ObjectPath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectPath({:?})", self.0)
    }
}

fn percent_decode(raw: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut decoded = Vec::with_capacity(raw.len().min(MAX_PATH_BYTES));
    let mut rest = raw;
    while let Some((byte, tail)) = take_byte(rest)? {
        decoded.push(byte);
        rest = tail;
    }
    Ok(decoded)
}

/// The next decoded byte and what follows it.
fn take_byte(raw: &[u8]) -> Result<Option<(u8, &[u8])>, PathError> {
    match raw {
        [] => Ok(None),
        [b'?' | b'#', ..] => Err(PathError::Encoding),
        [b'%', high, low, tail @ ..] => match hex_pair(*high, *low) {
            Some(b'/') => Err(PathError::EncodedSlash),
            Some(byte) => Ok(Some((byte, tail))),
            None => Err(PathError::Encoding),
        },
        [b'%', ..] => Err(PathError::Encoding),
        [byte, tail @ ..] => Ok(Some((*byte, tail))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::PathError::{Control, DotSegment, EncodedSlash, Encoding, NotAbsolute, NotUtf8, Reserved, TooLong};
    use super::*;

    #[track_caller]
    fn check(raw: &str, expected: Result<&str, PathError>) {
        let got = ObjectPath::from_uri(raw);
        assert_eq!(got.as_ref().map(ObjectPath::as_str).map_err(|e| *e), expected, "{raw:.80}");
    }

    #[test]
    fn request_paths() {
        check("/", Ok("/"));
        check("/a/b.txt", Ok("/a/b.txt"));
        check("/a%20b/%C3%BC", Ok("/a b/ü"));
        check("/ü", Ok("/ü"));
        check("/a+b", Ok("/a+b"));
        check("/a%2bb", Ok("/a+b"));
        check("/%253f", Ok("/%3f"));
        check("/a%3Fb%23", Ok("/a?b#"));
        check("/a//b/", Ok("/a//b/"));
        check("/a\\..\\b", Ok("/a\\..\\b"));
        check("/...", Ok("/..."));
        check("/.hidden/..x", Ok("/.hidden/..x"));
        check("/.well-known/umbelx", Ok("/.well-known/umbelx"));
        check("", Err(NotAbsolute));
        check("*", Err(NotAbsolute));
        check("a", Err(NotAbsolute));
        check("https://x/y", Err(NotAbsolute));
        check("/%", Err(Encoding));
        check("/%4", Err(Encoding));
        check("/%zz", Err(Encoding));
        check("/%+1", Err(Encoding));
        check("/a?b", Err(Encoding));
        check("/a#b", Err(Encoding));
        check("/a%2fb", Err(EncodedSlash));
        check("/..%2F..%2Fetc%2Fpasswd", Err(EncodedSlash));
        check("/%ff", Err(NotUtf8));
        check("/%c0%af", Err(NotUtf8));
        check("/%ed%a0%80", Err(NotUtf8));
        check("/%00", Err(Control));
        check("/a%0d%0aset-cookie:x", Err(Control));
        check("/%7f", Err(Control));
        check("/%c2%85", Err(Control));
        check("/..", Err(DotSegment));
        check("/a/../b", Err(DotSegment));
        check("/a/./b", Err(DotSegment));
        check("/a/.", Err(DotSegment));
        check("/%2e%2E/b", Err(DotSegment));
        check("/.well-known/umbel/v1", Err(Reserved));
        check("/.well-known/%75mbel/", Err(Reserved));
        check(&format!("/{}", "a".repeat(1024)), Ok(&format!("/{}", "a".repeat(1024))));
        check(&format!("/{}", "a".repeat(1025)), Err(TooLong));
        check(&format!("/{}", "%61".repeat(1024)), Ok(&format!("/{}", "a".repeat(1024))));
        check(&format!("/{}", "a".repeat(100 << 10)), Err(TooLong));
    }

    #[test]
    fn keys_are_paths_without_the_slash() {
        assert_eq!(ObjectPath::from_key("a/b c").unwrap().as_str(), "/a/b c");
        assert_eq!(ObjectPath::from_key("a/b c").unwrap().key(), "a/b c");
        assert_eq!(ObjectPath::from_key("/a").unwrap().key(), "/a");
        assert_eq!(ObjectPath::from_key("../a"), Err(DotSegment));
        assert_eq!(ObjectPath::from_key(&"a".repeat(1025)), Err(TooLong));
    }

    #[test]
    fn uris_keep_only_unreserved_characters() {
        let path = ObjectPath::from_decoded("/a b/ü?#%+~").unwrap();
        assert_eq!(path.to_uri(), "/a%20b/%C3%BC%3F%23%25%2B~");
    }

    #[test]
    fn paths_that_are_several() {
        for (path, expected) in [
            ("/a/b", false),
            ("/a;b=c/..d/.e/f..", false),
            ("/a/%252B/100%25", false),
            ("/a\\b", false),
            ("/a/..%5c..%5cb", true),
            ("/a/..\\b", true),
            ("/a/..;/b", true),
            ("/a/.;x/b", true),
            ("/a/%252e%252E/b", true),
            ("/a/%252Fb", true),
            ("/a/%255cb", true),
        ] {
            let path = ObjectPath::from_uri(path).unwrap();
            assert_eq!(path.may_be_another(), expected, "{path}");
        }
    }

    #[test]
    fn names_and_targets() {
        let check = |target: &str, name: Option<&str>, back: &str| {
            let path = ObjectPath::from_target(target).ok();
            assert_eq!(path.as_ref().map(ObjectPath::as_str), name, "{target}");
            if let Some(path) = path {
                assert_eq!(path.to_target(), back, "{target}");
            }
        };
        check("/a/b.bin", Some("/a/b.bin"), "/a/b.bin");
        check("/a+b(1)~%20%C3%BC", Some("/a+b(1)~ \u{fc}"), "/a+b(1)~%20%C3%BC");
        check("/%61%c3%bc%5B", Some("/a\u{fc}["), "/a%C3%BC%5B");
        check("/a?x=%20&y", Some("/a?x=%20&y"), "/a?x=%20&y");
        check("/a%3Fb", None, "");
        check("/a%2Fb", None, "");
        check("/", None, "");
        check("/a/../b", None, "");
    }

    proptest! {
        #[test]
        fn targets_go_both_ways(target in "/\\PC{1,100}(\\?\\PC{0,100})?") {
            if let Ok(path) = ObjectPath::from_target(&target) {
                prop_assert_eq!(ObjectPath::from_target(&path.to_target()), Ok(path));
            }
        }

        #[test]
        fn uris_go_both_ways(path in "/\\PC{0,200}") {
            if let Ok(path) = ObjectPath::from_decoded(&path) {
                prop_assert_eq!(ObjectPath::from_uri(&path.to_uri()), Ok(path));
            }
        }

        #[test]
        fn garbage_is_an_answer_and_no_panic(raw in any::<String>(), encoded in "/(%[0-9a-fA-F]{2}|[a./%\\\\]){0,40}") {
            for raw in [raw, encoded] {
                if let Ok(path) = ObjectPath::from_uri(&raw) {
                    prop_assert!(path.as_str().split('/').all(|segment| segment != ".." && segment != "."));
                    prop_assert!(path.as_str().starts_with('/') && !path.as_str().contains('\0'));
                    prop_assert_eq!(ObjectPath::from_key(path.key()), Ok(path));
                }
            }
        }
    }
}
