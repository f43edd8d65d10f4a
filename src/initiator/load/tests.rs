//! Loads against a simulated network and target, on one thread and a virtual clock.
//!
//! The network loses, repeats and delays frames in both directions, each direction and copy on its own; the target
//! executes what arrives when it arrives. So a copy of a write may be executed long after the write was answered.

use super::*;
use crate::initiator::pattern::Found;
use crate::initiator::session::SECOND;
use crate::protocol::ata::{self, Ata};
use crate::protocol::{Ethernet, Header};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

const HOST: Mac = Mac([2, 0, 0, 0, 0, 0xff]);
const SECTORS: u64 = 256;
const MICROSECOND: Nanos = 1000;

fn mac(slot: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, slot])
}

/// What goes wrong, in chances of 1000.
#[derive(Clone, Copy, Default)]
struct Faults {
    lost: u64,
    repeated: u64,
    /// The copy of a repeated request goes its own way, as if a switch had held it back.
    apart: bool,
    /// Delayed by up to `delay` instead of some microseconds.
    slow: u64,
    delay: Nanos,
    /// A write is answered well and not done.
    forgotten: u64,
    /// A write goes to the sector behind.
    misplaced: u64,
    /// One bit of a read is wrong.
    flipped: u64,
    /// A request fails with ATA 41/40.
    failed: u64,
    /// The target answers nothing from then on.
    dead_at: Option<Nanos>,
}

/// When a frame arrives, whether at the target, and its bytes.
type Flying = (Reverse<(Nanos, u64)>, bool, Vec<u8>);

struct World {
    faults: Faults,
    random: Random,
    now: Nanos,
    /// Frames on their way, soonest first; the number keeps order.
    wire: BinaryHeap<Flying>,
    count: u64,
    disks: Vec<Vec<u8>>,
    /// Requests in flight in the target's eyes, by slot: never more than the window without faults.
    deepest: usize,
    flying: usize,
    executed_writes: u64,
}

impl World {
    fn new(seed: u64, slots: u8, faults: Faults) -> Self {
        Self {
            faults,
            random: Random::new(seed),
            now: 0,
            wire: BinaryHeap::new(),
            count: 0,
            disks: vec![vec![0; SECTORS as usize * SECTOR]; usize::from(slots)],
            deepest: 0,
            flying: 0,
            executed_writes: 0,
        }
    }

    fn chance(&mut self, of_1000: u64) -> bool {
        self.random.below(1000) < of_1000
    }

    fn post(&mut self, to_target: bool, frame: &[u8]) {
        let copies = 1 + u64::from(self.chance(self.faults.repeated));
        let mut when = self.travel();
        for _ in 0..copies {
            // A switch that repeats a request does so at once. Were it to hold the copy back, no initiator would be
            // safe that has not been told of it.
            when = if to_target && !self.faults.apart { when } else { self.travel() };
            if !self.chance(self.faults.lost) {
                self.count += 1;
                self.wire.push((Reverse((when, self.count)), to_target, frame.to_vec()));
            }
        }
    }

    fn travel(&mut self) -> Nanos {
        let slow = self.chance(self.faults.slow);
        let delay = if slow { self.faults.delay } else { 50 * MICROSECOND };
        self.now + 10 * MICROSECOND + self.random.below(delay)
    }

