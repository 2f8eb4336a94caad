//! Sites: their names, hosts, keys and policies.

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use umbel_wire::{control, token::TokenSigner};
use uuid::Uuid;

use crate::{
    accounts::bounded,
    api::{Carrier, NewSite, Policy, PolicyChange, Protocol, Pull, ReaderKey, Site},
    changes::{self, Kind},
    error::{Error, Result, unique},
    secrets,
};

pub(crate) mod certificate;
pub(crate) mod delivery;
mod names;
mod pull;
pub(crate) mod reader_keys;

pub(crate) use names::check_host;
use names::{check_site_host, check_site_name};

const MAX_HOSTS: usize = 100;
const MAX_LOOKUP_TTL_MS: u32 = 86_400_000;
/// Less is a chunk or two, which the edge brings as fast.
const SHARE_ABOVE: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 40;
const HOST_TAKEN: &str = "this host belongs to a site already";

/// A site as it lies in the tables, with what hangs on it.
struct Row {
    id: Uuid,
    account_id: Uuid,
    account: String,
    name: String,
    public_key: Vec<u8>,
    signing_seed: Vec<u8>,
    wrapping_key: Vec<u8>,
    public: bool,
    cache_control: String,
    lookup_ttl_ms: i32,
    peers: bool,
    trust_domains: Vec<String>,
    created_at: OffsetDateTime,
    hosts: Vec<String>,
    reader_key_ids: Vec<String>,
    reader_keys: Vec<Vec<u8>>,
    reader_key_ends: Vec<Option<OffsetDateTime>>,
    carriers: Vec<String>,
    pull_upstreams: Vec<String>,
    pull_host: String,
    pull_protocol: String,
    pull_first_byte_ms: i32,
    pull_between_bytes_ms: i32,
    delivery: Option<String>,
    share_above: i64,
    chain_pem: Option<String>,
    key_pem: Option<String>,
}

/// Sites that are not deleted: those of one account, of these ids, of this name; each filter may be absent.
async fn rows(
    db: &mut PgConnection,
    scope: Option<Uuid>,
    ids: Option<&[Uuid]>,
    name: Option<&str>,
) -> Result<Vec<Row>> {
    let rows = sqlx::query_as!(
        Row,
        r#"select s.id, s.account_id, a.name as account, s.name, s.public_key, s.signing_seed, s.wrapping_key, s.public,
             s.cache_control, s.lookup_ttl_ms, s.peers, s.trust_domains, s.created_at, s.pull_upstreams, s.pull_host,
             s.pull_protocol, s.pull_first_byte_ms, s.pull_between_bytes_ms,
             s.delivery::text as delivery, s.carriers, s.share_above,
             c.chain_pem as "chain_pem?", c.key_pem as "key_pem?",
             array(select h.host from site_hosts h where h.site_id = s.id order by h.host) as "hosts!",
             array(select k.id from reader_keys k where k.site_id = s.id order by k.id) as "reader_key_ids!",
             array(select k.public_key from reader_keys k where k.site_id = s.id order by k.id) as "reader_keys!",
             array(select k.not_after from reader_keys k where k.site_id = s.id order by k.id)
               as "reader_key_ends!: Vec<Option<OffsetDateTime>>"
           from sites s join accounts a on a.id = s.account_id left join site_certificates c on c.site_id = s.id
           where s.deleted_at is null and ($1::uuid is null or s.account_id = $1)
             and ($2::uuid[] is null or s.id = any($2)) and ($3::text is null or s.name = $3)
           order by s.name"#,
        scope,
        ids,
        name,
    );
    Ok(rows.fetch_all(db).await?)
}

impl Row {
    fn pull(&self) -> pull::Stored {
        pull::Stored {
            upstreams: self.pull_upstreams.clone(),
            host: self.pull_host.clone(),
            protocol: Protocol::of(&self.pull_protocol),
            first_byte_ms: self.pull_first_byte_ms,
            between_bytes_ms: self.pull_between_bytes_ms,
        }
    }

