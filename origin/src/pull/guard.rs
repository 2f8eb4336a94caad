//! Which addresses a pull may connect to. A provider chooses the host name, so without a guard it could make the origin
//! read its operator's private network (server-side request forgery). Addresses are checked after the name was resolved,
//! on each connect: a name that resolves otherwise the next time gains nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Special-purpose IPv4 blocks that are not globally reachable (IANA registry, RFC 6890), and multicast.
const SPECIAL_V4: [([u8; 4], u8); 15] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
];

/// Global unicast (RFC 4291): everything else in IPv6 is special.
const GLOBAL_V6: (u16, u8) = (0x2000, 3);

/// What is special within it: IETF protocol assignments with Teredo, documentation (RFC 3849, RFC 9637), segment routing.
const SPECIAL_V6: [([u16; 8], u8); 4] = [
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
    ([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16),
];

/// NAT64 (RFC 6052): the last four bytes are an IPv4 address.
const NAT64: ([u16; 8], u8) = ([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);

/// The addresses that pulls may connect to: global ones, and what the operator allows besides.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guard {
    allowed: Vec<IpNet>,
}

impl Guard {
    /// Besides global addresses, those in `allowed`.
    pub(crate) fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// Whether a pull may connect to this address.
    pub(crate) fn permits(&self, address: IpAddr) -> bool {
        // As the kernel does: ::ffff:a.b.c.d is a.b.c.d.
        let address = address.to_canonical();
        self.allowed.iter().any(|net| net.contains(&address)) || is_global(address)
    }
}

fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_global_v4(address),
        IpAddr::V6(address) => is_global_v6(address),
    }
}

fn is_global_v4(address: Ipv4Addr) -> bool {
    !SPECIAL_V4.iter().any(|(net, prefix)| within_v4(address, Ipv4Addr::from(*net), *prefix))
}

fn is_global_v6(address: Ipv6Addr) -> bool {
    if within_v6(address, NAT64) {
        let [.., a, b, c, d] = address.octets();
        return is_global_v4(Ipv4Addr::new(a, b, c, d));
    }
    let segments = address.segments();
    if segments[0] == 0x2002 {
        // 6to4 (RFC 3056) has an IPv4 address after its prefix.
        let [a, b] = segments[1].to_be_bytes();
        let [c, d] = segments[2].to_be_bytes();
        return is_global_v4(Ipv4Addr::new(a, b, c, d));
    }
    let global = within_v6(address, ([GLOBAL_V6.0, 0, 0, 0, 0, 0, 0, 0], GLOBAL_V6.1));
    global && !SPECIAL_V6.iter().any(|block| within_v6(address, *block))
}

fn within_v4(address: Ipv4Addr, net: Ipv4Addr, prefix: u8) -> bool {
    Ipv4Net::new(net, prefix).is_ok_and(|net| net.contains(&address))
}

fn within_v6(address: Ipv6Addr, (net, prefix): ([u16; 8], u8)) -> bool {
    Ipv6Net::new(Ipv6Addr::from(net), prefix).is_ok_and(|net| net.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(allowed: &[&str], address: &str, expected: bool) {
        let guard = Guard::new(allowed.iter().map(|net| net.parse().unwrap()).collect());
        assert_eq!(guard.permits(address.parse().unwrap()), expected, "{address} with {allowed:?}");
    }

    #[test]
    fn only_global_addresses() {
        for address in ["93.184.216.34", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::101:101"]
        {
            check(&[], address, true);
        }
        let special = "0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1 172.31.255.255 \
            192.0.0.8 192.0.2.1 192.168.1.1 198.18.0.1 224.0.0.1 255.255.255.255 :: ::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 \
            ::127.0.0.1 64:ff9b::7f00:1 64:ff9b:1::1 100::1 2001::1 2001:db8::1 2002:7f00:1:: 3fff::1 5f00::1 fc00::1 \
            fd12:3456::1 fe80::1 fec0::1 ff02::1";
        special.split_whitespace().for_each(|address| check(&[], address, false));
    }

    #[test]
    fn what_the_operator_allows_besides() {
        check(&["127.0.0.0/8"], "127.0.0.1", true);
        check(&["127.0.0.0/8"], "::ffff:127.0.0.1", true);
        check(&["127.0.0.0/8"], "10.0.0.1", false);
        check(&["fd00::/8", "10.0.0.0/24"], "fd12::1", true);
        check(&["fd00::/8", "10.0.0.0/24"], "10.0.1.1", false);
    }
}
