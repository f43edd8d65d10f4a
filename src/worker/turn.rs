//! One turn: take what came, let the slots decide, give the disk its work, send the answers.
//!
//! Not here: threads, sleeping, sockets, rings of the kernel; it runs over the net and storage ports.
//! Invariant: a frame taken from a ring ends in one counter of [`Counter::ENDS`], and its chunks go home.

use super::counters::{Counter, Counters};
use super::lane::Lane;
use super::post::Mail;
use super::requests::{Headers, Request, Requests};
use super::{Control, HandOver, Homecoming, Plan, Shared, Wildcard};
use crate::frame::{
    Buffer, Chunk, Frame, LayoutError, Outgoing, Piece, Pool, PortId, QueueId, Run, RunPool, WorkerId,
};
use crate::limits;
use crate::net::{Flushed, Queue};
use crate::protocol::ata::{Ata, Outcome};
use crate::protocol::ethernet::ETHERTYPE_AOE;
use crate::protocol::{Address, Ethernet};
use crate::shelf::{self, Access, Admitted, Decision, Io, Path, Refusal, Slot};
use crate::storage::{Done, Failure, FileId, Job, Storage, Ticket, Verb};
use arrayvec::ArrayVec;
use std::collections::VecDeque;
use std::sync::Arc;

/// Where the chunks of a worker are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// In its pools.
    pub home: usize,
    /// In requests, at the disk or waiting.
    pub requests: usize,
    /// Waiting for TX.
    pub waiting: usize,
    /// With the kernel, to receive into.
    pub fill: usize,
    /// With the kernel, being transmitted.
    pub transmit: usize,
}

impl Census {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> usize {
        self.home + self.requests + self.waiting + self.fill + self.transmit
    }
}

/// One worker: its queues, its slots, its storage.
pub struct Worker<Q: Queue, S: Storage> {
    shared: Arc<Shared>,
    core: Core<Q, S>,
}

/// All that is the worker's own; what it shares is passed along, so that a frame costs no reference count.
struct Core<Q: Queue, S: Storage> {
    id: WorkerId,
    counters: Arc<Counters>,
    slots: Vec<Slot>,
    files: Vec<FileId>,
    lanes: Vec<Lane<Q>>,
    /// The lane to transmit from, by port.
    lane_of_port: Vec<Option<usize>>,
    /// Workers that own slots, for wildcards.
    holders: Vec<WorkerId>,
    storage: S,
    runs: RunPool,
    /// Runs in requests, by slot.
    runs_of: Vec<usize>,
    own: Vec<Chunk>,
    requests: Requests,
    /// Requests that may run and that the storage has not taken yet.
    ready: VecDeque<u32>,
    /// Wildcard requests, each with the next slot to ask.
    wildcards: VecDeque<(Wildcard, usize)>,
    /// Announcements to make, as slot and port.
    announcements: VecDeque<(usize, PortId)>,
    /// Posts that got something this turn.
    to_ring: Vec<bool>,
    draining: bool,
    exit: bool,
    // Kept between turns for their memory only.
    received: Vec<Frame>,
    torn: Vec<Chunk>,
    reclaimed: Vec<Chunk>,
    done: Vec<Done>,
}

/// A command for the disk, as a slot decided it.
struct Asked<'a> {
    admitted: &'a Admitted,
    /// Number of the slot with this worker.
    slot: u16,
    wildcard: bool,
    io: Io,
    ata: Ata,
}

