//! Purges of sites, and the edges that carry them out.

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    routing::get,
};
use uuid::Uuid;

use super::{Answer, Body, Path};
use crate::{
    accounts::Caller,
    api::{Edge, NewPurge, Purge},
    purges,
    state::ControlPlane,
};

/// Thousands of URLs.
const MAX_PURGE_BYTES: usize = 8 << 20;

pub(super) fn routes() -> Router<ControlPlane> {
    Router::new()
        .route("/sites/{name}/purges", get(list).post(create).layer(DefaultBodyLimit::max(MAX_PURGE_BYTES)))
        .route("/sites/{name}/purges/{id}", get(show))
        .route("/edges", get(edges))
}

async fn list(State(state): State<ControlPlane>, caller: Caller, Path(name): Path<String>) -> Answer<Vec<Purge>> {
    Ok(Json(purges::list(&state.db, caller.scope(), &name).await?))
}

async fn create(
    State(state): State<ControlPlane>,
    caller: Caller,
    Path(name): Path<String>,
    Body(new): Body<NewPurge>,
) -> Answer<Purge> {
    Ok(Json(purges::create(&state.db, caller.scope(), &name, &new).await?))
}

async fn show(
    State(state): State<ControlPlane>,
    caller: Caller,
    Path((name, id)): Path<(String, Uuid)>,
) -> Answer<Purge> {
    Ok(Json(purges::show(&state.db, &state.presence, caller.scope(), &name, id).await?))
}

async fn edges(State(state): State<ControlPlane>, _caller: Caller) -> Answer<Vec<Edge>> {
    Ok(Json(purges::edges(&state.db, &state.presence).await?))
}
