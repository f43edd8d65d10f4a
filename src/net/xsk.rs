//! AF_XDP sockets: the UMEM that all queues of a rung share, and one socket with its four rings for each queue.
//!
//! Not the XDP program, which decides what arrives here (`steer`), nor the choice of flags (`ladder`).
//! Invariant: an address is in a ring only while its chunk is lent; chunks go in by token and come out by token.
//! xsk-rs keeps UMEM, sockets and the RX, FILL and COMPLETION rings; its types do not leave this module.
#![allow(unsafe_code)]

use super::assemble::{Assembler, Step};
use super::ladder::Rung;
use super::nic::Facts;
use super::ring::TxRing;
use super::{Flushed, Lent, Queue, sys};
use crate::frame::{Chunk, Frame, Outgoing, QueueId, Region};
use crate::limits;
use std::ffi::CString;
use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket};

/// How long a queue that the kernel has not let go yet is waited for.
const BUSY: Duration = Duration::from_millis(1000);
/// Entries moved between a ring and the tokens at once.
const BATCH: usize = 64;
/// Descriptors that one call sends in copy mode; the kernel's own default is 32.
const TRANSMIT_BUDGET: u32 = 512;

/// Entries of the rings of each queue; powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rings {
    /// FILL.
    pub fill: u32,
    /// RX.
    pub rx: u32,
    /// TX.
    pub tx: u32,
    /// COMPLETION.
    pub completion: u32,
    /// Bytes kept free before a received frame, beside those the kernel keeps: [`limits::UMEM_HEADROOM`], or
    /// [`limits::TAGGED_HEADROOM`].
    pub headroom: usize,
}

impl Rings {
    /// The smallest that can send a frame of several pieces: for probing and tests.
    pub const TINY: Self = Self { fill: 4, rx: 4, tx: 4, completion: 4, headroom: limits::UMEM_HEADROOM };
}

impl Default for Rings {
    fn default() -> Self {
        Self {
            fill: limits::FILL_RING,
            rx: limits::RX_RING,
            tx: limits::TX_RING,
            completion: limits::TX_RING,
            headroom: limits::UMEM_HEADROOM,
        }
    }
}

