use super::*;
use crate::frame::{Layout, Region, WorkerShare, leaked};
use crate::net::memory::{Dropped, MemoryConfig, MemoryQueue, Transmission, Visibility, Wire};
use crate::protocol::Mac;
use crate::shelf::{Condition, Routes, SlotFacts, Tried, Why};
use crate::storage::memory::{Fault, MemoryStorage, Schedule};
use crate::storage::{Failure, Verb};
use crate::worker::{Control, Errand, Port, QueuePlace, SlotPlan, WorkerPost};
use proptest::prelude::*;
use std::sync::mpsc::{Receiver, sync_channel};

type TestWorker = Worker<MemoryQueue, MemoryStorage>;

const HOST: [u8; 6] = [2, 0, 0, 0, 0, 0xaa];
const SECTORS: usize = 64;

fn mac(port: u16) -> Mac {
    Mac([2, 0, 0, 0, 1, port as u8])
}

/// The sector that a fresh disk of this slot holds at `lba`.
fn fresh(slot: u8, lba: usize) -> Vec<u8> {
    (0..512).map(|i| (lba * 31 + i + usize::from(slot) * 7) as u8).collect()
}

#[derive(Clone, Debug)]
struct Shape {
    /// Queues, each with its port and its worker.
    queues: Vec<(u16, u16)>,
    /// Of those, the ones that cannot transmit.
    receive_only: Vec<u16>,
    workers: u16,
    /// Owners of the slots 7.0, 7.1, ...
    slots: Vec<u16>,
    receive: u32,
    runs: u32,
    own: u32,
    pieces: usize,
    sectors: u8,
    cached: bool,
    unit: u32,
    requests: usize,
    net: MemoryConfig,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            queues: vec![(0, 0)],
            receive_only: vec![],
            workers: 1,
            slots: vec![0],
            receive: 64,
            runs: 8,
            own: 8,
            pieces: 3,
            sectors: 16,
            cached: false,
            unit: 1,
            requests: limits::REQUESTS,
            net: MemoryConfig { fill: 32, rx: 32, tx: 32, completion: 32, ..MemoryConfig::default() },
        }
    }
}

struct World {
    shared: Arc<Shared>,
    workers: Vec<TestWorker>,
    wires: Vec<Wire>,
    counters: Vec<Arc<Counters>>,
    leaked_before: u64,
    now: Duration,
    errands: Receiver<Errand>,
    /// Whether states are kept at once.
    keeping: bool,
}

impl World {
    fn new(shape: &Shape) -> Self {
        let shares: Vec<WorkerShare> = (0..shape.workers)
            .map(|w| WorkerShare {
                receive: (0u16..)
                    .zip(&shape.queues)
                    .filter(|(_, q)| q.1 == w)
                    .map(|(i, _)| (QueueId(i), shape.receive))
                    .collect(),
                runs: shape.runs,
                own: shape.own,
            })
            .collect();
        let layout = Layout::plan(&shares).unwrap();
        let region = Arc::new(Region::heap(layout.chunks()));
        let address = |i: usize| Address { shelf: 7, slot: i as u8 };
        let routes =
            Routes::new(shape.slots.iter().enumerate().map(|(i, &w)| (address(i), WorkerId(w)))).unwrap();
        let ports = shape.queues.iter().map(|q| q.0).max().unwrap() + 1;
        let chunks = layout.chunks();
        let shared = Arc::new(Shared {
            region: Arc::clone(&region),
            layout,
            ports: (0..ports)
                .map(|p| {
                    let mtu = u32::from(shape.sectors) * 512 + 36;
                    Port::new(format!("p{p}"), mac(p), mtu, u32::MAX, shape.pieces)
                })
                .collect(),
            queues: shape
                .queues
                .iter()
                .zip(0..)
                .map(|(&(p, w), queue)| QueuePlace {
                    port: PortId(p),
                    worker: WorkerId(w),
                    transmits: !shape.receive_only.contains(&queue),
                })
                .collect(),
            routes,
            posts: (0..shape.workers).map(|_| WorkerPost::for_worker(chunks, 255).unwrap()).collect(),
        });
        let (queues, wires): (Vec<_>, Vec<_>) = (0u16..)
            .zip(&shape.queues)
            .map(|(i, _)| MemoryQueue::new(QueueId(i), Arc::clone(&region), shape.net))
            .unzip();
        let mut queues: Vec<Option<MemoryQueue>> = queues.into_iter().map(Some).collect();
        let (errands, asked) = sync_channel(64);
        let mut workers = Vec::new();
        let mut counters = Vec::new();
        for w in 0..shape.workers {
            let mut storage = MemoryStorage::new(Arc::clone(&region), 256);
            let mut slots = Vec::new();
            for (i, _) in shape.slots.iter().enumerate().filter(|(_, owner)| **owner == w) {
                let disk = (0..SECTORS).flat_map(|lba| fresh(i as u8, lba)).collect();
                let facts = SlotFacts { trim: true, ..SlotFacts::new(address(i), SECTORS as u64) };
                slots.push(SlotPlan {
                    cached: shape.cached,
                    unit: shape.unit,
                    ..SlotPlan::new(facts, storage.add(disk))
                });
            }
            let ours = queues
                .iter_mut()
                .zip(&shape.queues)
                .filter(|(_, q)| q.1 == w)
                .filter_map(|(queue, _)| queue.take())
                .collect();
            let counter = Arc::new(Counters::default());
            let plan = Plan {
                slots,
                requests: shape.requests,
                counters: Arc::clone(&counter),
                errands: Some(errands.clone()),
                ..Plan::new(WorkerId(w), Arc::clone(&shared))
            };
            workers.push(Worker::new(plan, ours, storage).unwrap());
            counters.push(counter);
        }
        Self {
            shared,
            workers,
            wires,
            counters,
            leaked_before: leaked(),
            now: Duration::ZERO,
            errands: asked,
            keeping: true,
        }
    }

    fn turn(&mut self) -> bool {
        let mut busy = false;
        self.now += Duration::from_micros(100);
        if self.keeping {
            self.keep(true);
        }
        for worker in &mut self.workers {
            busy |= worker.turn(self.now);
        }
        self.conserved();
        busy
    }

    /// Keeps every state that was asked to be kept, or says that it could not be. Returns how many.
    fn keep(&mut self, kept: bool) -> usize {
        let saves = self.errands.try_iter().filter_map(|errand| match errand {
            Errand::Save { worker, slot, .. } => Some((worker, slot)),
            Errand::InForce { .. } => None,
        });
        saves
            .map(|(worker, slot)| {
                self.shared.posts[usize::from(worker.0)].command(Control::Saved { slot, kept }).unwrap();
            })
            .count()
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            let busy = self.turn();
            let idle = self.workers.iter().all(Worker::is_idle);
            if !busy && idle && self.shared.posts.iter().all(|post| post.pending() == 0) {
                return;
            }
        }
        panic!("the workers do not come to rest");
    }

    /// The master invariant, whenever no message is on its way between workers.
    fn conserved(&self) {
        if self.shared.posts.iter().all(|post| post.pending() == 0) {
            let all: usize = self.workers.iter().map(|w| w.census().total()).sum();
            assert_eq!(all, self.shared.layout.used());
        }
        assert_eq!(self.total(Counter::Defects), 0);
        assert_eq!(leaked(), self.leaked_before);
    }

    fn total(&self, counter: Counter) -> u64 {
        self.counters.iter().map(|c| c.get(counter)).sum()
    }

    /// Every frame and every request of our own has ended, in exactly one way.
    fn accounted(&self) {
        let came = [Counter::Received, Counter::HandedOver, Counter::WildcardRequests];
        let came: u64 = came.iter().map(|&c| self.total(c)).sum();
        let ended: u64 = Counter::ENDS.iter().map(|&c| self.total(c)).sum();
        assert_eq!(came, ended);
    }

    fn send(&mut self, queue: usize, frame: &[u8]) {
        self.wires[queue].inject(frame).unwrap();
    }

    fn replies(&mut self, queue: usize) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.wires[queue].take()).collect()
    }

    /// One frame in on queue 0, and the frames that come out there.
    fn ask(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        self.send(0, frame);
        self.settle();
        self.accounted();
        self.replies(0)
    }

    fn disk(&mut self, worker: usize, file: u16) -> Vec<u8> {
        self.workers[worker].storage_mut().disk(FileId(file)).to_vec()
    }
}

fn header(to: Mac, slot: u8, command: u8, tag: u32) -> Vec<u8> {
    let mut f = to.0.to_vec();
    f.extend(HOST);
    f.extend([0x88, 0xa2, 0x10, 0, 0, 7, slot, command]);
    f.extend(tag.to_be_bytes());
    f
}

fn ata(slot: u8, tag: u32, opcode: u8, lba: usize, count: u8, data: &[u8]) -> Vec<u8> {
    let mut f = header(mac(0), slot, 0, tag);
    f.extend([0x40, 0, count, opcode]);
    f.extend(&(lba as u64).to_le_bytes()[..6]);
    f.extend([0, 0]);
    f.extend(data);
    f
}

fn read(slot: u8, tag: u32, lba: usize, count: u8) -> Vec<u8> {
    ata(slot, tag, 0x24, lba, count, &[])
}

fn write(slot: u8, tag: u32, lba: usize, data: &[u8]) -> Vec<u8> {
    ata(slot, tag, 0x34, lba, (data.len() / 512) as u8, data)
}

fn tag_of(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[20..24].try_into().unwrap())
}

fn data(seed: u8, sectors: usize) -> Vec<u8> {
    (0..sectors * 512).map(|i| (i / 512 * 13 + i) as u8 ^ seed).collect()
}

