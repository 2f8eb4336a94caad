//! Peers that no agent of ours would be: they send what is wrong, or nothing, or ask with bad tickets.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey, TransportAddr,
    endpoint::{Connection, PortmapperConfig, RecvStream, SendStream, presets},
};
use prost::Message;
use tokio::{io::AsyncReadExt, sync::watch, task::JoinSet};
use umbel_agent::Agent;
use umbel_content::{ChunkIndex, ChunkSet, Manifest, SigningKey};
use umbel_service::unix_now;
use umbel_wire::{
    PEER_ALPN,
    agent::{ChunkSet as WireSet, PeerAddress, complaint::Reason},
    peer::{
        Accept, Begin, Chunk, FromReceiver, FromSender, Request, from_receiver::Message as Up,
        from_sender::Message as Down, refuse,
    },
    token::Ticket,
};

use crate::edge::{Object, Running};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Claims everything, sends noise of the right length.
    Corrupt,
    /// Claims everything, then sends bytes that are no frames.
    Garbage,
    /// Claims everything, sends nothing.
    Silent,
    /// Hangs up when asked.
    HangsUp,
    /// Hangs up when asked for the first time, and is honest from then on.
    HangsUpOnce,
    /// Honest, but ends its first connection when a second stream is opened on it.
    ForgetsOnce,
    /// Nothing is wrong with it.
    Honest,
}

impl Kind {
    /// What the edge may hear about it.
    pub(crate) fn complaints(self) -> BTreeSet<i32> {
        let reason = match self {
            Self::Corrupt => Reason::CorruptChunk,
            Self::Garbage => Reason::Protocol,
            Self::Silent => Reason::Stalled,
            Self::HangsUp | Self::HangsUpOnce | Self::ForgetsOnce | Self::Honest => return BTreeSet::new(),
        };
        BTreeSet::from([reason.into()])
    }
}

async fn endpoint(seed: u8) -> Endpoint {
    Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(&[seed; 32]))
        .alpns(vec![PEER_ALPN.to_vec()])
        .relay_mode(RelayMode::Disabled)
        .clear_address_lookup()
        .portmapper_config(PortmapperConfig::Disabled)
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")
        .unwrap()
        .bind()
        .await
        .unwrap()
}

/// What was asked of a stranger.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
    pub(crate) connections: usize,
    pub(crate) streams: usize,
    pub(crate) chunks: usize,
}

pub(crate) struct Stranger {
    endpoint: Endpoint,
    pub(crate) asked: watch::Sender<Asked>,
    task: tokio::task::JoinHandle<()>,
}

impl Stranger {
    pub(crate) async fn start(kind: Kind, objects: Vec<Arc<Object>>) -> Self {
        let endpoint = endpoint(200).await;
        let asked = watch::Sender::default();
        let manners = Manners { kind, objects: objects.into(), asked: asked.clone() };
        let task = tokio::spawn(manners.accept(endpoint.clone()));
        Self { endpoint, asked, task }
    }

    /// Until it was asked for so much.
    pub(crate) async fn was_asked(&self, enough: impl FnMut(&Asked) -> bool) {
        let mut asked = self.asked.subscribe();
        tokio::time::timeout(Duration::from_secs(60), asked.wait_for(enough)).await.expect("in time").unwrap();
    }

    pub(crate) fn address(&self) -> PeerAddress {
        PeerAddress {
            peer: self.endpoint.id().as_bytes().to_vec().into(),
            direct: self.endpoint.bound_sockets().iter().map(ToString::to_string).collect(),
            relay_url: String::new(),
        }
    }

    pub(crate) async fn stop(self) {
        self.task.abort();
        self.endpoint.close().await;
    }
}

#[derive(Clone)]
struct Manners {
    kind: Kind,
    objects: Arc<[Arc<Object>]>,
    asked: watch::Sender<Asked>,
}

impl Manners {
    async fn accept(self, endpoint: Endpoint) {
        let mut connections = JoinSet::new();
        while let Some(incoming) = endpoint.accept().await {
            let Ok(connection) = incoming.await else { continue };
            self.asked.send_modify(|asked| asked.connections += 1);
            connections.spawn(self.clone().connection(connection));
        }
    }

