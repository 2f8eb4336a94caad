//! The public keys that grants to a site are checked with, and how one takes another's place.

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{finish, lock, names::check_reader_key_id};
use crate::{
    api::{ReaderKey, Rotation, Site},
    error::{Error, Result},
    secrets,
};

const MAX_READER_KEYS: usize = 20;

/// A year: who wants the old key for longer does not want it replaced.
const MAX_OVERLAP: u64 = 366 * 86_400;

pub(crate) async fn put(db: &PgPool, scope: Option<Uuid>, name: &str, key: &ReaderKey) -> Result<Site> {
    check_reader_key_id(&key.id)?;
    let public = public_key(&key.public_key)?;
    let mut tx = db.begin().await?;
    let (id, _) = lock(&mut tx, scope, name).await?;
    let put = sqlx::query!(
        "insert into reader_keys (site_id, id, public_key, not_after) values ($1, $2, $3, $4)
         on conflict (site_id, id) do update set public_key = excluded.public_key, not_after = excluded.not_after",
        id,
        key.id,
        &public[..],
        key.not_after,
    );
    put.execute(&mut *tx).await?;
    check_count(&mut tx, id).await?;
    finish(tx, id, name).await
}

/// Adds a key, lets those that are there end, and forgets those that have ended.
pub(crate) async fn rotate(db: &PgPool, scope: Option<Uuid>, name: &str, new: &Rotation) -> Result<Site> {
    check_reader_key_id(&new.id)?;
    let public = public_key(&new.public_key)?;
    if new.overlap > MAX_OVERLAP {
        return Err(Error::invalid("overlap: at most 366 days"));
    }
    let mut tx = db.begin().await?;
    let (id, _) = lock(&mut tx, scope, name).await?;
    retire(&mut tx, id, new.overlap).await?;
    let add = sqlx::query!(
        "insert into reader_keys (site_id, id, public_key) values ($1, $2, $3) on conflict do nothing",
        id,
        new.id,
        &public[..],
    );
    if add.execute(&mut *tx).await?.rows_affected() == 0 {
        return Err(Error::Conflict("the site has a key of this name: the new one needs a name of its own".into()));
    }
    check_count(&mut tx, id).await?;
    finish(tx, id, name).await
}

async fn retire(tx: &mut PgConnection, site: Uuid, overlap: u64) -> Result<()> {
    let ended = sqlx::query!("delete from reader_keys where site_id = $1 and not_after <= now()", site);
    ended.execute(&mut *tx).await?;
    let end = sqlx::query!(
        "update reader_keys set not_after = least(not_after, date_trunc('second', now() + make_interval(secs => $2)))
         where site_id = $1",
        site,
        overlap as f64,
    );
    end.execute(tx).await?;
    Ok(())
}

pub(crate) async fn delete(db: &PgPool, scope: Option<Uuid>, name: &str, key_id: &str) -> Result<Site> {
    check_reader_key_id(key_id)?;
    let mut tx = db.begin().await?;
    let (id, _) = lock(&mut tx, scope, name).await?;
    let delete = sqlx::query!("delete from reader_keys where site_id = $1 and id = $2", id, key_id);
    if delete.execute(&mut *tx).await?.rows_affected() == 0 {
        return Err(Error::NotFound("reader key"));
    }
    finish(tx, id, name).await
}

fn public_key(text: &str) -> Result<[u8; 32]> {
    let key = secrets::from_base64url::<32>(text);
    key.ok_or(Error::invalid("public_key: 32 bytes of an Ed25519 key, base64url without padding"))
}

async fn check_count(tx: &mut PgConnection, site: Uuid) -> Result<()> {
    let count = sqlx::query_scalar!(r#"select count(*) as "count!" from reader_keys where site_id = $1"#, site);
    if count.fetch_one(tx).await? > i64::try_from(MAX_READER_KEYS).unwrap_or(i64::MAX) {
        return Err(Error::invalid(format!("a site has at most {MAX_READER_KEYS} reader keys")));
    }
    Ok(())
}

/// For edges, which check it at use: seconds since the Unix epoch, 0 for no end.
pub(super) fn end_on_wire(end: Option<OffsetDateTime>) -> u64 {
    end.map_or(0, |end| u64::try_from(end.unix_timestamp()).unwrap_or_default().max(1))
}
