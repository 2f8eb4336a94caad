//! Origins and edges: how they join, renew their certificates, and leave.

use std::{collections::BTreeSet, time::Duration};

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use umbel_service::tls::{NodeRole, PeerIdentity};
use umbel_wire::control::{self, Addresses, JoinReply, JoinRequest, RenewReply, RenewRequest, Role};
use uuid::Uuid;

use crate::{
    api,
    authority::{Authority, CertificateRequest, names_of},
    changes::{self, Kind},
    error::{Error, Result, unique},
    secrets, sites,
};

/// How long a node that lost the answer may ask again with the same request.
const RETRY_WINDOW: time::Duration = time::Duration::minutes(10);
const MAX_URL_BYTES: usize = 512;

const UNKNOWN_TOKEN: Error = Error::Unauthenticated("unknown join token");

pub(crate) fn role_of(stored: &str) -> Result<Role> {
    match stored {
        "origin" => Ok(Role::Origin),
        "edge" => Ok(Role::Edge),
        _ => Err(Error::Damaged("node role")),
    }
}

fn identity(role: Role, id: Uuid) -> Result<PeerIdentity> {
    let role = match role {
        Role::Origin => NodeRole::Origin,
        Role::Edge => NodeRole::Edge,
        Role::Unspecified => return Err(Error::Damaged("node role")),
    };
    Ok(PeerIdentity { role, node_id: id.to_string() })
}

// ---- Joining ----

/// Makes a one-time token; returns its secret and its end.
pub(crate) async fn create_join_token(
    db: &PgPool,
    by: Uuid,
    role: api::NodeRole,
    lifetime: Duration,
) -> Result<(String, OffsetDateTime)> {
    let (secret, expires) = (secrets::token(), OffsetDateTime::now_utc() + lifetime);
    let role = match role {
        api::NodeRole::Origin => "origin",
        api::NodeRole::Edge => "edge",
    };
    let insert = sqlx::query!(
        "insert into join_tokens (secret_hash, role, created_by, expires_at) values ($1, $2, $3, $4)",
        secrets::hash(&secret),
        role,
        by,
        expires,
    );
    insert.execute(db).await?;
    Ok((secret, expires))
}

struct JoinToken {
    role: String,
    expires_at: OffsetDateTime,
    spent_at: Option<OffsetDateTime>,
    csr_hash: Option<Vec<u8>>,
    node_id: Option<Uuid>,
    certificate_pem: Option<String>,
}

/// Lets a node in. Token, node and configuration change commit together or not at all.
pub(crate) async fn join(
    db: &PgPool,
    authority: &Authority,
    lifetime: Duration,
    request: &JoinRequest,
) -> Result<JoinReply> {
    let mut tx = db.begin().await?;
    let secret_hash = secrets::hash(&request.secret);
    let token = sqlx::query_as!(
        JoinToken,
        "select role, expires_at, spent_at, csr_hash, node_id, certificate_pem
         from join_tokens where secret_hash = $1 for update",
        secret_hash,
    );
    let token = token.fetch_optional(&mut *tx).await?.ok_or(UNKNOWN_TOKEN)?;
    let role = role_of(&token.role)?;
    let csr_hash = secrets::hash(&request.csr_pem);
    if token.spent_at.is_some() {
        return answer_again(token, &csr_hash, role, authority);
    }
    if token.expires_at <= OffsetDateTime::now_utc() {
        return Err(Error::Unauthenticated("this join token has expired"));
    }
    let addresses = checked_addresses(request.addresses.clone().unwrap_or_default(), role)?;
    let csr = CertificateRequest::read(&request.csr_pem)?;
    let id = admit(&mut tx, role, &csr.key_hash(), &addresses, ticket_key(request, role)?).await?;
    let names = names(&mut tx, role, &addresses).await?;
    let certificate_pem = authority.certify(&csr, &identity(role, id)?, &names, lifetime)?;
    let spend = sqlx::query!(
        "update join_tokens set spent_at = now(), csr_hash = $2, node_id = $3, certificate_pem = $4
         where secret_hash = $1",
        secret_hash,
        csr_hash,
        id,
        certificate_pem,
    );
    spend.execute(&mut *tx).await?;
    changes::record(&mut tx, &[(Kind::Node, id.to_string())]).await?;
    tx.commit().await?;
    Ok(reply(id, role, certificate_pem, authority))
}

fn answer_again(token: JoinToken, csr_hash: &[u8], role: Role, authority: &Authority) -> Result<JoinReply> {
    let same = token.csr_hash.as_deref() == Some(csr_hash);
    let fresh = token.spent_at.is_some_and(|at| at + RETRY_WINDOW > OffsetDateTime::now_utc());
    match (token.node_id, token.certificate_pem) {
        (Some(id), Some(certificate)) if same && fresh => Ok(reply(id, role, certificate, authority)),
        _ => Err(Error::Unauthenticated("this join token was used already")),
    }
}

