//! One turn: take what came, let the slots decide, give the disk its work, send the answers.
//!
//! Not here: threads, sleeping, sockets, rings of the kernel; it runs over the net and storage ports.
//! Invariant: a frame taken from a ring ends in one counter of [`Counter::ENDS`], and its chunks go home.

mod changes;
mod disk;
mod doubts;
mod swap;
mod wildcards;

use self::changes::Changes;
use self::disk::Asked;
use self::doubts::Doubts;
use self::swap::Swap;
use super::board::{Board, Cell};
use super::counters::{Counter, Counters};
use super::lane::Lane;
use super::pace::{Bucket, Sources};
use super::post::Mail;
use super::requests::{Request, Requests};
use super::{Control, Errands, HandOver, Homecoming, Plan, Shared, SlotPlan, Wildcard};
use crate::frame::{
    Buffer, Chunk, Frame, LayoutError, Outgoing, Piece, Pool, PortId, QueueId, RunPool, WorkerId,
};
use crate::limits;
use crate::net::{Flushed, Queue};
use crate::protocol::{Address, Mac};
use crate::shelf::{self, Admitted, Condition, Decision, Order, Refusal, Slot};
use crate::storage::{Done, FileId, Storage};
use arrayvec::ArrayVec;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Where the chunks of a worker are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// In its pools.
    pub home: usize,
    /// In requests: at the disk, waiting, or about to change the state of a slot.
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

/// A command in the hands of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The worker's name for it.
    pub ticket: u32,
    /// Who asked.
    pub source: Mac,
    /// Its name there.
    pub tag: [u8; 4],
    /// It is equal to a write before it, and does not run.
    pub is_copy: bool,
    /// Number of the slot with this worker.
    pub slot: u16,
}

/// One worker: its queues, its slots, its storage.
pub struct Worker<Q: Queue, S: Storage> {
    shared: Arc<Shared>,
    core: Core<Q, S>,
}

/// What is behind a slot.
struct Disk {
    file: FileId,
    /// Set where errors may be those of other commands.
    doubts: Option<Doubts>,
    /// What is to take its place.
    swap: Option<Swap>,
}

impl Disk {
    fn new(plan: &SlotPlan) -> Self {
        Self { file: plan.file, doubts: plan.cached.then(Doubts::default), swap: None }
    }
}

/// An announcement to make: a slot, on a port, from this host of its audience on.
type Announcement = (usize, PortId, usize);

/// All that is the worker's own; what it shares is passed along, so that a frame costs no reference count.
struct Core<Q: Queue, S: Storage> {
    id: WorkerId,
    counters: Arc<Counters>,
    board: Arc<Board>,
    slots: Vec<Slot>,
    disks: Vec<Disk>,
    /// How many disks are to be replaced or let go.
    swaps: usize,
    /// Whether one of those may have nothing in flight any more.
    swap_due: bool,
    /// When to look for how long the disks have had their commands.
    next_look: Duration,
    lanes: Vec<Lane<Q>>,
    /// The lane to transmit from, by port.
    lane_of_port: Vec<Option<usize>>,
    /// Workers that own slots, for wildcards.
    holders: Vec<WorkerId>,
    runs: RunPool,
    /// How many runs there are.
    runs_most: usize,
    /// Runs in requests, by slot.
    runs_of: Vec<usize>,
    own: Vec<Chunk>,
    /// How many of those there are.
    own_most: usize,
    requests: Requests,
    /// Requests that may run and that the storage has not taken yet.
    ready: VecDeque<u32>,
    /// The storage takes no more until something ends there, which it tells.
    storage_full: bool,
    /// Changes of the state of slots, by slot.
    changes: Vec<Changes>,
    /// When the next slot with a changed config string is to be announced.
    next_news: Option<Duration>,
    /// Takes the states to keep.
    errands: Option<Errands>,
    /// Wildcard requests, each with the next slot to ask.
    wildcards: VecDeque<(Wildcard, usize)>,
    /// How many wildcard requests each host has sent us.
    sources: Sources,
    /// Announcements to make.
    announcements: VecDeque<Announcement>,
    /// How fast frames of our own making leave: a shelf full of slots answers one frame with hundreds.
    pace: Bucket,
    /// The time of this turn, since any fixed moment.
    now: Duration,
    /// Posts that got something this turn.
    to_ring: Vec<bool>,
    draining: bool,
    exit: bool,
    // Kept between turns for their memory only.
    received: Vec<Frame>,
    torn: Vec<Chunk>,
    reclaimed: Vec<Chunk>,
    done: Vec<Done>,
    // Last, for its end may take as long as a device hangs: sockets and all else are let go before.
    storage: S,
}