    fn for_api(self) -> Site {
        let pull = self.pull().for_api();
        let keys = self.reader_key_ids.into_iter().zip(self.reader_keys).zip(self.reader_key_ends);
        let key = |((id, key), not_after): ((String, Vec<u8>), _)| {
            let public_key = secrets::base64url(&key);
            ReaderKey { id, public_key, not_after }
        };
        let policy = Policy {
            public: self.public,
            reader_keys: keys.map(key).collect(),
            cache_control: self.cache_control,
            lookup_ttl_ms: self.lookup_ttl_ms.unsigned_abs(),
            peers: self.peers,
            trust_domains: self.trust_domains,
            carriers: self.carriers.iter().filter_map(|name| Carrier::of(name)).collect(),
            share_above: self.share_above.unsigned_abs(),
        };
        Site {
            id: self.id,
            name: self.name,
            account: self.account,
            hosts: self.hosts,
            public_key: secrets::base64url(&self.public_key),
            policy,
            pull,
            created_at: self.created_at,
        }
    }

    fn for_wire(self) -> control::Site {
        let pull = self.pull().for_wire();
        let keys = self.reader_key_ids.into_iter().zip(self.reader_keys).zip(self.reader_key_ends);
        let key = |((id, key), end): ((String, Vec<u8>), _)| {
            let not_after = reader_keys::end_on_wire(end);
            control::PublicKey { id, key: key.into(), not_after }
        };
        let carriers = self.carriers.iter().filter_map(|name| Carrier::of(name));
        let policy = control::Policy {
            public: self.public,
            reader_keys: keys.map(key).collect(),
            cache_control: self.cache_control,
            lookup_ttl_ms: self.lookup_ttl_ms.unsigned_abs(),
            peers: self.peers,
            trust_domains: self.trust_domains,
            carriers: carriers.map(|carrier| carrier.on_wire().into()).collect(),
            share_above: self.share_above.unsigned_abs(),
        };
        let certificate = self.chain_pem.zip(self.key_pem);
        control::Site {
            id: self.id.to_string(),
            name: self.name,
            account_id: self.account_id.to_string(),
            hosts: self.hosts,
            public_key: self.public_key.into(),
            policy: Some(policy),
            signing_seed: self.signing_seed.into(),
            wrapping_key: self.wrapping_key.into(),
            pull,
            // Damaged, it is logged: a site without its rules is better than none.
            delivery: self.delivery.and_then(|text| delivery::read(&text).ok()),
            certificate: certificate.map(|(chain_pem, key_pem)| control::Certificate { chain_pem, key_pem }),
        }
    }
}

/// Sites as nodes see them, with their secrets; all, or those of these ids.
pub(crate) async fn on_wire(db: &mut PgConnection, ids: Option<&[Uuid]>) -> Result<Vec<control::Site>> {
    Ok(rows(db, None, ids, None).await?.into_iter().map(Row::for_wire).collect())
}

/// Ids of the sites that were deleted.
pub(crate) async fn deleted(tx: &mut PgConnection) -> Result<Vec<String>> {
    let ids = sqlx::query_scalar!(r#"select id::text as "id!" from sites where deleted_at is not null order by id"#);
    Ok(ids.fetch_all(tx).await?)
}

/// All hosts of all sites.
pub(crate) async fn all_hosts(db: &mut PgConnection) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar!("select host from site_hosts order by host").fetch_all(db).await?)
}

pub(crate) async fn list(db: &PgPool, scope: Option<Uuid>) -> Result<Vec<Site>> {
    let mut connection = db.acquire().await?;
    Ok(rows(&mut connection, scope, None, None).await?.into_iter().map(Row::for_api).collect())
}

pub(crate) async fn show(db: &PgPool, scope: Option<Uuid>, name: &str) -> Result<Site> {
    show_in(&mut *db.acquire().await?, scope, name).await
}

/// The site of this name, if the caller may see it.
pub(crate) async fn named(db: &mut PgConnection, scope: Option<Uuid>, name: &str) -> Result<Site> {
    show_in(db, scope, name).await
}

async fn show_in(db: &mut PgConnection, scope: Option<Uuid>, name: &str) -> Result<Site> {
    let mut found = rows(db, scope, None, Some(bounded(name, "site name")?)).await?;
    found.pop().map(Row::for_api).ok_or(Error::NotFound("site"))
}

/// The site's id, its row locked until the transaction ends.
async fn lock(tx: &mut PgConnection, scope: Option<Uuid>, name: &str) -> Result<(Uuid, Uuid)> {
    let row = sqlx::query!(
        "select id, account_id from sites
         where name = $1 and deleted_at is null and ($2::uuid is null or account_id = $2) for update",
        bounded(name, "site name")?,
        scope,
    );
    let row = row.fetch_optional(tx).await?.ok_or(Error::NotFound("site"))?;
    Ok((row.id, row.account_id))
}

