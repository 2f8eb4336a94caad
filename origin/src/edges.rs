//! What edges ask: which version is current, and chunks as they lie in the store. Only certificates of edges get in.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use moka::future::Cache;
use tokio::sync::{Semaphore, watch};
use tonic::Status;
use tracing::warn;
use umbel_content::{ChunkIndex, ChunkLayout, ObjectPath, VersionId};
use umbel_service::{
    installation::Installation,
    listen::App,
    tls::{NodeRole, PeerIdentity},
};
use umbel_wire::{
    MAX_MANIFEST_MESSAGE,
    origin::{ResolveReply, ResolveRequest, content_server},
};

use crate::{
    meter::{Meter, Operation, Outcome},
    pull::{self, Current, NoVersion, Pull},
    record::Record,
    site::Site,
    store::{Store, StoreError, found},
};

/// Versions whose layout is kept in memory; a layout never changes.
const LAYOUTS: u64 = 100_000;
const LAYOUT_LIFE: Duration = Duration::from_secs(3600);

/// Chunks that are read from the store at once.
const READS: usize = 64;

/// The origin as edges see it.
#[derive(Debug, Clone)]
pub(crate) struct Edges {
    store: Store,
    pull: Pull,
    installation: watch::Receiver<Arc<Installation>>,
    meter: Meter,
    layouts: Cache<(String, VersionId), ChunkLayout>,
    reads: Arc<Semaphore>,
}

impl Edges {
    pub(crate) fn new(
        store: Store,
        pull: Pull,
        installation: watch::Receiver<Arc<Installation>>,
        meter: Meter,
    ) -> Self {
        let layouts = Cache::builder().max_capacity(LAYOUTS).time_to_idle(LAYOUT_LIFE).build();
        Self { store, pull, installation, meter, layouts, reads: Arc::new(Semaphore::new(READS)) }
    }

    /// All of it, for the listener that asks for certificates.
    pub(crate) fn door(self) -> EdgesDoor {
        let grpc = content_server::ContentServer::new(self.clone()).max_encoding_message_size(MAX_MANIFEST_MESSAGE);
        let (pull, installation) = (self.pull.clone(), self.installation.clone());
        let router = Router::new()
            .route("/v1/chunks/{site}/{version}/{index}", get(chunk))
            .with_state(self)
            .merge(tonic::service::Routes::new(grpc).into_axum_router());
        EdgesDoor(Arc::new(Door { router, pull, installation }))
    }

    fn site(&self, id: &str) -> Option<Site> {
        Site::by_id(&self.installation.borrow(), id)
    }

    async fn resolved(&self, request: ResolveRequest) -> Result<ResolveReply, Status> {
        let site = self.site(&request.site_id).ok_or_else(|| Status::not_found("no such site"))?;
        let path =
            ObjectPath::from_decoded(&request.path).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if request.version_id.is_empty() && self.pull.knows(&request.site_id) {
            return self.pulled(&site, &path, &request).await;
        }
        if request.version_id.is_empty() {
            return self.current(&site, path.key(), &request.known_version_id).await;
        }
        let version = VersionId::try_from(request.version_id.as_ref())
            .map_err(|_| Status::invalid_argument("not a version id"))?;
        let record = self.store.version(&site.id, &version).await.map_err(status)?;
        if record.head.key == path.key() {
            reply(&site, record)
        } else {
            Err(Status::not_found("not a version of this object"))
        }
    }

    /// Of a site that is pulled, an object is what the provider's server has.
    async fn pulled(&self, site: &Site, path: &ObjectPath, asked: &ResolveRequest) -> Result<ResolveReply, Status> {
        let current = self.pull.current(&site.id, path, asked.configuration_version).await;
        let Current { version, fresh } = current.map_err(no_version)?;
        let fresh_ms = u64::try_from(fresh.as_millis()).unwrap_or(u64::MAX);
        match found(self.store.version(&site.id, &version).await).map_err(status)? {
            Some(_) if version.as_bytes().as_slice() == asked.known_version_id.as_ref() => {
                Ok(ResolveReply { unchanged: true, fresh_ms, ..ResolveReply::default() })
            }
            Some(record) => Ok(ResolveReply { fresh_ms, ..reply(site, record)? }),
            // It was swept: it had expired long ago, and was confirmed since. What the next reader gets is sealed anew.
            None => {
                self.pull.forget(&site.id, path);
                Err(no_version(NoVersion::Unshared))
            }
        }
    }

    async fn current(&self, site: &Site, key: &str, known: &Bytes) -> Result<ResolveReply, Status> {
        if !known.is_empty() {
            let head = self.store.head(&site.id, key).await.map_err(status)?;
            if head.version_id == *known {
                return Ok(ResolveReply { unchanged: true, ..ResolveReply::default() });
            }
        }
        reply(site, self.store.current(&site.id, key).await.map_err(status)?)
    }

    async fn chunk(&self, site: String, version: VersionId, index: ChunkIndex) -> Result<Option<Bytes>, StoreError> {
        // A slow store makes others wait here, not in memory.
        let _turn = self.reads.acquire().await.map_err(|_| StoreError::Interrupted)?;
        let Some(layout) = self.layout(&site, version).await? else { return Ok(None) };
        let Some(range) = layout.sealed_range(index) else { return Ok(None) };
        found(self.store.blob_range(&site, &version, range).await)
    }

