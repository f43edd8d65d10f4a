//! A verifying initiator: random reads and writes with a window for each slot, settings, retransmissions, and a memory
//! of every acknowledgement that outlives the target.
//!
//! Not here: what a slot may hold (`history`).
//! Invariant: one request of a slot and place is in flight at a time, and one setting of each slot.

use crate::history::{Finding, Slot, Wrong};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::time::{Duration, Instant};
use xshelf::initiator::Error;
use xshelf::initiator::contact::{self, Target, Until};
use xshelf::initiator::pattern::Random;
use xshelf::initiator::socket::{BATCH, Options as PortOptions, Port};
use xshelf::initiator::wire::{Argument, Reply, TAG_OURS};
use xshelf::limits::{AOE_HEADER, ATA_FRAME, ETHERNET, MIN_FRAME, SECTOR};
use xshelf::protocol::aoe::{Flags, VERSION};
use xshelf::protocol::ata::{self, Ata};
use xshelf::protocol::config::{Config, ConfigCommand};
use xshelf::protocol::ethernet::ETHERTYPE_AOE;
use xshelf::protocol::{Address, Command, Ethernet, Header, Mac};

/// How long nobody may answer while something is in flight: a guard against a target that never comes back.
const GUARD: Duration = Duration::from_secs(120);
/// How long a copy of a request may be on its way after another one was answered.
const LINGER: Duration = Duration::from_secs(1);
/// Findings that are kept with all they say.
const FINDINGS: usize = 40;
/// Hosts in a mask or reservation, besides ourselves.
const HOSTS: u64 = 6;

/// How it behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Choices and data; equal seeds make equal choices.
    pub seed: u64,
    /// Sectors used of each slot, which must be zeroes to begin with; fewer where the slot is smaller.
    pub sectors: u32,
    /// Requests in flight for each slot.
    pub window: usize,
    /// Reads among 100 requests.
    pub reads: u64,
    /// TRIMs among 100 requests that are no reads; a slot that refuses the first gets no more.
    pub trims: u64,
    /// Slots (by their place in the list) of which only a flush makes writes durable; they are flushed now and then.
    pub write_back: Vec<usize>,
    /// Change config string, mask and reservation all the time, with this pause behind each change of a slot.
    pub settings: Option<Duration>,
    /// When a request is sent again.
    pub retransmit: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            sectors: 8192,
            window: 16,
            reads: 25,
            trims: 0,
            write_back: Vec::new(),
            settings: None,
            retransmit: Duration::from_millis(200),
        }
    }
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Writes acknowledged.
    pub writes: u64,
    /// TRIMs acknowledged.
    pub trims: u64,
    /// Reads compared while writing went on.
    pub reads: u64,
    /// Flushes acknowledged.
    pub flushes: u64,
    /// Changes of config strings, masks and reservations acknowledged.
    pub settings: u64,
    /// Copies sent beyond the first.
    pub retransmissions: u64,
    /// Reads, writes and flushes answered with an error.
    pub errors: u64,
    /// Changes of settings answered with an error: the old ones stand.
    pub refused: u64,
    /// Requests in flight when the target was lost.
    pub unknown: u64,
}

/// What a reading of everything has found, and all that was found before.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Sectors compared.
    pub sectors: u64,
    /// Of those, sectors that a write was acknowledged of.
    pub written: u64,
    /// Config strings, masks and reservations compared.
    pub settings: u64,
    /// Sectors with an older value than was acknowledged.
    pub lost: u64,
    /// Sectors that hold no whole write of theirs, or one that cannot be there.
    pub bad: u64,
    /// Config strings, masks and reservations that are not what was acknowledged.
    pub lost_settings: u64,
    /// The first of them in words.
    pub findings: Vec<String>,
}

impl Report {
    /// Whether nothing was lost and nothing is bad.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.bad == 0 && self.lost_settings == 0
    }

    fn found(&mut self, finding: &Finding) {
        match finding.wrong {
            Wrong::Lost { .. } => self.lost += 1,
            Wrong::Damaged { .. } | Wrong::Never { .. } => self.bad += 1,
        }
        self.say(|| finding.to_string());
    }

    fn say(&mut self, words: impl FnOnce() -> String) {
        if self.findings.len() < FINDINGS {
            self.findings.push(words());
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sectors and {} settings compared: {} sectors lost, {} bad, {} settings lost",
            self.sectors, self.settings, self.lost, self.bad, self.lost_settings
        )?;
        self.findings.iter().try_for_each(|finding| write!(f, "\n  {finding}"))
    }
}

