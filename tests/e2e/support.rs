//! A demo under test: its state folder, its ports, and what may be left of it.

#![expect(dead_code, reason = "each test program uses some of it")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
};

use serde_json::Value;
use tempfile::TempDir;

/// Ports that a demo uses, from its base on.
const SPAN: u16 = 40;

/// A demo with a state folder of its own.
pub(crate) struct Demo {
    state: TempDir,
    base_port: u16,
}

impl Demo {
    /// Where Postgres' user may go as well, when root runs the tests.
    pub(crate) fn new() -> Self {
        let state = tempfile::Builder::new().prefix("umbel-e2e-").tempdir_in("/tmp").unwrap();
        let open = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o711);
        fs::set_permissions(state.path(), open).unwrap();
        Self { state, base_port: free_base() }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.state.path().join("d")
    }

    pub(crate) fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_umbel"));
        command.args(["demo", "--once", "--json", "--base-port", &self.base_port.to_string()]);
        command.arg("--dir").arg(folder).arg("--state").arg(self.state());
        command
    }

    /// Starts it, to stay up; returns when it is.
    pub(crate) fn up(&self, folder: &Path) -> Up {
        let mut command = Command::new(env!("CARGO_BIN_EXE_umbel"));
        command.args(["demo", "--base-port", &self.base_port.to_string(), "--dir"]).arg(folder);
        command.arg("--state").arg(self.state()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let is_up = lines.any(|line| line.starts_with("The network stays up"));
        let up = Up { child, _drain: thread::spawn(move || lines.for_each(drop)) };
        assert!(is_up, "it did not come up\n{}", self.logs());
        up
    }

    /// A command of this program that talks to the running network.
    pub(crate) fn umbel(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_umbel"));
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Where edge 1 answers readers and agents.
    pub(crate) fn edge_port(&self) -> u16 {
        self.base_port + 10
    }

    /// All metrics of edge 1.
    pub(crate) fn edge_metrics(&self) -> String {
        self.metrics(14)
    }

    /// As text, from this port after the base.
    fn metrics(&self, port: u16) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.base_port + port)).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// A line of the origin's metrics.
    pub(crate) fn origin_metric(&self, name: &str) -> u64 {
        let text = self.metrics(7);
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |rest| rest.trim().parse().unwrap())
    }

    /// Runs it to its end; returns what it reports.
    pub(crate) fn once(&self, folder: &Path, more: &[&str]) -> Value {
        let child = self.command(folder).args(more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        self.report(child)
    }

    /// What a started demo reports at its end. How the load was spread depends on how busy the machine is and is not judged
    /// here; everything else has to hold.
    pub(crate) fn report(&self, child: Child) -> Value {
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        let report = serde_json::from_slice(&output.stdout);
        let report: Value = report.unwrap_or_else(|_| panic!("{error}\n{}", self.logs()));
        for what in ["every byte is right", "usage equals delivered bytes"] {
            assert!(holds(&report, what), "{what}: {report:#}\n{error}\n{}", self.logs());
        }
        report
    }

    /// Runs it, expecting that it fails; returns its status and what it said.
    pub(crate) fn fail(&self, folder: &Path) -> (i32, String) {
        let output = self.command(folder).output().unwrap();
        assert!(!output.status.success());
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// One of its ports, taken until it is dropped.
    pub(crate) fn take_a_port(&self) -> TcpListener {
        TcpListener::bind((Ipv4Addr::LOCALHOST, self.base_port + 5)).unwrap()
    }

    /// Processes by name, as the demo lists them now.
    pub(crate) fn processes(&self) -> Vec<(String, i32)> {
        let text = fs::read(self.state().join("processes.json")).unwrap_or_default();
        let table: Value = serde_json::from_slice(&text).unwrap_or_default();
        let entries = table.as_object().into_iter().flatten();
        entries.filter_map(|(name, pid)| Some((name.clone(), i32::try_from(pid.as_i64()?).ok()?))).collect()
    }

    /// What an agent has received since it was started; none while it does not answer.
    pub(crate) fn received_by(&self, agent: usize) -> Option<u64> {
        let state = self.state().join(format!("agent-{agent}"));
        let output = self.umbel(&["agent", "status", "--json", "--state"]).arg(state).output().unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        Some(status["from_edges"].as_u64()? + status["from_peers"].as_u64()?)
    }

    /// No process has the state folder in its command line or as its working folder.
    pub(crate) fn assert_nothing_runs(&self) {
        let state = self.state().display().to_string();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            assert!(!line.contains(&state), "still running: {line}");
        }
    }

    /// No file of any agent holds a stretch of `plaintext`.
    pub(crate) fn assert_agents_keep_no_plaintext(&self, plaintext: &[u8]) {
        let needles: Vec<&[u8]> = plaintext.chunks(64).step_by(120_000).collect();
        let agents = fs::read_dir(self.state()).unwrap().flatten();
        let folders =
            agents.filter(|entry| entry.file_name().to_string_lossy().starts_with("agent-") && entry.path().is_dir());
        let mut searched = 0;
        for folder in folders {
            for file in
                walkdir::WalkDir::new(folder.path()).into_iter().flatten().filter(|entry| entry.file_type().is_file())
            {
                let bytes = fs::read(file.path()).unwrap();
                searched += bytes.len();
                for needle in &needles {
                    let found = bytes
                        .windows(needle.len())
                        .step_by(1)
                        .any(|window| window[0] == needle[0] && window == *needle);
                    assert!(!found, "plaintext in {}", file.path().display());
                }
            }
        }
        assert!(searched > plaintext.len(), "the agents keep nothing at all");
    }

    /// What this process has logged.
    pub(crate) fn log(&self, name: &str) -> String {
        let file = self.state().join("logs").join(name).with_extension("log");
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    }

    fn logs(&self) -> String {
        let files = fs::read_dir(self.state().join("logs")).into_iter().flatten().flatten();
        let tail = |path: PathBuf| {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(15).collect();
            format!("== {}\n{}", path.display(), lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
        };
        files.map(|file| tail(file.path())).collect::<Vec<_>>().join("\n")
    }
}

/// A demo that stays up until it is dropped.
pub(crate) struct Up {
    child: Child,
    _drain: JoinHandle<()>,
}

impl Up {
    /// Stops it, as Ctrl-C would.
    pub(crate) fn stop(mut self) {
        self.interrupt();
        assert!(self.child.wait().unwrap().success());
    }

    fn interrupt(&self) {
        Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.interrupt();
            self.child.wait().unwrap();
        }
    }
}

/// Whether the demo says that this holds.
pub(crate) fn holds(report: &Value, what: &str) -> bool {
    let mut checks = report["checks"].as_array().into_iter().flatten();
    checks.any(|check| check["what"] == what && check["holds"] == true)
}

/// Tests may run at the same time as others: look for a stretch of ports that is free now.
fn free_base() -> u16 {
    let start = 20_000 + u16::try_from(std::process::id() % 200).unwrap() * 50;
    let free = |base: &u16| (*base..*base + SPAN).all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok());
    (start..60_000).step_by(usize::from(SPAN)).find(free).unwrap()
}

/// Bytes that neither compress nor repeat, the same for the same seed.
pub(crate) fn pattern(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}