#[test]
fn reads_of_every_size_come_back_whole_and_uncopied() {
    let mut world = World::new(&Shape::default());
    for count in 1..=16u8 {
        let replies = world.ask(&read(0, u32::from(count), 3, count));
        assert_eq!(replies.len(), 1, "{count} sectors");
        let reply = &replies[0];
        assert_eq!(reply.len(), 36 + 512 * usize::from(count));
        assert_eq!(reply[..6], HOST);
        assert_eq!(reply[14], 0x18);
        assert_eq!(reply[24..28], [0x40, 0, 0, 0x40]);
        let want: Vec<u8> = (3..3 + usize::from(count)).flat_map(|lba| fresh(0, lba)).collect();
        assert!(reply[36..] == want, "{count} sectors");
    }
    assert_eq!(world.total(Counter::Copies), 0);
}

#[test]
fn writes_are_copied_only_when_spread_over_chunks() {
    let mut world = World::new(&Shape::default());
    for count in 1..=16usize {
        let bytes = data(count as u8, count);
        let replies = world.ask(&write(0, count as u32, 5, &bytes));
        assert_eq!(replies.len(), 1);
        assert_eq!(replies[0].len(), 60, "padded");
        assert_eq!(replies[0][24..28], [0x40, 0, 0, 0x40]);
        assert!(replies[0][36..].iter().all(|&b| b == 0), "no old data in the padding");
        let disk = world.disk(0, 0);
        assert!(disk[5 * 512..][..bytes.len()] == bytes, "{count} sectors");
        assert!(disk[(5 + count) * 512..][..512] == fresh(0, 5 + count));
        assert_eq!(world.total(Counter::Copies), count.saturating_sub(7) as u64);
    }
}

#[test]
fn a_tagged_frame_takes_the_path_for_misaligned_data() {
    let mut world = World::new(&Shape::default());
    let tag = |mut frame: Vec<u8>| {
        frame.splice(12..12, [0x81, 0, 0xa0, 0]);
        frame
    };
    let bytes = data(9, 2);
    let reply = &world.ask(&tag(write(0, 1, 7, &bytes)))[0];
    assert_eq!(reply[12..19], [0x81, 0, 0xa0, 0, 0x88, 0xa2, 0x18]);
    assert_eq!(world.total(Counter::Copies), 1);
    let reply = &world.ask(&tag(read(0, 2, 7, 2)))[0];
    assert_eq!(reply.len(), 40 + 1024);
    assert!(reply[40..] == bytes);
    assert_eq!(world.total(Counter::Copies), 1, "a read goes by way of a run, uncopied");
}

#[test]
fn with_room_for_the_tag_tagged_data_stays_where_it_is() {
    let frame_at = limits::XDP_HEADROOM + limits::TAGGED_HEADROOM;
    let net = MemoryConfig { frame_at, capacity: limits::CHUNK - frame_at, ..Shape::default().net };
    let mut world = World::new(&Shape { net, ..Shape::default() });
    let tag = |mut frame: Vec<u8>| {
        frame.splice(12..12, [0x81, 0, 0, 0]);
        frame
    };
    let bytes = data(9, 7);
    assert_eq!(world.ask(&tag(write(0, 1, 7, &bytes)))[0][31], 0x40);
    assert!(world.ask(&tag(read(0, 2, 7, 7)))[0][40..] == bytes);
    assert_eq!(world.total(Counter::Copies), 0);
}

#[test]
fn a_rung_without_fragments_sends_one_piece() {
    let mut world = World::new(&Shape { pieces: 1, sectors: 4, ..Shape::default() });
    let mut tagged = read(0, 2, 7, 4);
    tagged.splice(12..12, [0x81, 0, 0, 0]);
    let reply = &world.ask(&tagged)[0];
    assert_eq!(reply.len(), 40 + 2048);
    assert!(reply[40..552] == fresh(0, 7));
    assert_eq!(world.total(Counter::Copies), 1);
    let reply = &world.ask(&read(0, 3, 7, 4))[0];
    assert!(reply[36..548] == fresh(0, 7));
    assert_eq!(world.total(Counter::Copies), 1, "aligned, so in place");
}

#[test]
fn a_rung_of_two_pieces_sends_what_it_advertises() {
    // A header chunk and one whole chunk of data: 8 sectors.
    let mut world = World::new(&Shape { pieces: 2, sectors: 8, ..Shape::default() });
    let reply = &world.ask(&read(0, 1, 3, 8))[0];
    assert_eq!(reply.len(), 36 + 4096);
    let want: Vec<u8> = (3..11).flat_map(|lba| fresh(0, lba)).collect();
    assert!(reply[36..] == want);
    assert_eq!(world.total(Counter::Copies), 0);
}

#[test]
fn a_read_may_itself_be_long() {
    // Linux's path probe sends READ with payload over several chunks.
    let mut world = World::new(&Shape::default());
    let replies = world.ask(&ata(0, 1, 0x24, 0, 1, &vec![0x5a; 8192]));
    assert_eq!(replies[0].len(), 548);
    assert!(replies[0][36..] == fresh(0, 0));
}

#[test]
fn a_frame_of_too_many_pieces_is_dropped_and_counted() {
    let net = MemoryConfig { capacity: 600, ..Shape::default().net };
    let mut world = World::new(&Shape { net, ..Shape::default() });
    assert!(world.ask(&ata(0, 1, 0x24, 0, 1, &vec![0; 4000])).is_empty());
    assert_eq!(world.total(Counter::DropOversized), 1);
    assert_eq!(world.ask(&read(0, 2, 0, 1)).len(), 1, "the next one is served");
}

#[test]
fn a_wildcard_is_answered_once_for_every_slot_of_every_worker() {
    let shape = Shape {
        queues: vec![(0, 0), (1, 1)],
        workers: 3,
        slots: vec![0, 1, 2, 0, 1, 2, 2],
        own: 1,
        ..Shape::default()
    };
    let mut world = World::new(&shape);
    let mut query = header(Mac::BROADCAST, 0xff, 1, 0);
    query[16..18].fill(0xff);
    query.resize(32, 0);
    let replies = world.ask(&query);
    let mut slots: Vec<u8> = replies.iter().map(|r| r[18]).collect();
    slots.sort_unstable();
    assert_eq!(slots, [0, 1, 2, 3, 4, 5, 6]);
    for reply in &replies {
        assert_eq!((reply.len(), &reply[..6], &reply[6..12]), (60, &HOST[..], &mac(0).0[..]));
        assert_eq!(reply[16..18], [0, 7], "the real shelf");
        assert_eq!(reply[28], 16);
    }
    assert!(world.replies(1).is_empty(), "the answer leaves by the port of arrival");
    // Half a wildcard, and IDENTIFY as WinAoE sends it; another shelf is not ours.
    query[16..18].copy_from_slice(&[0, 7]);
    assert_eq!(world.ask(&query).len(), 7);
    query[16..18].copy_from_slice(&[0, 8]);
    assert!(world.ask(&query).is_empty());
    let mut identify = ata(0xff, 3, 0xec, 0, 1, &[]);
    identify[16..18].fill(0xff);
    assert!(world.ask(&identify).iter().all(|r| r.len() == 548));
    // A read of all slots is a read of each; a write is refused.
    let mut everything = read(0xff, 4, 2, 9);
    everything[16..18].fill(0xff);
    let replies = world.ask(&everything);
    assert_eq!(replies.len(), 7);
    for reply in replies {
        assert!(reply[36..548] == fresh(reply[18], 2));
    }
    let mut overwrite = write(0xff, 5, 0, &data(1, 1));
    overwrite[16..18].fill(0xff);
    assert!(world.ask(&overwrite).is_empty());
    assert_eq!(world.total(Counter::DropWildcard), 7);
    assert_eq!(world.total(Counter::Writes), 0);
}

#[test]
fn a_worker_without_a_queue_serves_its_slots_by_hand_off() {
    let mut world = World::new(&Shape { workers: 2, slots: vec![1, 1], ..Shape::default() });
    let bytes = data(3, 16);
    assert_eq!(world.ask(&write(1, 1, 0, &bytes)).len(), 1);
    let reply = &world.ask(&read(1, 2, 0, 16))[0];
    assert!(reply[36..] == bytes);
    assert_eq!(world.total(Counter::HandedOver), 2);
    assert_eq!(world.counters[1].get(Counter::Replies), 2, "the owner answered");
}

#[test]
fn the_reply_leaves_by_the_port_of_arrival() {
    let shape = Shape { queues: vec![(0, 0), (1, 1)], workers: 2, slots: vec![0, 1], ..Shape::default() };
    let mut world = World::new(&shape);
    let mut frame = read(0, 1, 0, 1);
    frame[..6].copy_from_slice(&mac(1).0);
    world.send(1, &frame);
    world.settle();
    assert!(world.replies(0).is_empty());
    let replies = world.replies(1);
    assert_eq!(replies.len(), 1);
    assert_eq!(replies[0][6..12], mac(1).0);
}

#[test]
fn every_slot_is_announced_on_every_port() {
    let shape =
        Shape { queues: vec![(0, 0), (1, 0)], workers: 2, slots: vec![0, 1, 1], own: 2, ..Shape::default() };
    let mut world = World::new(&shape);
    for post in &world.shared.posts {
        post.command(Control::Announce).unwrap();
    }
    world.settle();
    for port in 0..2 {
        let mut slots: Vec<u8> = world
            .replies(usize::from(port))
            .iter()
            .map(|f| {
                assert_eq!(f[..6], [0xff; 6]);
                assert_eq!(f[6..12], mac(port).0);
                assert_eq!((f[14], tag_of(f), f.len()), (0x18, 0, 60));
                f[18]
            })
            .collect();
        slots.sort_unstable();
        assert_eq!(slots, [0, 1, 2], "port {port}");
    }
    assert_eq!(world.total(Counter::Announcements), 6);
}

