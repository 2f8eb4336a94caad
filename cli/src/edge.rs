//! `umbel edge`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use umbel_edge::{Config, Described};
use umbel_service::config::ConfigError;

use crate::{
    serve::{AtHangup, ServiceArgs},
    show,
};

const ENVIRONMENT: &str = "UMBEL_EDGE";

/// What `umbel edge` takes.
#[derive(Debug, Subcommand)]
pub(crate) enum EdgeCommand {
    /// Run it, until SIGINT or SIGTERM; SIGHUP makes it read its configuration again
    Run(ServiceArgs),
    /// Only say whether the configuration is right: every mistake at once, or a summary
    CheckConfig(CheckArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Configuration, a TOML file; environment variables win over it
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
    #[command(flatten)]
    service: ServiceArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl EdgeCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Run(args) => {
                let config = args.read(ENVIRONMENT, Config::read)?;
                let again = args.clone();
                let reread = Box::new(move || again.reread(ENVIRONMENT, Config::read));
                args.serve(AtHangup::Own, config, |config, shutdown| umbel_edge::run(config, reread, shutdown))
            }
            Self::CheckConfig(args) => args.check(),
        }
    }
}

impl CheckArgs {
    fn check(mut self) -> anyhow::Result<()> {
        self.service.config = self.service.config.or(self.file);
        let outcome = self.service.reread(ENVIRONMENT, Config::read).and_then(|config| {
            let found = certificates(&config)?;
            Ok((config, found))
        });
        match outcome {
            Ok((config, found)) if self.json => show::json(&summary(&config, &found)),
            Ok((config, found)) => {
                show::line("the configuration is right")?;
                show::fields(&summary(&config, &found))
            }
            Err(mistakes) => {
                if self.json {
                    show::json(&refused(&mistakes))?;
                }
                Err(self.service.explained(mistakes, ENVIRONMENT))
            }
        }
    }
}

/// A certificate that cannot be used is a mistake, too.
fn certificates(config: &Config) -> Result<Vec<Described>, ConfigError> {
    config.certificates.as_deref().map_or_else(|| Ok(Vec::new()), umbel_edge::look_at_certificates)
}

fn summary(config: &Config, found: &[Described]) -> Value {
    let names: Vec<&str> = found.iter().flat_map(|one| &one.names).map(String::as_str).collect();
    json!({
        "ok": true,
        "state": config.state,
        "public": config.public_listen,
        "plain": config.plain_listen,
        "internal": config.internal_listen,
        "relay": config.relay_listen,
        "ops": config.ops_listen,
        "public_url": config.addresses.public_url,
        "certificates_for": names,
        "trusted_proxies": config.rules.proxies.trusted.len(),
    })
}

fn refused(mistakes: &ConfigError) -> Value {
    let listed = mistakes.0.iter().map(|mistake| json!({ "place": mistake.place, "text": mistake.text }));
    json!({ "ok": false, "mistakes": listed.collect::<Vec<_>>() })
}
