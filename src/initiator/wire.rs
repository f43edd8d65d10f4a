//! Requests as bytes, and replies from bytes: the initiator's side of [`crate::protocol`].
//!
//! Not here: which request is sent when (`session`, `load`), or the socket (`socket`).
//! Invariant: no input makes it panic, and what it writes, `protocol` reads back unchanged.

use crate::limits::{AOE_HEADER, ATA_SECTION, CONFIG_SECTION, ETHERNET, SECTOR, VLAN_TAG};
use crate::protocol::aoe::{Flags, VERSION};
use crate::protocol::ata::{self, Ata};
use crate::protocol::config::{Config, ConfigCommand};
use crate::protocol::ethernet::ETHERTYPE_AOE;
use crate::protocol::{Address, Command, Ethernet, Header, Mac};
use std::fmt;

/// Bytes in front of the data of an ATA request, at most (with a VLAN tag).
pub const HEADER_ROOM: usize = ETHERNET + VLAN_TAG + AOE_HEADER + ATA_SECTION;

/// Set in every tag of ours: the Linux initiator drops replies with this bit, so that ours do not disturb one on
/// the same host (drivers/block/aoe/aoenet.c).
pub const TAG_OURS: u32 = 1 << 31;

/// Whether an address must travel in 48 bits, and which opcodes go with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// READ SECTORS and WRITE SECTORS.
    Lba28,
    /// READ SECTORS EXT and WRITE SECTORS EXT.
    Lba48,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Query Config, read: exactly the header, as Linux sends it.
    Config,
    /// IDENTIFY DEVICE.
    Identify,
    /// Read sectors.
    Read {
        /// First sector.
        lba: u64,
        /// Sectors.
        count: u8,
        /// Address width.
        width: Width,
    },
    /// Write sectors; the data follows the header.
    Write {
        /// First sector.
        lba: u64,
        /// Sectors.
        count: u8,
        /// Address width.
        width: Width,
    },
}

impl Ask {
    /// The AoE command it travels in.
    #[must_use]
    pub const fn command(self) -> Command {
        match self {
            Self::Config => Command::Config,
            _ => Command::Ata,
        }
    }

    /// Data bytes a good reply carries; `None` when any number will do.
    #[must_use]
    pub const fn answer_bytes(self) -> Option<usize> {
        match self {
            Self::Config | Self::Write { .. } => None,
            Self::Identify => Some(SECTOR),
            Self::Read { count, .. } => Some(count as usize * SECTOR),
        }
    }

    fn registers(self) -> Ata {
        let address = |lba: u64, width| {
            let [a, b, c, d, e, f, ..] = lba.to_le_bytes();
            match width {
                // The high nibble of LBA3 is the device register's LBA mode, as Linux and iPXE send it.
                Width::Lba28 => [a, b, c, (d & 0x0f) | 0xe0, 0, 0],
                Width::Lba48 => [a, b, c, d, e, f],
            }
        };
        match self {
            Self::Config => Ata { aflags: 0, feature: 0, count: 0, command: 0, lba: [0; 6] },
            Self::Identify => Ata {
                aflags: 0,
                feature: 0,
                count: 1,
                command: ata::IDENTIFY_DEVICE,
                lba: [0, 0, 0, 0xa0, 0, 0],
            },
            Self::Read { lba, count, width } => Ata {
                aflags: if width == Width::Lba48 { ata::AFLAG_EXTENDED } else { 0 },
                feature: 0,
                count,
                command: if width == Width::Lba48 { ata::READ_SECTORS_EXT } else { ata::READ_SECTORS },
                lba: address(lba, width),
            },
            Self::Write { lba, count, width } => Ata {
                aflags: ata::AFLAG_WRITE | if width == Width::Lba48 { ata::AFLAG_EXTENDED } else { 0 },
                feature: 0,
                count,
                command: if width == Width::Lba48 { ata::WRITE_SECTORS_EXT } else { ata::WRITE_SECTORS },
                lba: address(lba, width),
            },
        }
    }
}

/// Who sends to whom, and in which VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Our port.
    pub source: Mac,
    /// The target's port, or broadcast.
    pub destination: Mac,
    /// VLAN to tag requests with, 1..=4094.
    pub vlan: Option<u16>,
}

impl Route {
    /// Bytes of the Ethernet header.
    #[must_use]
    pub const fn ethernet_bytes(&self) -> usize {
        if self.vlan.is_some() { ETHERNET + VLAN_TAG } else { ETHERNET }
    }

