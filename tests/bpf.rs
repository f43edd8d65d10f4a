//! The XDP program alone: the kernel runs it over frames of ours, and the counters must say why (BPF_PROG_TEST_RUN);
//! then attached, in both modes, and refused with a reason.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod namespace;

use namespace::{INITIATOR, INITIATOR_MAC, Station, TARGET, TARGET_MAC, alone, ip, request, tagged, veth};
use std::os::fd::AsRawFd;
use xshelf::frame::QueueId;
use xshelf::net::ladder::Rung;
use xshelf::net::nic::{self, XdpMode};
use xshelf::net::steer::{AttachMode, Event, EventKind, Events, GUARD_TAG, Reason, Steer, SteerError};
use xshelf::net::xsk::{Rings, Umem, XskError, XskQueue};
use xshelf::protocol::{Address, Mac};

const DROP: u32 = 1;
const PASS: u32 = 2;
const REDIRECT: u32 = 4;
const SHELF: u16 = 1234;
const BROADCAST: [u8; 6] = [0xff; 6];

/// The verdict of the program about a frame that arrived on a queue of the target's interface.
fn verdict(steer: &Steer, index: u32, queue: u32, frame: &[u8]) -> u32 {
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
    let context = [0, frame.len() as u32, 0, index, queue, 0];
    let mut out = vec![0u8; frame.len() + 256];
    // SAFETY: plain data for which zero is a value; all buffers live through the call and are as long as said.
    unsafe {
        let mut opts: libbpf_sys::bpf_test_run_opts = std::mem::zeroed();
        opts.sz = size_of::<libbpf_sys::bpf_test_run_opts>() as _;
        opts.data_in = frame.as_ptr().cast();
        opts.data_size_in = frame.len() as u32;
        opts.data_out = out.as_mut_ptr().cast();
        opts.data_size_out = out.len() as u32;
        opts.ctx_in = context.as_ptr().cast();
        opts.ctx_size_in = size_of_val(&context) as u32;
        opts.repeat = 1;
        let result = libbpf_sys::bpf_prog_test_run_opts(steer.program().as_raw_fd(), &raw mut opts);
        assert_eq!(
            result,
            0,
            "test run of {} bytes: {}",
            frame.len(),
            std::io::Error::from_raw_os_error(-result)
        );
        assert_eq!(&out[..opts.data_size_out as usize], frame, "the program must not change a frame");
        opts.retval
    }
}

struct Bench {
    steer: Steer,
    index: u32,
    queue: Option<XskQueue>,
    umem: Umem,
}

impl Bench {
    /// The program loaded for one end of a veth pair with two queues; a socket on queue 0 only.
    fn new() -> Self {
        veth(9000, 2, 2);
        let facts = nic::facts(TARGET).unwrap();
        let mut steer = Steer::load(&facts).unwrap();
        steer.set_shelf(SHELF, true).unwrap();
        let umem = Umem::new(4, Rings::TINY).unwrap();
        let queue = umem.bind(QueueId(0), &facts, 0, Rung::Native).unwrap();
        steer.insert(0, &queue).unwrap();
        Self { steer, index: facts.index, queue: Some(queue), umem }
    }

    /// Runs one frame and checks that it counts under exactly the reason expected.
    #[track_caller]
    fn check(&self, queue: u32, frame: &[u8], reason: Reason) {
        let before = self.steer.counters().unwrap();
        let got = verdict(&self.steer, self.index, queue, frame);
        let after = self.steer.counters().unwrap();
        let head = &frame[..frame.len().min(28)];
        for (r, count) in after.iter() {
            let want = before.get(r) + u64::from(r == reason);
            assert_eq!(count, want, "{} after {} bytes {head:02x?}", r.name(), frame.len());
        }
        let want = match reason {
            Reason::Redirected => REDIRECT,
            Reason::Masked => DROP,
            _ => PASS,
        };
        assert_eq!(got, want, "{} bytes {head:02x?}", frame.len());
    }
}

