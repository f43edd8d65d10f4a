//! The ATA argument: flags, registers and opcodes as they travel in AoE (AoEr11, section 3.1).
//!
//! Not here: which opcodes a slot serves (`shelf`).
//! Invariant: the opcode decides direction and address width; the E and W flags are echoed, not obeyed.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// AFlags: six LBA bytes count.
pub const AFLAG_EXTENDED: u8 = 0x40;
/// AFlags: data flows to the target.
pub const AFLAG_WRITE: u8 = 0x01;

/// DATA SET MANAGEMENT; with [`FEATURE_TRIM`] TRIM.
pub const DATA_SET_MANAGEMENT: u8 = 0x06;
/// READ SECTORS, 28 bit.
pub const READ_SECTORS: u8 = 0x20;
/// READ SECTORS EXT, 48 bit.
pub const READ_SECTORS_EXT: u8 = 0x24;
/// READ DMA EXT, 48 bit.
pub const READ_DMA_EXT: u8 = 0x25;
/// READ NATIVE MAX ADDRESS EXT, 48 bit.
pub const READ_NATIVE_MAX_EXT: u8 = 0x27;
/// READ MULTIPLE EXT, 48 bit.
pub const READ_MULTIPLE_EXT: u8 = 0x29;
/// WRITE SECTORS, 28 bit.
pub const WRITE_SECTORS: u8 = 0x30;
/// WRITE SECTORS EXT, 48 bit.
pub const WRITE_SECTORS_EXT: u8 = 0x34;
/// WRITE DMA EXT, 48 bit.
pub const WRITE_DMA_EXT: u8 = 0x35;
/// WRITE MULTIPLE EXT, 48 bit.
pub const WRITE_MULTIPLE_EXT: u8 = 0x39;
/// WRITE DMA FUA EXT, 48 bit: durable whatever the write cache.
pub const WRITE_DMA_FUA_EXT: u8 = 0x3d;
/// READ VERIFY SECTORS, 28 bit.
pub const READ_VERIFY_SECTORS: u8 = 0x40;
/// READ VERIFY SECTORS EXT, 48 bit.
pub const READ_VERIFY_SECTORS_EXT: u8 = 0x42;
/// EXECUTE DEVICE DIAGNOSTIC.
pub const EXECUTE_DEVICE_DIAGNOSTIC: u8 = 0x90;
/// INITIALIZE DEVICE PARAMETERS (geometry; obsolete).
pub const INITIALIZE_DEVICE_PARAMETERS: u8 = 0x91;
/// SMART; the feature register names the command.
pub const SMART: u8 = 0xb0;
/// READ MULTIPLE, 28 bit.
pub const READ_MULTIPLE: u8 = 0xc4;
/// WRITE MULTIPLE, 28 bit.
pub const WRITE_MULTIPLE: u8 = 0xc5;
/// SET MULTIPLE MODE.
pub const SET_MULTIPLE_MODE: u8 = 0xc6;
/// READ DMA, 28 bit.
pub const READ_DMA: u8 = 0xc8;
/// WRITE DMA, 28 bit.
pub const WRITE_DMA: u8 = 0xca;
/// STANDBY IMMEDIATE.
pub const STANDBY_IMMEDIATE: u8 = 0xe0;
/// IDLE IMMEDIATE.
pub const IDLE_IMMEDIATE: u8 = 0xe1;
/// STANDBY.
pub const STANDBY: u8 = 0xe2;
/// IDLE.
pub const IDLE: u8 = 0xe3;
/// CHECK POWER MODE.
pub const CHECK_POWER_MODE: u8 = 0xe5;
/// SLEEP.
pub const SLEEP: u8 = 0xe6;
/// FLUSH CACHE.
pub const FLUSH_CACHE: u8 = 0xe7;
/// FLUSH CACHE EXT.
pub const FLUSH_CACHE_EXT: u8 = 0xea;
/// IDENTIFY DEVICE.
pub const IDENTIFY_DEVICE: u8 = 0xec;
/// SET FEATURES; the feature register names the feature.
pub const SET_FEATURES: u8 = 0xef;
/// READ NATIVE MAX ADDRESS, 28 bit.
pub const READ_NATIVE_MAX: u8 = 0xf8;

