//! A small installation in one process: a certificate authority, an origin made of `umbel_content`, and real edges.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
};
use futures::future::BoxFuture;
use http::{HeaderMap, Method, Response, StatusCode};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower::ServiceExt;
use umbel_content::{ChunkIndex, ChunkLayout, ChunkName, ContentKey, Draft, ObjectPath, SigningKey, VersionId, seal};
use umbel_edge::{AccessLogFormat, Config, Edge, Identity, Limits};
use umbel_service::{
    config::Said,
    installation::Installation,
    listen::{Limits as ListenLimits, Listener, Rules},
    tls::{self, ClientAuth, LiveCertificate, NodeRole, PeerIdentity},
    unix_now,
};
use umbel_wire::{
    control::{
        Addresses, Change, ConfigEvent, Node, Policy, PublicKey, Pull, Purge, RevokedAgent, Role, Site, Snapshot,
        config_event::Event,
    },
    origin::{
        ResolveReply, ResolveRequest,
        content_server::{Content, ContentServer},
    },
    token::{AgentId, Grant, Membership, TokenSigner},
};

pub const SITE: &str = "00000000-0000-4000-8000-000000000001";
pub const PRIVATE: &str = "00000000-0000-4000-8000-000000000002";
/// Pulled from its provider's server: for everyone, and for readers with a grant.
pub const PULLED: &str = "00000000-0000-4000-8000-000000000003";
pub const MEMBERS: &str = "00000000-0000-4000-8000-000000000004";

/// The last is found by a client that resolves names itself.
const HOSTS: [&str; 5] = ["docs.test", "private.test", "pulled.test", "members.test", "pulled.localhost"];

/// Issues certificates.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub fn issue(&self, role: NodeRole, id: &str) -> Arc<LiveCertificate> {
        let names: Vec<_> = HOSTS.into_iter().chain(["127.0.0.1"]).map(String::from).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let uri = PeerIdentity { role, node_id: id.into() }.uri();
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Arc::new(LiveCertificate::from_pem(&certificate.pem(), &key.serialize_pem()).unwrap())
    }
}

#[derive(Clone)]
struct Stored {
    reply: ResolveReply,
    version: VersionId,
    sealed: Vec<Vec<u8>>,
}

/// A provider's server, as it is reached through the origin.
type Provider = Arc<dyn Fn(Request) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// What an origin does, and how often it was asked.
#[derive(Default)]
pub struct Origin {
    provider: Mutex<Option<Provider>>,
    /// The heads of what the provider's server was asked.
    pub passed_on: Mutex<Vec<(Method, String, HeaderMap)>>,
    objects: Mutex<BTreeMap<(String, String), Stored>>,
    /// Versions that were replaced stay.
    versions: Mutex<BTreeMap<String, Stored>>,
    pub resolves: AtomicUsize,
    /// The version of the configuration that the last of them came under.
    pub resolved_under: AtomicU64,
    pub chunks: AtomicUsize,
    /// Chunks that were asked for, answered or not.
    pub asked: watch::Sender<usize>,
    /// Serves damaged chunks.
    pub corrupt: std::sync::atomic::AtomicBool,
    /// Nothing is answered while this is true.
    pub slow: watch::Sender<bool>,
}

