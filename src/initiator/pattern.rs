//! The data of a verification: every sector is a function of seed, address, LBA and generation.
//!
//! Not here: which generation a sector holds (`ledger`). Pure.
//! Invariant: two sectors that differ in any of the four differ in their stamp, and the rest of their bytes
//! differs all over, so that no misplaced, stale or torn sector passes for the right one.
//!
//! ```text
//! 0        8       16      24          28     30    31 32                                512
//! | magic  | seed  | LBA   | generation| shelf |slot| 0 | words of a generator keyed by all |
//! ```
//! Numbers are little-endian.

use crate::limits::SECTOR;
use crate::protocol::Address;
use std::fmt;

const MAGIC: [u8; 8] = *b"xshelf\x01\n";
const STAMP: usize = 32;

/// A small generator of numbers that look random (splitmix64, Steele et al. 2014); not for secrets.
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    /// Begins at `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `end`, or 0 when that is 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        // The high half of the product: even enough for choosing blocks, without a division.
        ((self.next() as u128 * end as u128) >> 64) as u64
    }
}

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a sector says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The run it was written in.
    pub seed: u64,
    /// Where it was meant to go.
    pub address: Address,
    /// Where it was meant to go.
    pub lba: u64,
    /// Which write of the run it was.
    pub generation: u32,
}

impl Stamp {
    /// Writes the sector.
    pub fn fill(&self, sector: &mut [u8; SECTOR]) {
        let Self { seed, address, lba, generation } = *self;
        let (stamp, body) = sector.split_at_mut(STAMP);
        let place = u64::from(generation) | u64::from(address.shelf) << 32 | u64::from(address.slot) << 48;
        for (bytes, word) in stamp.chunks_exact_mut(8).zip([u64::from_le_bytes(MAGIC), seed, lba, place]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let mut random = Random::new(mix(seed) ^ mix(lba.wrapping_add(1)) ^ mix(place.wrapping_mul(3)));
        for bytes in body.chunks_exact_mut(8) {
            bytes.copy_from_slice(&random.next().to_le_bytes());
        }
    }

    /// Reads the stamp of a sector, if it has one.
    #[must_use]
    pub fn read(sector: &[u8; SECTOR]) -> Option<Self> {
        let word = |n: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&sector[8 * n..8 * n + 8]);
            u64::from_le_bytes(bytes)
        };
        let place = word(3);
        (word(0) == u64::from_le_bytes(MAGIC)).then_some(Self {
            seed: word(1),
            lba: word(2),
            generation: place as u32,
            address: Address { shelf: (place >> 32) as u16, slot: (place >> 48) as u8 },
        })
    }

    /// Compares a sector with what it should be.
    ///
    /// # Errors
    /// Where the first wrong byte is, and what the sector looks like.
    pub fn check(&self, sector: &[u8; SECTOR]) -> Result<(), Mismatch> {
        let mut want = [0; SECTOR];
        self.fill(&mut want);
        if want == *sector {
            return Ok(());
        }
        let wrong = || sector.iter().zip(&want).enumerate().filter(|(_, (got, want))| got != want);
        let (offset, (&got, &want_byte)) = wrong().next().unwrap_or((0, (&0, &0)));
        Err(Mismatch {
            expected: *self,
            offset,
            expected_byte: want_byte,
            got_byte: got,
            wrong_bytes: wrong().count(),
            found: Found::tell(self, sector),
        })
    }
}

/// What stands in a sector instead of what should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A whole sector of this run, of an earlier or later write, or from another place.
    Whole(Stamp),
    /// A stamp, but the data behind it does not belong to it: torn or damaged.
    Torn(Stamp),
    /// Zeroes.
    Zeroes,
    /// No stamp at all.
    Foreign,
}

impl Found {
    fn tell(expected: &Stamp, sector: &[u8; SECTOR]) -> Self {
        match Stamp::read(sector) {
            Some(stamp) => {
                let mut whole = [0; SECTOR];
                stamp.fill(&mut whole);
                // The reserved byte is part of the sector but not of its stamp.
                if whole == *sector && stamp != *expected { Self::Whole(stamp) } else { Self::Torn(stamp) }
            }
            None if sector.iter().all(|&b| b == 0) => Self::Zeroes,
            None => Self::Foreign,
        }
    }
}

