//! The order of a slot's commands: overlapping ones run in the order they arrived.
//!
//! Not here: recognising duplicates, or the frames that wait. A retransmitted write carries a new tag, so a late copy
//! could otherwise overtake a newer write to the same sectors and undo it.
//! Invariant: of two overlapping commands of which one writes, of two that change the same unit of the backing, and of two
//! flushes, the later runs only after the earlier has ended; and a flush after all changes that arrived before it. A TRIM
//! counts as a write of all between its first and its last sector.

use super::command::{Access, Io};

/// Whether a command may run now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Now.
    Run,
    /// After others; [`Order::end`] will name it.
    Wait,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    ticket: u32,
    first: u64,
    /// First sector behind it.
    end: u64,
    access: Access,
    running: bool,
}

impl Entry {
    /// Whether `later`, which arrived after this one, has to wait for it.
    const fn holds(&self, later: &Self, unit: u64) -> bool {
        match (self.access, later.access) {
            // The kernel reports lost data once: of two at the same time one would hear of it, and the other could be
            // answered first, as if all were well.
            (Access::Flush, Access::Flush) => true,
            // It promises all that arrived before it, answered or not: hosts that send both at once mean that.
            (earlier, Access::Flush) => earlier.changes(),
            // What comes after a flush is none of its business, and it promises nothing of that.
            (Access::Flush, _) => false,
            (a, b) if a.changes() && b.changes() => {
                self.first / unit < later.end.div_ceil(unit) && later.first / unit < self.end.div_ceil(unit)
            }
            (a, b) => (a.changes() || b.changes()) && self.first < later.end && later.first < self.end,
        }
    }
}

/// Commands of one slot that run or wait, in order of arrival. The caller bounds how many there are.
#[derive(Debug)]
pub struct Order {
    entries: Vec<Entry>,
    unit: u64,
}

/// For a backing that writes single sectors.
impl Default for Order {
    fn default() -> Self {
        Self::new(1)
    }
}

impl Order {
    /// An order for a backing that writes so many sectors as a whole, aligned to that number; at least 1. To change fewer
    /// it reads, changes and writes the unit, and another change of the same unit in between would be lost.
    #[must_use]
    pub fn new(unit: u32) -> Self {
        Self { entries: Vec::new(), unit: u64::from(unit.max(1)) }
    }

    /// Enters a command under the caller's name for it, which must not be in use.
    pub fn begin(&mut self, ticket: u32, io: Io) -> Turn {
        let end = io.lba + io.span;
        let mut new = Entry { ticket, first: io.lba, end, access: io.access, running: false };
        new.running = !self.entries.iter().any(|e| e.holds(&new, self.unit));
        self.entries.push(new);
        if new.running { Turn::Run } else { Turn::Wait }
    }

