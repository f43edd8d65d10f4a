//! Waking a sleeping worker: a flag, a fence, and one ring of the bell.
//!
//! Not a queue: what was sent lies in the rings of `post`.
//! Invariant: whoever sends before [`Bell::ring`] is seen by a receiver that checks its rings after [`Bell::lie_down`],
//! or wakes it. One of the two fences comes first, so that either the flag or the message is seen (modelled in
//! `tests/loom`).

use super::sync::{AtomicBool, Ordering, fence};

/// What wakes the receiver: an eventfd in production.
pub trait Ringer {
    /// Makes a sleeping receiver wake up, or the next sleep end at once.
    fn wake(&self);
}

/// The bell of one receiver.
pub struct Bell<R> {
    asleep: AtomicBool,
    ringer: R,
}

impl<R: Ringer> Bell<R> {
    /// A bell at a receiver that is awake.
    pub fn new(ringer: R) -> Self {
        Self { asleep: AtomicBool::new(false), ringer }
    }

    /// The receiver is about to sleep: it must look into its rings once more before it does.
    pub fn lie_down(&self) {
        // A swap, so that it comes after the swap of a sender who has seen an earlier sleep.
        self.asleep.swap(true, Ordering::AcqRel);
        fence(Ordering::SeqCst);
    }

    /// The receiver is awake again.
    pub fn get_up(&self) {
        self.asleep.swap(false, Ordering::AcqRel);
    }

    /// A sender has put something into the rings. Costs a fence and a load when the receiver is awake.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            self.ringer.wake();
        }
    }

    /// Whether the receiver lies down, and nobody has rung since.
    pub fn sleeps(&self) -> bool {
        self.asleep.load(Ordering::Acquire)
    }

    /// What wakes the receiver.
    pub fn ringer(&self) -> &R {
        &self.ringer
    }
}
