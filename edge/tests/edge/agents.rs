//! Agents: sessions, Open, chunks, receipts, and how they meet.

use std::{sync::atomic::Ordering, time::Duration};

use http::StatusCode;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming, transport::Channel};
use tower::ServiceExt;
use umbel_content::{ChunkIndex, ChunkSet, ContentKey, SignedManifest, SigningKey, VerifyingKey, VersionId, open};
use umbel_edge::Edge;
use umbel_service::unix_now;
use umbel_wire::{
    agent::{
        self, FromAgent, FromEdge, Hello, Join, OpenReply, OpenRequest, PeerAddress, Proof, Receipt, ReportRequest,
        agents_client::AgentsClient, from_agent, from_edge::Message,
    },
    control::Purge,
    receipt, session,
    token::{Grant, KeySet, Ticket, TokenSigner, parse_network},
};

use crate::network::{Network, PRIVATE, PULLED, SITE, content, grant, membership, seed, sign};

const MIB: usize = 1024 * 1024;

/// An agent with a session.
struct Agent {
    key: SigningKey,
    client: AgentsClient<Channel>,
    up: mpsc::Sender<FromAgent>,
    down: Streaming<FromEdge>,
    bearer: String,
}

fn id(key: &SigningKey) -> [u8; 32] {
    *key.verifying_key().as_bytes()
}

fn from_agent(message: from_agent::Message) -> FromAgent {
    FromAgent { message: Some(message) }
}

/// Goes as far as the edge lets it: the membership may be anybody's, the proof is made with `prover`.
async fn try_session(network: &Network, edge: &Edge, membership: String, prover: SigningKey) -> Result<Agent, Status> {
    let mut client = AgentsClient::new(network.channel(edge));
    let (up, messages) = mpsc::channel(64);
    up.send(from_agent(from_agent::Message::Hello(Hello { membership }))).await.unwrap();
    let mut down = client.session(ReceiverStream::new(messages)).await?.into_inner();
    let Some(FromEdge { message: Some(Message::Challenge(challenge)) }) = down.message().await? else {
        return Err(Status::internal("no challenge"));
    };
    let signature = session::prove(&prover, &challenge.nonce, &challenge.edge).to_vec().into();
    up.send(from_agent(from_agent::Message::Proof(Proof { signature }))).await.unwrap();
    let Some(FromEdge { message: Some(Message::Welcome(welcome)) }) = down.message().await? else {
        return Err(Status::internal("no welcome"));
    };
    Ok(Agent { key: prover, client, up, down, bearer: welcome.session })
}

