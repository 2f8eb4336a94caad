//! What crosses a network between Umbel's programs: the protobuf messages and gRPC services of each
//! conversation, and the signed statements they carry (membership, grant, ticket, receipt), each with all of its checks.
//!
//! It decides whether a statement is true and for whom; it does not open connections, read a clock
//! or keep state. Start with [`token`] for who may do what, and with the `.proto` files for who says what.

pub mod invitation;
pub mod receipt;
mod redact;
pub mod session;
pub mod token;

/// Agent to edge: sessions, the right to an object, receipts.
#[allow(missing_debug_implementations, unreachable_pub, clippy::all, clippy::pedantic, clippy::use_self)]
pub mod agent {
    tonic::include_proto!("umbel.agent.v1");
}

/// Agent to agent, over QUIC.
#[allow(missing_debug_implementations, unreachable_pub, clippy::all, clippy::use_self)]
pub mod peer {
    tonic::include_proto!("umbel.peer.v1");
}

/// Edge to origin.
#[allow(missing_debug_implementations, unreachable_pub, clippy::all, clippy::use_self)]
pub mod origin {
    tonic::include_proto!("umbel.origin.v1");
}

/// Origins and edges to the control plane.
#[allow(missing_debug_implementations, unreachable_pub, clippy::all, clippy::use_self)]
pub mod control {
    tonic::include_proto!("umbel.control.v1");
}

/// Path under which an edge serves ciphertext to agents: `{CHUNKS_PATH}/{manifest id}/{index}`.
pub const CHUNKS_PATH: &str = "/.well-known/umbel/v1/chunks";

/// Largest gRPC message that carries a manifest: the largest manifest and room for what is around it.
pub const MAX_MANIFEST_MESSAGE: usize = umbel_content::MAX_MANIFEST_BYTES + 64 * 1024;

/// ALPN of the peer protocol.
pub const PEER_ALPN: &[u8] = b"umbel/peer/1";

/// Largest frame of the peer protocol; a bitmap of the most chunks a manifest may name fits.
pub const MAX_PEER_FRAME: usize = 128 * 1024;
