//! A shelf that starts well: who finds it, what it serves, what it leaves to the host, and how it stops.

use crate::frames::{self, BROADCAST, Raw};
use crate::lab::{Cable, End, Lab, Server, TARGET, run};
use serde_json::Value;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long an answer may take before it counts as missing: a guard, far beyond what it takes.
const ANSWER: Duration = Duration::from_secs(20);
/// How long nothing may come before it counts as silence.
const SILENCE: Duration = Duration::from_millis(300);

const MIB: u64 = 1 << 20;

fn slot(address: &str, path: &Path) -> String {
    format!("{address}={}", path.display())
}

/// What `xshelf discover --json` says of each slot, by address.
fn discover(lab: &Lab) -> Vec<(String, Value)> {
    discover_on(lab, "ini0")
}

fn discover_on(lab: &Lab, interface: &str) -> Vec<(String, Value)> {
    let done = run(lab.xshelf(End::Initiator, &["discover", interface, "--json"])).well();
    let json: Value = serde_json::from_str(&done.output).unwrap_or_else(|e| panic!("{e}\n{done}"));
    let targets = json["targets"].as_array().unwrap_or_else(|| panic!("no targets in {json:#}"));
    targets.iter().map(|slot| (slot["address"].as_str().unwrap().to_owned(), slot.clone())).collect()
}

/// Writes, reads and verifies for a second.
#[track_caller]
fn verify(lab: &Lab, slots: &[&str]) {
    verify_on(lab, "ini0", slots);
}

#[track_caller]
fn verify_on(lab: &Lab, interface: &str, slots: &[&str]) {
    let mut arguments = vec!["bench", interface];
    arguments.extend(slots);
    arguments.extend(["--mode", "verify", "--destroy-data", "--depth", "16", "--seconds", "1", "--json"]);
    let done = run(lab.xshelf(End::Initiator, &arguments)).well();
    let json: Value = serde_json::from_str(&done.output).unwrap_or_else(|e| panic!("{e}\n{done}"));
    assert_eq!(json["ok"], true, "{json:#}");
    for slot in json["slots"].as_array().unwrap() {
        let checked = slot["verify"]["sectors_checked"].as_u64();
        assert!(checked.is_some_and(|n| n > 0), "nothing was verified: {json:#}");
    }
}

struct Case {
    mode: &'static str,
    mtu: u32,
    queues: u32,
    workers: u32,
    sectors: u64,
}

#[track_caller]
fn serves(case: &Case) {
    let lab = lab! { mtu: case.mtu, queues: case.queues };
    let (first, second) = (lab.image("disk0", 4 * MIB), lab.image("disk1", 4 * MIB));
    let server = Server::start(
        &lab,
        &[
            "--mode",
            case.mode,
            "--workers",
            &case.workers.to_string(),
            &slot("7.0", &first),
            &slot("7.1", &second),
        ],
    );
    assert!(lab.xdp_attached());
    let found = discover(&lab);
    let addresses: Vec<&str> = found.iter().map(|(address, _)| address.as_str()).collect();
    assert_eq!(addresses, ["7.0", "7.1"]);
    for (address, slot) in &found {
        assert_eq!(slot["sectors_per_frame"], case.sectors, "{address}: {slot:#}");
        assert_eq!(slot["bytes"], 4 * MIB, "{address}: {slot:#}");
    }
    verify(&lab, &["7.0", "7.1"]);
    leaves_nothing(&lab, server);
}

/// Stops the shelf; all its frame memory is accounted for, and the interface is as it was.
#[track_caller]
fn leaves_nothing(lab: &Lab, server: Server) {
    let log = server.stop();
    let conserved =
        log.lines().find_map(|line| line.split_once("frames conserved: ")).unwrap_or_else(|| panic!("{log}"));
    let (home, all) = conserved.1.split_once(" of ").unwrap_or_else(|| panic!("{log}"));
    assert_eq!(home, all, "frame memory got lost\n{log}");
    assert!(!lab.xdp_attached(), "a program is still attached\n{log}");
}