impl<Q: Queue, S: Storage> Worker<Q, S> {
    /// A worker of this plan. `storage` has the plan's files.
    ///
    /// # Errors
    /// When its chunks were given out before.
    pub fn new(plan: Plan, queues: Vec<Q>, storage: S) -> Result<Self, LayoutError> {
        let Plan { id, shared, slots, counters } = plan;
        let mut lanes = Vec::with_capacity(queues.len());
        let mut lane_of_port = vec![None; shared.ports.len()];
        for queue in queues {
            let free = shared.layout.mint(&shared.region, id, Pool::Receive(queue.id()))?;
            if let Some(place) = shared.queues.get(usize::from(queue.id().0)).filter(|place| place.transmits)
            {
                if let Some(entry) = lane_of_port.get_mut(usize::from(place.port.0)) {
                    entry.get_or_insert(lanes.len());
                }
            }
            lanes.push(Lane::new(queue, free));
        }
        lanes.iter_mut().for_each(Lane::flush);
        let mut holders: Vec<WorkerId> = shared.routes.all().map(|(_, route)| route.worker).collect();
        holders.sort_unstable();
        holders.dedup();
        let core = Core {
            id,
            runs: shared.layout.mint_runs(&shared.region, id)?,
            own: shared.layout.mint(&shared.region, id, Pool::Own)?,
            files: slots.iter().map(|slot| slot.file).collect(),
            runs_of: vec![0; slots.len()],
            slots: slots.into_iter().map(|slot| Slot::new(slot.facts)).collect(),
            lanes,
            lane_of_port,
            holders,
            storage,
            counters,
            requests: Requests::new(limits::REQUESTS),
            ready: VecDeque::with_capacity(limits::REQUESTS),
            wildcards: VecDeque::with_capacity(limits::WILDCARDS),
            announcements: VecDeque::new(),
            to_ring: vec![false; shared.posts.len()],
            draining: false,
            exit: false,
            received: Vec::with_capacity(limits::RX_BATCH),
            torn: Vec::new(),
            reclaimed: Vec::with_capacity(limits::TX_RING as usize),
            done: Vec::with_capacity(limits::REAP_BATCH),
        };
        Ok(Self { shared, core })
    }

    /// One turn. Returns whether anything happened.
    pub fn turn(&mut self) -> bool {
        self.core.turn(&self.shared)
    }

    /// Whether there is something to do that no descriptor would wake us for, so that sleeping would be wrong.
    pub fn restless(&mut self) -> bool {
        let core = &mut self.core;
        let to_send = !(core.wildcards.is_empty() && core.announcements.is_empty());
        !core.ready.is_empty()
            || (to_send && !core.own.is_empty())
            || core.lanes.iter_mut().any(|lane| lane.flushed() == Flushed::Again || lane.queue.ready())
            || self.shared.posts[usize::from(core.id.0)].has_mail()
    }

    /// Whether we wait for chunks whose return wakes nobody, so that sleeping long would be wrong.
    pub fn starved(&self) -> bool {
        let core = &self.core;
        let to_send = !(core.wildcards.is_empty() && core.announcements.is_empty());
        // What we transmit may be all that another worker has to receive into.
        let others = self.shared.posts.len() > 1;
        to_send
            || core
                .lanes
                .iter()
                .any(|lane| lane.waiting() > 0 || lane.starved() || (others && lane.transmitting()))
    }

    /// Whether nothing is in flight: no request, no frame to send, nothing with the kernel but chunks to receive into.
    pub fn is_idle(&self) -> bool {
        let core = &self.core;
        core.requests.is_empty()
            && core.wildcards.is_empty()
            && core.announcements.is_empty()
            && core.storage.in_flight() == 0
            && core.lanes.iter().all(|lane| lane.waiting() == 0 && lane.queue.lent().transmit == 0)
    }

    /// Whether the appliance is about to end us.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.core.draining
    }

    /// Whether the appliance has told us to end.
    pub fn told_to_exit(&self) -> bool {
        self.core.exit
    }

    /// Slots with commands in flight, with how many.
    pub fn busy_slots(&self) -> Vec<(Address, usize)> {
        let busy = self.core.slots.iter().filter(|slot| !slot.order.is_empty());
        busy.map(|slot| (slot.facts().address, slot.order.len())).collect()
    }

    /// Where all chunks are.
    pub fn census(&self) -> Census {
        let core = &self.core;
        let mut census = Census {
            home: core.runs.chunks_home() + core.own.len(),
            requests: core.requests.iter().map(Request::chunks).sum(),
            ..Census::default()
        };
        for lane in &core.lanes {
            let lent = lane.queue.lent();
            census.home += lane.free.len();
            census.waiting += lane.waiting_chunks();
            census.fill += lent.fill;
            census.transmit += lent.transmit;
        }
        census
    }

    /// The storage.
    pub fn storage_mut(&mut self) -> &mut S {
        &mut self.core.storage
    }

    /// The queues.
    pub fn queues_mut(&mut self) -> impl Iterator<Item = &mut Q> {
        self.core.lanes.iter_mut().map(|lane| &mut lane.queue)
    }

    /// The post that leads to this worker.
    #[must_use]
    pub fn post(&self) -> &super::WorkerPost {
        &self.shared.posts[usize::from(self.core.id.0)]
    }
}

