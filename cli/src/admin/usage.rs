//! `umbel admin usage`

use clap::{Args, ValueEnum};
use umbel_control_plane::api::{UsageReport, UsageRow};
use url::form_urlencoded::Serializer;

use super::Session;
use crate::{exit, show};

#[derive(Debug, Args)]
pub(super) struct UsageArgs {
    /// What to sum up by
    #[arg(long, value_enum, default_value_t = By::Site)]
    by: By,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    Site,
    Edge,
    Account,
    Object,
    Hour,
}

impl By {
    fn as_str(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::Edge => "edge",
            Self::Account => "account",
            Self::Object => "object",
            Self::Hour => "hour",
        }
    }
}

impl UsageArgs {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let answer = session.api.get(&format!("usage?{}", self.query())).await?;
        if session.json {
            show::json(&answer);
            return Ok(());
        }
        let report: UsageReport = serde_json::from_value(answer)?;
        if self.csv {
            csv(&report)?
        } else {
            table(self.by, &report)
        }
        if report.truncated {
            eprintln!("umbel: there is more than these {} rows", report.rows.len());
        }
        Ok(())
    }

    fn query(&self) -> String {
        let mut query = Serializer::new(String::new());
        query.append_pair("by", self.by.as_str());
        let limit = self.limit.map(|limit| limit.to_string());
        for (name, value) in [("from", &self.from), ("to", &self.to), ("limit", &limit)] {
            query.extend_pairs(value.iter().map(|value| (name, value)));
        }
        query.finish()
    }
}

fn csv(report: &UsageReport) -> anyhow::Result<()> {
    let mut writer = csv::Writer::from_writer(std::io::stdout());
    let written = report.rows.iter().try_for_each(|row| writer.serialize(row)).map_err(std::io::Error::from);
    written.and_then(|()| writer.flush()).map_err(exit::output)
}

fn table(by: By, report: &UsageReport) {
    let key = by.as_str().to_uppercase();
    let mut table = show::table([key.as_str(), "REQUESTS", "FROM EDGES", "FROM PEERS", "TOTAL", "BYTES"]);
    for row in &report.rows {
        table.add_row(cells(row));
    }
    println!("{table}");
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
