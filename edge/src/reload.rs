//! What of an edge's configuration changes while it runs, and how: no connection is dropped for it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tracing::warn;
use umbel_service::{
    config::{ConfigError, Mistake, Said},
    listen::Rules,
    telemetry,
    tls::{self, LiveCertificate},
};

use crate::{
    certificates::{Certificates, Described},
    config::{Config, LIVE},
    metrics::Metrics,
};

/// Between two looks at the folder of certificates: two `stat` a pair.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Which keys changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// They count from now on.
    pub applied: BTreeSet<String>,
    /// They count after a restart.
    pub need_a_restart: BTreeSet<String>,
}

/// The parts that change.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) rules: Arc<ArcSwap<Rules>>,
    pub(crate) certificates: Arc<Certificates>,
    others: Arc<LiveCertificate>,
    /// What the edge was started with, and what was applied since.
    said: Said,
}

impl Live {
    /// As the edge starts.
    pub(crate) fn new(config: &Config, others: Arc<LiveCertificate>) -> Self {
        let certificates = Arc::new(Certificates::new(config.certificates.clone(), others.clone()));
        certificates.read();
        let rules = Arc::new(ArcSwap::from_pointee(config.rules.clone()));
        Self { rules, certificates, others, said: config.said.clone() }
    }

    /// Takes over what it can, or nothing, if the certificates are not as they should be.
    pub(crate) async fn reload(&mut self, config: &Config, metrics: &Metrics) -> Result<Reloaded, ConfigError> {
        let (certificates, folder) = (self.certificates.clone(), config.certificates.clone());
        let moved = tokio::task::spawn_blocking(move || certificates.move_to(folder));
        moved.await.unwrap_or_else(|panic| Err(unread(&panic)))?;
        let reloaded = sorted(self.said.differs_in(&config.said));
        self.rules.store(Arc::new(config.rules.clone()));
        self.look(metrics).await;
        if reloaded.applied.contains("log_level") {
            telemetry::set_level(config.log_level.as_ref());
        }
        self.said.replace(&config.said, &reloaded.applied);
        Ok(reloaded)
    }

    /// Reads certificates when they change, and says when they end.
    pub(crate) fn watch(&self, metrics: Metrics) -> impl Future<Output = ()> + use<> {
        let live = self.clone();
        async move {
            let mut ticks = tokio::time::interval(LOOK_EVERY);
            loop {
                ticks.tick().await;
                live.look(&metrics).await;
            }
        }
    }

    async fn look(&self, metrics: &Metrics) {
        let certificates = self.certificates.clone();
        let Ok(mut present) = tokio::task::spawn_blocking(move || certificates.read()).await else {
            return warn!("the certificates could not be read");
        };
        let own = self.others.leaf().and_then(|leaf| tls::names_and_end(&leaf));
        let own = own.map(|(names, not_after)| Described { pair: "installation".into(), names, not_after });
        present.extend(own);
        metrics.certificates_end(present.iter().map(|one| (one.pair.as_str(), one.not_after)));
    }
}

fn unread(error: &tokio::task::JoinError) -> ConfigError {
    ConfigError(vec![Mistake { place: "certificates".into(), text: error.to_string() }])
}

fn sorted(changed: BTreeSet<String>) -> Reloaded {
    let (applied, need_a_restart) = changed.into_iter().partition(|key| LIVE.contains(&key.as_str()));
    Reloaded { applied, need_a_restart }
}