    async fn connection(self, connection: Connection) {
        let first = self.asked.borrow().connections == 1;
        let mut streams = JoinSet::new();
        while let Ok((send, receive)) = connection.accept_bi().await {
            self.asked.send_modify(|asked| asked.streams += 1);
            if self.kind == Kind::ForgetsOnce && first && !streams.is_empty() {
                return connection.close(9u32.into(), b"who are you");
            }
            streams.spawn(self.clone().stream(connection.clone(), send, receive));
        }
    }

    async fn stream(self, connection: Connection, mut send: SendStream, mut receive: RecvStream) {
        let Some(FromReceiver { message: Some(Up::Begin(begin)) }) = read(&mut receive).await else { return };
        let claims = crate::edge::manifest_of(&begin.ticket);
        let object = self.objects.iter().find(|object| object.manifest.id() == claims).unwrap();
        let layout = object.manifest.layout();
        let have = WireSet { bitmap: ChunkSet::full(layout.chunks()).to_bitmap().into() };
        write(&mut send, Down::Accept(Accept { have: Some(have) })).await;
        while let Some(FromReceiver { message: Some(message) }) = read(&mut receive).await {
            let Up::Request(Request { chunk }) = message else { continue };
            let mut asked_before = 0;
            self.asked.send_modify(|asked| {
                asked_before = asked.chunks;
                asked.chunks += 1;
            });
            let length = layout.sealed_len(ChunkIndex::new(chunk)).unwrap();
            match self.kind {
                Kind::Silent => {}
                Kind::HangsUp => return connection.close(9u32.into(), b"bye"),
                Kind::HangsUpOnce if asked_before == 0 => return connection.close(9u32.into(), b"bye"),
                Kind::Garbage => drop(send.write_all(&[0xff; 1000]).await),
                Kind::Corrupt => {
                    write(&mut send, Down::Chunk(Chunk { chunk, length })).await;
                    let _gone = send.write_all(&vec![7; length as usize]).await;
                }
                Kind::HangsUpOnce | Kind::ForgetsOnce | Kind::Honest => {
                    write(&mut send, Down::Chunk(Chunk { chunk, length })).await;
                    let _gone = send.write_all(&object.sealed[chunk as usize]).await;
                }
            }
        }
    }
}