#[test]
fn a_port_that_is_down_does_not_keep_slots_from_being_found_on_another() {
    // More slots than chunks of our own, so that nothing would be left for the other port.
    let shape = Shape { queues: vec![(0, 0), (1, 0)], slots: vec![0; 9], own: 8, ..Shape::default() };
    let mut world = World::new(&shape);
    world.shared.ports[1].set_running(false);
    world.wires[1].set_transmission(Transmission::Down(libc::ENETDOWN));
    let (worker, post) = (&mut world.workers[0], &world.shared.posts[0]);
    for _ in 0..3 {
        post.command(Control::Announce).unwrap();
        for _ in 0..200 {
            world.now += Duration::from_millis(1);
            worker.turn(world.now);
        }
    }
    assert_eq!(world.replies(0).len(), 3 * 9);
    world.send(0, &header(Mac::BROADCAST, 0xff, 1, 7).into_iter().chain([0; 8]).collect::<Vec<_>>());
    world.settle();
    assert_eq!(world.replies(0).len(), 9, "and it comes to rest");
    // What was not said there is said when the link is up.
    world.wires[1].set_transmission(Transmission::Open);
    world.shared.ports[1].set_running(true);
    world.shared.posts[0].command(Control::AnnounceOn(PortId(1))).unwrap();
    world.settle();
    assert_eq!((world.replies(0).len(), world.replies(1).len()), (0, 9));
}

#[test]
fn a_late_duplicate_write_cannot_undo_a_newer_one() {
    let mut world = World::new(&Shape::default());
    world.workers[0].storage_mut().schedule(Schedule::Held);
    let (old, new) = (data(1, 2), data(2, 2));
    // The write, another host's of the same data, the newer write: all at the disk at once if nothing held them back.
    for (tag, bytes) in [(1, &old), (2, &old), (3, &new)] {
        let mut frame = write(0, tag, 10, bytes);
        frame[11] ^= u8::from(tag == 2);
        world.send(0, &frame);
    }
    world.send(0, &read(0, 4, 11, 1));
    let mut tags = Vec::new();
    for _ in 0..20 {
        world.turn();
        // The disk ends the newest job first.
        let newest = world.workers[0].storage_mut().waiting().last();
        if let Some(ticket) = newest {
            assert!(world.workers[0].storage_mut().release_ticket(ticket));
        }
        tags.extend(world.replies(0).iter().map(|r| tag_of(r)));
    }
    assert_eq!(tags, [1, 2, 3, 4]);
    let disk = world.disk(0, 0);
    assert!(disk[10 * 512..12 * 512] == new);
    assert_eq!(world.total(Counter::Parked), 3);
    world.settle();
    world.accounted();
}

/// A write, a newer one to the same sectors, and then the first again under a new tag, because its answer takes long.
#[test]
fn a_copy_of_a_write_in_flight_is_answered_with_it_and_does_not_run() {
    // In place, in a run, and spread over chunks.
    for sectors in [2, 7, 8, 16] {
        let mut world = World::new(&Shape::default());
        world.workers[0].storage_mut().schedule(Schedule::Held);
        let (old, new) = (data(1, sectors), data(2, sectors));
        for (tag, bytes) in [(1, &old), (2, &new), (3, &old), (4, &new), (5, &old)] {
            world.send(0, &write(0, tag, 10, bytes));
            world.turn();
        }
        assert_eq!(world.total(Counter::Duplicates), 3, "{sectors} sectors");
        assert_eq!(world.workers[0].storage_mut().release(1), 1);
        world.turn();
        let mut tags: Vec<_> = world.replies(0).iter().map(|r| (tag_of(r), r[27])).collect();
        tags.sort_unstable();
        assert_eq!(tags, [(1, 0x40), (3, 0x40), (5, 0x40)], "with the first, not behind the newer one");
        assert_eq!(world.workers[0].storage_mut().release(1), 1);
        world.settle();
        let mut tags: Vec<_> = world.replies(0).iter().map(|r| tag_of(r)).collect();
        tags.sort_unstable();
        assert_eq!(tags, [2, 4]);
        assert_eq!(world.total(Counter::Writes), 2);
        assert!(world.disk(0, 0)[10 * 512..(10 + sectors) * 512] == new);
        world.accounted();
        // Once it is answered, the same again is a new write.
        world.workers[0].storage_mut().schedule(Schedule::InOrder);
        assert_eq!(world.ask(&write(0, 6, 10, &old)).len(), 1);
        assert!(world.disk(0, 0)[10 * 512..(10 + sectors) * 512] == old);
    }
}

#[test]
fn only_what_is_equal_in_source_range_kind_and_bytes_is_a_copy() {
    let bytes = data(1, 4);
    let mut other = bytes.clone();
    other[4 * 512 - 1] ^= 1;
    let through = |tag, lba, data: &[u8]| ata(0, tag, 0x3d, lba, 4, data);
    let mut stranger = write(0, 2, 10, &bytes);
    stranger[11] ^= 1;
    for frame in [
        stranger,
        write(0, 2, 11, &bytes),
        write(0, 2, 10, &bytes[..512]),
        write(0, 2, 10, &other),
        through(2, 10, &bytes),
    ] {
        let mut world = World::new(&Shape::default());
        world.workers[0].storage_mut().schedule(Schedule::Held);
        world.send(0, &write(0, 1, 10, &bytes));
        world.send(0, &frame);
        world.turn();
        assert_eq!((world.total(Counter::Duplicates), world.total(Counter::Parked)), (0, 1));
        world.workers[0].storage_mut().schedule(Schedule::InOrder);
        world.settle();
        assert_eq!(world.total(Counter::Writes), 2);
        assert_eq!(world.replies(0).len(), 2);
        world.accounted();
    }
}

#[test]
fn a_copy_fails_with_its_write_and_takes_no_more_than_its_share() {
    let mut world = World::new(&Shape { requests: 8, ..Shape::default() });
    world.workers[0].storage_mut().schedule(Schedule::Held);
    world.workers[0].storage_mut().fail(FileId(0), Verb::Write, Fault::once(Failure::Errno(libc::EIO)));
    for tag in 0..8 {
        world.send(0, &write(0, tag, 10, &data(1, 9)));
        world.turn();
    }
    let copies = world.total(Counter::Duplicates);
    assert_eq!((copies, world.total(Counter::DropRequests)), (4, 3), "of 8 requests, one slot has 5 at most");
    world.workers[0].storage_mut().release(1);
    world.settle();
    let status: Vec<_> = world.replies(0).iter().map(|r| r[27]).collect();
    assert_eq!(status, [0x61; 5]);
    world.accounted();
}

/// Through the page cache the loss of one write may be told to another, and the write that was lost may hear that all is
/// well: it must not be answered before the other has ended.
#[test]
fn through_the_page_cache_a_good_end_waits_for_what_was_at_the_disk_with_it() {
    for fails in [true, false] {
        let mut world = World::new(&Shape { cached: true, ..Shape::default() });
        let storage = world.workers[0].storage_mut();
        storage.schedule(Schedule::Held);
        for tag in 0..3 {
            world.send(0, &write(0, tag, 8 * tag as usize, &data(tag as u8, 2)));
        }
        world.turn();
        let tickets: Vec<_> = world.workers[0].storage_mut().waiting().collect();
        assert!(world.workers[0].storage_mut().release_ticket(tickets[1]));
        world.turn();
        // It begins after the other has ended, so that its end need not be waited for.
        world.send(0, &write(0, 3, 40, &data(3, 2)));
        // What overlaps waits for the answer, and a copy is still one.
        world.send(0, &write(0, 4, 8, &data(1, 2)));
        world.send(0, &read(0, 5, 9, 1));
        world.turn();
        assert_eq!(world.replies(0).len(), 0);
        assert_eq!(world.total(Counter::Duplicates), 1);
        world.workers[0].storage_mut().release_ticket(tickets[2]);
        world.turn();
        assert_eq!(world.replies(0).len(), 0);
        if fails {
            let fault = Fault::once(Failure::Errno(libc::EIO));
            world.workers[0].storage_mut().fail(FileId(0), Verb::Write, fault);
        }
        world.workers[0].storage_mut().release_ticket(tickets[0]);
        world.turn();
        let mut status: Vec<_> = world.replies(0).iter().map(|r| (tag_of(r), r[27])).collect();
        status.sort_unstable();
        // What failed does not wait; the fourth is at the disk yet, and was not when the second ended.
        let want = if fails { &[(0, 0x61), (1, 0x61), (4, 0x61)][..] } else { &[(1, 0x40), (4, 0x40)] };
        assert_eq!(status, want, "fails: {fails}");
        world.workers[0].storage_mut().schedule(Schedule::InOrder);
        world.settle();
        let rest: Vec<_> = world.replies(0).iter().map(|r| r[27]).collect();
        assert_eq!(rest.len() + status.len(), 6);
        assert_eq!(rest.iter().filter(|status| **status == 0x61).count(), if fails { 2 } else { 0 });
        world.accounted();
    }
}

