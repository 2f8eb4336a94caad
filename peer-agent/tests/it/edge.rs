//! A small edge, built from the wire protocol alone: sessions, Open, chunks, receipts, and a petal that splits chunks evenly.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use axum::{
    Router,
    extract::{Path as PathPart, State},
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
    routing::get,
};
use bytes::Bytes;
use futures::Stream;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use umbel_content::{
    ChunkIndex, ChunkLayout, ChunkName, ContentKey, Draft, Manifest, ManifestId, ObjectPath, Sealer, SignedManifest,
    SigningKey, VerifyingKey, VersionId,
};
use umbel_service::{
    listen::{Limits, Listener},
    tls::{ClientAuth, LiveCertificate, server},
    unix_now,
};
use umbel_wire::{
    CHUNKS_PATH,
    agent::{
        Challenge, ChunkSet as WireSet, Complaint, Edge as WireEdge, Fleet, FromAgent, FromEdge, Introduction, Join,
        OpenReply, OpenRequest, PeerAddress, PeerOffer, Receipt, ReportReply, ReportRequest, Share, Welcome,
        agents_server::{Agents, AgentsServer},
        from_agent::Message as Up,
        from_edge::Message as Down,
    },
    receipt, session,
    token::{KeySet, Membership, Ticket, TokenSigner},
};

pub(crate) const CHUNK: usize = 64 * 1024;
pub(crate) const EDGE_ID: &str = "edge-1";
const EDGE_SEED: [u8; 32] = [2; 32];
const OTHER_ID: &str = "edge-2";

fn other() -> TokenSigner {
    TokenSigner::from_seed(OTHER_ID, &[4; 32])
}

pub(crate) struct Object {
    pub(crate) plain: Vec<u8>,
    pub(crate) key: ContentKey,
    pub(crate) manifest: Manifest,
    signed: SignedManifest,
    pub(crate) sealed: Vec<Bytes>,
}

/// What a provider's server answers.
#[derive(Clone, Default)]
pub(crate) struct Plain {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(&'static str, &'static str)>,
    pub(crate) parts: Vec<Bytes>,
    /// It breaks off after these.
    pub(crate) breaks: bool,
    /// How a grant must come, as `bearer` or `query`; none: not at all.
    pub(crate) carrier: Option<&'static str>,
}

#[derive(Default)]
struct Petal {
    members: BTreeMap<[u8; 32], (Join, Outbox)>,
    have: HashMap<[u8; 32], BTreeSet<u32>>,
}

/// Bytes, and the peer that sent them.
type Received = (u64, Option<[u8; 32]>);

type Outbox = mpsc::Sender<Result<FromEdge, Status>>;

struct Session {
    agent: [u8; 32],
    outbox: Outbox,
    /// Versions whose chunks it may fetch.
    opened: BTreeSet<String>,
    /// Ends its stream.
    over: CancellationToken,
}

/// Everything that a test looks at or turns.
pub(crate) struct Inner {
    signer: TokenSigner,
    membership_keys: KeySet,
    site_key: SigningKey,
    url: OnceLock<String>,
    objects: Mutex<HashMap<String, Arc<Object>>>,
    /// What has no version: answers by target, and where a grant must be.
    plain: Mutex<HashMap<String, Plain>>,
    /// Heads of what was read as any HTTP reader would.
    pub(crate) read: Mutex<Vec<(String, HeaderMap)>>,
    /// Grants that came with Open.
    pub(crate) granted: Mutex<Vec<String>>,
    sessions: Mutex<HashMap<String, Session>>,
    petals: Mutex<HashMap<ManifestId, Petal>>,
    /// How often each chunk was served.
    pub(crate) served: Mutex<BTreeMap<u32, u32>>,
    /// Highest receipt of each ticket, and who sent.
    pub(crate) receipts: Mutex<HashMap<[u8; 16], Received>>,
    pub(crate) complaints: Mutex<Vec<Complaint>>,
    /// Chunks that may still be served.
    pub(crate) allowance: Semaphore,
    /// The first chunk is served whatever the others may: requests that come together are not taken in their order.
    pub(crate) first_is_free: AtomicBool,
    /// Someone that everyone is introduced to, as a holder of everything.
    pub(crate) stranger: Mutex<Option<PeerAddress>>,
    pub(crate) joins: watch::Sender<usize>,
    pub(crate) leaves: watch::Sender<usize>,
    pub(crate) opens: watch::Sender<usize>,
    /// Tickets are signed by another edge, which is no part of the fleet before [`Running::tell_of_the_other`].
    pub(crate) other_signs: AtomicBool,
    /// What tickets for peers are good for, in bytes; none: for all.
    pub(crate) peer_limit: Mutex<Option<u64>>,
    /// Nobody is a member any more.
    pub(crate) revoked: AtomicBool,
    /// Receipts are never answered.
    pub(crate) deaf: AtomicBool,
    count: AtomicU64,
}

