//! One slot: its facts, and what it answers to an admitted request.
//!
//! Not here: the disk behind it, or the frames in flight (`worker`).
//! Invariant: [`Slot::decide`] either writes a whole reply, or leaves the frame as it was.

use super::admit::{Admitted, Refusal};
use super::command::{self, Bounds, Io};
use super::order::Order;
use super::state::SlotState;
use super::{identify, reply};
use crate::limits;
use crate::protocol::ata::{self, Ata, Outcome};
use crate::protocol::config::{Config, ConfigCommand};
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
    /// Nothing.
    Silence(Refusal),
}

/// One slot.
#[derive(Debug)]
pub struct Slot {
    facts: SlotFacts,
    identify: [u8; limits::SECTOR],
    /// A write or a flush failed in a way that leaves the medium unknown: no write is promised durable any more.
    failed: bool,
    /// Commands in flight and waiting, by range.
    pub order: Order,
}

impl Slot {
    /// A slot with these facts.
    #[must_use]
    pub fn new(facts: SlotFacts) -> Self {
        Self { identify: identify::page(&facts), facts, failed: false, order: Order::default() }
    }

    /// Its facts.
    #[must_use]
    pub fn facts(&self) -> &SlotFacts {
        &self.facts
    }

    /// Whether a write or flush failed for good.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// Notes that a write or flush failed for good; true the first time.
    pub fn fail(&mut self) -> bool {
        !std::mem::replace(&mut self.failed, true)
    }

    fn from(&self, path: &Path) -> reply::From {
        reply::From { port: path.port, address: self.facts.address }
    }

    /// Decides about a request. `frame` is the memory from the first byte of the frame to the end of its chunk, of
    /// which `have` bytes were received; `total` are the bytes of the whole frame, over all pieces.
    pub fn decide(
        &self,
        request: &Admitted,
        path: &Path,
        frame: &mut [u8],
        have: usize,
        total: usize,
    ) -> Decision {
        if request.vlan() != self.facts.vlan {
            return Decision::Silence(Refusal::OtherVlan);
        }
        let answer = match request.header.command {
            Command::Ata => return self.decide_ata(request, path, frame, have, total),
            Command::Config => match self.decide_config(request, path, frame, have) {
                Ok(command) => {
                    let string = &self.facts.state.config_string;
                    reply::config(frame, request, self.from(path), command, path.sectors, string)
                }
                Err(ConfigRefusal::Silence(why)) => return Decision::Silence(why),
                Err(ConfigRefusal::Error(error)) => {
                    reply::error(frame, have, request, self.from(path), error)
                }
            },
            // A shelf full of slots would answer each with an error: silence.
            _ if path.wildcard => return Decision::Silence(Refusal::Wildcard),
            Command::Mask | Command::Reserve | Command::Unknown(_) => {
                reply::error(frame, have, request, self.from(path), AoeError::UnrecognizedCommand)
            }
        };
        answer.map_or(Decision::Silence(Refusal::NoRoom), Decision::Reply)
    }

    fn decide_config(
        &self,
        request: &Admitted,
        path: &Path,
        frame: &[u8],
        have: usize,
    ) -> Result<ConfigCommand, ConfigRefusal> {
        let argument = frame.get(request.argument_at()..have).unwrap_or_default();
        let config = Config::parse(argument).ok_or(ConfigRefusal::Silence(Refusal::Runt))?;
        let given = || {
            let length = usize::from(config.length);
            let text = argument.get(limits::CONFIG_SECTION..)?.get(..length)?;
            (length <= limits::CONFIG_STRING).then_some(text)
        };
        let string = &self.facts.state.config_string[..];
        let matches = match config.command {
            // Length and string of a read mean nothing: aoetools send 1024 of them.
            ConfigCommand::Read => return Ok(config.command),
            // Workers pass on the headers of a wildcard request only, and no initiator asks such a thing of all slots.
            _ if path.wildcard => return Err(ConfigRefusal::Silence(Refusal::Wildcard)),
            ConfigCommand::Test => given().map(|text| text == string),
            ConfigCommand::TestPrefix => given().map(|text| string.starts_with(text)),
            // Changing the string is not offered yet: to a sender it is an unknown sub-command.
            ConfigCommand::Set | ConfigCommand::ForceSet | ConfigCommand::Unknown(_) => None,
        };
        match matches {
            Some(true) => Ok(config.command),
            Some(false) => Err(ConfigRefusal::Silence(Refusal::NoMatch)),
            None => Err(ConfigRefusal::Error(AoeError::BadArgument)),
        }
    }

    fn decide_ata(
        &self,
        request: &Admitted,
        path: &Path,
        frame: &mut [u8],
        have: usize,
        total: usize,
    ) -> Decision {
        let Some(ata) = frame.get(request.argument_at()..have).and_then(Ata::parse) else {
            return Decision::Silence(Refusal::Runt);
        };
        let bounds = Bounds {
            sectors: self.facts.sectors,
            most: path.sectors,
            read_only: self.facts.read_only,
            data: total.saturating_sub(request.data_at()),
        };
        let from = self.from(path);
        let reply = match command::decode(&ata, bounds) {
            Ok(command::Command::Io(io)) => {
                let changes = io.access != command::Access::Read;
                if path.wildcard && io.access == command::Access::Write {
                    // One frame would overwrite a sector of every disk.
                    return Decision::Silence(Refusal::Wildcard);
                }
                if !(self.failed && changes) {
                    return Decision::Io(io, ata);
                }
                reply::ata(frame, request, from, &ata.response(Outcome::FAULT), 0)
            }
            Ok(command::Command::Identify) => {
                let at = request.data_at();
                match frame.get_mut(at..at + limits::SECTOR) {
                    Some(data) => data.copy_from_slice(&self.identify),
                    None => return Decision::Silence(Refusal::NoRoom),
                }
                reply::ata(frame, request, from, &ata.response(Outcome::GOOD), limits::SECTOR)
            }
            Ok(command::Command::CheckPower) => {
                let registers = Ata { count: ata::POWER_ACTIVE, ..ata.response(Outcome::GOOD) };
                reply::ata(frame, request, from, &registers, 0)
            }
            Err(_) if path.wildcard && is_write(ata.command) => return Decision::Silence(Refusal::Wildcard),
            Err(outcome) => reply::ata(frame, request, from, &ata.response(outcome), 0),
        };
        reply.map_or(Decision::Silence(Refusal::NoRoom), Decision::Reply)
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

    /// Writes the announcement of this slot on a port. Returns the length of the frame.
    #[must_use]
    pub fn announce(&self, path: &Path, frame: &mut [u8]) -> Option<usize> {
        let tag = (self.facts.vlan != 0).then_some(self.facts.vlan);
        reply::announcement(frame, self.from(path), tag, path.sectors, &self.facts.state.config_string)
    }
}

enum ConfigRefusal {
    Silence(Refusal),
    Error(AoeError),
}

const fn is_write(opcode: u8) -> bool {
    matches!(opcode, ata::WRITE_SECTORS | ata::WRITE_SECTORS_EXT | ata::WRITE_DMA | ata::WRITE_DMA_EXT)
}

#[cfg(test)]
mod tests;
