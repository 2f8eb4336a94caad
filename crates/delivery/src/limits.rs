//! `[limits]`: how often each edge answers, and how much it takes.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::Duration,
};

use crate::{mistakes::Mistakes, proto};

/// A burst is forgotten after so long at the latest: edges do not remember clients for longer.
const LONGEST: Duration = Duration::from_hours(1);

/// See [`proto::Limits`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of one client ([`network()`]).
    pub client: Option<Rate>,
    /// Of all.
    pub site: Option<Rate>,
    /// Bytes that the content of a request may have; none: any.
    pub request_body: Option<u64>,
}

/// Requests in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// One more each.
    pub each: Duration,
    /// How many at once.
    pub burst: NonZeroU32,
}

impl Limits {
    pub(crate) fn read(written: &proto::Limits, mistakes: &mut Mistakes) -> Self {
        let mut read =
            |key: &str, rate: &Option<proto::Rate>| rate.as_ref().and_then(|rate| Rate::read(key, rate, mistakes));
        let (client, site) = (read("limits.client", &written.client), read("limits.site", &written.site));
        let is_limited = !written.request_body.is_empty();
        let request_body = is_limited.then(|| mistakes.size("limits.request_body", &written.request_body, u64::MAX));
        Self { client, site, request_body }
    }
}

impl Rate {
    fn read(place: &str, written: &proto::Rate, mistakes: &mut Mistakes) -> Option<Self> {
        let Some((requests, time)) = rate(&written.rate) else {
            let text = format!("`{}` is no rate such as `20/s`, `600/min` or `1000/h`", written.rate.escape_debug());
            mistakes.add(format!("{place}.rate"), text);
            return None;
        };
        let (each, burst) = (time / requests.get(), NonZeroU32::new(written.burst).unwrap_or(requests));
        if each.is_zero() {
            mistakes.add(format!("{place}.rate"), "is more than an edge can count");
        }
        if each.saturating_mul(burst.get()) > LONGEST {
            mistakes.add(format!("{place}.burst"), "takes more than an hour to come back at this rate");
        }
        Some(Self { each, burst })
    }
}

fn rate(text: &str) -> Option<(NonZeroU32, Duration)> {
    let (requests, unit) = text.split_once('/')?;
    let time = match unit.trim() {
        "s" => Duration::from_secs(1),
        "min" => Duration::from_mins(1),
        "h" => Duration::from_hours(1),
        _ => return None,
    };
    Some((requests.trim().parse().ok()?, time))
}

/// What counts as one client: an address, or the /64 of an IPv6 address, of which whoever has one has all.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tests::{mistakes, rules};

    #[test]
    fn rates() {
        for (written, each, burst) in [
            ("rate = '20/s'", 50, 20),
            ("rate = '20/s', burst = 100", 50, 100),
            ("rate = '600 / min'", 100, 600),
            ("rate = '60/h', burst = 1", 60_000, 1),
        ] {
            let limits = rules(&format!("limits.client = {{ {written} }}")).limits;
            let rate = Rate { each: Duration::from_millis(each), burst: NonZeroU32::new(burst).unwrap() };
            assert_eq!(limits, Limits { client: Some(rate), ..Limits::default() }, "{written}");
        }
        for rate in ["", "20", "20/day", "0/s", "-1/s", "x/s", "5000000000/s"] {
            assert_eq!(mistakes(&format!("limits.site = {{ rate = '{rate}' }}")), ["limits.site.rate"], "{rate}");
        }
        assert_eq!(mistakes("limits.client = { rate = '1/min', burst = 100 }"), ["limits.client.burst"]);
        assert_eq!(mistakes("limits.client = { rate = '4000000000/s' }"), ["limits.client.rate"]);
    }

    #[test]
    fn request_bodies() {
        for (written, expected) in
            [("", None), ("request_body = '0B'", Some(0)), ("request_body = '2 MiB'", Some(2 << 20))]
        {
            assert_eq!(rules(&format!("[limits]\n{written}")).limits.request_body, expected, "{written}");
        }
        assert_eq!(mistakes("limits.request_body = 'much'"), ["limits.request_body"]);
    }

    #[test]
    fn clients() {
        for (address, expected) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::1", "::"),
        ] {
            assert_eq!(network(address.parse().unwrap()), expected.parse::<IpAddr>().unwrap());
        }
    }
}
