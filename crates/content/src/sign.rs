//! Ed25519 over a domain and parts, so that a signature for one purpose is never one for another.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

/// A signature that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("wrong signature")]
pub struct SignatureError;

/// An Ed25519 private key.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// From the 32-byte seed (RFC 8032).
    pub fn from_seed(seed: [u8; 32]) -> Self {
        // Only a seed of another length is refused.
        Self(Ed25519KeyPair::from_seed_unchecked(&seed).expect("a seed of 32 bytes"))
    }

    /// Signs `domain` followed by `parts`.
    pub fn sign(&self, domain: &[u8], parts: &[&[u8]]) -> [u8; 64] {
        let signature = self.0.sign(&message(domain, parts));
        signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }

    /// The public half.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes"))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").finish_non_exhaustive()
    }
}

/// An Ed25519 public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerifyingKey([u8; 32]);

impl VerifyingKey {
    /// From its 32 bytes; whether they are a point of the curve shows when something is verified.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether `signature` is this key's over `domain` followed by `parts`.
    pub fn verify(&self, domain: &[u8], parts: &[&[u8]], signature: &[u8]) -> Result<(), SignatureError> {
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        key.verify(&message(domain, parts), signature).map_err(|_| SignatureError)
    }
}

fn message(domain: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    std::iter::once(&domain).chain(parts).copied().flatten().copied().collect()
}
