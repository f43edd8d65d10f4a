//! A receive queue in plain memory, and the wire at its other end: what the worker is tested and simulated on.
//!
//! Not a network: one port, no delay of its own; faults are what the holder of the [`Wire`] makes happen.
//! Invariant: chunks go through [`Region::lend`] and [`Region::adopt`] exactly as with the kernel, and nothing
//! reaches the wire or FILL before [`Queue::flush`].

use super::assemble::{Assembler, Step};
use super::{Flushed, Lent, Queue};
use crate::frame::{Chunk, Frame, Outgoing, QueueId, Region};
use crate::limits;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The shape of a queue in memory.
#[derive(Clone, Copy, Debug)]
pub struct MemoryConfig {
    /// Entries of FILL.
    pub fill: usize,
    /// Entries of RX; a frame takes one for each of its pieces.
    pub rx: usize,
    /// Entries of TX; a frame takes one for each of its pieces.
    pub tx: usize,
    /// Entries of COMPLETION. The kernel takes no piece from TX that has no room reserved here.
    pub completion: usize,
    /// Bytes of a frame that one chunk receives, at most [`limits::CHUNK`] − `frame_at`; longer frames are split.
    pub capacity: usize,
    /// Where a received frame, and each further piece of it, starts in its chunk.
    pub frame_at: usize,
}

/// As AF_XDP in copy mode with the sizes of production.
impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            fill: limits::FILL_RING as usize,
            rx: limits::RX_RING as usize,
            tx: limits::TX_RING as usize,
            completion: limits::TX_RING as usize,
            capacity: limits::CHUNK - limits::FRAME_AT,
            frame_at: limits::FRAME_AT,
        }
    }
}

/// Why the wire could not deliver a frame; the kernel drops and counts in these cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    /// FILL holds fewer chunks than the frame has pieces.
    #[error("FILL holds too few chunks for the frame")]
    FillEmpty,
    /// RX has no room for all pieces.
    #[error("RX has no room for the frame")]
    RxFull,
    /// The port is down.
    #[error("the port is down")]
    Down,
}

/// What the far side does with frames that are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transmission {
    /// Takes them all, as long as COMPLETION has room.
    #[default]
    Open,
    /// Takes this many pieces with each flush, then asks to be called again, even inside a frame (as copy mode
    /// with its budget of 32).
    Budget(usize),
    /// Takes nothing for now, and asks to be called again.
    Refused,
    /// The port is down: takes nothing, flush fails with this errno.
    Down(i32),
}

/// When transmitted or received pieces become visible to the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    /// At once.
    #[default]
    AtOnce,
    /// When the holder of the wire says so.
    Held,
}

/// What happened on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireCounts {
    /// Frames delivered to RX.
    pub delivered: u64,
    /// Frames dropped on the way to RX.
    pub dropped: u64,
    /// Frames sent.
    pub sent: u64,
    /// Frames the kernel would refuse to send: a piece without bytes, reaching past its chunk, or not lent. Their
    /// chunks complete, nothing is sent. Anything but 0 is a defect of the sender.
    pub invalid: u64,
    /// Pieces whose bytes changed while they belonged to the kernel, as far as the wire watches ([`Wire::watch`]).
    /// Anything but 0 is a defect of whoever wrote there.
    pub touched: u64,
    /// Calls of flush.
    pub flushes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Descriptor {
    address: u64,
    len: u32,
    more: bool,
    /// Checksum of the bytes when the kernel got them, where the wire watches.
    sum: u32,
}

/// What a watched chunk holds that was given to FILL.
const POISON: u8 = 0xa5;

/// The kernel's and the far side's half.
#[derive(Debug)]
struct Far {
    config: MemoryConfig,
    region: Arc<Region>,
    fill: VecDeque<u64>,
    rx: VecDeque<Descriptor>,
    /// Received, not yet visible.
    rx_held: VecDeque<Descriptor>,
    tx: VecDeque<Descriptor>,
    /// Taken from TX, not yet completed.
    in_flight: VecDeque<Descriptor>,
    completion: VecDeque<u64>,
    /// Bytes of the frame that is being taken from TX; `None` once a piece of it was invalid.
    sending: Option<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
    transmission: Transmission,
    completions: Visibility,
    receptions: Visibility,
    counts: WireCounts,
    watching: bool,
}

