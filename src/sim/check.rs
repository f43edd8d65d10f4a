//! What a sector may hold, by two rules that know nothing of each other.
//!
//! [`Arrivals`]: commands have the effect that they would have if each ran alone, in the order in which they reached the
//! owner of their slot. It holds whatever hosts do, and whatever the wire does to their frames.
//! [`History`]: what hosts see of a sector is what one register would show them, each write having its effect once between
//! the moment it was asked for and its answer. It holds for hosts that do not write to a sector while copies of an earlier
//! write to it may be on their way.
//!
//! Not here: how frames are told apart (`world`).
//! Invariant: neither rule refuses what the product may do: a command that failed, or was not answered when its worker
//! died, may have been done sector by sector, wholly or not at all.

use super::stamp::Stamp;

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Not answered.
    Open,
    /// Answered well.
    Good,
    /// Failed: it may have happened.
    Doubtful,
    /// It did not happen.
    Never,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    /// Place in the order of arrival.
    seq: u64,
    stamp: Stamp,
    fate: Fate,
    /// Safe with its answer.
    forced: bool,
    /// A flush that failed has told that it may be lost: no later flush makes it safe.
    doubted: bool,
}

#[derive(Clone, Debug)]
struct Sector {
    /// What it may have held before the first of the changes.
    before: Vec<Stamp>,
    changes: Vec<Change>,
}

impl Sector {
    /// Everything it may hold for who comes at this place, the latest first, until something that certainly happened.
    fn possible(&self, seq: u64) -> impl Iterator<Item = Stamp> + '_ {
        let mut over = false;
        let earlier = self.changes.iter().rev().filter(move |c| c.seq < seq && c.fate != Fate::Never);
        let given = earlier.map_while(move |change| {
            let was = over;
            over |= change.fate == Fate::Good;
            (!was).then_some(change.stamp)
        });
        let certain = self.changes.iter().any(|c| c.seq < seq && c.fate == Fate::Good);
        given.chain(self.before.iter().copied().filter(move |_| !certain))
    }
}

/// The rule of arrival, for the sectors of one slot.
#[derive(Debug)]
pub struct Arrivals {
    sectors: Vec<Sector>,
    /// Changes that arrived before this and were answered well are safe, because a flush was.
    flushed: u64,
}

impl Arrivals {
    /// A slot of zeroes.
    #[must_use]
    pub fn new(sectors: usize) -> Self {
        Self { sectors: vec![Sector { before: vec![0], changes: Vec::new() }; sectors], flushed: 0 }
    }

    /// A change of a sector has arrived. `forced`: once it is answered well, it is safe.
    pub fn change(&mut self, at: usize, seq: u64, stamp: Stamp, forced: bool) {
        if let Some(sector) = self.sectors.get_mut(at) {
            sector.changes.push(Change { seq, stamp, fate: Fate::Open, forced, doubted: false });
        }
    }

    /// It is known what became of a change. What nobody can see any more is forgotten: `oldest` is the place of the first
    /// command that is not answered, and `keep` whether a power cut may bring back what was overwritten.
    pub fn ended(&mut self, at: usize, seq: u64, fate: Fate, oldest: u64, keep: bool) {
        let Some(sector) = self.sectors.get_mut(at) else { return };
        if let Some(change) = sector.changes.iter_mut().rfind(|change| change.seq == seq) {
            change.fate = fate;
        }
        if sector.changes.len() > 16 && !keep {
            let over = sector.changes.iter().rposition(|c| c.seq < oldest && c.fate == Fate::Good);
            // For one that came long ago and may have been served at any time since: a request to all slots.
            let gone = sector.changes.drain(..over.unwrap_or(0)).filter(|c| c.fate != Fate::Never);
            let gone: Vec<_> = gone.map(|c| c.stamp).collect();
            if !gone.is_empty() {
                sector.before = gone;
            }
        }
    }

    /// A flush that arrived at this place was answered well.
    pub fn flushed(&mut self, seq: u64) {
        self.flushed = self.flushed.max(seq);
    }

    /// A flush of the slot failed, and now it serves again as if nothing had been: what no flush had made safe before may be
    /// lost, whatever later ones say. Before that, none may be answered well.
    pub fn doubt(&mut self) {
        let flushed = self.flushed;
        let unsafe_yet = |c: &&mut Change| c.seq >= flushed && !c.forced;
        let changes = self.sectors.iter_mut().flat_map(|sector| &mut sector.changes);
        changes.filter(unsafe_yet).for_each(|change| change.doubted = true);
    }

