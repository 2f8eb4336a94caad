//! Every claim of every token, one wrong at a time.

#![cfg(test)]

use proptest::prelude::*;
use umbel_content::{ManifestId, SigningKey};
use umbel_wire::{
    control::PublicKey,
    receipt::{self, ReceiptError},
    session,
    token::{
        Access, Grant, GrantError, KeySet, MAX_TOKEN_BYTES, Membership, ReaderKeys, SignedGrant, Ticket, TokenError,
        TokenSigner, Unchecked, parse_network,
    },
};

const NOW: u64 = 1_800_000_000;

fn signer(kid: &str) -> TokenSigner {
    TokenSigner::from_seed(kid, &[kid.len() as u8; 32])
}

fn keys(signers: &[&TokenSigner]) -> KeySet {
    KeySet::new(signers.iter().map(|signer| (signer.kid(), signer.public().as_slice())))
}

fn membership() -> Membership {
    Membership {
        agent: [7; 32],
        account_id: "account".into(),
        trust_domain: "public".into(),
        id: "m1".into(),
        issued: NOW - 10,
        expires: NOW + 10,
    }
}

fn ticket() -> Ticket {
    Ticket {
        id: [1; 16],
        issuer: "edge-1".into(),
        receiver: *SigningKey::from_seed(&[9; 32]).verifying_key().as_bytes(),
        sender: Some([8; 32]),
        site_id: "site".into(),
        path: "/a b/ü".into(),
        manifest: ManifestId::from_bytes([3; 32]),
        max_bytes: 1000,
        issued: NOW - 10,
        expires: NOW + 10,
    }
}

#[test]
fn a_membership_comes_back_as_it_was() {
    let signer = signer("cp");
    let token = membership().sign(&signer);
    assert_eq!(Membership::verify(&token, &keys(&[&signer]), NOW), Ok(membership()));
}

#[test]
fn memberships_end_begin_and_have_issuers() {
    let (ours, foreign) = (signer("cp"), TokenSigner::from_seed("cp", &[99; 32]));
    let known = keys(&[&ours]);
    let check = |token: &str, now: u64, expected: TokenError| {
        assert_eq!(Membership::verify(token, &known, now), Err(expected), "{token:.60}");
    };
    let good = membership().sign(&ours);
    check(&good, NOW + 10, TokenError::Expired);
    check(&good, NOW - 41, TokenError::NotYet);
    check(&membership().sign(&foreign), NOW, TokenError::Signature);
    check(&membership().sign(&signer("other")), NOW, TokenError::UnknownKey);
    check(&ticket().sign(&ours), NOW, TokenError::Malformed);
    check("", NOW, TokenError::Malformed);
    check(&"a".repeat(MAX_TOKEN_BYTES + 1), NOW, TokenError::Malformed);
    check(&good[..good.len() - 2], NOW, TokenError::Signature);
}

/// The same claims under `alg: none` or an HMAC keyed with the public key must never pass (RFC 8725, section 2.1).
#[test]
fn other_algorithms_are_refused() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let ours = signer("cp");
    let good = membership().sign(&ours);
    let payload = good.split('.').nth(1).unwrap();
    for header in [r#"{"alg":"none","kid":"cp"}"#, r#"{"alg":"HS256","kid":"cp"}"#, r#"{"alg":"ES256","kid":"cp"}"#] {
        let token = format!("{}.{payload}.AAAA", URL_SAFE_NO_PAD.encode(header));
        assert_eq!(Membership::verify(&token, &keys(&[&ours]), NOW), Err(TokenError::Malformed), "{header}");
    }
}

#[test]
fn a_ticket_is_for_one_pair_and_one_issuer() {
    let edge = signer("edge-1");
    let known = keys(&[&edge, &signer("edge-22")]);
    let token = ticket().sign(&edge);
    let read = Ticket::verify(&token, &known, NOW).unwrap();
    assert_eq!(read, ticket());
    assert_eq!(read.allows(&read.receiver, Some(&[8; 32])), Ok(()));
    assert_eq!(read.allows(&[1; 32], Some(&[8; 32])), Err(TokenError::Binding));
    assert_eq!(read.allows(&read.receiver, Some(&[1; 32])), Err(TokenError::Binding));
    assert_eq!(read.allows(&read.receiver, None), Err(TokenError::Binding));
    // Another edge's key does not make edge-1's tickets.
    let forged = ticket().sign(&signer("edge-22"));
    assert_eq!(Ticket::verify(&forged, &known, NOW), Err(TokenError::Issuer));
    assert_eq!(Ticket::verify(&token, &known, NOW + 10), Err(TokenError::Expired));
    assert!(Ticket::verify_signature(&token, &known).is_ok());
    assert_eq!(Ticket::verify(&membership().sign(&edge), &known, NOW), Err(TokenError::Malformed));
}

