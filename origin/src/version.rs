//! A body becomes a version: chunks into a blob, names into a manifest, the manifest signed, the key wrapped, and
//! at last, in one put, current. And back: a range of a version's plaintext.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::try_join3, stream, stream::BoxStream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use umbel_content::{
    ChunkIndex, ChunkLayout, ChunkName, ContentKey, Draft, MAX_CHUNK_SIZE, ObjectPath, Opener, Sealer, VersionId,
};

use crate::{
    intake::{Body, Digests, Expected, IntakeError, Seal, Work},
    record::{Head, Record},
    site::Site,
    store::{BlobWriter, Condition, Store, StoreError, now_ms},
};

/// Uploads that are taken in at once; each holds a few parts to the store in memory (about 50 MB at most).
const UPLOADS: usize = 48;

/// How long an upload waits for its turn before the client is told to slow down.
const TURN: Duration = Duration::from_secs(20);

/// Below this a version's mark is written beside its blob, not before it: what a crash in between leaves behind is small and rare.
const MARK_FIRST: u64 = 4 * 1024 * 1024;

/// After this an upload's first mark may be due: it is renewed.
const LONG: Duration = Duration::from_secs(60);

/// Plaintext that is read from the store in one go.
const READ: u64 = 1024 * 1024;

/// Where an object is to be, and what is to be said of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Label {
    pub(crate) path: ObjectPath,
    pub(crate) media_type: String,
    /// Response fields, names in lower case.
    pub(crate) fields: BTreeMap<String, String>,
    /// S3's user metadata.
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Takes content in and gives it out.
#[derive(Debug, Clone)]
pub(crate) struct Shelf {
    pub(crate) store: Store,
    turns: Arc<Semaphore>,
}

/// What else decides about one write.
pub(crate) struct Terms {
    pub(crate) condition: Condition,
    pub(crate) expected: Expected,
    /// Trailers of the body, once it has ended.
    pub(crate) trailers: Option<s3s::TrailingHeaders>,
    /// The ETag, where it is not the body's MD5.
    pub(crate) etag: Option<String>,
    /// See [`Head::expires_ms`].
    pub(crate) expires_ms: u64,
}

impl Terms {
    /// No checks; `etag` if it is not the MD5.
    pub(crate) fn plain(condition: Condition, etag: Option<String>) -> Self {
        Self { condition, expected: Expected::default(), trailers: None, etag, expires_ms: 0 }
    }

    /// What is expected, now that the body has ended.
    pub(crate) fn settled(&mut self) -> Expected {
        if let Some(trailers) = self.trailers.as_ref().and_then(s3s::TrailingHeaders::take) {
            self.expected.merge_trailers(&trailers);
        }
        self.expected.clone()
    }
}

struct Chunks {
    sealer: Sealer,
    names: Vec<ChunkName>,
}

impl Seal for Chunks {
    fn seal(&mut self, plain: Vec<u8>) -> Result<Bytes, StoreError> {
        let index = u32::try_from(self.names.len()).map_err(|_| StoreError::Damaged)?;
        let sealed = self.sealer.seal(ChunkIndex::new(index), plain);
        self.names.push(ChunkName::of(&sealed));
        Ok(sealed.into())
    }
}

/// A version whose chunks are sealed and on their way to the store.
struct Sealed {
    version: VersionId,
    key: ContentKey,
    layout: ChunkLayout,
    names: Vec<ChunkName>,
    etag: String,
}

impl Shelf {
    pub(crate) fn new(store: Store) -> Self {
        Self::for_at_once(store, UPLOADS)
    }

    /// One that takes in no more than so many bodies at once.
    pub(crate) fn for_at_once(store: Store, bodies: usize) -> Self {
        Self { store, turns: Arc::new(Semaphore::new(bodies)) }
    }

    /// The right to take a body in; waits for it a while.
    pub(crate) async fn turn(&self) -> Result<OwnedSemaphorePermit, IntakeError> {
        let turn = timeout(TURN, self.turns.clone().acquire_owned()).await.map_err(|_| IntakeError::Crowded)?;
        turn.map_err(|_| IntakeError::Crowded)
    }

