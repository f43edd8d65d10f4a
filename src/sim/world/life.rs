//! One life of the process: its workers, their turns and their sleep, and how it dies.
//!
//! Not here: what its answers mean (`answers`). How a worker goes on after a turn is that of `worker::thread`.
//! Invariant: after every turn each chunk is with a worker, on its way between two, or with the rings; and each frame that
//! was taken has ended in one counter or is in flight.

use super::{Event, FIRST_TAG, Fate, Op, Stage, What, World};
use crate::frame::{Frame, Layout, QueueId, Region, WorkerId};
use crate::limits;
use crate::net::memory::{Dropped, MemoryQueue, Transmission, Visibility, Wire};
use crate::shelf::{self, Condition, Routes, SlotFacts};
use crate::sim::disk::{Backing, SimStorage};
use crate::sim::luck::{MICRO, MILLI, Nanos, SECOND};
use crate::sim::request;
use crate::sim::totals::Kind;
use crate::storage::FileId;
use crate::worker::{
    Board, Control, Counter, Counters, Errand, EventFd, HandOver, Homecoming, Plan, Port, Post, Shared,
    SlotPlan, Worker,
};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

/// What is known of a frame that a worker will take.
#[derive(Clone, Copy, Debug)]
struct Seen {
    sent: Option<u32>,
    /// The owner that it will reach, if it is admitted and addressed to one slot.
    owner: Option<usize>,
    pieces: usize,
}

/// The near end of a queue's wire.
pub(super) struct Lane {
    pub(super) wire: Wire,
    worker: usize,
    port: usize,
    capacity: usize,
    /// Frames in RX.
    frames: VecDeque<Seen>,
    /// Pieces of these that can be seen.
    shown: usize,
    /// Pieces that are held back.
    pub(super) hidden: usize,
}

struct Seat {
    worker: Worker<MemoryQueue, SimStorage>,
    counters: Arc<Counters>,
    /// Numbers of its queues, in its order.
    lanes: Vec<usize>,
    /// Frames handed over to it.
    handed: VecDeque<Seen>,
    /// The plan of its next turn.
    number: u64,
    asleep: bool,
    /// It was woken by nobody but its own clock.
    overslept: bool,
    stalls: u32,
    turns: u64,
    /// Arrivals that it has.
    ops: Vec<u32>,
    /// The end of a command of the disk for which it is planned to wake.
    disk_due: Option<Nanos>,
    board: Arc<Board>,
    /// Its slots, in its order.
    slots: Vec<Watched>,
}

/// What is known of a slot that the board tells of.
struct Watched {
    /// Its number in the world.
    slot: usize,
    /// How often its backing was replaced.
    swaps: u32,
    /// It does not serve all that it should.
    bad: bool,
}

/// A life.
pub(super) struct Life {
    shared: Arc<Shared>,
    seats: Vec<Seat>,
    pub(super) lanes: Vec<Lane>,
    pub(super) errands: Receiver<Errand>,
    used: usize,
    sent: u64,
}

impl Life {
    /// Gives a command to a worker; false when its ring is full.
    pub(super) fn command(&self, worker: WorkerId, control: Control) -> bool {
        self.shared.posts.get(usize::from(worker.0)).is_some_and(|post| post.command(control).is_ok())
    }
}

impl Life {
    /// Shows so many pieces that a queue has received and holds back.
    pub(super) fn reveal(&mut self, queue: usize, most: usize) {
        let lane = &mut self.lanes[queue];
        let shown = lane.wire.reveal(most);
        lane.shown += shown;
        lane.hidden -= shown;
    }
}