impl Agent {
    async fn new(network: &Network, edge: &Edge, seed: u8) -> Self {
        let key = SigningKey::from_seed(&[seed; 32]);
        let membership = membership(id(&key), unix_now() + 1000, 1);
        try_session(network, edge, membership, key).await.unwrap()
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.bearer).parse().unwrap());
        request
    }

    async fn open(&mut self, host: &str, path: &str, grant: &str) -> Result<OpenReply, Status> {
        self.open_as(host, path, OpenRequest { grant: grant.into(), want_inline: true, ..OpenRequest::default() }).await
    }

    async fn open_as(&mut self, host: &str, path: &str, request: OpenRequest) -> Result<OpenReply, Status> {
        let request = self.request(OpenRequest { host: host.into(), path: path.into(), ..request });
        Ok(self.client.open(request).await?.into_inner())
    }

    async fn report(&mut self, receipts: Vec<Receipt>) -> Result<Vec<String>, Status> {
        let request = self.request(ReportRequest { receipts });
        Ok(self.client.report(request).await?.into_inner().refusals)
    }

    async fn join(&self, opened: &OpenReply, chunks: u32, have: ChunkSet) {
        let join = Join {
            edge_ticket: opened.edge_ticket.clone(),
            chunks,
            have: Some(agent::ChunkSet { bitmap: have.to_bitmap().into() }),
            address: Some(PeerAddress {
                peer: id(&self.key).to_vec().into(),
                direct: vec!["127.0.0.1:9".into()],
                relay_url: "https://relay.elsewhere.test".into(),
            }),
            wants: !have.is_full(),
        };
        self.up.send(from_agent(from_agent::Message::Join(join))).await.unwrap();
    }

    /// The next message that `want` takes; others are passed over.
    async fn next<T>(&mut self, want: impl Fn(Message) -> Option<T>) -> T {
        let wait = async {
            loop {
                let message = self.down.message().await.unwrap().expect("the edge hung up");
                if let Some(found) = message.message.and_then(&want) {
                    return found;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the edge says nothing")
    }
}

#[tokio::test]
async fn what_is_pulled_and_was_purged_is_asked_for_again() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let edge = network.edge("e1", state.path()).await;
    let mut agent = Agent::new(&network, &edge, 9).await;
    let asked = || network.origin.resolves.load(Ordering::SeqCst);
    let named = |target: &str| Purge { targets: vec![target.into()], ..Purge::default() };
    for (path, query, purge) in [
        ("/\u{fc} (1)", "", named("/%C3%BC%20(1)")),
        ("/\u{fc} (1)", "?q=%20", named("/%C3%BC%20(1)?q=%20")),
        ("/\u{fc}/2", "", Purge { prefixes: vec!["/%C3".into()], ..Purge::default() }),
        ("/3", "", Purge { keys: vec!["k2".into()], ..Purge::default() }),
        ("/4", "", Purge { keys: vec!["a tag".into()], ..Purge::default() }),
    ] {
        let fields = [("cache-tag", "a tag,x"), ("surrogate-key", "k1 k2")];
        let put = |text: &[u8]| network.origin.put(PULLED, &format!("{path}{query}"), text, &fields);
        let query: String = query.trim_start_matches('?').into();
        let (first, second) = (put(b"first"), put(b"second"));
        let newest = OpenRequest { query: query.clone(), ..OpenRequest::default() };
        let oldest = OpenRequest { query, version_id: first.as_bytes().to_vec().into(), ..OpenRequest::default() };
        let before = asked();
        for _ in 0..2 {
            assert_eq!(opened(&agent.open_as("pulled.test", path, newest.clone()).await.unwrap()), second);
            assert_eq!(opened(&agent.open_as("pulled.test", path, oldest.clone()).await.unwrap()), first);
        }
        assert_eq!(asked(), before + 2, "once for each");
        let third = put(b"third");
        network.purge(&[&edge], Purge { site_id: PULLED.into(), ..purge.clone() }).await;
        assert_eq!(opened(&agent.open_as("pulled.test", path, newest).await.unwrap()), third, "{purge:?}");
        assert_eq!(opened(&agent.open_as("pulled.test", path, oldest).await.unwrap()), first, "the origin keeps it");
        assert_eq!(asked(), before + 4, "{purge:?}");
    }
    edge.stop().await;
}

fn opened(reply: &OpenReply) -> VersionId {
    let signed = SignedManifest::from_proto(reply.manifest.clone().unwrap()).unwrap();
    let key: [u8; 32] = reply.site_key.as_ref().try_into().unwrap();
    signed.verify(&VerifyingKey::from_bytes(key)).unwrap().version_id()
}

#[tokio::test]
async fn only_members_get_a_session() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let edge = network.edge("e1", state.path()).await;
    let key = |seed: u8| SigningKey::from_seed(&[seed; 32]);
    let (mine, later) = (id(&key(9)), unix_now() + 1000);
    network.revoke(id(&key(8)));
    for (membership, prover, reason) in [
        (String::new(), 9, "membership: malformed token"),
        ("a.b.c".into(), 9, "membership: malformed token"),
        (membership(mine, unix_now() - 1, 1), 9, "membership: expired"),
        (membership(mine, later, 2), 9, "membership: wrong signature"),
        (membership(mine, later, 1), 7, "the proof does not match the membership's key"),
        (membership(id(&key(8)), later, 1), 8, "membership revoked"),
    ] {
        let status = try_session(&network, &edge, membership, key(prover)).await.err().unwrap();
        assert_eq!((status.code(), status.message()), (Code::Unauthenticated, reason));
    }
    let mut member = Agent::new(&network, &edge, 9).await;
    member.bearer = "guessed".into();
    assert_eq!(member.open("docs.test", "/x", "").await.unwrap_err().code(), Code::Unauthenticated);
    edge.stop().await;
}

#[tokio::test]
async fn a_revoked_agent_is_told_and_dropped() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let edge = network.edge("e1", state.path()).await;
    let mut agent = Agent::new(&network, &edge, 3).await;
    network.revoke(id(&agent.key));
    let goodbye =
        agent.next(|message| if let Message::Goodbye(goodbye) = message { Some(goodbye) } else { None }).await;
    assert!(goodbye.revoked);
    assert!(agent.down.message().await.unwrap().is_none(), "and the stream ends");
    edge.stop().await;
}

