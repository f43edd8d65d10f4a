//! What the target sends, and what hosts make of it.
//!
//! Not here: what a sector may hold (`check`).
//! Invariant: every answer is looked at twice: when it leaves, against what had arrived, and at its host, against what that
//! knows.

use super::{Event, FIRST_TAG, Fate, Stage, World};
use crate::limits::{self, SECTOR};
use crate::protocol::ata::{self, Ata};
use crate::protocol::config::Config;
use crate::protocol::mask::{self, Mask, MaskError};
use crate::protocol::reserve::{self, Reserve};
use crate::protocol::{AoeError, Command, Ethernet, Flags, Header, Mac};
use crate::sim::disk::Backing;
use crate::sim::luck::Nanos;
use crate::sim::request::{self, What};
use crate::sim::stamp;
use crate::sim::totals::Kind;

/// An answer, taken apart.
struct Answer<'a> {
    ethernet: Ethernet,
    header: Header,
    argument: &'a [u8],
}

fn parse(frame: &[u8]) -> Option<Answer<'_>> {
    let ethernet = Ethernet::parse(frame)?;
    let header = Header::parse(frame.get(ethernet.len()..)?)?;
    let argument = frame.get(ethernet.len() + limits::AOE_HEADER..)?;
    Some(Answer { ethernet, header, argument })
}

fn mac_at(bytes: &[u8]) -> Option<Mac> {
    bytes.first_chunk().copied().map(Mac)
}

impl Answer<'_> {
    fn error(&self) -> Option<u8> {
        self.header.flags.contains(Flags::ERROR).then_some(self.header.error)
    }

    fn string(&self) -> Option<&str> {
        let config = Config::parse(self.argument)?;
        let text = self.argument.get(limits::CONFIG_SECTION..)?.get(..usize::from(config.length))?;
        std::str::from_utf8(text).ok()
    }

    /// The data of a read.
    fn data(&self) -> &[u8] {
        self.argument.get(limits::ATA_SECTION..).unwrap_or_default()
    }
}

impl World {
    /// A frame leaves a port.
    pub(super) fn emitted(&mut self, port: usize, frame: Vec<u8>) -> Result<(), String> {
        let Some(answer) = parse(&frame) else { return Err("a frame without headers is sent".into()) };
        let mine = self.shape.ports[port].mac;
        if answer.ethernet.source != mine || !answer.header.flags.contains(Flags::RESPONSE) {
            return Err(format!("a frame is sent that is no answer from its port: {:?}", answer.ethernet));
        }
        if frame.len() < limits::MIN_FRAME {
            return Err(format!("an answer of {} bytes is sent", frame.len()));
        }
        let Some(slot) = self.shape.slot_at(answer.header.address) else {
            return Err(format!("an answer from {}, which is no slot", answer.header.address));
        };
        let to = answer.ethernet.destination;
        let host = self.macs.iter().position(|mac| *mac == to);
        let tag = u32::from_be_bytes(answer.header.tag);
        let announcement = tag == 0 && answer.header.command == Command::Config;
        if announcement || host.is_none() {
            let known = announcement || to.0[4] == 4;
            self.spare.push(frame);
            return if known { Ok(()) } else { Err(format!("an answer to {to}, who did not ask")) };
        }
        let host = host.unwrap_or(0);
        let Some(sent) = tag.checked_sub(FIRST_TAG).filter(|i| (*i as usize) < self.sent.len()) else {
            return Err(format!("an answer to host {host} with tag {tag:#x}, which nobody has used"));
        };
        let id = self.sent[sent as usize].request;
        let request = &self.requests[id as usize];
        if request.host != host || request.slot.is_some_and(|s| s != slot) {
            return Err(format!(
                "an answer of slot {slot} to host {host} with the tag of {}",
                self.tell(id as usize)
            ));
        }
        let entry = &mut self.sent[sent as usize];
        entry.answers[slot] += 1;
        let (answers, copies) = (entry.answers[slot], entry.delivered);
        if answers > copies {
            let which = self.tell(id as usize);
            return Err(format!("answer {answers} of slot {slot}, to {copies} copies, of {which}"));
        }
        self.check_answer(sent, slot, &answer)?;
        self.wire_to_host(host, frame);
        Ok(())
    }