#[test]
fn requests_to_us_are_redirected_and_all_else_passes() {
    alone(|| {
        let bench = Bench::new();
        for len in [24, 32, 36, 60, 1514, 3000, 8228, 8740, 9014] {
            for destination in [TARGET_MAC, BROADCAST] {
                for shelf in [SHELF, 0xffff] {
                    let frame = request(destination, shelf, len);
                    bench.check(0, &frame, Reason::Redirected);
                    bench.check(1, &frame, Reason::NoSocket);
                    bench.check(0, &tagged(frame, 100), Reason::Redirected);
                }
            }
        }
        let frame = || request(TARGET_MAC, SHELF, 60);
        // Slot, command, error and tag are user space's business, in any combination.
        for at in [15, 18, 19, 20, 23] {
            for value in [0, 1, 0x7f, 0xff] {
                let mut frame = frame();
                frame[at] = value;
                bench.check(0, &frame, Reason::Redirected);
            }
        }
        for version_flags in 0..=255u8 {
            let mut frame = frame();
            frame[14] = version_flags;
            let reason = match (version_flags >> 4, version_flags & 8) {
                (1, 0) => Reason::Redirected,
                (1, _) => Reason::Response,
                _ => Reason::Version,
            };
            bench.check(0, &frame, reason);
            bench.check(0, &tagged(frame, 4095), reason);
        }
    });
}

#[test]
fn runts_of_every_length_pass() {
    alone(|| {
        let bench = Bench::new();
        let frame = request(TARGET_MAC, SHELF, 60);
        for len in 14..24 {
            bench.check(0, &frame[..len], Reason::Runt);
        }
        bench.check(0, &frame[..24], Reason::Redirected);
        let frame = tagged(frame, 1);
        for len in 14..18 {
            bench.check(0, &frame[..len], Reason::NotAoe);
        }
        for len in 18..28 {
            bench.check(0, &frame[..len], Reason::Runt);
        }
        bench.check(0, &frame[..28], Reason::Redirected);
    });
}

#[test]
fn other_protocols_pass_whatever_they_carry() {
    alone(|| {
        let bench = Bench::new();
        for ethertype in [0u16, 0x0800, 0x0806, 0x86dd, 0x88a1, 0x88a3, 0xa288, 0x8863, 0xffff] {
            let mut frame = request(TARGET_MAC, SHELF, 60);
            frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
            bench.check(0, &frame, Reason::NotAoe);
            bench.check(0, &tagged(frame, 7), Reason::NotAoe);
        }
        // Two tags, or one that 802.1Q does not know.
        let twice = tagged(tagged(request(TARGET_MAC, SHELF, 60), 7), 8);
        bench.check(0, &twice, Reason::NotAoe);
        let mut provider = tagged(request(TARGET_MAC, SHELF, 60), 7);
        provider[12..14].copy_from_slice(&[0x88, 0xa8]);
        bench.check(0, &provider, Reason::NotAoe);
    });
}

#[test]
fn addresses_decide() {
    alone(|| {
        let mut bench = Bench::new();
        for at in 0..6 {
            let mut near = TARGET_MAC;
            near[at] ^= 0x10;
            bench.check(0, &request(near, SHELF, 60), Reason::OtherMac);
            let mut nearly_broadcast = BROADCAST;
            nearly_broadcast[at] = 0xfe;
            bench.check(0, &request(nearly_broadcast, SHELF, 60), Reason::OtherMac);
        }
        bench.check(0, &request([1, 0, 0x5e, 0, 0, 1], SHELF, 60), Reason::OtherMac);
        // The port's address changes.
        bench.steer.set_mac(Mac(INITIATOR_MAC)).unwrap();
        bench.check(0, &request(INITIATOR_MAC, SHELF, 60), Reason::Redirected);
        bench.check(0, &request(TARGET_MAC, SHELF, 60), Reason::OtherMac);
    });
}

#[test]
fn shelves_come_and_go() {
    alone(|| {
        let mut bench = Bench::new();
        let all = [0, 1, 63, 64, 65, 127, 128, SHELF - 1, SHELF + 1, 0x0ffe, 0x1000, 0xfffe];
        for shelf in all {
            bench.check(0, &request(TARGET_MAC, shelf, 60), Reason::OtherShelf);
        }
        for (i, shelf) in all.into_iter().enumerate() {
            bench.steer.set_shelf(shelf, true).unwrap();
            for (j, other) in all.into_iter().enumerate() {
                let reason = if j <= i { Reason::Redirected } else { Reason::OtherShelf };
                bench.check(0, &request(BROADCAST, other, 60), reason);
            }
        }
        bench.steer.set_shelf(64, false).unwrap();
        bench.check(0, &request(TARGET_MAC, 64, 60), Reason::OtherShelf);
        bench.check(0, &request(TARGET_MAC, 65, 60), Reason::Redirected);
        bench.check(0, &request(TARGET_MAC, SHELF, 60), Reason::Redirected);
    });
}

