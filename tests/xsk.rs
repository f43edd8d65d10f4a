//! AF_XDP sockets over veth: what arrives, what leaves, and that no chunk is lost on the way.
//!
//! ```text
//!   tgt0: XDP program, XskQueue per receive queue, echo  ◄── veth ──►  ini0: packet socket, or a sending XskQueue
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod namespace;

use arrayvec::ArrayVec;
use namespace::{
    INITIATOR, INITIATOR_MAC, Station, TARGET, TARGET_MAC, alone, eventually, ip, request, tagged, veth,
};
use std::os::fd::AsFd;
use xshelf::frame::{self, Chunk, Frame, Outgoing, Piece, QueueId};
use xshelf::limits;
use xshelf::net::ladder::{self, LadderError, Mode, Rung, Standing};
use xshelf::net::nic::{self, Facts, NicError};
use xshelf::net::steer::{AttachMode, Reason, Steer};
use xshelf::net::xsk::{Rings, Umem, XskError, XskQueue};
use xshelf::net::{Flushed, Lent, Queue};

const SHELF: u16 = 7;
const SMALL: Rings = Rings { fill: 64, rx: 64, tx: 64, completion: 64, headroom: limits::UMEM_HEADROOM };

/// One end with sockets on all its queues, each with chunks of its own.
struct Side {
    umem: Umem,
    queues: Vec<XskQueue>,
    free: Vec<Vec<Chunk>>,
    each: usize,
}

impl Side {
    fn bind(facts: &Facts, rung: Rung, queues: u32, rings: Rings, each: u32) -> Self {
        let umem = Umem::new(each * queues, rings).unwrap();
        let mut side = Self { queues: Vec::new(), free: Vec::new(), each: each as usize, umem };
        for queue in 0..queues {
            side.queues.push(side.umem.bind(QueueId(queue as u16), facts, queue, rung).unwrap());
            let chunks = queue * each..(queue + 1) * each;
            side.free.push(chunks.map(|i| side.umem.region().mint(i).unwrap()).collect());
        }
        side
    }

    fn stock(&mut self, queue: usize) -> usize {
        let moved = self.queues[queue].refill(&mut self.free[queue]);
        self.queues[queue].flush();
        moved
    }

    fn receive(&mut self, queue: usize, most: usize) -> Vec<Frame> {
        let mut frames = Vec::new();
        let free = &mut self.free[queue];
        self.queues[queue].receive(most, &mut |f| frames.push(f), &mut |c| free.push(c));
        frames
    }

    fn await_frame(&mut self, queue: usize) -> Frame {
        let mut frame = None;
        eventually("a frame is received", || {
            frame = self.receive(queue, 1).pop();
            frame.is_some()
        });
        frame.unwrap()
    }

    fn bytes(&self, frame: &Frame) -> Vec<u8> {
        let region = self.umem.region();
        std::iter::once(&frame.head)
            .chain(&frame.rest)
            .flat_map(|p| region.bytes(&p.chunk, p.offset.into(), p.len.into()).iter().copied())
            .collect()
    }

    fn put(&mut self, queue: usize, frame: Frame) {
        self.free[queue].push(frame.head.chunk);
        self.free[queue].extend(frame.rest.into_iter().map(|p| p.chunk));
    }

    fn reclaim(&mut self, queue: usize) -> usize {
        let free = &mut self.free[queue];
        self.queues[queue].reclaim(usize::MAX, &mut |c| free.push(c))
    }

    /// Sends until the kernel took all of it.
    fn flush(&mut self, queue: usize) {
        eventually("TX is empty", || {
            self.reclaim(queue);
            self.queues[queue].flush() == Flushed::Done
        });
    }

    /// Takes chunks and sends the bytes, cut to pieces of these lengths at these offsets.
    fn send(&mut self, queue: usize, bytes: &[u8], cuts: &[(u16, u16)]) {
        let mut pieces = ArrayVec::new();
        let mut at = 0;
        for &(offset, len) in cuts {
            let mut chunk = self.free[queue].pop().unwrap();
            let end = at + usize::from(len);
            let to = self.umem.region().bytes_mut(&mut chunk, offset.into(), len.into());
            to.copy_from_slice(&bytes[at..end]);
            pieces.push(Piece { chunk, offset, len });
            at = end;
        }
        assert_eq!(at, bytes.len());
        self.queues[queue].transmit(Outgoing { queue: QueueId(queue as u16), pieces }).unwrap();
    }