impl<Q: Queue, S: Storage> Drop for Worker<Q, S> {
    /// Gives the tokens up; the memory goes with the region, which the storage keeps if the kernel still uses it.
    fn drop(&mut self) {
        let core = &mut self.core;
        core.lanes.iter_mut().for_each(Lane::retire);
        core.own.drain(..).for_each(Chunk::retire);
        core.requests.drain().for_each(Request::retire);
        while let Some(mail) = self.shared.posts[usize::from(core.id.0)].take() {
            match mail {
                Mail::Home(home) => home.retire(),
                Mail::Frame(HandOver::Frame(frame)) => frame.retire(),
                Mail::Frame(HandOver::Wildcard(_)) | Mail::Command(_) => {}
            }
        }
    }
}

impl<Q: Queue, S: Storage> Core<Q, S> {
    fn turn(&mut self, shared: &Shared) -> bool {
        let mut busy = self.reclaim(shared);
        busy |= self.read_mail(shared);
        busy |= self.receive(shared);
        self.ask_slots(shared);
        self.announce(shared);
        self.submit_ready();
        self.storage.turn();
        busy |= self.reap(shared);
        // Commands that waited for those that just ended start now, not in the next turn.
        if !self.ready.is_empty() {
            self.submit_ready();
            self.storage.turn();
            busy = true;
        }
        for lane in &mut self.lanes {
            lane.flush();
        }
        self.ring(shared);
        busy
    }

    // ---------------------------------------------------------------- in

    fn reclaim(&mut self, shared: &Shared) -> bool {
        let mut chunks = std::mem::take(&mut self.reclaimed);
        for lane in &mut self.lanes {
            lane.queue.reclaim(limits::TX_RING as usize, &mut |chunk| chunks.push(chunk));
        }
        let any = !chunks.is_empty();
        for chunk in chunks.drain(..) {
            self.bring_home(shared, chunk);
        }
        self.reclaimed = chunks;
        any
    }

    fn read_mail(&mut self, shared: &Shared) -> bool {
        // Bounded, so that a flood of hand-overs cannot keep us from our own queues.
        let mut taken = 0;
        while taken < 4 * limits::RX_BATCH {
            let Some(mail) = shared.posts[usize::from(self.id.0)].take() else { break };
            taken += 1;
            match mail {
                Mail::Home(Homecoming::Idle(chunk)) => self.bring_home(shared, chunk),
                Mail::Home(Homecoming::Reply(frame)) => self.send(shared, frame),
                Mail::Frame(HandOver::Frame(frame)) => self.arrive(shared, frame),
                Mail::Frame(HandOver::Wildcard(wildcard)) => self.take_wildcard(wildcard),
                Mail::Command(Control::Announce) => {
                    for port in (0..shared.ports.len()).filter_map(|p| u16::try_from(p).ok()) {
                        self.announcements.extend((0..self.slots.len()).map(|slot| (slot, PortId(port))));
                    }
                }
                Mail::Command(Control::Drain) => self.draining = true,
                Mail::Command(Control::Exit) => self.exit = true,
            }
        }
        shared.posts[usize::from(self.id.0)].dealt_with(taken);
        taken > 0
    }

    fn receive(&mut self, shared: &Shared) -> bool {
        let mut any = false;
        for at in 0..self.lanes.len() {
            let mut frames = std::mem::take(&mut self.received);
            let mut torn = std::mem::take(&mut self.torn);
            let lane = &mut self.lanes[at];
            lane.queue.refill(&mut lane.free);
            let taken = lane
                .queue
                .receive(limits::RX_BATCH, &mut |frame| frames.push(frame), &mut |chunk| torn.push(chunk));
            any |= taken > 0;
            self.counters.add(Counter::Received, taken as u64);
            self.counters.add(Counter::DropOversized, taken.saturating_sub(frames.len()) as u64);
            for chunk in torn.drain(..) {
                self.bring_home(shared, chunk);
            }
            for frame in frames.drain(..) {
                self.counters.add(Counter::ReceivedBytes, frame.len() as u64);
                self.arrive(shared, frame);
            }
            self.received = frames;
            self.torn = torn;
        }
        any
    }

