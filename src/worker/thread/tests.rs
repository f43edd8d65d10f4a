use super::*;
use crate::frame::{Buffer, Chunk, Frame, Layout, Outgoing, PortId, QueueId, Region, WorkerShare};
use crate::limits;
use crate::net::memory::{MemoryConfig, MemoryQueue, Wire};
use crate::net::{Flushed, Lent};
use crate::protocol::Mac;
use crate::shelf::{Routes, SlotFacts};
use crate::storage::memory::MemoryStorage;

use crate::storage::{Done, FileId, Job, Ticket, Woken};
use crate::worker::{Counter, Counters, Port, QueuePlace, Ringer, SlotPlan, WorkerPost};
use std::convert::Infallible;

/// Memory has no descriptors: it sleeps on the eventfd of the worker's post alone.
struct Resting {
    storage: MemoryStorage,
    shared: Arc<Shared>,
    worker: usize,
}

impl Storage for Resting {
    type Backing = Vec<u8>;

    fn replace(&mut self, file: FileId, new: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Option<Vec<u8>>> {
        self.storage.replace(file, new)
    }
    fn submit(&mut self, job: Job) -> Result<(), Job> {
        self.storage.submit(job)
    }
    fn turn(&mut self) {
        self.storage.turn();
    }
    fn reap(&mut self, most: usize, sink: &mut dyn FnMut(Done)) -> usize {
        self.storage.reap(most, sink)
    }
    fn in_flight(&self) -> usize {
        self.storage.in_flight()
    }
    fn lent(&self, ticket: Ticket) -> Option<&Buffer> {
        self.storage.lent(ticket)
    }
    fn resized(&mut self, file: FileId, bytes: u64) {
        self.storage.resized(file, bytes);
    }
}

impl Sleep for Resting {
    fn sleep(&mut self, timeout: Duration) -> Woken {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let eventfd = self.shared.posts[self.worker].bell().ringer();
        let timeout =
            Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        let woken = poll(&mut [PollFd::new(eventfd, PollFlags::IN)], Some(&timeout)).unwrap();
        if woken == 0 {
            return Woken::Timeout;
        }
        rustix::io::read(eventfd, &mut [0; 8]).unwrap();
        Woken::Event
    }

    // Nobody else has what is in it.
    fn end_patiently(&mut self) {}
}

fn crew(workers: u16, disk_capacity: usize) -> (Crew, Wire, Vec<Arc<Counters>>, Arc<Shared>) {
    crew_on(workers, disk_capacity, |queue| queue)
}

/// The same, with something around the queue.
fn crew_on<Q: Queue + Send + 'static>(
    workers: u16,
    disk_capacity: usize,
    around: impl FnOnce(MemoryQueue) -> Q,
) -> (Crew, Wire, Vec<Arc<Counters>>, Arc<Shared>) {
    let shares: Vec<_> = (0..workers)
        .map(|w| WorkerShare {
            receive: if w == 0 { vec![(QueueId(0), 64)] } else { vec![] },
            runs: 8,
            own: 8,
        })
        .collect();
    let layout = Layout::plan(&shares).unwrap();
    let region = Arc::new(Region::heap(layout.chunks()));
    let address = |w: u16| Address { shelf: 1, slot: w as u8 };
    let chunks = layout.chunks();
    let shared = Arc::new(Shared {
        region: Arc::clone(&region),
        layout,
        ports: vec![Port::new("p0".into(), Mac([2, 0, 0, 0, 0, 1]), 9000, u32::MAX, 3)],
        queues: vec![QueuePlace { port: PortId(0), worker: WorkerId(0), transmits: true }],
        routes: Routes::new((0..workers).map(|w| (address(w), WorkerId(w)))).unwrap(),
        posts: (0..workers).map(|_| WorkerPost::for_worker(chunks, 1).unwrap()).collect(),
    });
    let (queue, wire) = MemoryQueue::new(QueueId(0), region, MemoryConfig::default());
    let mut queue = Some(around(queue));
    let mut crew = Crew::new(Arc::clone(&shared));
    let mut counters = Vec::new();
    for w in 0..workers {
        let mut storage = MemoryStorage::new(Arc::clone(&shared.region), disk_capacity);
        let facts = SlotFacts::new(address(w), 64);
        let slots = vec![SlotPlan::new(facts, storage.add(vec![w as u8; 64 * 512]))];
        let counter = Arc::new(Counters::default());
        counters.push(Arc::clone(&counter));
        let plan = Plan { slots, counters: counter, ..Plan::new(WorkerId(w), Arc::clone(&shared)) };
        let queues = if w == 0 { queue.take().into_iter().collect() } else { vec![] };
        let ours = Arc::clone(&shared);
        let make =
            move |_: &Shared| Ok::<_, Infallible>(Resting { storage, shared: ours, worker: usize::from(w) });
        crew.spawn(plan, queues, Seat::default(), make).unwrap();
    }
    (crew, wire, counters, shared)
}