    /// All chunks are free or lent, and once nothing is under way only FILL holds some.
    fn conserved(&mut self) {
        for queue in 0..self.queues.len() {
            eventually("all sent chunks are back", || {
                self.reclaim(queue);
                self.queues[queue].lent().transmit == 0
            });
            let lent = self.queues[queue].lent();
            assert_eq!(self.free[queue].len() + lent.fill, self.each, "queue {queue}: {lent:?}");
            assert_eq!(self.queues[queue].forged(), 0);
        }
        assert_eq!(frame::leaked(), 0);
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.free.drain(..).flatten().for_each(Chunk::retire);
    }
}

/// The target's end: program attached, sockets stocked and inserted.
struct Target {
    facts: Facts,
    steer: Steer,
    standing: Standing,
    side: Side,
}

impl Target {
    fn new(mode: Mode, rings: Rings, each: u32) -> Self {
        let facts = nic::facts(TARGET).unwrap();
        let (mut steer, standing) = ladder::establish(&facts, mode).unwrap();
        steer.set_shelf(SHELF, true).unwrap();
        let mut side = Side::bind(&facts, standing.rung, standing.queues, rings, each);
        for (queue, n) in (0..standing.queues).zip(0..) {
            side.stock(n);
            steer.insert(queue, &side.queues[n]).unwrap();
        }
        Self { facts, steer, standing, side }
    }
}

/// Runs a test that needs frames of several pieces (XDP_USE_SG).
fn alone_with_segments(test: impl FnOnce() + Send + 'static) {
    if namespace::linux() < (6, 6) {
        println!("SKIPPED: AF_XDP knows frames of several pieces since Linux 6.6");
        return;
    }
    alone(test);
}

fn echo(frame: Frame) -> Outgoing {
    let mut pieces = ArrayVec::new();
    pieces.push(frame.head);
    pieces.extend(frame.rest);
    Outgoing { queue: frame.queue, pieces }
}

/// Frames of these lengths, each echoed from the chunks it arrived in.
fn echoes(mode: Mode, mtu: u32, queues: u32, lengths: &[usize]) {
    veth(mtu, queues, queues);
    let station = Station::on(INITIATOR);
    let mut target = Target::new(mode, SMALL, 128);
    for round in 0..3 {
        for &len in lengths {
            for vlan in [None, Some(100)] {
                let sent = request(TARGET_MAC, SHELF, len);
                let sent = vlan.map_or(sent.clone(), |vlan| tagged(sent, vlan));
                station.send(&sent);
                let mut got = None;
                eventually("the frame is received", || {
                    got = (0..target.side.queues.len())
                        .find_map(|queue| Some((queue, target.side.receive(queue, 64).pop()?)));
                    got.is_some()
                });
                let (queue, mut frame) = got.unwrap();
                assert_eq!(frame.queue, QueueId(queue as u16));
                assert_eq!(usize::from(frame.head.offset), limits::FRAME_AT);
                if sent.len() <= 3620 {
                    assert!(frame.rest.is_empty(), "{frame:?}");
                } else {
                    assert_eq!(frame.head.len, 3620, "{frame:?}");
                }
                assert_eq!(target.side.bytes(&frame), sent, "{len} bytes, round {round}");
                let to = target.side.umem.region().bytes_mut(&mut frame.head.chunk, limits::FRAME_AT, 12);
                to.copy_within(0..6, 6);
                to[..6].copy_from_slice(&INITIATOR_MAC);
                target.side.queues[queue].transmit(echo(frame)).unwrap();
                target.side.flush(queue);
                // The stack takes a tag out of what it shows to a packet socket.
                let mut want = request(INITIATOR_MAC, SHELF, len);
                want[6..12].copy_from_slice(&TARGET_MAC);
                assert_eq!(station.expect(), want, "{len} bytes, round {round}");
                target.side.stock(queue);
            }
        }
    }
    target.side.conserved();
    let total: u64 = target.steer.counters().unwrap().get(Reason::Redirected);
    assert_eq!(total, 6 * lengths.len() as u64);
}

#[test]
fn native_mode_echoes_small_frames() {
    alone(|| echoes(Mode::Native, 1500, 1, &[24, 32, 60, 1060, 1514]));
}

