//! Random secrets and their digests. A secret that only has to be recognised is stored as its SHA-256:
//! with 256 random bits a slow hash would add nothing.

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

/// Letters that no one mistakes for another and that spell no words (RFC 8628, section 6.1).
const USER_CODE_LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
const ACCESS_KEY_LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const API_KEY_PREFIX: &str = "umbel_key_";

/// 256 random bits in base64url.
pub(crate) fn token() -> String {
    base64url(&rand::random::<[u8; 32]>())
}

/// A new API key.
pub(crate) fn api_key() -> String {
    format!("{API_KEY_PREFIX}{}", token())
}

/// Whether a bearer token looks like an API key and not like a session.
pub(crate) fn is_api_key(bearer: &str) -> bool {
    bearer.starts_with(API_KEY_PREFIX)
}

/// What is stored of a secret.
pub(crate) fn hash(secret: impl AsRef<[u8]>) -> Vec<u8> {
    digest::digest(&digest::SHA256, secret.as_ref()).as_ref().to_vec()
}

/// A fixed-length stand-in for bytes that may be too long for an index.
pub(crate) fn short_digest(bytes: &[u8]) -> [u8; 16] {
    let full = digest::digest(&digest::SHA256, bytes);
    let mut short = [0; 16];
    short.copy_from_slice(&full.as_ref()[..16]);
    short
}

/// An S3 access key id: 20 letters and digits, as S3 clients expect.
pub(crate) fn access_key_id() -> String {
    format!("UMBL{}", letters(ACCESS_KEY_LETTERS, 16))
}

/// `XXXX-XXXX`: about 34 bits, which is enough for a code that lives minutes and that only signed-in accounts may try.
pub(crate) fn user_code() -> String {
    format!("{}-{}", letters(USER_CODE_LETTERS, 4), letters(USER_CODE_LETTERS, 4))
}

/// What a person typed, in the form in which user codes are stored: case and punctuation do not matter.
pub(crate) fn normal_user_code(typed: &str) -> Option<String> {
    let letters: String = typed.chars().filter(char::is_ascii_alphabetic).take(9).collect();
    let letters = letters.to_ascii_uppercase();
    (letters.len() == 8).then(|| format!("{}-{}", &letters[..4], &letters[4..]))
}

pub(crate) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Exactly `N` bytes from base64url.
pub(crate) fn from_base64url<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() > N.div_ceil(3) * 4 {
        return None;
    }
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

fn letters(alphabet: &[u8], count: usize) -> String {
    (0..count).map(|_| char::from(alphabet[rand::random_range(0..alphabet.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_may_type_user_codes_as_they_like() {
        for (typed, expected) in [
            ("BCDF-GHJK", Some("BCDF-GHJK")),
            ("bcdfghjk", Some("BCDF-GHJK")),
            (" bcdf ghjk ", Some("BCDF-GHJK")),
            ("BCDF-GHJ", None),
            ("BCDF-GHJKL", None),
            ("", None),
        ] {
            assert_eq!(normal_user_code(typed).as_deref(), expected, "{typed}");
        }
        let made = user_code();
        assert_eq!(normal_user_code(&made), Some(made));
    }

    #[test]
    fn base64url_has_one_length() {
        assert_eq!(from_base64url::<32>(&base64url(&[7; 32])), Some([7; 32]));
        assert_eq!(from_base64url::<32>(&base64url(&[7; 31])), None);
        assert_eq!(from_base64url::<32>(&"A".repeat(1 << 20)), None);
    }
}