    /// Makes `body` the current version of an object. On any error nothing has changed.
    pub(crate) async fn take_in(
        &self,
        site: &Site,
        label: Label,
        mut body: Body,
        mut terms: Terms,
    ) -> Result<Head, IntakeError> {
        let _turn = self.turn().await?;
        let started = Instant::now();
        let (layout, first) = layout(&mut body).await?;
        let (version, key) = (VersionId::from_bytes(rand::random()), ContentKey::from_bytes(rand::random()));
        let small = body.length.is_some_and(|length| length <= MARK_FIRST);
        if !small {
            self.store.mark(&site.id, &version, now_ms()).await?;
        }
        let mut writer = self.store.blob(&site.id, &version, body.length.unwrap_or(u64::MAX)).await?;
        let digests = if terms.etag.is_some() { Digests::none() } else { Digests::new(&terms.expected) };
        let chunks = Chunks { sealer: Sealer::new(&key, version), names: Vec::new() };
        let work = Work { digests, seal: chunks, piece: layout.chunk_size() as usize };
        let sealed = match work.pour(&mut body, first, &mut writer).await {
            Ok(work) => finish(work, version, key, layout, body.taken(), &mut terms),
            Err(error) => Err(error),
        };
        let record = match sealed.and_then(|sealed| record(site, label, sealed, terms.expires_ms)) {
            Ok(record) => record,
            Err(error) => {
                writer.abort().await;
                return Err(error);
            }
        };
        let mark = async {
            if small || started.elapsed() > LONG { self.store.mark(&site.id, &version, now_ms()).await } else { Ok(()) }
        };
        try_join3(
            finish_blob(writer, record.head.length),
            self.store.put_version(&site.id, &version, record.encode()),
            mark,
        )
        .await?;
        self.make_current(site, &version, record, &terms.condition).await
    }

    async fn make_current(
        &self,
        site: &Site,
        version: &VersionId,
        record: Record,
        condition: &Condition,
    ) -> Result<Head, IntakeError> {
        match self.store.publish(&site.id, &record, condition).await {
            Ok(()) => Ok(record.head),
            Err(error) => {
                // Only where it is sure that nothing points to it; otherwise its mark decides.
                if matches!(error, StoreError::Precondition | StoreError::NotFound) {
                    self.store.delete_version(&site.id, version).await?;
                }
                Err(error.into())
            }
        }
    }

    /// Plaintext bytes of a version; every piece was authenticated before it comes out.
    pub(crate) fn plaintext(
        &self,
        site: &Site,
        head: &Head,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let (version, layout) = (head.version()?, head.layout()?);
        let key = site.unwrap(&version, &head.wrapped_key)?;
        let reader = Arc::new(Reader {
            store: self.store.clone(),
            site: site.id.clone(),
            version,
            layout,
            opener: Opener::new(&key, version),
        });
        let pieces = pieces(layout, range).map(move |piece| reader.clone().read(piece));
        Ok(stream::iter(pieces).buffered(2).boxed())
    }
}

/// The whole of an empty version is its manifest: it has no blob.
async fn finish_blob(writer: BlobWriter, length: u64) -> Result<(), StoreError> {
    if length == 0 { Ok(()) } else { writer.finish().await }
}

/// How the body is to be cut, and its first piece. A body of unknown length is cut as the largest are, unless it ends with
/// its first piece.
async fn layout(body: &mut Body) -> Result<(ChunkLayout, Vec<u8>), IntakeError> {
    if let Some(length) = body.length {
        let layout = ChunkLayout::for_length(length).map_err(|_| IntakeError::TooLarge)?;
        let first = body.take((layout.chunk_size() as usize).max(READ as usize)).await?;
        return Ok((layout, first));
    }
    let first = body.take(MAX_CHUNK_SIZE as usize).await?;
    if first.len() < MAX_CHUNK_SIZE as usize {
        let length = first.len() as u64;
        body.length = Some(length);
        return Ok((ChunkLayout::for_length(length).map_err(|_| IntakeError::TooLarge)?, first));
    }
    Ok((ChunkLayout::new(0, MAX_CHUNK_SIZE).map_err(|_| IntakeError::TooLarge)?, first))
}

