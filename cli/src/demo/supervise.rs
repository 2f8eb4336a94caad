//! Processes of a demo: each is started, started again when it ends by itself, and stopped in order. None outlives the
//! supervisor: each holds a pipe whose other end is here, and ends with it.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::exit::Failure;

/// From SIGTERM to SIGKILL: longer than any of them gives itself, Postgres above all.
const STOP_DEADLINE: Duration = Duration::from_secs(40);
/// Before a process that ended is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(300);
const PROBE_PAUSE: Duration = Duration::from_millis(50);
const READY_DEADLINE: Duration = Duration::from_secs(90);
/// A log larger than this starts anew.
const LOG_LIMIT: u64 = 32 * 1024 * 1024;

/// Longer than any of them takes to notice that its supervisor is gone, and to end.
const LEFTOVER_DEADLINE: Duration = Duration::from_secs(20);

/// What is started: this program with these arguments.
#[derive(Clone)]
pub(super) struct Spec {
    pub(super) name: String,
    pub(super) args: Vec<OsString>,
    /// A variable of its environment.
    secret: Option<(&'static str, String)>,
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spec").field("name", &self.name).field("args", &self.args).finish_non_exhaustive()
    }
}

impl Spec {
    pub(super) fn new(name: impl Into<String>, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self { name: name.into(), args: args.into_iter().map(Into::into).collect(), secret: None }
    }

    /// With a secret in its environment.
    pub(super) fn with_secret(self, variable: &'static str, value: String) -> Self {
        Self { secret: Some((variable, value)), ..self }
    }
}

/// Waits until the processes of an earlier run, whose supervisor was killed, have ended: they do so by themselves.
/// `table` is the list that it left.
pub(super) async fn outlive_earlier(table: &Path) {
    let listed = fs::read(table).unwrap_or_default();
    let listed: BTreeMap<String, u32> = serde_json::from_slice(&listed).unwrap_or_default();
    let folder = table.parent().unwrap_or(table);
    let deadline = Instant::now() + LEFTOVER_DEADLINE;
    while listed.values().any(|pid| runs_for(*pid, folder)) && Instant::now() < deadline {
        sleep(PROBE_PAUSE).await;
    }
}

/// Whether this process is one of a demo in `folder`, and not another one that has the number by now.
fn runs_for(pid: u32, folder: &Path) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let folder = folder.as_os_str().as_encoded_bytes();
    // One that is just ending has no command line any more, but still its ports.
    !has_ended(&stat) && (line.is_empty() || line.windows(folder.len()).any(|part| part == folder))
}

/// By proc(5): nothing is left but its exit status. While other threads of it are still ending, its first one may be a zombie
/// already; the ports are theirs as well.
fn has_ended(stat: &str) -> bool {
    let Some((_, rest)) = stat.rsplit_once(") ") else { return true };
    let mut fields = rest.split(' ');
    let is_zombie = fields.next().is_some_and(|state| matches!(state, "Z" | "X"));
    let threads = fields.nth(16).and_then(|threads| threads.parse::<u32>().ok());
    is_zombie && threads.is_none_or(|threads| threads <= 1)
}

/// All processes, in the order in which they were started.
#[derive(Debug)]
pub(super) struct Supervisor {
    program: PathBuf,
    logs: PathBuf,
    table: Arc<Table>,
    processes: Vec<Process>,
}

/// Name to process id, also in a file: for people, and for tests that kill.
#[derive(Debug)]
struct Table {
    file: PathBuf,
    running: Mutex<BTreeMap<String, u32>>,
}

/// One process and its successors.
#[derive(Debug)]
struct Process {
    name: String,
    /// How often it ended without being asked to.
    endings: watch::Receiver<u32>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Supervisor {
    /// Nothing runs yet. Logs go to files in `logs`, the list of processes to `table`.
    pub(super) fn new(logs: PathBuf, table: PathBuf) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let table = Arc::new(Table { file: table, running: Mutex::default() });
        Ok(Self { program, logs, table, processes: Vec::new() })
    }