fn reader_key(signer: &TokenSigner, not_after: u64) -> PublicKey {
    PublicKey { id: signer.kid().into(), key: signer.public().to_vec().into(), not_after }
}

fn grant() -> Grant {
    Grant {
        site: "movies".into(),
        prefixes: vec!["/a".into(), "/b/".into()],
        paths: vec!["/c/d".into()],
        networks: ["192.0.2.0/24", "2001:db8::/32"].map(|text| parse_network(text).unwrap()).to_vec(),
        methods: vec!["GET".into(), "PUT".into()],
        not_before: NOW - 1,
        expires: NOW + 1,
    }
}

const ACCESS: Access<'_> = Access {
    site: "movies",
    path: "/a/x",
    method: "GET",
    client: std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)),
    now: NOW,
};

#[test]
fn a_grant_opens_what_it_names() {
    let reader = signer("reader");
    let keys = ReaderKeys::new(&[reader_key(&reader, 0)]);
    let token = grant().sign(&reader);
    assert_eq!(Grant::verify(&token, &keys, &ACCESS), Ok(grant()));
    let check = |access: Access<'_>, expected: Result<(), GrantError>| {
        assert_eq!(Grant::verify(&token, &keys, &access).map(drop), expected, "{access:?}");
    };
    for path in ["/a", "/b/x/y", "/c/d"] {
        check(Access { path, ..ACCESS }, Ok(()));
    }
    for path in ["/", "/ab", "/b", "/c", "/c/d/", "/c/d/e", ""] {
        check(Access { path, ..ACCESS }, Err(GrantError::Path));
    }
    check(Access { method: "PUT", ..ACCESS }, Ok(()));
    check(Access { method: "DELETE", ..ACCESS }, Err(GrantError::Method));
    check(Access { client: "::ffff:192.0.2.1".parse().unwrap(), ..ACCESS }, Ok(()));
    check(Access { client: "2001:db8::1".parse().unwrap(), ..ACCESS }, Ok(()));
    check(Access { client: "192.0.3.1".parse().unwrap(), ..ACCESS }, Err(GrantError::Network));
    check(Access { site: "other", ..ACCESS }, Err(GrantError::Site));
    check(Access { now: NOW + 1, ..ACCESS }, Err(GrantError::Expired));
    check(Access { now: NOW - 100, ..ACCESS }, Err(GrantError::NotYet));
}

#[test]
fn grants_are_good_while_their_key_is() {
    let (old, new, foreign) = (signer("old"), signer("newer"), TokenSigner::from_seed("old", &[99; 32]));
    let keys = ReaderKeys::new(&[reader_key(&old, NOW + 1), reader_key(&new, 0)]);
    let check = |token: &str, keys: &ReaderKeys, now: u64, expected: Result<(), GrantError>| {
        let access = Access { now, ..ACCESS };
        assert_eq!(Grant::verify(token, keys, &access).map(drop), expected, "{token:.60} {now}");
    };
    let long = Grant { expires: NOW + 1000, ..grant() };
    check(&long.sign(&old), &keys, NOW, Ok(()));
    check(&long.sign(&old), &keys, NOW + 1, Err(GrantError::RetiredKey));
    check(&long.sign(&new), &keys, NOW + 1, Ok(()));
    check(&long.sign(&foreign), &keys, NOW, Err(GrantError::Signature));
    check(&long.sign(&signer("none")), &keys, NOW, Err(GrantError::UnknownKey));
    check("", &keys, NOW, Err(GrantError::Malformed));
    check(&"a".repeat(MAX_TOKEN_BYTES + 1), &keys, NOW, Err(GrantError::Malformed));
    check(&membership().sign(&old), &keys, NOW, Err(GrantError::Malformed));
    // What was once seen to be signed is not good under other keys.
    let signed = SignedGrant::open(&long.sign(&old), &keys).unwrap();
    assert_eq!(signed.check(&keys, &ACCESS), Ok(()));
    assert_eq!(signed.check(&ReaderKeys::new(&[reader_key(&foreign, 0)]), &ACCESS), Err(GrantError::UnknownKey));
    assert_eq!(signed.check(&ReaderKeys::default(), &ACCESS), Err(GrantError::UnknownKey));
}

#[test]
fn anyone_may_read_what_a_grant_says() {
    let token = grant().sign(&signer("r"));
    let read = Unchecked::read(&token).unwrap();
    assert_eq!((read.kid.as_str(), read.grant), ("r", grant()));
    for bad in ["", "a.b.c", &token[1..], &membership().sign(&signer("r")), &"a".repeat(MAX_TOKEN_BYTES + 1)] {
        assert!(Unchecked::read(bad).is_err(), "{bad:.60}");
    }
}

