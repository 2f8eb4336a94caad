//! Counts what readers are sent, before it is sent: a piece is handed to the connection when its bytes are in the spool, but
//! for less than [`RECORD_EVERY`] a response, and the last piece of a response always is. So a process that is killed has
//! counted every response that it completed, and all but 64 KiB of each that it did not.

use std::sync::Arc;

use umbel_service::unix_now;
use umbel_wire::control::Served;

use crate::{metrics::Metrics, spool::Spool};

/// Bytes of a response that may be on their way without a record.
const RECORD_EVERY: u64 = 64 * 1024;

/// Counts for all responses of an edge.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    pub(crate) spool: Arc<Spool>,
    pub(crate) metrics: Metrics,
}

/// Counts one response. It ends with the last byte that it expects, or when it is dropped.
#[derive(Debug)]
pub(crate) struct ResponseMeter {
    meter: Meter,
    site_id: String,
    path: String,
    status: u16,
    pending: u64,
    expected: u64,
    ended: bool,
}

impl Meter {
    /// For a response about an object of a site. Errors are counted by site only: their paths are anything that anyone
    /// can think of.
    pub(crate) fn response(&self, site_id: &str, path: &str, status: http::StatusCode) -> ResponseMeter {
        let path = if status.is_client_error() || status.is_server_error() { "" } else { path };
        let (site_id, path) = (site_id.to_owned(), path.to_owned());
        ResponseMeter {
            meter: self.clone(),
            site_id,
            path,
            status: status.as_u16(),
            pending: 0,
            expected: 0,
            ended: false,
        }
    }
}

impl ResponseMeter {
    /// So many bytes of the object make the response complete.
    pub(crate) fn expect(&mut self, bytes: u64) {
        self.expected = bytes;
    }

    /// So many bytes of the object are about to be handed to the connection.
    pub(crate) fn sending(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.meter.metrics.reader_bytes.inc_by(bytes);
        self.pending += bytes;
        self.expected = self.expected.saturating_sub(bytes);
        if self.expected == 0 {
            self.end();
        } else if self.pending >= RECORD_EVERY {
            self.record(0);
        }
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.record(1);
        }
    }

    fn record(&mut self, requests: u64) {
        let now = unix_now();
        self.meter.spool.served(Served {
            hour: now - now % 3600,
            site_id: self.site_id.clone(),
            path: self.path.clone(),
            status: u32::from(self.status),
            requests,
            bytes: std::mem::take(&mut self.pending),
        });
    }
}

impl Drop for ResponseMeter {
    fn drop(&mut self) {
        self.end();
    }
}