    /// The commands that run or wait and concern exactly the same sectors in the same way, the latest first.
    pub fn equal(&self, io: Io) -> impl Iterator<Item = u32> + '_ {
        let same = move |e: &&Entry| e.access == io.access && e.first == io.lba && e.end == io.lba + io.span;
        self.entries.iter().rev().filter(same).map(|e| e.ticket)
    }

    /// Ends a command and gives each one that may run now to `run`, in order of arrival.
    pub fn end(&mut self, ticket: u32, mut run: impl FnMut(u32)) {
        let Some(at) = self.entries.iter().position(|e| e.ticket == ticket) else {
            debug_assert!(false, "ticket {ticket} is not in flight");
            return;
        };
        let ended = self.entries.remove(at);
        // Only what waited for the ended one can be free now, and all of it came later.
        for i in at..self.entries.len() {
            let entry = self.entries[i];
            if !entry.running
                && ended.holds(&entry, self.unit)
                && !self.entries[..i].iter().any(|e| e.holds(&entry, self.unit))
            {
                self.entries[i].running = true;
                run(entry.ticket);
            }
        }
    }

    /// The commands that run or wait, in order of arrival.
    pub fn tickets(&self) -> impl Iterator<Item = u32> + '_ {
        self.entries.iter().map(|e| e.ticket)
    }

    /// Commands that run or wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing runs or waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn io(access: Access, lba: u64, count: u8) -> Io {
        Io::new(access, lba, count)
    }

    #[test]
    fn a_late_duplicate_waits_and_newer_writes_wait_behind_it() {
        let mut order = Order::default();
        assert_eq!(order.begin(1, io(Access::Write, 8, 8)), Turn::Run);
        assert_eq!(order.begin(2, io(Access::Write, 8, 8)), Turn::Wait, "the copy");
        assert_eq!(order.begin(3, io(Access::Write, 15, 1)), Turn::Wait, "the newer write");
        assert_eq!(order.begin(4, io(Access::Read, 16, 8)), Turn::Run, "a neighbour");
        assert_eq!(order.begin(5, io(Access::Read, 0, 16)), Turn::Wait, "a read sees what came before it");
        assert_eq!(order.begin(6, io(Access::Flush, 0, 0)), Turn::Wait, "a flush, for all of them");
        assert!(order.tickets().eq(1..=6));
        let mut ran = Vec::new();
        order.end(1, |t| ran.push(t));
        assert_eq!(ran, [2]);
        order.end(2, |t| ran.push(t));
        assert_eq!(ran, [2, 3]);
        order.end(3, |t| ran.push(t));
        assert_eq!(ran, [2, 3, 5, 6]);
    }

    #[test]
    fn flushes_run_one_after_the_other() {
        let mut order = Order::default();
        assert_eq!(order.begin(1, io(Access::Flush, 0, 0)), Turn::Run);
        assert_eq!(order.begin(2, io(Access::Flush, 0, 0)), Turn::Wait);
        assert_eq!(order.begin(3, io(Access::Write, 0, 8)), Turn::Run, "no write waits for a flush");
        let mut ran = Vec::new();
        order.end(1, |t| ran.push(t));
        assert_eq!(ran, [2], "nor a flush for a write that came later");
    }

    #[test]
    fn a_flush_waits_for_every_change_before_it() {
        let mut order = Order::default();
        for (ticket, access) in [(1, Access::Write), (2, Access::Trim), (3, Access::WriteThrough)] {
            assert_eq!(order.begin(ticket, io(access, u64::from(ticket) * 100, 8)), Turn::Run);
        }
        assert_eq!(order.begin(4, io(Access::Read, 0, 8)), Turn::Run);
        assert_eq!(order.begin(5, io(Access::Flush, 0, 0)), Turn::Wait);
        let mut ran = Vec::new();
        for ticket in [4, 2, 3, 1] {
            assert_eq!(ran, [0; 0]);
            order.end(ticket, |t| ran.push(t));
        }
        assert_eq!(ran, [5]);
    }

    #[test]
    fn changes_of_one_unit_run_one_after_the_other() {
        let mut order = Order::new(8);
        assert_eq!(order.begin(1, io(Access::Write, 9, 1)), Turn::Run);
        assert_eq!(order.begin(2, io(Access::Write, 15, 1)), Turn::Wait, "the same unit");
        assert_eq!(order.begin(3, io(Access::Write, 7, 1)), Turn::Run, "the one before");
        assert_eq!(order.begin(4, io(Access::Write, 16, 8)), Turn::Run, "the one behind");
        assert_eq!(order.begin(5, io(Access::Read, 14, 1)), Turn::Run, "a read of its sectors alone");
        assert_eq!(order.begin(6, io(Access::Trim, 0, 8)), Turn::Wait, "behind the write of 7");
        let mut ran = Vec::new();
        order.end(1, |t| ran.push(t));
        order.end(3, |t| ran.push(t));
        assert_eq!(ran, [2, 6]);
    }

    #[test]
    fn equal_commands_are_found_latest_first() {
        let mut order = Order::default();
        order.begin(1, io(Access::Write, 8, 8));
        order.begin(2, io(Access::Write, 8, 4));
        order.begin(3, io(Access::Write, 8, 8));
        order.begin(4, io(Access::WriteThrough, 8, 8));
        order.begin(5, io(Access::Read, 8, 8));
        assert_eq!(order.equal(io(Access::Write, 8, 8)).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(order.equal(io(Access::Write, 9, 8)).count(), 0);
    }

    #[test]
    fn reads_run_side_by_side() {
        let mut order = Order::default();
        for ticket in 0..10 {
            assert_eq!(order.begin(ticket, io(Access::Read, 0, 16)), Turn::Run);
        }
    }

    proptest! {
        /// Against the plainest model: a command may run when no earlier unfinished one conflicts with it.
        #[test]
        fn it_is_the_naive_order(
            unit in prop_oneof![Just(1u64), Just(8)],
            script in proptest::collection::vec((0..5u8, 0..32u64, 1..9u8, any::<bool>(), any::<u16>()), 1..200),
        ) {
            let mut order = Order::new(unit as u32);
            let mut model: Vec<(u32, Io)> = Vec::new();
            let mut running: Vec<u32> = Vec::new();
            let sectors = |io: Io, unit: u64| -> std::collections::BTreeSet<u64> {
                (io.lba..io.lba + io.span).map(|lba| lba / unit).collect()
            };
            let meet = |a: Io, b: Io, unit: u64| sectors(a, unit).intersection(&sectors(b, unit)).next().is_some();
            let free = |model: &[(u32, Io)], at: usize| {
                let (_, b) = model[at];
                !model[..at].iter().any(|&(_, a)| {
                    if b.access == Access::Flush {
                        return matches!(a.access, Access::Flush | Access::Write | Access::Trim | Access::WriteThrough);
                    }
                    let changes = [a, b].iter().filter(|io| io.access.changes()).count();
                    changes == 2 && meet(a, b, unit) || changes == 1 && meet(a, b, 1)
                })
            };
            for (ticket, (kind, lba, count, end, which)) in script.into_iter().enumerate() {
                let ticket = ticket as u32;
                if end && !running.is_empty() {
                    let ended = running.swap_remove(usize::from(which) % running.len());
                    model.retain(|m| m.0 != ended);
                    let mut woken = Vec::new();
                    order.end(ended, |t| woken.push(t));
                    let want: Vec<u32> = (0..model.len())
                        .filter(|&i| !running.contains(&model[i].0) && free(&model, i))
                        .map(|i| model[i].0)
                        .collect();
                    prop_assert_eq!(&woken, &want);
                    running.extend(woken);
                } else {
                    let new = match kind {
                        0 => io(Access::Read, lba, count),
                        1 => io(Access::Write, lba, count),
                        2 => io(Access::Verify, lba, count),
                        3 => Io { span: u64::from(count) * 3, ..io(Access::Trim, lba, 1) },
                        _ => io(Access::Flush, 0, 0),
                    };
                    model.push((ticket, new));
                    let want = if free(&model, model.len() - 1) { Turn::Run } else { Turn::Wait };
                    prop_assert_eq!(order.begin(ticket, new), want);
                    if want == Turn::Run {
                        running.push(ticket);
                    }
                }
            }
            // Everything ends: nothing waits for ever.
            while let Some(ended) = running.pop() {
                order.end(ended, |t| running.push(t));
            }
            prop_assert!(order.is_empty());
        }
    }
}
