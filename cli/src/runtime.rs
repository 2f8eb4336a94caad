//! Which runtime a command runs on: clients on one thread, which starts at once; servers and bulk work on all cores.

use std::future::Future;

use anyhow::Context;

/// Runs a client's work on this thread.
pub(crate) fn client<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    umbel_service::tls::install_provider();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start")?.block_on(work)
}

/// Runs a server's work on all cores.
pub(crate) fn server<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    umbel_service::tls::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start")?.block_on(work)
}
