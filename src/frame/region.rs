//! The memory that chunks lie in, and the ledger that says whether we or the kernel hold each of them.
//!
//! Not a pool: it hands out every token once and lets bytes be seen only through a token.
//! Invariant: a chunk is ours by the ledger exactly while a [`Chunk`] token for it exists. Debug builds check that at every
//! touch of its bytes.
#![allow(unsafe_code)]

use super::ledger::Ledger;
use super::{Buffer, Chunk, Run};
use crate::limits;
use std::alloc::{Layout as Memory, alloc_zeroed, dealloc, handle_alloc_error};
use std::any::Any;
use std::ptr::NonNull;

/// An address came back that we never lent: a defect of ours or of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("UMEM address {address:#x} was not lent to the kernel")]
pub struct Forged {
    /// The address in question.
    pub address: u64,
}

/// Frame memory of one UMEM (or ordinary memory in tests), shared by all workers.
pub struct Region {
    base: NonNull<u8>,
    ledger: Ledger,
    /// Keeps the mapping alive as long as the region.
    _keeper: Box<dyn Any + Send + Sync>,
}

// SAFETY: the memory is reached only through `Chunk` and `Run` tokens, of which there is at most one for each
// chunk (kept by the ledger), so that no two threads can touch the same bytes.
unsafe impl Send for Region {}
// SAFETY: as above; all methods take tokens by reference, and a shared token gives shared bytes only.
unsafe impl Sync for Region {}

struct HeapPages {
    base: NonNull<u8>,
    layout: Memory,
}
// SAFETY: plain memory, freed once, by whoever drops it.
unsafe impl Send for HeapPages {}
// SAFETY: no method reads or writes through it.
unsafe impl Sync for HeapPages {}
impl Drop for HeapPages {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `Region::heap`, and freed only here.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

impl Region {
    /// A region over memory that `keeper` keeps mapped.
    ///
    /// # Safety
    /// `base` is page aligned and valid for reads and writes of `chunks * limits::CHUNK` bytes as long as
    /// `keeper` lives; nobody else (but the kernel, for addresses lent to it) touches those bytes.
    #[must_use]
    pub unsafe fn new(base: NonNull<u8>, chunks: u32, keeper: Box<dyn Any + Send + Sync>) -> Self {
        Self { base, ledger: Ledger::new(chunks), _keeper: keeper }
    }

    /// A region in ordinary memory, for tests and simulation.
    #[must_use]
    pub fn heap(chunks: u32) -> Self {
        let bytes = (chunks.max(1) as usize) * limits::CHUNK;
        let Ok(layout) = Memory::from_size_align(bytes, limits::CHUNK) else {
            handle_alloc_error(Memory::new::<u8>())
        };
        // SAFETY: the layout has a size of at least one chunk.
        let Some(base) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        // SAFETY: freshly allocated with that size and alignment, and owned by the keeper alone.
        unsafe { Self::new(base, chunks, Box::new(HeapPages { base, layout })) }
    }

    /// Number of chunks.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        // The ledger was made from a u32 count.
        u32::try_from(self.ledger.len()).unwrap_or(u32::MAX)
    }