fn read(slot: u8, tag: u32) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x88, 0xa2, 0x10, 0, 0, 1, slot, 0];
    f.extend(tag.to_be_bytes());
    f.extend([0x40, 0, 16, 0x24, 0, 0, 0, 0, 0, 0, 0, 0]);
    f
}

#[test]
fn threads_serve_by_hand_off_and_end_with_every_chunk_at_home() {
    let (crew, wire, counters, shared) = crew(2, 64);
    let mut replies = 0;
    for tag in 0..2000u32 {
        // Memory wakes nobody: whoever puts a frame on the wire rings.
        while wire.inject(&read((tag % 2) as u8, tag)).is_err() {
            std::thread::yield_now();
        }
        shared.posts[0].bell().ringer().wake();
        while let Some(reply) = wire.take() {
            assert_eq!(reply.len(), 36 + 16 * 512);
            assert!(reply[36..].iter().all(|&b| b == reply[18]), "the data is the slot's own");
            replies += 1;
        }
    }
    let ended = crew.end(Duration::from_secs(60), false);
    replies += std::iter::from_fn(|| wire.take()).count() as u64;
    assert!(ended.drained && ended.died.is_empty());
    let census: usize = ended.reports.iter().map(|r| r.census.total()).sum();
    assert_eq!(census, shared.layout.used());
    assert!(ended.reports.iter().all(|r| r.busy.is_empty() && r.census.requests == 0));
    let total = |c| counters.iter().map(|k| k.get(c)).sum::<u64>();
    assert_eq!(replies, total(Counter::Replies));
    let dropped = [Counter::DropRuns, Counter::DropShare, Counter::DropHandOver].map(total);
    assert_eq!(total(Counter::Replies) + dropped.iter().sum::<u64>(), 2000);
    assert_eq!(total(Counter::Defects), 0);
}

#[test]
fn a_stuck_disk_ends_the_wait_and_is_named() {
    let (crew, wire, _, shared) = crew(1, 0);
    wire.inject(&read(0, 1)).unwrap();
    shared.posts[0].bell().ringer().wake();
    while wire.fill_level() == limits::FILL_RING as usize {
        std::thread::yield_now();
    }
    while shared.posts[0].pending() > 0 {
        std::thread::yield_now();
    }
    let ended = crew.end(Duration::from_millis(100), true);
    assert!(!ended.drained);
    assert_eq!(ended.reports[0].busy, [(Address { shelf: 1, slot: 0 }, 1)]);
    assert_eq!(ended.reports[0].census.total(), shared.layout.used());
}

