//! Multipart uploads: parts lie in the store, sealed under the upload's own key, until the upload is completed into a version,
//! aborted, or too old.
//!
//! | location below `uploads/<site id>/<upload>` | what |
//! |---|---|
//! | `meta` | what was said when it began, and its wrapped key |
//! | `data/<data id>` | the sealed bytes of one part |
//! | `parts/<number>-<time>-<md5>-<length>-<data id>` | empty: its name says which bytes are which part; the latest counts |

mod name;

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use md5::{Digest, Md5};
use object_store::path::Path;
use prost::Message;
use umbel_content::{ChunkLayout, ObjectPath};

pub(crate) use name::PartName;

use crate::{
    intake::{Body, Digests, IntakeError, Seal, Work},
    site::Site,
    store::{Store, StoreError, found, now_ms},
    vault::{FRAME, PartKey, Secret, TAG, random_key},
    version::{Label, Shelf, Terms, random_name},
};

/// Least bytes of a part that is not the last.
pub(crate) const MIN_PART: u64 = 5 * 1024 * 1024;
/// Most bytes of a part.
pub(crate) const MAX_PART: u64 = 5 * 1024 * 1024 * 1024;
/// Highest number of a part.
pub(crate) const MAX_PART_NUMBER: u32 = 10_000;

/// Frames of parts that are read at once.
const READS: usize = 2;

/// Metas that are read at once.
const METAS: usize = 16;

/// Why an upload does not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("no such upload")]
    NoSuchUpload,
    #[error("a part is missing or has another ETag")]
    InvalidPart,
    #[error("parts are not in ascending order")]
    Order,
    #[error("a part that is not the last is smaller than 5 MiB")]
    TooSmall,
    #[error(transparent)]
    Intake(#[from] IntakeError),
}

impl From<StoreError> for UploadError {
    fn from(error: StoreError) -> Self {
        Self::Intake(error.into())
    }
}

/// What was said when an upload began.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Meta {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    media_type: String,
    #[prost(btree_map = "string, string", tag = "3")]
    fields: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "4")]
    metadata: BTreeMap<String, String>,
    #[prost(uint64, tag = "5")]
    pub(crate) begun_ms: u64,
    #[prost(bytes = "bytes", tag = "6")]
    wrapped_key: Bytes,
}

/// An upload that is there.
pub(crate) struct Upload {
    site: Site,
    id: String,
    pub(crate) meta: Meta,
    key: Secret,
}

/// What a completed upload will be made of.
pub(crate) struct Plan {
    pub(crate) parts: Vec<PartName>,
    pub(crate) length: u64,
    pub(crate) etag: String,
}

struct Frames {
    key: PartKey,
    next: u64,
}

impl Seal for Frames {
    fn seal(&mut self, plain: Vec<u8>) -> Result<Bytes, StoreError> {
        let sealed = self.key.seal(self.next, plain)?;
        self.next += 1;
        Ok(sealed)
    }
}

pub(crate) fn folder(site: &Site) -> Path {
    format!("uploads/{}", site.id).into()
}

impl Upload {
    /// Begins one.
    pub(crate) async fn begin(store: &Store, site: &Site, label: Label) -> Result<String, StoreError> {
        let (id, key) = (random_name(), random_key());
        let meta = Meta {
            key: label.path.key().to_owned(),
            media_type: label.media_type,
            fields: label.fields,
            metadata: label.metadata,
            begun_ms: now_ms(),
            wrapped_key: site.wrap_upload(&id, &key)?.into(),
        };
        store.put(format!("{}/{id}/meta", folder(site)).into(), meta.encode_to_vec().into()).await?;
        Ok(id)
    }

    /// The upload of this id for this key.
    pub(crate) async fn find(store: &Store, site: &Site, id: &str, key: &str) -> Result<Self, UploadError> {
        let meta = meta(store, site, id).await?.filter(|meta| meta.key == key).ok_or(UploadError::NoSuchUpload)?;
        let key = site.unwrap_upload(id, &meta.wrapped_key).map_err(StoreError::from)?;
        Ok(Self { site: site.clone(), id: id.to_owned(), meta, key })
    }

