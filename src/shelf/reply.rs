//! Replies, written over the request they answer.
//!
//! Not here: what to reply (`slot`), or which memory the data lies in (`worker`).
//! Invariant: a reply goes from the port's address to the requester's, with real shelf and slot, the request's tag
//! and VLAN tag, and zeroes up to 60 bytes.

use super::admit::Admitted;
use crate::limits;
use crate::protocol::ata::Ata;
use crate::protocol::config::{Config, ConfigCommand};
use crate::protocol::ethernet::ETHERTYPE_AOE;
use crate::protocol::mask::{self, Mask, MaskCommand, MaskError};
use crate::protocol::reserve::{self, Reserve, ReserveCommand};
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
        Command::Mask => limits::MASK_SECTION,
        Command::Reserve => reserve::HEADER,
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

/// What a Query Config reply says.
#[derive(Clone, Copy, Debug)]
pub struct ConfigAnswer<'a> {
    /// Requests the slot says it can queue.
    pub buffers: u16,
    /// Most sectors of one command on the path.
    pub sectors: u8,
    /// The command it answers.
    pub command: ConfigCommand,
    /// The string in force.
    pub string: &'a [u8],
    /// Why the string was not changed.
    pub error: Option<AoeError>,
}

/// The answer to a Query Config command: the string in force, also where another one was wanted.
#[must_use]
pub fn config(frame: &mut [u8], request: &Admitted, from: From, answer: ConfigAnswer<'_>) -> Option<usize> {
    let ConfigAnswer { buffers, sectors, command, string, error } = answer;
    headers(frame, request, from, error);
    let at = request.argument_at();
    let text = at + limits::CONFIG_SECTION;
    let length = u16::try_from(string.len()).ok()?;
    let config =
        Config { buffer_count: buffers, firmware: FIRMWARE, sectors, version: aoe::VERSION, command, length };
    config.emit(frame.get_mut(at..text)?);
    frame.get_mut(text..text + string.len())?.copy_from_slice(string);
    finish(frame, text + string.len())
}

/// The answer to a MAC mask list command: the list, as far as a frame of `longest` bytes holds it.
#[must_use]
pub fn mask(
    frame: &mut [u8],
    request: &Admitted,
    from: From,
    longest: usize,
    command: MaskCommand,
    list: &[Mac],
) -> Option<usize> {
    headers(frame, request, from, None);
    let at = request.argument_at();
    let entries = at + limits::MASK_SECTION;
    let fit = longest.saturating_sub(entries) / mask::DIRECTIVE;
    let list = list.get(..fit).unwrap_or(list);
    let count = u8::try_from(list.len()).ok()?;
    Mask { command, error: 0, count }.emit(frame.get_mut(at..entries)?);
    let end = entries + list.len() * mask::DIRECTIVE;
    let room = frame.get_mut(entries..end)?;
    for (entry, mac) in room.chunks_exact_mut(mask::DIRECTIVE).zip(list) {
        mask::emit_entry(*mac, entry);
    }
    finish(frame, end)
}

/// The answer to an edit of the MAC mask list that was refused, at the directive of this index. No AoE error.
#[must_use]
pub fn mask_refused(
    frame: &mut [u8],
    request: &Admitted,
    from: From,
    error: MaskError,
    index: u8,
) -> Option<usize> {
    headers(frame, request, from, None);
    let at = request.argument_at();
    let end = at + limits::MASK_SECTION;
    Mask { command: MaskCommand::Edit, error: error as u8, count: index }.emit(frame.get_mut(at..end)?);
    finish(frame, end)
}

/// The answer to a Reserve/Release command: who holds the slot, as far as a frame of `longest` bytes holds it; also where
/// that could not be changed.
#[must_use]
pub fn reserve(
    frame: &mut [u8],
    request: &Admitted,
    from: From,
    longest: usize,
    command: ReserveCommand,
    list: &[Mac],
    error: Option<AoeError>,
) -> Option<usize> {
    headers(frame, request, from, error);
    let at = request.argument_at();
    let entries = at + reserve::HEADER;
    let fit = longest.saturating_sub(entries) / reserve::ENTRY;
    let list = list.get(..fit).unwrap_or(list);
    let count = u8::try_from(list.len()).ok()?;
    Reserve { command, count }.emit(frame.get_mut(at..entries)?);
    let end = entries + list.len() * reserve::ENTRY;
    let room = frame.get_mut(entries..end)?;
    for (entry, mac) in room.chunks_exact_mut(reserve::ENTRY).zip(list) {
        reserve::emit_entry(*mac, entry);
    }
    finish(frame, end)
}

/// The announcement of a slot: a config reply that nobody asked for, with tag 0, to everybody or to one host. `tag` is the
/// VLAN tag control information of a slot that is bound to a VLAN.
#[must_use]
pub fn announcement(
    frame: &mut [u8],
    from: From,
    to: Mac,
    tag: Option<u16>,
    buffers: u16,
    sectors: u8,
    string: &[u8],
) -> Option<usize> {
    let asked = Admitted {
        ethernet: Ethernet { destination: from.port, source: to, tag, ethertype: ETHERTYPE_AOE },
        header: Header {
            version: aoe::VERSION,
            flags: Flags::empty(),
            error: 0,
            address: from.address,
            command: Command::Config,
            tag: [0; 4],
        },
    };
    let answer = ConfigAnswer { buffers, sectors, command: ConfigCommand::Read, string, error: None };
    config(frame, &asked, from, answer)
}
