//! `umbel get`: like curl to look at.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use umbel_agent::{
    Destination, GetRequest, Progress, State,
    client::{self, FetchError, Transfer},
};
use url::Url;

use crate::{
    agent::Place,
    exit::{self, Failure, Status},
    runtime, show,
};

const EXIT_CODES: &str = "\
Exit status:
    0  all of it is here and verified
    1  something else went wrong
    2  the command line or the URL makes no sense
    3  this agent is not enrolled (umbel agent enroll)
    4  no right to this content, or to the network (401, 403)
    5  there is no such object (404)
    6  no edge can be reached
    7  the disk is full, over the agent's quota, or not writable
    8  what came is not what its provider signed
  130  interrupted; run it again and it goes on from there";

const TEMPLATE: &str = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}  {msg}";

/// How long the last figures of a download may take to arrive.
const LAST_FIGURES: Duration = Duration::from_millis(500);

/// What `umbel get` takes.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct GetArgs {
    #[arg(help = "https://HOST[:PORT]/PATH", value_parser = https_url)]
    url: String,
    /// Save to this file; else the content goes to standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print figures as JSON: to standard output with -o, else to standard error
    #[arg(long)]
    json: bool,
    /// No progress bar
    #[arg(long, short)]
    silent: bool,
    /// A grant, where the site needs one
    #[arg(long, value_name = "TOKEN", env = "UMBEL_GRANT", hide_env_values = true)]
    grant: Option<String>,
    #[command(flatten)]
    place: Place,
}

/// As it was given, if it can be the URL of an object.
fn https_url(text: &str) -> Result<String, String> {
    match Url::parse(text) {
        Ok(url) if url.scheme() == "https" && url.has_host() => Ok(text.to_owned()),
        Ok(_) | Err(_) => Err("write it as https://HOST[:PORT]/PATH".into()),
    }
}

impl GetArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        runtime::client(Box::pin(async {
            let outcome = tokio::select! {
                outcome = fetch(&self) => outcome,
                () = interrupted() => Err(Failure::error(Status::Interrupted, "interrupted")),
            };
            outcome.map_err(|error| self.in_json(error))
        }))
    }

    /// Programs get the reason where they get the figures.
    fn in_json(&self, error: anyhow::Error) -> anyhow::Error {
        if !self.json {
            return error;
        }
        // Without a reader of the figures, the exit status is what is left.
        let _said = self.figures(&json!({ "url": self.url, "error": exit::one_line(&error) }));
        Failure::told(&error)
    }

    fn figures(&self, figures: &Value) -> anyhow::Result<()> {
        if self.output.is_some() {
            return show::line(figures);
        }
        show::note(figures);
        Ok(())
    }
}

/// SIGINT or SIGTERM: both leave the temporary file to be removed.
async fn interrupted() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! { _ = tokio::signal::ctrl_c() => {}, _ = terminate.recv() => {} }
}

async fn fetch(args: &GetArgs) -> anyhow::Result<()> {
    let began = Instant::now();
    // What cannot be written is not worth fetching.
    let destination =
        args.output.as_deref().map(Destination::prepare).transpose().map_err(|error| failure(&error.into()))?;
    let request = GetRequest { url: args.url.clone(), grant: args.grant.clone(), ..GetRequest::default() };
    let mut transfer = client::get(args.place.config()?, request).await.map_err(|error| failure(&error))?;
    let bar = bar(&transfer, args.silent || args.json);
    let mut progress = transfer.progress();
    let outcome = {
        let mut writing = std::pin::pin!(write(&mut transfer, destination));
        loop {
            tokio::select! {
                outcome = &mut writing => break outcome,
                Ok(()) = progress.changed() => draw(&bar, &progress.borrow_and_update()),
            }
        }
    };
    let last = last_figures(progress).await;
    bar.finish_and_clear();
    let (kind, length) = (transfer.media_type().to_owned(), transfer.length());
    transfer.close().await;
    outcome?;
    if args.json {
        args.figures(&json!({
            "url": args.url,
            "file": args.output,
            "media_type": kind,
            "bytes": length.unwrap_or(last.done()),
            "from_disk": last.from_disk,
            "from_edge": last.from_edge,
            "from_peers": last.from_peers,
            "seconds": began.elapsed().as_secs_f64(),
        }))?;
    }
    Ok(())
}

