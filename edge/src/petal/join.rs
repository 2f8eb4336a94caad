//! Join: is this agent allowed to share this version, and is what it says of itself plausible?

use std::{iter, net::SocketAddr, sync::Arc};

use umbel_content::{ChunkLayout, ChunkSet, MAX_CHUNK_SIZE, MAX_CHUNKS, MIN_CHUNK_SIZE, ManifestId};
use umbel_service::unix_now;
use umbel_wire::{
    agent::{Join, PeerAddress},
    token::{Ticket, TokenError},
};

use super::{Joining, refuse};
use crate::{
    agents::open::SLACK,
    agents::{open::may_share, session::Session},
    core::Core,
    view::View,
};

/// Addresses that an agent may give.
const MAX_DIRECT: usize = 16;

/// Why a Join is not taken.
#[derive(Debug, thiserror::Error)]
enum NoJoin {
    #[error("ticket: {0}")]
    Ticket(#[from] TokenError),
    #[error("this site does not share between agents of your trust domain")]
    Policy,
    #[error("the address is another peer's, or has too many parts")]
    Address,
    #[error("{0} chunks in a version are not supported")]
    Chunks(u32),
    #[error("{0} chunks are not what the version has")]
    OtherChunks(u32),
    #[error("the bitmap names chunks that the version does not have")]
    Bitmap,
}

/// Takes or refuses a Join.
pub(crate) async fn handle(core: &Arc<Core>, session: &Arc<Session>, join: Join) {
    let view = core.view.load_full();
    let ticket = Ticket::verify(&join.edge_ticket, &view.ticket_keys, unix_now());
    let manifest = ticket.as_ref().map_or(ManifestId::from_bytes([0; 32]), |ticket| ticket.manifest);
    match ticket.map_err(NoJoin::from).and_then(|ticket| check(&view, session, join, ticket)) {
        Ok(joining) => core.petal.join(joining).await,
        Err(reason) => refuse(session, manifest, reason.to_string()),
    }
}

fn check(view: &View, session: &Arc<Session>, join: Join, ticket: Ticket) -> Result<Joining, NoJoin> {
    ticket.allows(&session.agent, None)?;
    let site = view.installation.sites.get(&ticket.site_id).ok_or(NoJoin::Policy)?;
    if !may_share(site, &session.trust_domain) {
        return Err(NoJoin::Policy);
    }
    if join.chunks == 0 || join.chunks > MAX_CHUNKS {
        return Err(NoJoin::Chunks(join.chunks));
    }
    let bitmap = join.have.unwrap_or_default().bitmap;
    let have = ChunkSet::from_bitmap(join.chunks, &bitmap).map_err(|_| NoJoin::Bitmap)?;
    let known = session.version(ticket.manifest).map(|version| version.manifest.layout().chunks());
    if !is_plausible(join.chunks, known, ticket.max_bytes) {
        return Err(NoJoin::OtherChunks(join.chunks));
    }
    let address = address(view, session, join.address.unwrap_or_default())?;
    Ok(Joining { session: session.clone(), chunks: join.chunks, have, wants: join.wants, address, ticket })
}

/// The first to join says how many chunks a version has, and whoever says otherwise later is refused: so it may not say just
/// anything. Where no manifest is at hand, the ticket's limit tells the length, and there are only so many ways to cut that.
fn is_plausible(chunks: u32, known: Option<u32>, max_bytes: u64) -> bool {
    known.map_or_else(|| is_possible(chunks, max_bytes), |known| chunks == known)
}

fn is_possible(chunks: u32, max_bytes: u64) -> bool {
    let Some(length) = max_bytes.checked_sub(SLACK).map(|twice| twice / 2) else { return false };
    let sizes =
        iter::successors(Some(MIN_CHUNK_SIZE), |size| Some(size * 2)).take_while(|size| *size <= MAX_CHUNK_SIZE);
    sizes.filter_map(|size| ChunkLayout::new(length, size).ok()).any(|layout| layout.chunks() == chunks)
}

/// Only real addresses, and only our own relays: nobody is sent to a third party.
fn address(view: &View, session: &Session, given: PeerAddress) -> Result<PeerAddress, NoJoin> {
    if given.peer.as_ref() != session.agent.as_slice() || given.direct.len() > MAX_DIRECT {
        return Err(NoJoin::Address);
    }
    let parsed = given.direct.iter().map(|text| text.parse::<SocketAddr>());
    let direct = parsed.collect::<Result<Vec<_>, _>>().map_err(|_| NoJoin::Address)?;
    let given_relay = relay_name(&given.relay_url);
    let ours = given_relay.is_some() && view.fleet.edges.iter().any(|edge| relay_name(&edge.relay_url) == given_relay);
    let relay_url = if ours { given.relay_url.clone() } else { String::new() };
    Ok(PeerAddress { peer: given.peer, direct: direct.iter().map(SocketAddr::to_string).collect(), relay_url })
}

/// Host and port; iroh writes hosts of relays with a final dot.
fn relay_name(url: &str) -> Option<(String, u16)> {
    let uri: http::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_end_matches('.').to_ascii_lowercase();
    Some((host, uri.port_u16().unwrap_or(443)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_counts_that_a_ticket_allows() {
        let limit = |length: u64| length * 2 + SLACK;
        for (chunks, length, expected) in [
            (160, 10 << 20, true),
            (3, 10 << 20, true),
            (161, (10 << 20) + 1, true),
            (159, 10 << 20, false),
            (161, 10 << 20, false),
            (2, 10 << 20, false),
            (1, 10 << 20, false),
            (524_288, 10 << 20, false),
            (1, 1, true),
            (0, 1, false),
            // Cut finer, it would have more chunks than a manifest can name.
            (262_144, 1 << 40, true),
            (524_288, 1 << 40, false),
        ] {
            assert_eq!(is_plausible(chunks, None, limit(length)), expected, "{chunks} chunks of {length} bytes");
        }
        assert!(!is_plausible(1, None, 0));
        assert!(is_plausible(160, Some(160), limit(10 << 20)));
        assert!(!is_plausible(3, Some(160), limit(10 << 20)), "the manifest knows better");
    }
}