    /// Starts a process and keeps it running; returns when `probe` says yes. A process that ends before that is an error.
    pub(super) async fn start(&mut self, spec: Spec, probe: impl AsyncFn() -> bool) -> anyhow::Result<()> {
        self.launch(spec)?;
        self.ready(self.processes.len() - 1, probe).await
    }

    /// As [`Supervisor::start`], for several that need not wait for each other.
    pub(super) async fn start_all<P: AsyncFn() -> bool>(&mut self, specs: Vec<(Spec, P)>) -> anyhow::Result<()> {
        let first = self.processes.len();
        let (specs, probes): (Vec<_>, Vec<_>) = specs.into_iter().unzip();
        specs.into_iter().try_for_each(|spec| self.launch(spec))?;
        let waiting = probes.into_iter().enumerate().map(|(offset, probe)| self.ready(first + offset, probe));
        futures::future::try_join_all(waiting).await.map(drop)
    }

    /// Runs this program once, to its end; returns what it printed.
    pub(super) async fn once(&self, spec: &Spec) -> anyhow::Result<String> {
        let mut command = self.command(spec)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let output = command.output().await.with_context(|| format!("cannot start {}", spec.name))?;
        if !output.status.success() {
            return Err(self.told(&spec.name, output.status));
        }
        String::from_utf8(output.stdout).context("the output is not UTF-8")
    }

    /// A process that is watched by whoever started it, not by the supervisor.
    pub(super) fn spawn_piped(&self, spec: &Spec) -> anyhow::Result<Child> {
        let mut command = self.command(spec)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.spawn().with_context(|| format!("cannot start {}", spec.name))
    }

    /// How often processes of a kind (`edge` of `edge-2`) ended without being asked to.
    pub(super) fn endings(&self, kind: &str) -> u32 {
        self.processes.iter().filter(|process| process.kind() == kind).map(|process| *process.endings.borrow()).sum()
    }

    /// Stops what was started last first; what was started together stops together.
    pub(super) async fn stop(mut self) {
        while let Some(process) = self.processes.pop() {
            let kind = process.kind().to_owned();
            let mut together = vec![process];
            while self.processes.last().is_some_and(|next| next.kind() == kind) {
                together.extend(self.processes.pop());
            }
            together.iter().for_each(|process| process.stop.cancel());
            futures::future::join_all(together.into_iter().map(|process| process.task)).await;
        }
    }

    /// What the log of a process says at its end.
    pub(super) fn told(&self, name: &str, status: ExitStatus) -> anyhow::Error {
        let log = fs::read_to_string(self.log(name)).unwrap_or_default();
        let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        let last = last.strip_prefix("umbel: ").unwrap_or(last);
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("status {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or(0)),
        };
        Failure::error(crate::exit::Status::Other, format!("{name} ended ({how}): {last}"))
    }

    fn launch(&mut self, spec: Spec) -> anyhow::Result<()> {
        let child = self.supervised(&spec)?;
        let (endings_here, endings) = watch::channel(0);
        let stop = CancellationToken::new();
        let mut starter = Self {
            program: self.program.clone(),
            logs: self.logs.clone(),
            table: self.table.clone(),
            processes: Vec::new(),
        };
        let (name, stopping) = (spec.name.clone(), stop.clone());
        let task = tokio::spawn(async move { starter.keep(spec, child, endings_here, stopping).await });
        self.processes.push(Process { name, endings, stop, task: AbortOnDropHandle::new(task) });
        Ok(())
    }

