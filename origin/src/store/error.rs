//! What can go wrong with a store, by what can be done about it.

use std::{error::Error, io, io::ErrorKind};

use crate::{record::BadRecord, vault::DoesNotOpen};

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such thing.
    #[error("not found in the store")]
    NotFound,
    /// Something else is there than was asked for.
    #[error("the object is not as it should have been")]
    Precondition,
    /// Others kept winning.
    #[error("too many writers of one object")]
    Busy,
    /// No space; deleting or a larger disk helps.
    #[error("the store is full")]
    Full(#[source] object_store::Error),
    /// The key is too long for this store.
    #[error("the key is too long for this store")]
    KeyTooLong,
    /// It did not answer, or not as it should; trying again may help.
    #[error("the store cannot be used")]
    Unavailable(#[source] object_store::Error),
    /// The disk refused.
    #[error("the store's folder cannot be used")]
    Io(#[source] io::Error),
    /// What lies there is not what was written.
    #[error("what the store returned is damaged")]
    Damaged,
    /// The process is stopping.
    #[error("interrupted by shutdown")]
    Interrupted,
}

impl From<object_store::Error> for StoreError {
    fn from(error: object_store::Error) -> Self {
        if matches!(error, object_store::Error::NotFound { .. }) {
            return Self::NotFound;
        }
        if matches!(error, object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) {
            return Self::Precondition;
        }
        match cause(&error) {
            Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge) => Self::Full(error),
            Some(ErrorKind::InvalidFilename) => Self::KeyTooLong,
            Some(_) | None => Self::Unavailable(error),
        }
    }
}

/// The kind of the I/O error at the bottom, if there is one.
fn cause(error: &object_store::Error) -> Option<ErrorKind> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        next = error.source();
    }
    None
}

impl From<BadRecord> for StoreError {
    fn from(_: BadRecord) -> Self {
        Self::Damaged
    }
}

impl From<DoesNotOpen> for StoreError {
    fn from(_: DoesNotOpen) -> Self {
        Self::Damaged
    }
}

impl From<umbel_content::OpenError> for StoreError {
    fn from(_: umbel_content::OpenError) -> Self {
        Self::Damaged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_others() {
        let error = |kind: ErrorKind| {
            StoreError::from(object_store::Error::Generic { store: "test", source: Box::new(io::Error::from(kind)) })
        };
        assert!(matches!(error(ErrorKind::StorageFull), StoreError::Full(_)));
        assert!(matches!(error(ErrorKind::ConnectionReset), StoreError::Unavailable(_)));
    }
}
