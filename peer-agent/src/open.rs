//! May I read this, and what is it? Every answer is checked here before anything is done with it.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use umbel_content::{
    ChunkError, ChunkIndex, ContentKey, Manifest, ManifestError, ObjectPath, Opener, PathError, SignedManifest,
    VerifyingKey,
};
use umbel_wire::{
    agent::{OpenReply, OpenRequest},
    carrier,
    token::{Ticket, TokenError},
};
use url::{Position, Url};

use crate::{
    edge::{Edge, EdgeError},
    edges::Edges,
    fleet,
    store::TicketText,
};

/// Longest URL that is looked at, in bytes.
const MAX_URL: usize = 16 * 1024;

/// How long the edges are given to tell of one whose ticket we cannot check.
const FLEET_PATIENCE: Duration = Duration::from_secs(5);

/// Why a URL cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not an https URL with a host.
    #[error("not an https URL: {0}")]
    Url(String),
    /// The path of the URL.
    #[error(transparent)]
    Path(#[from] PathError),
    /// An edge said no, or none could be reached.
    #[error(transparent)]
    Edge(#[from] EdgeError),
    /// The manifest does not hold.
    #[error("the edge sent a manifest that does not hold")]
    Manifest(#[source] ManifestError),
    /// The ticket does not hold.
    #[error("the edge sent a ticket that does not hold")]
    Ticket(#[source] TokenError),
    /// The chunk inside the answer.
    #[error("the edge sent a chunk that does not hold")]
    Chunk(#[source] ChunkError),
    /// Something else in the answer.
    #[error("the edge sent an answer that makes no sense: {0}")]
    Answer(&'static str),
}

impl OpenError {
    /// Whether it may be otherwise later, or at another edge.
    pub(crate) fn may_heal(&self) -> bool {
        match self {
            Self::Edge(error) => error.elsewhere(),
            Self::Ticket(error) => is_unknown(error),
            Self::Answer(_) => true,
            Self::Url(_) | Self::Path(_) | Self::Manifest(_) | Self::Chunk(_) => false,
        }
    }
}

/// The ticket of an edge that we have not heard of yet, or that has a new key.
fn is_unknown(error: &TokenError) -> bool {
    matches!(error, TokenError::UnknownKey | TokenError::Signature)
}

/// What to open.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) url: Url,
    host: String,
    path: ObjectPath,
    grant: Option<String>,
}

impl Target {
    pub(crate) fn new(url: &str, grant: Option<String>) -> Result<Self, OpenError> {
        let not_https = || OpenError::Url(url.chars().take(200).collect());
        if url.len() > MAX_URL {
            return Err(PathError::TooLong.into());
        }
        // The raw path: a URL parser would resolve `..` before anyone could refuse it.
        let rest = url.strip_prefix("https://").ok_or_else(not_https)?;
        let raw = rest.find('/').map_or("/", |slash| &rest[slash..]);
        let raw = raw.split(['?', '#']).next().unwrap_or(raw);
        let path = ObjectPath::from_uri(raw)?;
        let url = Url::parse(url).map_err(|_| not_https())?;
        let host = url.host_str().ok_or_else(not_https)?.to_owned();
        let grant = grant.or_else(|| granted(&url));
        Ok(Self { url, host, path, grant })
    }

    /// Whether an object of this path is what was asked for: a folder's is its index, and what is pulled has its query.
    fn names(&self, path: &ObjectPath) -> bool {
        let is_folder = self.path.as_str().ends_with('/');
        let rest = path.as_str().strip_prefix(self.path.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('?') || (is_folder && !rest.contains('/')))
    }

    /// As it was given, or the one in the URL.
    pub(crate) fn grant(&self) -> Option<&str> {
        self.grant.as_deref()
    }

    /// Whether the URL has the grant in it.
    pub(crate) fn grant_in_query(&self) -> bool {
        self.grant.is_some() && self.grant == granted(&self.url)
    }

    /// Host, and port where one is named: what goes into `Host`.
    pub(crate) fn authority(&self) -> &str {
        &self.url[Position::BeforeHost..Position::AfterPort]
    }

    /// As it stands in the URL.
    pub(crate) fn path_and_query(&self) -> String {
        self.url[Position::BeforePath..Position::AfterQuery].to_owned()
    }

    pub(crate) fn path(&self) -> &str {
        self.path.as_str()
    }
}

/// The grant of a signed URL.
fn granted(url: &Url) -> Option<String> {
    url.query_pairs().find(|(name, _)| name == carrier::NAME).map(|(_, grant)| grant.into_owned())
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("host", &self.host).field("path", &self.path).finish_non_exhaustive()
    }
}

/// A version that this agent may read. The key inside lives in memory only.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub(crate) edge: Edge,
    pub(crate) signed: SignedManifest,
    pub(crate) manifest: Manifest,
    pub(crate) site_key: [u8; 32],
    pub(crate) site_id: String,
    pub(crate) home_edge: String,
    pub(crate) opener: Arc<Opener>,
    pub(crate) ticket: Arc<TicketText>,
    /// Verified; empty if there is none.
    pub(crate) inline: Bytes,
}

/// Asks where the URL leads, then the other edges. `avoid`: an edge that just failed. It is asked last, and not left out: it may
/// only have forgotten this agent (a restart, a new session), and there may be no other.
pub(crate) async fn open(
    edges: &Edges,
    agent: &[u8; 32],
    target: &Target,
    pinned: Option<&Manifest>,
    want_inline: bool,
    avoid: Option<&str>,
) -> Result<Opened, OpenError> {
    let request = OpenRequest {
        host: target.host.clone(),
        path: target.path.to_string(),
        grant: target.grant.clone().unwrap_or_default(),
        query: target.url.query().unwrap_or_default().to_owned(),
        version_id: pinned.map_or_else(Bytes::new, |manifest| Bytes::copy_from_slice(manifest.version_id().as_bytes())),
        want_inline,
    };
    let (mut last, mut unknown) = (None, None);
    let mut candidates = edges.candidates(&target.url);
    candidates.sort_by_key(|url| Some(url.as_str()) == avoid);
    for url in candidates {
        let edge = edges.at(&url)?;
        match edge.open(request.clone()).await {
            Ok(reply) => match check(&edges.fleet(), agent, &edge, target, reply.clone()) {
                Err(OpenError::Ticket(error)) if is_unknown(&error) => unknown = unknown.or(Some((edge, reply))),
                checked => return checked,
            },
            Err(error) if error.elsewhere() => last = last.or(Some(error)),
            Err(error) => return Err(error.into()),
        }
    }
    if let Some((edge, reply)) = unknown {
        let fleet = introduced(edges, &reply.edge_ticket).await;
        return check(&fleet, agent, &edge, target, reply);
    }
    Err(last.map_or(OpenError::Answer("no edge is known"), OpenError::Edge))
}

/// The fleet, as soon as it has the key of the ticket; as it is, if nobody tells in time.
async fn introduced(edges: &Edges, ticket: &str) -> Arc<fleet::Edges> {
    let mut fleet = edges.watch_fleet();
    let knows = |fleet: &Arc<fleet::Edges>| {
        let checked = Ticket::verify_signature(ticket, &fleet.ticket_keys);
        !checked.is_err_and(|error| is_unknown(&error))
    };
    let _in_time = tokio::time::timeout(FLEET_PATIENCE, fleet.wait_for(knows)).await;
    edges.fleet()
}

fn check(
    fleet: &fleet::Edges,
    agent: &[u8; 32],
    edge: &Edge,
    target: &Target,
    reply: OpenReply,
) -> Result<Opened, OpenError> {
    let site_key: [u8; 32] = reply.site_key.as_ref().try_into().map_err(|_| OpenError::Answer("site key"))?;
    let signed = reply.manifest.ok_or(OpenError::Answer("no manifest"))?;
    let signed = SignedManifest::from_proto(signed).map_err(OpenError::Manifest)?;
    let manifest = signed.verify(&VerifyingKey::from_bytes(site_key)).map_err(OpenError::Manifest)?;
    if !target.names(manifest.path()) {
        return Err(OpenError::Answer("another object"));
    }
    let key: [u8; 32] = reply.content_key.as_ref().try_into().map_err(|_| OpenError::Answer("content key"))?;
    let key = ContentKey::from_bytes(key);
    if key.id() != manifest.key_id() {
        return Err(OpenError::Answer("content key of another version"));
    }
    let ticket = Ticket::verify_signature(&reply.edge_ticket, &fleet.ticket_keys).map_err(OpenError::Ticket)?;
    ticket.allows(agent, None).map_err(OpenError::Ticket)?;
    if ticket.manifest != manifest.id() {
        return Err(OpenError::Ticket(TokenError::Binding));
    }
    if !reply.inline_chunk.is_empty() {
        manifest.verify_chunk(ChunkIndex::new(0), &reply.inline_chunk).map_err(OpenError::Chunk)?;
    }
    Ok(Opened {
        edge: edge.clone(),
        opener: Arc::new(Opener::new(&key, manifest.version_id())),
        signed,
        manifest,
        site_key,
        site_id: reply.site_id,
        home_edge: reply.home_edge,
        ticket: Arc::new(TicketText { id: ticket.id, text: reply.edge_ticket, expires: ticket.expires, sender: None }),
        inline: reply.inline_chunk,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, expected: Result<&str, &str>) {
        let target = Target::new(url, None).map(|target| target.path.to_string());
        assert_eq!(
            target.map_err(|error| error.to_string()),
            expected.map(str::to_owned).map_err(str::to_owned),
            "{url:.60}"
        );
    }

    #[test]
    fn urls() {
        check("https://s.test/a%20b/%C3%BC?q#f", Ok("/a b/\u{fc}"));
        check("https://s.test", Ok("/"));
        check("http://s.test/a", Err("not an https URL: http://s.test/a"));
        check("s.test/a", Err("not an https URL: s.test/a"));
        check("https:///a", Ok("/a"));
        check("https://s.test/a/../b", Err("path has a segment . or .."));
        check("https://s.test/a/%2e%2e/b", Err("path has a segment . or .."));
        check("https://s.test/a%2fb", Err("path has an encoded slash"));
        check("https://s.test/a%00b", Err("path has a control character"));
        check(&format!("https://s.test/{}", "a".repeat(100_000)), Err("path is too long"));
    }
}
