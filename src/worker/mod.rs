//! The worker: one turn of the loop that leads frames from the rings to the slots and back.
//!
//! `turn` is the loop over the net and storage ports and runs without a kernel; `thread` pins it to a core and lets
//! it sleep; `post` and `bell` connect workers. The only place that names both net and storage.
//! Invariant: a slot is touched by its owner only, and every chunk returns to its home.

mod bell;
mod board;
mod counters;
mod lane;
mod pace;
mod post;
mod requests;
mod share;
mod sync;
mod thread;
mod turn;

pub use bell::Ringer;
pub use board::{Board, Cell, Parcel};
pub use counters::{Counter, Counters};
pub use pace::Rate;
pub use post::{Mail, Post};
pub use thread::{Crew, Ended, Lingering, Report, Seat, SpawnError};
pub use turn::{Census, Held, Worker};

use crate::frame::{Chunk, Frame, Layout, Outgoing, PortId, QueueId, Region, WorkerId};
use crate::limits;
use crate::protocol::{Address, Header, Mac};
use crate::shelf::{Health, Path, Routes, SlotFacts, SlotState, Why};
use crate::storage::FileId;
use arrayvec::ArrayVec;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// A network interface that we serve on.
#[derive(Debug)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its address.
    pub mac: Mac,
    /// Pieces one frame may be sent in: 1 on a rung without multi-buffer.
    pub pieces: usize,
    /// Bytes of the longest frame that the rung in force carries, whatever the MTU.
    room: u32,
    /// The MTU in bytes, shifted by 8, and the sectors that follow from it: one cell, so that both change at once.
    reach: AtomicU32,
    /// Whether frames leave it.
    running: AtomicBool,
}

impl Port {
    /// A port with this MTU, on a rung that carries frames of up to `room` bytes.
    #[must_use]
    pub fn new(name: String, mac: Mac, mtu: u32, room: u32, pieces: usize) -> Self {
        let (reach, running) = (AtomicU32::new(0), AtomicBool::new(true));
        let port = Self { name, mac, pieces, room, reach, running };
        port.set_mtu(mtu);
        port
    }

    /// Notes another MTU; true when it carries another number of sectors than the one before.
    pub fn set_mtu(&self, mtu: u32) -> bool {
        let mtu = mtu.min(0x00ff_ffff);
        let sectors = limits::sectors_for(mtu, self.room);
        let before = self.reach.swap(mtu << 8 | u32::from(sectors), Ordering::Relaxed);
        before as u8 != sectors
    }

    /// Notes whether frames leave it: it is switched on and has a carrier.
    pub fn set_running(&self, running: bool) {
        self.running.store(running, Ordering::Relaxed);
    }

    /// Whether frames leave it, as far as was noticed. On a port that they do not leave nothing is announced: what is put
    /// on its TX ring may stay there until the link is up, and the chunks would be missing where hosts do ask. Whoever
    /// notices that the link is up has the slots announced.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    /// The MTU in bytes.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.reach.load(Ordering::Relaxed) >> 8
    }

    /// Sectors advertised and accepted in one command; see [`limits::sectors_for`].
    #[must_use]
    pub fn sectors(&self) -> u8 {
        self.reach.load(Ordering::Relaxed) as u8
    }

    /// What a slot needs to know of it to answer.
    #[must_use]
    pub fn path(&self, wildcard: bool) -> Path {
        let reach = self.reach.load(Ordering::Relaxed);
        let longest = (reach >> 8) as usize + limits::ETHERNET;
        Path { port: self.mac, sectors: reach as u8, longest, wildcard }
    }
}

/// Where a queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePlace {
    /// Its port.
    pub port: PortId,
    /// The worker that receives from it.
    pub worker: WorkerId,
    /// Whether it can transmit. A port may have fewer queues to transmit than to receive; in copy mode the kernel then
    /// binds a socket to the others, but leaves what is on their TX rings there for ever and reports no error
    /// (net/xdp/xsk.c, __xsk_generic_xmit).
    pub transmits: bool,
}

