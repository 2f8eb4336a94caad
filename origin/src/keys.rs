//! Where a key lies in the store. Keys are S3 keys (any UTF-8 up to 1,024 bytes); locations must suit a file system as well
//! as a bucket, and a walk through folders in their order must meet the keys in S3's order, that of their bytes.
//!
//! A key's segments become folders and its last one a file named with a `!` at the end, so that `a` (a file, `a!`) and
//! `a/b` (in a folder `a`) lie side by side. File names have a length limit: a segment of 80 bytes or more is cut into
//! pieces of exactly 80, each a folder whose name ends with `+`. What is beyond the first 512 bytes of a key is replaced by a hash
//! (`@<hash>!`); such keys are read from the object's record.

use std::{borrow::Cow, fmt::Write};

/// Bytes of a segment in one file name; escaped, at most three times as many.
const PIECE: usize = 80;

/// Bytes of a key that are told by its location.
const TOLD: usize = 512;

/// Marks of a name's last character.
const OBJECT: char = '!';
const CONTINUED: char = '+';
const EMPTY_FOLDER: &str = "=";
const HASHED: char = '@';

/// The location of `key`'s record below the folder of its site.
pub(crate) fn location(key: &str) -> String {
    let bytes = key.as_bytes();
    let told = &bytes[..bytes.len().min(TOLD)];
    let mut names: Vec<String> = Vec::new();
    let mut segments = told.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let rest = push_pieces(&mut names, segment);
        names.push(match segments.peek() {
            Some(_) => folder_name(rest),
            None if bytes.len() > TOLD => escape(rest) + "+",
            None => escape(rest) + "!",
        });
    }
    if bytes.len() > TOLD {
        names.push(format!("{HASHED}{}{OBJECT}", blake3::hash(bytes).to_hex()));
    }
    names.join("/")
}

/// The location of the folder that holds every key beginning with `prefix` (which ends with `/`), and nothing else but
/// what lies beside them; none where there is no such folder.
pub(crate) fn folder(prefix: &str) -> Option<String> {
    let bytes = prefix.as_bytes();
    if bytes.len() > TOLD {
        return None;
    }
    let mut names = Vec::new();
    for segment in bytes.strip_suffix(b"/")?.split(|byte| *byte == b'/') {
        let rest = push_pieces(&mut names, segment);
        names.push(folder_name(rest));
    }
    Some(names.join("/"))
}

fn push_pieces<'a>(names: &mut Vec<String>, segment: &'a [u8]) -> &'a [u8] {
    let pieces = segment.chunks_exact(PIECE);
    let rest = pieces.remainder();
    names.extend(pieces.map(|piece| escape(piece) + "+"));
    rest
}

fn folder_name(segment: &[u8]) -> String {
    match segment {
        b"" => EMPTY_FOLDER.into(),
        b"." => "=2E".into(),
        b".." => "=2E=2E".into(),
        _ => escape(segment),
    }
}

fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_ascii_control() || "=+!#%@\\:*?\"<>|".contains(character) {
                escape_byte(&mut text, character as u8);
            } else {
                text.push(character);
            }
        }
        chunk.invalid().iter().for_each(|byte| escape_byte(&mut text, *byte));
    }
    text
}

fn escape_byte(text: &mut String, byte: u8) {
    // Writing to a `String` cannot fail.
    let _ = write!(text, "={byte:02X}");
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'=' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(tail.get(..2)?).ok()?, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    Some(bytes)
}

/// What a name in a folder says of the keys behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entry {
    /// One object: the folder's keys go on with these bytes and end there.
    Object(Vec<u8>),
    /// One object whose key only its record tells.
    Hashed,
    /// A folder: keys go on with these bytes (a slash among them, where it is a folder of S3's too) and then more.
    Folder(Vec<u8>),
}

impl Entry {
    /// Reads a file's name; none if it is not ours.
    pub(crate) fn file(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(OBJECT)?;
        if stem.starts_with(HASHED) { Some(Self::Hashed) } else { unescape(stem).map(Self::Object) }
    }

