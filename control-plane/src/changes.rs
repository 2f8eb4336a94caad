//! The fleet's configuration as a numbered history: every mutation notes what it touched in its own transaction, and
//! watchers are given what that looks like now.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{PgConnection, PgPool, postgres::PgListener};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use umbel_wire::control::{
    Change, ConfigEvent, PublicKey, RevokedAgent, Role, S3Credential, Site, Snapshot, config_event::Event,
};
use uuid::Uuid;

use crate::{error::Result, nodes, purges, secrets, sites};

const CHANNEL: &str = "umbel_config";

/// Without a notification the head is looked at this often: a connection may die silently.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);

/// What a change is about; its subject is that thing's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Site,
    Node,
    /// Subject: public key, base64url.
    Agent,
    MembershipKey,
    S3Credential,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::Node => "node",
            Self::Agent => "agent",
            Self::MembershipKey => "membership_key",
            Self::S3Credential => "s3_credential",
        }
    }
}

/// Gives the caller's transaction the next version and wakes the watchers when it commits. It holds the head until then, so
/// versions become visible in their order.
pub(crate) async fn record(tx: &mut PgConnection, subjects: &[(Kind, String)]) -> Result<i64> {
    let head = sqlx::query_scalar!("update config_head set version = version + 1 returning version");
    let version = head.fetch_one(&mut *tx).await?;
    let kinds: Vec<String> = subjects.iter().map(|(kind, _)| kind.as_str().to_owned()).collect();
    let ids: Vec<String> = subjects.iter().map(|(_, id)| id.clone()).collect();
    let insert = sqlx::query!(
        "insert into config_changes (version, kind, subject)
         select $1, kind, subject from unnest($2::text[], $3::text[]) as t (kind, subject) on conflict do nothing",
        version,
        &kinds,
        &ids,
    );
    insert.execute(&mut *tx).await?;
    sqlx::query!("select pg_notify($1, $2)", CHANNEL, version.to_string()).fetch_one(tx).await?;
    Ok(version)
}

/// Takes the head before [`record`] does: what the caller reads from now on is not overtaken by another change.
pub(crate) async fn hold(tx: &mut PgConnection) -> Result<()> {
    sqlx::query!("select version from config_head for update").fetch_one(tx).await?;
    Ok(())
}

/// The current version.
pub(crate) async fn head(db: &PgPool) -> Result<i64> {
    Ok(sqlx::query_scalar!("select version from config_head").fetch_one(db).await?)
}

/// Keeps `head` at the newest version until `shutdown`, through restarts of Postgres.
pub(crate) async fn follow_head(db: PgPool, head: watch::Sender<i64>, shutdown: CancellationToken) {
    while let Some(outcome) = shutdown.run_until_cancelled(follow_connection(&db, &head)).await {
        if let Err(error) = outcome {
            tracing::warn!(%error, "not hearing of configuration changes, trying again");
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
            return;
        }
    }
}

/// Returns when the connection is lost.
async fn follow_connection(db: &PgPool, head: &watch::Sender<i64>) -> Result<()> {
    let mut listener = PgListener::connect_with(db).await?;
    listener.listen(CHANNEL).await?;
    loop {
        raise(head, self::head(db).await?);
        match tokio::time::timeout(LOOK_AGAIN, listener.try_recv()).await {
            Ok(Ok(Some(_))) | Err(_) => {}
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error.into()),
        }
    }
}

fn raise(head: &watch::Sender<i64>, version: i64) {
    head.send_if_modified(|known| {
        let news = *known != version;
        *known = version;
        news
    });
}

/// What a node that has applied version `since` needs to be current: a change (perhaps empty), or a snapshot where the history does
/// not reach back, where `since` is from another history, or where more was purged than is worth telling.
pub(crate) async fn event_since(db: &PgPool, role: Role, since: u64) -> Result<ConfigEvent> {
    let mut tx = db.begin_with("begin isolation level repeatable read, read only").await?;
    let head = sqlx::query!("select version, pruned from config_head").fetch_one(&mut *tx).await?;
    let since = i64::try_from(since).unwrap_or(i64::MAX);
    let reaches_back = since >= head.pruned && since <= head.version;
    let purges = if reaches_back { purges::since(&mut tx, since).await? } else { None };
    let event = match purges {
        Some(purges) => Event::Change(Change { purges, ..change_since(&mut tx, role, since).await? }),
        None => Event::Snapshot(snapshot(&mut tx, role).await?),
    };
    tx.commit().await?;
    Ok(ConfigEvent { version: head.version.unsigned_abs(), event: Some(event) })
}

/// Forgets changes older than a week.
pub(crate) async fn prune(db: &PgPool) -> Result<()> {
    let mut tx = db.begin().await?;
    hold(&mut tx).await?;
    let oldest = sqlx::query_scalar!(
        "select greatest(
           (select max(version) from config_changes where at < now() - interval '7 days'),
           (select max(version) from purges where created_at < now() - interval '7 days'))",
    );
    if let Some(version) = oldest.fetch_one(&mut *tx).await? {
        sqlx::query!("delete from config_changes where version <= $1", version).execute(&mut *tx).await?;
        sqlx::query!("delete from purges where version <= $1", version).execute(&mut *tx).await?;
        sqlx::query!("update config_head set pruned = greatest(pruned, $1)", version).execute(&mut *tx).await?;
    }
    Ok(tx.commit().await?)
}