fn reply(id: Uuid, role: Role, certificate_pem: String, authority: &Authority) -> JoinReply {
    JoinReply { node_id: id.to_string(), role: role.into(), certificate_pem, ca_pem: authority.ca_pem().into() }
}

fn ticket_key(request: &JoinRequest, role: Role) -> Result<&[u8]> {
    match (role, request.ticket_key.len()) {
        (Role::Edge, 32) => Ok(&request.ticket_key),
        (Role::Edge, _) => Err(Error::invalid("an edge needs a ticket key of 32 bytes")),
        (Role::Origin | Role::Unspecified, _) => Ok(&[]),
    }
}

/// The id of the node that holds this key, also if it was removed: an admin's new token lets it in again, and it may still
/// have usage batches that were counted under this id without its knowing.
async fn admit(
    tx: &mut PgConnection,
    role: Role,
    key_hash: &[u8],
    addresses: &Addresses,
    ticket_key: &[u8],
) -> Result<Uuid> {
    let role = if role == Role::Edge { "edge" } else { "origin" };
    let admitted = sqlx::query_scalar!(
        "insert into nodes (id, role, public_url, internal_url, relay_url, relay_quic_port, s3_url, ticket_key, key_hash)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         on conflict (key_hash) do update set public_url = excluded.public_url, internal_url = excluded.internal_url,
           relay_url = excluded.relay_url, relay_quic_port = excluded.relay_quic_port, s3_url = excluded.s3_url,
           ticket_key = excluded.ticket_key, renewed_at = now(), removed_at = null
           where nodes.role = excluded.role
         returning id",
        Uuid::now_v7(),
        role,
        addresses.public_url,
        addresses.internal_url,
        addresses.relay_url,
        i32::from(u16::try_from(addresses.relay_quic_port).unwrap_or_default()),
        addresses.s3_url,
        ticket_key,
        key_hash,
    );
    let admitted = admitted.fetch_optional(tx).await?;
    admitted
        .ok_or(Error::conflict("this key is already that of a node of another kind: give each its own state folder"))
}

// ---- Addresses and names ----

fn checked_addresses(addresses: Addresses, role: Role) -> Result<Addresses> {
    let urls = [&addresses.public_url, &addresses.internal_url, &addresses.relay_url, &addresses.s3_url];
    for text in urls.into_iter().filter(|text| !text.is_empty()) {
        check_url(text)?;
    }
    if addresses.relay_quic_port > u32::from(u16::MAX) {
        return Err(Error::invalid("relay_quic_port: at most 65535"));
    }
    if role == Role::Edge && addresses.public_url.is_empty() {
        return Err(Error::invalid("an edge needs a public_url"));
    }
    Ok(addresses)
}

fn check_url(text: &str) -> Result<()> {
    let url = url::Url::parse(text).ok();
    let fits = url.is_some_and(|url| matches!(url.scheme(), "https" | "http") && url.has_host());
    if fits && text.len() <= MAX_URL_BYTES && !text.contains(char::is_control) {
        return Ok(());
    }
    Err(Error::invalid("addresses: https:// URLs of at most 512 bytes"))
}

/// What a node's certificate is good for: where it is reached and, for edges, every host of every site.
async fn names(tx: &mut PgConnection, role: Role, addresses: &Addresses) -> Result<BTreeSet<String>> {
    let urls = [&addresses.public_url, &addresses.internal_url, &addresses.relay_url, &addresses.s3_url];
    let mut names = names_of(urls.into_iter().map(String::as_str));
    if role == Role::Edge {
        names.extend(sites::all_hosts(tx).await?);
    }
    Ok(names)
}

/// What the nodes themselves are reached by.
pub(crate) async fn own_names(db: &PgPool) -> Result<BTreeSet<String>> {
    let nodes = on_wire(&mut *db.acquire().await?, None).await?;
    let addresses = nodes.iter().filter_map(|node| node.addresses.as_ref());
    let urls = addresses.flat_map(|at| [&at.public_url, &at.internal_url, &at.relay_url, &at.s3_url]);
    Ok(names_of(urls.map(String::as_str)))
}

// ---- Members ----

/// The role of a node that has joined and was not removed.
pub(crate) async fn member(db: &PgPool, peer: &PeerIdentity) -> Result<(Uuid, Role)> {
    const REMOVED: Error = Error::Forbidden("this node is not, or no longer, a member");
    let id: Uuid = peer.node_id.parse().map_err(|_| REMOVED)?;
    let role = sqlx::query_scalar!("select role from nodes where id = $1 and removed_at is null", id);
    let role = role.fetch_optional(db).await?.ok_or(REMOVED)?;
    if role != peer.role.as_str() {
        return Err(REMOVED);
    }
    Ok((id, role_of(&role)?))
}

