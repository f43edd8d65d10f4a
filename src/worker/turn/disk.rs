//! Commands for the disk: memory and a turn for each, the disk's word on it, and the answer.
//!
//! Not here: how the disk is reached (`storage`), or which commands there are (`shelf`).
//! Invariant: a command is answered only after the storage has given its buffer back, and as good only if all of it is
//! done, and durable where that was promised.

use super::{Core, outgoing};
use crate::frame::{Buffer, Chunk, Frame, Outgoing, Piece, Run};
use crate::limits;
use crate::net::Queue;
use crate::protocol::ata::{Ata, Outcome};
use crate::shelf::{self, Access, Admitted, Io, Path, Refusal, Slot};
use crate::storage::{Done, Failure, Job, Storage, Ticket, Verb};
use crate::worker::Shared;
use crate::worker::counters::Counter;
use crate::worker::requests::{Headers, Request};
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
        let Asked { admitted, slot, wildcard, io, ata } = asked;
        // A slot never has more than is left for the others: a device that hangs would take all there is, and the
        // hosts of the others would wait with its own.
        if self.requests.is_full() || self.slots[usize::from(slot)].order.len() > self.requests.room() {
            return self.drop_frame(shared, frame, Counter::DropRequests);
        }
        let at = usize::from(frame.head.offset) + admitted.data_at();
        let aligned = at % limits::SECTOR == 0 && at + io.bytes() <= limits::CHUNK;
        let in_place = match io.access {
            Access::Flush => false,
            Access::Read => aligned,
            Access::Write => aligned && frame.rest.is_empty(),
        };
        let mut run = None;
        if !in_place && io.access != Access::Flush {
            let fair = self.runs_of[usize::from(slot)] <= self.runs.available();
            let Some(free) = fair.then(|| self.runs.take()).flatten() else {
                return self.drop_frame(shared, frame, Counter::DropRuns);
            };
            self.runs_of[usize::from(slot)] += 1;
            run = Some(free);
        }
        if let (Some(run), Access::Write) = (&mut run, io.access) {
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
        let request = Request {
            slot,
            wildcard,
            queue,
            admitted: *admitted,
            ata,
            io,
            offset: head.offset,
            headers,
            buffer: Some(buffer),
            at,
        };
        match self.requests.insert(request) {
            Ok(ticket) => match self.slots[usize::from(slot)].order.begin(ticket, io) {
                shelf::Turn::Run => self.submit(ticket),
                shelf::Turn::Wait => self.counters.count(Counter::Parked),
            },
            // Checked above.
            Err(request) => self.abandon(shared, request),
        }
    }

    pub(super) fn submit_ready(&mut self) {
        for _ in 0..self.ready.len() {
            let Some(ticket) = self.ready.pop_front() else { break };
            self.submit(ticket);
        }
    }

    pub(super) fn submit(&mut self, ticket: u32) {
        let Some(request) = self.requests.get_mut(ticket) else {
            self.counters.count(Counter::Defects);
            return;
        };
        let Some(buffer) = request.buffer.take() else {
            self.counters.count(Counter::Defects);
            return;
        };
        let io = request.io;
        let verb = match io.access {
            Access::Read => Verb::Read,
            Access::Write => Verb::Write,
            Access::Flush => Verb::Flush,
        };
        let job = Job {
            ticket: Ticket(ticket),
            file: self.disks[usize::from(request.slot)].file,
            verb,
            offset: io.offset(),
            buffer,
            at: request.at,
            len: io.bytes() as u32,
        };
        match self.storage.submit(job) {
            Ok(()) => self.counters.count(match verb {
                Verb::Read => Counter::Reads,
                Verb::Write => Counter::Writes,
                Verb::Flush => Counter::Flushes,
            }),
            Err(job) => {
                request.buffer = Some(job.buffer);
                self.ready.push_back(ticket);
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

    /// A command has ended: the next ones may run, and it is answered.
    pub(super) fn complete(&mut self, shared: &Shared, done: Done) {
        let Done { ticket, buffer, result } = done;
        let Some(mut request) = self.requests.remove(ticket.0) else {
            self.counters.count(Counter::Defects);
            return self.free_buffer(shared, buffer);
        };
        let slot = &mut self.slots[usize::from(request.slot)];
        slot.order.end(ticket.0, |next| self.ready.push_back(next));
        let outcome = match result {
            // The kernel reports the loss of cached data once, to whichever command asks first: after one failed, the
            // success of another that changes the medium proves nothing.
            Ok(()) if slot.failed() && request.io.access != Access::Read => Outcome::FAULT,
            Ok(()) => Outcome::GOOD,
            Err(failure) => {
                self.counters.count(Counter::DiskErrors);
                outcome_of(slot, self.disks[usize::from(request.slot)].cached, request.io, failure)
            }
        };
        let good = outcome == Outcome::GOOD;
        match request.io.access {
            Access::Read if good => self.counters.add(Counter::ReadBytes, request.io.bytes() as u64),
            Access::Write if good => self.counters.add(Counter::WrittenBytes, request.io.bytes() as u64),
            _ => {}
        }
        self.release_run(request.slot, &buffer);
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
        let path = Path { port: port.mac, sectors: port.sectors, wildcard: request.wildcard };
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
    pub(super) fn abandon(&mut self, shared: &Shared, request: Request) {
        self.counters.count(Counter::Defects);
        if let Some(buffer) = request.buffer {
            self.release_run(request.slot, &buffer);
            self.free_buffer(shared, buffer);
        }
        if let Headers::Beside(chunk) = request.headers {
            self.bring_home(shared, chunk);
        }
    }

    /// A slot no longer holds the run of a request, if that had one.
    pub(super) fn release_run(&mut self, slot: u16, buffer: &Buffer) {
        if let (Buffer::Run(_), Some(runs)) = (buffer, self.runs_of.get_mut(usize::from(slot))) {
            *runs = runs.saturating_sub(1);
        }
    }
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

/// What a failed command is answered with. A write or flush that fails leaves the medium in doubt: from then on the slot
/// promises nothing, because a later flush could succeed without the lost data (design: never retried into success).
fn outcome_of(slot: &mut Slot, cached: bool, io: Io, failure: Failure) -> Outcome {
    let address = slot.facts().address;
    let full =
        matches!(failure, Failure::Errno(e) if e == libc::ENOSPC || e == libc::EDQUOT || e == libc::EFBIG);
    match io.access {
        Access::Read => {
            tracing::debug!("slot {address}: read of {} sectors at {} failed: {failure}", io.count, io.lba);
            let gone = matches!(failure, Failure::Errno(e) if e == libc::ENODEV || e == libc::ENXIO || e == libc::EBADF);
            if gone { Outcome::FAULT } else { Outcome::UNREADABLE }
        }
        // No room is no damage: nothing was promised, and nothing promised before is lost. Through the page cache it may be
        // another write that found no room, whose loss the kernel reports to whoever asks first.
        Access::Write if full && !cached => {
            tracing::debug!("slot {address}: write of {} sectors at {} failed: {failure}", io.count, io.lba);
            Outcome::FAULT
        }
        Access::Write | Access::Flush => {
            if slot.fail() {
                tracing::error!(
                    "slot {address}: {} failed: {failure}; what was written last may be lost, so the slot takes no more \
                     writes until xshelf is started again - check the device and its kernel log",
                    if io.access == Access::Flush { "a flush" } else { "a write" },
                );
            }
            Outcome::FAULT
        }
    }
}
