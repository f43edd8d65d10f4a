//! A world: its events in the order of its own time, and its hosts.
//!
//! Not here: the process under test (`life`), what it answers (`answers`), its state (`state`), mischief (`mischief`).
//! Invariant: every frame of a request that may still be executed is counted in `Request::alive`.

mod answers;
mod life;
mod mischief;
mod state;

use self::life::Life;
use self::mischief::{Broken, Mischief};
use self::state::States;
use super::check::{Arrivals, Fate, History};
use super::disk::{Backing, Disk, SharedDisk};
use super::luck::{Luck, MICRO, MILLI, Nanos, SECOND};
use super::request::{self, Request, Route, What};
use super::shape::{HostShape, Manner, REQUESTS, Shape};
use super::totals::{Kind, Totals};
use crate::protocol::{Address, Mac};
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

/// Virtual time in which everything has to end once nothing fails any more.
const LIVENESS: Nanos = 300 * SECOND;
/// Events of one world, at most: some ten times what the liveliest needs.
const EVENTS: u64 = 3_000_000;
/// The longest time until a host sends again.
const LONGEST_RTO: Nanos = 2 * SECOND;
/// The first tag; as Linux does, never with its highest bit.
const FIRST_TAG: u32 = 0x0100_0000;

/// What happens at some time.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A frame reaches a port; of this entry of `World::sent`, if it is one of a host.
    Arrive { port: usize, queue: usize, sent: Option<u32>, frame: Vec<u8> },
    /// An answer reaches a host.
    Answer { host: usize, frame: Vec<u8> },
    /// A host makes requests.
    Issue { host: usize },
    /// A host has waited long enough for an answer.
    Resend { request: u32, sent: u32 },
    /// A worker turns; a later plan for it has another number.
    Turn { worker: usize, number: u64 },
    /// A command of a worker's disk ends.
    DiskEnds { worker: usize, life: u64 },
    /// The state store gets round to its next errand.
    Save { life: u64 },
    /// Something is broken.
    Mischief,
    /// It is well again.
    Relief(Mischief),
    /// The process is killed, or the power is cut.
    Crash { power: bool },
    /// The process starts.
    Start,
    /// The administrator releases what keeps hosts out.
    Tidy,
    /// A slot that has failed is given its backing again.
    Recover { slot: usize, life: u64 },
}

/// A frame that a host sent, under its tag.
#[derive(Debug)]
struct Sent {
    request: u32,
    /// Copies that reached RX.
    delivered: u32,
    /// Answers of each slot.
    answers: [u32; 4],
    /// The place in the order of arrival at the time the first copy was delivered.
    since: u64,
    /// Its arrivals at owners.
    ops: Vec<u32>,
}

/// What became of a copy that reached the owner of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The worker has it.
    Held,
    /// It has left, or was never taken.
    Left,
}

/// The arrival of a copy at the owner of its slot.
#[derive(Clone, Copy, Debug)]
struct Op {
    request: u32,
    sent: u32,
    slot: usize,
    seq: u64,
    life: u64,
    stage: Stage,
    /// The worker took it.
    taken: bool,
    /// It is equal to a write before it, and did not run.
    copy: bool,
    answered: bool,
    /// The turn after which the worker was seen to have it.
    seen: u64,
    /// The worker's name for it.
    ticket: Option<u32>,
    /// It may have been taken and answered in the turn in which it came.
    gone_at_once: bool,
}

/// A host.
#[derive(Debug)]
struct Host {
    shape: HostShape,
    under_way: usize,
    /// As Linux does: halved when an answer stays out, and then one more for each that comes.
    window: usize,
    srtt: Nanos,
    deviation: Nanos,
    /// Whether the next [`Event::Issue`] is planned.
    issuing: bool,
}

/// A slot, as hosts and checks see it.
#[derive(Debug)]
struct SlotWorld {
    disk: SharedDisk,
    arrivals: Arrivals,
    history: History,
    /// Writes to each sector of which something is alive; kept where hosts are careful.
    held: Vec<u32>,
    /// Commands that the owner has, by place in the order of arrival.
    open: Vec<u64>,
}