    /// A frame from our own queue, or handed over by another worker.
    fn arrive(&mut self, shared: &Shared, frame: Frame) {
        let Some(port) = shared.port_of(frame.queue) else {
            return self.drop_frame(shared, frame, Counter::Defects);
        };
        let bytes = shared.region.bytes(
            &frame.head.chunk,
            usize::from(frame.head.offset),
            usize::from(frame.head.len),
        );
        let admitted = match shelf::admit(bytes, port.mac, shared.ports.iter().map(|p| p.mac)) {
            Ok(admitted) => admitted,
            Err(refusal) => return self.drop_frame(shared, frame, refusal.into()),
        };
        let address = admitted.header.address;
        if address.is_wildcard() {
            self.spread(shared, &admitted, frame);
            return;
        }
        match shared.routes.find(address) {
            None => self.drop_frame(shared, frame, Refusal::OtherAddress.into()),
            Some(route) if route.worker == self.id => self.serve(shared, frame, &admitted, route.slot, false),
            Some(route) => {
                let post = &shared.posts[usize::from(route.worker.0)];
                match post.hand_over(HandOver::Frame(frame)) {
                    Ok(()) => {
                        self.counters.count(Counter::HandedOver);
                        self.to_ring[usize::from(route.worker.0)] = true;
                    }
                    Err(HandOver::Frame(frame)) => self.drop_frame(shared, frame, Counter::DropHandOver),
                    Err(HandOver::Wildcard(_)) => self.counters.count(Counter::Defects),
                }
            }
        }
    }

    // --------------------------------------------------------- wildcards

    /// Tells every owner about a wildcard request; the frame itself ends here.
    fn spread(&mut self, shared: &Shared, admitted: &Admitted, frame: Frame) {
        let shelf = admitted.header.address.shelf;
        if shelf != Address::ANY_SHELF && !shared.routes.shelves().any(|s| s == shelf) {
            return self.drop_frame(shared, frame, Refusal::OtherAddress.into());
        }
        let head = &frame.head;
        let bytes = shared.region.bytes(&head.chunk, usize::from(head.offset), usize::from(head.len));
        let mut argument = ArrayVec::new();
        argument.extend(bytes.iter().skip(admitted.argument_at()).take(limits::ATA_SECTION).copied());
        let wildcard = Wildcard {
            queue: frame.queue,
            source: admitted.ethernet.source,
            tag: admitted.ethernet.tag,
            header: admitted.header,
            argument,
        };
        for i in 0..self.holders.len() {
            let holder = self.holders[i];
            if holder == self.id {
                self.take_wildcard(wildcard.clone());
            } else if shared.posts[usize::from(holder.0)]
                .hand_over(HandOver::Wildcard(wildcard.clone()))
                .is_ok()
            {
                self.to_ring[usize::from(holder.0)] = true;
            } else {
                self.counters.count(Counter::DropWildcards);
            }
        }
        self.counters.count(Counter::Wildcards);
        self.recycle(shared, frame);
    }

    fn take_wildcard(&mut self, wildcard: Wildcard) {
        if self.wildcards.len() < limits::WILDCARDS {
            self.wildcards.push_back((wildcard, 0));
        } else {
            self.counters.count(Counter::DropWildcards);
        }
    }

    /// Makes a request of its own for each slot a wildcard covers, as long as there are chunks for it.
    fn ask_slots(&mut self, shared: &Shared) {
        while let Some((wildcard, next)) = self.wildcards.front_mut() {
            let covers = |slot: &Slot| wildcard.header.address.covers(slot.facts().address);
            let Some(skip) = self.slots[*next..].iter().position(covers) else {
                self.wildcards.pop_front();
                continue;
            };
            let Some(mut chunk) = self.own.pop() else { return };
            let slot = *next + skip;
            *next = slot + 1;
            let Some(port) =
                shared.queues.get(usize::from(wildcard.queue.0)).and_then(|q| shared.port(q.port))
            else {
                self.counters.count(Counter::Defects);
                self.own.push(chunk);
                continue;
            };
            let ethernet = Ethernet {
                destination: port.mac,
                source: wildcard.source,
                tag: wildcard.tag,
                ethertype: ETHERTYPE_AOE,
            };
            let header =
                crate::protocol::Header { address: self.slots[slot].facts().address, ..wildcard.header };
            let admitted = Admitted { ethernet, header };
            let queue = wildcard.queue;
            // Untagged payloads of our own frames are aligned as received ones are.
            let bytes = shared.region.bytes_mut(&mut chunk, limits::FRAME_AT, limits::CHUNK);
            ethernet.emit(bytes);
            header.emit(&mut bytes[admitted.header_at()..]);
            let at = admitted.argument_at();
            bytes[at..at + wildcard.argument.len()].copy_from_slice(&wildcard.argument);
            let len = (at + wildcard.argument.len()) as u16;
            self.counters.count(Counter::WildcardRequests);
            let head = Piece { chunk, offset: limits::FRAME_AT as u16, len };
            self.serve(shared, Frame { queue, head, rest: ArrayVec::new() }, &admitted, slot as u16, true);
        }
    }