impl World {
    /// The process starts, with the state that was kept.
    pub(super) fn start(&mut self) -> Result<(), String> {
        let states = self.load()?;
        self.lives += 1;
        let shape = &self.shape;
        let layout = Layout::plan(&shape.shares).map_err(|e| e.to_string())?;
        let used = layout.used();
        let region = Arc::new(Region::heap(used as u32));
        let owners = shape.slots.iter().map(|slot| (slot.address, slot.owner));
        let routes = Routes::new(owners).map_err(|e| e.to_string())?;
        let commands = limits::COMMANDS + limits::COMMANDS_PER_SLOT * shape.slots.len();
        let mut posts = Vec::new();
        for _ in &shape.shares {
            let ringer = EventFd::new().map_err(|e| format!("no eventfd: {e}"))?;
            posts.push(Post::new(shape.handoff, used, commands, ringer));
        }
        let ports = shape.ports.iter().enumerate();
        let ports = ports.map(|(p, s)| Port::new(format!("port{p}"), s.mac, s.mtu, s.room, s.pieces));
        let shared = Arc::new(Shared {
            region: Arc::clone(&region),
            layout,
            ports: ports.collect(),
            queues: shape.queues.iter().map(|q| q.place).collect(),
            routes,
            posts,
        });
        let (errand, errands) = sync_channel(limits::ERRANDS_PER_SLOT * shape.slots.len());
        let mut lanes = Vec::new();
        let mut queues: Vec<Vec<MemoryQueue>> = shape.shares.iter().map(|_| Vec::new()).collect();
        for (q, s) in shape.queues.iter().enumerate() {
            let (queue, wire) = MemoryQueue::new(QueueId(q as u16), Arc::clone(&region), s.config);
            wire.watch();
            let worker = usize::from(s.place.worker.0);
            queues[worker].push(queue);
            lanes.push(Lane {
                wire,
                worker,
                port: usize::from(s.place.port.0),
                capacity: s.config.capacity,
                frames: VecDeque::new(),
                shown: 0,
                hidden: 0,
            });
        }
        let mut seats = Vec::new();
        for (w, queues) in queues.into_iter().enumerate() {
            let id = WorkerId(w as u16);
            let mine = || shape.slots.iter().enumerate().filter(|(_, slot)| slot.owner == id);
            let disks = mine().map(|(s, _)| Rc::clone(&self.slots[s].disk)).collect();
            let storage = SimStorage::new(Rc::clone(&self.luck), Arc::clone(&region), disks, shape.capacity);
            let counters = Arc::new(Counters::default());
            let slots = mine().enumerate().map(|(file, (s, slot))| {
                let mut facts = SlotFacts::new(slot.address, slot.sectors as u64);
                facts.vlan = slot.vlan;
                facts.write_cache = slot.backing == Backing::Back;
                facts.trim = slot.trim;
                facts.state = states[s].clone();
                SlotPlan {
                    cached: slot.cached,
                    unit: slot.unit as u32,
                    ..SlotPlan::new(facts, FileId(file as u16))
                }
            });
            let plan = Plan {
                slots: slots.collect(),
                requests: shape.requests,
                counters: Arc::clone(&counters),
                errands: Some(errand.clone()),
                ..Plan::new(id, Arc::clone(&shared))
            };
            let lanes = (0..lanes.len()).filter(|&q| lanes[q].worker == w).collect();
            let worker = Worker::new(plan, queues, storage).map_err(|e| e.to_string())?;
            let watched = mine().map(|(slot, _)| Watched { slot, swaps: 0, bad: false });
            seats.push(Seat {
                counters,
                lanes,
                handed: VecDeque::new(),
                number: 0,
                asleep: false,
                overslept: false,
                stalls: 0,
                turns: 0,
                ops: Vec::new(),
                disk_due: None,
                board: worker.board(),
                slots: watched.collect(),
                worker,
            });
        }
        let workers = seats.len();
        self.life = Some(Box::new(Life { shared, seats, lanes, errands, used, sent: 0 }));
        self.luck.trace(|| format!("the process starts, with {workers} workers"));
        for w in 0..workers {
            if let Some(life) = &self.life {
                life.command(WorkerId(w as u16), Control::Announce);
            }
            let after = self.luck.about(10 * MICRO);
            self.plan_turn(w, after);
        }
        Ok(())
    }

    fn plan_turn(&mut self, worker: usize, after: Nanos) {
        if let Some(seat) = self.life.as_mut().and_then(|life| life.seats.get_mut(worker)) {
            // Unique over all lives.
            seat.number = self.planned + 1;
            let number = seat.number;
            self.plan(after, Event::Turn { worker, number });
        }
    }

    /// Something has come that wakes a worker, if it sleeps.
    pub(super) fn wake(&mut self, worker: usize) {
        let Some(seat) = self.life.as_mut().and_then(|life| life.seats.get_mut(worker)) else { return };
        if std::mem::take(&mut seat.asleep) {
            seat.overslept = false;
            let after = MICRO + self.luck.about(5 * MICRO);
            self.plan_turn(worker, after);
        }
    }