#[tokio::test]
async fn open_says_what_an_object_is_to_those_who_may_know() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let edge = network.edge("e1", state.path()).await;
    network.origin.put(SITE, "/small", b"small", &[]);
    network.origin.put(SITE, "/big", &content(2 * MIB), &[]);
    network.origin.put(PRIVATE, "/secret", b"secret", &[]);
    let mut agent = Agent::new(&network, &edge, 3).await;
    let small = agent.open("docs.test", "/small", "").await.unwrap();
    assert_eq!(small.home_edge, "", "too small to share");
    let site_key = VerifyingKey::from_bytes(small.site_key.as_ref().try_into().unwrap());
    let manifest = SignedManifest::from_proto(small.manifest.unwrap()).unwrap().verify(&site_key).unwrap();
    let key = ContentKey::from_bytes(small.content_key.as_ref().try_into().unwrap());
    let plain = open(&key, &manifest.version_id(), ChunkIndex::new(0), &small.inline_chunk).unwrap();
    assert_eq!(plain, b"small");
    let big = agent.open("DOCS.test", "/big", "").await.unwrap();
    assert_eq!((big.home_edge.as_str(), big.inline_chunk.len()), ("e1", 0));
    let ticket = Ticket::verify(&big.edge_ticket, &edge_keys(), unix_now()).unwrap();
    assert_eq!(ticket.allows(&id(&agent.key), None), Ok(()));
    assert!(ticket.max_bytes >= 2 * MIB as u64);
    let later = unix_now() + 100;
    for (host, path, grant, expected) in [
        ("none.test", "/small", String::new(), Code::NotFound),
        ("docs.test", "/none", String::new(), Code::NotFound),
        ("docs.test", "/../x", String::new(), Code::InvalidArgument),
        ("docs/test", "/x", String::new(), Code::InvalidArgument),
        ("private.test", "/secret", String::new(), Code::Unauthenticated),
        ("private.test", "/secret", grant("/other", later), Code::PermissionDenied),
    ] {
        let status = agent.open(host, path, &grant).await.unwrap_err();
        assert_eq!(status.code(), expected, "{host}{path}");
    }
    assert!(agent.open("private.test", "/secret", &grant("/", later)).await.is_ok());
    for (network, expected) in [("127.0.0.0/8", true), ("192.0.2.0/24", false)] {
        let networks = vec![parse_network(network).unwrap()];
        let (site, paths) = ("private".into(), vec!["/secret".into()]);
        let grant = sign(&Grant { site, paths, networks, expires: later, ..Grant::default() });
        assert_eq!(agent.open("private.test", "/secret", &grant).await.is_ok(), expected, "{network}");
    }
    edge.stop().await;
}

fn edge_keys() -> KeySet {
    KeySet::new([("e1", TokenSigner::from_seed("e1", &seed("e1")).public().as_slice())])
}

#[tokio::test]
async fn chunks_are_for_sessions_that_opened_the_version() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let edge = network.edge("e1", state.path()).await;
    let whole = content(3 * 64 * 1024 + 5);
    network.origin.put(SITE, "/big", &whole, &[]);
    let mut agent = Agent::new(&network, &edge, 3).await;
    let opened = agent.open("docs.test", "/big", "").await.unwrap();
    let stranger = Agent::new(&network, &edge, 4).await;
    let signed = SignedManifest::from_proto(opened.manifest.unwrap()).unwrap();
    let manifest = signed.verify(&VerifyingKey::from_bytes(opened.site_key.as_ref().try_into().unwrap())).unwrap();
    let client = network.client(&edge, true);
    let get = async |bearer: &str, tail: String| {
        let url = format!("https://docs.test{}/{tail}", umbel_wire::CHUNKS_PATH);
        client.get(url).bearer_auth(bearer).send().await.unwrap()
    };
    let (mine, theirs) = (agent.bearer.as_str(), stranger.bearer.as_str());
    for (bearer, tail, expected) in [
        ("guessed", format!("{}/0", manifest.id()), StatusCode::UNAUTHORIZED),
        (theirs, format!("{}/0", manifest.id()), StatusCode::NOT_FOUND),
        (mine, format!("{}/4", manifest.id()), StatusCode::NOT_FOUND),
        (mine, format!("{}/x", manifest.id()), StatusCode::BAD_REQUEST),
        (mine, "ab/0".into(), StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(get(bearer, tail.clone()).await.status(), expected, "{tail}");
    }
    let key = ContentKey::from_bytes(opened.content_key.as_ref().try_into().unwrap());
    let mut plain = Vec::new();
    for chunk in (0..manifest.layout().chunks()).map(ChunkIndex::new) {
        let sealed = get(mine, format!("{}/{chunk}", manifest.id())).await.bytes().await.unwrap();
        manifest.verify_chunk(chunk, &sealed).unwrap();
        plain.extend(open(&key, &manifest.version_id(), chunk, &sealed).unwrap());
    }
    assert_eq!(plain, whole);
    let metrics = http::Request::get("/metrics").body(axum::body::Body::empty()).unwrap();
    let metrics = edge.ops().app().oneshot(metrics).await.unwrap().into_body();
    let metrics = axum::body::to_bytes(metrics, 1 << 20).await.unwrap();
    let metrics = std::str::from_utf8(&metrics).unwrap();
    for line in ["chunk_requests_total{class=\"2xx\"} 4\n", "chunk_requests_total{class=\"4xx\"} 5\n"] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    edge.stop().await;
}

