//! What the fuzzers do with their bytes, and what must hold whatever the bytes are.
//!
//! Not a fuzzer: `fuzz_targets` feeds these functions from libFuzzer, `tests/corpus.rs` from the committed corpus.
//! Invariant: each function is a pure function of its bytes, so that every finding repeats itself.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;
use xshelf::frame::{Layout, QueueId, Region, WorkerId, WorkerShare};
use xshelf::net::memory::{MemoryConfig, MemoryQueue, Wire};
use xshelf::protocol::ata::Ata;
use xshelf::protocol::{Address, Ethernet, Flags, Header, Mac};
use xshelf::shelf::{Access, Decision, Path, ReservedAnswer, Routes, Slot, SlotFacts, SlotState, admit};
use xshelf::storage::memory::{MemoryStorage, Schedule};
use xshelf::worker::{
    Control, Counter, Counters, Errand, Plan, Port, QueuePlace, Shared, SlotPlan, Worker, WorkerPost,
};

const SECTORS: u64 = 40;
const SHELF: u16 = 7;
const HOSTS: [Mac; 3] = [Mac([2, 0, 0, 0, 0, 2]), Mac([2, 0, 0, 0, 0, 0xaa]), Mac([2, 0, 0, 0, 0, 0xbb])];
const PORTS: [Mac; 2] = [Mac([2, 0, 0, 0, 1, 0]), Mac([2, 0, 0, 0, 1, 1])];

/// The bytes, taken from the front; what is missing is 0.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn one(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn some(&mut self, n: usize) -> &'a [u8] {
        let (some, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        some
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A frame: sometimes any bytes, mostly one with headers that get it far.
    fn frame(&mut self) -> Vec<u8> {
        let form = self.one();
        if form & 0x0f == 0 {
            let len = usize::from(self.one()) * 8 + usize::from(self.one() & 7);
            return self.some(len).to_vec();
        }
        let to = match self.one() {
            0..=127 => PORTS[0],
            128..=191 => PORTS[1],
            192..=250 => Mac::BROADCAST,
            _ => HOSTS[2],
        };
        let from = HOSTS[usize::from(self.one()) % HOSTS.len()];
        let mut frame = [to.0, from.0].concat();
        if form & 0x10 != 0 {
            frame.extend([0x81, 0, self.one() & 0xe0, self.one() % 8]);
        }
        frame.extend([0x88, 0xa2]);
        // Mostly a request of version 1.
        frame.push(if form & 0x20 != 0 { self.one() } else { 0x10 });
        frame.push(self.one());
        let shelf = if form & 0x40 != 0 { 0xffff } else { SHELF };
        frame.extend(shelf.to_be_bytes());
        frame.push(if form & 0x80 != 0 { 0xff } else { self.one() % 5 });
        let command = self.one();
        frame.push(if command < 0xf0 { command % 5 } else { command });
        frame.extend([0; 4]);
        let argument = match self.one() {
            n @ 0..=99 => usize::from(n),
            n => usize::from(n - 100) * 28,
        };
        let given = self.some(argument.min(2048));
        frame.extend(given);
        // Data costs no bytes of the input.
        frame.resize(frame.len() + argument - given.len(), 0x5a);
        frame
    }
}

/// Where the AoE header of a frame is, if it has one.
fn header(frame: &[u8]) -> Option<(Ethernet, Header)> {
    let ethernet = Ethernet::parse(frame)?;
    let header = Header::parse(frame.get(ethernet.len()..)?)?;
    Some((ethernet, header))
}

/// Gives a request a tag of its own, if it has room for one.
fn mark(frame: &mut [u8], tag: u32) {
    let at = if frame.get(12..14) == Some(&[0x81, 0]) { 24 } else { 20 };
    if let Some(room) = frame.get_mut(at..at + 4) {
        room.copy_from_slice(&tag.to_be_bytes());
    }
}

/// What holds for every reply.
fn well_formed(reply: &[u8]) -> (Ethernet, Header) {
    let (ethernet, header) = header(reply).expect("a reply has its headers");
    assert!(reply.len() >= 60, "{} bytes", reply.len());
    assert_eq!(ethernet.ethertype, 0x88a2);
    assert!(PORTS.contains(&ethernet.source), "from {}", ethernet.source);
    assert_eq!(header.version, 1);
    assert!(header.flags.contains(Flags::RESPONSE));
    assert!(
        (header.flags - Flags::RESPONSE - Flags::ERROR).is_empty(),
        "reserved bits in {:?}",
        header.flags
    );
    assert_eq!(header.flags.contains(Flags::ERROR), header.error != 0);
    assert!(header.error <= 6);
    assert!(!header.address.is_wildcard());
    (ethernet, header)
}