    // ----------------------------------------------------------------- in

    /// A frame is at a port.
    pub(super) fn arrive(&mut self, port: usize, queue: usize, sent: Option<u32>, frame: Vec<u8>) {
        let Some(life) = self.life.as_mut() else {
            self.luck.count(Kind::PortDown);
            self.dies(sent);
            return self.spare.push(frame);
        };
        let macs = || self.shape.ports.iter().map(|p| p.mac);
        let lane = &mut life.lanes[queue];
        let pieces = frame.len().div_ceil(lane.capacity).max(1);
        let admitted =
            shelf::admit(&frame[..frame.len().min(lane.capacity)], self.shape.ports[port].mac, macs());
        let admitted = admitted.ok().filter(|_| pieces <= limits::MAX_FRAGMENTS);
        let route = admitted.and_then(|a| life.shared.routes.find(a.header.address));
        let owner = route.map(|route| usize::from(route.worker.0));
        let worker = lane.worker;
        match lane.wire.inject(&frame) {
            Ok(()) => {
                lane.frames.push_back(Seen { sent, owner, pieces });
                if lane.hidden == 0 && !self.broken.rx_held(queue) {
                    lane.shown += pieces;
                } else {
                    lane.hidden += pieces;
                    self.luck.count(Kind::RxHeld);
                }
                if let Some(sent) = sent {
                    let since = self.seq;
                    let sent = &mut self.sent[sent as usize];
                    if sent.delivered == 0 {
                        sent.since = since;
                    }
                    sent.delivered += 1;
                }
                self.wake(worker);
            }
            Err(dropped) => {
                self.luck.count(match dropped {
                    Dropped::FillEmpty => Kind::FillEmpty,
                    Dropped::RxFull => Kind::RxFull,
                    Dropped::Down => Kind::PortDown,
                });
                self.dies(sent);
            }
        }
        self.spare.push(frame);
    }

    pub(super) fn disk_ends(&mut self, worker: usize, life: u64) {
        if life != self.lives {
            return;
        }
        let now = self.luck.now();
        let Some(seat) = self.life.as_mut().and_then(|life| life.seats.get_mut(worker)) else { return };
        if seat.disk_due.is_some_and(|due| due <= now) {
            seat.disk_due = None;
        }
        let storage = seat.worker.storage_mut();
        storage.advance();
        if storage.has_news() {
            self.wake(worker);
        }
        self.watch_disk(worker);
    }

    /// Plans to look at a worker's disks when the next command ends.
    fn watch_disk(&mut self, worker: usize) {
        let now = self.luck.now();
        let Some(seat) = self.life.as_mut().and_then(|life| life.seats.get_mut(worker)) else { return };
        let Some(end) = seat.worker.storage_mut().next_end() else { return };
        if seat.disk_due.is_none_or(|due| end < due) {
            seat.disk_due = Some(end);
            let life = self.lives;
            self.plan(end.saturating_sub(now), Event::DiskEnds { worker, life });
        }
    }

    /// Disks became stuck, or are no longer.
    pub(super) fn reschedule_disks(&mut self) {
        let workers = self.life.as_ref().map_or(0, |life| life.seats.len());
        for worker in 0..workers {
            if let Some(life) = self.life.as_mut() {
                life.seats[worker].worker.storage_mut().reschedule();
            }
            self.watch_disk(worker);
        }
    }

    // --------------------------------------------------------------- turn

