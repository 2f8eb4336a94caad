//! The answers on disk, so that an edge that restarts serves with every origin down. Written behind the requests: what a
//! crash loses costs one question to the origin.

use std::{path::Path, sync::Arc};

use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTableMetadata, TableDefinition};
use tokio::{sync::mpsc, task::spawn_blocking};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use umbel_content::proto;

use super::{Key, Version};

const ANSWERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("answers-v1");

/// Changes that wait for the disk. Beyond that they are left out: the table is only a memory aid.
const QUEUE: usize = 1024;

/// Changes in one transaction.
const AT_ONCE: usize = 256;

/// What is kept of a version.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct Kept {
    #[prost(message, optional, tag = "1")]
    pub(crate) manifest: Option<proto::SignedManifest>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) content_key: Vec<u8>,
    /// Of purges, when the question went out that brought it.
    #[prost(uint64, tag = "3")]
    pub(crate) epoch: u64,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

type Change = (Key, Option<(Arc<Version>, u64)>);

/// Site id and path -> version, on disk. Holds content keys: the file is a secret.
#[derive(Debug)]
pub(crate) struct Table {
    database: Arc<Database>,
    changes: mpsc::Sender<Change>,
}

/// Writes a table's changes down.
#[derive(Debug)]
pub(crate) struct TableWriter {
    database: Arc<Database>,
    changes: mpsc::Receiver<Change>,
    max_entries: u64,
}

impl Table {
    /// Opens `file`; one that is damaged is begun anew. The writer must [`TableWriter::run`].
    pub(crate) fn open(file: &Path, max_entries: u64) -> anyhow::Result<(Self, TableWriter)> {
        let database = Arc::new(open_or_begin(file)?);
        let (sender, changes) = mpsc::channel(QUEUE);
        Ok((Self { database: database.clone(), changes: sender }, TableWriter { database, changes, max_entries }))
    }

    /// What is remembered.
    pub(crate) async fn read(&self, key: Key) -> Option<Kept> {
        let database = self.database.clone();
        let read = spawn_blocking(move || read(&database, &key)).await.ok()?;
        read.inspect_err(|error| warn!(%error, "cannot read the lookup table")).ok()?
    }

    /// Remembers, soon.
    pub(crate) fn keep(&self, key: Key, version: Arc<Version>, epoch: u64) {
        self.change((key, Some((version, epoch))));
    }

    /// Forgets, soon.
    pub(crate) fn forget(&self, key: Key) {
        self.change((key, None));
    }

    fn change(&self, change: Change) {
        if self.changes.try_send(change).is_err() {
            debug!("the lookup table is behind, an answer is not written down");
        }
    }
}

fn open_or_begin(file: &Path) -> anyhow::Result<Database> {
    match Database::create(file) {
        Ok(database) => Ok(database),
        Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
            anyhow::bail!("{} is in use by another process", file.display())
        }
        Err(error) => {
            warn!(%error, file = %file.display(), "the lookup table is damaged, beginning anew");
            std::fs::remove_file(file)?;
            Ok(Database::create(file)?)
        }
    }
}

fn text((site_id, path): &Key) -> String {
    format!("{site_id}\0{path}")
}

fn read(database: &Database, key: &Key) -> Result<Option<Kept>, redb::Error> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(ANSWERS) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        table => table?,
    };
    let kept = table.get(text(key).as_str())?;
    Ok(kept.and_then(|bytes| Kept::decode(bytes.value()).ok()))
}

impl TableWriter {
    /// Writes until the table is dropped, or until `end` and then what waits. Nothing writes after it has returned.
    pub(crate) async fn run(mut self, end: CancellationToken) {
        let mut batch = Vec::with_capacity(AT_ONCE);
        while self.next(&mut batch, &end).await > 0 {
            let (database, changes, max) = (self.database.clone(), std::mem::take(&mut batch), self.max_entries);
            match spawn_blocking(move || write(&database, changes, max)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!(%error, "answers are not written down"),
                Err(error) => warn!(%error, "answers are not written down"),
            }
        }
    }

    async fn next(&mut self, batch: &mut Vec<Change>, end: &CancellationToken) -> usize {
        if let Some(count) = end.run_until_cancelled(self.changes.recv_many(batch, AT_ONCE)).await {
            return count;
        }
        self.changes.close();
        self.changes.recv_many(batch, AT_ONCE).await
    }
}

fn write(database: &Database, changes: Vec<Change>, max_entries: u64) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(ANSWERS)?;
        for (key, version) in changes {
            match version {
                Some((version, epoch)) => drop(table.insert(text(&key).as_str(), kept(&version, epoch).as_slice())?),
                None => drop(table.remove(text(&key).as_str())?),
            }
        }
        // Any victim will do: it costs one question.
        while table.len()? > max_entries {
            table.pop_first()?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn kept(version: &Version, epoch: u64) -> Vec<u8> {
    let kept = Kept { manifest: Some(version.signed.to_proto()), content_key: version.key.as_bytes().to_vec(), epoch };
    kept.encode_to_vec()
}
