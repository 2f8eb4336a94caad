//! What crosses a network between Umbel's programs: the protobuf messages and gRPC services of each
//! conversation, and the signed statements they carry (membership, grant, ticket, receipt), each with all of its checks.
//!
//! It decides whether a statement is true and for whom; it does not open connections, read a clock
//! or keep state. Start with [`token`] for who may do what, and with the `.proto` files for who says what.

pub mod carrier;
pub mod enrolment;
pub mod invitation;
pub mod receipt;
mod redact;
pub mod rendezvous;
pub mod session;
pub mod token;

/// Generated code names its neighbours by package, so the packages are nested as in the protocols.
#[allow(
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::use_self,
    reason = "generated code"
)]
mod umbel {
    pub mod agent {
        pub mod v1 {
            tonic::include_proto!("umbel.agent.v1");
        }
    }
    pub mod peer {
        pub mod v1 {
            tonic::include_proto!("umbel.peer.v1");
        }
    }
    pub mod origin {
        pub mod v1 {
            tonic::include_proto!("umbel.origin.v1");
        }
    }
    pub mod control {
        pub mod v1 {
            tonic::include_proto!("umbel.control.v1");
        }
    }
}

/// Agent to edge: sessions, the right to an object, receipts.
pub use umbel::agent::v1 as agent;
/// Origins and edges to the control plane.
pub use umbel::control::v1 as control;
/// Edge to origin.
pub use umbel::origin::v1 as origin;
/// Agent to agent, over QUIC.
pub use umbel::peer::v1 as peer;

/// Path under which an edge serves ciphertext to agents: `{CHUNKS_PATH}/{manifest id}/{index}`.
pub const CHUNKS_PATH: &str = "/.well-known/umbel/v1/chunks";

/// Largest gRPC message that carries a manifest: the largest manifest and room for what is around it.
pub const MAX_MANIFEST_MESSAGE: usize = umbel_content::MAX_MANIFEST_BYTES + 64 * 1024;

/// ALPN of the peer protocol.
pub const PEER_ALPN: &[u8] = b"umbel/peer/1";

/// Largest frame of the peer protocol; a bitmap of the most chunks a manifest may name fits.
pub const MAX_PEER_FRAME: usize = 128 * 1024;