/// Why there is no UMEM or no socket.
#[derive(Debug, thiserror::Error)]
pub enum XskError {
    /// A ring size that is no power of two.
    #[error("a ring of {0} entries: AF_XDP wants a power of two")]
    RingSize(u32),
    /// A UMEM without a chunk.
    #[error("a UMEM needs at least one chunk")]
    NoChunks,
    /// No memory for the UMEM.
    #[error("{} MiB for the UMEM cannot be had; lower the number of queues or frames, or add memory", .bytes >> 20)]
    Memory {
        /// Its size.
        bytes: u64,
        /// Why not.
        source: io::Error,
    },
    /// The memory cannot be locked.
    #[error(
        "{} MiB of frame memory cannot be locked; raise LimitMEMLOCK (ulimit -l), or give the process CAP_IPC_LOCK",
        .bytes.div_ceil(1 << 20)
    )]
    MemoryLock {
        /// Its size.
        bytes: u64,
    },
    /// The kernel did not let us.
    #[error(
        "not permitted to open an AF_XDP socket; run as root, or with the capabilities CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF"
    )]
    NotPermitted,
    /// The kernel knows no AF_XDP.
    #[error("this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)")]
    NoKernel,
    /// Anything else about the UMEM.
    #[error("the kernel does not accept the UMEM")]
    Umem {
        /// Why not.
        source: io::Error,
    },
    /// A name that no interface has.
    #[error("{interface:?}: no such interface")]
    NoInterface {
        /// The name.
        interface: String,
    },
    /// Another socket is bound to the queue.
    #[error("{interface}: queue {queue} is held by another AF_XDP socket; stop its owner (another xshelf?)")]
    Busy {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// The interface is down.
    #[error("{interface}: the interface is down; switch it on with `ip link set dev {interface} up`")]
    Down {
        /// The interface.
        interface: String,
    },
    /// The driver or the kernel cannot do that, or there is no such queue.
    #[error("{interface}: queue {queue} (of {queues}) cannot do {rung}")]
    Unsupported {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// Its queues.
        queues: u32,
        /// What was asked for.
        rung: Rung,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel chose another mode than it was asked for.
    #[error("{interface}: queue {queue} was bound, but not as {rung}")]
    Downgraded {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// What was asked for.
        rung: Rung,
    },
    /// A UMEM takes its flags from its first socket.
    #[error("{interface}: {rung} cannot share a UMEM that is used for {other}; make another one")]
    Mixed {
        /// The interface.
        interface: String,
        /// What was asked for.
        rung: Rung,
        /// What the UMEM is used for.
        other: Rung,
    },
    /// Two sockets of ours for one queue.
    #[error("{interface}: queue {queue} has a socket on this UMEM already")]
    Twice {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// Anything else about a socket.
    #[error("{interface}: queue {queue}: cannot {what}")]
    Socket {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// What failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl XskError {
    /// The interface it is about, if it is about one.
    #[must_use]
    pub fn interface(&self) -> Option<&str> {
        match self {
            Self::NoInterface { interface }
            | Self::Busy { interface, .. }
            | Self::Down { interface }
            | Self::Unsupported { interface, .. }
            | Self::Downgraded { interface, .. }
            | Self::Mixed { interface, .. }
            | Self::Twice { interface, .. }
            | Self::Socket { interface, .. } => Some(interface),
            Self::RingSize(_)
            | Self::NoChunks
            | Self::Memory { .. }
            | Self::MemoryLock { .. }
            | Self::NotPermitted
            | Self::NoKernel
            | Self::Umem { .. } => None,
        }
    }
}

/// What pages the UMEM is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Huge pages from the kernel's reserve.
    Huge,
    /// Huge pages that the kernel made of its own accord, at least half of it.
    Transparent,
    /// Plain pages: more TLB misses. `nic-setup` reserves huge pages.
    Plain,
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Huge => "huge pages",
            Self::Transparent => "transparent huge pages",
            Self::Plain => "plain pages",
        })
    }
}

/// The frame memory of all queues of one rung (and NUMA node), registered with the kernel.
pub struct Umem {
    umem: xsk_rs::Umem,
    /// The descriptor that names each chunk; xsk-rs has no way to make one.
    descriptors: Arc<[FrameDesc]>,
    region: Arc<Region>,
    rings: Rings,
    pages: Pages,
    /// Rung of the first socket, whose flags hold for all.
    rung: Mutex<Option<Rung>>,
    /// The first socket, by the descriptor that libxdp keeps with the memory; −1 before there is one.
    first: AtomicI32,
}

impl fmt::Debug for Umem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Umem")
            .field("region", &self.region)
            .field("pages", &self.pages)
            .finish_non_exhaustive()
    }
}

fn errno(error: &dyn std::error::Error) -> io::Error {
    // xsk-rs says a fixed phrase and keeps the errno behind it.
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(source) => match source.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(source.kind(), source.to_string()),
        },
        None => io::Error::other(error.to_string()),
    }
}

fn ring_size(entries: u32) -> Result<QueueSize, XskError> {
    QueueSize::new(entries).map_err(|_| XskError::RingSize(entries))
}

