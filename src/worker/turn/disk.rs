//! Commands for the disk: memory and a turn for each, the disk's word on it, and the answer.
//!
//! Not here: how the disk is reached (`storage`), or which commands there are (`shelf`).
//! Invariant: a command is answered only after the storage has given its buffer back, and as good only if all of it is
//! done, and durable where that was promised. A write equal in source, range and bytes to one in flight is a copy that was
//! sent again: it does not run, and is answered with the one before.

use super::doubts::Doubts;
use super::{Core, outgoing};
use crate::frame::{Buffer, Chunk, Frame, Outgoing, Piece, Run};
use crate::limits;
use crate::net::Queue;
use crate::protocol::ata::{Ata, Outcome};
use crate::shelf::{self, Access, Admitted, Condition, Io, Refusal, Slot, Tried, Why, command};
use crate::storage::{Done, Failure, Job, Storage, Ticket, Verb};
use crate::worker::Shared;
use crate::worker::counters::Counter;
use crate::worker::requests::{Headers, Request};
use crate::worker::share::{Scarce, Seat};
use arrayvec::ArrayVec;

/// A command for the disk, as a slot decided it.
pub(super) struct Asked<'a> {
    pub(super) admitted: &'a Admitted,
    /// Number of the slot with this worker.
    pub(super) slot: u16,
    pub(super) wildcard: bool,
    pub(super) io: Io,
    pub(super) ata: Ata,
}

impl<Q: Queue, S: Storage> Core<Q, S> {
    /// Finds memory for a command, and its turn.
    pub(super) fn start(&mut self, shared: &Shared, frame: Frame, asked: Asked<'_>) {
        let slot = asked.slot;
        if self.disks[usize::from(slot)].swap.is_some() {
            return self.drop_frame(shared, frame, Counter::DropRecovering);
        }
        // A slot never has more than is left for the others: a device that hangs would take all there is, and the
        // hosts of the others would wait with its own.
        if self.requests.is_full() || self.requests.of_slot(slot) > self.requests.room() {
            return self.drop_frame(shared, frame, Counter::DropRequests);
        }
        // Nor has a host.
        let seat = self.requests.shares.seat(asked.admitted.ethernet.source);
        if !self.requests.may(seat) {
            return self.drop_frame(shared, frame, Counter::DropShare);
        }
        // Nor a slot all of what its host may have, where there are others.
        let several = self.slots.len() > 1;
        if several && !self.requests.leaves(seat, self.requests.of_slot(slot)) {
            return self.drop_frame(shared, frame, Counter::DropShare);
        }
        if let Some(first) = self.equal_write(shared, &frame, &asked) {
            return self.hang_on(shared, frame, &asked, first, seat);
        }
        let Asked { admitted, slot, wildcard, io, ata } = asked;
        // What a wildcard asks of the disk keeps a chunk of our own until the disk has answered. Those of a device that hangs
        // must not be all there are: nobody could discover a slot any more.
        if wildcard && self.own.len() < self.own_most / 2 {
            return self.drop_frame(shared, frame, Counter::DropRequests);
        }
        let at = usize::from(frame.head.offset) + admitted.data_at();
        let aligned = at % limits::SECTOR == 0 && at + io.bytes() <= limits::CHUNK;
        let in_place = match io.access {
            Access::Flush => false,
            Access::Read | Access::Verify => aligned,
            Access::Write | Access::WriteThrough => aligned && frame.rest.is_empty(),
            // Its pages are read by us, not by the device.
            Access::Trim => at + io.bytes() <= limits::CHUNK && frame.rest.is_empty(),
        };
        let mut run = None;
        if !in_place && io.access != Access::Flush {
            let of_slot = self.runs_of[usize::from(slot)];
            let (left, most) = (self.runs.available(), self.runs_most);
            let shares = &self.requests.shares;
            let fair = shares.may(seat, Scarce::Run, left, most)
                && (!several || shares.leaves(seat, Scarce::Run, of_slot, left, most));
            if left > 0 && !fair {
                return self.drop_frame(shared, frame, Counter::DropShare);
            }
            let Some(free) = (of_slot <= left).then(|| self.runs.take()).flatten() else {
                return self.drop_frame(shared, frame, Counter::DropRuns);
            };
            self.runs_of[usize::from(slot)] += 1;
            self.requests.shares.take(seat, Scarce::Run);
            run = Some(free);
        }
        if let (Some(run), true) = (&mut run, io.access.takes_data()) {
            gather(shared, &frame, admitted.data_at(), run, io.bytes());
            self.counters.count(Counter::Copies);
        }
        let Frame { queue, head, rest } = frame;
        self.recycle_pieces(shared, rest);
        let (headers, buffer, at) = match run {
            Some(run) => (Headers::Beside(head.chunk), Buffer::Run(run), 0),
            None if in_place => (Headers::InBuffer, Buffer::Chunk(head.chunk), at as u32),
            None => (Headers::Beside(head.chunk), Buffer::None, 0),
        };
        let mut request = Request {
            slot,
            wildcard,
            queue,
            seat,
            admitted: *admitted,
            ata,
            io,
            offset: head.offset,
            headers,
            buffer: Some(buffer),
            at,
            entry: 0,
            is_copy: false,
            copies: None,
            serial: None,
            since: self.now,
        };
        if io.access == Access::Trim {
            let checked =
                command::trim(io, pages(shared, &request), self.slots[usize::from(slot)].facts().sectors);
            match checked {
                Ok(Some(io)) => request.io = io,
                Ok(None) => return self.answer_at_once(shared, request, Outcome::GOOD),
                Err(outcome) => return self.answer_at_once(shared, request, outcome),
            }
        }
        let io = request.io;
        match self.requests.insert(request) {
            Ok(ticket) => match self.slots[usize::from(slot)].order.begin(ticket, io) {
                // Behind those that have waited longer.
                shelf::Turn::Run if self.storage_full => self.ready.push_back(ticket),
                shelf::Turn::Run => self.submit(shared, ticket),
                shelf::Turn::Wait => self.counters.count(Counter::Parked),
            },
            // Checked above.
            Err(request) => return self.abandon(shared, request),
        }
        self.post_in_flight(slot);
    }

