//! From ATA registers to a command that is valid by construction.
//!
//! Not here: pages that a slot fills in (`identify`, `smart`), or how the disk is reached (`worker`).
//! Invariant: an [`Io`] lies inside its slot, is at most what was advertised, and a write has all its data.

use super::slot::Health;
use crate::limits;
use crate::protocol::ata::{self, Ata, Outcome};

/// What is done to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Its sectors are read and sent.
    Read,
    /// Its sectors are read, and not sent.
    Verify,
    /// Its sectors are written; durable as the slot has it.
    Write,
    /// Its sectors are written, and durable whatever the slot has.
    WriteThrough,
    /// Its sectors are freed, as the pages that came along say; see [`trim`].
    Trim,
    /// What was written is made durable.
    Flush,
}

impl Access {
    /// Whether sectors change.
    #[must_use]
    pub const fn changes(self) -> bool {
        matches!(self, Self::Write | Self::WriteThrough | Self::Trim)
    }

    /// Whether it is a write, of either kind.
    #[must_use]
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::WriteThrough)
    }

    /// Whether data comes with the request.
    #[must_use]
    pub const fn takes_data(self) -> bool {
        self.changes()
    }

    /// Whether it promises that the medium holds what was written.
    #[must_use]
    pub const fn promises(self) -> bool {
        self.changes() || matches!(self, Self::Flush)
    }
}

/// One command for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    /// What to do.
    pub access: Access,
    /// First sector that it concerns; 0 for a flush.
    pub lba: u64,
    /// Sectors from there that it concerns: none for a flush, and for a TRIM all between the first and the last.
    pub span: u64,
    /// Sectors of data that pass through memory: pages of a TRIM, and 0 for a flush.
    pub count: u8,
}

impl Io {
    /// So many sectors from there, read or written.
    #[must_use]
    pub const fn new(access: Access, lba: u64, count: u8) -> Self {
        Self { access, lba, span: count as u64, count }
    }

    /// A flush.
    pub const FLUSH: Self = Self { access: Access::Flush, lba: 0, span: 0, count: 0 };

    /// First byte on the disk.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.lba * limits::SECTOR as u64
    }

    /// Bytes of data that pass through memory.
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
    /// SMART READ DATA.
    SmartData,
    /// SMART READ LOG, of this log.
    SmartLog(u8),
    /// SMART ENABLE or DISABLE OPERATIONS.
    SmartSwitch(bool),
    /// Nothing to be done: these are the registers of the answer.
    Done(Ata),
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
    /// Whether an answered write may be volatile.
    pub write_cache: bool,
    /// Whether TRIM is served.
    pub trim: bool,
    /// Whether SMART is switched on.
    pub smart: bool,
    /// What SMART RETURN STATUS says.
    pub health: Health,
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
    use Access::{Read, Verify, Write, WriteThrough};
    let good = ata.response(Outcome::GOOD);
    let only = |condition: bool| if condition { Ok(Command::Done(good)) } else { Err(Outcome::ABORTED) };
    let (access, lba) = match ata.command {
        // On this wire PIO, DMA and MULTIPLE differ in nothing.
        ata::READ_SECTORS | ata::READ_DMA | ata::READ_MULTIPLE => (Read, ata.lba28()),
        ata::READ_SECTORS_EXT | ata::READ_DMA_EXT | ata::READ_MULTIPLE_EXT => (Read, ata.lba48()),
        ata::READ_VERIFY_SECTORS => (Verify, ata.lba28()),
        ata::READ_VERIFY_SECTORS_EXT => (Verify, ata.lba48()),
        ata::WRITE_SECTORS | ata::WRITE_DMA | ata::WRITE_MULTIPLE => (Write, ata.lba28()),
        ata::WRITE_SECTORS_EXT | ata::WRITE_DMA_EXT | ata::WRITE_MULTIPLE_EXT => (Write, ata.lba48()),
        ata::WRITE_DMA_FUA_EXT => (WriteThrough, ata.lba48()),
        ata::DATA_SET_MANAGEMENT => return decode_trim(ata, bounds),
        ata::FLUSH_CACHE | ata::FLUSH_CACHE_EXT => return Ok(Command::Io(Io::FLUSH)),
        ata::IDENTIFY_DEVICE => return Ok(Command::Identify),
        ata::SMART => return decode_smart(ata, bounds),
        ata::SET_FEATURES => {
            return match ata.feature {
                ata::FEATURE_TRANSFER_MODE | ata::FEATURE_LOOK_AHEAD_ON | ata::FEATURE_LOOK_AHEAD_OFF => {
                    only(true)
                }
                // The cache is what it is: the answer says whether it is as the host wants it.
                ata::FEATURE_WRITE_CACHE_ON => only(bounds.write_cache),
                ata::FEATURE_WRITE_CACHE_OFF => only(!bounds.write_cache),
                _ => only(false),
            };
        }
        ata::CHECK_POWER_MODE => return Ok(Command::Done(Ata { count: ata::POWER_ACTIVE, ..good })),
        ata::EXECUTE_DEVICE_DIAGNOSTIC => {
            return Ok(Command::Done(Ata { feature: ata::DIAGNOSTIC_PASSED, ..good }));
        }
        ata::READ_NATIVE_MAX => {
            return Ok(Command::Done(good.with_lba28(last_sector(bounds).min(ata::LBA28_MAX))));
        }
        ata::READ_NATIVE_MAX_EXT => return Ok(Command::Done(good.with_lba48(last_sector(bounds)))),
        // Nothing spins here, and geometry and sectors of a MULTIPLE mean nothing on this wire.
        ata::INITIALIZE_DEVICE_PARAMETERS
        | ata::SET_MULTIPLE_MODE
        | ata::STANDBY_IMMEDIATE
        | ata::IDLE_IMMEDIATE
        | ata::STANDBY
        | ata::IDLE
        | ata::SLEEP => return only(true),
        _ => return only(false),
    };
    let io = Io::new(access, lba, ata.count);
    if io.count == 0 || io.count > bounds.most {
        return Err(Outcome::ABORTED);
    }
    if access.takes_data() && bounds.data < io.bytes() {
        return Err(Outcome::ABORTED);
    }
    // An LBA has 48 bits and a count 8: the sum cannot overflow.
    if lba + io.span > bounds.sectors {
        return Err(Outcome::NOT_FOUND);
    }
    if access.changes() && bounds.read_only {
        return Err(Outcome::ABORTED);
    }
    Ok(Command::Io(io))
}