#[test]
fn what_the_disk_fails_is_an_ata_status() {
    for (verb, frame, failure, want) in [
        (Verb::Read, read(0, 1, 0, 1), Failure::Errno(libc::EIO), [0x40, 1, 0x41]),
        (Verb::Read, read(0, 1, 0, 16), Failure::Short, [0x40, 16, 0x41]),
        (Verb::Read, read(0, 1, 0, 1), Failure::Errno(libc::ENODEV), [0x04, 1, 0x61]),
        (Verb::Write, write(0, 1, 0, &data(1, 1)), Failure::Errno(libc::EIO), [0x04, 1, 0x61]),
        (Verb::Write, write(0, 1, 0, &data(1, 9)), Failure::Errno(libc::ENOSPC), [0x04, 9, 0x61]),
        (Verb::Flush, ata(0, 1, 0xe7, 0, 0, &[]), Failure::Errno(libc::EIO), [0x04, 0, 0x61]),
    ] {
        let mut world = World::new(&Shape::default());
        world.workers[0].storage_mut().fail(FileId(0), verb, Fault::once(failure));
        let replies = world.ask(&frame);
        assert_eq!(replies.len(), 1);
        let reply = &replies[0];
        assert_eq!(
            (reply.len(), reply[14], reply[25..28].to_vec()),
            (60, 0x18, want.to_vec()),
            "{verb:?} {failure}"
        );
        // After a failed flush or write nothing is promised durable any more; a full disk is no damage.
        let gone = failure.is_gone();
        let broken = gone || verb != Verb::Read && failure != Failure::Errno(libc::ENOSPC);
        let status = world.ask(&write(0, 2, 0, &data(1, 1)))[0][27];
        assert_eq!(status, if broken { 0x61 } else { 0x40 }, "{verb:?} {failure}");
        let status = world.ask(&ata(0, 3, 0xea, 0, 0, &[]))[0][27];
        assert_eq!(
            status,
            if broken { 0x61 } else { 0x40 },
            "a later flush is not success: {verb:?} {failure}"
        );
        let status = world.ask(&read(0, 4, 0, 1))[0][27];
        assert_eq!(status, if gone { 0x61 } else { 0x40 }, "reads go on while there is a disk");
        let kind = world.workers[0].board().slot(0).unwrap().condition();
        match kind {
            Condition::Serving => assert!(!broken, "{failure}"),
            Condition::Failed(_) => assert!(broken && !gone, "{failure}"),
            Condition::Gone(_) => assert!(gone, "{failure}"),
        }
    }
}

/// Another backing for a slot, which its worker then has orders to take.
fn bring(world: &World, bytes: Vec<u8>) {
    world.workers[0].board().slot(0).unwrap().bring(Box::new(bytes));
    world.shared.posts[0].command(Control::Replace { slot: 0 }).unwrap();
}

#[test]
fn a_failed_slot_serves_again_by_another_way_to_its_disk_once_nothing_is_in_flight() {
    let mut world = World::new(&Shape { slots: vec![0, 0], ..Shape::default() });
    let eio = Failure::Errno(libc::EIO);
    world.workers[0].storage_mut().fail(FileId(0), Verb::Write, Fault::once(eio));
    assert_eq!(world.ask(&write(0, 1, 0, &data(1, 1)))[0][27], 0x61);
    let board = world.workers[0].board();
    let why = Why { tried: Tried::Write, errno: libc::EIO };
    assert_eq!(board.slot(0).unwrap().condition(), Condition::Failed(why));
    assert_eq!(board.slot(1).unwrap().condition(), Condition::Serving);

    world.workers[0].storage_mut().schedule(Schedule::Held);
    world.send(0, &read(0, 2, 5, 1));
    world.turn();
    assert_eq!(board.slot(0).unwrap().in_flight(), 1);
    let other: Vec<u8> = (0..SECTORS).flat_map(|lba| fresh(9, lba)).collect();
    bring(&world, other.clone());
    world.send(0, &read(0, 3, 5, 1));
    world.turn();
    // What comes meanwhile is repeated by its host: it must not be mixed with what was there before.
    assert_eq!(world.total(Counter::DropRecovering), 1);
    assert!(matches!(board.slot(0).unwrap().condition(), Condition::Failed(_)), "a read is in flight");
    world.send(0, &read(1, 4, 5, 1));
    world.workers[0].storage_mut().release(usize::MAX);
    world.turn();
    world.workers[0].storage_mut().schedule(Schedule::InOrder);
    world.settle();
    let replies = world.replies(0);
    let answers: Vec<_> = replies.iter().filter(|r| r[19] == 0).map(|r| (tag_of(r), r[27])).collect();
    assert_eq!(answers, [(2, 0x40), (4, 0x40)], "the neighbour is not disturbed");
    assert!(replies.iter().any(|r| r[19] == 1 && tag_of(r) == 0 && r[18] == 0), "it is announced");
    assert_eq!(board.slot(0).unwrap().condition(), Condition::Serving);
    let old = board.slot(0).unwrap().collect().unwrap().downcast::<Vec<u8>>().unwrap();
    assert!(old[..512] == fresh(0, 0), "the old backing is given back");
    assert!(world.ask(&read(0, 5, 5, 1))[0][36..] == fresh(9, 5));
    assert_eq!(world.ask(&write(0, 6, 0, &data(2, 1)))[0][27], 0x40);
    assert_eq!(world.ask(&ata(0, 7, 0xe7, 0, 0, &[]))[0][27], 0x40);
    assert!(world.disk(0, 0)[512..] == other[512..]);
}

#[test]
fn a_disk_that_is_gone_is_let_go_and_taken_back() {
    let mut world = World::new(&Shape::default());
    let cell = |world: &World| world.workers[0].board();
    world.workers[0].storage_mut().schedule(Schedule::Held);
    world.send(0, &read(0, 1, 0, 1));
    world.turn();
    let why = Why { tried: Tried::Look, errno: libc::ENXIO };
    world.shared.posts[0].command(Control::Gone { slot: 0, why }).unwrap();
    world.shared.posts[0].command(Control::Release { slot: 0 }).unwrap();
    world.turn();
    assert_eq!(cell(&world).slot(0).unwrap().condition(), Condition::Gone(why));
    assert!(cell(&world).slot(0).unwrap().collect().is_none(), "the kernel may still work on it");
    world.workers[0].storage_mut().release(usize::MAX);
    world.workers[0].storage_mut().schedule(Schedule::InOrder);
    world.settle();
    let old = cell(&world).slot(0).unwrap().collect().unwrap().downcast::<Vec<u8>>().unwrap();
    assert!(old[..512] == fresh(0, 0));
    world.replies(0);
    for frame in [read(0, 2, 0, 1), write(0, 3, 0, &data(1, 1)), ata(0, 4, 0xe7, 0, 0, &[])] {
        assert_eq!(world.ask(&frame)[0][27], 0x61);
    }
    assert_eq!(world.ask(&ata(0, 5, 0xec, 0, 1, &[]))[0][27], 0x40, "it still says who it is");
    bring(&world, *old);
    world.settle();
    assert_eq!(cell(&world).slot(0).unwrap().condition(), Condition::Serving);
    assert_eq!(world.replies(0).len(), 1, "announced");
    assert!(world.ask(&read(0, 6, 0, 1))[0][36..] == fresh(0, 0));
}

/// A device is measured, becomes another size, and takes the place of the one before only then.
#[test]
fn a_disk_that_comes_back_is_as_long_as_its_slot_says() {
    let mut world = World::new(&Shape::default());
    world.workers[0].storage_mut().schedule(Schedule::Held);
    world.send(0, &read(0, 1, 0, 1));
    world.turn();
    let bytes: Vec<u8> = (0..SECTORS).flat_map(|lba| fresh(9, lba)).collect();
    bring(&world, bytes.clone());
    let half = SECTORS as u64 / 2;
    world.shared.posts[0].command(Control::Resized { slot: 0, sectors: half }).unwrap();
    world.turn();
    world.workers[0].storage_mut().schedule(Schedule::InOrder);
    world.workers[0].storage_mut().release(usize::MAX);
    world.settle();
    assert_eq!(world.workers[0].storage_mut().served(FileId(0)), bytes.len() / 2);
}

#[test]
fn how_long_a_disk_takes_is_seen_while_it_does() {
    let mut world = World::new(&Shape { slots: vec![0, 0], ..Shape::default() });
    let board = world.workers[0].board();
    let waited = |slot| board.slot(slot).unwrap().waited();
    world.workers[0].storage_mut().schedule(Schedule::Held);
    world.send(0, &read(0, 1, 0, 1));
    world.turn();
    for _ in 0..6 {
        world.now += Duration::from_secs(1);
        world.turn();
    }
    assert!(waited(0) >= Duration::from_secs(6) && waited(1).is_zero(), "{:?}", waited(0));
    // Another command does not make the first one younger.
    world.send(0, &read(0, 2, 8, 1));
    world.now += Duration::from_secs(1);
    world.turn();
    assert!(waited(0) >= Duration::from_secs(7));
    world.workers[0].storage_mut().release(usize::MAX);
    world.now += Duration::from_secs(1);
    world.turn();
    world.now += Duration::from_secs(1);
    world.turn();
    assert!(waited(0).is_zero());
    assert_eq!(board.slot(0).unwrap().in_flight(), 0);
    world.workers[0].storage_mut().schedule(Schedule::InOrder);
    world.settle();
    world.accounted();
}

#[test]
fn after_a_failure_nothing_in_flight_is_answered_as_durable() {
    // The kernel reports lost data once. Whatever asks again at the same time hears that all is well.
    let flush = |tag| ata(0, tag, 0xea, 0, 0, &[]);
    for (verb, frames) in [
        (Verb::Flush, [flush(1), flush(2), flush(3)]),
        (
            Verb::Write,
            [write(0, 1, 0, &data(1, 1)), write(0, 2, 0, &data(2, 1)), write(0, 3, 8, &data(3, 1))],
        ),
    ] {
        let mut world = World::new(&Shape::default());
        let storage = world.workers[0].storage_mut();
        storage.schedule(Schedule::Held);
        storage.fail(FileId(0), verb, Fault::once(Failure::Errno(libc::EIO)));
        for frame in &frames {
            world.send(0, frame);
        }
        world.send(0, &read(0, 4, 16, 1));
        world.turn();
        while !world.workers[0].is_idle() {
            world.workers[0].storage_mut().release(1);
            world.turn();
        }
        let mut status: Vec<_> = world.replies(0).iter().map(|r| (tag_of(r), r[27])).collect();
        status.sort_unstable();
        assert_eq!(status, [(1, 0x61), (2, 0x61), (3, 0x61), (4, 0x40)], "{verb:?}");
        world.accounted();
    }
}

