//! A request's content on its way to a server. As long as little of it has left, it can be sent again from its start: to a server
//! that was just closing the connection, or to another one.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// What is kept of a request's content until it is answered.
const KEPT: usize = 64 * 1024;

/// The content is being sent from its start again.
#[derive(Debug, thiserror::Error)]
#[error("sent again elsewhere")]
struct SentAgain;

/// The content of one request.
#[derive(Debug)]
pub struct Upload(Arc<Mutex<Content>>);

#[derive(Debug)]
struct Content {
    /// What has not left yet; none when all has.
    rest: Option<Body>,
    /// What has left; none when that is not all there any more.
    left: Option<Vec<u8>>,
    /// How often it was begun.
    round: usize,
}

impl Upload {
    /// Nothing of it has left.
    #[must_use]
    pub fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(Content { rest: Some(body), left: Some(Vec::new()), round: 0 })))
    }

    /// All of it; none if too much has left already. What was returned before ends with an error.
    pub fn begin(&self) -> Option<Body> {
        let mut content = lock(&self.0);
        if content.left.as_ref()?.is_empty() && content.has_left() {
            return Some(Body::empty());
        }
        content.round += 1;
        Some(Body::new(Sending { content: self.0.clone(), round: content.round, at: 0 }))
    }
}

fn lock(content: &Mutex<Content>) -> MutexGuard<'_, Content> {
    content.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Content {
    fn has_left(&self) -> bool {
        self.rest.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    /// What left in an earlier round, from `at`.
    fn left_from(&self, at: usize) -> &[u8] {
        self.left.as_ref().and_then(|left| left.get(at..)).unwrap_or_default()
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(rest) = self.rest.as_mut() else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(rest).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.keep(frame.data_ref()),
            Some(Err(_)) => self.left = None,
            None => self.rest = None,
        }
        Poll::Ready(frame)
    }

    fn keep(&mut self, data: Option<&Bytes>) {
        match (data, &mut self.left) {
            (Some(data), Some(left)) if left.len() + data.len() <= KEPT => left.extend_from_slice(data),
            // Trailers are rare, and the last of it.
            _ => self.left = None,
        }
    }
}

#[derive(Debug)]
struct Sending {
    content: Arc<Mutex<Content>>,
    round: usize,
    /// Bytes of what is kept that this round has sent.
    at: usize,
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let shared = self.content.clone();
        let mut content = lock(&shared);
        if content.round != self.round {
            return Poll::Ready(Some(Err(axum::Error::new(SentAgain))));
        }
        let again = content.left_from(self.at);
        if !again.is_empty() {
            self.at += again.len();
            return Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(again)))));
        }
        let frame = ready!(content.poll_rest(cx));
        self.at = content.left.as_ref().map_or(0, Vec::len);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let content = lock(&self.content);
        content.left_from(self.at).is_empty() && content.has_left()
    }

    fn size_hint(&self) -> SizeHint {
        let content = lock(&self.content);
        let again = content.left_from(self.at).len() as u64;
        let rest = content.rest.as_ref().map_or(SizeHint::with_exact(0), HttpBody::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + again);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + again);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn body(pieces: &[usize]) -> Body {
        let pieces: Vec<_> =
            pieces.iter().map(|length| Ok::<_, axum::Error>(Bytes::from(vec![b'x'; *length]))).collect();
        Body::from_stream(futures::stream::iter(pieces))
    }

    async fn length(body: Body) -> Option<usize> {
        Some(body.collect().await.ok()?.to_bytes().len())
    }

    #[tokio::test]
    async fn little_can_be_sent_again() {
        for (pieces, taken, expected) in [
            (&[][..], 0, Some(0)),
            (&[3, 4], 0, Some(7)),
            (&[3, 4], 1, Some(7)),
            (&[3, 4], 3, Some(7)),
            (&[KEPT, 1], 1, Some(KEPT + 1)),
            (&[KEPT, 1], 2, None),
            (&[KEPT + 1, 1], 1, None),
        ] {
            let upload = Upload::new(body(pieces));
            let mut first = upload.begin().unwrap();
            for _ in 0..taken {
                first.frame().await;
            }
            match upload.begin() {
                Some(second) => {
                    assert_eq!(length(second).await, expected, "{pieces:?} {taken}");
                    assert!(pieces.is_empty() || length(first).await.is_none(), "{pieces:?} {taken}: two at once");
                }
                None => assert_eq!(expected, None, "{pieces:?} {taken}"),
            }
        }
    }

    #[tokio::test]
    async fn its_length_is_known() {
        let upload = Upload::new(Body::from("hello"));
        let mut first = upload.begin().unwrap();
        assert_eq!(first.size_hint().exact(), Some(5));
        first.frame().await;
        assert!(first.is_end_stream() && first.size_hint().exact() == Some(0));
        let second = upload.begin().unwrap();
        assert_eq!((second.size_hint().exact(), second.is_end_stream()), (Some(5), false));
        assert!(Upload::new(Body::empty()).begin().unwrap().is_end_stream());
    }

    #[tokio::test]
    async fn what_broke_is_not_sent_again() {
        let broken = futures::stream::iter([Ok(Bytes::from_static(b"x")), Err(axum::Error::new(SentAgain))]);
        let upload = Upload::new(Body::from_stream(broken));
        assert_eq!(length(upload.begin().unwrap()).await, None);
        assert!(upload.begin().is_none());
    }
}