/// Config string, mask or reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    String,
    Mask,
    Reserved,
}

const KINDS: [Kind; 3] = [Kind::String, Kind::Mask, Kind::Reserved];

impl Kind {
    fn name(self) -> &'static str {
        ["config string", "mask", "reservation"][self as usize]
    }

    fn command(self) -> Command {
        [Command::Config, Command::Mask, Command::Reserve][self as usize]
    }

    /// The setting in an answer: the string, or what is behind the AoE header.
    fn value(self, answer: &[u8]) -> Value {
        let list = |from: usize, entry: usize, count: u8| {
            let entries = answer.get(from..).unwrap_or_default().chunks_exact(entry).take(usize::from(count));
            let hosts: BTreeSet<&[u8]> = entries.map(|e| &e[entry - 6..]).collect();
            hosts.into_iter().flatten().copied().collect()
        };
        match (self, answer) {
            (Self::String, text) => text.to_vec(),
            // Reserved, command, error, count; then the list, with two bytes before each address.
            (Self::Mask, &[_, _, _, count, ..]) => list(4, 8, count),
            // Command, count, and the list.
            (Self::Reserved, &[_, count, ..]) => list(2, 6, count),
            _ => Vec::new(),
        }
    }
}

/// A setting: the bytes of a string, or sorted addresses.
type Value = Vec<u8>;

#[derive(Clone, Debug, Default)]
struct Kept {
    known: Value,
    /// Changes that failed, or were lost with the target.
    maybe: Vec<Value>,
}

#[derive(Clone, Debug)]
enum Ask {
    Write { lba: u32, count: u8, generation: u32 },
    Trim { lba: u32, count: u8, generation: u32 },
    Read { lba: u32, count: u8, checking: bool },
    Flush { covers: u64 },
    Set { kind: Kind, value: Value },
    Get { kind: Kind, learn: bool },
}

struct Request {
    slot: usize,
    ask: Ask,
    frame: Vec<u8>,
    tags: Vec<u32>,
    sent: Instant,
}

/// Copies of a write that was answered, but not to each copy.
struct Linger {
    slot: usize,
    lba: u32,
    count: u8,
    tags: Vec<u32>,
    until: Instant,
}

struct Lun {
    history: Slot,
    mac: Mac,
    most: u8,
    write_back: bool,
    trims: bool,
    in_flight: usize,
    flushing: bool,
    setting: bool,
    next_setting: Instant,
    changes: u64,
    kept: [Kept; 3],
}

/// The client.
pub struct Client {
    port: Port,
    options: Options,
    random: Random,
    luns: Vec<Lun>,
    requests: HashMap<u64, Request>,
    tags: HashMap<u32, u64>,
    lingering: Vec<Linger>,
    outbox: Vec<Vec<u8>>,
    next_request: u64,
    next_tag: u32,
    last_answer: Instant,
    /// The next reading of everything settles what is unsure.
    was_cut: bool,
    report: Report,
    tally: Tally,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("tally", &self.tally).finish_non_exhaustive()
    }
}