#[test]
fn a_device_that_hangs_leaves_room_for_the_others() {
    let shape = Shape {
        slots: vec![0, 0],
        receive: 2 * limits::REQUESTS as u32,
        net: MemoryConfig::default(),
        ..Shape::default()
    };
    for (count, drops) in [(16, Counter::DropRuns), (1, Counter::DropRequests)] {
        let mut world = World::new(&shape);
        let storage = world.workers[0].storage_mut();
        storage.set_capacity(limits::REQUESTS);
        storage.schedule(Schedule::Held);
        for tag in 0..limits::REQUESTS as u32 + 10 {
            // Of many hosts, none of which has much.
            let mut frame = read(0, tag, 0, count);
            frame[11] = tag as u8;
            world.send(0, &frame);
            world.turn();
        }
        assert!(world.total(drops) > 0, "{count} sectors");
        let (before, mut tickets) = (world.total(drops), world.workers[0].storage_mut().waiting().count());
        world.send(0, &read(1, 1 << 20, 0, count));
        world.turn();
        tickets += 1;
        assert_eq!(world.total(drops), before, "{count} sectors");
        let storage = world.workers[0].storage_mut();
        assert_eq!(storage.waiting().count(), tickets);
        storage.schedule(Schedule::InOrder);
        storage.release(usize::MAX);
        world.settle();
        assert_eq!(world.replies(0).len(), tickets);
        assert_eq!(world.ask(&read(0, 1 << 21, 0, count)).len(), 1, "what it had is free again");
    }
}

#[test]
fn a_host_leaves_room_for_others_and_then_shares_with_them() {
    let from = |host: u8, mut frame: Vec<u8>| {
        frame[11] = host;
        frame
    };
    // Entries of requests are scarce, or runs.
    for (runs, sectors) in [(64, 2), (16, 8)] {
        let slots = vec![0; 8];
        let mut world = World::new(&Shape { requests: 16, runs, slots, ..Shape::default() });
        world.workers[0].storage_mut().schedule(Schedule::Held);
        let mut tag = 0;
        let mut ask = |world: &mut World, host: u8, times: u32| {
            for _ in 0..times {
                tag += 1;
                world.send(0, &from(host, read((tag % 8) as u8, u32::from(host) << 24 | tag, 0, sectors)));
                world.turn();
            }
        };
        ask(&mut world, 1, 40);
        // Alone, it has all but an eighth.
        assert_eq!(world.workers[0].storage_mut().in_flight(), 14, "{sectors}");
        assert_eq!(world.total(Counter::DropShare), 26);
        ask(&mut world, 2, 1);
        assert_eq!(world.workers[0].storage_mut().in_flight(), 15, "another finds room");
        // Both ask for all they can get, one of them eight times as often, while the disk does one command after the other.
        for _ in 0..100 {
            world.workers[0].storage_mut().release(1);
            ask(&mut world, 1, 8);
            ask(&mut world, 2, 1);
        }
        let served = world.replies(0);
        let of = |host: u8| served.iter().filter(|reply| reply[5] == host).count();
        assert_eq!(served.len(), 100);
        assert!(of(2) >= 25, "the one that asks less had {} of 100, the other {}", of(2), of(1));
        world.workers[0].storage_mut().schedule(Schedule::InOrder);
        world.workers[0].storage_mut().release(usize::MAX);
        world.settle();
        world.accounted();
    }
}

/// Devices that hang collect commands for as long as they do: what hosts send again, too.
#[test]
fn devices_that_hang_leave_a_host_enough_for_its_other_slots() {
    // How many hang for each host, how many hosts there are, and what is scarce.
    for (hung, hosts, runs, sectors) in
        [(3, 1, 256, 2), (1, 2, 256, 2), (1, 3, 256, 2), (3, 1, 32, 8), (1, 2, 32, 8)]
    {
        let shape = Shape { requests: 64, runs, slots: vec![0; 8], receive: 512, ..Shape::default() };
        let mut world = World::new(&shape);
        let mut tag = 0;
        let mut ask = |world: &mut World, host: u8, slot: u8| {
            tag += 1;
            let mut frame = read(slot, tag, 0, sectors);
            frame[11] = host;
            world.send(0, &frame);
            world.turn();
            tag
        };
        world.workers[0].storage_mut().schedule(Schedule::Held);
        for host in 0..hosts {
            for slot in host * hung..(host + 1) * hung {
                for _ in 0..100 {
                    ask(&mut world, host, slot);
                }
            }
        }
        let stuck = world.workers[0].storage_mut().waiting().count();
        for host in 0..hosts {
            let asked = [(); 2].map(|()| ask(&mut world, host, 7));
            let tickets: Vec<_> = world.workers[0].storage_mut().waiting().skip(stuck).collect();
            assert_eq!(
                tickets.len(),
                2,
                "{hung} hang, host {host} of {hosts} asks another slot, {stuck} are stuck"
            );
            for ticket in tickets {
                world.workers[0].storage_mut().release_ticket(ticket);
            }
            world.turn();
            let answered: Vec<_> = world.replies(0).iter().map(|reply| tag_of(reply)).collect();
            assert_eq!(answered, asked);
        }
        world.workers[0].storage_mut().schedule(Schedule::InOrder);
        world.workers[0].storage_mut().release(usize::MAX);
        world.settle();
        world.accounted();
    }
}

#[test]
fn of_two_flushes_the_second_waits_for_what_the_first_finds() {
    let mut world = World::new(&Shape::default());
    let storage = world.workers[0].storage_mut();
    storage.schedule(Schedule::Reversed);
    storage.fail(FileId(0), Verb::Flush, Fault::once(Failure::Errno(libc::EIO)));
    for tag in 1..=2 {
        world.send(0, &ata(0, tag, 0xea, 0, 0, &[]));
    }
    world.settle();
    let status: Vec<_> = world.replies(0).iter().map(|r| r[27]).collect();
    assert_eq!(status, [0x61, 0x61]);
}

#[test]
fn what_waited_while_the_backing_became_shorter_is_out_of_range_and_no_damage() {
    let mut world = World::new(&Shape::default());
    let last = SECTORS - 1;
    world.workers[0].storage_mut().schedule(Schedule::Held);
    for tag in 1..=2 {
        world.send(0, &write(0, tag, last, &data(1, 1)));
        world.turn();
    }
    let half = SECTORS as u64 / 2;
    world.shared.posts[0].command(Control::Resized { slot: 0, sectors: half }).unwrap();
    world.turn();
    world.workers[0].storage_mut().schedule(Schedule::InOrder);
    world.settle();
    let answers: Vec<_> =
        world.replies(0).iter().filter(|r| r[19] == 0).map(|r| (r[23], r[27], r[25])).collect();
    assert_eq!(answers, [(1, 0x41, 0x10), (2, 0x41, 0x10)]);
    assert_eq!(world.ask(&write(0, 3, 0, &data(1, 1)))[0][27], 0x40, "writes within are taken");
}

#[test]
fn no_room_is_damage_where_the_page_cache_is_between() {
    for (cached, later) in [(false, 0x40), (true, 0x61)] {
        let mut world = World::new(&Shape { cached, ..Shape::default() });
        let fault = Fault::once(Failure::Errno(libc::ENOSPC));
        world.workers[0].storage_mut().fail(FileId(0), Verb::Write, fault);
        assert_eq!(world.ask(&write(0, 1, 0, &data(1, 1)))[0][27], 0x61);
        assert_eq!(world.ask(&write(0, 2, 0, &data(1, 1)))[0][27], later, "cached: {cached}");
    }
}

#[test]
fn scarcity_drops_and_counts_and_recovers() {
    let shape = Shape { receive: 24, runs: 2, ..Shape::default() };
    let mut world = World::new(&shape);
    world.workers[0].storage_mut().schedule(Schedule::Held);
    for tag in 0..5 {
        // One host does not get all there is.
        let mut frame = read(0, tag, 0, 16);
        frame[11] = tag as u8 % 2;
        world.send(0, &frame);
        world.turn();
    }
    assert_eq!(world.total(Counter::DropRuns), 3);
    world.workers[0].storage_mut().schedule(Schedule::InOrder);
    world.workers[0].storage_mut().release(usize::MAX);
    world.settle();
    assert_eq!(world.replies(0).len(), 2);
    assert_eq!(world.ask(&read(0, 9, 0, 16)).len(), 1);
}

#[test]
fn chunks_of_another_worker_are_not_slept_upon() {
    let mut world =
        World::new(&Shape { queues: vec![(0, 0), (0, 1)], workers: 2, slots: vec![1], ..Shape::default() });
    world.wires[1].set_completions(Visibility::Held);
    world.send(0, &read(0, 1, 0, 1));
    while world.replies(1).is_empty() {
        world.turn();
    }
    assert!(world.workers[1].starved(), "worker 0 may have nothing else to receive into");
    world.wires[1].set_transmission(Transmission::Down(libc::ENETDOWN));
    world.send(0, &read(0, 2, 0, 1));
    for _ in 0..4 {
        world.turn();
    }
    assert!(!world.workers[1].starved(), "a port that is down gives nothing back however often it is asked");
    world.wires[1].set_transmission(Transmission::Open);
    world.wires[1].set_completions(Visibility::AtOnce);
    world.settle();
    assert!(!world.workers[1].starved());
}