    fn announce(&mut self, shared: &Shared) {
        while let Some(&(slot, id)) = self.announcements.front() {
            let queue = shared.queues.iter().position(|q| q.port == id);
            let (Some(port), Some(queue), Some(slot)) = (shared.port(id), queue, self.slots.get(slot)) else {
                self.announcements.pop_front();
                continue;
            };
            let Some(mut chunk) = self.own.pop() else { return };
            self.announcements.pop_front();
            let path = Path { port: port.mac, sectors: port.sectors, wildcard: false };
            let room = shared.region.bytes_mut(&mut chunk, limits::FRAME_AT, limits::CHUNK);
            match slot.announce(&path, room) {
                Some(len) => {
                    self.counters.count(Counter::Announcements);
                    self.send(shared, outgoing(QueueId(queue as u16), chunk, limits::FRAME_AT as u16, len));
                }
                None => {
                    self.counters.count(Counter::Defects);
                    self.bring_home(shared, chunk);
                }
            }
        }
    }

    // ------------------------------------------------------------- slots

    /// A request for one of our slots.
    fn serve(&mut self, shared: &Shared, mut frame: Frame, admitted: &Admitted, slot: u16, wildcard: bool) {
        let (Some(port), Some(owned)) = (shared.port_of(frame.queue), self.slots.get(usize::from(slot)))
        else {
            return self.drop_frame(shared, frame, Counter::Defects);
        };
        let path = Path { port: port.mac, sectors: port.sectors, wildcard };
        let (offset, have, total) = (frame.head.offset, usize::from(frame.head.len), frame.len());
        let bytes = shared.region.bytes_mut(&mut frame.head.chunk, usize::from(offset), limits::CHUNK);
        match owned.decide(admitted, &path, bytes, have, total) {
            Decision::Silence(refusal) => self.drop_frame(shared, frame, refusal.into()),
            Decision::Reply(len) => {
                let Frame { queue, head, rest } = frame;
                self.recycle_pieces(shared, rest);
                self.counters.count(Counter::Replies);
                self.send(shared, outgoing(queue, head.chunk, offset, len));
            }
            Decision::Io(io, ata) => {
                self.start(shared, frame, Asked { admitted, slot, wildcard, io, ata });
            }
        }
    }

