//! The vectors as the test and the example share them. README.md describes the format.

use std::error::Error;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use umbel_content::{
    ChunkIndex, ChunkLayout, ChunkName, ContentKey, Draft, Manifest, ObjectPath, Opener, Sealer, SignedManifest,
    SigningKey, SiteName, VersionId, proto,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Ciphertexts longer than this are given by their name alone.
const LONGEST_SHOWN: usize = 64;

pub(crate) struct Vector {
    pub(crate) name: String,
    pub(crate) json: Value,
}

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

/// All vectors, by name.
pub(crate) fn read_all() -> Result<Vec<Vector>> {
    let mut vectors = Vec::new();
    for entry in std::fs::read_dir(folder())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            vectors.push(Vector { name, json: serde_json::from_slice(&std::fs::read(&path)?)? });
        }
    }
    vectors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(vectors)
}

/// The vector with everything computed that follows from `given`.
pub(crate) fn complete(vector: &Value) -> Result<Value> {
    let given = &vector["given"];
    let (draft, chunks) = draft(given)?;
    let signing_key = signing_key(given)?;
    let signed = draft.clone().sign(&signing_key)?;
    let then = json!({
        "key_id": draft.key_id.to_string(),
        "chunk_size": draft.layout.chunk_size(),
        "sealed_length": draft.layout.sealed_length(),
        "chunks": chunks,
        "site_public_key": signing_key.verifying_key().to_string(),
        "manifest": hex::encode(signed.bytes()),
        "manifest_id": signed.id().to_string(),
        "signature": hex::encode(signed.signature()),
    });
    Ok(json!({ "about": vector["about"], "given": given, "then": then }))
}

/// Goes the other way: from manifest, signature and ciphertexts to the plaintext.
pub(crate) fn check_reading(vector: &Value) -> Result<()> {
    let (given, then) = (&vector["given"], &vector["then"]);
    let message = proto::SignedManifest { manifest: bytes(then, "manifest")?, signature: bytes(then, "signature")? };
    let public = text(then, "site_public_key")?.parse()?;
    let manifest = SignedManifest::from_proto(message)?.verify(&public)?;
    ensure(manifest.id().to_string() == text(then, "manifest_id")?, "manifest id")?;
    let opened = open_all(given, &manifest)?;
    ensure(opened == plaintext(given)?, "plaintext")
}

fn open_all(given: &Value, manifest: &Manifest) -> Result<Vec<u8>> {
    let (sealed, mut opened) = (seal_all(given)?, Vec::new());
    let opener = Opener::new(&content_key(given)?, manifest.version_id());
    for (chunk, sealed) in manifest.layout().indices().zip(&sealed) {
        manifest.verify_chunk(chunk, sealed)?;
        opened.extend(opener.open(chunk, sealed)?);
    }
    Ok(opened)
}

fn draft(given: &Value) -> Result<(Draft, Vec<Value>)> {
    let sealed = seal_all(given)?;
    let names: Vec<_> = sealed.iter().map(|sealed| ChunkName::of(sealed)).collect();
    let chunks = sealed.iter().zip(&names).map(|(sealed, name)| chunk(sealed, name)).collect();
    let draft = Draft {
        site: SiteName::new(text(given, "site")?)?,
        path: ObjectPath::from_decoded(text(given, "path")?)?,
        version_id: version(given)?,
        media_type: text(given, "media_type")?.into(),
        layout: layout(given)?,
        names,
        key_id: content_key(given)?.id(),
        created_ms: number(given, "created_ms")?,
        fields: fields(given)?,
    };
    Ok((draft, chunks))
}

fn chunk(sealed: &[u8], name: &ChunkName) -> Value {
    let mut chunk = Map::new();
    chunk.insert("sealed_length".into(), sealed.len().into());
    chunk.insert("name".into(), name.to_string().into());
    if sealed.len() <= LONGEST_SHOWN {
        chunk.insert("ciphertext".into(), hex::encode(sealed).into());
    }
    chunk.into()
}

fn seal_all(given: &Value) -> Result<Vec<Vec<u8>>> {
    let (plain, size) = (plaintext(given)?, layout(given)?.chunk_size() as usize);
    let sealer = Sealer::new(&content_key(given)?, version(given)?);
    let numbered = (0..).map(ChunkIndex::new).zip(plain.chunks(size));
    Ok(numbered.map(|(chunk, plain)| sealer.seal(chunk, plain.to_vec())).collect())
}

/// Byte `i` is `(7 * i + i / 251) mod 256`, unless the bytes are written out.
fn plaintext(given: &Value) -> Result<Vec<u8>> {
    if given["plaintext"].is_string() {
        return Ok(bytes(given, "plaintext")?.to_vec());
    }
    let rule = |i: u64| ((7 * i + i / 251) % 256) as u8;
    Ok((0..number(given, "plaintext_length")?).map(rule).collect())
}

fn layout(given: &Value) -> Result<ChunkLayout> {
    let length = plaintext(given)?.len() as u64;
    Ok(match given["chunk_size"].as_u64() {
        Some(size) => ChunkLayout::new(length, size.try_into()?)?,
        None => ChunkLayout::for_length(length)?,
    })
}

fn content_key(given: &Value) -> Result<ContentKey> {
    Ok(ContentKey::try_from(bytes(given, "content_key")?.as_ref())?)
}

fn signing_key(given: &Value) -> Result<SigningKey> {
    let seed = bytes(given, "site_seed")?;
    Ok(SigningKey::from_seed(seed.as_ref().try_into()?))
}

fn version(given: &Value) -> Result<VersionId> {
    Ok(text(given, "version_id")?.parse()?)
}

fn fields(given: &Value) -> Result<Vec<(String, String)>> {
    let fields = given["fields"].as_object().ok_or("no fields")?;
    let field = |(name, value): (&String, &Value)| Ok((name.clone(), value.as_str().ok_or("no text")?.to_owned()));
    fields.iter().map(field).collect()
}

fn text<'a>(object: &'a Value, name: &str) -> Result<&'a str> {
    object[name].as_str().ok_or_else(|| format!("no text {name}").into())
}

fn number(object: &Value, name: &str) -> Result<u64> {
    object[name].as_u64().ok_or_else(|| format!("no number {name}").into())
}

fn bytes(object: &Value, name: &str) -> Result<Bytes> {
    Ok(hex::decode(text(object, name)?)?.into())
}

fn ensure(right: bool, what: &str) -> Result<()> {
    if right { Ok(()) } else { Err(format!("{what} differs").into()) }
}