/// DATA SET MANAGEMENT, feature register: TRIM.
pub const FEATURE_TRIM: u8 = 0x01;
/// SET FEATURES: switch the write cache on.
pub const FEATURE_WRITE_CACHE_ON: u8 = 0x02;
/// SET FEATURES: set the transfer mode, which means nothing on this wire.
pub const FEATURE_TRANSFER_MODE: u8 = 0x03;
/// SET FEATURES: switch look-ahead off.
pub const FEATURE_LOOK_AHEAD_OFF: u8 = 0x55;
/// SET FEATURES: switch the write cache off.
pub const FEATURE_WRITE_CACHE_OFF: u8 = 0x82;
/// SET FEATURES: switch look-ahead on.
pub const FEATURE_LOOK_AHEAD_ON: u8 = 0xaa;

/// SMART READ DATA.
pub const SMART_READ_DATA: u8 = 0xd0;
/// SMART EXECUTE OFF-LINE IMMEDIATE.
pub const SMART_OFF_LINE: u8 = 0xd4;
/// SMART READ LOG.
pub const SMART_READ_LOG: u8 = 0xd5;
/// SMART WRITE LOG.
pub const SMART_WRITE_LOG: u8 = 0xd6;
/// SMART ENABLE OPERATIONS.
pub const SMART_ENABLE: u8 = 0xd8;
/// SMART DISABLE OPERATIONS.
pub const SMART_DISABLE: u8 = 0xd9;
/// SMART RETURN STATUS.
pub const SMART_STATUS: u8 = 0xda;
/// LBA1 and LBA2 of every SMART command, and of the status of a device that is well.
pub const SMART_GOOD: [u8; 2] = [0x4f, 0xc2];
/// LBA1 and LBA2 of the status of a device that is failing.
pub const SMART_FAILING: [u8; 2] = [0xf4, 0x2c];

/// Highest address that 28 bits can tell, and most sectors IDENTIFY can tell in words 60 and 61.
pub const LBA28_MAX: u64 = 0x0fff_ffff;
/// CHECK POWER MODE, sector count of the answer: active or idle.
pub const POWER_ACTIVE: u8 = 0xff;
/// EXECUTE DEVICE DIAGNOSTIC, error register of the answer: passed.
pub const DIAGNOSTIC_PASSED: u8 = 0x01;
/// Bytes of one entry of a TRIM page: 48-bit LBA, 16-bit count, both little-endian.
pub const TRIM_ENTRY: usize = 8;

/// Status register: device ready.
pub const STATUS_DRDY: u8 = 0x40;
/// Status register: device fault.
pub const STATUS_DF: u8 = 0x20;
/// Status register: error, see the error register.
pub const STATUS_ERR: u8 = 0x01;
/// What an initiator tests: BSY, DF, DRQ, ERR (drivers/block/aoe/aoecmd.c).
pub const STATUS_BAD: u8 = 0xa9;

/// Error register: uncorrectable data (read), or write protected (write).
pub const ERROR_UNC: u8 = 0x40;
/// Error register: address not found.
pub const ERROR_IDNF: u8 = 0x10;
/// Error register: command aborted.
pub const ERROR_ABRT: u8 = 0x04;

/// How a command ended, as status and error register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Status register; always with [`STATUS_DRDY`].
    pub status: u8,
    /// Error register; 0 when the command succeeded.
    pub error: u8,
}