    fn location(&self, below: &str) -> Path {
        format!("{}/{}/{below}", folder(&self.site), self.id).into()
    }

    /// Takes one part in; the latest of a number counts.
    pub(crate) async fn put_part(
        &self,
        shelf: &Shelf,
        number: u32,
        mut body: Body,
        mut terms: Terms,
    ) -> Result<PartName, UploadError> {
        let _turn = shelf.turn().await?;
        if body.length.is_some_and(|length| length > MAX_PART) {
            return Err(IntakeError::TooLarge.into());
        }
        let data = random_name();
        let frames = Frames { key: PartKey::new(&self.key, &data).map_err(StoreError::from)?, next: 0 };
        let work = Work { digests: Digests::new(&terms.expected), seal: frames, piece: FRAME as usize };
        let mut writer =
            shelf.store.writer(self.location(&format!("data/{data}")), body.length.unwrap_or(MAX_PART)).await?;
        let poured = async {
            let first = body.take(work.first_piece()).await?;
            let work = work.pour(&mut body, first, &mut writer).await?;
            Ok::<_, IntakeError>(work.digests.finish(&terms.settled())?)
        };
        let digested = match poured.await {
            Ok(digested) => digested,
            Err(error) => {
                writer.abort().await;
                return Err(error.into());
            }
        };
        writer.finish().await?;
        let md5 = digested.md5.unwrap_or_default();
        let name = PartName { number, at_ms: now_ms(), md5, length: body.taken(), data };
        shelf.store.put(self.location(&format!("parts/{name}")), Bytes::new()).await?;
        Ok(name)
    }

    /// The parts that count, by number.
    pub(crate) async fn parts(&self, store: &Store) -> Result<Vec<PartName>, StoreError> {
        let mut latest: BTreeMap<u32, PartName> = BTreeMap::new();
        for part in self.all_parts(store).await? {
            if latest.get(&part.number).is_none_or(|other| other.at_ms <= part.at_ms) {
                latest.insert(part.number, part);
            }
        }
        Ok(latest.into_values().collect())
    }

    async fn all_parts(&self, store: &Store) -> Result<Vec<PartName>, StoreError> {
        let listed: Vec<_> = store.list(self.location("parts")).try_collect().await?;
        Ok(listed.iter().filter_map(|meta| meta.location.filename()?.parse().ok()).collect())
    }

    /// Checks the parts that the client names, by number and ETag.
    pub(crate) async fn plan(&self, store: &Store, wanted: &[(u32, String)]) -> Result<Plan, UploadError> {
        if wanted.is_empty() || !wanted.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(UploadError::Order);
        }
        let parts = self.parts(store).await?;
        let by_number: BTreeMap<u32, &PartName> = parts.iter().map(|part| (part.number, part)).collect();
        let chosen = wanted.iter().map(|(number, etag)| {
            by_number
                .get(number)
                .filter(|part| part.etag() == *etag)
                .map(|part| (*part).clone())
                .ok_or(UploadError::InvalidPart)
        });
        let parts = chosen.collect::<Result<Vec<_>, _>>()?;
        if parts.iter().rev().skip(1).any(|part| part.length < MIN_PART) {
            return Err(UploadError::TooSmall);
        }
        let length = parts.iter().map(|part| part.length).sum();
        ChunkLayout::for_length(length).map_err(|_| IntakeError::TooLarge)?;
        Ok(Plan { etag: multipart_etag(&parts), length, parts })
    }

    /// All bytes of a plan, opened.
    pub(crate) fn body(&self, store: &Store, plan: &Plan) -> Result<Body, StoreError> {
        let mut streams = Vec::with_capacity(plan.parts.len());
        for part in &plan.parts {
            streams.push((
                PartKey::new(&self.key, &part.data)?,
                self.location(&format!("data/{}", part.data)),
                part.length,
            ));
        }
        let store = store.clone();
        let bytes =
            stream::iter(streams).flat_map(move |(key, location, length)| frames(store.clone(), key, location, length));
        Ok(Body::new(bytes.map_err(IntakeError::from).boxed(), Some(plan.length)))
    }

    /// What the object will be labelled with.
    pub(crate) fn label(&self) -> Result<Label, umbel_content::PathError> {
        Ok(Label {
            path: ObjectPath::from_key(&self.meta.key)?,
            media_type: self.meta.media_type.clone(),
            fields: self.meta.fields.clone(),
            metadata: self.meta.metadata.clone(),
        })
    }

    /// Takes all of it away. The meta goes first: without it the rest is nobody's and [`crate::sweep`] finds it.
    pub(crate) async fn remove(&self, store: &Store) -> Result<(), StoreError> {
        store.delete(&self.location("meta")).await?;
        remove_rest(store, &self.site.id, &self.id).await
    }
}

