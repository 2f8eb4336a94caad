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
Exit status of --wait: 0 when every edge has confirmed, 6 when one that is there has not in time, 10 when all of those have
but others are away. An edge that is away does not hear of purges. If it is down it serves nothing, and carries the purge out
when it starts again; if it is only cut off from the control plane, readers get from it what was there before. So --wait goes on
until it is back, or the time is over; --allow-away is for edges that you know to be down.

Examples:
  umbel purge --site shop /index.html '/search?q=shoes'
  umbel purge --site shop --prefix /img/ --soft
  umbel purge --site shop --key product-17 --key product-18,product-19 --wait
  umbel purge --site shop --all --wait=2min
  umbel purge --site shop /index.html --wait --allow-away";

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
    /// Wait until every edge has confirmed, at most so long [default: 30s]
    #[arg(
        long,
        value_name = "TIMEOUT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "30s",
        value_parser = humantime::parse_duration
    )]
    wait: Option<Duration>,
    /// Do not wait for edges that are away, and end well without them: they are known to be down
    #[arg(long, requires = "wait")]
    allow_away: bool,
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
            let (json, allow_away, confirmed, told) = (self.json, self.allow_away, BTreeSet::new(), Vec::new());
            Waiting { api, path, began, timeout, allow_away, json, confirmed, told }.wait().await
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

/// What there is to say of all edges together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// All have confirmed.
    Complete,
    /// All have but so many that nobody hears of.
    Away(usize),
    /// So many that are there have not.
    Waiting(usize),
}

impl Outcome {
    fn of(edges: &[PurgedEdge]) -> Self {
        let count = |state| edges.iter().filter(|edge| edge.state == state).count();
        match (count(PurgeState::Waiting), count(PurgeState::Away)) {
            (0, 0) => Self::Complete,
            (0, away) => Self::Away(away),
            (waiting, _) => Self::Waiting(waiting),
        }
    }

    /// Whether there is nothing to wait for.
    const fn is_good(self, allow_away: bool) -> bool {
        match self {
            Self::Complete => true,
            Self::Away(_) => allow_away,
            Self::Waiting(_) => false,
        }
    }

    fn failure(self, allow_away: bool) -> Option<anyhow::Error> {
        let (status, text) = match self {
            Self::Waiting(count) => (Status::Unavailable, format!("{count} of the edges have not confirmed in time")),
            Self::Away(count) if !allow_away => {
                (Status::Away, format!("{count} of the edges are away and may serve what was purged"))
            }
            Self::Away(_) | Self::Complete => return None,
        };
        Some(Failure::error(status, text))
    }
}

/// Until all edges have confirmed.
struct Waiting {
    api: Api,
    path: String,
    began: Instant,
    timeout: Duration,
    allow_away: bool,
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
            if is_over || Outcome::of(&purge.edges).is_good(self.allow_away) {
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
                "{:<9} {}  if it runs it serves what was purged until it hears of it; if not, it will not after its start",
                "away", edge.url
            ))?;
        }
        for edge in missing(PurgeState::Waiting) {
            self.say(format_args!("{:<9} {}  it is there, but has not confirmed in time", "waiting", edge.url))?;
        }
        let open = purge.edges.iter().filter(|edge| edge.state != PurgeState::Confirmed);
        self.told.extend(open.map(|edge| json!({ "id": edge.id, "url": edge.url, "state": edge.state })));
        let outcome = Outcome::of(&purge.edges);
        if self.json {
            let (version, complete) = (purge.version, outcome == Outcome::Complete);
            show::json(&json!({ "id": purge.id, "version": version, "complete": complete, "edges": self.told }))?;
        }
        match outcome.failure(self.allow_away) {
            None => Ok(()),
            Some(error) if self.json => Err(Failure::told(&error)),
            Some(error) => Err(error),
        }
    }

    fn say(&self, text: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
        if self.json { Ok(()) } else { show::line(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::PurgeState::{Away, Confirmed, Waiting};
    use super::*;

    fn check(states: &[PurgeState], expected: Outcome, ends_well: [bool; 2]) {
        let edge = |state: &PurgeState| PurgedEdge { id: Uuid::now_v7(), url: String::new(), state: *state };
        let outcome = Outcome::of(&states.iter().map(edge).collect::<Vec<_>>());
        assert_eq!(outcome, expected, "{states:?}");
        assert_eq!([false, true].map(|allow_away| outcome.failure(allow_away).is_none()), ends_well, "{states:?}");
        assert_eq!([false, true].map(|allow_away| outcome.is_good(allow_away)), ends_well, "{states:?}");
    }

    #[test]
    fn it_is_done_when_all_have_confirmed() {
        check(&[], Outcome::Complete, [true; 2]);
        check(&[Confirmed, Confirmed], Outcome::Complete, [true; 2]);
        check(&[Confirmed, Away], Outcome::Away(1), [false, true]);
        check(&[Waiting, Away], Outcome::Waiting(1), [false; 2]);
        let status = |outcome: Outcome| outcome.failure(false).unwrap().downcast::<Failure>().unwrap();
        assert!(status(Outcome::Away(1)).is(Status::Away) && status(Outcome::Waiting(1)).is(Status::Unavailable));
    }
}
