//! `umbel.control.v1.Usage`.

use tonic::{Request, Response, Status, async_trait};
use umbel_wire::control::{Batch, BatchAck, Role, usage_server::Usage};

use super::caller;
use crate::{
    state::ControlPlane,
    usage::{self, Outcome},
};

#[async_trait]
impl Usage for ControlPlane {
    async fn submit(&self, request: Request<Batch>) -> Result<Response<BatchAck>, Status> {
        let (edge, role) = caller(self, &request).await?;
        if role != Role::Edge {
            return Err(Status::permission_denied("only edges have usage to submit"));
        }
        match usage::apply(&self.db, edge, request.into_inner()).await? {
            Outcome::Applied(last_applied) => {
                self.metrics.batches.inc();
                Ok(Response::new(BatchAck { last_applied }))
            }
            Outcome::Gap(last_applied) => {
                self.metrics.batch_gaps.inc();
                Err(gap(last_applied))
            }
        }
    }
}

/// The last number applied is in the text and, for programs, in the metadata `umbel-last-applied`.
fn gap(last_applied: u64) -> Status {
    let mut status = Status::failed_precondition(format!("a batch is missing: the last one applied is {last_applied}"));
    status.metadata_mut().insert("umbel-last-applied", last_applied.into());
    status
}