impl Umem {
    /// Memory for `chunks` chunks, of huge pages if enough of them are free; queues bound to it get such rings.
    ///
    /// # Errors
    /// [`XskError`]
    pub fn new(chunks: u32, rings: Rings) -> Result<Self, XskError> {
        let count = NonZeroU32::new(chunks).ok_or(XskError::NoChunks)?;
        let bytes = u64::from(chunks) * limits::CHUNK as u64;
        let invalid = |e: &dyn std::error::Error| XskError::Umem { source: io::Error::other(e.to_string()) };
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(limits::CHUNK as u32).map_err(|e| invalid(&e))?)
            .frame_headroom(rings.headroom as u32)
            .fill_queue_size(ring_size(rings.fill)?)
            .comp_queue_size(ring_size(rings.completion)?)
            .build()
            .map_err(|e| invalid(&e))?;
        for size in [rings.rx, rings.tx] {
            ring_size(size)?;
        }
        // A part of a huge page could not be unmapped again.
        let huge = huge_page_bytes().is_some_and(|page| bytes % page == 0);
        let made = match huge.then(|| xsk_rs::Umem::new(config, count, true)) {
            Some(Ok(made)) => Ok(made),
            _ => xsk_rs::Umem::new(config, count, false),
        };
        let (umem, descriptors) = made.map_err(|e| {
            let source = errno(&e);
            match source.raw_os_error() {
                Some(libc::ENOBUFS) => XskError::MemoryLock { bytes },
                Some(libc::ENOMEM) => XskError::Memory { bytes, source },
                Some(libc::EPERM | libc::EACCES) => XskError::NotPermitted,
                Some(libc::EAFNOSUPPORT) => XskError::NoKernel,
                _ => XskError::Umem { source },
            }
        })?;
        let base = base(&umem, &descriptors)?;
        // SAFETY: xsk-rs mapped `chunks` chunks, page aligned, and keeps them mapped as long as a handle of the
        // UMEM lives, which the region keeps; xsk-rs reads and writes frames only when asked to, and nobody does.
        let region = unsafe { Region::new(base, chunks, Box::new(umem.clone())) };
        let pages = pages_at(base.as_ptr().addr(), bytes);
        Ok(Self {
            umem,
            descriptors: descriptors.into(),
            region: Arc::new(region),
            rings,
            pages,
            rung: Mutex::new(None),
            first: AtomicI32::new(-1),
        })
    }

    /// The memory, by chunks.
    #[must_use]
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Closes the first socket, which the memory otherwise keeps open, and its queue bound, for as long as anybody has a part
    /// of it; for ever, where a device that hangs may still write there. Sockets of another [`Umem`] can then have the queue.
    ///
    /// To be called when the queues of the memory have been dropped: one that is left finds no socket any more.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn close_first_socket(&self) -> io::Result<()> {
        let first = self.first.load(Ordering::Acquire);
        if first < 0 {
            return Ok(());
        }
        let nothing = rustix::fs::open(
            "/dev/null",
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        // SAFETY: the number is that of the descriptor which libxdp made for this UMEM and closes with it, so that nobody
        // else has it as long as `self` lives; it stays libxdp's, for it is not closed here.
        let mut place = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(first) });
        rustix::io::dup3(&nothing, &mut place, rustix::io::DupFlags::CLOEXEC)?;
        Ok(())
    }

    /// What the memory is made of.
    #[must_use]
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// Binds a socket to a receive queue, with the flags of `rung` and no others. Waits up to a second for a queue
    /// whose last socket the kernel has not let go yet.
    ///
    /// The XDP program must be attached in the rung's mode. FILL is empty on return: stock it before the socket
    /// is inserted into the program.
    ///
    /// # Errors
    /// [`XskError`]
    pub fn bind(&self, id: QueueId, facts: &Facts, queue: u32, rung: Rung) -> Result<XskQueue, XskError> {
        let interface = facts.name.clone();
        // Held all the time: the first socket decides for those that come at the same time.
        let mut first = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = *first {
            if !rung.shares_umem_with(other) {
                return Err(XskError::Mixed { interface, rung, other });
            }
        }
        let mut flags = BindFlags::XDP_USE_NEED_WAKEUP;
        flags |= if rung.zero_copy() { BindFlags::XDP_ZEROCOPY } else { BindFlags::XDP_COPY };
        if rung.segments() {
            flags |= BindFlags::XDP_USE_SG;
        }
        let config = SocketConfig::builder()
            .rx_queue_size(ring_size(self.rings.rx)?)
            .tx_queue_size(ring_size(self.rings.tx)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(flags)
            .build();
        let name = match CString::new(interface.as_str()) {
            Ok(name) => Interface::new(name),
            Err(_) => return Err(XskError::NoInterface { interface }),
        };
        let deadline = Instant::now() + BUSY;
        let mut pause = Duration::from_millis(2);
        let (tx, rx, fill_and_completion) = loop {
            // SAFETY: the program load is inhibited, which is what the contract asks for where a queue is bound
            // twice.
            match unsafe { Socket::new(config, &self.umem, &name, queue) } {
                Ok(made) => break made,
                Err(e) => {
                    let source = errno(&e);
                    if source.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline {
                        std::thread::sleep(pause);
                        pause = (pause * 2).min(Duration::from_millis(100));
                        continue;
                    }
                    return Err(bind_error(interface, queue, facts.queues, rung, source));
                }
            }
        };
        // None: the queue has a socket on this UMEM, which owns its FILL and COMPLETION.
        let Some((fill, completion)) = fill_and_completion else {
            return Err(XskError::Twice { interface, queue });
        };
        let failed = |what| {
            let interface = interface.clone();
            move |source| XskError::Socket { interface, queue, what, source }
        };
        let fd = socket_fd(&rx);
        if sys::is_zero_copy(fd).map_err(failed("read the mode of the socket"))? != rung.zero_copy() {
            return Err(XskError::Downgraded { interface, queue, rung });
        }
        let ring = TxRing::over_socket(fd, self.rings.tx, tx).map_err(failed("find the TX ring"))?;
        // Kernels before 6.17 do not know it, and the kernel takes no more than the ring has; 32 works as well.
        let _ = sys::set_transmit_budget(fd, TRANSMIT_BUDGET.min(self.rings.tx));
        sys::set_send_buffer(fd, self.rings.tx as usize * limits::CHUNK);
        if first.replace(rung).is_none() {
            self.first.store(fd.as_raw_fd(), Ordering::Release);
        }
        drop(first);
        Ok(XskQueue {
            ring,
            id,
            region: Arc::clone(&self.region),
            descriptors: Arc::clone(&self.descriptors),
            assembler: Assembler::new(id),
            scratch: Box::new([FrameDesc::default(); BATCH]),
            given: 0,
            transmitting: 0,
            forged: 0,
            rx,
            fill,
            completion,
        })
    }
}