    /// An answer against what had arrived when it was made.
    fn check_answer(&mut self, sent: u32, slot: usize, answer: &Answer<'_>) -> Result<(), String> {
        let id = self.sent[sent as usize].request;
        let request = self.requests[id as usize].clone();
        let said = || {
            format!("{}: error {:?}, {:x?}", self.tell(id as usize), answer.error(), &answer.argument[..4])
        };
        if let Some(error) = answer.error() {
            let known = match request.what {
                What::ConfigSet { force } => {
                    !force && error == AoeError::ConfigStringPresent as u8
                        || error == AoeError::DeviceUnavailable as u8
                }
                What::Mask { .. } | What::Reserve { .. } | What::Release => {
                    error == AoeError::DeviceUnavailable as u8
                }
                // Cut short it had no data, or a bad argument.
                _ => error == AoeError::Reserved as u8,
            };
            let cut = error == AoeError::BadArgument as u8 && self.shape.wire.cut > 0 || self.cut_frames > 0;
            if !known && !cut {
                return Err(format!("a strange error for {}", said()));
            }
            self.first_op(sent, slot, |op| !op.taken);
            return Ok(());
        }
        if !request.what.is_ata() {
            return self.check_state_answer(id, slot, answer);
        }
        let Some(registers) = Ata::parse(answer.argument) else {
            return Err(format!("no registers: {}", said()));
        };
        let good = registers.command & ata::STATUS_BAD == 0;
        if registers.command & ata::STATUS_DRDY == 0 {
            return Err(format!("not ready: {}", said()));
        }
        if !good {
            return self.check_refusal(sent, slot, registers);
        }
        let beyond = self.is_beyond(&request);
        if beyond && request.what != What::Trim {
            return Err(format!("answered well beyond the end: {}", said()));
        }
        match request.what {
            What::Read => self.check_read(sent, slot, answer),
            What::Identify => Ok(()),
            What::Verify => self.took_part(sent, slot).map(|_| ()),
            What::Flush => {
                let at = self.took_part(sent, slot)?;
                let seq = self.ops[at as usize].seq;
                self.slots[slot].arrivals.flushed(seq);
                Ok(())
            }
            _ => {
                let at = self.took_part(sent, slot)?;
                self.settle(at, Fate::Good);
                Ok(())
            }
        }
    }

    /// The arrival that is answered well here.
    fn took_part(&mut self, sent: u32, slot: usize) -> Result<u32, String> {
        let left = |op: &super::Op| op.stage == Stage::Left;
        let taken = self.first_op(sent, slot, |op| op.taken && left(op));
        let at = taken.or_else(|| self.first_op(sent, slot, |op| op.gone_at_once && left(op)));
        // A copy that was refused at once may have passed for this one.
        let at = at.or_else(|| {
            let ops = &self.sent[sent as usize].ops;
            let known = ops.iter().copied().find(|&at| {
                let op = &self.ops[at as usize];
                op.slot == slot && op.life == self.lives && op.taken && left(op)
            });
            known.filter(|_| self.first_op(sent, slot, |op| !op.taken).is_some())
        });
        let id = self.sent[sent as usize].request;
        at.ok_or_else(|| format!("answered well without having been taken: {}", self.tell(id as usize)))
    }

    /// Marks the first arrival of a tag at a slot as answered that is not yet, and may be.
    fn first_op(&mut self, sent: u32, slot: usize, may: impl Fn(&super::Op) -> bool) -> Option<u32> {
        let life = self.lives;
        let ops = &mut self.ops;
        let at = self.sent[sent as usize].ops.iter().copied().find(|&at| {
            let op = &ops[at as usize];
            op.slot == slot && op.life == life && !op.answered && may(op)
        })?;
        ops[at as usize].answered = true;
        Some(at)
    }

