//! The connection to Postgres: lazily opened, patient while the server is away, migrated before first use.

use std::{str::FromStr, time::Duration};

use sqlx::{
    PgPool,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::Instant;

use crate::error::{Error, Result, is_away};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// How long a request waits for a connection before it is told that the database is away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// A pool that opens connections when they are needed, so that a Postgres that is away is found out per request
/// and not at start. To be called inside a tokio runtime.
///
/// # Errors
/// The URL is no Postgres URL.
pub fn open(url: &str, max_connections: u32) -> Result<PgPool> {
    let options = options(url)?;
    Ok(PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(options))
}

/// Reads a database URL; opens nothing.
pub(crate) fn options(url: &str) -> Result<PgConnectOptions> {
    let options =
        PgConnectOptions::from_str(url).map_err(|_| Error::invalid("database_url is not a postgres:// URL"))?;
    let limits = [("statement_timeout", "60s"), ("idle_in_transaction_session_timeout", "60s")];
    Ok(options.application_name("umbel-control-plane").options(limits))
}

/// Brings the schema up to date. Safe to run from several processes at once.
///
/// # Errors
/// Postgres is away, or the schema was changed by a newer version.
pub async fn migrate(db: &PgPool) -> Result<()> {
    MIGRATIONS.run(db).await.map_err(migration_error)
}

fn migration_error(error: MigrateError) -> Error {
    if let MigrateError::Execute(source) = error {
        return source.into();
    }
    Error::Database(sqlx::Error::Migrate(Box::new(error)))
}

/// Repeats `work` while Postgres is away, waiting up to 5 s in between; any other error ends it.
///
/// # Errors
/// Whatever else `work` fails with.
pub(crate) async fn patiently<T, F: Future<Output = Result<T>>>(work: impl FnMut() -> F) -> Result<T> {
    repeat(None, work).await
}

/// As [`patiently`], but only for so long.
///
/// # Errors
/// As `work`'s; also that Postgres is still away.
pub(crate) async fn patiently_for<T, F: Future<Output = Result<T>>>(
    limit: Duration,
    work: impl FnMut() -> F,
) -> Result<T> {
    repeat(Some(Instant::now() + limit), work).await
}

async fn repeat<T, F: Future<Output = Result<T>>>(deadline: Option<Instant>, mut work: impl FnMut() -> F) -> Result<T> {
    let mut pause = Duration::from_millis(100);
    loop {
        match work().await {
            Err(Error::DatabaseAway(error)) if deadline.is_none_or(|deadline| Instant::now() + pause < deadline) => {
                tracing::warn!(%error, ?pause, "postgres is away, trying again");
            }
            other => return other,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

/// Whether Postgres answers now.
pub(crate) async fn answers(db: &PgPool) -> bool {
    match sqlx::query("select 1").execute(db).await {
        Ok(_) => true,
        Err(error) => !is_away(&error),
    }
}