/// Slot 3 of the shelf, which [`request`] asks.
const SLOT: Address = Address { shelf: SHELF, slot: 3 };
const STRANGER: [u8; 6] = [2, 0xae, 0, 0, 9, 9];

/// The same frame from another host.
fn from(mac: [u8; 6], mut frame: Vec<u8>) -> Vec<u8> {
    frame[6..12].copy_from_slice(&mac);
    frame
}

/// The same frame to another address.
fn to_slot(slot: Address, mut frame: Vec<u8>) -> Vec<u8> {
    frame[16..18].copy_from_slice(&slot.shelf.to_be_bytes());
    frame[18] = slot.slot;
    frame
}

/// The same frame as a response, of any version.
fn answer(version: u8, mut frame: Vec<u8>) -> Vec<u8> {
    frame[14] = version << 4 | 8;
    frame
}

/// The config query by which an xshelf asks whose slot 3 is.
fn guard_query() -> Vec<u8> {
    let mut frame = request(BROADCAST, SHELF, 60);
    frame[20..24].copy_from_slice(&GUARD_TAG.to_be_bytes());
    frame
}

#[test]
fn masked_slots_are_closed_to_strangers() {
    alone(|| {
        let bench = Bench::new();
        let maps = bench.steer.slots().share().unwrap();
        let frame = || request(TARGET_MAC, SHELF, 60);
        // Known or allowed alone changes nothing.
        maps.set_slot(SLOT, 0).unwrap();
        bench.check(0, &frame(), Reason::Redirected);
        maps.allow(SLOT, Mac(INITIATOR_MAC)).unwrap();
        bench.check(0, &from(STRANGER, frame()), Reason::Redirected);

        maps.set_masked(SLOT, true).unwrap();
        for destination in [TARGET_MAC, BROADCAST] {
            for len in [24, 60, 1514, 9014] {
                let frame = || request(destination, SHELF, len);
                bench.check(0, &frame(), Reason::Redirected);
                bench.check(0, &tagged(frame(), 7), Reason::Redirected);
                bench.check(0, &from(STRANGER, frame()), Reason::Masked);
                bench.check(0, &tagged(from(STRANGER, frame()), 7), Reason::Masked);
                bench.check(1, &from(STRANGER, frame()), Reason::Masked);
            }
        }
        for at in 0..6 {
            let mut near = INITIATOR_MAC;
            near[at] ^= 0x80;
            bench.check(0, &from(near, frame()), Reason::Masked);
        }
        // What has reasons of its own keeps them, and nobody is stopped but at this very slot.
        let stranger = from(STRANGER, frame());
        bench.check(0, &answer(1, stranger.clone()), Reason::Response);
        bench.check(0, &from(STRANGER, request(STRANGER, SHELF, 60)), Reason::OtherMac);
        for (shelf, slot) in [(SHELF, 2), (SHELF, 0xff), (0xffff, 3), (0xffff, 0xff)] {
            bench.check(0, &to_slot(Address { shelf, slot }, stranger.clone()), Reason::Redirected);
        }
        // Where it lives changes, who may talk to it does not.
        maps.set_slot(SLOT, 9).unwrap();
        bench.check(0, &stranger, Reason::Masked);

        maps.allow(SLOT, Mac(STRANGER)).unwrap();
        bench.check(0, &stranger, Reason::Redirected);
        maps.disallow(SLOT, Mac(STRANGER)).unwrap();
        maps.disallow(SLOT, Mac(STRANGER)).unwrap();
        bench.check(0, &stranger, Reason::Masked);
        maps.disallow(SLOT, Mac(INITIATOR_MAC)).unwrap();
        bench.check(0, &frame(), Reason::Masked);
        maps.set_masked(SLOT, false).unwrap();
        bench.check(0, &frame(), Reason::Redirected);
        bench.check(0, &stranger, Reason::Redirected);
        // A slot can be masked before it is known.
        let other = Address { shelf: SHELF, slot: 4 };
        maps.set_masked(other, false).unwrap();
        bench.check(0, &to_slot(other, frame()), Reason::Redirected);
        maps.set_masked(other, true).unwrap();
        bench.check(0, &to_slot(other, frame()), Reason::Masked);
    });
}