    fn check_refusal(&mut self, sent: u32, slot: usize, registers: Ata) -> Result<(), String> {
        let id = self.sent[sent as usize].request;
        let request = self.requests[id as usize].clone();
        let beyond = self.is_beyond(&request);
        let outcome = ata::Outcome { status: registers.command, error: registers.feature };
        let disk = self.slots[slot].disk.borrow();
        let (reads, changes) = (disk.read_faults > 0, disk.change_faults > 0);
        drop(disk);
        let fair = match outcome {
            ata::Outcome::NOT_FOUND => beyond,
            ata::Outcome::UNREADABLE => reads,
            ata::Outcome::FAULT => reads || changes,
            // Cut short, or a TRIM that the disk does not do after all.
            ata::Outcome::ABORTED => self.cut_frames > 0 || request.what == What::Trim,
            _ => false,
        };
        if !fair {
            return Err(format!("refused without reason, with {outcome:x?}: {}", self.tell(id as usize)));
        }
        let may = |op: &super::Op| op.taken && op.stage == Stage::Left && outcome != ata::Outcome::NOT_FOUND;
        let at = self.first_op(sent, slot, may);
        let at = at.or_else(|| self.first_op(sent, slot, |op| !op.taken));
        if let Some(at) = at {
            if request.what.changes() && self.ops[at as usize].taken {
                self.settle(at, Fate::Doubtful);
            }
        }
        Ok(())
    }

    /// A read against what arrived before it at its slot.
    fn check_read(&mut self, sent: u32, slot: usize, answer: &Answer<'_>) -> Result<(), String> {
        let entry = &self.sent[sent as usize];
        let (id, since) = (entry.request, entry.since);
        let request = self.requests[id as usize].clone();
        let data = answer.data();
        if data.len() != usize::from(request.count) * SECTOR {
            return Err(format!("{} bytes of data for {}", data.len(), self.tell(id as usize)));
        }
        let mut stamps = Vec::with_capacity(usize::from(request.count));
        for sector in data.chunks_exact(SECTOR) {
            let Some(stamp) = stamp::read(sector) else {
                return Err(format!("bytes that no write had, for {}", self.tell(id as usize)));
            };
            stamps.push(stamp);
        }
        self.luck.add(Kind::CheckedByOrder, stamps.len() as u64);
        let from = request.lba as usize;
        let arrivals = &self.slots[slot].arrivals;
        if request.slot.is_none() {
            let wrong =
                (from..).zip(&stamps).find(|(at, s)| !arrivals.allows_between(*at, since, u64::MAX, **s));
            return match wrong {
                None => Ok(()),
                Some((at, stamp)) => Err(self.wrong(id, slot, at, *stamp, u64::MAX)),
            };
        }
        let mut first = None;
        for i in 0..self.sent[sent as usize].ops.len() {
            let at = self.sent[sent as usize].ops[i];
            let op = self.ops[at as usize];
            if op.slot != slot || op.life != self.lives || op.answered || !op.taken || op.stage != Stage::Left
            {
                continue;
            }
            let arrivals = &self.slots[slot].arrivals;
            let wrong = (from..).zip(&stamps).find(|(at, s)| !arrivals.allows(*at, op.seq, **s));
            match wrong {
                None => {
                    self.ops[at as usize].answered = true;
                    return Ok(());
                }
                Some((sector, stamp)) => {
                    first.get_or_insert((sector, *stamp, op.seq));
                }
            }
        }
        // Of two copies under one tag it may not be known which was served first.
        let any = self.sent[sent as usize].ops.iter().any(|&at| {
            let op = self.ops[at as usize];
            let fits = |(at, s): (usize, &u64)| self.slots[slot].arrivals.allows(at, op.seq, *s);
            op.slot == slot && op.life == self.lives && op.taken && (from..).zip(&stamps).all(fits)
        });
        // And one that was refused at once, by a slot whose disk has vanished, may have passed for the one that is answered here.
        if any && self.first_op(sent, slot, |_| true).is_some() {
            return Ok(());
        }
        match first {
            Some((sector, stamp, seq)) => Err(self.wrong(id, slot, sector, stamp, seq)),
            None => Err(format!("answered well without having been taken: {}", self.tell(id as usize))),
        }
    }