async fn write(transfer: &mut Transfer, destination: Option<Destination>) -> anyhow::Result<()> {
    if let Some(destination) = destination {
        return transfer.save_to(destination).await.map_err(|error| failure(&error.into()));
    }
    let mut stdout = tokio::io::stdout();
    while let Some(bytes) = transfer.next().await {
        let bytes = bytes.map_err(|error| failure(&error.into()))?;
        stdout.write_all(&bytes).await.map_err(output)?;
    }
    stdout.flush().await.map_err(output)
}

/// A reader that has seen enough is no fault; a disk that has no room is.
fn output(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return exit::output(error);
    }
    Failure::error(Status::CannotWrite, format!("cannot write to standard output: {error}"))
}

fn bar(transfer: &Transfer, hidden: bool) -> ProgressBar {
    if hidden || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(transfer.length(), ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn draw(bar: &ProgressBar, progress: &Progress) {
    bar.set_position(progress.done());
    let (edge, peers) = (show::bytes(progress.from_edge), show::bytes(progress.from_peers));
    let stall = progress.stall.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    bar.set_message(format!("edge {edge}, {} peers {peers}{stall}", progress.peers));
}

/// The content may be all here before the figures say so.
async fn last_figures(mut progress: watch::Receiver<Progress>) -> Progress {
    let ended = progress.wait_for(|progress| progress.state != State::Running);
    let _in_time = tokio::time::timeout(LAST_FIGURES, ended).await.map(drop);
    progress.borrow().clone()
}

fn failure(error: &FetchError) -> anyhow::Error {
    Failure::error(status(error), told(error))
}

fn told(error: &FetchError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

fn status(error: &FetchError) -> Status {
    match error.code() {
        "bad_request" => Status::Usage,
        "not_enrolled" => Status::NotEnrolled,
        "grant_missing" | "forbidden" | "membership" => Status::Refused,
        "not_found" => Status::NotFound,
        "unreachable" => Status::Unavailable,
        "storage" => Status::CannotWrite,
        "unverified" => Status::Unverified,
        _ => Status::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use umbel_agent::{EdgeError, GetError, OpenError, Problem, StartError, StoreError};

    #[test]
    fn urls_of_objects() {
        for (text, expected) in [
            ("https://a.example/x", true),
            ("https://a.localhost:7450/x%20y", true),
            ("http://a.example/x", false),
            ("a.example/x", false),
            ("https:///x", true), // WHATWG: the host is `x`.
            ("", false),
        ] {
            assert_eq!(https_url(text).is_ok(), expected, "{text}");
        }
    }

    #[test]
    fn statuses_as_documented() {
        let edge = |error| FetchError::Get(GetError::Open(OpenError::Edge(error)));
        let problem = |code: &str| Problem { code: code.into(), message: "x".into() };
        let failed = |code| FetchError::Get(GetError::Failed(problem(code)));
        let no_room = || io::Error::from(io::ErrorKind::StorageFull);
        let full = || StoreError::Io(no_room());
        let unreachable = EdgeError::Unreachable { url: "u".into(), reason: "r".into() };
        for (error, expected) in [
            (edge(EdgeError::NotFound("x".into())), Status::NotFound),
            (edge(EdgeError::Forbidden("x".into())), Status::Refused),
            (edge(EdgeError::GrantMissing("x".into())), Status::Refused),
            (edge(EdgeError::Membership("x".into())), Status::Refused),
            (edge(unreachable), Status::Unavailable),
            (FetchError::Get(GetError::Open(OpenError::Url("x".into()))), Status::Usage),
            (FetchError::Get(GetError::Open(OpenError::Answer("x"))), Status::Unverified),
            (failed("failed"), Status::Other),
            (failed("storage"), Status::CannotWrite),
            (failed("membership"), Status::Refused),
            (failed("unverified"), Status::Unverified),
            (FetchError::Get(GetError::Remote(problem("storage"))), Status::CannotWrite),
            (FetchError::Get(GetError::Lost("x".into())), Status::Other),
            (FetchError::Get(GetError::Store(full())), Status::CannotWrite),
            (FetchError::Get(GetError::Save { path: "x".into(), source: no_room() }), Status::CannotWrite),
            (FetchError::Start(StartError::Store(StoreError::InUse)), Status::CannotWrite),
        ] {
            assert_eq!(status(&error), expected, "{error}");
        }
    }
    #[test]
    fn output_that_cannot_be_written() {
        for (kind, expected) in [
            (io::ErrorKind::BrokenPipe, Status::Closed),
            (io::ErrorKind::StorageFull, Status::CannotWrite),
            (io::ErrorKind::PermissionDenied, Status::CannotWrite),
        ] {
            assert!(output(kind.into()).downcast_ref::<Failure>().unwrap().is(expected), "{kind}");
        }
    }
}
