//! Accounts and what they prove themselves with: passwords, API keys, sessions; and the S3 credentials of their uploads.

use std::{fmt, str::FromStr, time::Duration};

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::{
    api::{Account, ApiKey, NewApiKey, NewS3Credential, S3Credential},
    changes::{self, Kind},
    error::{Error, Result, unique},
    secrets,
};

/// How long a session lasts.
pub(crate) const SESSION_LIFETIME: Duration = Duration::from_secs(12 * 3600);
const SESSION_AUDIENCE: &str = "umbel-session";

/// Argon2 takes 19 MiB and a core: more at once than this would let guessing crowd out work.
static HASHING: Semaphore = Semaphore::const_new(2);
const HASHING_PATIENCE: Duration = Duration::from_secs(5);

const PASSWORD_BYTES: std::ops::RangeInclusive<usize> = 10..=1024;
const WRONG: Error = Error::Unauthenticated("wrong account or password");
const DISABLED: Error = Error::Unauthenticated("this account is disabled");

/// What an account may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccountRole {
    /// Everything.
    Admin,
    /// What belongs to the account itself.
    Provider,
}

impl AccountRole {
    /// As it is stored and sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Provider => "provider",
        }
    }
}

impl FromStr for AccountRole {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "admin" => Ok(Self::Admin),
            "provider" => Ok(Self::Provider),
            _ => Err(Error::Damaged("account role")),
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) account_id: Uuid,
    pub(crate) name: String,
    pub(crate) role: AccountRole,
}

impl Caller {
    /// Whose things the caller may see and touch: one account's, or (none) everybody's.
    pub(crate) fn scope(&self) -> Option<Uuid> {
        match self.role {
            AccountRole::Admin => None,
            AccountRole::Provider => Some(self.account_id),
        }
    }

    /// Refuses everyone but admins.
    pub(crate) fn require_admin(&self) -> Result<()> {
        match self.role {
            AccountRole::Admin => Ok(()),
            AccountRole::Provider => Err(Error::Forbidden("only admins may do this")),
        }
    }

    /// The account that the caller acts for: its own, or for admins any by name.
    pub(crate) async fn acting_for(&self, db: &PgPool, account: Option<&str>) -> Result<Uuid> {
        match account {
            None => Ok(self.account_id),
            Some(name) if name == self.name => Ok(self.account_id),
            Some(name) => {
                self.require_admin()?;
                id_of(db, name).await
            }
        }
    }
}

/// The id of the account of this name.
pub(crate) async fn id_of(db: &PgPool, name: &str) -> Result<Uuid> {
    let id = sqlx::query_scalar!("select id from accounts where name = $1", bounded(name, "account")?);
    id.fetch_optional(db).await?.ok_or(Error::NotFound("account"))
}

/// A short text for people, as it may be stored: no control characters (Postgres takes no NUL), at most 200 bytes.
pub(crate) fn bounded<'a>(text: &'a str, what: &'static str) -> Result<&'a str> {
    if text.len() > 200 || text.chars().any(char::is_control) {
        return Err(Error::invalid(format!("{what}: at most 200 bytes without control characters")));
    }
    Ok(text)
}

// ---- Accounts ----

pub(crate) async fn create(db: &PgPool, name: &str, role: AccountRole, password: Option<&str>) -> Result<Account> {
    check_name(name)?;
    let hash = match password {
        Some(password) => Some(hash_password(password.to_owned()).await?),
        None => None,
    };
    let insert = sqlx::query!(
        "insert into accounts (id, name, role, password_hash) values ($1, $2, $3, $4) returning id, created_at",
        Uuid::now_v7(),
        name,
        role.as_str(),
        hash,
    );
    let row = insert.fetch_one(db).await.map_err(|error| unique(error, "there is an account of this name"))?;
    Ok(Account { id: row.id, name: name.into(), role, created_at: row.created_at, disabled_at: None })
}

pub(crate) async fn list(db: &PgPool, scope: Option<Uuid>) -> Result<Vec<Account>> {
    let rows = sqlx::query!(
        "select id, name, role, created_at, disabled_at from accounts where $1::uuid is null or id = $1 order by name",
        scope,
    );
    let rows = rows.fetch_all(db).await?.into_iter();
    rows.map(|row| {
        let role = row.role.parse()?;
        Ok(Account { id: row.id, name: row.name, role, created_at: row.created_at, disabled_at: row.disabled_at })
    })
    .collect()
}