#[test]
fn a_queue_that_cannot_transmit_answers_by_another_of_its_port() {
    // Queues 0 and 1 of port 0, and queue 2 of port 1; worker 2 has none, worker 1 only one that cannot transmit.
    let shape = Shape {
        queues: vec![(0, 0), (0, 1), (1, 0), (0, 0)],
        receive_only: vec![1, 3],
        workers: 3,
        slots: vec![0, 1, 2],
        ..Shape::default()
    };
    let mut world = World::new(&shape);
    for wire in [1, 3] {
        world.wires[wire].set_transmission(Transmission::Refused);
    }
    for (queue, slot) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (3, 0), (3, 1), (3, 2)] {
        world.send(queue, &read(slot, 7, 0, 16));
        world.settle();
        let replies = world.replies(0);
        assert_eq!(replies.len(), 1, "queue {queue}, slot {slot}");
        assert!(replies[0][36..548] == fresh(slot, 0));
    }
    world.accounted();
}

#[test]
fn a_full_storage_is_tried_again() {
    let mut world = World::new(&Shape::default());
    world.workers[0].storage_mut().set_capacity(1);
    for tag in 0..8 {
        world.send(0, &read(0, tag, tag as usize, 1));
    }
    world.settle();
    assert_eq!(world.replies(0).len(), 8);
}

#[test]
fn a_worker_whose_storage_is_full_and_hangs_may_sleep() {
    let mut world = World::new(&Shape::default());
    world.workers[0].storage_mut().set_capacity(1);
    world.workers[0].storage_mut().schedule(Schedule::Held);
    for tag in 0..8 {
        world.send(0, &read(0, tag, tag as usize, 1));
    }
    let turned: Vec<bool> = (0..4).map(|t| world.workers[0].turn(Duration::from_millis(t))).collect();
    assert_eq!(turned, [true, false, false, false], "nothing more can happen");
    assert!(!world.workers[0].restless(), "it would turn and turn until the device answers");
    // Once before it is asked what has ended and once after, and not for each of the seven that wait.
    let before = world.workers[0].storage_mut().refusals();
    world.turn();
    let refusals = world.workers[0].storage_mut().refusals() - before;
    assert_eq!(refusals, 2, "it is full for all of them alike");
    world.workers[0].storage_mut().schedule(Schedule::InOrder);
    world.settle();
    let tags: Vec<u32> = world.replies(0).iter().map(|reply| tag_of(reply)).collect();
    assert!(tags.into_iter().eq(0..8), "in the order in which they came");
}

#[test]
fn a_port_that_does_not_transmit_holds_the_frames_back() {
    let mut world = World::new(&Shape::default());
    world.wires[0].set_transmission(Transmission::Refused);
    for tag in 0..8 {
        world.send(0, &read(0, tag, 0, 16));
        world.turn();
    }
    assert!(world.replies(0).is_empty());
    assert!(!world.workers[0].is_idle());
    assert!(world.workers[0].restless(), "never sleep on frames the kernel did not take");
    world.wires[0].set_transmission(Transmission::Budget(2));
    world.settle();
    assert_eq!(world.replies(0).len(), 8);
    world.accounted();
}

#[test]
fn at_the_end_nobody_waits_for_a_port_that_is_down() {
    for carrier in [true, false] {
        // Two of TX, so that frames wait behind it as well.
        let net = MemoryConfig { tx: 4, completion: 4, ..Shape::default().net };
        let mut world = World::new(&Shape { net, own: 1, slots: vec![0; 3], ..Shape::default() });
        // The kernel says that it is down, or takes nothing because there is no carrier.
        world.shared.ports[0].set_running(carrier);
        for tag in 0..4 {
            world.send(0, &read(0, tag, 0, 8));
        }
        world.send(0, &header(Mac::BROADCAST, 0xff, 1, 7).into_iter().chain([0; 8]).collect::<Vec<_>>());
        let down = if carrier { Transmission::Down(libc::ENETDOWN) } else { Transmission::Refused };
        world.wires[0].set_transmission(down);
        for _ in 0..50 {
            world.turn();
        }
        assert!(!world.workers[0].is_idle(), "it may come up again");
        world.shared.posts[0].command(Control::Drain).unwrap();
        world.turn();
        assert!(world.workers[0].is_idle());
        let census = world.workers[0].census();
        assert!(census.waiting > 0 && census.transmit > 0, "{census:?}");
        assert_eq!(world.total(Counter::Unsent), 0);
        world.workers[0].give_up_sending();
        assert_eq!(world.total(Counter::Unsent), (census.waiting + census.transmit) as u64);
        world.accounted();
    }
}

fn set(slot: u8, tag: u32, command: u8, text: &[u8]) -> Vec<u8> {
    let mut f = header(mac(0), slot, 1, tag);
    f.extend([0, 0, 0, 0, 0, command]);
    f.extend((text.len() as u16).to_be_bytes());
    f.extend(text);
    f
}

/// The string of a config reply.
fn string(reply: &[u8]) -> &[u8] {
    &reply[32..32 + usize::from(u16::from_be_bytes([reply[30], reply[31]]))]
}

fn broadcasts(frames: &[Vec<u8>]) -> usize {
    frames.iter().filter(|f| f[..6] == [0xff; 6]).count()
}

#[test]
fn a_change_is_answered_when_it_is_kept_and_announced_on_every_port() {
    let mut world = World::new(&Shape { queues: vec![(0, 0), (1, 0)], ..Shape::default() });
    world.keeping = false;
    world.send(0, &set(0, 1, 3, b"host-a"));
    world.turn();
    world.send(0, &read(0, 2, 0, 1));
    world.send(0, &set(0, 3, 0, b""));
    for _ in 0..3 {
        world.turn();
    }
    let replies = world.replies(0);
    assert_eq!(replies.iter().map(|r| tag_of(r)).collect::<Vec<_>>(), [3, 2], "the slot serves on");
    assert_eq!(string(&replies[0]), b"", "and nothing holds that is not kept");
    assert!(!world.workers[0].is_idle());
    assert_eq!(world.workers[0].busy_slots(), [(Address { shelf: 7, slot: 0 }, 1)]);
    assert_eq!(world.keep(true), 1);
    world.turn();
    let replies = world.replies(0);
    assert_eq!((tag_of(&replies[0]), string(&replies[0])), (1, &b"host-a"[..]));
    assert_eq!(replies.len(), 1);
    // A second change in that time makes no second announcement.
    world.send(0, &set(0, 4, 4, b"host-b"));
    world.turn();
    world.keep(true);
    world.settle();
    assert_eq!(world.replies(0).len(), 1);
    let due = world.workers[0].due().unwrap();
    world.now = due - Duration::from_micros(200);
    world.turn();
    assert_eq!(broadcasts(&world.replies(0)), 0);
    world.turn();
    world.turn();
    let news = world.replies(0);
    assert_eq!([broadcasts(&news), broadcasts(&world.replies(1))], [1, 1]);
    assert_eq!((string(&news[0]), world.workers[0].due()), (&b"host-b"[..], None));
    assert!(matches!(world.errands.try_recv(), Ok(Errand::InForce { .. })));
    world.settle();
    world.accounted();
}

#[test]
fn changes_of_a_slot_take_turns_and_a_repeat_is_answered_like_the_first() {
    let mut world = World::new(&Shape::default());
    world.keeping = false;
    for (tag, text) in [(1, &b"a"[..]), (2, b"a"), (3, b"b")] {
        world.send(0, &set(0, tag, 3, text));
    }
    world.turn();
    assert_eq!(world.keep(true), 1, "one at a time");
    world.settle();
    let replies: Vec<_> = world.replies(0).into_iter().filter(|f| f[..6] == HOST).collect();
    let got: Vec<_> = replies.iter().map(|r| (tag_of(r), r[15], string(r))).collect();
    assert_eq!(got, [(1, 0, &b"a"[..]), (2, 0, b"a"), (3, 4, b"a")]);
    assert_eq!(world.keep(true), 0);
    world.accounted();
}

#[test]
fn a_change_that_cannot_be_kept_leaves_the_old_state_and_the_next_one_is_tried() {
    let mut world = World::new(&Shape::default());
    world.keeping = false;
    world.send(0, &set(0, 1, 4, b"a"));
    world.send(0, &set(0, 2, 4, b"b"));
    world.turn();
    world.keep(false);
    world.turn();
    let reply = &world.replies(0)[0];
    assert_eq!((tag_of(reply), &reply[14..16], string(reply)), (1, &[0x1c, 3][..], &b""[..]));
    assert_eq!(world.keep(true), 1);
    world.settle();
    let reply = &world.replies(0)[0];
    assert_eq!((tag_of(reply), reply[14], string(reply)), (2, 0x18, &b"b"[..]));
    world.accounted();
}

#[test]
fn too_many_changes_at_once_are_dropped_and_counted() {
    let mut world = World::new(&Shape::default());
    world.keeping = false;
    for tag in 0..20 {
        world.send(0, &set(0, tag, 4, b"a"));
    }
    world.turn();
    assert_eq!(world.total(Counter::DropChanges), 20 - 1 - limits::CHANGES as u64);
    world.keeping = true;
    world.settle();
    world.accounted();
}

#[test]
fn a_worker_that_ends_gives_up_what_waits_for_a_change() {
    let mut world = World::new(&Shape::default());
    world.keeping = false;
    world.send(0, &set(0, 1, 4, b"a"));
    world.send(0, &set(0, 2, 4, b"b"));
    world.turn();
    assert_eq!(world.workers[0].census().requests, 2);
    let before = world.leaked_before;
    drop(world);
    assert_eq!(leaked(), before);
}