async fn snapshot(tx: &mut PgConnection, role: Role) -> Result<Snapshot> {
    Ok(Snapshot {
        sites: for_role(role, sites::on_wire(tx, None).await?),
        nodes: nodes::on_wire(tx, None).await?,
        revoked_agents: revoked_agents(tx, None).await?,
        membership_keys: membership_keys(tx, None).await?,
        s3_credentials: s3_credentials(tx, role, None).await?,
        deleted_sites: if role == Role::Origin { sites::deleted(tx).await? } else { Vec::new() },
        purge_log: None,
    })
}

async fn change_since(tx: &mut PgConnection, role: Role, since: i64) -> Result<Change> {
    let touched = touched_since(tx, since).await?;
    let ids = |kind: Kind| touched.get(kind.as_str()).cloned().unwrap_or_default();
    let uuids = |kind| ids(kind).iter().filter_map(|id| id.parse().ok()).collect::<Vec<Uuid>>();
    let mut change = Change {
        sites: for_role(role, sites::on_wire(tx, Some(&uuids(Kind::Site))).await?),
        nodes: nodes::on_wire(tx, Some(&uuids(Kind::Node))).await?,
        revoked_agents: revoked_agents(tx, Some(&ids(Kind::Agent))).await?,
        membership_keys: membership_keys(tx, Some(&ids(Kind::MembershipKey))).await?,
        s3_credentials: s3_credentials(tx, role, Some(&ids(Kind::S3Credential))).await?,
        ..Change::default()
    };
    change.removed_sites = missing(ids(Kind::Site), change.sites.iter().map(|site| &site.id));
    change.removed_nodes = missing(ids(Kind::Node), change.nodes.iter().map(|node| &node.id));
    if role == Role::Origin {
        let present = change.s3_credentials.iter().map(|credential| &credential.access_key_id);
        change.removed_s3_credentials = missing(ids(Kind::S3Credential), present);
    }
    Ok(change)
}

async fn touched_since(tx: &mut PgConnection, since: i64) -> Result<BTreeMap<String, Vec<String>>> {
    let rows = sqlx::query!("select distinct kind, subject from config_changes where version > $1", since);
    let mut touched = BTreeMap::<String, Vec<String>>::new();
    for row in rows.fetch_all(tx).await? {
        touched.entry(row.kind).or_default().push(row.subject);
    }
    Ok(touched)
}

fn missing<'a>(touched: Vec<String>, present: impl Iterator<Item = &'a String> + Clone) -> Vec<String> {
    touched.into_iter().filter(|id| !present.clone().any(|known| known == id)).collect()
}

/// Seeds and wrapping keys are for origins, keys of certificates for edges.
fn for_role(role: Role, mut sites: Vec<Site>) -> Vec<Site> {
    for site in &mut sites {
        if role != Role::Origin {
            site.signing_seed.clear();
            site.wrapping_key.clear();
        }
        if role != Role::Edge {
            site.certificate = None;
        }
    }
    sites
}

async fn revoked_agents(tx: &mut PgConnection, only: Option<&[String]>) -> Result<Vec<RevokedAgent>> {
    let only: Option<Vec<Vec<u8>>> = only.map(|ids| {
        let keys = ids.iter().filter_map(|id| secrets::from_base64url::<32>(id));
        keys.map(|key| key.to_vec()).collect()
    });
    let rows = sqlx::query_scalar!(
        "select public_key from agents
         where revoked_at is not null and ($1::bytea[] is null or public_key = any($1)) order by public_key",
        only.as_deref(),
    );
    let keys = rows.fetch_all(tx).await?.into_iter();
    Ok(keys.map(|key| RevokedAgent { agent: key.into() }).collect())
}

async fn membership_keys(tx: &mut PgConnection, only: Option<&[String]>) -> Result<Vec<PublicKey>> {
    let rows = sqlx::query!(
        "select id, public_key from membership_keys where $1::text[] is null or id = any($1) order by id",
        only,
    );
    let keys = rows.fetch_all(tx).await?.into_iter();
    Ok(keys.map(|row| PublicKey { id: row.id, key: row.public_key.into(), not_after: 0 }).collect())
}

async fn s3_credentials(tx: &mut PgConnection, role: Role, only: Option<&[String]>) -> Result<Vec<S3Credential>> {
    if role != Role::Origin {
        return Ok(Vec::new());
    }
    let rows = sqlx::query!(
        r#"select access_key_id, secret_access_key,
             array(select id::text from sites s where s.account_id = c.account_id and s.deleted_at is null order by id)
               as "site_ids!: Vec<String>"
           from s3_credentials c
           where ($1::text[] is null or access_key_id = any($1))
             and not exists (select from accounts a where a.id = c.account_id and a.disabled_at is not null)
           order by access_key_id"#,
        only,
    );
    let credentials = rows.fetch_all(tx).await?.into_iter();
    Ok(credentials
        .map(|row| S3Credential {
            access_key_id: row.access_key_id,
            secret_access_key: row.secret_access_key,
            site_ids: row.site_ids,
        })
        .collect())
}
