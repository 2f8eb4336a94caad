//! A sender's line: one chunk at a time, receivers in turn, as flows of equal weight would share it.

use std::collections::{BTreeMap, VecDeque};

/// Chunks waiting to be sent, by receiver.
#[derive(Debug, Default)]
pub(crate) struct Uplink {
    queues: BTreeMap<u32, VecDeque<u32>>,
    sending: Option<(u32, u32)>,
    /// Who was served last.
    last: u32,
}

impl Uplink {
    /// True when the line is idle: then begin with [`Self::begin`].
    pub(crate) fn ask(&mut self, by: u32, chunk: u32) -> bool {
        self.queues.entry(by).or_default().push_back(chunk);
        self.sending.is_none()
    }

    /// What is sent from now on: to whom, which chunk.
    pub(crate) fn begin(&mut self) -> Option<(u32, u32)> {
        let after = self.queues.range_mut(self.last + 1..).next().map(|(to, _)| *to);
        let to = after.or_else(|| self.queues.keys().next().copied())?;
        let queue = self.queues.get_mut(&to)?;
        let chunk = queue.pop_front()?;
        if queue.is_empty() {
            self.queues.remove(&to);
        }
        self.last = to;
        self.sending = Some((to, chunk));
        self.sending
    }

    /// The last byte has left.
    pub(crate) fn end(&mut self) -> Option<(u32, u32)> {
        self.sending.take()
    }

    /// What is on the line already is sent all the same.
    pub(crate) fn cancel(&mut self, by: u32, chunk: u32) {
        if let Some(queue) = self.queues.get_mut(&by) {
            queue.retain(|waiting| *waiting != chunk);
            if queue.is_empty() {
                self.queues.remove(&by);
            }
        }
    }

    /// Everything that waited, for those who are to hear of it.
    pub(crate) fn give_up(&mut self) -> Vec<(u32, u32)> {
        let waiting = std::mem::take(&mut self.queues);
        let waiting = waiting.into_iter().flat_map(|(by, chunks)| chunks.into_iter().map(move |chunk| (by, chunk)));
        waiting.chain(self.sending.take()).collect()
    }
}