/// A sector that is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// What it should be.
    pub expected: Stamp,
    /// Offset of the first wrong byte in the sector.
    pub offset: usize,
    /// What that byte should be.
    pub expected_byte: u8,
    /// What it is.
    pub got_byte: u8,
    /// How many bytes of the sector are wrong.
    pub wrong_bytes: usize,
    /// What is there instead.
    pub found: Found,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expected, offset, expected_byte, got_byte, wrong_bytes, .. } = self;
        write!(
            f,
            "{} LBA {}: byte {offset} is {got_byte:02x} instead of {expected_byte:02x}, {wrong_bytes} of {SECTOR} \
             bytes wrong; expected write {}, got ",
            expected.address, expected.lba, expected.generation
        )?;
        match self.found {
            Found::Whole(s) if s.seed != expected.seed => write!(f, "data of another run (seed {})", s.seed),
            Found::Whole(s) if s.address != expected.address => write!(f, "data of slot {}", s.address),
            Found::Whole(s) if s.lba != expected.lba => {
                write!(f, "data of LBA {} (write {})", s.lba, s.generation)
            }
            Found::Whole(s) if s.generation < expected.generation => {
                write!(f, "older data (write {})", s.generation)
            }
            Found::Whole(s) => write!(f, "newer data (write {})", s.generation),
            Found::Torn(s) => {
                write!(
                    f,
                    "a torn or damaged sector stamped {} LBA {} write {}",
                    s.address, s.lba, s.generation
                )
            }
            Found::Zeroes => f.write_str("zeroes"),
            Found::Foreign => f.write_str("data never written by this tool"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WANT: Stamp = Stamp { seed: 1, address: Address { shelf: 7, slot: 0 }, lba: 100, generation: 5 };

    fn sector(stamp: Stamp) -> [u8; SECTOR] {
        let mut bytes = [0; SECTOR];
        stamp.fill(&mut bytes);
        bytes
    }

    fn any_stamp() -> impl Strategy<Value = Stamp> {
        (any::<u64>(), any::<u16>(), any::<u8>(), any::<u64>(), any::<u32>()).prop_map(
            |(seed, shelf, slot, lba, generation)| Stamp {
                seed,
                address: Address { shelf, slot },
                lba,
                generation,
            },
        )
    }

    proptest! {
        #[test]
        fn a_stamp_is_read_back(stamp in any_stamp()) {
            prop_assert_eq!(Stamp::read(&sector(stamp)), Some(stamp));
            prop_assert_eq!(stamp.check(&sector(stamp)), Ok(()));
        }

        #[test]
        fn every_wrong_bit_is_found(stamp in any_stamp(), at in 0..SECTOR, bit in 0..8u8) {
            let mut bytes = sector(stamp);
            bytes[at] ^= 1 << bit;
            let mismatch = stamp.check(&bytes).unwrap_err();
            prop_assert_eq!((mismatch.offset, mismatch.wrong_bytes), (at, 1));
            prop_assert_eq!(mismatch.got_byte ^ mismatch.expected_byte, 1 << bit);
            prop_assert!(!matches!(mismatch.found, Found::Whole(_)));
        }

        #[test]
        fn different_sectors_differ_all_over(a in any_stamp(), b in any_stamp()) {
            prop_assume!(a != b);
            let (x, y) = (sector(a), sector(b));
            let equal = x[STAMP..].iter().zip(&y[STAMP..]).filter(|(x, y)| x == y).count();
            prop_assert!(equal < 32, "{equal} of 480 equal");
        }

        #[test]
        fn below_stays_below(seed: u64, end in 1u64..) {
            prop_assert!(Random::new(seed).below(end) < end);
        }
    }

    #[test]
    fn neighbours_and_successors_differ_all_over() {
        for other in [
            Stamp { seed: 2, ..WANT },
            Stamp { lba: 101, ..WANT },
            Stamp { generation: 6, ..WANT },
            Stamp { address: Address { shelf: 7, slot: 1 }, ..WANT },
            Stamp { address: Address { shelf: 8, slot: 0 }, ..WANT },
        ] {
            let mismatch = WANT.check(&sector(other)).unwrap_err();
            assert!(mismatch.wrong_bytes > 450, "{other:?}: {}", mismatch.wrong_bytes);
        }
    }

    #[test]
    fn a_mismatch_says_what_is_there_instead() {
        let told = |bytes: &[u8; SECTOR]| WANT.check(bytes).unwrap_err().to_string();
        for (stamp, text) in [
            (Stamp { seed: 9, ..WANT }, "data of another run (seed 9)"),
            (Stamp { lba: 99, ..WANT }, "data of LBA 99 (write 5)"),
            (Stamp { generation: 4, ..WANT }, "older data (write 4)"),
            (Stamp { generation: 6, ..WANT }, "newer data (write 6)"),
            (Stamp { address: Address { shelf: 7, slot: 1 }, ..WANT }, "data of slot 7.1"),
        ] {
            assert!(told(&sector(stamp)).ends_with(text), "{}", told(&sector(stamp)));
        }
        assert!(told(&[0; SECTOR]).ends_with("got zeroes"));
        assert!(told(&[0x55; SECTOR]).ends_with("data never written by this tool"));
        let mut torn = sector(WANT);
        torn[256..].copy_from_slice(&sector(Stamp { generation: 4, ..WANT })[256..]);
        assert_eq!(
            told(&torn).split_once("; ").unwrap().1,
            "expected write 5, got a torn or damaged sector stamped 7.0 LBA 100 write 5"
        );
        assert!(told(&torn).starts_with("7.0 LBA 100: byte 256 is "), "{}", told(&torn));
    }
}