impl Far {
    /// The checksum of a piece that the kernel has; 0 where nobody watches.
    fn sum(&self, address: u64, len: u32) -> u32 {
        if !self.watching {
            return 0;
        }
        let at = (address % limits::CHUNK as u64) as usize;
        match self.region.adopt(address) {
            Ok(chunk) => {
                let sum = crc32fast::hash(self.region.bytes(&chunk, at, len as usize));
                let _ = self.region.lend(chunk);
                sum
            }
            Err(_) => 0,
        }
    }

    fn check(&mut self, piece: Descriptor) {
        if self.watching && self.sum(piece.address, piece.len) != piece.sum {
            self.counts.touched += 1;
        }
    }

    /// Completes up to so many pieces that are in flight, the oldest first; returns how many.
    fn finish(&mut self, most: usize) -> usize {
        let n = most.min(self.in_flight.len());
        for _ in 0..n {
            let oldest = self.in_flight.pop_front();
            self.finish_one(oldest);
        }
        n
    }

    fn finish_one(&mut self, piece: Option<Descriptor>) {
        if let Some(piece) = piece {
            self.check(piece);
            self.completion.push_back(piece.address);
        }
    }

    fn deliver(&mut self, frame: &[u8]) -> Result<(), Dropped> {
        // As the kernel does: a frame without bytes still takes a descriptor.
        let capacity = self.config.capacity.clamp(1, limits::CHUNK);
        let pieces = frame.len().div_ceil(capacity).max(1);
        if matches!(self.transmission, Transmission::Down(_)) {
            return Err(Dropped::Down);
        }
        if self.rx.len() + self.rx_held.len() + pieces > self.config.rx {
            return Err(Dropped::RxFull);
        }
        if self.fill.len() < pieces {
            return Err(Dropped::FillEmpty);
        }
        for i in 0..pieces {
            let bytes = &frame[i * capacity..frame.len().min((i + 1) * capacity)];
            let Some(mut chunk) = self.fill.pop_front().and_then(|a| self.region.adopt(a).ok()) else {
                return Err(Dropped::FillEmpty);
            };
            if self.watching && self.region.bytes(&chunk, 0, limits::CHUNK).iter().any(|b| *b != POISON) {
                self.counts.touched += 1;
            }
            self.region.bytes_mut(&mut chunk, self.config.frame_at, bytes.len()).copy_from_slice(bytes);
            let address = self.region.lend(chunk) + self.config.frame_at as u64;
            let len = bytes.len() as u32;
            let descriptor = Descriptor { address, len, more: i + 1 < pieces, sum: self.sum(address, len) };
            match self.receptions {
                Visibility::AtOnce => self.rx.push_back(descriptor),
                Visibility::Held => self.rx_held.push_back(descriptor),
            }
        }
        Ok(())
    }

    /// One piece from TX to the wire.
    fn take(&mut self, descriptor: Descriptor) {
        let Descriptor { address, len, more, .. } = descriptor;
        self.check(descriptor);
        let at = (address % limits::CHUNK as u64) as usize;
        let valid = len > 0 && at + len as usize <= limits::CHUNK;
        match self.region.adopt(address) {
            Ok(chunk) if valid => {
                if let Some(bytes) = &mut self.sending {
                    bytes.extend_from_slice(self.region.bytes(&chunk, at, len as usize));
                }
                let _ = self.region.lend(chunk);
            }
            Ok(chunk) => {
                self.sending = None;
                let _ = self.region.lend(chunk);
            }
            Err(_) => self.sending = None,
        }
        self.in_flight.push_back(descriptor);
        if !more {
            match self.sending.replace(Vec::new()) {
                Some(frame) => {
                    self.counts.sent += 1;
                    self.sent.push_back(frame);
                }
                None => self.counts.invalid += 1,
            }
            if self.completions == Visibility::AtOnce {
                self.finish(usize::MAX);
            }
        }
    }

