//! From a signal to an orderly stop, or to a new configuration.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// SIGHUP, each of which asks to read the configuration again; without this the signal ends the process.
pub fn hangups() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// From now on SIGHUP ends nothing: a service that takes over no settings while it runs says so, and goes on.
pub fn go_on_at_hangups() -> std::io::Result<()> {
    let mut hangups = hangups()?;
    // Lives as long as the process.
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            tracing::warn!("SIGHUP: settings are read at the start alone, and a change of them needs a restart");
        }
    });
    Ok(())
}

/// From now on SIGHUP is one more way to ask for an orderly stop.
pub fn stop_at_hangup(token: CancellationToken) -> std::io::Result<()> {
    let mut hangups = hangups()?;
    // Lives as long as the process: it is what ends it.
    tokio::spawn(async move {
        hangups.recv().await;
        token.cancel();
    });
    Ok(())
}

/// A token that is cancelled by the first SIGINT or SIGTERM. A second one ends the process at once, as people expect.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let cancelled = token.clone();
    // Lives as long as the process: it is what ends it.
    tokio::spawn(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        cancelled.cancel();
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        std::process::exit(130);
    });
    Ok(token)
}