    /// Bytes in front of the data of an ATA request.
    #[must_use]
    pub const fn ata_header_bytes(&self) -> usize {
        self.ethernet_bytes() + AOE_HEADER + ATA_SECTION
    }

    /// Writes a request's header to the front of `frame` (of at least [`HEADER_ROOM`] bytes) and returns its
    /// length. Data, if any, goes behind it.
    pub fn emit(&self, address: Address, tag: u32, ask: Ask, frame: &mut [u8]) -> usize {
        let ethernet = Ethernet {
            destination: self.destination,
            source: self.source,
            tag: self.vlan,
            ethertype: ETHERTYPE_AOE,
        };
        ethernet.emit(frame);
        let header = ethernet.len();
        let argument = header + AOE_HEADER;
        let Some(rest) = frame.get_mut(header..) else { return 0 };
        Header::request(address, ask.command(), tag).emit(rest);
        let Some(rest) = frame.get_mut(argument..) else { return 0 };
        if ask == Ask::Config {
            let query = Config {
                buffer_count: 0,
                firmware: 0,
                sectors: 0,
                version: 0,
                command: ConfigCommand::Read,
                length: 0,
            };
            query.emit(rest);
            argument + CONFIG_SECTION
        } else {
            ask.registers().emit(rest);
            argument + ATA_SECTION
        }
    }

    /// Gives a request another tag: a retransmission is the same bytes under a new one.
    pub fn retag(&self, tag: u32, frame: &mut [u8]) {
        let at = self.ethernet_bytes() + AOE_HEADER - 4;
        if let Some(bytes) = frame.get_mut(at..at + 4) {
            bytes.copy_from_slice(&tag.to_be_bytes());
        }
    }
}

/// A frame as it came in, possibly cut short by the receiver.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The bytes kept.
    pub bytes: &'a [u8],
    /// Bytes the frame had on the wire.
    pub length: usize,
    /// Tag control information of a VLAN tag the kernel took out of the frame.
    pub vlan: Option<u16>,
}

/// What a reply carries behind its AoE header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument<'a> {
    /// Query Config: the fields, and as much of the string as is there.
    Config(Config, &'a [u8]),
    /// ATA: the registers, the data kept, and the data bytes the frame had on the wire (padding included).
    Ata {
        /// Error, status and the rest.
        registers: Ata,
        /// Data as far as it was kept.
        data: &'a [u8],
        /// Data bytes on the wire.
        length: usize,
    },
    /// Nothing that can be read: another command, or cut off (some targets do that in AoE errors).
    None,
}

/// A reply, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// Who sent it.
    pub source: Mac,
    /// VLAN it came in, 0 for none.
    pub vlan: u16,
    /// The AoE header.
    pub header: Header,
    /// What is behind it.
    pub argument: Argument<'a>,
}

/// Why a frame is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Not AoE, or a request, or in another VLAN: none of our business.
    Other,
    /// An AoE frame that ends within its header.
    Short,
}

impl<'a> Reply<'a> {
    /// Reads a reply.
    ///
    /// # Errors
    /// [`Unread`] when it is none.
    pub fn parse(arrival: Arrival<'a>) -> Result<Self, Unread> {
        let ethernet = Ethernet::parse(arrival.bytes).ok_or(Unread::Other)?;
        if ethernet.ethertype != ETHERTYPE_AOE {
            return Err(Unread::Other);
        }
        let aoe = arrival.bytes.get(ethernet.len()..).ok_or(Unread::Short)?;
        let header = Header::parse(aoe).ok_or(Unread::Short)?;
        if !header.flags.contains(Flags::RESPONSE) {
            return Err(Unread::Other);
        }
        let rest = aoe.get(AOE_HEADER..).unwrap_or_default();
        let argument = match header.command {
            Command::Config => Config::parse(rest).map_or(Argument::None, |config| {
                let string = rest.get(CONFIG_SECTION..).unwrap_or_default();
                Argument::Config(config, string.get(..usize::from(config.length)).unwrap_or(string))
            }),
            Command::Ata => Ata::parse(rest).map_or(Argument::None, |registers| Argument::Ata {
                registers,
                data: rest.get(ATA_SECTION..).unwrap_or_default(),
                length: arrival.length.saturating_sub(ethernet.len() + AOE_HEADER + ATA_SECTION),
            }),
            _ => Argument::None,
        };
        let tci = arrival.vlan.or(ethernet.tag).unwrap_or(0);
        Ok(Self { source: ethernet.source, vlan: tci & 0x0fff, header, argument })
    }