    /// The write in flight that this is a copy of.
    ///
    /// It may be behind a newer write to the same sectors by now: to run it again would put its data over those. Whoever sent
    /// it has no answer to the first yet, so that the two are one to it.
    fn equal_write(&self, shared: &Shared, frame: &Frame, asked: &Asked<'_>) -> Option<u32> {
        if !asked.io.access.writes() {
            return None;
        }
        self.slots[usize::from(asked.slot)].order.equal(asked.io).find(|&ticket| {
            let same = |first: &&Request| {
                first.admitted.ethernet.source == asked.admitted.ethernet.source
                    && first.buffer.as_ref().or_else(|| self.storage.lent(Ticket(ticket))).is_some_and(
                        |buffer| holds(shared, frame, asked, buffer_bytes(shared, buffer, first)),
                    )
            };
            self.requests.get(ticket).filter(same).is_some()
        })
    }

    /// Keeps the headers of a copy until the write `first` is answered.
    fn hang_on(&mut self, shared: &Shared, frame: Frame, asked: &Asked<'_>, first: u32, seat: Seat) {
        let Frame { queue, head, rest } = frame;
        self.recycle_pieces(shared, rest);
        let copy = Request {
            slot: asked.slot,
            wildcard: asked.wildcard,
            queue,
            seat,
            admitted: *asked.admitted,
            ata: asked.ata,
            io: asked.io,
            offset: head.offset,
            headers: Headers::Beside(head.chunk),
            buffer: Some(Buffer::None),
            at: 0,
            entry: 0,
            is_copy: true,
            copies: self.requests.get(first).and_then(|first| first.copies),
            serial: None,
            since: self.now,
        };
        match self.requests.insert(copy) {
            Ok(ticket) => {
                self.counters.count(Counter::Duplicates);
                if let Some(first) = self.requests.get_mut(first) {
                    first.copies = Some(ticket);
                }
                self.post_in_flight(asked.slot);
            }
            // There was room, or we would not be here.
            Err(copy) => self.abandon(shared, copy),
        }
    }

