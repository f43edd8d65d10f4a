//! What hosts ask for, as frames.
//!
//! Not here: when they ask, and again (`world`), or what the answer has to be (`check`).
//! Invariant: every sector that is written names its request, and so does every config string.

use super::luck::{Luck, Nanos};
use super::stamp;
use crate::limits::{self, SECTOR};
use crate::protocol::ata::{self, Ata};
use crate::protocol::config::{Config, ConfigCommand};
use crate::protocol::ethernet::ETHERTYPE_AOE;
use crate::protocol::mask::{self, Mask, MaskCommand};
use crate::protocol::reserve::{self, Reserve, ReserveCommand};
use crate::protocol::{Address, Command, Ethernet, Header, Mac};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// READ, of some kind.
    Read,
    /// WRITE, of some kind.
    Write,
    /// WRITE DMA FUA EXT.
    Forced,
    /// READ VERIFY.
    Verify,
    /// TRIM of one range, or of two with a gap of this many sectors after the first one.
    Trim,
    /// FLUSH CACHE.
    Flush,
    /// IDENTIFY DEVICE.
    Identify,
    /// Query Config.
    ConfigRead,
    /// Set, or force set, a string.
    ConfigSet {
        /// Whatever is there.
        force: bool,
    },
    /// Put all hosts on the mask list, and one more on or off.
    Mask {
        /// On.
        add: bool,
    },
    /// Reserve for all hosts, or all but one.
    Reserve {
        /// The one.
        without: Option<u8>,
    },
    /// Release.
    Release,
}

impl What {
    /// Whether sectors change.
    #[must_use]
    pub const fn changes(self) -> bool {
        matches!(self, Self::Write | Self::Forced | Self::Trim)
    }

    /// Whether it is a write.
    #[must_use]
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Forced)
    }

    /// Whether it is an ATA command that takes its turn among those of the slot.
    #[must_use]
    pub const fn is_disk(self) -> bool {
        matches!(self, Self::Read | Self::Write | Self::Forced | Self::Verify | Self::Trim | Self::Flush)
    }

    /// Whether it is an ATA command.
    #[must_use]
    pub const fn is_ata(self) -> bool {
        self.is_disk() || matches!(self, Self::Identify)
    }
}

/// A request of a host.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whose.
    pub host: usize,
    /// What.
    pub what: What,
    /// Of which slot; `None` for all of them.
    pub slot: Option<usize>,
    /// First sector.
    pub lba: u64,
    /// Sectors.
    pub count: u8,
    /// The opcode of an ATA command.
    pub opcode: u8,
    /// When it was sent first.
    pub born: Nanos,
    /// Times it was sent.
    pub sent: u32,
    /// The tag sent last.
    pub tag: u32,
    /// The time until it is sent again.
    pub rto: Nanos,
    /// Whether it is over, and how: answered well.
    pub over: Option<bool>,
    /// Frames of it that may still be executed.
    pub alive: u32,
    /// What was certain of its sectors (of all, for a flush) when it was sent first, after so many power cuts.
    pub floors: (Vec<u32>, u32),
    /// Whether other writes to its sectors wait until nothing of it is alive.
    pub holds: bool,
    /// Arrivals of its copies, if it is a write.
    pub ops: Vec<u32>,
    /// The answer it got before the answer that counted, while a reservation kept its host out.
    pub kept_out: bool,
}

/// Where a frame of a request goes.
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    /// From.
    pub source: Mac,
    /// To.
    pub destination: Mac,
    /// VLAN.
    pub vlan: u16,
    /// The slot, or all.
    pub address: Address,
    /// All hosts.
    pub hosts: &'a [Mac],
}

/// The config string that a request sets.
#[must_use]
pub fn text(request: u32) -> String {
    format!("c{request}")
}

