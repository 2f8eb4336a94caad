//! Sites, their hosts, policies and reader keys; usage.

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    routing::{get, patch, post, put},
};

use umbel_delivery::Document;

use super::{Answer, Body, Path, Query};
use crate::{
    accounts::Caller,
    api::{
        Certificate, NewCertificate, NewSite, PolicyChange, Pull, ReaderKey, Rotation, Site, UsageQuery, UsageReport,
    },
    error::Error,
    nodes, sites,
    state::ControlPlane,
    usage,
};

/// A delivery document, with its error pages.
const MAX_DOCUMENT: usize = 512 << 10;

pub(super) fn routes() -> Router<ControlPlane> {
    Router::new()
        .route("/sites", get(list).post(create))
        .route("/sites/{name}", get(show).delete(delete))
        .route("/sites/{name}/hosts/{host}", put(add_host).delete(remove_host))
        .route("/sites/{name}/policy", patch(change_policy))
        .route("/sites/{name}/pull", put(change_pull))
        .route(
            "/sites/{name}/delivery",
            get(show_delivery).put(put_delivery).layer(DefaultBodyLimit::max(MAX_DOCUMENT)),
        )
        .route("/sites/{name}/certificate", get(show_certificate).put(put_certificate).delete(delete_certificate))
        .route("/sites/{name}/reader-keys", post(rotate_reader_key))
        .route("/sites/{name}/reader-keys/{id}", put(put_reader_key).delete(delete_reader_key))
        .route("/usage", get(report))
}

async fn list(State(state): State<ControlPlane>, caller: Caller) -> Answer<Vec<Site>> {
    Ok(Json(sites::list(&state.db, caller.scope()).await?))
}

async fn create(State(state): State<ControlPlane>, caller: Caller, Body(new): Body<NewSite>) -> Answer<Site> {
    let account = caller.acting_for(&state.db, new.account.as_deref()).await?;
    may_claim(&state, &caller, &new.hosts).await?;
    Ok(Json(sites::create(&state.db, account, &new).await?))
}

/// The names of the installation's own servers are not for providers: edges would answer, with their sites, who means the
/// servers.
async fn may_claim(state: &ControlPlane, caller: &Caller, hosts: &[String]) -> Result<(), Error> {
    if caller.require_admin().is_ok() || hosts.is_empty() {
        return Ok(());
    }
    let nodes = nodes::own_names(&state.db).await?;
    let is_ours = |host: &String| {
        sites::check_host(host).is_ok_and(|host| state.own_names.contains(&host) || nodes.contains(&host))
    };
    if hosts.iter().any(is_ours) {
        return Err(Error::Forbidden(
            "this host is one of the installation's own servers: only admins may give it to a site",
        ));
    }
    Ok(())
}

async fn show(State(state): State<ControlPlane>, caller: Caller, Path(name): Path<String>) -> Answer<Site> {
    Ok(Json(sites::show(&state.db, caller.scope(), &name).await?))
}

async fn delete(
    State(state): State<ControlPlane>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Error> {
    sites::delete(&state.db, caller.scope(), &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn add_host(
    State(state): State<ControlPlane>,
    caller: Caller,
    Path((name, host)): Path<(String, String)>,
) -> Answer<Site> {
    may_claim(&state, &caller, std::slice::from_ref(&host)).await?;
    Ok(Json(sites::add_host(&state.db, caller.scope(), &name, &host).await?))
}

async fn remove_host(
    State(state): State<ControlPlane>,
    caller: Caller,
    Path((name, host)): Path<(String, String)>,
) -> Answer<Site> {
    Ok(Json(sites::remove_host(&state.db, caller.scope(), &name, &host).await?))
}

async fn change_policy(
    State(state): State<ControlPlane>,
    caller: Caller,
    Path(name): Path<String>,
    Body(change): Body<PolicyChange>,
) -> Answer<Site> {
    Ok(Json(sites::change_policy(&state.db, caller.scope(), &name, &change).await?))
}

async fn change_pull(
    State(state): State<ControlPlane>,
    caller: Caller,
    Path(name): Path<String>,
    Body(pull): Body<Pull>,
) -> Answer<Site> {
    Ok(Json(sites::change_pull(&state.db, caller.scope(), &name, &pull).await?))
}

async fn show_delivery(
    State(state): State<ControlPlane>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Document> {
    Ok(Json(sites::delivery::show(&state.db, caller.scope(), &name).await?))
}

async fn put_delivery(
    State(state): State<ControlPlane>,
    caller: Caller,
    Path(name): Path<String>,
    Body(document): Body<Document>,
) -> Answer<Document> {
    sites::delivery::put(&state.db, caller.scope(), &name, &document).await?;
    Ok(Json(document))
}

async fn show_certificate(
    State(state): State<ControlPlane>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Certificate> {
    Ok(Json(sites::certificate::show(&state.db, caller.scope(), &name).await?))
}

async fn put_certificate(
    State(state): State<ControlPlane>,
    caller: Caller,
    Path(name): Path<String>,
    Body(new): Body<NewCertificate>,
) -> Answer<Certificate> {
    Ok(Json(sites::certificate::put(&state.db, caller.scope(), &name, &new).await?))
}

async fn delete_certificate(
    State(state): State<ControlPlane>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Error> {
    sites::certificate::delete(&state.db, caller.scope(), &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn put_reader_key(
    State(state): State<ControlPlane>,
    caller: Caller,
    Path((name, id)): Path<(String, String)>,
    Body(key): Body<ReaderKey>,
) -> Answer<Site> {
    let key = ReaderKey { id, ..key };
    Ok(Json(sites::reader_keys::put(&state.db, caller.scope(), &name, &key).await?))
}

async fn rotate_reader_key(
    State(state): State<ControlPlane>,
    caller: Caller,
    Path(name): Path<String>,
    Body(new): Body<Rotation>,
) -> Answer<Site> {
    Ok(Json(sites::reader_keys::rotate(&state.db, caller.scope(), &name, &new).await?))
}

async fn delete_reader_key(
    State(state): State<ControlPlane>,
    caller: Caller,
    Path((name, id)): Path<(String, String)>,
) -> Answer<Site> {
    Ok(Json(sites::reader_keys::delete(&state.db, caller.scope(), &name, &id).await?))
}

async fn report(
    State(state): State<ControlPlane>,
    caller: Caller,
    Query(query): Query<UsageQuery>,
) -> Answer<UsageReport> {
    Ok(Json(usage::report(&state.db, caller.scope(), &query).await?))
}
