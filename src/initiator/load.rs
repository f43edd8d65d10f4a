//! The load: which requests are made, what their answers mean, and when it is over.
//!
//! Not here: the socket and the clock; frames go in by [`Load::take`] and come out by [`Load::flush`], the time is
//! passed in. Pure, so that the tests run it against a simulated network and target.
//! Invariant: a slot never has more than its window outstanding, and every request made ends as exactly one of
//! done, failed or given up.

use super::ledger::{Ledger, Totals};
use super::pattern::{Mismatch, Random};
use super::session::{
    MILLISECOND, Nanos, Overdue, Patience, PeerId, RequestId, Sending, Session, Slot, Verdict,
};
use super::wire::{Arrival, Ask, Failure, HEADER_ROOM, Reply, Route, Unread, Width};
use crate::limits::SECTOR;
use crate::protocol::{Address, Mac};
use arrayvec::ArrayVec;
use hdrhistogram::Histogram;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Frames sent in one go.
const BATCH: usize = 64;
/// Errors in a row after which a slot is left alone: it will not get better, and it answers fast.
const ERRORS_IN_A_ROW: u32 = 100;
/// Wrong sectors kept with all details; all are counted.
const MISMATCHES_KEPT: usize = 16;
/// Places tried for one verified request, before it has to wait for others to end.
const TRIES: u32 = 16;
/// Writes remembered to be read back soon.
const RECENT: usize = 1024;
/// Transmissions remembered to tell late answers from unexpected ones.
const MEMORY: usize = 1 << 18;
/// Latencies told apart, in nanoseconds; longer ones count as the longest.
const LATENCIES: (u64, u64) = (100, 3_600_000_000_000);

/// What kind of requests are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reads.
    Read,
    /// Writes of meaningless data.
    Write,
    /// Both.
    Mix {
        /// Reads among 100 requests.
        reads: u8,
    },
    /// Writes of known data and reads that check it, then all of it once more.
    Verify,
}

/// Where requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anywhere, aligned to the size of a request.
    Random,
    /// One behind the other, and again from the start.
    Sequential,
}

/// What to do, for all slots.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What kind of requests.
    pub mode: Mode,
    /// Where they go; a verification chooses itself.
    pub access: Access,
    /// How long to make requests.
    pub duration: Nanos,
    /// When to send again and give up.
    pub patience: Patience,
    /// Longest time the network may hold a frame back. In a verification the sectors of a write are not written again
    /// for so long after its answer, and then even if copies of it were not answered. `None`: it neither repeats nor
    /// overtakes, and copies of ours that were not answered are waited for.
    pub settle: Option<Nanos>,
    /// Makes choices and data repeatable.
    pub seed: u64,
    /// Where tags begin: not where another process on this host does.
    pub first_serial: u32,
    /// Our MAC address.
    pub source: Mac,
    /// VLAN to send in.
    pub vlan: Option<u16>,
}

/// One slot to load.
#[derive(Clone, Copy, Debug)]
pub struct Lun {
    /// Its shelf.slot.
    pub address: Address,
    /// The MAC address to send to.
    pub mac: Mac,
    /// Sectors of one request, at most.
    pub sectors: u8,
    /// Requests outstanding, at most.
    pub window: usize,
    /// Use the first this many sectors.
    pub span: u64,
    /// Address width.
    pub width: Width,
}

/// Requests of one direction.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Completed well while requests were being made.
    pub completed: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Nanoseconds from first transmission to answer, of all good requests.
    pub latency: Histogram<u64>,
}

impl Tally {
    #[expect(
        clippy::expect_used,
        reason = "the bounds are constants, and every load of every test makes one"
    )]
    fn new() -> Self {
        let latency = Histogram::new_with_bounds(LATENCIES.0, LATENCIES.1, 3).expect("good bounds");
        Self { completed: 0, bytes: 0, latency }
    }
}

