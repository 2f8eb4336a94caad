//! The index in redb: versions, which of their chunks are held, and what each ticket is owed.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use prost::Message;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use umbel_content::{ChunkSet, Manifest, ManifestId, SignedManifest, VerifyingKey, proto};

use super::{Accounts, Blobs, IndexFault, Shelf, StoreError, new_version};

/// Manifest id -> [`VersionRecord`].
const VERSIONS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("versions");
/// Manifest id -> bitmap.
const HELD: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("held");
/// Ticket id -> text and expiry.
const TICKETS: TableDefinition<'_, &[u8; 16], (&str, u64)> = TableDefinition::new("tickets");
/// Ticket id -> plaintext bytes credited, and of these acknowledged by an edge.
const CREDITS: TableDefinition<'_, &[u8; 16], (u64, u64)> = TableDefinition::new("credits");

/// What is remembered of a version. Never its key.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct VersionRecord {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) manifest: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) signature: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) site_key: Bytes,
    #[prost(string, tag = "4")]
    pub(crate) site_id: String,
    #[prost(string, tag = "5")]
    pub(crate) home_edge: String,
    #[prost(string, tag = "6")]
    pub(crate) edge_ticket: String,
}

impl VersionRecord {
    fn verified(&self) -> Option<Manifest> {
        let message = proto::SignedManifest { manifest: self.manifest.clone(), signature: self.signature.clone() };
        let key: [u8; 32] = self.site_key.as_ref().try_into().ok()?;
        SignedManifest::from_proto(message).ok()?.verify(&VerifyingKey::from_bytes(key)).ok()
    }
}

/// What one ticket is owed: it never shrinks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TicketAccount {
    pub(crate) id: [u8; 16],
    pub(crate) text: String,
    /// Seconds since the Unix epoch.
    pub(crate) expires: u64,
    /// Plaintext bytes verified under it.
    pub(crate) bytes: u64,
    /// Of these, bytes that an edge has on disk.
    pub(crate) acknowledged: u64,
}

impl TicketAccount {
    /// An edge has taken a receipt for all of it.
    pub(super) fn is_settled(&self) -> bool {
        self.bytes <= self.acknowledged
    }
}

fn fault<T, E: Into<redb::Error>>(result: Result<T, E>) -> Result<T, StoreError> {
    result.map_err(|error| IndexFault(error).into())
}

#[derive(Debug)]
pub(super) struct Index(Database);

impl Index {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let database = match Database::create(path) {
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(StoreError::InUse),
            other => fault(other)?,
        };
        let index = Self(database);
        index.change(|change| change.make_tables())?;
        Ok(index)
    }

    /// All or nothing of what `make` does.
    pub(super) fn change(&self, make: impl FnOnce(&Change) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let change = Change(fault(self.0.begin_write())?);
        make(&change)?;
        fault(change.0.commit())
    }

    /// Everything, as it was when the last agent stopped or died. Versions whose file or manifest is gone are left out.
    pub(super) fn load(&self, blobs: &Blobs) -> Result<(Shelf, Accounts), StoreError> {
        let read = fault(self.0.begin_read())?;
        let held = fault(read.open_table(HELD))?;
        let mut shelf = Shelf::default();
        for row in fault(fault(read.open_table(VERSIONS))?.iter())? {
            let (id, record) = fault(row)?;
            let id = ManifestId::from_bytes(*id.value());
            let Ok(record) = VersionRecord::decode(record.value()) else { continue };
            let Some(manifest) = record.verified().filter(|manifest| manifest.id() == id) else { continue };
            let bitmap = fault(held.get(id.as_bytes()))?;
            let bitmap = bitmap.as_ref().filter(|_| blobs.exists(&id)).map(|bitmap| bitmap.value());
            let held = ChunkSet::from_bitmap(manifest.layout().chunks(), bitmap.unwrap_or_default()).ok();
            shelf.insert(Arc::new(new_version(&record, manifest, held)));
        }
        Ok((shelf, self.load_accounts()?))
    }

    fn load_accounts(&self) -> Result<Accounts, StoreError> {
        let read = fault(self.0.begin_read())?;
        let credits = fault(read.open_table(CREDITS))?;
        let mut accounts = Accounts::default();
        for row in fault(fault(read.open_table(TICKETS))?.iter())? {
            let (id, ticket) = fault(row)?;
            let (id, (text, expires)) = (*id.value(), ticket.value());
            let (bytes, acknowledged) = fault(credits.get(&id))?.map_or((0, 0), |credit| credit.value());
            accounts.put(TicketAccount { id, text: text.into(), expires, bytes, acknowledged });
        }
        Ok(accounts)
    }
}

/// One transaction.
pub(super) struct Change(WriteTransaction);

impl Change {
    fn make_tables(&self) -> Result<(), StoreError> {
        fault(self.0.open_table(VERSIONS))?;
        fault(self.0.open_table(HELD))?;
        fault(self.0.open_table(TICKETS))?;
        fault(self.0.open_table(CREDITS))?;
        Ok(())
    }

    pub(super) fn put_version(&self, id: &ManifestId, record: &VersionRecord) -> Result<(), StoreError> {
        let mut table = fault(self.0.open_table(VERSIONS))?;
        fault(table.insert(id.as_bytes(), record.encode_to_vec().as_slice()))?;
        Ok(())
    }

    pub(super) fn put_held(&self, id: &ManifestId, held: &ChunkSet) -> Result<(), StoreError> {
        let mut table = fault(self.0.open_table(HELD))?;
        fault(table.insert(id.as_bytes(), held.to_bitmap().as_slice()))?;
        Ok(())
    }

    pub(super) fn remove_version(&self, id: &ManifestId) -> Result<(), StoreError> {
        fault(fault(self.0.open_table(VERSIONS))?.remove(id.as_bytes()))?;
        fault(fault(self.0.open_table(HELD))?.remove(id.as_bytes()))?;
        Ok(())
    }

    pub(super) fn put_ticket(&self, ticket: &TicketAccount) -> Result<(), StoreError> {
        let mut tickets = fault(self.0.open_table(TICKETS))?;
        if fault(tickets.get(&ticket.id))?.is_none() {
            fault(tickets.insert(&ticket.id, (ticket.text.as_str(), ticket.expires)))?;
        }
        fault(fault(self.0.open_table(CREDITS))?.insert(&ticket.id, (ticket.bytes, ticket.acknowledged)))?;
        Ok(())
    }

    pub(super) fn remove_ticket(&self, id: &[u8; 16]) -> Result<(), StoreError> {
        fault(fault(self.0.open_table(TICKETS))?.remove(id))?;
        fault(fault(self.0.open_table(CREDITS))?.remove(id))?;
        Ok(())
    }
}