    /// Finds memory for a command, and its turn.
    fn start(&mut self, shared: &Shared, frame: Frame, asked: Asked<'_>) {
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

    // ----------------------------------------------------------- storage

    fn submit_ready(&mut self) {
        for _ in 0..self.ready.len() {
            let Some(ticket) = self.ready.pop_front() else { break };
            self.submit(ticket);
        }
    }

    fn submit(&mut self, ticket: u32) {
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
            file: self.files[usize::from(request.slot)],
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

    fn reap(&mut self, shared: &Shared) -> bool {
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
    fn complete(&mut self, shared: &Shared, done: Done) {
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
                outcome_of(slot, request.io, failure)
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
    fn answer(
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

    // --------------------------------------------------------------- out

    /// Transmits on the port a frame belongs to: from our own queue there, or by way of the worker that has one.
    fn send(&mut self, shared: &Shared, frame: Outgoing) {
        let Some(place) = shared.queues.get(usize::from(frame.queue.0)).copied() else {
            self.counters.count(Counter::Defects);
            return frame.pieces.into_iter().for_each(|piece| self.bring_home(shared, piece.chunk));
        };
        let arrived = self.lanes.iter().position(|lane| lane.id == frame.queue).filter(|_| place.transmits);
        let ours = arrived.or(self.lane_of_port.get(usize::from(place.port.0)).copied().flatten());
        if let Some(lane) = ours {
            return self.lanes[lane].send(frame);
        }
        // A worker never hands a frame to itself: it would have had a lane for it.
        let Some(worker) = shared.transmitter(place).filter(|&worker| worker != self.id) else {
            self.counters.count(Counter::Defects);
            return frame.pieces.into_iter().for_each(|piece| self.bring_home(shared, piece.chunk));
        };
        let worker = usize::from(worker.0);
        match shared.posts[worker].send_home(Homecoming::Reply(frame)) {
            Ok(()) => self.to_ring[worker] = true,
            Err(lost) => self.lose(lost),
        }
    }

    /// Takes a chunk to the pool it belongs to, here or with another worker.
    fn bring_home(&mut self, shared: &Shared, chunk: Chunk) {
        match shared.layout.home(&chunk) {
            Some(home) if home.worker == self.id => match home.pool {
                Pool::Run => self.runs.put(chunk),
                Pool::Own => self.own.push(chunk),
                Pool::Receive(queue) => match self.lanes.iter_mut().find(|lane| lane.id == queue) {
                    Some(lane) => lane.free.push(chunk),
                    None => self.lose(Homecoming::Idle(chunk)),
                },
            },
            Some(home) => {
                let worker = usize::from(home.worker.0);
                match shared.posts[worker].send_home(Homecoming::Idle(chunk)) {
                    Ok(()) => self.to_ring[worker] = true,
                    Err(lost) => self.lose(lost),
                }
            }
            None => self.lose(Homecoming::Idle(chunk)),
        }
    }

    /// A homecoming that could not be delivered: the rings have room for every chunk, so this cannot be.
    #[cold]
    fn lose(&mut self, lost: Homecoming) {
        self.counters.count(Counter::Defects);
        lost.retire();
    }

    fn drop_frame(&mut self, shared: &Shared, frame: Frame, why: Counter) {
        self.counters.count(why);
        self.recycle(shared, frame);
    }

    fn recycle(&mut self, shared: &Shared, frame: Frame) {
        self.bring_home(shared, frame.head.chunk);
        self.recycle_pieces(shared, frame.rest);
    }

    fn recycle_pieces<const N: usize>(&mut self, shared: &Shared, pieces: ArrayVec<Piece, N>) {
        for piece in pieces {
            self.bring_home(shared, piece.chunk);
        }
    }

    fn free_buffer(&mut self, shared: &Shared, buffer: Buffer) {
        match buffer {
            Buffer::None => {}
            Buffer::Chunk(chunk) => self.bring_home(shared, chunk),
            Buffer::Run(run) => self.runs.put_run(run),
        }
    }

    #[cold]
    fn abandon(&mut self, shared: &Shared, request: Request) {
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
    fn release_run(&mut self, slot: u16, buffer: &Buffer) {
        if let (Buffer::Run(_), Some(runs)) = (buffer, self.runs_of.get_mut(usize::from(slot))) {
            *runs = runs.saturating_sub(1);
        }
    }

    fn ring(&mut self, shared: &Shared) {
        for (ring, post) in self.to_ring.iter_mut().zip(&shared.posts) {
            if std::mem::take(ring) {
                post.bell().ring();
            }
        }
    }
}

fn outgoing(queue: QueueId, chunk: Chunk, offset: u16, len: usize) -> Outgoing {
    let mut pieces = ArrayVec::new();
    // A reply lies inside its chunk, so its length fits.
    pieces.push(Piece { chunk, offset, len: len as u16 });
    Outgoing { queue, pieces }
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
fn outcome_of(slot: &mut Slot, io: Io, failure: Failure) -> Outcome {
    let address = slot.facts().address;
    let full =
        matches!(failure, Failure::Errno(e) if e == libc::ENOSPC || e == libc::EDQUOT || e == libc::EFBIG);
    match io.access {
        Access::Read => {
            tracing::debug!("slot {address}: read of {} sectors at {} failed: {failure}", io.count, io.lba);
            let gone = matches!(failure, Failure::Errno(e) if e == libc::ENODEV || e == libc::ENXIO || e == libc::EBADF);
            if gone { Outcome::FAULT } else { Outcome::UNREADABLE }
        }
        // No room is no damage: nothing was promised, and nothing promised before is lost.
        Access::Write if full => {
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

#[cfg(test)]
mod tests;
