//! Processes of a running network are killed without warning while content goes through it. At the end all bytes must be right,
//! no usage lost and none counted twice: that is what `umbel demo --once` itself checks.

#![cfg(test)]

mod support;

use std::{
    fmt::Display,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use support::{Demo, pattern};

/// Processes that die in one run.
const KILLS: u64 = 8;

/// Which process is next: no two runs need be the same, but a failure names its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

/// What the agents have received, over all their lives.
struct Meter<'a> {
    demo: &'a Demo,
    /// By agent: of the present life, of those before.
    agents: [(u64, u64); 4],
}

impl Meter<'_> {
    fn read(&mut self) -> u64 {
        for (index, (now, before)) in self.agents.iter_mut().enumerate() {
            let received = self.demo.received_by(index + 1).unwrap_or(*now);
            if received < *now {
                *before += *now;
            }
            *now = received;
        }
        self.agents.iter().map(|(now, before)| now + before).sum()
    }
}

/// A demo whose transfer goes on.
struct Transfer {
    child: Child,
    /// Set when it is over.
    over: Arc<AtomicBool>,
    watch: JoinHandle<()>,
}

impl Transfer {
    fn begin(demo: &Demo, folder: &Path) -> Self {
        let mut child = demo.command(folder).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let started = lines.by_ref().map_while(Result::ok).any(|line| line.starts_with("fetching"));
        assert!(started, "the transfer never began: {:#}", demo.report(child));
        let over = Arc::new(AtomicBool::new(false));
        let watch = thread::spawn({
            let over = over.clone();
            move || {
                let mut lines = lines.map_while(Result::ok);
                lines.any(|line| line.starts_with("waiting for the usage"));
                over.store(true, Ordering::Relaxed);
                // Somebody has to read on, or the demo waits for it.
                lines.for_each(drop);
            }
        });
        Self { child, over, watch }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

fn kill(pid: impl Display) -> bool {
    Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success()
}

/// Large files of these sizes, and small ones; bytes of the large ones.
fn tree(folder: &Path, sizes: &[usize]) -> u64 {
    for (index, size) in sizes.iter().enumerate() {
        fs::write(folder.join(format!("{index}.bin")), pattern(*size, index as u64)).unwrap();
    }
    for index in 0..40 {
        fs::write(folder.join(format!("small {index}")), pattern(500 * index, 50 + index as u64)).unwrap();
    }
    sizes.iter().map(|size| *size as u64).sum()
}

#[test]
fn killed_processes_cost_no_byte_and_no_usage() {
    let (folder, demo) = (tempfile::tempdir().unwrap(), Demo::new());
    let bytes = tree(folder.path(), &[60_000_000, 25_000_000, 9_000_000, 1_000_000]);
    let transfer = Transfer::begin(&demo, folder.path());
    let seed = u64::from(std::process::id());
    let killed = kill_some(&demo, &mut Dice(seed), 4 * bytes, &transfer);
    println!("seed {seed}, killed {killed:?}");
    demo.report(transfer.child);
    transfer.watch.join().unwrap();
    assert!(killed.len() > 2, "the transfer was over before anything was killed");
    demo.assert_nothing_runs();
}

/// All processes die at once, in the middle: their receipts come in during the next run, and are not that run's.
#[test]
fn what_an_interrupted_run_left_is_not_counted_by_the_next() {
    let (folder, demo) = (tempfile::tempdir().unwrap(), Demo::new());
    let bytes = tree(folder.path(), &[30_000_000, 9_000_000]);
    let mut transfer = Transfer::begin(&demo, folder.path());
    let mut meter = Meter { demo: &demo, agents: Default::default() };
    while meter.read() < bytes {
        assert!(!transfer.is_over(), "the transfer was over before it was interrupted");
    }
    // First who would start the others again.
    transfer.child.kill().unwrap();
    for (_, pid) in demo.processes() {
        kill(pid);
    }
    transfer.child.wait().unwrap();
    transfer.watch.join().unwrap();

    demo.once(folder.path(), &[]);
    demo.assert_nothing_runs();
}

/// Who holds Postgres dies just before everything is stopped: nobody else would stop Postgres.
#[test]
fn a_server_without_its_keeper_is_stopped_as_well() {
    let (folder, demo) = (tempfile::tempdir().unwrap(), Demo::new());
    fs::write(folder.path().join("small"), "small").unwrap();
    let up = demo.up(folder.path());
    let keeper = demo.processes().into_iter().find(|(name, _)| name == "postgres").unwrap();
    assert!(kill(keeper.1));
    up.stop();
    demo.assert_nothing_runs();
}

/// Kills whenever a further stretch of all bytes has arrived, until the transfer is over.
fn kill_some(demo: &Demo, dice: &mut Dice, total: u64, transfer: &Transfer) -> Vec<String> {
    let (mut killed, mut meter) = (Vec::new(), Meter { demo, agents: Default::default() });
    while (killed.len() as u64) < KILLS && !transfer.is_over() {
        if meter.read() < (killed.len() as u64 + 1) * total / (KILLS + 1) {
            continue;
        }
        let running = demo.processes();
        let Some((name, pid)) = running.get(dice.roll(running.len().max(1))) else { continue };
        if kill(pid) {
            killed.push(name.clone());
        }
    }
    killed
}
