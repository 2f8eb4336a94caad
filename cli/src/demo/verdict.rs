//! Whether the run was right, and what came of it.

use serde_json::{Value, json};
use umbel_control_plane::api::UsageRow;

use super::{
    books::{Books, Sums},
    fetch::{Fetched, LARGE},
    tree::Tree,
};
use crate::show;

/// One thing that has to hold.
#[derive(Debug)]
struct Check {
    what: &'static str,
    holds: bool,
    detail: String,
}

/// All of them, and the figures.
#[derive(Debug)]
pub(super) struct Verdict {
    checks: Vec<Check>,
    fetched: Value,
    since: Sums,
    by_edge: Vec<UsageRow>,
    matrix: Vec<(String, String, u64)>,
    seconds: f64,
}

/// Judges a run. `sent` is what edges' own meters say that they sent to agents.
pub(super) fn reach(tree: &Tree, fetched: &Fetched, before: &Books, after: &Books, sent: u64) -> Verdict {
    let since = after.site().since(before.site());
    let mut checks = vec![right(tree, fetched), counted(fetched, since)];
    if tree.files.iter().any(|file| file.size >= LARGE) {
        checks.push(shared(since));
        checks.push(spared(tree, fetched, sent));
    }
    Verdict {
        checks,
        fetched: fetched.summary(),
        since,
        by_edge: difference(&before.by_edge, &after.by_edge),
        matrix: fetched.matrix(),
        seconds: fetched.elapsed.as_secs_f64(),
    }
}

fn right(tree: &Tree, fetched: &Fetched) -> Check {
    let wrong = fetched.wrong();
    let detail = match wrong.first() {
        None => format!(
            "{} files on {} agents, {}",
            tree.files.len(),
            fetched.agents.len(),
            show::bytes(fetched.delivered())
        ),
        Some(first) => format!("{} wrong; first: {first}", wrong.len()),
    };
    Check { what: "every byte is right", holds: wrong.is_empty(), detail }
}

fn counted(fetched: &Fetched, since: Sums) -> Check {
    let detail = format!("{} delivered, {} in Postgres", fetched.delivered(), since.total());
    Check { what: "usage equals delivered bytes", holds: fetched.delivered() == since.total(), detail }
}

fn shared(since: Sums) -> Check {
    let percent = if since.total() == 0 { 0.0 } else { since.peer as f64 * 100.0 / since.total() as f64 };
    Check {
        what: "peers carried part of the load",
        holds: since.peer > 0,
        detail: format!("{percent:.1} % of all bytes"),
    }
}

/// Edges meter all they send to agents; what small files take of it is known, the rest is large files.
fn spared(tree: &Tree, fetched: &Fetched, sent: u64) -> Check {
    let large: u64 = tree.files.iter().map(|file| file.size).filter(|size| *size >= LARGE).sum();
    let times = sent.saturating_sub(fetched.small_from_edges()) as f64 / large as f64;
    let detail = format!("{times:.2} times on average");
    Check { what: "each chunk of a large file left the edges fewer than 2 times", holds: times < 2.0, detail }
}

fn difference(before: &[UsageRow], after: &[UsageRow]) -> Vec<UsageRow> {
    let earlier = |key: &str| before.iter().find(|row| row.key == key);
    let mut rows = after.to_vec();
    for row in &mut rows {
        if let Some(old) = earlier(&row.key) {
            row.requests -= old.requests;
            row.edge_bytes -= old.edge_bytes;
            row.peer_bytes -= old.peer_bytes;
            row.total_bytes -= old.total_bytes;
        }
    }
    rows
}

impl Verdict {
    /// For people, or as one JSON object.
    pub(super) fn tell(&self, as_json: bool) {
        if as_json {
            return show::json(&self.json());
        }
        self.tables();
        for check in &self.checks {
            println!("{} {}: {}", if check.holds { "ok  " } else { "FAIL" }, check.what, check.detail);
        }
    }

    fn tables(&self) {
        println!("\nUsage of this run, from Postgres ({:.1} s)", self.seconds);
        let mut table = show::table(["", "FROM EDGES", "FROM PEERS", "TOTAL", "BYTES"]);
        let row = |name: String, sums: Sums| {
            [name, show::bytes(sums.edge), show::bytes(sums.peer), show::bytes(sums.total()), sums.total().to_string()]
        };
        table.add_row(row("site demo".into(), self.since));
        for edge in self.by_edge.iter().filter(|row| row.total_bytes > 0) {
            table.add_row(row(format!("edge {}", edge.key), Sums::of(edge)));
        }
        println!("{table}\n\nWho sent to whom, as the agents have it");
        let mut table = show::table(["FROM", "TO", "BYTES"]);
        for (from, to, bytes) in &self.matrix {
            table.add_row([from.clone(), to.clone(), show::bytes(*bytes)]);
        }
        println!("{table}\n");
    }

    fn json(&self) -> Value {
        let checks =
            self.checks.iter().map(|check| json!({ "what": check.what, "holds": check.holds, "detail": check.detail }));
        let matrix = self.matrix.iter().map(|(from, to, bytes)| json!({ "from": from, "to": to, "bytes": bytes }));
        json!({
            "ok": self.holds(),
            "checks": checks.collect::<Vec<_>>(),
            "seconds": self.seconds,
            "usage": { "edge_bytes": self.since.edge, "peer_bytes": self.since.peer, "total_bytes": self.since.total() },
            "edges": self.by_edge,
            "transfers": matrix.collect::<Vec<_>>(),
            "fetched": self.fetched,
        })
    }

    fn holds(&self) -> bool {
        self.checks.iter().all(|check| check.holds)
    }

    /// An error if something does not hold; when the network stays up, people have read it already.
    pub(super) fn into_result(self, once: bool) -> anyhow::Result<()> {
        let failed: Vec<&str> = self.checks.iter().filter(|check| !check.holds).map(|check| check.what).collect();
        if failed.is_empty() || !once { Ok(()) } else { anyhow::bail!("does not hold: {}", failed.join("; ")) }
    }
}
