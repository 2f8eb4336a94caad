//! `umbel.control.v1.Nodes`.

use tonic::{Request, Response, Status, async_trait};
use umbel_wire::control::{JoinReply, JoinRequest, RenewReply, RenewRequest, nodes_server::Nodes};

use super::caller;
use crate::{nodes, state::ControlPlane};

#[async_trait]
impl Nodes for ControlPlane {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let reply = nodes::join(&self.db, &self.authority, self.lifetimes.certificate, request.get_ref()).await?;
        self.metrics.count_issued("certificate");
        tracing::info!(node = reply.node_id, role = reply.role().as_str_name(), "a node joined");
        Ok(Response::new(reply))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        let node = caller(self, &request).await?;
        let lifetime = self.lifetimes.certificate;
        let reply = nodes::renew(&self.db, &self.authority, lifetime, node, request.get_ref()).await?;
        self.metrics.count_issued("certificate");
        tracing::debug!(node = %node.0, "certificate renewed");
        Ok(Response::new(reply))
    }
}
