//! Runs `umbel demo --once` over trees that are awkward on purpose.

#![cfg(test)]

mod pulled;
mod support;

use std::{fs, path::Path};

use serde_json::Value;
use support::{Demo, holds, pattern};

/// Chunk sizes are powers of two from 64 KiB: one byte either side of a boundary is where mistakes live.
fn awkward_tree(root: &Path) {
    let write = |name: &str, size: usize, seed: u64| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, pattern(size, seed)).unwrap();
    };
    write("empty", 0, 0);
    write("one byte", 1, 1);
    write("deep/er/and/deeper/ein schöner Name – ☂.txt", 1000, 2);
    write("signs/100% #1? a+b&c=d;e@f!.bin", 70_000, 3);
    write("日本語/ファイル", 10, 4);
    for (index, size) in [65_535, 65_536, 65_537, 131_071, 131_072, 131_073].into_iter().enumerate() {
        write(&format!("boundary/{size}"), size, 10 + index as u64);
    }
    write("large/12 MB.bin", 12_345_678, 20);
    write("large/30 MB.bin", 30_000_001, 21);
    for index in 0..60 {
        write(&format!("many/{index}.html"), 100 + 37 * index, 100 + index as u64);
    }
}

#[test]
fn every_byte_arrives_everywhere_and_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    awkward_tree(folder.path());
    let demo = Demo::new();
    let first = demo.once(folder.path(), &[]);
    assert_load_is_spread(&first);

    // A second run keeps the state, replaces what changed, deletes what is gone, and counts from where it was.
    fs::write(folder.path().join("one byte"), "2").unwrap();
    fs::write(folder.path().join("large/12 MB.bin"), pattern(9_000_000, 99)).unwrap();
    fs::remove_file(folder.path().join("empty")).unwrap();
    let second = demo.once(folder.path(), &[]);
    assert_load_is_spread(&second);
    demo.assert_nothing_runs();
    demo.assert_agents_keep_no_plaintext(&pattern(30_000_001, 21));
}

/// Nothing else runs beside this test, and four agents that fetch at once leave an edge little to send twice.
fn assert_load_is_spread(report: &Value) {
    for what in ["peers carried part of the load", "each chunk of a large file left the edges fewer than 2 times"] {
        assert!(holds(report, what), "{what}: {report:#}");
    }
}

#[test]
fn a_taken_port_is_one_clear_line() {
    let demo = Demo::new();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "a").unwrap();
    let _taken = demo.take_a_port();
    let (status, error) = demo.fail(folder.path());
    assert_eq!(status, 1);
    assert!(error.contains("is taken"), "{error}");
    assert_eq!(error.trim().lines().count(), 1, "{error}");
    assert!(!demo.state().exists(), "something was left half made");
}
