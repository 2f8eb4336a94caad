//! Stored metadata as it might lie on a disk that errs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use umbel_http_cache::{Policy, Stored};

fuzz_target!(|input: &[u8]| {
    let policy = Policy::default();
    if let Ok(stored) = Stored::decode(input, &policy) {
        let encoded = stored.encode();
        assert!(encoded.is_err() || Stored::decode(&encoded.expect("it is no error"), &policy).is_ok());
    }
});
