//! Signing in; accounts, API keys, S3 credentials.

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{delete, get, post, put},
};
use umbel_service::unix_now;
use uuid::Uuid;

use super::{Answer, Body, Path};
use crate::{
    accounts::{self, Caller, SESSION_LIFETIME},
    api::{
        Account, ApiKey, ForAccount, Login, NewAccount, NewApiKey, NewPassword, NewS3Credential, S3Credential, Session,
    },
    error::Error,
    state::ControlPlane,
};

pub(super) fn routes() -> Router<ControlPlane> {
    Router::new()
        .route("/login", post(login))
        .route("/accounts", get(list_accounts).post(create_account))
        .route("/accounts/{name}/password", put(set_password))
        .route("/accounts/{name}/disabled", put(disable).delete(enable))
        .route("/api-keys", get(list_api_keys).post(create_api_key))
        .route("/api-keys/{id}", delete(delete_api_key))
        .route("/s3-credentials", get(list_s3_credentials).post(create_s3_credential))
        .route("/s3-credentials/{id}", delete(delete_s3_credential))
}

async fn login(State(state): State<ControlPlane>, Body(login): Body<Login>) -> Answer<Session> {
    let caller = accounts::sign_in(&state.db, &login.account, login.password).await?;
    let token = accounts::session(state.authority.session_key(), caller.account_id, unix_now())?;
    Ok(Json(Session { token, expires_in: SESSION_LIFETIME.as_secs() }))
}

async fn list_accounts(State(state): State<ControlPlane>, caller: Caller) -> Answer<Vec<Account>> {
    Ok(Json(accounts::list(&state.db, caller.scope()).await?))
}

async fn create_account(
    State(state): State<ControlPlane>,
    caller: Caller,
    Body(new): Body<NewAccount>,
) -> Answer<Account> {
    caller.require_admin()?;
    Ok(Json(accounts::create(&state.db, &new.name, new.role, new.password.as_deref()).await?))
}

async fn set_password(
    State(state): State<ControlPlane>,
    caller: Caller,
    Path(name): Path<String>,
    Body(new): Body<NewPassword>,
) -> Result<StatusCode, Error> {
    let account = caller.acting_for(&state.db, Some(&name)).await?;
    accounts::set_password(&state.db, account, new.password).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn disable(State(state): State<ControlPlane>, caller: Caller, Path(name): Path<String>) -> Answer<Account> {
    caller.require_admin()?;
    Ok(Json(accounts::set_disabled(&state.db, &caller, &name, true).await?))
}

async fn enable(State(state): State<ControlPlane>, caller: Caller, Path(name): Path<String>) -> Answer<Account> {
    caller.require_admin()?;
    Ok(Json(accounts::set_disabled(&state.db, &caller, &name, false).await?))
}

async fn list_api_keys(State(state): State<ControlPlane>, caller: Caller) -> Answer<Vec<ApiKey>> {
    Ok(Json(accounts::api_keys(&state.db, caller.scope()).await?))
}

async fn create_api_key(
    State(state): State<ControlPlane>,
    caller: Caller,
    Body(new): Body<ForAccount>,
) -> Answer<NewApiKey> {
    let account = caller.acting_for(&state.db, new.account.as_deref()).await?;
    let mut connection = state.db.acquire().await?;
    Ok(Json(accounts::create_api_key(&mut connection, account, &new.label).await?))
}

async fn delete_api_key(
    State(state): State<ControlPlane>,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, Error> {
    accounts::delete_api_key(&state.db, caller.scope(), id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list_s3_credentials(State(state): State<ControlPlane>, caller: Caller) -> Answer<Vec<S3Credential>> {
    Ok(Json(accounts::s3_credentials(&state.db, caller.scope()).await?))
}

async fn create_s3_credential(
    State(state): State<ControlPlane>,
    caller: Caller,
    Body(new): Body<ForAccount>,
) -> Answer<NewS3Credential> {
    let account = caller.acting_for(&state.db, new.account.as_deref()).await?;
    Ok(Json(accounts::create_s3_credential(&state.db, account).await?))
}

async fn delete_s3_credential(
    State(state): State<ControlPlane>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Error> {
    accounts::delete_s3_credential(&state.db, caller.scope(), &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