    pub(super) fn turn(&mut self, worker: usize, number: u64) -> Result<(), String> {
        let Some(mut life) = self.life.take() else { return Ok(()) };
        if life.seats.get(worker).is_none_or(|seat| seat.number != number) {
            self.life = Some(life);
            return Ok(());
        }
        let now = Duration::from_nanos(self.luck.now());
        self.luck.count(Kind::Turns);
        let seat = &mut life.seats[worker];
        if std::mem::take(&mut seat.asleep) {
            // Its own clock woke it: then nothing may have come that should have.
            if seat.overslept && (seat.worker.post().has_mail() || seat.worker.storage_mut().has_news()) {
                return Err(format!("worker {worker} was not woken for what came"));
            }
        }
        seat.worker.post().bell().get_up();
        seat.worker.storage_mut().advance();
        let (arrivals, onward) = self.foresee(&mut life, worker);
        let seat = &mut life.seats[worker];
        let busy = seat.worker.turn(now);
        seat.turns += 1;
        self.watch_slots(&mut life, worker);
        self.passed_on(&mut life, worker, onward)?;
        self.took(&mut life, worker, arrivals)?;
        self.check_life(&mut life)?;
        let seat = &mut life.seats[worker];
        let lanes = std::mem::take(&mut seat.lanes);
        while let Ok(errand) = life.errands.try_recv() {
            self.errand(errand);
        }
        // How it goes on: as `worker::thread::run`.
        let seat = &mut life.seats[worker];
        let restless = seat.worker.restless();
        let mut pause = MICRO / 2 + self.luck.about(2 * MICRO);
        if busy {
            seat.stalls = 0;
        } else if restless {
            seat.stalls += 1;
            if seat.stalls > 64 {
                pause = MILLI;
            }
        } else {
            seat.stalls = 0;
            seat.worker.post().bell().lie_down();
            seat.asleep = true;
            seat.overslept = true;
            let now = self.luck.now();
            let short = seat.worker.starved() || seat.worker.draining();
            let news = seat.worker.due().map_or(SECOND, |due| {
                Nanos::try_from(due.as_nanos()).unwrap_or(SECOND).saturating_sub(now).min(SECOND)
            });
            pause = if short { MILLI } else { news.max(MILLI) };
        }
        if self.luck.permille(self.shape.stall) && !seat.asleep {
            self.luck.count(Kind::Stalls);
            pause += self.luck.about(5 * MILLI);
        }
        self.life = Some(life);
        self.plan_turn(worker, pause);
        self.wake_if_rung();
        self.watch_disk(worker);
        for &lane in &lanes {
            loop {
                let frame = self.life.as_ref().and_then(|life| life.lanes[lane].wire.take());
                let Some(frame) = frame else { break };
                let port = self.life.as_mut().map_or(0, |life| {
                    life.sent += 1;
                    life.lanes[lane].port
                });
                self.emitted(port, frame)?;
            }
        }
        if let Some(seat) = self.life.as_mut().and_then(|life| life.seats.get_mut(worker)) {
            seat.lanes = lanes;
        }
        Ok(())
    }

    /// What a worker will take in its next turn: the frames for slots of its own, and those for other owners.
    fn foresee(&mut self, life: &mut Life, worker: usize) -> (Vec<Seen>, Vec<Seen>) {
        let (mut mine, mut onward) = (Vec::new(), Vec::new());
        let mut homecomings = 0;
        let mut handed = 0;
        let seat = &mut life.seats[worker];
        if seat.worker.post().has_mail() {
            seat.worker.post().look(|_| handed += 1, |_| homecomings += 1);
        }
        // Wildcards stand in the same ring; those that are not frames were counted apart.
        let mut room = (4 * limits::RX_BATCH).saturating_sub(homecomings).min(handed);
        while room > 0 {
            let Some(seen) = seat.handed.pop_front() else { break };
            room -= 1;
            mine.push(seen);
        }
        for &q in &seat.lanes {
            let lane = &mut life.lanes[q];
            for _ in 0..limits::RX_BATCH {
                let Some(seen) = lane.frames.front().copied().filter(|seen| seen.pieces <= lane.shown) else {
                    break;
                };
                lane.frames.pop_front();
                lane.shown -= seen.pieces;
                match seen.owner {
                    Some(owner) if owner == worker => mine.push(seen),
                    Some(_) => onward.push(seen),
                    None => self.dies(seen.sent),
                }
            }
        }
        (mine, onward)
    }

    /// Finds out which frames for other owners reached their rings.
    fn passed_on(&mut self, life: &mut Life, worker: usize, onward: Vec<Seen>) -> Result<(), String> {
        for other in (0..life.seats.len()).filter(|&other| other != worker) {
            let mut frames = 0;
            let post = life.seats[other].worker.post();
            if post.has_mail() {
                post.look(|f| frames += usize::from(matches!(f, HandOver::Frame(_))), |_| ());
            }
            let new = frames.checked_sub(life.seats[other].handed.len());
            let mut new = new.ok_or("frames vanished from a hand-over ring")?;
            for seen in onward.iter().filter(|seen| seen.owner == Some(other)) {
                if new > 0 {
                    new -= 1;
                    life.seats[other].handed.push_back(*seen);
                } else {
                    self.dies(seen.sent);
                }
            }
            if new > 0 {
                return Err(format!("worker {worker} handed over frames that it did not have"));
            }
        }
        Ok(())
    }

