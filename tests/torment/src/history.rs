//! What a slot may hold: which writes of each sector were acknowledged, and which may have happened.
//!
//! Not here: requests and frames (`client`). Pure.
//! Invariant: requests in flight never overlap, so that the writes of a sector are in order; a value that was
//! acknowledged, and for a write-back slot flushed, stays required until a newer one is.

use std::collections::{HashMap, HashSet};
use std::fmt;
use xshelf::initiator::pattern::Stamp;
use xshelf::limits::SECTOR;
use xshelf::protocol::Address;

/// The number of a write of a slot. 0 is the state of a slot that was never written: zeroes.
type Generation = u32;

/// A write of a sector that may have happened.
#[derive(Clone, Copy, Debug)]
struct Later {
    generation: Generation,
    /// When it was acknowledged, as the count of acknowledgements of the slot; `None` while that is open.
    acknowledged: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sector {
    /// What it holds at least: no older value may ever be seen again.
    base: Generation,
    /// The newest that was acknowledged.
    live: Generation,
    /// A read may find any of `base` and what is later: a write failed or was lost with the target.
    unsure: bool,
    /// A request for it is in flight.
    busy: bool,
    /// A copy of a write of it may still be on its way; it is not to be written before that is known to be over.
    frozen: bool,
}

/// One slot's history.
#[derive(Debug)]
pub struct Slot {
    seed: u64,
    address: Address,
    write_back: bool,
    sectors: Vec<Sector>,
    later: HashMap<u32, Vec<Later>>,
    /// Those that leave zeroes.
    trims: HashSet<Generation>,
    generation: Generation,
    acknowledgements: u64,
}

/// What is wrong with a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// An older value: a write that was acknowledged is lost.
    Lost {
        /// What is there.
        found: Generation,
        /// What was acknowledged.
        wanted: Generation,
    },
    /// No whole sector of this slot and place: torn, foreign or damaged.
    Damaged {
        /// What was wanted.
        wanted: Generation,
        /// What the stamp says, if there is one.
        stamp: Option<Stamp>,
    },
    /// A value that was refused or overtaken long ago, or that was never written.
    Never {
        /// What is there.
        found: Generation,
        /// What was wanted.
        wanted: Generation,
    },
}

/// A wrong sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Of which slot.
    pub address: Address,
    /// Which sector.
    pub lba: u64,
    /// What is wrong.
    pub wrong: Wrong,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}, sector {}: ", self.address, self.lba)?;
        match self.wrong {
            Wrong::Lost { found, wanted } => {
                write!(f, "holds write {found}, but write {wanted} was acknowledged: it is lost")
            }
            Wrong::Damaged { wanted, stamp: Some(stamp) } => write!(
                f,
                "is damaged: stamped slot {}, sector {}, write {}, and not all of that; write {wanted} was acknowledged",
                stamp.address, stamp.lba, stamp.generation
            ),
            Wrong::Damaged { wanted, stamp: None } => {
                write!(f, "holds nothing that was ever written; write {wanted} was acknowledged")
            }
            Wrong::Never { found, wanted } => {
                write!(f, "holds write {found}, which cannot be there; write {wanted} was acknowledged")
            }
        }
    }
}

impl Slot {
    /// A slot of so many sectors, all zeroes. `write_back`: only a flush makes its writes durable.
    #[must_use]
    pub fn new(seed: u64, address: Address, sectors: u32, write_back: bool) -> Self {
        Self {
            seed,
            address,
            write_back,
            sectors: vec![Sector::default(); sectors as usize],
            later: HashMap::new(),
            trims: HashSet::new(),
            generation: 0,
            acknowledgements: 0,
        }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Address {
        self.address
    }

    /// How many sectors are used.
    #[must_use]
    pub fn sectors(&self) -> u32 {
        self.sectors.len() as u32
    }

    /// Sectors that a write was acknowledged of.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.sectors.iter().filter(|s| s.live != 0).count() as u64
    }

