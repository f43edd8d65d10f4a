//! Replies, written over the request they answer.
//!
//! Not here: what to reply (`slot`), or which memory the data lies in (`worker`).
//! Invariant: a reply goes from the port's address to the requester's, with real shelf and slot, the request's tag
//! and VLAN tag, and zeroes up to 60 bytes.

use super::admit::Admitted;
use crate::limits;
use crate::protocol::ata::{Ata, Outcome};
use crate::protocol::config::{Config, ConfigCommand};
use crate::protocol::ethernet::ETHERTYPE_AOE;
use crate::protocol::{Address, AoeError, Command, Ethernet, Flags, Header, Mac, aoe};

/// Version we report in the firmware field of Query Config: major in the high byte, minor in the low one.
pub const FIRMWARE: u16 = 0x0001;

/// Who answers: the port the request came in on, and the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct From {
    /// Address of the port; initiators learn the target's from here.
    pub port: Mac,
    /// Address of the slot, exact.
    pub address: Address,
}

fn headers(frame: &mut [u8], request: &Admitted, from: From, error: Option<AoeError>) {
    let ethernet = Ethernet { destination: request.ethernet.source, source: from.port, ..request.ethernet };
    ethernet.emit(frame);
    if let Some(rest) = frame.get_mut(request.header_at()..) {
        request.header.response(from.address, error).emit(rest);
    }
}

/// Zeroes what is behind `len` up to the minimum; the length of the frame, or `None` when there is no room.
fn finish(frame: &mut [u8], len: usize) -> Option<usize> {
    let end = len.max(limits::MIN_FRAME);
    frame.get_mut(len..end)?.fill(0);
    Some(end)
}

/// An AoE error. The argument header stays in place, as other targets and aoetools expect; the rest is cut.
#[must_use]
pub fn error(
    frame: &mut [u8],
    have: usize,
    request: &Admitted,
    from: From,
    error: AoeError,
) -> Option<usize> {
    headers(frame, request, from, Some(error));
    let argument = match request.header.command {
        Command::Ata => limits::ATA_SECTION,
        Command::Config => limits::CONFIG_SECTION,
        Command::Mask => 4,
        Command::Reserve => 2,
        Command::Unknown(_) => 0,
    };
    finish(frame, (request.argument_at() + argument).min(have))
}

/// The answer to an ATA command: headers and registers, followed by `data` bytes that are in place already or that
/// the caller sends from elsewhere. Returns the length of the frame with them; padding only without them.
#[must_use]
pub fn ata(frame: &mut [u8], request: &Admitted, from: From, registers: &Ata, data: usize) -> Option<usize> {
    headers(frame, request, from, None);
    registers.emit(frame.get_mut(request.argument_at()..)?);
    if data == 0 { finish(frame, request.data_at()) } else { Some(request.data_at() + data) }
}

/// The registers of a command that ended like that.
#[must_use]
pub fn registers(request: &Ata, outcome: Outcome) -> Ata {
    request.response(outcome)
}

/// The answer to a Query Config command: the string in force.
#[must_use]
pub fn config(
    frame: &mut [u8],
    request: &Admitted,
    from: From,
    command: ConfigCommand,
    sectors: u8,
    string: &[u8],
) -> Option<usize> {
    headers(frame, request, from, None);
    let at = request.argument_at();
    let text = at + limits::CONFIG_SECTION;
    let length = u16::try_from(string.len()).ok()?;
    let config = Config {
        buffer_count: limits::BUFFER_COUNT,
        firmware: FIRMWARE,
        sectors,
        version: aoe::VERSION,
        command,
        length,
    };
    config.emit(frame.get_mut(at..text)?);
    frame.get_mut(text..text + string.len())?.copy_from_slice(string);
    finish(frame, text + string.len())
}

/// The announcement of a slot: a config reply to everybody that nobody asked for, with tag 0. `tag` is the VLAN tag
/// control information of a slot that is bound to a VLAN.
#[must_use]
pub fn announcement(
    frame: &mut [u8],
    from: From,
    tag: Option<u16>,
    sectors: u8,
    string: &[u8],
) -> Option<usize> {
    let asked = Admitted {
        ethernet: Ethernet { destination: from.port, source: Mac::BROADCAST, tag, ethertype: ETHERTYPE_AOE },
        header: Header {
            version: aoe::VERSION,
            flags: Flags::empty(),
            error: 0,
            address: from.address,
            command: Command::Config,
            tag: [0; 4],
        },
    };
    config(frame, &asked, from, ConfigCommand::Read, sectors, string)
}