impl SlotWorld {
    /// The slot serves again after what it has told: nothing is known any more of what a failed flush was for.
    fn doubt(&mut self) {
        if self.disk.borrow_mut().take_doubt() {
            self.arrivals.doubt();
            self.history.doubt();
        }
    }
}

struct World {
    luck: Rc<Luck>,
    shape: Shape,
    events: BinaryHeap<Reverse<(Nanos, u64, Event)>>,
    planned: u64,
    requests: Vec<Request>,
    sent: Vec<Sent>,
    ops: Vec<Op>,
    seq: u64,
    hosts: Vec<Host>,
    macs: Vec<Mac>,
    slots: Vec<SlotWorld>,
    states: States,
    life: Option<Box<Life>>,
    lives: u64,
    /// Requests made, of those that are to be made before everything heals.
    made: usize,
    under_way: usize,
    crashes: usize,
    /// The next one is planned.
    crashing: bool,
    healed: Option<Nanos>,
    /// The slot and sector to read back next, once all else has ended.
    reading: Option<(usize, u64)>,
    broken: Broken,
    /// Frames of hosts that were cut short: they may be refused for that.
    cut_frames: u64,
    /// Frames for reuse.
    spare: Vec<Vec<u8>>,
    /// The latest planned arrival at each port, to tell what was overtaken.
    latest: [Nanos; 2],
}

/// Lives through the world of a seed.
pub(super) fn live(seed: u64, traced: bool) -> Result<Totals, (String, Vec<String>)> {
    let luck = Rc::new(Luck::new(seed, traced));
    let mut world = World::new(Rc::clone(&luck));
    let over = world.run();
    // A worker that ends badly may lose tokens; those of a world that is well are conserved.
    drop(world);
    match over.and_then(|()| luck.wrong().map_or(Ok(()), Err)) {
        Ok(()) => {
            let mut totals = luck.totals();
            totals.virtual_nanos = luck.now();
            Ok(totals)
        }
        Err(what) => Err((what, luck.traced())),
    }
}

impl World {
    fn new(luck: Rc<Luck>) -> Self {
        let shape = Shape::draw(&luck);
        luck.count(if shape.careful { Kind::Careful } else { Kind::Careless });
        let hosts = shape.hosts.iter().map(|&shape| Host {
            shape,
            under_way: 0,
            window: shape.window,
            srtt: MILLI,
            deviation: MILLI,
            issuing: false,
        });
        let slots = shape.slots.iter().map(|s| SlotWorld {
            disk: Rc::new(RefCell::new(Disk::new(s.sectors, s.backing, s.unit, s.tear, s.mean, s.faults))),
            arrivals: Arrivals::new(s.sectors),
            history: History::new(s.sectors),
            held: vec![0; s.sectors],
            open: Vec::new(),
        });
        let slots: Vec<_> = slots.collect();
        for (at, slot) in slots.iter().enumerate() {
            let mut disk = slot.disk.borrow_mut();
            (disk.slot, disk.cached) = (at, shape.slots[at].cached);
        }
        Self {
            hosts: hosts.collect(),
            macs: shape.hosts.iter().map(|h| h.mac).collect(),
            slots,
            states: States::new(shape.slots.len()),
            shape,
            luck,
            events: BinaryHeap::new(),
            planned: 0,
            requests: Vec::with_capacity(REQUESTS + 64),
            sent: Vec::with_capacity(REQUESTS * 2),
            ops: Vec::with_capacity(REQUESTS * 2),
            seq: 1,
            life: None,
            lives: 0,
            made: 0,
            under_way: 0,
            crashes: 0,
            crashing: false,
            healed: None,
            reading: None,
            broken: Broken::default(),
            cut_frames: 0,
            spare: Vec::new(),
            latest: [0; 2],
        }
    }

    fn plan(&mut self, after: Nanos, event: Event) {
        self.planned += 1;
        self.events.push(Reverse((self.luck.now() + after, self.planned, event)));
    }