/// Writes a frame of a request.
pub fn emit(id: u32, request: &Request, route: Route<'_>, frame: &mut Vec<u8>) {
    frame.clear();
    let tag = (route.vlan != 0).then_some(route.vlan);
    let ethernet =
        Ethernet { destination: route.destination, source: route.source, tag, ethertype: ETHERTYPE_AOE };
    let at = ethernet.len();
    let command = match request.what {
        What::ConfigRead | What::ConfigSet { .. } => Command::Config,
        What::Mask { .. } => Command::Mask,
        What::Reserve { .. } | What::Release => Command::Reserve,
        _ => Command::Ata,
    };
    frame.resize(at + limits::AOE_HEADER, 0);
    ethernet.emit(frame);
    Header::request(route.address, command, request.tag).emit(&mut frame[at..]);
    let at = frame.len();
    match request.what {
        What::ConfigRead | What::ConfigSet { .. } => {
            let (command, text) = match request.what {
                What::ConfigSet { force: true } => (ConfigCommand::ForceSet, text(id)),
                What::ConfigSet { force: false } => (ConfigCommand::Set, text(id)),
                _ => (ConfigCommand::Read, String::new()),
            };
            frame.resize(at + limits::CONFIG_SECTION, 0);
            let length = text.len() as u16;
            let config = Config { buffer_count: 0, firmware: 0, sectors: 0, version: 0, command, length };
            config.emit(&mut frame[at..]);
            frame.extend_from_slice(text.as_bytes());
        }
        What::Mask { add } => {
            let count = route.hosts.len() as u8 + 1;
            frame.resize(at + limits::MASK_SECTION, 0);
            Mask { command: MaskCommand::Edit, error: 0, count }.emit(&mut frame[at..]);
            let mut directive = |what: u8, mac: Mac| {
                let mut entry = [0; mask::DIRECTIVE];
                mask::emit_entry(mac, &mut entry);
                entry[1] = what;
                frame.extend_from_slice(&entry);
            };
            route.hosts.iter().for_each(|mac| directive(1, *mac));
            directive(if add { 1 } else { 2 }, super::shape::mac(3, id as usize % 4));
        }
        What::Reserve { .. } | What::Release => {
            let out = if let What::Reserve { without } = request.what { without } else { None };
            let listed = route.hosts.iter().enumerate().filter(|(h, _)| Some(*h) != out.map(usize::from));
            let listed: Vec<Mac> = match request.what {
                What::Release => Vec::new(),
                _ => listed.map(|(_, mac)| *mac).collect(),
            };
            frame.resize(at + reserve::HEADER, 0);
            Reserve { command: ReserveCommand::ForceSet, count: listed.len() as u8 }.emit(&mut frame[at..]);
            listed.iter().for_each(|mac| frame.extend_from_slice(&mac.0));
        }
        _ => emit_ata(id, request, frame),
    }
    if frame.len() < limits::MIN_FRAME {
        frame.resize(limits::MIN_FRAME, 0);
    }
}

fn emit_ata(id: u32, request: &Request, frame: &mut Vec<u8>) {
    let at = frame.len();
    let wide = matches!(
        request.opcode,
        ata::READ_SECTORS_EXT
            | ata::READ_DMA_EXT
            | ata::WRITE_SECTORS_EXT
            | ata::WRITE_DMA_EXT
            | ata::WRITE_DMA_FUA_EXT
            | ata::READ_VERIFY_SECTORS_EXT
    );
    let mut aflags = if wide { ata::AFLAG_EXTENDED } else { 0 };
    if request.what.changes() {
        aflags |= ata::AFLAG_WRITE;
    }
    let trim = request.what == What::Trim;
    let feature = if trim { ata::FEATURE_TRIM } else { 0 };
    let count = if trim { 1 } else { request.count };
    let registers = Ata { aflags, feature, count, command: request.opcode, lba: [0, 0, 0, 0xe0, 0, 0] };
    let registers = match request.what {
        What::Trim | What::Flush | What::Identify => registers,
        _ if wide => registers.with_lba48(request.lba),
        _ => registers.with_lba28(request.lba),
    };
    frame.resize(at + limits::ATA_SECTION, 0);
    registers.emit(&mut frame[at..]);
    let at = frame.len();
    if trim {
        frame.resize(at + SECTOR, 0);
        let mut entry = |i: usize, lba: u64, sectors: u8| {
            let e = &mut frame[at + i * ata::TRIM_ENTRY..at + (i + 1) * ata::TRIM_ENTRY];
            e[..6].copy_from_slice(&lba.to_le_bytes()[..6]);
            e[6] = sectors;
        };
        for (i, (lba, sectors)) in extents(request).into_iter().enumerate() {
            entry(i * 3, lba, sectors);
        }
    } else if request.what.writes() {
        frame.resize(at + usize::from(request.count) * SECTOR, 0);
        for (i, sector) in (0u8..).zip(frame[at..].chunks_exact_mut(SECTOR)) {
            stamp::fill(sector, stamp::of(id, i));
        }
    }
}

/// The ranges of a TRIM: one, or two where there is a gap to leave.
#[must_use]
pub fn extents(request: &Request) -> Vec<(u64, u8)> {
    if request.count >= 4 {
        let part = request.count / 3;
        vec![(request.lba, part), (request.lba + u64::from(request.count - part), part)]
    } else {
        vec![(request.lba, request.count)]
    }
}

/// Sectors that a request changes, each with what it then holds.
pub fn changed(id: u32, request: &Request) -> impl Iterator<Item = (usize, stamp::Stamp)> + '_ {
    let trim = request.what == What::Trim;
    let skip = if trim && request.count >= 4 { request.count / 3 } else { request.count };
    (0..request.count).filter_map(move |i| {
        let at = (request.lba + u64::from(i)) as usize;
        match request.what {
            What::Write | What::Forced => Some((at, stamp::of(id, i))),
            What::Trim => (i < skip || i >= request.count - skip).then_some((at, 0)),
            _ => None,
        }
    })
}