    /// Answers a command whose buffer is not with the disk.
    fn answer_at_once(&mut self, shared: &Shared, mut request: Request, outcome: Outcome) {
        let buffer = request.buffer.take().unwrap_or(Buffer::None);
        self.give_back(shared, request, buffer, outcome);
    }

    pub(super) fn submit_ready(&mut self, shared: &Shared) {
        self.storage_full = false;
        // It is full for all of them alike, until something ends there.
        while !self.storage_full {
            let Some(ticket) = self.ready.pop_front() else { break };
            self.submit(shared, ticket);
        }
    }

    pub(super) fn submit(&mut self, shared: &Shared, ticket: u32) {
        let Some(request) = self.requests.get_mut(ticket) else {
            self.counters.count(Counter::Defects);
            return;
        };
        let io = request.io;
        let (verb, offset, len) = match io.access {
            Access::Read | Access::Verify => (Verb::Read, io.offset(), io.bytes() as u32),
            Access::Write => (Verb::Write, io.offset(), io.bytes() as u32),
            Access::WriteThrough => (Verb::WriteThrough, io.offset(), io.bytes() as u32),
            Access::Flush => (Verb::Flush, 0, 0),
            Access::Trim => {
                let next = command::extents(pages(shared, request), usize::from(request.entry)).next();
                // There is one: a TRIM without is answered at once, and one that has done its last is complete.
                let Some((entry, extent)) = next else {
                    self.counters.count(Counter::Defects);
                    return;
                };
                // 16 pages have 1,024 entries.
                request.entry = entry as u16;
                let sectors = u32::from(extent.sectors);
                (Verb::Discard, extent.lba * limits::SECTOR as u64, sectors * limits::SECTOR as u32)
            }
        };
        let Some(buffer) = request.buffer.take() else {
            self.counters.count(Counter::Defects);
            return;
        };
        let job = Job {
            ticket: Ticket(ticket),
            file: self.disks[usize::from(request.slot)].file,
            verb,
            offset,
            buffer,
            at: request.at,
            len,
        };
        request.since = self.now;
        match self.storage.submit(job) {
            Ok(()) => {
                self.counters.count(match verb {
                    Verb::Read => Counter::Reads,
                    Verb::Write | Verb::WriteThrough => Counter::Writes,
                    Verb::Flush => Counter::Flushes,
                    Verb::Discard => Counter::Trims,
                });
                if let Some(doubts) = self.disks[usize::from(request.slot)].doubts.as_mut() {
                    // Once for a TRIM, however many ranges it has.
                    if io.access.promises() && request.serial.is_none() {
                        request.serial = Some(doubts.begin());
                    }
                }
            }
            Err(job) => {
                request.buffer = Some(job.buffer);
                self.storage_full = true;
                self.ready.push_front(ticket);
            }
        }
    }

    pub(super) fn reap(&mut self, shared: &Shared) -> bool {
        let mut done = std::mem::take(&mut self.done);
        self.storage.reap(limits::REAP_BATCH, &mut |d| done.push(d));
        let any = !done.is_empty();
        for done in done.drain(..) {
            self.complete(shared, done);
        }
        self.done = done;
        any
    }

