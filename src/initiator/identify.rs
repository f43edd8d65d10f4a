//! Reading the 256 words of IDENTIFY DEVICE the way initiators do.
//!
//! Not here: writing them (`shelf`). Pure.
//! Invariant: any 512 bytes are read without panic; fewer are refused.

/// What IDENTIFY DEVICE says about a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Words 27-46.
    pub model: String,
    /// Words 10-19.
    pub serial: String,
    /// Words 23-26.
    pub firmware: String,
    /// Sectors of 512 bytes: words 100-103 with 48-bit addresses, else 60-61.
    pub sectors: u64,
    /// Whether it takes 48-bit addresses: bit 10 of word 83 or 86, as Linux tests it.
    pub lba48: bool,
    /// Word 49 bit 9, without which Plan 9 refuses a disk.
    pub lba: bool,
    /// Word 103 is not 0: Linux reads all 64 bits of words 100-103 as the size.
    pub oversize: bool,
}

impl Disk {
    /// Reads a page; `None` when it is shorter than 512 bytes.
    #[must_use]
    pub fn parse(page: &[u8]) -> Option<Self> {
        let page = page.first_chunk::<512>()?;
        let word = |n: usize| u16::from_le_bytes([page[2 * n], page[2 * n + 1]]);
        // The first character of a pair is in the high byte of the word (ATA-8 ACS, 7.12.7).
        let text = |from: usize, to: usize| {
            let bytes: Vec<u8> = (from..to).flat_map(|n| word(n).to_be_bytes()).collect();
            let text = bytes.escape_ascii().to_string();
            text.trim_matches(' ').trim_end_matches("\\x00").trim_end().to_owned()
        };
        let lba48 = (word(83) | word(86)) & 1 << 10 != 0;
        let wide = u64::from(word(100)) | u64::from(word(101)) << 16 | u64::from(word(102)) << 32;
        let narrow = u64::from(word(60)) | u64::from(word(61)) << 16;
        Some(Self {
            model: text(27, 47),
            serial: text(10, 20),
            firmware: text(23, 27),
            sectors: if lba48 { wide } else { narrow },
            lba48,
            lba: word(49) & 1 << 9 != 0,
            oversize: lba48 && word(103) != 0,
        })
    }

    /// Its size in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.sectors.saturating_mul(512)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page(words: &[(usize, u16)], texts: &[(usize, &str)]) -> [u8; 512] {
        let mut page = [0; 512];
        for (at, text) in texts {
            for (i, pair) in text.as_bytes().chunks(2).enumerate() {
                page[2 * (at + i)] = *pair.get(1).unwrap_or(&b' ');
                page[2 * (at + i) + 1] = pair[0];
            }
        }
        for (at, word) in words {
            page[2 * at..2 * at + 2].copy_from_slice(&word.to_le_bytes());
        }
        page
    }

    #[test]
    fn a_vblade_page_is_read() {
        let page = page(
            &[(49, 0x200), (60, 0x0800), (83, 0x5400), (86, 0x1400), (100, 0x0800), (101, 1)],
            &[
                (10, "7.3:host            "),
                (23, "V25     "),
                (27, "Coraid EtherDrive vblade                "),
            ],
        );
        let disk = Disk::parse(&page).unwrap();
        assert_eq!(disk.model, "Coraid EtherDrive vblade");
        assert_eq!((disk.serial.as_str(), disk.firmware.as_str()), ("7.3:host", "V25"));
        assert_eq!((disk.sectors, disk.lba48, disk.lba, disk.oversize), (0x1_0800, true, true, false));
        assert_eq!(disk.bytes(), 0x1_0800 * 512);
    }

    #[test]
    fn without_48_bits_the_28_bit_size_counts() {
        let disk = Disk::parse(&page(&[(60, 5), (61, 1), (100, 9)], &[])).unwrap();
        assert_eq!((disk.sectors, disk.lba48), (0x1_0005, false));
        assert_eq!(disk.serial, "");
    }

    proptest! {
        #[test]
        fn any_page_is_read(page in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(Disk::parse(&page).is_some(), page.len() >= 512);
        }
    }
}
