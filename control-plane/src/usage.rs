//! Usage: takes batches in exactly once, and sums up.

use std::collections::BTreeMap;

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use umbel_wire::control::{Batch, Received, Served};
use uuid::Uuid;

use crate::{
    api::{UsageQuery, UsageReport, UsageRow},
    error::{Error, Result},
    secrets,
};

/// More than this in one entry (1 PiB) is a broken edge; sums stay far from overflow.
const MAX_BYTES: u64 = 1 << 50;
const MAX_PATH_BYTES: usize = 8 << 10;
const MAX_REPORT_ROWS: u32 = 100_000;
const HOUR: i64 = 3600;
/// Postgres resolves a deadlock by failing one side, for which trying again is all there is to do.
const ATTEMPTS: usize = 5;

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It counts, now or since before; the last number that was applied.
    Applied(u64),
    /// A batch before it is missing; the last number that was applied.
    Gap(u64),
}

/// Applies a batch and its number in one transaction; whatever of it is malformed is left out, since refusing it would stop the
/// edge's spool for ever.
pub(crate) async fn apply(db: &PgPool, edge: Uuid, batch: Batch) -> Result<Outcome> {
    let number = i64::try_from(batch.number).ok().filter(|number| *number > 0);
    let number = number.ok_or(Error::invalid("batch numbers start at 1"))?;
    let entries = Entries::from_batch(batch, edge);
    for _ in 1..ATTEMPTS {
        match apply_once(db, edge, number, &entries).await {
            Err(Error::Database(error)) if is_deadlock(&error) => {}
            outcome => return outcome,
        }
    }
    apply_once(db, edge, number, &entries).await
}

fn is_deadlock(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|refusal| refusal.code()).is_some_and(|code| code == "40P01" || code == "40001")
}

async fn apply_once(db: &PgPool, edge: Uuid, number: i64, entries: &Entries) -> Result<Outcome> {
    let mut tx = db.begin().await?;
    let last = lock_last(&mut tx, edge).await?;
    if number <= last {
        return Ok(Outcome::Applied(last.unsigned_abs()));
    }
    if number > last + 1 {
        return Ok(Outcome::Gap(last.unsigned_abs()));
    }
    add_served(&mut tx, edge, &entries.served).await?;
    merge_received(&mut tx, &entries.received).await?;
    let update =
        sqlx::query!("update edge_batches set last_applied = $2, applied_at = now() where edge_id = $1", edge, number);
    update.execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(Outcome::Applied(number.unsigned_abs()))
}

/// The last number applied; its row is locked, so that batches of one edge follow one another.
async fn lock_last(tx: &mut PgConnection, edge: Uuid) -> Result<i64> {
    let insert =
        sqlx::query!("insert into edge_batches (edge_id, last_applied) values ($1, 0) on conflict do nothing", edge);
    insert.execute(&mut *tx).await?;
    let last = sqlx::query_scalar!("select last_applied from edge_batches where edge_id = $1 for update", edge);
    Ok(last.fetch_one(tx).await?)
}

// ---- What a batch says, made plain ----

/// Keys in order: transactions that touch the same rows lock them in the same order.
#[derive(Debug, Default)]
struct Entries {
    served: BTreeMap<ServedKey, (i64, i64)>,
    received: BTreeMap<[u8; 16], Receipt>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ServedKey {
    hour: i64,
    site: Uuid,
    path: String,
    status: i32,
}

#[derive(Debug)]
struct Receipt {
    hour: i64,
    site: Uuid,
    path: String,
    issuer: Uuid,
    receiver: Vec<u8>,
    sender: Vec<u8>,
    manifest: Vec<u8>,
    bytes: i64,
}

impl Entries {
    fn from_batch(batch: Batch, edge: Uuid) -> Self {
        let mut entries = Self::default();
        let taken_served = batch.served.into_iter().filter_map(|served| entries.add_served(served)).count();
        let taken_received = batch.received.into_iter().filter_map(|received| entries.add_received(received)).count();
        tracing::debug!(%edge, number = batch.number, taken_served, taken_received, "usage batch");
        entries
    }

