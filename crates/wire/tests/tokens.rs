//! Every claim of every token, one wrong at a time.

use umbel_content::{ManifestId, SigningKey};
use umbel_wire::{
    receipt::{self, ReceiptError},
    session,
    token::{Grant, KeySet, MAX_TOKEN_BYTES, Membership, Ticket, TokenError, TokenSigner},
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

#[test]
fn a_grant_is_for_one_site_a_prefix_and_a_time() {
    let reader = signer("reader");
    let known = keys(&[&reader]);
    let grant = Grant { site: "movies".into(), prefix: "/a".into(), not_before: NOW - 1, expires: NOW + 1 };
    let token = grant.sign(&reader);
    assert_eq!(Grant::verify(&token, &known, "movies", "/a/x", NOW), Ok(grant));
    for (site, path, now, expected) in [
        ("other", "/a/x", NOW, TokenError::Audience),
        ("movies", "/b", NOW, TokenError::Binding),
        ("movies", "/ab", NOW, TokenError::Binding),
        ("movies", "/a/x", NOW + 1, TokenError::Expired),
        ("movies", "/a/x", NOW - 100, TokenError::NotYet),
    ] {
        assert_eq!(Grant::verify(&token, &known, site, path, now), Err(expected), "{site} {path} {now}");
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
    let grant = Grant { site: "docs".into(), prefix: "/a".into(), not_before: 1, expires: NOW };
    check(&grant.sign(&signer("r")), serde_json::json!({ "aud": "docs", "prefix": "/a", "nbf": 1, "exp": NOW }));
}