#[test]
fn a_full_map_is_an_error_and_stops_nobody() {
    alone(|| {
        let bench = Bench::new();
        let maps = bench.steer.slots();
        let mac = |i: u32| Mac([2, 0, 0, (i >> 16) as u8, (i >> 8) as u8, i as u8]);
        for i in 0..1 << 16 {
            maps.allow(SLOT, mac(i)).unwrap();
        }
        let error = maps.allow(SLOT, Mac(STRANGER)).unwrap_err();
        assert!(matches!(error, SteerError::Kernel { .. }), "{error:?}");
        assert!(error.to_string().starts_with(TARGET), "{error}");
        bench.check(0, &from(STRANGER, request(TARGET_MAC, SHELF, 60)), Reason::Redirected);
        maps.disallow(SLOT, mac(0)).unwrap();
        maps.allow(SLOT, Mac(STRANGER)).unwrap();
        for i in 0..1 << 16 {
            maps.set_slot(Address { shelf: (i >> 8) as u16, slot: i as u8 }, 0).unwrap();
        }
        assert!(maps.set_slot(Address { shelf: 256, slot: 0 }, 0).is_err());
        maps.set_slot(Address { shelf: 255, slot: 255 }, 1).unwrap();
    });
}

/// Sends a frame until there is an event, for the program is silent for a while after each.
fn provoke(bench: &Bench, events: &mut Events, queue: u32, frame: &[u8]) -> Event {
    let mut got = Vec::new();
    namespace::eventually("an event", || {
        verdict(&bench.steer, bench.index, queue, frame);
        got = events.take().unwrap();
        !got.is_empty()
    });
    assert_eq!(got.len(), 1, "{got:?}");
    got[0]
}

#[test]
fn answers_of_others_for_our_slots_are_told() {
    alone(|| {
        let bench = Bench::new();
        let mut events = bench.steer.events().unwrap();
        let (maps, index) = (bench.steer.slots(), bench.index);
        let frame = |version| answer(version, from(STRANGER, request(INITIATOR_MAC, SHELF, 60)));
        // Not before the slot is known.
        bench.check(0, &frame(1), Reason::Response);
        assert_eq!(events.take().unwrap(), []);
        maps.set_slot(SLOT, 0).unwrap();
        let rival = Event { kind: EventKind::Rival, mac: Mac(STRANGER), slot: SLOT, tci: 0, index, queue: 0 };
        for version in 0..16 {
            let queue = u32::from(version % 2);
            let event = provoke(&bench, &mut events, queue, &frame(version));
            assert_eq!(event, Event { queue, ..rival });
        }
        // A tag of priority only is no VLAN.
        let event = provoke(&bench, &mut events, 0, &tagged(frame(1), 0xe000));
        assert_eq!(event, Event { tci: 0xe000, ..rival });

        // None of these, though there was none for long enough: a frame that must be told comes last.
        let nothing = [
            tagged(frame(1), 5),
            from(TARGET_MAC, frame(1)),
            from(STRANGER, request(TARGET_MAC, SHELF, 60)),
            to_slot(Address { shelf: SHELF, slot: 0xff }, frame(1)),
            to_slot(Address { shelf: 0xffff, slot: 3 }, frame(1)),
            to_slot(Address { shelf: SHELF, slot: 4 }, frame(1)),
            frame(1)[..23].to_vec(),
        ];
        namespace::eventually("an event after none", || {
            for frame in &nothing {
                verdict(&bench.steer, index, 0, frame);
            }
            assert_eq!(events.take().unwrap(), []);
            verdict(&bench.steer, index, 0, &frame(1));
            !events.take().unwrap().is_empty()
        });

        // Nor from another port of ours; the VLAN follows the slot.
        bench.steer.set_own(&[Mac(STRANGER)]).unwrap();
        maps.set_slot(SLOT, 5).unwrap();
        let other = tagged(from(INITIATOR_MAC, frame(1)), 0x2005);
        namespace::eventually("an event after none", || {
            verdict(&bench.steer, index, 0, &tagged(frame(1), 5));
            verdict(&bench.steer, index, 0, &from(INITIATOR_MAC, frame(1)));
            assert_eq!(events.take().unwrap(), []);
            verdict(&bench.steer, index, 0, &other);
            events.take().unwrap() == [Event { mac: Mac(INITIATOR_MAC), tci: 0x2005, ..rival }]
        });
    });
}