    fn pump(&mut self) -> Flushed {
        self.counts.flushes += 1;
        let mut budget = match self.transmission {
            Transmission::Open => usize::MAX,
            Transmission::Budget(pieces) => pieces,
            Transmission::Refused => 0,
            Transmission::Down(errno) => return Flushed::Down(errno),
        };
        while budget > 0 && self.in_flight.len() + self.completion.len() < self.config.completion {
            let Some(descriptor) = self.tx.pop_front() else { break };
            self.take(descriptor);
            budget -= 1;
        }
        if self.tx.is_empty() { Flushed::Done } else { Flushed::Again }
    }
}

type Shared = Arc<Mutex<Far>>;

fn lock(far: &Shared) -> MutexGuard<'_, Far> {
    // A test that panicked elsewhere leaves the queues whole: every step under the lock is complete.
    far.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The near side: a [`Queue`] without a kernel.
#[derive(Debug)]
pub struct MemoryQueue {
    id: QueueId,
    region: Arc<Region>,
    far: Shared,
    assembler: Assembler,
    /// Put on FILL or TX, not yet published.
    fill_staged: Vec<u64>,
    tx_staged: Vec<Descriptor>,
    /// Chunks ever given to FILL.
    given: u64,
    transmitting: usize,
    forged: u64,
}

impl MemoryQueue {
    /// A queue over `region`, and the wire it hangs on.
    #[must_use]
    pub fn new(id: QueueId, region: Arc<Region>, config: MemoryConfig) -> (Self, Wire) {
        let far = Arc::new(Mutex::new(Far {
            config,
            region: Arc::clone(&region),
            fill: VecDeque::new(),
            rx: VecDeque::new(),
            rx_held: VecDeque::new(),
            tx: VecDeque::new(),
            in_flight: VecDeque::new(),
            completion: VecDeque::new(),
            sending: Some(Vec::new()),
            sent: VecDeque::new(),
            transmission: Transmission::default(),
            completions: Visibility::default(),
            receptions: Visibility::default(),
            counts: WireCounts::default(),
            watching: false,
        }));
        let wire = Wire { far: Arc::clone(&far) };
        let queue = Self {
            id,
            region,
            far,
            assembler: Assembler::new(id),
            fill_staged: Vec::new(),
            tx_staged: Vec::new(),
            given: 0,
            transmitting: 0,
            forged: 0,
        };
        (queue, wire)
    }

    /// Addresses that came back without having been lent. Anything but 0 is a defect, or a forgery by the test.
    #[must_use]
    pub fn forged(&self) -> u64 {
        self.forged + self.assembler.forged()
    }
}

impl Queue for MemoryQueue {
    fn id(&self) -> QueueId {
        self.id
    }

    fn receive(&mut self, most: usize, sink: &mut dyn FnMut(Frame), torn: &mut dyn FnMut(Chunk)) -> usize {
        let mut frames = 0;
        while frames < most {
            // Not locked while the sink runs: it may use the wire.
            let mut far = lock(&self.far);
            let Some(piece) = far.rx.pop_front() else { break };
            far.check(piece);
            drop(far);
            let Descriptor { address, len, more, .. } = piece;
            match self.assembler.take(&self.region, (address, len, more), torn) {
                Step::More => {}
                Step::Frame(frame) => {
                    frames += 1;
                    sink(frame);
                }
                Step::Torn => frames += 1,
            }
        }
        frames
    }

    fn refill(&mut self, free: &mut Vec<Chunk>) -> usize {
        let far = lock(&self.far);
        let room = far.config.fill.saturating_sub(far.fill.len() + self.fill_staged.len());
        let from = free.len() - free.len().min(room);
        let before = self.fill_staged.len();
        self.fill_staged.extend(free.drain(from..).rev().map(|mut chunk| {
            if far.watching {
                self.region.bytes_mut(&mut chunk, 0, limits::CHUNK).fill(POISON);
            }
            self.region.lend(chunk)
        }));
        let moved = self.fill_staged.len() - before;
        self.given += moved as u64;
        moved
    }

