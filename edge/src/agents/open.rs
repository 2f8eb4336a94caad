//! Open: may this agent read this object, what is it, and where do its peers meet?

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use rand::Rng;
use tonic::Status;
use umbel_content::{ChunkIndex, ObjectPath, PathError, VersionId, host_name};
use umbel_service::unix_now;
use umbel_wire::{
    agent::{OpenReply, OpenRequest},
    control::Site,
    rendezvous,
    token::{Access, Ticket},
};

use super::session::Session;
use crate::{
    access::{self, NoAccess},
    core::Core,
    fill::{FillError, Reach, Wanted},
    lookup::{LookupError, Version},
    route,
    view::View,
};

/// Seconds that a ticket is good for.
pub(crate) const TICKET_LIFE: u64 = 24 * 3600;

/// Smaller objects come from the edge faster than peers could be introduced.
const WORTH_SHARING: u64 = 1024 * 1024;

/// What a ticket allows beyond twice the object's length, in bytes: chunks that had to be fetched again.
pub(crate) const SLACK: u64 = 1024 * 1024;

/// Only chunk of a small object.
const MAX_INLINE: usize = 1024 * 1024;

/// Answers an Open that came from `remote`.
pub(super) async fn open(
    core: &Arc<Core>,
    session: &Session,
    remote: SocketAddr,
    request: OpenRequest,
) -> Result<OpenReply, Status> {
    let view = core.view.load_full();
    let host = host_name(&request.host).ok_or_else(|| Status::invalid_argument("not a host name"))?;
    let site = view.installation.site_by_host(&host);
    let site = site.ok_or_else(|| Status::not_found("there is no site on this host"))?;
    let path = ObjectPath::from_decoded(&request.path).map_err(refused_path)?;
    let grant = Some(request.grant.as_str()).filter(|grant| !grant.is_empty());
    let access = Access { site: &site.name, path: path.as_str(), method: "GET", client: remote.ip(), now: unix_now() };
    access::check(core, &view, site, &access, grant.into_iter()).map_err(no_access)?;
    let path = match site.pull {
        Some(_) => with_query(path, &request.query).map_err(refused_path)?,
        None => route::object(path).map_err(refused_path)?,
    };
    let version = find(core, site, &path, &request.version_id).await?;
    let inline_chunk = if request.want_inline { inline(core, &version).await } else { Bytes::new() };
    session.opened(version.clone());
    Ok(reply(core, &view, session, site, &version, inline_chunk))
}

/// The object that a URL of a pulled site means. A path with a question mark of its own has no name there.
fn with_query(path: ObjectPath, query: &str) -> Result<ObjectPath, PathError> {
    if path.as_str().contains('?') {
        return Err(PathError::Encoding);
    }
    match access::without_grant(query).as_str() {
        "" => Ok(path),
        query => ObjectPath::from_decoded(&format!("{path}?{query}")),
    }
}

fn refused_path(error: PathError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn no_access(refusal: NoAccess) -> Status {
    match refusal {
        NoAccess::Missing => Status::unauthenticated(refusal.to_string()),
        NoAccess::Refused(_) => Status::permission_denied(refusal.to_string()),
    }
}

async fn find(core: &Arc<Core>, site: &Site, path: &ObjectPath, id: &[u8]) -> Result<Arc<Version>, Status> {
    let found = if id.is_empty() {
        core.lookup.current(site, path).await
    } else {
        let id = VersionId::try_from(id).map_err(|error| Status::invalid_argument(format!("version id: {error}")))?;
        core.lookup.version(site, path, id).await
    };
    found.map_err(|error| match error {
        LookupError::Absent => Status::not_found(error.to_string()),
        LookupError::Unshared => Status::failed_precondition(error.to_string()),
        LookupError::Unavailable | LookupError::Invalid(_) => Status::unavailable(error.to_string()),
    })
}

/// The chunk of an object that has only one. Without it the agent asks for it as for any other.
async fn inline(core: &Arc<Core>, version: &Version) -> Bytes {
    if version.manifest.layout().chunks() != 1 {
        return Bytes::new();
    }
    let chunk = async { core.fill.chunk(Wanted::of(version, ChunkIndex::new(0))?, Reach::Fleet).await };
    let sealed = chunk.await.map_or_else(|_: FillError| Bytes::new(), |(sealed, _)| sealed);
    if sealed.len() > MAX_INLINE {
        return Bytes::new();
    }
    core.metrics.sent(version.manifest.layout().length(), sealed.len());
    core.pace(sealed.len()).await;
    sealed
}

fn reply(
    core: &Core,
    view: &View,
    session: &Session,
    site: &Site,
    version: &Version,
    inline_chunk: Bytes,
) -> OpenReply {
    OpenReply {
        manifest: Some(version.signed.to_proto()),
        site_key: site.public_key.clone(),
        site_id: site.id.clone(),
        content_key: version.key.as_bytes().to_vec().into(),
        edge_ticket: ticket(core, session, version).sign(&core.signer),
        home_edge: home_edge(view, session, site, version),
        inline_chunk,
    }
}

fn ticket(core: &Core, session: &Session, version: &Version) -> Ticket {
    let now = unix_now();
    Ticket {
        id: new_ticket_id(),
        issuer: core.node_id.clone(),
        receiver: session.agent,
        sender: None,
        site_id: version.site_id.clone(),
        path: version.manifest.path().as_str().to_owned(),
        manifest: version.manifest.id(),
        max_bytes: version.manifest.layout().length().saturating_mul(2).saturating_add(SLACK),
        issued: now,
        expires: now + TICKET_LIFE,
    }
}

/// Random.
pub(crate) fn new_ticket_id() -> [u8; 16] {
    let mut id = [0; 16];
    rand::rng().fill_bytes(&mut id);
    id
}

/// Where peers of the site meet; empty where they do not.
fn home_edge(view: &View, session: &Session, site: &Site, version: &Version) -> String {
    if !may_share(site, &session.trust_domain) || version.manifest.layout().length() < WORTH_SHARING {
        return String::new();
    }
    let edges = view.fleet.edges.iter().map(|edge| edge.id.as_str());
    rendezvous::order(site.id.as_bytes(), edges).first().map_or_else(String::new, |id| (*id).to_owned())
}

/// Whether agents of this trust domain may exchange the site's chunks.
pub(crate) fn may_share(site: &Site, trust_domain: &str) -> bool {
    let policy = site.policy.as_ref();
    policy.is_some_and(|policy| policy.peers && policy.trust_domains.iter().any(|domain| domain == trust_domain))
}
