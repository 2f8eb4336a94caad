//! What those are told who wait for someone else's question. What is stored they find; an error that is not stored, and is
//! nobody's own ([`umbel_http_cache::shared_error`]), they get as it came, once: who comes later asks anew.

use std::{sync::Arc, time::Duration};

use axum::body::Body as HttpBody;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, BodyStream, StreamBody};
use tokio::time::{Instant, timeout_at};
use umbel_http_cache::{SharedError, Stamp};

use crate::{
    Failed, SharedCache,
    body::{Body, SHORT},
    fetch::{Answer, Unshared, Whose},
    shelf::Variant,
    turn::News,
};

/// So long an error's body may take before those who wait get the status alone.
const PATIENCE: Duration = Duration::from_secs(1);

/// How it ended, if that is for all.
#[derive(Debug, Clone)]
pub(crate) enum Ended {
    /// This is stored. Who came before it was asked for is answered by it, though it may be stale by now.
    Stored(Variant),
    /// The asker has an answer that says nothing about what others get: look again.
    Own,
    /// There is no answer.
    Failed(Failed),
    /// The provider's server said so. It is on no shelf.
    Error(Variant),
}

/// What those who wait are told about an answer, and the answer.
pub(crate) async fn news<A>(cache: &SharedCache<A>, answer: Answer) -> (Answer, News<Ended>) {
    let news = match answer {
        Answer::Stored(_, ref note) if note.detail.is_some() => News::Ended(Ended::Failed(Failed::stale())),
        Answer::Stored(ref variant, ref note) => match note.whose {
            Whose::All => News::Ended(Ended::Stored(variant.clone())),
            Whose::Outdated => News::Ended(Ended::Own),
            Whose::Askers => News::UnsharedOnce,
            Whose::EachAskers => News::Unshared,
        },
        Answer::Failed(ref failed) => News::Ended(Ended::Failed(failed.clone())),
        Answer::Unshared(unshared) => {
            let (unshared, news) = of_unshared(cache, *unshared).await;
            return (Answer::Unshared(Box::new(unshared)), news);
        }
    };
    (answer, news)
}

async fn of_unshared<A>(cache: &SharedCache<A>, unshared: Unshared) -> (Unshared, News<Ended>) {
    let Unshared { response, note, error } = unshared;
    let Some((error, stamp)) = error else {
        let news = match note.whose {
            Whose::Outdated => News::Ended(Ended::Own),
            Whose::All | Whose::Askers => News::UnsharedOnce,
            Whose::EachAskers => News::Unshared,
        };
        return (Unshared { response, note, error: None }, news);
    };
    let (head, body) = response.into_parts();
    let (body, bytes) = match error.whole {
        Some(_) => read(body).await,
        None => (body, Read::NotAll),
    };
    let bytes = if let Read::All(bytes) = bytes { Some(bytes) } else { None };
    let news = News::Ended(Ended::Error(for_all(cache, error, bytes, stamp)));
    (Unshared { response: http::Response::from_parts(head, body), note, error: None }, news)
}

fn for_all<A>(cache: &SharedCache<A>, error: SharedError, bytes: Option<Bytes>, stamp: Stamp) -> Variant {
    let (stored, bytes) = match (error.whole, bytes) {
        (Some(whole), Some(bytes)) => (whole, bytes),
        _ => {
            let text = format!("the server answers {}\n", error.bare.status());
            (error.bare, text.into())
        }
    };
    Variant::new(stored, Arc::new(Body::that_is_short(cache.pieces.clone(), bytes)), stamp)
}

/// What was read of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// All bytes: they are few and came soon.
    All(Bytes),
    /// It broke off.
    Broken,
    /// There are more, or may be.
    NotAll,
}

/// The same body, and what came of reading it.
pub(crate) async fn read(mut body: HttpBody) -> (HttpBody, Read) {
    let (mut frames, mut bytes, until) = (Vec::new(), BytesMut::new(), Instant::now() + PATIENCE);
    let end = loop {
        match timeout_at(until, body.frame()).await {
            Ok(None) => break Read::All(Bytes::new()),
            Ok(Some(Ok(frame))) => {
                bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                frames.push(Ok(frame));
                if bytes.len() > SHORT {
                    break Read::NotAll;
                }
            }
            Ok(Some(Err(error))) => {
                frames.push(Err(error));
                break Read::Broken;
            }
            Err(_) => break Read::NotAll,
        }
    };
    let all = stream::iter(frames).chain(BodyStream::new(body));
    let read = if let Read::All(_) = end { Read::All(bytes.freeze()) } else { end };
    (HttpBody::new(StreamBody::new(all)), read)
}

#[cfg(test)]
mod tests;
