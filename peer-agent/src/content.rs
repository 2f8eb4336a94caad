//! Content on its way, as it is handed out.

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use tokio::sync::watch;
use umbel_content::{ChunkIndex, Opener};

use crate::{
    agent::GetError,
    destination::Destination,
    download::Fetch,
    over_https::OverHttps,
    progress::{Progress, State},
    store::{Lease, Store, StoreError, Version},
};

/// Chunks that a reader reads ahead.
const READ_AHEAD: usize = 4;
/// What a streaming reader wants first, in bytes.
const STREAM_WINDOW: u64 = 32 << 20;

/// Content that can be read while it arrives. Dropping it gives it up, unless another reader wants it too.
#[derive(Debug)]
pub struct Download(Kind);

#[derive(Debug)]
enum Kind {
    Version(Box<Versioned>),
    OverHttps(Box<OverHttps>),
}

impl Download {
    pub(crate) fn version(version: Versioned) -> Self {
        Self(Kind::Version(Box::new(version)))
    }

    pub(crate) fn over_https(body: OverHttps) -> Self {
        Self(Kind::OverHttps(Box::new(body)))
    }

    /// Content-Type.
    pub fn media_type(&self) -> &str {
        match &self.0 {
            Kind::Version(version) => version.version.manifest.media_type(),
            Kind::OverHttps(body) => body.media_type(),
        }
    }

    /// Bytes of the content; none: only its end will tell.
    pub fn length(&self) -> Option<u64> {
        match &self.0 {
            Kind::Version(version) => Some(version.version.manifest.layout().length()),
            Kind::OverHttps(body) => body.length(),
        }
    }

    /// Names the version, in hex; none: it has none, and cannot be gone on with if it breaks off.
    pub fn manifest_id(&self) -> Option<String> {
        match &self.0 {
            Kind::Version(version) => Some(version.version.id.to_string()),
            Kind::OverHttps(_) => None,
        }
    }

    /// Changes a few times per second while the download runs, and when it ends.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        match &self.0 {
            Kind::Version(version) => version.progress.clone(),
            Kind::OverHttps(body) => body.progress(),
        }
    }

    /// The content, in order, as it arrives. When it ends without an error, all of it has come: of a version, it is on disk
    /// and counted.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, GetError>> + Send + 'static {
        self.into_stream_from(0)
    }

    /// The same, without the bytes of a version before `from`.
    pub(crate) fn into_stream_from(self, from: u64) -> BoxStream<'static, Result<Bytes, GetError>> {
        match self.0 {
            Kind::Version(version) => version.into_stream_from(from),
            Kind::OverHttps(body) => body.into_stream(),
        }
    }

    /// Saves the content.
    pub async fn save_to(self, destination: Destination) -> Result<(), GetError> {
        let mut saving = destination.open().await?;
        let mut content = std::pin::pin!(self.into_stream());
        while let Some(bytes) = content.next().await {
            saving.write(&bytes?).await?;
        }
        saving.finish().await
    }
}

/// A version, chunk by chunk.
#[derive(Debug)]
pub(crate) struct Versioned {
    pub(crate) store: Store,
    pub(crate) version: Arc<Version>,
    pub(crate) _lease: Lease,
    pub(crate) opener: Arc<Opener>,
    pub(crate) fetch: Option<Arc<Fetch>>,
    /// The only chunk, verified, where readers need not wait for the disk.
    pub(crate) inline: Option<Bytes>,
    pub(crate) progress: watch::Receiver<Progress>,
    pub(crate) streaming: bool,
}

impl Versioned {
    fn into_stream_from(self, from: u64) -> BoxStream<'static, Result<Bytes, GetError>> {
        let layout = self.version.manifest.layout();
        let (size, from) = (u64::from(layout.chunk_size()), from.min(layout.length()));
        let mut skip = (from % size) as usize;
        let reader = Arc::new(self);
        let last = reader.clone().kept();
        let rest = layout.indices().skip((from / size) as usize);
        futures::stream::iter(rest)
            .map(move |chunk| reader.clone().read(chunk))
            .buffered(READ_AHEAD)
            .map(move |bytes| Ok(bytes?.split_off(std::mem::take(&mut skip))))
            .chain(futures::stream::once(last).filter_map(|kept| std::future::ready(kept.err().map(Err))))
            .boxed()
    }

    /// Waits until what was handed out early is on disk.
    async fn kept(self: Arc<Self>) -> Result<(), GetError> {
        if self.inline.is_none() {
            return Ok(());
        }
        let mut progress = self.progress.clone();
        let ended = progress.wait_for(|progress| progress.state != State::Running).await;
        match ended.map(|progress| progress.state.clone()) {
            Ok(State::Failed(problem)) => Err(GetError::Failed(problem)),
            Ok(State::Complete | State::Running) => Ok(()),
            Err(_) => Err(StoreError::Closed.into()),
        }
    }

    async fn read(self: Arc<Self>, chunk: ChunkIndex) -> Result<Bytes, GetError> {
        if let Some(sealed) = &self.inline {
            return Ok(self.opener.open_in_place(chunk, sealed.to_vec())?.into());
        }
        self.announce(chunk);
        self.arrival(chunk).await?;
        let reader = self.clone();
        let plain = tokio::task::spawn_blocking(move || {
            let sealed = reader.store.read(&reader.version, chunk)?;
            Ok::<_, GetError>(reader.opener.open_in_place(chunk, sealed)?)
        });
        Ok(plain.await.map_err(|_| StoreError::Closed)??.into())
    }

    fn announce(&self, chunk: ChunkIndex) {
        if let (true, Some(fetch)) = (self.streaming, &self.fetch) {
            let ahead = STREAM_WINDOW / u64::from(self.version.manifest.layout().chunk_size());
            let ahead = u32::try_from(ahead).unwrap_or(u32::MAX).max(1);
            fetch.want(chunk.get()..chunk.get().saturating_add(ahead));
        }
    }

    /// Waits until the chunk is held or the download has failed.
    async fn arrival(&self, chunk: ChunkIndex) -> Result<(), GetError> {
        let (mut held, mut progress) = (self.version.watch_held(), self.progress.clone());
        loop {
            if held.borrow_and_update().contains(chunk) {
                return Ok(());
            }
            if let State::Failed(problem) = &progress.borrow_and_update().state {
                return Err(GetError::Failed(problem.clone()));
            }
            tokio::select! {
                Ok(()) = held.changed() => {}
                Ok(()) = progress.changed() => {}
                else => return Err(StoreError::Closed.into()),
            }
        }
    }
}