    fn frame(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    fn run(&mut self) -> Result<(), String> {
        self.start()?;
        let first = self.luck.about(self.shape.mischief);
        self.plan(first, Event::Mischief);
        self.plan(SECOND / 2, Event::Tidy);
        for host in 0..self.hosts.len() {
            self.wake_host(host);
        }
        while !self.is_over()? {
            let Some(Reverse((now, _, event))) = self.events.pop() else {
                return Err(format!(
                    "nothing happens any more, and {} requests are under way",
                    self.under_way
                ));
            };
            self.luck.set_now(now);
            if self.planned > EVENTS {
                let (made, virtual_ms) = (self.made, now / MILLI);
                let restless = self.restless();
                return Err(format!(
                    "{made} requests made in {virtual_ms} ms, and no end in sight: {restless}"
                ));
            }
            self.happen(event)?;
            if let Some(wrong) = self.luck.wrong() {
                return Err(wrong);
            }
        }
        self.conclude()
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Arrive { port, queue, sent, frame } => self.arrive(port, queue, sent, frame),
            Event::Answer { host, frame } => {
                let result = self.answered(host, &frame);
                self.spare.push(frame);
                return result;
            }
            Event::Issue { host } => self.issue(host),
            Event::Resend { request, sent } => self.resend(request, sent),
            Event::Turn { worker, number } => return self.turn(worker, number),
            Event::DiskEnds { worker, life } => self.disk_ends(worker, life),
            Event::Save { life } => return self.save(life),
            Event::Mischief => self.mischief(),
            Event::Relief(mischief) => self.relieve(mischief),
            Event::Crash { power } => return self.crash(power),
            Event::Start => return self.start(),
            Event::Tidy => self.tidy(),
            Event::Recover { slot, life } => self.recover(slot, life),
        }
        Ok(())
    }

    /// Brings the world to its end in steps: everything heals, everything ends, all is read back, nothing is in flight.
    fn is_over(&mut self) -> Result<bool, String> {
        let Some(healed) = self.healed else {
            if self.made >= REQUESTS && self.life.is_some() {
                if self.crashes == self.shape.crashes.len() {
                    self.heal();
                } else {
                    self.plan_crash();
                }
            }
            return Ok(false);
        };
        if self.under_way == 0 {
            if self.reading.is_none() {
                self.reading = Some((0, 0));
            }
            if self.read_back() {
                return Ok(false);
            }
            if self.is_quiet() {
                return Ok(true);
            }
        }
        if self.luck.now() > healed + LIVENESS {
            let stuck = self.requests.iter().position(|r| r.over.is_none());
            let which = match stuck {
                Some(r) => format!("{} has no answer, of {} under way", self.tell(r), self.under_way),
                None => format!("the workers do not come to rest: {}", self.restless()),
            };
            return Err(format!("{} s after everything had healed, {which}", LIVENESS / SECOND));
        }
        Ok(false)
    }

    /// Reads everything back, one command after the other; false when that has been done.
    fn read_back(&mut self) -> bool {
        let Some((slot, lba)) = self.reading else { return true };
        let Some(sectors) = self.shape.slots.get(slot).map(|s| s.sectors as u64) else { return false };
        let count = u64::from(self.shape.sectors()).min(sectors - lba) as u8;
        let next = lba + u64::from(count);
        self.reading = Some(if next == sectors { (slot + 1, 0) } else { (slot, next) });
        let opcode = request::opcode(What::Read, &self.luck);
        self.make(0, What::Read, Some(slot), lba, count, opcode);
        true
    }

    fn heal(&mut self) {
        self.luck.trace(|| "everything heals".into());
        self.healed = Some(self.luck.now());
        self.shape.wire = super::shape::WireShape { mean: self.shape.wire.mean, ..Default::default() };
        (self.shape.stall, self.shape.save_faults, self.shape.keep_out) = (0, 0, 0);
        for slot in &self.slots {
            slot.disk.borrow_mut().heal();
        }
        self.heal_rings();
        self.reschedule_disks();
        self.recover_all();
    }

