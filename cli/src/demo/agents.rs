//! The agents, as a program on their machines speaks to them: over the local API of each.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use futures::{Stream, stream};
use tokio::{sync::watch, time::timeout};
use umbel_agent::{
    GetRequest, Identity, Progress, State as Stage,
    client::{LocalClient, Transfer},
};

use super::{
    network::{AGENTS, EDGES, agent_folder},
    patience::patiently,
    ports::Ports,
    signs,
    state::State,
};

/// How long the last figures of a download may take to arrive.
const LAST_FIGURES: Duration = Duration::from_secs(5);

/// One agent.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) name: String,
    number: usize,
    folder: PathBuf,
    ports: Ports,
    /// Names of all senders, by how the agents' figures call them.
    names: BTreeMap<String, String>,
    running: Mutex<Running>,
}

/// Downloads that ended, and those that run.
#[derive(Debug, Default)]
struct Running {
    ended: Tally,
    count: u64,
    downloads: BTreeMap<u64, watch::Receiver<Progress>>,
}

/// What an agent received.
#[derive(Debug, Default, Clone)]
pub(super) struct Tally {
    pub(super) from_edge: u64,
    pub(super) from_peers: u64,
    /// By sender; ciphertext.
    pub(super) sources: BTreeMap<String, u64>,
}

/// A download, to be read to its end and then finished.
pub(super) struct Download {
    pub(super) body: Pin<Box<dyn Stream<Item = anyhow::Result<Bytes>> + Send>>,
    progress: watch::Receiver<Progress>,
    id: u64,
}

/// All agents of the demo.
pub(super) fn all(state: &State, ports: Ports) -> anyhow::Result<Vec<Agent>> {
    let names = names(state, ports)?;
    let agent = |number| Agent {
        name: format!("agent-{number}"),
        number,
        folder: agent_folder(state, number),
        ports,
        names: names.clone(),
        running: Mutex::default(),
    };
    Ok((1..=AGENTS).map(agent).collect())
}

/// Peers go by the first ten hex digits of their keys, edges by their URLs.
fn names(state: &State, ports: Ports) -> anyhow::Result<BTreeMap<String, String>> {
    let mut names = BTreeMap::new();
    for number in 1..=AGENTS {
        let identity = Identity::load(&agent_folder(state, number))?;
        names.insert(hex::encode(identity.agent_id())[..10].to_owned(), format!("agent-{number}"));
    }
    names.extend((1..=EDGES).map(|number| (ports.edge(number).public.to_string(), format!("edge-{number}"))));
    Ok(names)
}

/// Lets every agent forget what it holds, so that there is something to transfer.
pub(super) async fn flush(agents: &[Agent]) -> anyhow::Result<()> {
    for agent in agents {
        let emptied = patiently(async || Ok(agent.client().await?.flush().await?)).await;
        emptied.with_context(|| format!("cannot empty {}", agent.name))?;
    }
    Ok(())
}

impl Agent {
    /// Lets it report all receipts that it owes; how many no edge has taken.
    pub(super) async fn hand_in(&self) -> anyhow::Result<usize> {
        self.client().await?.flush_receipts().await.with_context(|| format!("{} cannot report receipts", self.name))
    }

    async fn client(&self) -> anyhow::Result<LocalClient> {
        LocalClient::connect(&self.folder).await.with_context(|| format!("{} does not answer", self.name))
    }

    /// Starts to get a document.
    pub(super) async fn get(&self, key: &str) -> anyhow::Result<Download> {
        let request = GetRequest { url: signs::url(self.ports, self.number, key), ..GetRequest::default() };
        let transfer = self.client().await?.get(&request).await?;
        let progress = transfer.progress();
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.count += 1;
        let id = running.count;
        running.downloads.insert(id, progress.clone());
        Ok(Download { body: Box::pin(body(transfer)), progress, id })
    }

    /// What this agent received so far.
    pub(super) fn tally(&self) -> Tally {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tally = running.ended.clone();
        running.downloads.values().for_each(|progress| tally.add(&progress.borrow(), &self.names));
        tally
    }

    fn ended(&self, id: u64, last: &Progress) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.downloads.remove(&id);
        running.ended.add(last, &self.names);
    }
}

impl Download {
    /// Takes the last figures of a download whose body has been read.
    pub(super) async fn finish(mut self, agent: &Agent) {
        let ended = self.progress.wait_for(|progress| progress.state != Stage::Running);
        let _in_time = timeout(LAST_FIGURES, ended).await.map(drop);
        let last = self.progress.borrow().clone();
        agent.ended(self.id, &last);
    }
}

impl Tally {
    fn add(&mut self, progress: &Progress, names: &BTreeMap<String, String>) {
        self.from_edge += progress.from_edge;
        self.from_peers += progress.from_peers;
        for source in &progress.sources {
            let port = source.name.trim_end_matches('/').rsplit(':').next().unwrap_or_default();
            let name = names.get(&source.name).or_else(|| names.get(port)).unwrap_or(&source.name);
            *self.sources.entry(name.clone()).or_default() += source.bytes;
        }
    }
}

fn body(transfer: Transfer) -> impl Stream<Item = anyhow::Result<Bytes>> + Send {
    stream::unfold(transfer, |mut transfer| async {
        let bytes = transfer.next().await?;
        Some((bytes.map_err(anyhow::Error::from), transfer))
    })
}
