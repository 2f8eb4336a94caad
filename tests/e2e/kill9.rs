//! Processes of a running network are killed without warning while content goes through it. At the end all bytes must be right,
//! no usage lost and none counted twice: that is what `umbel demo --once` itself checks.

#![cfg(test)]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use support::{Demo, pattern};

/// Processes that die in one run.
const KILLS: usize = 8;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(700);

/// Which process is next: no two runs need be the same, but a failure names its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

#[test]
fn killed_processes_cost_no_byte_and_no_usage() {
    let folder = tempfile::tempdir().unwrap();
    for (index, size) in [60_000_000, 25_000_000, 9_000_000, 1_000_000].into_iter().enumerate() {
        fs::write(folder.path().join(format!("{index}.bin")), pattern(size, index as u64)).unwrap();
    }
    for index in 0..40 {
        fs::write(folder.path().join(format!("small {index}")), pattern(500 * index, 50 + index as u64)).unwrap();
    }
    let demo = Demo::new();
    let mut child = demo.command(folder.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let started = lines.by_ref().map_while(Result::ok).any(|line| line.starts_with("fetching"));
    assert!(started, "the transfer never began: {:#}", demo.report(child));
    // Somebody has to read on, or the demo waits for it.
    let drain = thread::spawn(move || lines.map_while(Result::ok).for_each(drop));

    let seed = u64::from(std::process::id());
    let killed = kill_some(&demo, &mut Dice(seed));
    println!("seed {seed}, killed {killed:?}");
    demo.report(child);
    drain.join().unwrap();
    assert!(!killed.is_empty(), "the transfer was over before anything was killed");
    demo.assert_nothing_runs();
}

/// Kills until enough have died or the transfer is over.
fn kill_some(demo: &Demo, dice: &mut Dice) -> Vec<String> {
    let mut killed = Vec::new();
    let deadline = Instant::now() + PAUSE * 10 * u32::try_from(KILLS).unwrap();
    while killed.len() < KILLS && Instant::now() < deadline {
        thread::sleep(PAUSE);
        let running = demo.processes();
        if running.is_empty() {
            break;
        }
        let (name, pid) = &running[dice.roll(running.len())];
        let status = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
        if status.success() {
            killed.push(name.clone());
        }
    }
    killed
}