async fn read<M: Message + Default>(receive: &mut RecvStream) -> Option<M> {
    let mut length = 0usize;
    for shift in [0, 7, 14] {
        let byte = receive.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    AsyncReadExt::read_exact(receive, &mut body).await.ok()?;
    M::decode(body.as_slice()).ok()
}

async fn write(send: &mut SendStream, message: Down) {
    let frame = FromSender { message: Some(message) }.encode_length_delimited_to_vec();
    let _gone = send.write_all(&frame).await;
}

/// What the sender answers to a raw first message, and to a request after it was accepted.
async fn answer(connection: &Connection, first: &[u8], ask: &[u32]) -> Vec<Down> {
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    // Who has heard enough stops reading.
    let _stopped = send.write_all(first).await;
    for chunk in ask {
        let request = FromReceiver { message: Some(Up::Request(Request { chunk: *chunk })) };
        send.write_all(&request.encode_length_delimited_to_vec()).await.unwrap();
    }
    let mut answers = Vec::new();
    while let Some(FromSender { message: Some(message) }) = read(&mut receive).await {
        if let Down::Chunk(chunk) = &message {
            let mut body = vec![0; chunk.length as usize];
            AsyncReadExt::read_exact(&mut receive, &mut body).await.unwrap();
        }
        let last = matches!(message, Down::Refuse(_));
        answers.push(message);
        if last {
            break;
        }
    }
    answers
}

fn begin(ticket: String) -> Vec<u8> {
    FromReceiver { message: Some(Up::Begin(Begin { ticket })) }.encode_length_delimited_to_vec()
}

async fn address_of(agent: &Agent, id: [u8; 32]) -> EndpointAddr {
    let addresses =
        agent.address().await.iter().map(|text| TransportAddr::Ip(text.parse().unwrap())).collect::<Vec<_>>();
    EndpointAddr::from_parts(EndpointId::from_bytes(&id).unwrap(), addresses)
}

/// Connections without a ticket: of more than four of one peer the oldest go at once, the others after a while.
pub(crate) async fn check_idlers(agent: &Agent, id: [u8; 32]) {
    let (endpoint, address) = (endpoint(202).await, address_of(agent, id).await);
    let mut connections = Vec::new();
    for _ in 0..6 {
        connections.push(endpoint.connect(address.clone(), PEER_ALPN).await.unwrap());
    }
    let patience = Duration::from_secs(60);
    for oldest in &connections[..2] {
        tokio::time::timeout(patience, oldest.closed()).await.expect("shown out");
    }
    assert!(connections[2..].iter().all(|other| other.close_reason().is_none()), "four stay");
    // Talking nonsense does not prolong the stay.
    let nonsense = begin("nonsense".into());
    assert!(matches!(&answer(&connections[2], &nonsense, &[]).await[..], [Down::Refuse(_)]));
    for other in &connections[2..] {
        tokio::time::timeout(patience, other.closed()).await.expect("closed in time");
    }
    endpoint.close().await;
}

/// A member that sends more receipts than there can be.
pub(crate) async fn check_receipt_flood(edge: &Running, agent: &Agent, id: [u8; 32], held: &Manifest) {
    let endpoint = endpoint(203).await;
    let key = SigningKey::from_seed(&[203; 32]);
    let ticket = edge.ticket(*key.verifying_key().as_bytes(), Some(id), held);
    let connection = endpoint.connect(address_of(agent, id).await, PEER_ALPN).await.unwrap();
    let mut first = begin(edge.sign(&ticket));
    for bytes in 0..100 {
        let receipt = umbel_wire::receipt::sign(&key, &edge.sign(&ticket), &ticket.id, bytes);
        first.extend(FromReceiver { message: Some(Up::Receipt(receipt)) }.encode_length_delimited_to_vec());
    }
    let answers = answer(&connection, &first, &[]).await;
    let broken = |message: &Down| matches!(message, Down::Refuse(why) if why.reason() == refuse::Reason::Protocol);
    assert!(matches!(&answers[..], [Down::Accept(_), last] if broken(last)), "{answers:?}");
    endpoint.close().await;
}

/// Each row: a ticket that is not good, and the reason that the sender gives.
pub(crate) async fn check_refusals(
    edge: &Running,
    agent: &Agent,
    sender: [u8; 32],
    held: &Manifest,
    not_held: &Manifest,
) {
    let endpoint = endpoint(201).await;
    let me = *SigningKey::from_seed(&[201; 32]).verifying_key().as_bytes();
    let address = address_of(agent, sender).await;
    let good = edge.ticket(me, Some(sender), held);
    let signed = |ticket: Ticket| begin(edge.sign(&ticket));
    let forged = good.sign(&umbel_wire::token::TokenSigner::from_seed(crate::edge::EDGE_ID, &[99; 32]));
    let table = [
        ("another receiver", signed(Ticket { receiver: [1; 32], ..good.clone() }), refuse::Reason::NotForYou),
        ("another sender", signed(Ticket { sender: Some([1; 32]), ..good.clone() }), refuse::Reason::NotForYou),
        ("for edges", signed(Ticket { sender: None, ..good.clone() }), refuse::Reason::NotForYou),
        ("another manifest", signed(edge.ticket(me, Some(sender), not_held)), refuse::Reason::NotHeld),
        ("expired", signed(Ticket { expires: unix_now(), ..good.clone() }), refuse::Reason::Expired),
        ("forged", begin(forged), refuse::Reason::BadTicket),
        ("no ticket", begin("nonsense".into()), refuse::Reason::BadTicket),
        ("garbage", vec![0xff; 100], refuse::Reason::Protocol),
    ];
    for (name, first, expected) in table {
        let connection = endpoint.connect(address.clone(), PEER_ALPN).await.unwrap();
        let answers =
            tokio::time::timeout(Duration::from_secs(20), answer(&connection, &first, &[])).await.expect(name);
        assert!(matches!(&answers[..], [Down::Refuse(refusal)] if refusal.reason() == expected), "{name}: {answers:?}");
    }
    // Good for two chunks, not for a third, nor for a second stream.
    let connection = endpoint.connect(address.clone(), PEER_ALPN).await.unwrap();
    let small = signed(Ticket { max_bytes: 2 * crate::edge::CHUNK as u64, ..edge.ticket(me, Some(sender), held) });
    let answers = answer(&connection, &small, &[0, 1, 2]).await;
    let over =
        |message: &Down| matches!(message, Down::Refuse(refusal) if refusal.reason() == refuse::Reason::OverLimit);
    assert!(
        matches!(&answers[..], [Down::Accept(_), Down::Chunk(_), Down::Chunk(_), last] if over(last)),
        "{answers:?}"
    );
    assert!(over(&answer(&connection, &small, &[]).await[0]));
    endpoint.close().await;
}
