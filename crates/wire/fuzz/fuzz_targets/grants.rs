//! A request's grants, wherever they stand in it: a target, then lines of fields, then claims as somebody might sign them.
#![no_main]

use std::sync::LazyLock;

use http::{HeaderName, HeaderValue, Request, request::Parts};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use libfuzzer_sys::fuzz_target;
use umbel_wire::{
    carrier::{Carriers, MOST, signed_url, without_grant},
    control::PublicKey,
    token::{Access, Grant, ReaderKeys, TokenSigner, Unchecked, parse_network},
};

const SEED: [u8; 32] = [2; 32];
const KID: &str = "r";

static SIGNER: LazyLock<TokenSigner> = LazyLock::new(|| TokenSigner::from_seed(KID, &SEED));
static KEYS: LazyLock<ReaderKeys> = LazyLock::new(|| {
    ReaderKeys::new([&PublicKey { id: KID.into(), key: SIGNER.public().to_vec().into(), not_after: 0 }])
});
/// RFC 8410, section 7.
static KEY: LazyLock<EncodingKey> = LazyLock::new(|| {
    let head = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    EncodingKey::from_ed_der(&[head.as_slice(), &SEED].concat())
});

fuzz_target!(|input: &[u8]| {
    let mut lines = input.split(|byte| *byte == b'\n');
    let Some(mut request) = lines.next().and_then(request) else { return };
    let fields = [("a", "authorization"), ("c", "cookie"), ("r", "referer")];
    for line in lines.by_ref().take(4) {
        let Some((field, value)) = line.split_first() else { continue };
        let name = fields.iter().find(|(letter, _)| letter.as_bytes() == [*field]).map_or("x", |(_, name)| name);
        if let Ok(value) = HeaderValue::from_bytes(value) {
            request.headers.append(HeaderName::from_static(name), value);
        }
    }
    brought(&request);
    taken_out(request);
    if let Some(claims) = lines.next() {
        claimed(claims);
    }
});

fn request(target: &[u8]) -> Option<Parts> {
    Some(Request::get(target).body(()).ok()?.into_parts().0)
}

fn access() -> Access<'static> {
    Access { site: "s", path: "/a/b", method: "GET", client: [192, 0, 2, 7].into(), now: 1000 }
}

/// No more than is looked at, and nothing that nobody signed.
fn brought(request: &Parts) {
    let mut count = 0;
    for token in Carriers::ALL.brought(&request.headers, &request.uri) {
        count += 1;
        let _read = Unchecked::read(token);
        assert!(Grant::verify(token, &KEYS, &access()).is_err());
    }
    assert!(count <= MOST);
}

/// Nothing of them is left, and nothing else is gone when it is done again.
fn taken_out(mut request: Parts) {
    Carriers::ALL.take_out(&mut request);
    assert_eq!(Carriers::ALL.brought(&request.headers, &request.uri).next(), None);
    let (uri, headers) = (request.uri.clone(), request.headers.clone());
    Carriers::ALL.take_out(&mut request);
    assert_eq!((request.uri, request.headers), (uri.clone(), headers));
    let url = uri.to_string();
    let signed = signed_url(&url, "token");
    assert_eq!(without_grant(&signed), without_grant(&url));
}

/// Whatever the site's key has signed is a grant that can be signed again, or none.
fn claimed(claims: &[u8]) {
    if let Ok(text) = std::str::from_utf8(claims) {
        let _network = parse_network(text);
    }
    let Ok(claims) = serde_json::from_slice::<serde_json::Value>(claims) else { return };
    let header = Header { kid: Some(KID.to_owned()), ..Header::new(Algorithm::EdDSA) };
    let Ok(token) = jsonwebtoken::encode(&header, &claims, &KEY) else { return };
    if let Ok(grant) = Grant::verify(&token, &KEYS, &access()) {
        assert!(grant.site == "s" && grant.covers("/a/b") && grant.expires > 1000);
        assert_eq!(Grant::verify(&grant.sign(&SIGNER), &KEYS, &access()), Ok(grant));
    }
}
