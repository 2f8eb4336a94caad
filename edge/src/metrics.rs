//! What an edge counts for its operators. The books are elsewhere: `spool.rs`.

use std::sync::{Arc, OnceLock};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Classes of statuses, from the first on.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// `class` of a status: `2xx` …
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Class {
    class: &'static str,
}

/// `outcome` of looking for a chunk, or `reason` of a refusal: always from a closed set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Kind {
    kind: &'static str,
}

/// Objects of at least this many bytes count as large: they have many chunks, and peers are there for them.
pub const LARGE_OBJECT: u64 = 8 * 1024 * 1024;

/// `object` of which bytes were sent: `large` ([`LARGE_OBJECT`]) or `small`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Size {
    object: &'static str,
}

/// `pair` of files that a certificate came from, or `installation`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Certificate {
    pair: String,
}

/// All metrics of an edge.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    requests: Family<Class, Counter>,
    /// Those of `requests`, by class: looking one up costs more than counting.
    answers: Arc<[OnceLock<Counter>; CLASSES.len()]>,
    chunk_requests: Family<Class, Counter>,
    chunks: Family<Kind, Counter>,
    fills: Family<Kind, Counter>,
    fill_failures: Family<Kind, Counter>,
    refusals: Family<Kind, Counter>,
    grants: Family<Kind, Counter>,
    receipts: Family<Kind, Counter>,
    /// Plaintext bytes to HTTP readers.
    pub(crate) reader_bytes: Counter,
    sent_bytes: Family<Size, Counter>,
    /// Lines that the access log has not got.
    pub(crate) access_log_dropped: Counter,
    encoded_bytes: Family<Kind, Counter>,
    certificate_end: Family<Certificate, Gauge>,
    limited: Family<Kind, Counter>,
    /// Live sessions of agents.
    pub(crate) sessions: Gauge,
    /// Bytes that wait for the control plane.
    pub(crate) spool_bytes: Gauge,
}

impl Metrics {
    /// Names and help texts.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("requests", "Requests of readers, by class of status", self.requests.clone());
        registry.register(
            "chunk_requests",
            "Requests of agents for chunks, by class of status",
            self.chunk_requests.clone(),
        );
        registry.register("chunks", "Chunks looked for, by where they were found", self.chunks.clone());
        registry.register("fills", "Chunks filled, by source", self.fills.clone());
        registry.register("fill_failures", "Attempts to fill that failed, by source", self.fill_failures.clone());
        registry.register("session_refusals", "Sessions refused, by reason", self.refusals.clone());
        registry.register("grants", "Grants asked for at private sites, good or why not", self.grants.clone());
        registry.register("receipts", "Receipts handed in, taken or refused", self.receipts.clone());
        registry.register("reader_bytes", "Plaintext bytes sent to readers", self.reader_bytes.clone());
        registry.register(
            "sent_bytes",
            "Ciphertext bytes sent to agents, by size of the object",
            self.sent_bytes.clone(),
        );
        registry.register(
            "encoded_bytes",
            "Bytes of answers that were encoded for readers, before (plain) and after (encoded)",
            self.encoded_bytes.clone(),
        );
        registry.register(
            "certificate_not_after_seconds",
            "When the certificates end, since the epoch",
            self.certificate_end.clone(),
        );
        registry.register(
            "limited",
            "Requests of readers that were over a limit of their site: of one client, or of the site",
            self.limited.clone(),
        );
        let dropped = self.access_log_dropped.clone();
        registry.register("access_log_dropped", "Lines of the access log that were not written", dropped);
        registry.register("sessions", "Live sessions of agents", self.sessions.clone());
        registry.register(
            "spool_bytes",
            "Usage on disk that the control plane does not have",
            self.spool_bytes.clone(),
        );
    }

    /// These are the certificates now, and when they end.
    pub(crate) fn certificates_end<'a>(&self, certificates: impl Iterator<Item = (&'a str, i64)>) {
        self.certificate_end.clear();
        for (pair, end) in certificates {
            self.certificate_end.get_or_create(&Certificate { pair: pair.to_owned() }).set(end);
        }
    }

    /// An agent that wanted a chunk was answered.
    pub(crate) fn chunk_answered(&self, status: http::StatusCode) {
        self.chunk_requests.get_or_create(&Class { class: CLASSES[class_of(status)] }).inc();
    }

    /// A reader was answered.
    pub(crate) fn answered(&self, status: http::StatusCode) {
        let class = class_of(status);
        let counter = self.answers[class].get_or_init(|| {
            let class = Class { class: CLASSES[class] };
            self.requests.get_or_create(&class).clone()
        });
        counter.inc();
    }

    /// Ciphertext bytes went to an agent, whether or not they arrive; `length` is that of the whole object.
    pub(crate) fn sent(&self, length: u64, bytes: usize) {
        let object = if length < LARGE_OBJECT { "small" } else { "large" };
        self.sent_bytes.get_or_create(&Size { object }).inc_by(bytes as u64);
    }

    /// A request was over the limit of its `client` or its `site`.
    pub(crate) fn limited(&self, kind: &'static str) {
        self.limited.get_or_create(&Kind { kind }).inc();
    }

    /// So many bytes to a reader became so many.
    pub(crate) fn encoded(&self, plain: usize, encoded: usize) {
        for (kind, bytes) in [("plain", plain), ("encoded", encoded)] {
            self.encoded_bytes.get_or_create(&Kind { kind }).inc_by(bytes as u64);
        }
    }

    /// A chunk was looked for and found here (`memory`, `disk`, `plaintext`), or not (`miss`).
    pub(crate) fn chunk(&self, kind: &'static str) {
        self.chunks.get_or_create(&Kind { kind }).inc();
    }

    /// A chunk came from `origin` or `edge`.
    pub(crate) fn filled(&self, kind: &'static str) {
        self.fills.get_or_create(&Kind { kind }).inc();
    }

    /// How many chunks came from `source` so far.
    pub(crate) fn fills(&self, kind: &'static str) -> u64 {
        self.fills.get_or_create(&Kind { kind }).get()
    }

    /// An attempt at `origin` or `edge` failed.
    pub(crate) fn fill_failed(&self, kind: &'static str) {
        self.fill_failures.get_or_create(&Kind { kind }).inc();
    }

    /// A session was refused.
    pub(crate) fn refused(&self, kind: &'static str) {
        self.refusals.get_or_create(&Kind { kind }).inc();
    }

    /// Someone asked for something private: the grant was `good`, `missing`, or refused for a reason.
    pub(crate) fn grant(&self, kind: &'static str) {
        self.grants.get_or_create(&Kind { kind }).inc();
    }

    /// A receipt was `taken` or `refused`.
    pub(crate) fn receipt(&self, kind: &'static str) {
        self.receipts.get_or_create(&Kind { kind }).inc();
    }
}

/// Its index in [`CLASSES`].
fn class_of(status: http::StatusCode) -> usize {
    (usize::from(status.as_u16()) / 100).clamp(1, CLASSES.len()) - 1
}