    /// The disk has done with a command, or with a range of a TRIM.
    pub(super) fn complete(&mut self, shared: &Shared, done: Done) {
        let Done { ticket, buffer, result } = done;
        if result.is_ok() && self.has_more(shared, ticket.0, &buffer) {
            if let Some(request) = self.requests.get_mut(ticket.0) {
                request.buffer = Some(buffer);
                request.entry += 1;
            }
            return self.ready.push_back(ticket.0);
        }
        let Some(request) = self.requests.get_mut(ticket.0) else {
            self.counters.count(Counter::Defects);
            return self.free_buffer(shared, buffer);
        };
        request.buffer = Some(buffer);
        let at = usize::from(request.slot);
        let (Some(doubts), Some(serial)) = (self.disks[at].doubts.as_mut(), request.serial.take()) else {
            return self.conclude(shared, ticket.0, result);
        };
        doubts.end(serial);
        match result {
            Ok(()) => doubts.hold(ticket.0),
            Err(_) => self.conclude(shared, ticket.0, result),
        }
        while let Some(next) = self.disks[at].doubts.as_mut().and_then(Doubts::release) {
            self.conclude(shared, next, Ok(()));
        }
    }

    /// A command has ended: the next ones may run, and it is answered, and its copies with it.
    fn conclude(&mut self, shared: &Shared, ticket: u32, result: Result<(), Failure>) {
        let Some(mut request) = self.requests.remove(ticket) else {
            return self.counters.count(Counter::Defects);
        };
        let slot = &mut self.slots[usize::from(request.slot)];
        slot.order.end(ticket, |next| self.ready.push_back(next));
        let slot = &self.slots[usize::from(request.slot)];
        let (number, access) = (request.slot, request.io.access);
        let outcome = match result {
            // The kernel reports the loss of cached data once, to whichever command asks first: after one failed, the
            // success of another that promises something proves nothing.
            Ok(()) if slot.failed() && access.promises() => Outcome::FAULT,
            Ok(()) => Outcome::GOOD,
            Err(failure) => {
                self.counters.count(Counter::DiskErrors);
                let cached = self.disks[usize::from(request.slot)].doubts.is_some();
                let (outcome, shown) = outcome_of(slot, cached, request.io, failure);
                if let Some(condition) = shown {
                    self.worsen(request.slot, condition);
                }
                outcome
            }
        };
        if outcome == Outcome::GOOD {
            match access {
                Access::Read => self.counters.add(Counter::ReadBytes, request.io.bytes() as u64),
                Access::Write | Access::WriteThrough => {
                    self.counters.add(Counter::WrittenBytes, request.io.bytes() as u64);
                }
                Access::Verify | Access::Trim | Access::Flush => {}
            }
        }
        let mut next = request.copies.take();
        self.answer_at_once(shared, request, outcome);
        while let Some(mut copy) = next.and_then(|ticket| self.requests.remove(ticket)) {
            next = copy.copies.take();
            self.answer_at_once(shared, copy, outcome);
        }
        self.post_in_flight(number);
        self.swap_due |= self.swaps > 0;
    }

    /// Whether a TRIM has ranges left. `buffer` holds its pages.
    fn has_more(&self, shared: &Shared, ticket: u32, buffer: &Buffer) -> bool {
        let Some(request) = self.requests.get(ticket).filter(|r| r.io.access == Access::Trim) else {
            return false;
        };
        let pages = buffer_bytes(shared, buffer, request);
        command::extents(pages, usize::from(request.entry) + 1).next().is_some()
    }

    /// A command has ended, and its buffer is back: answers it.
    fn give_back(&mut self, shared: &Shared, mut request: Request, buffer: Buffer, outcome: Outcome) {
        self.release_run(&request, &buffer);
        let headers = std::mem::replace(&mut request.headers, Headers::InBuffer);
        match (headers, buffer) {
            (Headers::InBuffer, Buffer::Chunk(chunk)) => self.answer(shared, &request, chunk, None, outcome),
            (Headers::Beside(chunk), Buffer::Run(run)) => {
                self.answer(shared, &request, chunk, Some(run), outcome)
            }
            (Headers::Beside(chunk), Buffer::None) => self.answer(shared, &request, chunk, None, outcome),
            // The storage returns the buffer it was given, so this cannot be.
            (headers, buffer) => {
                self.counters.count(Counter::Defects);
                self.free_buffer(shared, buffer);
                if let Headers::Beside(chunk) = headers {
                    self.bring_home(shared, chunk);
                }
            }
        }
    }