/// An opcode that does this.
#[must_use]
pub fn opcode(what: What, luck: &Luck) -> u8 {
    match what {
        What::Read => luck.pick(&[
            ata::READ_SECTORS_EXT,
            ata::READ_SECTORS_EXT,
            ata::READ_SECTORS,
            ata::READ_DMA_EXT,
            ata::READ_DMA,
        ]),
        What::Write => luck.pick(&[
            ata::WRITE_SECTORS_EXT,
            ata::WRITE_SECTORS_EXT,
            ata::WRITE_SECTORS,
            ata::WRITE_DMA_EXT,
            ata::WRITE_DMA,
        ]),
        What::Forced => ata::WRITE_DMA_FUA_EXT,
        What::Verify => luck.pick(&[ata::READ_VERIFY_SECTORS, ata::READ_VERIFY_SECTORS_EXT]),
        What::Trim => ata::DATA_SET_MANAGEMENT,
        What::Flush => luck.pick(&[ata::FLUSH_CACHE, ata::FLUSH_CACHE_EXT]),
        _ => ata::IDENTIFY_DEVICE,
    }
}

/// A read of the config string of all slots, by somebody who is no host.
pub fn search(port: Mac, frame: &mut Vec<u8>) {
    frame.clear();
    frame.resize(limits::MIN_FRAME, 0);
    let ethernet =
        Ethernet { destination: port, source: super::shape::mac(4, 3), tag: None, ethertype: ETHERTYPE_AOE };
    ethernet.emit(frame);
    Header::request(Address::ANY, Command::Config, 1).emit(&mut frame[ethernet.len()..]);
}

/// A frame that nobody in his right mind sends, from a host that is none of ours.
pub fn garbage(luck: &Luck, port: Mac, address: Address, frame: &mut Vec<u8>) {
    frame.clear();
    let ethernet = Ethernet {
        destination: if luck.permille(300) { Mac::BROADCAST } else { port },
        source: super::shape::mac(4, luck.index(3)),
        tag: luck.permille(100).then_some(5),
        ethertype: if luck.permille(900) { ETHERTYPE_AOE } else { 0x0800 },
    };
    let at = ethernet.len();
    frame.resize(at + limits::AOE_HEADER, 0);
    ethernet.emit(frame);
    let exotic = match luck.below(6) {
        0 => Command::Unknown(luck.pick(&[4, 0x42, 0xf0])),
        1 => Command::Config,
        2 => Command::Mask,
        3 => Command::Reserve,
        _ => Command::Ata,
    };
    let address = match luck.below(8) {
        0 => Address { shelf: 1, slot: 1 },
        1 => Address::ANY,
        2 => Address { slot: Address::ANY_SLOT, ..address },
        _ => address,
    };
    Header::request(address, exotic, luck.next() as u32).emit(&mut frame[at..]);
    let at = frame.len();
    let tail = luck.pick(&[0, 1, 5, 12, 36, 548, 1100]);
    frame.resize(at + tail, luck.pick(&[0, 0xff, 0x33]));
    if exotic == Command::Ata && tail >= limits::ATA_SECTION {
        // Nothing that could change a disk; but what reads it may be behind its end, too long, or of no sector.
        let command = luck.pick(&[0x20, 0x24, 0x40, 0x99, 0xe5, 0xb0, 0xef, 0xf8, 0x90, 0xec, 0xa1]);
        let lba = luck.pick(&[0u64, 15, 16, 60, 63, 64, 1 << 27, 1 << 40]);
        let count = luck.pick(&[0, 1, 2, 3, 8, 16, 17, 255]);
        let lba = lba.to_le_bytes();
        let lba = [lba[0], lba[1], lba[2], lba[3], lba[4], lba[5]];
        Ata { aflags: luck.next() as u8, feature: luck.next() as u8, count, command, lba }
            .emit(&mut frame[at..]);
    } else if tail > 8 {
        // Commands that read, or that do not exist.
        let quiet = luck.pick(&[0, 1, 2, 7, 9]);
        match exotic {
            Command::Config => frame[at + 5] = luck.pick(&[0, 1, 2, 6, 0x0f]),
            Command::Mask => frame[at + 1] = if quiet == 1 { 0 } else { quiet },
            Command::Reserve => frame[at] = if quiet < 3 { 0 } else { quiet },
            _ => {}
        }
    } else if let Some(first) = frame.get_mut(at) {
        *first = 0;
        if let Some(second) = frame.get_mut(at + 1) {
            *second = 0;
        }
    }
    if luck.permille(200) {
        let flip = luck.index(frame.len().min(20));
        // Not the source: it would be somebody's who asked for nothing. Nor the command: it could become one that changes.
        if !(6..14).contains(&flip) && flip != ethernet.len() + 5 {
            frame[flip] ^= 1 << luck.below(8);
        }
    }
    if luck.permille(120) {
        frame.resize(luck.among(4000, 30_000) as usize, 0x77);
    }
}
