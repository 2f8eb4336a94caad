//! `umbel purge`: what edges have stored of a site is not served any more.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use umbel_control_plane::api::{NewPurge, Purge, PurgeState, PurgedEdge};
use uuid::Uuid;

use crate::{
    admin::Access,
    exit::{Failure, Status},
    rest::{Api, segment},
    runtime, show,
};

const EXAMPLES: &str = "\
Exit status of --wait: 0 when every edge that is there has confirmed, 6 when one has not in time.

Examples:
  umbel purge --site shop /index.html '/search?q=shoes'
  umbel purge --site shop --prefix /img/ --soft
  umbel purge --site shop --key product-17 --key product-18,product-19 --wait
  umbel purge --site shop --all --wait=2min";

/// How often the control plane is asked who has confirmed.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// What `umbel purge` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PurgeArgs {
    /// URLs on a host of the site, or paths with their queries; all variants of each
    #[arg(value_name = "URL")]
    urls: Vec<String>,
    /// The site
    #[arg(long, value_name = "NAME")]
    site: String,
    /// Whatever begins so
    #[arg(long = "prefix", value_name = "URL")]
    prefixes: Vec<String>,
    /// Whatever has this surrogate key in Surrogate-Key or Cache-Tag; several with commas
    #[arg(long = "key", value_name = "KEY", value_delimiter = ',')]
    keys: Vec<String>,
    /// The whole site
    #[arg(long)]
    all: bool,
    /// Only mark it stale: it is validated before it is used again, and serves while nobody can be asked
    #[arg(long)]
    soft: bool,
    /// Wait until every edge that is there has confirmed, at most so long [default: 30s]
    #[arg(
        long,
        value_name = "TIMEOUT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "30s",
        value_parser = humantime::parse_duration
    )]
    wait: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    access: Access,
}

impl PurgeArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        runtime::client(async {
            let new = NewPurge {
                urls: self.urls,
                prefixes: self.prefixes,
                keys: self.keys,
                everything: self.all,
                soft: self.soft,
            };
            let (api, path) = (self.access.resolve()?, format!("sites/{}/purges", segment(&self.site)));
            let began = Instant::now();
            let answer = api.post(&path, serde_json::to_value(new)?).await?;
            let Some(timeout) = self.wait else { return tell(&answer, self.json) };
            let purge = read::<Purge>(answer)?;
            let path = format!("{path}/{}", purge.id);
            Waiting { api, path, began, timeout, json: self.json, confirmed: BTreeSet::new(), told: Vec::new() }
                .wait()
                .await
        })
    }
}

fn tell(answer: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        return show::json(answer);
    }
    show::line(format_args!("purged with version {}; --wait shows when each edge has done it", answer["version"]))
}

fn read<T: for<'a> Deserialize<'a>>(answer: Value) -> anyhow::Result<T> {
    serde_json::from_value(answer).context("the control plane's answer makes no sense")
}

/// Until all edges have confirmed.
struct Waiting {
    api: Api,
    path: String,
    began: Instant,
    timeout: Duration,
    json: bool,
    confirmed: BTreeSet<Uuid>,
    /// For programs.
    told: Vec<Value>,
}

impl Waiting {
    async fn wait(mut self) -> anyhow::Result<()> {
        let mut pause = PAUSE;
        loop {
            let purge = read::<Purge>(self.api.get(&self.path).await?)?;
            for edge in purge.edges.iter().filter(|edge| edge.state == PurgeState::Confirmed) {
                self.confirmed_by(edge)?;
            }
            let is_over = self.began.elapsed() >= self.timeout;
            if is_over || !purge.edges.iter().any(|edge| edge.state == PurgeState::Waiting) {
                return self.conclude(&purge);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 5 / 4).min(LONGEST_PAUSE);
        }
    }

    fn confirmed_by(&mut self, edge: &PurgedEdge) -> anyhow::Result<()> {
        if !self.confirmed.insert(edge.id) {
            return Ok(());
        }
        let after = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.told.push(json!({ "id": edge.id, "url": edge.url, "state": edge.state, "after_ms": after }));
        self.say(format_args!("{:<9} {}  after {after} ms", "confirmed", edge.url))
    }

    fn conclude(mut self, purge: &Purge) -> anyhow::Result<()> {
        let missing = |state| purge.edges.iter().filter(move |edge| edge.state == state);
        for edge in missing(PurgeState::Away) {
            self.say(format_args!(
                "{:<9} {}  when it starts again it carries this out before it serves what it had stored",
                "away", edge.url
            ))?;
        }
        for edge in missing(PurgeState::Waiting) {
            self.say(format_args!("{:<9} {}  it is there, but has not confirmed in time", "waiting", edge.url))?;
        }
        let open = purge.edges.iter().filter(|edge| edge.state != PurgeState::Confirmed);
        self.told.extend(open.map(|edge| json!({ "id": edge.id, "url": edge.url, "state": edge.state })));
        let waiting = missing(PurgeState::Waiting).count();
        if self.json {
            let (version, complete) = (purge.version, waiting == 0);
            show::json(&json!({ "id": purge.id, "version": version, "complete": complete, "edges": self.told }))?;
        }
        if waiting == 0 {
            return Ok(());
        }
        let error = Failure::error(Status::Unavailable, format!("{waiting} of the edges have not confirmed in time"));
        Err(if self.json { Failure::told(&error) } else { error })
    }

    fn say(&self, text: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
        if self.json { Ok(()) } else { show::line(text) }
    }
}
