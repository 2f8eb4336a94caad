//! A connection's protocol and its requests in one task, in turns: first the connection reads and writes, then its requests go on,
//! then what was written leaves. So the answers to requests that came together leave together, and none of them is a task of
//! its own.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures::stream::{FuturesUnordered, Stream};
use hyper::rt::Executor;

use super::cork::Cork;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where the protocol puts the requests of a connection. No more wait in it than a connection may have streams.
#[derive(Debug, Clone, Default)]
pub(super) struct Requests(Arc<Mutex<New>>);

#[derive(Default)]
struct New(Vec<Work>);

impl std::fmt::Debug for New {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("New").field(&self.0.len()).finish()
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Requests {
    fn execute(&self, work: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.push(Box::pin(work));
    }
}

impl Requests {
    fn take(&self) -> Vec<Work> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).0)
    }
}

/// Runs a connection with its requests.
#[derive(Debug)]
pub(super) struct Turns {
    requests: Requests,
    running: FuturesUnordered<Work>,
    cork: Cork,
}

impl Turns {
    pub(super) fn new(requests: Requests, cork: Cork) -> Self {
        Self { requests, running: FuturesUnordered::new(), cork }
    }

    /// One turn. When the connection has ended, what is left of its requests can reach nobody.
    pub(super) fn poll<C: Future>(&mut self, connection: Pin<&mut C>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let outcome = connection.poll(cx);
        if outcome.is_ready() {
            self.cork.remove();
        } else {
            self.running.extend(self.requests.take());
            while let Poll::Ready(Some(())) = Pin::new(&mut self.running).poll_next(cx) {}
        }
        self.cork.release(cx);
        outcome
    }

    /// The connection is about to be dropped, and what waits to leave with it.
    pub(super) fn abandon(&self) {
        self.cork.abandon();
    }
}