    /// Writes and sends the reply to a command.
    pub(super) fn answer(
        &mut self,
        shared: &Shared,
        request: &Request,
        mut head: Chunk,
        run: Option<Run>,
        outcome: Outcome,
    ) {
        let Some(port) = shared.port_of(request.queue) else {
            self.counters.count(Counter::Defects);
            self.bring_home(shared, head);
            return run.map_or((), |run| self.runs.put_run(run));
        };
        let path = port.path(request.wildcard);
        let data = match request.io.access {
            Access::Read if outcome == Outcome::GOOD => request.io.bytes(),
            _ => 0,
        };
        let slot = &self.slots[usize::from(request.slot)];
        let frame = shared.region.bytes_mut(&mut head, usize::from(request.offset), limits::CHUNK);
        let Some(len) = slot.finish(&request.admitted, &path, frame, &request.ata, outcome, data) else {
            self.counters.count(Refusal::NoRoom.into());
            self.bring_home(shared, head);
            return run.map_or((), |run| self.runs.put_run(run));
        };
        let Some(run) = run else {
            self.counters.count(Counter::Replies);
            return self.send(shared, outgoing(request.queue, head, request.offset, len));
        };
        if data == 0 {
            self.runs.put_run(run);
            self.counters.count(Counter::Replies);
            return self.send(shared, outgoing(request.queue, head, request.offset, len));
        }
        let data_at = request.admitted.data_at();
        if 1 + data.div_ceil(limits::CHUNK) > port.pieces {
            // More pieces than a frame may have on this rung: the data has to stand behind its header.
            let room = frame.get_mut(data_at..data_at + data);
            let fits =
                room.map(|room| room.copy_from_slice(shared.region.run_bytes(&run, 0, data))).is_some();
            self.runs.put_run(run);
            if !fits {
                self.counters.count(Refusal::NoRoom.into());
                return self.bring_home(shared, head);
            }
            self.counters.count(Counter::Copies);
            self.counters.count(Counter::Replies);
            return self.send(shared, outgoing(request.queue, head, request.offset, len));
        }
        let mut pieces = ArrayVec::new();
        pieces.push(Piece { chunk: head, offset: request.offset, len: data_at as u16 });
        let mut left = data;
        for chunk in run.split() {
            if left == 0 {
                self.runs.put(chunk);
                continue;
            }
            let len = left.min(limits::CHUNK);
            left -= len;
            pieces.push(Piece { chunk, offset: 0, len: len as u16 });
        }
        self.counters.count(Counter::Replies);
        self.send(shared, Outgoing { queue: request.queue, pieces });
    }

    #[cold]
    pub(super) fn abandon(&mut self, shared: &Shared, mut request: Request) {
        self.counters.count(Counter::Defects);
        if let Some(buffer) = request.buffer.take() {
            self.release_run(&request, &buffer);
            self.free_buffer(shared, buffer);
        }
        if let Headers::Beside(chunk) = request.headers {
            self.bring_home(shared, chunk);
        }
    }

    /// A slot and a host no longer hold the run of a request, if that had one.
    pub(super) fn release_run(&mut self, request: &Request, buffer: &Buffer) {
        if let (Buffer::Run(_), Some(runs)) = (buffer, self.runs_of.get_mut(usize::from(request.slot))) {
            *runs = runs.saturating_sub(1);
            self.requests.shares.give(request.seat, Scarce::Run);
        }
    }
}

/// The pages of a TRIM that is not at the disk.
fn pages<'a>(shared: &'a Shared, request: &'a Request) -> &'a [u8] {
    request.buffer.as_ref().map_or(&[], |buffer| buffer_bytes(shared, buffer, request))
}

/// The data of a request in its buffer.
fn buffer_bytes<'a>(shared: &'a Shared, buffer: &'a Buffer, request: &Request) -> &'a [u8] {
    let (at, len) = (request.at as usize, request.io.bytes());
    match buffer {
        Buffer::None => &[],
        Buffer::Chunk(chunk) => shared.region.bytes(chunk, at, len),
        Buffer::Run(run) => shared.region.run_bytes(run, at, len),
    }
}

