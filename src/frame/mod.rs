//! Who owns which piece of frame memory: tokens for chunks and runs, their pools, and the layout.
//!
//! Not here: what the bytes mean (`protocol`), nor how they reach the kernel (`net`, `storage`).
//! Invariant: for each chunk there is one [`Chunk`] token or the kernel has it; a token cannot be copied, and
//! dropping one is a defect that panics in debug builds and is counted in release builds.

mod layout;
mod ledger;
mod pool;
mod region;
mod sync;

pub use layout::{Home, Layout, LayoutError, Pool, WorkerShare};
pub use pool::RunPool;
pub use region::{Forged, Region};

use crate::limits;
use arrayvec::ArrayVec;
use std::sync::atomic::{AtomicU64, Ordering};

static LEAKED: AtomicU64 = AtomicU64::new(0);

/// Tokens dropped instead of being handed on, since the process started. Anything but 0 is a defect.
#[must_use]
pub fn leaked() -> u64 {
    LEAKED.load(Ordering::Relaxed)
}

/// A worker, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u16);

/// A receive queue of the whole process, counted from 0 over all ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u16);

/// A network interface that we serve on, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

/// The right to touch one UMEM chunk. Neither `Copy` nor `Clone`: handing it on is giving it up.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a chunk that nobody holds is lost to the pool"]
pub struct Chunk(u32);

impl Chunk {
    /// Number of the chunk in its region.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.0
    }

    /// UMEM address of the first byte.
    #[must_use]
    pub fn address(&self) -> u64 {
        u64::from(self.0) * limits::CHUNK as u64
    }

    /// Gives the chunk up for good, when its worker ends and the region goes with it.
    pub fn retire(self) {
        self.forget();
    }

    fn forget(self) -> u32 {
        let index = self.0;
        std::mem::forget(self);
        index
    }
}

impl Drop for Chunk {
    #[cold]
    fn drop(&mut self) {
        LEAKED.fetch_add(1, Ordering::Relaxed);
        debug_assert!(std::thread::panicking(), "chunk {} was dropped instead of handed on", self.0);
    }
}

/// The right to touch [`limits::RUN_CHUNKS`] adjacent chunks as one buffer.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a run that nobody holds is lost to the pool"]
pub struct Run([Chunk; limits::RUN_CHUNKS]);

impl Run {
    /// UMEM address of the first byte.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.0[0].address()
    }

    /// Takes the run apart, for transmission: each half comes home on its own and [`RunPool`] joins them again.
    pub fn split(self) -> [Chunk; limits::RUN_CHUNKS] {
        self.0
    }
}

/// Some bytes of a chunk: what a receive or transmit descriptor names.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// The chunk the bytes lie in.
    pub chunk: Chunk,
    /// Where they start in it, in bytes.
    pub offset: u16,
    /// How many they are.
    pub len: u16,
}

impl Piece {
    /// UMEM address of the first byte.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.chunk.address() + u64::from(self.offset)
    }
}

/// One frame as it was received: its first piece holds all headers, `rest` what did not fit behind them.
#[derive(Debug)]
#[must_use = "a frame ends in a reply or in a counted drop"]
pub struct Frame {
    /// The queue it arrived on; the reply leaves by the same port.
    pub queue: QueueId,
    /// First piece.
    pub head: Piece,
    /// Further pieces, in order.
    pub rest: ArrayVec<Piece, { limits::MAX_FRAGMENTS - 1 }>,
}

impl Frame {
    /// Bytes of the whole frame.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.head.len) + self.rest.iter().map(|p| usize::from(p.len)).sum::<usize>()
    }

    /// Gives its chunks up for good, when a worker ends.
    pub fn retire(self) {
        self.head.chunk.retire();
        self.rest.into_iter().for_each(|piece| piece.chunk.retire());
    }

    /// Whether the frame has no byte at all (no driver delivers such a frame).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One frame to transmit on the port of `queue`: header piece first, then data.
#[derive(Debug)]
#[must_use = "an outgoing frame is transmitted, or its chunks are taken home"]
pub struct Outgoing {
    /// The queue the request arrived on.
    pub queue: QueueId,
    /// What to send, in order; never empty.
    pub pieces: ArrayVec<Piece, { limits::REPLY_PIECES }>,
}

impl Outgoing {
    /// Gives its chunks up for good, when a worker ends.
    pub fn retire(self) {
        self.pieces.into_iter().for_each(|piece| piece.chunk.retire());
    }
}

/// Memory that storage reads into or writes from, owned by the storage edge while the kernel works on it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a buffer comes back with the completion"]
pub enum Buffer {
    /// No data (flush).
    None,
    /// One chunk.
    Chunk(Chunk),
    /// A run.
    Run(Run),
}

impl Buffer {
    /// UMEM address of the first byte; 0 when there is no data.
    #[must_use]
    pub fn address(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Chunk(chunk) => chunk.address(),
            Self::Run(run) => run.address(),
        }
    }

    /// Gives its chunks up for good, when a worker ends.
    pub fn retire(self) {
        match self {
            Self::None => {}
            Self::Chunk(chunk) => chunk.retire(),
            Self::Run(run) => run.split().into_iter().for_each(Chunk::retire),
        }
    }

    /// Bytes the buffer can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Chunk(_) => limits::CHUNK,
            Self::Run(_) => limits::RUN,
        }
    }
}
