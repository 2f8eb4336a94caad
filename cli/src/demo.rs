//! `umbel demo`: a whole network as processes of this machine, real content through it, and the books checked at the end.
//!
//! The stations: [`state`] takes the folder, [`tree`] chooses the content, [`network`] starts and enrols everything
//! under [`supervise`], [`fetch`] gets every file on every agent and compares every byte while [`live`] shows it,
//! [`books`] compares what was delivered with what Postgres says, [`verdict`] decides and tells.

use std::{io::Write, path::PathBuf};

use clap::Args;
use tokio_util::sync::CancellationToken;
use umbel_service::shutdown;

use crate::{
    exit::{Failure, Status},
    runtime,
};

mod agents;
mod books;
mod fetch;
mod live;
mod network;
mod ports;
mod postgres;
mod signs;
mod state;
mod supervise;
mod tree;
mod verdict;

pub(crate) use postgres::PostgresArgs;

use ports::Ports;
use state::State;
use supervise::{Spec, Supervisor};
use tree::Tree;

/// Beside the content: Postgres, identities, logs.
const OVERHEAD_BYTES: u64 = 300 * 1000 * 1000;

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
    #[arg(long, value_name = "N")]
    base_port: Option<u16>,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
}

impl DemoArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        runtime::server(Box::pin(async {
            let stop = shutdown::on_signal()?;
            let state = self.take_state()?;
            let ports = Ports::check(state.base_port())?;
            let tree = Tree::choose(self.dir.as_deref(), &state)?;
            state.ensure_space(needed(&tree))?;
            let mut supervisor = Supervisor::new(state.folder("logs")?, state.path("processes.json"))?;
            let outcome = self.watched(&state, ports, &tree, &mut supervisor, &stop).await;
            self.say("stopping every process");
            supervisor.stop().await;
            outcome
        }))
    }

    fn take_state(&self) -> anyhow::Result<State> {
        let folder = self.state.clone().map_or_else(state::usual_folder, Ok)?;
        State::take(&folder, self.fresh, self.base_port)
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
        agents::flush(&agents).await?;
        let before = books::read(&api).await?;
        let sent_before = books::sent_by_edges(ports).await?;
        self.say(&format!("fetching {} files on {} agents at once", tree.files.len(), agents.len()));
        let fetched = live::shown(&agents, tree, !self.json, fetch::everything(&agents, tree)).await;
        self.say("waiting for the usage to arrive in Postgres");
        let after = books::settled(&api, &before, &fetched).await?;
        let sent = books::sent_by_edges(ports).await?.saturating_sub(sent_before);
        let verdict = verdict::reach(tree, &fetched, &before, &after, sent);
        verdict.tell(self.json);
        if !self.once {
            signs::post(state, ports, tree);
        }
        verdict.into_result(self.once)
    }

    async fn publish(&self, state: &State, tree: &Tree, supervisor: &Supervisor) -> anyhow::Result<()> {
        self.say(&format!("publishing {} ({})", tree.folder.display(), crate::show::bytes(tree.bytes())));
        let args = [
            "publish".into(),
            tree.folder.clone().into_os_string(),
            "--site".into(),
            network::SITE.into(),
            "--delete".into(),
            "--credentials".into(),
            state.path("publish.toml").into_os_string(),
        ];
        let told = supervisor.once(&Spec::new("publish", args)).await?;
        self.say(told.trim());
        Ok(())
    }

    fn say(&self, text: &str) {
        // Whoever read this may be gone, as `tee` is after Ctrl-C: no reason to break off.
        let _said =
            if self.json { writeln!(std::io::stderr(), "{text}") } else { writeln!(std::io::stdout(), "{text}") };
    }
}

/// Each part keeps the content: the origin, two edges, four agents.
fn needed(tree: &Tree) -> u64 {
    let copies = 1 + network::EDGES as u64 + network::AGENTS as u64;
    tree.bytes().saturating_mul(copies).saturating_add(OVERHEAD_BYTES)
}

/// Room for everything and for what a replaced version leaves behind.
fn cache_bytes(tree: &Tree) -> u64 {
    tree.bytes().saturating_mul(2).saturating_add(OVERHEAD_BYTES)
}