/// Whether a write that has just arrived has this data.
fn holds(shared: &Shared, frame: &Frame, asked: &Asked<'_>, data: &[u8]) -> bool {
    let mut skip = asked.admitted.data_at();
    let mut left = data;
    for piece in std::iter::once(&frame.head).chain(&frame.rest) {
        let len = usize::from(piece.len);
        let from = skip.min(len);
        skip -= from;
        let here = shared.region.bytes(&piece.chunk, usize::from(piece.offset) + from, len - from);
        let (mine, rest) = left.split_at(here.len().min(left.len()));
        if here[..mine.len()] != *mine {
            return false;
        }
        left = rest;
    }
    left.is_empty()
}

/// Copies the data of a write, spread over the pieces of its frame, into one buffer.
fn gather(shared: &Shared, frame: &Frame, data_at: usize, run: &mut Run, bytes: usize) {
    let mut skip = data_at;
    let mut done = 0;
    for piece in std::iter::once(&frame.head).chain(&frame.rest) {
        let len = usize::from(piece.len);
        let from = skip.min(len);
        skip -= from;
        let data = shared.region.bytes(&piece.chunk, usize::from(piece.offset) + from, len - from);
        let data = &data[..data.len().min(bytes - done)];
        shared.region.run_bytes_mut(run, done, data.len()).copy_from_slice(data);
        done += data.len();
    }
    debug_assert_eq!(done, bytes, "the command was checked against the length of the frame");
}

/// What a failed command is answered with, and what it shows of the slot. A write or flush that fails leaves the medium in doubt: from then on the slot
/// promises nothing, because a later flush could succeed without the lost data (design: never retried into success).
fn outcome_of(slot: &Slot, cached: bool, io: Io, failure: Failure) -> (Outcome, Option<Condition>) {
    let address = slot.facts().address;
    let errno = failure.errno().unwrap_or(0);
    let tried = match io.access {
        Access::Read | Access::Verify => Tried::Read,
        Access::Write | Access::WriteThrough => Tried::Write,
        Access::Trim if !matches!(failure, Failure::Unsynced(_)) => Tried::Trim,
        Access::Trim | Access::Flush => Tried::Flush,
    };
    let why = Why { tried, errno };
    let beyond = io.lba.saturating_add(io.span) > slot.facts().sectors;
    match io.access {
        // It waited while the backing became shorter, and then was not tried.
        _ if failure == Failure::Short && beyond => (Outcome::NOT_FOUND, None),
        _ if failure.is_gone() => (Outcome::FAULT, Some(Condition::Gone(why))),
        Access::Read | Access::Verify => {
            tracing::debug!("slot {address}: read of {} sectors at {} failed: {failure}", io.count, io.lba);
            (Outcome::UNREADABLE, None)
        }
        // No room is no damage: nothing was promised, and nothing promised before is lost. Through the page cache it may be
        // another write that found no room, whose loss the kernel reports to whoever asks first.
        // Nor is anything lost where a part of a unit was to be written and the rest could not be read.
        Access::Write | Access::WriteThrough
            if failure.is_full() && !cached || matches!(failure, Failure::Unread(_)) =>
        {
            tracing::debug!("slot {address}: write of {} sectors at {} failed: {failure}", io.count, io.lba);
            (Outcome::FAULT, None)
        }
        // What is not freed is not lost either. But a flush that fails may tell of anything.
        Access::Trim if !matches!(failure, Failure::Unsynced(_)) => {
            tracing::debug!("slot {address}: trim failed: {failure}");
            let unable = matches!(failure, Failure::Errno(e) if e == libc::EOPNOTSUPP || e == libc::ENOTTY || e == libc::EINVAL);
            (if unable { Outcome::ABORTED } else { Outcome::FAULT }, None)
        }
        Access::Write | Access::WriteThrough | Access::Flush | Access::Trim => {
            (Outcome::FAULT, Some(Condition::Failed(why)))
        }
    }
}
