use foyer::HybridCacheBuilder;

use super::*;

async fn pieces() -> Pieces {
    HybridCacheBuilder::new().memory(64 << 20).storage().build().await.unwrap()
}

fn text(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8).collect()
}

async fn read(body: &Arc<Body>, from: u64, end: u64) -> Result<Vec<u8>, BodyError> {
    rest(Reader::new(body.clone(), from), end).await
}

async fn rest(mut reader: Reader, end: u64) -> Result<Vec<u8>, BodyError> {
    let mut all = Vec::new();
    while let Some(bytes) = reader.next(end).await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// Writes `length` bytes in steps of `step` while one reader follows and others start in the middle and at the end.
async fn check(length: usize, step: usize) {
    let (body, text) = (Arc::new(Body::new(pieces().await)), text(length));
    let follow = tokio::spawn({
        let body = body.clone();
        async move { read(&body, 0, u64::MAX).await }
    });
    for part in text.chunks(step) {
        body.push(Bytes::copy_from_slice(part)).await;
        tokio::task::yield_now().await;
    }
    body.complete();
    assert_eq!(follow.await.unwrap().unwrap(), text, "{length} in steps of {step}");
    assert_eq!(body.length(), Some(length as u64));
    let middle = length / 2;
    assert_eq!(read(&body, middle as u64, u64::MAX).await.unwrap(), &text[middle..]);
    assert_eq!(read(&body, 0, middle as u64).await.unwrap(), &text[..middle]);
    assert_eq!(body.short().is_some(), length <= SHORT);
}

#[tokio::test]
async fn bodies_of_all_lengths() {
    for length in [0, 1, SHORT - 1, SHORT, SHORT + 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7] {
        for step in [1 << 20, 70_000, 4096] {
            check(length, step).await;
        }
    }
}

#[tokio::test]
async fn a_body_that_is_cut_off_never_ends_well() {
    let body = Arc::new(Body::new(pieces().await));
    body.push(Bytes::from_static(b"half")).await;
    body.cut_off();
    assert_eq!(read(&body, 0, u64::MAX).await, Err(BodyError::CutOff));
    assert_eq!(read(&body, 0, 4).await.unwrap(), b"half");
    assert_eq!(body.length(), None);
}

#[tokio::test]
async fn a_body_waits_for_its_quickest_reader_and_for_nobody_when_all_have_left() {
    let body = Arc::new(Body::new(pieces().await));
    let reader = Reader::new(body.clone(), 0);
    let pump = tokio::spawn({
        let body = body.clone();
        async move {
            for _ in 0..2 * AHEAD / PIECE as u64 {
                body.push(Bytes::from(vec![0; PIECE])).await;
            }
        }
    });
    let mut progress = body.progress.subscribe();
    progress.wait_for(|progress| progress.length > AHEAD).await.unwrap();
    tokio::task::yield_now().await;
    assert!(!pump.is_finished() && progress.borrow().length <= AHEAD + PIECE as u64);
    drop(reader);
    pump.await.unwrap();
}

#[derive(Debug)]
struct Copy(Vec<u8>);

impl Elsewhere for Copy {
    fn name(&self) -> &str {
        "copy"
    }

    fn read(&self, offset: u64) -> futures::future::BoxFuture<'static, Option<Bytes>> {
        let rest = Bytes::copy_from_slice(&self.0[offset as usize..]);
        Box::pin(async move { Some(rest) })
    }
}

