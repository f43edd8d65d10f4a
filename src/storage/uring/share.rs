//! Deals out what there is little of - kernel threads, bounce buffers - to jobs of many files.
//!
//! Not here: what is dealt out; jobs and files are numbers.
//! Invariant: every file can have one, whatever the others hold, so that files that hang never stall one that does not.
//! The jobs of a file that wait go first come, first served, and no later job of it takes a place before them.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

const NONE: u32 = u32::MAX;

/// What one file has, and its jobs that wait for more.
#[derive(Clone, Copy, Debug)]
struct Part {
    held: u32,
    first: u32,
    last: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Share {
    /// Left of what is common to all; the first that a file holds is its own and not of these.
    common: u32,
    files: Box<[Part]>,
    /// The job behind each job that waits.
    next: Box<[u32]>,
    /// Files that have jobs waiting, each once; the one that comes next in front.
    waiting: VecDeque<u32>,
}

impl Share {
    /// One for each of `files`, and `common` for those who need more; `jobs` is the most that can wait.
    pub fn new(common: u32, files: usize, jobs: usize) -> Self {
        Self {
            common,
            files: vec![Part { held: 0, first: NONE, last: NONE }; files].into_boxed_slice(),
            next: vec![NONE; jobs].into_boxed_slice(),
            waiting: VecDeque::with_capacity(files),
        }
    }

    /// Whether a file may have one more: its own first, and then as long as more is left than it has of the common ones.
    fn may(&self, file: usize) -> bool {
        let held = self.files[file].held;
        held == 0 || held - 1 < self.common
    }

    fn give(&mut self, file: usize) {
        let part = &mut self.files[file];
        self.common -= u32::from(part.held > 0);
        part.held += 1;
    }

    /// Takes one for a job that comes now; `false` when it has to wait.
    pub fn take(&mut self, file: u16) -> bool {
        let file = usize::from(file);
        let free = self.files[file].first == NONE && self.may(file);
        if free {
            self.give(file);
        }
        free
    }

    /// Gives one back. Ask [`Share::next`] who goes on.
    pub fn put(&mut self, file: u16) {
        let part = &mut self.files[usize::from(file)];
        debug_assert!(part.held > 0, "file {file} has none");
        self.common += u32::from(part.held > 1);
        part.held = part.held.saturating_sub(1);
    }

    /// Lets a job wait, behind the others of its file.
    pub fn wait(&mut self, file: u16, job: u32) {
        let part = &mut self.files[usize::from(file)];
        self.next[job as usize] = NONE;
        if part.first == NONE {
            part.first = job;
            self.waiting.push_back(u32::from(file));
        } else {
            self.next[part.last as usize] = job;
        }
        part.last = job;
    }

    /// A job that has waited and has one now, if there is any that may: one of each file in turn.
    pub fn next(&mut self) -> Option<u32> {
        for _ in 0..self.waiting.len() {
            let number = self.waiting.pop_front()?;
            let file = number as usize;
            if !self.may(file) {
                self.waiting.push_back(number);
                continue;
            }
            let job = self.unqueue(file);
            if self.files[file].first != NONE {
                self.waiting.push_back(number);
            }
            self.give(file);
            return Some(job);
        }
        None
    }

    /// A job that waits, which does so no longer and has nothing: at the end of everything.
    pub fn dismiss(&mut self) -> Option<u32> {
        let number = self.waiting.pop_front()?;
        let job = self.unqueue(number as usize);
        if self.files[number as usize].first != NONE {
            self.waiting.push_front(number);
        }
        Some(job)
    }

    /// The first job of a file that has some waiting.
    fn unqueue(&mut self, file: usize) -> u32 {
        let part = &mut self.files[file];
        let job = part.first;
        part.first = self.next[job as usize];
        job
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn files_that_hang_leave_one_to_each_other_file() {
        let mut share = Share::new(64, 100, 1000);
        let mut all = 0;
        for hung in 0..99 {
            let mut held = 0;
            while share.take(hung) {
                held += 1;
            }
            // Half of what is left, and one of its own.
            assert_eq!(held, [33, 17, 9, 5, 3, 2, 2].get(usize::from(hung)).copied().unwrap_or(1));
            all += held;
        }
        assert_eq!(all, 64 + 99);
        assert!(share.take(99), "the last file has its own");
        assert!(!share.take(99));
        share.put(99);
        assert!(share.take(99));
    }

    #[test]
    fn who_waits_goes_in_turn() {
        let mut share = Share::new(0, 3, 10);
        assert!(share.take(0) && share.take(1));
        for (file, job) in [(0, 1), (0, 2), (1, 3), (0, 4)] {
            assert!(!share.take(file));
            share.wait(file, job);
        }
        assert_eq!(share.next(), None);
        share.put(0);
        assert!(!share.take(0), "nobody passes those that wait");
        assert_eq!((share.next(), share.next()), (Some(1), None));
        share.put(1);
        share.put(0);
        assert_eq!((share.next(), share.next(), share.next()), (Some(3), Some(2), None));
        assert!(share.take(2));
        assert_eq!((share.dismiss(), share.dismiss()), (Some(4), None));
    }

    proptest! {
        /// Nothing is dealt out twice, nobody starves, and each file is served in order.
        #[test]
        fn it_deals_out_what_there_is(
            common in 0..9u32,
            script in proptest::collection::vec((0..4u16, any::<bool>()), 1..300),
        ) {
            let mut share = Share::new(common, 4, 300);
            let mut held = [0u32; 4];
            let mut queued: [VecDeque<u32>; 4] = Default::default();
            let grant = |share: &mut Share, held: &mut [u32; 4], queued: &mut [VecDeque<u32>; 4]| {
                while let Some(job) = share.next() {
                    let file = queued.iter().position(|q| q.front() == Some(&job)).expect("the first of its file");
                    queued[file].pop_front();
                    held[file] += 1;
                }
            };
            for (job, (file, put)) in (0..).zip(script) {
                let n = usize::from(file);
                if put && held[n] > 0 {
                    share.put(file);
                    held[n] -= 1;
                    grant(&mut share, &mut held, &mut queued);
                } else if share.take(file) {
                    prop_assert!(queued[n].is_empty());
                    held[n] += 1;
                } else {
                    share.wait(file, job);
                    queued[n].push_back(job);
                    grant(&mut share, &mut held, &mut queued);
                }
                prop_assert!(held.iter().map(|h| h.saturating_sub(1)).sum::<u32>() <= common);
                for n in 0..4 {
                    prop_assert!(queued[n].is_empty() || held[n] > 0, "{held:?} {queued:?}");
                }
            }
            // All end: all that wait had theirs.
            while let Some(file) = held.iter().position(|h| *h > 0) {
                share.put(file as u16);
                held[file] -= 1;
                grant(&mut share, &mut held, &mut queued);
            }
            prop_assert!(queued.iter().all(VecDeque::is_empty));
            prop_assert_eq!(share.common, common);
        }
    }
}
