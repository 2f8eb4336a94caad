//! An agent's proof that it holds the key its membership names.

use umbel_content::{SigningKey, VerifyingKey};

const DOMAIN: &[u8] = b"umbel session v1";

/// Signs an edge's challenge.
pub fn prove(key: &SigningKey, nonce: &[u8], edge: &str) -> [u8; 64] {
    key.sign(DOMAIN, &[nonce, edge.as_bytes()])
}

/// Whether `signature` answers the challenge. The nonce has a fixed length, so its end is not in doubt.
pub fn proven(agent: &VerifyingKey, nonce: &[u8; 32], edge: &str, signature: &[u8]) -> bool {
    agent.verify(DOMAIN, &[nonce, edge.as_bytes()], signature).is_ok()
}
