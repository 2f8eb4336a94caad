//! Plaintext on its way in: read in pieces with a limit on silence, hashed for S3's checks and sealed away from the
//! threads that serve, written to the store while the next piece arrives.

mod digest;

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use tokio::time::timeout;

pub(crate) use digest::{Digests, Expected, Mismatch};

use crate::store::{BlobWriter, StoreError};

/// Bytes that are sealed in one go: enough that handing over costs nothing beside it.
const BATCH: usize = 1024 * 1024;

/// A client that sends nothing for this long has gone.
const SILENCE: Duration = Duration::from_secs(60);

/// Why content was not taken in. Nothing of it is visible then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IntakeError {
    #[error("the body ended after {found} of {declared} bytes")]
    TooShort { declared: u64, found: u64 },
    #[error("the body is longer than the {declared} bytes that were declared")]
    TooLong { declared: u64 },
    #[error("the body is larger than can be stored")]
    TooLarge,
    #[error("nothing came for {SILENCE:?}")]
    Silence,
    #[error("the body broke off")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the body is not what its checksum says")]
    Mismatch(#[from] Mismatch),
    #[error("too many uploads at once")]
    Crowded,
    #[error("this cannot be stored as an object")]
    Manifest(#[from] umbel_content::ManifestError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A body, whole or broken, and what is known of it beforehand.
pub(crate) struct Body {
    stream: BoxStream<'static, Result<Bytes, IntakeError>>,
    /// Bytes, if declared.
    pub(crate) length: Option<u64>,
    rest: Bytes,
    taken: u64,
}

impl Body {
    pub(crate) fn new(stream: BoxStream<'static, Result<Bytes, IntakeError>>, length: Option<u64>) -> Self {
        Self { stream, length, rest: Bytes::new(), taken: 0 }
    }

    /// Bytes taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Up to `size` bytes; fewer only at the end, none after it. There is room for a tag behind them.
    pub(crate) async fn take(&mut self, size: usize) -> Result<Vec<u8>, IntakeError> {
        let left = self.length.map_or(size as u64, |length| length - self.taken.min(length));
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(size);
        let mut piece = Vec::with_capacity(room + 16);
        while piece.len() < size {
            if self.rest.is_empty() {
                match timeout(SILENCE, self.stream.next()).await.map_err(|_| IntakeError::Silence)? {
                    Some(bytes) => self.rest = bytes?,
                    None => break,
                }
            }
            let part = self.rest.split_to(self.rest.len().min(size - piece.len()));
            piece.extend_from_slice(&part);
        }
        self.taken += piece.len() as u64;
        self.check_length(piece.len() < size)?;
        Ok(piece)
    }

    fn check_length(&self, ended: bool) -> Result<(), IntakeError> {
        match self.length {
            Some(declared) if self.taken > declared => Err(IntakeError::TooLong { declared }),
            Some(declared) if ended && self.taken < declared => {
                Err(IntakeError::TooShort { declared, found: self.taken })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Turns pieces of plaintext into ciphertext, in order.
pub(crate) trait Seal: Send + 'static {
    /// Seals the next piece.
    fn seal(&mut self, plain: Vec<u8>) -> Result<Bytes, StoreError>;
}

/// What happens to plaintext away from the serving threads.
pub(crate) struct Work<S> {
    pub(crate) digests: Digests,
    pub(crate) seal: S,
    /// Plaintext bytes of every piece but the last.
    pub(crate) piece: usize,
}

impl<S: Seal> Work<S> {
    fn run(&mut self, plain: Vec<u8>) -> Result<Vec<Bytes>, StoreError> {
        self.digests.update(&plain);
        if plain.len() <= self.piece {
            return Ok(vec![self.seal.seal(plain)?]);
        }
        plain.chunks(self.piece).map(|piece| self.seal.seal(with_room(piece))).collect()
    }

    /// Pours all of `body`, beginning with `first`, through the work into `writer`.
    pub(crate) async fn pour(
        mut self,
        body: &mut Body,
        first: Vec<u8>,
        writer: &mut BlobWriter,
    ) -> Result<Self, IntakeError> {
        let batch = self.piece.max(BATCH);
        let mut plain = first;
        while !plain.is_empty() {
            let working = tokio::task::spawn_blocking(move || {
                let sealed = self.run(plain);
                (self, sealed)
            });
            let (worked, next) = tokio::join!(working, body.take(batch));
            let (work, sealed) = worked.map_err(|_| StoreError::Interrupted)?;
            for piece in sealed? {
                writer.write(piece).await?;
            }
            (self, plain) = (work, next?);
        }
        Ok(self)
    }

    /// Bytes that [`Work::pour`] wants as its first piece.
    pub(crate) fn first_piece(&self) -> usize {
        self.piece.max(BATCH)
    }
}

fn with_room(plain: &[u8]) -> Vec<u8> {
    let mut piece = Vec::with_capacity(plain.len() + 16);
    piece.extend_from_slice(plain);
    piece
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    fn body(parts: &[&'static str], length: Option<u64>) -> Body {
        let parts: Vec<_> = parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect();
        Body::new(stream::iter(parts).boxed(), length)
    }

    #[tokio::test]
    async fn pieces_are_full_but_the_last() {
        let mut body = body(&["ab", "", "cdefg", "h"], Some(8));
        assert_eq!(body.take(3).await.unwrap(), b"abc");
        assert_eq!(body.take(3).await.unwrap(), b"def");
        assert_eq!(body.take(3).await.unwrap(), b"gh");
        assert_eq!(body.take(3).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn a_lie_about_the_length_is_an_error() {
        assert!(matches!(body(&["abc"], Some(4)).take(9).await, Err(IntakeError::TooShort { declared: 4, found: 3 })));
        assert!(matches!(body(&["abc"], Some(2)).take(9).await, Err(IntakeError::TooLong { declared: 2 })));
        let mut exact = body(&["abc"], Some(3));
        assert_eq!(exact.take(3).await.unwrap(), b"abc");
        assert_eq!(exact.take(3).await.unwrap(), b"");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_given_up() {
        let mut body = Body::new(stream::pending().boxed(), None);
        assert!(matches!(body.take(1).await, Err(IntakeError::Silence)));
    }
}
