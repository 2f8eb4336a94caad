//! How an agent becomes a member: an enrolment token, or the device grant of RFC 8628. And how it stays one: renewal.

use std::{fmt, io, path::Path, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use umbel_content::SigningKey;
use umbel_service::{
    client::{self, HttpClient},
    files, tls, unix_now,
};
use umbel_wire::{
    enrolment::{
        DEVICE_AUTHORIZATION_PATH, DEVICE_CODE_GRANT, DeviceAuthorization, DeviceAuthorizationRequest,
        ENROLMENT_TOKEN_GRANT, RENEWAL_GRANT, TOKEN_PATH, TokenRefusal, TokenReply, TokenRequest, prove, prove_renewal,
    },
    invitation::{Invitation, NotAnInvitation, Purpose},
};

use crate::identity::{self, Enrolled, Identity, IdentityError};

/// Longest answer of the control plane that is read, in bytes.
const MAX_ANSWER: usize = 256 * 1024;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// RFC 8628, section 3.5: what `slow_down` adds to the interval.
const SLOW_DOWN: Duration = Duration::from_secs(5);
const RENEWAL_RETRY: Duration = Duration::from_secs(60);

/// What an agent shows to be let in.
pub enum Enrolment<'a> {
    /// An enrolment token's text.
    Token(&'a str),
    /// A person approves it in a browser.
    Device {
        /// Base URL.
        control_plane_url: &'a str,
        /// The installation's CA certificate.
        ca_pem: &'a str,
        /// Shows a person what to type and where.
        on_prompt: &'a (dyn Fn(&Prompt) + Send + Sync),
    },
}

impl fmt::Debug for Enrolment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token(..)",
            Self::Device { .. } => "Device(..)",
        })
    }
}

/// What a person is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// What to type.
    pub user_code: String,
    /// Where.
    pub verification_uri: String,
    /// Where, with the code filled in.
    pub verification_uri_complete: String,
    /// How long the code lives.
    pub expires_in: Duration,
}

/// Why an agent was not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The text is no enrolment token.
    #[error(transparent)]
    NotAToken(#[from] NotAnInvitation),
    /// A token for servers.
    #[error("this token is for servers: an agent needs one from `umbel admin token create agent`")]
    WrongPurpose,
    /// The CA is not usable.
    #[error("certificate of the installation")]
    Tls(#[from] tls::TlsError),
    /// The control plane could not be asked.
    #[error("cannot reach the control plane at {url}: {reason}")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        reason: String,
    },
    /// The control plane said no.
    #[error("the control plane refused: {description}")]
    Refused {
        /// Code of RFC 6749 or RFC 8628.
        code: String,
        /// For people.
        description: String,
    },
    /// Nobody approved in time.
    #[error("nobody approved the code in time")]
    Expired,
    /// The control plane answered nonsense.
    #[error("the control plane's answer cannot be understood")]
    Answer,
    /// The state folder.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Enrols the agent in `state`, making its key if it has none, and writes down what it was given.
pub async fn enroll(state: &Path, enrolment: Enrolment<'_>) -> Result<Identity, EnrolError> {
    let seed = seed(state)?;
    let key = SigningKey::from_seed(&seed);
    let (url, reply) = match enrolment {
        Enrolment::Token(text) => by_token(&key, text).await?,
        Enrolment::Device { control_plane_url, ca_pem, on_prompt } => {
            let office = Office::new(control_plane_url, ca_pem)?;
            (control_plane_url.to_owned(), by_device(&office, &key, on_prompt).await?)
        }
    };
    Ok(Identity::save(state, seed, enrolled(url, reply))?)
}

fn seed(state: &Path) -> Result<[u8; 32], IdentityError> {
    let fault = |source: io::Error| IdentityError::Io { folder: state.to_owned(), source };
    files::private_folder(state).map_err(fault)?;
    Ok(identity::existing_seed(state).map_err(fault)?.unwrap_or_else(rand::random))
}

fn enrolled(control_plane_url: String, reply: TokenReply) -> Enrolled {
    let now = unix_now();
    Enrolled {
        control_plane_url,
        ca_pem: reply.ca_pem,
        edges: reply.edges,
        membership: reply.access_token,
        renew_at: now + reply.expires_in / 2,
        expires_at: now + reply.expires_in,
    }
}

async fn by_token(key: &SigningKey, text: &str) -> Result<(String, TokenReply), EnrolError> {
    let invitation = Invitation::decode(text)?;
    if invitation.purpose != Purpose::Agent {
        return Err(EnrolError::WrongPurpose);
    }
    let office = Office::new(&invitation.url, &invitation.ca)?;
    let request = TokenRequest {
        grant_type: ENROLMENT_TOKEN_GRANT.into(),
        token: Some(invitation.secret.clone()),
        signature: URL_SAFE_NO_PAD.encode(prove(key, &invitation.secret)),
        ..request_of(key)
    };
    let reply = office.token(&request).await?.map_err(refused)?;
    Ok((invitation.url, reply))
}

async fn by_device(
    office: &Office,
    key: &SigningKey,
    on_prompt: &(dyn Fn(&Prompt) + Send + Sync),
) -> Result<TokenReply, EnrolError> {
    let asked = DeviceAuthorizationRequest { public_key: public(key), name: host_name() };
    let device: DeviceAuthorization = office.post(DEVICE_AUTHORIZATION_PATH, &asked).await?.map_err(refused)?;
    on_prompt(&Prompt {
        user_code: device.user_code.clone(),
        verification_uri: device.verification_uri.clone(),
        verification_uri_complete: device.verification_uri_complete.clone(),
        expires_in: Duration::from_secs(device.expires_in),
    });
    let polling = poll(office, key, &device);
    tokio::time::timeout(Duration::from_secs(device.expires_in), polling).await.map_err(|_| EnrolError::Expired)?
}

/// RFC 8628, section 3.5.
async fn poll(office: &Office, key: &SigningKey, device: &DeviceAuthorization) -> Result<TokenReply, EnrolError> {
    let request = TokenRequest {
        grant_type: DEVICE_CODE_GRANT.into(),
        device_code: Some(device.device_code.clone()),
        signature: URL_SAFE_NO_PAD.encode(prove(key, &device.device_code)),
        ..request_of(key)
    };
    let mut interval = Duration::from_secs(device.interval.max(1));
    loop {
        tokio::time::sleep(interval).await;
        let refusal = match office.token(&request).await {
            Ok(Ok(reply)) => return Ok(reply),
            Ok(Err(refusal)) => refusal,
            Err(EnrolError::Unreachable { .. }) => continue,
            Err(error) => return Err(error),
        };
        match refusal.error.as_str() {
            "authorization_pending" => {}
            "slow_down" => interval += SLOW_DOWN,
            "expired_token" => return Err(EnrolError::Expired),
            _ => return Err(refused(refusal)),
        }
    }
}

fn refused(refusal: TokenRefusal) -> EnrolError {
    let description =
        if refusal.error_description.is_empty() { refusal.error.clone() } else { refusal.error_description };
    EnrolError::Refused { code: refusal.error, description }
}

fn public(key: &SigningKey) -> String {
    URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes())
}

