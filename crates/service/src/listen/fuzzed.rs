//! The doors' readers for `fuzz/`, which stands outside; nobody else needs them.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};

use super::{ForwardedField, forwarded, proxy};
use crate::framing::Framing;

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

/// Answers to a request: up to the byte that is refused, whole and in pieces.
pub fn answers(bytes: &[u8]) {
    let follow = |size: usize| {
        let (mut framing, mut before) = (Framing::of_answers(), 0);
        framing.asks(bytes.first().is_some_and(|byte| byte % 2 == 0));
        bytes.get(1..).unwrap_or_default().chunks(size).try_for_each(|piece| {
            let outcome = framing.follow(piece).map_err(|(index, _)| before + index);
            before += piece.len();
            outcome
        })
    };
    let whole = follow(usize::MAX);
    for size in [1, 7] {
        assert_eq!(follow(size).is_ok(), whole.is_ok(), "in pieces of {size}");
    }
}