/// Takes away what is left of an upload.
pub(crate) async fn remove_rest(store: &Store, site_id: &str, upload: &str) -> Result<(), StoreError> {
    let mut left = store.list(format!("uploads/{site_id}/{upload}").into());
    while let Some(meta) = left.try_next().await? {
        store.delete(&meta.location).await?;
    }
    Ok(())
}

/// All uploads of a site that are going on, by key and id.
pub(crate) async fn going_on(store: &Store, site: &Site) -> Result<Vec<(Meta, String)>, StoreError> {
    let (ids, _) = found(store.names(&folder(site)).await)?.unwrap_or_default();
    let metas = ids
        .into_iter()
        .map(|id| async move { Ok::<_, StoreError>(meta(store, site, &id).await?.map(|meta| (meta, id))) });
    let metas: Vec<_> = stream::iter(metas).buffer_unordered(METAS).try_collect::<Vec<Option<_>>>().await?;
    let mut uploads: Vec<(Meta, String)> = metas.into_iter().flatten().collect();
    uploads.sort_by(|a, b| (&a.0.key, a.0.begun_ms, &a.1).cmp(&(&b.0.key, b.0.begun_ms, &b.1)));
    Ok(uploads)
}

async fn meta(store: &Store, site: &Site, id: &str) -> Result<Option<Meta>, StoreError> {
    if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let bytes = found(store.get(format!("{}/{id}/meta", folder(site)).into()).await)?;
    bytes.map(|bytes| Meta::decode(bytes).map_err(|_| StoreError::Damaged)).transpose()
}

fn frames(store: Store, key: PartKey, location: Path, length: u64) -> BoxStream<'static, Result<Bytes, StoreError>> {
    let key = std::sync::Arc::new(key);
    let reads = (0..length.div_ceil(FRAME)).map(move |frame| {
        let (store, key, location) = (store.clone(), key.clone(), location.clone());
        async move {
            let start = frame * (FRAME + TAG);
            let plain = FRAME.min(length - frame * FRAME);
            let sealed = store.get_range(&location, start..start + plain + TAG).await?;
            let opened = tokio::task::spawn_blocking(move || key.open(frame, sealed));
            Ok(opened.await.map_err(|_| StoreError::Interrupted)??)
        }
    });
    stream::iter(reads).buffered(READS).boxed()
}

/// The ETag of an object made of parts with these ETags; none, if one is no part's.
pub(crate) fn etag_of(wanted: &[(u32, String)]) -> Option<String> {
    let md5s = wanted.iter().map(|(_, etag)| hex::decode(etag).ok().filter(|md5| md5.len() == 16));
    Some(joined_etag(md5s.collect::<Option<Vec<_>>>()?.iter()))
}

fn multipart_etag(parts: &[PartName]) -> String {
    joined_etag(parts.iter().map(|part| &part.md5))
}

/// MD5 of the parts' MD5s, and their number: as AWS does it.
fn joined_etag(md5s: impl ExactSizeIterator<Item: AsRef<[u8]>>) -> String {
    let count = md5s.len();
    let md5 = md5s.fold(Md5::new(), |md5, part| md5.chain_update(part));
    format!("{}-{count}", hex::encode(md5.finalize()))
}