    fn range(&mut self, lba: u32, count: u8) -> &mut [Sector] {
        &mut self.sectors[lba as usize..lba as usize + usize::from(count)]
    }

    /// Begins a write and returns its number; `None` while that would overlap something.
    pub fn begin_write(&mut self, lba: u32, count: u8) -> Option<Generation> {
        if self.range(lba, count).iter().any(|s| s.busy || s.frozen) {
            return None;
        }
        self.generation += 1;
        let generation = self.generation;
        for sector in self.range(lba, count) {
            sector.busy = true;
        }
        for lba in lba..lba + u32::from(count) {
            self.later.entry(lba).or_default().push(Later { generation, acknowledged: None });
        }
        Some(generation)
    }

    /// Begins a TRIM: a write of zeroes, in all but its data.
    pub fn begin_trim(&mut self, lba: u32, count: u8) -> Option<Generation> {
        let generation = self.begin_write(lba, count)?;
        self.trims.insert(generation);
        Some(generation)
    }

    /// The data of a write.
    pub fn fill(&self, lba: u32, generation: Generation, data: &mut [u8]) {
        for (lba, sector) in (u64::from(lba)..).zip(data.as_chunks_mut_of_sectors()) {
            Stamp { seed: self.seed, address: self.address, lba, generation }.fill(sector);
        }
    }

    /// A write was acknowledged. `frozen`: another copy of it may still be on its way.
    pub fn acknowledge(&mut self, lba: u32, count: u8, generation: Generation, frozen: bool) {
        self.acknowledgements += 1;
        let (now, write_back) = (self.acknowledgements, self.write_back);
        for sector in self.range(lba, count) {
            *sector = Sector { live: generation, unsure: false, busy: false, frozen, ..*sector };
            if !write_back {
                sector.base = generation;
            }
        }
        for lba in lba..lba + u32::from(count) {
            if write_back {
                let list = self.later.entry(lba).or_default();
                for later in list.iter_mut().filter(|l| l.generation == generation) {
                    later.acknowledged = Some(now);
                }
            } else {
                self.later.remove(&lba);
            }
        }
    }

    /// A write failed, or the target was lost with it in flight: it may have happened, or not, sector by sector.
    pub fn unknown(&mut self, lba: u32, count: u8, frozen: bool) {
        for sector in self.range(lba, count) {
            *sector = Sector { unsure: true, busy: false, frozen, ..*sector };
        }
    }

    /// No copy of a write of these sectors is on its way any more.
    pub fn thaw(&mut self, lba: u32, count: u8) {
        for sector in self.range(lba, count) {
            sector.frozen = false;
        }
    }

    /// Begins a read; false while that would overlap something.
    pub fn begin_read(&mut self, lba: u32, count: u8) -> bool {
        if self.range(lba, count).iter().any(|s| s.busy) {
            return false;
        }
        for sector in self.range(lba, count) {
            sector.busy = true;
        }
        true
    }

    /// A read is over.
    pub fn end_read(&mut self, lba: u32, count: u8) {
        for sector in self.range(lba, count) {
            sector.busy = false;
        }
    }

    /// What a flush that is sent now will cover.
    #[must_use]
    pub fn begin_flush(&self) -> u64 {
        self.acknowledgements
    }

    /// A flush was acknowledged: what was acknowledged before it was sent is durable.
    pub fn flushed(&mut self, covers: u64) {
        let sectors = &mut self.sectors;
        self.later.retain(|lba, list| {
            let durable = |l: &Later| l.acknowledged.is_some_and(|at| at <= covers);
            if let Some(newest) = list.iter().rposition(durable) {
                sectors[*lba as usize].base = list[newest].generation;
                list.drain(..=newest);
            }
            !list.is_empty()
        });
    }

    /// The power was cut, and nothing is in flight any more: what was not durable may be there or not.
    pub fn power_cut(&mut self) {
        for sector in &mut self.sectors {
            *sector = Sector { unsure: true, busy: false, frozen: false, ..*sector };
        }
    }

