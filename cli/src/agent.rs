//! `umbel agent`: the agent on this machine.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;
use umbel_agent::{Config, ENVIRONMENT_PREFIX, Enrolment, Prompt, client::LocalClient};
use umbel_service::config::Settings;

use crate::{
    exit::{Failure, Status},
    runtime,
    serve::{AtHangup, ServiceArgs},
    settings, show,
};

/// Where `umbel agent enroll` finds its token, if it is not an argument.
pub(crate) const ENROLMENT_TOKEN: &str = "UMBEL_ENROLMENT_TOKEN";

const HOW_TO_ENROLL: &str = "give --token (an admin gets one from `umbel admin token create agent`), or --control-plane and \
                             --ca to be shown a code that an admin approves";

/// What `umbel agent` takes.
#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Make this machine a member: with a token, or with a code that a person approves
    Enroll(EnrollArgs),
    /// Run in the background: other commands then fetch through it, and peers are served
    Run(RunArgs),
    /// How the agent that runs in the background is
    Status(FaceArgs),
    /// Drop all content that it keeps and that is not in use
    Flush(FaceArgs),
    /// Only say whether the configuration is right
    CheckConfig(ServiceArgs),
}

#[derive(Debug, Args)]
pub(crate) struct EnrollArgs {
    #[command(flatten)]
    place: Place,
    /// An enrolment token, from `umbel admin token create agent`; better in the environment, where other users do not see it
    #[arg(long, value_name = "TOKEN", env = ENROLMENT_TOKEN, hide_env_values = true)]
    token: Option<String>,
    /// Without a token: the control plane that shows a code to approve
    #[arg(long, value_name = "URL", requires = "ca")]
    control_plane: Option<String>,
    /// Without a token: the installation's CA certificate (PEM)
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    service: ServiceArgs,
    /// State folder [default: ~/.local/share/umbel/agent]
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    state: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct FaceArgs {
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Where an agent keeps its state.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Configuration, a TOML file; environment variables win over it
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// State folder [default: ~/.local/share/umbel/agent]
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    state: Option<PathBuf>,
}

impl Place {
    /// The agent's settings.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        if let Some(state) = &self.state {
            return Ok(Config::default_in(state));
        }
        let mut settings = Settings::load(self.config.as_deref(), ENVIRONMENT_PREFIX, settings::environment());
        let config = read(&mut settings)?;
        settings.finish()?;
        Ok(config)
    }
}

/// The usual folder needs a home; without one, the configuration has to say where.
fn read(settings: &mut Settings) -> anyhow::Result<Config> {
    Ok(Config::read(settings, &usual_state()?))
}

fn usual_state() -> anyhow::Result<PathBuf> {
    if let Some(data) = std::env::var_os("XDG_DATA_HOME").filter(|data| !data.is_empty()) {
        return Ok(PathBuf::from(data).join("umbel/agent"));
    }
    let home = std::env::var_os("HOME").context("HOME is not set: say where with `state`")?;
    Ok(PathBuf::from(home).join(".local/share/umbel/agent"))
}

impl AgentCommand {
    pub(crate) fn answers_as_json(&self) -> bool {
        match self {
            Self::Enroll(args) => args.json,
            Self::Status(args) | Self::Flush(args) => args.json,
            Self::Run(_) | Self::CheckConfig(_) => false,
        }
    }

    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Enroll(args) => runtime::client(enroll(&args)),
            Self::Run(RunArgs { service, state }) => {
                let config = match state {
                    Some(state) => Config::default_in(&state),
                    None => service_config(&service)?,
                };
                service.serve(AtHangup::Stop, config, async |config, stop| {
                    Ok(umbel_agent::service::run(config, stop).await?)
                })
            }
            Self::Status(args) => runtime::client(status(&args)),
            Self::Flush(args) => runtime::client(flush(&args)),
            Self::CheckConfig(args) => {
                service_config(&args)?;
                show::line("the configuration is right")
            }
        }
    }
}

fn service_config(args: &ServiceArgs) -> anyhow::Result<Config> {
    let mut settings = args.settings(ENVIRONMENT_PREFIX);
    let config = read(&mut settings)?;
    settings.finish()?;
    Ok(config)
}

async fn enroll(args: &EnrollArgs) -> anyhow::Result<()> {
    let state = args.place.config()?.state;
    let prompt = |prompt: &Prompt| tell(prompt, args.json);
    let ca = args.ca.as_deref().map(read_ca).transpose()?;
    let enrolment = match (&args.token, &args.control_plane, &ca) {
        (Some(token), _, _) => Enrolment::Token(token),
        (None, Some(url), Some(ca)) => Enrolment::Device { control_plane_url: url, ca_pem: ca, on_prompt: &prompt },
        (None, _, _) => return Err(Failure::error(Status::Usage, HOW_TO_ENROLL)),
    };
    let identity = umbel_agent::enroll(&state, enrolment).await?;
    if args.json {
        show::line(json!({ "enrolled": identity.name() }))
    } else {
        show::line(format_args!("enrolled as {} in {}", identity.name(), state.display()))
    }
}

fn read_ca(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn tell(prompt: &Prompt, as_json: bool) {
    let Prompt { verification_uri: uri, user_code: code, .. } = prompt;
    let life = humantime::format_duration(prompt.expires_in);
    let text = if as_json {
        json!({ "user_code": code, "verification_uri": uri }).to_string()
    } else {
        format!("Open {uri} and enter {code} within {life},\nor let an admin run: umbel admin device approve {code}")
    };
    // Somebody may have read it elsewhere: an approval is waited for in any case.
    let _said = show::line(text);
}

async fn status(args: &FaceArgs) -> anyhow::Result<()> {
    let status = face(args).await?.status().await?;
    let status = serde_json::to_value(status)?;
    if args.json { show::json(&status) } else { show::fields(&status) }
}

async fn flush(args: &FaceArgs) -> anyhow::Result<()> {
    let dropped = face(args).await?.flush().await?;
    if args.json {
        show::json(&json!({ "dropped_versions": dropped }))
    } else {
        show::line(format_args!("dropped {dropped} versions"))
    }
}

async fn face(args: &FaceArgs) -> anyhow::Result<LocalClient> {
    let state = args.place.config()?.state;
    let face = LocalClient::connect(&state).await;
    face.with_context(|| {
        format!("no agent runs in the background in {}: start it with `umbel agent run`", state.display())
    })
}
