//! What is taken for a manifest, and what is not.

use proptest::prelude::*;

use super::*;
use crate::{ContentKey, MIN_CHUNK_SIZE, Sealer};

fn key() -> SigningKey {
    SigningKey::from_seed(&[3; 32])
}

fn content_key() -> ContentKey {
    ContentKey::from_bytes([5; 32])
}

const VERSION: VersionId = VersionId::from_bytes([6; 16]);

/// The ciphertexts of an object of so many zero bytes.
fn sealed_chunks(layout: &ChunkLayout) -> Vec<Vec<u8>> {
    let sealer = Sealer::new(&content_key(), VERSION);
    let seal = |chunk| sealer.seal(chunk, vec![0; layout.plain_len(chunk).unwrap() as usize]);
    layout.indices().map(seal).collect()
}

fn draft(length: u64) -> Draft {
    let layout = ChunkLayout::new(length, MIN_CHUNK_SIZE).unwrap();
    Draft {
        site: SiteName::new("example").unwrap(),
        path: ObjectPath::from_decoded("/a b/ü.txt").unwrap(),
        version_id: VERSION,
        media_type: "text/plain; charset=utf-8".into(),
        layout,
        names: sealed_chunks(&layout).iter().map(|sealed| ChunkName::of(sealed)).collect(),
        key_id: content_key().id(),
        created_ms: 1_700_000_000_123,
        fields: vec![("content-language".into(), "de".into()), ("cache-control".into(), "max-age=60".into())],
    }
}

/// Signs anything, as a broken or hostile site could.
fn signed(bytes: Vec<u8>) -> proto::SignedManifest {
    let signature = key().sign(MANIFEST_DOMAIN, &[&bytes]);
    proto::SignedManifest { manifest: bytes.into(), signature: Bytes::copy_from_slice(&signature) }
}

fn verify(message: proto::SignedManifest) -> Result<Manifest, ManifestError> {
    SignedManifest::from_proto(message)?.verify(&key().verifying_key())
}

#[test]
fn what_is_signed_is_read_again() {
    for length in [0, 1, 65535, 65536, 65537, 200_000] {
        let draft = draft(length);
        let signed = draft.clone().sign(&key()).unwrap();
        let manifest = signed.verify(&key().verifying_key()).unwrap();
        assert_eq!(manifest.id(), signed.id());
        assert_eq!((manifest.site(), manifest.path()), (&draft.site, &draft.path));
        assert_eq!((manifest.version_id(), manifest.key_id()), (draft.version_id, draft.key_id));
        assert_eq!((manifest.layout(), manifest.length()), (draft.layout, length));
        assert_eq!((manifest.media_type(), manifest.created_ms()), (draft.media_type.as_str(), draft.created_ms));
        let names: Vec<_> = manifest.layout().indices().filter_map(|chunk| manifest.name(chunk)).collect();
        assert_eq!(names, draft.names);
        assert_eq!(manifest.name(ChunkIndex::new(manifest.chunks())), None);
        assert_eq!(manifest.field("cache-control"), Some("max-age=60"));
        assert_eq!(manifest.field("content-language"), Some("de"));
        assert_eq!(manifest.field("content-encoding"), None);
        assert_eq!(SignedManifest::decode(signed.encode().as_slice()), Ok(signed));
    }
}

#[test]
fn chunks_are_checked_against_their_names() {
    let manifest = draft(65537).sign(&key()).unwrap().verify(&key().verifying_key()).unwrap();
    let chunks = sealed_chunks(&manifest.layout());
    let [first, second] = [0, 1].map(ChunkIndex::new);
    assert_eq!(manifest.verify_chunk(first, &chunks[0]), Ok(()));
    assert_eq!(manifest.verify_chunk(second, &chunks[1]), Ok(()));
    let wrong_length = ChunkError::Length { chunk: second, expected: 17, got: chunks[0].len() };
    assert_eq!(manifest.verify_chunk(second, &chunks[0]), Err(wrong_length));
    assert_eq!(manifest.verify_chunk(second, &[0; 17]), Err(ChunkError::Corrupt(second)));
    let third = ChunkIndex::new(2);
    assert_eq!(manifest.verify_chunk(third, &[]), Err(ChunkError::NoSuchChunk(third)));
}

#[test]
fn only_the_site_signs() {
    let mut message = draft(1).sign(&key()).unwrap().to_proto();
    let other = SigningKey::from_seed(&[4; 32]).verifying_key();
    let refused = Err(ManifestError::Signature(SignatureError));
    assert_eq!(SignedManifest::from_proto(message.clone()).unwrap().verify(&other), refused);
    let whole = message.clone();
    message.signature = message.signature.slice(..63);
    assert_eq!(verify(message), refused);
    let mut changed = whole.manifest.to_vec();
    changed[10] ^= 1;
    assert_eq!(verify(proto::SignedManifest { manifest: changed.into(), ..whole }), refused);
    // A good signature over the same bytes, made for another purpose.
    let bytes = draft(1).sign(&key()).unwrap().bytes().clone();
    let signature = Bytes::copy_from_slice(&key().sign(b"umbel receipt v1", &[&bytes]));
    assert_eq!(verify(proto::SignedManifest { manifest: bytes, signature }), refused);
}

