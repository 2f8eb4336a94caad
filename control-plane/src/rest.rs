//! The REST face under `/api/v1`: what `umbel admin` calls. The JSON is in [`crate::api`].

use axum::{
    Json, Router,
    extract::{
        DefaultBodyLimit, FromRequest, FromRequestParts, Request,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;

use crate::{
    accounts::{self, Caller},
    api::Problem,
    error::Error,
    state::ControlPlane,
};

mod accounts_routes;
mod fleet;
mod purges_routes;
mod sites_routes;

const MAX_BODY_BYTES: usize = 64 << 10;

type Answer<T> = Result<Json<T>, Error>;

/// All REST routes.
pub(crate) fn app(state: &ControlPlane) -> Router {
    let sites = sites_routes::routes().merge(purges_routes::routes());
    let routes = Router::new().merge(accounts_routes::routes()).merge(sites).merge(fleet::routes());
    Router::new()
        .nest("/api/v1", routes.fallback(unknown_route).method_not_allowed_fallback(wrong_method))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(state.clone())
}

async fn unknown_route() -> Error {
    Error::NotFound("API route")
}

async fn wrong_method() -> Response {
    problem(StatusCode::METHOD_NOT_ALLOWED, "this route knows other methods".into())
}

// ---- Who asks ----

impl FromRequestParts<ControlPlane> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &ControlPlane) -> Result<Self, Error> {
        let bearer = bearer(&parts.headers).ok_or(Error::Unauthenticated("an API key or a session is needed"))?;
        accounts::authenticate(&state.db, state.authority.session_key(), bearer).await
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

// ---- What is asked ----

/// A JSON body; anything else is a problem document.
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        let Json(value) = Json::from_request(request, state).await?;
        Ok(Self(value))
    }
}

/// A query string.
struct Query<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let axum::extract::Query(value) = axum::extract::Query::from_request_parts(parts, state).await?;
        Ok(Self(value))
    }
}

/// Parts of the path.
struct Path<T>(T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let axum::extract::Path(value) = axum::extract::Path::from_request_parts(parts, state).await?;
        Ok(Self(value))
    }
}

impl From<JsonRejection> for Error {
    fn from(rejection: JsonRejection) -> Self {
        Self::invalid(rejection.body_text())
    }
}

impl From<QueryRejection> for Error {
    fn from(rejection: QueryRejection) -> Self {
        Self::invalid(rejection.body_text())
    }
}

impl From<PathRejection> for Error {
    fn from(rejection: PathRejection) -> Self {
        Self::invalid(rejection.body_text())
    }
}

// ---- What is answered ----

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        self.log();
        let mut response = problem(self.status(), self.to_string());
        let headers = response.headers_mut();
        if matches!(self, Self::Unauthenticated(_)) {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(self, Self::DatabaseAway(_) | Self::Busy(_)) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}

impl Error {
    /// The status that says whose fault it is.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Busy(_) | Self::DatabaseAway(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Database(_) | Self::Authority(_) | Self::Damaged(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

fn problem(status: StatusCode, detail: String) -> Response {
    let title = status.canonical_reason().unwrap_or_default().to_owned();
    let body = Problem { title, status: status.as_u16(), detail };
    // Strings and a number always serialize.
    let body = serde_json::to_vec(&body).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
}