    /// What a worker has taken of what reached it, and what has left it.
    fn took(&mut self, life: &mut Life, worker: usize, arrivals: Vec<Seen>) -> Result<(), String> {
        let seat = &mut life.seats[worker];
        if arrivals.is_empty() && seat.ops.is_empty() {
            return Ok(());
        }
        let turn = seat.turns;
        let first_new = seat.ops.len();
        for seen in arrivals {
            let Some(sent) = seen.sent else { continue };
            let id = self.sent[sent as usize].request;
            let request = &self.requests[id as usize];
            let (what, Some(slot)) = (request.what, request.slot) else {
                self.dies(seen.sent);
                continue;
            };
            self.seq += 1;
            if !what.is_disk() {
                self.dies(seen.sent);
                continue;
            }
            let op = self.ops.len() as u32;
            self.ops.push(Op {
                request: id,
                sent,
                slot,
                seq: self.seq,
                life: self.lives,
                stage: Stage::Held,
                taken: false,
                copy: false,
                answered: false,
                seen: 0,
                ticket: None,
                gone_at_once: false,
            });
            self.sent[sent as usize].ops.push(op);
            if what.writes() {
                self.requests[id as usize].ops.push(op);
            }
            seat.ops.push(op);
        }
        // A worker takes what has come before it lets go of anything: a new one never has the name of one that is known.
        // And of two frames under one tag, of which one was dropped, it is the one that keeps the order of what is held.
        let mut last = vec![0; seat.slots.len()];
        for held in seat.worker.held() {
            let last = &mut last[usize::from(held.slot)];
            let tag = u32::from_be_bytes(held.tag);
            let Some(sent) = tag.checked_sub(FIRST_TAG).and_then(|i| self.sent.get(i as usize)) else {
                continue;
            };
            let request = &self.requests[sent.request as usize];
            if self.macs.get(request.host) != Some(&held.source) {
                continue;
            }
            // A copy came after the write that it is a copy of.
            let runs = |op: &Op| op.life == self.lives && op.seen == turn && !op.copy;
            let original = request.ops.iter().map(|&op| &self.ops[op as usize]).filter(|op| runs(op));
            let after = if held.is_copy { original.map(|op| op.seq).min().unwrap_or(0) } else { *last };
            let here = |op: &Op| op.life == self.lives && op.stage == Stage::Held && op.seen < turn;
            let find = |name: Option<u32>| {
                let mut ops = sent.ops.iter().copied();
                ops.find(|&op| {
                    let op = &self.ops[op as usize];
                    here(op) && op.ticket == name && op.seq > after
                })
            };
            if let Some(op) = find(Some(held.ticket)).or_else(|| find(None)) {
                let op = &mut self.ops[op as usize];
                (op.seen, op.ticket) = (turn, Some(held.ticket));
                *last = op.seq.max(after);
                op.copy |= held.is_copy;
            }
        }
        let all = std::mem::take(&mut seat.ops);
        let mut left = Vec::new();
        for (i, &at) in all.iter().enumerate() {
            let op = self.ops[at as usize];
            if op.seen == turn {
                seat.ops.push(at);
                if i >= first_new {
                    self.taken(at)?;
                }
            } else {
                left.push(at);
            }
        }
        for at in left {
            // A copy that came in the last turn of what it is a copy of was answered with that, or dropped.
            let answered = !self.ops[at as usize].taken && self.has_equal(at, turn);
            let op = &mut self.ops[at as usize];
            (op.copy, op.gone_at_once) = (op.copy || answered, answered);
            op.stage = Stage::Left;
            let (sent, slot, seq) = (op.sent, op.slot, op.seq);
            self.slots[slot].open.retain(|open| *open != seq);
            self.dies(Some(sent));
        }
        Ok(())
    }

    /// Whether the worker had a write equal to this one when it came: it was there after the turn before, or came in the same.
    fn has_equal(&self, at: u32, turn: u64) -> bool {
        let op = self.ops[at as usize];
        self.requests[op.request as usize].ops.iter().any(|other| {
            let other = self.ops[*other as usize];
            other.taken && other.life == op.life && other.seq < op.seq && other.seen + 1 >= turn
        })
    }

