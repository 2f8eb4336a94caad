//! Gets every file on every agent at once, and compares every byte with the source.

use std::{path::Path, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt,
    time::{Instant, sleep, timeout},
};

use super::{
    agents::{Agent, Tally},
    patience::PATIENCE,
    tree::Tree,
};
use crate::{exit, publish::walk::Found};

/// Downloads of one agent at the same time.
const AT_ONCE: usize = 8;

const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Without a byte for this long, a download counts as broken off.
const SILENCE: Duration = Duration::from_secs(60);

/// What came of it.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) agents: Vec<OneAgent>,
    pub(super) elapsed: Duration,
}

/// What came of it on one agent.
#[derive(Debug, Default)]
pub(super) struct OneAgent {
    name: String,
    /// Bytes that were compared and right.
    right: u64,
    tally: Tally,
    wrong: Vec<String>,
}

/// Why a file is not right.
enum Fault {
    /// Trying again may help.
    BrokenOff(anyhow::Error),
    /// The bytes are others.
    Wrong(String),
}

/// All files on all agents.
pub(super) async fn everything(agents: &[Agent], tree: &Tree) -> Fetched {
    let began = Instant::now();
    let agents = futures::future::join_all(agents.iter().map(|agent| on_one(agent, tree))).await;
    Fetched { agents, elapsed: began.elapsed() }
}

async fn on_one(agent: &Agent, tree: &Tree) -> OneAgent {
    let mut sum = OneAgent { name: agent.name.clone(), ..OneAgent::default() };
    // The largest first, on every agent: what takes long is shared by all from the beginning.
    let mut files: Vec<&Found> = tree.files.iter().collect();
    files.sort_by_key(|file| std::cmp::Reverse(file.size));
    let mut results =
        stream::iter(files).map(|file| async move { (file, insist(agent, file).await) }).buffer_unordered(AT_ONCE);
    while let Some((file, result)) = results.next().await {
        match result {
            Ok(()) => sum.right += file.size,
            Err(reason) => sum.wrong.push(format!("{} on {}: {reason}", file.key, agent.name)),
        }
    }
    drop(results);
    sum.tally = agent.tally();
    sum
}

/// Tries until the file is there or patience ends.
async fn insist(agent: &Agent, file: &Found) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match once(agent, file).await {
            Ok(()) => return Ok(()),
            Err(Fault::Wrong(reason)) => return Err(reason),
            Err(Fault::BrokenOff(error)) if Instant::now() > deadline => return Err(exit::one_line(&error)),
            Err(Fault::BrokenOff(_)) => sleep(RETRY_PAUSE).await,
        }
    }
}

async fn once(agent: &Agent, file: &Found) -> Result<(), Fault> {
    let mut download = agent.get(&file.key).await.map_err(Fault::BrokenOff)?;
    compare(&file.path, &mut download.body).await?;
    download.finish(agent).await;
    Ok(())
}

async fn compare(path: &Path, body: &mut (impl Stream<Item = anyhow::Result<Bytes>> + Unpin)) -> Result<(), Fault> {
    let source = tokio::fs::File::open(path).await.with_context(|| format!("cannot read {}", path.display()));
    let mut source = source.map_err(Fault::BrokenOff)?;
    let (mut expected, mut offset) = (Vec::new(), 0_u64);
    loop {
        let next =
            timeout(SILENCE, body.next()).await.context("nothing came for a minute").map_err(Fault::BrokenOff)?;
        let Some(bytes) = next.transpose().map_err(Fault::BrokenOff)? else { break };
        expected.resize(bytes.len(), 0);
        let read = source.read_exact(&mut expected).await;
        if read.is_err() || expected != bytes {
            return Err(Fault::Wrong(format!("differs after byte {offset}")));
        }
        offset += bytes.len() as u64;
    }
    match source.read(&mut [0]).await {
        Ok(0) => Ok(()),
        _ => Err(Fault::Wrong(format!("ends after {offset} bytes"))),
    }
}

impl Fetched {
    /// Bytes that were compared and right, on all agents.
    pub(super) fn delivered(&self) -> u64 {
        self.agents.iter().map(|agent| agent.right).sum()
    }

    /// What was not right, and where.
    pub(super) fn wrong(&self) -> Vec<&str> {
        self.agents.iter().flat_map(|agent| agent.wrong.iter().map(String::as_str)).collect()
    }

    /// From, to, bytes.
    pub(super) fn matrix(&self) -> Vec<(String, String, u64)> {
        let rows = self.agents.iter().flat_map(|agent| {
            agent.tally.sources.iter().map(|(from, bytes)| (from.clone(), agent.name.clone(), *bytes))
        });
        rows.collect()
    }

    /// For programs.
    pub(super) fn summary(&self) -> Value {
        let agents = self.agents.iter().map(|agent| {
            json!({
                "name": agent.name,
                "right_bytes": agent.right,
                "from_edge": agent.tally.from_edge,
                "from_peers": agent.tally.from_peers,
                "wrong": agent.wrong,
            })
        });
        json!({ "delivered_bytes": self.delivered(), "agents": agents.collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(source: &[u8], parts: &[&[u8]], expected: Option<&str>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), source).unwrap();
        let parts: Vec<_> = parts.iter().map(|part| anyhow::Ok(Bytes::copy_from_slice(part))).collect();
        let outcome = match compare(file.path(), &mut stream::iter(parts)).await {
            Ok(()) => None,
            Err(Fault::Wrong(reason)) => Some(reason),
            Err(Fault::BrokenOff(error)) => Some(error.to_string()),
        };
        assert_eq!(outcome.as_deref(), expected);
    }

    #[tokio::test]
    async fn every_byte_counts() {
        check(b"", &[], None).await;
        check(b"abc", &[b"a", b"bc"], None).await;
        check(b"abc", &[b"a", b"bx"], Some("differs after byte 1")).await;
        check(b"abc", &[b"ab"], Some("ends after 2 bytes")).await;
        check(b"abc", &[b"abc", b"d"], Some("differs after byte 3")).await;
    }
}