impl Client {
    /// Finds the slots from an interface of this thread's network namespace, and learns their settings.
    ///
    /// # Errors
    /// When one does not answer or the interface fails.
    pub fn new(interface: &str, addresses: &[Address], options: Options) -> Result<Self, Error> {
        let mut port = Port::open(interface, PortOptions::default())?;
        let mut found: Vec<Target> = Vec::new();
        for &address in addresses {
            let mut answers = contact::query(&mut port, address, GUARD, 240, Until::Answered)?;
            let Some(target) = answers.pop() else { return Err(silent(&port, address)) };
            found.push(target);
        }
        let asked: Vec<_> = found.iter().map(|t| (t.address, t.mac)).collect();
        let disks = contact::identify(&mut port, &asked, GUARD)?;
        let now = Instant::now();
        let mut luns = Vec::new();
        for (i, (target, disk)) in found.iter().zip(disks).enumerate() {
            let Ok(disk) = disk.disk else { return Err(silent(&port, target.address)) };
            let sectors = u32::try_from(disk.sectors).unwrap_or(u32::MAX).min(options.sectors);
            let fits = (port.mtu() as usize + ETHERNET - ATA_FRAME) / SECTOR;
            let write_back = options.write_back.contains(&i);
            luns.push(Lun {
                history: Slot::new(options.seed, target.address, sectors, write_back),
                mac: target.mac,
                most: target.sectors.min(u8::try_from(fits).unwrap_or(u8::MAX)).min(16),
                write_back,
                trims: true,
                in_flight: 0,
                flushing: false,
                setting: false,
                next_setting: now,
                changes: 0,
                kept: Default::default(),
            });
        }
        let mut client = Self {
            port,
            random: Random::new(options.seed ^ 0x746f_726d_656e_7421),
            options,
            luns,
            requests: HashMap::new(),
            tags: HashMap::new(),
            lingering: Vec::new(),
            outbox: Vec::new(),
            next_request: 0,
            next_tag: contact::random() as u32 & 0x3fff_ffff,
            last_answer: now,
            was_cut: false,
            report: Report::default(),
            tally: Tally::default(),
        };
        client.read_settings(true)?;
        Ok(client)
    }

    /// Makes requests for so long. What is in flight then stays so.
    ///
    /// # Errors
    /// When the interface fails, or nobody answers for two minutes.
    pub fn run_for(&mut self, time: Duration) -> Result<(), Error> {
        let until = Instant::now() + time;
        self.run_while(|_| Instant::now() < until)
    }

    /// Makes requests as long as `go` says so; it is asked every few milliseconds at the latest. While the target is
    /// away, requests are sent again until it answers.
    ///
    /// # Errors
    /// As [`Client::run_for`].
    pub fn run_while(&mut self, mut go: impl FnMut(&Tally) -> bool) -> Result<(), Error> {
        self.last_answer = Instant::now();
        while go(&self.tally) {
            for slot in 0..self.luns.len() {
                self.fill_window(slot);
            }
            self.turn()?;
        }
        Ok(())
    }

    /// Makes no request any more, and waits until all in flight are answered.
    ///
    /// # Errors
    /// As [`Client::run_for`].
    pub fn drain(&mut self) -> Result<(), Error> {
        self.last_answer = Instant::now();
        while !self.requests.is_empty() {
            self.turn()?;
        }
        Ok(())
    }

    /// The power was cut, and the target is dead: takes in the answers that were sent before, and gives up what is in
    /// flight. The next [`Client::check_all`] accepts what a power cut may leave, and takes that as the new beginning.
    ///
    /// # Errors
    /// As [`Client::run_for`].
    pub fn power_cut(&mut self) -> Result<(), Error> {
        // Answers that are in the socket already; the target is dead and sends no more.
        while self.receive(false)? > 0 {}
        for (_, request) in std::mem::take(&mut self.requests) {
            self.tally.unknown += 1;
            self.give_up(&request, false);
        }
        self.tags.clear();
        self.lingering.clear();
        self.outbox.clear();
        for lun in &mut self.luns {
            (lun.in_flight, lun.flushing, lun.setting) = (0, false, false);
            lun.history.power_cut();
        }
        self.was_cut = true;
        Ok(())
    }

    /// Waits for what is in flight, then reads every sector and every setting and compares it. Says what was found since
    /// the last time.
    ///
    /// # Errors
    /// As [`Client::run_for`].
    pub fn check_all(&mut self) -> Result<Report, Error> {
        self.drain()?;
        for slot in 0..self.luns.len() {
            let (end, most) = (self.luns[slot].history.sectors(), u32::from(self.luns[slot].most));
            self.report.written += self.luns[slot].history.written();
            let mut next = 0;
            while next < end || self.luns[slot].in_flight > 0 {
                while next < end && self.luns[slot].in_flight < self.options.window {
                    let count = most.min(end - next) as u8;
                    assert!(self.luns[slot].history.begin_read(next, count), "nothing is in flight");
                    self.begin(slot, Ask::Read { lba: next, count, checking: true });
                    next += u32::from(count);
                }
                self.turn()?;
            }
            self.report.sectors += u64::from(end);
        }
        self.read_settings(false)?;
        self.was_cut = false;
        Ok(std::mem::take(&mut self.report))
    }