fn bind_error(interface: String, queue: u32, queues: u32, rung: Rung, source: io::Error) -> XskError {
    match source.raw_os_error() {
        Some(libc::EBUSY) => XskError::Busy { interface, queue },
        Some(libc::EPERM | libc::EACCES) => XskError::NotPermitted,
        Some(libc::ENETDOWN) => XskError::Down { interface },
        Some(libc::ENODEV) => XskError::NoInterface { interface },
        // Flags that this kernel or driver does not know, an MTU that it cannot do, or a queue that is not there.
        Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE | libc::ENOSPC | libc::EPROTONOSUPPORT) => {
            XskError::Unsupported { interface, queue, queues, rung, source }
        }
        _ => XskError::Socket { interface, queue, what: "bind the socket", source },
    }
}

/// First byte of a UMEM, which xsk-rs does not tell.
fn base(umem: &xsk_rs::Umem, descriptors: &[FrameDesc]) -> Result<NonNull<u8>, XskError> {
    let unknown = || XskError::Umem { source: io::Error::other("its address is unknown") };
    let first = descriptors.first().ok_or_else(unknown)?;
    // SAFETY: a descriptor of this UMEM; it has no data, so that nothing is read.
    let at = unsafe { umem.data(first) }.contents().as_ptr().expose_provenance();
    // The data of a descriptor lies at its address in the region.
    let base = at.checked_sub(first.addr()).ok_or_else(unknown)?;
    NonNull::new(std::ptr::with_exposed_provenance_mut(base)).ok_or_else(unknown)
}

fn kilobytes(line: &str, key: &str) -> Option<u64> {
    line.strip_prefix(key)?.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Bytes of one page of the kernel's default reserve.
fn huge_page_bytes() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    meminfo.lines().find_map(|line| kilobytes(line, "Hugepagesize:")).map(|kb| kb << 10).filter(|&b| b > 0)
}