#[tokio::test]
async fn what_is_elsewhere_is_read_from_there_when_it_is_evicted() {
    // Memory for hardly anything.
    let pieces = HybridCacheBuilder::new().memory(PIECE).with_shards(1);
    let pieces = pieces.with_weighter(|_, bytes: &Bytes| bytes.len()).storage().build().await.unwrap();
    let (body, text) = (Arc::new(Body::new(pieces.clone())), text(5 * PIECE));
    let mut keeping = body.keep_elsewhere();
    for part in text.chunks(PIECE) {
        body.push(Bytes::copy_from_slice(part)).await;
        assert_eq!(keeping.next().await.unwrap().unwrap(), part);
    }
    body.complete();
    assert_eq!(keeping.next().await.unwrap(), None);
    let waiting = tokio::spawn({
        let body = body.clone();
        async move { body.elsewhere().await.unwrap().name().to_owned() }
    });
    keeping.done(Arc::new(Copy(text.clone())));
    assert_eq!(waiting.await.unwrap(), "copy");
    assert_eq!(read(&body, 0, u64::MAX).await.unwrap(), text);
    assert!(!body.is_lost());
    let all_there = Arc::new(Body::that_is(pieces.clone(), text.len() as u64, Arc::new(Copy(text.clone()))));
    assert_eq!(read(&all_there, 7, u64::MAX).await.unwrap(), &text[7..]);
    let failed = Arc::new(Body::new(pieces));
    drop(failed.keep_elsewhere());
    assert!(failed.elsewhere().await.is_none());
}

#[tokio::test]
async fn a_body_with_a_hole_is_not_begun() {
    let pieces = HybridCacheBuilder::new().memory(2 * PIECE).with_shards(1);
    let pieces = pieces.with_weighter(|_, bytes: &Bytes| bytes.len()).storage().build().await.unwrap();
    let (body, text) = (Body::new(pieces), text(AHEAD as usize + 5 * PIECE + 1));
    for (number, part) in text.chunks(PIECE).enumerate() {
        body.push(Bytes::copy_from_slice(part)).await;
        if number == 0 {
            assert!(body.can_serve(&(0..u64::MAX)).await, "all that is there");
        }
    }
    let end = text.len() as u64;
    assert!(body.can_serve(&(end..u64::MAX)).await, "what comes");
    assert!(body.can_serve(&(end - 1..end)).await, "what is under way");
    assert!(!body.is_lost());
    assert!(!body.can_serve(&(0..end)).await);
    assert!(body.is_lost());
}

#[tokio::test]
async fn who_takes_it_elsewhere_sets_the_pace_only_alone() {
    let body = Arc::new(Body::new(pieces().await));
    let (reader, keeping) = (Reader::new(body.clone(), 0), body.keep_elsewhere());
    body.furthest.store(10 * AHEAD, Ordering::Release);
    assert_eq!(body.pace(), 10 * AHEAD);
    drop(reader);
    assert_eq!(body.pace(), 0);
    drop(keeping);
    assert_eq!(body.pace(), u64::MAX);
}

#[tokio::test]
async fn the_quickest_reader_needs_no_store() {
    // Memory for nothing.
    let pieces = HybridCacheBuilder::new().memory(1).with_shards(1);
    let pieces = pieces.with_weighter(|_, bytes: &Bytes| bytes.len()).storage().build().await.unwrap();
    let (body, text) = (Arc::new(Body::new(pieces)), text(3 * AHEAD as usize + 5));
    let reader = Reader::new(body.clone(), 0);
    let pump = tokio::spawn({
        let (body, text) = (body.clone(), Bytes::from(text.clone()));
        async move {
            body.push(text).await;
            body.complete();
        }
    });
    assert_eq!(rest(reader, u64::MAX).await.unwrap(), text);
    pump.await.unwrap();
    assert!(!body.is_lost());
    assert!(!body.can_serve(&(0..1)).await, "nobody reads it, and nothing is kept");
}

/// The store dropped what the disk was too slow for: while it was in memory as well, nobody noticed.
#[tokio::test]
async fn a_body_that_comes_faster_than_the_disk_takes_it_has_no_hole() {
    let folder = tempfile::tempdir().unwrap();
    let body = Arc::new(Body::new(crate::pieces::open(folder.path(), 1 << 20, 512 << 20).await.unwrap()));
    let piece = Bytes::from(text(PIECE));
    for _ in 0..800 {
        body.push(piece.clone()).await;
    }
    body.complete();
    let mut reader = Reader::new(body, 0);
    for number in 0..800 {
        assert!(reader.next(u64::MAX).await.is_ok_and(|bytes| bytes.as_ref() == Some(&piece)), "piece {number}");
    }
}
