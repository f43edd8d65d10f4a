//! One slot: its facts, and what it answers to an admitted request.
//!
//! Not here: the disk behind it, or the frames in flight (`worker`).
//! Invariant: [`Slot::decide`] either writes a whole reply, or leaves the frame as it was.

use super::admit::{Admitted, Refusal};
use super::command::{self, Bounds, Io};
use super::condition::Condition;
use super::order::Order;
use super::state::{MacList, SlotState};
use super::{identify, reply, smart};
use crate::limits;
use crate::protocol::ata::{self, Ata, Outcome};
use crate::protocol::config::{Config, ConfigCommand};
use crate::protocol::mask::{self, Directive, Mask, MaskCommand, MaskError};
use crate::protocol::reserve::{self, Reserve, ReserveCommand};
use crate::protocol::{Address, AoeError, Command, Mac};

/// A text of at most `N` printable ASCII characters, padded with blanks, as IDENTIFY DEVICE carries it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AtaText<const N: usize>([u8; N]);

/// A text that IDENTIFY DEVICE cannot carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Too long.
    #[error("{length} characters are too many; at most {most} fit")]
    TooLong {
        /// Its length.
        length: usize,
        /// What fits.
        most: usize,
    },
    /// Not printable ASCII.
    #[error("only printable ASCII characters are allowed")]
    NotAscii,
}

impl<const N: usize> AtaText<N> {
    /// The text with its blanks.
    #[must_use]
    pub const fn padded(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> std::str::FromStr for AtaText<N> {
    type Err = TextError;

    fn from_str(s: &str) -> Result<Self, TextError> {
        if !s.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            return Err(TextError::NotAscii);
        }
        let mut text = [b' '; N];
        text.get_mut(..s.len())
            .ok_or(TextError::TooLong { length: s.len(), most: N })?
            .copy_from_slice(s.as_bytes());
        Ok(Self(text))
    }
}

impl<const N: usize> std::fmt::Display for AtaText<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(String::from_utf8_lossy(&self.0).trim_end())
    }
}

impl<const N: usize> std::fmt::Debug for AtaText<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// What a command is answered with that a reservation forbids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReservedAnswer {
    /// AoE error 6, as the protocol has it. A Linux host repeats the command for 180 s (drivers/block/aoe/aoenet.c).
    #[default]
    Aoe,
    /// ATA status 41/04: an I/O error at once.
    Ata,
}

/// What is known of the health of the device behind a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It has no way to say, or none that we know.
    #[default]
    Unknown,
    /// It says it is well.
    Good,
    /// It says it is failing, or about to.
    Failing,
}

/// What a slot says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotFacts {
    /// Its address, exact.
    pub address: Address,
    /// Its VLAN; 0 means untagged or priority-tagged frames.
    pub vlan: u16,
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether an answered write may still be volatile until a flush.
    pub write_cache: bool,
    /// Whether TRIM is served: the backing can free what it no longer needs, and reads zeroes there.
    pub trim: bool,
    /// Whether the medium rotates.
    pub rotational: bool,
    /// Bytes of a physical block.
    pub physical_block: u32,
    /// Bytes from the start of a physical block to the first sector of the slot.
    pub misalignment: u32,
    /// What its device says of its health.
    pub health: Health,
    /// Serial number: stable and unique, initiators take it as the identity of the disk.
    pub serial: AtaText<20>,
    /// Model.
    pub model: AtaText<40>,
    /// Firmware.
    pub firmware: AtaText<8>,
    /// World wide name; 0 for none.
    pub wwn: u64,
    /// Requests it says it can queue (Query Config, buffer count); at least 2.
    pub buffers: u16,
    /// Who may talk to it by order of the administrator; empty for everybody. A host has to be both on this list and
    /// on the mask list of the state, as far as they are not empty.
    pub allow: Vec<Mac>,
    /// What a command is answered with that a reservation forbids.
    pub reserved_answer: ReservedAnswer,
    /// What hosts have set.
    pub state: SlotState,
}

