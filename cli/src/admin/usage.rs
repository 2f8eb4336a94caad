//! `umbel admin usage`

use clap::Args;
use umbel_control_plane::api::{UsageBy, UsageQuery, UsageReport, UsageRow};

use super::{Session, one_of};
use crate::{exit, show};

#[derive(Debug, Args)]
pub(super) struct UsageArgs {
    /// What to sum up by
    #[arg(
        long,
        value_parser = one_of::<UsageBy>(&["site", "edge", "account", "object", "hour"]),
        default_value = "site"
    )]
    by: UsageBy,
    /// From this hour on: RFC 3339, or a day as YYYY-MM-DD (UTC)
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Up to, not including, this hour
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Rows at most
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// Print CSV
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

impl UsageArgs {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let query = UsageQuery { by: self.by, from: self.from, to: self.to, limit: self.limit };
        let answer = session.api.usage(&query).await?;
        if session.json {
            return show::json(&answer);
        }
        let report: UsageReport = serde_json::from_value(answer)?;
        if self.csv {
            csv(&report)?
        } else {
            table(query.by, &report)?
        }
        if report.truncated {
            show::note(format_args!("umbel: there is more than these {} rows", report.rows.len()));
        }
        Ok(())
    }
}

fn csv(report: &UsageReport) -> anyhow::Result<()> {
    let mut writer = csv::Writer::from_writer(std::io::stdout());
    let written = report.rows.iter().try_for_each(|row| writer.serialize(row)).map_err(std::io::Error::from);
    written.and_then(|()| writer.flush()).map_err(exit::output)
}

fn table(by: UsageBy, report: &UsageReport) -> anyhow::Result<()> {
    let key = by.as_str().to_uppercase();
    let mut table = show::table([key.as_str(), "REQUESTS", "FROM EDGES", "FROM PEERS", "TOTAL", "BYTES"]);
    for row in &report.rows {
        table.add_row(cells(row));
    }
    show::line(table)
}

fn cells(row: &UsageRow) -> [String; 6] {
    let human = |bytes: i64| show::bytes(u64::try_from(bytes).unwrap_or(0));
    [
        format!("{}{}", row.key, row.path),
        row.requests.to_string(),
        human(row.edge_bytes),
        human(row.peer_bytes),
        human(row.total_bytes),
        row.total_bytes.to_string(),
    ]
}