macro_rules! cases {
    ($($name:ident: $mode:literal, mtu $mtu:literal, queues $queues:literal, workers $workers:literal
       => $sectors:literal;)*) => {
        $(
            #[test]
            fn $name() {
                serves(&Case {
                    mode: $mode,
                    mtu: $mtu,
                    queues: $queues,
                    workers: $workers,
                    sectors: $sectors,
                });
            }
        )*
    };
}

// Every value of each of the four meets every value of each other at least once.
cases! {
    native_at_1500: "native", mtu 1500, queues 1, workers 1 => 2;
    native_at_1500_with_two_queues_and_two_workers: "native", mtu 1500, queues 2, workers 2 => 2;
    native_at_4132_with_two_workers_on_one_queue: "native", mtu 4132, queues 1, workers 2 => 8;
    native_at_9000: "native", mtu 9000, queues 1, workers 1 => 16;
    native_at_9000_with_two_queues_and_two_workers: "native", mtu 9000, queues 2, workers 2 => 16;
    native_at_9000_with_one_worker_on_two_queues: "native", mtu 9000, queues 2, workers 1 => 16;
    generic_at_1500_with_one_worker_on_two_queues: "generic", mtu 1500, queues 2, workers 1 => 2;
    generic_at_4132_with_two_queues_and_two_workers: "generic", mtu 4132, queues 2, workers 2 => 8;
    generic_at_9000: "generic", mtu 9000, queues 1, workers 1 => 16;
    generic_at_9000_with_two_workers_on_one_queue: "generic", mtu 9000, queues 1, workers 2 => 16;
}

#[test]
fn an_mtu_one_byte_short_halves_the_sectors() {
    for (mtu, sectors) in [(4131, 4), (8227, 8), (8228, 16), (1059, 1)] {
        let lab = lab! { mtu, queues: 1 };
        let server = Server::start(&lab, &[slot("7.0", &lab.image("disk", MIB))]);
        let found = discover(&lab);
        assert_eq!(found[0].1["sectors_per_frame"], sectors, "MTU {mtu}");
        server.stop();
    }
}

#[test]
fn two_cards_of_different_mtu_serve_the_same_slots_at_once() {
    let lab = lab! { mtu: 9000, queues: 1 };
    lab.second_cable(1500);
    let (first, second) = (lab.image("disk0", 4 * MIB), lab.image("disk1", 4 * MIB));
    let server = Server::start(
        &lab,
        &["--interface", "tgt1", "--workers", "2", &slot("7.0", &first), &slot("7.1", &second)],
    );
    for (interface, sectors) in [("ini0", 16), ("ini1", 2)] {
        let found = discover_on(&lab, interface);
        assert_eq!(found.len(), 2, "{interface}");
        assert!(found.iter().all(|(_, slot)| slot["sectors_per_frame"] == sectors), "{interface}: {found:?}");
    }
    // Whichever worker a card's frames arrive at, it has to hand half of them to the other.
    std::thread::scope(|scope| {
        let one = scope.spawn(|| verify_on(&lab, "ini0", &["7.0"]));
        let other = scope.spawn(|| verify_on(&lab, "ini1", &["7.1"]));
        one.join().unwrap();
        other.join().unwrap();
    });
    verify_on(&lab, "ini0", &["7.1"]);
    verify_on(&lab, "ini1", &["7.0"]);
    leaves_nothing(&lab, server);
}

#[test]
fn a_shelf_starts_from_a_configuration_file() {
    let lab = lab! { ..Cable::default() };
    let (first, second) = (lab.image("disk0", MIB), lab.image("disk1", 2 * MIB));
    let file = lab.path("xshelf.toml");
    let text = format!(
        "[[interface]]\nname = \"{TARGET}\"\n\
         [[slot]]\naddress = \"7.0\"\npath = \"{}\"\nserial = \"ONE\"\n\
         [[slot]]\naddress = \"65534.254\"\npath = \"{}\"\nread-only = true\n",
        first.display(),
        second.display()
    );
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    run(lab.xshelf(End::Target, &["check", file])).well();
    assert!(!lab.xdp_attached(), "check attached something");
    let server = Server::start_command(&lab, lab.xshelf(End::Target, &["serve", "--config", file]));
    let found = discover(&lab);
    let addresses: Vec<&str> = found.iter().map(|(address, _)| address.as_str()).collect();
    assert_eq!(addresses, ["7.0", "65534.254"]);
    assert_eq!(found[0].1["serial"], "ONE");
    verify(&lab, &["7.0"]);
    leaves_nothing(&lab, server);
}