    /// Reads a folder's name; none if it is not ours.
    pub(crate) fn folder(name: &str) -> Option<Self> {
        if let Some(stem) = name.strip_suffix(CONTINUED) {
            return unescape(stem).map(Self::Folder);
        }
        let name = if name == EMPTY_FOLDER { Cow::Borrowed("") } else { Cow::Borrowed(name) };
        let mut bytes = unescape(&name)?;
        bytes.push(b'/');
        Some(Self::Folder(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[derive(Default)]
    struct Tree {
        files: BTreeMap<String, String>,
        folders: BTreeMap<String, Self>,
    }

    fn tree<'a>(keys: impl IntoIterator<Item = &'a String>) -> Tree {
        let mut root = Tree::default();
        for key in keys {
            let location = location(key);
            let mut names: Vec<&str> = location.split('/').collect();
            let file = names.pop().unwrap();
            let mut folder = &mut root;
            for name in names {
                folder = folder.folders.entry(name.into()).or_default();
            }
            assert_eq!(folder.files.insert(file.into(), key.clone()), None, "two keys in one place");
        }
        root
    }

    fn walk(folder: &Tree, prefix: &[u8], seen: &mut Vec<Vec<u8>>) {
        let files = folder.files.iter().map(|(name, key)| match Entry::file(name).unwrap() {
            Entry::Hashed => (key.as_bytes().to_vec(), None),
            Entry::Object(rest) => ([prefix, &rest].concat(), None),
            Entry::Folder(_) => unreachable!(),
        });
        let folders = folder.folders.iter().map(|(name, tree)| match Entry::folder(name).unwrap() {
            Entry::Folder(rest) => ([prefix, &rest].concat(), Some(tree)),
            Entry::Object(_) | Entry::Hashed => unreachable!(),
        });
        let mut entries: Vec<_> = files.chain(folders).collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.is_some().cmp(&b.1.is_some())));
        for (bytes, tree) in entries {
            match tree {
                None => seen.push(bytes),
                Some(tree) => walk(tree, &bytes, seen),
            }
        }
    }

    fn check_order(keys: &BTreeSet<String>) {
        let mut seen = Vec::new();
        walk(&tree(keys), b"", &mut seen);
        let expected: Vec<Vec<u8>> = keys.iter().map(|key| key.as_bytes().to_vec()).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn locations_are_what_they_were() {
        let check = |key: &str, expected: &str| assert_eq!(location(key), expected);
        check("index.html", "index.html!");
        check("css/main.css", "css/main.css!");
        check("a//b", "a/=/b!");
        check("dir/", "dir/!");
        check("../x", "=2E=2E/x!");
        check("50% off!", "50=25 off=21!");
        check("größe", "größe!");
        check(&"x".repeat(80), &format!("{}+/!", "x".repeat(80)));
        assert_eq!(folder("a//b/").as_deref(), Some("a/=/b"));
        assert_eq!(folder("a"), None);
    }

    #[test]
    fn neighbours_keep_their_order() {
        let long = "n".repeat(511);
        let keys = ["a", "a/b", "a-b", "a0", "a/", "a//", "b!", "b+", "b", "b=", "é", "z/é/x"];
        let longs =
            [String::new(), "/x".into(), "-".into(), "é".into(), "aé".into(), "a/".into(), "0".into(), "ab".into()];
        let mut all: BTreeSet<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        all.extend(longs.iter().map(|tail| format!("{long}{tail}")));
        for length in [78, 79, 80, 81, 159, 160] {
            all.extend(longs.iter().map(|tail| format!("{}{tail}", "p".repeat(length))));
        }
        check_order(&all);
    }

    proptest! {
        #[test]
        fn a_walk_meets_keys_in_the_order_of_their_bytes(keys in prop::collection::btree_set("[ab/!=+.é\u{1F333}-]{1,12}|(a|b|/|é){70,90}|(a|é|/){500,520}", 0..40)) {
            check_order(&keys);
        }

        #[test]
        fn names_fit_file_systems(key in "\\PC{1,256}|[%=+!]{1,1024}") {
            let names = location(&key);
            prop_assert!(names.split('/').all(|name| !name.is_empty() && name.len() <= 255 && name != "." && name != ".."));
            prop_assert!(object_store::path::Path::parse(&names).is_ok());
        }
    }
}
