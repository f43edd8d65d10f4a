//! The wire between real interfaces: a good one carries every frame in order, a bad one does what it says and no more.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../namespace/mod.rs"]
mod namespace;

use namespace::{alone, ip};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use xshelf_shim::fate::Faults;
use xshelf_shim::tap::{BATCH, Tap};
use xshelf_shim::{Ends, Report};

const HEADER: [u8; 14] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xa2];
const PATTERN: [u8; 9014] = [0xa5; 9014];
/// Frames under way at once, at most: what a load of some slots has.
const WINDOW: u64 = 256;

fn cable() {
    for (a, b) in [("left", "shim-l"), ("right", "shim-r")] {
        ip(&format!("link add {a} mtu 9000 type veth peer name {b} mtu 9000"));
        for name in [a, b] {
            ip(&format!("link set dev {name} addrgenmode none up"));
        }
    }
}

/// What one way carried: the numbers of the frames that arrived, in order.
struct Carried {
    numbers: Vec<u64>,
    report: Report,
}

/// Sends `count` numbered frames of `length` bytes from left to right, and as many the other way at the same time.
fn carry(count: u64, length: usize, faults: Faults, seed: u64) -> [Carried; 2] {
    let (mut left, mut right) = (Tap::open("left").unwrap(), Tap::open("right").unwrap());
    let mut ends = Ends::open(["shim-l", "shim-r"]).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&stop);
    let wire = std::thread::spawn(move || ends.run([faults; 2], seed, &until).unwrap());
    let began = Instant::now();
    let (mut sent, mut there, mut back) = (0, Vec::new(), Vec::new());
    // On a bad wire nobody knows how many will come: those that are lost must not close the window.
    let lossy = faults != Faults::NONE;
    let mut frames = vec![vec![0xa5; length]; BATCH];
    frames.iter_mut().for_each(|f| f[..14].copy_from_slice(&HEADER));
    turns("all frames are sent", || {
        if lossy || sent - there.len().min(back.len()) as u64 + BATCH as u64 <= WINDOW {
            let batch = (count - sent).min(BATCH as u64) as usize;
            for (n, frame) in (sent..).zip(&mut frames[..batch]) {
                frame[14..22].copy_from_slice(&n.to_le_bytes());
            }
            let batch: Vec<&[u8]> = frames[..batch].iter().map(Vec::as_slice).collect();
            for tap in [&left, &right] {
                let mut rest = batch.as_slice();
                while !rest.is_empty() {
                    rest = &rest[tap.send(rest).unwrap_or(0)..];
                }
            }
            sent += batch.len() as u64;
            if lossy {
                std::thread::sleep(std::time::Duration::from_micros(300));
            }
        }
        read(&mut right, length, &mut there);
        read(&mut left, length, &mut back);
        sent == count
    });
    let mut news = Instant::now();
    turns("the wire is empty", || {
        if read(&mut right, length, &mut there) + read(&mut left, length, &mut back) > 0 {
            news = Instant::now();
        }
        // A hundred times longer than anything is held back.
        if lossy { news.elapsed().as_millis() > 500 } else { there.len().min(back.len()) as u64 == count }
    });
    let seconds = began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let report = wire.join().unwrap();
    println!("{:.0} frames/s of {length} bytes: {report:?}", 2.0 * count as f64 / seconds);
    assert_eq!((left.drops(), right.drops()), (0, 0));
    assert_eq!(report.own_losses(), 0);
    [Carried { numbers: there, report }, Carried { numbers: back, report }]
}

/// Waits until `done` says so, without a pause: only a guard against a hang.
fn turns(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed().as_secs() < 120, "never happened: {what}");
    }
}

fn read(tap: &mut Tap, length: usize, numbers: &mut Vec<u64>) -> usize {
    let taken = tap.receive().unwrap();
    for i in 0..taken {
        let (frame, _) = tap.frame(i);
        assert_eq!((frame.len(), &frame[..14]), (length, HEADER.as_slice()));
        assert!(frame[22..] == PATTERN[22..length], "a frame was damaged");
        numbers.push(u64::from_le_bytes(frame[14..22].try_into().unwrap()));
    }
    taken
}

#[test]
fn a_good_wire_carries_every_frame_in_order() {
    alone(|| {
        cable();
        for length in [60, 9014] {
            for way in carry(40_000, length, Faults::NONE, 1) {
                assert!(way.numbers.iter().copied().eq(0..40_000), "of {length} bytes: {:?}", way.report);
            }
        }
    });
}

#[test]
fn a_bad_wire_loses_repeats_and_reorders_as_it_says() {
    alone(|| {
        cable();
        let faults = "loss=0.05,duplicate=0.05,reorder=0.03,delay=0.03,hold=5ms".parse().unwrap();
        let ways = carry(20_000, 1000, faults, 7);
        for (way, told) in [(&ways[0], ways[0].report.there), (&ways[1], ways[0].report.back)] {
            let mut seen = vec![0u32; 20_000];
            way.numbers.iter().for_each(|&n| seen[n as usize] += 1);
            let of = |times| seen.iter().filter(|&&n| n == times).count() as u64;
            assert_eq!((told.counts.frames, told.refused, told.unsent), (20_000, 0, 0));
            assert_eq!((of(0), of(2)), (told.counts.lost, told.counts.duplicated));
            assert!(of(0) > 500 && of(2) > 500, "{told:?}");
            let late = way.numbers.windows(2).filter(|pair| pair[1] < pair[0]).count();
            assert!(late > 500 && told.counts.overtaken > 500, "{late} {told:?}");
        }
        assert_ne!(
            ways[0].report.there.counts.lost, ways[0].report.back.counts.lost,
            "each way has its own luck"
        );
    });
}
