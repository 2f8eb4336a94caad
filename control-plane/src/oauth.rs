//! Agents' enrolment over HTTP: RFC 8628 and its siblings, and the keys that memberships are checked with. The messages are in
//! [`umbel_wire::enrolment`].

use axum::{
    Form, Json, Router,
    extract::{DefaultBodyLimit, State, rejection::FormRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use umbel_content::VerifyingKey;
use umbel_service::unix_now;
use umbel_wire::{
    enrolment::{
        self, DEVICE_AUTHORIZATION_PATH, DEVICE_CODE_GRANT, DeviceAuthorization, DeviceAuthorizationRequest,
        ENROLMENT_TOKEN_GRANT, RENEWAL_GRANT, TOKEN_PATH, TokenRefusal, TokenReply, TokenRequest,
    },
    token::AgentId,
};

use crate::{
    agents::{self, DEVICE_CODE_LIFETIME, Member, POLL_INTERVAL, Refusal},
    error::{Error, Result},
    nodes, secrets,
    state::ControlPlane,
};

const MAX_BODY_BYTES: usize = 8 << 10;
/// Longest device code, token or signature that is looked at.
const MAX_FIELD_BYTES: usize = 512;

/// The routes that agents use.
pub(crate) fn app(state: &ControlPlane) -> Router {
    Router::new()
        .route(DEVICE_AUTHORIZATION_PATH, post(authorize_device))
        .route(TOKEN_PATH, post(token))
        .route("/.well-known/jwks.json", get(jwks))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(state.clone())
}

async fn authorize_device(
    State(state): State<ControlPlane>,
    form: Result<Form<DeviceAuthorizationRequest>, FormRejection>,
) -> Result<Json<DeviceAuthorization>, Refusal> {
    let Form(request) = form.map_err(|_| Refusal::InvalidRequest("malformed form"))?;
    let agent = agent_id(&request.public_key)?;
    let (device_code, user_code) = agents::create_device_code(&state.db, &agent, &request.name).await?;
    let verification_uri = format!("{}/device", state.public_url);
    Ok(Json(DeviceAuthorization {
        device_code,
        verification_uri_complete: format!("{verification_uri}?user_code={user_code}"),
        verification_uri,
        user_code,
        expires_in: DEVICE_CODE_LIFETIME.as_secs(),
        interval: POLL_INTERVAL,
    }))
}

async fn token(
    State(state): State<ControlPlane>,
    form: Result<Form<TokenRequest>, FormRejection>,
) -> Result<Response, Refusal> {
    let Form(request) = form.map_err(|_| Refusal::InvalidRequest("malformed form"))?;
    let member = member(&state, &request).await?;
    let lifetime = state.lifetimes.membership;
    state.metrics.count_issued("membership");
    let reply = TokenReply {
        access_token: member.membership(state.authority.memberships(), unix_now(), lifetime),
        token_type: "PoP".into(),
        expires_in: lifetime.as_secs(),
        ca_pem: state.authority.ca_pem().to_owned(),
        edges: nodes::edge_urls(&state.db).await?,
    };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(reply)).into_response())
}

/// Checks that the agent itself asks, then what it asks by.
async fn member(state: &ControlPlane, request: &TokenRequest) -> Result<Member, Refusal> {
    const WRONG: Refusal = Refusal::InvalidGrant("the request is not signed by the agent's key");
    let agent = agent_id(&request.public_key)?;
    let key = VerifyingKey::from_bytes(agent);
    let signature = secrets::from_base64url::<64>(&request.signature).ok_or(WRONG)?;
    let proven = |secret: &str| enrolment::proven(&key, secret, &signature).then_some(()).ok_or(WRONG);
    match request.grant_type.as_str() {
        DEVICE_CODE_GRANT => {
            let code = field(request.device_code.as_deref(), "device_code is missing")?;
            proven(code)?;
            agents::redeem_device_code(&state.db, code, &agent).await
        }
        ENROLMENT_TOKEN_GRANT => {
            let secret = field(request.token.as_deref(), "token is missing")?;
            proven(secret)?;
            agents::redeem_enrolment_token(&state.db, secret, &agent, &request.name).await
        }
        RENEWAL_GRANT => {
            let timestamp = request.timestamp.ok_or(Refusal::InvalidRequest("timestamp is missing"))?;
            if !enrolment::renewal_proven(&key, timestamp, &signature, unix_now()) {
                return Err(Refusal::InvalidGrant("wrong signature, or a clock that is off by more than five minutes"));
            }
            agents::renew(&state.db, &agent).await
        }
        _ => Err(Refusal::UnsupportedGrantType),
    }
}

fn agent_id(public_key: &str) -> Result<AgentId, Refusal> {
    const EXPECTED: Refusal =
        Refusal::InvalidRequest("public_key: 32 bytes of an Ed25519 key, base64url without padding");
    secrets::from_base64url(public_key).ok_or(EXPECTED)
}

fn field<'a>(value: Option<&'a str>, missing: &'static str) -> Result<&'a str, Refusal> {
    value.filter(|text| text.len() <= MAX_FIELD_BYTES).ok_or(Refusal::InvalidRequest(missing))
}

/// RFC 7517; Ed25519 as in RFC 8037.
async fn jwks(State(state): State<ControlPlane>) -> Result<Json<Value>> {
    let rows = sqlx::query!("select id, public_key from membership_keys order by created_at, id");
    let rows = rows.fetch_all(&state.db).await?.into_iter();
    let keys: Vec<Value> = rows
        .map(|row| {
            let x = secrets::base64url(&row.public_key);
            json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": row.id, "x": x })
        })
        .collect();
    Ok(Json(json!({ "keys": keys })))
}

impl Refusal {
    /// The `error` of RFC 6749, section 5.2, or RFC 8628, section 3.5; none where it is not the agent's doing.
    fn code(&self) -> Option<&'static str> {
        match self {
            Self::AuthorizationPending => Some("authorization_pending"),
            Self::SlowDown => Some("slow_down"),
            Self::AccessDenied(_) => Some("access_denied"),
            Self::ExpiredToken => Some("expired_token"),
            Self::InvalidGrant(_) => Some("invalid_grant"),
            Self::InvalidRequest(_) | Self::Other(Error::Invalid(_)) => Some("invalid_request"),
            Self::UnsupportedGrantType => Some("unsupported_grant_type"),
            Self::Other(_) => None,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let refusal = match (self.code(), self) {
            (Some(code), refusal) => TokenRefusal { error: code.into(), error_description: refusal.to_string() },
            (None, Self::Other(error)) => return error.into_response(),
            // Every other refusal has a code.
            (None, refusal) => TokenRefusal { error: "server_error".into(), error_description: refusal.to_string() },
        };
        (StatusCode::BAD_REQUEST, [(header::CACHE_CONTROL, "no-store")], Json(refusal)).into_response()
    }
}
