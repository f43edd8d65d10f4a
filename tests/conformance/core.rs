//! A target without a kernel: the worker as in production, over rings and a disk in plain memory.

use crate::case::{self, Pre, SECTORS, Target, is_announcement, sector};
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use xshelf::frame::{Layout, PortId, QueueId, Region, WorkerId, WorkerShare};
use xshelf::net::memory::{MemoryConfig, MemoryQueue, Wire};
use xshelf::protocol::{Address, Mac};
use xshelf::shelf::{Health, ReservedAnswer, Routes, SlotFacts, SlotState};
use xshelf::storage::memory::{Fault, MemoryStorage};
use xshelf::storage::{Failure, FileId, Verb};
use xshelf::worker::{
    Control, Counter, Counters, Errand, Plan, Port, QueuePlace, Shared, SlotPlan, Worker, WorkerPost,
};

const PORT: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// A running worker.
struct Running {
    worker: Worker<MemoryQueue, MemoryStorage>,
    wire: Wire,
    errands: Receiver<Errand>,
    counters: Arc<Counters>,
    now: Duration,
}

/// The target, and what outlives its restarts.
pub struct Core {
    pre: Pre,
    kept: HashMap<u8, SlotState>,
    running: Running,
    spoken: Vec<Vec<u8>>,
}

fn slots(pre: &Pre) -> Vec<u8> {
    pre.slots.clone().unwrap_or_else(|| vec![3])
}

fn mac(text: &str) -> Mac {
    text.parse().unwrap_or_else(|_| panic!("{text} is no MAC address"))
}

fn facts(pre: &Pre, slot: u8, kept: &HashMap<u8, SlotState>) -> SlotFacts {
    SlotFacts {
        vlan: pre.vlan,
        read_only: pre.read_only,
        write_cache: pre.write_cache,
        trim: pre.trim.unwrap_or(true) && !pre.read_only,
        health: match pre.health.as_deref() {
            None => Health::Unknown,
            Some("failing") => Health::Failing,
            Some(other) => panic!("no health {other}"),
        },
        allow: pre.allow.iter().map(|text| mac(text)).collect(),
        reserved_answer: match pre.reserved_answer.as_deref() {
            None => ReservedAnswer::Aoe,
            Some("ata") => ReservedAnswer::Ata,
            Some(other) => panic!("no answer {other}"),
        },
        physical_block: pre.physical_block.unwrap_or(512),
        misalignment: pre.misalignment.unwrap_or(0),
        rotational: pre.rotational,
        wwn: pre.wwn.as_ref().map_or(0, |digits| u64::from_str_radix(digits, 16).unwrap()),
        serial: pre.serial.as_deref().unwrap_or("").parse().unwrap(),
        model: pre.model.as_deref().unwrap_or("").parse().unwrap(),
        firmware: pre.firmware.as_deref().unwrap_or("").parse().unwrap(),
        state: kept.get(&slot).cloned().unwrap_or_default(),
        ..SlotFacts::new(Address { shelf: 7, slot }, pre.sectors.unwrap_or(SECTORS))
    }
}