    /// Hosts that keep each other out would wait for ever, and a late copy may bring a reservation back.
    fn tidy(&mut self) {
        let waits = |r: &&Request| r.over.is_none() && r.kept_out;
        let mut slots: Vec<_> = self.requests.iter().filter(waits).filter_map(|r| r.slot).collect();
        // A read of all slots gets no answer at all from those that are reserved for others.
        let long_ago = self.luck.now().saturating_sub(SECOND);
        let silent = |r: &Request| r.over.is_none() && r.slot.is_none() && r.born < long_ago;
        if self.requests.iter().any(silent) {
            slots.extend(0..self.slots.len());
        }
        slots.sort_unstable();
        slots.dedup();
        for slot in slots {
            self.make(0, What::Release, Some(slot), 0, 0, 0);
        }
        self.plan(SECOND / 2, Event::Tidy);
    }

    // -------------------------------------------------------------- hosts

    fn wake_host(&mut self, host: usize) {
        if !std::mem::replace(&mut self.hosts[host].issuing, true) {
            let think = self.luck.about(self.hosts[host].shape.think);
            self.plan(think, Event::Issue { host });
        }
    }

    fn issue(&mut self, host: usize) {
        self.hosts[host].issuing = false;
        let h = &self.hosts[host];
        if self.made >= REQUESTS || h.under_way >= h.window.max(1) {
            return;
        }
        self.draw(host);
        self.made += 1;
        self.plan_crash();
        self.wake_host(host);
    }

    fn plan_crash(&mut self) {
        if let Some(&(at, power)) = self.shape.crashes.get(self.crashes) {
            if self.made >= at && self.life.is_some() && !self.crashing {
                self.crashing = true;
                let after = self.luck.about(MILLI);
                self.plan(after, Event::Crash { power });
            }
        }
    }

    /// Draws a request and makes it.
    fn draw(&mut self, host: usize) {
        let luck = Rc::clone(&self.luck);
        let slot = luck.index(self.slots.len());
        if luck.permille(self.hosts[host].shape.odd) {
            let (what, slot) = match luck.below(20) {
                0..=2 => (What::Flush, Some(slot)),
                3..=5 => (What::Identify, Some(slot)),
                6..=8 => (What::ConfigRead, Some(slot)),
                9 => (What::ConfigRead, None),
                10 => (What::Identify, None),
                11..=13 => (What::ConfigSet { force: true }, Some(slot)),
                14 => (What::ConfigSet { force: false }, Some(slot)),
                15 | 16 => (What::Mask { add: luck.permille(500) }, Some(slot)),
                17 => (What::Release, Some(slot)),
                18 => {
                    let without =
                        luck.permille(self.shape.keep_out).then(|| luck.index(self.hosts.len()) as u8);
                    (What::Reserve { without }, Some(slot))
                }
                _ => (What::Read, None),
            };
            if slot.is_none() {
                luck.count(Kind::Wildcards);
            }
            let opcode = request::opcode(what, &luck);
            return self.make(host, what, slot, 0, 1, opcode);
        }
        let sectors = self.shape.slots[slot].sectors as u64;
        let most = u64::from(self.shape.sectors());
        let (mut lba, mut count, mut what) = (0, 1, What::Read);
        for attempt in 0..8 {
            count = match luck.below(4) {
                0 => luck.among(1, most),
                1 => most,
                _ => luck.among(1, most.min(4)),
            };
            what = match luck.below(100) {
                _ if attempt == 7 => What::Read,
                _ if luck.permille(self.shape.flushes) => What::Flush,
                0..=44 => What::Read,
                45..=84 => What::Write,
                85..=90 => What::Forced,
                91..=93 => What::Verify,
                94..=96 if self.shape.slots[slot].trim => What::Trim,
                _ => What::Write,
            };
            if what == What::Trim && most < 2 && luck.permille(500) {
                count = 1;
            }
            // A small part of it is hot, so is its end.
            lba = match luck.below(10) {
                0 => sectors - count,
                1..=5 => luck.below(8.min(sectors - count + 1)),
                _ => luck.below(sectors - count + 1),
            };
            if luck.permille(8) && what != What::Trim {
                // One too many.
                lba = sectors - count + 1 + luck.below(2);
            }
            if self.may_write(slot, what, lba, count as u8) {
                break;
            }
            what = What::Read;
        }
        let opcode = request::opcode(what, &luck);
        self.make(host, what, Some(slot), lba, count as u8, opcode);
    }

