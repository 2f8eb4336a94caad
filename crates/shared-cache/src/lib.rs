//! The shell around `umbel-http-cache`, for whoever is a shared HTTP cache (RFC 9111) of pulled sites: an edge in front of
//! origins, an origin in front of a provider's server. Here is who asks and who waits (`turn`), what comes of a question
//! (`fetch`), where responses and their bodies lie ([`Shelves`], [`Body`]), and what of them answers a request ([`Planned`]).
//!
//! Whom to ask is the caller's, by [`Ask`]; so is how answers leave (paced, metered). Nothing here knows of edges, origins or
//! accounts. Start with [`SharedCache::answer`].

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::body::Body as HttpBody;
use http::{Response, StatusCode, Uri, request::Parts};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use umbel_http_cache::{Policy, Purges, invalidates};

mod answer;
mod body;
mod changes;
mod collapse;
mod elsewhere;
mod fetch;
mod key;
pub mod pieces;
mod plan;
mod purge;
mod shelf;
#[cfg(test)]
mod tests;
mod turn;

pub use answer::Answered;
pub use body::{Body, BodyError, Reader};
pub use elsewhere::{Elsewhere, Keeping};
pub use key::{Key, Root};
pub use pieces::Pieces;
pub use plan::{Planned, Segment, at_once, bytes};
pub use shelf::{Shelves, Variant};

use self::{answer::Same, changes::Changes, collapse::Ended, turn::Turns};

/// Whom a cache asks for what it has not stored.
pub trait Ask: std::fmt::Debug + Send + Sync + 'static {
    /// The answer to a request that has no body and whose URI has a path and nothing before it. It has the extensions of the one for
    /// whom it is asked, if he waits for it.
    fn ask(&self, site_id: &str, request: &Parts) -> impl Future<Output = Result<Response<HttpBody>, Failed>> + Send;

    /// A whole response begins to be stored, for a request like this. Who wants its body kept elsewhere too, begins now, with
    /// [`Body::keep_elsewhere`].
    fn storing(&self, _site_id: &str, _request: &Parts, _variant: &Variant) {}
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Failed {
    /// What the reader gets.
    pub status: StatusCode,
    /// A word for `Cache-Status`.
    pub reason: String,
    /// For people.
    pub text: String,
}

impl Failed {
    /// `reason` is one word for programs, `text` is for people.
    pub fn new(status: StatusCode, reason: impl Into<String>, text: impl Into<String>) -> Self {
        Self { status, reason: reason.into(), text: text.into() }
    }

    /// The answer has nothing to do with the question.
    pub(crate) fn nonsense() -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "nonsense", "the server answers something else than it was asked")
    }

    /// It began, and did not come to its end.
    pub(crate) fn broken() -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "broken", "the answer broke off")
    }

    /// Whoever asked had something stale to make do with, which is not for all.
    pub(crate) fn stale() -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "failed", "the server does not answer")
    }

    /// Whoever asked for several was stopped.
    pub(crate) fn stopped() -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "stopped", "nobody is asked any more")
    }
}

/// What a cache is among several in a row.
#[derive(Debug, Clone)]
pub struct Place {
    /// As it calls itself in `Cache-Status`.
    pub name: &'static str,
    /// What it decides where RFC 9111 leaves it the decision.
    pub policy: Policy,
    /// Whether it serves stale responses while it validates them (RFC 5861, section 3). Only the last cache before readers
    /// should: one behind it would answer its validations with what is stale, too.
    pub serves_while_revalidating: bool,
}

/// Everything that is stored, and who is asking for more.
#[derive(Debug)]
pub struct SharedCache<A> {
    name: &'static str,
    policy: Policy,
    serves_while_revalidating: bool,
    shelves: Shelves,
    pieces: Pieces,
    turns: Turns<Same, Ended>,
    purges: ArcSwap<Purges>,
    changes: Changes,
    ask: A,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl<A: Ask> SharedCache<A> {
    /// A cache that keeps bodies that are not short in `pieces`. It asks in tasks of `tasks`, until `shutdown`.
    pub fn new(
        Place { name, policy, serves_while_revalidating }: Place,
        shelves: Shelves,
        pieces: Pieces,
        ask: A,
        (tasks, shutdown): (TaskTracker, CancellationToken),
    ) -> Arc<Self> {
        let (turns, purges, changes) = (Turns::new(), ArcSwap::default(), Changes::default());
        Arc::new(Self {
            name,
            policy,
            serves_while_revalidating,
            shelves,
            pieces,
            turns,
            purges,
            changes,
            ask,
            tasks,
            shutdown,
        })
    }

    /// Whom it asks.
    pub fn ask(&self) -> &A {
        &self.ask
    }

    /// What is stored.
    pub fn shelves(&self) -> &Shelves {
        &self.shelves
    }

    /// Forgets what a request that went past the cache has changed (RFC 9111, section 4.4).
    pub fn passed(&self, root: &Root<'_>, request: &Parts, response: &http::response::Parts) {
        for changed in invalidates(request, response) {
            self.forget(root, &changed);
        }
    }

    /// Forgets what is stored for this, and what is on its way.
    pub fn forget(&self, root: &Root<'_>, uri: &Uri) {
        let key = Key::of(root, uri);
        // First: whoever stores something looks there before, and after nobody else can.
        self.changes.note(key);
        self.shelves.change(key, Vec::clear);
    }

    /// Writes to disk what is still on its way there.
    pub async fn close(&self) {
        if let Err(error) = self.pieces.close().await {
            tracing::warn!(%error, "the store of bodies was not closed cleanly");
        }
    }
}