#[test]
fn check_looks_at_an_interface_and_attaches_nothing() {
    let lab = lab! { ..Cable::default() };
    let facts = run(lab.xshelf(End::Target, &["check", "--interface", TARGET])).well();
    assert!(facts.output.contains(TARGET) && facts.output.contains("9000"), "{facts}");
    assert!(!lab.xdp_attached());
}

#[test]
fn probe_finds_a_good_path_good() {
    let lab = lab! { ..Cable::default() };
    let server = Server::start(&lab, &[slot("7.0", &lab.image("disk", MIB))]);
    run(lab.xshelf(End::Initiator, &["probe", "ini0", "7.0"])).well();
    let nobody = run(lab.xshelf(End::Initiator, &["probe", "ini0", "7.1"]));
    assert_eq!(nobody.code(), Some(4), "{nobody}");
    server.stop();
}

#[test]
fn discovery_of_nobody_says_so() {
    let lab = lab! { ..Cable::default() };
    let done = run(lab.xshelf(End::Initiator, &["discover", "ini0"]));
    assert_eq!(done.code(), Some(4), "{done}");
}

/// WRITE SECTORS EXT of one sector, by hand (AoEr11, section 3.1).
fn write(to: [u8; 6], from: [u8; 6], lba: u8, tag: u32, data: &[u8; 512]) -> Vec<u8> {
    let mut frame = frames::head(to, from, 0, 7, 0, 0, tag);
    frame.extend([0x41, 0, 1, 0x34, lba, 0, 0, 0, 0, 0, 0, 0]);
    frame.extend(data);
    frame
}

#[test]
fn an_acknowledged_write_is_in_the_file() {
    let lab = lab! { ..Cable::default() };
    let image = lab.image("disk", MIB);
    let server = Server::start(&lab, &[slot("7.0", &image)]);
    let (wire, target) = (Raw::open(&lab, End::Initiator), Raw::open(&lab, End::Target));
    let data: [u8; 512] = std::array::from_fn(|i| (i % 251) as u8);
    wire.send(&write(target.mac, wire.mac, 3, 0x11, &data));
    let reply = wire.receive(ANSWER, |f| frames::is_response(f) && frames::tag_of(f) == 0x11).unwrap();
    assert_eq!(reply.len(), 60, "padded to the shortest frame");
    assert_eq!((reply[..6].to_vec(), reply[6..12].to_vec()), (wire.mac.to_vec(), target.mac.to_vec()));
    assert_eq!((reply[14], reply[15], reply[27]), (0x18, 0, 0x40), "R set, no error, DRDY");
    let mut there = [0; 512];
    fs::File::open(&image).unwrap().read_exact_at(&mut there, 3 * 512).unwrap();
    assert!(there == data, "the sector is not in the file");
    server.stop();
}

#[test]
fn a_read_only_slot_refuses_writes() {
    let lab = lab! { ..Cable::default() };
    let image = lab.image("disk", MIB);
    let server = Server::start(&lab, &[format!("{},ro", slot("7.0", &image))]);
    let (wire, target) = (Raw::open(&lab, End::Initiator), Raw::open(&lab, End::Target));
    wire.send(&write(target.mac, wire.mac, 0, 0x12, &[1; 512]));
    let reply = wire.receive(ANSWER, |f| frames::is_response(f) && frames::tag_of(f) == 0x12).unwrap();
    assert_eq!(
        (reply[14], reply[25] & 0x04, reply[27] & 0x41),
        (0x18, 0x04, 0x41),
        "an ATA error, not one of AoE"
    );
    let mut there = [9; 512];
    fs::File::open(&image).unwrap().read_exact_at(&mut there, 0).unwrap();
    assert!(there == [0; 512]);
    server.stop();
}