/// Credentials of an account may write its sites: they change with them.
async fn touched_with_credentials(tx: &mut PgConnection, site: Uuid, account: Uuid) -> Result<Vec<(Kind, String)>> {
    // A credential made meanwhile would otherwise neither know this site nor be told again.
    changes::hold(&mut *tx).await?;
    let keys = sqlx::query_scalar!("select access_key_id from s3_credentials where account_id = $1", account);
    let keys = keys.fetch_all(tx).await?.into_iter().map(|key| (Kind::S3Credential, key));
    Ok(keys.chain([(Kind::Site, site.to_string())]).collect())
}

pub(crate) async fn create(db: &PgPool, account: Uuid, new: &NewSite) -> Result<Site> {
    check_site_name(&new.name)?;
    let hosts = checked_hosts(&new.hosts)?;
    let mut tx = db.begin().await?;
    let id = insert(&mut tx, account, new).await?;
    let add = sqlx::query!("insert into site_hosts (host, site_id) select unnest($1::text[]), $2", &hosts, id);
    add.execute(&mut *tx).await.map_err(|error| unique(error, HOST_TAKEN))?;
    let touched = touched_with_credentials(&mut tx, id, account).await?;
    changes::record(&mut tx, &touched).await?;
    let site = show_in(&mut tx, None, &new.name).await?;
    tx.commit().await?;
    Ok(site)
}

async fn insert(tx: &mut PgConnection, account: Uuid, new: &NewSite) -> Result<Uuid> {
    let (id, seed, wrapping_key) = (Uuid::now_v7(), rand::random::<[u8; 32]>(), rand::random::<[u8; 32]>());
    let public_key = *TokenSigner::from_seed("", &seed).public();
    let pull = pull::checked(new.pull.as_ref())?;
    let insert = sqlx::query!(
        "insert into sites (id, account_id, name, public_key, signing_seed, wrapping_key, public, pull_upstreams, pull_host,
           pull_protocol, pull_first_byte_ms, pull_between_bytes_ms)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        id,
        account,
        new.name,
        &public_key[..],
        &seed[..],
        &wrapping_key[..],
        new.public,
        &pull.upstreams,
        pull.host,
        pull.protocol.as_str(),
        pull.first_byte_ms,
        pull.between_bytes_ms,
    );
    insert.execute(tx).await.map_err(|error| unique(error, "there is a site of this name"))?;
    Ok(id)
}

fn checked_hosts(hosts: &[String]) -> Result<Vec<String>> {
    if hosts.len() > MAX_HOSTS {
        return Err(Error::invalid(format!("a site has at most {MAX_HOSTS} hosts")));
    }
    let mut checked = hosts.iter().map(|host| check_site_host(host)).collect::<Result<Vec<_>>>()?;
    checked.sort();
    checked.dedup();
    Ok(checked)
}

pub(crate) async fn delete(db: &PgPool, scope: Option<Uuid>, name: &str) -> Result<()> {
    let mut tx = db.begin().await?;
    let (id, account) = lock(&mut tx, scope, name).await?;
    sqlx::query!("update sites set deleted_at = now() where id = $1", id).execute(&mut *tx).await?;
    sqlx::query!("delete from site_hosts where site_id = $1", id).execute(&mut *tx).await?;
    sqlx::query!("delete from site_certificates where site_id = $1", id).execute(&mut *tx).await?;
    let touched = touched_with_credentials(&mut tx, id, account).await?;
    changes::record(&mut tx, &touched).await?;
    Ok(tx.commit().await?)
}

