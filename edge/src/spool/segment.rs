//! The bytes of a spool segment: records one after the other, each `length (u32, little endian) | first 8 bytes of the
//! payload's BLAKE3 | payload`. A record that is cut off or does not match its hash ends the segment.

use prost::Message;
use tracing::error;
use umbel_wire::control::{Received, Served};

const HEAD: usize = 12;

/// Longest payload that is believed: a path and a few ids.
const MAX_PAYLOAD: usize = 64 * 1024;

/// One entry of the spool.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Record {
    #[prost(oneof = "Entry", tags = "1, 2")]
    pub(crate) entry: Option<Entry>,
}

/// What a record is about.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Entry {
    /// Bytes sent to a reader, metered here.
    #[prost(message, tag = "1")]
    Served(Served),
    /// A receipt that was checked here.
    #[prost(message, tag = "2")]
    Received(Received),
}

impl From<Served> for Record {
    fn from(served: Served) -> Self {
        Self { entry: Some(Entry::Served(served)) }
    }
}

impl From<Received> for Record {
    fn from(received: Received) -> Self {
        Self { entry: Some(Entry::Received(received)) }
    }
}

/// Appends the record's bytes to `to`. One that could not be read again would hide all that come after it: it is left out.
pub(crate) fn encode(record: &Record, to: &mut Vec<u8>) {
    let start = to.len();
    to.extend_from_slice(&[0; HEAD]);
    record.encode_raw(to);
    let (head, payload) = to[start..].split_at_mut(HEAD);
    let length = match u32::try_from(payload.len()) {
        Ok(length) if payload.len() <= MAX_PAYLOAD => length,
        Ok(_) | Err(_) => {
            error!(bytes = payload.len(), "a usage record is too long and lost");
            return to.truncate(start);
        }
    };
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..].copy_from_slice(&blake3::hash(payload).as_bytes()[..8]);
}

/// The whole records at the start of `bytes`, and how many bytes they take. What follows is torn.
pub(crate) fn decode(bytes: &[u8]) -> (Vec<Record>, usize) {
    let (mut records, mut good) = (Vec::new(), 0);
    while let Some((record, length)) = first(&bytes[good..]) {
        records.push(record);
        good += length;
    }
    (records, good)
}

fn first(bytes: &[u8]) -> Option<(Record, usize)> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    if length > MAX_PAYLOAD {
        return None;
    }
    let payload = bytes.get(HEAD..HEAD + length)?;
    if blake3::hash(payload).as_bytes()[..8] != bytes[4..HEAD] {
        return None;
    }
    Some((Record::decode(payload).ok()?, HEAD + length))
}
