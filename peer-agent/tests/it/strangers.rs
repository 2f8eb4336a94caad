//! Peers that no agent of ours would be: they send what is wrong, or nothing, or ask with bad tickets.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey, TransportAddr,
    endpoint::{Connection, PortmapperConfig, RecvStream, SendStream, presets},
};
use prost::Message;
use tokio::{io::AsyncReadExt, sync::watch};
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
}

impl Kind {
    /// What the edge may hear about it.
    pub(crate) fn complaints(self) -> BTreeSet<i32> {
        let reason = match self {
            Self::Corrupt => Reason::CorruptChunk,
            Self::Garbage => Reason::Protocol,
            Self::Silent => Reason::Stalled,
            Self::HangsUp => return BTreeSet::new(),
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

pub(crate) struct Stranger {
    endpoint: Endpoint,
    pub(crate) asked: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Stranger {
    pub(crate) async fn start(kind: Kind, object: Arc<Object>) -> Self {
        let endpoint = endpoint(200).await;
        let (accepting, asked) = (endpoint.clone(), watch::Sender::new(false));
        let seen = asked.clone();
        let task = tokio::spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                let Ok(connection) = incoming.await else { continue };
                while let Ok((send, receive)) = connection.accept_bi().await {
                    misbehave(kind, &object, &connection, send, receive, &seen).await;
                }
            }
        });
        Self { endpoint, asked, task }
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

async fn misbehave(
    kind: Kind,
    object: &Object,
    connection: &Connection,
    mut send: SendStream,
    mut receive: RecvStream,
    asked: &watch::Sender<bool>,
) {
    let _begin: FromReceiver = read(&mut receive).await.unwrap();
    let layout = object.manifest.layout();
    let have = WireSet { bitmap: ChunkSet::full(layout.chunks()).to_bitmap().into() };
    write(&mut send, Down::Accept(Accept { have: Some(have) })).await;
    while let Some(FromReceiver { message: Some(message) }) = read(&mut receive).await {
        let Up::Request(Request { chunk }) = message else { continue };
        asked.send_replace(true);
        match kind {
            Kind::Corrupt => {
                let length = layout.sealed_len(ChunkIndex::new(chunk)).unwrap();
                write(&mut send, Down::Chunk(Chunk { chunk, length })).await;
                let _gone = send.write_all(&vec![7; length as usize]).await;
            }
            Kind::Garbage => {
                let _gone = send.write_all(&[0xff; 1000]).await;
            }
            Kind::Silent => {}
            Kind::HangsUp => return connection.close(9u32.into(), b"bye"),
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
    send.write_all(first).await.unwrap();
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
    let addresses =
        agent.status().address.iter().map(|text| TransportAddr::Ip(text.parse().unwrap())).collect::<Vec<_>>();
    let address = EndpointAddr::from_parts(EndpointId::from_bytes(&sender).unwrap(), addresses);
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