/// Why a slot was left alone before the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// A request was not answered before its deadline.
    Silent {
        /// What was asked.
        ask: Ask,
        /// How often.
        transmissions: u32,
    },
    /// Nothing but errors.
    Errors(Failure),
}

/// What happened to one slot.
#[derive(Clone, Debug)]
pub struct LunReport {
    /// What it was.
    pub lun: Lun,
    /// Reads.
    pub reads: Tally,
    /// Writes.
    pub writes: Tally,
    /// Requests sent again.
    pub retransmits: u64,
    /// Requests the target failed, by how.
    pub errors: BTreeMap<Failure, u64>,
    /// Whether and why it was left alone before the end.
    pub left: Option<Left>,
    /// Sectors, in a verification.
    pub totals: Option<Totals>,
    /// Sectors read back at the end.
    pub read_back: u64,
}

/// Replies that completed nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strays {
    /// To another copy of a request that was answered.
    pub late: u64,
    /// To a copy that was answered before.
    pub duplicate: u64,
    /// With a tag nobody knows.
    pub unexpected: u64,
    /// From another MAC address than asked.
    pub wrong_source: u64,
    /// From another shelf.slot than asked.
    pub wrong_address: u64,
    /// With another command than asked.
    pub wrong_command: u64,
    /// Too short to be read.
    pub malformed: u64,
}

/// What a load is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Making requests.
    Loading,
    /// Waiting for the last answers.
    Draining,
    /// Reading back what was written.
    ReadingBack,
    /// Over.
    Done,
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Requests completed well.
    pub completed: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Requests sent again.
    pub retransmits: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Sectors that were wrong.
    pub bad: u64,
    /// Of the final pass: sectors read and sectors to read.
    pub read_back: (u64, u64),
}

/// What a load has found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Slot by slot.
    pub luns: Vec<LunReport>,
    /// Replies that completed nothing.
    pub strays: Strays,
    /// The first wrong sectors.
    pub mismatches: Vec<Mismatch>,
    /// All wrong sectors.
    pub bad: u64,
    /// Time during which requests were made.
    pub loaded_for: Nanos,
}

/// A request in flight.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    lun: usize,
    lba: u64,
    count: u8,
    /// The write's, when data is verified.
    generation: u32,
    write: bool,
    length: usize,
}

const UNUSED: Ticket = Ticket { lun: 0, lba: 0, count: 0, generation: 0, write: false, length: 0 };

struct State {
    report: LunReport,
    peer: PeerId,
    route: Route,
    outstanding: usize,
    random: Random,
    next: u64,
    errors_in_a_row: u32,
    ledger: Option<Ledger>,
    recent: VecDeque<(u64, u8)>,
}

/// A write that was answered, with copies that were not.
struct Frozen {
    lun: usize,
    lba: u64,
    count: u8,
    copies: u32,
}

/// A write that was answered, and until when the network may hold a copy of it.
struct Settling {
    until: Nanos,
    lun: usize,
    lba: u64,
    count: u8,
}

/// A load in progress.
pub struct Load {
    plan: Plan,
    session: Session,
    luns: Vec<State>,
    tickets: Vec<Ticket>,
    frames: Vec<Box<[u8]>>,
    outbox: VecDeque<Sending>,
    frozen: HashMap<RequestId, Frozen>,
    /// Writes whose copies may still be on their way, soonest first, and until when; with [`Plan::settle`] only.
    settling: VecDeque<Settling>,
    strays: Strays,
    mismatches: Vec<Mismatch>,
    bad: u64,
    phase: Phase,
    read_back: bool,
    to_read_back: u64,
    started: Option<Nanos>,
    loaded_for: Nanos,
    swept: Nanos,
    overdue: Vec<Slot>,
}

