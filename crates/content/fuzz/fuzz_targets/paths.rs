//! What a request names: a host, then a target.
#![no_main]

use libfuzzer_sys::fuzz_target;
use umbel_content::{MAX_PATH_BYTES, ObjectPath, host_name};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (host, target) = text.split_once('\n').unwrap_or(("", text));
    if let Some(name) = host_name(host) {
        assert!(name.len() <= 253 && !name.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b'/'));
    }
    if let Ok(path) = ObjectPath::from_uri(target) {
        checked(&path);
        assert_eq!(ObjectPath::from_uri(&path.to_uri()), Ok(path));
    }
    if let Ok(path) = ObjectPath::from_target(target) {
        checked(&path);
        assert_eq!(ObjectPath::from_target(&path.to_target()), Ok(path));
    }
});

/// Nothing in it leads anywhere else.
fn checked(path: &ObjectPath) {
    let text = path.as_str();
    assert!(text.starts_with('/') && text.len() <= MAX_PATH_BYTES && !text.chars().any(char::is_control));
    assert!(!text.split('/').any(|segment| segment == "." || segment == ".."));
    if !path.may_be_another() {
        assert!(!text.split(['/', '\\']).any(|segment| segment == ".." || segment.starts_with("..;")));
    }
}
