//! Faults of the network while a shelf serves: links that flap, interfaces that are removed and made again, another MTU,
//! address or number of queues, somebody else's hands on the XDP program.
//!
//! Every test ends with a stop that accounts for every frame, and every event has one line in the log.

use crate::frames::{self, Raw};
use crate::lab::{Cable, End, INITIATOR, Lab, Server, TARGET, run};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use xshelf::net::nic;
use xshelf::net::steer::{AttachMode, Steer, SteerError};

/// How long something may take before it counts as missing: a guard, far beyond what it takes.
const GUARD: Duration = Duration::from_secs(180);
const MIB: u64 = 1 << 20;
/// The address of the target's interface, where one is made again and hosts are to find it.
const ADDRESS: &str = "02:00:00:00:77:01";

fn slot(address: &str, path: &Path) -> String {
    format!("{address}={}", path.display())
}

/// Waits until the shelf has said this so many times.
#[track_caller]
fn said(server: &Server, words: &str, times: usize) {
    let start = Instant::now();
    while server.log().matches(words).count() < times {
        assert!(start.elapsed() < GUARD, "it does not say \"{words}\" {times} times\n{}", server.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Stops it, and checks that every frame was accounted for, and that each of these was said so often.
#[track_caller]
fn ends_well(lab: &Lab, server: Server, lines: &[(&str, usize)]) {
    let log = server.stop();
    for line in log.lines().filter_map(|line| line.split_once("frames conserved: ")) {
        let (found, all) = line.1.split_once(" of ").unwrap();
        assert_eq!(found, all, "{log}");
    }
    assert!(log.contains("frames conserved: ") && !log.contains("defect"), "{log}");
    for (words, times) in lines {
        assert_eq!(log.matches(words).count(), *times, "{words}\n{log}");
    }
    assert!(!lab.xdp_attached());
}

/// Frames that have left the initiator's interface.
fn frames_sent(lab: &Lab) -> u64 {
    let shown = lab.ip(End::Initiator, &["-statistics", "-json", "link", "show", "dev", INITIATOR]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    shown[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
}

/// Runs verified load on slot 7.0, and meanwhile something else; not one byte may be wrong, and no request may stay
/// without an answer.
#[track_caller]
fn under_load(lab: &Lab, seconds: u32, arguments: &[&str], events: impl FnOnce()) {
    let seconds = seconds.to_string();
    let mut all =
        vec!["bench", INITIATOR, "7.0", "--mode", "verify", "--destroy-data", "--seconds", &seconds];
    // Nobody gives up: how long a start takes on a busy machine is no matter here.
    all.extend(["--span", "8M", "--deadline", "120", "--rto-max", "500ms"]);
    all.extend(arguments);
    std::thread::scope(|scope| {
        let before = frames_sent(lab);
        let load = scope.spawn(|| run(lab.xshelf(End::Initiator, &all)).well());
        // It has found its slot, and writes: before that it does not wait long for an answer.
        let start = Instant::now();
        while frames_sent(lab) < before + 50 && !load.is_finished() {
            assert!(start.elapsed() < GUARD, "there is no load");
            std::thread::sleep(Duration::from_millis(20));
        }
        events();
        load.join().unwrap();
    });
}

/// Status of a command for slot 7.`slot`, sent again until it is answered. A command with `data` writes.
#[track_caller]
fn ata(wire: &Raw, to: [u8; 6], slot: u8, tag: u32, lba: u64, data: &[u8]) -> Vec<u8> {
    let lba = lba.to_le_bytes();
    let mut frame = frames::head(to, wire.mac, 0, 7, slot, 0, tag);
    let (flags, command) = if data.is_empty() { (0x40, 0x24) } else { (0x41, 0x34) };
    frame.extend([flags, 0, 1, command, lba[0], lba[1], lba[2], lba[3], lba[4], lba[5], 0, 0]);
    frame.extend(data);
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < GUARD, "no answer to {tag:#x}");
        wire.send(&frame);
        let wanted = |f: &[u8]| frames::is_response(f) && frames::tag_of(f) == tag;
        if let Some(reply) = wire.receive(Duration::from_millis(300), wanted) {
            assert_eq!((reply[27], reply[25]), (0x40, 0), "{tag:#x}");
            return reply[36..].to_vec();
        }
    }
}

fn mac(text: &str) -> [u8; 6] {
    let mut mac = [0; 6];
    for (to, from) in mac.iter_mut().zip(text.split(':')) {
        *to = u8::from_str_radix(from, 16).unwrap();
    }
    mac
}

// ------------------------------------------------------------------ cables

/// A lab whose cable goes by a bridge on the initiator's side, so that its other end stays when this one is pulled out.
fn bridged() -> Option<Lab> {
    let lab = Lab::new(Cable::default())?;
    lab.ip(End::Initiator, &["link", "del", INITIATOR]);
    let initiator = |arguments: &str| {
        lab.ip(End::Initiator, &arguments.split(' ').collect::<Vec<_>>());
    };
    initiator("link add hub0 type bridge forward_delay 0");
    initiator("link add ini0 mtu 9000 type veth peer name inip mtu 9000");
    initiator("link set inip master hub0 up");
    initiator("link set ini0 up");
    initiator("link set hub0 up");
    plug_in(&lab, TARGET, ADDRESS);
    Some(lab)
}

/// Makes an interface of the target, and connects it to the hub.
fn plug_in(lab: &Lab, name: &str, address: &str) {
    plug_in_with(lab, name, address, &[]);
}

/// As [`plug_in`], with more to say of the interface.
fn plug_in_with(lab: &Lab, name: &str, address: &str, more: &[&str]) {
    let peer = format!("{name}p");
    let target = lab.namespace(End::Target);
    // Of both ends: the kernel looks at the first for the number of queues (drivers/net/veth.c, veth_init_queues).
    let mut add =
        [&["link", "add", &peer, "mtu", "9000"], more, &["type", "veth", "peer", "name", name]].concat();
    add.extend(["mtu", "9000", "address", address, "netns", &target]);
    add.extend(more);
    lab.ip(End::Initiator, &add);
    lab.ip(End::Initiator, &["link", "set", &peer, "master", "hub0", "up"]);
    lab.ip(End::Target, &["link", "set", name, "up"]);
}

// ------------------------------------------- other hands on the XDP program

/// The link by which the shelf's XDP program is attached; whoever has it can do anything with it.
fn link_of(lab: &Lab) -> OwnedFd {
    let program = lab.within(End::Target, || nic::facts(TARGET).unwrap().programs[0].id);
    let mut id = 0;
    loop {
        // SAFETY: the number is written to a variable that lives through the call.
        let result = unsafe { libbpf_sys::bpf_link_get_next_id(id, &raw mut id) };
        assert_eq!(result, 0, "no link has program {program}");
        // SAFETY: no memory; the descriptor is ours alone.
        let fd = unsafe { libbpf_sys::bpf_link_get_fd_by_id(id) };
        if fd < 0 {
            // It went meanwhile, as links of other tests do.
            continue;
        }
        // SAFETY: just opened.
        let link = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: plain data for which zero is a value.
        let mut info: libbpf_sys::bpf_link_info = unsafe { std::mem::zeroed() };
        let mut len = size_of::<libbpf_sys::bpf_link_info>() as u32;
        // SAFETY: `info` is as long as `len` says.
        let result = unsafe { libbpf_sys::bpf_link_get_info_by_fd(fd, &raw mut info, &raw mut len) };
        if result == 0 && info.prog_id == program {
            return link;
        }
    }
}

fn detach(lab: &Lab) {
    // SAFETY: the descriptor is open.
    let result = unsafe { libbpf_sys::bpf_link_detach(link_of(lab).as_raw_fd()) };
    assert_eq!(result, 0, "{}", io::Error::from_raw_os_error(-result));
}

/// A program that lets everything pass.
fn other_program(lab: &Lab) -> Steer {
    lab.within(End::Target, || Steer::load(&nic::facts(TARGET).unwrap()).unwrap())
}

#[test]
fn a_detached_program_is_attached_again_under_load() {
    let lab = lab! { ..Cable::default() };
    let server = Server::start(&lab, &["--mode", "native", &slot("7.0", &lab.image("disk", 8 * MIB))]);
    under_load(&lab, 6, &[], || {
        detach(&lab);
        said(&server, "somebody detached the XDP program", 1);
        // The same link, and another program in it.
        let other = other_program(&lab);
        // SAFETY: both descriptors are open, and there are no options.
        let result = unsafe {
            let (link, program) = (link_of(&lab), other.program());
            libbpf_sys::bpf_link_update(link.as_raw_fd(), program.as_raw_fd(), std::ptr::null())
        };
        assert_eq!(result, 0, "{}", io::Error::from_raw_os_error(-result));
        said(&server, "somebody detached the XDP program", 2);
    });
    ends_well(&lab, server, &[("it is attached again", 2), ("starting again", 0), ("ERROR", 0)]);
}

#[test]
fn a_program_that_others_have_replaced_comes_back_when_theirs_has_gone() {
    let lab = lab! { ..Cable::default() };
    let server = Server::start(&lab, &["--mode", "native", &slot("7.0", &lab.image("disk", 8 * MIB))]);
    under_load(&lab, 5, &[], || {
        let mut other = other_program(&lab);
        loop {
            detach(&lab);
            let (attached, steer) = lab.within(End::Target, move || {
                let facts = nic::facts(TARGET).unwrap();
                (other.attach(AttachMode::Native, &facts), other)
            });
            other = steer;
            match attached {
                Ok(()) => break,
                // It was faster than we.
                Err(SteerError::Taken { .. }) => {}
                Err(e) => panic!("{e}"),
            }
        }
        said(&server, "nothing is served there: another XDP program is attached: xshelf_steer", 1);
        std::thread::sleep(Duration::from_millis(2500));
        drop(other);
        said(&server, "the XDP program is attached again, and hosts are served there", 1);
    });
    ends_well(&lab, server, &[("nothing is served there", 1), ("starting again", 0)]);
}

// ------------------------------------------------------------- links, ports

#[test]
fn a_link_that_flaps_costs_nothing_but_time() {
    let lab = lab! { mtu: 9000, queues: 2 };
    let server = Server::start(&lab, &["--workers", "2", &slot("7.0", &lab.image("disk", 8 * MIB))]);
    under_load(&lab, 8, &[], || {
        for flap in 1..=3 {
            lab.ip(End::Target, &["link", "set", TARGET, "down"]);
            said(&server, "the link is down", flap);
            lab.ip(End::Target, &["link", "set", TARGET, "up"]);
            said(&server, "the link is up", flap);
        }
    });
    ends_well(&lab, server, &[("the link is down", 3), ("the link is up", 3), ("starting again", 0)]);
}

#[test]
fn an_interface_that_is_made_again_is_served_again() {
    let Some(lab) = bridged() else { return };
    let server = Server::start(&lab, &[slot("7.0", &lab.image("disk", 8 * MIB))]);
    under_load(&lab, 8, &[], || {
        for time in 1..=2 {
            lab.ip(End::Target, &["link", "del", TARGET]);
            said(&server, "nothing is served there: the interface was removed", time);
            plug_in(&lab, TARGET, ADDRESS);
            said(&server, "started again: serving 7.0", time);
        }
    });
    let again = "tgt0: the interface was removed and is there again; starting again in place";
    ends_well(&lab, server, &[("nothing is served there", 2), (again, 2), ("started again", 2)]);
}

#[test]
fn an_interface_that_comes_back_with_fewer_queues_leaves_slots_to_the_workers_there_are() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return println!("SKIPPED: one CPU, so there is never a second worker");
    }
    let Some(lab) = bridged() else { return };
    let plug = |queues: &str| {
        lab.ip(End::Target, &["link", "del", TARGET]);
        plug_in_with(&lab, TARGET, ADDRESS, &["numrxqueues", queues, "numtxqueues", queues]);
    };
    plug("2");
    let server = Server::start(&lab, &[format!("{},worker=1", slot("7.0", &lab.image("disk", 8 * MIB)))]);
    let wire = Raw::open(&lab, End::Initiator);
    ata(&wire, mac(ADDRESS), 0, 0x501, 5, &[1; 512]);
    plug("1");
    said(&server, "started again: serving 7.0", 1);
    assert_eq!(ata(&wire, mac(ADDRESS), 0, 0x502, 5, &[])[..512], [1; 512]);
    ends_well(&lab, server, &[("slots go to the workers there are", 1), ("started again", 1)]);
}

#[test]
fn an_interface_of_the_same_number_is_another_one_all_the_same() {
    let Some(lab) = bridged() else { return };
    let server = Server::start(&lab, &[slot("7.0", &lab.image("disk", 8 * MIB))]);
    let index = lab.within(End::Target, || nic::facts(TARGET).unwrap().index).to_string();
    under_load(&lab, 4, &[], || {
        // Too fast for a look in between, most of the time.
        lab.ip(End::Target, &["link", "del", TARGET]);
        let add = ["link", "add", TARGET, "index", &index, "mtu", "9000", "address", ADDRESS, "type", "veth"];
        lab.ip(End::Target, &[&add[..], &["peer", "name", "hub1", "mtu", "9000"]].concat());
        lab.ip(End::Target, &["link", "set", "hub1", "netns", &lab.namespace(End::Initiator)]);
        lab.ip(End::Initiator, &["link", "set", "hub1", "master", "hub0", "up"]);
        lab.ip(End::Target, &["link", "set", TARGET, "up"]);
        said(&server, "started again: serving 7.0", 1);
    });
    ends_well(&lab, server, &[("started again", 1), ("it is attached again", 0)]);
}

#[test]
fn of_two_interfaces_one_goes_and_comes_back() {
    let Some(lab) = bridged() else { return };
    plug_in(&lab, "tgt1", "02:00:00:00:77:02");
    let arguments = ["--interface", "tgt1", "--workers", "2", &slot("7.0", &lab.image("disk", 8 * MIB))];
    let mut server = Server::start(&lab, &arguments);
    let wire = Raw::open(&lab, End::Initiator);
    let (first, second) = (mac(ADDRESS), mac("02:00:00:00:77:02"));
    ata(&wire, first, 0, 0x101, 5, &[1; 512]);
    lab.ip(End::Target, &["link", "del", "tgt1"]);
    server.until("the status says so", |log, status| {
        log.contains("tgt1: nothing is served there") && status.starts_with("tgt1: nothing is served there")
    });
    assert_eq!(ata(&wire, first, 0, 0x102, 5, &[])[..512], [1; 512]);
    // A fault of the other while this one is away: it is served without.
    let moved = "02:00:00:00:77:03";
    lab.ip(End::Target, &["link", "set", TARGET, "address", moved]);
    server.until("the status says what is waited for", |log, status| {
        log.contains("started again: ") && status.starts_with("waiting for tgt1; serving 7.0")
    });
    let first = mac(moved);
    assert_eq!(ata(&wire, first, 0, 0x103, 5, &[])[..512], [1; 512]);
    plug_in(&lab, "tgt1", "02:00:00:00:77:02");
    said(&server, "tgt1: it can be served on again; starting again in place", 1);
    assert_eq!(ata(&wire, second, 0, 0x104, 5, &[])[..512], [1; 512]);
    ata(&wire, first, 0, 0x105, 6, &[2; 512]);
    ends_well(&lab, server, &[("started again", 2), ("tgt1: nothing is served there", 1)]);
}

#[test]
fn an_interface_that_comes_back_as_something_else_costs_the_others_a_moment_once() {
    let Some(lab) = bridged() else { return };
    plug_in(&lab, "tgt1", "02:00:00:00:77:02");
    let slot = slot("7.0", &lab.image("disk", 8 * MIB));
    let server = Server::start(&lab, &["--interface", "tgt1", "--mode", "native", &slot]);
    under_load(&lab, 8, &[], || {
        lab.ip(End::Target, &["link", "del", "tgt1"]);
        said(&server, "tgt1: nothing is served there", 1);
        // Ethernet, but without native XDP.
        lab.ip(End::Target, &["link", "add", "tgt1", "type", "bridge"]);
        lab.ip(End::Target, &["link", "set", "tgt1", "up"]);
        said(&server, "tgt1 is not served on until it can be", 1);
        said(&server, "started again: serving 7.0", 1);
        std::thread::sleep(Duration::from_secs(3));
    });
    ends_well(&lab, server, &[("started again", 1), ("mode native cannot be had", 1)]);
}

#[test]
fn a_signal_ends_it_while_it_waits_for_its_only_interface() {
    let Some(lab) = bridged() else { return };
    let mut server = Server::start(&lab, &[slot("7.0", &lab.image("disk", MIB))]);
    lab.ip(End::Target, &["link", "del", TARGET]);
    server.until("the status says so", |_, status| status.starts_with("tgt0: nothing is served there"));
    ends_well(&lab, server, &[("nothing is served there", 1), ("starting again", 0)]);
}

#[test]
fn the_mtu_may_change_under_load() {
    let lab = lab! { ..Cable::default() };
    let server = Server::start(&lab, &["--mode", "native", &slot("7.0", &lab.image("disk", 8 * MIB))]);
    // What all of these carry.
    under_load(&lab, 8, &["--sectors", "2"], || {
        for mtu in ["1500", "9000", "4132", "2000", "9000"] {
            let before = server.log().matches(&format!("the MTU is {mtu} now")).count();
            lab.ip(End::Target, &["link", "set", TARGET, "mtu", mtu]);
            said(&server, &format!("the MTU is {mtu} now"), before + 1);
        }
    });
    ends_well(&lab, server, &[("the MTU is", 5), ("starting again", 0)]);
}

/// Sets the queues of the target's interface; says why not, if so.
fn set_queues(lab: &Lab, queues: &str) -> Result<(), String> {
    let mut ethtool = Command::new("ethtool");
    ethtool.args(["-L", TARGET, "rx", queues, "tx", queues]);
    lab.enter(End::Target, &mut ethtool);
    let done = run(ethtool);
    if done.status.success() { Ok(()) } else { Err(done.errors) }
}

#[test]
fn more_queues_are_served_when_there_are_more() {
    let lab = lab! { mtu: 9000, queues: 2 };
    if let Err(why) = set_queues(&lab, "1").and_then(|()| set_queues(&lab, "2")).and_then(|()| {
        // The other end sends on no more queues than this one receives from.
        let mut ethtool = Command::new("ethtool");
        ethtool.args(["-L", INITIATOR, "rx", "1", "tx", "1"]);
        lab.enter(End::Initiator, &mut ethtool);
        run(ethtool).well();
        set_queues(&lab, "1")
    }) {
        println!("SKIPPED: the number of queues of a veth cannot be changed here: {why}");
        return;
    }
    let server = Server::start(&lab, &["--mode", "native", &slot("7.0", &lab.image("disk", 8 * MIB))]);
    under_load(&lab, 5, &[], || {
        set_queues(&lab, "2").unwrap();
        said(&server, "tgt0: frames arrive on 2 queues now, 1 before; starting again in place", 1);
        said(&server, "started again: serving 7.0", 1);
    });
    assert!(server.log().contains("queues 0-1;"), "{}", server.log());
    ends_well(&lab, server, &[("started again", 1)]);
}

#[test]
fn another_address_is_served_under_and_what_hosts_have_set_holds() {
    let lab = lab! { ..Cable::default() };
    let server = Server::start(&lab, &[slot("7.0", &lab.image("disk", MIB))]);
    let (wire, target) = (Raw::open(&lab, End::Initiator), Raw::open(&lab, End::Target));
    ata(&wire, target.mac, 0, 0x201, 9, &[7; 512]);
    // Query Config, force set.
    let mut set = frames::head(target.mac, wire.mac, 0, 7, 0, 1, 0x202);
    set.extend([0, 0, 0, 0, 0, 4, 0, 4]);
    set.extend(*b"mine");
    wire.send(&set);
    wire.receive(GUARD, |f| frames::is_response(f) && frames::tag_of(f) == 0x202).unwrap();
    let moved = "02:00:00:00:be:ef";
    lab.ip(End::Target, &["link", "set", TARGET, "address", moved]);
    said(&server, &format!("its address is {moved} now"), 1);
    said(&server, "started again", 1);
    assert_eq!(ata(&wire, mac(moved), 0, 0x203, 9, &[])[..512], [7; 512]);
    wire.send(&frames::query(mac(moved), wire.mac, 7, 0, 0x204));
    let reply = wire.receive(GUARD, |f| frames::is_response(f) && frames::tag_of(f) == 0x204).unwrap();
    assert_eq!(reply[6..12], mac(moved));
    assert_eq!(&reply[30..36], b"\0\x04mine", "there is no state directory, and the process is the same");
    ends_well(&lab, server, &[("started again", 1)]);
}

#[test]
fn a_new_start_serves_the_same_files_as_before_or_none() {
    let lab = lab! { ..Cable::default() };
    let (disk, aside) = (lab.image("disk", MIB), lab.path("aside"));
    let server = Server::start(&lab, &[slot("7.0", &disk), slot("7.1", &lab.image("other", MIB))]);
    let (wire, target) = (Raw::open(&lab, End::Initiator), Raw::open(&lab, End::Target));
    ata(&wire, target.mac, 0, 0x401, 9, &[7; 512]);
    // As good as the one that is served, by its path and its size.
    std::fs::rename(&disk, &aside).unwrap();
    File::create(&disk).unwrap().set_len(MIB).unwrap();
    assert_eq!(ata(&wire, target.mac, 0, 0x402, 9, &[])[..512], [7; 512]);
    let move_to = |address: &str, time: usize| {
        lab.ip(End::Target, &["link", "set", TARGET, "address", address]);
        said(&server, "started again", time);
        mac(address)
    };
    let now = move_to("02:00:00:00:be:01", 1);
    ata(&wire, now, 1, 0x403, 9, &[8; 512]);
    let name = disk.display();
    said(&server, &format!("slot 7.0: {name}: it is another file than the one that was served until now"), 1);
    wire.send(&frames::query(now, wire.mac, 7, 0, 0x404));
    let wanted = |f: &[u8]| frames::is_response(f) && frames::tag_of(f) == 0x404;
    assert_eq!(wire.receive(Duration::from_millis(500), wanted), None);
    let control = lab.path("control").display().to_string();
    let done = run(lab.xshelf(End::Target, &["slot", "7.0", "recover", "--control", &control]));
    assert_eq!(done.code(), Some(1), "{done}");
    assert!(
        done.errors.starts_with("xshelf: slot 7.0 is not served until its device can be opened"),
        "{done}"
    );
    // What it was is served again, also where a slot was away for a while.
    std::fs::rename(&aside, &disk).unwrap();
    let now = move_to("02:00:00:00:be:02", 2);
    assert_eq!(ata(&wire, now, 0, 0x405, 9, &[])[..512], [7; 512]);
    assert_eq!(ata(&wire, now, 1, 0x406, 9, &[])[..512], [8; 512]);
    ends_well(&lab, server, &[("it is another file", 1), ("started again", 2)]);
}

#[test]
fn a_stop_does_not_wait_for_a_port_that_is_down() {
    let lab = lab! { ..Cable::default() };
    let server = Server::start(&lab, &[slot("7.0", &lab.image("disk", 8 * MIB))]);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut arguments =
                vec!["bench", INITIATOR, "7.0", "--mode", "mix", "--destroy-data", "--depth", "64"];
            arguments.extend(["--seconds", "3", "--deadline", "2"]);
            run(lab.xshelf(End::Initiator, &arguments))
        });
        std::thread::sleep(Duration::from_millis(1000));
        lab.ip(End::Target, &["link", "set", TARGET, "down"]);
        ends_well(&lab, server, &[("could not be sent within", 0)]);
        // Whatever the load makes of it, it ends.
        load.join().unwrap();
    });
}

