//! The requests of one worker that wait for the disk or for each other.
//!
//! Not a cache: an entry lives from admission to reply.
//! Invariant: as many entries as were made at start, never more; a ticket names at most one request; and a copy of a write
//! hangs on exactly one write until that is answered.

use super::share::{Scarce, Seat, Shares};
use crate::frame::{Buffer, Chunk, QueueId};
use crate::limits;
use crate::protocol::ata::Ata;
use crate::shelf::{Access, Admitted, Io};
use std::time::Duration;

/// Where the chunk with the headers is while the disk works.
#[derive(Debug)]
pub enum Headers {
    /// In the buffer itself: the data follows the headers in the same chunk.
    InBuffer,
    /// Beside the buffer.
    Beside(Chunk),
}

/// One request between admission and reply.
#[derive(Debug)]
pub struct Request {
    /// Number of the slot with this worker.
    pub slot: u16,
    /// Whether the address was a wildcard.
    pub wildcard: bool,
    /// The queue it arrived on.
    pub queue: QueueId,
    /// Where it counts as its host's.
    pub seat: Seat,
    /// Its headers.
    pub admitted: Admitted,
    /// Its registers.
    pub ata: Ata,
    /// What the disk has to do.
    pub io: Io,
    /// Where the frame starts in the chunk with the headers, in bytes.
    pub offset: u16,
    /// That chunk.
    pub headers: Headers,
    /// The buffer, unless the storage has it.
    pub buffer: Option<Buffer>,
    /// Where the data starts in the buffer, in bytes.
    pub at: u32,
    /// Of a TRIM: the entry that is being freed.
    pub entry: u16,
    /// It is equal to a write before it, does not run, and is answered with that.
    pub is_copy: bool,
    /// The next copy: of a write the first one, of a copy the one behind it.
    pub copies: Option<u32>,
    /// Of a command through the page cache that promises something: its number among those of its slot.
    pub serial: Option<u64>,
    /// When the storage got it, on the worker's clock.
    pub since: Duration,
}

impl Request {
    /// Chunks it holds, those at the disk included.
    #[must_use]
    pub fn chunks(&self) -> usize {
        match (&self.headers, self.io.access) {
            _ if self.is_copy => 1,
            (Headers::InBuffer, _) | (Headers::Beside(_), Access::Flush) => 1,
            (Headers::Beside(_), _) => 1 + limits::RUN_CHUNKS,
        }
    }

    /// Gives its chunks up, at the end of the worker.
    pub fn retire(self) {
        if let Headers::Beside(chunk) = self.headers {
            chunk.retire();
        }
        if let Some(buffer) = self.buffer {
            buffer.retire();
        }
    }
}

/// All of them.
#[derive(Debug)]
pub struct Requests {
    entries: Box<[Option<Request>]>,
    free: Vec<u32>,
    /// How many there are of each slot.
    of_slot: Box<[usize]>,
    /// How much each host has of them, and of what goes with them.
    pub shares: Shares,
}

impl Requests {
    /// Room for so many, of so many slots.
    #[must_use]
    pub fn new(most: usize, slots: usize) -> Self {
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        Self {
            entries: (0..most).map(|_| None).collect(),
            free: (0..most).rev().collect(),
            of_slot: vec![0; slots].into_boxed_slice(),
            shares: Shares::default(),
        }
    }

    /// Whether no more fits.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// How many more fit.
    #[must_use]
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Whether a host may have one more.
    #[must_use]
    pub fn may(&self, seat: Seat) -> bool {
        self.shares.may(seat, Scarce::Request, self.room(), self.entries.len())
    }

    /// Whether a slot that has so many may have one more for a host; see [`Shares::leaves`].
    #[must_use]
    pub fn leaves(&self, seat: Seat, of_slot: usize) -> bool {
        self.shares.leaves(seat, Scarce::Request, of_slot, self.room(), self.entries.len())
    }

    /// How many there are of a slot.
    #[must_use]
    pub fn of_slot(&self, slot: u16) -> usize {
        self.of_slot.get(usize::from(slot)).copied().unwrap_or(0)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Enters a request and names it.
    ///
    /// # Errors
    /// Gives it back when there is no room.
    #[allow(clippy::result_large_err, reason = "boxing would allocate for each frame")]
    pub fn insert(&mut self, request: Request) -> Result<u32, Request> {
        let Some(ticket) = self.free.pop() else { return Err(request) };
        if let Some(held) = self.of_slot.get_mut(usize::from(request.slot)) {
            *held += 1;
        }
        self.shares.take(request.seat, Scarce::Request);
        self.entries[ticket as usize] = Some(request);
        Ok(ticket)
    }

    /// A request.
    pub fn get(&self, ticket: u32) -> Option<&Request> {
        self.entries.get(ticket as usize)?.as_ref()
    }

    /// The request of this name, to change it.
    pub fn get_mut(&mut self, ticket: u32) -> Option<&mut Request> {
        self.entries.get_mut(ticket as usize)?.as_mut()
    }

    /// Takes a request out.
    pub fn remove(&mut self, ticket: u32) -> Option<Request> {
        let request = self.entries.get_mut(ticket as usize)?.take()?;
        self.free.push(ticket);
        if let Some(held) = self.of_slot.get_mut(usize::from(request.slot)) {
            *held = held.saturating_sub(1);
        }
        self.shares.give(request.seat, Scarce::Request);
        Some(request)
    }

    /// All of them, with their names.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Request)> {
        (0..).zip(&self.entries).filter_map(|(ticket, entry)| Some((ticket, entry.as_ref()?)))
    }

    /// Takes all of them out.
    pub fn drain(&mut self) -> impl Iterator<Item = Request> + '_ {
        self.entries.iter_mut().filter_map(Option::take)
    }
}
