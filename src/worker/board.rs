//! The board of a worker: what others may know of its slots while it serves, one cell for each.
//!
//! Not a queue, and no command goes this way but a parcel that its command names. The worker writes, anybody reads.
//! Invariant: the worker never waits for a reader; a lock is taken for a parcel only, of which it has been told.

use crate::shelf::Condition;
use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Something for a worker's storage, or from it: a backing.
pub type Parcel = Box<dyn Any + Send>;

/// A cell for each slot of a worker, by its number with it.
#[derive(Debug)]
pub struct Board(Box<[Cell]>);

/// What is known of one slot.
#[derive(Debug, Default)]
pub struct Cell {
    condition: AtomicU64,
    in_flight: AtomicU32,
    waited_ms: AtomicU32,
    swaps: AtomicU32,
    bare: AtomicBool,
    inbox: Mutex<Option<Parcel>>,
    outbox: Mutex<Vec<Parcel>>,
}

impl Board {
    /// A board for so many slots.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self((0..slots).map(|_| Cell::default()).collect())
    }

    /// The cell of a slot.
    #[must_use]
    pub fn slot(&self, number: u16) -> Option<&Cell> {
        self.0.get(usize::from(number))
    }

    /// All cells, in order.
    pub(super) fn cells(&self) -> impl Iterator<Item = &Cell> {
        self.0.iter()
    }
}

impl Cell {
    /// The condition the slot is in.
    #[must_use]
    pub fn condition(&self) -> Condition {
        Condition::unpack(self.condition.load(Ordering::Acquire))
    }

    /// Commands that are at the disk or wait for others.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How long a command has been at the disk that is there longest, to the second or so; zero when there is none.
    #[must_use]
    pub fn waited(&self) -> Duration {
        Duration::from_millis(self.waited_ms.load(Ordering::Relaxed).into())
    }

    /// Whether its worker has let go of its backing, and has no other.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.bare.load(Ordering::Acquire)
    }

    /// How often its backing was replaced.
    #[must_use]
    pub fn swaps(&self) -> u32 {
        self.swaps.load(Ordering::Acquire)
    }

    /// Lays out what the next command to the worker refers to.
    pub fn bring(&self, parcel: Parcel) {
        *lock(&self.inbox) = Some(parcel);
    }

    /// Takes something that the worker has given back: let go of it where that may take its time.
    #[must_use]
    pub fn collect(&self) -> Option<Parcel> {
        lock(&self.outbox).pop()
    }

    /// Takes all that is on its way, when the worker has ended.
    pub fn empty(&self) -> impl Iterator<Item = Parcel> {
        self.take().into_iter().chain(self.collect())
    }

    pub(super) fn set_condition(&self, condition: Condition) {
        self.condition.store(condition.pack(), Ordering::Release);
    }

    pub(super) fn set_in_flight(&self, commands: usize) {
        self.in_flight.store(u32::try_from(commands).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    pub(super) fn set_waited(&self, waited: Duration) {
        self.waited_ms.store(u32::try_from(waited.as_millis()).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Its backing was replaced, or let go.
    pub(super) fn swapped(&self, bare: bool) {
        self.bare.store(bare, Ordering::Release);
        if !bare {
            // One writer.
            self.swaps.store(self.swaps().wrapping_add(1), Ordering::Release);
        }
    }

    /// Takes what was laid out for the worker, who has not taken it yet, or is the worker.
    #[must_use]
    pub fn take(&self) -> Option<Parcel> {
        lock(&self.inbox).take()
    }

    pub(super) fn give(&self, parcel: Parcel) {
        // Beside what nobody has collected yet: the worker never waits for a device to be closed.
        lock(&self.outbox).push(parcel);
    }
}

fn lock<T>(parcel: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is in it is whole at any moment.
    parcel.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_stays_until_it_is_collected() {
        let cell = Cell::default();
        (1..=2u8).for_each(|n| cell.give(Box::new(n)));
        let collected: Vec<u8> =
            std::iter::from_fn(|| cell.collect()).map(|parcel| *parcel.downcast().unwrap()).collect();
        assert_eq!(collected, [2, 1], "the worker has closed neither");
    }
}