    /// Compares sectors that were read with what they may hold. `settle`: what is there is durable, and all there is.
    pub fn check(&mut self, lba: u32, data: &[u8], settle: bool, mut wrong: impl FnMut(Finding)) {
        for (lba, data) in (lba..).zip(data.as_chunks_of_sectors()) {
            let sector = self.sectors[lba as usize];
            let list = self.later.get(&lba).map_or(&[][..], Vec::as_slice);
            let candidates: Vec<Generation> = if sector.unsure {
                std::iter::once(sector.base).chain(list.iter().map(|l| l.generation)).collect()
            } else {
                vec![sector.live]
            };
            let wanted = candidates[0];
            let found = self.read(lba, data, &candidates);
            let verdict = match found {
                Ok(g) if candidates.contains(&g) => None,
                Ok(found) if found < wanted => Some(Wrong::Lost { found, wanted }),
                Ok(found) => Some(Wrong::Never { found, wanted }),
                Err(stamp) => Some(Wrong::Damaged { wanted, stamp }),
            };
            if let Some(what) = verdict {
                wrong(Finding { address: self.address, lba: u64::from(lba), wrong: what });
            }
            if settle {
                // Of a wrong sector, too: one loss is told once.
                if let Ok(g) = found {
                    self.sectors[lba as usize] = Sector { base: g, live: g, unsure: false, ..sector };
                }
                self.later.remove(&lba);
            }
        }
    }

    /// Which write a sector holds, if it is a whole one of this place.
    fn read(
        &self,
        lba: u32,
        data: &[u8; SECTOR],
        wanted: &[Generation],
    ) -> Result<Generation, Option<Stamp>> {
        if data.iter().all(|b| *b == 0) {
            // The newest that leaves zeroes; they all look the same.
            let zeroes = wanted.iter().copied().filter(|g| *g == 0 || self.trims.contains(g));
            return Ok(zeroes.max().unwrap_or(0));
        }
        let stamp = Stamp::read(data).ok_or(None)?;
        let right = Stamp {
            seed: self.seed,
            address: self.address,
            lba: u64::from(lba),
            generation: stamp.generation,
        };
        let written = stamp.generation != 0 && !self.trims.contains(&stamp.generation);
        if stamp == right && written && right.check(data).is_ok() {
            Ok(stamp.generation)
        } else {
            Err(Some(stamp))
        }
    }
}

/// A slice in whole sectors (`as_chunks` is younger than our Rust).
trait Sectors {
    fn as_chunks_of_sectors(&self) -> impl Iterator<Item = &[u8; SECTOR]>;
    fn as_chunks_mut_of_sectors(&mut self) -> impl Iterator<Item = &mut [u8; SECTOR]>;
}

impl Sectors for [u8] {
    fn as_chunks_of_sectors(&self) -> impl Iterator<Item = &[u8; SECTOR]> {
        self.chunks_exact(SECTOR).filter_map(|s| s.try_into().ok())
    }

