//! Changes of a slot's state: on their way to stable storage, and waiting for the one before.
//!
//! Not here: who keeps the state (`appliance::state`), or which change is allowed (`shelf`).
//! Invariant: a change is answered after it was kept, or as failed; of each slot one is under way at a time, and the
//! worker serves everything else meanwhile.

use super::{Core, outgoing};
use crate::frame::Frame;
use crate::limits;
use crate::net::Queue;
use crate::shelf::{Admitted, Decision};
use crate::storage::Storage;
use crate::worker::counters::Counter;
use crate::worker::{Errand, Shared};
use std::collections::VecDeque;
use std::time::Duration;

/// A request that would change the state of its slot.
struct Waiting {
    frame: Frame,
    admitted: Admitted,
}

/// The changes of one slot.
#[derive(Default)]
pub(super) struct Changes {
    under_way: Option<Waiting>,
    later: VecDeque<Waiting>,
    /// When to announce the slot, because its config string was changed.
    announce: Option<Duration>,
}

impl Changes {
    fn all(&self) -> impl Iterator<Item = &Waiting> {
        self.under_way.iter().chain(&self.later)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all().count()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_none() && self.later.is_empty()
    }

    /// Chunks they hold.
    pub(super) fn chunks(&self) -> usize {
        self.all().map(|waiting| 1 + waiting.frame.rest.len()).sum()
    }

    /// Gives their chunks up, at the end of the worker.
    pub(super) fn retire(&mut self) {
        self.under_way.take().into_iter().chain(self.later.drain(..)).for_each(|w| w.frame.retire());
    }
}

impl<Q: Queue, S: Storage> Core<Q, S> {
    /// A slot wants another state: has it kept.
    pub(super) fn begin_change(&mut self, shared: &Shared, frame: Frame, admitted: &Admitted, slot: u16) {
        let at = usize::from(slot);
        let waiting = Waiting { frame, admitted: *admitted };
        let errand = self.slots[at].wanted().map(|state| Errand::Save {
            worker: self.id,
            slot,
            address: self.slots[at].facts().address,
            state: Box::new(state.clone()),
        });
        let sent = self.errands.as_ref().zip(errand).is_some_and(|(to, errand)| to.try_send(errand).is_ok());
        self.changes[at].under_way = Some(waiting);
        if !sent {
            self.saved(shared, slot, false);
        }
    }

    /// A slot is changing already: waits for its turn.
    pub(super) fn change_later(&mut self, shared: &Shared, frame: Frame, admitted: &Admitted, slot: u16) {
        let later = &mut self.changes[usize::from(slot)].later;
        if later.len() >= limits::CHANGES {
            return self.drop_frame(shared, frame, Counter::DropChanges);
        }
        later.push_back(Waiting { frame, admitted: *admitted });
    }

    /// Announces the slots whose config string was changed some time ago.
    pub(super) fn tell_news(&mut self, shared: &Shared) {
        if self.next_news.is_none_or(|next| next > self.now) {
            return;
        }
        for slot in 0..self.changes.len() {
            if self.changes[slot].announce.is_some_and(|due| due <= self.now) {
                self.changes[slot].announce = None;
                self.announce_slot(shared, slot);
            }
        }
        self.next_news = self.changes.iter().filter_map(|changes| changes.announce).min();
    }

    /// The change under way has been kept, or has not: answers it, and lets those behind it have their turn.
    pub(super) fn saved(&mut self, shared: &Shared, slot: u16, kept: bool) {
        let at = usize::from(slot);
        let Some(Waiting { mut frame, admitted }) = self.changes.get_mut(at).and_then(|c| c.under_way.take())
        else {
            return self.counters.count(Counter::Defects);
        };
        let Some(port) = shared.port_of(frame.queue) else {
            return self.drop_frame(shared, frame, Counter::Defects);
        };
        let announces = kept && self.slots[at].changes_config_string();
        let offset = frame.head.offset;
        let bytes = shared.region.bytes_mut(&mut frame.head.chunk, usize::from(offset), limits::CHUNK);
        match self.slots[at].settle(kept, &admitted, &port.path(false), bytes) {
            Decision::Reply(len) => {
                let Frame { queue, head, rest } = frame;
                self.recycle_pieces(shared, rest);
                self.counters.count(Counter::Replies);
                self.send(shared, outgoing(queue, head.chunk, offset, len));
            }
            Decision::Silence(refusal) => self.drop_frame(shared, frame, refusal.into()),
            // Nothing else comes of a change that has settled.
            Decision::Io(..) | Decision::Change | Decision::Later => {
                self.drop_frame(shared, frame, Counter::Defects);
            }
        }
        if kept {
            self.counters.count(Counter::Changes);
            let address = self.slots[at].facts().address;
            // When it is not taken, hosts that are masked now still pass XDP, and end here.
            let _ = self.errands.as_ref().map(|to| to.try_send(Errand::InForce { address }));
        }
        if announces {
            let due = self.now + limits::CONFIG_ANNOUNCEMENT;
            self.changes[at].announce.get_or_insert(due);
            self.next_news = Some(self.next_news.map_or(due, |next| next.min(due)));
        }
        while self.changes[at].under_way.is_none() {
            let Some(Waiting { frame, admitted }) = self.changes[at].later.pop_front() else { break };
            self.serve(shared, frame, &admitted, slot, false);
        }
    }
}