// -------------------------------------------------------- a device that hangs

/// A file system of its own in a file, which can be frozen: what is written to it then hangs, as on a dead disk.
struct Freezer {
    at: PathBuf,
    frozen: bool,
}

impl Freezer {
    /// `None`, with the reason said, where that cannot be had.
    fn new(lab: &Lab) -> Option<Self> {
        let (image, at) = (lab.image("file-system", 32 * MIB), lab.path("mounted"));
        std::fs::create_dir(&at).unwrap();
        let mut make = Command::new("mkfs.ext4");
        make.args(["-q", "-F"]).arg(&image);
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(&image).arg(&at);
        for command in [make, mount] {
            let done = run(command);
            if !done.status.success() {
                println!("SKIPPED: no file system to freeze: {done}");
                return None;
            }
        }
        Some(Self { at, frozen: false })
    }

    fn set(&mut self, frozen: bool) {
        if std::mem::replace(&mut self.frozen, frozen) != frozen {
            let mut command = Command::new("fsfreeze");
            command.arg(if frozen { "--freeze" } else { "--unfreeze" }).arg(&self.at);
            run(command).well();
        }
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.set(false);
        // Busy as long as a killed process is on its way out.
        for _ in 0..100 {
            let mut command = Command::new("umount");
            command.arg(&self.at);
            if run(command).status.success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_device_that_hangs_keeps_its_own_slot_from_a_new_start_and_no_other() {
    let lab = lab! { ..Cable::default() };
    let Some(mut freezer) = Freezer::new(&lab) else { return };
    let hung = freezer.at.join("disk");
    File::create(&hung).unwrap().set_len(MIB).unwrap();
    let well = lab.image("disk", MIB);
    // All of one worker.
    let arguments = ["--workers", "1", &slot("7.0", &well), &slot("7.1", &hung)];
    let mut server = Server::start(&lab, &arguments);
    let (wire, target) = (Raw::open(&lab, End::Initiator), Raw::open(&lab, End::Target));
    ata(&wire, target.mac, 0, 0x301, 3, &[3; 512]);
    ata(&wire, target.mac, 1, 0x302, 3, &[3; 512]);
    freezer.set(true);
    let mut write = frames::head(target.mac, wire.mac, 0, 7, 1, 0, 0x303);
    write.extend([0x41, 0, 1, 0x34, 3, 0, 0, 0, 0, 0, 0, 0]);
    write.extend([4; 512]);
    wire.send(&write);
    // The other slot answers, so that this one is with its device.
    ata(&wire, target.mac, 0, 0x304, 3, &[]);
    let moved = "02:00:00:00:be:ef";
    lab.ip(End::Target, &["link", "set", TARGET, "address", moved]);
    said(&server, "slot 7.1: its device has not answered all it was sent, so the slot is not served", 1);
    let now = mac(moved);
    assert_eq!(ata(&wire, now, 0, 0x305, 3, &[])[..512], [3; 512], "the others are");
    server
        .until("the status names it", |_, status| status.starts_with("not served for now: 7.1; serving 7.0"));
    wire.send(&frames::query(now, wire.mac, 7, 1, 0x306));
    let wanted = |f: &[u8]| frames::is_response(f) && frames::tag_of(f) == 0x306;
    assert_eq!(wire.receive(Duration::from_millis(500), wanted), None);
    freezer.set(false);
    said(&server, "slot 7.1: the device has answered; starting again", 1);
    // What was in flight is older than this, and comes to nothing against it.
    ata(&wire, now, 1, 0x307, 3, &[5; 512]);
    assert_eq!(ata(&wire, now, 1, 0x308, 3, &[])[..512], [5; 512]);
    assert_eq!(ata(&wire, now, 0, 0x309, 3, &[])[..512], [3; 512]);
    ends_well(&lab, server, &[("started again", 2)]);
    let mut kept = [0; 512];
    File::open(&hung).unwrap().read_exact_at(&mut kept, 3 * 512).unwrap();
    assert_eq!(kept, [5; 512]);
}

// ------------------------------------------------------------------ overload

/// Requests that a report of the bench counts as done.
fn requests(report: &str) -> u64 {
    let report: serde_json::Value = serde_json::from_str(report).unwrap_or_else(|e| panic!("{e}\n{report}"));
    ["reads", "writes"].iter().map(|kind| report[kind]["requests"].as_u64().unwrap()).sum()
}

#[test]
fn two_hosts_share_the_smallest_pools() {
    let Some(lab) = bridged() else { return };
    let second = "link add ini1 mtu 9000 type veth peer name inip1 mtu 9000";
    lab.ip(End::Initiator, &second.split(' ').collect::<Vec<_>>());
    lab.ip(End::Initiator, &["link", "set", "inip1", "master", "hub0", "up"]);
    lab.ip(End::Initiator, &["link", "set", "ini1", "up"]);
    let mut text = format!(
        "[[interface]]\nname = \"{TARGET}\"\n[workers]\ncount = 1\n[memory]\nframes-per-queue = 64\nruns-per-worker = 4\n"
    );
    for n in 0..4 {
        let image = lab.image(&format!("disk{n}"), 4 * MIB);
        text.push_str(&format!("[[slot]]\naddress = \"7.{n}\"\npath = \"{}\"\n", image.display()));
    }
    let file = lab.path("shelf.toml");
    std::fs::write(&file, text).unwrap();
    let arguments = ["serve".as_ref(), "--config".as_ref(), file.as_os_str()];
    let server = Server::start_command(&lab, lab.xshelf(End::Target, &arguments));
    // Small requests: a frame of three pieces finds room less often, whoever sends it.
    let common =
        ["--sectors", "4", "--mode", "verify", "--destroy-data", "--seconds", "4", "--deadline", "120"];
    let load = |arguments: &[&str]| {
        let all = [&["bench", "--json"], arguments, &common].concat();
        requests(&run(lab.xshelf(End::Initiator, &all)).well().output)
    };
    let (greedy, modest) = std::thread::scope(|scope| {
        let greedy = scope.spawn(|| load(&["ini0", "7.0", "7.1", "7.2", "--depth", "64"]));
        let modest = scope.spawn(|| load(&["ini1", "7.3", "--depth", "4"]));
        (greedy.join().unwrap(), modest.join().unwrap())
    });
    println!("{greedy} and {modest} requests\n{}", server.log());
    ends_well(&lab, server, &[("WARN drop-share: a host has more commands in flight", 1)]);
}
