//! Whether the run was right, and what came of it.

use serde_json::{Value, json};
use umbel_control_plane::api::UsageRow;
use umbel_edge::LARGE_OBJECT;

use super::{
    books::{Books, Sums},
    fetch::Fetched,
    tree::Tree,
};
use crate::show;

/// Whether something holds; none: it cannot be told, or does not apply here, which is nobody's failure.
type Holds = Option<bool>;

/// One thing that has to hold.
#[derive(Debug)]
struct Check {
    what: &'static str,
    holds: Holds,
    detail: String,
}

/// What a run is judged by.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    pub(super) tree: &'a Tree,
    pub(super) fetched: &'a Fetched,
    pub(super) before: &'a Books,
    pub(super) after: &'a Books,
    /// Why the books may still change.
    pub(super) unrest: Option<String>,
    /// Bytes of large objects that edges' own meters say that they sent to agents; none if a meter began anew meanwhile.
    pub(super) sent: Option<u64>,
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

/// Judges a run.
pub(super) fn reach(evidence: &Evidence<'_>) -> Verdict {
    let Evidence { tree, fetched, before, after, .. } = *evidence;
    let since = after.site().since(before.site());
    let large = tree.files.iter().map(|file| file.size).filter(|size| *size >= LARGE_OBJECT).sum();
    Verdict {
        checks: vec![
            right(tree, fetched),
            counted(fetched.delivered(), since.total(), evidence.unrest.as_deref()),
            shared(large, since),
            spared(large, evidence.sent),
        ],
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
    Check { what: "every byte is right", holds: Some(wrong.is_empty()), detail }
}

fn counted(delivered: u64, counted: u64, unrest: Option<&str>) -> Check {
    let mut detail = format!("{delivered} delivered, {counted} in Postgres");
    if let Some(unrest) = unrest {
        detail = format!("{detail}; {unrest}");
    }
    let holds = Some(delivered == counted && unrest.is_none());
    Check { what: "usage equals delivered bytes", holds, detail }
}

/// `large`: bytes of all large files.
fn shared(large: u64, since: Sums) -> Check {
    let what = "peers carried part of the load";
    if large == 0 && since.peer == 0 {
        return Check { what, holds: None, detail: too_small() };
    }
    let percent = if since.total() == 0 { 0.0 } else { since.peer as f64 * 100.0 / since.total() as f64 };
    Check { what, holds: Some(since.peer > 0), detail: format!("{percent:.1} % of all bytes") }
}

fn spared(large: u64, sent: Option<u64>) -> Check {
    let what = "each chunk of a large file left the edges fewer than 2 times";
    let (holds, detail) = match sent {
        _ if large == 0 => (None, too_small()),
        None => (None, "unknown: an edge was started again, and its meter with it".into()),
        Some(sent) => {
            let times = sent as f64 / large as f64;
            (Some(times < 2.0), format!("{times:.2} times on average"))
        }
    };
    Check { what, holds, detail }
}

fn too_small() -> String {
    format!("skipped: no file has {} MiB or more, and only from there on must peers take part", LARGE_OBJECT >> 20)
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

impl Check {
    fn sign(&self) -> &'static str {
        match self.holds {
            Some(true) => "ok  ",
            Some(false) => "FAIL",
            None => "--  ",
        }
    }
}

impl Verdict {
    /// For people, or as one JSON object.
    pub(super) fn tell(&self, as_json: bool) {
        let text = if as_json { format!("{:#}", self.json()) } else { self.text() };
        // Whoever read it may be gone; the verdict stands.
        let _said = show::line(text);
    }

    fn text(&self) -> String {
        let checks = self.checks.iter().map(|check| format!("{} {}: {}", check.sign(), check.what, check.detail));
        format!("{}{}", self.tables(), checks.collect::<Vec<_>>().join("\n"))
    }

    fn tables(&self) -> String {
        let mut table = show::table(["", "FROM EDGES", "FROM PEERS", "TOTAL", "BYTES"]);
        let row = |name: String, sums: Sums| {
            [name, show::bytes(sums.edge), show::bytes(sums.peer), show::bytes(sums.total()), sums.total().to_string()]
        };
        table.add_row(row("site demo".into(), self.since));
        for edge in self.by_edge.iter().filter(|row| row.total_bytes > 0) {
            table.add_row(row(format!("edge {}", edge.key), Sums::of(edge)));
        }
        let mut transfers = show::table(["FROM", "TO", "BYTES"]);
        for (from, to, bytes) in &self.matrix {
            transfers.add_row([from.clone(), to.clone(), show::bytes(*bytes)]);
        }
        let seconds = self.seconds;
        format!(
            "\nUsage of this run, from Postgres ({seconds:.1} s)\n{table}\n\n\
             Who sent to whom, as the agents have it\n{transfers}\n\n"
        )
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
        self.checks.iter().all(|check| check.holds != Some(false))
    }

    /// An error if something does not hold; when the network stays up, people have read it already.
    pub(super) fn into_result(self, once: bool) -> anyhow::Result<()> {
        let failed = self.checks.iter().filter(|check| check.holds == Some(false));
        let failed: Vec<&str> = failed.map(|check| check.what).collect();
        if failed.is_empty() || !once { Ok(()) } else { anyhow::bail!("does not hold: {}", failed.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: Sums = Sums { edge: 10, peer: 30 };
    const ALONE: Sums = Sums { edge: 40, peer: 0 };

    #[test]
    fn books() {
        for (delivered, in_books, unrest, expected) in
            [(5, 5, None, true), (5, 4, None, false), (5, 10, None, false), (5, 5, Some("a receipt is owed"), false)]
        {
            assert_eq!(counted(delivered, in_books, unrest).holds, Some(expected), "{delivered} {in_books} {unrest:?}");
        }
    }

    #[test]
    fn sharing() {
        for (large, since, expected) in
            [(100, SHARED, Some(true)), (100, ALONE, Some(false)), (0, ALONE, None), (0, SHARED, Some(true))]
        {
            assert_eq!(shared(large, since).holds, expected, "{large} {since:?}");
        }
    }

    #[test]
    fn load_of_the_edges() {
        for (large, sent, expected) in [
            (100, Some(120), Some(true)),
            (100, Some(200), Some(false)),
            // A meter that began anew says nothing, whatever it shows.
            (100, None, None),
            (0, Some(0), None),
        ] {
            assert_eq!(spared(large, sent).holds, expected, "{large} {sent:?}");
        }
    }
}
