//! One receive queue as its worker sees it: the queue, the chunks to fill it with, and frames that wait for TX.
//!
//! Not here: what the frames are.
//! Invariant: frames leave in the order they were sent.

use crate::frame::{Chunk, Outgoing, QueueId};
use crate::limits;
use crate::net::{Flushed, Queue};
use crate::worker::Port;
use std::collections::VecDeque;

/// A queue and what waits for it.
#[derive(Debug)]
pub struct Lane<Q> {
    /// The queue.
    pub queue: Q,
    /// Its number.
    pub id: QueueId,
    /// Chunks at home, for FILL.
    pub free: Vec<Chunk>,
    backlog: VecDeque<Outgoing>,
    flushed: Flushed,
}

impl<Q: Queue> Lane<Q> {
    /// A lane over a queue with these chunks.
    #[must_use]
    pub fn new(queue: Q, free: Vec<Chunk>) -> Self {
        let backlog = VecDeque::with_capacity(free.len());
        Self { id: queue.id(), queue, free, backlog, flushed: Flushed::Done }
    }

    /// Puts a frame on TX, or behind those that wait for room there.
    pub fn send(&mut self, frame: Outgoing) {
        if self.backlog.is_empty() {
            if let Err(frame) = self.queue.transmit(frame) {
                self.backlog.push_back(frame);
            }
        } else {
            self.backlog.push_back(frame);
        }
    }

    /// Moves waiting frames to TX, tops FILL up and tells the kernel.
    pub fn flush(&mut self) {
        while let Some(frame) = self.backlog.pop_front() {
            if let Err(frame) = self.queue.transmit(frame) {
                self.backlog.push_front(frame);
                break;
            }
        }
        self.queue.refill(&mut self.free);
        self.flushed = self.queue.flush();
    }

    /// How the last flush ended.
    #[must_use]
    pub fn flushed(&self) -> Flushed {
        self.flushed
    }

    /// Frames that wait for room on TX.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.backlog.len()
    }

    /// Chunks in frames that wait for room on TX.
    #[must_use]
    pub fn waiting_chunks(&self) -> usize {
        self.backlog.iter().map(|frame| frame.pieces.len()).sum()
    }

    /// Whether the kernel holds transmitted chunks that FILL needs, and will not tell when it gives them back
    /// (a completion wakes nobody): then sleep shortly only.
    #[must_use]
    pub fn starved(&self) -> bool {
        let lent = self.queue.lent();
        lent.transmit > 0 && self.free.is_empty() && lent.fill < limits::FILL_RING as usize / 2
    }

    /// Whether transmitted chunks will come back soon, also without anybody being told.
    #[must_use]
    pub fn transmitting(&self) -> bool {
        self.queue.lent().transmit > 0 && !matches!(self.flushed, Flushed::Down(_))
    }

    /// Whether there is something to send, or to come back from being sent.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        self.waiting() > 0 || self.queue.lent().transmit > 0
    }

    /// Whether what there is to send stays where it is, because `port` is down: the kernel says so, or it has no carrier,
    /// and then a card without copies keeps what it has.
    #[must_use]
    pub fn is_stuck(&self, port: Option<&Port>) -> bool {
        self.is_sending()
            && (matches!(self.flushed, Flushed::Down(_)) || port.is_some_and(|port| !port.is_running()))
    }

    /// Gives up every token at the end of the worker.
    pub fn retire(&mut self) {
        self.free.drain(..).for_each(Chunk::retire);
        self.backlog.drain(..).for_each(Outgoing::retire);
    }
}