proptest! {
    #[test]
    fn nothing_is_accepted_that_was_not_signed(at in 0..400_usize, letter in "[A-Za-z0-9_.=-]", cut in any::<bool>()) {
        let reader = signer("reader");
        let keys = ReaderKeys::new(&[reader_key(&reader, 0)]);
        let good = grant().sign(&reader);
        let at = at % good.len();
        let end = if cut { at + 1 } else { at };
        let changed = format!("{}{letter}{}", &good[..end], &good[at + 1..]);
        prop_assume!(changed != good);
        prop_assert!(Grant::verify(&changed, &keys, &ACCESS).is_err(), "{changed}");
    }

    #[test]
    fn any_text_is_only_refused(token in "[A-Za-z0-9_.-]{0,200}|.{0,50}") {
        let keys = ReaderKeys::new(&[reader_key(&signer("reader"), 0)]);
        prop_assert!(Grant::verify(&token, &keys, &ACCESS).is_err());
        let _ = Unchecked::read(&token);
    }
}

#[test]
fn a_receipt_is_the_receivers_and_within_the_ticket() {
    let (edge, receiver) = (signer("edge-1"), SigningKey::from_seed(&[9; 32]));
    let (known, ticket) = (keys(&[&edge]), ticket());
    let text = ticket.sign(&edge);
    let good = receipt::sign(&receiver, &text, &ticket.id, 1000);
    assert_eq!(receipt::verify(&good, &known).unwrap(), ticket);
    let over = receipt::sign(&receiver, &text, &ticket.id, 1001);
    assert!(matches!(receipt::verify(&over, &known), Err(ReceiptError::OverLimit { bytes: 1001, limit: 1000 })));
    let mut inflated = good;
    inflated.bytes -= 1;
    assert!(matches!(receipt::verify(&inflated, &known), Err(ReceiptError::Signature)));
    let stranger = receipt::sign(&SigningKey::from_seed(&[1; 32]), &text, &ticket.id, 10);
    assert!(matches!(receipt::verify(&stranger, &known), Err(ReceiptError::Signature)));
    let foreign = receipt::sign(&receiver, &ticket.sign(&TokenSigner::from_seed("edge-1", &[77; 32])), &ticket.id, 10);
    assert!(matches!(receipt::verify(&foreign, &known), Err(ReceiptError::Ticket(TokenError::Signature))));
}

#[test]
fn a_session_proof_answers_one_challenge_of_one_edge() {
    let agent = SigningKey::from_seed(&[5; 32]);
    let (nonce, public) = ([1; 32], agent.verifying_key());
    let proof = session::prove(&agent, &nonce, "edge-1");
    assert!(session::proven(&public, &nonce, "edge-1", &proof));
    assert!(!session::proven(&public, &[2; 32], "edge-1", &proof));
    assert!(!session::proven(&public, &nonce, "edge-2", &proof));
    assert!(!session::proven(&public, &nonce, "edge-1", &proof[..63]));
    let other = SigningKey::from_seed(&[6; 32]).verifying_key();
    assert!(!session::proven(&other, &nonce, "edge-1", &proof));
}

/// What another language has to read and write.
#[test]
fn claims_have_these_names() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let check = |token: &str, expected: serde_json::Value| {
        let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&payload).unwrap(), expected);
    };
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let agent = text(&[7; 32]);
    check(
        &membership().sign(&signer("cp")),
        serde_json::json!({
            "iss": "umbel-control-plane", "aud": "umbel-edge", "sub": agent, "jti": "m1", "account": "account",
            "trust_domain": "public", "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 10,
            "cnf": { "jwk": { "kty": "OKP", "crv": "Ed25519", "x": agent } },
        }),
    );
    let mut claims = serde_json::json!({
        "iss": "edge-1", "aud": "umbel-transfer", "sub": text(&ticket().receiver), "snd": text(&[8; 32]),
        "jti": text(&[1; 16]), "site": "site", "path": "/a b/ü", "mid": text(&[3; 32]), "max": 1000,
        "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 10,
    });
    check(&ticket().sign(&signer("edge-1")), claims.clone());
    claims.as_object_mut().unwrap().remove("snd");
    check(&Ticket { sender: None, ..ticket() }.sign(&signer("edge-1")), claims);
    let only = Grant { site: "docs".into(), prefixes: vec!["/a".into()], expires: NOW, ..Grant::default() };
    check(&only.sign(&signer("r")), serde_json::json!({ "aud": "docs", "prefix": "/a", "nbf": 0, "exp": NOW }));
    check(
        &grant().sign(&signer("r")),
        serde_json::json!({
            "aud": "movies", "prefixes": ["/a", "/b/"], "paths": ["/c/d"], "net": ["192.0.2.0/24", "2001:db8::/32"],
            "methods": ["GET", "PUT"], "nbf": NOW - 1, "exp": NOW + 1,
        }),
    );
}