#[test]
fn responses_go_to_the_host_and_requests_do_not() {
    let lab = lab! { ..Cable::default() };
    let server = Server::start(&lab, &["--mode", "native", &slot("7.0", &lab.image("disk", MIB))]);
    let (wire, host) = (Raw::open(&lab, End::Initiator), Raw::open(&lab, End::Target));
    // An initiator on the target's own host has to see the answers to it.
    for (tag, to) in [(0x21, host.mac), (0x22, BROADCAST)] {
        let mut response = frames::head(to, wire.mac, 0x08, 7, 0, 1, tag);
        response.resize(60, 0);
        wire.send(&response);
        let seen = host.receive(ANSWER, |f| frames::tag_of(f) == tag);
        assert_eq!(seen.as_deref(), Some(&response[..]), "the host does not see responses");
    }
    wire.send(&frames::query(host.mac, wire.mac, 7, 0, 0x23));
    let answer = wire.receive(ANSWER, |f| frames::is_response(f) && frames::tag_of(f) == 0x23);
    assert!(answer.is_some(), "no answer");
    let seen = host.receive(SILENCE, |f| frames::tag_of(f) == 0x23 && !frames::is_response(f));
    assert!(seen.is_none(), "a request to us went to the host as well");
    server.stop();
}

#[test]
fn a_response_is_never_answered() {
    let lab = lab! { ..Cable::default() };
    let server = Server::start(&lab, &[slot("7.0", &lab.image("disk", MIB))]);
    let wire = Raw::open(&lab, End::Initiator);
    let mut response = frames::head(BROADCAST, wire.mac, 0x08, 0xffff, 0xff, 1, 0x31);
    response.resize(60, 0);
    wire.send(&response);
    // The next request is answered, so the silence before it was meant.
    wire.send(&frames::query(BROADCAST, wire.mac, 0xffff, 0xff, 0x32));
    let first = wire.receive(ANSWER, |f| frames::is_response(f) && matches!(frames::tag_of(f), 0x31 | 0x32));
    assert_eq!(first.map(|f| frames::tag_of(&f)), Some(0x32));
    server.stop();
}

#[test]
fn a_slot_announces_itself_when_it_comes() {
    let lab = lab! { ..Cable::default() };
    let wire = Raw::open(&lab, End::Initiator);
    let server = Server::start(&lab, &[slot("7.0", &lab.image("disk", MIB))]);
    let announcement = wire.receive(ANSWER, |f| f[..6] == BROADCAST && frames::is_response(f)).unwrap();
    assert_eq!((announcement[14], announcement[16], announcement[17], announcement[18]), (0x18, 0, 7, 0));
    assert_eq!(frames::tag_of(&announcement), 0);
    server.stop();
}

/// Sends some megabytes over TCP to the target's namespace and compares what arrives.
fn tcp_crosses(lab: &Lab) {
    let data: Vec<u8> = (0..4 * MIB).map(|i| (i % 253) as u8).collect();
    let listener = lab.within(End::Target, || TcpListener::bind("198.18.0.1:7000").unwrap());
    let received = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        received
    });
    let mut stream = lab.within(End::Initiator, || TcpStream::connect("198.18.0.1:7000").unwrap());
    stream.set_write_timeout(Some(ANSWER)).unwrap();
    stream.write_all(&data).unwrap();
    drop(stream);
    assert!(received.join().unwrap() == data, "TCP brought something else");
}