    fn transmit(&mut self, frame: Outgoing) -> Result<(), Outgoing> {
        let far = lock(&self.far);
        if far.tx.len() + self.tx_staged.len() + frame.pieces.len() > far.config.tx {
            return Err(frame);
        }
        let last = frame.pieces.len().saturating_sub(1);
        for (i, piece) in frame.pieces.into_iter().enumerate() {
            let (address, len) = (piece.address(), u32::from(piece.len));
            let _ = self.region.lend(piece.chunk);
            self.tx_staged.push(Descriptor { address, len, more: i < last, sum: far.sum(address, len) });
            self.transmitting += 1;
        }
        Ok(())
    }

    fn flush(&mut self) -> Flushed {
        let mut far = lock(&self.far);
        far.fill.extend(self.fill_staged.drain(..));
        far.tx.extend(self.tx_staged.drain(..));
        far.pump()
    }

    fn reclaim(&mut self, most: usize, sink: &mut dyn FnMut(Chunk)) -> usize {
        let mut taken = 0;
        while taken < most {
            let Some(address) = lock(&self.far).completion.pop_front() else { break };
            match self.region.adopt(address) {
                Ok(chunk) => {
                    taken += 1;
                    self.transmitting = self.transmitting.saturating_sub(1);
                    sink(chunk);
                }
                Err(_) => self.forged += 1,
            }
        }
        taken
    }

    fn ready(&mut self) -> bool {
        let far = lock(&self.far);
        !far.rx.is_empty() || !far.completion.is_empty()
    }

    fn lent(&self) -> Lent {
        let fill = usize::try_from(self.given - self.assembler.delivered()).unwrap_or(usize::MAX);
        Lent { fill, transmit: self.transmitting }
    }
}

/// The far side of a [`MemoryQueue`]: sends frames to it and takes what it sent. Clones are the same wire.
#[derive(Clone, Debug)]
pub struct Wire {
    far: Shared,
}

impl Wire {
    /// Sends one frame to the queue, split over as many chunks as it needs.
    ///
    /// # Errors
    /// [`Dropped`] when the queue cannot take it; nothing of it is delivered.
    pub fn inject(&self, frame: &[u8]) -> Result<(), Dropped> {
        let mut far = lock(&self.far);
        let result = far.deliver(frame);
        match result {
            Ok(()) => far.counts.delivered += 1,
            Err(_) => far.counts.dropped += 1,
        }
        result
    }

    /// Takes the oldest frame that was sent.
    #[must_use]
    pub fn take(&self) -> Option<Vec<u8>> {
        lock(&self.far).sent.pop_front()
    }

    /// Takes all frames that were sent, oldest first.
    #[must_use]
    pub fn take_all(&self) -> Vec<Vec<u8>> {
        lock(&self.far).sent.drain(..).collect()
    }

    /// Sets what happens to frames that are sent.
    pub fn set_transmission(&self, transmission: Transmission) {
        lock(&self.far).transmission = transmission;
    }

    /// Changes how received frames are split and where they start, from the next frame on.
    pub fn set_receive_shape(&self, capacity: usize, frame_at: usize) {
        let mut far = lock(&self.far);
        far.config.capacity = capacity;
        far.config.frame_at = frame_at;
    }

    /// Holds completions back, or lets them through again (with all that are held).
    pub fn set_completions(&self, visibility: Visibility) {
        let mut far = lock(&self.far);
        far.completions = visibility;
        if visibility == Visibility::AtOnce {
            far.finish(usize::MAX);
        }
    }

    /// Completes up to `most` pieces that are held, oldest first. Returns how many.
    pub fn complete(&self, most: usize) -> usize {
        lock(&self.far).finish(most)
    }

    /// Completes up to `most` pieces that are held, newest first: copy mode completes in any order.
    pub fn complete_newest(&self, most: usize) -> usize {
        let mut far = lock(&self.far);
        let n = most.min(far.in_flight.len());
        for _ in 0..n {
            let last = far.in_flight.pop_back();
            far.finish_one(last);
        }
        n
    }