    /// What was done so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Reads config strings, masks and reservations; `learn` takes them as they are.
    fn read_settings(&mut self, learn: bool) -> Result<(), Error> {
        for slot in 0..self.luns.len() {
            for kind in KINDS {
                self.begin(slot, Ask::Get { kind, learn });
            }
        }
        self.drain()
    }

    fn fill_window(&mut self, slot: usize) {
        let now = Instant::now();
        // A place that is taken is tried again with the next turn.
        let mut tries = 2 * self.options.window;
        while self.luns[slot].in_flight < self.options.window && tries > 0 {
            tries -= 1;
            let lun = &mut self.luns[slot];
            if let Some(pause) = self.options.settings.filter(|_| !lun.setting && now >= lun.next_setting) {
                lun.setting = true;
                lun.next_setting = now + pause;
                let (kind, value) = self.change(slot);
                self.begin(slot, Ask::Set { kind, value });
                continue;
            }
            if lun.write_back && !lun.flushing && self.random.below(60) == 0 {
                lun.flushing = true;
                let covers = lun.history.begin_flush();
                self.begin(slot, Ask::Flush { covers });
                continue;
            }
            // Half of all goes to a sixteenth of the slot, so that much is written over and over.
            let sectors = u64::from(lun.history.sectors());
            let span = if self.random.below(2) == 0 { (sectors / 16).max(1) } else { sectors };
            let lba = self.random.below(span) as u32;
            let count = (1 + self.random.below(u64::from(lun.most))).min(sectors - u64::from(lba)) as u8;
            if self.random.below(100) < self.options.reads {
                if lun.history.begin_read(lba, count) {
                    self.begin(slot, Ask::Read { lba, count, checking: false });
                }
            } else if lun.trims && self.random.below(100) < self.options.trims {
                // Longer than a write, so that it meets whole blocks.
                let count = (1 + self.random.below(64)).min(sectors - u64::from(lba)) as u8;
                if let Some(generation) = lun.history.begin_trim(lba, count) {
                    self.begin(slot, Ask::Trim { lba, count, generation });
                }
            } else if let Some(generation) = lun.history.begin_write(lba, count) {
                self.begin(slot, Ask::Write { lba, count, generation });
            }
        }
    }

    /// A new value for one of the settings of a slot.
    fn change(&mut self, slot: usize) -> (Kind, Value) {
        let own = self.port.mac();
        let lun = &mut self.luns[slot];
        lun.changes += 1;
        // Strings twice as often as the others.
        let kind = [Kind::String, Kind::String, Kind::Mask, Kind::Reserved][self.random.below(4) as usize];
        let value = if kind == Kind::String {
            let mut text = format!("{} change {} ", lun.history.address(), lun.changes).into_bytes();
            let length = text.len() as u64 + self.random.below(900);
            text.resize(length as usize, b'a' + (lun.changes % 26) as u8);
            text
        } else {
            // We must stay in, and each change must change something.
            let mut hosts: BTreeSet<[u8; 6]> = [own.0].into();
            let number = lun.changes.to_be_bytes();
            hosts.insert([2, 0x70, number[4], number[5], number[6], number[7]]);
            for _ in 0..self.random.below(HOSTS) {
                hosts.insert([2, 0x71, 0, 0, 0, self.random.next() as u8]);
            }
            hosts.into_iter().flatten().collect()
        };
        (kind, value)
    }

    /// Puts a request into the outbox.
    fn begin(&mut self, slot: usize, ask: Ask) {
        let frame = self.frame(slot, &ask);
        let id = self.next_request;
        self.next_request += 1;
        self.luns[slot].in_flight += 1;
        self.requests.insert(id, Request { slot, ask, frame, tags: Vec::new(), sent: Instant::now() });
        self.send_copy(id);
    }

