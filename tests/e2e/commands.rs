//! What every command owes to who starts it: reasons that a program can read where JSON was asked for, and no panic when nobody
//! reads on.

#![cfg(test)]

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

/// This program, with nothing of the machine's owner.
fn umbel(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_umbel"));
    command.args(args).env_clear().env("HOME", home);
    command
}

/// An output that nobody reads any more.
fn closed() -> Stdio {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    OwnedFd::from(ours).into()
}

/// A program gets the reason, and so does a person.
fn check_failure(args: &[&str], expected: i32) {
    let home = tempfile::tempdir().unwrap();
    let output = umbel(home.path(), args).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(expected), "{args:?}: {error}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{args:?}: no JSON: {error}"));
    assert!(answer["error"].as_str().is_some_and(|reason| !reason.is_empty()), "{args:?}: {answer}");
    assert!(!error.is_empty(), "{args:?}");
}

#[test]
fn failures_are_json_where_json_was_asked_for() {
    let nowhere = ["--control-plane", "https://127.0.0.1:1", "--api-key", "k"];
    check_failure(&["admin", "node", "list", "--json"], 1);
    check_failure(&[&["admin", "--json", "usage"], &nowhere[..]].concat(), 1);
    check_failure(&["publish", "/nonexistent", "--site", "s", "--json"], 1);
    check_failure(&["agent", "status", "--json"], 1);
    check_failure(&["agent", "flush", "--json"], 1);
    check_failure(&["agent", "enroll", "--json"], 2);
    check_failure(&["agent", "enroll", "--json", "--token", "none"], 1);
    check_failure(&["control-plane", "init", "--json"], 78);
    check_failure(&["grant", "new-key", "k", "--json", "--output", "/nonexistent/key"], 1);
    check_failure(&["demo", "--json", "--once", "--dir", "/nonexistent", "--state", "/tmp/umbel-e2e-never"], 1);
}

#[test]
fn what_came_of_a_download_is_told_once() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    let get = |more: &[&str]| {
        let args = [&["get", "--json", "https://a.localhost/x"], more].concat();
        umbel(home.path(), &args).output().unwrap()
    };
    let to_file = get(&["--output", file.to_str().unwrap()]);
    let to_output = get(&[]);
    for (output, told, silent) in
        [(&to_file, &to_file.stdout, &to_file.stderr), (&to_output, &to_output.stderr, &to_output.stdout)]
    {
        assert_eq!(output.status.code(), Some(3));
        assert!(serde_json::from_slice::<Value>(told).unwrap()["error"].is_string());
        assert!(silent.is_empty(), "{}", String::from_utf8_lossy(silent));
    }
}

#[test]
fn nobody_reads_on() {
    let home = tempfile::tempdir().unwrap();
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/edge.toml");
    let right = ["edge", "check-config", "--config", deploy.to_str().unwrap()];
    let output = umbel(home.path(), &right).stdout(closed()).stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));

    for (args, expected) in [(&["edge", "check-config"][..], 78), (&["admin", "node", "list", "--json"], 1)] {
        let status = umbel(home.path(), args).stdout(closed()).stderr(closed()).status().unwrap();
        assert_eq!(status.code(), Some(expected), "{args:?}");
    }
}
