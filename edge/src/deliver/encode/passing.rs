//! A body that is encoded as it passes: nothing is held back longer than it takes for more to come.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use tokio::sync::OwnedSemaphorePermit;

use crate::{deliver::encoder::Encoder, metrics::Metrics};

/// Pieces that one poll encodes before others get their turn.
const PIECES: usize = 4;

/// See the module.
pub(super) struct Passing {
    plain: Body,
    /// None when the end of the body has come out.
    encoder: Option<Encoder>,
    trailers: Option<HeaderMap>,
    /// Something was taken in that has not come out.
    held: bool,
    metrics: Metrics,
    _free: OwnedSemaphorePermit,
}

type Failure = axum::Error;

impl Passing {
    pub(super) fn new(plain: Body, encoder: Encoder, free: OwnedSemaphorePermit, metrics: Metrics) -> Self {
        Self { plain, encoder: Some(encoder), trailers: None, held: false, metrics, _free: free }
    }

    /// Takes bytes in; what comes out of that, if anything does.
    fn take_in(&mut self, bytes: &Bytes) -> Result<Option<Bytes>, Failure> {
        let Some(encoder) = &mut self.encoder else { return Ok(None) };
        encoder.write(bytes).map_err(Failure::new)?;
        self.held = true;
        self.metrics.encoded(bytes.len(), 0);
        Ok(self.let_out())
    }

    fn flush(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some(encoder) = self.encoder.as_mut().filter(|_| std::mem::take(&mut self.held)) else { return Ok(None) };
        encoder.flush().map_err(Failure::new)?;
        Ok(self.let_out())
    }

    fn finish(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some(encoder) = self.encoder.take() else { return Ok(None) };
        let rest = encoder.finish().map_err(Failure::new)?;
        self.metrics.encoded(0, rest.len());
        Ok(Some(rest).filter(|rest| !rest.is_empty()))
    }

    fn let_out(&mut self) -> Option<Bytes> {
        let out = self.encoder.as_mut()?.take();
        self.metrics.encoded(0, out.len());
        Some(out).filter(|out| !out.is_empty())
    }

    /// What comes out next of the body itself.
    fn poll_encoded(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Failure>> {
        for _ in 0..PIECES {
            let Poll::Ready(frame) = Pin::new(&mut self.plain).poll_frame(context) else {
                return self.flush()?.map_or(Poll::Pending, |out| Poll::Ready(Ok(Some(out))));
            };
            let out = match frame.transpose()?.map(Frame::into_data) {
                Some(Ok(bytes)) => self.take_in(&bytes)?,
                Some(Err(frame)) => {
                    self.trailers = frame.into_trailers().ok();
                    return Poll::Ready(self.finish());
                }
                None => return Poll::Ready(self.finish()),
            };
            if out.is_some() {
                return Poll::Ready(Ok(out));
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl HttpBody for Passing {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if self.encoder.is_some() {
            match ready!(self.poll_encoded(context)) {
                Ok(Some(out)) => return Poll::Ready(Some(Ok(Frame::data(out)))),
                Ok(None) => {}
                Err(error) => {
                    self.encoder = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }
}
