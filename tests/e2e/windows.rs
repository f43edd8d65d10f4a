//! WinAoE and WinVBlock against the shelf: how those drivers find a disk, learn its size, and read and write it.
//!
//! Played from their source: no Query Config at all; tags count up from 1 in host (little-endian) order; IDENTIFY is
//! sent to everybody, first with the wildcard address, then with the address found and the E flag; the size is what
//! stands in bytes 200 to 207; how many sectors a frame takes is tried out with READ SECTORS EXT of 1, 2, 3… sectors
//! until the MTU is reached, an answer is short or none comes. After that nothing of an answer is looked at but its
//! tag and address: neither flags nor status nor length. So a frame that says "good" without its data would become
//! the contents of a file, and these tests hold every answer to a read to its length.

#![allow(clippy::expect_used, reason = "the helpers of a test fail it by panicking, and say why")]

use crate::frames::{BROADCAST, Raw, head, is_response};
use crate::lab::{End, Lab, Server};
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

/// How long an answer may take before it counts as missing: a guard, far beyond what it takes.
const ANSWER: Duration = Duration::from_secs(20);
/// How long nothing may come before everybody has answered.
const QUIET: Duration = Duration::from_millis(500);

const SECTOR: usize = 512;
/// Ethernet, AoE and ATA header.
const HEADER: usize = 36;
/// Sectors of a cylinder, as the driver has them: 255 heads of 63.
const CYLINDER: u64 = 255 * 63;

const IDENTIFY: u8 = 0xec;
const READ: u8 = 0x24;
const WRITE: u8 = 0x34;
const EXTENDED: u8 = 0x40;
const W: u8 = 0x01;

/// A disk as the wildcard IDENTIFY shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    shelf: u16,
    slot: u8,
    sectors: u64,
    server: [u8; 6],
}

/// The driver.
struct Driver {
    raw: Raw,
    next: u32,
    mtu: usize,
}

impl Driver {
    fn new(lab: &Lab, mtu: u32) -> Self {
        Self { raw: Raw::open(lab, End::Initiator), next: 1, mtu: mtu as usize }
    }

    /// Sends one ATA command; the tag is a number of ours in host order, which the target shall not care about.
    fn send(
        &mut self,
        to: [u8; 6],
        disk: (u16, u8),
        aflags: u8,
        command: (u8, u8),
        lba: u64,
        data: &[u8],
    ) -> u32 {
        let tag = self.next.swap_bytes();
        self.next += 1;
        let mut frame = head(to, self.raw.mac, 0, disk.0, disk.1, 0, tag);
        let (opcode, count) = command;
        frame.extend([aflags, 0, count, opcode]);
        frame.extend(&lba.to_le_bytes()[..6]);
        frame.extend([0, 0]);
        frame.extend(data);
        self.raw.send(&frame);
        tag
    }

    /// The answer to a tag, from one disk or any.
    fn answer(&self, tag: u32, disk: Option<(u16, u8)>, patience: Duration) -> Option<Vec<u8>> {
        self.raw.receive(patience, |frame| {
            is_response(frame)
                && frame[20..24] == tag.to_be_bytes()
                && disk.is_none_or(|(shelf, slot)| frame[16..18] == shelf.to_be_bytes() && frame[18] == slot)
        })
    }

    /// Asks everybody, as the driver does every ten seconds.
    fn probe(&mut self) -> Vec<Found> {
        let tag = self.send(BROADCAST, (0xffff, 0xff), 0, (IDENTIFY, 1), 0, &[]);
        let mut found = Vec::new();
        let mut patience = ANSWER;
        while let Some(frame) = self.answer(tag, None, patience) {
            patience = QUIET;
            assert_eq!(
                frame.len(),
                HEADER + SECTOR,
                "the driver copies its size from behind a shorter frame"
            );
            found.push(Found {
                shelf: u16::from_be_bytes([frame[16], frame[17]]),
                slot: frame[18],
                sectors: size(&frame),
                server: frame[6..12].try_into().unwrap(),
            });
        }
        found.sort_unstable();
        found
    }

    /// IDENTIFY of one disk, to the broadcast address still: the size, and who answered.
    fn size_of(&mut self, disk: (u16, u8)) -> (u64, [u8; 6]) {
        let tag = self.send(BROADCAST, disk, EXTENDED, (IDENTIFY, 1), 0, &[]);
        let frame = self.answer(tag, Some(disk), ANSWER).expect("no answer to IDENTIFY");
        (size(&frame), frame[6..12].try_into().unwrap())
    }

    /// READ of LBA 0 with more and more sectors: how many a frame takes.
    fn sectors_of_a_frame(&mut self, disk: (u16, u8), server: [u8; 6]) -> usize {
        // The first read is for the partition table; the driver takes its geometry from nowhere in the end.
        assert_eq!(self.read(disk, server, 0, 1).len(), SECTOR);
        for tried in 1..=255 {
            let tag = self.send(server, disk, EXTENDED, (READ, tried as u8), 0, &[]);
            let frame = self
                .answer(tag, Some(disk), ANSWER)
                .expect("too much asked for: silence costs 250 ms at every start");
            if frame.len() < HEADER + tried * SECTOR {
                return tried - 1;
            }
            if self.mtu < HEADER - 14 + (tried + 1) * SECTOR {
                return tried;
            }
        }
        panic!("there is no end to how many sectors a frame takes");
    }

