//! What an operator and a scheduler ask a service: is it alive, is it ready, what does it count.
//! Served on a port of its own, so that it answers when the data path is saturated.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::sync::watch;

/// The health and metrics of one service.
#[derive(Debug, Clone)]
pub struct Ops {
    registry: Arc<Mutex<Registry>>,
    ready: watch::Sender<bool>,
}

impl Ops {
    /// Not ready, with an empty registry whose metrics are prefixed (`umbel_edge`).
    pub fn new(prefix: &str) -> Self {
        let registry = Arc::new(Mutex::new(Registry::with_prefix(prefix)));
        Self { registry, ready: watch::Sender::new(false) }
    }

    /// Lets a service register its metrics.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Says whether the service may be sent traffic.
    pub fn set_ready(&self, ready: bool) {
        self.ready.send_replace(ready);
    }

    /// Whether the service said that it is ready.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// `/healthz`, `/readyz`, `/metrics`.
    pub fn app(&self) -> Router {
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self.clone())
    }
}

async fn readyz(State(ops): State<Ops>) -> impl IntoResponse {
    if ops.is_ready() { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
}

async fn metrics(State(ops): State<Ops>) -> impl IntoResponse {
    let mut text = String::new();
    let encoded = encode(&mut text, &ops.registry.lock().unwrap_or_else(PoisonError::into_inner));
    match encoded {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [("content-type", kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
