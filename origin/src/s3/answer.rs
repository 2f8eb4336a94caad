//! What went wrong, in S3's words.

use s3s::{S3Error, s3_error};
use tracing::warn;
use umbel_content::PathError;

use crate::{intake::IntakeError, store::StoreError, uploads::UploadError};

/// Errors of the store. Retrying clients are told to when it may help.
pub(super) fn store(error: StoreError) -> S3Error {
    match error {
        StoreError::NotFound => s3_error!(NoSuchKey),
        StoreError::Precondition => s3_error!(PreconditionFailed),
        StoreError::Busy => s3_error!(ConditionalRequestConflict, "others write this object at the same time"),
        StoreError::KeyTooLong => s3_error!(KeyTooLongError),
        StoreError::Damaged => {
            warn!(%error, "damage in the store");
            s3_error!(error, InternalError, "what the store returned is damaged")
        }
        StoreError::Full(_) => {
            warn!(error = &error as &dyn std::error::Error, "nothing can be taken in");
            s3_error!(error, ServiceUnavailable, "the store is full")
        }
        StoreError::Unavailable(_) | StoreError::Io(_) | StoreError::Interrupted => {
            warn!(error = &error as &dyn std::error::Error, "the store cannot be used");
            s3_error!(error, ServiceUnavailable, "the store cannot be used, try again")
        }
    }
}

pub(super) fn intake(error: IntakeError) -> S3Error {
    let text = error.to_string();
    match error {
        IntakeError::TooShort { .. } | IntakeError::TooLong { .. } => s3_error!(IncompleteBody, "{text}"),
        IntakeError::TooLarge => s3_error!(EntityTooLarge),
        IntakeError::Silence => s3_error!(RequestTimeout),
        IntakeError::Broken(source) => broken(&source.to_string()),
        IntakeError::Mismatch(_) => s3_error!(BadDigest, "{text}"),
        IntakeError::Crowded => s3_error!(SlowDown, "{text}"),
        IntakeError::Manifest(source) => s3_error!(InvalidArgument, "{source}"),
        IntakeError::Store(source) => store(source),
    }
}

/// `s3s` checks the body's own signatures while it is read, and tells by text only.
fn broken(text: &str) -> S3Error {
    if text.contains("Sha256Mismatch") {
        s3_error!(BadDigest, "x-amz-content-sha256 does not match the body")
    } else if text.contains("SignatureMismatch") {
        s3_error!(SignatureDoesNotMatch)
    } else {
        s3_error!(IncompleteBody, "the body broke off")
    }
}

pub(super) fn upload(error: UploadError) -> S3Error {
    match error {
        UploadError::NoSuchUpload => s3_error!(NoSuchUpload),
        UploadError::InvalidPart => s3_error!(InvalidPart),
        UploadError::Order => s3_error!(InvalidPartOrder),
        UploadError::TooSmall => s3_error!(EntityTooSmall),
        UploadError::Intake(error) => intake(error),
    }
}

/// A key that no edge could ever serve.
pub(super) fn path(error: PathError) -> S3Error {
    match error {
        PathError::TooLong => s3_error!(KeyTooLongError, "a key is too long to be the path of a URL"),
        PathError::NotAbsolute
        | PathError::Encoding
        | PathError::EncodedSlash
        | PathError::NotUtf8
        | PathError::Control
        | PathError::DotSegment
        | PathError::Reserved => s3_error!(InvalidArgument, "this key cannot be the path of a URL: {error}"),
    }
}
