//! Starts a service: reads its configuration, says every mistake at once, and runs it until a signal.

use std::{future::Future, os::fd::AsFd, path::PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use tokio::{io::AsyncReadExt, net::unix::pipe};
use tokio_util::sync::CancellationToken;
use umbel_service::{
    config::{ConfigError, Settings},
    shutdown, telemetry,
};

use crate::{runtime, settings::environment, show};

/// What every server's command can do.
#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Run it, until SIGINT or SIGTERM
    Run(ServiceArgs),
    /// Only say whether the configuration is right
    CheckConfig(ServiceArgs),
}

impl ServiceCommand {
    /// Does what was asked for. `prefix` is that of the environment's variables.
    pub(crate) fn run<C, F>(
        self,
        prefix: &'static str,
        read: fn(&mut Settings) -> C,
        run: impl FnOnce(C, CancellationToken) -> F,
    ) -> anyhow::Result<()>
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        match self {
            Self::Run(args) => args.serve(AtHangup::GoOn, args.read(prefix, read)?, run),
            Self::CheckConfig(args) => {
                args.read(prefix, read)?;
                show::line("the configuration is right")
            }
        }
    }
}

/// Environment variables of the command itself, which begin like those of a service.
const OF_THE_COMMAND: [&str; 1] = ["UMBEL_CONTROL_PLANE"];

/// What SIGHUP means for a service. Without any of these it would end in the middle of whatever it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtHangup {
    /// It sees to that itself.
    Own,
    /// Nothing: people and programs send it to servers to have settings read again.
    GoOn,
    /// An orderly stop: the terminal of who has started it for himself is gone.
    Stop,
}

/// How a service is started.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServiceArgs {
    /// Configuration, a TOML file; environment variables win over it
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Stop when standard input ends: then a supervisor can not leave this process behind
    #[arg(long, hide = true)]
    pub(crate) supervised: bool,
}

impl ServiceArgs {
    /// The settings from file and environment. `prefix` is that of the environment's variables.
    pub(crate) fn settings(&self, prefix: &'static str) -> Settings {
        let environment = environment().filter(|(name, _)| !OF_THE_COMMAND.contains(&name.as_str()));
        Settings::load(self.config.as_deref(), prefix, environment)
    }

    /// What `read` makes of the settings, or every mistake in them.
    pub(crate) fn read<C>(&self, prefix: &'static str, read: fn(&mut Settings) -> C) -> anyhow::Result<C> {
        self.reread(prefix, read).map_err(|mistakes| self.explained(mistakes, prefix))
    }

    /// As [`ServiceArgs::read`], for who knows already where settings come from.
    pub(crate) fn reread<C>(&self, prefix: &'static str, read: fn(&mut Settings) -> C) -> Result<C, ConfigError> {
        let mut settings = self.settings(prefix);
        let config = read(&mut settings);
        settings.finish().map(|()| config)
    }

    /// Who gave no file may not know that there is one.
    pub(crate) fn explained(&self, mistakes: ConfigError, prefix: &str) -> anyhow::Error {
        match self.config {
            Some(_) => mistakes.into(),
            None => anyhow::Error::new(mistakes).context(format!(
                "give a file with --config (there are examples in deploy/), or variables that begin with {prefix}_"
            )),
        }
    }

    /// Runs the service until SIGINT, SIGTERM or, when supervised, the end of standard input.
    pub(crate) fn serve<C, F>(
        &self,
        at_hangup: AtHangup,
        config: C,
        run: impl FnOnce(C, CancellationToken) -> F,
    ) -> anyhow::Result<()>
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        telemetry::init(telemetry::LogFormat::default());
        runtime::server(async {
            let shutdown = self.shutdown()?;
            match at_hangup {
                AtHangup::Own => Ok(()),
                AtHangup::GoOn => shutdown::go_on_at_hangups(),
                AtHangup::Stop => shutdown::stop_at_hangup(shutdown.clone()),
            }
            .context("cannot wait for signals")?;
            // A service's future is large: on the heap, not on the stack of whoever waits for it.
            Box::pin(run(config, shutdown)).await
        })
    }

    /// Cancelled when this process is to stop.
    pub(crate) fn shutdown(&self) -> anyhow::Result<CancellationToken> {
        let token = shutdown::on_signal().context("cannot wait for signals")?;
        if self.supervised {
            stop_with_supervisor(token.clone())?;
        }
        Ok(token)
    }
}

/// The supervisor holds the other end of standard input; when it ends, however it ends, so does the pipe.
fn stop_with_supervisor(token: CancellationToken) -> anyhow::Result<()> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().context("no standard input")?;
    let mut pipe = pipe::Receiver::from_owned_fd(stdin).context("supervised, but standard input is no pipe")?;
    // Lives as long as the process: it is what ends it.
    tokio::spawn(async move {
        let mut rest = [0; 64];
        while pipe.read(&mut rest).await.is_ok_and(|read| read > 0) {}
        token.cancel();
    });
    Ok(())
}
