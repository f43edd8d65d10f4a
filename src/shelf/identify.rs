//! The page that IDENTIFY DEVICE returns (ATA8-ACS, section 7.16; what initiators read of it is in the table of words
//! of drivers/block/aoe/aoecmd.c, iPXE's ata.c and Plan 9's sdaoe.c).
//!
//! Not here: how the facts were found out.
//! Invariant: the page tells the truth about size, cache and rotation, word 103 is 0 (Linux reads 64 bits of size),
//! and its checksum holds.

use super::slot::SlotFacts;
use crate::limits::{MAX_SECTORS, SECTOR};
use crate::protocol::ata;

/// Highest number of sectors LBA48 can tell.
const LBA48_MAX: u64 = (1 << 48) - 1;
/// Heads and sectors of a track that every BIOS takes.
const HEADS: u16 = 16;
const TRACK: u16 = 63;
const MAX_CYLINDERS: u64 = 16383;

struct Page([u8; SECTOR]);

impl Page {
    fn word(&mut self, n: usize, value: u16) {
        self.0[2 * n..2 * n + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn words<const BYTES: usize>(&mut self, n: usize, value: [u8; BYTES]) {
        self.0[2 * n..2 * n + BYTES].copy_from_slice(&value);
    }

    /// The first character sits in the high byte of a word; blanks fill up.
    fn text(&mut self, n: usize, text: &[u8]) {
        for (i, pair) in text.chunks(2).enumerate() {
            let [high, low] = [pair[0], pair.get(1).copied().unwrap_or(b' ')];
            self.word(n + i, u16::from_be_bytes([high, low]));
        }
    }
}

/// Words 82 and 85: SMART.
const SMART: u16 = 0x0001;
/// Words 82 and 85: volatile write cache.
const WRITE_CACHE: u16 = 0x0020;
/// Words 82 and 85: look-ahead.
const LOOK_AHEAD: u16 = 0x0040;
/// Words 84 and 87: words 108 to 111 hold a world wide name.
const WORLD_WIDE_NAME: u16 = 0x0100;

/// Makes the page; `smart` tells whether SMART is switched on.
#[must_use]
pub fn page(facts: &SlotFacts, smart: bool) -> [u8; SECTOR] {
    let mut page = Page([0; SECTOR]);
    let sectors = facts.sectors.min(LBA48_MAX);
    let cylinders = (sectors / u64::from(HEADS * TRACK)).min(MAX_CYLINDERS);
    let chs = cylinders * u64::from(HEADS * TRACK);
    // At most 16383, so it fits.
    let cylinders = cylinders as u16;

    page.word(0, 0x0040); // an ATA device, fixed
    page.word(1, cylinders);
    page.word(3, HEADS);
    page.word(6, TRACK);
    page.text(10, facts.serial.padded());
    page.text(23, facts.firmware.padded());
    page.text(27, facts.model.padded());
    page.word(47, 0x8000);
    page.word(49, 0x0200); // LBA, which Plan 9 requires
    page.word(50, 0x4000);
    page.word(53, 0x0001); // words 54 to 58 are valid
    page.word(54, cylinders);
    page.word(55, HEADS);
    page.word(56, TRACK);
    page.words(57, (chs as u32).to_le_bytes());
    page.words(60, (sectors.min(ata::LBA28_MAX) as u32).to_le_bytes());
    page.word(80, 0x00f0); // ATA/ATAPI-4 to -7
    // What is supported, and below what is switched on: SMART, the write cache, and look-ahead, which SET FEATURES takes.
    let write_cache = if facts.write_cache { WRITE_CACHE } else { 0 };
    let wwn = if facts.wwn == 0 { 0 } else { WORLD_WIDE_NAME };
    page.word(82, SMART | LOOK_AHEAD | write_cache);
    page.word(83, 0x7400); // valid, FLUSH CACHE (EXT), LBA48
    page.word(84, 0x4000 | wwn);
    page.word(85, if smart { SMART } else { 0 } | LOOK_AHEAD | write_cache);
    page.word(86, 0x3400);
    page.word(87, 0x4000 | wwn);
    page.words(100, sectors.to_le_bytes());
    if facts.physical_block > SECTOR as u32 && facts.physical_block.is_power_of_two() {
        let logical = facts.physical_block / SECTOR as u32;
        page.word(106, 0x6000 | (logical.trailing_zeros() as u16).min(15));
        // Sectors of the first physical block that lie before our first one.
        page.word(209, 0x4000 | ((facts.misalignment / SECTOR as u32) % logical & 0x3fff) as u16);
    }
    for (i, word) in facts.wwn.to_be_bytes().chunks(2).enumerate() {
        page.word(108 + i, u16::from_be_bytes([word[0], word[1]]));
    }
    if facts.trim && !facts.read_only {
        page.word(69, 0x4020); // freed sectors read the same each time, and as zeroes
        page.word(TRIM_PAGES, u16::from(MAX_SECTORS));
        page.word(169, 0x0001);
    }
    // 0 is "not reported", which is all that can be said of a disk that rotates at an unknown rate.
    page.word(217, u16::from(!facts.rotational));
    page.0[510] = 0xa5;
    seal(&mut page.0);
    page.0
}

/// Word 105: pages of one TRIM.
const TRIM_PAGES: usize = 105;

/// Makes a page tell the truth on a path that takes only so many sectors in one command, pages of a TRIM among them.
pub fn fit(page: &mut [u8], sectors: u8) {
    let Some([low, high]) = page.get_mut(2 * TRIM_PAGES..2 * TRIM_PAGES + 2) else { return };
    if *low > sectors || *high > 0 {
        (*low, *high) = (sectors, 0);
        seal(page);
    }
}

/// Makes the sum of all bytes 0 (word 255).
fn seal(page: &mut [u8]) {
    let Some((last, rest)) = page.split_last_mut() else { return };
    *last = 0u8.wrapping_sub(rest.iter().fold(0u8, |sum, &b| sum.wrapping_add(b)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Address;

    fn facts(sectors: u64) -> SlotFacts {
        SlotFacts {
            physical_block: 4096,
            serial: "SER1".parse().unwrap(),
            model: "xshelf disk".parse().unwrap(),
            firmware: "0.1".parse().unwrap(),
            ..SlotFacts::new(Address { shelf: 7, slot: 3 }, sectors)
        }
    }

    fn word(page: &[u8; 512], n: usize) -> u16 {
        u16::from_le_bytes([page[2 * n], page[2 * n + 1]])
    }

    #[test]
    fn linux_finds_the_size() {
        for sectors in [1, 2048, 0x0fff_ffff, 0x1000_0000, 1 << 40, (1 << 48) - 1] {
            let p = page(&facts(sectors), true);
            assert_ne!(word(&p, 83) & (1 << 10), 0, "LBA48");
            assert_eq!(u64::from_le_bytes(p[200..208].try_into().unwrap()), sectors);
            assert_eq!(word(&p, 103), 0);
            assert_eq!(
                u64::from(u32::from_le_bytes(p[120..124].try_into().unwrap())),
                sectors.min(0x0fff_ffff)
            );
        }
        assert_eq!(word(&page(&facts(u64::MAX), true), 103), 0);
    }

    #[test]
    fn texts_are_swapped_and_padded() {
        let p = page(&facts(2048), true);
        let text: Vec<u8> = p[20..40].chunks(2).flat_map(|c| [c[1], c[0]]).collect();
        assert_eq!(text, b"SER1                ");
        let model: Vec<u8> = p[54..94].chunks(2).flat_map(|c| [c[1], c[0]]).collect();
        assert_eq!(model, b"xshelf disk                             ");
        let firmware: Vec<u8> = p[46..54].chunks(2).flat_map(|c| [c[1], c[0]]).collect();
        assert_eq!(firmware, b"0.1     ");
    }

    #[test]
    fn the_rest_tells_the_truth() {
        let p = page(&facts(1 << 30), true);
        assert_eq!((word(&p, 1), word(&p, 3), word(&p, 6)), (16383, 16, 63));
        assert_eq!(word(&p, 106), 0x6003);
        assert_eq!(word(&p, 217), 1);
        assert_eq!((word(&p, 82) & 0x20, word(&p, 85) & 0x20), (0, 0));
        let plain = SlotFacts { write_cache: true, rotational: true, physical_block: 512, ..facts(2048) };
        let cached = page(&plain, false);
        assert_eq!(
            (word(&cached, 82), word(&cached, 85), word(&cached, 217), word(&cached, 106)),
            (0x61, 0x60, 0, 0),
            "SMART is there and switched off"
        );
        assert_eq!((word(&cached, 1), word(&cached, 54)), (2, 2), "a small disk has few cylinders");
        assert_eq!(u32::from_le_bytes(cached[114..118].try_into().unwrap()), 2 * 16 * 63);
        for page in [p, cached] {
            assert_eq!(page.iter().fold(0u8, |s, &b| s.wrapping_add(b)), 0);
            assert_eq!(page[510], 0xa5);
        }
    }

    #[test]
    fn trim_name_and_alignment_are_told_when_they_are_there() {
        let p = page(&facts(2048), true);
        assert_eq!((word(&p, 69), word(&p, 105), word(&p, 169)), (0, 0, 0));
        assert_eq!((word(&p, 84), word(&p, 87), word(&p, 108), word(&p, 209)), (0x4000, 0x4000, 0, 0x4000));
        let more = SlotFacts { trim: true, wwn: 0x3001_0203_0405_0607, misalignment: 3584, ..facts(2048) };
        let p = page(&more, true);
        assert_eq!((word(&p, 69), word(&p, 105), word(&p, 169)), (0x4020, 16, 1));
        assert_eq!((word(&p, 84), word(&p, 87)), (0x4100, 0x4100));
        assert_eq!([108, 109, 110, 111].map(|n| word(&p, n)), [0x3001, 0x0203, 0x0405, 0x0607]);
        assert_eq!(word(&p, 209), 0x4007);
        let refused = page(&SlotFacts { read_only: true, ..more }, true);
        assert_eq!(word(&refused, 169), 0, "what is read-only frees nothing");
    }

    #[test]
    fn a_narrow_path_takes_fewer_pages_of_a_trim() {
        let trims = SlotFacts { trim: true, ..facts(2048) };
        for (facts, sectors, want) in [(&trims, 2, 2), (&trims, 16, 16), (&facts(2048), 2, 0)] {
            let mut p = page(facts, true);
            fit(&mut p, sectors);
            assert_eq!(word(&p, 105), want);
            assert_eq!(p.iter().fold(0u8, |s, &b| s.wrapping_add(b)), 0);
        }
        fit(&mut [0; 5], 2);
    }
}