const fn last_sector(bounds: Bounds) -> u64 {
    bounds.sectors.saturating_sub(1)
}

/// TRIM as far as its registers go; its pages may still be spread over several pieces of memory. See [`trim`].
fn decode_trim(ata: &Ata, bounds: Bounds) -> Result<Command, Outcome> {
    let pages = usize::from(ata.count) * limits::SECTOR;
    let served = bounds.trim && !bounds.read_only && ata.feature & ata::FEATURE_TRIM != 0;
    if !served || ata.count == 0 || ata.count > bounds.most || bounds.data < pages {
        return Err(Outcome::ABORTED);
    }
    Ok(Command::Io(Io { access: Access::Trim, lba: 0, span: bounds.sectors, count: ata.count }))
}

/// One range of a TRIM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First sector.
    pub lba: u64,
    /// Sectors, 1 to 65,535.
    pub sectors: u16,
}

/// The ranges in the pages of a TRIM from entry `from` on, each with its number; entries that are not used are left out.
pub fn extents(pages: &[u8], from: usize) -> impl Iterator<Item = (usize, Extent)> + '_ {
    pages.chunks_exact(ata::TRIM_ENTRY).enumerate().skip(from).filter_map(|(i, e)| {
        let lba = u64::from_le_bytes([e[0], e[1], e[2], e[3], e[4], e[5], 0, 0]);
        let sectors = u16::from_le_bytes([e[6], e[7]]);
        (sectors > 0).then_some((i, Extent { lba, sectors }))
    })
}

/// Checks all ranges of a TRIM. Gives the command with the sectors between the first and the last, or `None` when there is
/// nothing to do.
///
/// # Errors
/// The registers of the answer: some range lies outside, so none is freed.
pub fn trim(io: Io, pages: &[u8], sectors: u64) -> Result<Option<Io>, Outcome> {
    let (mut first, mut end) = (u64::MAX, 0);
    for (_, extent) in extents(pages, 0) {
        let behind = extent.lba + u64::from(extent.sectors);
        if behind > sectors {
            return Err(Outcome::NOT_FOUND);
        }
        (first, end) = (first.min(extent.lba), end.max(behind));
    }
    Ok((end > 0).then_some(Io { lba: first, span: end.saturating_sub(first), ..io }))
}

