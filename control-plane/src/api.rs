//! The JSON of the REST API, for both of its ends. Times are RFC 3339, ids UUIDs unless they say otherwise; all under `/api/v1`.

use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use umbel_wire::control;
use uuid::Uuid;

pub use crate::accounts::AccountRole;

mod certificate;
mod purge;

pub use certificate::{Certificate, NewCertificate};
pub use purge::{Edge, NewPurge, Purge, PurgeState, PurgedEdge};

/// `POST login`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// Account name.
    pub account: String,
    /// Its password.
    pub password: String,
}

/// Answer to [`Login`].
#[derive(Clone, Serialize, Deserialize)]
pub struct Session {
    /// For `Authorization: Bearer`.
    pub token: String,
    /// Seconds it lives.
    pub expires_in: u64,
}

/// `POST accounts` (admins).
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAccount {
    /// 1 to 64 of `a-z0-9-_.@`.
    pub name: String,
    /// What it may do.
    pub role: AccountRole,
    /// Without one, the account has only API keys.
    #[serde(default)]
    pub password: Option<String>,
}

/// `PUT accounts/{name}/password`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    /// 10 to 1024 bytes.
    pub password: String,
}

/// An account; `GET accounts`, answer of `POST accounts`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Account {
    /// Unique.
    pub id: Uuid,
    /// Unique.
    pub name: String,
    /// What it may do.
    pub role: AccountRole,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Set: nobody gets in with it, and its S3 credentials are void. `PUT` and `DELETE accounts/{name}/disabled` (admins).
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub disabled_at: Option<OffsetDateTime>,
}

/// `POST api-keys`, `POST s3-credentials`: for whom.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForAccount {
    /// Name; only admins may name another than their own.
    #[serde(default)]
    pub account: Option<String>,
    /// What it is for, for people.
    #[serde(default)]
    pub label: String,
}

/// Answer of `POST api-keys`: the key is shown only here.
#[derive(Clone, Serialize, Deserialize)]
pub struct NewApiKey {
    /// Names it in `DELETE api-keys/{id}`.
    pub id: Uuid,
    /// `umbel_key_...`, for `Authorization: Bearer`.
    pub api_key: String,
}

/// `GET api-keys`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApiKey {
    /// Names it in `DELETE api-keys/{id}`.
    pub id: Uuid,
    /// Account name.
    pub account: String,
    /// What it is for.
    pub label: String,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// Answer of `POST s3-credentials`: the secret is shown only here.
#[derive(Clone, Serialize, Deserialize)]
pub struct NewS3Credential {
    /// `AWS_ACCESS_KEY_ID`.
    pub access_key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: String,
}

/// `GET s3-credentials`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct S3Credential {
    /// Names it in `DELETE s3-credentials/{id}`.
    pub access_key_id: String,
    /// Account name.
    pub account: String,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// `POST sites`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSite {
    /// 3 to 63 of `a-z0-9-`; also the S3 bucket.
    pub name: String,
    /// Account name; only admins may name another than their own.
    #[serde(default)]
    pub account: Option<String>,
    /// Host names that it answers on.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Whether anyone may read it.
    #[serde(default)]
    pub public: bool,
    /// Where its documents come from, if they are not uploaded.
    #[serde(default)]
    pub pull: Option<Pull>,
}

/// The provider's own web server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pull {
    /// `http(s)://host[:port]`; several are the same server at several addresses.
    pub upstreams: Vec<String>,
    /// Sent to it as `Host`, if not the upstream URL's own.
    #[serde(default)]
    pub host: Option<String>,
    /// What is spoken with it.
    #[serde(default)]
    pub protocol: Protocol,
    /// How long all upstreams together may take to begin an answer: 100 ms to 10 minutes; absent: 30 s.
    #[serde(default)]
    pub first_byte_ms: Option<u32>,
    /// How long one may take between two pieces of an answer: 100 ms to an hour; absent: 60 s.
    #[serde(default)]
    pub between_bytes_ms: Option<u32>,
}

/// What is spoken with a provider's web server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP/1.1, and for those who ask for trailers HTTP/2 where the server has it.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// HTTP/1.1.
    #[serde(rename = "1.1")]
    Http1,
    /// HTTP/2, also without TLS. Only upgrades (WebSocket) go over HTTP/1.1.
    #[serde(rename = "2")]
    Http2,
}

