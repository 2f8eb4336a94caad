//! Which nodes are there: those that follow the configuration here, and those that have confirmed it elsewhere a while ago.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use time::OffsetDateTime;
use uuid::Uuid;

/// A node that is there confirms every 10 s.
const SILENCE: Duration = Duration::from_secs(25);

/// Who follows the configuration at this process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Presence(Arc<Mutex<HashMap<Uuid, Seen>>>);

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    streams: usize,
    left: Option<OffsetDateTime>,
}

/// A node is there for as long as this lives.
#[derive(Debug)]
pub(crate) struct Here {
    node: Uuid,
    all: Presence,
}

impl Presence {
    /// A node has come.
    pub(crate) fn enter(&self, node: Uuid) -> Here {
        self.change(node, |seen| seen.streams += 1);
        Here { node, all: self.clone() }
    }

    /// Whether it is there now; `confirmed_at`: when it was last heard of, by whichever process.
    pub(crate) fn is_alive(&self, node: Uuid, confirmed_at: Option<OffsetDateTime>, now: OffsetDateTime) -> bool {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&node).copied().unwrap_or_default();
        let heard = confirmed_at.filter(|at| *at > now - SILENCE && seen.left.is_none_or(|left| *at > left));
        seen.streams > 0 || heard.is_some()
    }

    fn change(&self, node: Uuid, change: impl FnOnce(&mut Seen)) {
        change(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(node).or_default());
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        self.all.change(self.node, |seen| {
            seen.streams -= 1;
            seen.left = Some(OffsetDateTime::now_utc());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_there() {
        let (presence, node, now) = (Presence::default(), Uuid::now_v7(), OffsetDateTime::now_utc());
        let later = now + Duration::from_secs(1);
        assert!(!presence.is_alive(node, None, now));
        assert!(presence.is_alive(node, Some(now), later), "it follows elsewhere");
        assert!(!presence.is_alive(node, Some(now - SILENCE), now));
        let (here, again) = (presence.enter(node), presence.enter(node));
        drop(here);
        assert!(presence.is_alive(node, None, later));
        drop(again);
        assert!(!presence.is_alive(node, Some(now), later), "it has left since");
        assert!(presence.is_alive(node, Some(OffsetDateTime::now_utc()), later));
    }
}
