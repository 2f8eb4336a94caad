//! End users' agents: the ways in (a code that a person approves, a token that was handed out), renewal, and the way out.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use umbel_wire::token::{AgentId, Membership, TokenSigner};
use uuid::Uuid;

use crate::{
    accounts::{Caller, bounded},
    api::{Agent, DeviceCode, DeviceDecision, TrustDomain},
    changes::{self, Kind},
    error::{Error, Result},
    secrets,
};

/// How long a device code lives.
pub(crate) const DEVICE_CODE_LIFETIME: Duration = Duration::from_secs(900);
/// Seconds between two polls of a device code.
pub(crate) const POLL_INTERVAL: u64 = 2;
/// Anyone may ask for a code: so many may wait at once.
const MAX_PENDING_CODES: i64 = 10_000;

/// Why a token request gets no membership: the codes of RFC 6749, section 5.2, and RFC 8628, section 3.5.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("nobody has decided yet")]
    AuthorizationPending,
    #[error("poll less often")]
    SlowDown,
    #[error("{0}")]
    AccessDenied(&'static str),
    #[error("the code has expired: ask for a new one")]
    ExpiredToken,
    #[error("{0}")]
    InvalidGrant(&'static str),
    #[error("{0}")]
    InvalidRequest(&'static str),
    #[error("unknown grant type")]
    UnsupportedGrantType,
    #[error(transparent)]
    Other(#[from] Error),
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        Self::Other(error.into())
    }
}

// ---- Device codes ----

/// A fresh pair of device code and user code for `agent`.
pub(crate) async fn create_device_code(db: &PgPool, agent: &AgentId, name: &str) -> Result<(String, String)> {
    let name = bounded(name, "name")?;
    let pending = sqlx::query_scalar!(r#"select count(*) as "count!" from device_codes where expires_at > now()"#);
    if pending.fetch_one(db).await? >= MAX_PENDING_CODES {
        return Err(Error::Busy("too many agents are waiting to be approved"));
    }
    let (device_code, user_code) = (secrets::token(), secrets::user_code());
    let insert = sqlx::query!(
        "insert into device_codes (code_hash, user_code, agent, name, expires_at) values ($1, $2, $3, $4, $5)",
        secrets::hash(&device_code),
        user_code,
        &agent[..],
        name,
        OffsetDateTime::now_utc() + DEVICE_CODE_LIFETIME,
    );
    // Two equal user codes at a time: as good as never, and then this request fails and the agent asks again.
    insert.execute(db).await.map_err(|error| crate::error::unique(error, "try again"))?;
    Ok((device_code, user_code))
}

/// What a person is asked to approve.
pub(crate) async fn device_code(db: &PgPool, typed: &str) -> Result<DeviceCode> {
    const UNKNOWN: Error = Error::NotFound("code; perhaps it has expired");
    let user_code = secrets::normal_user_code(typed).ok_or(UNKNOWN)?;
    let row = sqlx::query!(
        "select user_code, agent, name, approved from device_codes where user_code = $1 and expires_at > now()",
        user_code,
    );
    let row = row.fetch_optional(db).await?.ok_or(UNKNOWN)?;
    let agent = secrets::base64url(&row.agent);
    Ok(DeviceCode { user_code: row.user_code, agent, name: row.name, approved: row.approved })
}

/// Approves or refuses; the first decision stands.
pub(crate) async fn decide(db: &PgPool, by: &Caller, typed: &str, decision: &DeviceDecision) -> Result<DeviceCode> {
    let domain = may_give(by, decision.trust_domain)?;
    let code = device_code(db, typed).await?;
    let update = sqlx::query!(
        "update device_codes set approved = $2, account_id = $3, trust_domain = $4
         where user_code = $1 and approved is null and expires_at > now()",
        code.user_code,
        decision.approve,
        by.account_id,
        domain.as_str(),
    );
    match update.execute(db).await?.rows_affected() {
        0 => Err(Error::conflict("this code has been decided on already")),
        _ => Ok(DeviceCode { approved: Some(decision.approve), ..code }),
    }
}

/// Own machines and networks are the operator's to declare.
fn may_give(by: &Caller, asked: Option<TrustDomain>) -> Result<TrustDomain> {
    let domain = asked.unwrap_or(TrustDomain::Public);
    if domain == TrustDomain::Trusted {
        by.require_admin()?;
    }
    Ok(domain)
}

/// Exchanges an approved device code. It may be exchanged again while it lives: the answer may have been lost, and it serves
/// only the agent it was made for.
pub(crate) async fn redeem_device_code(db: &PgPool, device_code: &str, agent: &AgentId) -> Result<Member, Refusal> {
    let mut tx = db.begin().await?;
    let row = sqlx::query!(
        r#"select agent, name, approved, account_id, trust_domain, expires_at <= now() as "expired!",
             coalesce(polled_at > now() - make_interval(secs => $2), false) as "hasty!"
           from device_codes where code_hash = $1 for update"#,
        secrets::hash(device_code),
        0.9 * f64::from(u32::try_from(POLL_INTERVAL).unwrap_or(1)),
    );
    let row = row.fetch_optional(&mut *tx).await?.ok_or(Refusal::InvalidGrant("unknown device code"))?;
    if row.agent != agent {
        return Err(Refusal::InvalidGrant("this code was made for another key"));
    }
    if row.expired {
        return Err(Refusal::ExpiredToken);
    }
    let poll =
        sqlx::query!("update device_codes set polled_at = now() where code_hash = $1", secrets::hash(device_code));
    poll.execute(&mut *tx).await?;
    match (row.approved, row.account_id, row.trust_domain) {
        (Some(true), Some(account), Some(domain)) => {
            let member = admit(&mut tx, agent, account, &domain, &row.name).await?;
            tx.commit().await?;
            Ok(member)
        }
        (Some(_), _, _) => Err(Refusal::AccessDenied("the account that was asked did not let this agent in")),
        (None, _, _) => {
            tx.commit().await?;
            Err(if row.hasty { Refusal::SlowDown } else { Refusal::AuthorizationPending })
        }
    }
}

// ---- Enrolment tokens ----

/// Makes a token that lets in `uses` agents; returns its secret and its end.
pub(crate) async fn create_enrolment_token(
    db: &PgPool,
    by: &Caller,
    uses: u32,
    lifetime: Duration,
    domain: Option<TrustDomain>,
) -> Result<(String, OffsetDateTime)> {
    let domain = may_give(by, domain)?;
    let uses = i32::try_from(uses).ok().filter(|uses| (1..=1_000_000).contains(uses));
    let uses = uses.ok_or(Error::invalid("uses: 1 to 1000000"))?;
    let (secret, expires) = (secrets::token(), OffsetDateTime::now_utc() + lifetime);
    let insert = sqlx::query!(
        "insert into enrolment_tokens (id, secret_hash, account_id, trust_domain, uses_left, expires_at)
         values ($1, $2, $3, $4, $5, $6)",
        Uuid::now_v7(),
        secrets::hash(&secret),
        by.account_id,
        domain.as_str(),
        uses,
        expires,
    );
    insert.execute(db).await?;
    Ok((secret, expires))
}

/// Uses a token once; an agent that it has let in before costs no further use, since the answer may have been lost.
pub(crate) async fn redeem_enrolment_token(
    db: &PgPool,
    secret: &str,
    agent: &AgentId,
    name: &str,
) -> Result<Member, Refusal> {
    let mut tx = db.begin().await?;
    let token = sqlx::query!(
        r#"select id, account_id, trust_domain, uses_left, expires_at <= now() as "expired!",
             exists(select from accounts a where a.id = account_id and a.disabled_at is not null) as "disabled!"
           from enrolment_tokens where secret_hash = $1 for update"#,
        secrets::hash(secret),
    );
    let token = token.fetch_optional(&mut *tx).await?.ok_or(Refusal::InvalidGrant("unknown enrolment token"))?;
    if token.disabled {
        return Err(Refusal::InvalidGrant("the account that made this enrolment token is disabled"));
    }
    if token.expired {
        return Err(Refusal::InvalidGrant("this enrolment token has expired"));
    }
    let known = sqlx::query_scalar!(
        r#"select exists(select from agents where public_key = $1 and account_id = $2 and trust_domain = $3) as "known!""#,
        &agent[..],
        token.account_id,
        token.trust_domain,
    );
    if !known.fetch_one(&mut *tx).await? {
        if token.uses_left == 0 {
            return Err(Refusal::InvalidGrant("this enrolment token is used up"));
        }
        let spend = sqlx::query!("update enrolment_tokens set uses_left = uses_left - 1 where id = $1", token.id);
        spend.execute(&mut *tx).await?;
    }
    let name = bounded(name, "name")?;
    let member = admit(&mut tx, agent, token.account_id, &token.trust_domain, name).await?;
    tx.commit().await?;
    Ok(member)
}

// ---- Members ----

/// An agent that is in.
#[derive(Debug)]
pub(crate) struct Member {
    agent: AgentId,
    account_id: Option<Uuid>,
    trust_domain: String,
}

impl Member {
    /// Its membership from `now` (seconds since the Unix epoch).
    pub(crate) fn membership(&self, signer: &TokenSigner, now: u64, lifetime: Duration) -> String {
        let membership = Membership {
            agent: self.agent,
            account_id: self.account_id.map(|id| id.to_string()).unwrap_or_default(),
            trust_domain: self.trust_domain.clone(),
            id: Uuid::now_v7().to_string(),
            issued: now,
            expires: now + lifetime.as_secs(),
        };
        membership.sign(signer)
    }
}

async fn admit(
    tx: &mut PgConnection,
    agent: &AgentId,
    account: Uuid,
    domain: &str,
    name: &str,
) -> Result<Member, Refusal> {
    let upsert = sqlx::query!(
        "insert into agents (public_key, account_id, trust_domain, name) values ($1, $2, $3, $4)
         on conflict (public_key) do update
           set account_id = excluded.account_id, trust_domain = excluded.trust_domain, renewed_at = now(),
             name = excluded.name
           where agents.revoked_at is null",
        &agent[..],
        account,
        domain,
        name,
    );
    match upsert.execute(tx).await?.rows_affected() {
        0 => Err(Refusal::AccessDenied("this agent was revoked")),
        _ => Ok(Member { agent: *agent, account_id: Some(account), trust_domain: domain.to_owned() }),
    }
}

/// Another membership for an agent that is in.
pub(crate) async fn renew(db: &PgPool, agent: &AgentId) -> Result<Member, Refusal> {
    let update = sqlx::query!(
        "update agents set renewed_at = now() where public_key = $1 and revoked_at is null
         returning account_id, trust_domain",
        &agent[..],
    );
    let row = update.fetch_optional(db).await?.ok_or(Refusal::InvalidGrant("not enrolled, or revoked"))?;
    Ok(Member { agent: *agent, account_id: row.account_id, trust_domain: row.trust_domain })
}

pub(crate) async fn list(db: &PgPool, scope: Option<Uuid>) -> Result<Vec<Agent>> {
    let rows = sqlx::query!(
        r#"select g.public_key, a.name as "account?", g.trust_domain, g.name, g.enrolled_at, g.renewed_at, g.revoked_at
           from agents g left join accounts a on a.id = g.account_id
           where $1::uuid is null or g.account_id = $1 order by g.enrolled_at limit 100000"#,
        scope,
    );
    let rows = rows.fetch_all(db).await?.into_iter();
    Ok(rows
        .map(|row| Agent {
            id: secrets::base64url(&row.public_key),
            account: row.account,
            trust_domain: row.trust_domain,
            name: row.name,
            enrolled_at: row.enrolled_at,
            renewed_at: row.renewed_at,
            revoked_at: row.revoked_at,
        })
        .collect())
}

/// Puts an agent out for good: its key never gets a membership again.
pub(crate) async fn revoke(db: &PgPool, scope: Option<Uuid>, id: &str) -> Result<()> {
    let agent = secrets::from_base64url::<32>(id).ok_or(Error::NotFound("agent"))?;
    let mut tx = db.begin().await?;
    let update = sqlx::query!(
        "update agents set revoked_at = coalesce(revoked_at, now())
         where public_key = $1 and ($2::uuid is null or account_id = $2)",
        &agent[..],
        scope,
    );
    if update.execute(&mut *tx).await?.rows_affected() == 0 {
        return Err(Error::NotFound("agent"));
    }
    changes::record(&mut tx, &[(Kind::Agent, secrets::base64url(&agent))]).await?;
    Ok(tx.commit().await?)
}

/// Forgets codes and tokens that can no longer be used.
pub(crate) async fn prune(db: &PgPool) -> Result<()> {
    sqlx::query!("delete from device_codes where expires_at < now() - interval '1 hour'").execute(db).await?;
    sqlx::query!("delete from enrolment_tokens where expires_at < now() - interval '1 day'").execute(db).await?;
    sqlx::query!("delete from join_tokens where expires_at < now() - interval '1 day'").execute(db).await?;
    Ok(())
}
