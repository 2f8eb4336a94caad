//! Counts what readers are sent, as it is sent: at least each MiB and at the end of each response there is a record in the
//! spool, so a process that is killed has counted what it delivered but for less than a MiB a response.

use std::sync::Arc;

use umbel_service::unix_now;
use umbel_wire::control::Served;

use crate::{metrics::Metrics, spool::Spool};

const RECORD_EVERY: u64 = 1024 * 1024;

/// Counts for all responses of an edge.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    pub(crate) spool: Arc<Spool>,
    pub(crate) metrics: Metrics,
}

/// Counts one response; its end is its drop.
#[derive(Debug)]
pub(crate) struct ResponseMeter {
    meter: Meter,
    site_id: String,
    path: String,
    status: u16,
    pending: u64,
}

impl Meter {
    /// For a response about an object of a site. Errors are counted by site only: their paths are anything that anyone
    /// can think of.
    pub(crate) fn response(&self, site_id: &str, path: &str, status: http::StatusCode) -> ResponseMeter {
        let path = if status.is_client_error() || status.is_server_error() { "" } else { path };
        let (site_id, path) = (site_id.to_owned(), path.to_owned());
        ResponseMeter { meter: self.clone(), site_id, path, status: status.as_u16(), pending: 0 }
    }
}

impl ResponseMeter {
    /// So many bytes of the object were handed to the connection.
    pub(crate) fn sent(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.meter.metrics.reader_bytes.inc_by(bytes);
        self.pending += bytes;
        if self.pending >= RECORD_EVERY {
            self.record(0);
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
        self.record(1);
    }
}
