//! The producer of an AF_XDP TX ring, over the mapping of it that xsk-rs holds.
//!
//! Not a socket: who wakes the kernel, and what becomes of the chunks, is `xsk`'s matter. It exists because xsk-rs
//! can send a chunk only from the offset it was received at, and a frame of several pieces needs others.
//! xsk-rs does not tell where its mapping is, and a second one cannot be had everywhere: Linux 6.1 maps rings only
//! until the socket is bound (EBUSY), and no kernel duplicates such a mapping (mremap: EFAULT). So it is looked up
//! among the mappings of this process.
//! Invariant: this is the only producer of the ring (xsk-rs's own is kept here, and never used), and it holds what
//! keeps the ring mapped.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use xsk_rs::TxQueue;

/// Keeps the ring where it is.
#[derive(Debug)]
enum Memory {
    /// xsk-rs's own handle: its mapping lasts at least as long.
    Lent(#[expect(dead_code, reason = "held, not read")] TxQueue),
    #[cfg(test)]
    Heap(#[expect(dead_code, reason = "held, not read")] std::sync::Arc<tests::HeapRing>),
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

// SAFETY: the ring's memory is shared with the kernel only (xsk-rs's producer of it, which is Send, is here and never
// used), and all access to it is through `&mut self` or atomics.
unsafe impl Send for TxRing {}

impl TxRing {
    /// Takes over the TX ring of `socket`, which has one of `size` entries and was made with `tx`.
    ///
    /// # Errors
    /// What the kernel says; `NotFound` when the ring is not among the mappings of this process.
    pub(super) fn over_socket(socket: BorrowedFd<'_>, size: u32, tx: TxQueue) -> io::Result<Self> {
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
        let offsets = offsets.tx;
        let bytes = offsets.desc + u64::from(size) * size_of::<libc::xdp_desc>() as u64;
        let stat = rustix::fs::fstat(socket)?;
        let device = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        let maps = std::fs::read("/proc/self/maps")
            .map_err(|e| io::Error::new(e.kind(), format!("/proc/self/maps: {e}")))?;
        // Paths of mapped files need not be UTF-8.
        let base = String::from_utf8_lossy(&maps)
            .lines()
            .find_map(|line| mapped_at(line, device, stat.st_ino, libc::XDP_PGOFF_TX_RING as u64, bytes))
            .and_then(|base| NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(base)))
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "/proc/self/maps does not show it"))?;
        // SAFETY: the kernel's own offsets into a ring of this socket, mapped by xsk-rs, writable and long enough for
        // `size` entries (`mapped_at`): aligned, and inside as long as `tx` lives, which keeps the mapping. Nobody
        // else produces, for `tx` is ours.
        Ok(unsafe {
            Self::over(
                base.byte_add(offsets.producer as usize).cast(),
                base.byte_add(offsets.consumer as usize).cast(),
                base.byte_add(offsets.flags as usize).cast(),
                base.byte_add(offsets.desc as usize).cast(),
                size,
                Memory::Lent(tx),
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

/// Start of the mapping that a line of /proc/self/maps tells of, if it is one of file `inode` of `device` (major,
/// minor) from `offset` on, shared, writable, and at least `bytes` long.
fn mapped_at(line: &str, device: (u32, u32), inode: u64, offset: u64, bytes: u64) -> Option<usize> {
    // start-end rwxs offset major:minor inode path; all but the inode in hexadecimal (proc_pid_maps(5)).
    let mut fields = line.split_ascii_whitespace();
    let mut field = || fields.next();
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = field()?.split_once('-')?;
    let (start, end) = (hex(start)?, hex(end)?);
    let access = field()?;
    let from = hex(field()?)?;
    let (major, minor) = field()?.split_once(':')?;
    let of = (hex(major)?, hex(minor)?);
    let is_it = of == (device.0.into(), device.1.into())
        && field()?.parse() == Ok(inode)
        && from == offset
        && access.starts_with("rw")
        && access.ends_with('s')
        && end.checked_sub(start)? >= bytes;
    if is_it { usize::try_from(start).ok() } else { None }
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
    fn a_ring_is_found_among_the_mappings() {
        let find = |line: &str| mapped_at(line, (0, 9), 715_078, 0x8000_0000, 4096);
        let right =
            "7f1d28464000-7f1d28465000 rw-s 80000000 00:09 715078                     socket:[715078]";
        assert_eq!(find(right), Some(0x7f1d_2846_4000));
        assert_eq!(mapped_at(right, (0, 9), 715_078, 0x8000_0000, 4097), None);
        for wrong in [
            // the RX and COMPLETION rings of the same socket
            "7f1d28464000-7f1d28465000 rw-s 00000000 00:09 715078                     socket:[715078]",
            "7f1d28464000-7f1d28465000 rw-s 180000000 00:09 715078                    socket:[715078]",
            // another socket; a file of that inode
            "7f1d28464000-7f1d28465000 rw-s 80000000 00:09 71507                      socket:[71507]",
            "7f1d28464000-7f1d28465000 rw-s 80000000 fe:09 715078                     /srv/socket:[715078]",
            "7f1d28464000-7f1d28465000 rw-s 80000000 00:10 715078                     socket:[715078]",
            // not to be written, private
            "7f1d28464000-7f1d28465000 r--s 80000000 00:09 715078                     socket:[715078]",
            "7f1d28464000-7f1d28465000 rw-p 80000000 00:09 715078                     socket:[715078]",
            "7ffd5a5c8000-7ffd5a5e9000 rw-p 00000000 00:00 0                          [stack]",
            "7f1d28464000-7f1d28465000 rw-s 80000000",
            "",
        ] {
            assert_eq!(find(wrong), None, "{wrong}");
        }
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