    /// Whether who came at this place may see this.
    #[must_use]
    pub fn allows(&self, at: usize, seq: u64, stamp: Stamp) -> bool {
        self.sectors.get(at).is_some_and(|sector| sector.possible(seq).any(|s| s == stamp))
    }

    /// Whether who came at some time between these places may see this.
    #[must_use]
    pub fn allows_between(&self, at: usize, from: u64, to: u64, stamp: Stamp) -> bool {
        self.allows(at, from, stamp)
            || self.sectors.get(at).is_some_and(|sector| {
                let mut meanwhile = sector.changes.iter().filter(|c| (from..to).contains(&c.seq));
                meanwhile.any(|c| c.stamp == stamp && c.fate != Fate::Never)
            })
    }

    /// What a sector may hold for who comes at this place, for a message.
    #[must_use]
    pub fn possible(&self, at: usize, seq: u64) -> Vec<Stamp> {
        self.sectors.get(at).map_or_else(Vec::new, |sector| sector.possible(seq).collect())
    }

    /// The process is gone, and with `power` also what was not safe; with `memory` everything.
    pub fn crash(&mut self, power: bool, memory: bool) {
        for sector in &mut self.sectors {
            if !power {
                // Nothing is safer than before: what the disk holds now a power cut may still take.
                let open = sector.changes.iter_mut().filter(|c| c.fate == Fate::Open);
                open.for_each(|c| c.fate = Fate::Doubtful);
                continue;
            }
            if memory {
                sector.before = vec![0];
            } else {
                let safe =
                    |c: &&Change| c.fate == Fate::Good && (c.forced || c.seq < self.flushed && !c.doubted);
                let last = sector.changes.iter().rposition(|c| safe(&c));
                if last.is_some() {
                    sector.before.clear();
                }
                let since = sector.changes.iter().skip(last.unwrap_or(0)).filter(|c| c.fate != Fate::Never);
                sector.before.extend(since.map(|c| c.stamp));
                sector.before.dedup();
            }
            sector.changes.clear();
        }
    }
}

/// What hosts know of a sector.
#[derive(Clone, Debug, Default)]
struct Register {
    /// Every write, in the order in which they began: one begins only when all copies of the one before are gone.
    writes: Vec<Stamp>,
    /// How many of them are certainly over what was before: 0 is the first content.
    floor: u32,
    /// How many of them up to the last that was answered well: only what was answered a flush makes safe.
    answered: u32,
    /// As `floor`, after a power cut.
    safe: u32,
    /// What was certain right after the last power cut.
    cut: u32,
}

/// The rule of one register, for the sectors of one slot.
#[derive(Debug)]
pub struct History {
    registers: Vec<Register>,
    /// Power cuts so far.
    cuts: u32,
}

impl History {
    /// A slot of zeroes.
    #[must_use]
    pub fn new(sectors: usize) -> Self {
        Self { registers: vec![Register::default(); sectors], cuts: 0 }
    }

    /// A host writes to a sector.
    pub fn begin(&mut self, at: usize, stamp: Stamp) {
        if let Some(register) = self.registers.get_mut(at) {
            register.writes.push(stamp);
        }
    }

    /// A write was answered well; it is safe with that if `forced`.
    pub fn written(&mut self, at: usize, stamp: Stamp, forced: bool, cuts: u32) {
        let Some(register) = self.registers.get_mut(at) else { return };
        let Some(place) = register.writes.iter().rposition(|s| *s == stamp) else { return };
        let place = place as u32 + 1;
        // The answer may come from before a power cut that took what it told of.
        if forced || cuts == self.cuts {
            register.floor = register.floor.max(place);
            register.answered = register.answered.max(place);
        }
        if forced {
            register.safe = register.safe.max(place);
        }
    }

    /// What is certain now; with it the number of power cuts.
    #[must_use]
    pub fn floors(&self, range: std::ops::Range<usize>) -> (Vec<u32>, u32) {
        (self.registers.get(range).unwrap_or_default().iter().map(|r| r.floor).collect(), self.cuts)
    }

    /// What was answered well by now, of all sectors; with it the number of power cuts.
    #[must_use]
    pub fn answered(&self) -> (Vec<u32>, u32) {
        (self.registers.iter().map(|r| r.answered).collect(), self.cuts)
    }

    /// A flush that began when this was answered was answered well.
    pub fn flushed(&mut self, floors: &[u32], cuts: u32) {
        if cuts == self.cuts {
            for (register, floor) in self.registers.iter_mut().zip(floors) {
                register.safe = register.safe.max(*floor);
            }
        }
    }