    /// The tag as the number it was sent as.
    #[must_use]
    pub const fn tag(&self) -> u32 {
        u32::from_be_bytes(self.header.tag)
    }

    /// Whether it answers `ask` well, and with which data.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn result(&self, ask: Ask) -> Result<&'a [u8], Failure> {
        if self.header.version != VERSION {
            return Err(Failure::Version(self.header.version));
        }
        if self.header.flags.contains(Flags::ERROR) {
            return Err(Failure::Aoe(self.header.error));
        }
        match self.argument {
            Argument::Config(_, string) if ask == Ask::Config => Ok(string),
            Argument::Ata { registers, data, length } if ask != Ask::Config => {
                if registers.command & ata::STATUS_BAD != 0 {
                    return Err(Failure::Ata { status: registers.command, error: registers.feature });
                }
                match ask.answer_bytes() {
                    // Plan 9 ignores replies that are longer as well, so they are an error here, too.
                    Some(want) if length != want => Err(Failure::Length { want, got: length }),
                    _ => Ok(data),
                }
            }
            _ => Err(Failure::Cut),
        }
    }
}

/// How a target failed a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Failure {
    /// Error flag and byte of the AoE header.
    Aoe(u8),
    /// Status and error register.
    Ata {
        /// Status register.
        status: u8,
        /// Error register.
        error: u8,
    },
    /// The reply to a read carries another number of data bytes than was asked for.
    Length {
        /// Bytes asked for.
        want: usize,
        /// Bytes behind the header.
        got: usize,
    },
    /// The version nibble is not 1.
    Version(u8),
    /// The reply ends within its header.
    Cut,
    /// No copy of the request was answered before its deadline.
    Silent,
}

impl Failure {
    /// Whether the target refused the request as such, rather than failing at it.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        match self {
            Self::Aoe(_) => true,
            Self::Ata { status, error } => status & ata::STATUS_DF == 0 && error & ata::ERROR_ABRT != 0,
            _ => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Aoe(code) => {
                let name = match code {
                    1 => "unrecognized command",
                    2 => "bad argument",
                    3 => "device unavailable",
                    4 => "config string present",
                    5 => "unsupported version",
                    6 => "target is reserved",
                    _ => "no such code",
                };
                write!(f, "AoE error {code} ({name})")
            }
            Self::Ata { status, error } => {
                write!(f, "ATA {status:02x}/{error:02x} (")?;
                let mut names = Names { f, first: true };
                for (bit, name) in [(0x80, "BSY"), (ata::STATUS_DF, "device fault"), (0x08, "DRQ")] {
                    names.add(status & bit != 0, name)?;
                }
                for (bit, name) in [
                    (0x80, "interface CRC"),
                    (ata::ERROR_UNC, "uncorrectable or write protected"),
                    (0x20, "media changed"),
                    (ata::ERROR_IDNF, "address not found"),
                    (0x08, "media change requested"),
                    (ata::ERROR_ABRT, "aborted"),
                    (0x02, "no media"),
                    (0x01, "address mark not found"),
                ] {
                    names.add(error & bit != 0, name)?;
                }
                let nothing = names.first;
                names.add(nothing, "error")?;
                f.write_str(")")
            }
            Self::Length { want, got } => write!(f, "{got} data bytes in the reply instead of {want}"),
            Self::Version(version) => write!(f, "reply of AoE version {version} instead of 1"),
            Self::Cut => f.write_str("reply too short for its command"),
            Self::Silent => f.write_str("no answer"),
        }
    }
}

struct Names<'a, 'f> {
    f: &'a mut fmt::Formatter<'f>,
    first: bool,
}