fn request_of(key: &SigningKey) -> TokenRequest {
    TokenRequest { public_key: public(key), name: host_name(), ..TokenRequest::default() }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "agent".into(), |name| name.trim().to_owned())
}

/// The control plane's OAuth endpoints.
struct Office {
    url: String,
    http: HttpClient,
}

impl Office {
    fn new(url: &str, ca_pem: &str) -> Result<Self, tls::TlsError> {
        Ok(Self { url: url.to_owned(), http: client::http(tls::client(ca_pem, None)?) })
    }

    async fn token(&self, request: &TokenRequest) -> Result<Result<TokenReply, TokenRefusal>, EnrolError> {
        self.post(TOKEN_PATH, request).await
    }

    async fn post<A: DeserializeOwned>(
        &self,
        path: &str,
        form: &impl Serialize,
    ) -> Result<Result<A, TokenRefusal>, EnrolError> {
        let unreachable = |reason: String| EnrolError::Unreachable { url: self.url.clone(), reason };
        let uri = client::join(&self.url, path).map_err(|error| unreachable(error.to_string()))?;
        let form = encode_form(form)?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(form)))
            .map_err(|error| unreachable(error.to_string()))?;
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, self.http.request(request))
            .await
            .map_err(|_| unreachable("no answer in time".into()))?
            .map_err(|error| unreachable(crate::chain(&error)))?;
        let succeeded = answer.status().is_success();
        let body =
            Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|_| EnrolError::Answer)?.to_bytes();
        if succeeded {
            return serde_json::from_slice(&body).map(Ok).map_err(|_| EnrolError::Answer);
        }
        serde_json::from_slice(&body).map(Err).map_err(|_| EnrolError::Answer)
    }
}

/// RFC 6749, appendix B. The messages are flat: every value is a text or a number.
fn encode_form(form: &impl Serialize) -> Result<String, EnrolError> {
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(form) else { return Err(EnrolError::Answer) };
    let mut text = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in fields {
        match value.as_str() {
            Some(value) => text.append_pair(&name, value),
            None => text.append_pair(&name, &value.to_string()),
        };
    }
    Ok(text.finish())
}

/// Renews the membership at half of its life, for ever; a failure is tried again each minute.
pub(crate) async fn keep_renewed(identity: Identity, stop: CancellationToken) {
    loop {
        let wait = identity.enrolled().renew_at.saturating_sub(unix_now());
        let due = tokio::time::sleep(Duration::from_secs(wait));
        tokio::select! { () = stop.cancelled() => return, () = due => {} }
        let renewed = tokio::select! { () = stop.cancelled() => return, renewed = renew(&identity) => renewed };
        match renewed {
            Ok(()) => info!("membership renewed"),
            Err(error) => {
                warn!(%error, "membership could not be renewed");
                tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(RENEWAL_RETRY) => {} }
            }
        }
    }
}

async fn renew(identity: &Identity) -> Result<(), EnrolError> {
    let old = identity.enrolled();
    let key = identity.key();
    let timestamp = unix_now();
    let request = TokenRequest {
        grant_type: RENEWAL_GRANT.into(),
        timestamp: Some(timestamp),
        signature: URL_SAFE_NO_PAD.encode(prove_renewal(&key, timestamp)),
        ..request_of(&key)
    };
    let office = Office::new(&old.control_plane_url, &old.ca_pem)?;
    let reply = office.token(&request).await?.map_err(refused)?;
    Ok(identity.update(enrolled(old.control_plane_url.clone(), reply))?)
}