/// What the kernel made the memory at `start` of.
fn pages_at(start: usize, bytes: u64) -> Pages {
    std::fs::read_to_string("/proc/self/smaps")
        .map_or(Pages::Plain, |smaps| pages_in(&smaps, start as u64, bytes))
}

fn pages_in(smaps: &str, start: u64, bytes: u64) -> Pages {
    let mut inside = false;
    for line in smaps.lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        if let Some((Ok(from), Ok(to))) =
            range.map(|(from, to)| (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16)))
        {
            inside = (from..to).contains(&start);
        } else if inside && kilobytes(line, "KernelPageSize:").is_some_and(|kb| kb > 4) {
            return Pages::Huge;
        } else if inside
            && kilobytes(line, "AnonHugePages:").is_some_and(|kb| kb << 10 >= bytes / 2 && kb > 0)
        {
            return Pages::Transparent;
        }
    }
    Pages::Plain
}

/// What the kernel counted of one socket since it was made (`struct xdp_statistics`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Frames dropped for other reasons than the next two; a frame too long for the socket is one.
    pub rx_dropped: u64,
    /// Entries of FILL that named no chunk.
    pub rx_invalid: u64,
    /// Entries of TX that named no memory of the UMEM.
    pub tx_invalid: u64,
    /// Frames dropped because RX was full.
    pub rx_ring_full: u64,
    /// Times the kernel found FILL empty.
    pub fill_empty: u64,
    /// Times the kernel found TX empty.
    pub tx_empty: u64,
}

/// What the kernel counted of an AF_XDP socket.
///
/// # Errors
/// What the kernel says.
pub fn statistics(socket: BorrowedFd<'_>) -> io::Result<Statistics> {
    sys::statistics(socket).map(|s| Statistics {
        rx_dropped: s.rx_dropped,
        rx_invalid: s.rx_invalid_descs,
        tx_invalid: s.tx_invalid_descs,
        rx_ring_full: s.rx_ring_full,
        fill_empty: s.rx_fill_ring_empty_descs,
        tx_empty: s.tx_ring_empty_descs,
    })
}

/// Whether an AF_XDP socket belongs to an interface: not any more once that was removed, whatever comes to have its name or
/// number.
#[must_use]
pub fn is_bound(socket: BorrowedFd<'_>) -> bool {
    // It wakes the driver at most, which looks at FILL then.
    !matches!(sys::wake_receive(socket), Err(e) if e.raw_os_error() == Some(libc::ENXIO))
}

fn socket_fd(rx: &RxQueue) -> BorrowedFd<'_> {
    // SAFETY: the queue keeps its socket open, and the borrow keeps the queue.
    unsafe { BorrowedFd::borrow_raw(rx.fd().as_raw_fd()) }
}

/// One receive queue of a port, by its AF_XDP socket. The descriptor to poll is [`AsFd`].
///
/// Dropping it closes the socket; the kernel drops what is in its rings. Two things keep the queue bound all the
/// same: whatever else holds the descriptor (a poll in an io_uring, a duplicate), and, for the first socket of a
/// UMEM, the UMEM itself with all that holds its [`Region`], for libxdp closes that one last. To bind again, let go
/// of all of it and make a new UMEM.
pub struct XskQueue {
    ring: TxRing,
    id: QueueId,
    region: Arc<Region>,
    descriptors: Arc<[FrameDesc]>,
    assembler: Assembler,
    scratch: Box<[FrameDesc; BATCH]>,
    /// Chunks ever given to FILL.
    given: u64,
    transmitting: usize,
    forged: u64,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
}

impl fmt::Debug for XskQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XskQueue").field("id", &self.id).field("lent", &self.lent()).finish_non_exhaustive()
    }
}

impl AsFd for XskQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        socket_fd(&self.rx)
    }
}

impl XskQueue {
    /// Addresses from the kernel that it was never lent. Anything but 0 is a defect, of a driver or of ours.
    #[must_use]
    pub fn forged(&self) -> u64 {
        self.forged + self.assembler.forged()
    }