#[test]
fn native_mode_echoes_jumbo_frames_in_pieces() {
    alone_with_segments(|| {
        echoes(Mode::Native, 9000, 1, &[60, 3616, 3620, 3621, 4132, 7240, 7241, 8228, 8740])
    });
}

#[test]
fn native_mode_echoes_on_two_queues() {
    alone_with_segments(|| echoes(Mode::Native, 9000, 2, &[60, 8740]));
}

#[test]
fn generic_mode_echoes_small_frames() {
    alone(|| echoes(Mode::Generic, 1500, 1, &[24, 32, 60, 1060, 1514]));
}

#[test]
fn generic_mode_echoes_jumbo_frames_in_pieces() {
    alone_with_segments(|| echoes(Mode::Generic, 9000, 2, &[60, 3620, 3621, 4132, 7241, 8228, 8740]));
}

#[test]
fn with_room_for_the_tag_tagged_data_is_aligned() {
    alone(|| {
        veth(1500, 1, 1);
        let station = Station::on(INITIATOR);
        let rings = Rings { headroom: limits::TAGGED_HEADROOM, ..SMALL };
        for mode in [Mode::Native, Mode::Generic] {
            let mut target = Target::new(mode, rings, 64);
            let sent = tagged(request(TARGET_MAC, SHELF, 1060), 100);
            station.send(&sent);
            let mut got = None;
            eventually("the frame is received", || {
                got = target.side.receive(0, 64).pop();
                got.is_some()
            });
            let frame = got.unwrap();
            let data = usize::from(frame.head.offset) + limits::ATA_FRAME + limits::VLAN_TAG;
            assert_eq!(data, limits::PAYLOAD_AT, "{mode:?}");
            assert_eq!(target.side.bytes(&frame), sent);
            target.side.put(0, frame);
            target.side.conserved();
        }
    });
}

#[test]
fn each_queue_receives_what_was_sent_to_it() {
    alone_with_segments(|| {
        veth(9000, 2, 2);
        let mut target = Target::new(Mode::Native, SMALL, 64);
        let facts = nic::facts(INITIATOR).unwrap();
        // A socket sends by the queue that it is bound to. It needs no program where it only sends.
        let mut sender = Side::bind(&facts, Rung::NativeSegments, 2, SMALL, 32);
        for (queue, len) in [(0, 60), (1, 60), (1, 8740), (0, 8740)] {
            let sent = request(TARGET_MAC, SHELF, len);
            // A header of 36 bytes, then data from the first byte of a chunk on, as a reply from a run.
            let cuts: &[_] = if len == 60 { &[(476, 60)] } else { &[(476, 548), (0, 4096), (0, 4096)] };
            sender.send(queue, &sent, cuts);
            sender.flush(queue);
            let frame = target.side.await_frame(queue);
            assert_eq!(target.side.bytes(&frame), sent);
            assert_eq!(target.side.receive(1 - queue, 64).len(), 0);
            target.side.put(queue, frame);
        }
        sender.conserved();
        target.side.conserved();
    });
}

#[test]
fn pieces_leave_from_any_offset_as_one_frame() {
    alone_with_segments(|| {
        veth(9000, 1, 1);
        let station = Station::on(INITIATOR);
        let mut target = Target::new(Mode::Native, SMALL, 128);
        for cuts in [
            &[(0, 60)][..],
            &[(4036, 60)],
            &[(1, 1), (4095, 1), (7, 58)],
            &[(476, 36), (0, 4096), (0, 4096)],
            &[(512, 3584), (0, 4096), (512, 548)],
        ] {
            let len: usize = cuts.iter().map(|&(_, len)| usize::from(len)).sum();
            let sent = request(INITIATOR_MAC, SHELF, len);
            target.side.send(0, &sent, cuts);
            assert_eq!(station.take(), None, "nothing leaves before flush");
            target.side.flush(0);
            assert_eq!(station.expect(), sent, "{cuts:?}");
        }
        target.side.conserved();
    });
}

#[test]
fn more_than_one_call_can_send_leaves_in_order() {
    alone(|| {
        veth(1500, 1, 1);
        let station = Station::on(INITIATOR);
        let rings = Rings { tx: 256, completion: 256, ..SMALL };
        let mut target = Target::new(Mode::Native, rings, 512);
        for burst in 0..4u16 {
            for i in 0..200u16 {
                let mut frame = request(INITIATOR_MAC, burst, 60);
                frame[30..32].copy_from_slice(&i.to_be_bytes());
                target.side.send(0, &frame, &[(476, 60)]);
            }
            target.side.flush(0);
            for i in 0..200u16 {
                let frame = station.expect();
                assert_eq!(frame[16..18], burst.to_be_bytes());
                assert_eq!(frame[30..32], i.to_be_bytes());
            }
        }
        target.side.conserved();
    });
}

