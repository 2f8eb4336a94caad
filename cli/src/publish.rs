//! `umbel publish`: makes a site equal to a folder, over the S3 API that every provider's tool speaks.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::{exit, runtime, show};

mod account;
mod etag;
mod plan;
mod progress;
mod send;
mod store;
pub(crate) mod walk;

use plan::Plan;
use progress::Progress;
use store::Store;

/// What `umbel publish` takes.
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// The folder to publish
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The site, which is also the S3 bucket
    #[arg(long, value_name = "NAME")]
    site: String,
    /// Delete what the site has and the folder has not
    #[arg(long)]
    delete: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Requests at the same time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Print one JSON object at the end
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    account: account::AccountArgs,
}

/// What came of it.
#[derive(Debug, Default)]
struct Outcome {
    uploaded: u64,
    bytes: u64,
    deleted: u64,
    failures: Vec<String>,
}

impl PublishArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        runtime::server(Box::pin(async {
            tokio::select! {
                outcome = publish(&self) => outcome,
                _ = tokio::signal::ctrl_c() => Err(exit::Failure::error(
                    exit::Status::Interrupted,
                    "interrupted; publish again to go on from here",
                )),
            }
        }))
    }
}

async fn publish(args: &PublishArgs) -> anyhow::Result<()> {
    let store = Store::open(&args.account, &args.site)?;
    let found = walk::walk(&args.folder)?;
    let remote = store.list().await?;
    let mut plan = plan::compare(found.files, remote, args.delete).await?;
    plan.spare(&found.skipped, &args.folder.canonicalize()?);
    if args.dry_run {
        return tell(args, &plan, &found.skipped, &Outcome::default());
    }
    let progress = Progress::new(plan.upload_bytes(), !args.json);
    let outcome = send::carry_out(&store, &plan, usize::from(args.jobs), &progress).await?;
    progress.finish();
    tell(args, &plan, &found.skipped, &outcome)?;
    if outcome.failures.is_empty() { Ok(()) } else { Err(incomplete(args, outcome.failures.len())) }
}

/// The summary in JSON names the failures itself.
fn incomplete(args: &PublishArgs, failures: usize) -> anyhow::Error {
    let files = if failures == 1 { "1 file was".to_owned() } else { format!("{failures} files were") };
    let error = anyhow::anyhow!("{files} not published: run it again, it sends only what is missing");
    if args.json { exit::Failure::told(&error) } else { error }
}

fn tell(args: &PublishArgs, plan: &Plan, skipped: &[walk::Skipped], outcome: &Outcome) -> anyhow::Result<()> {
    if args.json {
        return show::json(&summary(args, plan, skipped, outcome));
    }
    let skips = skipped.iter().map(|skipped| format!("skipped {}: {}", skipped.path.display(), skipped.reason));
    skips.chain(outcome.failures.iter().map(|failure| format!("failed {failure}"))).for_each(show::note);
    if args.dry_run {
        return foretell(plan);
    }
    show::line(format_args!(
        "{}: {} uploaded ({}), {} deleted, {} unchanged, {} skipped",
        args.site,
        outcome.uploaded,
        show::bytes(outcome.bytes),
        outcome.deleted,
        plan.unchanged,
        skipped.len(),
    ))
}

fn foretell(plan: &Plan) -> anyhow::Result<()> {
    for file in &plan.uploads {
        show::line(format_args!("upload {} ({})", file.key, show::bytes(file.size)))?;
    }
    plan.deletions.iter().try_for_each(|key| show::line(format_args!("delete {key}")))?;
    let (uploads, deletions) = (plan.uploads.len(), plan.deletions.len());
    show::line(format_args!("{uploads} to upload, {deletions} to delete, {} unchanged", plan.unchanged))
}

fn summary(args: &PublishArgs, plan: &Plan, skipped: &[walk::Skipped], outcome: &Outcome) -> serde_json::Value {
    let skipped = skipped.iter().map(|skipped| json!({ "path": skipped.path, "reason": skipped.reason.to_string() }));
    json!({
        "site": args.site,
        "dry_run": args.dry_run,
        "to_upload": plan.uploads.len(),
        "to_delete": plan.deletions.len(),
        "unchanged": plan.unchanged,
        "uploaded": outcome.uploaded,
        "uploaded_bytes": outcome.bytes,
        "deleted": outcome.deleted,
        "skipped": skipped.collect::<Vec<_>>(),
        "failures": outcome.failures,
    })
}