/// A slot, for its owner.
#[derive(Clone, Debug)]
pub struct SlotPlan {
    /// What it says about itself.
    pub facts: SlotFacts,
    /// Its disk.
    pub file: FileId,
    /// Whether the disk is written through the page cache, where an error may be that of another write.
    pub cached: bool,
    /// Sectors that the disk writes as a whole, aligned to their number; 1 where it writes single sectors. Commands that
    /// change the same unit never are at the disk together.
    pub unit: u32,
}

impl SlotPlan {
    /// A slot on a disk without a cache of its own that writes single sectors.
    #[must_use]
    pub fn new(facts: SlotFacts, file: FileId) -> Self {
        Self { facts, file, cached: false, unit: 1 }
    }
}

/// What all workers of a region share.
#[derive(Debug)]
pub struct Shared {
    /// The memory.
    pub region: Arc<Region>,
    /// Who owns which part of it.
    pub layout: Layout,
    /// Ports, by [`PortId`].
    pub ports: Vec<Port>,
    /// Queues, by [`QueueId`].
    pub queues: Vec<QueuePlace>,
    /// Owners of slots.
    pub routes: Routes,
    /// The posts of all workers, by [`WorkerId`].
    pub posts: Vec<WorkerPost>,
}

impl Shared {
    /// A port.
    #[must_use]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(usize::from(id.0))
    }

    /// The worker that sends what is to leave by the port of `place`, when no other can.
    #[must_use]
    pub fn transmitter(&self, place: QueuePlace) -> Option<WorkerId> {
        if place.transmits {
            return Some(place.worker);
        }
        self.queues.iter().find(|other| other.port == place.port && other.transmits).map(|other| other.worker)
    }

    /// The port a queue belongs to.
    #[must_use]
    pub fn port_of(&self, queue: QueueId) -> Option<&Port> {
        self.port(self.queues.get(usize::from(queue.0))?.port)
    }
}

/// One worker's part.
#[derive(Debug)]
pub struct Plan {
    /// Which worker it is.
    pub id: WorkerId,
    /// What it shares with the others.
    pub shared: Arc<Shared>,
    /// Its slots, in the order that [`Routes`] numbered them.
    pub slots: Vec<SlotPlan>,
    /// Requests it holds at most, in flight or parked.
    pub requests: usize,
    /// Its counters.
    pub counters: Arc<Counters>,
    /// Takes the states of slots to keep.
    pub errands: Option<Errands>,
}

impl Plan {
    /// A worker without slots, that holds as many requests as a worker does.
    #[must_use]
    pub fn new(id: WorkerId, shared: Arc<Shared>) -> Self {
        let requests = limits::REQUESTS;
        Self { id, shared, slots: Vec::new(), requests, counters: Arc::default(), errands: None }
    }
}

/// A frame, or news of one, for the owner of a slot.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // Boxing would allocate for each frame.
pub enum HandOver {
    /// A frame addressed to exactly one slot.
    Frame(Frame),
    /// A request to more than one slot.
    Wildcard(Wildcard),
}

/// What an owner needs to know of a wildcard request: its headers, never the frame.
#[derive(Clone, Debug)]
pub struct Wildcard {
    /// The queue it arrived on.
    pub queue: QueueId,
    /// Who asks.
    pub source: Mac,
    /// VLAN tag control information.
    pub tag: Option<u16>,
    /// The AoE header.
    pub header: Header,
    /// The argument header, as far as it was there.
    pub argument: ArrayVec<u8, { limits::ATA_SECTION }>,
    /// What follows it, where an answer may depend on that: the text of a Query Config test. Allocated, because such a
    /// frame is rare.
    pub text: Option<Arc<[u8]>>,
}