    /// Whether a careful host may make this request now.
    fn may_write(&self, slot: usize, what: What, lba: u64, count: u8) -> bool {
        let range = lba as usize..lba as usize + usize::from(count);
        !self.shape.careful
            || !what.changes()
            || self.slots[slot].held.get(range).is_none_or(|held| held.iter().all(|n| *n == 0))
    }

    fn is_beyond(&self, request: &Request) -> bool {
        let end = request.lba + u64::from(request.count);
        matches!(request.what, What::Read | What::Write | What::Forced | What::Verify | What::Trim)
            && request.slot.is_some_and(|slot| end > self.shape.slots[slot].sectors as u64)
    }

    fn make(&mut self, host: usize, what: What, slot: Option<usize>, lba: u64, count: u8, opcode: u8) {
        let luck = &self.luck;
        luck.count(Kind::Requests);
        luck.count(match what {
            What::Read => Kind::Reads,
            What::Write => Kind::Writes,
            What::Forced => Kind::ForcedWrites,
            What::Verify => Kind::Verifies,
            What::Trim => Kind::Trims,
            What::Flush => Kind::Flushes,
            What::Identify => Kind::Identifies,
            What::ConfigRead => Kind::ConfigReads,
            What::ConfigSet { .. } => Kind::ConfigSets,
            What::Mask { .. } => Kind::MaskEdits,
            What::Reserve { .. } | What::Release => Kind::Reservations,
        });
        let id = self.requests.len() as u32;
        let rto =
            (self.hosts[host].srtt + 4 * self.hosts[host].deviation).max(self.hosts[host].shape.patience);
        let mut request = Request {
            host,
            what,
            slot,
            lba,
            count,
            opcode,
            born: luck.now(),
            sent: 0,
            tag: 0,
            rto: rto.min(LONGEST_RTO),
            over: None,
            alive: 0,
            floors: (Vec::new(), 0),
            holds: false,
            ops: Vec::new(),
            kept_out: false,
        };
        let beyond = self.is_beyond(&request);
        if beyond {
            luck.count(Kind::BeyondEnd);
        }
        if let Some(slot) = slot {
            let world = &mut self.slots[slot];
            if lba + u64::from(count) == self.shape.slots[slot].sectors as u64 {
                luck.count(Kind::LastSector);
            }
            request.floors = match what {
                What::Read if !beyond => {
                    world.history.floors(lba as usize..lba as usize + usize::from(count))
                }
                What::Flush => world.history.answered(),
                What::ConfigRead => (vec![self.states.floor(slot)], 0),
                _ => world.history.floors(0..0),
            };
            if what.changes() && !beyond && self.shape.careful {
                request.holds = true;
                for (at, stamp) in request::changed(id, &request) {
                    world.history.begin(at, stamp);
                }
                let held = &mut world.held[lba as usize..lba as usize + usize::from(count)];
                held.iter_mut().for_each(|n| *n += 1);
            }
        }
        self.hosts[host].under_way += 1;
        self.under_way += 1;
        self.requests.push(request);
        self.note(id, |what| format!("host {host} makes {what}"));
        self.send(id);
    }

    fn resend(&mut self, id: u32, sent: u32) {
        let request = &mut self.requests[id as usize];
        if request.over.is_some() || request.sent != sent {
            return;
        }
        if request.slot.is_none() && request.what == What::Read && sent >= 6 {
            // Nobody answers: all slots have failed or are reserved, and to a wildcard errors are silence.
            request.over = Some(false);
            let host = request.host;
            self.hosts[host].under_way -= 1;
            self.under_way -= 1;
            return self.wake_host(host);
        }
        request.rto = (request.rto * 2).min(LONGEST_RTO);
        let host = &mut self.hosts[request.host];
        host.window = (host.window / 2).max(1);
        let kind = if host.shape.manner == Manner::Bsd { Kind::SameTag } else { Kind::Retransmits };
        self.luck.count(kind);
        self.send(id);
    }