#[test]
fn trim_frees_its_ranges_one_after_the_other() {
    let mut world = World::new(&Shape::default());
    let page = |entries: &[(u64, u16)], pages: usize| {
        let mut page: Vec<u8> = entries
            .iter()
            .flat_map(|(lba, n)| [&lba.to_le_bytes()[..6], &n.to_le_bytes()].concat())
            .collect();
        page.resize(512 * pages, 0);
        page
    };
    let trim = |tag, page: &[u8]| {
        let mut f = ata(0, tag, 0x06, 0, (page.len() / 512) as u8, page);
        f[25] = 1;
        f
    };
    let zeroed = |world: &mut World| -> Vec<usize> {
        let disk = world.disk(0, 0);
        (0..SECTORS).filter(|lba| disk[lba * 512..][..512].iter().all(|&b| b == 0)).collect()
    };
    // One page in its chunk, sixteen gathered from several.
    for (pages, want) in [(1, vec![3, 4, 9]), (16, vec![3, 4, 9, 63])] {
        let entries = [(3, 2), (0, 0), (9, 1), if pages == 1 { (0, 0) } else { (63, 1) }];
        let replies = world.ask(&trim(7, &page(&entries, pages)));
        assert_eq!((replies.len(), &replies[0][24..28]), (1, &[0x40, 0, 0, 0x40][..]), "{pages} pages");
        assert_eq!(zeroed(&mut world), want);
    }
    assert_eq!(world.total(Counter::Trims), 5);
    // One range outside: nothing is done. No range: done at once.
    let reply = &world.ask(&trim(8, &page(&[(20, 1), (63, 2)], 1)))[0];
    assert_eq!(reply[24..28], [0x40, 0x10, 1, 0x41]);
    assert_eq!(world.ask(&trim(9, &page(&[], 1)))[0][27], 0x40);
    assert_eq!(zeroed(&mut world), [3, 4, 9, 63]);
    // A range that fails ends it, and harms nothing else.
    let eio = Failure::Errno(libc::EIO);
    world.workers[0].storage_mut().fail(FileId(0), Verb::Discard, Fault { skip: 1, ..Fault::once(eio) });
    let reply = &world.ask(&trim(10, &page(&[(30, 1), (31, 1), (32, 1)], 1)))[0];
    assert_eq!(reply[24..28], [0x40, 4, 1, 0x61]);
    assert_eq!(zeroed(&mut world), [3, 4, 9, 30, 63]);
    assert_eq!(world.ask(&write(0, 11, 0, &data(1, 1)))[0][27], 0x40, "the slot takes writes");
    let unable = Failure::Errno(libc::EOPNOTSUPP);
    world.workers[0].storage_mut().fail(FileId(0), Verb::Discard, Fault::once(unable));
    assert_eq!(world.ask(&trim(12, &page(&[(30, 1)], 1)))[0][24..28], [0x40, 4, 1, 0x41]);
    // Unless it was the flush that failed: that may have been told of the loss of something else.
    let unsynced = Failure::Unsynced(libc::EIO);
    world.workers[0].storage_mut().fail(FileId(0), Verb::Discard, Fault::once(unsynced));
    assert_eq!(world.ask(&trim(13, &page(&[(30, 1)], 1)))[0][24..28], [0x40, 4, 1, 0x61]);
    assert_eq!(world.ask(&write(0, 14, 0, &data(1, 1)))[0][27], 0x61, "the slot promises nothing any more");
}

#[test]
fn a_read_waits_for_the_trim_before_it() {
    let mut world = World::new(&Shape::default());
    world.workers[0].storage_mut().schedule(Schedule::Held);
    let mut trim = ata(0, 1, 0x06, 0, 1, &[&[2u8, 0, 0, 0, 0, 0, 1, 0][..], &[0; 504]].concat());
    trim[25] = 1;
    world.send(0, &trim);
    world.send(0, &read(0, 2, 2, 1));
    world.send(0, &read(0, 3, 3, 1));
    world.turn();
    assert_eq!(world.total(Counter::Parked), 1);
    world.workers[0].storage_mut().schedule(Schedule::InOrder);
    world.workers[0].storage_mut().release(usize::MAX);
    world.settle();
    let replies = world.replies(0);
    let of = |tag| replies.iter().find(|r| tag_of(r) == tag).unwrap();
    assert!(of(2)[36..548].iter().all(|&b| b == 0));
    assert!(of(3)[36..548] == fresh(0, 3));
}

#[test]
fn verify_reads_and_sends_nothing_and_fua_writes() {
    let mut world = World::new(&Shape::default());
    let reply = &world.ask(&ata(0, 1, 0x42, 3, 16, &[]))[0];
    assert_eq!((reply.len(), &reply[24..28]), (60, &[0x40, 0, 0, 0x40][..]));
    let eio = Failure::Errno(libc::EIO);
    world.workers[0].storage_mut().fail(FileId(0), Verb::Read, Fault::once(eio));
    assert_eq!(world.ask(&ata(0, 2, 0x42, 3, 2, &[]))[0][24..28], [0x40, 0x40, 2, 0x41]);
    let bytes = data(5, 2);
    assert_eq!(world.ask(&ata(0, 3, 0x3d, 7, 2, &bytes))[0][27], 0x40);
    assert!(world.disk(0, 0)[7 * 512..][..1024] == bytes);
}

#[test]
fn a_wildcard_test_finds_the_slots_with_the_string() {
    let mut world = World::new(&Shape { slots: vec![0, 1, 0], workers: 2, ..Shape::default() });
    let text = b"a string that is longer than twelve bytes";
    world.ask(&set(1, 1, 3, text));
    world.ask(&set(2, 2, 3, b"a string"));
    let wildcard = |tag, command, text: &[u8]| set(0xff, tag, command, text);
    let slots = |world: &mut World, frame: &[u8]| {
        let mut slots: Vec<u8> = world.ask(frame).iter().map(|r| r[18]).collect();
        slots.sort_unstable();
        slots
    };
    assert_eq!(slots(&mut world, &wildcard(3, 1, text)), [1]);
    assert_eq!(slots(&mut world, &wildcard(4, 2, b"a string")), [1, 2]);
    assert_eq!(slots(&mut world, &wildcard(5, 1, b"other")), [0u8; 0]);
    assert_eq!(slots(&mut world, &wildcard(6, 4, b"other")), [0u8; 0], "refused");
    assert_eq!(slots(&mut world, &wildcard(7, 0, b"")), [0, 1, 2]);
}

#[test]
fn a_full_shelf_answers_paced_and_one_host_is_not_let_flood() {
    let mut world = World::new(&Shape { slots: vec![0; 255], receive: 600, own: 300, ..Shape::default() });
    let mut query = header(Mac::BROADCAST, 0xff, 1, 0);
    query.resize(32, 0);
    world.send(0, &query);
    world.turn();
    let first = world.replies(0).len();
    assert!((1..=limits::OWN_RATE.burst as usize + 2).contains(&first), "{first} at once");
    let mut got = first;
    for _ in 0..5000 {
        world.turn();
        got += world.replies(0).len();
    }
    assert_eq!(got, 255);
    // Far more than any host asks: the rest is dropped, and counted; another host is answered.
    let burst = limits::WILDCARD_RATE.burst as usize;
    query[16..18].copy_from_slice(&[0, 7]);
    query[18] = 0xff;
    for _ in 0..burst + 40 {
        world.send(0, &query);
        world.turn();
        world.replies(0);
    }
    assert!(world.total(Counter::DropTooOften) > 0);
    query[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0xbb]);
    let before = world.total(Counter::DropTooOften);
    world.send(0, &query);
    world.turn();
    assert_eq!(world.total(Counter::DropTooOften), before);
    for _ in 0..200_000 {
        if world.workers[0].is_idle() {
            break;
        }
        world.turn();
        world.replies(0);
    }
    world.settle();
    world.accounted();
}

#[test]
fn wildcards_to_a_device_that_hangs_leave_room_for_discovery() {
    let mut world = World::new(&Shape { own: 8, ..Shape::default() });
    world.workers[0].storage_mut().schedule(Schedule::Held);
    for tag in 1..20 {
        let mut all = read(0xff, tag, 0, 1);
        all[16..18].fill(0xff);
        world.send(0, &all);
        world.turn();
    }
    assert_eq!(world.total(Counter::DropRequests), 19 - 4);
    let mut query = header(Mac::BROADCAST, 0xff, 1, 99);
    query.resize(32, 0);
    world.send(0, &query);
    world.turn();
    assert_eq!(world.replies(0).len(), 1);
    world.workers[0].storage_mut().release(usize::MAX);
    world.settle();
    assert_eq!(world.replies(0).len(), 4);
    world.accounted();
}

