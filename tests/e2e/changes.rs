//! What changes while a shelf serves: sizes, MTU, carrier; and who is told.

use crate::frames::{self, BROADCAST, Raw};
use crate::lab::{Cable, End, Lab, Server, TARGET, run};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long something may take before it counts as missing: a guard, far beyond what it takes.
const GUARD: Duration = Duration::from_secs(180);
const MIB: u64 = 1 << 20;

fn slot(address: &str, path: &Path) -> String {
    format!("{address}={}", path.display())
}

fn resize(path: &Path, bytes: u64) {
    File::options().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

/// Waits for an announcement of each of these slots, in any order: Query Config responses to everybody that nobody asked
/// for. Gives the sectors of a frame that the last one tells.
#[track_caller]
fn announced(wire: &Raw, slots: &[u8]) -> u8 {
    let mut left = slots.to_vec();
    let mut sectors = 0;
    while !left.is_empty() {
        let announcement = wire.receive(GUARD, |f| {
            f[..6] == BROADCAST && frames::is_response(f) && f[19] == 1 && frames::tag_of(f) == 0
        });
        let announcement = announcement.unwrap_or_else(|| panic!("slots {left:?} are not announced"));
        left.retain(|slot| *slot != announcement[18]);
        sectors = announcement[28];
    }
    sectors
}

/// Waits until the shelf has said this.
#[track_caller]
fn said(server: &Server, words: &str) {
    let start = Instant::now();
    while !server.log().contains(words) {
        assert!(start.elapsed() < GUARD, "it does not say \"{words}\"\n{}", server.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes of slot 7.0, as IDENTIFY tells them.
fn bytes(lab: &Lab) -> u64 {
    let done = run(lab.xshelf(End::Initiator, &["discover", "ini0", "--json"])).well();
    let json: Value = serde_json::from_str(&done.output).unwrap_or_else(|e| panic!("{e}\n{done}"));
    json["targets"][0]["bytes"].as_u64().unwrap_or_else(|| panic!("{json:#}"))
}

/// Status and error of an ATA command for slot 7.0, and the length of the answer. A command with `data` writes.
#[track_caller]
fn ata(wire: &Raw, to: [u8; 6], tag: u32, command: u8, count: u8, lba: u64, data: &[u8]) -> (u8, u8, usize) {
    let lba = lba.to_le_bytes();
    let mut frame = frames::head(to, wire.mac, 0, 7, 0, 0, tag);
    let flags = if data.is_empty() { 0x40 } else { 0x41 };
    frame.extend([flags, 0, count, command, lba[0], lba[1], lba[2], lba[3], lba[4], lba[5], 0, 0]);
    frame.extend(data);
    wire.send(&frame);
    let reply = wire.receive(GUARD, |f| frames::is_response(f) && frames::tag_of(f) == tag);
    let reply = reply.unwrap_or_else(|| panic!("no answer to {tag:#x}"));
    (reply[27], reply[25], reply.len())
}

const READ: u8 = 0x24;
const WRITE: u8 = 0x34;
const GOOD: (u8, u8, usize) = (0x40, 0, 60);

#[test]
fn a_resized_file_is_announced_and_served_to_its_new_end() {
    let lab = lab! { mtu: 9000, queues: 1 };
    let (first, second) = (lab.image("disk0", MIB), lab.image("disk1", MIB));
    let (wire, target) = (Raw::open(&lab, End::Initiator), Raw::open(&lab, End::Target));
    // The slots of several workers have numbers of their own with each.
    let server = Server::start(
        &lab,
        &[
            "--workers",
            "2",
            &slot("7.0", &first),
            &slot("7.1", &second),
            &slot("7.2", &lab.image("disk2", MIB)),
        ],
    );
    announced(&wire, &[0, 1, 2]);
    assert_eq!(bytes(&lab), MIB);
    resize(&first, 3 * MIB);
    announced(&wire, &[0]);
    assert_eq!(bytes(&lab), 3 * MIB);
    said(&server, "has 6144 sectors now, 2048 before; Linux sees it when e7.0 is opened next");
    assert_eq!(ata(&wire, target.mac, 0x51, WRITE, 1, 6143, &[0x5a; 512]), GOOD);
    let mut last = [0; 512];
    File::open(&first).unwrap().read_exact_at(&mut last, 6143 * 512).unwrap();
    assert_eq!(last, [0x5a; 512]);
    let (status, error, _) = ata(&wire, target.mac, 0x52, WRITE, 1, 6144, &[1; 512]);
    assert_eq!((status & 1, error), (1, 0x10), "behind the end: ID not found");

    resize(&first, MIB / 2);
    announced(&wire, &[0]);
    assert_eq!(bytes(&lab), MIB / 2);
    let (status, error, _) = ata(&wire, target.mac, 0x53, READ, 1, 1024, &[]);
    assert_eq!((status & 1, error), (1, 0x10));
    let (status, error, _) = ata(&wire, target.mac, 0x54, WRITE, 1, 1024, &[1; 512]);
    assert_eq!((status & 1, error), (1, 0x10));
    assert_eq!(fs::metadata(&first).unwrap().len(), MIB / 2, "a refused write made the file longer");
    assert_eq!(ata(&wire, target.mac, 0x55, WRITE, 1, 1023, &[1; 512]), GOOD);

    // It is the slot that was resized that is announced, with whatever worker it is.
    resize(&second, 2 * MIB);
    announced(&wire, &[1]);
    said(&server, "disk1 has 4096 sectors now, 2048 before");
    let log = server.stop();
    assert!(!log.contains("disk2"), "{log}");
}

#[test]
fn another_mtu_is_announced_and_is_the_limit() {
    let lab = lab! { mtu: 9000, queues: 1 };
    let image = lab.image("disk", MIB);
    let (wire, target) = (Raw::open(&lab, End::Initiator), Raw::open(&lab, End::Target));
    let server = Server::start(&lab, &["--mode", "native", &slot("7.0", &image)]);
    assert_eq!(announced(&wire, &[0]), 16);
    let sixteen = |tag| ata(&wire, target.mac, tag, READ, 16, 0, &[]);
    let whole = (0x40, 0, 36 + 16 * 512);
    assert_eq!(sixteen(0x61), whole);
    for (mtu, sectors) in [("1500", 2), ("4132", 8), ("9000", 16)] {
        lab.ip(End::Target, &["link", "set", TARGET, "mtu", mtu]);
        assert_eq!(announced(&wire, &[0]), sectors, "MTU {mtu}");
        said(&server, &format!("{TARGET}: the MTU is {mtu} now"));
        let (status, error, len) = sixteen(0x62);
        if sectors == 16 {
            assert_eq!((status, error, len), whole);
        } else {
            assert_eq!((status & 1, error & 4, len), (1, 4, 60), "more than a frame carries, at MTU {mtu}");
            let most = ata(&wire, target.mac, 0x63, READ, sectors, 0, &[]);
            assert_eq!(most, (0x40, 0, 36 + usize::from(sectors) * 512), "MTU {mtu}");
        }
    }
    lab.ip(End::Target, &["link", "set", TARGET, "mtu", "500"]);
    said(&server, "does not carry one sector; raise it");
    lab.ip(End::Target, &["link", "set", TARGET, "mtu", "9000"]);
    said(&server, "the MTU is 9000 now, 500 before");
    assert_eq!(sixteen(0x64), whole);
    server.stop();
}

#[test]
fn slots_are_announced_when_the_link_comes_back() {
    let lab = lab! { ..Cable::default() };
    let (first, second) = (lab.image("disk0", MIB), lab.image("disk1", MIB));
    let (wire, target) = (Raw::open(&lab, End::Initiator), Raw::open(&lab, End::Target));
    let server = Server::start(&lab, &["--workers", "2", &slot("7.0", &first), &slot("7.1", &second)]);
    announced(&wire, &[0, 1]);
    for (end, interface) in [(End::Initiator, "ini0"), (End::Target, TARGET)] {
        let before = server.log().matches("the link is down").count();
        lab.ip(end, &["link", "set", interface, "down"]);
        let start = Instant::now();
        while server.log().matches("the link is down").count() == before {
            assert!(start.elapsed() < GUARD, "{}", server.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        lab.ip(end, &["link", "set", interface, "up"]);
        announced(&wire, &[0, 1]);
        assert_eq!(ata(&wire, target.mac, 0x71, WRITE, 1, 5, &[3; 512]), GOOD, "it serves as before");
    }
    let log = server.stop();
    assert_eq!(log.matches("the link is down").count(), 2, "{log}");
    assert_eq!(log.matches("the link is up").count(), 2, "{log}");
}

#[test]
fn trim_frees_the_space_of_its_slot_and_no_other() {
    use std::os::unix::fs::MetadataExt as _;
    let lab = lab! { ..Cable::default() };
    let image = lab.path("disk");
    fs::write(&image, vec![0x5a; 2 * MIB as usize]).unwrap();
    File::open(&image).unwrap().sync_all().unwrap();
    let (wire, target) = (Raw::open(&lab, End::Initiator), Raw::open(&lab, End::Target));
    // Two slots on one file: the one that is trimmed begins in its middle.
    let half = format!("{},length=1M", slot("7.1", &image));
    let server = Server::start(&lab, &[half, format!("{},offset=1M", slot("7.0", &image))]);
    let blocks = || fs::metadata(&image).unwrap().blocks();
    let before = blocks();
    // All but the first and the last sector, in two entries of one page.
    let mut page = [0; 512];
    for (at, (lba, sectors)) in [(1u64, 1000u16), (1001, 1046)].into_iter().enumerate() {
        page[8 * at..8 * at + 6].copy_from_slice(&lba.to_le_bytes()[..6]);
        page[8 * at + 6..8 * at + 8].copy_from_slice(&sectors.to_le_bytes());
    }
    let mut frame = frames::head(target.mac, wire.mac, 0, 7, 0, 0, 0x81);
    frame.extend([0x41, 1, 1, 0x06, 0, 0, 0, 0, 0, 0, 0, 0]);
    frame.extend(page);
    wire.send(&frame);
    let reply = wire.receive(GUARD, |f| frames::is_response(f) && frames::tag_of(f) == 0x81).unwrap();
    let log = server.stop();
    if (reply[27], reply[25]) == (0x41, 0x04) {
        println!("SKIPPED: the file system of /var/tmp has no holes, and the slot says so");
        return;
    }
    assert_eq!((reply[27], reply[25]), (0x40, 0), "{log}");
    let now = fs::read(&image).unwrap();
    let (served, freed) = (MIB as usize + 512, 2046 * 512);
    assert!(now[served..served + freed].iter().all(|&b| b == 0), "what was trimmed reads zeroes");
    let rest = now[..served].iter().chain(&now[served + freed..]);
    assert!(rest.copied().all(|b| b == 0x5a), "the rest is as it was");
    assert!(blocks() < before * 3 / 4, "{} of {before} blocks are left", blocks());
}
