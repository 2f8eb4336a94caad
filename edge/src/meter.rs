//! Counts what readers are sent, before it is sent: a piece is handed to the connection when its bytes are counted, but for less
//! than [`RECORD_EVERY`] a response, and the last piece of a response always is. What is counted is in the spool before the
//! connection lets any of it go ([`Meter::before_sending`]). So a process that is killed has counted every response that it
//! completed, and all but 64 KiB of each that it did not.

use std::sync::Arc;

use http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use umbel_service::unix_now;

use crate::spool::{Lists, Spool, Usage};

/// Bytes of a response that may be on their way without a record.
const RECORD_EVERY: u64 = 64 * 1024;

/// Bytes of a path that the control plane takes.
const LONGEST_PATH: usize = 8 * 1024;

/// Counts for all responses of an edge.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    pub(crate) spool: Arc<Spool>,
    /// As operators see them.
    pub(crate) reader_bytes: Counter,
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
    /// For a response about an object of a site.
    pub(crate) fn response(&self, site_id: &str, path: &str, status: StatusCode) -> ResponseMeter {
        let (site_id, path) = (site_id.to_owned(), counted(path, status).to_owned());
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

    /// A response that leaves in one piece: so many bytes of the object.
    pub(crate) fn at_once(&self, site_id: &str, path: &str, status: StatusCode, bytes: usize) {
        let bytes = bytes as u64;
        self.reader_bytes.inc_by(bytes);
        self.spool.served(usage(site_id, counted(path, status), status.as_u16(), (1, bytes)));
    }

    /// Where this thread has counted what is not written down yet.
    pub(crate) fn unwritten(&self) -> Lists {
        self.spool.unwritten()
    }

    /// Called before anything leaves that was counted there.
    pub(crate) fn before_sending(&self, unwritten: Lists) {
        self.spool.write_down(unwritten);
    }
}

fn usage<'a>(site_id: &'a str, path: &'a str, status: u16, (requests, bytes): (u64, u64)) -> Usage<'a> {
    let now = unix_now();
    Usage { hour: now - now % 3600, site_id, path, status: status.into(), requests, bytes }
}

/// Errors are counted by site only: their paths are anything that anyone can think of. So are paths that the books do not take.
fn counted(path: &str, status: StatusCode) -> &str {
    let is_error = status.is_client_error() || status.is_server_error();
    if is_error || path.len() > LONGEST_PATH { "" } else { path }
}

impl ResponseMeter {
    /// So many bytes of the object make the response complete.
    pub(crate) fn expect(&mut self, bytes: u64) {
        self.expected = bytes;
    }

    /// So many bytes of the object are about to be handed to the connection.
    pub(crate) fn sending(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.meter.reader_bytes.inc_by(bytes);
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
        let bytes = std::mem::take(&mut self.pending);
        self.meter.spool.served(usage(&self.site_id, &self.path, self.status, (requests, bytes)));
    }
}

impl Drop for ResponseMeter {
    fn drop(&mut self) {
        self.end();
    }
}
