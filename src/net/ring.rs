//! The producer of an AF_XDP TX ring, over the ring's memory mapped a second time.
//!
//! Not a socket: who wakes the kernel, and what becomes of the chunks, is `xsk`'s matter. It exists because xsk-rs
//! can send a chunk only from the offset it was received at, and a frame of several pieces needs others.
//! Invariant: this is the only producer of the ring (xsk-rs's own is never used), and the mapping goes before the
//! socket is closed, for a mapped ring keeps a closed socket bound.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// Where the ring lies; dropped with it.
#[derive(Debug)]
enum Memory {
    Mapped {
        base: NonNull<libc::c_void>,
        len: usize,
    },
    #[cfg(test)]
    Heap(#[expect(dead_code, reason = "held, not read")] std::sync::Arc<tests::HeapRing>),
}

impl Drop for Memory {
    fn drop(&mut self) {
        match self {
            Self::Mapped { base, len } => {
                // SAFETY: mapped with this length in `TxRing::map`, and unmapped only here; the ring's pointers
                // go with it.
                unsafe { libc::munmap(base.as_ptr(), *len) };
            }
            #[cfg(test)]
            Self::Heap(_) => {}
        }
    }
}

/// The producing end of a TX ring.
#[derive(Debug)]
pub(super) struct TxRing {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<libc::xdp_desc>,
    size: u32,
    /// Next entry to write.
    next: u32,
    /// What the kernel knows of `next`.
    published: u32,
    /// What we know of the kernel's consumer.
    consumed: u32,
    _memory: Memory,
}

// SAFETY: the ring's memory is shared with the kernel only (with xsk-rs's mapping untouched), and all access to it
// is through `&mut self` or atomics.
unsafe impl Send for TxRing {}

impl TxRing {
    /// Maps the TX ring of a socket that has one of `size` entries.
    pub(super) fn map(socket: BorrowedFd<'_>, size: u32) -> io::Result<Self> {
        // SAFETY: plain data for which zero is a value.
        let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
        let mut len = size_of::<libc::xdp_mmap_offsets>() as libc::socklen_t;
        // SAFETY: `offsets` is as long as `len` says.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_XDP,
                libc::XDP_MMAP_OFFSETS,
                (&raw mut offsets).cast(),
                &raw mut len,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        // Before Linux 5.4 the offsets lack the flags and are shorter.
        if len as usize != size_of::<libc::xdp_mmap_offsets>() {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        let tx = offsets.tx;
        let bytes = tx.desc as usize + size as usize * size_of::<libc::xdp_desc>();
        // SAFETY: a new mapping, where the kernel likes.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                socket.as_raw_fd(),
                libc::XDP_PGOFF_TX_RING,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let Some(base) = NonNull::new(base) else { return Err(io::Error::from_raw_os_error(libc::EFAULT)) };
        let memory = Memory::Mapped { base, len: bytes };
        // SAFETY: the kernel's own offsets into a ring that it mapped for `size` entries (it refuses a longer
        // mapping than its ring): aligned, and inside as long as `memory` lives.
        Ok(unsafe {
            Self::over(
                base.byte_add(tx.producer as usize).cast(),
                base.byte_add(tx.consumer as usize).cast(),
                base.byte_add(tx.flags as usize).cast(),
                base.byte_add(tx.desc as usize).cast(),
                size,
                memory,
            )
        })
    }

    /// # Safety
    /// The pointers are valid, as aligned as their types, as long as `memory` lives, `entries` for `size` (a power
    /// of two) entries, and nobody else writes the producer or the entries.
    unsafe fn over(
        producer: NonNull<AtomicU32>,
        consumer: NonNull<AtomicU32>,
        flags: NonNull<AtomicU32>,
        entries: NonNull<libc::xdp_desc>,
        size: u32,
        memory: Memory,
    ) -> Self {
        debug_assert!(size.is_power_of_two());
        // SAFETY: valid by this function's contract.
        let (next, consumed) =
            unsafe { (producer.as_ref().load(Ordering::Relaxed), consumer.as_ref().load(Ordering::Acquire)) };
        Self { producer, consumer, flags, entries, size, next, published: next, consumed, _memory: memory }
    }

    fn consumer(&self) -> u32 {
        // SAFETY: valid as long as `memory` lives. Acquire: the kernel has read an entry before we write over it.
        unsafe { self.consumer.as_ref() }.load(Ordering::Acquire)
    }

    /// Whether `n` more entries fit.
    pub(super) fn has_room(&mut self, n: u32) -> bool {
        // All positions count on for ever and wrap around.
        if self.size.wrapping_sub(self.next.wrapping_sub(self.consumed)) < n {
            self.consumed = self.consumer();
        }
        self.size.wrapping_sub(self.next.wrapping_sub(self.consumed)) >= n
    }

    /// Writes one entry, which the kernel sees with [`TxRing::publish`]. The caller asked [`TxRing::has_room`].
    pub(super) fn push(&mut self, address: u64, len: u32, more: bool) {
        let options = if more { libc::XDP_PKT_CONTD } else { 0 };
        let at = (self.next & (self.size - 1)) as usize;
        debug_assert!(self.next.wrapping_sub(self.consumed) < self.size, "pushed into a full ring");
        // SAFETY: `at` is below `size`; the entry is ours, for the kernel has consumed what was there (`has_room`).
        unsafe { self.entries.add(at).write(libc::xdp_desc { addr: address, len, options }) };
        self.next = self.next.wrapping_add(1);
    }

    /// Lets the kernel see all entries written.
    pub(super) fn publish(&mut self) {
        if self.published != self.next {
            self.published = self.next;
            // SAFETY: valid as long as `memory` lives. Release: the entries are written before.
            unsafe { self.producer.as_ref() }.store(self.next, Ordering::Release);
        }
    }

    /// Entries that were published and the kernel has not taken.
    pub(super) fn pending(&mut self) -> u32 {
        self.consumed = self.consumer();
        self.published.wrapping_sub(self.consumed)
    }

    /// Whether the kernel wants to be woken (XDP_RING_NEED_WAKEUP).
    pub(super) fn needs_wakeup(&self) -> bool {
        // The driver sets the flag, then looks at the ring a last time; we publish, then look at the flag. Without
        // a full barrier on our side both may see the old value.
        fence(Ordering::SeqCst);
        // SAFETY: valid as long as `memory` lives.
        unsafe { self.flags.as_ref() }.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    /// A ring in plain memory; the test plays the kernel.
    #[derive(Debug)]
    pub(super) struct HeapRing {
        producer: AtomicU32,
        consumer: AtomicU32,
        flags: AtomicU32,
        /// As large and aligned as descriptors; atomics, for the ring writes them behind a shared reference.
        entries: Box<[[AtomicU64; 2]]>,
    }

    fn ring(size: u32, start: u32) -> (TxRing, Arc<HeapRing>) {
        let heap = Arc::new(HeapRing {
            producer: AtomicU32::new(start),
            consumer: AtomicU32::new(start),
            flags: AtomicU32::new(0),
            entries: (0..size).map(|_| [AtomicU64::new(0), AtomicU64::new(0)]).collect(),
        });
        // SAFETY: the heap ring lives as long as the memory that holds it; its entries are atomics.
        let ring = unsafe {
            TxRing::over(
                NonNull::from(&heap.producer),
                NonNull::from(&heap.consumer),
                NonNull::from(&heap.flags),
                NonNull::new(heap.entries.as_ptr().cast::<libc::xdp_desc>().cast_mut()).unwrap(),
                size,
                Memory::Heap(Arc::clone(&heap)),
            )
        };
        (ring, heap)
    }

    /// Takes all that is published, as the kernel would.
    fn consume(heap: &HeapRing) -> Vec<(u64, u32, u32)> {
        let mut taken = Vec::new();
        while heap.consumer.load(Ordering::Relaxed) != heap.producer.load(Ordering::Acquire) {
            let at = heap.consumer.fetch_add(1, Ordering::Release) as usize % heap.entries.len();
            let [address, rest] = &heap.entries[at];
            let rest = rest.load(Ordering::Relaxed).to_ne_bytes();
            let half = |i: usize| u32::from_ne_bytes(rest[i..i + 4].try_into().unwrap());
            taken.push((address.load(Ordering::Relaxed), half(0), half(4)));
        }
        taken
    }

    #[test]
    fn entries_appear_with_publish_and_in_order() {
        let (mut ring, heap) = ring(4, 0);
        assert!(ring.has_room(4) && !ring.has_room(5));
        ring.push(476, 36, true);
        ring.push(8192, 4096, false);
        assert_eq!(consume(&heap), []);
        assert_eq!(ring.pending(), 0);
        ring.publish();
        assert_eq!(ring.pending(), 2);
        assert_eq!(consume(&heap), [(476, 36, libc::XDP_PKT_CONTD), (8192, 4096, 0)]);
        assert_eq!(ring.pending(), 0);
    }

    #[test]
    fn a_full_ring_has_room_again_when_the_kernel_took_something() {
        for start in [0, 2, u32::MAX - 2, u32::MAX] {
            let (mut ring, heap) = ring(2, start);
            for round in 0..7u64 {
                assert!(ring.has_room(2), "start {start}, round {round}");
                ring.push(round, 1, false);
                assert!(ring.has_room(1) && !ring.has_room(2));
                ring.push(round + 100, 2, false);
                assert!(!ring.has_room(1));
                ring.publish();
                assert!(!ring.has_room(1));
                assert_eq!(ring.pending(), 2);
                assert_eq!(consume(&heap), [(round, 1, 0), (round + 100, 2, 0)]);
            }
        }
    }

    #[test]
    fn the_kernel_asks_to_be_woken() {
        let (ring, heap) = ring(2, 0);
        assert!(!ring.needs_wakeup());
        heap.flags.store(libc::XDP_RING_NEED_WAKEUP, Ordering::Relaxed);
        assert!(ring.needs_wakeup());
    }
}
