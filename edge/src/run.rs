//! From a configuration to a running edge that is a member of its installation.

use std::{convert::Infallible, path::Path, sync::Arc};

use anyhow::Context;
use rand::Rng;
use tokio::{signal::unix::Signal, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use umbel_service::{
    config::ConfigError,
    files,
    follow::{self, Follower},
    node::Node,
    shutdown, telemetry, tls,
};
use umbel_wire::{invitation::Purpose, token::TokenSigner};

use crate::{Config, Edge, Identity, Reloaded};

/// Reads the configuration again.
pub type Reread = Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// Joins the installation (the first time), then serves until `shutdown`. At SIGHUP takes over from `reread` what can change.
///
/// # Errors
/// The node cannot join, its state cannot be read, or a port cannot be bound.
pub async fn run(config: Config, reread: Reread, shutdown: CancellationToken) -> anyhow::Result<()> {
    tls::install_provider();
    telemetry::set_level(config.log_level.as_ref());
    let hangups = shutdown::hangups().context("cannot wait for signals")?;
    files::private_folder(&config.state).with_context(|| format!("state folder {}", config.state.display()))?;
    let ticket_seed = ticket_seed(&config.state)?;
    let ticket_key = *TokenSigner::from_seed("", &ticket_seed).public();
    let token = config.join_token.as_deref();
    let addresses = config.addresses.clone();
    let node = Node::enter(&config.state, Purpose::Edge, token, addresses.clone(), &ticket_key).await?;
    let (node, follower) = (Arc::new(node), Follower::load(&config.state)?);
    let identity = Identity {
        node_id: node.id.clone(),
        ca: node.ca.clone(),
        certificate: node.certificate.clone(),
        ticket_seed,
        control: Some(node.control_channel()?),
        node: Some(node.clone()),
    };
    let mut edge = Edge::start(config, identity, follower.subscribe(), shutdown.clone()).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(follow::confirm(node.clone(), follower.written(), edge.applied(), shutdown.clone()));
    tasks.spawn(follower.run(node.clone(), shutdown.clone()));
    let renewed = shutdown.clone();
    tasks.spawn(async move { node.keep_renewed(addresses, renewed).await });
    let ended = {
        let reloading = reload_at(hangups, &mut edge, &reread);
        tokio::select! {
            ended = watch_over(tasks, &shutdown) => ended,
            never = reloading => match never {},
        }
    };
    edge.stop().await;
    ended
}

/// At each hangup. A configuration that is not right changes nothing. The log is opened anew in any case: whoever has moved the
/// file away did not look at the configuration.
async fn reload_at(mut hangups: Signal, edge: &mut Edge, reread: &Reread) -> Infallible {
    loop {
        if hangups.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        edge.reopen_log();
        let reloaded = match reread() {
            Ok(config) => edge.reload(&config).await,
            Err(mistakes) => Err(mistakes),
        };
        match reloaded {
            Ok(reloaded) => tell(&reloaded),
            Err(mistakes) => {
                error!("the configuration is not right, and stays as it was");
                mistakes.0.iter().for_each(|mistake| error!(%mistake, "not taken over"));
            }
        }
    }
}

fn tell(Reloaded { applied, need_a_restart }: &Reloaded) {
    info!(?applied, "the configuration was read again");
    if !need_a_restart.is_empty() {
        warn!(keys = ?need_a_restart, "these settings have changed and need a restart");
    }
}

/// Until `shutdown`, or until one of the tasks that must not end has ended.
async fn watch_over(mut tasks: JoinSet<anyhow::Result<()>>, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.context("a task of the edge panicked").and_then(|result| result);
        if let Err(reason) = ended {
            error!(error = format!("{reason:#}"), "the edge cannot go on");
            outcome = Err(reason);
        }
        shutdown.cancel();
    }
    outcome
}

/// The key that tickets are signed with: made once, kept.
fn ticket_seed(state: &Path) -> anyhow::Result<[u8; 32]> {
    let file = state.join("ticket.key");
    if let Some(bytes) = files::read(&file)? {
        return <[u8; 32]>::try_from(bytes).ok().with_context(|| format!("{} is damaged", file.display()));
    }
    let mut seed = [0; 32];
    rand::rng().fill_bytes(&mut seed);
    files::replace(&file, &seed)?;
    Ok(seed)
}