#[test]
fn tiny_rings_drop_and_count_but_lose_no_chunk() {
    alone_with_segments(|| {
        veth(9000, 1, 1);
        let station = Station::on(INITIATOR);
        let mut target = Target::new(Mode::Native, Rings::TINY, 8);
        assert_eq!(target.side.queues[0].lent(), Lent { fill: 4, transmit: 0 });
        for round in 0..20 {
            // Three entries fit, a second such frame does not; what does not fit is dropped by the kernel.
            for _ in 0..3 {
                station.send(&request(TARGET_MAC, SHELF, 8740));
            }
            let frame = target.side.await_frame(0);
            assert_eq!(target.side.bytes(&frame), request(TARGET_MAC, SHELF, 8740), "round {round}");
            assert_eq!(target.side.receive(0, 64).len(), 0);
            // TX has four entries too: a frame of three pieces fits, another one only when that was sent.
            target.side.queues[0].transmit(echo(frame)).unwrap();
            let more: ArrayVec<_, 3> = (0..2)
                .map(|_| Piece { chunk: target.side.free[0].pop().unwrap(), offset: 0, len: 60 })
                .collect();
            let refused = target.side.queues[0].transmit(Outgoing { queue: QueueId(0), pieces: more });
            for piece in refused.unwrap_err().pieces {
                target.side.free[0].push(piece.chunk);
            }
            target.side.flush(0);
            target.side.conserved();
            target.side.stock(0);
            assert_eq!(target.side.queues[0].lent(), Lent { fill: 4, transmit: 0 });
        }
        let statistics = target.side.queues[0].statistics().unwrap();
        assert_eq!(
            statistics.rx_dropped + statistics.rx_ring_full + statistics.fill_empty,
            40,
            "{statistics:?}"
        );
        assert_eq!((statistics.rx_invalid, statistics.tx_invalid), (0, 0));
    });
}

#[test]
fn the_smallest_rings_work() {
    alone(|| {
        veth(1500, 1, 1);
        let station = Station::on(INITIATOR);
        let mut target =
            Target::new(Mode::Native, Rings { fill: 2, rx: 2, tx: 2, completion: 2, ..SMALL }, 4);
        for _ in 0..50 {
            station.send(&request(TARGET_MAC, SHELF, 60));
            station.send(&request(TARGET_MAC, SHELF, 61));
            for len in [60, 61] {
                let frame = target.side.await_frame(0);
                assert_eq!(frame.len(), len);
                target.side.queues[0].transmit(echo(frame)).unwrap();
            }
            target.side.flush(0);
            target.side.stock(0);
        }
        target.side.conserved();
    });
}

#[test]
fn frames_of_too_many_pieces_are_torn_and_counted() {
    alone_with_segments(|| {
        // Five chunks take 18100 bytes.
        veth(30000, 1, 1);
        let station = Station::on(INITIATOR);
        let mut target = Target::new(Mode::Native, SMALL, 64);
        for round in 0..10 {
            station.send(&request(TARGET_MAC, SHELF, 18_101));
            station.send(&request(TARGET_MAC, SHELF, 18_100));
            let mut frames = Vec::new();
            let mut taken = 0;
            let side = &mut target.side;
            eventually("both frames are taken", || {
                let free = &mut side.free[0];
                taken += side.queues[0].receive(64, &mut |f| frames.push(f), &mut |c| free.push(c));
                taken == 2
            });
            assert_eq!(frames.len(), 1);
            let frame = frames.pop().unwrap();
            assert_eq!((frame.len(), frame.rest.len()), (18_100, 4), "round {round}");
            side.put(0, frame);
            side.conserved();
            side.stock(0);
        }
    });
}

