//! A body that is logged when it has ended, or when nobody wants the rest.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::Pending;

/// Counts what leaves.
#[derive(Debug)]
pub(super) struct Logged {
    body: Body,
    pending: Pending,
    site: Option<Box<str>>,
    status: u16,
    outcome: Option<Box<str>>,
    bytes: u64,
}

impl Logged {
    pub(super) fn new(
        body: Body,
        pending: Pending,
        site: Option<Box<str>>,
        status: u16,
        outcome: Option<Box<str>>,
    ) -> Self {
        Self { body, pending, site, status, outcome, bytes: 0 }
    }
}

impl http_body::Body for Logged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(bytes) = frame.data_ref()
        {
            self.bytes += bytes.len() as u64;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        self.pending.write(self.site.as_deref(), self.status, self.outcome.as_deref(), self.bytes);
    }
}
