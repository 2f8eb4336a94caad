//! Bodies that are kept in another place as well: what is evicted here is read from there.

use std::{fmt::Debug, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::body::{Body, BodyError, Reader};

/// Where else the whole of a body is.
pub trait Elsewhere: Debug + Send + Sync {
    /// What it is known by there.
    fn name(&self) -> &str;

    /// Some bytes from `offset` on; none if they cannot be had.
    fn read(&self, offset: u64) -> BoxFuture<'static, Option<Bytes>>;
}

/// Whether a body is elsewhere.
#[derive(Debug, Clone, Default)]
pub(crate) enum Kept {
    /// Nobody does anything about it.
    #[default]
    No,
    /// It is on its way.
    Soon,
    /// It is.
    There(Arc<dyn Elsewhere>),
}

impl Kept {
    pub(crate) fn there(&self) -> Option<Arc<dyn Elsewhere>> {
        match self {
            Self::There(place) => Some(place.clone()),
            Self::No | Self::Soon => None,
        }
    }
}

/// Takes a body to another place while it comes in. Dropped, it has not got there.
///
/// It reads behind those whom the body is for: it never holds them up, and sets the pace only while nobody else reads.
#[derive(Debug)]
pub struct Keeping {
    body: Arc<Body>,
    reader: Reader,
}

impl Keeping {
    pub(crate) fn new(body: Arc<Body>) -> Self {
        body.kept().send_replace(Kept::Soon);
        Self { reader: Reader::behind(body.clone()), body }
    }

    /// The next bytes; none at the end. Waits for what has not come yet.
    ///
    /// # Errors
    /// It did not come to its end, or what was not read in time is gone.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        self.reader.next(u64::MAX).await
    }

    /// All of it is there now.
    pub fn done(self, place: Arc<dyn Elsewhere>) {
        self.body.kept().send_replace(Kept::There(place));
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.body.kept().send_if_modified(|kept| {
            let failed = matches!(kept, Kept::Soon);
            if failed {
                *kept = Kept::No;
            }
            failed
        });
    }
}