pub(crate) async fn add_host(db: &PgPool, scope: Option<Uuid>, name: &str, host: &str) -> Result<Site> {
    let host = check_site_host(host)?;
    let mut tx = db.begin().await?;
    let (id, _) = lock(&mut tx, scope, name).await?;
    let count = sqlx::query_scalar!(r#"select count(*) as "count!" from site_hosts where site_id = $1"#, id);
    if count.fetch_one(&mut *tx).await? >= i64::try_from(MAX_HOSTS).unwrap_or(i64::MAX) {
        return Err(Error::invalid(format!("a site has at most {MAX_HOSTS} hosts")));
    }
    let owner = sqlx::query_scalar!("select site_id from site_hosts where host = $1", host);
    if owner.fetch_optional(&mut *tx).await? != Some(id) {
        let add = sqlx::query!("insert into site_hosts (host, site_id) values ($1, $2)", host, id);
        add.execute(&mut *tx).await.map_err(|error| unique(error, HOST_TAKEN))?;
    }
    finish(tx, id, name).await
}

pub(crate) async fn remove_host(db: &PgPool, scope: Option<Uuid>, name: &str, host: &str) -> Result<Site> {
    let host = check_host(host)?;
    let mut tx = db.begin().await?;
    let (id, _) = lock(&mut tx, scope, name).await?;
    let delete = sqlx::query!("delete from site_hosts where host = $1 and site_id = $2", host, id);
    if delete.execute(&mut *tx).await?.rows_affected() == 0 {
        return Err(Error::NotFound("host of this site"));
    }
    finish(tx, id, name).await
}

pub(crate) async fn change_policy(db: &PgPool, scope: Option<Uuid>, name: &str, change: &PolicyChange) -> Result<Site> {
    check_policy(change)?;
    let carriers = change.carriers.as_ref();
    let carriers: Option<Vec<_>> =
        carriers.map(|carriers| carriers.iter().map(|carrier| carrier.as_str().to_owned()).collect());
    let mut tx = db.begin().await?;
    let (id, _) = lock(&mut tx, scope, name).await?;
    let update = sqlx::query!(
        "update sites set public = coalesce($2, public), cache_control = coalesce($3, cache_control),
           lookup_ttl_ms = coalesce($4, lookup_ttl_ms), peers = coalesce($5, peers),
           trust_domains = coalesce($6, trust_domains), carriers = coalesce($7, carriers),
           share_above = coalesce($8, share_above)
         where id = $1",
        id,
        change.public,
        change.cache_control,
        change.lookup_ttl_ms.and_then(|ttl| i32::try_from(ttl).ok()),
        change.peers,
        change.trust_domains.as_deref(),
        carriers.as_deref(),
        change.share_above.and_then(|bytes| i64::try_from(bytes).ok()),
    );
    update.execute(&mut *tx).await?;
    finish(tx, id, name).await
}

/// Only of a site that is pulled already: the documents of another one are there.
pub(crate) async fn change_pull(db: &PgPool, scope: Option<Uuid>, name: &str, wanted: &Pull) -> Result<Site> {
    let pull = pull::checked(Some(wanted))?;
    let mut tx = db.begin().await?;
    let (id, _) = lock(&mut tx, scope, name).await?;
    let update = sqlx::query!(
        "update sites set pull_upstreams = $2, pull_host = $3, pull_protocol = $4, pull_first_byte_ms = $5,
           pull_between_bytes_ms = $6
         where id = $1 and pull_upstreams <> '{}'",
        id,
        &pull.upstreams,
        pull.host,
        pull.protocol.as_str(),
        pull.first_byte_ms,
        pull.between_bytes_ms,
    );
    if update.execute(&mut *tx).await?.rows_affected() == 0 {
        return Err(Error::invalid("the documents of this site are uploaded"));
    }
    finish(tx, id, name).await
}

fn check_policy(change: &PolicyChange) -> Result<()> {
    if let Some(text) = &change.cache_control
        && !(text.len() <= 200 && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()))
    {
        return Err(Error::invalid("cache_control: at most 200 visible ASCII characters"));
    }
    if change.lookup_ttl_ms.is_some_and(|ttl| ttl > MAX_LOOKUP_TTL_MS) {
        return Err(Error::invalid(format!("lookup_ttl_ms: at most {MAX_LOOKUP_TTL_MS}")));
    }
    if change.carriers.as_ref().is_some_and(|carriers| carriers.is_empty() || carriers.len() > 3) {
        return Err(Error::invalid("carriers: one or more of `bearer`, `query`, `cookie`"));
    }
    if change.share_above.is_some_and(|bytes| !SHARE_ABOVE.contains(&bytes)) {
        return Err(Error::invalid("share_above: from 64 KiB to 1 TiB, in bytes"));
    }
    let known = |domain: &String| ["trusted", "public"].contains(&domain.as_str());
    let domains = change.trust_domains.as_deref().unwrap_or_default();
    if domains.len() > 2 || !domains.iter().all(known) {
        return Err(Error::invalid("trust_domains: `trusted`, `public`, both or none"));
    }
    Ok(())
}

/// Notes the change, commits, and answers with what the site is now.
async fn finish(mut tx: sqlx::PgTransaction<'_>, id: Uuid, name: &str) -> Result<Site> {
    changes::record(&mut tx, &[(Kind::Site, id.to_string())]).await?;
    let site = show_in(&mut tx, None, name).await?;
    tx.commit().await?;
    Ok(site)
}