fn facts(address: Address, form: u8) -> SlotFacts {
    let mut state = SlotState::default();
    if form & 1 != 0 {
        state.mask.extend([HOSTS[0], HOSTS[1]]);
    }
    if form & 2 != 0 {
        state.reserved.push(HOSTS[1]);
    }
    if form & 4 != 0 {
        state.config_string.extend(*b"held");
    }
    SlotFacts {
        vlan: if form & 8 != 0 { 5 } else { 0 },
        read_only: form & 16 != 0,
        trim: form & 32 == 0,
        reserved_answer: if form & 64 != 0 { ReservedAnswer::Ata } else { ReservedAnswer::Aoe },
        write_cache: form & 128 != 0,
        state,
        ..SlotFacts::new(address, SECTORS)
    }
}

/// One slot, frame by frame, without memory rings or disks.
pub fn slot(data: &[u8]) {
    let mut bytes = Bytes(data);
    let address = Address { shelf: SHELF, slot: 1 };
    let mut slot = Slot::new(facts(address, bytes.one()));
    let longest = 1514 + 100 * usize::from(bytes.one() & 0x3f);
    let mut room = vec![0; 3620];
    while !bytes.is_empty() {
        let mut frame = bytes.frame();
        frame.truncate(room.len());
        let kept = bytes.one() & 1 == 0;
        let Ok(admitted) = admit(&frame, PORTS[0], PORTS) else { continue };
        let (_, asked) = header(&frame).expect("what is admitted has its headers");
        assert!(!asked.flags.contains(Flags::RESPONSE), "a response is never admitted");
        if !asked.address.covers(address) {
            continue;
        }
        let wildcard = asked.address.is_wildcard();
        room[..frame.len()].copy_from_slice(&frame);
        room[frame.len()..].fill(0xee);
        let path = Path { port: PORTS[0], sectors: 16, longest, wildcard };
        let before = slot.facts().state.clone();
        let reply = match slot.decide(&admitted, &path, &mut room, frame.len(), frame.len()) {
            Decision::Silence(_) => {
                assert_eq!(room[..frame.len()], frame, "silence leaves the frame as it was");
                continue;
            }
            Decision::Later => panic!("no change is under way"),
            Decision::Change => {
                assert!(!wildcard, "a wildcard changes nothing");
                let wanted = slot.wanted().expect("a change has a goal").clone();
                assert_ne!(wanted, before);
                let reply = slot.settle(kept, &admitted, &path, &mut room);
                assert_eq!(slot.facts().state, if kept { wanted } else { before });
                reply
            }
            Decision::Io(io, ata) => {
                assert!(io.access == Access::Flush || io.count > 0 && io.count <= 16);
                assert!(io.access == Access::Trim || io.lba + io.span <= SECTORS);
                assert!(!io.access.changes() || !wildcard && !slot.facts().read_only);
                assert!(!io.access.takes_data() || frame.len() - admitted.data_at() >= io.bytes());
                let good = xshelf::protocol::ata::Outcome::GOOD;
                let len = slot.finish(&admitted, &path, &mut room, &ata, good, 0);
                len.map_or(Decision::Silence(xshelf::shelf::Refusal::NoRoom), Decision::Reply)
            }
            reply @ Decision::Reply(_) => {
                assert_eq!(slot.facts().state, before, "only what is kept changes anything");
                reply
            }
        };
        let Decision::Reply(len) = reply else { panic!("{reply:?}") };
        let (ethernet, answer) = well_formed(&room[..len]);
        assert_eq!(ethernet.destination, admitted.ethernet.source);
        assert_eq!(ethernet.tag, admitted.ethernet.tag);
        assert_eq!((answer.address, answer.tag, answer.command), (address, asked.tag, asked.command));
        assert!(!(wildcard && answer.flags.contains(Flags::ERROR)), "no errors to wildcards");
        if let xshelf::protocol::Command::Ata = answer.command {
            let registers =
                Ata::parse(&room[admitted.argument_at()..len]).expect("an ATA reply has its registers");
            assert!(answer.error != 0 || registers.command & 0x40 != 0, "status {:#x}", registers.command);
        }
        // What the request had behind the reply never leaves.
        if len == 60 {
            let argument = admitted.argument_at() + 12;
            if let xshelf::protocol::Command::Ata = answer.command {
                assert!(room[argument.min(60)..60].iter().all(|&b| b == 0), "padding is zero");
            }
        }
    }
}

type MemoryWorker = Worker<MemoryQueue, MemoryStorage>;

struct World {
    shared: Arc<Shared>,
    workers: Vec<MemoryWorker>,
    wires: Vec<Wire>,
    counters: Vec<Arc<Counters>>,
    errands: Receiver<Errand>,
    now: Duration,
}