#[test]
fn frames_are_taken_up_to_the_number_asked_for() {
    alone_with_segments(|| {
        veth(9000, 1, 1);
        let station = Station::on(INITIATOR);
        let mut target = Target::new(Mode::Native, SMALL, 64);
        for i in 0..7 {
            station.send(&request(TARGET_MAC, SHELF, if i % 2 == 0 { 8740 } else { 60 }));
        }
        eventually("frames wait", || target.side.queues[0].ready());
        let mut lengths = Vec::new();
        eventually("all frames are taken", || {
            let frames = target.side.receive(0, 2);
            assert!(frames.len() <= 2);
            for frame in frames {
                lengths.push(frame.len());
                target.side.put(0, frame);
            }
            lengths.len() == 7
        });
        assert_eq!(lengths, [8740, 60, 8740, 60, 8740, 60, 8740]);
        assert!(!target.side.queues[0].ready());
        target.side.conserved();
    });
}

#[test]
fn a_port_that_is_down_says_so_and_sends_later() {
    alone(|| {
        veth(1500, 1, 1);
        let mut target = Target::new(Mode::Native, SMALL, 128);
        ip(&format!("link set dev {TARGET} down"));
        let facts = nic::facts(TARGET).unwrap();
        assert!(matches!(facts.require_up(), Err(NicError::Down { .. })));
        target.side.send(0, &request(INITIATOR_MAC, SHELF, 60), &[(476, 60)]);
        assert_eq!(target.side.queues[0].flush(), Flushed::Down(libc::ENETDOWN));
        assert_eq!(target.side.queues[0].lent().transmit, 1);
        assert_eq!(target.steer.attached(), Some(AttachMode::Native), "the program stays");
        ip(&format!("link set dev {TARGET} up"));
        assert!(nic::facts(TARGET).unwrap().require_up().is_ok());
        let station = Station::on(INITIATOR);
        target.side.flush(0);
        assert_eq!(station.expect(), request(INITIATOR_MAC, SHELF, 60));
        // And it receives again.
        station.send(&request(TARGET_MAC, SHELF, 60));
        let frame = target.side.await_frame(0);
        target.side.put(0, frame);
        target.side.conserved();
    });
}

#[test]
fn a_port_that_is_gone_says_so() {
    alone(|| {
        veth(1500, 1, 1);
        let mut target = Target::new(Mode::Native, SMALL, 128);
        ip(&format!("link del {TARGET}"));
        target.side.send(0, &request(INITIATOR_MAC, SHELF, 60), &[(476, 60)]);
        assert!(matches!(target.side.queues[0].flush(), Flushed::Down(_)));
        assert_eq!(target.steer.attached(), None);
        assert!(target.side.receive(0, 64).is_empty());
    });
}

#[test]
fn a_queue_can_be_bound_again_right_after_it_was_closed() {
    alone(|| {
        veth(1500, 2, 2);
        let station = Station::on(INITIATOR);
        let mut rung = None;
        for round in 0..10 {
            // Without a pause: the kernel still holds the queues of the round before.
            let mut target = Target::new(Mode::Native, SMALL, 64);
            assert_eq!(target.side.queues.len(), 2);
            station.send(&request(TARGET_MAC, SHELF, 60));
            let side = &mut target.side;
            eventually("the frame is received", || {
                (0..2).any(|queue| side.receive(queue, 1).pop().map(|frame| side.put(queue, frame)).is_some())
            });
            side.conserved();
            assert_eq!(*rung.get_or_insert(target.standing.rung), target.standing.rung, "round {round}");
        }
    });
}

#[test]
fn a_held_queue_is_refused_with_a_reason() {
    alone(|| {
        veth(1500, 2, 2);
        let facts = nic::facts(TARGET).unwrap();
        let umem = Umem::new(4, Rings::TINY).unwrap();
        let _held = umem.bind(QueueId(0), &facts, 0, Rung::Native).unwrap();
        let twice = umem.bind(QueueId(1), &facts, 0, Rung::Native).unwrap_err();
        assert!(matches!(twice, XskError::Twice { queue: 0, .. }), "{twice:?}");
        let mixed = umem.bind(QueueId(1), &facts, 1, Rung::NativeSegments).unwrap_err();
        assert!(matches!(mixed, XskError::Mixed { .. }), "{mixed:?}");
        let beyond = umem.bind(QueueId(1), &facts, 2, Rung::Native).unwrap_err();
        assert!(matches!(beyond, XskError::Unsupported { queue: 2, queues: 2, .. }), "{beyond:?}");
        let other = Umem::new(4, Rings::TINY).unwrap();
        let busy = other.bind(QueueId(0), &facts, 0, Rung::Native).unwrap_err();
        assert!(matches!(busy, XskError::Busy { queue: 0, .. }), "{busy:?}");
        other.bind(QueueId(0), &facts, 1, Rung::Native).unwrap();
        let missing = Facts { name: "no-such-if0".into(), ..facts };
        let missing = other.bind(QueueId(1), &missing, 0, Rung::Native).unwrap_err();
        assert!(matches!(missing, XskError::NoInterface { .. }), "{missing:?}");
    });
}