    async fn layout(&self, site: &str, version: VersionId) -> Result<Option<ChunkLayout>, StoreError> {
        let name = (site.to_owned(), version);
        if let Some(layout) = self.layouts.get(&name).await {
            return Ok(Some(layout));
        }
        let Some(head) = found(self.store.version_head(site, &version).await)? else { return Ok(None) };
        let layout = head.layout()?;
        self.layouts.insert(name, layout).await;
        Ok(Some(layout))
    }
}

fn no_version(error: NoVersion) -> Status {
    match error {
        NoVersion::Absent => Status::not_found(error.to_string()),
        NoVersion::Unshared => Status::failed_precondition(error.to_string()),
    }
}

fn reply(site: &Site, record: Record) -> Result<ResolveReply, Status> {
    let version = record.head.version().map_err(|error| Status::data_loss(error.to_string()))?;
    let key = site.unwrap(&version, &record.head.wrapped_key).map_err(|error| Status::data_loss(error.to_string()))?;
    Ok(ResolveReply {
        unchanged: false,
        fresh_ms: 0,
        manifest: Some(record.manifest.to_proto()),
        content_key: key.as_bytes().to_vec().into(),
    })
}

fn status(error: StoreError) -> Status {
    match error {
        StoreError::NotFound => Status::not_found("no such object"),
        StoreError::Damaged => Status::data_loss("what the store returned is damaged"),
        StoreError::Precondition
        | StoreError::Busy
        | StoreError::Full(_)
        | StoreError::KeyTooLong
        | StoreError::Unavailable(_)
        | StoreError::Io(_)
        | StoreError::Interrupted => {
            warn!(error = &error as &dyn std::error::Error, "the store failed an edge");
            Status::unavailable("the store cannot be used")
        }
    }
}

fn outcome(code: tonic::Code) -> Outcome {
    if matches!(code, tonic::Code::NotFound | tonic::Code::InvalidArgument | tonic::Code::FailedPrecondition) {
        Outcome::Refused
    } else {
        Outcome::Failed
    }
}

#[tonic::async_trait]
impl content_server::Content for Edges {
    async fn resolve(&self, request: tonic::Request<ResolveRequest>) -> Result<tonic::Response<ResolveReply>, Status> {
        let result = self.resolved(request.into_inner()).await;
        self.meter
            .count(Operation::Resolve, result.as_ref().map_or_else(|status| outcome(status.code()), |_| Outcome::Done));
        result.map(tonic::Response::new)
    }
}

async fn chunk(State(edges): State<Edges>, Path((site, version, index)): Path<(String, String, u32)>) -> Response {
    let Some((site, version)) = edges.site(&site).map(|site| site.id.to_string()).zip(version.parse().ok()) else {
        edges.meter.count(Operation::Chunk, Outcome::Refused);
        return StatusCode::NOT_FOUND.into_response();
    };
    match edges.chunk(site, version, ChunkIndex::new(index)).await {
        Ok(Some(bytes)) => {
            edges.meter.count(Operation::Chunk, Outcome::Done);
            edges.meter.served.inc_by(bytes.len() as u64);
            ([(header::CONTENT_TYPE, "application/octet-stream")], Body::from(bytes)).into_response()
        }
        Ok(None) => {
            edges.meter.count(Operation::Chunk, Outcome::Refused);
            StatusCode::NOT_FOUND.into_response()
        }
        Err(error) => {
            edges.meter.count(Operation::Chunk, Outcome::Failed);
            warn!(error = &error as &dyn std::error::Error, "a chunk cannot be read");
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    }
}

/// Lets edges in. Requests for sites that are pulled have the paths that readers asked for, which may be any, and no use for a
/// router, which costs as much as all else that is done for a short answer.
#[derive(Debug, Clone)]
pub(crate) struct EdgesDoor(Arc<Door>);

#[derive(Debug)]
struct Door {
    router: Router,
    pull: Pull,
    installation: watch::Receiver<Arc<Installation>>,
}

impl App for EdgesDoor {
    async fn answer(&self, request: Request) -> Response {
        let Door { router, pull, .. } = &*self.0;
        if let Some(refusal) = self.0.refusal(&request) {
            refusal
        } else if request.headers().contains_key(pull::SITE_HEADER) {
            pull.answer(request).await
        } else {
            App::answer(router, request).await
        }
    }
}

impl Door {
    /// A node that was removed keeps its certificate until it expires, so the installation has the last word.
    fn refusal(&self, request: &Request) -> Option<Response> {
        let identity = request.extensions().get::<PeerIdentity>();
        let known = |id: &str| self.installation.borrow().nodes.contains_key(id);
        if identity.is_some_and(|identity| identity.role == NodeRole::Edge && known(&identity.node_id)) {
            return None;
        }
        warn!(?identity, "refused: only edges may ask an origin for content");
        let kind = request.headers().get(header::CONTENT_TYPE);
        Some(if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
            Status::permission_denied("only edges may ask an origin for content").into_http()
        } else {
            StatusCode::FORBIDDEN.into_response()
        })
    }
}