    /// Holds received pieces back, or lets them through again (with all that are held).
    pub fn set_receptions(&self, visibility: Visibility) {
        let mut far = lock(&self.far);
        far.receptions = visibility;
        if visibility == Visibility::AtOnce {
            let all = std::mem::take(&mut far.rx_held);
            far.rx.extend(all);
        }
    }

    /// Lets up to `most` pieces that are held be received, even if that ends inside a frame. Returns how many.
    pub fn reveal(&self, most: usize) -> usize {
        let mut far = lock(&self.far);
        let n = most.min(far.rx_held.len());
        let some: Vec<_> = far.rx_held.drain(..n).collect();
        far.rx.extend(some);
        n
    }

    /// Puts a descriptor on RX that the kernel could not mean: what a defective driver would do.
    pub fn forge_reception(&self, address: u64, len: u32, more: bool) {
        lock(&self.far).rx.push_back(Descriptor { address, len, more, sum: 0 });
    }

    /// Puts an address on COMPLETION that the kernel could not mean.
    pub fn forge_completion(&self, address: u64) {
        lock(&self.far).completion.push_back(address);
    }

    /// Watches from now on, as long as FILL and TX are empty, that nobody writes to memory while the kernel has it
    /// ([`WireCounts::touched`]). Costs a look at every byte.
    pub fn watch(&self) {
        lock(&self.far).watching = true;
    }

    /// Chunks in FILL, as published.
    #[must_use]
    pub fn fill_level(&self) -> usize {
        lock(&self.far).fill.len()
    }

    /// Pieces in TX that the kernel has not taken.
    #[must_use]
    pub fn tx_level(&self) -> usize {
        lock(&self.far).tx.len()
    }