#[test]
fn a_worker_that_cannot_start_says_why() {
    #[derive(Debug, thiserror::Error)]
    #[error("no")]
    struct No;
    let (crew, _, _, shared) = crew(1, 1);
    let plan = Plan::new(WorkerId(0), Arc::clone(&shared));
    let mut other = Crew::new(Arc::clone(&shared));
    let error =
        other.spawn::<MemoryQueue, Resting, No>(plan, vec![], Seat::default(), |_| Err(No)).unwrap_err();
    assert!(matches!(error, SpawnError::Storage(No)));
    let plan = Plan::new(WorkerId(0), Arc::clone(&shared));
    let seat = Seat { cpu: Some(1023), ..Seat::default() };
    let error = other.spawn::<MemoryQueue, Resting, No>(plan, vec![], seat, |_| Err(No)).unwrap_err();
    assert!(error.to_string().starts_with("cannot pin worker 0 to CPU 1023: "), "{error}");
    // Dropping a crew ends its threads: nobody else holds what they share then.
    drop(crew);
    drop(other);
    assert_eq!(Arc::strong_count(&shared), 1);
}

#[test]
fn a_port_that_takes_nothing_costs_no_cpu() {
    use crate::net::memory::Transmission;
    let (crew, wire, _, shared) = crew(1, 64);
    wire.set_transmission(Transmission::Refused);
    wire.inject(&read(0, 1)).unwrap();
    shared.posts[0].bell().ringer().wake();
    while wire.tx_level() == 0 {
        std::thread::yield_now();
    }
    // A worker that spins makes a flush in each turn, some hundred thousand in this time; one that sleeps between
    // them a few hundred, and fewer on a machine that is busy.
    let before = wire.counts().flushes;
    std::thread::sleep(Duration::from_millis(300));
    let flushes = wire.counts().flushes - before;
    assert!(flushes < 5_000, "{flushes} turns without effect");
    wire.set_transmission(Transmission::Open);
    let ended = crew.end(Duration::from_secs(60), false);
    assert!(ended.drained);
    assert_eq!(wire.take_all().len(), 1);
}

/// A queue that stops its worker in the middle of a turn, as often as it is told to.
struct Gated(MemoryQueue, std::sync::mpsc::Receiver<std::sync::mpsc::SyncSender<()>>);

impl Queue for Gated {
    fn id(&self) -> QueueId {
        self.0.id()
    }
    fn receive(&mut self, most: usize, sink: &mut dyn FnMut(Frame), torn: &mut dyn FnMut(Chunk)) -> usize {
        let taken = self.0.receive(most, sink, torn);
        if let Ok(inside) = self.1.try_recv() {
            // Once to say that we are here, once to be let go.
            let _ = inside.send(());
            let _ = inside.send(());
        }
        taken
    }
    fn refill(&mut self, free: &mut Vec<Chunk>) -> usize {
        self.0.refill(free)
    }
    fn transmit(&mut self, frame: Outgoing) -> Result<(), Outgoing> {
        self.0.transmit(frame)
    }
    fn flush(&mut self) -> Flushed {
        self.0.flush()
    }
    fn reclaim(&mut self, most: usize, sink: &mut dyn FnMut(Chunk)) -> usize {
        self.0.reclaim(most, sink)
    }
    fn ready(&mut self) -> bool {
        self.0.ready()
    }
    fn lent(&self) -> Lent {
        self.0.lent()
    }
}

#[test]
fn a_worker_in_the_middle_of_a_turn_is_not_quiet() {
    let (gate, told) = std::sync::mpsc::channel();
    let (crew, wire, _, shared) = crew_on(1, 64, |queue| Gated(queue, told));
    while !crew.is_quiet() {
        std::thread::yield_now();
    }
    // A frame that has left RX and has become nothing yet.
    wire.inject(&read(0, 1)).unwrap();
    let (inside, entered) = std::sync::mpsc::sync_channel(0);
    gate.send(inside).unwrap();
    shared.posts[0].bell().ringer().wake();
    entered.recv().unwrap();
    let quiet = crew.is_quiet();
    entered.recv().unwrap();
    assert!(!quiet, "a stop would end it now, and its answer would never leave");
    let ended = crew.end(Duration::from_secs(60), false);
    assert!(ended.drained);
    assert_eq!(wire.take_all().len(), 1);
}