impl Load {
    /// Gets ready; nothing is sent yet.
    #[must_use]
    pub fn new(plan: Plan, luns: &[Lun]) -> Self {
        let capacity = luns.iter().map(|l| l.window.max(1)).sum::<usize>();
        let mut session = Session::new(plan.patience, capacity, MEMORY, plan.first_serial);
        let mut random = Random::new(plan.seed);
        let writes = plan.mode != Mode::Read;
        let data = luns.iter().map(|l| usize::from(l.sectors)).max().unwrap_or(0) * SECTOR;
        let frame = |random: &mut Random| {
            let mut frame = vec![0; HEADER_ROOM + if writes { data } else { 0 }];
            frame.chunks_exact_mut(8).for_each(|c| c.copy_from_slice(&random.next().to_le_bytes()));
            frame.into_boxed_slice()
        };
        let frames = (0..capacity).map(|_| frame(&mut random)).collect();
        let state = |lun: &Lun| State {
            report: LunReport {
                lun: Lun { window: lun.window.max(1), ..*lun },
                reads: Tally::new(),
                writes: Tally::new(),
                retransmits: 0,
                errors: BTreeMap::new(),
                left: None,
                totals: None,
                read_back: 0,
            },
            peer: session.add_peer(lun.address, lun.mac),
            route: Route { source: plan.source, destination: lun.mac, vlan: plan.vlan },
            outstanding: 0,
            random: Random::new(random.next()),
            next: 0,
            errors_in_a_row: 0,
            ledger: (plan.mode == Mode::Verify)
                .then(|| Ledger::new(plan.seed, lun.address, usize::try_from(lun.span).unwrap_or(0))),
            recent: VecDeque::with_capacity(RECENT),
        };
        let luns = luns.iter().map(state).collect();
        Self {
            plan,
            session,
            luns,
            tickets: vec![UNUSED; capacity],
            frames,
            outbox: VecDeque::with_capacity(2 * capacity),
            frozen: HashMap::new(),
            settling: VecDeque::new(),
            strays: Strays::default(),
            mismatches: Vec::new(),
            bad: 0,
            phase: Phase::Loading,
            read_back: false,
            to_read_back: 0,
            started: None,
            loaded_for: 0,
            swept: 0,
            overdue: Vec::with_capacity(capacity),
        }
    }

    /// Does what is due: sends overdue requests again, makes new ones, goes on to the next phase.
    pub fn turn(&mut self, now: Nanos) {
        let started = *self.started.get_or_insert(now);
        if now.saturating_sub(self.swept) >= MILLISECOND {
            self.swept = now;
            self.sweep(now);
            self.settle(now);
        }
        if self.phase == Phase::Loading && now.saturating_sub(started) >= self.plan.duration {
            self.stop(now);
        }
        if self.phase == Phase::Draining && self.session.outstanding() == 0 {
            if self.plan.mode == Mode::Verify && !self.read_back {
                self.begin_reading_back();
            } else {
                self.phase = Phase::Done;
            }
        }
        if matches!(self.phase, Phase::Loading | Phase::ReadingBack) {
            let mut busy = false;
            for lun in 0..self.luns.len() {
                while self.luns[lun].report.left.is_none()
                    && self.luns[lun].outstanding < self.luns[lun].report.lun.window
                    && self.make_request(now, lun)
                {}
                busy |= self.luns[lun].report.left.is_none();
            }
            let nothing_left = self.phase == Phase::ReadingBack && self.session.outstanding() == 0;
            if nothing_left || !busy {
                self.stop(now);
            }
        }
    }

