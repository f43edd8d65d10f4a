//! The condition of slots as their worker sees it, and the change of what is behind one.
//!
//! Not here: noticing that a device is back, opening or testing it (`appliance::serve`).
//! Invariant: each change of a condition is said once, in the log and on the board; a backing is changed only while no
//! command of its slot is in flight, so that none begins on the old one and ends on the new one.

use super::Core;
use crate::limits;
use crate::net::Queue;
use crate::shelf::Condition;
use crate::storage::Storage;
use crate::worker::counters::Counter;
use crate::worker::{Parcel, Shared};
use std::time::Duration;

/// How often to look for how long the disks have had their commands: no less often than a worker wakes up.
const LOOK: Duration = Duration::from_secs(1);

/// What is to become of the backing of a slot.
pub(super) enum Swap {
    /// It is let go.
    Release,
    /// This one takes its place.
    Replace(Parcel),
}

impl<Q: Queue, S: Storage> Core<Q, S> {
    /// The disk of a slot has shown this condition: notes and says it, if it is worse than what was known.
    #[cold]
    pub(super) fn worsen(&mut self, slot: u16, condition: Condition) {
        if !self.note_condition(slot, condition) {
            return;
        }
        let address = self.slots[usize::from(slot)].facts().address;
        match condition {
            Condition::Serving => {}
            Condition::Failed(why) => tracing::error!(
                "slot {address}: {why}; what was written last may be lost, so the slot takes no more writes until it has \
                 recovered (xshelf status shows it) - check the device and its kernel log"
            ),
            Condition::Gone(why) => tracing::error!(
                "slot {address}: its device is gone: {why}; hosts get an error for all they read and write until it is \
                 back"
            ),
        }
    }

    /// Notes that a slot is in such a condition, if that is worse than what was known; true then.
    pub(super) fn note_condition(&mut self, slot: u16, condition: Condition) -> bool {
        let worse = self.slots.get_mut(usize::from(slot)).is_some_and(|slot| slot.worsen(condition));
        if let (true, Some(cell)) = (worse, self.board.slot(slot)) {
            cell.set_condition(condition);
        }
        worse
    }

    /// Says on the board how many commands of a slot are in flight.
    pub(super) fn post_in_flight(&self, slot: u16) {
        if let Some(cell) = self.board.slot(slot) {
            cell.set_in_flight(self.requests.of_slot(slot));
        }
    }

    /// Says on the board how long the disks have had the commands that they have had longest.
    pub(super) fn look(&mut self) {
        self.next_look = self.now + LOOK;
        for cell in self.board.cells() {
            cell.set_waited(Duration::ZERO);
        }
        // Those whose buffer the storage has.
        for (_, request) in self.requests.iter().filter(|(_, request)| request.buffer.is_none()) {
            if let Some(cell) = self.board.slot(request.slot) {
                cell.set_waited(cell.waited().max(self.now.saturating_sub(request.since)));
            }
        }
    }

    /// The backing of a slot is to be changed, as soon as nothing is in flight there.
    pub(super) fn plan_swap(&mut self, slot: u16, swap: Option<Swap>) {
        // Without one: whoever brought it has taken it back.
        let (Some(disk), Some(swap)) = (self.disks.get_mut(usize::from(slot)), swap) else { return };
        self.swap_due = true;
        // What was planned before and not done yet is not wanted any more.
        if let Some(Swap::Replace(unused)) = disk.swap.replace(swap) {
            if let Some(cell) = self.board.slot(slot) {
                cell.give(unused);
            }
        }
        self.swaps = self.disks.iter().filter(|disk| disk.swap.is_some()).count();
    }

    /// Changes the backings that are to be changed, where nothing is in flight.
    #[cold]
    pub(super) fn swap_disks(&mut self, shared: &Shared) {
        self.swap_due = false;
        for at in 0..self.disks.len() {
            // A slot is named by 16 bits.
            let number = at as u16;
            if self.requests.of_slot(number) > 0 {
                continue;
            }
            let Some(swap) = self.disks[at].swap.take() else { continue };
            let file = self.disks[at].file;
            let (back, serves) = match swap {
                Swap::Release => (self.storage.replace(file, None), false),
                Swap::Replace(parcel) => match parcel.downcast::<S::Backing>() {
                    Ok(new) => (self.storage.replace(file, Some(*new)), true),
                    Err(_) => {
                        self.counters.count(Counter::Defects);
                        continue;
                    }
                },
            };
            let done = back.is_ok();
            if done && serves {
                // It was measured before it could come, and the slot may have become another size since.
                let sectors = self.slots[at].facts().sectors;
                self.storage.resized(file, sectors.saturating_mul(limits::SECTOR as u64));
                self.slots[at].recover();
                self.announce_slot(shared, at);
            }
            if let Some(cell) = self.board.slot(number) {
                // In this order: who sees the one sees what was before it.
                cell.set_condition(self.slots[at].condition());
                if done {
                    cell.swapped(!serves);
                }
                if let Some(old) = back.unwrap_or_else(|new| new) {
                    cell.give(Box::new(old));
                }
            }
            if !done {
                let address = self.slots[at].facts().address;
                tracing::error!(
                    "slot {address}: the kernel does not change its table of files; it is tried again"
                );
            }
        }
        self.swaps = self.disks.iter().filter(|disk| disk.swap.is_some()).count();
    }
}