    fn add_served(&mut self, served: Served) -> Option<()> {
        let (requests, bytes) = (amount(served.requests)?, amount(served.bytes)?);
        let key = ServedKey {
            hour: hour(served.hour)?,
            site: uuid(&served.site_id)?,
            path: path(served.path)?,
            status: i32::try_from(served.status).ok().or_else(|| dropped("status"))?,
        };
        let sums = self.served.entry(key).or_default();
        *sums = (sums.0.saturating_add(requests), sums.1.saturating_add(bytes));
        Some(())
    }

    fn add_received(&mut self, received: Received) -> Option<()> {
        let ticket: [u8; 16] = received.ticket_id.as_ref().try_into().ok().or_else(|| dropped("ticket id"))?;
        let receipt = Receipt {
            hour: hour(received.at)?,
            site: uuid(&received.site_id)?,
            path: path(received.path)?,
            issuer: uuid(&received.issuer)?,
            receiver: key(&received.receiver, &[32])?,
            sender: key(&received.sender, &[0, 32])?,
            manifest: key(&received.manifest_id, &[0, 32])?,
            bytes: amount(received.bytes)?,
        };
        if receipt.bytes == 0 {
            return Some(());
        }
        let highest = self.received.get(&ticket).is_none_or(|known| known.bytes < receipt.bytes);
        if highest {
            self.received.insert(ticket, receipt);
        }
        Some(())
    }
}

fn dropped<T>(what: &'static str) -> Option<T> {
    tracing::warn!(what, "a usage entry is malformed and does not count");
    None
}

fn uuid(text: &str) -> Option<Uuid> {
    text.parse().ok().or_else(|| dropped("id"))
}

fn key(bytes: &[u8], lengths: &[usize]) -> Option<Vec<u8>> {
    lengths.contains(&bytes.len()).then(|| bytes.to_vec()).or_else(|| dropped("key"))
}

fn amount(value: u64) -> Option<i64> {
    i64::try_from(value).ok().filter(|_| value <= MAX_BYTES).or_else(|| dropped("amount"))
}

fn hour(seconds: u64) -> Option<i64> {
    let seconds = i64::try_from(seconds).ok()?;
    // The year 9999, where timestamps end.
    if seconds > 253_000_000_000 { dropped("time") } else { Some(seconds / HOUR * HOUR) }
}

/// Postgres' text has no NUL.
fn path(path: String) -> Option<String> {
    match path.len() {
        0..=MAX_PATH_BYTES => Some(path.replace('\0', "\u{fffd}")),
        _ => dropped("path"),
    }
}

fn times(hours: impl Iterator<Item = i64>) -> Vec<OffsetDateTime> {
    hours.map(|hour| OffsetDateTime::from_unix_timestamp(hour).unwrap_or(OffsetDateTime::UNIX_EPOCH)).collect()
}

// ---- Writing ----

async fn add_served(tx: &mut PgConnection, edge: Uuid, served: &BTreeMap<ServedKey, (i64, i64)>) -> Result<()> {
    let hours = times(served.keys().map(|key| key.hour));
    let sites: Vec<Uuid> = served.keys().map(|key| key.site).collect();
    let paths: Vec<String> = served.keys().map(|key| key.path.clone()).collect();
    let digests: Vec<Vec<u8>> = paths.iter().map(|path| secrets::short_digest(path.as_bytes()).to_vec()).collect();
    let statuses: Vec<i32> = served.keys().map(|key| key.status).collect();
    let requests: Vec<i64> = served.values().map(|sums| sums.0).collect();
    let bytes: Vec<i64> = served.values().map(|sums| sums.1).collect();
    let insert = sqlx::query!(
        "insert into usage (hour, site_id, path_digest, edge_id, tier, status, path, requests, bytes)
         select hour, site, digest, $1, 'reader', status, path, requests, bytes
         from unnest($2::timestamptz[], $3::uuid[], $4::text[], $5::bytea[], $6::int[], $7::bigint[], $8::bigint[])
           as t (hour, site, path, digest, status, requests, bytes)
         order by hour, site, digest, status
         on conflict (hour, site_id, path_digest, edge_id, tier, status)
         do update set requests = usage.requests + excluded.requests, bytes = usage.bytes + excluded.bytes",
        edge,
        &hours,
        &sites,
        &paths,
        &digests,
        &statuses,
        &requests,
        &bytes,
    );
    insert.execute(tx).await?;
    Ok(())
}

/// Raises each ticket to the highest receipt seen, and adds what it rose by to the usage of that hour.
async fn merge_received(tx: &mut PgConnection, received: &BTreeMap<[u8; 16], Receipt>) -> Result<()> {
    let rises = raise(tx, received).await?;
    add_rises(tx, rises).await
}

/// What was delivered that had not been counted before.
struct Rise {
    hour: OffsetDateTime,
    site: Uuid,
    path: String,
    issuer: Uuid,
    peer: bool,
    first: bool,
    bytes: i64,
}

async fn raise(tx: &mut PgConnection, received: &BTreeMap<[u8; 16], Receipt>) -> Result<Vec<Rise>> {
    let tickets: Vec<Vec<u8>> = received.keys().map(|ticket| ticket.to_vec()).collect();
    let all = || received.values();
    let rises = sqlx::query_as!(
        Rise,
        r#"insert into receipts (ticket_id, site_id, path, issuer, receiver, sender, manifest_id, bytes, hour)
           select ticket, site, path, issuer, receiver, sender, manifest, bytes, hour
           from unnest($1::bytea[], $2::uuid[], $3::text[], $4::uuid[], $5::bytea[], $6::bytea[], $7::bytea[],
               $8::bigint[], $9::timestamptz[])
             as t (ticket, site, path, issuer, receiver, sender, manifest, bytes, hour)
           order by ticket
           on conflict (ticket_id) do update
             set previous = receipts.bytes, bytes = excluded.bytes, hour = excluded.hour
             where excluded.bytes > receipts.bytes
           returning hour, site_id as site, path, issuer, octet_length(sender) > 0 as "peer!",
             previous = 0 as "first!", bytes - previous as "bytes!""#,
        &tickets,
        &all().map(|receipt| receipt.site).collect::<Vec<_>>(),
        &all().map(|receipt| receipt.path.clone()).collect::<Vec<_>>(),
        &all().map(|receipt| receipt.issuer).collect::<Vec<_>>(),
        &all().map(|receipt| receipt.receiver.clone()).collect::<Vec<_>>(),
        &all().map(|receipt| receipt.sender.clone()).collect::<Vec<_>>(),
        &all().map(|receipt| receipt.manifest.clone()).collect::<Vec<_>>(),
        &all().map(|receipt| receipt.bytes).collect::<Vec<_>>(),
        &times(all().map(|receipt| receipt.hour)),
    );
    Ok(rises.fetch_all(tx).await?)
}

async fn add_rises(tx: &mut PgConnection, rises: Vec<Rise>) -> Result<()> {
    let digests: Vec<Vec<u8>> = rises.iter().map(|rise| secrets::short_digest(rise.path.as_bytes()).to_vec()).collect();
    let insert = sqlx::query!(
        "insert into usage (hour, site_id, path_digest, edge_id, tier, status, path, requests, bytes)
         select hour, site, digest, edge, case when peer then 'peer' else 'edge' end as tier, 0, min(path),
           count(*) filter (where first), sum(bytes)::bigint
         from unnest($1::timestamptz[], $2::uuid[], $3::text[], $4::bytea[], $5::uuid[], $6::bool[], $7::bool[],
             $8::bigint[])
           as t (hour, site, path, digest, edge, peer, first, bytes)
         group by hour, site, digest, edge, peer
         order by hour, site, digest, edge, tier
         on conflict (hour, site_id, path_digest, edge_id, tier, status)
         do update set requests = usage.requests + excluded.requests, bytes = usage.bytes + excluded.bytes",
        &rises.iter().map(|rise| rise.hour).collect::<Vec<_>>(),
        &rises.iter().map(|rise| rise.site).collect::<Vec<_>>(),
        &rises.iter().map(|rise| rise.path.clone()).collect::<Vec<_>>(),
        &digests,
        &rises.iter().map(|rise| rise.issuer).collect::<Vec<_>>(),
        &rises.iter().map(|rise| rise.peer).collect::<Vec<_>>(),
        &rises.iter().map(|rise| rise.first).collect::<Vec<_>>(),
        &rises.iter().map(|rise| rise.bytes).collect::<Vec<_>>(),
    );
    insert.execute(tx).await?;
    Ok(())
}

// ---- Reading ----

/// Sums of what `scope` (none: everybody) may see.
pub(crate) async fn report(db: &PgPool, scope: Option<Uuid>, query: &UsageQuery) -> Result<UsageReport> {
    let from = query.from.as_deref().map(|text| hour_of(text, "from")).transpose()?;
    let to = query.to.as_deref().map(|text| hour_of(text, "to")).transpose()?;
    if from.zip(to).is_some_and(|(from, to)| from >= to) {
        return Err(Error::invalid("from: an hour before that of `to`"));
    }
    let limit = query.limit.unwrap_or(MAX_REPORT_ROWS).min(MAX_REPORT_ROWS) as usize;
    let rows = sqlx::query_as!(
        UsageRow,
        r#"select
             case $1 when 'site' then coalesce(s.name, u.site_id::text) when 'object' then coalesce(s.name, u.site_id::text)
               when 'edge' then u.edge_id::text when 'account' then coalesce(a.name, 'unknown')
               else to_char(u.hour at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') end as "key!",
             case $1 when 'object' then u.path else '' end as "path!",
             sum(u.requests)::bigint as "requests!",
             coalesce(sum(u.bytes) filter (where u.tier <> 'peer'), 0)::bigint as "edge_bytes!",
             coalesce(sum(u.bytes) filter (where u.tier = 'peer'), 0)::bigint as "peer_bytes!",
             sum(u.bytes)::bigint as "total_bytes!"
           from usage u left join sites s on s.id = u.site_id left join accounts a on a.id = s.account_id
           where ($2::uuid is null or s.account_id = $2) and ($3::timestamptz is null or u.hour >= $3)
             and ($4::timestamptz is null or u.hour < $4)
           group by 1, 2 order by 1, 2 limit $5"#,
        query.by.as_str(),
        scope,
        from,
        to,
        i64::try_from(limit).unwrap_or(i64::MAX) + 1,
    );
    let mut rows = rows.fetch_all(db).await?;
    let truncated = rows.len() > limit;
    rows.truncate(limit);
    Ok(UsageReport { rows, truncated })
}

/// The beginning of the hour: usage knows no smaller step.
fn hour_of(text: &str, what: &'static str) -> Result<OffsetDateTime> {
    let time = time_of(text, what)?;
    Ok(time
        - time::Duration::seconds(time.unix_timestamp().rem_euclid(HOUR))
        - time::Duration::nanoseconds(time.nanosecond().into()))
}

/// RFC 3339, or a day in UTC.
fn time_of(text: &str, what: &'static str) -> Result<OffsetDateTime> {
    use time::format_description::well_known::Rfc3339;
    let day = || OffsetDateTime::parse(&format!("{text}T00:00:00Z"), &Rfc3339);
    let time = OffsetDateTime::parse(text, &Rfc3339).or_else(|_| day());
    time.map_err(|_| Error::invalid(format!("{what}: a time as 2030-01-31T15:00:00Z, or a day as 2030-01-31")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_days() {
        for (text, expected) in [
            ("2030-01-31T15:00:00Z", Some(1_896_102_000)),
            ("2030-01-31T15:00:00+01:00", Some(1_896_098_400)),
            ("2030-01-31", Some(1_896_048_000)),
            ("2030-02-31", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(time_of(text, "from").ok().map(OffsetDateTime::unix_timestamp), expected, "{text}");
        }
    }
}