impl Origin {
    /// From now on the provider's server answers like this.
    pub fn provide<F: Future<Output = Response<Body>> + Send + 'static>(
        &self,
        answer: impl Fn(Request) -> F + Send + Sync + 'static,
    ) {
        *self.provider.lock().unwrap() = Some(Arc::new(move |request| Box::pin(answer(request))));
    }

    /// How often the provider's server was asked for this path.
    pub fn asked(&self, path: &str) -> usize {
        self.passed_on.lock().unwrap().iter().filter(|(_, target, _)| target == path).count()
    }

    /// Puts an object with chunks of 64 KiB, whatever its size.
    pub fn put(&self, site: &str, path: &str, content: &[u8], fields: &[(&str, &str)]) -> VersionId {
        let layout = ChunkLayout::new(content.len() as u64, 64 * 1024).unwrap();
        let key = ContentKey::from_bytes(rand::random());
        let version = VersionId::from_bytes(rand::random());
        let chunk =
            |(index, plain): (usize, &[u8])| seal(&key, &version, ChunkIndex::new(index as u32), plain.to_vec());
        let sealed: Vec<Vec<u8>> = content.chunks(64 * 1024).enumerate().map(chunk).collect();
        let draft = Draft {
            site: site_name(site).parse().unwrap(),
            path: ObjectPath::from_decoded(path).unwrap(),
            version_id: version,
            media_type: "text/plain".into(),
            layout,
            names: sealed.iter().map(|sealed| ChunkName::of(sealed)).collect(),
            key_id: key.id(),
            created_ms: 1_000_000_000_000,
            fields: fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        };
        let manifest = draft.sign(&SigningKey::from_seed(&[7; 32])).unwrap();
        let content_key = key.as_bytes().to_vec().into();
        let manifest = Some(manifest.to_proto());
        let reply = ResolveReply { manifest, content_key, fresh_ms: 60_000, ..ResolveReply::default() };
        let stored = Stored { reply, version, sealed };
        self.versions.lock().unwrap().insert(version.to_string(), stored.clone());
        self.objects.lock().unwrap().insert((site.into(), path.into()), stored);
        version
    }

    pub fn remove(&self, site: &str, path: &str) {
        self.objects.lock().unwrap().remove(&(site.to_owned(), path.to_owned()));
    }

    async fn awake(&self) {
        self.slow.subscribe().wait_for(|slow| !slow).await.unwrap();
    }

    fn chunk(&self, path: &str) -> Option<Vec<u8>> {
        let mut parts = path.strip_prefix("/v1/chunks/")?.split('/').skip(1);
        let versions = self.versions.lock().unwrap();
        let stored = versions.get(parts.next()?)?;
        let mut sealed = stored.sealed.get(parts.next()?.parse::<usize>().ok()?)?.clone();
        if self.corrupt.load(Ordering::SeqCst) {
            sealed[0] ^= 1;
        }
        Some(sealed)
    }
}

fn site_name(id: &str) -> &'static str {
    match id {
        SITE => "docs",
        PRIVATE => "private",
        PULLED => "pulled",
        _ => "members",
    }
}

struct Resolver(Arc<Origin>);

#[tonic::async_trait]
impl Content for Resolver {
    async fn resolve(&self, request: tonic::Request<ResolveRequest>) -> Result<tonic::Response<ResolveReply>, Status> {
        self.0.resolves.fetch_add(1, Ordering::SeqCst);
        self.0.awake().await;
        let request = request.into_inner();
        self.0.resolved_under.store(request.configuration_version, Ordering::SeqCst);
        let stored = if request.version_id.is_empty() {
            self.0.objects.lock().unwrap().get(&(request.site_id, request.path)).cloned()
        } else {
            let id = VersionId::try_from(request.version_id.as_ref()).unwrap();
            self.0.versions.lock().unwrap().get(&id.to_string()).cloned()
        };
        let stored = stored.ok_or_else(|| Status::not_found("none"))?;
        if request.known_version_id.as_ref() == stored.version.as_bytes() {
            return Ok(tonic::Response::new(ResolveReply { unchanged: true, ..ResolveReply::default() }));
        }
        Ok(tonic::Response::new(stored.reply))
    }
}

