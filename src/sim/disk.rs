//! Disks that are slow, stuck, failing, tearing and forgetful, and the storage of a worker over them.
//!
//! Not a model of any disk: worse than all of them in what it does when it may, and exact in what it promises.
//! Invariant: what a disk has to keep, it keeps - a write that completed on a write-through disk, one that was forced, and
//! what had completed before a flush that succeeded was submitted; everything else is lost whenever that may happen.

use super::luck::{Luck, MICRO, MILLI, Nanos, mix};
use super::stamp::{self, Stamp};
use super::totals::Kind;
use crate::frame::{Buffer, Region};
use crate::limits::SECTOR;
use crate::storage::{Done, Failure, FileId, Job, Storage, Ticket, Verb};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

/// When a completed write is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// With its completion.
    Through,
    /// With the next flush, or with its completion if that was asked for.
    Back,
    /// Never: it is memory.
    Ram,
}

/// How often, of 1,000 commands, what happens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A read fails.
    pub read: u64,
    /// A write fails, and not for want of room.
    pub write: u64,
    /// A write finds no room.
    pub no_room: u64,
    /// A flush fails.
    pub flush: u64,
    /// A TRIM fails.
    pub trim: u64,
    /// A command takes fifty times as long as others.
    pub slow: u64,
}

/// What a sector was given since it was safe last.
#[derive(Clone, Copy, Debug)]
struct Entry {
    stamp: Stamp,
    /// The command that gave it.
    serial: u64,
    /// Number of its completion among those of the disk; 0 before.
    ended: u64,
    /// The command failed, or a flush of it did: no flush makes it safe any more.
    cursed: bool,
}

#[derive(Clone, Debug, Default)]
struct Sector {
    safe: Stamp,
    since: Vec<Entry>,
}

impl Sector {
    fn now(&self) -> Stamp {
        self.since.last().map_or(self.safe, |entry| entry.stamp)
    }
}

/// One disk; it outlives the processes that use it.
#[derive(Debug)]
pub struct Disk {
    /// The slot it is behind.
    pub slot: usize,
    sectors: Vec<Sector>,
    backing: Backing,
    /// Sectors that it writes as a whole.
    unit: usize,
    /// Sectors that a power cut tears a write between.
    tear: usize,
    /// Nothing ends before.
    stuck_until: Nanos,
    /// How long a command takes.
    pub mean: Nanos,
    /// What goes wrong.
    pub faults: Faults,
    serial: u64,
    /// Changes that have completed.
    ended: u64,
    /// Faults that could make a read, or anything that changes the disk, end badly.
    pub read_faults: u64,
    /// As above.
    pub change_faults: u64,
    /// Written through the page cache, where a loss is told once, and perhaps to another command.
    pub cached: bool,
    /// What had completed may be lost, and nobody will be told of it again.
    doubtful: bool,
}

impl Disk {
    /// A disk of zeroes.
    #[must_use]
    pub fn new(
        sectors: usize,
        backing: Backing,
        unit: usize,
        tear: usize,
        mean: Nanos,
        faults: Faults,
    ) -> Self {
        Self {
            slot: 0,
            sectors: vec![Sector::default(); sectors],
            backing,
            unit,
            tear,
            stuck_until: 0,
            mean,
            faults,
            serial: 0,
            ended: 0,
            read_faults: 0,
            change_faults: 0,
            cached: false,
            doubtful: false,
        }
    }

    /// Whether, since this was asked last, a loss was told.
    pub fn take_doubt(&mut self) -> bool {
        std::mem::take(&mut self.doubtful)
    }

    fn put(&mut self, at: usize, stamp: Stamp, serial: u64) {
        if let Some(sector) = self.sectors.get_mut(at) {
            sector.since.push(Entry { stamp, serial, ended: 0, cursed: false });
        }
    }

    fn now(&self, at: usize) -> Stamp {
        self.sectors.get(at).map_or(0, Sector::now)
    }

    /// What a command gave these sectors is safe, and so is what they were given before.
    fn settle(&mut self, range: std::ops::Range<usize>, serial: u64) {
        for sector in self.sectors.get_mut(range).into_iter().flatten() {
            if let Some(own) = sector.since.iter().rposition(|entry| entry.serial == serial) {
                sector.safe = sector.since[own].stamp;
                sector.since.drain(..=own);
            }
        }
    }