    /// Makes no more requests of this phase; what is outstanding is waited for.
    pub fn stop(&mut self, now: Nanos) {
        if self.phase == Phase::Loading {
            self.loaded_for = now.saturating_sub(self.started.unwrap_or(now));
        }
        if self.phase != Phase::Done {
            self.phase = Phase::Draining;
        }
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Gives the frames that wait to `send`, in batches, until none is left or it takes fewer than it was given;
    /// those come again. `send` returns how many have left. Returns whether all have.
    ///
    /// # Errors
    /// What `send` fails with.
    pub fn flush<E>(&mut self, mut send: impl FnMut(&[&[u8]]) -> Result<usize, E>) -> Result<bool, E> {
        // A request may be answered while its next copy waits for room; sending that would be another copy out.
        let session = &self.session;
        self.outbox.retain(|&sending| session.is_current(sending));
        while !self.outbox.is_empty() {
            let mut batch = ArrayVec::<&[u8], BATCH>::new();
            for sending in self.outbox.iter().take(BATCH) {
                let slot = sending.slot.index();
                batch.push(&self.frames[slot][..self.tickets[slot].length]);
            }
            let sent = send(&batch)?;
            let all = sent >= batch.len();
            drop(batch);
            self.outbox.drain(..sent.min(self.outbox.len()));
            if !all {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes a frame that came in.
    pub fn take(&mut self, now: Nanos, arrival: Arrival<'_>) {
        let reply = match Reply::parse(arrival) {
            Ok(reply) => reply,
            Err(Unread::Other) => return,
            Err(Unread::Short) => {
                self.strays.malformed += 1;
                return;
            }
        };
        let completed = match self.session.reply(now, &reply) {
            Verdict::Completes(completed) => completed,
            Verdict::Late(id) => {
                self.strays.late += 1;
                self.thaw(id);
                return;
            }
            Verdict::Duplicate => return self.strays.duplicate += 1,
            Verdict::Unexpected => return self.strays.unexpected += 1,
            Verdict::WrongSource => return self.strays.wrong_source += 1,
            Verdict::WrongAddress => return self.strays.wrong_address += 1,
            Verdict::WrongCommand => return self.strays.wrong_command += 1,
            Verdict::Foreign => return,
        };
        let ticket = self.tickets[completed.slot.index()];
        let Ticket { lba, count, .. } = ticket;
        let state = &mut self.luns[ticket.lun];
        state.outstanding -= 1;
        let kept = |data: &[u8]| {
            // What was cut off on the way in was not compared; that must not pass for good.
            let whole = state.ledger.is_none() || ticket.write || data.len() == usize::from(count) * SECTOR;
            if whole { Ok(()) } else { Err(Failure::Cut) }
        };
        let data = match reply.result(completed.ask).and_then(|data| kept(data).map(|()| data)) {
            Ok(data) => data,
            Err(failure) => {
                *state.report.errors.entry(failure).or_default() += 1;
                state.errors_in_a_row += 1;
                let enough = state.errors_in_a_row >= ERRORS_IN_A_ROW;
                self.release(ticket);
                if enough {
                    self.leave(ticket.lun, Left::Errors(failure));
                }
                return;
            }
        };
        state.errors_in_a_row = 0;
        let tally = if ticket.write { &mut state.report.writes } else { &mut state.report.reads };
        if !self.read_back {
            if self.phase == Phase::Loading {
                tally.completed += 1;
                tally.bytes += u64::from(count) * SECTOR as u64;
            }
            tally.latency.saturating_record(completed.latency.max(1));
        }
        let Some(ledger) = &mut state.ledger else { return };
        if ticket.write {
            let copies = self.plan.settle.is_some() || completed.unanswered > 0;
            ledger.end_write(lba, count, ticket.generation, copies);
            if state.recent.len() == RECENT {
                state.recent.pop_front();
            }
            state.recent.push_back((lba, count));
            if let Some(settle) = self.plan.settle {
                let until = now.saturating_add(settle);
                self.settling.push_back(Settling { until, lun: ticket.lun, lba, count });
            } else if completed.unanswered > 0 {
                let frozen = Frozen { lun: ticket.lun, lba, count, copies: completed.unanswered };
                self.frozen.insert(completed.id, frozen);
            }
        } else {
            if self.read_back {
                state.report.read_back += u64::from(count);
            }
            ledger.check(lba, count, data, &mut |mismatch| {
                self.bad += 1;
                if self.mismatches.len() < MISMATCHES_KEPT {
                    self.mismatches.push(mismatch);
                }
            });
        }
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let sum = |f: fn(&LunReport) -> u64| self.luns.iter().map(|l| f(&l.report)).sum();
        Progress {
            phase: self.phase,
            completed: sum(|r| r.reads.completed + r.writes.completed),
            bytes: sum(|r| r.reads.bytes + r.writes.bytes),
            retransmits: sum(|r| r.retransmits),
            errors: sum(|r| r.errors.values().sum()),
            bad: self.bad,
            read_back: (sum(|r| r.read_back), self.to_read_back),
        }
    }

    /// What it found.
    #[must_use]
    pub fn outcome(self) -> Outcome {
        let report = |state: State| LunReport { totals: state.ledger.map(|l| l.totals()), ..state.report };
        Outcome {
            luns: self.luns.into_iter().map(report).collect(),
            strays: self.strays,
            mismatches: self.mismatches,
            bad: self.bad,
            loaded_for: self.loaded_for,
        }
    }

    fn begin_reading_back(&mut self) {
        self.phase = Phase::ReadingBack;
        self.read_back = true;
        for state in &mut self.luns {
            state.next = 0;
            if let (Some(ledger), None) = (&state.ledger, state.report.left) {
                self.to_read_back += ledger.totals().written;
            }
        }
    }

    fn sweep(&mut self, now: Nanos) {
        let mut overdue = std::mem::take(&mut self.overdue);
        self.session.overdue(now, &mut overdue);
        for slot in overdue.drain(..) {
            match self.session.expire(now, slot) {
                Some(Overdue::Resend(sending)) => {
                    let lun = &mut self.luns[self.tickets[slot.index()].lun];
                    lun.report.retransmits += 1;
                    lun.route.retag(sending.tag, &mut self.frames[slot.index()]);
                    self.outbox.push_back(sending);
                }
                Some(Overdue::GaveUp { slot, ask, transmissions, .. }) => {
                    let ticket = self.tickets[slot.index()];
                    self.luns[ticket.lun].outstanding -= 1;
                    *self.luns[ticket.lun].report.errors.entry(Failure::Silent).or_default() += 1;
                    self.release(ticket);
                    self.leave(ticket.lun, Left::Silent { ask, transmissions });
                }
                None => {}
            }
        }
        self.overdue = overdue;
    }

    /// Forgets a request that did not end well.
    fn release(&mut self, ticket: Ticket) {
        if let Some(ledger) = &mut self.luns[ticket.lun].ledger {
            if ticket.write {
                ledger.lose(ticket.lba, ticket.count);
            } else {
                ledger.end_read(ticket.lba, ticket.count);
            }
        }
    }

    /// Leaves a slot alone, with whatever is outstanding there.
    fn leave(&mut self, lun: usize, why: Left) {
        let mut dropped = Vec::new();
        self.session.abandon(self.luns[lun].peer, &mut dropped);
        for slot in dropped {
            self.release(self.tickets[slot.index()]);
        }
        self.luns[lun].outstanding = 0;
        self.luns[lun].report.left.get_or_insert(why);
    }

    fn thaw(&mut self, id: RequestId) {
        let Some(frozen) = self.frozen.get_mut(&id) else { return };
        frozen.copies -= 1;
        if frozen.copies == 0 {
            if let Some(ledger) = &mut self.luns[frozen.lun].ledger {
                ledger.thaw(frozen.lba, frozen.count);
            }
            self.frozen.remove(&id);
        }
    }

    /// Opens sectors for writing again whose last write can have no copy on its way any more. Every copy was sent before
    /// the answer, and a target that keeps the order of arrival cannot let it overtake what is sent from now on.
    fn settle(&mut self, now: Nanos) {
        while self.settling.front().is_some_and(|write| write.until <= now) {
            let Some(write) = self.settling.pop_front() else { return };
            if let Some(ledger) = &mut self.luns[write.lun].ledger {
                ledger.thaw(write.lba, write.count);
            }
        }
    }

    /// Begins one request to a slot; false when there is none to make now.
    fn make_request(&mut self, now: Nanos, lun: usize) -> bool {
        let state = &mut self.luns[lun];
        let Some(mut ticket) = state.choose(&self.plan, self.read_back) else { return false };
        ticket.lun = lun;
        let Ticket { lba, count, write, generation, .. } = ticket;
        let width = state.report.lun.width;
        let ask = if write { Ask::Write { lba, count, width } } else { Ask::Read { lba, count, width } };
        let Some((sending, _)) = self.session.begin(now, state.peer, ask) else {
            // Cannot be: the capacity is the sum of all windows.
            self.release(ticket);
            return false;
        };
        state.outstanding += 1;
        let slot = sending.slot.index();
        let frame = &mut self.frames[slot];
        ticket.length = state.route.emit(state.report.lun.address, sending.tag, ask, frame);
        if write {
            let end = ticket.length + usize::from(count) * SECTOR;
            if let Some(ledger) = &state.ledger {
                ledger.fill(lba, generation, &mut frame[ticket.length..end]);
            }
            ticket.length = end;
        }
        self.tickets[slot] = ticket;
        self.outbox.push_back(sending);
        true
    }
}

impl State {
    /// What to ask next, and in a verification the right to do so.
    fn choose(&mut self, plan: &Plan, read_back: bool) -> Option<Ticket> {
        let Lun { sectors, span, .. } = self.report.lun;
        let ticket = |lba, count, write, generation| Ticket { lba, count, write, generation, ..UNUSED };
        if let Some(ledger) = &mut self.ledger {
            if !read_back {
                return Self::choose_verified(&mut self.random, ledger, &self.recent, sectors);
            }
            let (lba, count) = ledger.next_written(self.next, sectors)?;
            // All sectors are at rest in the final pass, and it visits each once.
            ledger.begin_read(lba, count);
            self.next = lba + u64::from(count);
            return Some(ticket(lba, count, false, 0));
        }
        let count = u64::from(sectors).min(span).max(1);
        let blocks = (span / count).max(1);
        let lba = match plan.access {
            Access::Random => self.random.below(blocks) * count,
            Access::Sequential => {
                let block = self.next;
                self.next = (block + 1) % blocks;
                block * count
            }
        };
        let write = match plan.mode {
            Mode::Read => false,
            Mode::Write | Mode::Verify => true,
            Mode::Mix { reads } => self.random.below(100) >= u64::from(reads),
        };
        Some(ticket(lba, count as u8, write, 0))
    }

    /// Half writes, half reads; most requests are whole and aligned, some are odd, and many read what was just
    /// written.
    fn choose_verified(
        random: &mut Random,
        ledger: &mut Ledger,
        recent: &VecDeque<(u64, u8)>,
        sectors: u8,
    ) -> Option<Ticket> {
        let span = ledger.sectors();
        let most = u64::from(sectors).min(span);
        for _ in 0..TRIES {
            let (mut lba, mut count) = if random.below(4) == 0 {
                let count = 1 + random.below(most);
                (random.below(span - count + 1), count)
            } else {
                (random.below((span / most.max(1)).max(1)) * most, most)
            };
            if count == 0 {
                return None;
            }
            if random.below(2) == 0 {
                if let Some(&(at, n)) = recent.get(random.below(recent.len() as u64) as usize) {
                    match random.below(4) {
                        0 | 1 => (lba, count) = (at, u64::from(n)),
                        2 => lba = (at + random.below(u64::from(n))).min(span - count),
                        _ => {}
                    }
                }
                if ledger.begin_read(lba, count as u8) {
                    return Some(Ticket { lba, count: count as u8, ..UNUSED });
                }
            } else if let Some(generation) = ledger.begin_write(lba, count as u8) {
                return Some(Ticket { lba, count: count as u8, generation, write: true, ..UNUSED });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