#[track_caller]
fn check_refused(change: impl FnOnce(&mut proto::Manifest), expected: impl FnOnce(&ManifestError) -> bool) {
    let mut message = draft(65537).into_proto();
    message.fields.reverse();
    verify(signed(message.encode_to_vec())).expect("unchanged, it is good");
    change(&mut message);
    let error = verify(signed(message.encode_to_vec())).expect_err("changed, it must be refused");
    assert!(expected(&error), "{error:?}");
}

#[test]
fn nonsense_is_refused_though_it_is_signed() {
    use ManifestError::{Field, Id, Layout, MediaType, Names, Path, Site};
    check_refused(|m| m.site = "No".into(), |e| matches!(e, Site(_)));
    check_refused(|m| m.path = "/../x".into(), |e| matches!(e, Path(PathError::DotSegment)));
    check_refused(|m| m.path = String::new(), |e| matches!(e, Path(PathError::NotAbsolute)));
    check_refused(|m| m.version_id = Bytes::from_static(&[0; 15]), |e| matches!(e, Id { name: "version id", .. }));
    check_refused(|m| m.key_id = Bytes::new(), |e| matches!(e, Id { name: "key id", .. }));
    check_refused(|m| m.media_type = "x\r\ny".into(), |e| matches!(e, MediaType));
    check_refused(|m| m.chunk_size = 65535, |e| matches!(e, Layout(LayoutError::ChunkSize(65535))));
    check_refused(|m| m.chunk_size = 0, |e| matches!(e, Layout(LayoutError::ChunkSize(0))));
    check_refused(|m| m.length = u64::MAX, |e| matches!(e, Layout(LayoutError::TooManyChunks { .. })));
    check_refused(|m| m.length = 65536, |e| matches!(e, Names { chunks: 1, got: 64 }));
    check_refused(|m| m.length = 131_073, |e| matches!(e, Names { chunks: 3, got: 64 }));
    check_refused(|m| m.length = 0, |e| matches!(e, Names { chunks: 0, got: 64 }));
    check_refused(|m| m.chunk_names.truncate(63), |e| matches!(e, Names { chunks: 2, got: 63 }));
    check_refused(|m| m.fields.reverse(), |e| matches!(e, Field(_)));
    let many = (0..65).map(|i| proto::Field { name: format!("x-{i:03}"), value: String::new() });
    check_refused(|m| m.fields = many.collect(), |e| matches!(e, Field("there are too many")));
}

#[test]
fn a_billion_chunks_are_refused_before_memory_is_spent_on_them() {
    let layout = |m: &mut proto::Manifest| {
        m.chunk_size = MIN_CHUNK_SIZE;
        m.length = 1_000_000_000 * u64::from(MIN_CHUNK_SIZE);
    };
    check_refused(layout, |e| matches!(e, ManifestError::Layout(LayoutError::TooManyChunks { .. })));
    let oversized = signed(vec![0; MAX_MANIFEST_BYTES + 1]);
    assert_eq!(verify(oversized), Err(ManifestError::TooLarge(MAX_MANIFEST_BYTES + 1)));
    let padded = vec![0; MAX_MANIFEST_BYTES + 257];
    assert_eq!(SignedManifest::decode(padded.as_slice()), Err(ManifestError::TooLarge(padded.len())));
    // Eight million fields that take two bytes each.
    let fields = [0x52, 0x00].repeat(MAX_MANIFEST_BYTES / 2);
    assert_eq!(verify(signed(fields)), Err(ManifestError::Field("there are too many")));
}

#[test]
fn the_largest_layout_fits_into_a_manifest() {
    let layout = ChunkLayout::new(u64::from(crate::MAX_CHUNKS) * u64::from(MIN_CHUNK_SIZE), MIN_CHUNK_SIZE).unwrap();
    let names = vec![ChunkName::of(b"x"); layout.chunks() as usize];
    let signed = Draft { layout, names, ..draft(0) }.sign(&key()).unwrap();
    assert_eq!(signed.verify(&key().verifying_key()).unwrap().chunks(), crate::MAX_CHUNKS);
}

#[test]
fn drafts_are_checked_before_they_are_signed() {
    let no_names = Draft { names: vec![], ..draft(1) };
    assert_eq!(no_names.sign(&key()), Err(ManifestError::Names { chunks: 1, got: 0 }));
    let no_type = Draft { media_type: String::new(), ..draft(1) };
    assert_eq!(no_type.sign(&key()), Err(ManifestError::MediaType));
}

/// What a newer program adds does not stop an older one.
#[test]
fn unknown_fields_are_passed_over() {
    let mut bytes = draft(1).sign(&key()).unwrap().bytes().to_vec();
    bytes.extend_from_slice(&[0xa2, 0x06, 3, b'n', b'e', b'w']);
    assert_eq!(verify(signed(bytes)).unwrap().length(), 1);
}

proptest! {
    #[test]
    fn garbage_is_an_answer_and_no_panic(garbage in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(verify(signed(garbage.clone())).is_err());
        prop_assert!(SignedManifest::decode(garbage.as_slice()).map_or(true, |m| m.verify(&key().verifying_key()).is_err()));
    }

    #[test]
    fn damage_is_an_answer_and_no_panic(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
        let bytes = draft(65537).sign(&key()).unwrap().bytes().to_vec();
        let mut damaged = bytes.clone();
        damaged[at.index(bytes.len())] = byte;
        let _ = verify(signed(damaged.clone()));
        damaged.truncate(cut.index(bytes.len()));
        let _ = verify(signed(damaged));
    }
}
