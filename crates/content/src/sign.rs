//! Ed25519 signatures (RFC 8032), each under a domain, so that one made for one purpose is never good for another.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::ids::byte_id;

/// Bytes of a signature.
pub const SIGNATURE_LEN: usize = 64;

/// The signature was not made by that key over those bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("signature does not match")]
pub struct SignatureError;

/// The private half of an Ed25519 key. Cheap to clone, never printed.
#[derive(Clone)]
pub struct SigningKey(Arc<Ed25519KeyPair>);

byte_id! {
    /// The public half of an Ed25519 key: 32 bytes, not yet known to be a point on the curve (then it verifies nothing).
    VerifyingKey, 32
}

impl SigningKey {
    /// The key that grows from this seed, which must come from a cryptographic generator.
    ///
    /// # Panics
    /// Never: every 32 bytes are a seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("32 bytes are an Ed25519 seed");
        Self(Arc::new(pair))
    }

    /// The public half.
    ///
    /// # Panics
    /// Never: a public key has 32 bytes.
    #[must_use]
    pub fn verifying_key(&self) -> VerifyingKey {
        let public = self.0.public_key().as_ref();
        VerifyingKey::try_from(public).expect("an Ed25519 public key has 32 bytes")
    }

    /// Signs `domain ‖ parts…`. The parts must have fixed lengths, or be told apart by their content, as nothing separates them.
    ///
    /// # Panics
    /// Never: a signature has 64 bytes.
    #[must_use]
    pub fn sign(&self, domain: &[u8], parts: &[&[u8]]) -> [u8; SIGNATURE_LEN] {
        let signature = self.0.sign(&message(domain, parts));
        signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

impl VerifyingKey {
    /// Checks a signature over `domain ‖ parts…`.
    ///
    /// # Errors
    /// When this key did not make it.
    pub fn verify(&self, domain: &[u8], parts: &[&[u8]], signature: &[u8]) -> Result<(), SignatureError> {
        UnparsedPublicKey::new(&ED25519, self.as_bytes())
            .verify(&message(domain, parts), signature)
            .map_err(|_| SignatureError)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(public {})", self.verifying_key())
    }
}

fn message(domain: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut message = Vec::with_capacity(domain.len() + parts.iter().map(|part| part.len()).sum::<usize>());
    message.extend_from_slice(domain);
    parts.iter().for_each(|part| message.extend_from_slice(part));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_good_for_its_key_domain_and_bytes_only() {
        let key = SigningKey::from_seed(&[1; 32]);
        let signature = key.sign(b"umbel test v1", &[b"one", b"two"]);
        let public = key.verifying_key();
        assert_eq!(public.verify(b"umbel test v1", &[b"onetwo"], &signature), Ok(()));
        assert_eq!(public.verify(b"umbel test v2", &[b"one", b"two"], &signature), Err(SignatureError));
        assert_eq!(public.verify(b"umbel test v1", &[b"one", b"tw0"], &signature), Err(SignatureError));
        assert_eq!(public.verify(b"umbel test v1", &[b"one", b"two"], &signature[..63]), Err(SignatureError));
        let other = SigningKey::from_seed(&[2; 32]).verifying_key();
        assert_eq!(other.verify(b"umbel test v1", &[b"one", b"two"], &signature), Err(SignatureError));
        let no_point = VerifyingKey::from_bytes([0xff; 32]);
        assert_eq!(no_point.verify(b"umbel test v1", &[b"one", b"two"], &signature), Err(SignatureError));
    }

    /// RFC 8032, section 7.1, test 2.
    #[test]
    fn signatures_are_those_of_the_rfc() {
        let seed: VerifyingKey = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb".parse().unwrap();
        let key = SigningKey::from_seed(seed.as_bytes());
        assert_eq!(key.verifying_key().to_string(), "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
        let expected = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00";
        assert_eq!(hex::encode(key.sign(b"", &[&[0x72]])), expected);
    }

    #[test]
    fn the_seed_is_never_printed() {
        let shown = format!("{:?}", SigningKey::from_seed(&[0x5a; 32]));
        assert!(!shown.contains("5a5a"), "{shown}");
    }
}