    fn curse(&mut self, range: std::ops::Range<usize>, serial: u64) {
        let given = self.sectors.get_mut(range).into_iter().flatten().flat_map(|sector| &mut sector.since);
        given.filter(|entry| entry.serial == serial).for_each(|entry| entry.cursed = true);
    }

    /// A change of these sectors has completed.
    fn end(&mut self, range: std::ops::Range<usize>, serial: u64) {
        self.ended += 1;
        let given = self.sectors.get_mut(range).into_iter().flatten().flat_map(|sector| &mut sector.since);
        given.filter(|entry| entry.serial == serial).for_each(|entry| entry.ended = self.ended);
    }

    /// A flush of the changes that had completed up to this one.
    fn flush(&mut self, last: u64, succeeds: bool) {
        self.doubtful |= !succeeds;
        for sector in &mut self.sectors {
            let covered = |entry: &Entry| (1..=last).contains(&entry.ended);
            if !succeeds {
                sector.since.iter_mut().filter(|e| covered(e)).for_each(|e| e.cursed = true);
            } else if let Some(last) = sector.since.iter().rposition(|e| covered(e) && !e.cursed) {
                sector.safe = sector.since[last].stamp;
                sector.since.drain(..=last);
            }
        }
    }

    /// The power fails: of what was not safe any part is lost, in blocks of what the disk tears between.
    pub fn cut_power(&mut self, luck: &Luck) {
        let salt = luck.next();
        for (at, sector) in self.sectors.iter_mut().enumerate() {
            let before = sector.now();
            if self.backing == Backing::Ram {
                *sector = Sector::default();
            } else if !sector.since.is_empty() {
                let block = (at / self.tear) as u64;
                let kept = sector.since.iter().rfind(|e| mix(salt ^ mix(e.serial << 16 | block)) & 1 == 0);
                sector.safe = kept.map_or(sector.safe, |entry| entry.stamp);
                sector.since.clear();
            }
            if sector.now() != before {
                luck.count(Kind::Forgotten);
            }
        }
        self.stuck_until = 0;
    }

    /// Nothing fails any more, and nothing hangs.
    pub fn heal(&mut self) {
        (self.faults, self.stuck_until) = (Faults::default(), 0);
        self.mean = self.mean.min(100 * MICRO);
    }

    /// Nothing ends before this time.
    pub fn stick(&mut self, until: Nanos) {
        self.stuck_until = self.stuck_until.max(until);
    }
}

/// A disk, shared by the world and the worker that serves it.
pub type SharedDisk = Rc<RefCell<Disk>>;

/// How far a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Begun,
    Half,
}

#[derive(Debug)]
struct Running {
    job: Job,
    serial: u64,
    phase: Phase,
    half: Nanos,
    end: Nanos,
    /// Sectors, by bit, that move at half time; the others move at the end.
    first: u64,
    failure: Option<Failure>,
    /// The failure is that of another command, of which this one hears.
    hears: bool,
    /// What is written.
    stamps: Vec<Stamp>,
    /// Of a disk that writes larger units: what was in them, and the first sector of it.
    units: (usize, Vec<Stamp>),
    /// Checksum of the data, to see whether somebody touches it.
    sum: u32,
    /// Changes that had completed when it was submitted: what a flush covers.
    before: u64,
}

impl Running {
    fn range(&self) -> std::ops::Range<usize> {
        let from = (self.job.offset / SECTOR as u64) as usize;
        from..from + self.job.len as usize / SECTOR
    }

    fn changes(&self) -> bool {
        matches!(self.job.verb, Verb::Write | Verb::WriteThrough | Verb::Discard)
    }

    fn stamp(&self, i: usize) -> Stamp {
        self.stamps.get(i).copied().unwrap_or(0)
    }
}

/// The storage of one worker in a world.
#[derive(Debug)]
pub struct SimStorage {
    luck: Rc<Luck>,
    region: Arc<Region>,
    disks: Vec<SharedDisk>,
    capacity: usize,
    running: Vec<Running>,
    done: VecDeque<Done>,
}

impl SimStorage {
    /// A storage that takes so many commands at once; files are numbered as the disks.
    #[must_use]
    pub fn new(luck: Rc<Luck>, region: Arc<Region>, disks: Vec<SharedDisk>, capacity: usize) -> Self {
        Self { luck, region, disks, capacity, running: Vec::new(), done: VecDeque::new() }
    }

    /// When the next command ends.
    #[must_use]
    pub fn next_end(&self) -> Option<Nanos> {
        self.running.iter().map(|r| r.end).min()
    }

