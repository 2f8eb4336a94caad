//! What Postgres says was delivered, read when nothing is on its way there any more.

use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use tokio::time::{Instant, sleep};
use umbel_control_plane::api::{UsageBy, UsageQuery, UsageReport, UsageRow};

use super::{
    agents::Agent,
    network::{EDGES, SITE, ops},
    patience::{PATIENCE, patiently},
    ports::{Ports, loopback},
};
use crate::rest::Api;

/// Usage takes the way agent, edge, control plane; each hands on what it has every few seconds.
const PAUSE: Duration = Duration::from_millis(250);
/// Between two readings that have to be equal: longer than an edge takes to notice, in its metrics, what it has to hand on.
const QUIET: Duration = Duration::from_secs(2);

/// The books at one moment.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
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

/// Everybody through whose hands usage goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) agents: &'a [Agent],
    pub(super) ports: Ports,
    pub(super) api: &'a Api,
}

impl Way<'_> {
    /// Reads the books when they have come to rest: no agent owes a receipt, no edge has usage to hand on, and a second
    /// reading says the same as the first. So what is late, or counted twice late, is in them.
    pub(super) async fn settled(self) -> anyhow::Result<Books> {
        settle(async || self.empty().await).await
    }

    /// Reads the books if nothing is on its way.
    async fn empty(self) -> anyhow::Result<Books> {
        for agent in self.agents {
            let left = agent.hand_in().await?;
            ensure!(left == 0, "no edge has taken {left} receipts of {}", agent.name);
        }
        for number in 1..=EDGES {
            let waiting = metric(&self.metrics(number).await?, "umbel_edge_spool_bytes");
            let waiting = waiting.with_context(|| format!("edge-{number} does not say what it has to hand on"))?;
            ensure!(waiting == 0, "the control plane has not taken {waiting} bytes of usage of edge-{number}");
        }
        self.read().await
    }

    /// Reads the books now.
    pub(super) async fn read(self) -> anyhow::Result<Books> {
        let report = async |by| {
            let answer = self.api.usage(&UsageQuery { by, from: None, to: None, limit: None }).await?;
            anyhow::Ok(serde_json::from_value::<UsageReport>(answer)?.rows)
        };
        Ok(Books { by_site: report(UsageBy::Site).await?, by_edge: report(UsageBy::Edge).await? })
    }

    /// Bytes of large objects that the edges sent to agents since they were started; one may just be restarting.
    pub(super) async fn sent_of_large(self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for number in 1..=EDGES {
            let text = patiently(async || self.metrics(number).await).await?;
            // Nothing was sent yet where nothing is said.
            sum += metric(&text, "umbel_edge_sent_bytes_total{object=\"large\"}").unwrap_or(0);
        }
        Ok(sum)
    }

    async fn metrics(self, edge: usize) -> anyhow::Result<String> {
        let answer = ops(loopback(self.ports.edge(edge).ops), "/metrics").await;
        answer.with_context(|| format!("edge-{edge} does not answer"))
    }
}

/// Reads until two readings in a row are there and equal, or patience ends.
async fn settle(mut reading: impl AsyncFnMut() -> anyhow::Result<Books>) -> anyhow::Result<Books> {
    let deadline = Instant::now() + PATIENCE;
    let mut last = None;
    loop {
        let outcome = reading().await;
        if outcome.as_ref().ok().is_some_and(|now| last.as_ref() == Some(now)) {
            return outcome;
        }
        if Instant::now() > deadline {
            let reason = outcome.err().unwrap_or_else(|| anyhow!("the books keep changing"));
            return Err(reason.context("usage does not come to rest"));
        }
        last = outcome.ok();
        sleep(if last.is_some() { QUIET } else { PAUSE }).await;
    }
}

/// The sum of the metric's lines; none where it has no line.
fn metric(text: &str, name: &str) -> Option<u64> {
    let values = text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit(' ').next()?.parse::<u64>().ok());
    values.reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(edge_bytes: i64) -> Books {
        let row = UsageRow {
            key: SITE.into(),
            path: String::new(),
            requests: 1,
            edge_bytes,
            peer_bytes: 0,
            total_bytes: edge_bytes,
        };
        Books { by_site: vec![row], ..Books::default() }
    }

    /// Readings in turn, the last again and again; none: something is on its way. What the books say in the end.
    async fn check(readings: &[Option<i64>], expected: Option<u64>) {
        let mut next = readings.iter().chain(std::iter::repeat(&readings[readings.len() - 1]));
        let reading = async || next.next().copied().flatten().map(books).context("on its way");
        assert_eq!(settle(reading).await.ok().map(|books| books.site().total()), expected, "{readings:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn two_equal_readings_in_a_row() {
        check(&[Some(5)], Some(5)).await;
        check(&[None, None, Some(5)], Some(5)).await;
        // Counted again, late.
        check(&[Some(5), Some(10)], Some(10)).await;
        // Something came between.
        check(&[Some(5), None, Some(5), Some(7)], Some(7)).await;
        check(&[None], None).await;
    }

    #[tokio::test(start_paused = true)]
    async fn books_that_never_rest_are_an_error() {
        let mut count = 0;
        let reading = async || {
            count += 1;
            Ok(books(count))
        };
        let error = settle(reading).await.unwrap_err();
        assert_eq!(crate::exit::one_line(&error), "usage does not come to rest: the books keep changing");
    }

    #[test]
    fn metrics_are_summed_over_labels() {
        let text = "# HELP x\na_total 3\na_total{kind=\"x\"} 4\nb_total 5\n";
        assert_eq!(metric(text, "a_total"), Some(7));
        assert_eq!(metric(text, "a_total{kind=\"x\"}"), Some(4));
        assert_eq!(metric(text, "c_total"), None);
    }
}