    fn serve(&mut self, frame: &[u8]) {
        if self.faults.dead_at.is_some_and(|at| self.now >= at) {
            return;
        }
        let ethernet = Ethernet::parse(frame).unwrap();
        let header = Header::parse(&frame[14..]).unwrap();
        let registers = Ata::parse(&frame[24..]).unwrap();
        let slot = usize::from(header.address.slot);
        let count = usize::from(registers.count);
        let lba = registers.lba48();
        assert!(lba + registers.count as u64 <= SECTORS, "beyond the end: {lba}+{count}");
        assert_eq!(ethernet.destination, mac(header.address.slot));
        let mut outcome = ata::Outcome::GOOD;
        let mut data = Vec::new();
        if self.chance(self.faults.failed) {
            outcome = ata::Outcome::UNREADABLE;
        } else if registers.command == ata::WRITE_SECTORS_EXT {
            assert_eq!(frame.len(), 36 + count * SECTOR);
            self.executed_writes += 1;
            let mut at = lba as usize * SECTOR;
            if self.chance(self.faults.misplaced) && lba as usize + count < SECTORS as usize {
                at += SECTOR;
            }
            if !self.chance(self.faults.forgotten) {
                self.disks[slot][at..at + count * SECTOR].copy_from_slice(&frame[36..]);
            }
        } else {
            assert_eq!((registers.command, frame.len()), (ata::READ_SECTORS_EXT, 36));
            data = self.disks[slot][lba as usize * SECTOR..][..count * SECTOR].to_vec();
            if self.chance(self.faults.flipped) {
                let at = self.random.below(data.len() as u64) as usize;
                data[at] ^= 1;
            }
        }
        let mut reply = vec![0; 36];
        Ethernet { destination: HOST, source: ethernet.destination, ..ethernet }.emit(&mut reply);
        header.response(header.address, None).emit(&mut reply[14..]);
        registers.response(outcome).emit(&mut reply[24..]);
        reply.extend_from_slice(&data);
        self.post(false, &reply);
    }

    /// Runs a load to its end.
    fn run(&mut self, mut load: Load) -> Outcome {
        while !load.is_done() {
            assert!(self.now < 1000 * SECOND, "no end in sight");
            load.turn(self.now);
            self.flying = load.session.outstanding();
            self.deepest = self.deepest.max(self.flying);
            // A kernel that takes some and no more, now and then.
            let mut frames = outgoing(&mut load, if self.chance(50) { 1 } else { usize::MAX });
            frames.drain(..).for_each(|f| self.post(true, &f));
            // On to the next event, but not past the next millisecond: that is the timer.
            let next = self.wire.peek().map_or(Nanos::MAX, |(at, ..)| at.0.0);
            self.now = next.clamp(self.now, self.now + MILLISECOND);
            if next <= self.now {
                if let Some((_, to_target, frame)) = self.wire.pop() {
                    if to_target {
                        self.serve(&frame);
                    } else {
                        load.take(self.now, Arrival { bytes: &frame, length: frame.len(), vlan: None });
                    }
                }
            }
        }
        load.outcome()
    }
}

/// What a load sends, as far as there is room for.
fn outgoing(load: &mut Load, mut room: usize) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let flushed = load.flush(|frames| {
        let sent = frames.len().min(room);
        room -= sent;
        all.extend(frames[..sent].iter().map(|f| f.to_vec()));
        Ok::<_, ()>(sent)
    });
    assert!(flushed.is_ok());
    all
}

fn plan(mode: Mode, seed: u64, milliseconds: u64) -> Plan {
    Plan {
        mode,
        access: Access::Random,
        duration: milliseconds * MILLISECOND,
        patience: Patience::default(),
        settle: None,
        seed,
        first_serial: seed as u32,
        source: HOST,
        vlan: None,
    }
}

fn luns(slots: u8, sectors: u8, window: usize) -> Vec<Lun> {
    let lun = |slot| Lun {
        address: Address { shelf: 7, slot },
        mac: mac(slot),
        sectors,
        window,
        span: SECTORS,
        width: Width::Lba48,
    };
    (0..slots).map(lun).collect()
}

fn verify(seed: u64, faults: Faults) -> (Outcome, World) {
    let mut world = World::new(seed, 2, faults);
    let outcome = world.run(Load::new(plan(Mode::Verify, seed, 300), &luns(2, 8, 6)));
    (outcome, world)
}

fn sum(outcome: &Outcome, of: impl Fn(&LunReport) -> u64) -> u64 {
    outcome.luns.iter().map(of).sum()
}

#[test]
fn a_good_target_on_a_good_wire_verifies() {
    let (outcome, world) = verify(1, Faults::default());
    assert_eq!((outcome.bad, outcome.strays), (0, Strays::default()));
    assert_eq!(world.deepest, 12, "two windows of 6");
    for lun in &outcome.luns {
        let totals = lun.totals.unwrap();
        assert_eq!((lun.retransmits, lun.left, lun.errors.len()), (0, None, 0));
        assert_eq!((totals.written, totals.frozen, totals.lost), (SECTORS, 0, 0), "long enough for all");
        assert_eq!(lun.read_back, SECTORS);
        assert!(totals.checked > 10 * SECTORS, "{totals:?}");
        assert!(lun.reads.completed > 100 && lun.writes.completed > 100);
        assert_eq!(lun.reads.latency.len() + lun.writes.latency.len(), {
            let drained = lun.reads.latency.len() + lun.writes.latency.len();
            assert!(drained - lun.reads.completed - lun.writes.completed <= 6);
            drained
        });
    }
}

