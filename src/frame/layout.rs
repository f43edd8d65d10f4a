//! Which chunk belongs to whom: fixed at start, for the life of the region.
//!
//! Not an allocator: it only answers "where is the home of this chunk".
//! Invariant: every chunk has exactly one home, runs start at even chunks, and homes never change.

use super::{Chunk, QueueId, Region, RunPool, WorkerId};
use crate::limits;

/// The pool of a worker that a chunk returns to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Free chunks for the FILL ring of this queue, which this worker alone fills.
    Receive(QueueId),
    /// The worker's runs.
    Run,
    /// The worker's chunks for frames it starts itself.
    Own,
}

/// Where a chunk returns to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// The worker.
    pub worker: WorkerId,
    /// Its pool.
    pub pool: Pool,
}

/// What one worker gets of the region.
#[derive(Clone, Debug, Default)]
pub struct WorkerShare {
    /// Its queues, each with the number of chunks to receive into.
    pub receive: Vec<(QueueId, u32)>,
    /// Its runs.
    pub runs: u32,
    /// Its chunks for frames it starts itself.
    pub own: u32,
}

/// The region cannot be laid out like that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// More chunks than a UMEM can have.
    #[error("{0} chunks are more than one UMEM can hold; use fewer queues or fewer frames for each")]
    TooLarge(u64),
    /// A pool asked for chunks that were already given out.
    #[error("the chunks of worker {0:?} were already given out")]
    Taken(WorkerId),
}

/// The homes of all chunks.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Start and home of each part, ascending.
    parts: Vec<(u32, Home)>,
    /// Part of each chunk.
    part_of: Box<[u16]>,
}

impl Layout {
    /// Lays out one region for these workers.
    ///
    /// # Errors
    /// [`LayoutError::TooLarge`] when the chunks cannot be counted in 32 bits, or the parts in 16.
    pub fn plan(shares: &[WorkerShare]) -> Result<Self, LayoutError> {
        let mut parts = Vec::new();
        let mut next: u64 = 0;
        let mut part = |worker: usize, pool, chunks: u64| {
            let at = next;
            next += chunks;
            match (u32::try_from(at), u16::try_from(worker)) {
                (Ok(at), Ok(worker)) if chunks > 0 => {
                    parts.push((at, Home { worker: WorkerId(worker), pool }))
                }
                _ => {}
            }
        };
        // Runs first: they then start at even chunks whatever the other pools hold.
        for (i, share) in shares.iter().enumerate() {
            part(i, Pool::Run, u64::from(share.runs) * limits::RUN_CHUNKS as u64);
        }
        for (i, share) in shares.iter().enumerate() {
            for &(queue, chunks) in &share.receive {
                part(i, Pool::Receive(queue), u64::from(chunks));
            }
            part(i, Pool::Own, u64::from(share.own));
        }
        // A whole number of 2 MiB pages, so that huge pages can be unmapped again.
        let page = (2 << 20) / limits::CHUNK as u64;
        let total = u32::try_from(next.div_ceil(page) * page).map_err(|_| LayoutError::TooLarge(next))?;
        if parts.len() >= usize::from(u16::MAX) {
            return Err(LayoutError::TooLarge(next));
        }
        let mut part_of = vec![u16::MAX; total as usize].into_boxed_slice();
        for (i, &(start, _)) in parts.iter().enumerate() {
            let end = parts.get(i + 1).map_or(next, |p| u64::from(p.0));
            for entry in &mut part_of[start as usize..end as usize] {
                // Checked above: fewer parts than u16::MAX.
                *entry = i as u16;
            }
        }
        Ok(Self { parts, part_of })
    }

    /// Chunks of the region to make.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        self.part_of.len() as u32
    }

    /// Chunks that have a home; the rest fills up the last huge page and is never given out.
    #[must_use]
    pub fn used(&self) -> usize {
        self.part_of.iter().filter(|&&p| p != u16::MAX).count()
    }

    /// Where a chunk returns to; `None` for one that was never given out.
    #[must_use]
    pub fn home(&self, chunk: &Chunk) -> Option<Home> {
        let part = *self.part_of.get(chunk.index() as usize)?;
        self.parts.get(usize::from(part)).map(|p| p.1)
    }

    fn range(&self, home: Home) -> std::ops::Range<u32> {
        let Some(i) = self.parts.iter().position(|p| p.1 == home) else { return 0..0 };
        let end = self.parts.get(i + 1).map_or(self.used() as u32, |p| p.0);
        self.parts[i].0..end
    }

    /// Mints the chunks of a pool of single chunks.
    ///
    /// # Errors
    /// [`LayoutError::Taken`] when they were already given out.
    pub fn mint(&self, region: &Region, worker: WorkerId, pool: Pool) -> Result<Vec<Chunk>, LayoutError> {
        self.range(Home { worker, pool }).map(|i| region.mint(i).ok_or(LayoutError::Taken(worker))).collect()
    }

    /// Mints the runs of a worker.
    ///
    /// # Errors
    /// [`LayoutError::Taken`] when they were already given out.
    pub fn mint_runs(&self, region: &Region, worker: WorkerId) -> Result<RunPool, LayoutError> {
        let range = self.range(Home { worker, pool: Pool::Run });
        RunPool::new(region, range.start, (range.end - range.start) / limits::RUN_CHUNKS as u32)
            .ok_or(LayoutError::Taken(worker))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_has_one_home_and_runs_are_aligned() {
        let shares = [
            WorkerShare { receive: vec![(QueueId(0), 7), (QueueId(1), 3)], runs: 3, own: 5 },
            WorkerShare { receive: vec![], runs: 2, own: 1 },
        ];
        let layout = Layout::plan(&shares).unwrap();
        assert_eq!(layout.chunks() % 512, 0);
        assert_eq!(layout.used(), 7 + 3 + 6 + 5 + 4 + 1);
        let region = Region::heap(layout.chunks());
        let mut seen = 0;
        for (w, share) in shares.iter().enumerate() {
            let worker = WorkerId(w as u16);
            let mut pools: Vec<(Pool, u32)> =
                share.receive.iter().map(|&(q, n)| (Pool::Receive(q), n)).collect();
            pools.push((Pool::Own, share.own));
            for (pool, want) in pools {
                let chunks = layout.mint(&region, worker, pool).unwrap();
                assert_eq!(chunks.len(), want as usize);
                for chunk in chunks {
                    assert_eq!(layout.home(&chunk), Some(Home { worker, pool }));
                    seen += 1;
                    let _ = region.lend(chunk);
                }
            }
            let mut runs = layout.mint_runs(&region, worker).unwrap();
            assert_eq!(runs.available(), share.runs as usize);
            let run = runs.take().unwrap();
            assert_eq!(run.address() % limits::RUN as u64, 0);
            runs.put_run(run);
            seen += runs.chunks_home();
        }
        assert_eq!(seen, layout.used());
        assert!(matches!(layout.mint_runs(&region, WorkerId(0)), Err(LayoutError::Taken(_))));
    }

    #[test]
    fn an_impossible_layout_is_an_error() {
        let share =
            WorkerShare { receive: vec![(QueueId(0), u32::MAX), (QueueId(1), u32::MAX)], runs: 0, own: 0 };
        assert!(matches!(Layout::plan(&[share]), Err(LayoutError::TooLarge(_))));
    }
}
