//! The shape of a world: how many of everything there are, how large, how slow, and how bad.
//!
//! Not here: what happens in it (`world`).
//! Invariant: every shape can serve: rings and pools hold the longest frame there is, so that what is asked for is
//! done in the end.

use super::disk::{Backing, Faults};
use super::luck::{Luck, MICRO, MILLI, Nanos};
use crate::frame::{PortId, QueueId, WorkerId, WorkerShare};
use crate::limits;
use crate::net::memory::MemoryConfig;
use crate::protocol::{Address, Mac};
use crate::worker::QueuePlace;

/// Requests that hosts make in one world, at least.
pub const REQUESTS: usize = 2000;

/// A port.
#[derive(Clone, Debug)]
pub struct PortShape {
    /// Its address.
    pub mac: Mac,
    /// Its MTU.
    pub mtu: u32,
    /// Bytes of the longest frame its rung carries.
    pub room: u32,
    /// Pieces of a frame its rung sends.
    pub pieces: usize,
    /// Its queues.
    pub queues: Vec<usize>,
}

/// A queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueShape {
    /// Where it is.
    pub place: QueuePlace,
    /// Its rings.
    pub config: MemoryConfig,
    /// Chunks to receive into.
    pub chunks: u32,
}

/// A slot and its disk.
#[derive(Clone, Copy, Debug)]
pub struct SlotShape {
    /// Its address.
    pub address: Address,
    /// Its owner.
    pub owner: WorkerId,
    /// Its VLAN.
    pub vlan: u16,
    /// Its size.
    pub sectors: usize,
    /// When what is written is safe.
    pub backing: Backing,
    /// Sectors its disk writes as a whole.
    pub unit: usize,
    /// Sectors a power cut tears between.
    pub tear: usize,
    /// Whether it is written through the page cache.
    pub cached: bool,
    /// Whether it serves TRIM.
    pub trim: bool,
    /// How long a command takes.
    pub mean: Nanos,
    /// What fails.
    pub faults: Faults,
}

/// How a host resends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// With a new tag, after which answers to the old one are nobody's (drivers/block/aoe/aoecmd.c, resend).
    Linux,
    /// With the same tag.
    Bsd,
}

/// A host.
#[derive(Clone, Copy, Debug)]
pub struct HostShape {
    /// Its address.
    pub mac: Mac,
    /// How it resends.
    pub manner: Manner,
    /// Requests it has under way at most.
    pub window: usize,
    /// Time between two requests.
    pub think: Nanos,
    /// The shortest time until it resends.
    pub patience: Nanos,
    /// Of 1,000 requests, those that do more than read and write.
    pub odd: u64,
}

/// How bad the wire is; of 1,000 frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct WireShape {
    /// Lost.
    pub loss: u64,
    /// Delivered twice.
    pub double: u64,
    /// Kept for long.
    pub delay: u64,
    /// Corrupted.
    pub corrupt: u64,
    /// Cut short.
    pub cut: u64,
    /// Preceded by garbage.
    pub garbage: u64,
    /// How long a frame takes.
    pub mean: Nanos,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Whether hosts keep from writing to sectors that copies of an earlier write may still reach.
    pub careful: bool,
    /// What each worker gets of the memory.
    pub shares: Vec<WorkerShare>,
    /// Requests a worker holds.
    pub requests: usize,
    /// Commands a storage takes at once.
    pub capacity: usize,
    /// Frames a hand-over ring holds.
    pub handoff: usize,
    /// Ports.
    pub ports: Vec<PortShape>,
    /// Queues.
    pub queues: Vec<QueueShape>,
    /// Slots.
    pub slots: Vec<SlotShape>,
    /// Hosts.
    pub hosts: Vec<HostShape>,
    /// The wire.
    pub wire: WireShape,
    /// Whether frames reach any queue rather than that of their slot.
    pub scattered: bool,
    /// Of 1,000 turns, those after which a worker is away for long.
    pub stall: u64,
    /// Of 1,000 saves of state, those that fail.
    pub save_faults: u64,
    /// Of 1,000 requests for data, those that are a flush instead.
    pub flushes: u64,
    /// Of 1,000 reservations, those that keep a host out.
    pub keep_out: u64,
    /// Time between two mischiefs of rings and disks.
    pub mischief: Nanos,
    /// After how many requests of the hosts the process is killed (false) or the power cut (true).
    pub crashes: Vec<(usize, bool)>,
}

/// The address of a host, a port, or somebody else.
#[must_use]
pub const fn mac(kind: u8, n: usize) -> Mac {
    Mac([2, 0, 0, 0, kind, n as u8])
}

