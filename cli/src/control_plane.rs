//! `umbel control-plane`

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;
use umbel_control_plane::{
    bootstrap::{Bootstrap, bootstrap},
    config::{Config, ENVIRONMENT},
    database,
};
use umbel_service::files;

use crate::{
    runtime,
    serve::{AtHangup, ServiceArgs},
    show,
};

/// What `umbel control-plane` takes.
#[derive(Debug, Subcommand)]
pub(crate) enum ControlPlaneCommand {
    /// Run it, until SIGINT or SIGTERM
    Run(ServiceArgs),
    /// Prepare the database and give out the first admin's API key; again: a new key, and the one before ends
    Init(InitArgs),
    /// Only say whether the configuration is right
    CheckConfig(ServiceArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    service: ServiceArgs,
    /// Write `admin.toml` and `ca.pem` into this folder, as `umbel admin` reads them
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ControlPlaneCommand {
    pub(crate) fn answers_as_json(&self) -> bool {
        matches!(self, Self::Init(InitArgs { json: true, .. }))
    }

    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Run(args) => args.serve(AtHangup::GoOn, config(&args)?, umbel_control_plane::run),
            Self::Init(args) => init(&args),
            Self::CheckConfig(args) => {
                config(&args)?;
                show::line("the configuration is right")
            }
        }
    }
}

fn config(args: &ServiceArgs) -> anyhow::Result<Config> {
    Config::from_settings(args.settings(ENVIRONMENT)).map_err(|mistakes| args.explained(mistakes, ENVIRONMENT))
}

fn init(args: &InitArgs) -> anyhow::Result<()> {
    let config = config(&args.service)?;
    let made = runtime::client(async {
        let db = database::open(&config.database_url, 3)?;
        Ok(bootstrap(&db).await?)
    })?;
    match &args.output {
        Some(folder) => write(&config.public_url, &made, folder, args.json),
        None if args.json => {
            show::json(&json!({ "control_plane": config.public_url, "api_key": made.api_key, "ca_pem": made.ca_pem }))
        }
        None => show::line(format_args!(
            "control plane  {}\nAPI key        {}\n\n{}",
            config.public_url, made.api_key, made.ca_pem
        )),
    }
}

fn write(url: &str, made: &Bootstrap, folder: &std::path::Path, as_json: bool) -> anyhow::Result<()> {
    let failed = || format!("cannot write to {}", folder.display());
    std::fs::create_dir_all(folder).with_context(failed)?;
    let folder = folder.canonicalize().with_context(failed)?;
    let ca = folder.join("ca.pem");
    files::replace(&ca, made.ca_pem.as_bytes()).with_context(failed)?;
    let text = format!("control_plane = {url:?}\napi_key = {:?}\nca = {:?}\n", made.api_key, ca.display().to_string());
    let admin = folder.join("admin.toml");
    files::replace(&admin, text.as_bytes()).with_context(failed)?;
    if as_json { show::json(&json!({ "credentials": admin })) } else { show::line(admin.display()) }
}