    /// Copies what stands behind the header of the answer, whatever it says.
    #[track_caller]
    fn read(&mut self, disk: (u16, u8), server: [u8; 6], lba: u64, count: usize) -> Vec<u8> {
        let tag = self.send(server, disk, EXTENDED, (READ, count as u8), lba, &[]);
        let frame = self.answer(tag, Some(disk), ANSWER).expect("no answer to a read");
        assert_eq!(
            frame.len(),
            HEADER + count * SECTOR,
            "{count} sectors at {lba}: the driver would copy what is not there"
        );
        frame[HEADER..].to_vec()
    }

    #[track_caller]
    fn write(&mut self, disk: (u16, u8), server: [u8; 6], lba: u64, data: &[u8]) {
        let count = (data.len() / SECTOR) as u8;
        let tag = self.send(server, disk, EXTENDED | W, (WRITE, count), lba, data);
        assert!(self.answer(tag, Some(disk), ANSWER).is_some(), "no answer to a write at {lba}");
    }
}

/// Bytes 200 to 207 of an IDENTIFY page: all the driver knows of a disk.
fn size(frame: &[u8]) -> u64 {
    u64::from_le_bytes(frame[HEADER + 200..HEADER + 208].try_into().unwrap())
}

/// Bytes that are different in every sector and at every place of a sector.
fn pattern(lba: u64, sectors: usize) -> Vec<u8> {
    let words = (0..sectors * SECTOR / 8).map(|i| (lba * 64 + i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.flat_map(u64::to_le_bytes).collect()
}

/// From nothing known to a disk in use. `sectors_of_a_frame` is what the probing has to end with.
fn a_windows_host_uses_the_disk(mtu: u32, sectors_of_a_frame: usize) {
    let lab = lab! { mtu, queues: 1 };
    // No whole number of cylinders, and more sectors than 16 bits count.
    let sectors = 5 * CYLINDER + 777;
    let cylinders = sectors / CYLINDER * CYLINDER;
    let path = lab.image("disk", sectors * SECTOR as u64);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    for lba in [0, 39_990, 65_520, 70_000, cylinders - 64, sectors - 64] {
        file.write_all_at(&pattern(lba, 64), lba * SECTOR as u64).unwrap();
    }
    let other = lab.image("other", 100 * SECTOR as u64);
    let server =
        Server::start(&lab, &[format!("7.3={}", path.display()), format!("300.254={}", other.display())]);

    let mut driver = Driver::new(&lab, mtu);
    let found = driver.probe();
    let addresses: Vec<(u16, u8, u64)> = found.iter().map(|f| (f.shelf, f.slot, f.sectors)).collect();
    assert_eq!(addresses, [(7, 3, sectors), (300, 254, 100)]);

    let disk = (7, 3);
    let (size, mac) = driver.size_of(disk);
    assert_eq!((size, mac), (sectors, found[0].server));
    let most = driver.sectors_of_a_frame(disk, mac);
    assert_eq!(most, sectors_of_a_frame);

    // All of it, up to the last sector of what the driver takes for the last cylinder, and to the real end.
    for end in [cylinders, size] {
        let mut lba = end.saturating_sub(3 * most as u64 + 1);
        while lba < end {
            let count = most.min((end - lba) as usize);
            assert!(driver.read(disk, mac, lba, count) == pattern(lba, count), "wrong data at {lba}");
            lba += count as u64;
        }
    }
    for lba in [0, 1, 65_535, 65_536, 70_000] {
        assert!(driver.read(disk, mac, lba, most) == pattern(lba, most), "wrong data at {lba}");
    }

    // What it writes is there, next to what was.
    let written = pattern(1 << 40, most);
    driver.write(disk, mac, 40_000, &written);
    assert!(driver.read(disk, mac, 40_000, most) == written);
    assert!(driver.read(disk, mac, 39_999, 1) == pattern(39_999, 1));
    assert!(driver.read(disk, mac, 40_000 + most as u64, 1) == pattern(40_000 + most as u64, 1));
    let mut on_disk = vec![0; written.len()];
    fs::File::open(&path).unwrap().read_exact_at(&mut on_disk, 40_000 * SECTOR as u64).unwrap();
    assert!(on_disk == written, "an acknowledged write is not in the file");

    // It asks again every ten seconds, with other tags; the answer is the same.
    assert_eq!(driver.probe(), found);
    server.stop();
}

#[test]
fn a_windows_host_uses_the_disk_at_1500() {
    a_windows_host_uses_the_disk(1500, 2);
}

#[test]
fn a_windows_host_uses_the_disk_at_4132() {
    a_windows_host_uses_the_disk(4132, 8);
}

/// The link would carry 17 sectors; the shelf takes 16, and says so with a short answer.
#[test]
fn a_windows_host_uses_the_disk_at_9000() {
    a_windows_host_uses_the_disk(9000, 16);
}
