//! What Postgres says was delivered.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use umbel_control_plane::api::{UsageReport, UsageRow};

use super::{
    fetch::Fetched,
    network::{EDGES, SITE, ops},
    ports::{Ports, loopback},
};
use crate::rest::Api;

/// Usage takes the way agent, edge, control plane; each hands on what it has every few seconds, and any may be restarting.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(250);

/// The books at one moment.
#[derive(Debug, Default, Clone)]
pub(super) struct Books {
    pub(super) by_site: Vec<UsageRow>,
    pub(super) by_edge: Vec<UsageRow>,
}

impl Books {
    /// The site's row.
    pub(super) fn site(&self) -> Sums {
        self.by_site.iter().find(|row| row.key == SITE).map(Sums::of).unwrap_or_default()
    }
}

/// Bytes of one row.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) edge: u64,
    pub(super) peer: u64,
}

impl Sums {
    pub(super) fn of(row: &UsageRow) -> Self {
        let bytes = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
        Self { edge: bytes(row.edge_bytes), peer: bytes(row.peer_bytes) }
    }

    pub(super) fn total(self) -> u64 {
        self.edge + self.peer
    }

    /// What came since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self { edge: self.edge.saturating_sub(before.edge), peer: self.peer.saturating_sub(before.peer) }
    }
}

/// Reads the books now.
pub(super) async fn read(api: &Api) -> anyhow::Result<Books> {
    let report = async |by: &str| {
        let report: UsageReport = serde_json::from_value(api.get(&format!("usage?by={by}")).await?)?;
        anyhow::Ok(report.rows)
    };
    Ok(Books { by_site: report("site").await?, by_edge: report("edge").await? })
}

/// Reads the books until they show at least what was delivered since `before`, or patience ends.
pub(super) async fn settled(api: &Api, before: &Books, fetched: &Fetched) -> anyhow::Result<Books> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match read(api).await {
            Ok(now) if now.site().since(before.site()).total() >= fetched.delivered() => return Ok(now),
            Ok(now) if Instant::now() > deadline => return Ok(now),
            Err(error) if Instant::now() > deadline => return Err(error),
            Ok(_) | Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Bytes that the edges sent to agents, as their own meters have it; an edge may just be restarting.
pub(super) async fn sent_by_edges(ports: Ports) -> anyhow::Result<u64> {
    let deadline = Instant::now() + PATIENCE;
    let mut sum = 0;
    for number in 1..=EDGES {
        let text = loop {
            match ops(loopback(ports.edge(number).ops), "/metrics").await {
                Err(_) if Instant::now() < deadline => sleep(PAUSE).await,
                answer => break answer?,
            }
        };
        sum += metric(&text, "umbel_edge_sent_bytes_total");
    }
    Ok(sum)
}

fn metric(text: &str, name: &str) -> u64 {
    let values = text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit(' ').next()?.parse::<u64>().ok());
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_labels() {
        let text = "# HELP x\na_total 3\na_total{kind=\"x\"} 4\nb_total 5\n";
        assert_eq!(metric(text, "a_total"), 7);
        assert_eq!(metric(text, "c_total"), 0);
    }
}
