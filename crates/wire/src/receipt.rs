//! Receipts: a receiver's signed, cumulative acknowledgement of the bytes it verified under one ticket.

use umbel_content::{SigningKey, VerifyingKey};

use crate::agent::Receipt;
use crate::token::{KeySet, Ticket, TokenError};

const DOMAIN: &[u8] = b"umbel receipt v1";

/// Why a receipt is not taken. None of them heals by trying again, but [`TokenError::UnknownKey`] of a ticket: the news of a
/// new edge take a while to get around.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// The ticket itself is not good.
    #[error("ticket: {0}")]
    Ticket(#[from] TokenError),
    /// Not signed by the ticket's receiver.
    #[error("not signed by the receiver that the ticket names")]
    Signature,
    /// More than the ticket allows.
    #[error("{bytes} bytes are over the ticket's limit of {limit}")]
    OverLimit {
        /// What the receipt claims.
        bytes: u64,
        /// What the ticket allows.
        limit: u64,
    },
}

/// Signs for `bytes` plaintext bytes received in all under `ticket`. `ticket_id` is the ticket's `jti`.
pub fn sign(key: &SigningKey, ticket: &str, ticket_id: &[u8; 16], bytes: u64) -> Receipt {
    let signature = key.sign(DOMAIN, &[ticket_id, &bytes.to_be_bytes()]);
    Receipt { ticket: ticket.to_owned(), bytes, signature: signature.to_vec().into() }
}

/// Checks a receipt against its own ticket and the keys of the edges; returns the ticket. An expired ticket is
/// good here: what was received in time may be reported late.
pub fn verify(receipt: &Receipt, edges: &KeySet) -> Result<Ticket, ReceiptError> {
    let ticket = Ticket::verify_signature(&receipt.ticket, edges)?;
    verify_for(receipt, &ticket)?;
    Ok(ticket)
}

/// Checks a receipt against a ticket that was checked before (a sender does this for every receipt it is handed).
pub fn verify_for(receipt: &Receipt, ticket: &Ticket) -> Result<(), ReceiptError> {
    if receipt.bytes > ticket.max_bytes {
        return Err(ReceiptError::OverLimit { bytes: receipt.bytes, limit: ticket.max_bytes });
    }
    VerifyingKey::from_bytes(ticket.receiver)
        .verify(DOMAIN, &[&ticket.id, &receipt.bytes.to_be_bytes()], &receipt.signature)
        .map_err(|_| ReceiptError::Signature)
}