#[test]
fn whatever_the_wire_does_a_good_target_verifies() {
    let (mut late, mut frozen, mut duplicate, mut copies) = (0, 0, 0, 0);
    for seed in 0..18 {
        let faults = Faults {
            lost: [0, 20, 100][seed as usize % 3],
            repeated: 30,
            slow: 50,
            delay: 400 * MILLISECOND,
            ..Faults::default()
        };
        let (outcome, world) = verify(seed, faults);
        assert_eq!(outcome.bad, 0, "seed {seed}: {}", outcome.mismatches[0]);
        assert!(outcome.luns.iter().all(|l| l.left.is_none() && l.errors.is_empty()), "seed {seed}");
        late += outcome.strays.late;
        duplicate += outcome.strays.duplicate;
        frozen += sum(&outcome, |l| l.totals.unwrap().frozen);
        copies += world.executed_writes - sum(&outcome, |l| l.writes.latency.len());
    }
    // Without these there was nothing to be careful about.
    assert!(
        late > 100 && duplicate > 100 && frozen > 100 && copies > 100,
        "{late} {duplicate} {frozen} {copies}"
    );
}

#[test]
fn a_wire_that_holds_copies_back_is_no_fault_of_the_target_when_it_is_known() {
    let delay = 40 * MILLISECOND;
    let (mut overtaken, mut copies) = (0, 0);
    for seed in 0..12 {
        let faults = Faults { lost: 20, repeated: 100, apart: true, slow: 100, delay, ..Faults::default() };
        let mut run = |settle| {
            let mut world = World::new(seed, 2, faults);
            let plan = Plan { settle, ..plan(Mode::Verify, seed, 300) };
            let outcome = world.run(Load::new(plan, &luns(2, 8, 6)));
            copies += world.executed_writes - sum(&outcome, |l| l.writes.latency.len());
            outcome
        };
        let outcome = run(Some(delay + MILLISECOND));
        assert_eq!(outcome.bad, 0, "seed {seed}: {}", outcome.mismatches[0]);
        assert!(sum(&outcome, |l| l.writes.completed) > 100, "seed {seed}: it goes on writing");
        overtaken += run(None).bad;
    }
    // Otherwise there was nothing to wait for.
    assert!(overtaken > 10 && copies > 100, "{overtaken} {copies}");
}

#[test]
fn copies_that_were_never_answered_do_not_keep_sectors_from_being_written_for_ever() {
    let run = |settle| {
        let mut world = World::new(15, 1, Faults { lost: 300, ..Faults::default() });
        let patience = Patience { rto_max: 40 * MILLISECOND, ..Patience::default() };
        let plan = Plan { settle, patience, ..plan(Mode::Verify, 15, 2000) };
        world.run(Load::new(plan, &luns(1, 8, 6)))
    };
    let (waiting, settling) = (run(None), run(Some(MILLISECOND)));
    let frozen = |o: &Outcome| sum(o, |l| l.totals.unwrap().frozen);
    let writes = |o: &Outcome| sum(o, |l| l.writes.completed);
    assert!(frozen(&waiting) > SECTORS / 2, "{}", frozen(&waiting));
    assert_eq!(frozen(&settling), 0);
    assert!(writes(&settling) > 3 * writes(&waiting), "{} {}", writes(&settling), writes(&waiting));
    assert_eq!((waiting.bad, settling.bad), (0, 0));
}

#[test]
fn a_target_that_forgets_a_write_is_found_out() {
    let (outcome, _) = verify(3, Faults { forgotten: 20, ..Faults::default() });
    assert!(outcome.bad > 0 && !outcome.mismatches.is_empty());
    assert!(outcome.mismatches.len() <= MISMATCHES_KEPT);
    assert!(outcome.mismatches.iter().any(|m| matches!(m.found, Found::Whole(_) | Found::Zeroes)));
    assert_eq!(outcome.bad, sum(&outcome, |l| l.totals.unwrap().bad));
}