    fn wrong(&self, id: u32, slot: usize, sector: usize, stamp: u64, seq: u64) -> String {
        self.luck.focus(slot, sector as u64);
        let possible = self.slots[slot].arrivals.possible(sector, seq);
        let name = |stamp: &u64| match stamp::request(*stamp) {
            Some(request) => format!("request {request}"),
            None => "zeroes".into(),
        };
        format!(
            "by order of arrival: {}, sees {} in sector {sector}, where only {} can be",
            self.tell(id as usize),
            name(&stamp),
            possible.iter().map(name).collect::<Vec<_>>().join(" or ")
        )
    }

    /// An answer about strings, masks and reservations.
    fn check_state_answer(&mut self, id: u32, slot: usize, answer: &Answer<'_>) -> Result<(), String> {
        let what = self.requests[id as usize].what;
        match what {
            What::ConfigRead | What::ConfigSet { .. } => {
                let Some(string) = answer.string() else {
                    return Err(format!("no string in the answer to {}", self.tell(id as usize)));
                };
                if matches!(what, What::ConfigSet { .. }) && string != request::text(id) {
                    return Err(format!("{} is answered with {string}", self.tell(id as usize)));
                }
                if !self.states.was_kept(slot, string) {
                    return Err(format!(
                        "{string} is answered, and was never kept: {}",
                        self.tell(id as usize)
                    ));
                }
                Ok(())
            }
            What::Mask { .. } => {
                let list = Mask::parse(answer.argument);
                if list.is_some_and(|list| list.error == MaskError::Unspecified as u8)
                    && self.states.has_failed(slot)
                {
                    return Ok(());
                }
                let list = list.filter(|mask| mask.error == 0);
                let entries = answer.argument.get(limits::MASK_SECTION..).unwrap_or_default();
                let entries = entries.chunks_exact(mask::DIRECTIVE);
                let list = list.map(|mask| entries.take(mask.count.into()).filter_map(|e| mac_at(&e[2..])));
                self.check_list(id, slot, false, list.map(Iterator::collect))
            }
            What::Reserve { .. } | What::Release => {
                let list = Reserve::parse(answer.argument);
                let entries = answer.argument.get(reserve::HEADER..).unwrap_or_default();
                let list = list.map(|list| reserve::addresses(entries).take(list.count.into()).collect());
                self.check_list(id, slot, true, list)
            }
            _ => Ok(()),
        }
    }

    /// A list of hosts that a slot answers with has to have been in force.
    fn check_list(&self, id: u32, slot: usize, reserved: bool, list: Option<Vec<Mac>>) -> Result<(), String> {
        match list {
            None => Err(format!("no list in the answer to {}", self.tell(id as usize))),
            Some(list) if self.states.had_list(slot, reserved, &list) => Ok(()),
            Some(list) => {
                Err(format!("{list:?} is answered, and never was in force: {}", self.tell(id as usize)))
            }
        }
    }

    // --------------------------------------------------------------- host

    /// An answer has reached a host.
    pub(super) fn answered(&mut self, host: usize, frame: &[u8]) -> Result<(), String> {
        let Some(answer) = parse(frame) else { return Ok(()) };
        let Some(sent) = u32::from_be_bytes(answer.header.tag).checked_sub(FIRST_TAG) else { return Ok(()) };
        let Some(id) = self.sent.get(sent as usize).map(|sent| sent.request) else { return Ok(()) };
        let request = &self.requests[id as usize];
        if request.host != host {
            return Err(format!("host {host} is sent an answer to {}", self.tell(id as usize)));
        }
        if request.over.is_some() || request.tag != FIRST_TAG + sent {
            self.luck.count(Kind::StaleReplies);
            return Ok(());
        }
        let Some(slot) = self.shape.slot_at(answer.header.address) else { return Ok(()) };
        let error = answer.error();
        if error == Some(AoeError::Reserved as u8) {
            // Linux says so in its log and waits on (drivers/block/aoe/aoenet.c).
            if !std::mem::replace(&mut self.requests[id as usize].kept_out, true) {
                self.luck.count(Kind::ReservedOut);
            }
            return Ok(());
        }
        let registers = request.what.is_ata().then(|| Ata::parse(answer.argument)).flatten();
        let good = error.is_none() && registers.is_none_or(|r| r.command & ata::STATUS_BAD == 0);
        self.over(id, slot, good, &answer)
    }