/// Something that returns to its home worker.
#[derive(Debug)]
pub enum Homecoming {
    /// A chunk nobody needs any more.
    Idle(Chunk),
    /// A frame to transmit, by an owner that has no queue on the port.
    Reply(Outgoing),
}

impl Homecoming {
    /// Gives its chunks up, at the end of a worker.
    fn retire(self) {
        match self {
            Self::Idle(chunk) => chunk.retire(),
            Self::Reply(frame) => frame.retire(),
        }
    }
}

/// What the appliance tells a worker. A slot is named by its number with that worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Announce every slot on every port.
    Announce,
    /// Announce every slot on this port: its link came up, or it carries more or fewer sectors now.
    AnnounceOn(PortId),
    /// The state of an [`Errand::Save`] is on stable storage, or could not be brought there.
    Saved {
        /// The slot.
        slot: u16,
        /// Whether it is kept; if not, what was before holds.
        kept: bool,
    },
    /// The backing of a slot has another size now.
    Resized {
        /// The slot.
        slot: u16,
        /// Its new size in sectors.
        sectors: u64,
    },
    /// The device of a slot says this of its health now.
    Health {
        /// The slot.
        slot: u16,
        /// What it says.
        health: Health,
    },
    /// A write or flush of a slot failed for good, or its device was gone, before this worker had it.
    Failed {
        /// The slot.
        slot: u16,
        /// What it was seen by.
        why: Why,
    },
    /// The backing of a slot was found to be gone.
    Gone {
        /// The slot.
        slot: u16,
        /// What it was seen by.
        why: Why,
    },
    /// Let go of the backing of a slot, which is gone, once nothing is in flight there, and lay it out on the [`Board`]
    /// for whoever closes it: as long as somebody has it, the kernel keeps what is left of it, and its name.
    Release {
        /// The slot.
        slot: u16,
    },
    /// Serve the slot with the backing that lies on the [`Board`] for it, and no longer with the one before, once nothing
    /// is in flight there; announce it.
    Replace {
        /// The slot.
        slot: u16,
    },
    /// The end is near: look often for what still has to come home.
    Drain,
    /// End.
    Exit,
}

/// What a worker asks of whoever keeps the state of its slots. At most one [`Errand::Save`] of a slot is on its way; a
/// worker never waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Bring this state to stable storage; answered by [`Control::Saved`] to the worker.
    Save {
        /// Who asks.
        worker: WorkerId,
        /// The slot's number with that worker.
        slot: u16,
        /// The slot.
        address: Address,
        /// Its new state.
        state: Box<SlotState>,
    },
    /// The state saved last is in force now: nobody is served by the one before any more.
    InForce {
        /// The slot.
        address: Address,
    },
}

/// Takes errands. It has room for two of each slot, so that a worker that keeps to its one [`Errand::Save`] a slot never
/// finds it full.
pub type Errands = std::sync::mpsc::SyncSender<Errand>;

/// An eventfd that wakes a worker out of its io_uring.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// Makes one.
    ///
    /// # Errors
    /// What the kernel says (no descriptors left).
    pub fn new() -> std::io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        Ok(Self(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
    }
}

impl Ringer for EventFd {
    fn wake(&self) {
        // It can fail only when the counter is full, and then the sleeper is awake already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The post of a worker.
pub type WorkerPost = Post<HandOver, Homecoming, Control, EventFd>;

impl WorkerPost {
    /// A post for a region of so many chunks, and a worker that owns so many slots.
    ///
    /// # Errors
    /// When no eventfd can be made.
    pub fn for_worker(chunks: u32, slots: usize) -> std::io::Result<Self> {
        let commands = limits::COMMANDS + limits::COMMANDS_PER_SLOT * slots;
        Ok(Self::new(limits::HANDOFF_RING, chunks.max(1) as usize, commands, EventFd::new()?))
    }
}

impl std::fmt::Debug for WorkerPost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerPost").field("pending", &self.pending()).finish()
    }
}