    fn send_copy(&mut self, id: u64) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        let tag = self.next_tag | TAG_OURS;
        self.next_tag = self.next_tag.wrapping_add(1) & 0x3fff_ffff;
        request.frame[ETHERNET + AOE_HEADER - 4..ETHERNET + AOE_HEADER].copy_from_slice(&tag.to_be_bytes());
        request.tags.push(tag);
        request.sent = Instant::now();
        self.tags.insert(tag, id);
        self.outbox.push(request.frame.clone());
    }

    fn frame(&self, slot: usize, ask: &Ask) -> Vec<u8> {
        let lun = &self.luns[slot];
        let mut frame = vec![0; ATA_FRAME];
        let ethernet =
            Ethernet { destination: lun.mac, source: self.port.mac(), tag: None, ethertype: ETHERTYPE_AOE };
        ethernet.emit(&mut frame);
        let command = match ask {
            Ask::Set { kind, .. } | Ask::Get { kind, .. } => kind.command(),
            _ => Command::Ata,
        };
        Header::request(lun.history.address(), command, 0).emit(&mut frame[ETHERNET..]);
        let argument = ETHERNET + AOE_HEADER;
        let registers = |aflags, command, lba: u32, count| {
            Ata { aflags: aflags | ata::AFLAG_EXTENDED, feature: 0, count, command, lba: [0; 6] }
                .with_lba48(u64::from(lba))
        };
        match *ask {
            Ask::Write { lba, count, generation } => {
                registers(ata::AFLAG_WRITE, ata::WRITE_SECTORS_EXT, lba, count).emit(&mut frame[argument..]);
                frame.resize(ATA_FRAME + usize::from(count) * SECTOR, 0);
                lun.history.fill(lba, generation, &mut frame[ATA_FRAME..]);
            }
            Ask::Trim { lba, count, .. } => {
                let trim = registers(ata::AFLAG_WRITE, ata::DATA_SET_MANAGEMENT, 0, 1);
                Ata { feature: ata::FEATURE_TRIM, ..trim }.emit(&mut frame[argument..]);
                // One page with one range: 48 bits of address, 16 of length.
                frame.resize(ATA_FRAME + SECTOR, 0);
                let range = u64::from(lba) | u64::from(count) << 48;
                frame[ATA_FRAME..ATA_FRAME + 8].copy_from_slice(&range.to_le_bytes());
            }
            Ask::Read { lba, count, .. } => {
                registers(0, ata::READ_SECTORS_EXT, lba, count).emit(&mut frame[argument..]);
            }
            Ask::Flush { .. } => registers(0, ata::FLUSH_CACHE_EXT, 0, 0).emit(&mut frame[argument..]),
            Ask::Get { kind: Kind::String, .. } => config(ConfigCommand::Read, &[], &mut frame, argument),
            Ask::Set { kind: Kind::String, ref value } => {
                config(ConfigCommand::ForceSet, value, &mut frame, argument);
            }
            Ask::Get { kind: Kind::Mask, .. } => frame.truncate(argument + 4),
            Ask::Set { kind: Kind::Mask, ref value } => {
                // From what is known to what is wanted, by directives: 1 adds, 2 removes (AoEr11, section 3.3).
                let (old, new) = (macs(&lun.kept[Kind::Mask as usize].known), macs(value));
                let edits: Vec<_> = new
                    .difference(&old)
                    .map(|mac| (1, *mac))
                    .chain(old.difference(&new).map(|mac| (2, *mac)))
                    .collect();
                frame.truncate(argument);
                frame.extend([0, 1, 0, edits.len() as u8]);
                for (directive, mac) in edits {
                    frame.extend([0, directive]);
                    frame.extend(mac);
                }
            }
            Ask::Get { kind: Kind::Reserved, .. } => frame.truncate(argument + 2),
            Ask::Set { kind: Kind::Reserved, ref value } => {
                frame.truncate(argument);
                frame.extend([2, (value.len() / 6) as u8]);
                frame.extend(value);
            }
        }
        if frame.len() < MIN_FRAME {
            frame.resize(MIN_FRAME, 0);
        }
        frame
    }

    /// Sends, waits a few milliseconds for answers, and sends again what was not answered.
    fn turn(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        let late = |r: &Request| now.duration_since(r.sent) >= self.options.retransmit;
        let overdue: Vec<u64> = self.requests.iter().filter(|(_, r)| late(r)).map(|(id, _)| *id).collect();
        for id in overdue {
            self.tally.retransmissions += 1;
            self.send_copy(id);
        }
        let luns = &mut self.luns;
        self.lingering.retain(|l| {
            let over = l.tags.is_empty() || now >= l.until;
            if over {
                luns[l.slot].history.thaw(l.lba, l.count);
            }
            !over
        });
        while !self.outbox.is_empty() {
            let batch: Vec<&[u8]> = self.outbox.iter().take(BATCH).map(Vec::as_slice).collect();
            let sent = self.port.send(&batch)?;
            self.outbox.drain(..sent);
            if sent == 0 {
                break;
            }
        }
        if self.receive(true)? > 0 {
            self.last_answer = Instant::now();
        } else if !self.requests.is_empty() && self.last_answer.elapsed() > GUARD {
            let first = self.requests.values().next().map_or(0, |r| r.slot);
            return Err(silent(&self.port, self.luns[first].history.address()));
        }
        Ok(())
    }

    /// Takes in what is there; says how many frames.
    fn receive(&mut self, wait: bool) -> Result<usize, Error> {
        let taken = self.port.receive(wait)?;
        for i in 0..taken {
            let arrival = self.port.arrival(i);
            let Ok(reply) = Reply::parse(arrival) else { continue };
            let tag = reply.tag();
            let Some(id) = self.tags.remove(&tag) else {
                for linger in &mut self.lingering {
                    linger.tags.retain(|t| *t != tag);
                }
                continue;
            };
            let Some(request) = self.requests.get(&id) else { continue };
            if reply.header.address != self.luns[request.slot].history.address() {
                continue;
            }
            let body = arrival.bytes.get(ETHERNET + AOE_HEADER..).unwrap_or_default();
            let answer = answer(&request.ask, &reply, body).map(<[u8]>::to_vec);
            let Some(request) = self.requests.remove(&id) else { continue };
            self.complete(request, tag, answer);
        }
        Ok(taken)
    }

    fn complete(&mut self, request: Request, answered: u32, answer: Option<Vec<u8>>) {
        let slot = request.slot;
        let open: Vec<u32> = request.tags.iter().copied().filter(|t| *t != answered).collect();
        for tag in &open {
            self.tags.remove(tag);
        }
        let frozen = !open.is_empty();
        if let (Ask::Write { lba, count, .. } | Ask::Trim { lba, count, .. }, true) = (&request.ask, frozen) {
            let until = Instant::now() + LINGER;
            self.lingering.push(Linger { slot, lba: *lba, count: *count, tags: open, until });
        }
        self.luns[slot].in_flight -= 1;
        let Some(data) = answer else {
            if matches!(request.ask, Ask::Set { .. } | Ask::Get { .. }) {
                self.tally.refused += 1;
            } else {
                self.tally.errors += 1;
            }
            self.give_up(&request, frozen);
            if let (Ask::Trim { .. }, true) = (&request.ask, self.luns[slot].trims) {
                // It has none, and that is no error.
                self.luns[slot].trims = false;
                self.tally.errors -= 1;
            }
            let address = self.luns[slot].history.address();
            match request.ask {
                Ask::Read { lba, count, checking: true } => {
                    self.report.bad += u64::from(count);
                    self.report.say(|| format!("slot {address}, sector {lba} and {count} on: reading fails"));
                }
                Ask::Get { kind, .. } => {
                    self.report.lost_settings += 1;
                    self.report.say(|| format!("slot {address}: reading the {} fails", kind.name()));
                }
                // The next change has to know what it changes.
                Ask::Set { kind, .. } => {
                    self.luns[slot].setting = true;
                    self.begin(slot, Ask::Get { kind, learn: false });
                }
                _ => {}
            }
            return;
        };
        let lun = &mut self.luns[slot];
        match request.ask {
            Ask::Write { lba, count, generation } => {
                self.tally.writes += 1;
                lun.history.acknowledge(lba, count, generation, frozen);
            }
            Ask::Trim { lba, count, generation } => {
                self.tally.trims += 1;
                lun.history.acknowledge(lba, count, generation, frozen);
            }
            Ask::Read { lba, count, checking } => {
                self.tally.reads += u64::from(!checking);
                lun.history.end_read(lba, count);
                let report = &mut self.report;
                lun.history.check(lba, &data, checking && self.was_cut, |finding| report.found(&finding));
            }
            Ask::Flush { covers } => {
                self.tally.flushes += 1;
                lun.flushing = false;
                lun.history.flushed(covers);
            }
            Ask::Set { kind, value } => {
                self.tally.settings += 1;
                lun.setting = false;
                lun.kept[kind as usize] = Kept { known: value, maybe: Vec::new() };
            }
            Ask::Get { kind, learn } => {
                let data = kind.value(&data);
                lun.setting = false;
                let kept = &mut lun.kept[kind as usize];
                if !learn {
                    self.report.settings += 1;
                    if data != kept.known && !kept.maybe.contains(&data) {
                        self.report.lost_settings += 1;
                        let (address, name) = (lun.history.address(), kind.name());
                        let (found, known, maybe) = (shown(&data), shown(&kept.known), kept.maybe.len());
                        self.report.say(|| {
                            format!(
                                "slot {address}: the {name} is '{found}', but '{known}' was acknowledged \
                                 ({maybe} changes were not answered)"
                            )
                        });
                    }
                }
                *kept = Kept { known: data, maybe: Vec::new() };
            }
        }
    }

    /// A request failed or is lost: nobody knows whether it happened.
    fn give_up(&mut self, request: &Request, frozen: bool) {
        let lun = &mut self.luns[request.slot];
        match &request.ask {
            Ask::Write { lba, count, .. } | Ask::Trim { lba, count, .. } => {
                lun.history.unknown(*lba, *count, frozen);
            }
            Ask::Read { lba, count, .. } => lun.history.end_read(*lba, *count),
            Ask::Flush { .. } => lun.flushing = false,
            Ask::Set { kind, value } => {
                lun.setting = false;
                lun.kept[*kind as usize].maybe.push(value.clone());
            }
            Ask::Get { .. } => lun.setting = false,
        }
    }
}