#[test]
fn a_flood_of_answers_is_told_now_and_then() {
    alone(|| {
        let bench = Bench::new();
        let mut events = bench.steer.events().unwrap();
        for slot in 0..=254 {
            bench.steer.slots().set_slot(Address { shelf: SHELF, slot }, 0).unwrap();
        }
        let frame = answer(1, request(INITIATOR_MAC, SHELF, 60));
        let start = std::time::Instant::now();
        for _ in 0..20 {
            for slot in 0..=254 {
                let frame = to_slot(Address { shelf: SHELF, slot }, from(STRANGER, frame.clone()));
                verdict(&bench.steer, bench.index, 0, &frame);
            }
        }
        // The first of each slot, and at most one for every 100 ms of it after that.
        let most = 1 + start.elapsed().as_millis() as usize / 100;
        let got = events.take().unwrap();
        for slot in 0..=254 {
            let count = got.iter().filter(|event| event.slot.slot == slot).count();
            assert!((1..=most).contains(&count), "slot {slot}: {count} of at most {most}");
        }
        // Nobody reads: the ring fills up, and frames go on as before.
        for round in 0..8 {
            for shelf in 2000..2255 {
                let slot = Address { shelf, slot: round };
                bench.steer.slots().set_slot(slot, 0).unwrap();
                bench.check(0, &to_slot(slot, from(STRANGER, frame.clone())), Reason::Response);
            }
        }
        for shelf in 3000..3255 {
            let slot = Address { shelf, slot: 0 };
            bench.steer.slots().set_slot(slot, 0).unwrap();
            bench.check(0, &to_slot(slot, from(STRANGER, frame.clone())), Reason::Response);
        }
        let got = events.take().unwrap();
        assert!((1500..=2048).contains(&got.len()), "{} events", got.len());
        let slot = Address { shelf: 4000, slot: 0 };
        bench.steer.slots().set_slot(slot, 0).unwrap();
        bench.check(0, &to_slot(slot, from(STRANGER, frame)), Reason::Response);
        assert_eq!(events.take().unwrap().len(), 1);
    });
}

#[test]
fn another_xshelf_that_asks_is_told_and_heard_behind_a_mask() {
    alone(|| {
        let bench = Bench::new();
        let mut events = bench.steer.events().unwrap();
        let maps = bench.steer.slots();
        let asks = from(STRANGER, guard_query());
        bench.check(0, &asks, Reason::Redirected);
        assert_eq!(events.take().unwrap(), []);
        maps.set_slot(SLOT, 0).unwrap();
        bench.check(0, &asks, Reason::Redirected);
        let told = Event {
            kind: EventKind::Asks,
            mac: Mac(STRANGER),
            slot: SLOT,
            tci: 0,
            index: bench.index,
            queue: 0,
        };
        assert_eq!(events.take().unwrap(), [told]);
        // What is answered to it is read by whoever asked.
        bench.check(0, &answer(1, asks.clone()), Reason::Response);
        assert_eq!(events.take().unwrap(), []);
        // One kind of event does not silence the other.
        verdict(&bench.steer, bench.index, 0, &answer(1, from(STRANGER, request(TARGET_MAC, SHELF, 60))));
        assert_eq!(events.take().unwrap(), [Event { kind: EventKind::Rival, ..told }]);

        maps.set_masked(SLOT, true).unwrap();
        bench.check(0, &asks, Reason::Guard);
        bench.check(1, &tagged(asks.clone(), 0), Reason::Guard);
        // It is this tag and this command only.
        for (at, value) in [(19, 0), (19, 2), (20, 0x1a), (23, 0)] {
            let mut other = asks.clone();
            other[at] = value;
            bench.check(0, &other, Reason::Masked);
        }
        maps.allow(SLOT, Mac(STRANGER)).unwrap();
        bench.check(0, &asks, Reason::Redirected);
        // Ours, from another port.
        bench.steer.set_own(&[Mac([2, 0, 0, 0, 0, 5])]).unwrap();
        events.take().unwrap();
        namespace::eventually("an event after none", || {
            verdict(&bench.steer, bench.index, 0, &from([2, 0, 0, 0, 0, 5], asks.clone()));
            assert_eq!(events.take().unwrap(), []);
            verdict(&bench.steer, bench.index, 0, &asks);
            events.take().unwrap() == [told]
        });
    });
}

