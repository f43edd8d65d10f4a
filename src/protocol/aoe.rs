//! The AoE header: version, flags, error, address, command, tag (AoEr11, section 2).
//!
//! Not here: the argument behind it (`ata`, `config`).
//! Invariant: unknown commands survive parsing, so that they can be answered.

use bitflags::bitflags;
use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The one version there is.
pub const VERSION: u8 = 1;

bitflags! {
    /// The low nibble of the first header byte.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flags: u8 {
        /// This is a response.
        const RESPONSE = 0x08;
        /// The error byte is valid.
        const ERROR = 0x04;
        /// Must be zero; ignored in requests and never echoed.
        const RESERVED = 0x03;
    }
}

/// Shelf and slot of a target ("major" and "minor").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// 0..=65534, or [`Address::ANY_SHELF`].
    pub shelf: u16,
    /// 0..=254, or [`Address::ANY_SLOT`].
    pub slot: u8,
}

impl Address {
    /// Every shelf.
    pub const ANY_SHELF: u16 = 0xffff;
    /// Every slot.
    pub const ANY_SLOT: u8 = 0xff;
    /// Every slot of every shelf.
    pub const ANY: Self = Self { shelf: Self::ANY_SHELF, slot: Self::ANY_SLOT };

    /// Whether it may name more than one slot.
    #[must_use]
    pub const fn is_wildcard(self) -> bool {
        self.shelf == Self::ANY_SHELF || self.slot == Self::ANY_SLOT
    }

    /// Whether a request to this address is for the slot at `exact`; shelf and slot match independently.
    #[must_use]
    pub const fn covers(self, exact: Self) -> bool {
        (self.shelf == exact.shelf || self.shelf == Self::ANY_SHELF)
            && (self.slot == exact.slot || self.slot == Self::ANY_SLOT)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.shelf, self.slot)
    }
}

/// A text that is no shelf.slot address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a shelf.slot address; write 7.0 (shelf 0-65534, slot 0-254)")]
pub struct NotAnAddress;

impl std::str::FromStr for Address {
    type Err = NotAnAddress;

    /// Parses an exact address; wildcards are no such.
    fn from_str(s: &str) -> Result<Self, NotAnAddress> {
        let number = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        let (shelf, slot) = s.split_once('.').filter(|(a, b)| number(a) && number(b)).ok_or(NotAnAddress)?;
        let address = Self {
            shelf: shelf.parse().map_err(|_| NotAnAddress)?,
            slot: slot.parse().map_err(|_| NotAnAddress)?,
        };
        if address.is_wildcard() { Err(NotAnAddress) } else { Ok(address) }
    }
}

/// The command byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// 0: an ATA command (section 3.1).
    Ata,
    /// 1: query or set the config string (section 3.2).
    Config,
    /// 2: MAC mask list (section 3.3).
    Mask,
    /// 3: reserve and release (section 3.4).
    Reserve,
    /// Anything else; 4 and 0xf0..=0xff are vendor ground.
    Unknown(u8),
}

impl From<u8> for Command {
    fn from(code: u8) -> Self {
        match code {
            0 => Self::Ata,
            1 => Self::Config,
            2 => Self::Mask,
            3 => Self::Reserve,
            other => Self::Unknown(other),
        }
    }
}

impl From<Command> for u8 {
    fn from(command: Command) -> Self {
        match command {
            Command::Ata => 0,
            Command::Config => 1,
            Command::Mask => 2,
            Command::Reserve => 3,
            Command::Unknown(other) => other,
        }
    }
}

/// The error byte of a response with [`Flags::ERROR`] (AoEr11, section 2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AoeError {
    /// Unrecognized command.
    UnrecognizedCommand = 1,
    /// Bad argument.
    BadArgument = 2,
    /// The slot exists but takes no ATA commands.
    DeviceUnavailable = 3,
    /// The config string is set already, to something else.
    ConfigStringPresent = 4,
    /// Unsupported version.
    UnsupportedVersion = 5,
    /// The target is reserved by another host.
    Reserved = 6,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Wire {
    version_flags: u8,
    error: u8,
    shelf: U16,
    slot: u8,
    command: u8,
    tag: [u8; 4],
}

