//! The agents' side of an edge: the gRPC service of `umbel.agent.v1`, and the sessions that its calls belong to.

use std::{net::SocketAddr, pin::Pin, sync::Arc};

use futures::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use umbel_service::listen::Connection;
use umbel_wire::agent::{
    FromAgent, FromEdge, OpenReply, OpenRequest, ReportReply, ReportRequest,
    agents_server::{Agents, AgentsServer},
};

use crate::core::Core;

pub(crate) mod chunks;
mod hello;
pub(crate) use hello::check_membership;
pub(crate) mod open;
mod report;
pub(crate) mod session;

use session::Session;

/// Longest message of an agent, bytes: a bitmap or a list of half a million chunks fits.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// The gRPC service.
pub(crate) type Service = AgentsServer<AgentService>;

/// `umbel.agent.v1.Agents`.
#[derive(Debug, Clone)]
pub(crate) struct AgentService {
    core: Arc<Core>,
}

impl AgentService {
    /// Ready to be called with requests of the public port.
    pub(crate) fn service(core: Arc<Core>) -> Service {
        AgentsServer::new(Self { core }).max_decoding_message_size(MAX_MESSAGE)
    }

    fn session_of<T>(&self, request: &Request<T>) -> Result<Arc<Session>, Status> {
        let field = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let bearer = field.and_then(|text| text.strip_prefix("Bearer ").or_else(|| text.strip_prefix("bearer ")));
        let session = self.core.sessions.find(bearer.unwrap_or_default());
        session.ok_or_else(|| Status::unauthenticated("there is no such session"))
    }
}

#[tonic::async_trait]
impl Agents for AgentService {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<FromEdge, Status>> + Send>>;

    async fn session(&self, request: Request<Streaming<FromAgent>>) -> Result<Response<Self::SessionStream>, Status> {
        let remote = remote(&request)?;
        let outbox = session::serve(&self.core, remote, request.into_inner())?;
        Ok(Response::new(Box::pin(ReceiverStream::new(outbox))))
    }

    async fn open(&self, request: Request<OpenRequest>) -> Result<Response<OpenReply>, Status> {
        let (session, remote) = (self.session_of(&request)?, remote(&request)?);
        open::open(&self.core, &session, remote, request.into_inner()).await.map(Response::new)
    }

    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportReply>, Status> {
        let session = self.session_of(&request)?;
        report::report(&self.core, &session, request.into_inner()).await.map(Response::new)
    }
}

fn remote<T>(request: &Request<T>) -> Result<SocketAddr, Status> {
    let connection = request.extensions().get::<Connection>();
    connection.map(|connection| connection.remote).ok_or_else(|| Status::internal("connection unknown"))
}