impl Names<'_, '_> {
    fn add(&mut self, present: bool, name: &str) -> fmt::Result {
        if present {
            if !self.first {
                self.f.write_str(", ")?;
            }
            self.first = false;
            self.f.write_str(name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TARGET: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const HOST: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const SLOT: Address = Address { shelf: 7, slot: 3 };

    fn route(vlan: Option<u16>) -> Route {
        Route { source: HOST, destination: TARGET, vlan }
    }

    fn emitted(route: Route, address: Address, tag: u32, ask: Ask) -> Vec<u8> {
        let mut frame = vec![0; HEADER_ROOM];
        let n = route.emit(address, tag, ask, &mut frame);
        frame.truncate(n);
        frame
    }

    /// The reply a target would send: MACs exchanged, R set.
    fn replied(frame: &[u8], status: u8, error: u8, data: &[u8]) -> Vec<u8> {
        let mut reply = frame.to_vec();
        reply[..6].copy_from_slice(&frame[6..12]);
        reply[6..12].copy_from_slice(&frame[..6]);
        let at = Ethernet::parse(frame).unwrap().len();
        reply[at] = 0x18;
        if reply[at + 5] == 0 {
            reply[at + AOE_HEADER + 1] = error;
            reply[at + AOE_HEADER + 3] = status;
        }
        reply.extend_from_slice(data);
        reply
    }

    fn whole(bytes: &[u8]) -> Arrival<'_> {
        Arrival { bytes, length: bytes.len(), vlan: None }
    }

    #[test]
    fn the_discovery_query_is_the_one_linux_sends() {
        // drivers/block/aoe/aoecmd.c, aoecmd_cfg_pkts: 32 bytes, everything but addresses and command zero.
        let route = Route { source: HOST, destination: Mac::BROADCAST, vlan: None };
        let frame = emitted(route, Address::ANY, 0, Ask::Config);
        let mut want = [0; 32];
        want[..6].fill(0xff);
        want[6..12].copy_from_slice(&HOST.0);
        want[12..20].copy_from_slice(&[0x88, 0xa2, 0x10, 0, 0xff, 0xff, 0xff, 1]);
        assert_eq!(frame, want);
    }

    #[test]
    fn requests_are_those_of_the_reference_frames() {
        let hex = |ask, tag| {
            emitted(route(None), SLOT, tag, ask)[14..].iter().map(|b| format!("{b:02x}")).collect::<String>()
        };
        assert_eq!(hex(Ask::Identify, 0x0001_0203), "10000007030000010203000001ec000000a000000000");
        let read28 = Ask::Read { lba: 5, count: 1, width: Width::Lba28 };
        assert_eq!(hex(read28, 0x0001_0203), "100000070300000102030000012005".to_owned() + "0000e000000000");
        let read48 = Ask::Read { lba: 100, count: 2, width: Width::Lba48 };
        assert_eq!(hex(read48, 0x0001_0203), "100000070300000102034000022464".to_owned() + "00000000000000");
        let write48 = Ask::Write { lba: 10, count: 1, width: Width::Lba48 };
        assert_eq!(hex(write48, 0x0001_0203), "10000007030000010203410001340a".to_owned() + "00000000000000");
    }

    proptest! {
        #[test]
        fn what_we_write_protocol_reads_back(
            shelf: u16, slot: u8, tag: u32, lba in 0u64..1 << 48, count: u8,
            vlan in proptest::option::of(1u16..4095), kind in 0u8..6,
        ) {
            let address = Address { shelf, slot };
            let (wide, narrow) = (Width::Lba48, Width::Lba28);
            let ask = match kind {
                0 => Ask::Config,
                1 => Ask::Identify,
                2 => Ask::Read { lba, count, width: wide },
                3 => Ask::Write { lba, count, width: wide },
                4 => Ask::Read { lba: lba & 0x0fff_ffff, count, width: narrow },
                _ => Ask::Write { lba: lba & 0x0fff_ffff, count, width: narrow },
            };
            let frame = emitted(route(vlan), address, tag, ask);
            let ethernet = Ethernet::parse(&frame).unwrap();
            prop_assert_eq!(ethernet.tag, vlan);
            prop_assert_eq!(ethernet.ethertype, ETHERTYPE_AOE);
            let header = Header::parse(&frame[ethernet.len()..]).unwrap();
            prop_assert_eq!(header, Header::request(address, ask.command(), tag));
            let argument = &frame[ethernet.len() + AOE_HEADER..];
            match ask {
                Ask::Config => prop_assert_eq!(argument, &[0; 8][..]),
                Ask::Identify => prop_assert_eq!(argument[3], ata::IDENTIFY_DEVICE),
                Ask::Read { lba, count, width } | Ask::Write { lba, count, width } => {
                    let registers = Ata::parse(argument).unwrap();
                    prop_assert_eq!(registers.count, count);
                    prop_assert_eq!(registers.aflags & ata::AFLAG_EXTENDED != 0, width == wide);
                    let write = matches!(ask, Ask::Write { .. });
                    prop_assert_eq!(registers.aflags & ata::AFLAG_WRITE != 0, write);
                    let back = if width == wide { registers.lba48() } else { registers.lba28() };
                    prop_assert_eq!(back, lba);
                }
            }
            let reply = replied(&frame, 0x40, 0, &vec![0; ask.answer_bytes().unwrap_or(0)]);
            let reply = Reply::parse(whole(&reply)).unwrap();
            prop_assert_eq!(reply.tag(), tag);
            prop_assert_eq!(reply.header.address, address);
            prop_assert_eq!(reply.source, TARGET);
            prop_assert_eq!(reply.vlan, vlan.unwrap_or(0));
            prop_assert!(reply.result(ask).is_ok());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, aoe: bool, vlan: Option<u16>, length: usize) {
            let mut bytes = bytes;
            if aoe && bytes.len() > 14 {
                bytes[12..15].copy_from_slice(&[0x88, 0xa2, 0x18]);
            }
            if let Ok(reply) = Reply::parse(Arrival { bytes: &bytes, length, vlan }) {
                let _ = reply.result(Ask::Config);
                let _ = reply.result(Ask::Identify).map_err(|e| e.to_string());
            }
        }
    }

    #[test]
    fn a_retransmission_differs_in_its_tag_only() {
        for vlan in [None, Some(5)] {
            let mut frame = emitted(route(vlan), SLOT, 1, Ask::Identify);
            route(vlan).retag(0xdead_beef, &mut frame);
            assert_eq!(frame, emitted(route(vlan), SLOT, 0xdead_beef, Ask::Identify));
        }
    }

    #[test]
    fn failures_are_told_apart() {
        let read = Ask::Read { lba: 0, count: 2, width: Width::Lba48 };
        let frame = emitted(route(None), SLOT, 1, read);
        let result = |bytes: &[u8]| Reply::parse(whole(bytes)).unwrap().result(read).err();
        assert_eq!(result(&replied(&frame, 0x40, 0, &[0; 1024])), None);
        assert_eq!(result(&replied(&frame, 0x50, 0, &[0; 1024])), None);
        assert_eq!(
            result(&replied(&frame, 0x41, 0x10, &[])),
            Some(Failure::Ata { status: 0x41, error: 0x10 })
        );
        assert_eq!(
            result(&replied(&frame, 0x40, 0, &[0; 512])),
            Some(Failure::Length { want: 1024, got: 512 })
        );
        let mut error = replied(&frame, 0x40, 0, &[]);
        error[14] = 0x1c;
        error[15] = 6;
        assert_eq!(result(&error), Some(Failure::Aoe(6)));
        // ggaoed cuts the argument header off in AoE errors.
        assert_eq!(result(&error[..24]), Some(Failure::Aoe(6)));
        let mut other = replied(&frame, 0x40, 0, &[0; 1024]);
        other[14] = 0x28;
        assert_eq!(result(&other), Some(Failure::Version(2)));
        assert_eq!(result(&replied(&frame, 0x40, 0, &[])[..30]), Some(Failure::Cut));
        assert_eq!(Reply::parse(whole(&frame)), Err(Unread::Other), "a request is no reply");
        assert_eq!(Reply::parse(whole(&error[..20])), Err(Unread::Short));
    }

    #[test]
    fn a_cut_capture_still_knows_the_length_on_the_wire() {
        let read = Ask::Read { lba: 0, count: 16, width: Width::Lba48 };
        let reply = replied(&emitted(route(None), SLOT, 1, read), 0x40, 0, &[7; 8192]);
        let arrival = Arrival { bytes: &reply[..64], length: reply.len(), vlan: None };
        assert_eq!(Reply::parse(arrival).unwrap().result(read), Ok(&[7; 28][..]));
    }

    #[test]
    fn failures_have_names() {
        for (failure, text) in [
            (Failure::Ata { status: 0x41, error: 0x10 }, "ATA 41/10 (address not found)"),
            (Failure::Ata { status: 0x61, error: 0x04 }, "ATA 61/04 (device fault, aborted)"),
            (Failure::Ata { status: 0x41, error: 0 }, "ATA 41/00 (error)"),
            (Failure::Aoe(6), "AoE error 6 (target is reserved)"),
            (Failure::Aoe(77), "AoE error 77 (no such code)"),
        ] {
            assert_eq!(failure.to_string(), text);
        }
    }
}
