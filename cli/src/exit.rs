//! With which status a command ends, and what it says then.

use std::process::ExitCode;

use umbel_service::config::{ConfigError, EXIT_CONFIG};

use crate::show;

/// Statuses that `umbel get` documents in its help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Status {
    /// Whoever read the output has gone (`umbel ... | head`): their choice.
    Closed = 0,
    /// Anything without a status of its own.
    Other = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// This agent is not enrolled.
    NotEnrolled = 3,
    /// 401 or 403.
    Refused = 4,
    /// 404.
    NotFound = 5,
    /// No edge could be reached.
    Unavailable = 6,
    /// Disk full, no permission.
    CannotWrite = 7,
    /// Bytes were not what they should be.
    Unverified = 8,
    /// 409: it is there already.
    Conflict = 9,
    /// Edges that nobody hears of may not have done it.
    Away = 10,
    /// SIGINT.
    Interrupted = 130,
}

/// An error that decides the exit status.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    status: Status,
    message: String,
    /// The command has said it itself.
    told: bool,
}

impl Failure {
    /// As an [`anyhow::Error`], to be returned with `?`.
    pub(crate) fn error(status: Status, message: impl Into<String>) -> anyhow::Error {
        Self { status, message: message.into(), told: false }.into()
    }

    /// The same error, of which nothing more is said: only its status is left to give.
    pub(crate) fn told(error: &anyhow::Error) -> anyhow::Error {
        Self { status: status(error), message: one_line(error), told: true }.into()
    }

    /// Whether this is its status.
    pub(crate) fn is(&self, status: Status) -> bool {
        self.status == status
    }
}

/// Says what went wrong, one line (mistakes of a configuration: one line each), and which status that is. Programs, who asked
/// for JSON, get it so as well, on standard output.
pub(crate) fn report(error: &anyhow::Error, as_json: bool) -> ExitCode {
    let status = status(error);
    let told = error.downcast_ref::<Failure>().is_some_and(|failure| failure.told);
    if as_json && !told && status != Status::Closed {
        // If it cannot be written, standard error still has it.
        let _said = show::json(&serde_json::json!({ "error": one_line(error) }));
    }
    if let Some(mistakes) = error.chain().find_map(|cause| cause.downcast_ref::<ConfigError>()) {
        show::note(mistakes);
        if error.downcast_ref::<ConfigError>().is_none_or(|own| own.to_string() != error.to_string()) {
            show::note(format_args!("umbel: {error}"));
        }
        return ExitCode::from(u8::try_from(EXIT_CONFIG).unwrap_or(1));
    }
    if status != Status::Closed && !told {
        show::note(format_args!("umbel: {}", one_line(error)));
    }
    ExitCode::from(status as u8)
}

/// What a failure to write to standard output means for the command.
pub(crate) fn output(error: std::io::Error) -> anyhow::Error {
    let closed = error.kind() == std::io::ErrorKind::BrokenPipe;
    let status = if closed { Status::Closed } else { Status::Other };
    Failure::error(status, format!("cannot write to standard output: {error}"))
}

fn status(error: &anyhow::Error) -> Status {
    error.chain().find_map(|cause| cause.downcast_ref::<Failure>()).map_or(Status::Other, |failure| failure.status)
}

/// Causes after their effects; a cause that its effect has already told is left out.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn the_status_survives_context() {
        let error = Failure::error(Status::NotFound, "no such object").context("cannot get it");
        assert_eq!(status(&error), Status::NotFound);
        assert_eq!(one_line(&error), "cannot get it: no such object");
        assert_eq!(status(&anyhow!("else")), Status::Other);
    }

    #[test]
    fn what_was_told_keeps_its_status() {
        let told = Failure::told(&Failure::error(Status::Refused, "no"));
        assert_eq!(status(&told), Status::Refused);
        assert!(told.downcast_ref::<Failure>().unwrap().told);
    }

    #[test]
    fn only_our_own_output_may_be_closed() {
        let broken = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(status(&output(broken())), Status::Closed);
        assert_eq!(status(&anyhow::Error::from(broken()).context("the agent does not answer")), Status::Other);
    }

    #[test]
    fn a_cause_is_told_once() {
        let error = Err::<(), _>(anyhow!("disk full")).context("cannot write: disk full").unwrap_err();
        assert_eq!(one_line(&error), "cannot write: disk full");
    }
}