impl World {
    /// Two workers with a queue and a port each, three slots; rings and pools are small, so that they run out.
    fn new(form: u8) -> Self {
        let share = |queue| WorkerShare { receive: vec![(QueueId(queue), 12)], runs: 2, own: 3 };
        let layout = Layout::plan(&[share(0), share(1)]).expect("a layout");
        let region = Arc::new(Region::heap(layout.chunks()));
        let chunks = layout.chunks();
        let address = |slot| Address { shelf: SHELF, slot };
        let owners = [WorkerId(0), WorkerId(1), WorkerId(1)];
        let routes = Routes::new((0..3).map(address).zip(owners)).expect("routes");
        let shared = Arc::new(Shared {
            region: Arc::clone(&region),
            layout,
            ports: PORTS.iter().map(|&mac| Port::new("p".into(), mac, 9000, u32::MAX, 3)).collect(),
            queues: (0..2)
                .map(|i| QueuePlace { port: xshelf::frame::PortId(i), worker: WorkerId(i), transmits: true })
                .collect(),
            routes,
            posts: (0..2).map(|_| WorkerPost::for_worker(chunks, 3).expect("an eventfd")).collect(),
        });
        let (errands, asked) = sync_channel(8);
        let net = MemoryConfig { fill: 8, rx: 8, tx: 4, completion: 4, ..MemoryConfig::default() };
        let (mut workers, mut wires, mut counters) = (Vec::new(), Vec::new(), Vec::new());
        for w in 0..2u16 {
            let (queue, wire) = MemoryQueue::new(QueueId(w), Arc::clone(&region), net);
            let mut storage = MemoryStorage::new(Arc::clone(&region), 8);
            let mut slots = Vec::new();
            for (slot, _) in (0..3u8).zip(owners).filter(|(_, owner)| owner.0 == w) {
                let facts = facts(address(slot), form.rotate_left(slot.into()));
                slots.push(SlotPlan::new(facts, storage.add(vec![slot; SECTORS as usize * 512])));
            }
            let counter = Arc::new(Counters::default());
            counters.push(Arc::clone(&counter));
            let (shared, errands) = (Arc::clone(&shared), Some(errands.clone()));
            let plan = Plan { slots, counters: counter, errands, ..Plan::new(WorkerId(w), shared) };
            workers.push(Worker::new(plan, vec![queue], storage).expect("a worker"));
            wires.push(wire);
        }
        Self { shared, workers, wires, counters, errands: asked, now: Duration::ZERO }
    }

    fn turn(&mut self, worker: usize) -> bool {
        self.now += Duration::from_micros(200);
        self.workers[worker].turn(self.now)
    }

    fn keep(&mut self, kept: bool) {
        for errand in self.errands.try_iter() {
            if let Errand::Save { worker, slot, .. } = errand {
                self.shared.posts[usize::from(worker.0)]
                    .command(Control::Saved { slot, kept })
                    .expect("room for it");
            }
        }
    }

    fn total(&self, counter: Counter) -> u64 {
        self.counters.iter().map(|c| c.get(counter)).sum()
    }

    fn quiet(&self) -> bool {
        self.shared.posts.iter().all(|post| post.pending() == 0)
    }

    fn conserved(&self) {
        assert_eq!(self.total(Counter::Defects), 0);
        if self.quiet() {
            let all: usize = self.workers.iter().map(|w| w.census().total()).sum();
            assert_eq!(all, self.shared.layout.used(), "chunks are conserved");
        }
    }
}