    /// Whether a command has ended that nobody has taken note of.
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.done.is_empty()
    }

    /// Lets everything happen that is due, in its order.
    pub fn advance(&mut self) {
        let now = self.luck.now();
        loop {
            let next = self.running.iter().enumerate().map(|(i, r)| {
                let due = if r.phase == Phase::Begun { r.half } else { r.end };
                (due, r.serial, i)
            });
            match next.min() {
                Some((due, _, at)) if due <= now => self.step(at),
                _ => return,
            }
        }
    }

    /// Brings the ends of commands into line with what became of their disks: stuck, or healed.
    pub fn reschedule(&mut self) {
        let now = self.luck.now();
        for running in &mut self.running {
            let Some(disk) = self.disks.get(usize::from(running.job.file.0)) else { continue };
            let disk = disk.borrow();
            if disk.stuck_until > now {
                running.end = running.end.max(disk.stuck_until + self.luck.below(MILLI));
            } else {
                running.end = running.end.min(now + MICRO + self.luck.about(disk.mean));
            }
            running.half = running.half.min(running.end);
        }
    }

    fn step(&mut self, at: usize) {
        let Some(disk) = self.disks.get(usize::from(self.running[at].job.file.0)).map(Rc::clone) else {
            return;
        };
        let mut disk = disk.borrow_mut();
        let lost = self.tell_another(&disk, at);
        let running = &mut self.running[at];
        check_untouched(&self.luck, &self.region, running);
        if running.phase == Phase::Begun {
            running.phase = Phase::Half;
            if running.changes() && disk.unit > 1 {
                let range = running.range();
                let from = range.start - range.start % disk.unit;
                let to = range.end.next_multiple_of(disk.unit).min(disk.sectors.len());
                running.units = (from, (from..to).map(|at| disk.now(at)).collect());
            }
            let first =
                if running.failure.is_some() { running.first & self.luck.next() } else { running.first };
            transfer(&self.region, &mut disk, running, first);
            return;
        }
        let rest = match running.failure {
            None if lost => u64::MAX,
            Some(_) => !running.first & self.luck.next() & self.luck.next(),
            None => !running.first,
        };
        transfer(&self.region, &mut disk, running, rest);
        let mut running = self.running.swap_remove(at);
        let range = running.range();
        let succeeds = running.failure.is_none();
        if running.changes() && lost {
            disk.end(range.clone(), running.serial);
            disk.curse(range, running.serial);
        } else if running.changes() && succeeds {
            self.write_units(&mut disk, &mut running);
            disk.end(range.clone(), running.serial);
            if disk.backing == Backing::Through || running.job.verb == Verb::WriteThrough {
                disk.settle(range, running.serial);
            }
        } else if running.changes() {
            disk.curse(range, running.serial);
        } else if running.job.verb == Verb::Flush {
            disk.flush(running.before, succeeds && !lost);
        }
        let sectors = running.range();
        let sectors = sectors.start as u64..sectors.end as u64;
        self.luck.trace_at(disk.slot, sectors.clone(), || {
            let (verb, of) = (running.job.verb, disk.slot);
            format!("disk of slot {of}: {verb:?} of {sectors:?} ends, failure {:?}", running.failure)
        });
        let result = running.failure.map_or(Ok(()), Err);
        self.done.push_back(Done { ticket: running.job.ticket, buffer: running.job.buffer, result });
    }

    /// A command that fails through the page cache may end well, and another one hears of the loss: the kernel tells it once,
    /// to whichever asks first (`file_check_and_advance_wb_err`). True when this one has lost data and is not told.
    fn tell_another(&mut self, disk: &Disk, at: usize) -> bool {
        let told = |r: &Running| {
            let through = disk.backing == Backing::Through && r.job.verb == Verb::Write;
            through || matches!(r.job.verb, Verb::WriteThrough | Verb::Flush)
        };
        let one = &self.running[at];
        let heard = matches!(one.failure, Some(Failure::Errno(libc::EIO | libc::ETIMEDOUT)));
        let ends = one.phase == Phase::Half && heard && !one.hears;
        if !ends || !disk.cached || !told(one) {
            return false;
        }
        let file = one.job.file;
        let mut others = (0..self.running.len()).filter(|&i| i != at);
        let other = others.find(|&i| {
            let r = &self.running[i];
            r.job.file == file && r.failure.is_none() && told(r)
        });
        let Some(other) = other else { return false };
        self.luck.count(Kind::ToldAnother);
        self.running[other].failure = self.running[at].failure.take();
        self.running[other].hears = true;
        true
    }

    /// The rest of the units is written as it was read.
    fn write_units(&self, disk: &mut Disk, running: &mut Running) {
        let (from, units) = std::mem::take(&mut running.units);
        if units.is_empty() {
            return;
        }
        self.luck.count(Kind::Rmw);
        let range = running.range();
        for (at, stamp) in (from..).zip(units) {
            if !range.contains(&at) && disk.now(at) != stamp {
                disk.put(at, stamp, running.serial);
                if disk.backing == Backing::Through {
                    disk.settle(at..at + 1, running.serial);
                }
            }
        }
    }

    /// The process is gone: what was in flight happened, or not, or in part.
    pub fn abort(&mut self) {
        self.advance();
        for running in self.running.drain(..) {
            let Some(disk) = self.disks.get(usize::from(running.job.file.0)) else { continue };
            let mut disk = disk.borrow_mut();
            let range = running.range();
            if running.changes() {
                let salt = self.luck.next();
                let half = running.phase == Phase::Half;
                let (mut there, mut missing) = (false, false);
                for (i, at) in range.enumerate() {
                    if half && running.first >> (i % 64) & 1 == 1 && running.failure.is_none() {
                        there = true;
                    } else if mix(salt ^ (at / disk.tear) as u64) & 1 == 0 {
                        there = true;
                        disk.put(at, running.stamp(i), running.serial);
                    } else {
                        missing = true;
                    }
                }
                disk.end(running.range(), running.serial);
                if there && missing {
                    self.luck.count(if disk.tear == 1 { Kind::Torn512 } else { Kind::Torn4096 });
                }
            }
            running.job.buffer.retire();
        }
    }

    /// How a command ends, if not well.
    fn fate(&self, disk: &mut Disk, verb: Verb) -> Option<Failure> {
        let (luck, faults) = (&self.luck, disk.faults);
        let (rate, kind) = match verb {
            Verb::Read => (faults.read, Kind::ReadFaults),
            Verb::Write | Verb::WriteThrough if luck.permille(faults.no_room) => {
                luck.count(Kind::NoRoom);
                disk.change_faults += 1;
                return Some(Failure::Errno(libc::ENOSPC));
            }
            Verb::Write | Verb::WriteThrough => (faults.write, Kind::WriteFaults),
            Verb::Flush => (faults.flush, Kind::FlushFaults),
            Verb::Discard => (faults.trim, Kind::TrimFaults),
        };
        if !luck.permille(rate) {
            return None;
        }
        luck.count(kind);
        match verb {
            Verb::Read => disk.read_faults += 1,
            _ => disk.change_faults += 1,
        }
        Some(match luck.below(8) {
            0 if verb.transfers() => {
                luck.count(Kind::Short);
                Failure::Short
            }
            0 | 1 if verb == Verb::Discard => Failure::Unsynced(libc::EIO),
            2 | 3 => {
                luck.count(Kind::Etimedout);
                Failure::Errno(libc::ETIMEDOUT)
            }
            4 if luck.permille(300) => {
                luck.count(Kind::Enodev);
                Failure::Errno(libc::ENODEV)
            }
            _ => {
                luck.count(Kind::Eio);
                Failure::Errno(libc::EIO)
            }
        })
    }
}