/// The program goes with its link, and the link with the last copy of its descriptor: a test that runs beside this one and
/// has just forked holds one until it executes its command.
fn detached() {
    namespace::eventually("no program is attached", || nic::facts(TARGET).unwrap().programs.is_empty());
}

#[test]
fn the_ladder_ends_on_the_best_rung_and_says_why_not_a_better_one() {
    alone_with_segments(|| {
        veth(9000, 2, 2);
        let facts = nic::facts(TARGET).unwrap();
        let (steer, standing) = ladder::establish(&facts, Mode::Auto).unwrap();
        assert_eq!(steer.attached(), Some(AttachMode::Native));
        assert_eq!((standing.rung, standing.queues, standing.pieces), (Rung::NativeSegments, 2, 3));
        assert_eq!(limits::sectors_for(facts.mtu, standing.frame_room), 16);
        assert_eq!(
            standing.to_string(),
            "tgt0: native copy with segments \
             (no zero-copy with segments, zero-copy: veth has no zero-copy)"
        );
        drop(steer);
        detached();
        // What the kernel itself says when it is asked all the same.
        let unknown = Facts { features: None, mtu: 1500, ..facts.clone() };
        let (steer, standing) = ladder::establish(&unknown, Mode::Auto).unwrap();
        assert_eq!(standing.rung, Rung::NativeSegments);
        for refusal in &standing.refused {
            assert_eq!(
                refusal.reason,
                format!("queue 0 (of 2) cannot do {}: Operation not supported (os error 95)", refusal.rung)
            );
        }
        drop(steer);
        detached();
        let (steer, standing) = ladder::establish(&facts, Mode::Generic).unwrap();
        assert_eq!(steer.attached(), Some(AttachMode::Generic));
        assert_eq!((standing.rung, standing.queues), (Rung::GenericSegments, 1));
        drop(steer);
        detached();
        let error = ladder::establish(&facts, Mode::ZeroCopy).unwrap_err();
        assert!(matches!(&error, LadderError::Exhausted { refused, .. } if refused.len() == 2), "{error:?}");
        detached();
    });
}

#[test]
fn segments_that_this_kernel_lacks_are_refused_and_say_since_when_it_has_them() {
    alone(|| {
        if namespace::linux() >= (6, 6) {
            println!("SKIPPED: this kernel has them");
            return;
        }
        veth(1500, 2, 2);
        let facts = nic::facts(TARGET).unwrap();
        for (mode, rung) in [(Mode::Native, Rung::Native), (Mode::Generic, Rung::Generic)] {
            let (steer, standing) = ladder::establish(&facts, mode).unwrap();
            assert_eq!((standing.rung, standing.pieces), (rung, 1));
            assert!(standing.to_string().contains("several pieces: Linux 6.6"), "{standing}");
            drop(steer);
            detached();
        }
    });
}

#[test]
fn without_native_xdp_the_ladder_ends_on_generic() {
    alone(|| {
        veth(1500, 1, 2);
        let generic = if namespace::linux() < (6, 6) { Rung::Generic } else { Rung::GenericSegments };
        let facts = nic::facts(TARGET).unwrap();
        let (steer, standing) = ladder::establish(&facts, Mode::Auto).unwrap();
        assert_eq!(steer.attached(), Some(AttachMode::Generic));
        assert_eq!(standing.rung, generic);
        assert!(standing.to_string().contains("too few queues"), "{standing}");
        drop(steer);
        detached();

        ip("link add bridge0 type bridge");
        ip("link set dev bridge0 up");
        let facts = nic::facts("bridge0").unwrap();
        assert_eq!(facts.queues, 1);
        let (_steer, standing) = ladder::establish(&facts, Mode::Auto).unwrap();
        assert_eq!(standing.rung, generic);
        assert!(standing.to_string().contains("has no native XDP"), "{standing}");
    });
}