/// A fresh certificate, with the names of now.
pub(crate) async fn renew(
    db: &PgPool,
    authority: &Authority,
    lifetime: Duration,
    (id, role): (Uuid, Role),
    request: &RenewRequest,
) -> Result<RenewReply> {
    let mut tx = db.begin().await?;
    if let Some(addresses) = request.addresses.clone() {
        move_to(&mut tx, id, &checked_addresses(addresses, role)?).await?;
    }
    let csr = CertificateRequest::read(&request.csr_pem)?;
    let touch = sqlx::query!(
        "update nodes set renewed_at = now(), key_hash = $2 where id = $1 and removed_at is null",
        id,
        csr.key_hash()
    );
    touch.execute(&mut *tx).await.map_err(|error| unique(error, "this key is that of another node"))?;
    let addresses = addresses_of(&mut tx, id).await?;
    let names = names(&mut tx, role, &addresses).await?;
    let certificate_pem = authority.certify(&csr, &identity(role, id)?, &names, lifetime)?;
    tx.commit().await?;
    Ok(RenewReply { certificate_pem, ca_pem: authority.ca_pem().into() })
}

async fn move_to(tx: &mut PgConnection, id: Uuid, addresses: &Addresses) -> Result<()> {
    let update = sqlx::query!(
        "update nodes set public_url = $2, internal_url = $3, relay_url = $4, relay_quic_port = $5, s3_url = $6
         where id = $1 and (public_url, internal_url, relay_url, relay_quic_port, s3_url)
           is distinct from ($2, $3, $4, $5, $6)",
        id,
        addresses.public_url,
        addresses.internal_url,
        addresses.relay_url,
        i32::from(u16::try_from(addresses.relay_quic_port).unwrap_or_default()),
        addresses.s3_url,
    );
    if update.execute(&mut *tx).await?.rows_affected() > 0 {
        changes::record(tx, &[(Kind::Node, id.to_string())]).await?;
    }
    Ok(())
}

async fn addresses_of(tx: &mut PgConnection, id: Uuid) -> Result<Addresses> {
    let nodes = on_wire(tx, Some(&[id])).await?;
    let node = nodes.into_iter().next().ok_or(Error::Forbidden("this node was removed"))?;
    Ok(node.addresses.unwrap_or_default())
}

/// Nodes as nodes see them: all, or those of these ids; without those that were removed.
pub(crate) async fn on_wire(db: &mut PgConnection, ids: Option<&[Uuid]>) -> Result<Vec<control::Node>> {
    let rows = sqlx::query!(
        "select id, role, public_url, internal_url, relay_url, relay_quic_port, s3_url, ticket_key from nodes
         where removed_at is null and ($1::uuid[] is null or id = any($1)) order by id",
        ids,
    );
    let rows = rows.fetch_all(db).await?.into_iter();
    rows.map(|row| {
        let addresses = Addresses {
            public_url: row.public_url,
            internal_url: row.internal_url,
            relay_url: row.relay_url,
            relay_quic_port: row.relay_quic_port.unsigned_abs(),
            s3_url: row.s3_url,
        };
        Ok(control::Node {
            id: row.id.to_string(),
            role: role_of(&row.role)?.into(),
            addresses: Some(addresses),
            ticket_key: row.ticket_key.into(),
        })
    })
    .collect()
}

/// Public URLs of the edges.
pub(crate) async fn edge_urls(db: &PgPool) -> Result<Vec<String>> {
    let urls = sqlx::query_scalar!(
        "select public_url from nodes where role = 'edge' and removed_at is null and public_url <> '' order by id",
    );
    Ok(urls.fetch_all(db).await?)
}

pub(crate) async fn list(db: &PgPool) -> Result<Vec<api::Node>> {
    let rows = sqlx::query_as!(
        api::Node,
        r#"select n.id, n.role, n.public_url, n.internal_url, n.s3_url, n.relay_url, n.joined_at, n.renewed_at,
             b.last_applied as "last_batch?"
           from nodes n left join edge_batches b on b.edge_id = n.id where n.removed_at is null order by n.id"#,
    );
    Ok(rows.fetch_all(db).await?)
}

pub(crate) async fn remove(db: &PgPool, id: Uuid) -> Result<()> {
    let mut tx = db.begin().await?;
    let update = sqlx::query!("update nodes set removed_at = now() where id = $1 and removed_at is null", id);
    if update.execute(&mut *tx).await?.rows_affected() == 0 {
        return Err(Error::NotFound("node"));
    }
    changes::record(&mut tx, &[(Kind::Node, id.to_string())]).await?;
    Ok(tx.commit().await?)
}