#[derive(Clone)]
pub(crate) struct Edge(pub(crate) Arc<Inner>);

pub(crate) struct Running {
    pub(crate) edge: Edge,
    pub(crate) ca_pem: String,
    pub(crate) url: String,
    membership: TokenSigner,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub(crate) async fn start() -> Self {
        umbel_service::tls::install_provider();
        umbel_service::telemetry::init(umbel_service::telemetry::LogFormat::Text);
        let membership = TokenSigner::from_seed("membership", &[1; 32]);
        let inner = Inner {
            signer: TokenSigner::from_seed(EDGE_ID, &EDGE_SEED),
            membership_keys: KeySet::new([("membership", membership.public().as_slice())]),
            site_key: SigningKey::from_seed(&[3; 32]),
            url: OnceLock::new(),
            objects: Mutex::default(),
            plain: Mutex::default(),
            read: Mutex::default(),
            granted: Mutex::default(),
            sessions: Mutex::default(),
            petals: Mutex::default(),
            served: Mutex::default(),
            receipts: Mutex::default(),
            complaints: Mutex::default(),
            allowance: Semaphore::new(1 << 20),
            first_is_free: false.into(),
            stranger: Mutex::default(),
            joins: watch::Sender::new(0),
            leaves: watch::Sender::new(0),
            opens: watch::Sender::new(0),
            other_signs: false.into(),
            peer_limit: Mutex::default(),
            revoked: false.into(),
            deaf: false.into(),
            count: 0.into(),
        };
        let edge = Edge(Arc::new(inner));
        let (ca_pem, certificate) = certificate();
        let tls = server(Arc::new(certificate), ClientAuth::None).unwrap();
        let limits = Limits { drain: std::time::Duration::from_millis(100), ..Limits::default() };
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), Some(tls), limits).await.unwrap();
        let url = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
        edge.0.url.set(url.clone()).unwrap();
        let chunks = Router::new()
            .route(&format!("{CHUNKS_PATH}/{{id}}/{{index}}"), get(chunk))
            .route("/{*rest}", get(plain))
            .with_state(edge.clone());
        let app = tonic::service::Routes::new(AgentsServer::new(edge.clone())).into_axum_router().merge(chunks);
        let stop = CancellationToken::new();
        let task = tokio::spawn(listener.serve(app, stop.clone()));
        Self { edge, ca_pem, url, membership, stop, task }
    }

    pub(crate) async fn stop(self) {
        self.forget_sessions();
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// As after a restart: every stream ends, and nobody is known any more.
    pub(crate) fn forget_sessions(&self) {
        let sessions = std::mem::take(&mut *self.edge.0.sessions.lock().unwrap());
        sessions.values().for_each(|session| session.over.cancel());
        self.edge.0.petals.lock().unwrap().clear();
    }

    /// Pushes a fleet that the other edge is a part of.
    pub(crate) async fn tell_of_the_other(&self) {
        let mut fleet = self.edge.fleet();
        fleet.version += 1;
        let ticket_key = other().public().to_vec().into();
        fleet.edges.push(WireEdge { id: OTHER_ID.into(), ticket_key, ..WireEdge::default() });
        let outboxes: Vec<Outbox> =
            self.edge.0.sessions.lock().unwrap().values().map(|session| session.outbox.clone()).collect();
        for outbox in outboxes {
            say(&outbox, Down::Fleet(fleet.clone())).await;
        }
    }

    /// Writes what enrolment would have written.
    pub(crate) fn enrol(&self, state: &Path, number: u8) -> [u8; 32] {
        let seed = [number; 32];
        let agent = *SigningKey::from_seed(&seed).verifying_key().as_bytes();
        let now = unix_now();
        let membership = Membership {
            agent,
            account_id: "account".into(),
            trust_domain: "public".into(),
            id: number.to_string(),
            issued: now,
            expires: now + 3600,
        };
        std::fs::write(state.join("agent.key"), seed).unwrap();
        let json = serde_json::json!({
            "control_plane_url": "https://127.0.0.1:1", "ca_pem": self.ca_pem, "edges": [self.url],
            "membership": membership.sign(&self.membership), "renew_at": now + 1800, "expires_at": now + 3600,
        });
        std::fs::write(state.join("membership.json"), json.to_string()).unwrap();
        agent
    }

    pub(crate) fn publish(&self, path: &str, length: usize) -> Arc<Object> {
        let number = 1 + self.edge.0.count.fetch_add(1, Ordering::Relaxed);
        // Recognisable, and different in every chunk.
        let plain: Vec<u8> = (0..length).map(|at| b"umbel-plaintext-"[at % 16] ^ (at / CHUNK) as u8).collect();
        let object = Arc::new(seal(&self.edge.0.site_key, path, plain, number as u8));
        self.edge.0.objects.lock().unwrap().insert(path.to_owned(), object.clone());
        object
    }

    /// Puts what has no version at this path.
    pub(crate) fn provide(&self, path: &str, plain: Plain) {
        self.edge.0.plain.lock().unwrap().insert(path.to_owned(), plain);
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub(crate) fn ticket(&self, receiver: [u8; 32], sender: Option<[u8; 32]>, manifest: &Manifest) -> Ticket {
        self.edge.ticket(receiver, sender, manifest)
    }

    pub(crate) fn sign(&self, ticket: &Ticket) -> String {
        ticket.sign(&self.edge.0.signer)
    }

    /// Bytes by edges and bytes by peers, as receipts say.
    pub(crate) fn received(&self) -> (u64, u64) {
        let receipts = self.edge.0.receipts.lock().unwrap();
        let sum = |by_peer: bool| {
            receipts.values().filter(|(_, sender)| sender.is_some() == by_peer).map(|(bytes, _)| bytes).sum()
        };
        (sum(false), sum(true))
    }
}

fn certificate() -> (String, LiveCertificate) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).unwrap().signed_by(&key, &issuer).unwrap();
    let live = LiveCertificate::from_pem(&leaf.pem(), &key.serialize_pem()).unwrap();
    (ca_pem, live)
}

