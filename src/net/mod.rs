//! The net port: what a worker needs of one receive queue, and the edges that provide it.
//!
//! Not here: what is in a frame. The kernel's side is `xsk` (sockets and rings), `steer` (the XDP program),
//! `nic` (facts) and `ladder` (which mode is in force); `memory` is the double in plain memory.
//! Invariant: a chunk given to the queue comes back through it exactly once, by receive or by reclaim.
//!
//! | ring       | producer | consumer | a chunk in it belongs to |
//! |------------|----------|----------|--------------------------|
//! | FILL       | us       | kernel   | kernel                   |
//! | RX         | kernel   | us       | kernel, until received   |
//! | TX         | us       | kernel   | kernel                   |
//! | COMPLETION | kernel   | us       | kernel, until reclaimed  |

pub mod assemble;
pub mod ladder;
pub mod memory;
pub mod nic;
mod ring;
pub mod steer;
mod sys;
pub mod xsk;

use crate::frame::{Chunk, Frame, Outgoing, QueueId};

/// What became of a [`Queue::flush`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// The kernel took everything, or there was nothing.
    Done,
    /// Descriptors remain that the kernel did not take yet: flush again before sleeping.
    Again,
    /// The port does not transmit (link down, interface gone); the frames come back through reclaim when the
    /// kernel gives them up. The value is the errno.
    Down(i32),
}

/// Chunks that the kernel holds of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lent {
    /// Given to FILL and not received yet.
    pub fill: usize,
    /// Given to TX and not completed yet.
    pub transmit: usize,
}

/// One receive queue with its four rings, used by one worker only.
pub trait Queue {
    /// Its number in the process.
    fn id(&self) -> QueueId;

    /// Takes up to `most` frames and gives each to `sink`. Frames of more pieces than a [`Frame`] holds are cut:
    /// their chunks go to `torn`, all of them, and the frame is counted as oversized by the caller.
    /// Returns the number of frames taken, torn ones included.
    fn receive(&mut self, most: usize, sink: &mut dyn FnMut(Frame), torn: &mut dyn FnMut(Chunk)) -> usize;

    /// Moves chunks from the end of `free` to FILL until it is full or `free` is empty. Returns how many.
    fn refill(&mut self, free: &mut Vec<Chunk>) -> usize;

    /// Puts one frame on TX; it leaves with the next [`Queue::flush`].
    ///
    /// # Errors
    /// Gives the frame back when the ring has no room for all its pieces.
    fn transmit(&mut self, frame: Outgoing) -> Result<(), Outgoing>;

    /// Publishes what was put on TX and FILL and wakes the kernel if it has to be, with at most one call each.
    fn flush(&mut self) -> Flushed;

    /// Takes up to `most` transmitted chunks back. Returns how many.
    fn reclaim(&mut self, most: usize, sink: &mut dyn FnMut(Chunk)) -> usize;

    /// Whether frames wait to be received or chunks to be reclaimed, so that sleeping would be wrong.
    fn ready(&mut self) -> bool;

    /// What the kernel holds.
    fn lent(&self) -> Lent;
}
