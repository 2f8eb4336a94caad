//! One vocabulary of refusals for REST and gRPC: whose fault it is, and whether trying again helps.

use std::borrow::Cow;

/// Why the control plane does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request itself is wrong; the same again fails again.
    #[error("{0}")]
    Invalid(Cow<'static, str>),
    /// No, wrong or expired credentials.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// Who asks is known and may not.
    #[error("{0}")]
    Forbidden(&'static str),
    /// There is no such thing, or none that the caller may see.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// It contradicts what is there.
    #[error("{0}")]
    Conflict(Cow<'static, str>),
    /// Too much at once; later it works.
    #[error("busy: {0}")]
    Busy(&'static str),
    /// Postgres cannot be reached; later it works.
    #[error("the database is away")]
    DatabaseAway(#[source] sqlx::Error),
    /// Postgres refused what we sent: our fault.
    #[error("database")]
    Database(#[source] sqlx::Error),
    /// A certificate could not be made: our fault.
    #[error("certificate authority")]
    Authority(#[source] rcgen::Error),
    /// What lies in the database does not make sense.
    #[error("stored {0} is damaged")]
    Damaged(&'static str),
}

/// What the domain functions return.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn invalid(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid(text.into())
    }

    pub(crate) fn conflict(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Conflict(text.into())
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if is_away(&error) { Self::DatabaseAway(error) } else { Self::Database(error) }
    }
}

/// Whether an error says that Postgres cannot be reached now, rather than that it refuses.
pub(crate) fn is_away(error: &sqlx::Error) -> bool {
    if let sqlx::Error::Database(refusal) = error {
        return refusal.code().is_some_and(|code| is_away_code(&code));
    }
    matches!(
        error,
        sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
    )
}

/// SQLSTATE: connection exceptions, shutdown and start-up, too many connections.
fn is_away_code(code: &str) -> bool {
    code.starts_with("08") || matches!(code, "57P01" | "57P02" | "57P03" | "53300")
}

/// Turns a violated unique constraint into a conflict that says so.
pub(crate) fn unique(error: sqlx::Error, text: &'static str) -> Error {
    let violated = error.as_database_error().is_some_and(|refusal| refusal.is_unique_violation());
    if violated { Error::conflict(text) } else { error.into() }
}

impl Error {
    /// Whether Postgres cannot be reached now.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, Self::DatabaseAway(_))
    }

    /// Logs what is not the caller's fault.
    pub(crate) fn log(&self) {
        match self {
            Self::DatabaseAway(error) => tracing::warn!(%error, "postgres is away"),
            Self::Database(error) => tracing::error!(%error, "postgres refused"),
            Self::Authority(error) => tracing::error!(%error, "certificate authority failed"),
            Self::Damaged(what) => tracing::error!(what, "stored data is damaged"),
            Self::Invalid(_)
            | Self::Unauthenticated(_)
            | Self::Forbidden(_)
            | Self::NotFound(_)
            | Self::Conflict(_)
            | Self::Busy(_) => tracing::debug!(error = %self, "refused"),
        }
    }
}