#[test]
fn masks_and_events_work_in_the_driver_and_in_the_stack() {
    alone(|| {
        for mode in [AttachMode::Native, AttachMode::Generic] {
            veth(1500, 1, 1);
            let facts = nic::facts(TARGET).unwrap();
            let mut steer = Steer::load(&facts).unwrap();
            steer.set_shelf(SHELF, true).unwrap();
            steer.attach(mode, &facts).unwrap();
            let mut events = steer.events().unwrap();
            steer.slots().set_slot(SLOT, 0).unwrap();
            steer.slots().set_masked(SLOT, true).unwrap();
            let (here, there) = (Station::on(TARGET), Station::on(INITIATOR));
            let request = request(TARGET_MAC, SHELF, 60);
            there.send(&request);
            // Frames do not overtake each other, so that the first was dropped once the second is here.
            let response = answer(1, request.clone());
            there.send(&response);
            assert_eq!(here.expect(), response, "{mode}");
            let event = events.take().unwrap();
            let mac = Mac(INITIATOR_MAC);
            let told =
                Event { kind: EventKind::Rival, mac, slot: SLOT, tci: 0, index: facts.index, queue: 0 };
            assert_eq!(event, [told], "{mode}");
            steer.slots().allow(SLOT, mac).unwrap();
            there.send(&request);
            assert_eq!(here.expect(), request, "{mode}: no socket, so it passes");
            drop((here, there, events, steer));
            ip(&format!("link del {TARGET}"));
        }
    });
}

#[test]
fn without_a_socket_frames_pass() {
    alone(|| {
        let mut bench = Bench::new();
        let frame = request(TARGET_MAC, SHELF, 60);
        bench.check(0, &frame, Reason::Redirected);
        bench.steer.remove(0).unwrap();
        bench.check(0, &frame, Reason::NoSocket);
        bench.steer.remove(0).unwrap();
        let queue = bench.queue.take().unwrap();
        bench.steer.insert(0, &queue).unwrap();
        bench.check(0, &frame, Reason::Redirected);
        // A socket that is closed leaves the map by itself. The first one of a UMEM is closed with it.
        drop(queue);
        let Bench { steer, index, umem, .. } = bench;
        drop(umem);
        namespace::eventually("the socket left the map", || verdict(&steer, index, 0, &frame) == PASS);

        let facts = nic::facts(TARGET).unwrap();
        let umem = Umem::new(4, Rings::TINY).unwrap();
        let queue = umem.bind(QueueId(0), &facts, 1, Rung::Native).unwrap();
        assert!(matches!(steer.insert(256, &queue), Err(SteerError::NoSuchQueue { queue: 256, .. })));
        steer.insert(1, &queue).unwrap();
        assert_eq!(verdict(&steer, index, 1, &frame), REDIRECT);
        assert_eq!(verdict(&steer, index, 0, &frame), PASS);
        steer.remove(255).unwrap();
        steer.remove(100_000).unwrap();
    });
}

/// Not at once: a child that another test is about to start has a copy of the descriptor until its exec.
fn detached() {
    namespace::eventually("the program is detached", || nic::facts(TARGET).unwrap().programs.is_empty());
}

