//! Encodes answers (`umbel_http_cache::Compression`). A stored answer that is not long is encoded once, and well, for all its
//! readers; by what it says and not by where it was found, so that there is nothing to invalidate. Others are encoded as they
//! pass.
//!
//! What is counted is the object: as long as it is before it is encoded, as for agents and in ranges.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use moka::future::Cache;
use tokio::sync::Semaphore;
use umbel_http_cache::{Coding, Compression, Encoding, encode_fields, tag_of_304, vary_on};

use self::passing::Passing;
use super::{
    Asked,
    encoder::{Effort, Encoder},
};
use crate::metrics::Metrics;

mod passing;

/// Answers up to this long are encoded as a whole, and kept.
const WHOLE: usize = 1024 * 1024;

/// More is encoded beside the workers that serve everyone.
const AT_ONCE: usize = 8 * 1024;

/// Bytes of answers that are held to be encoded as a whole; what does not find room is encoded as it passes.
const ROOM: usize = 64 * 1024 * 1024;

/// Encoders of passing bodies, half a megabyte each; what finds none is sent as it is.
const ENCODERS: usize = 512;

/// A kept body beside its bytes, roughly.
const OVERHEAD: usize = 128;

type Key = (Coding, [u8; 32]);

/// What encodes, and the encoded answers that are kept.
#[derive(Debug)]
pub(crate) struct Encodings {
    kept: Cache<Key, Bytes>,
    room: Semaphore,
    encoders: Arc<Semaphore>,
    metrics: Metrics,
}

impl Encodings {
    /// Keeps answers of `capacity` bytes at most.
    pub(crate) fn new(capacity: u64, metrics: Metrics) -> Self {
        let weigh = |_: &Key, body: &Bytes| u32::try_from(body.len() + OVERHEAD).unwrap_or(u32::MAX);
        let kept = Cache::builder().max_capacity(capacity).weigher(weigh).build();
        Self { kept, room: Semaphore::new(ROOM), encoders: Arc::new(Semaphore::new(ENCODERS)), metrics }
    }

    /// Encodes an answer if `compression` wants it.
    pub(super) async fn encode(
        &self,
        compression: &Compression,
        asked: &Asked,
        mut response: Response<Body>,
    ) -> Response<Body> {
        if response.status() == StatusCode::NOT_MODIFIED {
            not_modified(&asked.headers, response.headers_mut());
            return response;
        }
        let encoding = compression.encoding(&asked.headers, response.status(), response.headers());
        if encoding != Encoding::None {
            vary_on(response.headers_mut(), &header::ACCEPT_ENCODING);
        }
        match encoding {
            Encoding::None | Encoding::Identity => response,
            Encoding::Encode(coding) if asked.method == Method::HEAD => {
                encode_fields(response.headers_mut(), coding, None);
                response
            }
            Encoding::Encode(coding) => self.with(coding, response).await,
        }
    }

    async fn with(&self, coding: Coding, response: Response<Body>) -> Response<Body> {
        let length = short(response.headers());
        match length.map(|length| self.room.try_acquire_many(length)) {
            Some(Ok(_room)) => self.whole(coding, response).await,
            Some(Err(_)) | None => self.passing(coding, response),
        }
    }

    /// Waits for all of it.
    async fn whole(&self, coding: Coding, response: Response<Body>) -> Response<Body> {
        let (mut head, body) = response.into_parts();
        let collected = match body.collect().await {
            Ok(collected) => collected,
            // It has begun, and will not end.
            Err(error) => {
                return Response::from_parts(head, Body::from_stream(futures::stream::iter([Err::<Bytes, _>(error)])));
            }
        };
        let trailers = collected.trailers().cloned();
        let plain = collected.to_bytes();
        let Ok(encoded) = self.kept_or_new(coding, plain.clone(), is_stored(&head.headers)).await else {
            return Response::from_parts(head, Body::from(plain));
        };
        self.metrics.encoded(plain.len(), encoded.len());
        encode_fields(&mut head.headers, coding, Some(encoded.len() as u64));
        let body = Full::new(encoded);
        let body = match trailers {
            Some(trailers) => Body::new(body.with_trailers(async { Some(Ok(trailers)) })),
            None => Body::new(body),
        };
        Response::from_parts(head, body)
    }

    /// Those who want the same wait for one who encodes it.
    async fn kept_or_new(&self, coding: Coding, plain: Bytes, keep: bool) -> Result<Bytes, Arc<std::io::Error>> {
        if !keep {
            return encoded(coding, Effort::Once, plain).await.map_err(Arc::new);
        }
        let key = (coding, *blake3::hash(&plain).as_bytes());
        match self.kept.get(&key).await {
            Some(kept) => Ok(kept),
            None => self.kept.try_get_with(key, encoded(coding, Effort::Kept, plain)).await,
        }
    }

    fn passing(&self, coding: Coding, mut response: Response<Body>) -> Response<Body> {
        let free = self.encoders.clone().try_acquire_owned();
        let (Ok(free), Ok(encoder)) = (free, Encoder::new(coding, Effort::Once)) else { return response };
        encode_fields(response.headers_mut(), coding, None);
        let metrics = self.metrics.clone();
        response.map(|body| Body::new(Passing::new(body, encoder, free, metrics)))
    }
}

/// The tag is that which the reader knows, and what is to be varied on is what it would be on the whole.
fn not_modified(asked: &HeaderMap, response: &mut HeaderMap) {
    if let Some(tag) = response.get(header::ETAG).and_then(|tag| tag_of_304(asked, tag)) {
        response.insert(header::ETAG, tag);
    }
    vary_on(response, &header::ACCEPT_ENCODING);
}

/// The length, if it is known and not long.
fn short(headers: &HeaderMap) -> Option<u32> {
    let length = headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()?;
    (length as usize <= WHOLE).then_some(length)
}

/// What was stored has an age, and may be sent again; the rest is for one reader.
fn is_stored(headers: &HeaderMap) -> bool {
    headers.contains_key(header::AGE)
}

async fn encoded(coding: Coding, effort: Effort, plain: Bytes) -> std::io::Result<Bytes> {
    if plain.len() <= AT_ONCE {
        return Encoder::encode(coding, effort, &plain);
    }
    let encode = move || Encoder::encode(coding, effort, &plain);
    tokio::task::spawn_blocking(encode).await.map_err(std::io::Error::other)?
}
