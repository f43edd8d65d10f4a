//! The pool of runs of one worker.
//!
//! Not a general allocator: runs are fixed pairs of chunks, made once.
//! Invariant: a run is free only when all its chunks are home; they come home singly and in any order.

use super::{Chunk, Region, Run};
use crate::limits;

/// Free runs, and the chunks of runs whose other half is still away.
#[derive(Debug)]
pub struct RunPool {
    first: u32,
    halves: Box<[[Option<Chunk>; limits::RUN_CHUNKS]]>,
    free: Vec<Run>,
    home: usize,
}

impl RunPool {
    /// Mints the runs of `first .. first + runs * RUN_CHUNKS`; `None` when a chunk of it is taken or out of range.
    #[must_use]
    pub fn new(region: &Region, first: u32, runs: u32) -> Option<Self> {
        let halves = (0..runs).map(|_| [const { None }; limits::RUN_CHUNKS]).collect();
        let mut pool = Self { first, halves, free: Vec::with_capacity(runs as usize), home: 0 };
        for index in first..first.checked_add(runs.checked_mul(limits::RUN_CHUNKS as u32)?)? {
            pool.put(region.mint(index)?);
        }
        Some(pool)
    }

    /// Runs that can be taken now.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Chunks that are home, in free runs or as halves.
    #[must_use]
    pub fn chunks_home(&self) -> usize {
        self.home
    }

    /// Takes a free run.
    pub fn take(&mut self) -> Option<Run> {
        let run = self.free.pop()?;
        self.home -= limits::RUN_CHUNKS;
        Some(run)
    }

    /// Takes a whole run home.
    pub fn put_run(&mut self, run: Run) {
        self.home += limits::RUN_CHUNKS;
        self.free.push(run);
    }

    /// Takes one chunk of a run home; the run is free again with its last one.
    pub fn put(&mut self, chunk: Chunk) {
        let at = chunk.index().wrapping_sub(self.first) as usize;
        let Some(run) = self.halves.get_mut(at / limits::RUN_CHUNKS) else {
            // Not one of ours: `Layout` routes chunks, so this cannot be; the token's own drop reports it.
            drop(chunk);
            return;
        };
        run[at % limits::RUN_CHUNKS] = Some(chunk);
        self.home += 1;
        if run.iter().all(Option::is_some) {
            if let [Some(a), Some(b)] = std::mem::take(run) {
                self.free.push(Run([a, b]));
            }
        }
    }
}

/// Retires the tokens at the end of a worker: memory goes with the region.
impl Drop for RunPool {
    fn drop(&mut self) {
        for run in self.free.drain(..) {
            for chunk in run.split() {
                chunk.retire();
            }
        }
        for chunk in self.halves.iter_mut().flatten().filter_map(Option::take) {
            chunk.retire();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_free_only_when_both_halves_are_home() {
        let region = Region::heap(6);
        let mut pool = RunPool::new(&region, 2, 2).unwrap();
        assert_eq!(pool.available(), 2);
        let run = pool.take().unwrap();
        assert_eq!(run.address() % limits::RUN as u64, 0);
        let [a, b] = run.split();
        pool.put(b);
        assert_eq!((pool.available(), pool.chunks_home()), (1, 3));
        pool.put(a);
        assert_eq!((pool.available(), pool.chunks_home()), (2, 4));
        let other = pool.take().unwrap();
        pool.put_run(other);
        assert_eq!((pool.available(), pool.chunks_home()), (2, 4));
    }
}