#[test]
fn a_target_that_writes_to_the_wrong_place_is_found_out() {
    let (outcome, _) = verify(4, Faults { misplaced: 10, ..Faults::default() });
    let displaced = |m: &Mismatch| matches!(m.found, Found::Whole(s) if s.lba == m.expected.lba - 1);
    assert!(outcome.mismatches.iter().any(displaced), "{:?}", outcome.mismatches);
}

#[test]
fn one_wrong_bit_is_found() {
    let (outcome, _) = verify(5, Faults { flipped: 2, ..Faults::default() });
    assert!(outcome.bad > 0);
    assert!(outcome.mismatches.iter().all(|m| m.wrong_bytes == 1));
}

#[test]
fn a_fault_at_the_very_end_is_found_by_the_final_pass() {
    // Only what was written at the end and never read in between.
    let mut world = World::new(6, 1, Faults::default());
    let mut load = Load::new(plan(Mode::Verify, 6, 50), &luns(1, 8, 4));
    while load.phase == Phase::Loading {
        load.turn(world.now);
        outgoing(&mut load, usize::MAX).iter().for_each(|f| world.post(true, f));
        let Some((at, to_target, frame)) = world.wire.pop() else { break };
        world.now = at.0.0;
        match to_target {
            true => world.serve(&frame),
            false => load.take(world.now, Arrival { bytes: &frame, length: frame.len(), vlan: None }),
        }
    }
    assert_eq!(load.bad, 0);
    world.disks[0][100 * SECTOR + 7] ^= 0x80;
    let outcome = world.run(load);
    assert_eq!(outcome.bad, 1);
    assert_eq!((outcome.mismatches[0].expected.lba, outcome.mismatches[0].offset), (100, 7));
}

#[test]
fn failed_requests_are_counted_and_never_touched_again() {
    let (outcome, _) = verify(7, Faults { failed: 5, ..Faults::default() });
    let failure = Failure::Ata { status: 0x41, error: 0x40 };
    assert!(sum(&outcome, |l| l.errors[&failure]) > 3);
    assert!(sum(&outcome, |l| l.totals.unwrap().lost) > 0);
    assert_eq!(outcome.bad, 0, "what failed is unknown, not wrong");
    assert!(outcome.luns.iter().all(|l| l.left.is_none()));
}

#[test]
fn a_slot_that_only_fails_is_left_alone() {
    let mut world = World::new(8, 1, Faults { failed: 1000, ..Faults::default() });
    let outcome = world.run(Load::new(plan(Mode::Read, 8, 10_000), &luns(1, 8, 4)));
    let failure = Failure::Ata { status: 0x41, error: 0x40 };
    assert_eq!(outcome.luns[0].left, Some(Left::Errors(failure)));
    assert_eq!(outcome.luns[0].errors[&failure], u64::from(ERRORS_IN_A_ROW));
    assert!(world.now < SECOND, "it does not go on for the rest of the time");
}

#[test]
fn a_target_that_dies_is_given_up_after_the_deadline() {
    for mode in [Mode::Read, Mode::Verify] {
        let mut world = World::new(9, 2, Faults { dead_at: Some(20 * MILLISECOND), ..Faults::default() });
        let outcome = world.run(Load::new(plan(mode, 9, 300), &luns(2, 8, 4)));
        assert!((30 * SECOND..33 * SECOND).contains(&world.now), "{}", world.now);
        for lun in &outcome.luns {
            assert!(matches!(lun.left, Some(Left::Silent { transmissions: 10.., .. })), "{:?}", lun.left);
            assert!(lun.reads.completed > 0);
        }
        assert_eq!(outcome.bad, 0);
    }
}