#[test]
fn other_traffic_crosses_while_the_shelf_is_busy() {
    for mode in ["native", "generic"] {
        let lab = lab! { ..Cable::default() };
        let server = Server::start(&lab, &["--mode", mode, &slot("7.0", &lab.image("disk", 4 * MIB))]);
        std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                let arguments =
                    ["bench", "ini0", "7.0", "--mode", "verify", "--destroy-data", "--seconds", "4"];
                run(lab.xshelf(End::Initiator, &arguments)).well();
            });
            tcp_crosses(&lab);
            let mut ping = Command::new("ping");
            ping.args(["-n", "-q", "-c", "20", "-i", "0.05", "-W", "10", "198.18.0.1"]);
            lab.enter(End::Initiator, &mut ping);
            let pinged = run(ping).well();
            assert!(pinged.output.contains(" 0% packet loss"), "{pinged}");
            load.join().unwrap();
        });
        leaves_nothing(&lab, server);
    }
}

#[test]
fn a_stop_in_the_middle_of_a_load_is_clean() {
    let lab = lab! { mtu: 9000, queues: 2 };
    let image = lab.image("disk", 4 * MIB);
    let server = Server::start(&lab, &["--workers", "2", &slot("7.0", &image)]);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut arguments =
                vec!["bench", "ini0", "7.0", "--mode", "mix", "--destroy-data", "--depth", "64"];
            arguments.extend(["--seconds", "2", "--deadline", "2"]);
            run(lab.xshelf(End::Initiator, &arguments))
        });
        std::thread::sleep(Duration::from_millis(700));
        leaves_nothing(&lab, server);
        // Whatever the load makes of it, it ends.
        load.join().unwrap();
    });
}

#[test]
fn a_shelf_can_be_started_again_at_once() {
    let lab = lab! { mtu: 9000, queues: 2 };
    let image = lab.image("disk", MIB);
    for _ in 0..3 {
        let server = Server::start(&lab, &[slot("7.0", &image)]);
        assert_eq!(discover(&lab).len(), 1);
        leaves_nothing(&lab, server);
    }
}

#[test]
fn a_killed_shelf_leaves_nothing_in_the_way_of_the_next() {
    let lab = lab! { mtu: 9000, queues: 2 };
    let image = lab.image("disk", 4 * MIB);
    for _ in 0..2 {
        let server = Server::start(&lab, &[slot("7.0", &image)]);
        verify(&lab, &["7.0"]);
        server.signal(libc::SIGKILL);
        let (status, log) = server.end();
        assert_eq!(status.code(), None, "{log}");
        assert!(!lab.xdp_attached(), "the kernel detaches a program whose owner is gone");
    }
    let server = Server::start(&lab, &[slot("7.0", &image)]);
    verify(&lab, &["7.0"]);
    leaves_nothing(&lab, server);
}

#[test]
fn an_interrupt_from_the_keyboard_stops_it_too() {
    let lab = lab! { ..Cable::default() };
    let server = Server::start(&lab, &[slot("7.0", &lab.image("disk", MIB))]);
    server.signal(libc::SIGINT);
    let (status, log) = server.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!lab.xdp_attached());
}

/// The capabilities that `deploy/xshelf.service` leaves; it says what each is for.
const UNIT: [i32; 3] = [12, 13, 39]; // CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF

#[test]
fn the_capabilities_of_the_unit_are_enough() {
    let unit = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/xshelf.service")).unwrap();
    assert!(
        unit.contains("\nCapabilityBoundingSet=CAP_NET_RAW CAP_NET_ADMIN CAP_BPF\n"),
        "the unit names others than this test tries"
    );
    let lab = lab! { ..Cable::default() };
    let image = lab.image("disk", MIB);
    let mut command = lab.xshelf(End::Target, &["serve", "--interface", TARGET, &slot("7.0", &image)]);
    // SAFETY: prctl and setrlimit are async-signal-safe and get no memory but the limit on this stack.
    unsafe {
        command.pre_exec(|| {
            let none = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
            // Where the limit cannot be lifted as systemd lifts it, CAP_IPC_LOCK (14) stands in for that.
            let lifted = libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const none) == 0;
            for capability in (0..64).filter(|c| !UNIT.contains(c) && (lifted || *c != 14)) {
                libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
            }
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            Ok(())
        });
    }
    let server = Server::start_command(&lab, command);
    verify(&lab, &["7.0"]);
    leaves_nothing(&lab, server);
}