#[tokio::test]
async fn two_agents_are_shared_out_and_introduced() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let edge = network.edge("e1", state.path()).await;
    network.origin.put(SITE, "/big", &content(2 * MIB), &[]);
    let mut one = Agent::new(&network, &edge, 3).await;
    let mut two = Agent::new(&network, &edge, 4).await;
    let opened = one.open("docs.test", "/big", "").await.unwrap();
    one.join(&opened, 32, ChunkSet::new(32)).await;
    let share = |message| if let Message::Share(share) = message { share.chunks } else { None };
    let alone = one.next(share).await;
    assert!(ChunkSet::from_bitmap(32, &alone.bitmap).unwrap().is_full(), "a lone agent takes everything");
    let opened = two.open("docs.test", "/big", "").await.unwrap();
    two.join(&opened, 32, ChunkSet::new(32)).await;
    let introduction = |message| if let Message::Introduction(found) = message { Some(found) } else { None };
    let met = two.next(introduction).await;
    let offer = &met.peers[0];
    let address = offer.address.as_ref().unwrap();
    assert_eq!(address.peer.as_ref(), id(&one.key));
    assert_eq!((address.direct.as_slice(), address.relay_url.as_str()), (["127.0.0.1:9".to_owned()].as_slice(), ""));
    let ticket = Ticket::verify(&offer.ticket, &edge_keys(), unix_now()).unwrap();
    assert_eq!(ticket.allows(&id(&two.key), Some(&id(&one.key))), Ok(()));
    assert_eq!(ticket.path, "/big");
    drop(one);
    let departed =
        two.next(|message| if let Message::Departure(departed) = message { Some(departed) } else { None }).await;
    assert_eq!(departed.peer.as_ref(), address.peer.as_ref());
    // Somebody else's ticket, and a bitmap that does not fit.
    let refusal = |message| if let Message::Refusal(refusal) = message { Some(refusal.reason) } else { None };
    let mut thief = Agent::new(&network, &edge, 5).await;
    thief.join(&opened, 32, ChunkSet::new(32)).await;
    assert_eq!(thief.next(refusal).await, "ticket: bound to something else");
    two.join(&opened, 8, ChunkSet::full(32)).await;
    assert_eq!(two.next(refusal).await, "the bitmap names chunks that the version does not have");
    edge.stop().await;
}

#[tokio::test]
async fn receipts_are_checked_and_kept() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let edge = network.edge("e1", state.path()).await;
    network.origin.put(SITE, "/big", &content(2 * MIB), &[]);
    let mut agent = Agent::new(&network, &edge, 3).await;
    let ticket = agent.open("docs.test", "/big", "").await.unwrap().edge_ticket;
    let parsed = Ticket::verify_signature(&ticket, &edge_keys()).unwrap();
    let other = SigningKey::from_seed(&[4; 32]);
    let good = receipt::sign(&agent.key, &ticket, &parsed.id, 5);
    let forged = receipt::sign(&other, &ticket, &parsed.id, 5);
    let over = receipt::sign(&agent.key, &ticket, &parsed.id, parsed.max_bytes + 1);
    let changed = Receipt { bytes: 6, ..good.clone() };
    let foreign = Ticket { receiver: id(&other), ..parsed.clone() };
    let foreign = receipt::sign(&other, &foreign.sign(&TokenSigner::from_seed("e1", &seed("e1"))), &parsed.id, 5);
    let unknown = parsed.sign(&TokenSigner::from_seed("e9", &seed("e1")));
    let unknown = receipt::sign(&agent.key, &unknown, &parsed.id, 5);
    let receipts = vec![good.clone(), forged, over, changed, foreign, unknown, good.clone()];
    let refusals = agent.report(receipts).await.unwrap();
    let limit = parsed.max_bytes;
    assert_eq!(
        refusals,
        [
            "",
            "not signed by the receiver that the ticket names",
            &format!("{} bytes are over the ticket's limit of {limit}", limit + 1),
            "not signed by the receiver that the ticket names",
            "handed in by neither of its two sides",
            "ticket: signed by an unknown key",
            "",
        ]
    );
    let status = agent.report(vec![good; 3000]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let spooled: u64 = std::fs::read_dir(state.path().join("spool"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(spooled > 0, "on disk before the acknowledgement");
    edge.stop().await;
}
