//! What a verification knows of every sector: which write it holds, and who may touch it now.
//!
//! Not here: the bytes (`pattern`), or when requests are made (`load`). Pure.
//! Invariant: no two requests in flight overlap, and a sector is never written while a copy of an earlier write to
//! it may still be executed: such a late copy would put old data over new, and that would be our fault, not the
//! target's.

use super::pattern::{Mismatch, Stamp};
use crate::limits::SECTOR;
use crate::protocol::Address;

/// A request of ours is in flight for this sector.
const BUSY: u8 = 1;
/// Copies of a write may still be executed: it may be read, not written.
const FROZEN: u8 = 2;
/// A write failed or was never answered: nobody knows what the sector holds, now or later.
const LOST: u8 = 4;

/// The sectors of one slot that are written and checked.
#[derive(Debug)]
pub struct Ledger {
    seed: u64,
    address: Address,
    /// The write each sector holds; 0 before the first.
    generations: Vec<u32>,
    flags: Vec<u8>,
    next: u32,
    checked: u64,
    bad: u64,
}

/// Sectors by what is known of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Holding a write of this run that is known.
    pub written: u64,
    /// Not rewritten until the end, because copies of a write to them were never answered.
    pub frozen: u64,
    /// Content unknown, because a write failed.
    pub lost: u64,
    /// Comparisons made, over all reads.
    pub checked: u64,
    /// Comparisons that failed.
    pub bad: u64,
}

impl Ledger {
    /// For the first `sectors` of a slot.
    #[must_use]
    pub fn new(seed: u64, address: Address, sectors: usize) -> Self {
        Self {
            seed,
            address,
            generations: vec![0; sectors],
            flags: vec![0; sectors],
            next: 1,
            checked: 0,
            bad: 0,
        }
    }

    /// Sectors kept.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.flags.len() as u64
    }

    /// Takes sectors for a write and returns its generation; `None` when one of them may not be written now.
    pub fn begin_write(&mut self, lba: u64, count: u8) -> Option<u32> {
        let flags = range(&mut self.flags, lba, count)?;
        if flags.iter().any(|&f| f != 0) {
            return None;
        }
        flags.fill(BUSY);
        let generation = self.next;
        // After 2^32 writes a stale sector could pass for a fresh one, if it is exactly that old.
        self.next = self.next.checked_add(1).unwrap_or(1);
        Some(generation)
    }

    /// Fills the data of a write.
    pub fn fill(&self, lba: u64, generation: u32, data: &mut [u8]) {
        for (lba, sector) in (lba..).zip(data.sectors_mut()) {
            self.stamp(lba, generation).fill(sector);
        }
    }

    /// Takes sectors for a read; false when one of them is in flight, or none holds anything to check.
    pub fn begin_read(&mut self, lba: u64, count: u8) -> bool {
        let Some(generations) = range(&mut self.generations, lba, count) else { return false };
        let worth_it = generations.iter().any(|&g| g != 0);
        match range(&mut self.flags, lba, count) {
            Some(flags) if worth_it && flags.iter().all(|f| f & BUSY == 0) => {
                flags.iter_mut().for_each(|f| *f |= BUSY);
                true
            }
            _ => false,
        }
    }

    /// A write was answered well. With `copies` unanswered it stays frozen until [`Ledger::thaw`].
    pub fn end_write(&mut self, lba: u64, count: u8, generation: u32, copies: bool) {
        if let Some(generations) = range(&mut self.generations, lba, count) {
            generations.fill(generation);
        }
        if let Some(flags) = range(&mut self.flags, lba, count) {
            flags.fill(if copies { FROZEN } else { 0 });
        }
    }

    /// A write failed or was given up: what it did, and when, cannot be known.
    pub fn lose(&mut self, lba: u64, count: u8) {
        if let Some(generations) = range(&mut self.generations, lba, count) {
            generations.fill(0);
        }
        if let Some(flags) = range(&mut self.flags, lba, count) {
            flags.fill(LOST);
        }
    }

    /// Every copy of the last write to these sectors was answered.
    pub fn thaw(&mut self, lba: u64, count: u8) {
        if let Some(flags) = range(&mut self.flags, lba, count) {
            flags.iter_mut().for_each(|f| *f &= !FROZEN);
        }
    }

    /// A read is over; nothing is concluded from it.
    pub fn end_read(&mut self, lba: u64, count: u8) {
        if let Some(flags) = range(&mut self.flags, lba, count) {
            flags.iter_mut().for_each(|f| *f &= !BUSY);
        }
    }

    /// Checks the data of a read that is over. Each wrong sector is told once: afterwards it counts as unknown, until
    /// it is written again.
    pub fn check(&mut self, lba: u64, count: u8, data: &[u8], wrong: &mut impl FnMut(Mismatch)) {
        self.end_read(lba, count);
        let mut data = data.sectors_of();
        for lba in lba..lba + u64::from(count) {
            let generation = self.generations.get(lba as usize).copied().unwrap_or(0);
            let Some(sector) = data.next() else { return };
            if generation == 0 {
                continue;
            }
            self.checked += 1;
            if let Err(mismatch) = self.stamp(lba, generation).check(sector) {
                self.bad += 1;
                self.generations[lba as usize] = 0;
                wrong(mismatch);
            }
        }
    }

    /// The next stretch at or behind `lba` that holds something to check, of at most `most` sectors.
    #[must_use]
    pub fn next_written(&self, lba: u64, most: u8) -> Option<(u64, u8)> {
        let from = usize::try_from(lba).ok()?;
        let tail = self.generations.get(from..)?;
        let skip = tail.iter().position(|&g| g != 0)?;
        let count = tail[skip..].iter().take(usize::from(most)).take_while(|&&g| g != 0).count();
        Some((lba + skip as u64, count as u8))
    }

    /// What is known of all sectors together.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let count = |bit: u8| self.flags.iter().filter(|&f| f & bit != 0).count() as u64;
        Totals {
            written: self.generations.iter().filter(|&&g| g != 0).count() as u64,
            frozen: count(FROZEN),
            lost: count(LOST),
            checked: self.checked,
            bad: self.bad,
        }
    }

    fn stamp(&self, lba: u64, generation: u32) -> Stamp {
        Stamp { seed: self.seed, address: self.address, lba, generation }
    }
}