/// A parsed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// High nibble of the first byte.
    pub version: u8,
    /// Low nibble of the first byte.
    pub flags: Flags,
    /// Error byte; meaningful with [`Flags::ERROR`] only.
    pub error: u8,
    /// Whom it is for, or from.
    pub address: Address,
    /// What to do.
    pub command: Command,
    /// The initiator's; echoed, never interpreted.
    pub tag: [u8; 4],
}

impl Header {
    /// Reads the header behind the Ethernet header; `None` when it is not all there.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (w, _) = Wire::ref_from_prefix(bytes).ok()?;
        Some(Self {
            version: w.version_flags >> 4,
            flags: Flags::from_bits_truncate(w.version_flags & 0x0f),
            error: w.error,
            address: Address { shelf: w.shelf.get(), slot: w.slot },
            command: w.command.into(),
            tag: w.tag,
        })
    }

    /// Writes the header; does nothing when `bytes` is too short for it.
    pub fn emit(&self, bytes: &mut [u8]) {
        let wire = Wire {
            version_flags: (self.version << 4) | self.flags.bits(),
            error: self.error,
            shelf: U16::new(self.address.shelf),
            slot: self.address.slot,
            command: self.command.into(),
            tag: self.tag,
        };
        let _ = wire.write_to_prefix(bytes);
    }

    /// A request of ours (the initiator's).
    #[must_use]
    pub const fn request(address: Address, command: Command, tag: u32) -> Self {
        Self { version: VERSION, flags: Flags::empty(), error: 0, address, command, tag: tag.to_be_bytes() }
    }

    /// The response to this request, from the slot at `address`: reserved bits and the error byte are not echoed.
    #[must_use]
    pub const fn response(&self, address: Address, error: Option<AoeError>) -> Self {
        let (flags, error) = match error {
            None => (Flags::RESPONSE, 0),
            Some(e) => (Flags::RESPONSE.union(Flags::ERROR), e as u8),
        };
        Self { version: VERSION, flags, error, address, command: self.command, tag: self.tag }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_survives_a_round_trip() {
        for first in 0..=255u8 {
            for command in [0, 1, 2, 3, 4, 0x42, 0xf0, 0xff] {
                let bytes = [first, 9, 0x12, 0x34, 7, command, 1, 2, 3, 4];
                let header = Header::parse(&bytes).unwrap();
                let mut out = [0; 10];
                header.emit(&mut out);
                assert_eq!(out, bytes);
            }
        }
        assert_eq!(Header::parse(&[0; 9]), None);
    }

    #[test]
    fn a_response_keeps_tag_and_command_only() {
        let request = Header::parse(&[0x13, 9, 0xff, 0xff, 0xff, 1, 1, 2, 3, 4]).unwrap();
        let mut out = [0; 10];
        request.response(Address { shelf: 7, slot: 3 }, None).emit(&mut out);
        assert_eq!(out, [0x18, 0, 0, 7, 3, 1, 1, 2, 3, 4]);
        request.response(Address { shelf: 7, slot: 3 }, Some(AoeError::BadArgument)).emit(&mut out);
        assert_eq!(out, [0x1c, 2, 0, 7, 3, 1, 1, 2, 3, 4]);
    }

    #[test]
    fn wildcards_cover_independently() {
        let exact = Address { shelf: 7, slot: 3 };
        for (shelf, slot, want) in [
            (7, 3, true),
            (7, 0xff, true),
            (0xffff, 3, true),
            (0xffff, 0xff, true),
            (8, 0xff, false),
            (0xffff, 4, false),
            (7, 4, false),
        ] {
            assert_eq!(Address { shelf, slot }.covers(exact), want, "{shelf}.{slot}");
        }
    }

    #[test]
    fn addresses_parse_as_they_print() {
        assert_eq!("65534.254".parse(), Ok(Address { shelf: 65534, slot: 254 }));
        for bad in ["7", "7.", ".0", "65535.0", "7.255", "70000.1", "-1.2", "7.0.1", "+7.1", "e7.0"] {
            assert_eq!(bad.parse::<Address>(), Err(NotAnAddress), "{bad}");
        }
    }
}
