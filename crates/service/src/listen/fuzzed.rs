//! The doors' readers for `fuzz/`, which stands outside; nobody else needs them.

use std::net::IpAddr;

use futures::FutureExt;
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

/// A PROXY header as it comes, and then whole: no byte behind it is touched.
pub fn proxy_header(bytes: &[u8]) {
    drop(proxy::source(bytes));
    let mut rest = bytes;
    let read = proxy::read_header(&mut rest).now_or_never().expect("all bytes are there");
    let taken = bytes.get(..bytes.len() - rest.len()).unwrap_or_default();
    if let Ok(address) = read {
        assert_eq!(proxy::source(taken).ok(), Some(address), "{taken:?}");
    }
}

/// Lines of `Forwarded` and `X-Forwarded-For`. Whatever they are, what a trusted proxy adds behind them is what counts.
pub fn forwarded(bytes: &[u8]) {
    let trusts = |address: IpAddr| address.is_loopback();
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').take(16).collect();
    let last = lines.last().copied().unwrap_or_default();
    for (field, name, claims) in [
        (ForwardedField::XForwardedFor, "x-forwarded-for", &["192.0.2.7", "192.0.2.7:99, 127.0.0.1"][..]),
        (
            ForwardedField::Forwarded,
            "forwarded",
            &["for=192.0.2.7", "host=\"a,\\\"\\\\\";for=\"192.0.2.7:99\"", "For=192.0.2.7 ,for=127.0.0.1"],
        ),
    ] {
        let mut headers = HeaderMap::new();
        for line in lines.iter().filter_map(|line| HeaderValue::from_bytes(line).ok()) {
            headers.append(name, line);
        }
        let _claim = forwarded::client(&headers, field, trusts);
        for claim in claims {
            let behind = [last, b",", claim.as_bytes()].concat();
            for line in [claim.as_bytes(), &behind] {
                let Ok(line) = HeaderValue::from_bytes(line) else { continue };
                let mut headers = headers.clone();
                headers.append(name, line);
                let read = forwarded::client(&headers, field, trusts).address;
                assert_eq!(read, Some(IpAddr::from([192, 0, 2, 7])), "{headers:?}");
            }
        }
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

#[cfg(test)]
mod tests {
    #[test]
    fn what_stands_before_a_proxys_word_does_not_matter() {
        for bytes in [&b""[..], b"for=\"\nfor=1.1.1.1", b"\xff\"\\", b"for=\"\\\"\n\"", &b"1.1.1.1,".repeat(70)] {
            super::forwarded(bytes);
        }
    }
}
