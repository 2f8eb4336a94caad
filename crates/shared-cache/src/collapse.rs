//! What those are told who wait for someone else's question. What is stored they find; an error that is not stored, and is
//! nobody's own ([`umbel_http_cache::shared_error`]), they get as it came, once: who comes later asks anew.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::body::Body as HttpBody;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, BodyStream, StreamBody};
use tokio::time::{Instant, timeout_at};
use umbel_http_cache::{SharedError, Stamp};

use crate::{
    Failed, SharedCache,
    body::{Body, SHORT},
    fetch::{Answer, Unshared},
    shelf::Variant,
    turn::News,
};

/// So long an error's body may take before those who wait get the status alone.
const PATIENCE: Duration = Duration::from_secs(1);

/// How it ended without anything stored.
#[derive(Debug, Clone)]
pub(crate) enum Ended {
    /// There is no answer.
    Failed(Failed),
    /// The provider's server said so. It is on no shelf.
    Error(Variant),
}

/// What those who wait are told about an answer, and the answer.
pub(crate) async fn news<A>(cache: &SharedCache<A>, answer: Answer) -> (Answer, News<Ended>) {
    let news = match answer {
        Answer::Stored(_, note) if note.detail.is_some() => News::Failed(Ended::Failed(Failed::stale())),
        Answer::Stored(ref variant, _) if variant.stored().freshness(SystemTime::now()).is_fresh() => News::Stored,
        Answer::Stored(..) => News::Unshared,
        Answer::Failed(ref failed) => News::Failed(Ended::Failed(failed.clone())),
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
        let is_error = response.status().is_server_error();
        let news = if is_error { News::UnsharedError } else { News::Unshared };
        return (Unshared { response, note, error: None }, news);
    };
    let (head, body) = response.into_parts();
    let (body, bytes) = match error.whole {
        Some(_) => read(body).await,
        None => (body, None),
    };
    let news = News::Failed(Ended::Error(for_all(cache, error, bytes, stamp)));
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

/// The same body, and all of its bytes if they are few and come soon.
async fn read(mut body: HttpBody) -> (HttpBody, Option<Bytes>) {
    let (mut frames, mut bytes, until) = (Vec::new(), BytesMut::new(), Instant::now() + PATIENCE);
    let is_whole = loop {
        match timeout_at(until, body.frame()).await {
            Ok(None) => break true,
            Ok(Some(Ok(frame))) => {
                bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                frames.push(Ok(frame));
                if bytes.len() > SHORT {
                    break false;
                }
            }
            Ok(Some(Err(error))) => {
                frames.push(Err(error));
                break false;
            }
            Err(_) => break false,
        }
    };
    let all = stream::iter(frames).chain(BodyStream::new(body));
    (HttpBody::new(StreamBody::new(all)), is_whole.then(|| bytes.freeze()))
}

#[cfg(test)]
mod tests;