    /// What the kernel counted.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn statistics(&self) -> io::Result<Statistics> {
        statistics(self.as_fd())
    }
}

impl Queue for XskQueue {
    fn id(&self) -> QueueId {
        self.id
    }

    fn receive(&mut self, most: usize, sink: &mut dyn FnMut(Frame), torn: &mut dyn FnMut(Chunk)) -> usize {
        let mut frames = 0;
        while frames < most {
            // A descriptor ends at most one frame, so that never more are taken than asked for.
            let batch = (most - frames).min(BATCH);
            // SAFETY: descriptors of this socket's own UMEM; tokens, not descriptors, are what gives access.
            let taken = unsafe { self.rx.consume(&mut self.scratch[..batch]) };
            for descriptor in &self.scratch[..taken] {
                let len = u32::try_from(descriptor.lengths().data()).unwrap_or(u32::MAX);
                let descriptor = (descriptor.addr() as u64, len, descriptor.has_more_frames());
                match self.assembler.take(&self.region, descriptor, torn) {
                    Step::More => {}
                    Step::Frame(frame) => {
                        frames += 1;
                        sink(frame);
                    }
                    Step::Torn => frames += 1,
                }
            }
            if taken < batch {
                break;
            }
        }
        frames
    }

    fn refill(&mut self, free: &mut Vec<Chunk>) -> usize {
        let want = u32::try_from(free.len()).unwrap_or(u32::MAX);
        let mut room = (self.fill.nb_free(want) as usize).min(free.len());
        let mut moved = 0;
        while room > 0 {
            let mut batch = 0;
            while batch < room.min(BATCH) {
                let Some(chunk) = free.pop() else { break };
                match self.descriptors.get(chunk.index() as usize) {
                    Some(descriptor) => {
                        self.scratch[batch] = *descriptor;
                        let _ = self.region.lend(chunk);
                        batch += 1;
                    }
                    // A token of another region; its own drop reports it.
                    None => drop(chunk),
                }
            }
            // SAFETY: each descriptor names a chunk of this UMEM whose token was just given up, so that nobody
            // else uses it.
            let produced = unsafe { self.fill.produce(&self.scratch[..batch]) };
            if produced < batch {
                // There was room for all; whatever the ring says now, no chunk is lost.
                for descriptor in &self.scratch[produced..batch] {
                    match self.region.adopt(descriptor.addr() as u64) {
                        Ok(chunk) => free.push(chunk),
                        Err(_) => self.forged += 1,
                    }
                }
            }
            moved += produced;
            room -= batch.min(room);
            if produced < BATCH {
                break;
            }
        }
        self.given += moved as u64;
        moved
    }

    fn transmit(&mut self, frame: Outgoing) -> Result<(), Outgoing> {
        // A frame has at most REPLY_PIECES pieces.
        let pieces = frame.pieces.len() as u32;
        if !self.ring.has_room(pieces) {
            return Err(frame);
        }
        let mut left = pieces;
        for piece in frame.pieces {
            left -= 1;
            debug_assert!(
                piece.len > 0 && usize::from(piece.offset) + usize::from(piece.len) <= limits::CHUNK
            );
            let (address, len) = (piece.address(), u32::from(piece.len));
            let _ = self.region.lend(piece.chunk);
            self.ring.push(address, len, left > 0);
            self.transmitting += 1;
        }
        Ok(())
    }

    fn flush(&mut self) -> Flushed {
        self.ring.publish();
        let socket = socket_fd(&self.rx);
        // Only without copies: the driver stopped for want of chunks and has some now. It sets its flag and looks at FILL
        // once more, as for TX (see `TxRing::needs_wakeup`).
        fence(Ordering::SeqCst);
        if self.fill.needs_wakeup() && self.given > self.assembler.delivered() {
            // A port that is down says so here too; it shows when something is to be sent.
            let _ = sys::wake_receive(socket);
        }
        if self.ring.pending() == 0 {
            return Flushed::Done;
        }
        if self.ring.needs_wakeup() {
            if let Err(e) = sys::wake_transmit(socket) {
                match e.raw_os_error().unwrap_or(libc::EIO) {
                    // The budget of one call, a full queue of the device, full COMPLETION, no memory for now.
                    libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::ENOMEM | libc::EINTR => {}
                    errno => return Flushed::Down(errno),
                }
            }
        }
        if self.ring.pending() == 0 { Flushed::Done } else { Flushed::Again }
    }