    /// A worker has taken a command for one of its slots.
    fn taken(&mut self, at: u32) -> Result<(), String> {
        self.ops[at as usize].taken = true;
        let op = self.ops[at as usize];
        let request = &self.requests[op.request as usize];
        self.slots[op.slot].open.push(op.seq);
        if self.is_beyond(request) {
            return Err(format!("{} was taken, and is beyond the end", self.tell(op.request as usize)));
        }
        let what = request.what;
        if what.writes() && !op.copy && self.has_equal(at, op.seen) {
            return Err(format!(
                "a copy of a write in flight runs again: {}",
                self.tell(op.request as usize)
            ));
        }
        let copy = if op.copy { " as a copy" } else { "" };
        self.note(op.request, |what| format!("taken{copy}, at place {}: {what}", op.seq));
        if what.changes() && !op.copy {
            let slot = &self.shape.slots[op.slot];
            let forced = what == What::Forced || slot.backing == Backing::Through;
            let forced = forced && slot.backing != Backing::Ram;
            for (sector, stamp) in request::changed(op.request, request) {
                self.slots[op.slot].arrivals.change(sector, op.seq, stamp, forced);
            }
        }
        Ok(())
    }

    // ------------------------------------------------------------- checks

    fn check_life(&mut self, life: &mut Life) -> Result<(), String> {
        let mut chunks = 0;
        let mut in_flight = 0;
        let (mut taken, mut ended) = (0, 0);
        for seat in &mut life.seats {
            chunks += seat.worker.census().total();
            in_flight += seat.worker.commands() as u64;
            let post = seat.worker.post();
            if post.has_mail() {
                let (mut lying, mut frames) = (0, 0);
                let pieces = |frame: &Frame| 1 + frame.rest.len();
                post.look(
                    |hand| {
                        if let HandOver::Frame(frame) = hand {
                            (lying, frames) = (lying + pieces(frame), frames + 1);
                        }
                    },
                    |_| (),
                );
                post.look(
                    |_| (),
                    |home| {
                        lying += match home {
                            Homecoming::Idle(_) => 1,
                            Homecoming::Reply(frame) => frame.pieces.len(),
                        };
                    },
                );
                chunks += lying;
                in_flight += frames;
            }
            let counters = &seat.counters;
            if counters.get(Counter::Defects) > 0 {
                return Err("a worker counts a defect".into());
            }
            if counters.get(Counter::DropNoRoom) > 0 {
                return Err("a reply found no room in its chunk, and there is room for the longest".into());
            }
            taken += counters.get(Counter::Received) + counters.get(Counter::WildcardRequests);
            taken += counters.get(Counter::HandedOver);
            ended += Counter::ENDS.iter().map(|&c| counters.get(c)).sum::<u64>();
        }
        // A frame that is handed over has ended with one and begun with another: between the two it lies in the ring, and
        // counts with those in flight.
        if chunks != life.used {
            return Err(format!("{chunks} chunks are somewhere, and there are {}", life.used));
        }
        if taken != ended + in_flight {
            return Err(format!(
                "{taken} frames were taken; {ended} have ended and {in_flight} are in flight"
            ));
        }
        for lane in &life.lanes {
            let counts = lane.wire.counts();
            if counts.invalid > 0 || counts.touched > 0 {
                return Err(format!(
                    "{} frames that no kernel sends, {} pieces changed while the kernel had them",
                    counts.invalid, counts.touched
                ));
            }
        }
        Ok(())
    }

    /// Whether no worker has anything in flight.
    pub(super) fn is_quiet(&mut self) -> bool {
        let Some(life) = self.life.as_mut() else { return false };
        life.seats.iter_mut().all(|seat| seat.worker.is_idle() && seat.worker.post().pending() == 0)
            && life.lanes.iter().all(|lane| lane.frames.is_empty())
            && self.states.is_idle()
    }

    /// Wakes whoever was rung for.
    pub(super) fn wake_if_rung(&mut self) {
        let Some(life) = &self.life else { return };
        let rung = |seat: &Seat| seat.asleep && !seat.worker.post().bell().sleeps();
        let rung: Vec<_> = (0..life.seats.len()).filter(|w| rung(&life.seats[*w])).collect();
        rung.into_iter().for_each(|worker| self.wake(worker));
    }