    /// Sends a request, for the first time or again.
    fn send(&mut self, id: u32) {
        let at = id as usize;
        let manner = self.hosts[self.requests[at].host].shape.manner;
        if self.requests[at].sent == 0 || manner == Manner::Linux {
            self.requests[at].tag = FIRST_TAG + self.sent.len() as u32;
            let (delivered, since) = (0, 0);
            self.sent.push(Sent { request: id, delivered, answers: [0; 4], since, ops: Vec::new() });
        }
        self.requests[at].sent += 1;
        let luck = Rc::clone(&self.luck);
        let port = luck.index(self.shape.ports.len());
        let request = &self.requests[at];
        let sent = request.tag - FIRST_TAG;
        let (vlan, address) = match request.slot {
            Some(slot) => (self.shape.slots[slot].vlan, self.shape.slots[slot].address),
            // On the VLAN of one of them, so that somebody answers.
            None => (self.shape.slots[id as usize % self.slots.len()].vlan, Address::ANY),
        };
        let broadcast = request.slot.is_none() || luck.permille(50);
        let destination = if broadcast { Mac::BROADCAST } else { self.shape.ports[port].mac };
        let source = self.macs[request.host];
        let (rto, number, slot) = (request.rto, request.sent, request.slot);
        let mut frame = self.frame();
        let route = Route { source, destination, vlan, address, hosts: &self.macs };
        request::emit(id, &self.requests[at], route, &mut frame);
        let queues = &self.shape.ports[port].queues;
        let queue = match slot {
            Some(slot) if !self.shape.scattered => queues[slot % queues.len()],
            _ => queues[luck.index(queues.len())],
        };
        self.wire_to_target(port, queue, Some(sent), frame);
        // Late, so that not all hosts resend at the same moment.
        self.plan(rto + luck.about(100 * MICRO), Event::Resend { request: id, sent: number });
    }

    /// Nothing of a request is alive any more, as far as this frame goes.
    fn dies(&mut self, sent: Option<u32>) {
        let Some(sent) = sent else { return };
        let id = self.sent[sent as usize].request;
        let request = &mut self.requests[id as usize];
        match request.alive.checked_sub(1) {
            Some(alive) => request.alive = alive,
            None => self.luck.blame(|| format!("the simulator lost count of the copies of request {id}")),
        }
        self.let_go(id);
    }

    /// Lets others write to the sectors of a write that is over.
    fn let_go(&mut self, id: u32) {
        let request = &mut self.requests[id as usize];
        if !request.holds || request.alive > 0 || request.over.is_none() {
            return;
        }
        request.holds = false;
        let (from, count) = (request.lba as usize, usize::from(request.count));
        if let Some(slot) = request.slot {
            self.slots[slot].held[from..from + count].iter_mut().for_each(|n| *n = n.saturating_sub(1));
        }
    }

    /// Notes something about a request.
    fn note(&self, id: u32, what: impl FnOnce(String) -> String) {
        let request = &self.requests[id as usize];
        let sectors = request.lba..request.lba + u64::from(request.count);
        let sectors = if request.what == What::Flush { 0..0 } else { sectors };
        match request.slot.filter(|_| request.what.is_disk()) {
            Some(slot) => self.luck.trace_at(slot, sectors, || what(self.tell(id as usize))),
            None => self.luck.trace(|| what(self.tell(id as usize))),
        }
    }

    /// A request, for a message.
    fn tell(&self, id: usize) -> String {
        let Some(r) = self.requests.get(id) else { return format!("request {id}") };
        let slot = r.slot.map_or_else(|| "all slots".to_owned(), |s| format!("slot {s}"));
        format!("request {id} of host {}: {:?} {}+{} of {slot}", r.host, r.what, r.lba, r.count)
    }

    /// The end: nothing is left anywhere, and every frame was counted once.
    fn conclude(&mut self) -> Result<(), String> {
        self.conclude_life()?;
        for sent in &self.sent {
            let mine =
                || sent.ops.iter().map(|op| &self.ops[*op as usize]).filter(|op| op.life == self.lives);
            let (taken, answered) =
                (mine().filter(|op| op.taken).count(), mine().filter(|op| op.answered).count());
            if taken > answered {
                return Err(format!("{} was taken and never answered", self.tell(sent.request as usize)));
            }
        }
        Ok(())
    }

    fn is_memory(&self, slot: usize) -> bool {
        self.shape.slots[slot].backing == Backing::Ram
    }
}