impl SlotFacts {
    /// A slot of so many sectors with nothing special about it.
    #[must_use]
    pub fn new(address: Address, sectors: u64) -> Self {
        Self {
            address,
            vlan: 0,
            sectors,
            read_only: false,
            write_cache: false,
            trim: false,
            rotational: false,
            physical_block: limits::SECTOR as u32,
            misalignment: 0,
            health: Health::Unknown,
            serial: AtaText([b' '; 20]),
            model: AtaText([b' '; 40]),
            firmware: AtaText([b' '; 8]),
            wwn: 0,
            buffers: limits::BUFFER_COUNT,
            allow: Vec::new(),
            reserved_answer: ReservedAnswer::default(),
            state: SlotState::default(),
        }
    }
}

/// The path a request took: what the answer depends on beside the slot.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Address of the port it came in on.
    pub port: Mac,
    /// Most sectors of one command on that port, as advertised.
    pub sectors: u8,
    /// Bytes of the longest untagged frame that the port sends.
    pub longest: usize,
    /// Whether the request was addressed to more than this slot.
    pub wildcard: bool,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The frame now holds the reply, of so many bytes.
    Reply(usize),
    /// The disk has to do something first; then [`Slot::finish`] writes the reply.
    Io(Io, Ata),
    /// [`Slot::wanted`] has to be on stable storage first; then [`Slot::settle`] writes the reply.
    Change,
    /// It would change the state of the slot while another change is under way: decide again when that has settled.
    Later,
    /// Nothing.
    Silence(Refusal),
}

/// One slot.
#[derive(Debug)]
pub struct Slot {
    facts: SlotFacts,
    identify: [u8; limits::SECTOR],
    /// SMART is switched on.
    smart: bool,
    condition: Condition,
    /// A change of the state is on its way to stable storage.
    changing: bool,
    /// The state it leads to.
    next: Box<SlotState>,
    /// Commands in flight and waiting, by range.
    pub order: Order,
}

impl Slot {
    /// A slot with these facts.
    #[must_use]
    pub fn new(facts: SlotFacts) -> Self {
        Self {
            identify: identify::page(&facts, true),
            facts,
            smart: true,
            condition: Condition::Serving,
            changing: false,
            next: Box::default(),
            order: Order::default(),
        }
    }

    /// Its facts.
    #[must_use]
    pub fn facts(&self) -> &SlotFacts {
        &self.facts
    }

    /// What may be promised of its disk.
    #[must_use]
    pub fn condition(&self) -> Condition {
        self.condition
    }

