//! What is read of a client before anybody answers it: where its requests begin and end, a PROXY header, `Forwarded`; and where
//! answers of providers' servers do.
#![no_main]

use libfuzzer_sys::fuzz_target;
use umbel_service::listen::fuzzed;

fuzz_target!(|input: &[u8]| {
    fuzzed::framing(input);
    fuzzed::answers(input);
    fuzzed::proxy_header(input);
    fuzzed::forwarded(input);
});