/// Lets nobody in with this account any more, or again. `by` cannot shut itself out.
pub(crate) async fn set_disabled(db: &PgPool, by: &Caller, name: &str, disabled: bool) -> Result<Account> {
    let account = id_of(db, name).await?;
    if disabled && account == by.account_id {
        return Err(Error::conflict("an account cannot disable itself"));
    }
    let mut tx = db.begin().await?;
    changes::hold(&mut tx).await?;
    let update = sqlx::query!(
        "update accounts set disabled_at = case when $2 then coalesce(disabled_at, now()) end where id = $1",
        account,
        disabled,
    );
    update.execute(&mut *tx).await?;
    let keys = sqlx::query_scalar!("select access_key_id from s3_credentials where account_id = $1", account);
    let touched: Vec<_> = keys.fetch_all(&mut *tx).await?.into_iter().map(|key| (Kind::S3Credential, key)).collect();
    changes::record(&mut tx, &touched).await?;
    tx.commit().await?;
    list(db, Some(account)).await?.pop().ok_or(Error::NotFound("account"))
}

pub(crate) async fn set_password(db: &PgPool, account: Uuid, password: String) -> Result<()> {
    let hash = hash_password(password).await?;
    sqlx::query!("update accounts set password_hash = $2 where id = $1", account, hash).execute(db).await?;
    Ok(())
}

fn check_name(name: &str) -> Result<()> {
    let fits = (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.@".contains(&byte));
    if fits {
        return Ok(());
    }
    Err(Error::invalid("account name: 1 to 64 of a-z, 0-9, `-`, `_`, `.`, `@`"))
}

// ---- Passwords ----

async fn hash_password(password: String) -> Result<String> {
    if !PASSWORD_BYTES.contains(&password.len()) {
        return Err(Error::invalid("password: 10 to 1024 bytes"));
    }
    hashing(move || {
        let hash = Argon2::default().hash_password(password.as_bytes());
        hash.map(|hash| hash.to_string()).map_err(|_| Error::Damaged("password hasher"))
    })
    .await
}

async fn password_fits(password: String, hash: Option<String>) -> Result<bool> {
    if password.len() > *PASSWORD_BYTES.end() {
        return Ok(false);
    }
    hashing(move || {
        let Some(hash) = hash else {
            // As slow as for an account that exists: names are not to be told by the clock.
            let _ = Argon2::default().hash_password(password.as_bytes());
            return Ok(false);
        };
        let hash = PasswordHash::new(&hash).map_err(|_| Error::Damaged("password hash"))?;
        Ok(Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
    })
    .await
}

async fn hashing<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let turn = tokio::time::timeout(HASHING_PATIENCE, HASHING.acquire()).await;
    let Ok(Ok(_permit)) = turn else { return Err(Error::Busy("too many sign-ins")) };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Error::Damaged("password hasher"))?
}

// ---- Sessions ----

#[derive(Serialize, Deserialize)]
struct SessionClaims {
    sub: Uuid,
    aud: String,
    iat: u64,
    exp: u64,
}

/// Who signs in with a password.
pub(crate) async fn sign_in(db: &PgPool, account: &str, password: String) -> Result<Caller> {
    let account = bounded(account, "account").map_err(|_| WRONG)?;
    let row = sqlx::query!(
        r#"select id, name, role, password_hash, disabled_at is not null as "disabled!" from accounts where name = $1"#,
        account,
    );
    let row = row.fetch_optional(db).await?;
    let hash = row.as_ref().and_then(|row| row.password_hash.clone());
    if !password_fits(password, hash).await? {
        return Err(WRONG);
    }
    let row = row.ok_or(WRONG)?;
    if row.disabled {
        return Err(DISABLED);
    }
    Ok(Caller { account_id: row.id, name: row.name, role: row.role.parse()? })
}

/// A session's token (JWT, HS256) for `account`, from `now` (seconds since the Unix epoch).
pub(crate) fn session(key: &[u8; 32], account: Uuid, now: u64) -> Result<String> {
    let claims =
        SessionClaims { sub: account, aud: SESSION_AUDIENCE.into(), iat: now, exp: now + SESSION_LIFETIME.as_secs() };
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(key));
    token.map_err(|_| Error::Damaged("session key"))
}

/// Who shows this bearer token, an API key or a session.
pub(crate) async fn authenticate(db: &PgPool, key: &[u8; 32], bearer: &str) -> Result<Caller> {
    if bearer.len() > 4096 {
        return Err(Error::Unauthenticated("malformed token"));
    }
    if secrets::is_api_key(bearer) { by_api_key(db, bearer).await } else { by_session(db, key, bearer).await }
}

