//! `umbel demo`: a whole network as processes of this machine, real content through it, and the books checked at the end.
//!
//! The stations: [`state`] takes the folder, [`tree`] chooses the content, [`network`] starts and enrols everything
//! under [`supervise`], [`fetch`] gets every file on every agent and compares every byte while [`live`] shows it,
//! [`books`] compares what was delivered with what Postgres says, [`verdict`] decides and tells.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;
use umbel_control_plane::cluster;
use umbel_service::shutdown;

use crate::{
    exit::{self, Failure, Status},
    runtime, show,
};

mod agents;
mod books;
mod fetch;
mod live;
mod network;
mod patience;
mod ports;
mod postgres;
mod signs;
mod state;
mod supervise;
mod tree;
mod verdict;

pub(crate) use postgres::PostgresArgs;

use books::Way;
use patience::patiently;
use ports::Ports;
use state::State;
use supervise::{Spec, Supervisor};
use tree::{Source, Tree};
use verdict::{Evidence, Verdict};

/// Beside the content: Postgres, identities, logs.
const OVERHEAD_BYTES: u64 = 300 * 1000 * 1000;

/// Which processes run, by name: for people, for tests that kill, and for the next run.
const PROCESSES: &str = "processes.json";

/// The origin, or the edge that it asks, may be killed meanwhile: what has arrived is not sent again.
const PUBLISH_ATTEMPTS: u32 = 3;

/// What `umbel demo` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 when every byte was right, peers carried part of the load and usage equals what was \
                        delivered; 1 otherwise."
)]
pub(crate) struct DemoArgs {
    /// End after the check instead of staying up
    #[arg(long)]
    once: bool,
    /// Drop the state of earlier runs first
    #[arg(long)]
    fresh: bool,
    /// The folder to publish [default: a real tree found on this machine]
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// Where the network keeps its state [default: /var/lib/umbel-demo for root, else ~/.local/state/umbel-demo]
    #[arg(long, value_name = "PATH")]
    state: Option<PathBuf>,
    /// The first of 40 ports [default: 7440]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(ports::LAST_BASE)))]
    base_port: Option<u16>,
    /// Print one JSON object at the end
    #[arg(long)]
    pub(crate) json: bool,
}

