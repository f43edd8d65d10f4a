//! A bad wire in user space: two interfaces as the ends, and frames that get lost, repeated, reordered and delayed between
//! them, each direction by its own chances, all of it repeatable by a seed.
//!
//! Not here: what the frames mean. Faults happen to frames of ATA over Ethernet only; all others pass.
//! Invariant: it loses no frame by itself that it does not count apart from those it loses on purpose.
#![deny(unsafe_code)]

pub mod fate;
pub mod tap;

use fate::{Counts, Faults, Line, Nanos};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tap::Tap;
use xshelf::protocol::ethernet::ETHERTYPE_AOE;

/// Longest sleep: how soon the end is noticed.
const NAP: Nanos = 50_000_000;
/// Tries for a frame that the far end has no room for, and the pause between them. A receiver that is merely slow gets
/// its frames late; one that is down loses them.
const TRIES: u32 = 20_000;
const PAUSE: Duration = Duration::from_micros(50);

/// One direction, when all is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Direction {
    /// What happened on purpose.
    #[serde(flatten)]
    pub counts: Counts,
    /// Frames of other protocols, which pass.
    pub other: u64,
    /// Frames that the far end would not take: it is down, or its receiver took nothing for a second.
    pub refused: u64,
    /// Frames lost here because this process was too slow: in the socket's buffer.
    pub socket_drops: u64,
    /// Frames lost on the way in before the socket saw them.
    pub interface_drops: u64,
    /// Frames held back when the end came.
    pub unsent: u64,
}

/// What the wire did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Repeats it.
    pub seed: u64,
    /// Time it was up, in seconds.
    pub seconds: f64,
    /// Chances from left to right and from right to left.
    pub faults: [Faults; 2],
    /// From left to right.
    pub there: Direction,
    /// From right to left.
    pub back: Direction,
}

impl Report {
    /// Frames lost by the wire itself and not on purpose; those that a far end refused are not among them.
    #[must_use]
    pub const fn own_losses(&self) -> u64 {
        let (a, b) = (self.there, self.back);
        a.socket_drops + a.interface_drops + b.socket_drops + b.interface_drops
    }
}

/// A frame on its way out: one of those just received, or one that was held back.
enum Leaving {
    Fresh(usize),
    Held(Box<[u8]>),
}

struct Way {
    line: Line,
    leaving: Vec<Leaving>,
    report: Direction,
}

impl Way {
    fn new(faults: Faults, seed: u64) -> Self {
        Self {
            line: Line::new(faults, seed),
            leaving: Vec::with_capacity(4 * tap::BATCH),
            report: Direction::default(),
        }
    }

    /// Takes what is there from one end to the other; returns how much it was.
    fn carry(&mut self, from: &mut Tap, to: &Tap) -> io::Result<usize> {
        let taken = from.receive()?;
        for i in 0..taken {
            let (frame, came) = from.frame(i);
            // In this order no frame is held back for longer than said, however late this process gets the CPU.
            while let Some(held) = self.line.due(came) {
                self.leaving.push(Leaving::Held(held));
            }
            if frame.get(12..14) == Some(&ETHERTYPE_AOE.to_be_bytes()) {
                for _ in 0..self.line.take(came, frame) {
                    self.leaving.push(Leaving::Fresh(i));
                }
                while let Some(held) = self.line.overtaken() {
                    self.leaving.push(Leaving::Held(held));
                }
            } else {
                self.report.other += 1;
                self.leaving.push(Leaving::Fresh(i));
            }
        }
        if taken < tap::BATCH {
            // Nothing older waits in the socket's buffer.
            let now = tap::now();
            while let Some(held) = self.line.due(now) {
                self.leaving.push(Leaving::Held(held));
            }
        }
        self.send(from, to)?;
        Ok(taken)
    }

    fn send(&mut self, from: &Tap, to: &Tap) -> io::Result<()> {
        let bytes = |leaving| match leaving {
            &Leaving::Fresh(i) => from.frame(i).0,
            Leaving::Held(frame) => frame,
        };
        let frames: Vec<&[u8]> = self.leaving.iter().map(bytes).collect();
        let (mut rest, mut tries) = (frames.as_slice(), 0);
        while !rest.is_empty() {
            match to.send(rest) {
                Ok(sent) => {
                    rest = &rest[sent..];
                    tries = 0;
                }
                Err(e) => match e.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // The far end has no room for it, is down, or there is no memory for it.
                    Some(libc::ENOBUFS | libc::EAGAIN | libc::ENOMEM)
                        if tries < TRIES && to.has_carrier() =>
                    {
                        tries += 1;
                        std::thread::sleep(PAUSE);
                    }
                    Some(libc::ENOBUFS | libc::EAGAIN | libc::ENOMEM | libc::ENETDOWN | libc::EMSGSIZE) => {
                        self.report.refused += 1;
                        rest = &rest[1..];
                        // What comes behind it will hardly fare better: no second of waiting for each of a burst.
                        tries = TRIES;
                    }
                    _ => return Err(e),
                },
            }
        }
        self.leaving.clear();
        Ok(())
    }
}

/// The two ends, ready to receive.
#[derive(Debug)]
pub struct Ends {
    left: Tap,
    right: Tap,
}

impl Ends {
    /// Opens both interfaces. From here on no frame is lost that is not counted.
    ///
    /// # Errors
    /// One of them is not there, or may not be opened.
    pub fn open([left, right]: [&str; 2]) -> io::Result<Self> {
        let named =
            |name: &str| Tap::open(name).map_err(|e| io::Error::new(e.kind(), format!("{name}: {e}")));
        Ok(Self { left: named(left)?, right: named(right)? })
    }

    /// Carries frames until `stop`.
    ///
    /// # Errors
    /// One of the interfaces goes away.
    pub fn run(&mut self, faults: [Faults; 2], seed: u64, stop: &AtomicBool) -> io::Result<Report> {
        let Self { left, right } = self;
        let mut there = Way::new(faults[0], seed);
        let mut back = Way::new(faults[1], seed ^ 0x5555_5555_5555_5555);
        let before = [left.interface_drops().0, right.interface_drops().0];
        let began = tap::now();
        while !stop.load(Ordering::Relaxed) {
            if there.carry(left, right)? + back.carry(right, left)? > 0 {
                continue;
            }
            let due = [&there, &back].into_iter().filter_map(|way| way.line.next_due()).min();
            let wait = due.map_or(NAP, |due| due.saturating_sub(tap::now())).min(NAP);
            let wait = Timespec { tv_sec: 0, tv_nsec: wait as _ };
            let mut both = [PollFd::new(&*left, PollFlags::IN), PollFd::new(&*right, PollFlags::IN)];
            match poll(&mut both, Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let end = |way: &Way, tap: &mut Tap, before| {
            let counts = way.line.counts();
            Direction {
                counts,
                unsent: counts.frames + counts.duplicated - counts.lost - counts.passed,
                socket_drops: tap.drops(),
                interface_drops: tap.interface_drops().0 - before,
                ..way.report
            }
        };
        Ok(Report {
            seed,
            seconds: (tap::now() - began) as f64 / 1e9,
            faults,
            there: end(&there, left, before[0]),
            back: end(&back, right, before[1]),
        })
    }
}