impl Shape {
    /// Draws one.
    #[must_use]
    pub fn draw(luck: &Luck) -> Self {
        let workers = luck.pick(&[1, 1, 2, 2, 3]);
        let mut ports = Vec::new();
        let mut queues = Vec::new();
        for p in 0..luck.among(1, 2) as usize {
            let mtu = luck.pick(&[1500, 1500, 4200, 9000, 9000, 1060, 600]);
            let multi = luck.permille(700);
            let (room, pieces) = if multi { (9216, limits::REPLY_PIECES) } else { (3584, 1) };
            let mut of_port = Vec::new();
            for q in 0..luck.among(1, 2) as usize {
                let frame_at = luck.pick(&[limits::FRAME_AT, limits::FRAME_AT, 472, 256, 500]);
                let most = if multi { limits::CHUNK - frame_at.max(limits::FRAME_AT) } else { 3584 };
                let capacity = luck.pick(&[most, most, most.min(2048)]);
                // The longest frame that hosts send, and that we answer with.
                let sectors = usize::from(limits::sectors_for(mtu, room));
                let longest = limits::ATA_FRAME + limits::VLAN_TAG + sectors * limits::SECTOR;
                let need = longest.max(1200).div_ceil(capacity);
                let ring = |spare: &[usize]| need.max(2) + luck.pick(spare);
                let config = MemoryConfig {
                    fill: ring(&[0, 1, 2, 8, 30]),
                    rx: ring(&[0, 1, 2, 8, 30]),
                    tx: pieces.max(2) + luck.pick(&[0, 0, 2, 8, 30]),
                    completion: pieces + luck.pick(&[0, 0, 1, 4, 30]),
                    capacity,
                    frame_at,
                };
                let worker = WorkerId(luck.index(workers) as u16);
                let place =
                    QueuePlace { port: PortId(p as u16), worker, transmits: q == 0 || luck.permille(700) };
                of_port.push(queues.len());
                let chunks = (need + luck.pick(&[0, 1, 3, 10, 40])).max(4) as u32;
                queues.push(QueueShape { place, config, chunks });
            }
            ports.push(PortShape { mac: mac(0, p + 1), mtu, room, pieces, queues: of_port });
        }
        let careful = luck.permille(500);
        let failing = luck.permille(300);
        let slots = (0..luck.among(1, 4) as usize).map(|s| Self::slot(luck, s, workers, failing)).collect();
        let shares = (0..workers)
            .map(|w| WorkerShare {
                receive: queues
                    .iter()
                    .enumerate()
                    .filter(|(_, q)| usize::from(q.place.worker.0) == w)
                    .map(|(q, shape)| (QueueId(q as u16), shape.chunks))
                    .collect(),
                runs: luck.pick(&[1, 2, 4, 16]),
                own: luck.pick(&[1, 2, 4, 16]),
            })
            .collect();
        let bad = luck.permille(750);
        let rate = |most: u64| if bad { luck.below(most + 1) } else { 0 };
        let wire = WireShape {
            loss: rate(60),
            double: rate(60),
            delay: rate(15),
            corrupt: rate(15),
            cut: rate(8),
            garbage: rate(15),
            mean: luck.pick(&[5, 20, 100]) * MICRO,
        };
        let hosts = (0..luck.among(2, 4) as usize)
            .map(|h| HostShape {
                mac: mac(1, h),
                manner: if luck.permille(250) { Manner::Bsd } else { Manner::Linux },
                window: luck.among(2, 16) as usize,
                think: luck.pick(&[2, 10, 50]) * MICRO,
                patience: luck.pick(&[1, 1, 4, 20]) * MILLI,
                odd: luck.pick(&[20, 80, 250]),
            })
            .collect();
        let crashes = luck.pick(&[1, 1, 1, 2, 3]);
        let mut crashes: Vec<_> = (0..crashes)
            .map(|_| (luck.among(200, REQUESTS as u64 - 100) as usize, luck.permille(650)))
            .collect();
        crashes.sort_unstable();
        Self {
            careful,
            shares,
            requests: luck.pick(&[2, 3, 4, 8, 16, 64]),
            capacity: luck.pick(&[1, 2, 4, 64]),
            handoff: luck.pick(&[2, 4, 64]),
            ports,
            queues,
            slots,
            hosts,
            wire,
            scattered: luck.permille(300),
            stall: luck.pick(&[0, 0, 2]),
            save_faults: luck.pick(&[0, 0, 100]),
            flushes: luck.pick(&[10, 10, 10, 150]),
            keep_out: luck.pick(&[0, 0, 200]),
            mischief: luck.pick(&[1, 4, 20]) * MILLI,
            crashes,
        }
    }

    fn slot(luck: &Luck, s: usize, workers: usize, failing: bool) -> SlotShape {
        let backing = luck.pick(&[Backing::Through, Backing::Through, Backing::Back, Backing::Ram]);
        let unit = luck.pick(&[1, 1, 8]);
        let faulty = luck.permille(if failing { 600 } else { 300 });
        let rate = |on: bool, most: u64| if on { luck.below(most + 1) } else { 0 };
        SlotShape {
            address: Address { shelf: luck.pick(&[7, 7, 9]), slot: s as u8 },
            owner: WorkerId(luck.index(workers) as u16),
            vlan: luck.pick(&[0, 0, 0, 5]),
            sectors: luck.pick(&[16, 32, 61, 64]),
            backing,
            unit,
            tear: luck.pick(&[1, 8]),
            cached: luck.permille(if failing { 600 } else { 300 }),
            trim: luck.permille(600),
            mean: luck.pick(&[10, 50, 200, 1000]) * MICRO,
            faults: Faults {
                read: rate(faulty, 20),
                write: rate(failing && faulty, 20),
                no_room: rate(faulty, 20),
                flush: rate(failing && faulty, 150),
                trim: rate(failing && faulty, 50),
                slow: rate(luck.permille(400), 20),
            },
        }
    }

    /// Sectors of one command that every port carries.
    #[must_use]
    pub fn sectors(&self) -> u8 {
        self.ports.iter().map(|p| limits::sectors_for(p.mtu, p.room)).min().unwrap_or(1)
    }

    /// Whether a disk of it has anything that could end a slot.
    #[must_use]
    pub fn slot_at(&self, address: Address) -> Option<usize> {
        self.slots.iter().position(|slot| slot.address == address)
    }
}