impl DemoArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        runtime::server(Box::pin(async {
            let stop = shutdown::on_signal()?;
            let folder = self.state.clone().map_or_else(state::usual_folder, Ok)?;
            let state = State::take(&folder, self.fresh, self.base_port)?;
            supervise::outlive_earlier(&state.path(PROCESSES)).await;
            let (ports, source) = match self.examine(&state) {
                Ok(all) => all,
                Err(error) => {
                    state.abandon();
                    return Err(error);
                }
            };
            state.begin()?;
            let tree = source.into_tree(&state)?;
            self.supervised(&state, ports, &tree, &stop).await
        }))
    }

    /// Finds whatever stands in the way before anything is made.
    fn examine(&self, state: &State) -> anyhow::Result<(Ports, Source)> {
        cluster::require_possible(&state.path(network::POSTGRES))?;
        let ports = Ports::check(state.base_port())?;
        let source = Source::choose(self.dir.as_deref(), state)?;
        state.ensure_space(needed(&source))?;
        Ok((ports, source))
    }

    async fn supervised(
        &self,
        state: &State,
        ports: Ports,
        tree: &Tree,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut supervisor = Supervisor::new(state.folder("logs")?, state.path(PROCESSES))?;
        let outcome = self.watched(state, ports, tree, &mut supervisor, stop).await;
        self.say("stopping every process");
        supervisor.stop().await;
        // Whoever held it may have been killed, and left it behind.
        let stopped = cluster::stop_leftover(&state.path(network::POSTGRES)).await;
        outcome.and(stopped.context("Postgres is left behind"))
    }

    async fn watched(
        &self,
        state: &State,
        ports: Ports,
        tree: &Tree,
        supervisor: &mut Supervisor,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        tokio::select! {
            () = stop.cancelled() => return Err(Failure::error(Status::Interrupted, "interrupted")),
            outcome = self.act(state, ports, tree, supervisor) => outcome?,
        }
        if !self.once {
            stop.cancelled().await;
        }
        Ok(())
    }

    async fn act(&self, state: &State, ports: Ports, tree: &Tree, supervisor: &mut Supervisor) -> anyhow::Result<()> {
        let cache = cache_bytes(tree);
        let api = network::start(state, supervisor, ports, cache, &|text| self.say(text)).await?;
        self.publish(state, tree, supervisor).await?;
        let agents = agents::all(state, ports)?;
        let verdict = self.transfer(tree, supervisor, Way { agents: &agents, ports, api: &api }).await?;
        verdict.tell(self.json);
        if !self.once {
            signs::post(state, ports, tree);
        }
        verdict.into_result(self.once).map_err(|error| self.told(error))
    }

    async fn transfer(&self, tree: &Tree, supervisor: &Supervisor, way: Way<'_>) -> anyhow::Result<Verdict> {
        // A run that was interrupted may have left receipts behind: they are its own, not this one's.
        let before = way.settled().await?;
        agents::flush(way.agents).await?;
        let (endings, sent_before) = (supervisor.endings("edge"), way.sent_of_large().await?);
        self.say(&format!("fetching {} files on {} agents at once", tree.files.len(), way.agents.len()));
        let fetched = live::shown(way.agents, tree, !self.json, fetch::everything(way.agents, tree)).await;
        self.say("waiting for the usage to arrive in Postgres");
        let (after, unrest) = match way.settled().await {
            Ok(books) => (books, None),
            Err(error) => (patiently(async || way.read().await).await?, Some(exit::one_line(&error))),
        };
        let sent = way.sent_of_large().await?.checked_sub(sent_before);
        let sent = sent.filter(|_| supervisor.endings("edge") == endings);
        let (before, after, fetched) = (&before, &after, &fetched);
        Ok(verdict::reach(&Evidence { tree, fetched, before, after, unrest, sent }))
    }

    async fn publish(&self, state: &State, tree: &Tree, supervisor: &Supervisor) -> anyhow::Result<()> {
        self.say(&format!("publishing {} ({})", tree.folder.display(), show::bytes(tree.bytes())));
        let args = [
            "publish".into(),
            tree.folder.clone().into_os_string(),
            "--site".into(),
            network::SITE.into(),
            "--delete".into(),
            "--credentials".into(),
            state.path("publish.toml").into_os_string(),
        ];
        let spec = Spec::new("publish", args);
        let mut attempts = 1..=PUBLISH_ATTEMPTS;
        loop {
            attempts.next();
            match supervisor.once(&spec).await {
                Err(error) if !attempts.is_empty() => {
                    self.say(&format!("publishing goes on: {}", exit::one_line(&error)));
                }
                outcome => return outcome.map(|told| self.say(told.trim())),
            }
        }
    }

    /// The verdict has said it already, to programs.
    fn told(&self, error: anyhow::Error) -> anyhow::Error {
        if !self.json {
            return error;
        }
        self.say(&exit::one_line(&error));
        Failure::told(&error)
    }

    fn say(&self, text: &str) {
        if self.json {
            return show::note(text);
        }
        // Whoever read this may be gone, as `tee` is after Ctrl-C: no reason to break off.
        let _said = show::line(text);
    }
}

/// Each part keeps the content: the origin, two edges, four agents.
fn needed(source: &Source) -> u64 {
    let copies = u64::from(source.is_copied()) + 1 + network::EDGES as u64 + network::AGENTS as u64;
    source.bytes().saturating_mul(copies).saturating_add(OVERHEAD_BYTES)
}

/// Room for everything and for what a replaced version leaves behind.
fn cache_bytes(tree: &Tree) -> u64 {
    tree.bytes().saturating_mul(2).saturating_add(OVERHEAD_BYTES)
}
