//! When waiting for peers has stopped making sense, so that the edge is asked for chunks that others were to bring.
//!
//! Two questions. *Are they silent?* Peers that neither brought nor announced anything for several times their usual
//! interval are not waited for. *Are they too slow?* If what is missing would take longer at the present pace than the
//! whole download would have taken from the edge alone, then peers cost the reader time, and the edge is called in until
//! they no longer do.

use std::time::{Duration, Instant};

/// An interval of silence is normal up to this many times the usual one.
const USUAL_TIMES: u32 = 4;
/// Once called in for slowness, the edge is let go when the projection is this much better than the edge alone.
const LET_GO: f64 = 0.9;

/// What the present pace promises, against the edge alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Bytes still missing.
    pub(crate) missing: u64,
    /// Bytes that this download began with missing.
    pub(crate) needed: u64,
    /// What all peers together bring, bytes per second.
    pub(crate) peers: f64,
    /// What the edge brings when it is asked, bytes per second.
    pub(crate) edge: f64,
}

impl Pace {
    /// Time of the whole at the present pace over its time from the edge alone; 1 and above is a loss.
    fn ratio(&self, elapsed: Duration) -> f64 {
        let alone = self.needed as f64 / self.edge;
        (elapsed.as_secs_f64() + self.missing as f64 / self.peers) / alone
    }
}

/// Remembers when peers last were of use, and what is usual.
#[derive(Debug)]
pub(crate) struct Patience {
    shortest: Duration,
    longest: Duration,
    /// Usual time between two signs of progress.
    usual: Duration,
    /// The last sign, or when there first was someone to wait for.
    since: Option<Instant>,
    too_slow: bool,
}

impl Patience {
    pub(crate) fn new(initial: Duration) -> Self {
        Self {
            // A machine that does much else pauses its peers this long now and then.
            shortest: initial / 2,
            longest: initial * 10,
            usual: initial / USUAL_TIMES,
            since: None,
            too_slow: false,
        }
    }

    /// There is a peer. Waiting starts when there was none before.
    pub(crate) fn peer_came(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// There is no peer any more.
    pub(crate) fn peers_gone(&mut self) {
        self.since = None;
        self.too_slow = false;
    }

    /// A peer brought a chunk, or announced one that is missing here.
    pub(crate) fn progress(&mut self, now: Instant) {
        if let Some(since) = self.since.replace(now) {
            let gap = now.saturating_duration_since(since).min(self.longest);
            self.usual = (self.usual * 15 + gap) / 16;
        }
    }

    /// When the silence becomes too long; `None` as long as there is no one to wait for.
    pub(crate) fn ends(&self) -> Option<Instant> {
        let patience = (self.usual * USUAL_TIMES).clamp(self.shortest, self.longest);
        self.since.map(|since| since + patience)
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.ends().is_none_or(|end| end <= now)
    }

    /// Judges the pace; `elapsed` counts from the start of the download.
    pub(crate) fn judge(&mut self, elapsed: Duration, pace: Pace) -> bool {
        let ratio = pace.ratio(elapsed);
        self.too_slow = ratio >= if self.too_slow { LET_GO } else { 1.0 };
        self.too_slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::download::tests::epoch;

    #[test]
    fn patience_follows_what_is_usual() {
        let start = epoch();
        let mut patience = Patience::new(Duration::from_secs(1));
        assert!(patience.is_over(start), "nobody to wait for");
        patience.peer_came(start);
        assert_eq!(patience.ends(), Some(start + Duration::from_secs(1)));
        let mut now = start;
        for _ in 0..200 {
            now += Duration::from_millis(200);
            patience.progress(now);
        }
        let left = patience.ends().unwrap() - now;
        assert!(left > Duration::from_millis(790) && left < Duration::from_millis(860), "{left:?}");
    }

    #[test]
    fn pace_is_judged_with_hysteresis() {
        let mut patience = Patience::new(Duration::from_secs(1));
        let pace = |peers: f64| Pace { missing: 500, needed: 1000, peers, edge: 100.0 };
        let elapsed = Duration::from_secs(5);
        let table = [(200.0, false), (101.0, false), (99.0, true), (105.0, true), (130.0, false), (0.0, true)];
        for (peers, too_slow) in table {
            assert_eq!(patience.judge(elapsed, pace(peers)), too_slow, "peers at {peers}");
        }
    }
}