impl Protocol {
    const ALL: [Self; 3] = [Self::Auto, Self::Http1, Self::Http2];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Http1 => "1.1",
            Self::Http2 => "2",
        }
    }

    /// The database has no other.
    pub(crate) fn of(name: &str) -> Self {
        Self::ALL.into_iter().find(|protocol| protocol.as_str() == name).unwrap_or_default()
    }

    pub(crate) fn on_wire(self) -> control::PullProtocol {
        match self {
            Self::Auto => control::PullProtocol::Auto,
            Self::Http1 => control::PullProtocol::Http1,
            Self::Http2 => control::PullProtocol::Http2,
        }
    }
}

/// A site; `GET sites`, `GET sites/{name}`, answer of everything that changes one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Site {
    /// Unique, for ever.
    pub id: Uuid,
    /// Unique among the sites that are not deleted.
    pub name: String,
    /// Account name.
    pub account: String,
    /// Host names that it answers on.
    pub hosts: Vec<String>,
    /// Ed25519 key that its manifests are checked with, base64url.
    pub public_key: String,
    /// Who may read it, and how it is delivered.
    pub policy: Policy,
    /// Where its documents come from, if they are not uploaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull: Option<Pull>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// A site's policy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Policy {
    /// Whether anyone may read it; otherwise a grant is needed.
    pub public: bool,
    /// Keys that grants are checked with.
    pub reader_keys: Vec<ReaderKey>,
    /// `Cache-Control` of objects that bring none.
    pub cache_control: String,
    /// How long an edge may use its answer of which version is current, in milliseconds.
    pub lookup_ttl_ms: u32,
    /// Whether agents may hold and exchange its chunks.
    pub peers: bool,
    /// Agents of which trust domains may: `trusted`, `public`.
    pub trust_domains: Vec<String>,
    /// Where plain HTTP readers may bring grants.
    pub carriers: Vec<Carrier>,
    /// Pulled bodies of at least so many bytes become versions, which agents share.
    pub share_above: u64,
}

/// Where a grant stands in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carrier {
    /// `Authorization: Bearer`
    Bearer,
    /// The query parameter `umbel_grant`: a signed URL.
    Query,
    /// The cookie `umbel_grant`.
    Cookie,
}

impl Carrier {
    const ALL: [Self; 3] = [Self::Bearer, Self::Query, Self::Cookie];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Query => "query",
            Self::Cookie => "cookie",
        }
    }

    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|carrier| carrier.as_str() == name)
    }

    pub(crate) fn on_wire(self) -> control::Carrier {
        match self {
            Self::Bearer => control::Carrier::Bearer,
            Self::Query => control::Carrier::Query,
            Self::Cookie => control::Carrier::Cookie,
        }
    }
}

/// `PATCH sites/{name}/policy`: what is absent stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyChange {
    /// See [`Policy::public`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<bool>,
    /// See [`Policy::cache_control`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<String>,
    /// See [`Policy::lookup_ttl_ms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookup_ttl_ms: Option<u32>,
    /// See [`Policy::peers`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<bool>,
    /// See [`Policy::trust_domains`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_domains: Option<Vec<String>>,
    /// See [`Policy::carriers`]; at least one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carriers: Option<Vec<Carrier>>,
    /// See [`Policy::share_above`]; from 64 KiB to 1 TiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_above: Option<u64>,
}

/// A key of a provider that signs grants; `PUT sites/{name}/reader-keys/{id}` takes `public_key` and `not_after`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReaderKey {
    /// The `kid` of its grants: 1 to 64 of `a-zA-Z0-9-_.`.
    #[serde(default)]
    pub id: String,
    /// Ed25519, base64url.
    pub public_key: String,
    /// What it signed is good for nothing from then on; absent: no end.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub not_after: Option<OffsetDateTime>,
}

/// `POST sites/{name}/reader-keys`: a new reader key, beside which those of before live on for a while. Those that have ended are
/// removed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// The `kid` of the new key's grants; another than the old keys'.
    pub id: String,
    /// Ed25519, base64url.
    pub public_key: String,
    /// Seconds after which the old keys end, if they do not end before; a year at most.
    pub overlap: u64,
}

/// What a join token makes of its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeRole {
    /// An origin.
    Origin,
    /// An edge.
    Edge,
}

/// `POST join-tokens` (admins).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewJoinToken {
    /// What its user becomes.
    pub role: NodeRole,
    /// Seconds it lives; a day if absent, 30 days at most.
    #[serde(default)]
    pub expires_in: Option<u64>,
}