    /// Pieces that were sent and whose completion is held back.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        lock(&self.far).in_flight.len()
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> WireCounts {
        lock(&self.far).counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Piece;
    use arrayvec::ArrayVec;

    struct Bench {
        queue: MemoryQueue,
        wire: Wire,
        free: Vec<Chunk>,
        chunks: usize,
    }

    impl Bench {
        fn new(chunks: u32, config: MemoryConfig) -> Self {
            let region = Arc::new(Region::heap(chunks));
            let free = (0..chunks).map(|i| region.mint(i).unwrap()).collect();
            let (queue, wire) = MemoryQueue::new(QueueId(3), region, config);
            Self { queue, wire, free, chunks: chunks as usize }
        }

        fn stock(&mut self) -> usize {
            let n = self.queue.refill(&mut self.free);
            self.queue.flush();
            n
        }

        fn receive(&mut self) -> Vec<Frame> {
            let mut frames = Vec::new();
            self.queue.receive(64, &mut |f| frames.push(f), &mut |c| self.free.push(c));
            frames
        }

        fn reclaim(&mut self) -> usize {
            self.queue.reclaim(usize::MAX, &mut |c| self.free.push(c))
        }

        fn bytes(&self, frame: &Frame) -> Vec<u8> {
            std::iter::once(&frame.head)
                .chain(&frame.rest)
                .flat_map(|p| {
                    self.queue.region.bytes(&p.chunk, p.offset.into(), p.len.into()).iter().copied()
                })
                .collect()
        }

        fn put(&mut self, frame: Frame) {
            self.free.push(frame.head.chunk);
            self.free.extend(frame.rest.into_iter().map(|p| p.chunk));
        }

        fn echo(frame: Frame) -> Outgoing {
            let mut pieces = ArrayVec::new();
            pieces.push(frame.head);
            pieces.extend(frame.rest);
            Outgoing { queue: frame.queue, pieces }
        }

        fn conserved(&self) {
            let lent = self.queue.lent();
            assert_eq!(self.free.len() + lent.fill + lent.transmit, self.chunks);
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            self.free.drain(..).for_each(Chunk::retire);
        }
    }

    fn tiny() -> MemoryConfig {
        MemoryConfig { fill: 4, rx: 4, tx: 4, completion: 4, ..MemoryConfig::default() }
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn a_jumbo_frame_is_split_and_echoed_whole() {
        let mut bench = Bench::new(8, MemoryConfig::default());
        assert_eq!(bench.stock(), 8);
        let sent = pattern(8740);
        bench.wire.inject(&sent).unwrap();
        assert!(bench.queue.ready());
        let mut frames = bench.receive();
        let frame = frames.pop().unwrap();
        assert!(frames.is_empty());
        assert_eq!(frame.queue, QueueId(3));
        assert_eq!((frame.head.len, frame.head.offset), (3620, 476));
        assert_eq!(frame.rest.iter().map(|p| p.len).collect::<Vec<_>>(), [3620, 1500]);
        assert_eq!(bench.bytes(&frame), sent);
        assert_eq!(bench.queue.lent(), Lent { fill: 5, transmit: 0 });
        bench.queue.transmit(Bench::echo(frame)).unwrap();
        assert_eq!(bench.wire.take(), None, "nothing leaves before flush");
        assert_eq!(bench.queue.flush(), Flushed::Done);
        assert_eq!(bench.wire.take_all(), [sent]);
        assert_eq!(bench.queue.lent(), Lent { fill: 5, transmit: 3 });
        assert!(bench.queue.ready());
        assert_eq!(bench.reclaim(), 3);
        assert!(!bench.queue.ready());
        bench.conserved();
        assert_eq!(
            bench.wire.counts(),
            WireCounts { delivered: 1, sent: 1, flushes: 2, ..Default::default() }
        );
    }

    #[test]
    fn chunks_reach_fill_only_with_a_flush() {
        let mut bench = Bench::new(2, tiny());
        assert_eq!(bench.queue.refill(&mut bench.free), 2);
        assert_eq!(bench.wire.inject(&pattern(60)), Err(Dropped::FillEmpty));
        bench.queue.flush();
        assert_eq!(bench.wire.inject(&pattern(60)), Ok(()));
        bench.conserved();
    }

    #[test]
    fn full_rings_drop_and_refuse() {
        let mut bench = Bench::new(8, MemoryConfig { rx: 2, ..tiny() });
        assert_eq!(bench.stock(), 4, "FILL has four entries");
        assert_eq!(bench.free.len(), 4);
        assert_eq!(bench.wire.inject(&pattern(8740)), Err(Dropped::RxFull));
        bench.wire.inject(&pattern(60)).unwrap();
        bench.wire.inject(&pattern(61)).unwrap();
        assert_eq!(bench.wire.inject(&pattern(60)), Err(Dropped::RxFull));
        let frames = bench.receive();
        assert_eq!(frames.iter().map(Frame::len).collect::<Vec<_>>(), [60, 61]);
        frames.into_iter().for_each(|f| bench.put(f));
        bench.wire.inject(&pattern(60)).unwrap();
        bench.wire.inject(&pattern(60)).unwrap();
        bench.receive().into_iter().for_each(|f| bench.put(f));
        assert_eq!(bench.wire.inject(&pattern(60)), Err(Dropped::FillEmpty));
        bench.conserved();
        assert_eq!(bench.wire.counts().dropped, 3);

        for i in 0..5 {
            let chunk = bench.free.pop().unwrap();
            let pieces = [Piece { chunk, offset: 476, len: 60 }].into_iter().collect();
            match bench.queue.transmit(Outgoing { queue: QueueId(3), pieces }) {
                Ok(()) => assert!(i < 4),
                Err(frame) => {
                    assert_eq!(i, 4, "TX has four entries");
                    bench.free.extend(frame.pieces.into_iter().map(|p| p.chunk));
                }
            }
        }
        bench.wire.set_transmission(Transmission::Refused);
        assert_eq!(bench.queue.flush(), Flushed::Again);
        bench.wire.set_transmission(Transmission::Budget(3));
        assert_eq!(bench.queue.flush(), Flushed::Again);
        assert_eq!(bench.wire.tx_level(), 1);
        bench.wire.set_transmission(Transmission::Down(100));
        assert_eq!(bench.queue.flush(), Flushed::Down(100));
        assert_eq!(bench.wire.inject(&pattern(60)), Err(Dropped::Down));
        bench.wire.set_transmission(Transmission::Open);
        assert_eq!(bench.queue.flush(), Flushed::Done);
        assert_eq!(bench.reclaim(), 4);
        bench.conserved();
    }

    #[test]
    fn completion_room_is_back_pressure() {
        let mut bench = Bench::new(8, MemoryConfig { completion: 2, ..tiny() });
        bench.wire.set_completions(Visibility::Held);
        for _ in 0..4 {
            let chunk = bench.free.pop().unwrap();
            let pieces = [Piece { chunk, offset: 0, len: 60 }].into_iter().collect();
            bench.queue.transmit(Outgoing { queue: QueueId(3), pieces }).unwrap();
        }
        assert_eq!(bench.queue.flush(), Flushed::Again);
        assert_eq!((bench.wire.tx_level(), bench.wire.in_flight()), (2, 2));
        assert!(!bench.queue.ready());
        assert_eq!(bench.wire.complete_newest(1), 1);
        assert!(bench.queue.ready());
        assert_eq!(bench.queue.flush(), Flushed::Again, "not before it was reclaimed");
        assert_eq!(bench.reclaim(), 1);
        assert_eq!(bench.queue.flush(), Flushed::Again);
        assert_eq!(bench.wire.complete(8), 2);
        assert_eq!(bench.reclaim(), 2);
        assert_eq!(bench.queue.flush(), Flushed::Done);
        bench.wire.set_completions(Visibility::AtOnce);
        assert_eq!(bench.reclaim(), 1);
        bench.conserved();
    }

    #[test]
    fn a_frame_may_arrive_in_parts_and_is_torn_when_it_has_too_many() {
        let mut bench = Bench::new(16, MemoryConfig::default());
        bench.stock();
        bench.wire.set_receptions(Visibility::Held);
        bench.wire.inject(&pattern(8740)).unwrap();
        assert_eq!(bench.wire.reveal(2), 2);
        assert!(bench.receive().is_empty());
        assert_eq!(bench.queue.lent().fill, 16, "an unfinished frame is not received yet");
        bench.conserved();
        assert_eq!(bench.wire.reveal(2), 1);
        let frame = bench.receive().pop().unwrap();
        assert_eq!(bench.bytes(&frame), pattern(8740));
        bench.put(frame);
        bench.conserved();
        bench.wire.set_receptions(Visibility::AtOnce);
        bench.wire.set_receive_shape(100, 500);
        bench.wire.inject(&pattern(100 * limits::MAX_FRAGMENTS + 1)).unwrap();
        bench.wire.inject(&pattern(101)).unwrap();
        let mut frames = bench.receive();
        assert_eq!(frames.len(), 1, "the long one is torn, the other is not");
        let frame = frames.pop().unwrap();
        assert_eq!((frame.len(), frame.head.offset), (101, 500));
        bench.put(frame);
        bench.conserved();
    }

    #[test]
    fn forged_addresses_and_invalid_pieces_are_counted() {
        let mut bench = Bench::new(4, tiny());
        bench.wire.forge_reception(4096, 60, false);
        bench.wire.forge_completion(1 << 50);
        assert!(bench.receive().is_empty());
        assert_eq!(bench.reclaim(), 0);
        assert_eq!(bench.queue.forged(), 2);
        for (offset, len) in [(476, 0), (4090, 7)] {
            let chunk = bench.free.pop().unwrap();
            let pieces = [Piece { chunk, offset, len }].into_iter().collect();
            bench.queue.transmit(Outgoing { queue: QueueId(3), pieces }).unwrap();
        }
        assert_eq!(bench.queue.flush(), Flushed::Done);
        assert_eq!(bench.wire.counts().invalid, 2);
        assert_eq!(bench.wire.take(), None);
        assert_eq!(bench.reclaim(), 2, "the chunks come back all the same");
        bench.conserved();
    }
}