fn silent(port: &Port, address: Address) -> Error {
    Error::NoAnswer { address, interface: port.name().to_owned(), hint: String::new() }
}

fn config(command: ConfigCommand, string: &[u8], frame: &mut Vec<u8>, at: usize) {
    let header =
        Config { buffer_count: 0, firmware: 0, sectors: 0, version: 0, command, length: string.len() as u16 };
    frame.resize(at + 8, 0);
    header.emit(&mut frame[at..]);
    frame.extend(string);
}

/// What a good answer says; `None` for an error. `body` is what is behind the AoE header.
fn answer<'a>(ask: &Ask, reply: &Reply<'a>, body: &'a [u8]) -> Option<&'a [u8]> {
    if reply.header.version != VERSION || reply.header.flags.contains(Flags::ERROR) {
        return None;
    }
    match (ask, reply.argument) {
        (Ask::Read { count, .. }, Argument::Ata { registers, data, .. }) => {
            let whole = data.len() == usize::from(*count) * SECTOR;
            (registers.command & ata::STATUS_BAD == 0 && whole).then_some(data)
        }
        (Ask::Write { .. } | Ask::Trim { .. } | Ask::Flush { .. }, Argument::Ata { registers, .. }) => {
            (registers.command & ata::STATUS_BAD == 0).then_some(&[])
        }
        (Ask::Get { .. } | Ask::Set { .. }, Argument::Config(_, string)) => Some(string),
        (Ask::Get { kind: Kind::Mask, .. } | Ask::Set { kind: Kind::Mask, .. }, _) => {
            let &[_, _, 0, _, ..] = body else { return None };
            Some(body)
        }
        (Ask::Get { kind: Kind::Reserved, .. } | Ask::Set { kind: Kind::Reserved, .. }, _) => Some(body),
        _ => None,
    }
}

fn macs(value: &[u8]) -> BTreeSet<[u8; 6]> {
    value.chunks_exact(6).filter_map(|mac| mac.try_into().ok()).collect()
}

/// The beginning of a setting, for people.
fn shown(value: &[u8]) -> String {
    let text: String =
        value[..value.len().min(48)].iter().flat_map(|b| b.escape_ascii()).map(char::from).collect();
    format!("{text}{}", if value.len() > 48 { "…" } else { "" })
}