fn range<T>(all: &mut [T], lba: u64, count: u8) -> Option<&mut [T]> {
    let from = usize::try_from(lba).ok()?;
    all.get_mut(from..from.checked_add(usize::from(count))?)
}

trait Sectors {
    fn sectors_of(&self) -> impl Iterator<Item = &[u8; SECTOR]>;
    fn sectors_mut(&mut self) -> impl Iterator<Item = &mut [u8; SECTOR]>;
}

impl Sectors for [u8] {
    fn sectors_of(&self) -> impl Iterator<Item = &[u8; SECTOR]> {
        self.chunks_exact(SECTOR).filter_map(|s| s.try_into().ok())
    }

    fn sectors_mut(&mut self) -> impl Iterator<Item = &mut [u8; SECTOR]> {
        self.chunks_exact_mut(SECTOR).filter_map(|s| s.try_into().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initiator::pattern::Found;
    use proptest::prelude::*;

    const SLOT: Address = Address { shelf: 7, slot: 0 };

    fn ledger() -> Ledger {
        Ledger::new(1, SLOT, 64)
    }

    fn write(ledger: &mut Ledger, disk: &mut [u8], lba: u64, count: u8) {
        let generation = ledger.begin_write(lba, count).unwrap();
        let at = lba as usize * SECTOR;
        ledger.fill(lba, generation, &mut disk[at..at + usize::from(count) * SECTOR]);
        ledger.end_write(lba, count, generation, false);
    }

    fn read(ledger: &mut Ledger, disk: &[u8], lba: u64, count: u8) -> Vec<Mismatch> {
        let mut wrong = Vec::new();
        assert!(ledger.begin_read(lba, count));
        let at = lba as usize * SECTOR;
        ledger.check(lba, count, &disk[at..at + usize::from(count) * SECTOR], &mut |m| wrong.push(m));
        wrong
    }

    #[test]
    fn overlapping_requests_are_never_in_flight() {
        let mut l = ledger();
        let generation = l.begin_write(8, 8).unwrap();
        for (lba, count) in [(8, 8), (1, 8), (15, 1), (10, 2), (0, 64)] {
            assert_eq!(l.begin_write(lba, count), None, "{lba}+{count}");
            assert!(!l.begin_read(lba, count), "{lba}+{count}");
        }
        assert!(l.begin_write(16, 8).is_some());
        l.end_write(8, 8, generation, false);
        assert!(l.begin_read(8, 4));
        assert_eq!(l.begin_write(11, 1), None);
        assert!(l.begin_write(12, 1).is_some());
    }

    #[test]
    fn beyond_the_end_nothing_is_taken() {
        let mut l = ledger();
        assert_eq!(l.begin_write(60, 5), None);
        assert_eq!(l.begin_write(u64::MAX, 5), None);
        assert!(!l.begin_read(64, 1));
    }

    #[test]
    fn a_write_with_copies_out_is_read_but_not_rewritten_until_they_are_back() {
        let mut l = ledger();
        let generation = l.begin_write(0, 4).unwrap();
        l.end_write(0, 4, generation, true);
        assert_eq!(l.totals().frozen, 4);
        assert!(l.begin_read(0, 4));
        l.end_read(0, 4);
        assert_eq!(l.begin_write(3, 1), None);
        l.thaw(0, 4);
        assert_eq!(l.totals().frozen, 0);
        assert!(l.begin_write(3, 1).is_some());
    }

    #[test]
    fn a_thaw_during_a_read_does_not_open_the_sectors_for_writing() {
        let mut l = ledger();
        let generation = l.begin_write(0, 4).unwrap();
        l.end_write(0, 4, generation, true);
        assert!(l.begin_read(0, 2));
        l.thaw(0, 4);
        assert_eq!(l.begin_write(1, 1), None);
        assert!(l.begin_write(2, 1).is_some());
    }

    #[test]
    fn what_failed_is_never_touched_again() {
        let mut l = ledger();
        let mut disk = vec![0; 64 * SECTOR];
        write(&mut l, &mut disk, 0, 8);
        l.begin_write(2, 2).unwrap();
        l.lose(2, 2);
        assert_eq!(l.begin_write(3, 1), None);
        assert!(!l.begin_read(2, 2), "nothing to check");
        assert!(read(&mut l, &vec![0; 64 * SECTOR], 1, 3).len() == 1, "only sector 1 is known");
        assert_eq!(l.totals(), Totals { written: 5, frozen: 0, lost: 2, checked: 1, bad: 1 });
    }

    #[test]
    fn wrong_data_is_found_and_told_once() {
        let mut l = ledger();
        let mut disk = vec![0; 64 * SECTOR];
        write(&mut l, &mut disk, 0, 4);
        let old = disk.clone();
        write(&mut l, &mut disk, 0, 4);
        assert!(read(&mut l, &disk, 0, 4).is_empty());
        let wrong = read(&mut l, &old, 2, 1);
        assert_eq!((wrong.len(), wrong[0].expected.lba, wrong[0].expected.generation), (1, 2, 2));
        assert!(matches!(wrong[0].found, Found::Whole(s) if s.generation == 1));
        assert!(read(&mut l, &old, 2, 2).iter().all(|m| m.expected.lba == 3));
        write(&mut l, &mut disk, 2, 2);
        assert!(read(&mut l, &disk, 0, 4).is_empty());
    }

    #[test]
    fn the_final_pass_visits_all_that_was_written() {
        let mut l = ledger();
        let mut disk = vec![0; 64 * SECTOR];
        for (lba, count) in [(3, 2), (5, 9), (60, 4)] {
            write(&mut l, &mut disk, lba, count);
        }
        let (mut at, mut seen) = (0, Vec::new());
        while let Some((lba, count)) = l.next_written(at, 4) {
            seen.push((lba, count));
            at = lba + u64::from(count);
        }
        assert_eq!(seen, [(3, 4), (7, 4), (11, 3), (60, 4)]);
    }

    proptest! {
        /// Against a model that simply remembers: a disk that does as it is told never mismatches, one damaged
        /// byte in a written sector always does.
        #[test]
        fn checks_agree_with_a_plain_disk(
            ops in proptest::collection::vec((0u64..64, 1u8..9), 1..60), at in 0usize..64 * SECTOR,
        ) {
            let mut l = ledger();
            let mut disk = vec![0; 64 * SECTOR];
            let mut written = [false; 64];
            for (lba, count) in ops {
                let count = count.min((64 - lba) as u8);
                write(&mut l, &mut disk, lba, count);
                written[lba as usize..lba as usize + usize::from(count)].fill(true);
            }
            prop_assert!(read(&mut l, &disk, 0, 64).is_empty());
            disk[at] ^= 0x10;
            let wrong = read(&mut l, &disk, 0, 64);
            prop_assert_eq!(wrong.len(), usize::from(written[at / SECTOR]));
        }
    }
}
