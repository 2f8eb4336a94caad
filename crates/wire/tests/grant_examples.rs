//! The examples of `docs/rights.md`, run as a provider would run them: what they sign is a grant, and nothing else is.

#![cfg(test)]

use std::{
    path::Path,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use umbel_wire::{
    control::PublicKey,
    token::{Access, Grant, GrantError, ReaderKeys, TokenSigner},
};

const SEED: [u8; 32] = [42; 32];

fn signed_by(program: &str, example: &str, key: &Path) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples/grants");
    let mut command = Command::new(program);
    command.arg(folder.join(example)).arg(key).args(["movies", "/films/ä", "3600"]);
    let output = command.output().unwrap_or_else(|error| panic!("{program}: {error} (`make test-deps` installs it)"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {said} (`make test-deps` installs what it needs)");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn check(program: &str, example: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.json");
    std::fs::write(&file, format!(r#"{{"id":"k1","seed":"{}"}}"#, URL_SAFE_NO_PAD.encode(SEED))).unwrap();
    let token = signed_by(program, example, &file);
    let public = TokenSigner::from_seed("k1", &SEED).public().to_vec().into();
    let keys = ReaderKeys::new(&[PublicKey { id: "k1".into(), key: public, not_after: 0 }]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let access =
        Access { site: "movies", path: "/films/ä/one.mp4", method: "GET", client: [192, 0, 2, 1].into(), now };
    let grant = Grant::verify(&token, &keys, &access).unwrap();
    assert_eq!((grant.site.as_str(), grant.prefixes), ("movies", vec!["/films/ä".to_owned()]));
    assert!((now + 3000..=now + 3600).contains(&grant.expires));
    let elsewhere = Access { path: "/films", ..access };
    assert_eq!(Grant::verify(&token, &keys, &elsewhere), Err(GrantError::Path));
    for (at, letter) in token.char_indices().filter(|(_, letter)| *letter != '.') {
        let other = if letter == 'A' { "B" } else { "A" };
        let changed = format!("{}{other}{}", &token[..at], &token[at + 1..]);
        assert!(Grant::verify(&changed, &keys, &access).is_err(), "{changed}");
    }
}

#[test]
fn python() {
    check("python3", "grant.py");
}

#[test]
fn node() {
    check("node", "grant.mjs");
}

#[test]
fn php() {
    check("php", "grant.php");
}