    /// What keeps the workers from rest, for a message.
    pub(super) fn restless(&mut self) -> String {
        let Some(life) = self.life.as_mut() else { return "there are none".into() };
        let seats = life.seats.iter_mut().enumerate();
        let all = seats.map(|(w, seat)| {
            let mail = seat.worker.post().pending();
            format!(
                "worker {w} has {} commands, {mail} messages, {:?}",
                seat.worker.commands(),
                seat.worker.census()
            )
        });
        all.collect::<Vec<_>>().join("; ")
    }

    /// The end of the last life: all chunks are home or in FILL.
    pub(super) fn conclude_life(&mut self) -> Result<(), String> {
        let Some(mut life) = self.life.take() else { return Err("there is no process at the end".into()) };
        self.check_life(&mut life)?;
        let mut home = 0;
        for seat in &mut life.seats {
            let census = seat.worker.census();
            home += census.home + census.fill;
            if seat.worker.queues_mut().any(|queue| queue.forged() > 0) {
                return Err("addresses came back that had not been lent".into());
            }
        }
        if home != life.used {
            return Err(format!("at rest {home} chunks are at home, and there are {}", life.used));
        }
        self.end_life(&mut life);
        let replies: u64 = life.seats.iter().map(|s| s.counters.get(Counter::Replies)).sum();
        let announcements: u64 = life.seats.iter().map(|s| s.counters.get(Counter::Announcements)).sum();
        if life.sent != replies + announcements {
            return Err(format!(
                "{} frames were sent, and {replies} replies and {announcements} announcements counted",
                life.sent
            ));
        }
        Ok(())
    }

    /// Notes what was counted.
    fn end_life(&self, life: &mut Life) {
        for seat in &life.seats {
            for (counter, kind) in [
                (Counter::Parked, Kind::Parked),
                (Counter::Duplicates, Kind::Duplicates),
                (Counter::HandedOver, Kind::HandedOver),
                (Counter::Copies, Kind::Copies),
                (Counter::DropRequests, Kind::DropRequests),
                (Counter::DropRuns, Kind::DropRuns),
                (Counter::DropHandOver, Kind::DropHandOver),
                (Counter::DropWildcards, Kind::DropWildcards),
                (Counter::DropTooOften, Kind::DropTooOften),
                (Counter::DropShare, Kind::DropShare),
                (Counter::DropChanges, Kind::DropChanges),
                (Counter::DropOversized, Kind::DropOversized),
                (Counter::Announcements, Kind::Announcements),
            ] {
                self.luck.add(kind, seat.counters.get(counter));
            }
        }
    }

    // ----------------------------------------------------------- recovery

    /// What became of a worker's slots in its last turn.
    fn watch_slots(&mut self, life: &mut Life, worker: usize) {
        let seat = &mut life.seats[worker];
        for (number, watched) in (0u16..).zip(&mut seat.slots) {
            let Some(cell) = seat.board.slot(number) else { continue };
            let slot = watched.slot;
            if cell.swaps() != watched.swaps {
                watched.swaps = cell.swaps();
                self.luck.count(Kind::Recovered);
                self.luck.trace(|| format!("slot {slot} of the process has another backing"));
                self.slots[slot].doubt();
                // What it gave back.
                let _ = cell.collect();
            }
            let bad = cell.condition() != Condition::Serving;
            if std::mem::replace(&mut watched.bad, bad) || !bad {
                continue;
            }
            self.luck.count(Kind::SlotsFailed);
            self.luck.trace(|| format!("slot {slot} of the process is now {:?}", cell.condition()));
            // Or nobody sees to it, until everything heals.
            if self.luck.permille(700) || self.healed.is_some() {
                let (after, life) = (self.luck.about(self.luck.pick(&[MILLI, 20 * MILLI])), self.lives);
                self.plan(after, Event::Recover { slot, life });
            }
        }
    }

