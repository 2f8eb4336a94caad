//! What a malformed configuration gets: every mistake at once, status 78, and no port bound.

#![cfg(test)]

use std::{fs, net::TcpListener, process::Command};

fn check(service: &str, text: &str, expected: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    fs::write(&file, text).unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_umbel")).args([service, "run", "--config"]).arg(&file).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{service}: {error}");
    for words in expected {
        assert!(error.contains(words), "{service}: no `{words}` in {error}");
    }
}

#[test]
fn every_mistake_at_once() {
    // Taken: a service that tried to bind it would say so, and end with another status.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap();
    let common = format!("ops_listen = \"{taken}\"\ntypo = 1\n");
    check(
        "control-plane",
        &format!("listen = \"nowhere\"\n{common}"),
        &["config.toml:1", "config.toml:3", "public_url"],
    );
    check("origin", &format!("s3_listen = \"nowhere\"\n{common}"), &["config.toml:1", "config.toml:3"]);
    check("edge", &format!("public_listen = \"nowhere\"\n{common}"), &["config.toml:1", "config.toml:3", "public_url"]);
    check(
        "agent",
        "peers = \"perhaps\"\nlimits.upload-rate = \"fast\"\ntypo = 1\n",
        &["config.toml:1", "config.toml:2", "config.toml:3"],
    );
}

#[test]
fn a_file_that_is_not_there() {
    for service in ["control-plane", "origin", "edge", "agent"] {
        let command = [service, "run", "--config", "/nonexistent/umbel.toml"];
        let output = Command::new(env!("CARGO_BIN_EXE_umbel")).args(command).output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{service}");
    }
}

#[test]
fn the_examples_are_right() {
    let deploy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    for service in ["control-plane", "origin", "edge", "agent"] {
        let file = deploy.join(format!("{service}.toml"));
        let output =
            Command::new(env!("CARGO_BIN_EXE_umbel")).args([service, "check-config", "--config"]).arg(file).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{service}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
