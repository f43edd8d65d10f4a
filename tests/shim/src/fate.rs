//! What happens to each frame of one direction: passed, lost, repeated, overtaken or delayed.
//!
//! Not here: sockets and clocks; the time a frame arrived is passed in. Pure.
//! Invariant: a frame that is held back leaves before any that arrived more than [`Faults::hold`] after it. So whoever
//! waits that long after its last copy of a frame left knows that no copy is on its way any more.

use serde::Serialize;
use std::str::FromStr;
use xshelf::initiator::pattern::Random;

/// Nanoseconds of the wall clock: what the kernel stamps frames with.
pub type Nanos = u64;

/// Chances of one frame, each 0 to 1, and how long and how far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Faults {
    /// Lost.
    pub loss: f64,
    /// A second copy follows; what comes next may happen to each copy on its own.
    pub duplicate: f64,
    /// Held back until 1 to `depth` later frames have passed.
    pub reorder: f64,
    /// Held back for a time, up to `hold`.
    pub delay: f64,
    /// Frames that may overtake.
    pub depth: u32,
    /// Longest time a frame is held back, in nanoseconds.
    pub hold: Nanos,
}

impl Faults {
    /// A good wire.
    pub const NONE: Self =
        Self { loss: 0.0, duplicate: 0.0, reorder: 0.0, delay: 0.0, depth: 16, hold: 20_000_000 };
}

/// Reads `loss=0.05,duplicate=0.05,reorder=0.02,delay=0.01,depth=16,hold=20ms`; what is not named is 0, 16 and 20ms.
impl FromStr for Faults {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut faults = Self::NONE;
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("{part}: write KEY=VALUE"))?;
            let chance = || match value.parse::<f64>() {
                Ok(p) if (0.0..=1.0).contains(&p) => Ok(p),
                _ => Err(format!("{part}: a chance is a number from 0 to 1")),
            };
            match key {
                "loss" => faults.loss = chance()?,
                "duplicate" => faults.duplicate = chance()?,
                "reorder" => faults.reorder = chance()?,
                "delay" => faults.delay = chance()?,
                "depth" => {
                    let frames = value.parse().ok().filter(|&n| (1..=1024).contains(&n));
                    faults.depth = frames.ok_or_else(|| format!("{part}: 1 to 1024 frames"))?;
                }
                "hold" => {
                    let number = value.strip_suffix("ms").and_then(|n| n.parse::<u64>().ok());
                    let time = number.filter(|&ms| (1..=1000).contains(&ms));
                    faults.hold = time.ok_or_else(|| format!("{part}: 1ms to 1000ms"))? * 1_000_000;
                }
                _ => return Err(format!("{key}: there is loss, duplicate, reorder, delay, depth and hold")),
            }
        }
        Ok(faults)
    }
}

/// What happened so far. `passed` + `lost` = `frames` + `duplicated`, once nothing is held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Frames that faults may happen to.
    pub frames: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Frames and copies that left.
    pub passed: u64,
    /// Lost.
    pub lost: u64,
    /// Second copies made.
    pub duplicated: u64,
    /// Held back to be overtaken.
    pub reordered: u64,
    /// Held back for a time.
    pub delayed: u64,
    /// Left later than a frame that arrived after them.
    pub overtaken: u64,
}

/// A frame that is held back.
#[derive(Debug)]
struct Held {
    /// When it leaves at the latest.
    due: Nanos,
    /// It leaves when so many frames have passed since the beginning.
    behind: u64,
    /// Frames that had passed when it arrived.
    arrived: u64,
    frame: Box<[u8]>,
}

/// One direction of the wire.
#[derive(Debug)]
pub struct Line {
    faults: Faults,
    random: Random,
    held: Vec<Held>,
    /// Bounds of what is held: nothing is due before, nothing has been overtaken enough before.
    next: (Nanos, u64),
    counts: Counts,
}

/// Larger than any time and any count.
const NEVER: u64 = u64::MAX;

impl Line {
    /// The same seed does the same to the same frames.
    #[must_use]
    pub fn new(faults: Faults, seed: u64) -> Self {
        let counts = Counts::default();
        Self { faults, random: Random::new(seed), held: Vec::new(), next: (NEVER, NEVER), counts }
    }

    /// Decides about a frame that arrived at `now`; returns how many copies of it leave at once. Take what is
    /// [`Line::due`] by then before, and what is [`Line::overtaken`] after.
    pub fn take(&mut self, now: Nanos, frame: &[u8]) -> usize {
        self.counts.frames += 1;
        self.counts.bytes += frame.len() as u64;
        if self.happens(self.faults.loss) {
            self.counts.lost += 1;
            return 0;
        }
        let twice = self.happens(self.faults.duplicate);
        self.counts.duplicated += u64::from(twice);
        let arrived = self.counts.passed;
        let mut at_once = 0;
        for _ in 0..1 + usize::from(twice) {
            let (due, behind) = if self.happens(self.faults.reorder) {
                self.counts.reordered += 1;
                (self.faults.hold, 1 + self.random.below(u64::from(self.faults.depth)))
            } else if self.happens(self.faults.delay) {
                self.counts.delayed += 1;
                (1 + self.random.below(self.faults.hold), NEVER)
            } else {
                at_once += 1;
                continue;
            };
            let (due, behind) = (now + due, arrived.saturating_add(behind));
            self.next = (self.next.0.min(due), self.next.1.min(behind));
            self.held.push(Held { due, behind, arrived, frame: frame.into() });
        }
        self.counts.passed += at_once as u64;
        at_once
    }