#[test]
fn modes_make_the_requests_they_are_named_for() {
    for (mode, reads, writes) in [
        (Mode::Read, true, false),
        (Mode::Write, false, true),
        (Mode::Mix { reads: 70 }, true, true),
        (Mode::Mix { reads: 100 }, true, false),
        (Mode::Mix { reads: 0 }, false, true),
    ] {
        for access in [Access::Random, Access::Sequential] {
            let mut world = World::new(10, 1, Faults::default());
            let plan = Plan { access, ..plan(mode, 10, 100) };
            let outcome = world.run(Load::new(plan, &luns(1, 8, 4)));
            let lun = &outcome.luns[0];
            assert_eq!((lun.reads.completed > 0, lun.writes.completed > 0), (reads, writes), "{mode:?}");
            assert_eq!(lun.reads.bytes, lun.reads.completed * 8 * 512);
            assert_eq!(outcome.loaded_for / MILLISECOND, 100);
            if let Mode::Mix { reads: 70 } = mode {
                let share = lun.reads.completed * 100 / (lun.reads.completed + lun.writes.completed);
                assert!((60..80).contains(&share), "{share}");
            }
        }
    }
}

#[test]
fn odd_sizes_stay_inside_the_disk() {
    // The simulated target asserts that nothing goes beyond its end.
    for (sectors, span) in [(17, 256), (255, 256), (8, 5), (1, 1), (7, 13)] {
        for mode in [Mode::Write, Mode::Verify] {
            let mut world = World::new(11, 1, Faults::default());
            let luns: Vec<_> = luns(1, sectors, 4).into_iter().map(|l| Lun { span, ..l }).collect();
            let outcome = world.run(Load::new(plan(mode, 11, 50), &luns));
            assert_eq!(outcome.bad, 0);
            assert!(outcome.luns[0].writes.completed > 0, "{sectors} of {span}");
        }
    }
}

#[test]
fn replies_from_elsewhere_are_counted_not_believed() {
    let mut load = Load::new(plan(Mode::Read, 12, 100), &luns(1, 1, 1));
    load.turn(0);
    let request = outgoing(&mut load, usize::MAX).remove(0);
    let mut reply = request.clone();
    reply[..6].copy_from_slice(&HOST.0);
    reply[6..12].copy_from_slice(&mac(0).0);
    reply[14] = 0x18;
    reply[27] = 0x40;
    reply.resize(36 + SECTOR, 0);
    let mut give = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut reply = reply.clone();
        change(&mut reply);
        load.take(1, Arrival { bytes: &reply, length: reply.len(), vlan: None });
    };
    give(&|r| r[11] = 9);
    give(&|r| r[18] = 9);
    give(&|r| r[19] = 1);
    give(&|r| r[22] ^= 1);
    give(&|r| r.truncate(20));
    give(&|r| r[20] = 0);
    give(&|r| r[14] = 0x10);
    give(&|_| ());
    give(&|_| ());
    let want = Strays {
        wrong_source: 1,
        wrong_address: 1,
        wrong_command: 1,
        unexpected: 1,
        malformed: 1,
        duplicate: 1,
        late: 0,
    };
    assert_eq!(load.strays, want);
    assert_eq!(load.luns[0].report.reads.completed, 1);
}

#[test]
fn a_stop_before_the_time_drains_and_reads_back() {
    let mut world = World::new(13, 1, Faults::default());
    let mut load = Load::new(plan(Mode::Verify, 13, 1_000_000), &luns(1, 8, 4));
    load.turn(0);
    load.stop(0);
    let outcome = world.run(load);
    assert!(outcome.luns[0].read_back > 0);
    assert_eq!(outcome.luns[0].read_back, outcome.luns[0].totals.unwrap().written);
}

#[test]
fn data_that_was_not_kept_is_no_verified_data() {
    let mut load = Load::new(plan(Mode::Verify, 14, 100), &luns(1, 1, 1));
    let mut world = World::new(14, 1, Faults::default());
    let mut cut = 0;
    while cut < 20 {
        load.turn(world.now);
        for frame in outgoing(&mut load, usize::MAX) {
            world.post(true, &frame);
        }
        let Some((at, to_target, frame)) = world.wire.pop() else { break };
        world.now = at.0.0;
        if to_target {
            world.serve(&frame);
        } else {
            cut += u64::from(frame.len() > 500);
            let bytes = &frame[..frame.len().min(500)];
            load.take(world.now, Arrival { bytes, length: frame.len(), vlan: None });
        }
    }
    assert_eq!(load.luns[0].report.errors[&Failure::Cut], 20);
    assert_eq!(load.luns[0].report.reads.completed, 0);
}