async fn origin_answer(State(origin): State<Arc<Origin>>, request: Request) -> Response<Body> {
    if request.uri().path().starts_with("/umbel.origin.v1.") {
        let service = ContentServer::new(Resolver(origin));
        return service.oneshot(request).await.unwrap().map(Body::new);
    }
    if request.headers().contains_key("umbel-site") {
        return pulled(&origin, request).await;
    }
    origin.asked.send_modify(|asked| *asked += 1);
    origin.awake().await;
    let mut response = Response::new(Body::empty());
    match origin.chunk(request.uri().path()) {
        Some(sealed) => {
            origin.chunks.fetch_add(1, Ordering::SeqCst);
            *response.body_mut() = Body::from(sealed);
        }
        None => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    response
}

async fn pulled(origin: &Origin, request: Request) -> Response<Body> {
    let target = request.uri().path_and_query().unwrap().to_string();
    origin.passed_on.lock().unwrap().push((request.method().clone(), target, request.headers().clone()));
    let provider = origin.provider.lock().unwrap().clone().unwrap();
    provider(request).await
}

/// An installation.
pub struct Network {
    pub authority: Authority,
    pub origin: Arc<Origin>,
    pub snapshot: Mutex<Snapshot>,
    installation: watch::Sender<Arc<Installation>>,
    origin_end: CancellationToken,
    origin_task: Option<JoinHandle<()>>,
}

impl Network {
    pub async fn new() -> Self {
        tls::install_provider();
        let authority = Authority::new();
        let origin = Arc::new(Origin::default());
        let certificate = authority.issue(NodeRole::Origin, "origin");
        let tls = tls::server(certificate, ClientAuth::Required(&authority.pem)).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(address, Some(tls), ListenLimits::default()).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let origin_end = CancellationToken::new();
        let app = Router::new().fallback(origin_answer).with_state(origin.clone());
        let origin_task = Some(tokio::spawn(listener.serve(app, origin_end.clone())));
        let node = Node {
            id: "origin".into(),
            role: Role::Origin.into(),
            addresses: Some(Addresses { internal_url: url, ..Addresses::default() }),
            ..Node::default()
        };
        let membership = TokenSigner::from_seed("m", &[1; 32]);
        let key = PublicKey { id: "m".into(), key: membership.public().to_vec().into(), not_after: 0 };
        let snapshot = Snapshot {
            sites: vec![
                site(SITE, true),
                site(PRIVATE, false),
                Site { pull: Some(Pull::default()), ..site(PULLED, true) },
                Site { pull: Some(Pull::default()), ..site(MEMBERS, false) },
            ],
            nodes: vec![node],
            membership_keys: vec![key],
            ..Snapshot::default()
        };
        let network = Self {
            authority,
            origin,
            snapshot: Mutex::new(snapshot),
            installation: watch::Sender::new(Arc::default()),
            origin_end,
            origin_task,
        };
        network.publish();
        network
    }

    /// Lets everyone know what stands in the snapshot now, under the version that this returns.
    pub fn publish(&self) -> u64 {
        let mut next = Installation::clone(&self.installation.borrow());
        let (version, mut snapshot) = (next.version + 1, self.snapshot.lock().unwrap().clone());
        // As from one who has seen all.
        snapshot.purge_log = match next.snapshot().event {
            Some(Event::Snapshot(own)) => own.purge_log,
            Some(Event::Change(_)) | None => None,
        };
        next.apply(ConfigEvent { version, event: Some(Event::Snapshot(snapshot)) });
        self.installation.send_replace(Arc::new(next));
        version
    }

    /// What everyone is told.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Installation>> {
        self.installation.subscribe()
    }

    /// Purges; whoever follows has done so when this returns. The version that says so.
    pub async fn purge(&self, edges: &[&Edge], purge: Purge) -> u64 {
        let mut next = Installation::clone(&self.installation.borrow());
        let version = next.version + 1;
        let change = Change { purges: vec![purge], ..Change::default() };
        next.apply(ConfigEvent { version, event: Some(Event::Change(change)) });
        self.installation.send_replace(Arc::new(next));
        for edge in edges {
            edge.applied().wait_for(|applied| *applied >= version).await.unwrap();
        }
        version
    }

    pub fn revoke(&self, agent: AgentId) {
        self.snapshot.lock().unwrap().revoked_agents.push(RevokedAgent { agent: agent.to_vec().into() });
        self.publish();
    }

    pub async fn stop_origin(&mut self) {
        self.origin_end.cancel();
        if let Some(task) = self.origin_task.take() {
            task.abort();
            let _aborted = task.await;
        }
    }

    /// Starts an edge on `state` and adds it to the installation.
    pub async fn edge(&self, id: &str, state: &Path) -> Edge {
        self.edge_with(id, state, |_| {}).await
    }

    pub async fn edge_with(&self, id: &str, state: &Path, tune: impl FnOnce(&mut Config)) -> Edge {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let limits = Limits { disk_cache: 128 << 20, memory_cache: 32 << 20, ..Limits::default() };
        let mut config = Config {
            state: state.into(),
            join_token: None,
            public_listen: any,
            plain_listen: None,
            internal_listen: any,
            relay_listen: any,
            relay_quic_listen: any,
            ops_listen: any,
            addresses: Addresses::default(),
            access_log: None,
            access_log_format: AccessLogFormat::default(),
            limits,
            rules: Rules::default(),
            certificates: None,
            log_level: None,
            said: Said::default(),
        };
        tune(&mut config);
        let seed = seed(id);
        let identity = Identity {
            node_id: id.into(),
            ca: self.authority.pem.clone(),
            certificate: self.authority.issue(NodeRole::Edge, id),
            ticket_seed: seed,
            control: None,
            node: None,
        };
        let shutdown = CancellationToken::new();
        let edge = Edge::start(config, identity, self.installation.subscribe(), shutdown).await.unwrap();
        let ports = edge.ports();
        let node = Node {
            id: id.into(),
            role: Role::Edge.into(),
            addresses: Some(Addresses {
                public_url: format!("https://{}", ports.public),
                internal_url: format!("https://{}", ports.internal),
                relay_url: format!("https://{}", ports.relay),
                ..Addresses::default()
            }),
            ticket_key: TokenSigner::from_seed(id, &seed).public().to_vec().into(),
        };
        {
            let mut snapshot = self.snapshot.lock().unwrap();
            snapshot.nodes.retain(|known| known.id != id);
            snapshot.nodes.push(node);
        }
        self.publish();
        edge
    }

    /// An HTTP client that finds all hosts at this edge. `h2` or HTTP/1.1.
    pub fn client(&self, edge: &Edge, h2: bool) -> reqwest::Client {
        let mut tls = tls::client(&self.authority.pem, None).unwrap();
        tls.alpn_protocols = vec![if h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let mut builder = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy();
        for host in HOSTS {
            builder = builder.resolve(host, edge.ports().public);
        }
        builder.build().unwrap()
    }

    pub fn channel(&self, edge: &Edge) -> tonic::transport::Channel {
        let tls = tls::client(&self.authority.pem, None).unwrap();
        umbel_service::client::channel(&format!("https://{}", edge.ports().public), tls).unwrap()
    }
}

/// The edge's ticket key.
pub fn seed(id: &str) -> [u8; 32] {
    *blake3::hash(id.as_bytes()).as_bytes()
}

fn site(id: &str, public: bool) -> Site {
    let reader = TokenSigner::from_seed("r", &[2; 32]);
    Site {
        id: id.into(),
        name: site_name(id).into(),
        account_id: "a".into(),
        hosts: ["test", "localhost"].map(|top| format!("{}.{top}", site_name(id))).to_vec(),
        public_key: SigningKey::from_seed(&[7; 32]).verifying_key().as_bytes().to_vec().into(),
        policy: Some(Policy {
            public,
            reader_keys: vec![PublicKey { id: "r".into(), key: reader.public().to_vec().into(), not_after: 0 }],
            cache_control: "max-age=60".into(),
            lookup_ttl_ms: 60_000,
            peers: true,
            trust_domains: vec!["public".into()],
            ..Policy::default()
        }),
        ..Site::default()
    }
}

/// A grant for the private site.
pub fn grant(prefix: &str, expires: u64) -> String {
    grant_for("private", prefix, expires)
}

pub fn grant_for(site: &str, prefix: &str, expires: u64) -> String {
    sign(&Grant { site: site.into(), prefixes: vec![prefix.into()], expires, ..Grant::default() })
}

/// With the reader key of all sites.
pub fn sign(grant: &Grant) -> String {
    grant.sign(&TokenSigner::from_seed("r", &[2; 32]))
}

/// A membership for this agent, signed by the key of `seed`.
pub fn membership(agent: AgentId, expires: u64, seed: u8) -> String {
    let signer = TokenSigner::from_seed("m", &[seed; 32]);
    let (account_id, trust_domain) = ("a".into(), "public".into());
    let issued = unix_now() - 100;
    Membership { agent, account_id, trust_domain, id: "i".into(), issued, expires }.sign(&signer)
}

/// Bytes that repeat nowhere near a chunk's size.
pub fn content(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&length.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
