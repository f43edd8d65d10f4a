//! The order of a slot's commands: overlapping ones run in the order they arrived.
//!
//! Not here: recognising duplicates, or the frames that wait. A retransmitted write carries a new tag, so a late copy
//! could otherwise overtake a newer write to the same sectors and undo it.
//! Invariant: of two overlapping commands of which one writes, and of two flushes, the later runs only after the
//! earlier has ended. A TRIM counts as a write of all between its first and its last sector.

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
    const fn conflicts(&self, other: &Self) -> bool {
        match (self.access, other.access) {
            (Access::Flush, Access::Flush) => true,
            (a, b) => (a.changes() || b.changes()) && self.first < other.end && other.first < self.end,
        }
    }
}

/// Commands of one slot that run or wait, in order of arrival. The caller bounds how many there are.
#[derive(Debug, Default)]
pub struct Order {
    entries: Vec<Entry>,
}

impl Order {
    /// Enters a command under the caller's name for it, which must not be in use.
    ///
    /// A flush has no range: it promises what was answered before it, and an answered write has ended. Flushes run one
    /// after the other, because the kernel reports lost data once: of two at the same time one would hear of it, and the
    /// other could be answered first, as if all were well.
    pub fn begin(&mut self, ticket: u32, io: Io) -> Turn {
        let end = io.lba + io.span;
        let mut new = Entry { ticket, first: io.lba, end, access: io.access, running: false };
        new.running = !self.entries.iter().any(|e| e.conflicts(&new));
        self.entries.push(new);
        if new.running { Turn::Run } else { Turn::Wait }
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
                && entry.conflicts(&ended)
                && !self.entries[..i].iter().any(|e| e.conflicts(&entry))
            {
                self.entries[i].running = true;
                run(entry.ticket);
            }
        }
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
        assert_eq!(order.begin(6, io(Access::Flush, 0, 0)), Turn::Run);
        let mut ran = Vec::new();
        order.end(1, |t| ran.push(t));
        assert_eq!(ran, [2]);
        order.end(2, |t| ran.push(t));
        assert_eq!(ran, [2, 3]);
        order.end(3, |t| ran.push(t));
        assert_eq!(ran, [2, 3, 5]);
    }

    #[test]
    fn flushes_run_one_after_the_other() {
        let mut order = Order::default();
        assert_eq!(order.begin(1, io(Access::Flush, 0, 0)), Turn::Run);
        assert_eq!(order.begin(2, io(Access::Flush, 0, 0)), Turn::Wait);
        assert_eq!(
            order.begin(3, io(Access::Write, 0, 8)),
            Turn::Run,
            "a flush waits for no write, nor a write for it"
        );
        let mut ran = Vec::new();
        order.end(1, |t| ran.push(t));
        assert_eq!(ran, [2]);
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
        fn it_is_the_naive_order(script in proptest::collection::vec((0..3u8, 0..32u64, 1..9u8, any::<bool>(), any::<u16>()), 1..200)) {
            let mut order = Order::default();
            let mut model: Vec<(u32, Io)> = Vec::new();
            let mut running: Vec<u32> = Vec::new();
            let free = |model: &[(u32, Io)], at: usize| {
                let (_, b) = model[at];
                !model[..at].iter().any(|&(_, a)| {
                    (a.access == Access::Flush && b.access == Access::Flush)
                        || (a.access == Access::Write || b.access == Access::Write)
                            && a.lba < b.lba + u64::from(b.count)
                            && b.lba < a.lba + u64::from(a.count)
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