impl<Q: Queue, S: Storage> Worker<Q, S> {
    /// A worker of this plan. `storage` has the plan's files.
    ///
    /// # Errors
    /// When its chunks were given out before.
    pub fn new(plan: Plan, queues: Vec<Q>, storage: S) -> Result<Self, LayoutError> {
        let Plan { id, shared, slots, requests, counters, errands } = plan;
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
        let own = shared.layout.mint(&shared.region, id, Pool::Own)?;
        let runs = shared.layout.mint_runs(&shared.region, id)?;
        let core = Core {
            id,
            runs_most: runs.available(),
            runs,
            own_most: own.len(),
            own,
            board: Arc::new(Board::new(slots.len())),
            disks: slots.iter().map(Disk::new).collect(),
            swaps: 0,
            swap_due: false,
            next_look: Duration::ZERO,
            runs_of: vec![0; slots.len()],
            changes: slots.iter().map(|_| Changes::default()).collect(),
            requests: Requests::new(requests, slots.len()),
            ready: VecDeque::with_capacity(requests),
            storage_full: false,
            slots: slots
                .into_iter()
                .map(|plan| {
                    let mut slot = Slot::new(plan.facts);
                    slot.order = Order::new(plan.unit);
                    slot
                })
                .collect(),
            lanes,
            lane_of_port,
            holders,
            storage,
            counters,
            wildcards: VecDeque::with_capacity(limits::WILDCARDS),
            next_news: None,
            errands,
            sources: Sources::new(limits::WILDCARD_RATE, limits::SOURCES),
            announcements: VecDeque::new(),
            pace: Bucket::full(limits::OWN_RATE, Duration::ZERO),
            now: Duration::ZERO,
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

    /// One turn. `now` is the time since any fixed moment. Returns whether anything happened.
    pub fn turn(&mut self, now: Duration) -> bool {
        self.core.now = now;
        self.core.turn(&self.shared)
    }

    /// Whether there is something to do that no descriptor would wake us for, so that sleeping would be wrong.
    pub fn restless(&mut self) -> bool {
        let core = &mut self.core;
        (!core.ready.is_empty() && !core.storage_full)
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

    /// When there will be something to do though nothing comes, on the clock of [`Worker::turn`].
    pub fn due(&self) -> Option<Duration> {
        self.core.next_news
    }

    /// Whether nothing is in flight: no request, no frame to send, nothing with the kernel but chunks to receive into.
    ///
    /// At the end, frames on a port that is down are not waited for: nobody knows when it comes up again, and hosts ask
    /// again anyway.
    pub fn is_idle(&self) -> bool {
        let core = &self.core;
        let stuck = |lane: &Lane<Q>| core.draining && lane.is_stuck(self.shared.port_of(lane.id));
        let rest = core.wildcards.is_empty() && core.announcements.is_empty();
        core.requests.is_empty()
            && (rest || (core.own.is_empty() && core.lanes.iter().any(stuck)))
            && core.changes.iter().all(Changes::is_empty)
            && core.storage.in_flight() == 0
            && core.lanes.iter().all(|lane| !lane.is_sending() || stuck(lane))
    }

    /// Counts the chunks of frames that will not be sent any more: it ends now.
    pub fn give_up_sending(&self) {
        let left = |lane: &Lane<Q>| lane.waiting_chunks() + lane.queue.lent().transmit;
        let left: usize = self.core.lanes.iter().map(left).sum();
        self.core.counters.add(Counter::Unsent, left as u64);
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
        let slots = self.core.slots.iter().zip(&self.core.changes);
        let all = slots.map(|(slot, changes)| (slot.facts().address, slot.order.len() + changes.len()));
        all.filter(|(_, commands)| *commands > 0).collect()
    }

    /// Where all chunks are.
    pub fn census(&self) -> Census {
        let core = &self.core;
        let mut census = Census {
            home: core.runs.chunks_home() + core.own.len(),
            requests: core.requests.iter().map(|(_, request)| request.chunks()).sum::<usize>()
                + core.changes.iter().map(Changes::chunks).sum::<usize>(),
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

    /// What others may know of its slots.
    #[must_use]
    pub fn board(&self) -> Arc<Board> {
        Arc::clone(&self.core.board)
    }

    /// Commands that wait for the disk, for each other, or for the state of their slot to be kept.
    pub fn commands(&self) -> usize {
        self.core.requests.len() + self.core.changes.iter().map(Changes::len).sum::<usize>()
    }

    /// The commands among those that the disk is to do: those of a slot in order of arrival, and the copies behind all.
    pub fn held(&self) -> impl Iterator<Item = Held> + '_ {
        let requests = &self.core.requests;
        let in_order = self.core.slots.iter().flat_map(|slot| slot.order.tickets());
        let in_order = in_order.filter_map(|ticket| Some((ticket, requests.get(ticket)?)));
        in_order.chain(requests.iter().filter(|(_, request)| request.is_copy)).map(|(ticket, request)| Held {
            ticket,
            source: request.admitted.ethernet.source,
            tag: request.admitted.header.tag,
            is_copy: request.is_copy,
            slot: request.slot,
        })
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
        core.changes.iter_mut().for_each(Changes::retire);
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
        self.tell_news(shared);
        self.announce(shared);
        self.submit_ready(shared);
        self.storage.turn();
        busy |= self.reap(shared);
        // Commands that waited for those that just ended start now, not in the next turn.
        let waiting = self.ready.len();
        if waiting > 0 {
            self.submit_ready(shared);
            self.storage.turn();
            // A storage that takes no more has to let something end first, and tells when that happens.
            busy |= self.ready.len() < waiting;
        }
        if self.swap_due {
            self.swap_disks(shared);
        }
        if self.now >= self.next_look {
            self.look();
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
                    (0..self.slots.len()).for_each(|slot| self.announce_slot(shared, slot));
                }
                Mail::Command(Control::AnnounceOn(port)) => {
                    (0..self.slots.len()).for_each(|slot| self.announce_on(slot, port));
                }
                Mail::Command(Control::Saved { slot, kept }) => self.saved(shared, slot, kept),
                Mail::Command(Control::Resized { slot, sectors }) => {
                    let slot = usize::from(slot);
                    if let Some(disk) = self.disks.get(slot) {
                        self.storage.resized(disk.file, sectors.saturating_mul(limits::SECTOR as u64));
                    }
                    if self.slots.get_mut(slot).is_some_and(|slot| slot.resize(sectors)) {
                        self.announce_slot(shared, slot);
                    }
                }
                Mail::Command(Control::Health { slot, health }) => {
                    if let Some(slot) = self.slots.get_mut(usize::from(slot)) {
                        slot.set_health(health);
                    }
                }
                Mail::Command(Control::Failed { slot, why }) => {
                    // It was said when it happened.
                    let _ = self.note_condition(slot, Condition::Failed(why));
                }
                Mail::Command(Control::Gone { slot, why }) => {
                    self.worsen(slot, Condition::Gone(why));
                }
                Mail::Command(Control::Release { slot }) => self.plan_swap(slot, Some(Swap::Release)),
                Mail::Command(Control::Replace { slot }) => {
                    let parcel = self.board.slot(slot).and_then(Cell::take);
                    self.plan_swap(slot, parcel.map(Swap::Replace));
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

    // ------------------------------------------------------------- slots

    /// A request for one of our slots.
    fn serve(&mut self, shared: &Shared, mut frame: Frame, admitted: &Admitted, slot: u16, wildcard: bool) {
        let (Some(port), Some(owned)) = (shared.port_of(frame.queue), self.slots.get_mut(usize::from(slot)))
        else {
            return self.drop_frame(shared, frame, Counter::Defects);
        };
        let path = port.path(wildcard);
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
            Decision::Change => self.begin_change(shared, frame, admitted, slot),
            Decision::Later => self.change_later(shared, frame, admitted, slot),
            Decision::Io(io, ata) => {
                self.start(shared, frame, Asked { admitted, slot, wildcard, io, ata });
            }
        }
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

#[cfg(test)]
mod tests;