fn start(pre: &Pre, disks: Vec<Vec<u8>>, kept: &HashMap<u8, SlotState>) -> Running {
    let share = WorkerShare { receive: vec![(QueueId(0), 64)], runs: 8, own: 8 };
    let layout = Layout::plan(&[share]).unwrap();
    let region = Arc::new(Region::heap(layout.chunks()));
    let net = MemoryConfig { fill: 32, rx: 32, tx: 32, completion: 32, ..MemoryConfig::default() };
    let (queue, wire) = MemoryQueue::new(QueueId(0), Arc::clone(&region), net);
    let mut storage = MemoryStorage::new(Arc::clone(&region), 64);
    let slots: Vec<_> = slots(pre)
        .into_iter()
        .zip(disks)
        .map(|(slot, disk)| SlotPlan::new(facts(pre, slot, kept), storage.add(disk)))
        .collect();
    if let Some((verb, errno)) = &pre.fault {
        let verb = match verb.as_str() {
            "read" => Verb::Read,
            "write" => Verb::Write,
            "flush" => Verb::Flush,
            "trim" => Verb::Discard,
            other => panic!("no verb {other}"),
        };
        storage.fail(FileId(0), verb, Fault::once(Failure::Errno(*errno)));
        if verb == Verb::Write {
            storage.fail(FileId(0), Verb::WriteThrough, Fault::once(Failure::Errno(*errno)));
        }
    }
    let shared = Arc::new(Shared {
        posts: vec![WorkerPost::for_worker(layout.chunks(), slots.len()).unwrap()],
        region,
        layout,
        ports: vec![Port::new("p0".into(), PORT, pre.mtu.unwrap_or(1500), u32::MAX, 3)],
        queues: vec![QueuePlace { port: PortId(0), worker: WorkerId(0), transmits: true }],
        routes: Routes::new(slots.iter().map(|slot| (slot.facts.address, WorkerId(0)))).unwrap(),
    });
    let (to, errands) = sync_channel(8);
    let counters = Arc::new(Counters::default());
    let plan =
        Plan { slots, counters: Arc::clone(&counters), errands: Some(to), ..Plan::new(WorkerId(0), shared) };
    let worker = Worker::new(plan, vec![queue], storage).unwrap();
    worker.post().command(Control::Announce).unwrap();
    Running { worker, wire, errands, counters, now: Duration::ZERO }
}

impl Core {
    /// One in the state that a case starts from, after its first announcements.
    pub fn new(pre: &Pre) -> Self {
        // Beyond what has content nothing is read in any case.
        let sectors = pre.sectors.unwrap_or(SECTORS).min(SECTORS);
        static CONTENT: OnceLock<Vec<u8>> = OnceLock::new();
        let content = CONTENT.get_or_init(|| (0..SECTORS).flat_map(sector).collect());
        let disks = vec![content[..sectors as usize * 512].to_vec(); slots(pre).len()];
        let kept = HashMap::new();
        let running = start(pre, disks, &kept);
        let mut core = Self { pre: pre.clone(), kept, running, spoken: Vec::new() };
        core.settle(None);
        core
    }

    /// Turns until nothing is left to do, and sorts what came out.
    fn settle(&mut self, request: Option<&[u8]>) -> Vec<Vec<u8>> {
        for _ in 0..10_000 {
            let running = &mut self.running;
            // A turn of a second: what is paced is due with the next.
            running.now += Duration::from_secs(1);
            let mut busy = running.worker.turn(running.now);
            for errand in running.errands.try_iter() {
                busy = true;
                let Errand::Save { slot, address, state, .. } = errand else { continue };
                let kept = self.pre.store.is_none();
                if kept {
                    self.kept.insert(address.slot, *state);
                }
                running.worker.post().command(Control::Saved { slot, kept }).unwrap();
            }
            if !busy && running.worker.is_idle() {
                assert_eq!(running.counters.get(Counter::Defects), 0, "the worker says it has a defect");
                let (spoken, replies) =
                    running.wire.take_all().into_iter().partition(|frame| is_announcement(frame, request));
                self.spoken.extend::<Vec<_>>(spoken);
                return replies;
            }
        }
        panic!("the worker does not come to rest");
    }
}

impl Target for Core {
    fn ask(&mut self, frame: &[u8], _wanted: usize, _or_none: bool) -> Vec<Vec<u8>> {
        self.running.wire.inject(frame).unwrap_or_else(|e| panic!("{}: {e}", case::hex(frame)));
        self.settle(Some(frame))
    }

    fn spoken(&mut self, _wanted: &dyn Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.spoken)
    }

    fn restart(&mut self) {
        let storage = self.running.worker.storage_mut();
        let disks = (0..).map_while(|file| storage.remove(FileId(file))).collect();
        self.running = start(&self.pre, disks, &self.kept);
        self.settle(None);
    }
}
