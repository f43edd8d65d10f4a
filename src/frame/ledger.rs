//! Who holds each chunk: nobody yet, we, or the kernel.
//!
//! Not here: the memory, or the tokens (`region`).
//! Invariant: of all that ask for a chunk at the same time one gets it, and it sees what the one before did to the chunk.

use super::sync::{AtomicU8, Ordering};

const UNBORN: u8 = 0;
const OWNED: u8 = 1;
const LENT: u8 = 2;

/// An entry for each chunk.
#[derive(Debug)]
pub struct Ledger(Box<[AtomicU8]>);

impl Ledger {
    /// For so many chunks, that nobody holds.
    pub fn new(chunks: u32) -> Self {
        Self((0..chunks).map(|_| AtomicU8::new(UNBORN)).collect())
    }

    /// How many chunks there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Gives a chunk out for the first time; false when it was given out before, or is none.
    pub fn mint(&self, index: u32) -> bool {
        self.change(index, UNBORN, OWNED)
    }

    /// Gives a chunk to the kernel. False when it was not ours, which the tokens rule out.
    pub fn lend(&self, index: u32) -> bool {
        self.change(index, OWNED, LENT)
    }

    /// Takes a chunk back; false when the kernel does not have it, or it is none.
    pub fn adopt(&self, index: u32) -> bool {
        self.change(index, LENT, OWNED)
    }

    /// Whether it is ours.
    pub fn is_owned(&self, index: u32) -> bool {
        self.0.get(index as usize).is_some_and(|entry| entry.load(Ordering::Relaxed) == OWNED)
    }

    fn change(&self, index: u32, from: u8, to: u8) -> bool {
        let Some(entry) = self.0.get(index as usize) else { return false };
        // Release: what we did to the chunk happens before anything that whoever takes it next does. Acquire: and what was
        // done before, before what we do.
        entry.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}
