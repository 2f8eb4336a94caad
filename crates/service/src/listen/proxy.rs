//! Who is behind a proxy that the operator trusts: the PROXY protocol before a connection (versions 1 and 2), and `Forwarded`
//! (RFC 7239) or `X-Forwarded-For` in its requests. What anybody else claims of where he comes from is not read.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use http::HeaderMap;
use ipnet::IpNet;
use ppp::{HeaderResult, v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{
    Connection,
    forwarded::{self, Claim},
};

/// Version 2: signature, version, family and length.
const FIXED: usize = 16;
const SIGNATURE: &[u8] = v2::PROTOCOL_PREFIX;

/// The shortest header there is: `PROXY UNKNOWN` and its line end.
const SHORTEST: usize = 15;

/// Version 1 has no longer lines.
const LONGEST_LINE: usize = 107;

/// Of version 2, with all that proxies are known to add to the addresses.
const LONGEST: usize = 4096;

/// In which field trusted proxies say whom a request came from. A field that the proxy does not write itself may be the
/// client's, so there is no guessing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardedField {
    /// `X-Forwarded-For`, and `X-Forwarded-Proto`.
    #[default]
    XForwardedFor,
    /// `Forwarded`.
    Forwarded,
}

impl FromStr for ForwardedField {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "x-forwarded-for" => Ok(Self::XForwardedFor),
            "forwarded" => Ok(Self::Forwarded),
            _ => Err("expected `x-forwarded-for` or `forwarded`"),
        }
    }
}

/// A network, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

impl FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
        let network = text.parse().ok().or_else(address);
        network.map(Self).ok_or("expected an address or a network, as 192.0.2.0/24")
    }
}

/// The proxies in front of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proxies {
    /// Their addresses.
    pub trusted: Vec<Network>,
    /// They begin each connection with a PROXY protocol header.
    pub protocol: bool,
    /// Where they say whom a request came from.
    pub field: ForwardedField,
}

impl Proxies {
    /// Whether the operator trusts who has this address.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|Network(network)| network.contains(&address))
    }

    /// What is known of a connection, as far as this request tells more than its transport. `by_proxy`: the connection comes from
    /// a proxy that is trusted, whomever it brings.
    pub(super) fn behind(&self, connection: &Connection, by_proxy: bool, headers: &HeaderMap) -> Option<Connection> {
        if !by_proxy {
            return None;
        }
        let claim = if self.trusts(connection.remote.ip()) {
            forwarded::client(headers, self.field, |address| self.trusts(address))
        } else if connection.secure {
            // It has passed TLS on, and cannot have written anything within.
            return None;
        } else {
            // It has said before whom it brings.
            Claim { address: None, secure: forwarded::secure(headers, self.field) }
        };
        let known = connection.remote;
        let remote = claim
            .address
            .map_or(known, |address| SocketAddr::new(address, if address == known.ip() { known.port() } else { 0 }));
        let secure = claim.secure.unwrap_or(connection.secure);
        (claim != Claim::default()).then(|| Connection { remote, secure, ..connection.clone() })
    }
}

/// Why the beginning of a trusted proxy's connection is not understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoHeader {
    #[error("the connection ended within the PROXY header")]
    Io(#[from] io::Error),
    #[error("the PROXY header is too long")]
    TooLong,
    #[error("malformed PROXY header: {0}")]
    Malformed(String),
}

/// Reads a header and not a byte more. None: the proxy speaks for itself (a health check), or does not say.
pub(super) async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, NoHeader> {
    let mut header = vec![0; SHORTEST];
    stream.read_exact(&mut header).await?;
    if header.starts_with(SIGNATURE) {
        header.push(stream.read_u8().await?);
        let rest = header.last_chunk().map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
        if rest > LONGEST - FIXED {
            return Err(NoHeader::TooLong);
        }
        header.resize(FIXED + rest, 0);
        stream.read_exact(header.get_mut(FIXED..).unwrap_or_default()).await?;
    } else if header.starts_with(b"PROXY ") {
        while header.last() != Some(&b'\n') {
            if header.len() >= LONGEST_LINE {
                return Err(NoHeader::TooLong);
            }
            header.push(stream.read_u8().await?);
        }
    }
    source(&header)
}