#[test]
fn attaching_is_exclusive_and_ends_with_its_owner() {
    alone(|| {
        veth(9000, 2, 2);
        let facts = nic::facts(TARGET).unwrap();
        assert_eq!(facts.programs, []);
        let mut first = Steer::load(&facts).unwrap();
        assert_eq!(first.attached(), None);
        for mode in [AttachMode::Native, AttachMode::Generic] {
            first.attach(mode, &facts).unwrap();
            assert_eq!(first.attached(), Some(mode));
            let now = nic::facts(TARGET).unwrap();
            assert_eq!(now.programs.len(), 1);
            assert_eq!(now.programs[0].name.as_deref(), Some("xshelf_steer"));
            let shown = if mode == AttachMode::Native { XdpMode::Native } else { XdpMode::Generic };
            assert_eq!(now.programs[0].mode, shown);

            let mut second = Steer::load(&facts).unwrap();
            for other in [AttachMode::Native, AttachMode::Generic] {
                let error = second.attach(other, &facts).unwrap_err();
                let SteerError::Taken { programs, .. } = &error else { panic!("{error:?}") };
                assert_eq!(*programs, now.programs);
                assert_eq!(second.attached(), None);
            }
            first.detach();
            detached();
        }
        first.attach(AttachMode::Native, &facts).unwrap();
        drop(first);
        detached();
    });
}

#[test]
fn a_vanished_interface_is_noticed() {
    alone(|| {
        veth(1500, 1, 1);
        let facts = nic::facts(TARGET).unwrap();
        let mut steer = Steer::load(&facts).unwrap();
        steer.attach(AttachMode::Native, &facts).unwrap();
        assert_eq!(steer.attached(), Some(AttachMode::Native));
        ip(&format!("link del {TARGET}"));
        assert_eq!(steer.attached(), None);
        assert!(matches!(steer.attach(AttachMode::Native, &facts), Err(SteerError::Kernel { .. })));
        assert!(matches!(nic::facts(TARGET), Err(nic::NicError::Missing { .. })));
    });
}

#[test]
fn native_xdp_that_cannot_be_had_says_why() {
    alone(|| {
        // The peer sends on two queues, here one receives.
        veth(1500, 1, 2);
        let facts = nic::facts(TARGET).unwrap();
        let mut steer = Steer::load(&facts).unwrap();
        let error = steer.attach(AttachMode::Native, &facts).unwrap_err();
        assert!(matches!(error, SteerError::TooFewQueues { queues: 1, .. }), "{error:?}");
        steer.attach(AttachMode::Generic, &facts).unwrap();

        ip("link add bridge0 type bridge");
        let facts = nic::facts("bridge0").unwrap();
        let mut steer = Steer::load(&facts).unwrap();
        let error = steer.attach(AttachMode::Native, &facts).unwrap_err();
        assert!(matches!(error, SteerError::NoNative { .. }), "{error:?}");
    });
}

#[test]
fn without_privilege_the_error_names_the_capabilities() {
    alone(|| {
        veth(1500, 1, 1);
        let facts = nic::facts(TARGET).unwrap();
        let mut loaded = Steer::load(&facts).unwrap();
        // Version 3 headers, this thread, no capability at all.
        let header = [0x2008_0522u32, 0];
        let none = [0u32; 6];
        // SAFETY: both structures are as long as the version says; affects this thread only.
        let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        let error = Steer::load(&facts).unwrap_err();
        assert!(matches!(error, SteerError::NotPermitted { .. }), "{error:?}");
        assert!(error.to_string().contains("CAP_BPF"));
        assert!(matches!(Umem::new(4, Rings::TINY), Err(XskError::NotPermitted)));
        // Facts need no privilege; program and maps go on working by their descriptors.
        loaded.attach(AttachMode::Native, &facts).unwrap();
        assert_eq!(nic::facts(TARGET).unwrap().mac, Mac(TARGET_MAC));
        loaded.set_shelf(SHELF, true).unwrap();
        loaded.counters().unwrap();
        let maps = loaded.slots();
        maps.set_slot(SLOT, 0).unwrap();
        maps.allow(SLOT, Mac(INITIATOR_MAC)).unwrap();
        maps.set_masked(SLOT, true).unwrap();
        maps.disallow(SLOT, Mac(INITIATOR_MAC)).unwrap();
    });
}
