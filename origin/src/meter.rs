//! What the origin counts.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Who asked, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Operation {
    PutObject,
    GetObject,
    HeadObject,
    CopyObject,
    DeleteObject,
    DeleteObjects,
    ListObjects,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListParts,
    ListMultipartUploads,
    Bucket,
    Resolve,
    Chunk,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Outcome {
    Done,
    /// The client's fault, or just not there.
    Refused,
    /// Ours or the store's.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    operation: Operation,
    outcome: Outcome,
}

/// The origin's metrics.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter {
    requests: Family<Request, Counter>,
    /// Plaintext bytes from S3 clients.
    pub(crate) received: Counter,
    /// Plaintext bytes to S3 clients.
    pub(crate) read: Counter,
    /// Ciphertext bytes to edges.
    pub(crate) served: Counter,
    /// Versions that the sweep removed.
    pub(crate) swept: Counter,
    /// Deleted sites whose content the sweep removed.
    pub(crate) swept_sites: Counter,
    /// 1 while the store answers.
    pub(crate) store_up: Gauge,
}

impl Meter {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("requests", "Requests by operation and outcome", self.requests.clone());
        registry.register("received_bytes", "Plaintext bytes taken in from S3 clients", self.received.clone());
        registry.register("read_bytes", "Plaintext bytes given to S3 clients", self.read.clone());
        registry.register("served_bytes", "Ciphertext bytes given to edges", self.served.clone());
        registry.register("swept_versions", "Replaced versions that were removed", self.swept.clone());
        registry.register("swept_sites", "Deleted sites whose content was removed", self.swept_sites.clone());
        registry.register("store_up", "1 while the store answers", self.store_up.clone());
    }

    pub(crate) fn count(&self, operation: Operation, outcome: Outcome) {
        self.requests.get_or_create(&Request { operation, outcome }).inc();
    }
}