    /// Whether nothing is promised any more: a write or flush failed for good, or the disk is gone.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.condition != Condition::Serving
    }

    /// Notes that its disk is in such a condition; true when that is worse than what was known.
    pub fn worsen(&mut self, condition: Condition) -> bool {
        let worse = self.condition.is_better_than(condition);
        if worse {
            self.condition = condition;
        }
        worse
    }

    /// Serves again: it has another way to its disk, of which nothing bad is known.
    pub fn recover(&mut self) {
        self.condition = Condition::Serving;
    }

    /// Its size is now so many sectors; true when that is news.
    pub fn resize(&mut self, sectors: u64) -> bool {
        let news = std::mem::replace(&mut self.facts.sectors, sectors) != sectors;
        self.identify = identify::page(&self.facts, self.smart);
        news
    }

    /// Its device says this of its health.
    pub fn set_health(&mut self, health: Health) {
        self.facts.health = health;
    }

    /// Whether a host may talk to it: it has to be on the administrator's list and on the mask list, as far as they are
    /// not empty.
    #[must_use]
    pub fn admits(&self, host: Mac) -> bool {
        let on = |list: &[Mac]| list.is_empty() || list.contains(&host);
        on(&self.facts.allow) && on(&self.facts.state.mask)
    }

    /// Whether its condition forbids a command.
    fn refuses(&self, io: Io) -> bool {
        match self.condition {
            Condition::Serving => false,
            Condition::Failed(_) => io.access.promises(),
            Condition::Gone(_) => true,
        }
    }

    /// Whether a reservation keeps a host from ATA commands.
    fn is_reserved_from(&self, host: Mac) -> bool {
        let holders = &self.facts.state.reserved;
        !holders.is_empty() && !holders.contains(&host)
    }

    fn from(&self, path: &Path) -> reply::From {
        reply::From { port: path.port, address: self.facts.address }
    }

    /// Decides about a request that [`admit()`](super::admit()) let in and whose address is this slot's, in the order of the
    /// protocol (AoEr11, sections 2 and 3): VLAN, mask list, length of the argument, command.
    ///
    /// `frame` is the memory from the first byte of the frame to the end of its chunk, of which `have` bytes were
    /// received; `total` are the bytes of the whole frame, over all pieces.
    pub fn decide(
        &mut self,
        request: &Admitted,
        path: &Path,
        frame: &mut [u8],
        have: usize,
        total: usize,
    ) -> Decision {
        if request.vlan() != self.facts.vlan {
            return Decision::Silence(Refusal::OtherVlan);
        }
        if !self.admits(request.ethernet.source) {
            return Decision::Silence(Refusal::Masked);
        }
        let decided = match request.header.command {
            Command::Ata => self.decide_ata(request, path, frame, have, total),
            Command::Config => self.decide_config(request, path, frame, have),
            Command::Mask => self.decide_mask(request, path, frame, have),
            Command::Reserve => self.decide_reserve(request, path, frame, have),
            Command::Unknown(_) => Err(Answer::Error(AoeError::UnrecognizedCommand)),
        };
        match decided {
            Ok(decision) => decision,
            Err(Answer::Silence(why)) => Decision::Silence(why),
            // A shelf full of slots would answer each with an error: silence.
            Err(Answer::Error(_)) if path.wildcard => Decision::Silence(Refusal::Wildcard),
            Err(Answer::Error(error)) => written(reply::error(frame, have, request, self.from(path), error)),
        }
    }

    // ------------------------------------------------------------- config

    fn decide_config(
        &mut self,
        request: &Admitted,
        path: &Path,
        frame: &mut [u8],
        have: usize,
    ) -> Result<Decision, Answer> {
        use ConfigCommand::{ForceSet, Read, Set, Test, TestAndReplace, TestPrefix, Unknown};
        let argument = frame.get(request.argument_at()..have).unwrap_or_default();
        let config = Config::parse(argument).ok_or(Answer::Silence(Refusal::Runt))?;
        let command = config.command;
        let text = || string(argument.get(limits::CONFIG_SECTION..)?, config.length);
        let given = text().ok_or(Answer::Error(AoeError::BadArgument));
        let ours = &self.facts.state.config_string[..];
        let wanted = match command {
            // Length and string of a read mean nothing: aoetools send 1024 of them.
            Read => None,
            Test if given? == ours => None,
            TestPrefix if ours.starts_with(given?) => None,
            Test | TestPrefix => return Err(Answer::Silence(Refusal::NoMatch)),
            Unknown(_) => return Err(Answer::Error(AoeError::BadArgument)),
            Set | ForceSet | TestAndReplace if path.wildcard => {
                return Err(Answer::Silence(Refusal::Wildcard));
            }
            Set | ForceSet | TestAndReplace if self.changing => return Ok(Decision::Later),
            // Its answer may have been lost, so the same string again is no conflict.
            Set if ours.is_empty() || ours == given? => Some(given?),
            ForceSet => Some(given?),
            TestAndReplace => {
                let expected = given?;
                let rest = argument.get(limits::CONFIG_SECTION + expected.len()..).unwrap_or_default();
                let (length, rest) = rest.split_first_chunk().ok_or(Answer::Error(AoeError::BadArgument))?;
                let new =
                    string(rest, u16::from_be_bytes(*length)).ok_or(Answer::Error(AoeError::BadArgument))?;
                if ours != expected && ours != new {
                    return Ok(self.answer_config(request, path, frame, command, CONFLICT));
                }
                Some(new)
            }
            Set => return Ok(self.answer_config(request, path, frame, command, CONFLICT)),
        };
        match wanted.filter(|new| *new != ours) {
            None => Ok(self.answer_config(request, path, frame, command, None)),
            Some(new) => {
                // Not longer than the list takes: that was checked.
                let config_string = new.iter().copied().take(limits::CONFIG_STRING).collect();
                Ok(self.begin(|next| next.config_string = config_string))
            }
        }
    }

    fn answer_config(
        &self,
        request: &Admitted,
        path: &Path,
        frame: &mut [u8],
        command: ConfigCommand,
        error: Option<AoeError>,
    ) -> Decision {
        let answer = reply::ConfigAnswer {
            buffers: self.facts.buffers,
            sectors: path.sectors,
            command,
            string: &self.facts.state.config_string,
            error,
        };
        written(reply::config(frame, request, self.from(path), answer))
    }

    // --------------------------------------------------- mask and reserve

    fn decide_mask(
        &mut self,
        request: &Admitted,
        path: &Path,
        frame: &mut [u8],
        have: usize,
    ) -> Result<Decision, Answer> {
        let argument = frame.get(request.argument_at()..have).unwrap_or_default();
        let asked = Mask::parse(argument).ok_or(Answer::Silence(Refusal::Runt))?;
        match asked.command {
            MaskCommand::Read => return Ok(self.answer_mask(request, path, frame, asked.command)),
            MaskCommand::Unknown(_) => return Err(Answer::Error(AoeError::BadArgument)),
            MaskCommand::Edit if path.wildcard => return Err(Answer::Silence(Refusal::Wildcard)),
            MaskCommand::Edit if self.changing => return Ok(Decision::Later),
            MaskCommand::Edit => {}
        }
        let bytes = usize::from(asked.count) * mask::DIRECTIVE;
        let directives =
            argument.get(limits::MASK_SECTION..).and_then(|rest| rest.get(..bytes)).ok_or(BAD_ARGUMENT)?;
        match edited(&self.facts.state.mask, directives) {
            Ok(list) if list == self.facts.state.mask => {
                Ok(self.answer_mask(request, path, frame, asked.command))
            }
            Ok(mask) => Ok(self.begin(|next| next.mask = mask)),
            Err((error, index)) => {
                Ok(written(reply::mask_refused(frame, request, self.from(path), error, index)))
            }
        }
    }

    fn answer_mask(
        &self,
        request: &Admitted,
        path: &Path,
        frame: &mut [u8],
        command: MaskCommand,
    ) -> Decision {
        let longest = path.longest_like(request);
        written(reply::mask(frame, request, self.from(path), longest, command, &self.facts.state.mask))
    }

    fn decide_reserve(
        &mut self,
        request: &Admitted,
        path: &Path,
        frame: &mut [u8],
        have: usize,
    ) -> Result<Decision, Answer> {
        let argument = frame.get(request.argument_at()..have).unwrap_or_default();
        let asked = Reserve::parse(argument).ok_or(Answer::Silence(Refusal::Runt))?;
        match asked.command {
            ReserveCommand::Read => {
                return Ok(self.answer_reserve(request, path, frame, asked.command, None));
            }
            ReserveCommand::Unknown(_) => return Err(Answer::Error(AoeError::BadArgument)),
            _ if path.wildcard => return Err(Answer::Silence(Refusal::Wildcard)),
            _ if self.changing => return Ok(Decision::Later),
            ReserveCommand::Set | ReserveCommand::ForceSet => {}
        }
        let bytes = usize::from(asked.count) * reserve::ENTRY;
        let list = argument.get(reserve::HEADER..).and_then(|rest| rest.get(..bytes)).ok_or(BAD_ARGUMENT)?;
        if asked.command == ReserveCommand::Set && self.is_reserved_from(request.ethernet.source) {
            let error = Some(AoeError::Reserved);
            return Ok(self.answer_reserve(request, path, frame, asked.command, error));
        }
        let mut reserved = MacList::new();
        for mac in reserve::addresses(list) {
            if !reserved.contains(&mac) {
                // A count of one byte cannot name more than fit.
                let _ = reserved.try_push(mac);
            }
        }
        if reserved == self.facts.state.reserved {
            return Ok(self.answer_reserve(request, path, frame, asked.command, None));
        }
        Ok(self.begin(|next| next.reserved = reserved))
    }

    fn answer_reserve(
        &self,
        request: &Admitted,
        path: &Path,
        frame: &mut [u8],
        command: ReserveCommand,
        error: Option<AoeError>,
    ) -> Decision {
        let (longest, list) = (path.longest_like(request), &self.facts.state.reserved);
        written(reply::reserve(frame, request, self.from(path), longest, command, list, error))
    }

    // ------------------------------------------------------------ changes

    fn begin(&mut self, change: impl FnOnce(&mut SlotState)) -> Decision {
        (*self.next).clone_from(&self.facts.state);
        change(&mut self.next);
        self.changing = true;
        Decision::Change
    }

    /// The state that is to be brought to stable storage, between [`Decision::Change`] and [`Slot::settle`].
    #[must_use]
    pub fn wanted(&self) -> Option<&SlotState> {
        self.changing.then_some(&*self.next)
    }

    /// Whether the change under way is one of the config string.
    #[must_use]
    pub fn changes_config_string(&self) -> bool {
        self.wanted().is_some_and(|next| next.config_string != self.facts.state.config_string)
    }

    /// Ends a change: the wanted state holds if it is `kept`, else the one before. Writes the reply to the request that
    /// asked for it, which `frame` still holds.
    ///
    /// Where it is not kept: AoE error 3 with the string or list in force, and mask error 1.
    pub fn settle(&mut self, kept: bool, request: &Admitted, path: &Path, frame: &mut [u8]) -> Decision {
        if std::mem::take(&mut self.changing) && kept {
            std::mem::swap(&mut self.facts.state, &mut *self.next);
        }
        let error = (!kept).then_some(AoeError::DeviceUnavailable);
        let argument = frame.get(request.argument_at()..).unwrap_or_default();
        match request.header.command {
            Command::Config => match Config::parse(argument) {
                Some(config) => self.answer_config(request, path, frame, config.command, error),
                None => Decision::Silence(Refusal::Runt),
            },
            Command::Mask if kept => self.answer_mask(request, path, frame, MaskCommand::Edit),
            Command::Mask => {
                let error = MaskError::Unspecified;
                written(reply::mask_refused(frame, request, self.from(path), error, 0))
            }
            Command::Reserve => match Reserve::parse(argument) {
                Some(asked) => self.answer_reserve(request, path, frame, asked.command, error),
                None => Decision::Silence(Refusal::Runt),
            },
            // Nothing else changes anything.
            Command::Ata | Command::Unknown(_) => Decision::Silence(Refusal::NoMatch),
        }
    }

    // ---------------------------------------------------------------- ATA

    fn decide_ata(
        &mut self,
        request: &Admitted,
        path: &Path,
        frame: &mut [u8],
        have: usize,
        total: usize,
    ) -> Result<Decision, Answer> {
        let argument = frame.get(request.argument_at()..have);
        let ata = argument.and_then(Ata::parse).ok_or(Answer::Silence(Refusal::Runt))?;
        let from = self.from(path);
        let registers =
            |frame: &mut [u8], registers: &Ata| written(reply::ata(frame, request, from, registers, 0));
        let refused = |frame: &mut [u8], outcome: Outcome| {
            if path.wildcard {
                return Decision::Silence(Refusal::Wildcard);
            }
            registers(frame, &ata.response(outcome))
        };
        if self.is_reserved_from(request.ethernet.source) && ata.command != ata::IDENTIFY_DEVICE {
            return match self.facts.reserved_answer {
                ReservedAnswer::Aoe => Err(Answer::Error(AoeError::Reserved)),
                ReservedAnswer::Ata => Ok(refused(frame, Outcome::ABORTED)),
            };
        }
        let health = if self.failed() { Health::Failing } else { self.facts.health };
        let bounds = Bounds {
            sectors: self.facts.sectors,
            most: path.sectors,
            read_only: self.facts.read_only,
            write_cache: self.facts.write_cache,
            trim: self.facts.trim,
            smart: self.smart,
            health,
            data: total.saturating_sub(request.data_at()),
        };
        let page = |frame: &mut [u8], page: &[u8; limits::SECTOR]| {
            let at = request.data_at();
            let Some(room) = frame.get_mut(at..at + limits::SECTOR) else {
                return Decision::Silence(Refusal::NoRoom);
            };
            room.copy_from_slice(page);
            written(reply::ata(frame, request, from, &ata.response(Outcome::GOOD), limits::SECTOR))
        };
        Ok(match command::decode(&ata, bounds) {
            // One frame would overwrite a sector of every disk.
            Ok(command::Command::Io(io)) if path.wildcard && io.access.changes() => {
                Decision::Silence(Refusal::Wildcard)
            }
            Ok(command::Command::SmartSwitch(_)) if path.wildcard => Decision::Silence(Refusal::Wildcard),
            Ok(command::Command::Io(io)) if self.refuses(io) => refused(frame, Outcome::FAULT),
            Ok(command::Command::Io(io)) => Decision::Io(io, ata),
            Ok(command::Command::Identify) => {
                let decision = page(frame, &self.identify);
                if let Some(page) = frame.get_mut(request.data_at()..request.data_at() + limits::SECTOR) {
                    identify::fit(page, path.sectors);
                }
                decision
            }
            Ok(command::Command::SmartData) => page(frame, &smart::data()),
            Ok(command::Command::SmartLog(log)) => match smart::log(log) {
                Some(log) => page(frame, &log),
                None => refused(frame, Outcome::ABORTED),
            },
            Ok(command::Command::SmartSwitch(on)) => {
                self.smart = on;
                self.identify = identify::page(&self.facts, on);
                registers(frame, &ata.response(Outcome::GOOD))
            }
            Ok(command::Command::Done(answer)) => registers(frame, &answer),
            Err(outcome) => refused(frame, outcome),
        })
    }

    /// Writes the reply to a command that the disk has ended. `data` are the bytes it read, which follow the headers
    /// in the chunk or elsewhere. Returns the length of the frame with them; `None` when the chunk has no room.
    #[must_use]
    pub fn finish(
        &self,
        request: &Admitted,
        path: &Path,
        frame: &mut [u8],
        ata: &Ata,
        outcome: Outcome,
        data: usize,
    ) -> Option<usize> {
        reply::ata(frame, request, self.from(path), &ata.response(outcome), data)
    }

    // ------------------------------------------------------ announcements

    /// Whom to tell that the slot is there: everybody, or each host that may talk to it.
    pub fn audience(&self) -> impl Iterator<Item = Mac> + '_ {
        let (allow, mask) = (&self.facts.allow[..], &self.facts.state.mask[..]);
        let listed = if mask.is_empty() { allow } else { mask };
        let everybody = listed.is_empty().then_some(Mac::BROADCAST);
        everybody.into_iter().chain(listed.iter().copied().filter(|&mac| self.admits(mac)))
    }

    /// Writes the announcement of this slot on a port, to one of its [`Slot::audience`]. Returns the length of the frame.
    #[must_use]
    pub fn announce(&self, path: &Path, to: Mac, frame: &mut [u8]) -> Option<usize> {
        let facts = &self.facts;
        let tag = (facts.vlan != 0).then_some(facts.vlan);
        let string = &facts.state.config_string;
        reply::announcement(frame, self.from(path), to, tag, facts.buffers, path.sectors, string)
    }
}