/// `POST enrolment-tokens`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewEnrolmentToken {
    /// How many agents it lets in, at most 1,000,000.
    pub uses: u32,
    /// Seconds it lives; a day if absent, a year at most.
    #[serde(default)]
    pub expires_in: Option<u64>,
    /// `public` if absent; `trusted` is for admins to give.
    #[serde(default)]
    pub trust_domain: Option<TrustDomain>,
}

/// Answer of `POST join-tokens` and `POST enrolment-tokens`.
#[derive(Clone, Serialize, Deserialize)]
pub struct NewToken {
    /// `umbel1....`: the whole invitation, a secret that is shown only here.
    pub token: String,
    /// When it ends.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

/// Whose machines and networks an agent is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrustDomain {
    /// The operator's or a customer's own.
    Trusted,
    /// End users' anywhere.
    Public,
}

impl TrustDomain {
    /// As it is stored and sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Public => "public",
        }
    }
}

/// `GET nodes` (admins).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Node {
    /// Names it in `DELETE nodes/{id}`.
    pub id: Uuid,
    /// `origin` or `edge`.
    pub role: String,
    /// For readers and agents.
    pub public_url: String,
    /// For other servers.
    pub internal_url: String,
    /// Of the S3 API.
    pub s3_url: String,
    /// Of the relay.
    pub relay_url: String,
    /// When it joined.
    #[serde(with = "time::serde::rfc3339")]
    pub joined_at: OffsetDateTime,
    /// When it last got a certificate.
    #[serde(with = "time::serde::rfc3339")]
    pub renewed_at: OffsetDateTime,
    /// Edges: number of the last usage batch.
    pub last_batch: Option<i64>,
}

/// `GET agents`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Agent {
    /// Its public key, base64url.
    pub id: String,
    /// Name of the account that enrolled it.
    pub account: Option<String>,
    /// `trusted` or `public`.
    pub trust_domain: String,
    /// What it calls itself.
    pub name: String,
    /// When it was enrolled.
    #[serde(with = "time::serde::rfc3339")]
    pub enrolled_at: OffsetDateTime,
    /// When it last got a membership.
    #[serde(with = "time::serde::rfc3339")]
    pub renewed_at: OffsetDateTime,
    /// Set: it is out.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
}

/// `POST device-codes/{user code}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceDecision {
    /// Whether the agent is let in.
    pub approve: bool,
    /// `public` if absent; `trusted` is for admins to give.
    #[serde(default)]
    pub trust_domain: Option<TrustDomain>,
}

/// `GET device-codes/{user code}`, answer of its `POST`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceCode {
    /// `XXXX-XXXX`.
    pub user_code: String,
    /// The agent's public key, base64url.
    pub agent: String,
    /// What the agent calls itself.
    pub name: String,
    /// None: nobody has decided yet.
    pub approved: Option<bool>,
}

/// What a usage report is summed up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UsageBy {
    /// Site name.
    Site,
    /// Node id of the edge that served, or that signed the ticket.
    Edge,
    /// Account that owns the site.
    Account,
    /// Site name and path.
    Object,
    /// Start of the hour, RFC 3339.
    Hour,
}

impl UsageBy {
    /// As it stands in the query.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::Edge => "edge",
            Self::Account => "account",
            Self::Object => "object",
            Self::Hour => "hour",
        }
    }
}

/// Query of `GET usage`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageQuery {
    /// What to sum up by.
    pub by: UsageBy,
    /// From this hour on (that of 08:30 is 08:00): RFC 3339, or a day as `YYYY-MM-DD` (UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Up to, not including, this hour; later than `from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Rows at most; 100,000 if absent, and at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Answer of `GET usage`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageReport {
    /// In order of their keys.
    pub rows: Vec<UsageRow>,
    /// Whether there are more rows than the limit.
    pub truncated: bool,
}

/// One sum. Bytes are plaintext bytes of content, delivered: written to a reader, or verified by an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// See [`UsageBy`].
    pub key: String,
    /// By object: the path; else empty.
    pub path: String,
    /// HTTP requests of readers, and transfers to agents (one per ticket).
    pub requests: i64,
    /// Sent by edges, to readers and to agents.
    pub edge_bytes: i64,
    /// Sent by agents.
    pub peer_bytes: i64,
    /// Both.
    pub total_bytes: i64,
}

/// An error's body (RFC 9457).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Problem {
    /// The status' own words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What went wrong here.
    pub detail: String,
}

/// These carry secrets.
macro_rules! redacted {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}

redacted!(Login, Session, NewAccount, NewPassword, NewApiKey, NewS3Credential, NewToken);