/// The address in a whole header.
pub(super) fn source(header: &[u8]) -> Result<Option<SocketAddr>, NoHeader> {
    match HeaderResult::parse(header) {
        HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
            v1::Addresses::Unknown => None,
            v1::Addresses::Tcp4(pair) => Some((pair.source_address, pair.source_port).into()),
            v1::Addresses::Tcp6(pair) => Some((pair.source_address, pair.source_port).into()),
        }),
        HeaderResult::V2(Ok(header)) if header.command == v2::Command::Local => Ok(None),
        HeaderResult::V2(Ok(header)) => Ok(match header.addresses {
            v2::Addresses::IPv4(pair) => Some((pair.source_address, pair.source_port).into()),
            v2::Addresses::IPv6(pair) => Some((pair.source_address, pair.source_port).into()),
            v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
        }),
        HeaderResult::V1(Err(error)) => Err(NoHeader::Malformed(error.to_string())),
        HeaderResult::V2(Err(error)) => Err(NoHeader::Malformed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arc_swap::ArcSwap;
    use axum::{Router, body::Body};
    use http::Request;
    use tokio::{io::AsyncWriteExt, net::TcpStream};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::listen::{Limits, Listener, Rules};

    fn v2(version_command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[version_command, family], &length, payload].concat()
    }

    /// The address, or none, or a refusal; what follows the header is not touched.
    async fn check(header: &[u8], expected: Result<Option<&str>, ()>) {
        let stream = [header, b"GET"].concat();
        let mut rest = stream.as_slice();
        let read = read_header(&mut rest).await;
        if read.is_ok() {
            assert_eq!(rest, b"GET", "{header:?}");
        }
        let read = read.map(|address| address.map(|address| address.to_string())).map_err(drop);
        assert_eq!(read, expected.map(|address| address.map(ToOwned::to_owned)), "{header:?}");
    }

    #[tokio::test]
    async fn headers() {
        let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x1f, 0x90, 1, 187];
        let v6 = [&[0x20, 1, 0xd, 0xb8], &[0; 11][..], &[7], &[0; 16], &[0x1f, 0x90, 1, 187]].concat();
        check(b"PROXY TCP4 192.0.2.7 10.0.0.1 8080 443\r\n", Ok(Some("192.0.2.7:8080"))).await;
        check(b"PROXY TCP6 2001:db8::7 ::1 8080 443\r\n", Ok(Some("[2001:db8::7]:8080"))).await;
        check(b"PROXY UNKNOWN\r\n", Ok(None)).await;
        check(&v2(0x21, 0x11, &v4), Ok(Some("192.0.2.7:8080"))).await;
        check(&v2(0x21, 0x21, &v6), Ok(Some("[2001:db8::7]:8080"))).await;
        check(&v2(0x21, 0x11, &[&v4[..], &[4, 0, 1, 9]].concat()), Ok(Some("192.0.2.7:8080"))).await;
        check(&v2(0x20, 0x11, &v4), Ok(None)).await;
        check(&v2(0x20, 0x00, &[]), Ok(None)).await;
        check(&v2(0x21, 0x00, &[]), Ok(None)).await;
        check(&v2(0x21, 0x31, &[b'/'; 216]), Ok(None)).await;
        check(&v2(0x31, 0x11, &v4), Err(())).await;
        check(&v2(0x21, 0x11, &v4[..8]), Err(())).await;
        check(&v2(0x21, 0x11, &[0; LONGEST]), Err(())).await;
        check(b"PROXY TCP4 192.0.2.7 10.0.0.1 8080\r\n", Err(())).await;
        check(b"PROXY TCP4 999.0.2.7 10.0.0.1 8080 443\r\n", Err(())).await;
        check(format!("PROXY {}\r\n", "x".repeat(200)).as_bytes(), Err(())).await;
        check(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Err(())).await;
        check(b"PROXY", Err(())).await;
    }

    /// What a listener behind 127.0.0.1 or another proxy says of its client.
    async fn told(trusted: &str, protocol: bool, bytes: &str) -> String {
        let proxies = Proxies { trusted: vec![trusted.parse().unwrap()], protocol, field: ForwardedField::Forwarded };
        let rules = Arc::new(ArcSwap::from_pointee(Rules { proxies, ..Rules::default() }));
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), None, Limits::default()).await.unwrap().under(rules);
        let (address, end) = (listener.local_addr().unwrap(), CancellationToken::new());
        let app = Router::new().fallback(|request: Request<Body>| async move {
            let connection = request.extensions().get::<Connection>().unwrap();
            format!("{} {}", connection.remote.ip(), connection.secure)
        });
        let serving = tokio::spawn(listener.serve(app, end.clone()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{bytes}\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        // Who is refused may see the connection reset.
        let _read = stream.read_to_string(&mut answer).await;
        end.cancel();
        serving.await.unwrap();
        answer.rsplit("\r\n").next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn whom_a_listener_believes() {
        let forwarded = "GET / HTTP/1.1\r\nForwarded: for=192.0.2.9;proto=https";
        let header = "PROXY TCP4 192.0.2.7 10.0.0.1 8080 443\r\n";
        for (trusted, protocol, bytes, expected) in [
            ("127.0.0.1/32", true, format!("{header}GET / HTTP/1.1"), "192.0.2.7 false"),
            ("127.0.0.1/32", true, format!("{header}{forwarded}"), "192.0.2.7 true"),
            ("127.0.0.1/32", false, "GET / HTTP/1.1\r\nForwarded: proto=https".to_owned(), "127.0.0.1 true"),
            ("127.0.0.1/32", true, forwarded.to_owned(), ""),
            ("127.0.0.1/32", false, forwarded.to_owned(), "192.0.2.9 true"),
            ("10.0.0.0/8", false, forwarded.to_owned(), "127.0.0.1 false"),
            ("10.0.0.0/8", true, forwarded.to_owned(), "127.0.0.1 false"),
            ("10.0.0.0/8", true, format!("{header}GET / HTTP/1.1"), ""),
        ] {
            let answer = told(trusted, protocol, &bytes).await;
            let said = if answer.contains("one Host") { "" } else { answer.as_str() };
            assert_eq!(said, expected, "{trusted} {protocol} {bytes:?}");
        }
    }

    #[test]
    fn trust() {
        let proxies =
            Proxies { trusted: ["10.0.0.0/8", "::1"].map(|text| text.parse().unwrap()).into(), ..Proxies::default() };
        for (address, expected) in [("10.9.8.7", true), ("::ffff:10.9.8.7", true), ("11.0.0.1", false), ("::1", true)] {
            assert_eq!(proxies.trusts(address.parse().unwrap()), expected, "{address}");
        }
    }
}