#[test]
fn a_new_size_a_new_reach_and_a_start_are_announced() {
    let mut world =
        World::new(&Shape { queues: vec![(0, 0), (1, 0)], slots: vec![0, 0], ..Shape::default() });
    let tell = |world: &mut World, control| {
        world.shared.posts[0].command(control).unwrap();
        world.settle();
        [0, 1].map(|queue| world.replies(queue))
    };
    let slots = |frames: &[Vec<u8>]| frames.iter().map(|f| f[18]).collect::<Vec<_>>();
    let [a, b] = tell(&mut world, Control::Announce);
    assert_eq!([slots(&a), slots(&b)], [[0, 1], [0, 1]]);
    let [a, b] = tell(&mut world, Control::Resized { slot: 1, sectors: SECTORS as u64 / 2 });
    assert_eq!([slots(&a), slots(&b)], [[1], [1]]);
    let [a, _] = tell(&mut world, Control::Resized { slot: 1, sectors: SECTORS as u64 / 2 });
    assert!(a.is_empty(), "no news");
    assert_eq!(world.ask(&read(1, 1, SECTORS / 2, 1))[0][25], 0x10, "beyond the new end");
    world.workers[0].storage_mut().disk_mut(FileId(1)).unwrap().resize((SECTORS + 4) * 512, 7);
    tell(&mut world, Control::Resized { slot: 1, sectors: SECTORS as u64 + 4 });
    let [.., last] = world.ask(&read(1, 1, SECTORS + 3, 1))[0][..] else { panic!() };
    assert_eq!(last, 7, "the last sector of what was added");
    let [a, b] = tell(&mut world, Control::Resized { slot: 1, sectors: SECTORS as u64 / 2 });
    assert_eq!([slots(&a), slots(&b)], [[1], [1]]);
    assert!(world.shared.ports[1].set_mtu(1500));
    assert!(!world.shared.ports[1].set_mtu(1400), "as many sectors as before");
    let [a, b] = tell(&mut world, Control::AnnounceOn(PortId(1)));
    assert_eq!((a.len(), slots(&b), b[0][28]), (0, vec![0, 1], 2));
    // With a mask, each host on it is told, and nobody else.
    let mut edit = header(mac(0), 0, 2, 9);
    edit.extend([0, 1, 0, 2, 0, 1]);
    edit.extend(HOST);
    edit.extend([0, 1, 2, 9, 9, 9, 9, 9]);
    world.ask(&edit);
    let [a, _] = tell(&mut world, Control::AnnounceOn(PortId(0)));
    let to: Vec<_> = a.iter().filter(|f| f[18] == 0).map(|f| f[..6].to_vec()).collect();
    assert_eq!(to, [HOST.to_vec(), vec![2, 9, 9, 9, 9, 9]]);
    let reply = tell(&mut world, Control::Health { slot: 1, health: shelf::Health::Failing });
    assert!(reply.iter().all(Vec::is_empty));
    let mut status = ata(1, 10, 0xb0, 0x00c2_4f00, 1, &[]);
    status[25] = 0xda;
    assert_eq!(world.ask(&status)[0][29..31], [0xf4, 0x2c]);
}

/// One step of a random run.
#[derive(Clone, Debug)]
enum Step {
    Read { slot: u8, lba: usize, count: u8, queue: usize },
    Write { slot: u8, lba: usize, count: u8, queue: usize, seed: u8 },
    Flush { slot: u8, queue: usize },
    Query { queue: usize },
    Trim { slot: u8, lba: u8, count: u8, queue: usize },
    Change { slot: u8, command: u8, seed: u8, queue: usize },
    Keep { kept: bool },
    Junk { bytes: Vec<u8>, queue: usize },
    Turn { worker: usize },
    Schedule { worker: usize, schedule: u8 },
    Transmit { queue: usize, how: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let queue = 0..2usize;
    prop_oneof![
        4 => (0..5u8, 0..70usize, 0..18u8, queue.clone())
            .prop_map(|(slot, lba, count, queue)| Step::Read { slot, lba, count, queue }),
        4 => (0..5u8, 0..70usize, 1..17u8, queue.clone(), any::<u8>())
            .prop_map(|(slot, lba, count, queue, seed)| Step::Write { slot, lba, count, queue, seed }),
        1 => (0..5u8, queue.clone()).prop_map(|(slot, queue)| Step::Flush { slot, queue }),
        1 => queue.clone().prop_map(|queue| Step::Query { queue }),
        1 => (0..5u8, 0..64u8, 0..8u8, queue.clone())
            .prop_map(|(slot, lba, count, queue)| Step::Trim { slot, lba, count, queue }),
        2 => (0..5u8, 1..4u8, any::<u8>(), queue.clone())
            .prop_map(|(slot, command, seed, queue)| Step::Change { slot, command, seed, queue }),
        1 => any::<bool>().prop_map(|kept| Step::Keep { kept }),
        1 => (proptest::collection::vec(any::<u8>(), 0..100), queue.clone())
            .prop_map(|(bytes, queue)| Step::Junk { bytes, queue }),
        8 => (0..3usize).prop_map(|worker| Step::Turn { worker }),
        1 => (0..3usize, 0..3u8).prop_map(|(worker, schedule)| Step::Schedule { worker, schedule }),
        1 => (queue, 0..3u8).prop_map(|(queue, how)| Step::Transmit { queue, how }),
    ]
}

fn shapes() -> impl Strategy<Value = Shape> {
    (4..40u32, 1..6u32, 1..4u32, 2..16usize, 3..16usize, prop_oneof![Just(3usize), Just(1)]).prop_map(
        |(receive, runs, own, fill, tx, pieces)| Shape {
            queues: vec![(0, 0), (1, 1)],
            receive_only: vec![],
            workers: 3,
            slots: vec![0, 1, 2, 2],
            receive,
            runs,
            own,
            pieces,
            sectors: if pieces == 1 { 4 } else { 16 },
            cached: false,
            unit: 1,
            requests: limits::REQUESTS,
            net: MemoryConfig { fill, rx: 16, tx, completion: tx, ..MemoryConfig::default() },
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever arrives in whatever order, with rings and pools as small as they get: chunks are conserved, every
    /// frame ends once, no request is answered twice, and all comes to rest.
    #[test]
    fn nothing_is_lost_and_nothing_doubled(shape in shapes(), steps in proptest::collection::vec(step(), 1..250)) {
        let mut world = World::new(&shape);
        world.keeping = false;
        let mut answered = std::collections::HashMap::new();
        let mut asked = std::collections::HashMap::new();
        let deliver = |world: &mut World, queue: usize, mut frame: Vec<u8>| {
            if frame.len() >= 6 {
                frame[..6].copy_from_slice(&mac(queue as u16).0);
            }
            match world.wires[queue].inject(&frame) {
                Ok(()) => true,
                Err(Dropped::FillEmpty | Dropped::RxFull | Dropped::Down) => false,
            }
        };
        for (i, step) in steps.into_iter().enumerate() {
            let tag = i as u32 + 1;
            let delivered = match step {
                Step::Read { slot, lba, count, queue } => deliver(&mut world, queue, read(slot, tag, lba, count)),
                Step::Write { slot, lba, count, queue, seed } => {
                    deliver(&mut world, queue, write(slot, tag, lba, &data(seed, usize::from(count))))
                }
                Step::Flush { slot, queue } => deliver(&mut world, queue, ata(slot, tag, 0xea, 0, 0, &[])),
                Step::Query { queue } => {
                    let mut query = header(mac(0), 0xff, 1, tag);
                    query.resize(32, 0);
                    deliver(&mut world, queue, query)
                }
                Step::Trim { slot, lba, count, queue } => {
                    let mut page = vec![0; 512];
                    page[0] = lba;
                    page[6] = count;
                    let mut frame = ata(slot, tag, 0x06, 0, 1, &page);
                    frame[25] = 1;
                    deliver(&mut world, queue, frame)
                }
                Step::Change { slot, command, seed, queue } => {
                    let frame = match command {
                        1 => set(slot, tag, 3 + seed % 2, &[seed]),
                        2 => {
                            let mut edit = header(mac(0), slot, 2, tag);
                            edit.extend([0, 1, 0, 1, 0, 1 + seed % 2]);
                            edit.extend(HOST);
                            edit
                        }
                        _ => {
                            let mut reserve = header(mac(0), slot, 3, tag);
                            reserve.extend([1 + seed % 2, seed % 3 / 2]);
                            reserve.extend(HOST);
                            reserve
                        }
                    };
                    deliver(&mut world, queue, frame)
                }
                Step::Keep { kept } => {
                    world.keep(kept);
                    false
                }
                Step::Junk { bytes, queue } => {
                    deliver(&mut world, queue, bytes);
                    false
                }
                Step::Turn { worker } => {
                    let now = world.now;
                    world.workers[worker].turn(now);
                    false
                }
                Step::Schedule { worker, schedule } => {
                    let schedule = [Schedule::InOrder, Schedule::Reversed, Schedule::Held][usize::from(schedule)];
                    world.workers[worker].storage_mut().schedule(schedule);
                    false
                }
                Step::Transmit { queue, how } => {
                    let how = [Transmission::Open, Transmission::Budget(1), Transmission::Refused][usize::from(how)];
                    world.wires[queue].set_transmission(how);
                    false
                }
            };
            if delivered {
                asked.insert(tag, ());
            }
            world.conserved();
        }
        // Faults heal, and everything comes to rest.
        world.keeping = true;
        for worker in &mut world.workers {
            worker.storage_mut().schedule(Schedule::InOrder);
            worker.storage_mut().release(usize::MAX);
        }
        for wire in &mut world.wires {
            wire.set_transmission(Transmission::Open);
        }
        world.settle();
        world.accounted();
        for queue in 0..2 {
            for reply in world.replies(queue) {
                if reply[..6] == [0xff; 6] || tag_of(&reply) == 0 {
                    // A changed config string is announced.
                    continue;
                }
                prop_assert_eq!(&reply[..6], &HOST[..]);
                prop_assert_eq!(&reply[6..12], &mac(queue as u16).0[..]);
                let tag = tag_of(&reply);
                prop_assert!(asked.contains_key(&tag), "an answer to nothing");
                let twice = answered.insert((tag, reply[18]), ());
                prop_assert!(twice.is_none(), "tag {} answered twice by slot {}", tag, reply[18]);
            }
        }
        let invalid: u64 = world.wires.iter().map(|w| w.counts().invalid).sum();
        prop_assert_eq!(invalid, 0);
    }
}
