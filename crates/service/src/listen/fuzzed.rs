//! The doors' readers for `fuzz/`, which stands outside; nobody else needs them.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};

use super::{ForwardedField, forwarded, framing::Framing, proxy};

/// A connection whole, and in pieces: the same is refused, at the same byte.
pub fn framing(bytes: &[u8]) {
    let whole = Framing::new().follow(bytes).map_err(|(index, _)| index);
    for size in [1, 7] {
        let mut framing = Framing::new();
        let mut before = 0;
        let pieces = bytes.chunks(size).try_for_each(|piece| {
            let outcome = framing.follow(piece).map_err(|(index, _)| before + index);
            before += piece.len();
            outcome
        });
        assert_eq!(pieces.is_ok(), whole.is_ok(), "in pieces of {size}");
    }
}

/// A PROXY header, whole.
pub fn proxy_header(bytes: &[u8]) {
    drop(proxy::source(bytes));
}

/// Lines of `Forwarded` and `X-Forwarded-For`; an address is one that was there, or none.
pub fn forwarded(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(16) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append("forwarded", value.clone());
            headers.append("x-forwarded-for", value);
        }
    }
    for field in [ForwardedField::Forwarded, ForwardedField::XForwardedFor] {
        let _claim = forwarded::client(&headers, field, |address: IpAddr| address.is_loopback());
    }
}