    /// Whoever looks after the devices gives a slot another way to its disk.
    pub(super) fn recover(&mut self, slot: usize, life: u64) {
        let owner = self.shape.slots[slot].owner;
        let Some(process) = self.life.as_mut().filter(|_| life == self.lives) else { return };
        let seat = &process.seats[usize::from(owner.0)];
        let Some(number) = seat.slots.iter().position(|watched| watched.slot == slot) else { return };
        let number = number as u16;
        let Some(cell) = seat.board.slot(number) else { return };
        cell.bring(Box::new(()));
        if !process.command(owner, Control::Replace { slot: number }) {
            let _ = cell.take();
            return self.plan(MILLI, Event::Recover { slot, life });
        }
        self.wake_if_rung();
    }

    /// Somebody sees to all slots that do not serve.
    pub(super) fn recover_all(&mut self) {
        let seats = self.life.iter().flat_map(|life| &life.seats);
        let bad = seats.flat_map(|seat| &seat.slots).filter(|watched| watched.bad);
        let bad: Vec<_> = bad.map(|watched| watched.slot).collect();
        let life = self.lives;
        bad.into_iter().for_each(|slot| self.recover(slot, life));
    }

    // -------------------------------------------------------------- crash

    /// The process is killed, or the power fails.
    pub(super) fn crash(&mut self, power: bool) -> Result<(), String> {
        self.crashes += 1;
        self.crashing = false;
        let Some(mut life) = self.life.take() else { return Ok(()) };
        self.luck.count(if power { Kind::PowerCuts } else { Kind::Kills });
        self.luck.trace(|| if power { "the power is cut".into() } else { "the process is killed".into() });
        self.end_life(&mut life);
        self.crash_states(power);
        for seat in &mut life.seats {
            seat.worker.storage_mut().abort();
            self.luck.add(Kind::InFlight, seat.ops.len() as u64);
            for at in std::mem::take(&mut seat.ops) {
                self.ops[at as usize].stage = Stage::Left;
                let (sent, slot) = (self.ops[at as usize].sent, self.ops[at as usize].slot);
                self.slots[slot].open.clear();
                self.dies(Some(sent));
            }
            for seen in std::mem::take(&mut seat.handed) {
                self.dies(seen.sent);
            }
        }
        for lane in &mut life.lanes {
            for seen in std::mem::take(&mut lane.frames) {
                self.dies(seen.sent);
            }
        }
        drop(life);
        for s in 0..self.slots.len() {
            let memory = self.is_memory(s);
            let slot = &mut self.slots[s];
            slot.doubt();
            slot.arrivals.crash(power, memory);
            if power {
                slot.disk.borrow_mut().cut_power(&self.luck);
                slot.history.cut_power(memory);
            }
        }
        self.broken.forget();
        let down = MILLI + self.luck.about(20 * MILLI);
        self.plan(down, Event::Start);
        Ok(())
    }

    /// Puts the rings of a queue right.
    pub(super) fn heal_rings(&mut self) {
        self.broken.forget();
        let lanes = self.life.as_ref().map_or(0, |life| life.lanes.len());
        for q in 0..lanes {
            self.heal_rx(q);
            self.heal_tx(q);
        }
    }

    /// Shows what was received and held back.
    pub(super) fn heal_rx(&mut self, queue: usize) {
        let Some(lane) = self.life.as_mut().and_then(|life| life.lanes.get_mut(queue)) else { return };
        lane.wire.set_receptions(Visibility::AtOnce);
        lane.shown += std::mem::take(&mut lane.hidden);
        let worker = lane.worker;
        self.wake(worker);
    }

    /// Lets frames and completions pass.
    pub(super) fn heal_tx(&mut self, queue: usize) {
        let Some(lane) = self.life.as_mut().and_then(|life| life.lanes.get_mut(queue)) else { return };
        lane.wire.set_transmission(Transmission::Open);
        lane.wire.set_completions(Visibility::AtOnce);
    }

    /// The fate of a change, as its answer tells it.
    pub(super) fn settle(&mut self, at: u32, fate: Fate) {
        let op = self.ops[at as usize];
        if op.copy {
            return;
        }
        let keep = self.shape.slots[op.slot].backing == Backing::Back;
        let slot = &mut self.slots[op.slot];
        let oldest = slot.open.iter().copied().min().unwrap_or(u64::MAX);
        for (sector, _) in request::changed(op.request, &self.requests[op.request as usize]) {
            slot.arrivals.ended(sector, op.seq, fate, oldest, keep);
        }
    }
}
