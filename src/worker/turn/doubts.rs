//! Commands through the page cache that have ended well, as far as the kernel said.
//!
//! There the kernel tells the loss of data once, to whichever command on the file asks first: of a write that fails and one
//! beside it, the other may hear of it, and the one that failed may be told that all is well. So a good end is not believed
//! before everything has ended that was at the disk then; if something among that failed, the slot has (`shelf`), and
//! nothing that waited here is answered as good.
//! Not here: what a failure means, or the order of commands that overlap.
//! Invariant: a command that waits is released after all that were at the disk when it ended, and in the order they ended.

use std::collections::VecDeque;

/// Those of one slot.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    next: u64,
    /// Numbers of the commands at the disk, ascending.
    at_disk: VecDeque<u64>,
    /// Commands that ended, each with the number that all at the disk have to have reached.
    ended: VecDeque<(u64, u32)>,
}

impl Doubts {
    /// A command that promises something goes to the disk: its number.
    pub fn begin(&mut self) -> u64 {
        let serial = self.next;
        self.next += 1;
        self.at_disk.push_back(serial);
        serial
    }

    /// It has ended, well or not.
    pub fn end(&mut self, serial: u64) {
        if let Ok(at) = self.at_disk.binary_search(&serial) {
            self.at_disk.remove(at);
        }
    }

    /// The command of this ticket, which ended well, waits for all that are at the disk, if any are.
    pub fn hold(&mut self, ticket: u32) {
        self.ended.push_back((self.next, ticket));
    }

    /// The next command that need not wait any longer.
    pub fn release(&mut self) -> Option<u32> {
        let (until, ticket) = *self.ended.front()?;
        if self.at_disk.front().is_some_and(|oldest| *oldest < until) {
            return None;
        }
        self.ended.pop_front();
        Some(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_end_waits_for_all_that_were_at_the_disk_and_for_no_later_one() {
        let mut doubts = Doubts::default();
        let (a, b, c) = (doubts.begin(), doubts.begin(), doubts.begin());
        doubts.end(b);
        doubts.hold(2);
        let d = doubts.begin();
        assert_eq!(doubts.release(), None);
        doubts.end(a);
        doubts.hold(1);
        assert_eq!(doubts.release(), None, "the third was there when the second ended");
        doubts.end(c);
        assert_eq!(doubts.release(), Some(2), "the fourth was not");
        assert_eq!(doubts.release(), None, "but it was when the first ended");
        doubts.end(d);
        assert_eq!(doubts.release(), Some(1));
        assert_eq!(doubts.release(), None);
        let alone = doubts.begin();
        doubts.end(alone);
        doubts.hold(9);
        assert_eq!(doubts.release(), Some(9), "nothing else was there");
    }
}