    async fn keep(&mut self, spec: Spec, mut child: Child, endings: watch::Sender<u32>, stop: CancellationToken) {
        loop {
            self.table.note(&spec.name, child.id());
            // `wait` closes the pipe that it finds in the child, and the child takes that for our end.
            let lifeline = child.stdin.take();
            tokio::select! {
                () = stop.cancelled() => break,
                _ended = child.wait() => {}
            }
            self.table.note(&spec.name, None);
            endings.send_modify(|count| *count += 1);
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(RESTART_PAUSE) => {}
            }
            drop(lifeline);
            match self.supervised(&spec) {
                Ok(next) => child = next,
                Err(_) => return,
            }
        }
        end(child).await;
        self.table.note(&spec.name, None);
    }

    fn supervised(&self, spec: &Spec) -> anyhow::Result<Child> {
        let mut command = self.command(spec)?;
        // The write end is kept as long as the child is, or until this process is no more.
        command.arg("--supervised").stdin(Stdio::piped()).stdout(Stdio::null());
        // Without us it stops by itself, in order; killed, it would leave Postgres behind.
        command.kill_on_drop(false);
        command.spawn().with_context(|| format!("cannot start {}", spec.name))
    }

    fn command(&self, spec: &Spec) -> anyhow::Result<Command> {
        let log = open_log(&self.log(&spec.name))?;
        let mut command = Command::new(&self.program);
        // A group of its own: Ctrl-C is for the supervisor, which stops the others in order.
        command.args(&spec.args).stderr(log).process_group(0).kill_on_drop(true);
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_foreign(name)) {
            command.env_remove(name);
        }
        command.envs(spec.secret.as_ref().map(|(name, value)| (name, value)));
        Ok(command)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    async fn ready(&self, index: usize, probe: impl AsyncFn() -> bool) -> anyhow::Result<()> {
        let process = &self.processes[index];
        let deadline = Instant::now() + READY_DEADLINE;
        while !probe().await {
            if *process.endings.borrow() > 0 {
                // The log's last line is the reason; the status has been taken by the keeper.
                return Err(self.told(&process.name, ExitStatus::from_raw(1 << 8)));
            }
            if Instant::now() > deadline {
                bail!(
                    "{} is not ready after {READY_DEADLINE:?}: see {}",
                    process.name,
                    self.log(&process.name).display()
                );
            }
            sleep(PROBE_PAUSE).await;
        }
        Ok(())
    }
}

impl Process {
    /// `edge` of `edge-2`.
    fn kind(&self) -> &str {
        self.name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-')
    }
}

impl Table {
    fn note(&self, name: &str, pid: Option<u32>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match pid {
            Some(pid) => drop(running.insert(name.to_owned(), pid)),
            None => drop(running.remove(name)),
        }
        let text = serde_json::to_vec(&*running).unwrap_or_default();
        // Only people and tests read it: a full disk must not stop what it describes.
        let _written = umbel_service::files::replace(&self.file, &text);
    }
}

/// Settings in the caller's environment are not the demo's, nor is a proxy on the way to this machine itself; how much is
/// logged may be.
fn is_foreign(name: &std::ffi::OsStr) -> bool {
    const PROXIES: [&str; 3] = ["http_proxy", "https_proxy", "all_proxy"];
    name.to_str().is_some_and(|name| {
        let proxy = PROXIES.contains(&name.to_ascii_lowercase().as_str());
        proxy || (name.starts_with("UMBEL_") && name != "UMBEL_LOG")
    })
}

async fn end(mut child: Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // It may have ended in between; then there is nobody to tell.
        let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if timeout(STOP_DEADLINE, child.wait()).await.is_err() {
        // Fails only if it has ended after all.
        let _gone = child.kill().await;
    }
}

fn open_log(path: &Path) -> anyhow::Result<fs::File> {
    let big = fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_LIMIT);
    let mut options = fs::OpenOptions::new();
    let file = options.create(true).write(true).append(!big).truncate(big).open(path);
    file.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(state: char, threads: u32, expected: bool) {
        let stat = format!("7 (a) b) {state} 1 7 7 0 -1 4228364 1 0 0 0 0 0 0 0 20 0 {threads} 0 1 0 0 1 0");
        assert_eq!(has_ended(&stat), expected, "{stat}");
    }

    #[test]
    fn a_process_ends_with_its_last_thread() {
        check('S', 1, false);
        check('R', 9, false);
        check('Z', 3, false);
        check('Z', 1, true);
        check('X', 1, true);
    }

    #[test]
    fn this_process_has_not_ended() {
        assert!(!has_ended(&fs::read_to_string("/proc/self/stat").unwrap()));
    }
}