impl Outcome {
    /// 40/00: done.
    pub const GOOD: Self = Self { status: STATUS_DRDY, error: 0 };
    /// 41/04: not a command of ours, or refused.
    pub const ABORTED: Self = Self { status: STATUS_DRDY | STATUS_ERR, error: ERROR_ABRT };
    /// 41/10: beyond the end of the device.
    pub const NOT_FOUND: Self = Self { status: STATUS_DRDY | STATUS_ERR, error: ERROR_IDNF };
    /// 41/40: the medium could not be read.
    pub const UNREADABLE: Self = Self { status: STATUS_DRDY | STATUS_ERR, error: ERROR_UNC };
    /// 61/04: the device is at fault (a write failed, or it is gone).
    pub const FAULT: Self = Self { status: STATUS_DRDY | STATUS_DF | STATUS_ERR, error: ERROR_ABRT };
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Wire {
    aflags: u8,
    feature: u8,
    count: u8,
    command: u8,
    lba: [u8; 6],
    reserved: [u8; 2],
}

/// The registers: of a request, or (feature as error, command as status) of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ata {
    /// AFlags.
    pub aflags: u8,
    /// Feature register; the error register in a response.
    pub feature: u8,
    /// Sector count; sectors not done in a response.
    pub count: u8,
    /// Opcode; the status register in a response.
    pub command: u8,
    /// LBA0 to LBA5, least significant first.
    pub lba: [u8; 6],
}

impl Ata {
    /// Reads the argument header behind the AoE header; `None` when it is not all there.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (w, _) = Wire::ref_from_prefix(bytes).ok()?;
        Some(Self { aflags: w.aflags, feature: w.feature, count: w.count, command: w.command, lba: w.lba })
    }

    /// Writes the argument header; does nothing when `bytes` is too short for it.
    pub fn emit(&self, bytes: &mut [u8]) {
        let Self { aflags, feature, count, command, lba } = *self;
        let _ = Wire { aflags, feature, count, command, lba, reserved: [0; 2] }.write_to_prefix(bytes);
    }

    /// The 28-bit address: three bytes and the low nibble of the fourth (its high nibble holds device bits).
    #[must_use]
    pub const fn lba28(&self) -> u64 {
        let [a, b, c, d, ..] = self.lba;
        u32::from_le_bytes([a, b, c, d & 0x0f]) as u64
    }

    /// With this 28-bit address; device bits stay.
    #[must_use]
    pub const fn with_lba28(self, lba: u64) -> Self {
        let [a, b, c, d, ..] = lba.to_le_bytes();
        Self { lba: [a, b, c, (self.lba[3] & 0xf0) | (d & 0x0f), 0, 0], ..self }
    }

    /// With this 48-bit address.
    #[must_use]
    pub const fn with_lba48(self, lba: u64) -> Self {
        let [a, b, c, d, e, f, ..] = lba.to_le_bytes();
        Self { lba: [a, b, c, d, e, f], ..self }
    }

    /// The 48-bit address.
    #[must_use]
    pub const fn lba48(&self) -> u64 {
        let [a, b, c, d, e, f] = self.lba;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }

    /// The registers of the response: flags and address stay, the rest tells how it ended.
    #[must_use]
    pub const fn response(&self, outcome: Outcome) -> Self {
        // Sectors not done: all or nothing (AoEr11, section 3.1).
        let count = if outcome.status & STATUS_ERR == 0 { 0 } else { self.count };
        Self { feature: outcome.error, count, command: outcome.status, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_28_or_48_bits() {
        let ata = Ata::parse(&[0x40, 0, 1, 0x24, 1, 2, 3, 0xe4, 5, 6, 0, 0]).unwrap();
        assert_eq!(ata.lba28(), 0x0403_0201);
        assert_eq!(ata.lba48(), 0x0605_e403_0201);
        assert_eq!(Ata::parse(&[0; 11]), None);
    }

    #[test]
    fn a_response_tells_how_it_ended() {
        let ata = Ata::parse(&[0x40, 9, 3, 0x24, 1, 2, 3, 4, 5, 6, 7, 7]).unwrap();
        let mut out = [0xff; 12];
        ata.response(Outcome::GOOD).emit(&mut out);
        assert_eq!(out, [0x40, 0, 0, 0x40, 1, 2, 3, 4, 5, 6, 0, 0]);
        ata.response(Outcome::NOT_FOUND).emit(&mut out);
        assert_eq!(out, [0x40, 0x10, 3, 0x41, 1, 2, 3, 4, 5, 6, 0, 0]);
    }
}