/// SMART (ATA8-ACS, section 7.52): only with its key in LBA1 and LBA2, and once switched off only to be switched on.
fn decode_smart(ata: &Ata, bounds: Bounds) -> Result<Command, Outcome> {
    let [_, key @ .., _, _, _] = ata.lba;
    if key != ata::SMART_GOOD || !(bounds.smart || ata.feature == ata::SMART_ENABLE) {
        return Err(Outcome::ABORTED);
    }
    let good = ata.response(Outcome::GOOD);
    match ata.feature {
        ata::SMART_READ_DATA => Ok(Command::SmartData),
        ata::SMART_READ_LOG if ata.count <= 1 => Ok(Command::SmartLog(ata.lba[0])),
        // There is nothing that would have to be tested off line.
        ata::SMART_OFF_LINE => Ok(Command::Done(good)),
        ata::SMART_ENABLE => Ok(Command::SmartSwitch(true)),
        ata::SMART_DISABLE => Ok(Command::SmartSwitch(false)),
        ata::SMART_STATUS => {
            let [low, high] =
                if bounds.health == Health::Failing { ata::SMART_FAILING } else { ata::SMART_GOOD };
            let [first, _, _, rest @ ..] = good.lba;
            let [a, b, c] = rest;
            Ok(Command::Done(Ata { lba: [first, low, high, a, b, c], ..good }))
        }
        // No log of ours can be written.
        _ => Err(Outcome::ABORTED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds {
        sectors: 2048,
        most: 16,
        read_only: false,
        write_cache: false,
        trim: true,
        smart: true,
        health: Health::Unknown,
        data: 16 * 512,
    };

    fn ata(command: u8, lba: u64, count: u8) -> Ata {
        let b = lba.to_le_bytes();
        Ata { aflags: 0x40, feature: 0, count, command, lba: [b[0], b[1], b[2], b[3], b[4], b[5]] }
    }

    #[test]
    fn each_opcode_has_its_width_and_direction() {
        for (opcode, access, wide) in [
            (0x20, Access::Read, false),
            (0xc8, Access::Read, false),
            (0xc4, Access::Read, false),
            (0x24, Access::Read, true),
            (0x25, Access::Read, true),
            (0x29, Access::Read, true),
            (0x40, Access::Verify, false),
            (0x42, Access::Verify, true),
            (0x30, Access::Write, false),
            (0xca, Access::Write, false),
            (0xc5, Access::Write, false),
            (0x34, Access::Write, true),
            (0x35, Access::Write, true),
            (0x39, Access::Write, true),
            (0x3d, Access::WriteThrough, true),
        ] {
            let bounds = Bounds { sectors: 1 << 40, ..BOUNDS };
            let lba = 0x01_e000_0005;
            let want = if wide { lba } else { 5 };
            assert_eq!(
                decode(&ata(opcode, lba, 3), bounds),
                Ok(Command::Io(Io::new(access, want, 3))),
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

    fn done(ata: &Ata, bounds: Bounds) -> Ata {
        match decode(ata, bounds) {
            Ok(Command::Done(answer)) => answer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_needs_no_disk_is_answered_from_registers() {
        let plain = ata(0, 0x0504_0302_01a0, 7);
        let with = |command, feature| Ata { command, feature, ..plain };
        for command in [0x91, 0xc6, 0xe0, 0xe1, 0xe2, 0xe3, 0xe6] {
            let answer = done(&with(command, 0x11), BOUNDS);
            assert_eq!(answer, Ata { command: 0x40, feature: 0, count: 0, ..plain }, "{command:#x}");
        }
        assert_eq!(done(&with(0xe5, 0), BOUNDS).count, 0xff);
        let diagnostic = done(&with(0x90, 0), BOUNDS);
        assert_eq!((diagnostic.command, diagnostic.feature), (0x40, 1));
        for command in [0x2f, 0x3f, 0x92, 0xb1, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0x00, 0x99, 0xff] {
            assert_eq!(decode(&with(command, 0), BOUNDS), Err(Outcome::ABORTED), "{command:#x}");
        }
    }

    #[test]
    fn the_native_maximum_is_the_last_sector() {
        let long = done(&ata(0x27, 9, 0), Bounds { sectors: 0x0123_4567_89ab, ..BOUNDS });
        assert_eq!(long.lba, [0xaa, 0x89, 0x67, 0x45, 0x23, 0x01]);
        let asked = Ata { lba: [9, 9, 9, 0xe9, 9, 9], ..ata(0xf8, 0, 0) };
        assert_eq!(done(&asked, BOUNDS).lba, [0xff, 0x07, 0, 0xe0, 0, 0], "device bits stay");
        let huge = Bounds { sectors: 1 << 40, ..BOUNDS };
        assert_eq!(done(&asked, huge).lba, [0xff, 0xff, 0xff, 0xef, 0, 0]);
        assert_eq!(done(&asked, Bounds { sectors: 0, ..BOUNDS }).lba28(), 0);
    }

    #[test]
    fn features_are_granted_only_if_they_are_so() {
        let set = |feature, write_cache| {
            decode(&Ata { feature, ..ata(0xef, 0, 0) }, Bounds { write_cache, ..BOUNDS }).is_ok()
        };
        assert!(set(0x03, false) && set(0xaa, false) && set(0x55, true));
        assert!(set(0x02, true) && !set(0x02, false));
        assert!(set(0x82, false) && !set(0x82, true));
        assert!(!set(0x05, true) && !set(0x00, true));
    }

    #[test]
    fn smart_wants_its_key() {
        let smart = |feature, key: [u8; 2], bounds| {
            let registers = Ata { feature, lba: [1, key[0], key[1], 0xa0, 0, 0], ..ata(0xb0, 0, 1) };
            decode(&registers, bounds)
        };
        let key = ata::SMART_GOOD;
        assert_eq!(smart(0xda, [0x4f, 0xc3], BOUNDS), Err(Outcome::ABORTED));
        assert_eq!(smart(0xd0, key, BOUNDS), Ok(Command::SmartData));
        assert_eq!(smart(0xd5, key, BOUNDS), Ok(Command::SmartLog(1)));
        assert_eq!(smart(0xd8, key, BOUNDS), Ok(Command::SmartSwitch(true)));
        assert_eq!(smart(0xd9, key, BOUNDS), Ok(Command::SmartSwitch(false)));
        assert!(matches!(smart(0xd4, key, BOUNDS), Ok(Command::Done(_))));
        for feature in [0xd1, 0xd2, 0xd6, 0x00] {
            assert_eq!(smart(feature, key, BOUNDS), Err(Outcome::ABORTED), "{feature:#x}");
        }
        let status = |health| match smart(0xda, key, Bounds { health, ..BOUNDS }) {
            Ok(Command::Done(answer)) => answer.lba,
            other => panic!("{other:?}"),
        };
        assert_eq!(status(Health::Unknown), [1, 0x4f, 0xc2, 0xa0, 0, 0]);
        assert_eq!(status(Health::Good), [1, 0x4f, 0xc2, 0xa0, 0, 0]);
        assert_eq!(status(Health::Failing), [1, 0xf4, 0x2c, 0xa0, 0, 0]);
        let off = Bounds { smart: false, ..BOUNDS };
        assert_eq!(smart(0xda, key, off), Err(Outcome::ABORTED));
        assert_eq!(smart(0xd8, key, off), Ok(Command::SmartSwitch(true)));
    }

    fn page(entries: &[(u64, u16)]) -> Vec<u8> {
        let mut page: Vec<u8> = entries
            .iter()
            .flat_map(|(lba, n)| [&lba.to_le_bytes()[..6], &n.to_le_bytes()].concat())
            .collect();
        page.resize(512, 0);
        page
    }

    #[test]
    fn trim_is_checked_in_its_registers_and_then_in_its_pages() {
        let asked = Ata { feature: 1, ..ata(0x06, 0, 1) };
        let Ok(Command::Io(io)) = decode(&asked, BOUNDS) else { panic!() };
        assert_eq!((io.access, io.lba, io.span, io.bytes()), (Access::Trim, 0, 2048, 512));
        for (what, registers, bounds) in [
            ("not TRIM", Ata { feature: 0, ..asked }, BOUNDS),
            ("no page", Ata { count: 0, ..asked }, BOUNDS),
            ("too many pages", Ata { count: 17, ..asked }, BOUNDS),
            ("page missing", asked, Bounds { data: 511, ..BOUNDS }),
            ("read-only", asked, Bounds { read_only: true, ..BOUNDS }),
            ("not served", asked, Bounds { trim: false, ..BOUNDS }),
        ] {
            assert_eq!(decode(&registers, bounds), Err(Outcome::ABORTED), "{what}");
        }
        let span =
            |entries: &[(u64, u16)]| trim(io, &page(entries), 2048).map(|io| io.map(|io| (io.lba, io.span)));
        assert_eq!(span(&[(8, 4), (0, 0), (100, 2)]), Ok(Some((8, 94))));
        assert_eq!(span(&[(0, 0), (99_999, 0)]), Ok(None), "an empty entry has no address");
        assert_eq!(span(&[(8, 4), (2047, 2)]), Err(Outcome::NOT_FOUND));
        assert_eq!(span(&[((1 << 48) - 1, u16::MAX)]), Err(Outcome::NOT_FOUND));
        assert_eq!(span(&[(0, 2048)]), Ok(Some((0, 2048))));
        let all: Vec<_> = extents(&page(&[(8, 4), (0, 0), (100, 2)]), 1).collect();
        assert_eq!(all, [(2, Extent { lba: 100, sectors: 2 })]);
    }

    proptest! {
        #[test]
        fn what_decodes_is_valid(command: u8, lba in 0..1u64 << 48, count: u8, sectors in 0..4096u64,
                                 most in 0..=16u8, read_only: bool, data in 0..9000usize) {
            let bounds = Bounds { sectors, most, read_only, data, ..BOUNDS };
            if let Ok(Command::Io(io)) = decode(&ata(command, lba, count), bounds) {
                if io.access != Access::Flush {
                    prop_assert!(io.count > 0 && io.count <= most);
                    prop_assert!(io.lba + io.span <= sectors);
                }
                if io.access.changes() {
                    prop_assert!(!read_only && data >= io.bytes());
                }
            }
        }
    }
}