    fn as_chunks_mut_of_sectors(&mut self) -> impl Iterator<Item = &mut [u8; SECTOR]> {
        self.chunks_exact_mut(SECTOR).filter_map(|s| s.try_into().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Address = Address { shelf: 7, slot: 1 };

    fn sector(slot: &Slot, lba: u32, generation: u32) -> Vec<u8> {
        let mut data = vec![0; SECTOR];
        if generation != 0 {
            slot.fill(lba, generation, &mut data);
        }
        data
    }

    fn verdict(slot: &mut Slot, data: &[u8]) -> Option<Wrong> {
        let mut all = Vec::new();
        slot.check(0, data, false, |f| all.push(f.wrong));
        all.pop()
    }

    fn write(slot: &mut Slot) -> u32 {
        let g = slot.begin_write(0, 1).unwrap();
        slot.acknowledge(0, 1, g, false);
        g
    }

    #[test]
    fn only_the_last_acknowledged_write_or_one_in_flight_will_do() {
        let mut slot = Slot::new(1, AT, 4, false);
        assert_eq!(verdict(&mut slot, &[0; SECTOR]), None);
        let (one, two) = (write(&mut slot), write(&mut slot));
        let old = sector(&slot, 0, one);
        assert_eq!(verdict(&mut slot, &old), Some(Wrong::Lost { found: one, wanted: two }));
        assert_eq!(verdict(&mut slot, &[0; SECTOR]), Some(Wrong::Lost { found: 0, wanted: two }));
        let three = slot.begin_write(0, 2).unwrap();
        assert!(slot.begin_write(1, 1).is_none() && !slot.begin_read(0, 1), "it is in flight");
        slot.unknown(0, 2, false);
        let (second, third) = (sector(&slot, 0, two), sector(&slot, 0, three));
        slot.power_cut();
        assert_eq!(verdict(&mut slot, &second), None);
        assert_eq!(verdict(&mut slot, &third), None);
        assert_eq!(verdict(&mut slot, &old), Some(Wrong::Lost { found: one, wanted: two }));
        let mut torn = third.clone();
        torn[256..].copy_from_slice(&second[256..]);
        assert!(matches!(verdict(&mut slot, &torn), Some(Wrong::Damaged { .. })));
        let misplaced = sector(&slot, 1, three);
        assert!(matches!(verdict(&mut slot, &misplaced), Some(Wrong::Damaged { .. })));
        let future = sector(&slot, 0, 99);
        assert_eq!(verdict(&mut slot, &future), Some(Wrong::Never { found: 99, wanted: two }));
        // Once it is read after the cut, the other one may not come back.
        slot.check(0, &third, true, |f| panic!("{f}"));
        assert_eq!(verdict(&mut slot, &second), Some(Wrong::Lost { found: two, wanted: three }));
    }

    #[test]
    fn a_flush_makes_durable_what_was_acknowledged_before_it_was_sent() {
        let mut slot = Slot::new(1, AT, 4, true);
        let one = write(&mut slot);
        let two = write(&mut slot);
        let flush = slot.begin_flush();
        let three = write(&mut slot);
        slot.flushed(flush);
        let data: Vec<_> = [0, one, two, three].iter().map(|g| sector(&slot, 0, *g)).collect();
        assert!(matches!(verdict(&mut slot, &data[2]), Some(Wrong::Lost { .. })), "without a cut it is live");
        slot.power_cut();
        assert_eq!(verdict(&mut slot, &data[0]), Some(Wrong::Lost { found: 0, wanted: two }));
        assert_eq!(verdict(&mut slot, &data[1]), Some(Wrong::Lost { found: one, wanted: two }));
        assert_eq!(verdict(&mut slot, &data[2]), None);
        assert_eq!(verdict(&mut slot, &data[3]), None);
    }

    #[test]
    fn a_trim_is_a_write_of_zeroes() {
        let mut slot = Slot::new(1, AT, 4, false);
        let one = write(&mut slot);
        let two = slot.begin_trim(0, 1).unwrap();
        slot.acknowledge(0, 1, two, false);
        assert_eq!(verdict(&mut slot, &[0; SECTOR]), None);
        let before = sector(&slot, 0, one);
        assert_eq!(verdict(&mut slot, &before), Some(Wrong::Lost { found: one, wanted: two }));
        slot.begin_write(0, 1).unwrap();
        slot.power_cut();
        slot.check(0, &[0; SECTOR], true, |f| panic!("{f}"));
        assert_eq!(verdict(&mut slot, &before), Some(Wrong::Lost { found: one, wanted: two }));
    }

    #[test]
    fn what_may_still_be_on_its_way_is_not_written_again() {
        let mut slot = Slot::new(1, AT, 4, false);
        let one = slot.begin_write(0, 2).unwrap();
        slot.acknowledge(0, 2, one, true);
        assert!(slot.begin_write(1, 1).is_none());
        assert!(slot.begin_read(1, 1));
        slot.end_read(1, 1);
        slot.thaw(0, 2);
        assert!(slot.begin_write(1, 1).is_some());
    }
}