/// Moves these sectors of a command, by bit.
fn transfer(region: &Region, disk: &mut Disk, running: &mut Running, sectors: u64) {
    let range = running.range();
    let changes = running.changes();
    if running.job.verb == Verb::Flush {
        return;
    }
    for (i, at) in range.enumerate().filter(|(i, _)| sectors >> (i % 64) & 1 == 1) {
        if changes {
            disk.put(at, running.stamp(i), running.serial);
        } else {
            let into = running.job.at as usize + i * SECTOR;
            stamp::fill(region.buffer_mut(&mut running.job.buffer, into, SECTOR), disk.now(at));
        }
    }
    if !changes {
        running.sum = sum(region, &mut running.job);
    }
}

fn sum(region: &Region, job: &mut Job) -> u32 {
    if !job.verb.transfers() {
        return 0;
    }
    let (at, len) = (job.at as usize, job.len as usize);
    crc32fast::hash(region.buffer_mut(&mut job.buffer, at, len))
}

fn check_untouched(luck: &Luck, region: &Region, running: &mut Running) {
    if sum(region, &mut running.job) != running.sum {
        let (verb, file) = (running.job.verb, running.job.file.0);
        luck.blame(|| format!("memory of a {verb:?} of disk {file} was touched while the storage had it"));
    }
}