    /// As [`Arrivals::doubt`]: what was answered until now is made safe by no later flush.
    pub fn doubt(&mut self) {
        // As a power cut for answers and flushes that are on their way, though nothing is lost yet.
        self.cuts += 1;
        for register in &mut self.registers {
            (register.cut, register.answered) = (register.floor, register.safe);
        }
    }

    /// A read that began when `floor` was certain saw this. False when it may not.
    pub fn seen(&mut self, at: usize, stamp: Stamp, floor: u32, cuts: u32) -> bool {
        let Some(register) = self.registers.get_mut(at) else { return false };
        // Answered before a power cut, it saw at least what the cut left; before two of them, perhaps less.
        let floor = match self.cuts - cuts {
            0 => floor,
            1 => floor.min(register.cut),
            _ => 0,
        };
        // TRIM writes the same zeroes again and again: the latest is the best of them.
        let place = match register.writes.iter().rposition(|s| *s == stamp) {
            Some(place) => place as u32 + 1,
            None if stamp == 0 => 0,
            None => return false,
        };
        if place < floor {
            return false;
        }
        if cuts == self.cuts && stamp != 0 {
            register.floor = register.floor.max(place);
        }
        true
    }

    /// For a message: the last writes of a sector, and how many are certain.
    #[must_use]
    pub fn tell(&self, at: usize) -> String {
        self.registers.get(at).map_or_else(String::new, |r| {
            let from = r.writes.len().saturating_sub(6);
            format!(
                "{} writes, the last {:x?}; floor {}, safe {}",
                r.writes.len(),
                &r.writes[from..],
                r.floor,
                r.safe
            )
        })
    }

    /// The power fails; with `memory` everything is lost.
    pub fn cut_power(&mut self, memory: bool) {
        self.cuts += 1;
        for register in &mut self.registers {
            if memory {
                register.safe = 0;
            }
            (register.floor, register.cut, register.answered) = (register.safe, register.safe, register.safe);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Stamp = 0;
    const NEW: Stamp = 0x1_00;

    /// A sector is written, and answered; then perhaps doubted, and flushed.
    fn written(doubted: bool, forced: bool) -> Arrivals {
        let mut slot = Arrivals::new(1);
        slot.change(0, 1, NEW, forced);
        slot.ended(0, 1, Fate::Good, u64::MAX, true);
        if doubted {
            slot.doubt();
        }
        slot.flushed(2);
        slot
    }

    #[test]
    fn what_a_failed_flush_was_for_no_later_one_makes_safe() {
        for (doubted, forced, lost) in [(false, false, false), (true, false, true), (true, true, false)] {
            let mut slot = written(doubted, forced);
            assert!(!slot.allows(0, 3, OLD) && slot.allows(0, 3, NEW), "as long as there is power");
            slot.crash(false, false);
            assert!(!slot.allows(0, 3, OLD), "or the process alone is gone");
            slot.crash(true, false);
            assert!(slot.allows(0, 3, NEW));
            assert_eq!(slot.allows(0, 3, OLD), lost, "doubted {doubted}, forced {forced}");
        }
    }

    #[test]
    fn what_was_safe_before_a_flush_failed_stays_so() {
        let mut slot = written(false, false);
        slot.doubt();
        slot.crash(true, false);
        assert!(!slot.allows(0, 3, OLD));
    }

    #[test]
    fn hosts_know_no_more_than_what_was_flushed_before_the_failure() {
        for doubted in [false, true] {
            let mut history = History::new(1);
            history.begin(0, NEW);
            history.written(0, NEW, false, 0);
            if doubted {
                history.doubt();
            }
            let (floors, cuts) = history.answered();
            history.flushed(&floors, cuts);
            let (floors, cuts) = history.floors(0..1);
            assert!(!history.seen(0, OLD, floors[0], cuts), "as long as there is power");
            history.cut_power(false);
            let (floors, cuts) = history.floors(0..1);
            assert_eq!(history.seen(0, OLD, floors[0], cuts), doubted);
        }
    }

    #[test]
    fn an_answer_from_before_the_failure_counts_for_no_flush_after_it() {
        let mut history = History::new(1);
        history.begin(0, NEW);
        history.doubt();
        history.written(0, NEW, false, 0);
        let (floors, cuts) = history.answered();
        history.flushed(&floors, cuts);
        history.cut_power(false);
        assert!(history.seen(0, OLD, history.floors(0..1).0[0], 2));
    }
}
