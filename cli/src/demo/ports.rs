//! Which ports the parts of a demo listen on, all on loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use anyhow::bail;

/// Unless told otherwise.
pub(super) const USUAL_BASE: u16 = 7440;

/// How many are used, from the base on.
const SPAN: u16 = 40;

/// The last base that leaves room for all.
pub(super) const LAST_BASE: u16 = u16::MAX - SPAN;

/// The ports, all counted from one base.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    base: u16,
}

/// Of one edge.
#[derive(Debug, Clone, Copy)]
pub(super) struct EdgePorts {
    pub(super) public: u16,
    pub(super) internal: u16,
    pub(super) relay: u16,
    /// UDP.
    pub(super) relay_quic: u16,
    pub(super) ops: u16,
    /// HTTP without TLS.
    pub(super) plain: u16,
}

impl Ports {
    /// From `base` on, if all of them are free.
    pub(super) fn check(base: u16) -> anyhow::Result<Self> {
        let ports = Self { base };
        for (port, purpose) in ports.all() {
            if !is_free(port, purpose.ends_with("UDP")) {
                bail!(
                    "port {port} ({purpose}) is taken: stop what uses it, or choose others with --fresh --base-port N"
                );
            }
        }
        Ok(ports)
    }

    pub(super) fn control_plane(self) -> u16 {
        self.base
    }

    pub(super) fn control_plane_ops(self) -> u16 {
        self.base + 1
    }

    pub(super) fn s3(self) -> u16 {
        self.base + 5
    }

    pub(super) fn origin_internal(self) -> u16 {
        self.base + 6
    }

    pub(super) fn origin_ops(self) -> u16 {
        self.base + 7
    }

    /// Edge 1 or 2.
    pub(super) fn edge(self, number: usize) -> EdgePorts {
        let first = self.base + if number == 1 { 10 } else { 20 };
        EdgePorts {
            public: first,
            internal: first + 1,
            relay: first + 2,
            relay_quic: first + 3,
            ops: first + 4,
            plain: first + 5,
        }
    }

    fn all(self) -> Vec<(u16, String)> {
        let mut all = vec![
            (self.control_plane(), "control plane".to_owned()),
            (self.control_plane_ops(), "control plane, health".to_owned()),
            (self.s3(), "origin, S3".to_owned()),
            (self.origin_internal(), "origin, for edges".to_owned()),
            (self.origin_ops(), "origin, health".to_owned()),
        ];
        for number in [1, 2] {
            let edge = self.edge(number);
            all.push((edge.public, format!("edge {number}, public")));
            all.push((edge.internal, format!("edge {number}, for edges")));
            all.push((edge.relay, format!("edge {number}, relay")));
            all.push((edge.relay_quic, format!("edge {number}, address discovery, UDP")));
            all.push((edge.ops, format!("edge {number}, health")));
            all.push((edge.plain, format!("edge {number}, without TLS")));
        }
        all
    }
}

/// An address on loopback.
pub(super) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn is_free(port: u16, udp: bool) -> bool {
    if udp { UdpSocket::bind(loopback(port)).is_ok() } else { TcpListener::bind(loopback(port)).is_ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_has_two_uses() {
        let mut ports: Vec<u16> = Ports { base: 1000 }.all().into_iter().map(|(port, _)| port).collect();
        let count = ports.len();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), count);
        assert!(ports.iter().all(|port| (1000..1000 + SPAN).contains(port)));
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind(loopback(0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = Ports::check(port.min(LAST_BASE)).unwrap_err().to_string();
        assert!(error.contains("is taken"), "{error}");
    }
}