async fn by_api_key(db: &PgPool, api_key: &str) -> Result<Caller> {
    let row = sqlx::query!(
        r#"select a.id, a.name, a.role, a.disabled_at is not null as "disabled!"
           from api_keys k join accounts a on a.id = k.account_id where k.secret_hash = $1"#,
        secrets::hash(api_key),
    );
    let row = row.fetch_optional(db).await?.ok_or(Error::Unauthenticated("unknown API key"))?;
    if row.disabled {
        return Err(DISABLED);
    }
    Ok(Caller { account_id: row.id, name: row.name, role: row.role.parse()? })
}

async fn by_session(db: &PgPool, key: &[u8; 32], token: &str) -> Result<Caller> {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_audience(&[SESSION_AUDIENCE]);
    validation.set_required_spec_claims(&["exp", "aud", "sub"]);
    let claims = jsonwebtoken::decode::<SessionClaims>(token, &DecodingKey::from_secret(key), &validation)
        .map_err(|_| Error::Unauthenticated("not a valid session: sign in again"))?
        .claims;
    // The role of now, not of when the session began.
    let row = sqlx::query!(
        r#"select id, name, role, disabled_at is not null as "disabled!" from accounts where id = $1"#,
        claims.sub,
    );
    let row = row.fetch_optional(db).await?.ok_or(Error::Unauthenticated("the account is gone"))?;
    if row.disabled {
        return Err(DISABLED);
    }
    Ok(Caller { account_id: row.id, name: row.name, role: row.role.parse()? })
}

// ---- API keys ----

pub(crate) async fn create_api_key(db: &mut PgConnection, account: Uuid, label: &str) -> Result<NewApiKey> {
    let (id, secret) = (Uuid::now_v7(), secrets::api_key());
    let insert = sqlx::query!(
        "insert into api_keys (id, account_id, label, secret_hash) values ($1, $2, $3, $4)",
        id,
        account,
        bounded(label, "label")?,
        secrets::hash(&secret),
    );
    insert.execute(db).await?;
    Ok(NewApiKey { id, api_key: secret })
}

pub(crate) async fn api_keys(db: &PgPool, scope: Option<Uuid>) -> Result<Vec<ApiKey>> {
    let rows = sqlx::query_as!(
        ApiKey,
        "select k.id, a.name as account, k.label, k.created_at from api_keys k join accounts a on a.id = k.account_id
         where $1::uuid is null or k.account_id = $1 order by k.created_at",
        scope,
    );
    Ok(rows.fetch_all(db).await?)
}

pub(crate) async fn delete_api_key(db: &PgPool, scope: Option<Uuid>, id: Uuid) -> Result<()> {
    let delete =
        sqlx::query!("delete from api_keys where id = $1 and ($2::uuid is null or account_id = $2)", id, scope);
    match delete.execute(db).await?.rows_affected() {
        0 => Err(Error::NotFound("API key")),
        _ => Ok(()),
    }
}

// ---- S3 credentials ----

pub(crate) async fn create_s3_credential(db: &PgPool, account: Uuid) -> Result<NewS3Credential> {
    let made = NewS3Credential { access_key_id: secrets::access_key_id(), secret_access_key: secrets::token() };
    let mut tx = db.begin().await?;
    changes::record(&mut tx, &[(Kind::S3Credential, made.access_key_id.clone())]).await?;
    let insert = sqlx::query!(
        "insert into s3_credentials (access_key_id, account_id, secret_access_key) values ($1, $2, $3)",
        made.access_key_id,
        account,
        made.secret_access_key,
    );
    insert.execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(made)
}

pub(crate) async fn s3_credentials(db: &PgPool, scope: Option<Uuid>) -> Result<Vec<S3Credential>> {
    let rows = sqlx::query_as!(
        S3Credential,
        "select c.access_key_id, a.name as account, c.created_at from s3_credentials c
         join accounts a on a.id = c.account_id where $1::uuid is null or c.account_id = $1 order by c.created_at",
        scope,
    );
    Ok(rows.fetch_all(db).await?)
}

pub(crate) async fn delete_s3_credential(db: &PgPool, scope: Option<Uuid>, access_key_id: &str) -> Result<()> {
    let access_key_id = bounded(access_key_id, "access key id")?;
    let mut tx = db.begin().await?;
    changes::record(&mut tx, &[(Kind::S3Credential, access_key_id.to_owned())]).await?;
    let delete = sqlx::query!(
        "delete from s3_credentials where access_key_id = $1 and ($2::uuid is null or account_id = $2)",
        access_key_id,
        scope,
    );
    if delete.execute(&mut *tx).await?.rows_affected() == 0 {
        return Err(Error::NotFound("S3 credential"));
    }
    Ok(tx.commit().await?)
}

impl fmt::Display for AccountRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
