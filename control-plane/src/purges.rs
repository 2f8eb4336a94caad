//! Purges: asked for by providers, told to nodes in the history of the configuration, confirmed by edges.

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use umbel_wire::control;
use uuid::Uuid;

use crate::{
    api::{Edge, NewPurge, Purge, PurgeState, PurgedEdge},
    changes,
    error::{Error, Result},
    presence::Presence,
    sites,
};

mod names;

/// Named in all purges that are told one by one. Who has missed more is told to take whatever it has stored for stale.
const MOST_TOLD: i64 = 200_000;

/// Purges in a list.
const LISTED: i64 = 100;

/// Purges what `new` names of a site.
pub(crate) async fn create(db: &PgPool, scope: Option<Uuid>, site: &str, new: &NewPurge) -> Result<Purge> {
    let mut tx = db.begin().await?;
    let site = sites::named(&mut tx, scope, site).await?;
    let names::Names { targets, prefixes, keys } = names::checked(&site, new)?;
    let (id, version) = (Uuid::now_v7(), changes::record(&mut tx, &[]).await?);
    let insert = sqlx::query!(
        "insert into purges (id, version, site_id, soft, everything, targets, prefixes, keys)
         values ($1, $2, $3, $4, $5, $6, $7, $8) returning created_at",
        id,
        version,
        site.id,
        new.soft,
        new.everything,
        &targets,
        &prefixes,
        &keys,
    );
    let created_at = insert.fetch_one(&mut *tx).await?.created_at;
    tx.commit().await?;
    let count = |names: Vec<String>| i32::try_from(names.len()).unwrap_or(i32::MAX);
    let (urls, prefixes, keys) = (count(targets), count(prefixes), count(keys));
    let (soft, everything, edges) = (new.soft, new.everything, Vec::new());
    Ok(Purge { id, version, soft, everything, urls, prefixes, keys, created_at, edges })
}

/// The last purges of a site.
pub(crate) async fn list(db: &PgPool, scope: Option<Uuid>, site: &str) -> Result<Vec<Purge>> {
    let mut connection = db.acquire().await?;
    let site = sites::named(&mut connection, scope, site).await?;
    rows(&mut connection, site.id, None).await
}

/// One of them, with how far each edge is.
pub(crate) async fn show(db: &PgPool, presence: &Presence, scope: Option<Uuid>, site: &str, id: Uuid) -> Result<Purge> {
    let mut connection = db.acquire().await?;
    let site = sites::named(&mut connection, scope, site).await?;
    let purge = rows(&mut connection, site.id, Some(id)).await?.pop().ok_or(Error::NotFound("purge"))?;
    let edges = confirmed(&mut connection).await?;
    Ok(Purge { edges: edges.into_iter().map(|edge| edge.about(&purge, presence)).collect(), ..purge })
}

async fn rows(db: &mut PgConnection, site: Uuid, id: Option<Uuid>) -> Result<Vec<Purge>> {
    let rows = sqlx::query!(
        r#"select id, version, soft, everything, cardinality(targets) as "urls!", cardinality(prefixes) as "prefixes!",
             cardinality(keys) as "keys!", created_at
           from purges where site_id = $1 and ($2::uuid is null or id = $2) order by version desc limit $3"#,
        site,
        id,
        LISTED,
    );
    let rows = rows.fetch_all(db).await?.into_iter();
    Ok(rows
        .map(|row| Purge {
            id: row.id,
            version: row.version,
            soft: row.soft,
            everything: row.everything,
            urls: row.urls,
            prefixes: row.prefixes,
            keys: row.keys,
            created_at: row.created_at,
            edges: Vec::new(),
        })
        .collect())
}

// ---- Edges ----

/// What an edge has said.
struct Confirmed {
    id: Uuid,
    url: String,
    version: i64,
    at: Option<OffsetDateTime>,
}

impl Confirmed {
    fn about(self, purge: &Purge, presence: &Presence) -> PurgedEdge {
        let alive = presence.is_alive(self.id, self.at, OffsetDateTime::now_utc());
        let state = match (self.version >= purge.version, alive) {
            (true, _) => PurgeState::Confirmed,
            (false, true) => PurgeState::Waiting,
            (false, false) => PurgeState::Away,
        };
        PurgedEdge { id: self.id, url: self.url, state }
    }
}

async fn confirmed(db: &mut PgConnection) -> Result<Vec<Confirmed>> {
    let rows = sqlx::query_as!(
        Confirmed,
        "select id, public_url as url, confirmed_version as version, confirmed_at as at from nodes
         where role = 'edge' and removed_at is null order by id",
    );
    Ok(rows.fetch_all(db).await?)
}

/// All edges.
pub(crate) async fn edges(db: &PgPool, presence: &Presence) -> Result<Vec<Edge>> {
    let edges = confirmed(&mut *db.acquire().await?).await?.into_iter();
    let now = OffsetDateTime::now_utc();
    Ok(edges.map(|edge| Edge { alive: presence.is_alive(edge.id, edge.at, now), id: edge.id, url: edge.url }).collect())
}

/// A node has applied a version and written it down. One that there has never been is of a database that was lost.
pub(crate) async fn confirm(db: &PgPool, node: Uuid, version: u64) -> Result<()> {
    let update = sqlx::query!(
        "update nodes set confirmed_at = now(),
           confirmed_version = case when $2 <= (select version from config_head) then $2 else 0 end
         where id = $1",
        node,
        i64::try_from(version).unwrap_or(i64::MAX),
    );
    update.execute(db).await?;
    Ok(())
}

// ---- The history ----

/// What was purged after version `since`, in its order; none if that is too much to tell.
pub(crate) async fn since(tx: &mut PgConnection, since: i64) -> Result<Option<Vec<control::Purge>>> {
    let named = sqlx::query_scalar!(
        r#"select coalesce(sum(1 + cardinality(targets) + cardinality(prefixes) + cardinality(keys)), 0) as "named!"
           from purges where version > $1"#,
        since,
    );
    if named.fetch_one(&mut *tx).await? > MOST_TOLD {
        return Ok(None);
    }
    let rows = sqlx::query!(
        r#"select site_id, soft, everything, targets, prefixes, keys from purges where version > $1 order by version"#,
        since,
    );
    let rows = rows.fetch_all(tx).await?.into_iter();
    let purges = rows.map(|row| control::Purge {
        site_id: row.site_id.to_string(),
        soft: row.soft,
        everything: row.everything,
        targets: row.targets,
        prefixes: row.prefixes,
        keys: row.keys,
    });
    Ok(Some(purges.collect()))
}
