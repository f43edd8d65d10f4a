//! From ATA registers to a command that is valid by construction.
//!
//! Not here: answers that need no disk (`slot`), or how the disk is reached (`worker`).
//! Invariant: an [`Io`] lies inside its slot, is at most what was advertised, and a write has all its data.

use crate::limits;
use crate::protocol::ata::{self, Ata, Outcome};

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// From the disk.
    Read,
    /// To the disk.
    Write,
    /// None: make durable what was written.
    Flush,
}

/// One command for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    /// What to do.
    pub access: Access,
    /// First sector; 0 for a flush.
    pub lba: u64,
    /// Sectors; 0 for a flush.
    pub count: u8,
}

impl Io {
    /// First byte on the disk.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.lba * limits::SECTOR as u64
    }

    /// Bytes of data.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.count as usize * limits::SECTOR
    }
}

/// What the registers ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Something for the disk.
    Io(Io),
    /// IDENTIFY DEVICE.
    Identify,
    /// CHECK POWER MODE.
    CheckPower,
}

/// What the registers are checked against.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Sectors of the slot.
    pub sectors: u64,
    /// Most sectors of one command on this path, as advertised.
    pub most: u8,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Bytes behind the ATA header in the frame.
    pub data: usize,
}

/// Checks a command in the order of the protocol: opcode, count, data, range, permission.
///
/// Counts and missing data are answered with an ATA status rather than AoE error 2, because Linux drops frames
/// with an AoE error and would repeat the request for three minutes (drivers/block/aoe/aoenet.c).
///
/// # Errors
/// The registers of the answer.
pub fn decode(ata: &Ata, bounds: Bounds) -> Result<Command, Outcome> {
    let (access, lba) = match ata.command {
        ata::READ_SECTORS | ata::READ_DMA => (Access::Read, ata.lba28()),
        ata::READ_SECTORS_EXT | ata::READ_DMA_EXT => (Access::Read, ata.lba48()),
        ata::WRITE_SECTORS | ata::WRITE_DMA => (Access::Write, ata.lba28()),
        ata::WRITE_SECTORS_EXT | ata::WRITE_DMA_EXT => (Access::Write, ata.lba48()),
        ata::FLUSH_CACHE | ata::FLUSH_CACHE_EXT => {
            return Ok(Command::Io(Io { access: Access::Flush, lba: 0, count: 0 }));
        }
        ata::IDENTIFY_DEVICE => return Ok(Command::Identify),
        ata::CHECK_POWER_MODE => return Ok(Command::CheckPower),
        _ => return Err(Outcome::ABORTED),
    };
    let io = Io { access, lba, count: ata.count };
    if io.count == 0 || io.count > bounds.most {
        return Err(Outcome::ABORTED);
    }
    if access == Access::Write && bounds.data < io.bytes() {
        return Err(Outcome::ABORTED);
    }
    // An LBA has 48 bits and a count 8: the sum cannot overflow.
    if lba + u64::from(io.count) > bounds.sectors {
        return Err(Outcome::NOT_FOUND);
    }
    if access == Access::Write && bounds.read_only {
        return Err(Outcome::ABORTED);
    }
    Ok(Command::Io(io))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { sectors: 2048, most: 16, read_only: false, data: 16 * 512 };

    fn ata(command: u8, lba: u64, count: u8) -> Ata {
        let b = lba.to_le_bytes();
        Ata { aflags: 0x40, feature: 0, count, command, lba: [b[0], b[1], b[2], b[3], b[4], b[5]] }
    }

    #[test]
    fn each_opcode_has_its_width_and_direction() {
        for (opcode, access, wide) in [
            (0x20, Access::Read, false),
            (0xc8, Access::Read, false),
            (0x24, Access::Read, true),
            (0x25, Access::Read, true),
            (0x30, Access::Write, false),
            (0xca, Access::Write, false),
            (0x34, Access::Write, true),
            (0x35, Access::Write, true),
        ] {
            let bounds = Bounds { sectors: 1 << 40, ..BOUNDS };
            let lba = 0x01_e000_0005;
            let want = if wide { lba } else { 5 };
            assert_eq!(
                decode(&ata(opcode, lba, 3), bounds),
                Ok(Command::Io(Io { access, lba: want, count: 3 })),
                "{opcode:#x}"
            );
        }
    }

    #[test]
    fn refusals_come_in_the_order_of_the_protocol() {
        let read_only = Bounds { read_only: true, ..BOUNDS };
        let short = Bounds { data: 511, ..BOUNDS };
        for (what, registers, bounds, want) in [
            ("unknown opcode before all", ata(0x99, 1 << 40, 0), read_only, Outcome::ABORTED),
            ("count 0", ata(0x24, 0, 0), BOUNDS, Outcome::ABORTED),
            ("count above the advertised", ata(0x24, 0, 17), BOUNDS, Outcome::ABORTED),
            ("count before range", ata(0x24, 5000, 17), BOUNDS, Outcome::ABORTED),
            ("data missing", ata(0x34, 0, 1), short, Outcome::ABORTED),
            ("data before range", ata(0x34, 5000, 1), short, Outcome::ABORTED),
            ("first sector behind the end", ata(0x24, 2048, 1), BOUNDS, Outcome::NOT_FOUND),
            ("across the end", ata(0x24, 2047, 2), BOUNDS, Outcome::NOT_FOUND),
            ("highest LBA", ata(0x24, (1 << 48) - 1, 16), BOUNDS, Outcome::NOT_FOUND),
            ("range before read-only", ata(0x34, 2048, 1), read_only, Outcome::NOT_FOUND),
            ("read-only", ata(0x34, 0, 1), read_only, Outcome::ABORTED),
        ] {
            assert_eq!(decode(&registers, bounds), Err(want), "{what}");
        }
        assert!(decode(&ata(0x24, 2047, 1), BOUNDS).is_ok(), "the last sector");
        assert!(decode(&ata(0x24, 0, 1), Bounds { data: 0, ..BOUNDS }).is_ok(), "a read needs no data");
        assert!(decode(&ata(0xe7, 9999, 200), read_only).is_ok(), "a flush has no range");
    }

    proptest! {
        #[test]
        fn what_decodes_is_valid(command: u8, lba in 0..1u64 << 48, count: u8, sectors in 0..4096u64,
                                 most in 0..=16u8, read_only: bool, data in 0..9000usize) {
            let bounds = Bounds { sectors, most, read_only, data };
            if let Ok(Command::Io(io)) = decode(&ata(command, lba, count), bounds) {
                if io.access != Access::Flush {
                    prop_assert!(io.count > 0 && io.count <= most);
                    prop_assert!(io.lba + u64::from(io.count) <= sectors);
                }
                if io.access == Access::Write {
                    prop_assert!(!read_only && data >= io.bytes());
                }
            }
        }
    }
}