    /// First byte, for registering the memory with the kernel.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes of the whole region.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ledger.len() * limits::CHUNK
    }

    /// Whether the region has no chunk.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ledger.len() == 0
    }

    /// The token of a chunk, which is given out once; `None` when it was already, or is out of range.
    pub fn mint(&self, index: u32) -> Option<Chunk> {
        self.ledger.mint(index).then(|| Chunk(index))
    }

    /// Gives a chunk to the kernel. The address comes back through [`Region::adopt`].
    #[must_use]
    pub fn lend(&self, chunk: Chunk) -> u64 {
        let address = chunk.address();
        let lent = self.ledger.lend(chunk.forget());
        debug_assert!(lent, "the chunk at {address:#x} was given away twice, or is one of another region");
        address
    }

    /// Takes a chunk back from the kernel, by any address inside it.
    ///
    /// # Errors
    /// [`Forged`] when the address is outside the region or was not lent.
    pub fn adopt(&self, address: u64) -> Result<Chunk, Forged> {
        let forged = Forged { address };
        let index = u32::try_from(address / limits::CHUNK as u64).map_err(|_| forged)?;
        self.ledger.adopt(index).then(|| Chunk(index)).ok_or(forged)
    }

    fn span(&self, index: u32, chunks: usize, offset: usize, len: usize) -> (NonNull<u8>, usize) {
        debug_assert!(
            (index..)
                .take(chunks)
                .all(|index| self.ledger.is_owned(index) || index as usize >= self.ledger.len()),
            "a token for chunk {index}, which the kernel has"
        );
        // A token of another region could name a chunk that is not here: none of its bytes are.
        let start = (index as usize * limits::CHUNK).min(self.len());
        let room = (chunks * limits::CHUNK).min(self.len() - start);
        // A bad range is cut, not followed: lengths from a descriptor are never trusted to be in bounds.
        let offset = offset.min(room);
        let len = len.min(room - offset);
        // SAFETY: `start + room` was cut to the length of the region, and `offset + len` to `room`.
        (unsafe { self.base.add(start + offset) }, len)
    }

    /// Bytes of a chunk; cut at its end.
    #[must_use]
    pub fn bytes<'a>(&'a self, chunk: &'a Chunk, offset: usize, len: usize) -> &'a [u8] {
        let (at, len) = self.span(chunk.index(), 1, offset, len);
        // SAFETY: in bounds (`span`); the token borrowed for 'a is the only one of this chunk, so nobody writes.
        unsafe { std::slice::from_raw_parts(at.as_ptr(), len) }
    }

    /// Bytes of a chunk, to write; cut at its end.
    #[must_use]
    pub fn bytes_mut<'a>(&'a self, chunk: &'a mut Chunk, offset: usize, len: usize) -> &'a mut [u8] {
        let (at, len) = self.span(chunk.index(), 1, offset, len);
        // SAFETY: in bounds (`span`); the token is borrowed mutably for 'a, and it is the only one of this chunk.
        unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), len) }
    }

    /// Bytes of a run; cut at its end.
    #[must_use]
    pub fn run_bytes<'a>(&'a self, run: &'a Run, offset: usize, len: usize) -> &'a [u8] {
        let (at, len) = self.span(run.0[0].index(), limits::RUN_CHUNKS, offset, len);
        // SAFETY: a run's chunks are adjacent (kept by `Run`'s constructors), otherwise as `bytes`.
        unsafe { std::slice::from_raw_parts(at.as_ptr(), len) }
    }

    /// Bytes of a run, to write; cut at its end.
    #[must_use]
    pub fn run_bytes_mut<'a>(&'a self, run: &'a mut Run, offset: usize, len: usize) -> &'a mut [u8] {
        let (at, len) = self.span(run.0[0].index(), limits::RUN_CHUNKS, offset, len);
        // SAFETY: as `run_bytes`, and the token is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), len) }
    }

    /// Bytes of a buffer, to write (memory disks do what a real one does by DMA); cut at its end.
    #[must_use]
    pub fn buffer_mut<'a>(&'a self, buffer: &'a mut Buffer, offset: usize, len: usize) -> &'a mut [u8] {
        match buffer {
            Buffer::None => &mut [],
            Buffer::Chunk(chunk) => self.bytes_mut(chunk, offset, len),
            Buffer::Run(run) => self.run_bytes_mut(run, offset, len),
        }
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region").field("base", &self.base).field("chunks", &self.ledger.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_minted_once_and_adopted_only_after_it_was_lent() {
        let region = Region::heap(2);
        let mut chunk = region.mint(1).unwrap();
        assert!(region.mint(1).is_none());
        assert!(region.mint(2).is_none());
        assert_eq!(region.adopt(4096), Err(Forged { address: 4096 }));
        region.bytes_mut(&mut chunk, 10, 3).copy_from_slice(b"abc");
        let address = region.lend(chunk);
        assert_eq!(address, 4096);
        let chunk = region.adopt(address + 476).unwrap();
        assert_eq!(region.bytes(&chunk, 10, 3), b"abc");
        assert!(region.adopt(address).is_err());
        assert!(region.adopt(1 << 60).is_err());
        let _ = region.lend(chunk);
    }

    #[test]
    fn a_token_of_another_region_reaches_nothing() {
        let (large, small) = (Region::heap(9), Region::heap(1));
        let mut chunk = large.mint(8).unwrap();
        assert_eq!(small.bytes(&chunk, 0, 4096).len(), 0);
        assert_eq!(small.bytes_mut(&mut chunk, 10, 4096).len(), 0);
        let _ = large.lend(chunk);
    }

    #[test]
    fn bytes_never_reach_past_the_chunk() {
        let region = Region::heap(1);
        let chunk = region.mint(0).unwrap();
        assert_eq!(region.bytes(&chunk, 4090, 100).len(), 6);
        assert_eq!(region.bytes(&chunk, 9000, 100).len(), 0);
        let _ = region.lend(chunk);
    }
}