fn seal(site_key: &SigningKey, path: &str, plain: Vec<u8>, number: u8) -> Object {
    let key = ContentKey::from_bytes([number ^ 0xa5; 32]);
    let version = VersionId::from_bytes([number; 16]);
    let layout = ChunkLayout::new(plain.len() as u64, CHUNK as u32).unwrap();
    let sealer = Sealer::new(&key, version);
    let chunks = plain.chunks(CHUNK).zip(0..);
    let sealed: Vec<Bytes> =
        chunks.map(|(plain, index)| sealer.seal(ChunkIndex::new(index), plain.to_vec()).into()).collect();
    let draft = Draft {
        site: "site".parse().unwrap(),
        path: ObjectPath::from_decoded(path).unwrap(),
        version_id: version,
        media_type: "application/octet-stream".into(),
        layout,
        names: sealed.iter().map(|sealed| ChunkName::of(sealed)).collect(),
        key_id: key.id(),
        created_ms: 0,
        fields: Vec::new(),
    };
    let signed = draft.sign(site_key).unwrap();
    let manifest = signed.verify(&site_key.verifying_key()).unwrap();
    Object { plain, key, manifest, signed, sealed }
}

async fn plain(State(edge): State<Edge>, request: axum::extract::Request) -> axum::response::Response {
    let target = request.uri().path_and_query().unwrap().to_string();
    edge.0.read.lock().unwrap().push((target, request.headers().clone()));
    let Some(plain) = edge.0.plain.lock().unwrap().get(request.uri().path()).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let come = match plain.carrier {
        Some("bearer") => request.headers().contains_key("authorization"),
        Some(_) => request.uri().query().is_some_and(|query| query.contains("umbel_grant=")),
        None => true,
    };
    if !come {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let mut response = axum::response::Response::builder().status(plain.status);
    for (name, value) in &plain.fields {
        response = response.header(*name, *value);
    }
    let broken = plain.breaks.then(|| Err(std::io::Error::other("broken")));
    let parts = plain.parts.into_iter().map(Ok).chain(broken);
    response.body(axum::body::Body::from_stream(futures::stream::iter(parts))).unwrap()
}

async fn chunk(
    State(edge): State<Edge>,
    PathPart((id, index)): PathPart<(String, u32)>,
    headers: HeaderMap,
) -> Result<Bytes, StatusCode> {
    let bearer = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if index > 0 || !edge.0.first_is_free.load(Ordering::Relaxed) {
        edge.0.allowance.acquire().await.unwrap().forget();
    }
    // Who waited may have been forgotten meanwhile, as those are whose edge restarts.
    let is_open = |session: &mut Session| session.opened.contains(&id);
    if !edge.session(bearer, is_open).ok_or(StatusCode::UNAUTHORIZED)? {
        return Err(StatusCode::NOT_FOUND);
    }
    let objects = edge.0.objects.lock().unwrap();
    let object = objects.values().find(|object| object.manifest.id().to_string() == id).ok_or(StatusCode::NOT_FOUND)?;
    let sealed = object.sealed.get(index as usize).cloned().ok_or(StatusCode::NOT_FOUND)?;
    *edge.0.served.lock().unwrap().entry(index).or_default() += 1;
    Ok(sealed)
}

impl Edge {
    fn session<T>(&self, bearer: &str, with: impl FnOnce(&mut Session) -> T) -> Option<T> {
        let token = bearer.strip_prefix("Bearer ")?;
        self.0.sessions.lock().unwrap().get_mut(token).map(with)
    }

    fn caller<T, A>(&self, request: &Request<T>, with: impl FnOnce(&mut Session) -> A) -> Result<A, Status> {
        let bearer = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let found = self.session(bearer.unwrap_or_default(), with);
        found.ok_or_else(|| Status::unauthenticated("there is no such session"))
    }

    fn fleet(&self) -> Fleet {
        let edge = WireEdge {
            id: EDGE_ID.into(),
            public_url: self.0.url.get().unwrap().clone(),
            ticket_key: self.0.signer.public().to_vec().into(),
            ..WireEdge::default()
        };
        Fleet { edges: vec![edge], version: 1 }
    }

    fn keys(&self) -> KeySet {
        KeySet::new([(EDGE_ID, self.0.signer.public().as_slice()), (OTHER_ID, other().public().as_slice())])
    }

    fn sign(&self, ticket: Ticket) -> String {
        if self.0.other_signs.load(Ordering::Relaxed) {
            return Ticket { issuer: OTHER_ID.into(), ..ticket }.sign(&other());
        }
        ticket.sign(&self.0.signer)
    }

    fn ticket(&self, receiver: [u8; 32], sender: Option<[u8; 32]>, manifest: &Manifest) -> Ticket {
        let number = self.0.count.fetch_add(1, Ordering::Relaxed);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        Ticket {
            id,
            issuer: EDGE_ID.into(),
            receiver,
            sender,
            site_id: "site-id".into(),
            path: manifest.path().to_string(),
            manifest: manifest.id(),
            max_bytes: manifest.layout().length() * 2,
            issued: unix_now(),
            expires: unix_now() + 600,
        }
    }

    fn peer_ticket(&self, receiver: [u8; 32], sender: [u8; 32], manifest: &Manifest) -> Ticket {
        let ticket = self.ticket(receiver, Some(sender), manifest);
        Ticket { max_bytes: self.0.peer_limit.lock().unwrap().unwrap_or(ticket.max_bytes), ..ticket }
    }

    async fn talk(self, mut up: Streaming<FromAgent>, down: Outbox) -> Result<(), Status> {
        let Some(Up::Hello(hello)) = next(&mut up).await else { return Err(Status::invalid_argument("no Hello")) };
        let membership = Membership::verify(&hello.membership, &self.0.membership_keys, unix_now());
        let membership = membership.map_err(|error| Status::unauthenticated(error.to_string()))?;
        if self.0.revoked.load(Ordering::Relaxed) {
            return Err(Status::unauthenticated("the membership is revoked"));
        }
        let nonce = [9; 32];
        say(&down, Down::Challenge(Challenge { nonce: nonce.to_vec().into(), edge: EDGE_ID.into() })).await;
        let Some(Up::Proof(proof)) = next(&mut up).await else { return Err(Status::invalid_argument("no Proof")) };
        if !session::proven(&VerifyingKey::from_bytes(membership.agent), &nonce, EDGE_ID, &proof.signature) {
            return Err(Status::unauthenticated("bound to another key"));
        }
        let token = format!("session-{}", self.0.count.fetch_add(1, Ordering::Relaxed));
        let over = CancellationToken::new();
        let session =
            Session { agent: membership.agent, outbox: down.clone(), opened: BTreeSet::new(), over: over.clone() };
        self.0.sessions.lock().unwrap().insert(token.clone(), session);
        say(
            &down,
            Down::Welcome(Welcome { session: token, fleet: Some(self.fleet()), observed_address: String::new() }),
        )
        .await;
        let hearing = async {
            while let Some(message) = next(&mut up).await {
                self.hear(membership.agent, message, &down).await;
            }
        };
        over.run_until_cancelled(hearing).await;
        Ok(())
    }

    async fn hear(&self, agent: [u8; 32], message: Up, down: &Outbox) {
        match message {
            Up::Join(join) => self.join(agent, join, down).await,
            Up::Have(have) => {
                let id = ManifestId::try_from(have.manifest_id.as_ref()).unwrap();
                let mut petals = self.0.petals.lock().unwrap();
                petals.entry(id).or_default().have.entry(agent).or_default().extend(have.added);
            }
            Up::Leave(leave) => {
                let id = ManifestId::try_from(leave.manifest_id.as_ref()).unwrap();
                self.0.petals.lock().unwrap().entry(id).or_default().members.remove(&agent);
                self.0.leaves.send_modify(|leaves| *leaves += 1);
            }
            Up::Complaint(complaint) => self.0.complaints.lock().unwrap().push(complaint),
            Up::Hello(_) | Up::Proof(_) | Up::Heartbeat(_) => {}
        }
    }

    async fn join(&self, agent: [u8; 32], join: Join, down: &Outbox) {
        let ticket = Ticket::verify(&join.edge_ticket, &self.keys(), unix_now()).unwrap();
        let messages = {
            let objects = self.0.objects.lock().unwrap();
            let manifest = &objects.values().find(|object| object.manifest.id() == ticket.manifest).unwrap().manifest;
            let mut petals = self.0.petals.lock().unwrap();
            let petal = petals.entry(ticket.manifest).or_default();
            let before = petal.members.insert(agent, (join.clone(), down.clone()));
            let again = before.is_some_and(|(before, _)| before.address == join.address && before.wants);
            self.plan(petal, manifest, join.wants && !again)
        };
        for (outbox, message) in messages {
            say(&outbox, message).await;
        }
        self.0.joins.send_modify(|joins| *joins += 1);
    }

    /// Chunk i is the share of the agent in place i; everyone meets everyone.
    fn plan(&self, petal: &Petal, manifest: &Manifest, introduce: bool) -> Vec<(Outbox, Down)> {
        let chunks = manifest.layout().chunks();
        let id = Bytes::copy_from_slice(manifest.id().as_bytes());
        let stranger = self.0.stranger.lock().unwrap().clone();
        let wanting: Vec<_> = petal.members.iter().filter(|(_, (join, _))| join.wants).collect();
        let parties = wanting.len() + usize::from(stranger.is_some());
        let mut messages = Vec::new();
        for (place, (agent, (_, outbox))) in wanting.iter().enumerate() {
            let mine = (0..chunks).filter(|chunk| *chunk as usize % parties == place).map(ChunkIndex::new);
            let share = umbel_content::ChunkSet::from_indices(chunks, mine);
            let chunks = Some(WireSet { bitmap: share.to_bitmap().into() });
            messages.push((outbox.clone(), Down::Share(Share { manifest_id: id.clone(), chunks })));
            let others = petal
                .members
                .iter()
                .filter(|(other, _)| *other != *agent)
                .map(|(other, (join, _))| (*other, join.address.clone().unwrap()));
            let strangers =
                stranger.iter().map(|address| (<[u8; 32]>::try_from(address.peer.as_ref()).unwrap(), address.clone()));
            let offer = |(peer, address)| PeerOffer {
                address: Some(address),
                ticket: self.peer_ticket(**agent, peer, manifest).sign(&self.0.signer),
                have: None,
            };
            let peers: Vec<PeerOffer> = others.chain(strangers).map(offer).collect();
            if introduce && !peers.is_empty() {
                messages.push((outbox.clone(), Down::Introduction(Introduction { manifest_id: id.clone(), peers })));
            }
        }
        messages
    }

    fn take(&self, receipt: &Receipt) -> String {
        match receipt::verify(receipt, &self.keys()) {
            Ok(ticket) => {
                let mut receipts = self.0.receipts.lock().unwrap();
                let entry = receipts.entry(ticket.id).or_insert((0, ticket.sender));
                entry.0 = entry.0.max(receipt.bytes);
                String::new()
            }
            Err(error) => error.to_string(),
        }
    }
}

/// The version that a ticket is for.
pub(crate) fn manifest_of(ticket: &str) -> ManifestId {
    let signer = TokenSigner::from_seed(EDGE_ID, &EDGE_SEED);
    let keys = KeySet::new([(EDGE_ID, signer.public().as_slice())]);
    Ticket::verify(ticket, &keys, unix_now()).unwrap().manifest
}

async fn next(up: &mut Streaming<FromAgent>) -> Option<Up> {
    up.message().await.ok()??.message
}

async fn say(down: &Outbox, message: Down) {
    let _gone = down.send(Ok(FromEdge { message: Some(message) })).await;
}

#[tonic::async_trait]
impl Agents for Edge {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<FromEdge, Status>> + Send>>;

    async fn session(&self, request: Request<Streaming<FromAgent>>) -> Result<Response<Self::SessionStream>, Status> {
        let (down, queue) = mpsc::channel(64);
        let (edge, up) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            if let Err(status) = edge.talk(up, down.clone()).await {
                let _gone = down.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(queue).map(|item| item))))
    }

    async fn open(&self, request: Request<OpenRequest>) -> Result<Response<OpenReply>, Status> {
        let path = request.get_ref().path.clone();
        self.0.granted.lock().unwrap().push(request.get_ref().grant.clone());
        let is_plain = self.0.plain.lock().unwrap().contains_key(&path);
        let object = self.0.objects.lock().unwrap().get(&path).cloned();
        let agent = self.caller(&request, |session| {
            session.opened.extend(object.iter().map(|object| object.manifest.id().to_string()));
            session.agent
        })?;
        if is_plain {
            return Err(Status::failed_precondition(path));
        }
        let object = object.ok_or_else(|| Status::not_found(path))?;
        let request = request.into_inner();
        self.0.opens.send_modify(|opens| *opens += 1);
        let one = object.sealed.len() == 1 && request.want_inline;
        Ok(Response::new(OpenReply {
            manifest: Some(object.signed.to_proto()),
            site_key: self.0.site_key.verifying_key().as_bytes().to_vec().into(),
            site_id: "site-id".into(),
            content_key: object.key.as_bytes().to_vec().into(),
            edge_ticket: self.sign(self.ticket(agent, None, &object.manifest)),
            home_edge: EDGE_ID.into(),
            inline_chunk: if one { object.sealed[0].clone() } else { Bytes::new() },
        }))
    }

    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportReply>, Status> {
        self.caller(&request, |_| ())?;
        if self.0.deaf.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let refusals = request.into_inner().receipts.iter().map(|receipt| self.take(receipt)).collect();
        Ok(Response::new(ReportReply { refusals }))
    }
}