impl Storage for SimStorage {
    fn submit(&mut self, mut job: Job) -> Result<(), Job> {
        if self.in_flight() >= self.capacity {
            self.luck.count(Kind::StorageFull);
            return Err(job);
        }
        let Some(disk) = self.disks.get(usize::from(job.file.0)).map(Rc::clone) else {
            self.luck.blame(|| format!("a command for disk {}, which is not there", job.file.0));
            return Err(job);
        };
        let mut disk = disk.borrow_mut();
        let bytes = disk.sectors.len() * SECTOR;
        let (end, capacity) = (job.offset + u64::from(job.len), job.buffer.capacity());
        let data = if job.verb.transfers() { job.at as usize + job.len as usize } else { 0 };
        let aligned = job.offset % SECTOR as u64 == 0
            && job.len as usize % SECTOR == 0
            && (!job.verb.transfers() || (job.buffer.address() + u64::from(job.at)) % SECTOR as u64 == 0);
        if end > bytes as u64 || data > capacity || !aligned || (job.len == 0) != (job.verb == Verb::Flush) {
            self.luck.blame(|| {
                format!(
                    "a command that no disk takes: {job:?} on a disk of {bytes} bytes, {capacity} in memory"
                )
            });
            return Err(job);
        }
        disk.serial += 1;
        let mut stamps = Vec::new();
        if matches!(job.verb, Verb::Write | Verb::WriteThrough) {
            let (at, len) = (job.at as usize, job.len as usize);
            for sector in self.region.buffer_mut(&mut job.buffer, at, len).chunks_exact(SECTOR) {
                stamps.push(stamp::read(sector).unwrap_or(Stamp::MAX));
            }
            if stamps.contains(&Stamp::MAX) {
                self.luck.blame(|| format!("bytes that no host sent are written to disk {}", job.file.0));
            }
        } else if job.verb == Verb::Read {
            let (at, len) = (job.at as usize, job.len as usize);
            self.region.buffer_mut(&mut job.buffer, at, len).fill(0x5a);
        }
        let slow = self.luck.permille(disk.faults.slow);
        if slow {
            self.luck.count(Kind::Slow);
        }
        let time = MICRO + self.luck.about(if slow { disk.mean * 50 } else { disk.mean });
        let now = self.luck.now();
        let mut end = now + time;
        if disk.stuck_until > now {
            end = end.max(disk.stuck_until + self.luck.below(MILLI));
        }
        let failure = self.fate(&mut disk, job.verb);
        let serial = disk.serial;
        let before = disk.ended;
        let sum = sum(&self.region, &mut job);
        self.running.push(Running {
            job,
            serial,
            phase: Phase::Begun,
            half: now + self.luck.below(time),
            end,
            first: self.luck.next(),
            failure,
            hears: false,
            stamps,
            units: (0, Vec::new()),
            sum,
            before,
        });
        Ok(())
    }

    fn turn(&mut self) {}

    fn reap(&mut self, most: usize, sink: &mut dyn FnMut(Done)) -> usize {
        let n = most.min(self.done.len());
        self.done.drain(..n).for_each(sink);
        n
    }

    fn in_flight(&self) -> usize {
        self.running.len() + self.done.len()
    }

    fn resized(&mut self, _: FileId, _: u64) {}

    /// Nothing: disks of a world stay where they are.
    type Backing = ();

    fn replace(&mut self, _: FileId, _: Option<()>) -> Result<Option<()>, Option<()>> {
        Ok(Some(()))
    }

    fn lent(&self, ticket: Ticket) -> Option<&Buffer> {
        let written = self.running.iter().filter(|r| matches!(r.job.verb, Verb::Write | Verb::WriteThrough));
        let running = written.map(|r| (r.job.ticket, &r.job.buffer));
        let mut all = running.chain(self.done.iter().map(|done| (done.ticket, &done.buffer)));
        all.find(|(name, _)| *name == ticket).map(|(_, buffer)| buffer)
    }
}

impl Drop for SimStorage {
    fn drop(&mut self) {
        self.running.drain(..).for_each(|running| running.job.buffer.retire());
        self.done.drain(..).for_each(|done| done.buffer.retire());
    }
}
