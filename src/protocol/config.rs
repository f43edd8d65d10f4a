//! Query Config: the argument header and its commands (AoEr11, section 3.2).
//!
//! Not here: the string a slot holds (`shelf`).
//! Invariant: the length field is read as it stands; whoever uses it compares it with the frame.

use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The low nibble of the command byte (CCmd).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigCommand {
    /// 0: read the string.
    Read,
    /// 1: answer only if the string equals the argument.
    Test,
    /// 2: answer only if the string starts with the argument.
    TestPrefix,
    /// 3: set if empty.
    Set,
    /// 4: set in any case.
    ForceSet,
    /// 5: set if the string equals the argument, to the one that follows it with a length of its own (Coraid's
    /// extension AQCTAR, not in AoEr11).
    TestAndReplace,
    /// Anything else.
    Unknown(u8),
}

impl From<u8> for ConfigCommand {
    fn from(code: u8) -> Self {
        match code & 0x0f {
            0 => Self::Read,
            1 => Self::Test,
            2 => Self::TestPrefix,
            3 => Self::Set,
            4 => Self::ForceSet,
            5 => Self::TestAndReplace,
            other => Self::Unknown(other),
        }
    }
}

impl From<ConfigCommand> for u8 {
    fn from(command: ConfigCommand) -> Self {
        match command {
            ConfigCommand::Read => 0,
            ConfigCommand::Test => 1,
            ConfigCommand::TestPrefix => 2,
            ConfigCommand::Set => 3,
            ConfigCommand::ForceSet => 4,
            ConfigCommand::TestAndReplace => 5,
            ConfigCommand::Unknown(other) => other & 0x0f,
        }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Wire {
    buffer_count: U16,
    firmware: U16,
    sectors: u8,
    version_command: u8,
    length: U16,
}

/// A parsed argument header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Requests the target can queue.
    pub buffer_count: u16,
    /// Firmware version of the target.
    pub firmware: u16,
    /// Most sectors of one ATA command; 0 means 2.
    pub sectors: u8,
    /// AoE version in the high nibble of the command byte; ignored in requests (Linux sends 0).
    pub version: u8,
    /// What to do.
    pub command: ConfigCommand,
    /// Bytes of the string behind the header.
    pub length: u16,
}

impl Config {
    /// Reads the argument header behind the AoE header; `None` when it is not all there.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (w, _) = Wire::ref_from_prefix(bytes).ok()?;
        Some(Self {
            buffer_count: w.buffer_count.get(),
            firmware: w.firmware.get(),
            sectors: w.sectors,
            version: w.version_command >> 4,
            command: w.version_command.into(),
            length: w.length.get(),
        })
    }

    /// Writes the argument header; does nothing when `bytes` is too short for it.
    pub fn emit(&self, bytes: &mut [u8]) {
        let wire = Wire {
            buffer_count: U16::new(self.buffer_count),
            firmware: U16::new(self.firmware),
            sectors: self.sectors,
            version_command: (self.version << 4) | u8::from(self.command),
            length: U16::new(self.length),
        };
        let _ = wire.write_to_prefix(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_nibble_survives_a_round_trip() {
        for b in 0..=255u8 {
            let bytes = [0, 64, 0x40, 1, 16, b, 4, 0];
            let mut out = [0; 8];
            Config::parse(&bytes).unwrap().emit(&mut out);
            assert_eq!(out, bytes);
        }
        assert_eq!(Config::parse(&[0; 7]), None);
    }
}