fn finish(
    work: Work<Chunks>,
    version: VersionId,
    key: ContentKey,
    layout: ChunkLayout,
    length: u64,
    terms: &mut Terms,
) -> Result<Sealed, IntakeError> {
    let expected = terms.settled();
    let etag = match &terms.etag {
        Some(etag) => etag.clone(),
        None => hex::encode(work.digests.finish(&expected)?.md5.unwrap_or_default()),
    };
    let layout = ChunkLayout::new(length, layout.chunk_size()).map_err(|_| IntakeError::TooLarge)?;
    Ok(Sealed { version, key, layout, names: work.seal.names, etag })
}

fn record(site: &Site, label: Label, sealed: Sealed, expires_ms: u64) -> Result<Record, IntakeError> {
    let modified_ms = now_ms();
    let head = Head {
        version_id: sealed.version.as_bytes().to_vec().into(),
        wrapped_key: site.wrap(&sealed.version, &sealed.key).map_err(StoreError::from)?.into(),
        key: label.path.key().to_owned(),
        etag: sealed.etag,
        length: sealed.layout.length(),
        chunk_size: sealed.layout.chunk_size(),
        modified_ms,
        media_type: label.media_type.clone(),
        fields: label.fields.clone(),
        metadata: label.metadata,
        expires_ms,
    };
    let draft = Draft {
        site: site.name.clone(),
        path: label.path,
        version_id: sealed.version,
        media_type: label.media_type,
        layout: sealed.layout,
        names: sealed.names,
        key_id: sealed.key.id(),
        created_ms: modified_ms,
        fields: label.fields.into_iter().collect(),
    };
    Ok(Record { head, manifest: draft.sign(&site.signing_key)? })
}

struct Reader {
    store: Store,
    site: Arc<str>,
    version: VersionId,
    layout: ChunkLayout,
    opener: Opener,
}

/// Whole chunks that are read together, and which part of their plaintext is wanted.
struct Piece {
    chunks: Range<u32>,
    skip: usize,
    length: usize,
}

/// Cuts a range into reads of about [`READ`] bytes.
fn pieces(layout: ChunkLayout, range: Range<u64>) -> impl Iterator<Item = Piece> {
    let step = READ.max(layout.chunk_size().into());
    let range = range.start..range.end.min(layout.length());
    let starts = (range.start / step..range.end.div_ceil(step)).take_while({
        let range = range.clone();
        move |_| !range.is_empty()
    });
    starts.map(move |index| {
        let (first, last) = (range.start.max(index * step), range.end.min((index + 1) * step));
        let size = u64::from(layout.chunk_size());
        let chunks =
            u32::try_from(first / size).unwrap_or(u32::MAX)..u32::try_from(last.div_ceil(size)).unwrap_or(u32::MAX);
        let skip = first - u64::from(chunks.start) * size;
        // Both are no more than a step.
        Piece { chunks, skip: skip as usize, length: (last - first) as usize }
    })
}

impl Reader {
    async fn read(self: Arc<Self>, piece: Piece) -> Result<Bytes, StoreError> {
        let range = |chunk| self.layout.sealed_range(ChunkIndex::new(chunk)).ok_or(StoreError::Damaged);
        let (first, last) = (range(piece.chunks.start)?, range(piece.chunks.end - 1)?);
        let sealed = self.store.blob_range(&self.site, &self.version, first.start..last.end).await?;
        let opened = tokio::task::spawn_blocking(move || self.open(&piece, &sealed));
        opened.await.map_err(|_| StoreError::Interrupted)?
    }

    fn open(&self, piece: &Piece, sealed: &Bytes) -> Result<Bytes, StoreError> {
        let size = self.layout.sealed_len(ChunkIndex::new(0)).ok_or(StoreError::Damaged)? as usize;
        let mut plain = Vec::with_capacity(sealed.len());
        for (index, chunk) in piece.chunks.clone().zip(sealed.chunks(size)) {
            plain.extend_from_slice(&self.opener.open(ChunkIndex::new(index), chunk)?);
        }
        let wanted = piece.skip..piece.skip + piece.length;
        if plain.len() < wanted.end { Err(StoreError::Damaged) } else { Ok(Bytes::from(plain).slice(wanted)) }
    }
}

/// A version's plaintext as a body that is taken in again.
pub(crate) fn body_of(plaintext: BoxStream<'static, Result<Bytes, StoreError>>, length: u64) -> Body {
    Body::new(plaintext.map_err(IntakeError::from).boxed(), Some(length))
}

/// A fresh random name in the store.
pub(crate) fn random_name() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}
