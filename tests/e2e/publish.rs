//! `umbel publish` against a real origin: broken off in the middle of a large file, and in the company of another.

#![cfg(test)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Output},
    thread,
    time::Duration,
};

use serde_json::Value;
use support::{Demo, pattern};

/// Of `umbel publish`.
const PART: usize = 16 * 1024 * 1024;
/// Of a file that is broken off: more than are sent at a time. The last has one byte.
const PARTS: u64 = 6;
/// Of a file that two send.
const PARTS_IN_COMPANY: u64 = 4;

/// A provider's own machine: a folder with one large file, published to the demo's site.
struct Provider<'a> {
    demo: &'a Demo,
    folder: PathBuf,
}

impl Provider<'_> {
    fn start(&self, more: &[&str]) -> Child {
        let mut command = self.demo.umbel(&["publish", "--site", "demo", "--json"]);
        command.arg("--credentials").arg(self.demo.state().join("publish.toml")).arg(&self.folder).args(more);
        command.spawn().unwrap()
    }

    /// Whether the site has what the folder has.
    fn is_published(&self) -> bool {
        let output = self.start(&["--dry-run"]).wait_with_output().unwrap();
        report(&output)["to_upload"] == 0
    }

    fn write(&self, seed: u64, parts: u64) {
        let size = PART * usize::try_from(parts - 1).unwrap() + 1;
        fs::write(self.folder.join("large.bin"), pattern(size, seed)).unwrap();
    }
}

fn report(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {error}"));
    assert!(output.status.success(), "{report:#}\n{error}");
    report
}

/// Parts of multipart uploads that the origin has, of all sites.
fn parts_in(state: &Path) -> usize {
    let files = walkdir::WalkDir::new(state.join("origin/store/uploads")).into_iter().flatten();
    files.filter(|file| file.path().parent().is_some_and(|parent| parent.ends_with("parts"))).count()
}

/// Returns when the origin has at least `count` parts, and the publisher is not done.
fn until_parts(demo: &Demo, child: &mut Child, count: usize) {
    while parts_in(&demo.state()) < count {
        assert!(child.try_wait().unwrap().is_none(), "it was done too early");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn broken_off_or_in_company_an_upload_ends_well() {
    let (root, demo) = (tempfile::tempdir().unwrap(), Demo::new());
    let provider = |name: &str| {
        let folder = root.path().join(name);
        fs::create_dir(&folder).unwrap();
        Provider { demo: &demo, folder }
    };
    let tree = provider("tree").folder;
    fs::write(tree.join("small"), "small").unwrap();
    let up = demo.up(&tree);
    goes_on_where_it_was_killed(&provider("first"));
    two_send_the_same(&provider("second"));
    two_send_different_things(&provider("third"), &provider("fourth"));
    up.stop();
    demo.assert_nothing_runs();
}

fn goes_on_where_it_was_killed(provider: &Provider<'_>) {
    let sent = || provider.demo.origin_metric("umbel_origin_requests_total{operation=\"UploadPart\",outcome=\"Done\"}");
    provider.write(1, PARTS);
    let mut child = provider.start(&[]);
    until_parts(provider.demo, &mut child, 2);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!provider.is_published());

    assert_eq!(report(&provider.start(&[]).wait_with_output().unwrap())["uploaded"], 1);
    // A part that was there before its sender died may not have been answered, and so not counted.
    assert!(sent() <= PARTS, "parts that were there were sent again");
    assert!(provider.is_published());
}

/// Both find the same upload, and one completes it before the other.
fn two_send_the_same(provider: &Provider<'_>) {
    provider.write(2, PARTS_IN_COMPANY);
    let mut first = provider.start(&[]);
    until_parts(provider.demo, &mut first, 1);
    let second = provider.start(&[]);
    for child in [first, second] {
        report(&child.wait_with_output().unwrap());
    }
    assert!(provider.is_published());
}

/// Each puts its own parts in the place of the other's: what is completed in the end is all of one of them.
fn two_send_different_things(one: &Provider<'_>, other: &Provider<'_>) {
    one.write(3, PARTS_IN_COMPANY);
    other.write(4, PARTS_IN_COMPANY);
    let mut first = one.start(&[]);
    until_parts(one.demo, &mut first, 1);
    let second = other.start(&[]);
    for child in [first, second] {
        report(&child.wait_with_output().unwrap());
    }
    assert!(one.is_published() || other.is_published());
}
