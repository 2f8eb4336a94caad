//! The gRPC face: what origins and edges call.

use tonic::{Code, Request, Status, server::NamedService};
use umbel_service::tls::PeerIdentity;
use umbel_wire::control::{Role, config_server::ConfigServer, nodes_server::NodesServer, usage_server::UsageServer};
use uuid::Uuid;

use crate::{error::Error, nodes, state::ControlPlane};

mod config;
mod join;
mod submit;

/// Batches may be large; everything else is small.
const MAX_BATCH_BYTES: usize = 16 << 20;
const MAX_REQUEST_BYTES: usize = 64 << 10;

/// The three services as routes.
pub(crate) fn app(state: &ControlPlane) -> axum::Router {
    let nodes = NodesServer::new(state.clone()).max_decoding_message_size(MAX_REQUEST_BYTES);
    let config = ConfigServer::new(state.clone()).max_decoding_message_size(MAX_REQUEST_BYTES);
    let usage = UsageServer::new(state.clone()).max_decoding_message_size(MAX_BATCH_BYTES);
    // Not tonic's own router: its fallback would answer for the REST routes, too.
    axum::Router::new()
        .route_service(&path_of::<NodesServer<ControlPlane>>(), nodes)
        .route_service(&path_of::<ConfigServer<ControlPlane>>(), config)
        .route_service(&path_of::<UsageServer<ControlPlane>>(), usage)
}

fn path_of<S: NamedService>() -> String {
    format!("/{}/{{*method}}", S::NAME)
}

/// The node that calls, by its certificate; it must still be a member.
async fn caller<T>(state: &ControlPlane, request: &Request<T>) -> Result<(Uuid, Role), Status> {
    let peer = request.extensions().get::<PeerIdentity>();
    let peer = peer.ok_or_else(|| Status::unauthenticated("a client certificate of this installation is needed"))?;
    Ok(nodes::member(&state.db, peer).await?)
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Invalid(_) => Code::InvalidArgument,
            Error::Unauthenticated(_) => Code::Unauthenticated,
            Error::Forbidden(_) => Code::PermissionDenied,
            Error::NotFound(_) => Code::NotFound,
            Error::Conflict(_) => Code::AlreadyExists,
            Error::Busy(_) => Code::ResourceExhausted,
            Error::DatabaseAway(_) => Code::Unavailable,
            Error::Database(_) | Error::Authority(_) | Error::Damaged(_) => Code::Internal,
        };
        error.log();
        Self::new(code, error.to_string())
    }
}