impl Path {
    /// Bytes of the longest frame that the port sends with the tag of this request.
    const fn longest_like(&self, request: &Admitted) -> usize {
        self.longest + request.header_at() - limits::ETHERNET
    }
}

/// How a request ends that is not served.
#[derive(Clone, Copy)]
enum Answer {
    Silence(Refusal),
    Error(AoeError),
}

const BAD_ARGUMENT: Answer = Answer::Error(AoeError::BadArgument);
const CONFLICT: Option<AoeError> = Some(AoeError::ConfigStringPresent);

fn written(len: Option<usize>) -> Decision {
    len.map_or(Decision::Silence(Refusal::NoRoom), Decision::Reply)
}

/// A string of this length at the start of `bytes`; `None` when it is longer than they are, or than a config string.
fn string(bytes: &[u8], length: u16) -> Option<&[u8]> {
    let length = usize::from(length);
    bytes.get(..length).filter(|_| length <= limits::CONFIG_STRING)
}

/// A mask list after all directives.
///
/// # Errors
/// The first one that cannot be done, with its index; the list stays as it was then, so that an edit that is repeated
/// because its answer was lost gives the same list.
fn edited(list: &MacList, directives: &[u8]) -> Result<MacList, (MaskError, u8)> {
    let mut list = list.clone();
    // Not `0..`: it works out the number behind the last one, and with 255 directives that is none.
    for (index, directive) in (0..=u8::MAX).zip(mask::directives(directives)) {
        match directive {
            Directive::Nothing => {}
            Directive::Add(mac) if list.contains(&mac) => {}
            Directive::Add(mac) => list.try_push(mac).map_err(|_| (MaskError::ListFull, index))?,
            Directive::Delete(mac) => list.retain(|listed| *listed != mac),
            Directive::Unknown(_) => return Err((MaskError::BadDirective, index)),
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests;