    fn reclaim(&mut self, most: usize, sink: &mut dyn FnMut(Chunk)) -> usize {
        let mut reclaimed = 0;
        let mut left = most;
        while left > 0 {
            let batch = left.min(BATCH);
            // SAFETY: descriptors of this socket's own UMEM; tokens, not descriptors, are what gives access.
            let taken = unsafe { self.completion.consume(&mut self.scratch[..batch]) };
            for descriptor in &self.scratch[..taken] {
                match self.region.adopt(descriptor.addr() as u64) {
                    Ok(chunk) => {
                        reclaimed += 1;
                        self.transmitting = self.transmitting.saturating_sub(1);
                        sink(chunk);
                    }
                    Err(_) => self.forged += 1,
                }
            }
            left -= taken;
            if taken < batch {
                break;
            }
        }
        reclaimed
    }

    fn ready(&mut self) -> bool {
        self.rx.nb_avail(1) > 0 || self.completion.nb_avail(1) > 0
    }

    fn lent(&self) -> Lent {
        let fill = usize::try_from(self.given - self.assembler.delivered()).unwrap_or(usize::MAX);
        Lent { fill, transmit: self.transmitting }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_sizes_are_refused_before_the_kernel_is_asked() {
        assert!(matches!(Umem::new(0, Rings::TINY), Err(XskError::NoChunks)));
        for rings in [
            Rings { fill: 3, ..Rings::TINY },
            Rings { rx: 0, ..Rings::TINY },
            Rings { tx: 6, ..Rings::TINY },
            Rings { completion: 1000, ..Rings::TINY },
        ] {
            assert!(matches!(Umem::new(2, rings), Err(XskError::RingSize(_))), "{rings:?}");
        }
    }

    #[test]
    fn pages_are_read_from_smaps() {
        let smaps = "\
7f0000000000-7f0000400000 rw-p 00000000 00:00 0
Size:               4096 kB
KernelPageSize:        4 kB
AnonHugePages:      2048 kB
VmFlags: rd wr
7f0000400000-7f0000600000 rw-p 00000000 00:00 0
KernelPageSize:     2048 kB
AnonHugePages:         0 kB
7f0000600000-7f0000800000 rw-p 00000000 00:00 0 [heap]
KernelPageSize:        4 kB
AnonHugePages:         0 kB
";
        assert_eq!(pages_in(smaps, 0x7f00_0000_0000, 4 << 20), Pages::Transparent);
        assert_eq!(pages_in(smaps, 0x7f00_0000_0000, 5 << 20), Pages::Plain);
        assert_eq!(pages_in(smaps, 0x7f00_0040_0000, 2 << 20), Pages::Huge);
        assert_eq!(pages_in(smaps, 0x7f00_0060_0000, 4096), Pages::Plain);
        assert_eq!(pages_in("", 0, 4096), Pages::Plain);
    }

    #[test]
    fn bind_errors_say_what_to_do() {
        let of = |code| bind_error("eth1".into(), 3, 4, Rung::ZeroCopy, io::Error::from_raw_os_error(code));
        assert!(matches!(of(libc::EBUSY), XskError::Busy { queue: 3, .. }));
        assert!(matches!(of(libc::EOPNOTSUPP), XskError::Unsupported { .. }));
        assert!(matches!(of(libc::EINVAL), XskError::Unsupported { .. }));
        assert!(matches!(of(libc::EPERM), XskError::NotPermitted));
        assert!(of(libc::ENETDOWN).to_string().contains("ip link set dev eth1 up"));
        assert_eq!(of(libc::EOPNOTSUPP).to_string(), "eth1: queue 3 (of 4) cannot do zero-copy");
    }
}
