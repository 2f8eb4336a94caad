//! Report: receipts are checked, written down, synced, and then acknowledged.

use std::sync::Arc;

use tonic::Status;
use tracing::debug;
use umbel_service::unix_now;
use umbel_wire::{
    agent::{Receipt, ReportReply, ReportRequest},
    control::Received,
    receipt,
    token::{AgentId, KeySet, Ticket},
};

use super::session::Session;
use crate::core::Core;

/// Receipts in one report.
const MAX_RECEIPTS: usize = 2048;

/// Answers a Report.
pub(super) async fn report(core: &Arc<Core>, session: &Session, request: ReportRequest) -> Result<ReportReply, Status> {
    if request.receipts.len() > MAX_RECEIPTS {
        return Err(Status::invalid_argument(format!("more than {MAX_RECEIPTS} receipts in one report")));
    }
    let view = core.view.load_full();
    let checked: Vec<Result<Received, String>> =
        request.receipts.iter().map(|receipt| check(receipt, &view.ticket_keys, &session.agent)).collect();
    let refusals = checked.iter().map(|outcome| outcome.as_ref().err().cloned().unwrap_or_default()).collect();
    let taken: Vec<Received> = checked.into_iter().filter_map(Result::ok).collect();
    let count = taken.len();
    if !taken.is_empty() {
        core.spool.received(taken).await.map_err(|error| Status::unavailable(error.to_string()))?;
    }
    for _ in 0..count {
        core.metrics.receipt("taken");
    }
    for _ in count..request.receipts.len() {
        core.metrics.receipt("refused");
    }
    Ok(ReportReply { refusals })
}

fn check(receipt: &Receipt, keys: &KeySet, by: &AgentId) -> Result<Received, String> {
    let ticket = receipt::verify(receipt, keys).map_err(|error| {
        debug!(%error, "receipt refused");
        error.to_string()
    })?;
    if &ticket.receiver != by && ticket.sender.as_ref() != Some(by) {
        return Err("handed in by neither of its two sides".into());
    }
    Ok(received(receipt, ticket))
}

fn received(receipt: &Receipt, ticket: Ticket) -> Received {
    Received {
        at: unix_now(),
        ticket_id: ticket.id.to_vec().into(),
        issuer: ticket.issuer,
        receiver: ticket.receiver.to_vec().into(),
        sender: ticket.sender.map(|sender| sender.to_vec()).unwrap_or_default().into(),
        site_id: ticket.site_id,
        path: ticket.path,
        manifest_id: ticket.manifest.as_bytes().to_vec().into(),
        bytes: receipt.bytes,
    }
}
