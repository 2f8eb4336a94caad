//! What the control plane counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Label: what was issued.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Issued {
    pub(crate) kind: &'static str,
}

/// The counters; their help texts are in [`Metrics::register`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) issued: Family<Issued, Counter>,
    pub(crate) batches: Counter,
    pub(crate) batch_gaps: Counter,
    pub(crate) watchers: Gauge,
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("issued", "Certificates and memberships issued", self.issued.clone());
        registry.register("usage_batches", "Usage batches taken in, repetitions included", self.batches.clone());
        registry.register(
            "usage_batch_gaps",
            "Usage batches refused because one before is missing",
            self.batch_gaps.clone(),
        );
        registry.register("config_watchers", "Nodes that follow the configuration now", self.watchers.clone());
    }

    pub(crate) fn count_issued(&self, kind: &'static str) {
        self.issued.get_or_create(&Issued { kind }).inc();
    }
}
