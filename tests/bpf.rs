//! The XDP program alone: the kernel runs it over frames of ours, and the counters must say why (BPF_PROG_TEST_RUN);
//! then attached, in both modes, and refused with a reason.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod namespace;

use namespace::{INITIATOR_MAC, TARGET, TARGET_MAC, alone, ip, request, tagged, veth};
use std::os::fd::AsRawFd;
use xshelf::frame::QueueId;
use xshelf::net::ladder::Rung;
use xshelf::net::nic::{self, XdpMode};
use xshelf::net::steer::{AttachMode, Reason, Steer, SteerError};
use xshelf::net::xsk::{Rings, Umem, XskError, XskQueue};
use xshelf::protocol::Mac;

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
        let queue = umem.bind(QueueId(0), &facts, 0, Rung::NativeSegments).unwrap();
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
        let want = if reason == Reason::Redirected { REDIRECT } else { PASS };
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
        let queue = umem.bind(QueueId(0), &facts, 1, Rung::NativeSegments).unwrap();
        assert!(matches!(steer.insert(256, &queue), Err(SteerError::NoSuchQueue { queue: 256, .. })));
        steer.insert(1, &queue).unwrap();
        assert_eq!(verdict(&steer, index, 1, &frame), REDIRECT);
        assert_eq!(verdict(&steer, index, 0, &frame), PASS);
        steer.remove(255).unwrap();
        steer.remove(100_000).unwrap();
    });
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
        }
        drop(first);
        // Not at once: a child that another test is about to start has a copy of the descriptor until its exec.
        namespace::eventually("the program is detached", || nic::facts(TARGET).unwrap().programs.is_empty());
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
    });
}