/// Frames through two workers over memory rings: conservation, one end for each frame, one reply for each slot addressed.
pub fn worker(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut world = World::new(bytes.one());
    let (mut asked, mut answered) = (HashMap::new(), HashSet::new());
    let mut tag = 0;
    while !bytes.is_empty() {
        match bytes.one() {
            0..=159 => {
                tag += 1;
                let queue = usize::from(bytes.one() & 1);
                let mut frame = bytes.frame();
                mark(&mut frame, tag);
                if world.wires[queue].inject(&frame).is_ok() {
                    asked.insert(tag, frame);
                }
            }
            n @ 160..=219 => {
                world.turn(usize::from(n & 1));
            }
            n @ 220..=229 => world.keep(n & 1 == 0),
            n @ 230..=239 => {
                let schedule = [Schedule::InOrder, Schedule::Reversed, Schedule::Held][usize::from(n) % 3];
                world.workers[usize::from(n & 1)].storage_mut().schedule(schedule);
            }
            n => {
                let control = match n % 4 {
                    0 => Control::Announce,
                    1 => Control::AnnounceOn(xshelf::frame::PortId(n.into())),
                    2 => Control::Resized {
                        slot: u16::from(n % 3),
                        sectors: u64::from(bytes.one()) % (SECTORS + 1),
                    },
                    _ => Control::Saved { slot: 99, kept: true },
                };
                // Nobody saves for a slot there is not: that would be a defect, and is counted as one.
                if !matches!(control, Control::Saved { .. }) {
                    let _ = world.shared.posts[usize::from(n & 1)].command(control);
                }
            }
        }
        world.conserved();
    }
    for worker in &mut world.workers {
        worker.storage_mut().schedule(Schedule::InOrder);
        worker.storage_mut().release(usize::MAX);
    }
    let mut turns = 0;
    loop {
        world.keep(true);
        let busy = world.turn(0) | world.turn(1);
        if !busy && world.quiet() && world.workers.iter().all(Worker::is_idle) {
            break;
        }
        turns += 1;
        assert!(turns < 100_000, "the workers come to rest");
    }
    world.conserved();
    let sum = |counters: &[Counter]| -> u64 { counters.iter().map(|&c| world.total(c)).sum() };
    let came = [Counter::Received, Counter::HandedOver, Counter::WildcardRequests];
    assert_eq!(sum(&came), sum(Counter::ENDS), "every frame ends once");
    let mut replies = 0;
    for wire in &mut world.wires {
        while let Some(reply) = wire.take() {
            let (ethernet, header) = well_formed(&reply);
            let tag = u32::from_be_bytes(header.tag);
            if tag == 0 {
                // An announcement.
                continue;
            }
            replies += 1;
            let request = asked.get(&tag).expect("an answer to something that was asked");
            let (from, request) = self::header(request).expect("what is answered has headers");
            assert!(!request.flags.contains(Flags::RESPONSE), "a response is never answered");
            assert_eq!(ethernet.destination, from.source);
            assert!(request.address.covers(header.address));
            assert!(answered.insert((tag, header.address.slot)), "one answer for each slot");
        }
    }
    assert_eq!(replies, world.total(Counter::Replies));
}

/// A configuration file of any bytes: mistakes are told, and a configuration without is one that can be served.
pub fn config(data: &[u8]) {
    use xshelf::appliance::config::Config;
    let (config, mistakes) = Config::from_file("fuzz.toml", data);
    for mistake in mistakes.iter() {
        assert!(!mistake.to_line().contains('\n'), "one line for each mistake");
    }
    if let Some(config) = config {
        assert!(!config.interfaces.is_empty() && !config.slots.is_empty());
        for slot in &config.slots {
            assert!(!slot.address.is_wildcard() && slot.config_string.len() <= 1024 && slot.vlan < 4095);
            assert!(slot.buffers.is_none_or(|n| n >= 2) && slot.offset % 512 == 0);
        }
    }
}

/// A state file of any bytes, as it is and with the right checksum: it is refused in one line, or gives a state that is
/// written and read again as it was. And any state is.
pub fn state(data: &[u8]) {
    use xshelf::appliance::state::record::{decode, encode, seal};
    let check = |state: &SlotState| {
        for list in [&state.mask, &state.reserved] {
            assert!(list.iter().collect::<HashSet<_>>().len() == list.len(), "each address once");
        }
        assert_eq!(decode(&encode(state)).as_ref(), Ok(state));
    };
    for bytes in [data, &seal(data.to_vec())] {
        match decode(bytes) {
            Ok(state) => check(&state),
            Err(e) => assert!(!e.to_string().contains(char::is_control), "one line says it"),
        }
    }
    // Long lists take long: not each time.
    if data.first().is_none_or(|first| first % 8 != 0) {
        return;
    }
    let (string, rest) = data.split_at(data.len() / 4);
    let mut state = SlotState::with_config_string(string);
    for (n, mac) in rest.chunks_exact(6).enumerate() {
        let list = if n % 3 == 0 { &mut state.reserved } else { &mut state.mask };
        let mac = Mac([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]]);
        if !list.contains(&mac) && list.try_push(mac).is_err() {
            break;
        }
    }
    check(&state);
}

/// Configurations of other targets of any text: what comes of them is a configuration of ours without mistakes.
pub fn import(data: &[u8]) {
    use xshelf::appliance::config::Config;
    use xshelf::appliance::import::{Target, translate};
    let Some((&form, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let from = [None, Some(Target::Vblade), Some(Target::Ggaoed)][usize::from(form) % 3];
    let (toml, slots) = translate(text, from, &["eth0", "eth1"]);
    let (config, mistakes) = Config::from_file("import.toml", toml.as_bytes());
    if slots > 0 {
        let lines: Vec<String> = mistakes.iter().map(|m| m.to_line()).collect();
        assert_eq!((lines, config.map(|c| c.slots.len())), (Vec::new(), Some(slots)), "{toml}");
    }
}