    /// The next frame whose time is up by `now`, soonest first.
    pub fn due(&mut self, now: Nanos) -> Option<Box<[u8]>> {
        if self.next.0 > now {
            return None;
        }
        let soonest = (0..self.held.len()).min_by_key(|&i| self.held[i].due)?;
        self.release(soonest)
    }

    /// The next frame that enough others have overtaken.
    pub fn overtaken(&mut self) -> Option<Box<[u8]>> {
        if self.next.1 > self.counts.passed {
            return None;
        }
        let first = (0..self.held.len()).min_by_key(|&i| self.held[i].behind)?;
        self.release(first)
    }

    /// When the next frame is due, if one is held back.
    #[must_use]
    pub fn next_due(&self) -> Option<Nanos> {
        if self.held.is_empty() { None } else { Some(self.next.0) }
    }

    /// What happened so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    fn release(&mut self, index: usize) -> Option<Box<[u8]>> {
        let held = self.held.remove(index);
        let bounds = |(due, behind): (u64, u64), h: &Held| (due.min(h.due), behind.min(h.behind));
        self.next = self.held.iter().fold((NEVER, NEVER), bounds);
        self.counts.overtaken += u64::from(self.counts.passed > held.arrived);
        self.counts.passed += 1;
        Some(held.frame)
    }

    fn happens(&mut self, chance: f64) -> bool {
        // 53 bits: as many as the fraction of an f64 has.
        (self.random.next() >> 11) as f64 / (1u64 << 53) as f64 <= chance && chance > 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    /// Sends `count` numbered frames, one each `gap`, and returns what leaves, in order.
    fn send(line: &mut Line, count: u32, gap: Nanos) -> Vec<(Nanos, u32)> {
        let number = |frame: &[u8]| u32::from_le_bytes(frame.try_into().unwrap());
        let mut out = Vec::new();
        for n in 0..count {
            let now = Nanos::from(n) * gap;
            while let Some(frame) = line.due(now) {
                out.push((now, number(&frame)));
            }
            for _ in 0..line.take(now, &n.to_le_bytes()) {
                out.push((now, n));
            }
            while let Some(frame) = line.overtaken() {
                out.push((now, number(&frame)));
            }
        }
        let end = Nanos::from(count) * gap + 10_000 * MS;
        while let Some(frame) = line.due(end) {
            out.push((end, number(&frame)));
        }
        out
    }

    #[test]
    fn a_good_wire_changes_nothing() {
        let mut line = Line::new(Faults::NONE, 1);
        let out = send(&mut line, 1000, MS);
        assert!(out.iter().map(|&(_, n)| n).eq(0..1000));
        assert_eq!(line.counts(), Counts { frames: 1000, bytes: 4000, passed: 1000, ..Counts::default() });
        assert_eq!(line.next_due(), None);
    }

    #[test]
    fn each_fault_happens_as_often_as_said_and_every_frame_is_accounted_for() {
        let faults: Faults =
            "loss=0.05,duplicate=0.04,reorder=0.03,delay=0.02,depth=4,hold=20ms".parse().unwrap();
        let mut line = Line::new(faults, 2);
        let out = send(&mut line, 100_000, MS / 10);
        let c = line.counts();
        let about = |n: u64, p: f64| (n as f64 / 1e5 / p - 1.0).abs() < 0.1;
        assert!(about(c.lost, 0.05) && about(c.duplicated, 0.95 * 0.04), "{c:?}");
        assert!(
            about(c.reordered, 0.95 * 1.04 * 0.03) && about(c.delayed, 0.95 * 1.04 * 0.97 * 0.02),
            "{c:?}"
        );
        assert_eq!(c.passed + c.lost, c.frames + c.duplicated);
        assert_eq!(out.len() as u64, c.passed);
        assert!(c.overtaken > (c.reordered + c.delayed) * 9 / 10, "{c:?}");
    }

    #[test]
    fn nothing_leaves_behind_a_frame_that_came_a_whole_hold_later() {
        let faults: Faults = "duplicate=0.3,reorder=0.3,delay=0.3,depth=64,hold=3ms".parse().unwrap();
        let gap = MS / 7;
        for seed in 0..50 {
            let mut newest = 0;
            for (_, n) in send(&mut Line::new(faults, seed), 2000, gap) {
                let late = Nanos::from(u32::saturating_sub(newest, n)) * gap;
                assert!(late <= 3 * MS, "seed {seed}: frame {n} behind {newest}");
                newest = newest.max(n);
            }
        }
    }

    #[test]
    fn an_idle_wire_does_not_keep_a_frame_that_waits_to_be_overtaken() {
        let mut line = Line::new("reorder=1".parse().unwrap(), 3);
        assert_eq!(line.take(5, b"x"), 0);
        assert_eq!(line.next_due(), Some(20 * MS + 5));
        assert_eq!(line.due(20 * MS + 4), None);
        assert_eq!(line.due(20 * MS + 5).as_deref(), Some(b"x".as_slice()));
    }

    #[test]
    fn the_same_seed_does_the_same() {
        let faults: Faults = "loss=0.1,duplicate=0.1,reorder=0.1,delay=0.1".parse().unwrap();
        let run = |seed| send(&mut Line::new(faults, seed), 5000, MS);
        assert_eq!(run(4), run(4));
        assert_ne!(run(4), run(5));
    }

    #[test]
    fn what_cannot_be_a_fault_is_refused() {
        for bad in
            ["loss", "loss=2", "loss=-1", "loss=x", "depth=0", "hold=20", "hold=0ms", "hold=2s", "gain=1"]
        {
            assert!(bad.parse::<Faults>().is_err(), "{bad}");
        }
        assert_eq!("".parse(), Ok(Faults::NONE));
    }
}
