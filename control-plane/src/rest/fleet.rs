//! Nodes and agents: tokens that let them in, lists, removal; decisions on device codes.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{delete, get, post},
};
use time::OffsetDateTime;
use umbel_wire::invitation::Purpose;
use uuid::Uuid;

use super::{Answer, Body, Path};
use crate::{
    accounts::Caller,
    agents,
    api::{Agent, DeviceCode, DeviceDecision, NewEnrolmentToken, NewJoinToken, NewToken, Node, NodeRole},
    error::{Error, Result},
    nodes,
    state::ControlPlane,
};

const DAY: u64 = 24 * 3600;

pub(super) fn routes() -> Router<ControlPlane> {
    Router::new()
        .route("/join-tokens", post(create_join_token))
        .route("/enrolment-tokens", post(create_enrolment_token))
        .route("/nodes", get(list_nodes))
        .route("/nodes/{id}", delete(remove_node))
        .route("/agents", get(list_agents))
        .route("/agents/{id}", delete(revoke_agent))
        .route("/device-codes/{code}", get(show_device_code).post(decide))
        .route("/ca", get(ca))
}

/// Seconds as asked for, a day if not, `most` days at most.
fn lifetime(asked: Option<u64>, most: u64) -> Result<Duration> {
    match asked.unwrap_or(DAY) {
        seconds if (1..=most * DAY).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        _ => Err(Error::invalid(format!("expires_in: 1 second to {most} days"))),
    }
}

fn token(state: &ControlPlane, purpose: Purpose, (secret, expires_at): (String, OffsetDateTime)) -> Json<NewToken> {
    Json(NewToken { token: state.invitation(purpose, secret), expires_at })
}

async fn create_join_token(
    State(state): State<ControlPlane>,
    caller: Caller,
    Body(new): Body<NewJoinToken>,
) -> Answer<NewToken> {
    caller.require_admin()?;
    let lifetime = lifetime(new.expires_in, 30)?;
    let made = nodes::create_join_token(&state.db, caller.account_id, new.role, lifetime).await?;
    let purpose = match new.role {
        NodeRole::Origin => Purpose::Origin,
        NodeRole::Edge => Purpose::Edge,
    };
    Ok(token(&state, purpose, made))
}

async fn create_enrolment_token(
    State(state): State<ControlPlane>,
    caller: Caller,
    Body(new): Body<NewEnrolmentToken>,
) -> Answer<NewToken> {
    let lifetime = lifetime(new.expires_in, 365)?;
    let made = agents::create_enrolment_token(&state.db, &caller, new.uses, lifetime, new.trust_domain).await?;
    Ok(token(&state, Purpose::Agent, made))
}

async fn list_nodes(State(state): State<ControlPlane>, caller: Caller) -> Answer<Vec<Node>> {
    caller.require_admin()?;
    Ok(Json(nodes::list(&state.db).await?))
}

async fn remove_node(State(state): State<ControlPlane>, caller: Caller, Path(id): Path<Uuid>) -> Result<StatusCode> {
    caller.require_admin()?;
    nodes::remove(&state.db, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list_agents(State(state): State<ControlPlane>, caller: Caller) -> Answer<Vec<Agent>> {
    Ok(Json(agents::list(&state.db, caller.scope()).await?))
}

async fn revoke_agent(State(state): State<ControlPlane>, caller: Caller, Path(id): Path<String>) -> Result<StatusCode> {
    agents::revoke(&state.db, caller.scope(), &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn show_device_code(
    State(state): State<ControlPlane>,
    _caller: Caller,
    Path(code): Path<String>,
) -> Answer<DeviceCode> {
    Ok(Json(agents::device_code(&state.db, &code).await?))
}

async fn decide(
    State(state): State<ControlPlane>,
    caller: Caller,
    Path(code): Path<String>,
    Body(decision): Body<DeviceDecision>,
) -> Answer<DeviceCode> {
    Ok(Json(agents::decide(&state.db, &caller, &code, &decision).await?))
}

/// The installation's CA certificate; no secret.
async fn ca(State(state): State<ControlPlane>) -> String {
    state.authority.ca_pem().to_owned()
}