#[test]
fn facts_are_those_of_this_namespace() {
    alone(|| {
        veth(9000, 3, 2);
        let facts = nic::facts(TARGET).unwrap();
        assert_eq!(facts.mac.0, TARGET_MAC);
        assert_eq!((facts.mtu, facts.queues, facts.transmit_queues), (9000, 3, 3));
        assert_eq!((facts.up, facts.driver.as_str()), (true, "veth"));
        assert_eq!((facts.numa_node, facts.strips_vlan.is_some()), (None, true));
        // Drivers tell since Linux 6.3.
        if let Some(features) = facts.features {
            assert!(features.native() && !features.zero_copy() && features.receive_segments());
        } else {
            assert!(namespace::linux() < (6, 3));
        }
        eventually("the carrier is there", || nic::facts(TARGET).unwrap().running);
        assert_eq!(nic::facts(INITIATOR).unwrap().queues, 2);
        // Its peer can send on more queues than it receives on: no native XDP there.
        assert_eq!(nic::facts(INITIATOR).unwrap().features, None);
        let mut names = nic::interfaces().unwrap();
        names.sort();
        assert_eq!(names, [INITIATOR, TARGET]);
        let error = nic::facts("tgt1").unwrap_err();
        assert_eq!(error.to_string(), "tgt1: no such interface; there is tgt0, ini0");
        ip(&format!("link set dev {TARGET} mtu 1500 down"));
        let facts = nic::facts(TARGET).unwrap();
        assert_eq!((facts.mtu, facts.up, facts.running), (1500, false, false));
    });
}

#[test]
fn the_descriptor_polls_readable_when_a_frame_waits() {
    alone(|| {
        veth(1500, 1, 1);
        let station = Station::on(INITIATOR);
        let mut target = Target::new(Mode::Native, SMALL, 64);
        let poll = |target: &Target, timeout: i32| {
            let fd = std::os::fd::AsRawFd::as_raw_fd(&target.side.queues[0].as_fd());
            let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            // SAFETY: one entry, as said.
            unsafe { libc::poll(&raw mut poll, 1, timeout) }
        };
        assert_eq!(poll(&target, 0), 0);
        station.send(&request(TARGET_MAC, SHELF, 60));
        assert_eq!(poll(&target, 20_000), 1);
        let frame = target.side.await_frame(0);
        target.side.put(0, frame);
        assert_eq!(poll(&target, 0), 0);
    });
}

#[test]
fn what_is_not_for_us_reaches_the_stack() {
    alone(|| {
        veth(1500, 1, 1);
        let station = Station::on(INITIATOR);
        let host = Station::on(TARGET);
        let mut target = Target::new(Mode::Native, SMALL, 64);
        let mut response = request(TARGET_MAC, SHELF, 60);
        response[14] |= 8;
        station.send(&response);
        assert_eq!(host.expect(), response);
        let other = request(TARGET_MAC, SHELF + 1, 60);
        station.send(&other);
        assert_eq!(host.expect(), other);
        target.steer.remove(0).unwrap();
        let ours = request(TARGET_MAC, SHELF, 60);
        station.send(&ours);
        assert_eq!(host.expect(), ours);
        assert!(target.side.receive(0, 64).is_empty());
        // Ours again, and not theirs.
        target.steer.insert(0, &target.side.queues[0]).unwrap();
        station.send(&ours);
        let frame = target.side.await_frame(0);
        assert_eq!(target.side.bytes(&frame), ours);
        target.side.put(0, frame);
        assert_eq!(host.take(), None);
        assert_eq!(target.facts.index, nic::facts(TARGET).unwrap().index);
    });
}

#[test]
fn a_umem_uses_huge_pages_only_when_it_fills_them() {
    alone(|| {
        // 2 MiB and a chunk: never huge, whatever is free.
        let umem = Umem::new(513, Rings::TINY).unwrap();
        assert_ne!(umem.pages(), xshelf::net::xsk::Pages::Huge);
        let whole = Umem::new(512, Rings::TINY).unwrap();
        println!("512 chunks lie in {}", whole.pages());
        let region = whole.region();
        assert_eq!(region.base().as_ptr().addr() % limits::CHUNK, 0);
        let mut last = region.mint(511).unwrap();
        region.bytes_mut(&mut last, 0, limits::CHUNK).fill(0xa5);
        assert_eq!(region.bytes(&last, 4095, 1), [0xa5]);
        last.retire();
    });
}