    fn over(&mut self, id: u32, slot: usize, good: bool, answer: &Answer<'_>) -> Result<(), String> {
        let at = id as usize;
        let now = self.luck.now();
        let request = &mut self.requests[at];
        request.over = Some(good);
        let (what, host, lba, cuts) = (request.what, request.host, request.lba as usize, request.floors.1);
        let floors = std::mem::take(&mut request.floors.0);
        let exact = request.slot.is_some();
        if request.sent == 1 {
            let took = now - request.born;
            let h = &mut self.hosts[host];
            let error: Nanos = took.abs_diff(h.srtt);
            h.srtt = (h.srtt * 7 + took) / 8;
            h.deviation = (h.deviation * 3 + error) / 4;
        }
        let h = &mut self.hosts[host];
        h.window = (h.window + 1).min(h.shape.window);
        h.under_way -= 1;
        self.under_way -= 1;
        self.luck.count(if good { Kind::Good } else { Kind::Failed });
        self.note(id, |what| format!("host {host} has its answer, good: {good}: {what}"));
        if good && exact {
            let backing = self.shape.slots[slot].backing;
            match what {
                What::Read if self.shape.careful => {
                    self.check_history(id, slot, lba, &floors, cuts, answer)?
                }
                What::Write | What::Forced | What::Trim if self.shape.careful => {
                    let forced =
                        backing == Backing::Through || what == What::Forced && backing == Backing::Back;
                    let request = &self.requests[at];
                    let history = &mut self.slots[slot].history;
                    for (sector, stamp) in request::changed(id, request) {
                        history.written(sector, stamp, forced, cuts);
                    }
                }
                What::Flush if self.shape.careful && backing != Backing::Ram => {
                    self.slots[slot].history.flushed(&floors, cuts);
                }
                What::ConfigRead | What::ConfigSet { .. } => {
                    let string = answer.string().unwrap_or_default();
                    let floor = floors.first().copied().filter(|_| what == What::ConfigRead);
                    self.states
                        .seen(slot, string, floor)
                        .map_err(|why| format!("{}: {why}", self.tell(at)))?;
                }
                _ => {}
            }
        }
        self.let_go(id);
        self.wake_host(host);
        Ok(())
    }

    /// A read against what hosts know.
    fn check_history(
        &mut self,
        id: u32,
        slot: usize,
        lba: usize,
        floors: &[u32],
        cuts: u32,
        answer: &Answer<'_>,
    ) -> Result<(), String> {
        self.luck.add(Kind::CheckedEndToEnd, floors.len() as u64);
        for ((at, floor), sector) in (lba..).zip(floors).zip(answer.data().chunks_exact(SECTOR)) {
            let stamp = stamp::read(sector).unwrap_or(u64::MAX);
            if !self.slots[slot].history.seen(at, stamp, *floor, cuts) {
                self.luck.focus(slot, at as u64);
                return Err(format!(
                    "end to end: {} sees {stamp:x} in sector {at}, and {floor} writes were certain when it was made; {}",
                    self.tell(id as usize),
                    self.slots[slot].history.tell(at)
                ));
            }
        }
        Ok(())
    }

    /// An answer goes on its way to a host.
    fn wire_to_host(&mut self, host: usize, frame: Vec<u8>) {
        let wire = self.shape.wire;
        if self.luck.permille(wire.loss + wire.corrupt) {
            self.luck.count(Kind::Lost);
            return self.spare.push(frame);
        }
        if self.luck.permille(wire.double) {
            self.luck.count(Kind::Doubled);
            let after = self.luck.about(wire.mean * 4);
            self.plan(after, Event::Answer { host, frame: frame.clone() });
        }
        let mut after = self.luck.about(wire.mean);
        if self.luck.permille(wire.delay) {
            self.luck.count(Kind::Delayed);
            after = self.long_delay();
        }
        self.plan(after, Event::Answer { host, frame });
    }
}
